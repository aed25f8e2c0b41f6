"""Exact log-probability of every label for many texts, one forward pass a batch.

One pass reads the prompt and the tree of all labels behind it: see
:mod:`helpers.tree`. Where a trial on the model shows that this is not exact, each
sequence is scored on its own. Scores can be kept between runs; a broken cache costs a
warning and time.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.special import logsumexp
from torch.nn.utils.rnn import pad_sequence

from .checks import check_between, check_count
from .int8 import unrounded_inputs
from .models import LanguageModel
from .packed import VECTOR, NodeLogits, attention_dtype
from .pruned import pruned_scores
from .row_cache import Rows
from .tree import (
    LOGIT_BUDGET,
    PADDED_BUDGET,
    batches,
    is_packed,
    never_pack,
    nodes_to_read,
    positions_in_batch,
    tree_logits,
)
from .verbalizer import LabelTokens

# Absolute and relative. Right ways to compute a log-probability of -30 differ by up to
# 0.5 in half precision, wrong ones by more than 1.5.
_PRECISE, _ROUGH = (1e-4, 1e-5), (0.5, 0.01)

_SURPLUS = 0.05  # what rounding in half precision may add to the sum of a row, in nats

_log = logging.getLogger(__name__)
_trials: WeakKeyDictionary[LanguageModel, dict[Any, bool]] = WeakKeyDictionary()


def label_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int] | str],
    labels: LabelTokens,
    *,
    encode: Callable[[int], Sequence[int]] | None = None,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
    prune: float | None = None,
    cache: bool = False,
    progress: bool = True,
) -> np.ndarray:
    """Log-probability that the answer to each prompt is each label.

    The probability of a label is the sum over its token sequences of the product of
    the tokens' conditional probabilities and, if there are stop tokens, of the
    probability that one follows.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of sequence of int, or of str
        Token ids of whole prompts, as :meth:`LanguageModel.encode` gives them, or what
        they are made of. Equal ones are read once.
    labels : LabelTokens
        From :meth:`Verbalizer.tokens`.
    encode : callable, optional
        The token ids of the prompt at a place, which is asked only for prompts whose
        scores are not kept.
    prefix : sequence of int, optional
        Tokens that these and later prompts begin with, read once; by default, what the
        prompts share.
    token_budget : int, optional
        The most positions in one batch, which bounds memory; by default 1,024 on a
        processor (2,048 without padding), and 16,384 on an accelerator.
    prune : float, optional
        The most that a label's probability may be too low, also as a share of all
        labels' probability, in (0, 1). Beginnings of labels that cannot matter more
        are not followed, which saves most where the model is sure.
    cache : bool, default=False
        Whether to keep and use scores in the user's cache.
    progress : bool, default=True
        Whether a run of more than a few seconds shows a bar.

    Returns
    -------
    numpy.ndarray of shape (n_prompts, n_labels)
        Natural logarithms; each row's probabilities sum to at most one. With ``prune``
        one column more, of the mass that was not followed: a label may have all of it
        besides its own, and is -inf if it was not reached.

    Examples
    --------
    >>> from helpers.verbalizer import Verbalizer
    >>> model = LanguageModel.load()
    >>> prompt = "The opposite of up is"
    >>> tokens = Verbalizer(["down", "left"]).tokens(model, after=prompt)
    >>> label_logprobs(model, [model.encode(prompt)], tokens).argmax()
    np.int64(0)
    """
    if token_budget is not None:
        check_count("token_budget", token_budget)
    if prune is not None:
        check_between("prune", prune, 0, 1)
    if encode is None and any(isinstance(prompt, str) for prompt in prompts):
        raise TypeError("prompts must be token ids, or come with encode.")
    unresolved = [] if prune is None else [len(labels.labels)]
    owners = np.array([*labels.owners, *unresolved])
    width = len(labels.labels) + len(unresolved)

    def read(places: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        asked: dict[int, Any] = {
            at: encode(at) if encode else prompts[at] for at in places
        }
        check_lengths(model, asked, labels)
        own = list(asked.values())
        for part, found in _scores(model, own, labels, prefix, token_budget, prune):
            model.check_logprobs(
                found[:, : len(labels.owners)], [places[at] for at in part]
            )
            kinds = [found[:, owners == at] for at in range(width)]
            yield part, np.stack([logsumexp(kind, axis=1) for kind in kinds], axis=1)

    identity = model.fingerprint if cache else ""
    keys = _score_keys(identity, labels, prompts, prune)
    return _SCORES.of(keys, width, read, cache=cache, progress=progress)


def room_for_prompt(model: LanguageModel, labels: LabelTokens) -> float:
    """The most tokens a prompt may have so that every label still fits behind it."""
    return (model.window or math.inf) - max(labels.trie.depths)


def check_lengths(
    model: LanguageModel, prompts: Mapping[int, Sequence[int]], labels: LabelTokens
) -> None:
    """Raise ValueError, naming its index, if a prompt is empty or too long."""
    room = room_for_prompt(model, labels)
    for index, ids in prompts.items():
        if not len(ids):
            raise ValueError(f"prompt {index} has no tokens.")
        if len(ids) > room:
            raise ValueError(
                f"text {index} makes a prompt of {len(ids)} tokens; with the labels, "
                f"{model.name} has room for {int(room)}. Shorten it, or ask for texts "
                "to be cut."
            )


def tree_is_exact(model: LanguageModel, length: int) -> bool:
    """Whether a tree gives the model's own probabilities in rows of that length."""
    config = model.network.config.get_text_config()
    windows = {
        "full_attention": math.inf,
        "sliding_attention": getattr(config, "sliding_window", None) or math.inf,
        "chunked_attention": getattr(config, "attention_chunk_size", None) or math.inf,
    }
    usual = "full" if hasattr(config, "layer_types") else "sliding"
    layers = getattr(config, "layer_types", None) or [f"{usual}_attention"]
    if (
        getattr(model.network, "_is_stateful", False)
        or "local" in getattr(config, "attention_layers", ())  # GPT-Neo's own window
        or rope_changes(config, length)
        or any(length > windows.get(layer, 0) for layer in layers)
    ):
        return False
    known = _trials.setdefault(model, {})
    kind = (model.device.type, model.network.dtype)
    packed = is_packed(model)
    if (packed, *kind) not in known:
        # All ways at once: hooks may be registered later.
        known |= {(way, *kind): same for way, same in _trial(model).items()}
        packed = is_packed(model)
    return known[packed, *kind]


