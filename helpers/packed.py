"""A forward pass over many texts without padding, for networks built like Llama.

``transformers`` pads the texts of a batch to one length, reads the keys of a shared
prefix once for each text, and asks for fresh memory at every step. Here the texts of
a batch lie behind one another; each attends to its own positions and, apart from that,
all at once to the prefix (two softmaxes are joined by the logarithms of their sums);
and every layer writes into the memory that the one before it has used.

What comes out is the same but for rounding. Only networks that :func:`suits` names are
read so; :mod:`helpers.scoring` tries it out on each model before it relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers import DynamicCache, PreTrainedModel

from .branches import Branches
from .int8 import Int8Linear, rounds_inputs

# Families whose layers are: norm, attention with rotary positions, norm, gated SiLU.
FAMILIES = frozenset(("llama", "mistral", "qwen2", "qwen3"))


def suits(network: PreTrainedModel) -> bool:
    """Whether this module knows how to run a network.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        The network.

    Returns
    -------
    bool
        True for networks of one of the :data:`FAMILIES`, on a processor, whose parts
        are as they were made: nobody would call hooks and replaced methods here. Nor
        would autocast find what it turns into half precision.
    """
    output = network.get_output_embeddings()
    return (
        network.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and network.config.model_type in FAMILIES
        and network.config.hidden_act == "silu"
        and type(output) is nn.Linear
        and output.bias is None
        and not any(
            part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
            for part in network.modules()
        )
    )


class Workspace:
    """Memory that is written into again and again; fresh memory takes time to map."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """Memory of this name, with whatever was left there, in ``like``'s dtype."""
        needed = torch.Size(shape).numel()
        kept = self._kept.get((name, like.dtype))
        if kept is None or len(kept) < needed:
            kept = self._kept[name, like.dtype] = like.new_empty(needed)
        return kept[:needed].view(shape)


