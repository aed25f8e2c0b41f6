"""Means of hidden states over texts, of some layers and no further than the last.

Networks that :mod:`helpers.packed` knows are read by it, without padding and with a
shared prefix read once; all others by ``transformers``, stopped at the last layer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .checks import check_count
from .models import LanguageModel
from .packed import PackedReader
from .row_cache import Rows
from .scoring import rope_changes, tree_is_exact
from .tree import batches, is_packed, positions_in_batch, prefix_cache

_MARK = "_output_capturing_hooks_installed"  # of transformers
_can_stop: WeakKeyDictionary[LanguageModel, bool] = WeakKeyDictionary()


def mean_hidden_states(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
    cache: bool = False,
    progress: bool = True,
) -> np.ndarray:
    """Mean over the tokens of each text of what comes out of some layers.

    They are the ``hidden_states`` of ``transformers``, so that those of the last layer
    have passed the network's last norm.

    Parameters
    ----------
    model : LanguageModel
        The model.
    texts : sequence of sequence of int
        Token ids of each text by itself, as :meth:`LanguageModel.text_ids` gives them.
    layers : sequence of int
        Which layers, the first of which is 1.
    prefix : sequence of int, optional
        Tokens that every text is read behind; they are not in the mean.
    token_budget, cache, progress
        As for :func:`helpers.scoring.label_logprobs`.

    Returns
    -------
    numpy.ndarray of shape (n_texts, n_layers, width)
        In float32, whatever the network computes in.

    Examples
    --------
    >>> model = LanguageModel.load()
    >>> mean_hidden_states(model, [model.text_ids("A joy.")], [10, 20]).shape
    (1, 2, 576)
    """
    depth = _depth(model.network)
    for layer in layers:
        if check_count("layers", layer) > depth:
            raise ValueError(f"layers must be at most {depth}, not {layer}.")
    if token_budget is not None:
        check_count("token_budget", token_budget)
    room = (model.window or math.inf) - len(prefix)
    for index, ids in enumerate(texts):
        if not 0 < len(ids) <= room:
            raise ValueError(
                f"text {index} has {len(ids)} tokens; {model.name} reads 1 to {room} "
                "here. Leave it out, or ask for texts to be cut."
            )
    layers, prefix = tuple(layers), tuple(prefix)
    width = model.network.config.get_text_config().hidden_size

    def read(places: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        own = [texts[at] for at in places]
        for part, found in _means(model, own, layers, prefix, token_budget):
            model.check_logprobs(np.abs(found), [places[at] for at in part])
            yield part, found

    identity = model.fingerprint if cache else ""
    told = [repr((identity, prefix, tuple(ids), layers)) for ids in texts]
    keys = [hashlib.sha256(one.encode()).hexdigest() for one in told]
    means = _STATES.of(keys, len(layers) * width, read, cache=cache, progress=progress)
    return means.reshape(len(texts), len(layers), width)


@torch.inference_mode()
def _means(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: tuple[int, ...],
    prefix: tuple[int, ...],
    token_budget: int | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows and their means, batch by batch, longest texts first."""
    if not texts:
        return
    widths = [len(ids) for ids in texts]
    longest = len(prefix) + max(widths)
    # The trial may show that a network cannot be packed.
    packed = is_packed(model) and tree_is_exact(model, longest) and is_packed(model)
    budget = positions_in_batch(model, token_budget, packed=packed)
    most = len(texts)
    if packed:
        cached = prefix_cache(model, prefix, is_named=True)
        reader = PackedReader(model.network, cached)
    else:
        widths = [len(prefix) + width for width in widths]
        if rope_changes(model.network.config.get_text_config(), longest):
            most = 1  # a longer neighbour would change a row's positions
    for rows in batches(widths, budget, most):
        own = [texts[row] for row in rows]
        if packed:
            found = reader.means(own, layers)
        else:
            found = _padded_means(model, own, layers, prefix)
        yield rows, found.flatten(1).numpy()


def _padded_means(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    prefix: Sequence[int],
) -> torch.Tensor:
    whole = [torch.tensor([*prefix, *ids]) for ids in texts]
    # Behind the texts, so that no position sees it.
    ids = pad_sequence(whole, batch_first=True, padding_value=model.pad_id)
    states = _states(model, ids.to(model.device), layers)
    ends = [len(row) for row in whole]
    means = [
        [state[at, len(prefix) : end].float().mean(0) for state in states]
        for at, end in enumerate(ends)
    ]
    return torch.stack([torch.stack(row) for row in means]).cpu()


def _states(
    model: LanguageModel, ids: torch.Tensor, layers: Sequence[int]
) -> list[torch.Tensor]:
    """What comes out of some layers, by a run that stops if a trial shows it can."""
    if model not in _can_stop:
        some = np.linspace(3, len(model.tokenizer) - 1, 8).astype(int)
        trial = torch.tensor(some, device=ids.device).view(2, 4)
        every = range(1, _depth(model.network) + 1)
        whole = _whole_run(model.network, trial, every)
        _can_stop[model] = False
        with suppress(Exception):  # each architecture refuses in its own way
            stopped = _stopped_run(model.network, trial, every)
            _can_stop[model] = all(map(torch.equal, whole, stopped))
    run = _stopped_run if _can_stop[model] else _whole_run
    return run(model.network, ids, layers)


def _whole_run(
    network: Any, ids: torch.Tensor, layers: Sequence[int]
) -> list[torch.Tensor]:
    before = {part: set(part._forward_hooks) for part in network.modules()}
    marked = {part for part in before if _MARK in vars(part)}
    try:
        run = network.base_model(
            input_ids=ids, use_cache=False, output_hidden_states=True
        )
    finally:  # transformers leaves hooks behind, with which nothing can be pickled
        for part, hooks in before.items():
            for added in set(part._forward_hooks) - hooks:
                del part._forward_hooks[added]
            if part not in marked:
                vars(part).pop(_MARK, None)
    return [run.hidden_states[layer] for layer in layers]


class _Reached(Exception):
    """The last layer is reached; nothing more is to be computed."""


def _stopped_run(
    network: Any, ids: torch.Tensor, layers: Sequence[int]
) -> list[torch.Tensor]:
    depth, found = _depth(network), {}

    def keep(layer: int, _: nn.Module, given: Sequence[Any], named: Any) -> None:
        found[layer] = given[0] if given else named["hidden_states"]
        if layer == max(layers):
            raise _Reached

    stack = next(
        part
        for part in network.modules()
        if isinstance(part, nn.ModuleList) and len(part) == depth
    )
    with ExitStack() as listening, suppress(_Reached):
        for layer in set(layers) - {depth}:  # what comes out of one enters the next
            hook = partial(keep, layer)
            handle = stack[layer].register_forward_pre_hook(hook, with_kwargs=True)
            listening.enter_context(handle)
        found[depth] = network.base_model(input_ids=ids, use_cache=False)[0]
    return [found[layer] for layer in layers]


def _depth(network: Any) -> int:
    return int(network.config.get_text_config().num_hidden_layers)


def _is_finite(row: np.ndarray) -> bool:
    return bool(np.isfinite(row).all())


_STATES = Rows("hidden_states", "<f4", _is_finite)
