"""One forward pass for a tree of answers behind each of many prompts.

What all prompts share is computed once and kept as a key-value cache. The tree of
answers is appended to each text under a mask by which a position sees the prompt and
its own ancestors only. Networks that :mod:`helpers.packed` knows are run by it, without
padding; all others by ``transformers``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate, takewhile
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from .checks import check_count
from .int8 import is_unrounded, unrounded_inputs
from .models import LanguageModel
from .packed import Branches, NodeLogits, PackedReader, can_pack
from .verbalizer import LabelTokens

LOGIT_BUDGET = 2**26  # elements of one batch's logits: 256 MB in float32
# Positions in a batch. On processors they were measured: larger ones are slower where
# there is padding. That for accelerators, which want to be kept busy, is a guess.
PADDED_BUDGET, PACKED_BUDGET, ACCELERATOR_BUDGET = 1024, 2048, 16384
PREFIX_BUDGET = 2**28  # bytes that a model's shared prefixes are kept in

_Kept = tuple[Any, transformers.DynamicCache]
_prefixes: WeakKeyDictionary[LanguageModel, list[_Kept]] = WeakKeyDictionary()
_never_packed: WeakSet[LanguageModel] = WeakSet()
_parts: WeakKeyDictionary[LanguageModel, list[tuple[Any, tuple[Any, ...]]]] = (
    WeakKeyDictionary()
)
_GROUPED = "how_sure_grouped"  # under this name transformers finds our attention


def tree_logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
    packed: bool | None = None,
) -> Iterator[tuple[list[int], NodeLogits]]:
    """Yield next-token logits at the nodes of the labels' tree, batch by batch."""
    shared = shared_prefix(prompts, prefix)
    cache = prefix_cache(model, shared, is_named=shared == tuple(prefix))
    start = len(shared)
    read = nodes_to_read(labels)
    output: Any = model.network.get_output_embeddings()
    widths = [len(ids) - start + len(read) - 1 for ids in prompts]
    most = max(1, LOGIT_BUDGET // (len(read) * output.weight.shape[0]))
    packed = is_packed(model) if packed is None else packed
    budget = positions_in_batch(model, token_budget, packed=packed)
    branches = Branches.of(labels.trie, read[1:])
    reader = PackedReader(model.network, cache) if packed else None
    for rows in batches(widths, budget, most):
        suffixes = [prompts[row][start:] for row in rows]
        if reader:
            yield rows, reader.logits(suffixes, branches)
        else:
            with _grouped_attention(model.network):
                found = _padded_logits(model, suffixes, branches, cache)
            yield rows, NodeLogits(found)


def is_packed(model: LanguageModel) -> bool:
    """Whether texts are read without padding: see :mod:`helpers.packed`."""
    if model in _never_packed:
        return False
    # Walking through a network takes a thousand steps, so its parts are remembered.
    network, known = model.network, _parts.get(model, [])
    if (
        not known
        or known[0][0] is not network
        or any(tuple(part._modules.values()) != children for part, children in known)
    ):
        known = [(part, tuple(part._modules.values())) for part in network.modules()]
        _parts[model] = known
    return can_pack(network, [part for part, _ in known])


def never_pack(model: LanguageModel) -> None:
    """Read this model's texts with padding, by ``transformers``, from now on."""
    _never_packed.add(model)


def batch_logits(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> torch.Tensor:
    """What :func:`tree_logits` gives, of one batch, so that gradients can flow back."""
    branches = Branches.of(labels.trie, nodes_to_read(labels)[1:])
    return _padded_logits(model, prompts, branches, None)


def forget_prefix(model: LanguageModel) -> None:
    """Drop what is kept of shared prefixes: the model's weights have changed."""
    _prefixes.pop(model, None)


def positions_in_batch(
    model: LanguageModel, token_budget: int | None, *, packed: bool = False
) -> int:
    """The most positions in one batch, where nobody says how many."""
    if token_budget is not None:
        return check_count("token_budget", token_budget)
    if model.device.type != "cpu":
        return ACCELERATOR_BUDGET
    return PACKED_BUDGET if packed else PADDED_BUDGET


def nodes_to_read(labels: LabelTokens) -> list[int]:
    """Nodes of ``labels.trie`` that something can follow, the root first.

    >>> from helpers.verbalizer import LabelTokens
    >>> nodes_to_read(LabelTokens(("face", "head"), ((5, 7), (5, 8)), (0, 1)))
    [0, 1]
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


def shared_prefix(
    prompts: Sequence[Sequence[int]], prefix: Sequence[int]
) -> tuple[int, ...]:
    prefix = tuple(prefix)
    if prefix and all(
        len(ids) > len(prefix) and tuple(ids[: len(prefix)]) == prefix
        for ids in prompts
    ):
        return prefix
    if len(prompts) == 1:
        return ()
    length = min(map(len, prompts)) - 1
    ends = min(map(tuple, prompts))[:length], max(map(tuple, prompts))[:length]
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=True))
    return tuple(token for token, _ in pairs)


def prefix_cache(
    model: LanguageModel, shared: tuple[int, ...], *, is_named: bool
) -> transformers.DynamicCache | None:
    """Keys and values of what all texts share; those asked for last are kept."""
    if not shared:
        return None
    # What rounding moves here, it moves for all texts, and the same way. A prefix that
    # somebody names is read once for many; others may change from call to call.
    with unrounded_inputs() if is_named else nullcontext():
        kind = model.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        key = (shared, kind, model.network.dtype, autocast, is_unrounded.get())
        kept = _prefixes.get(model, [])
        cache = next((one for known, one in kept if known == key), None)
        if cache is None:
            ids = torch.tensor([shared], device=model.device)
            cache = transformers.DynamicCache(config=model.network.config)
            body = model.network.base_model
            body(input_ids=ids, past_key_values=cache, use_cache=True)
        older = [pair for pair in kept if pair[0] != key]
        room = PREFIX_BUDGET - _n_bytes(cache)
        sizes = accumulate(_n_bytes(one) for _, one in older)
        fitting = [
            pair for pair, size in zip(older, sizes, strict=True) if size <= room
        ]
        _prefixes[model] = [(key, cache), *fitting]
        return cache


def _n_bytes(cache: transformers.DynamicCache) -> int:
    layers: Any = cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def _padded_logits(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    branches: Branches,
    prefix: transformers.DynamicCache | None,
) -> torch.Tensor:
    """Logits at the end of each text and at the nodes of the tree behind it."""
    device = model.device
    start = 0 if prefix is None else prefix.get_seq_length()
    lengths = torch.tensor([len(text) for text in texts])
    wide, nodes = int(lengths.max()), len(branches.tokens)
    padded = pad_sequence(
        [torch.tensor(text) for text in texts],
        batch_first=True,
        padding_value=model.pad_id,
        padding_side="left",
    )
    added = torch.tensor(branches.tokens, dtype=torch.long)
    ids = torch.cat([padded, added.expand(len(texts), nodes)], dim=1)
    text_positions = torch.arange(wide) - (wide - lengths)[:, None]
    depths = torch.tensor(branches.depths).expand(1, nodes)
    places = [text_positions.clamp(min=0), lengths[:, None] + depths]
    positions = start + torch.cat(places, dim=1).long()

    # seen[row, query, key]: the prefix always; text keys that are no padding, up to
    # the query; nodes see the whole text and their ancestors. Padding sees itself,
    # since a softmax over nothing would be NaN.
    seen = torch.ones(len(texts), wide + nodes, start + wide + nodes).bool()
    seen[:, :, start:] = torch.eye(wide + nodes).bool()
    causal = torch.ones(wide, wide).tril().bool() & (text_positions >= 0)[:, None, :]
    seen[:, :wide, start : start + wide] |= causal
    seen[:, wide:, start : start + wide] = (text_positions >= 0)[:, None, :]
    seen[:, wide:, start + wide :] = branches.ancestry
    mask = torch.zeros(seen.shape, dtype=model.network.dtype)
    mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)

    wanted = torch.arange(wide - 1, wide + nodes, device=device)
    shared = None if prefix is None else _SharedPrefix(prefix, len(texts))
    inputs = {
        "input_ids": ids.to(device),
        "position_ids": positions.to(device),
        "attention_mask": mask[:, None].to(device),
        "past_key_values": shared,
        "use_cache": prefix is not None,
    }
    if "logits_to_keep" in inspect.signature(model.network.forward).parameters:
        return model.network(**inputs, logits_to_keep=wanted).logits.float()
    return model.network(**inputs).logits[:, wanted].float()


@contextmanager
def _grouped_attention(network: transformers.PreTrainedModel) -> Iterator[None]:
    """Let heads that share keys read them where they lie, for one forward pass."""
    config = network.config.get_text_config()
    usual = config._attn_implementation
    if usual == "sdpa":
        transformers.AttentionInterface.register(_GROUPED, _attend_in_groups)
        config._attn_implementation = _GROUPED
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend_in_groups(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """What "sdpa" computes, with the heads of a group as further queries."""
    rows, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if groups == 1 or attention_mask is None:
        usual = transformers.AttentionInterface()["sdpa"]
        return usual(module, query, key, value, attention_mask, **settings)
    found = scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], groups * length, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        scale=settings.get("scaling"),
    )
    return found.reshape(rows, heads, length, -1).transpose(1, 2).contiguous(), None


class _SharedPrefix(transformers.DynamicCache):
    """One prefix read by many rows: joined with their keys, never written to."""

    def __init__(self, prefix: transformers.DynamicCache, rows: int) -> None:
        super().__init__()
        self._rows, self._prefix = rows, prefix

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._prefix.get_seq_length(layer_idx)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer: Any = self._prefix.layers[layer_idx]
        kept = [
            part.expand(self._rows, -1, -1, -1) for part in (layer.keys, layer.values)
        ]
        return torch.cat([kept[0], key_states], 2), torch.cat(
            [kept[1], value_states], 2
        )