@dataclass(frozen=True)
class Pack:
    """Texts that lie behind one another, each with the same tree behind it.

    Attributes
    ----------
    ids, positions : torch.Tensor of shape (n_tokens,)
        Tokens, and where each stands in its own text.
    read : torch.Tensor of shape (n_texts * n_read,)
        Which of them are read.
    slots : torch.Tensor of shape (n_tokens,)
        Where each lies in a table of texts, all as long as the longest.
    sources : torch.Tensor of shape (n_texts * longest,)
        Which token lies in each place of that table; some token where it is empty.
    seen : torch.Tensor of shape (n_texts, longest, longest)
        Whether the query (second axis) sees the key (third axis).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    read: torch.Tensor
    slots: torch.Tensor
    sources: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def of(
        cls,
        texts: Sequence[Sequence[int]],
        branches: Branches,
        start: int,
    ) -> Pack:
        """Lay out texts and the tree behind each.

        Parameters
        ----------
        texts : sequence of sequence of int
            Tokens of each text, at least one.
        branches : Branches
            The tree.
        start : int
            Position of each text's first token.
        """
        n_nodes = len(branches.tokens)
        lengths = torch.tensor([len(text) for text in texts])
        whole = lengths + n_nodes
        longest = int(whole.max())
        place = torch.arange(longest)
        is_text = place < lengths[:, None]
        filled = place < whole[:, None]
        node = (place - lengths[:, None]).clamp(0, max(n_nodes - 1, 0))
        causal = place[:, None] >= place
        seen = is_text[:, None] & (causal | ~is_text[:, :, None])
        at = torch.where(is_text, place, lengths[:, None])
        if n_nodes:
            above = branches.ancestry[node[:, :, None], node[:, None, :]]
            is_node = filled & ~is_text
            seen |= is_node[:, None] & ~is_text[:, :, None] & above
            at = at + torch.where(is_text, 0, torch.tensor(branches.depths)[node])
        firsts = whole.cumsum(0) - whole
        sources = firsts[:, None] + torch.minimum(place, whole[:, None] - 1)
        ends = (firsts + lengths - 1)[:, None] + torch.arange(n_nodes + 1)
        return cls(
            torch.tensor([id_ for text in texts for id_ in (*text, *branches.tokens)]),
            start + at[filled],
            ends.flatten(),
            filled.flatten().nonzero()[:, 0],
            sources.flatten(),
            seen,
        )


def packed_states(
    network: PreTrainedModel,
    pack: Pack,
    prefix: DynamicCache | None,
    workspace: Workspace,
) -> torch.Tensor:
    """What the output projection sees where it is read, behind a prefix of all texts.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        A network of one of the :data:`FAMILIES`, on a processor.
    pack : Pack
        The texts.
    prefix : transformers.DynamicCache or None
        Keys and values of the prefix.
    workspace : Workspace
        Where to compute.

    Returns
    -------
    torch.Tensor of shape (n_texts, n_read, hidden_size)
        In the network's own dtype.
    """
    body: Any = network.base_model
    config = network.config
    hidden = body.embed_tokens(pack.ids)
    cosine, sine = body.rotary_emb(hidden[None], pack.positions[None])
    turn = (cosine[0, :, None], sine[0, :, None, : cosine.shape[-1] // 2])
    groups = config.num_attention_heads // config.num_key_value_heads
    attention = _Attention(pack, hidden, config.num_key_value_heads, groups)
    for number, layer in enumerate(body.layers):
        part, mlp = layer.self_attn, layer.mlp
        normed = _norm(layer.input_layernorm, hidden, workspace)
        projections = {"q": part.q_proj, "k": part.k_proj, "v": part.v_proj}
        queries, keys, values = (
            found.unflatten(1, (-1, part.head_dim))
            for found in _linears(projections, normed, workspace)
        )
        if hasattr(part, "q_norm"):
            queries, keys = part.q_norm(queries), part.k_norm(keys)
        cached = None if prefix is None else prefix.layers[number]
        mixed = attention(
            _turned(queries, *turn, "turned q", workspace),
            _turned(keys, *turn, "turned k", workspace),
            values,
            cached,
            part.scaling,
            workspace,
        )
        _add_linear(part.o_proj, mixed, hidden)
        normed = _norm(layer.post_attention_layernorm, hidden, workspace)
        projections = {"gate": mlp.gate_proj, "up": mlp.up_proj}
        gate, up = _linears(projections, normed, workspace)
        _add_linear(mlp.down_proj, silu(gate, inplace=True).mul_(up), hidden)
    return body.norm(hidden[pack.read]).view(len(pack.seen), -1, hidden.shape[1])


class _Attention:
    """Attention within each text of a pack, and from all to the shared prefix."""

    def __init__(
        self, pack: Pack, like: torch.Tensor, n_shared: int, groups: int
    ) -> None:
        n_texts, longest = pack.seen.shape[:2]
        self._n_shared, self._groups = n_shared, groups
        self._shape = (n_texts, n_shared)
        # Rows of a pack are (token, head), those of the tables that queries and keys
        # come from (text, head, place): heads that share keys follow one another, as
        # further queries to them. Rows of what comes out are (text, head of those that
        # share keys, place, shared head).
        heads, shared = torch.arange(n_shared * groups), torch.arange(n_shared)
        sources = pack.sources.view(n_texts, 1, longest)
        self._queries = (sources * len(heads) + heads[:, None]).flatten()
        self._keys = (sources * n_shared + shared[:, None]).flatten()
        text, place = pack.slots[:, None] // longest, pack.slots[:, None] % longest
        back = (text * groups + heads % groups) * longest + place
        self._back = (back * n_shared + heads // groups).flatten()
        mask = torch.zeros(pack.seen.shape, dtype=like.dtype)
        mask.masked_fill_(~pack.seen, torch.finfo(like.dtype).min)
        self._mask = mask[:, None].repeat(1, 1, groups, 1)

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prefix: Any,
        scale: float,
        workspace: Workspace,
    ) -> torch.Tensor:
        """From (tokens, heads, width) to (tokens, heads * width)."""
        n_tokens, heads, width = queries.shape
        attend: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

        def table(what: torch.Tensor, rows: torch.Tensor, name: str) -> torch.Tensor:
            out = workspace.take(name, what, len(rows), width)
            torch.index_select(what.reshape(-1, width), 0, rows, out=out)
            return out.view(*self._shape, -1, width)

        own, weight = attend(
            table(queries, self._queries, "table q"),
            table(keys, self._keys, "table k"),
            table(values, self._keys, "table v"),
            attn_mask=self._mask,
            scale=scale,
        )
        mixed = workspace.take("mixed", queries, len(self._back), width)
        torch.index_select(
            own.transpose(1, 2).reshape(-1, width), 0, self._back, out=mixed
        )
        if prefix is not None:
            grouped = (n_tokens, self._n_shared, self._groups)
            common, common_weight = attend(
                queries.view(*grouped, width).permute(2, 1, 0, 3),
                prefix.keys.expand(self._groups, -1, -1, -1),
                prefix.values.expand(self._groups, -1, -1, -1),
                scale=scale,
            )
            own_weight = weight.transpose(1, 2).reshape(-1)[self._back].view(grouped)
            share = (common_weight.permute(2, 1, 0) - own_weight).sigmoid_()
            mixed.view(*grouped, width).lerp_(
                common.permute(2, 1, 0, 3), share[..., None].to(common.dtype)
            )
        return mixed.view(n_tokens, heads * width)


def _norm(norm: Any, hidden: torch.Tensor, workspace: Workspace) -> torch.Tensor:
    """Root-mean-square norm."""
    lengths = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float)
    scale = lengths.square_().div_(hidden.shape[-1]).add_(norm.variance_epsilon)
    out = workspace.take("normed", hidden, *hidden.shape)
    return torch.mul(hidden, scale.rsqrt_(), out=out).mul_(norm.weight)


def _turned(
    heads: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    name: str,
    workspace: Workspace,
) -> torch.Tensor:
    """Rotary positions: the two halves of a head's width are turned in each plane."""
    half = heads.shape[-1] // 2
    out = workspace.take(name, heads, *heads.shape)
    torch.mul(heads, cosine, out=out)
    out[..., :half].addcmul_(heads[..., half:], sine, value=-1)
    out[..., half:].addcmul_(heads[..., :half], sine)
    return out