def rope_changes(config: Any, length: int) -> bool:
    """Whether rows of this length get other rotary positions than shorter ones."""
    rope = getattr(config, "rope_parameters", None) or {}
    return any(
        kind.get("rope_type") in ("dynamic", "longrope")
        and length > kind.get("original_max_position_embeddings", math.inf)
        for kind in (rope, *rope.values())
        if isinstance(kind, dict)
    )


def _trial(model: LanguageModel) -> dict[bool, bool]:
    """Score a small made-up case; a tree that differs or fails is out."""
    # From all over the vocabulary: at its beginning are special tokens, far from
    # anything a network was trained on, where rounding is at its worst.
    embeddings: Any = model.network.get_input_embeddings()
    last = min(len(embeddings.weight), len(model.tokenizer)) - 1
    ids = [int(token_id) for token_id in np.linspace(3, last, 20)]
    if len(set(ids)) < len(ids):
        return {True: False, False: False}
    # So much that some of it is read apart from the texts, and some of it with them.
    shared = (VECTOR * ids[:4])[: VECTOR + 3]
    prompts = [shared + ids[5:9], shared + ids[9:11]]
    sequences = (tuple(ids[1:4]), tuple(ids[1:3]) + (ids[7],), (ids[8],))
    labels = LabelTokens(("a", "b", "c"), sequences, (0, 1, 2), (ids[0],))

    precise = attention_dtype(model.network) in (torch.float32, torch.float64)
    absolute, relative = _PRECISE if precise else _ROUGH

    def agrees(packed: bool) -> bool:
        try:
            found = list(_score_by_tree(model, prompts, labels, packed=packed))
        except MemoryError:
            raise
        except Exception:  # each architecture refuses in its own way
            _log.debug("%s cannot read labels as a tree", model.name, exc_info=True)
            return False
        return all(
            np.allclose(expected[rows], values, rtol=relative, atol=absolute)
            for rows, values in found
        )

    with unrounded_inputs():
        one_by_one = _score_one_by_one(model, prompts, labels, PADDED_BUDGET)
        expected = np.concatenate([values for _, values in one_by_one])
        ways = [True, False] if is_packed(model) else [False]
        found = {packed: agrees(packed) for packed in ways}
    if not found.get(True, True):
        _log.debug("%s is read with padding", model.name)
        never_pack(model)
    return found


