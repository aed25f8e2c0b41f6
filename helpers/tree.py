"""One forward pass for a tree of answers behind each of many prompts.

What all prompts share (instructions, examples) is computed once and kept as a key-value
cache. Texts of like length share a batch. And the answers ride along: their tree is
appended to each text as extra positions under a tree attention mask, where a position
sees the prompt and its own ancestors only. So one pass gives the distribution of the
next token behind the prompt and behind every beginning of an answer.

Networks that :mod:`helpers.packed` knows are run by it, without padding; all others by
``transformers``, as :mod:`helpers.padded` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from transformers import DynamicCache

from .branches import Branches
from .int8 import rounds_inputs, unrounded_inputs
from .logits import NodeLogits, ProjectedLogits, WholeLogits
from .models import LanguageModel
from .packed import Pack, Workspace, packed_states, suits
from .padded import grouped_attention, padded_logits
from .verbalizer import LabelTokens

LOGIT_BUDGET = 2**26  # elements of one batch's logits: 256 MB in float32
# Positions in a batch. On processors they were measured: larger ones are slower where
# there is padding. That for accelerators, which want to be kept busy, is a guess.
PADDED_BUDGET, PACKED_BUDGET, ACCELERATOR_BUDGET = 1024, 2048, 16384

_prefixes: WeakKeyDictionary[LanguageModel, tuple[Any, DynamicCache]] = (
    WeakKeyDictionary()
)
_never_packed: WeakSet[LanguageModel] = WeakSet()


def tree_logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int,
    packed: bool | None = None,
) -> Iterator[tuple[list[int], NodeLogits]]:
    """Yield next-token logits at the nodes of the labels' tree, batch by batch."""
    shared = _shared_prefix(prompts, prefix)
    cache = _prefix_cache(model, shared, is_named=shared == tuple(prefix))
    start = len(shared)
    read = nodes_to_read(labels)
    output: Any = model.network.get_output_embeddings()
    widths = [len(ids) - start + len(read) - 1 for ids in prompts]
    most = max(1, LOGIT_BUDGET // (len(read) * output.weight.shape[0]))
    packed = is_packed(model) if packed is None else packed
    branches, workspace = Branches.of(labels.trie, read[1:]), Workspace()
    for rows in batches(widths, token_budget, most):
        suffixes = [prompts[row][start:] for row in rows]
        if packed:
            pack = Pack.of(suffixes, branches, start)
            states = packed_states(model.network, pack, cache, workspace)
            yield rows, ProjectedLogits(states, output.weight)
        else:
            with grouped_attention(model.network):
                found = padded_logits(model, suffixes, branches, cache)
            yield rows, WholeLogits(found)


def is_packed(model: LanguageModel) -> bool:
    """Whether texts are read without padding: see :mod:`helpers.packed`."""
    return model not in _never_packed and suits(model.network)


def arithmetic(model: LanguageModel) -> tuple[Any, ...]:
    """What a model computes with just now: numbers of another kind are others."""
    kind = model.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    return kind, model.network.dtype, autocast, rounds_inputs()


def never_pack(model: LanguageModel) -> None:
    """Read this model's texts with padding, by ``transformers``, from now on."""
    _never_packed.add(model)


def batch_logits(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> torch.Tensor:
    """What :func:`tree_logits` gives, of one batch, so that gradients can flow back."""
    branches = Branches.of(labels.trie, nodes_to_read(labels)[1:])
    return padded_logits(model, prompts, branches, None)


def forget_prefix(model: LanguageModel) -> None:
    """Drop what is kept of a shared prefix: the model's weights have changed."""
    _prefixes.pop(model, None)


def positions_in_batch(
    model: LanguageModel, token_budget: int | None, *, packed: bool = False
) -> int:
    """The most positions in one batch, where nobody says how many."""
    if token_budget is None:
        if model.device.type != "cpu":
            return ACCELERATOR_BUDGET
        return PACKED_BUDGET if packed else PADDED_BUDGET
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget!r}.")
    return token_budget


def nodes_to_read(labels: LabelTokens) -> list[int]:
    """Nodes whose next-token distribution is needed.

    Parameters
    ----------
    labels : LabelTokens
        The labels.

    Returns
    -------
    list of int
        Nodes of ``labels.trie``, the root first: all that something can follow.
    """
    inner = set(labels.trie.parents[1:])
    if labels.stop_ids:
        inner |= set(labels.trie.leaves)
    return sorted(inner)


def batches(widths: Sequence[int], budget: int, most: int) -> Iterator[list[int]]:
    """Group rows, longest first, so that rows times widest stays within budget."""
    order = sorted(range(len(widths)), key=lambda row: -widths[row])
    batch: list[int] = []
    for row in order:
        if batch and (
            (len(batch) + 1) * widths[batch[0]] > budget or len(batch) == most
        ):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _shared_prefix(
    prompts: Sequence[Sequence[int]], prefix: Sequence[int]
) -> tuple[int, ...]:
    """Tokens that all prompts begin with, leaving each at least one of its own."""
    prefix = tuple(prefix)
    if prefix and all(
        len(ids) > len(prefix) and tuple(ids[: len(prefix)]) == prefix
        for ids in prompts
    ):
        return prefix
    if len(prompts) == 1:
        return ()
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    length = min(map(len, prompts)) - 1
    same = (a == b for a, b in zip(first[:length], last[:length], strict=True))
    return first[: next((at for at, equal in enumerate(same) if not equal), length)]


def _prefix_cache(
    model: LanguageModel, shared: tuple[int, ...], *, is_named: bool
) -> DynamicCache | None:
    """Key-value cache of the shared prefix; the model's last one is kept."""
    if not shared:
        return None
    # What rounding moves here, it moves for all texts, and the same way. A prefix that
    # somebody names is read once for many; others may change from call to call.
    with unrounded_inputs() if is_named else nullcontext():
        return _read_prefix(model, shared)


def _read_prefix(model: LanguageModel, shared: tuple[int, ...]) -> DynamicCache:
    kept = _prefixes.get(model)
    key = (shared, arithmetic(model))
    if kept is None or kept[0] != key:
        ids = torch.tensor([shared], device=model.device)
        cache = DynamicCache(config=model.network.config)
        body = model.network.base_model
        body(input_ids=ids, past_key_values=cache, use_cache=True)
        _prefixes[model] = kept = (key, cache)
    return kept[1]