def _linears(
    layers: dict[str, Any], inputs: torch.Tensor, workspace: Workspace
) -> list[torch.Tensor]:
    """What several layers make of the same inputs."""
    first, *others = layers.values()
    if isinstance(first, Int8Linear) and rounds_inputs():
        if all(getattr(one, "factors", None) is first.factors for one in others):
            rows = first.rounded(inputs)
            return [layer.product(rows) for layer in layers.values()]
    return [_linear(*layer, inputs, workspace) for layer in layers.items()]


def _linear(
    name: str, linear: Any, inputs: torch.Tensor, workspace: Workspace
) -> torch.Tensor:
    if type(linear) is not nn.Linear:  # an adapter, or other arithmetic
        return linear(inputs)
    out = workspace.take(name, inputs, len(inputs), linear.out_features)
    if linear.bias is None:
        return torch.mm(inputs, linear.weight.t(), out=out)
    return torch.addmm(linear.bias, inputs, linear.weight.t(), out=out)


def _add_linear(linear: Any, inputs: torch.Tensor, hidden: torch.Tensor) -> None:
    """Add what a layer gives to the hidden states."""
    if type(linear) is nn.Linear and linear.bias is None:
        torch.addmm(hidden, inputs, linear.weight.t(), out=hidden)
    else:
        hidden.add_(linear(inputs))
