"""Passes that each leave out other parts of the network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_count

if TYPE_CHECKING:
    import torch

    from ..classifier import LLMClassifier
    from ..models import LanguageModel


def mc_dropout(
    classifier: LLMClassifier,
    texts: Iterable[str],
    *,
    n_passes: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Label probabilities from passes that each leave out other parts of the network.

    Only dropout layers are switched on (Gal and Ghahramani, 2016); a ValueError says if
    there are none with p > 0, as in Llama-family models without LoRA adapters, or if
    labels cannot be scored in one pass. What prompts share has one mask a pass; prior
    and examples are those of the whole network. A network trained without dropout shows
    how fragile it is rather than what it does not know.

    Parameters
    ----------
    classifier : LLMClassifier
        The classifier, which is not changed; its cache is not used.
    texts : iterable of str
    n_passes : int, default=20
        How many passes; fewer are the first of more.
    seed : int, default=0
        Seed of what is left out. Torch's own random state does not change.

    Returns
    -------
    numpy.ndarray of shape (n_passes, n_texts, n_classes)
        Rows sum to one: members for :func:`combine`.

    Examples
    --------
    >>> from helpers.classifier import LLMClassifier
    >>> classifier = LLMClassifier(labels=["good", "bad"])
    >>> mc_dropout(classifier, ["A joy."])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: classifier must have a model with dropout layers (p > 0), or all ...
    """
    import torch

    from ..prompted import check_texts
    from ..scoring import room_for_prompt, tree_is_exact

    check_count("n_passes", n_passes)
    check_count("seed", seed, 0)
    asked = check_texts(texts)
    if not asked:
        raise ValueError("texts must hold at least one text; there is none.")
    model, tokens, *_ = classifier.inputs([])
    layers = _dropout_layers(model)
    frozen = copy.copy(classifier)
    frozen.model, frozen.cache = model, False
    modes = [(module, module.training) for module in model.network.modules()]
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        model.network.eval()
        # Labels read one by one would each be read by another network.
        prompts = [len(ids) for ids in frozen.inputs(asked)[2]]
        longest = min(max(prompts), room_for_prompt(model, tokens))
        if not tree_is_exact(model, int(longest) + max(tokens.trie.depths)):
            raise ValueError(
                "classifier must have a model that scores all labels in one pass, or "
                f"each label gets other masks; {model.name} does not for these texts."
            )
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            found = [_one_pass(frozen, model, layers, asked) for _ in range(n_passes)]
    finally:
        for module, mode in modes:
            module.training = mode
    return np.stack(found)


def _dropout_layers(model: LanguageModel) -> Sequence[torch.nn.Module]:
    from torch import nn

    plain = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    kinds = (*plain, nn.AlphaDropout, nn.FeatureAlphaDropout)
    modules = model.network.modules()
    found = [part for part in modules if isinstance(part, kinds) and part.p > 0]
    if not found:
        raise ValueError(
            "classifier must have a model with dropout layers (p > 0), or all passes "
            f"are the same; {model.name} has none. Llama-family models are made "
            "without dropout; LoRA adapters bring some."
        )
    return found


def _one_pass(
    classifier: LLMClassifier,
    model: LanguageModel,
    layers: Sequence[torch.nn.Module],
    texts: Sequence[str],
) -> np.ndarray:
    from ..scoring import tree_is_exact

    # Scoring keeps the cache of a shared prefix by model: a new object for the same
    # network has none. Its trial of the tree has to come before dropout is on.
    view = object.__new__(type(model))
    vars(view).update(vars(model))
    tree_is_exact(view, 1)
    classifier.model = view
    passed: list[bool] = []
    hooks = [
        layer.register_forward_hook(lambda *_: passed.append(True)) for layer in layers
    ]
    try:
        for layer in layers:
            layer.training = True
        found = classifier.predict_proba(texts)
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            layer.training = False
            hook.remove()
    if not passed:
        raise ValueError(
            "classifier must have a model that goes through its dropout layers; "
            f"{model.name} goes through none of its {len(layers)}."
        )
    return found
