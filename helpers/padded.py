"""A forward pass over padded texts by ``transformers``, whatever the architecture.

The tree of answers is appended to each text as extra positions, under an attention mask
that shows each of them the text and its own ancestors only.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .branches import Branches
from .models import LanguageModel

_GROUPED = "how_sure_grouped"  # under this name transformers finds our attention


def padded_logits(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    branches: Branches,
    prefix: DynamicCache | None,
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
    depths = torch.tensor(branches.depths)
    positions = (
        start
        + torch.cat(
            [text_positions.clamp(min=0), lengths[:, None] + depths.expand(1, nodes)],
            dim=1,
        ).long()
    )

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
def grouped_attention(network: PreTrainedModel) -> Iterator[None]:
    """Let heads that share keys read them where they lie, for one forward pass."""
    config = network.config.get_text_config()
    usual = config._attn_implementation
    if usual == "sdpa":
        AttentionInterface.register(_GROUPED, _attend_in_groups)
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
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, **settings
        )
    found = scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], groups * length, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        scale=settings.get("scaling"),
    )
    return found.reshape(rows, heads, length, -1).transpose(1, 2).contiguous(), None


class _SharedPrefix(DynamicCache):
    """One prefix read by many rows: joined with their keys, never written to."""

    def __init__(self, prefix: DynamicCache, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self._prefix = prefix

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
        return (
            torch.cat([layer.keys.expand(self._rows, -1, -1, -1), key_states], dim=2),
            torch.cat([layer.values.expand(self._rows, -1, -1, -1), value_states], 2),
        )