def _scores(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prefix: Sequence[int],
    token_budget: int | None,
    prune: float | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows and the scores of each sequence, batch by batch, longest texts first."""
    settings: dict[str, Any] = {"prefix": prefix, "token_budget": token_budget}
    is_tree = tree_is_exact(model, max(map(len, prompts)) + max(labels.trie.depths))
    if is_tree and prune is not None and is_packed(model):
        yield from pruned_scores(model, prompts, labels, prune, **settings)
        return
    found = (
        _score_by_tree(model, prompts, labels, **settings)
        if is_tree
        else _score_one_by_one(
            model, prompts, labels, positions_in_batch(model, token_budget)
        )
    )
    for rows, scores in found:
        more = int(prune is not None)  # of which there is nothing
        yield rows, np.pad(scores, ((0, 0), (0, more)), constant_values=-np.inf)


@torch.inference_mode()  # of a generator: on while it runs, off while it waits
def _score_by_tree(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    **settings: Any,
) -> Iterator[tuple[list[int], np.ndarray]]:
    for rows, logits in tree_logits(model, prompts, labels, **settings):
        yield rows, sequence_scores(logits, labels).cpu().numpy()


def sequence_scores(logits: NodeLogits, labels: LabelTokens) -> torch.Tensor:
    """Log-probability of each sequence and its stop, from logits at a tree's nodes."""
    trie = labels.trie
    place = {node: at for at, node in enumerate(nodes_to_read(labels))}
    edges = range(1, len(trie.tokens))
    parents = [place[trie.parents[node]] for node in edges]
    chosen = logits.of(parents, [trie.tokens[node] for node in edges])
    normaliser = logits.normaliser()
    # A logit that is infinite would count as the certain token, and others as none.
    normaliser = normaliser.where(normaliser.isfinite(), math.nan)
    wide = torch.float if chosen.device.type == "mps" else torch.double
    gained = (chosen - normaliser[:, parents]).to(wide)
    totals = [torch.zeros_like(gained[:, 0])]
    for node in edges:
        totals.append(totals[trie.parents[node]] + gained[:, node - 1])
    scores = torch.stack([totals[leaf] for leaf in trie.leaves], dim=1)
    if labels.stop_ids:
        ends = [place[leaf] for leaf in trie.leaves]
        ending = logits.each(ends, labels.stop_ids).logsumexp(-1)
        scores = scores + (ending - normaliser[:, ends]).to(wide)
    return scores


@torch.inference_mode()
def _score_one_by_one(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    token_budget: int,
) -> Iterator[tuple[list[int], np.ndarray]]:
    device = model.device
    vocabulary = model.network.get_output_embeddings().weight.shape[0]
    for index, prompt in enumerate(prompts):
        whole = [list(prompt) + list(sequence) for sequence in labels.sequences]
        scores = np.empty(len(whole))
        longest = max(map(len, whole))
        most = max(1, LOGIT_BUDGET // (longest * vocabulary))
        if rope_changes(model.network.config.get_text_config(), longest):
            most = 1  # a longer neighbour would change a row's positions
        for rows in batches([len(ids) for ids in whole], token_budget, most):
            ids = pad_sequence(
                [torch.tensor(whole[row]) for row in rows],
                batch_first=True,
                padding_value=model.pad_id,
            ).to(device)
            logits = model.network(input_ids=ids, use_cache=False).logits
            for at, row in enumerate(rows):
                answer = torch.tensor(labels.sequences[row], device=device)
                behind = logits[at, len(prompt) - 1 : len(whole[row])].float()
                logprobs = behind.log_softmax(-1)
                steps = logprobs[:-1].gather(1, answer[:, None])
                total = steps.double().sum()
                if labels.stop_ids:
                    stops = torch.tensor(labels.stop_ids, device=device)
                    total += logprobs[-1, stops].logsumexp(-1)
                scores[row] = float(total)
        yield [index], scores[None]


def _score_keys(
    model: str,
    labels: LabelTokens,
    prompts: Sequence[Sequence[int] | str],
    prune: float | None,
) -> list[str]:
    identity: tuple[Any, ...] = (model, labels.sequences, labels.owners)
    identity += (labels.stop_ids, labels.labels)
    if prune is not None:
        identity += (prune,)
    start = hashlib.sha256(repr(identity).encode())
    keys = []
    for prompt in prompts:
        digest = start.copy()
        told = prompt if isinstance(prompt, str) else tuple(prompt)
        digest.update(repr(told).encode())
        keys.append(digest.hexdigest())
    return keys


def _is_scores(row: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(-np.inf < np.logaddexp.reduce(row) <= _SURPLUS)


_SCORES = Rows("scores", "<f8", _is_scores)
