"""A forward pass over many texts without padding, for networks built like Llama.

The texts of a batch lie behind one another; each attends to its own positions and
all at once attend to the shared prefix (two softmaxes are joined by the logarithms of
their sums). :mod:`helpers.scoring` tries it out on each model before it relies on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import silu

from .int8 import Rounded, is_int8, share_rounding
from .verbalizer import LabelTrie

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Families whose layers are: norm, attention with rotary positions, norm, gated SiLU.
_FAMILIES = frozenset(("llama", "mistral", "qwen2", "qwen3"))
# Hooks that transformers leaves behind once it was asked for hidden states.
_NOTES_OUTPUTS = "transformers.utils.output_capturing"
VECTOR = 16  # keys that a processor's softmax takes at a time; some take 4 or 8
_SLICE = 2**20  # logits computed at a time: 4 MB in float32, which a cache can hold


def can_pack(network: PreTrainedModel, parts: Iterable[nn.Module]) -> bool:
    """Whether this module knows how to run a network of these parts."""
    output = network.get_output_embeddings()
    return (
        network.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and network.config.model_type in _FAMILIES
        and network.config.hidden_act == "silu"
        and type(output) is nn.Linear
        and output.bias is None
        and not any(_is_changed(part) for part in parts)
    )


def _is_changed(part: nn.Module) -> bool:
    hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    return "forward" in vars(part) or any(
        getattr(hook, "__module__", "") != _NOTES_OUTPUTS for hook in hooks
    )


@cache
def has_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 numbers."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def attention_dtype(network: PreTrainedModel) -> torch.dtype:
    """What a network that :func:`can_pack` attends in."""
    quick = is_int8(network) and has_bfloat16()
    return torch.bfloat16 if quick else network.dtype


@dataclass(frozen=True)
class Branches:
    """Positions behind a text, of which each sees the text and its own ancestors."""

    tokens: list[int]
    depths: list[int]
    ancestry: torch.Tensor

    @classmethod
    def of(cls, trie: LabelTrie, nodes: Sequence[int]) -> Branches:
        place = {node: at for at, node in enumerate(nodes)}
        ancestry = torch.zeros(len(nodes), len(nodes)).bool()
        for node, at in place.items():
            while node:
                ancestry[at, place[node]] = True
                node = trie.parents[node]
        return cls(
            [trie.tokens[node] for node in nodes],
            [trie.depths[node] - 1 for node in nodes],
            ancestry,
        )


class NodeLogits:
    """Next-token logits at the nodes of the labels' tree, behind each of some texts."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits.float()

    def whole(self) -> torch.Tensor:
        """All of them, shape (n_texts, n_nodes, vocabulary), in float32."""
        return self._logits

    def of(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token at each node, shape (n_texts, len(nodes))."""
        return self._logits[:, nodes, tokens]

    def each(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Every token at each node, shape (n_texts, len(nodes), len(tokens))."""
        return self._logits[:, nodes][..., list(tokens)]

    def normaliser(self) -> torch.Tensor:
        """Logarithm of the sum of all exponentials, shape (n_texts, n_nodes)."""
        # Text by text, since what logsumexp works in is as large as what it is given.
        return torch.stack([text.logsumexp(-1) for text in self._logits])


class ProjectedLogits(NodeLogits):
    """Logits that are computed when they are asked for, so that few are in memory."""

    def __init__(self, states: torch.Tensor, weight: torch.Tensor) -> None:
        self._states = states.float()
        self._weight = weight

    def whole(self) -> torch.Tensor:
        return self._states @ self._weight.float().T

    def of(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        found = self._states.new_empty(len(self._states), len(nodes))
        wanted, places = torch.tensor(tokens), torch.tensor(nodes)
        for node in set(nodes):
            at = (places == node).nonzero()[:, 0]
            weight = self._weight[wanted[at]].float()
            found[:, at] = self._states[:, node] @ weight.T
        return found

    def each(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        return self._states[:, nodes] @ self._weight[list(tokens)].float().T

    def at(self, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token at the first node of each of these rows."""
        weight = self._weight[list(tokens)].float()
        return torch.einsum("ij,ij->i", self._states[list(rows), 0], weight)

    def normaliser(self) -> torch.Tensor:
        states = self._states.flatten(0, 1)
        width = max(64, _SLICE // len(states))
        sums = []
        for part in self._weight.split(width):
            logits = torch.mm(states, part.float().T)
            top = logits.amax(-1, keepdim=True)
            sums.append(top[:, 0] + logits.sub_(top).exp_().sum(-1).log())
        return torch.stack(sums).logsumexp(0).view(self._states.shape[:2])


class _Pack:
    """Texts that lie behind one another, each with the same tree behind it."""

    def __init__(
        self, texts: Sequence[Sequence[int]], branches: Branches, start: int
    ) -> None:
        n_nodes = len(branches.tokens)
        lengths = torch.tensor([len(text) for text in texts])
        whole = lengths + n_nodes
        place = torch.arange(int(whole.max()))
        is_text = place < lengths[:, None]
        filled = place < whole[:, None]
        node = (place - lengths[:, None]).clamp(0, max(n_nodes - 1, 0))
        causal = place[:, None] >= place
        self.seen = is_text[:, None] & (causal | ~is_text[:, :, None])
        at = torch.where(is_text, place, lengths[:, None])
        if n_nodes:
            above = branches.ancestry[node[:, :, None], node[:, None, :]]
            is_node = filled & ~is_text
            self.seen |= is_node[:, None] & ~is_text[:, :, None] & above
            at = at + torch.where(is_text, 0, torch.tensor(branches.depths)[node])
        self.ids = torch.tensor(
            [id_ for text in texts for id_ in (*text, *branches.tokens)]
        )
        self.positions = start + at[filled]
        firsts = whole.cumsum(0) - whole
        ends = (firsts + lengths - 1)[:, None] + torch.arange(n_nodes + 1)
        self.read = ends.flatten()
        # Where each position of the whole texts goes in a table of equally long rows,
        # and where each place of that table comes from.
        self.slots = filled.flatten().nonzero()[:, 0]
        self.sources = firsts[:, None] + torch.minimum(place, whole[:, None] - 1)
        self.key_sources = self.sources


class _Step:
    """One more token behind each of some paths, that is, rows of what was kept."""

    def __init__(
        self, paths: Sequence[Sequence[int]], tokens: Sequence[int], start: int
    ) -> None:
        lengths = torch.tensor([len(path) for path in paths])
        self.ids = torch.tensor(tokens)
        self.positions = start + lengths - 1
        self.slots = self.read = torch.arange(len(paths))
        self.sources = self.read[:, None]
        place = torch.arange(int(lengths.max()))
        self.seen = (place < lengths[:, None])[:, None]
        ends = lengths.cumsum(0)[:, None]
        rows = torch.tensor([row for path in paths for row in path])
        self.key_sources = rows[
            torch.minimum(ends - lengths[:, None] + place, ends - 1)
        ]


class KeptTexts:
    """Texts that were read, to which paths of further tokens are added."""

    def __init__(self, reader: PackedReader, texts: Sequence[Sequence[int]]) -> None:
        self._reader, self._kept = reader, _Kept()
        branches = Branches([], [], torch.empty(0, 0))
        pack = _Pack(texts, branches, reader.n_prefix)
        self.logits = reader.projected(pack, self._kept)
        self._n_rows = len(pack.ids)
        rows = torch.arange(self._n_rows).split([len(text) for text in texts])
        self.paths = [part.tolist() for part in rows]

    def step(
        self, paths: Sequence[Sequence[int]], tokens: Sequence[int]
    ) -> tuple[list[list[int]], ProjectedLogits]:
        """Each path with one more token, and the logits behind it."""
        start = self._n_rows
        self._n_rows += len(tokens)
        longer = [[*path, start + at] for at, path in enumerate(paths)]
        step = _Step(longer, tokens, self._reader.n_prefix)
        return longer, self._reader.projected(step, self._kept)


class _Kept:
    """Keys and values of all positions so far, layer by layer."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def joined(
        self, layer: int, *new: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is kept of a layer with what is new there, copied."""
        known = self._layers.get(layer)
        pairs = zip(known, new, strict=True) if known else ((part,) for part in new)
        keys, values = (torch.cat(parts) for parts in pairs)
        self._layers[layer] = keys, values
        return keys, values


class PackedReader:
    """Reads texts behind one prefix, in memory that it writes into again and again."""

    def __init__(self, network: PreTrainedModel, prefix: DynamicCache | None) -> None:
        self.network, self.prefix = network, prefix
        self.n_prefix = 0 if prefix is None else prefix.get_seq_length()
        self.n_shared = network.config.num_key_value_heads
        self.groups = network.config.num_attention_heads // self.n_shared
        self.dtype = attention_dtype(network)
        self._kept: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def logits(
        self, texts: Sequence[Sequence[int]], branches: Branches
    ) -> ProjectedLogits:
        """Logits at the end of each text and at the nodes of the tree behind it."""
        return self.projected(_Pack(texts, branches, self.n_prefix))

    def projected(
        self, pack: _Pack | _Step, kept: _Kept | None = None
    ) -> ProjectedLogits:
        """Logits where a pack is read, whose keys and values may be kept."""
        body: Any = self.network.base_model
        output: Any = self.network.get_output_embeddings()
        *_, hidden = self._each_layer(pack, len(body.layers), pack.read, kept)
        states = body.norm(hidden).view(len(pack.seen), -1, hidden.shape[1])
        return ProjectedLogits(states, output.weight)

    def means(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> torch.Tensor:
        """Means over each text of what comes out of some layers, one a row of each."""
        body: Any = self.network.base_model
        pack = _Pack(texts, Branches([], [], torch.empty(0, 0)), self.n_prefix)
        lengths = torch.tensor([len(text) for text in texts])
        found = {}
        states = self._each_layer(pack, max(layers))
        for number, hidden in enumerate(states, start=1):
            if number in layers:
                last = number == len(body.layers)
                read = (body.norm(hidden) if last else hidden).float()
                found[number] = torch.segment_reduce(read, "mean", lengths=lengths)
        return torch.stack([found[number] for number in layers], dim=1)

    def take(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """Memory of this name, with whatever was left there: fresh one takes time."""
        needed = torch.Size(shape).numel()
        kept = self._kept.get((name, like.dtype))
        if kept is None or len(kept) < needed:
            kept = self._kept[name, like.dtype] = like.new_empty(needed)
        return kept[:needed].view(shape)

    def _each_layer(
        self,
        pack: _Pack | _Step,
        depth: int,
        read: torch.Tensor | None = None,
        kept: _Kept | None = None,
    ) -> Iterator[torch.Tensor]:
        """What comes out of each layer, until the next one writes into it.

        Of the last one, only the rows to ``read``, if they are named.
        """
        body: Any = self.network.base_model
        hidden = body.embed_tokens(pack.ids)
        cosine, sine = body.rotary_emb(hidden[None], pack.positions[None])
        turn = (cosine[0, :, None], sine[0, :, None, : cosine.shape[-1] // 2])
        attention = _Attention(pack, self)
        for number, layer in enumerate(body.layers[:depth], start=1):
            part, mlp = layer.self_attn, layer.mlp
            projections = {"q": part.q_proj, "k": part.k_proj, "v": part.v_proj}
            queries, keys, values = (
                found.unflatten(1, (-1, part.head_dim))
                for found in self._normed(layer.input_layernorm, projections, hidden)
            )
            if hasattr(part, "q_norm"):
                queries, keys = part.q_norm(queries), part.k_norm(keys)
            queries = self._turned("turned q", queries, *turn)
            keys = self._turned("turned k", keys, *turn)
            if kept is not None:
                keys, values = kept.joined(number, keys, values)
            cached = self.prefix.layers[number - 1] if self.prefix else None
            mixed = attention(queries, keys, values, cached, part.scaling)
            if read is not None and number == depth:
                mixed, hidden = mixed[read], hidden[read]
            _add_linear(part.o_proj, mixed, hidden)
            projections = {"gate": mlp.gate_proj, "up": mlp.up_proj}
            norm = layer.post_attention_layernorm
            gate, up = self._normed(norm, projections, hidden)
            _add_linear(mlp.down_proj, silu(gate, inplace=True).mul_(up), hidden)
            yield hidden

    def _turned(
        self, name: str, heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> torch.Tensor:
        """Rotary positions: both halves of a head's width are turned in each plane."""
        half = heads.shape[-1] // 2
        out = self.take(name, heads, *heads.shape)
        torch.mul(heads, cosine, out=out)
        out[..., :half].addcmul_(heads[..., half:], sine, value=-1)
        out[..., half:].addcmul_(heads[..., :half], sine)
        return out

    def _normed(
        self, norm: Any, layers: dict[str, Any], hidden: torch.Tensor
    ) -> list[torch.Tensor]:
        lengths = torch.linalg.vector_norm(
            hidden, dim=-1, keepdim=True, dtype=torch.float
        )
        scale = lengths.square_().div_(hidden.shape[-1]).add_(norm.variance_epsilon)
        normed = self.take("normed", hidden, *hidden.shape)
        torch.mul(hidden, scale.rsqrt_(), out=normed)
        parts = list(layers.values())
        if share_rounding(parts):
            rows = Rounded.of(normed.mul_(norm.weight * parts[0].factors))
            return [part.product(rows) for part in parts]
        normed.mul_(norm.weight)
        return [self._linear(*layer, normed) for layer in layers.items()]

    def _linear(self, name: str, linear: Any, inputs: torch.Tensor) -> torch.Tensor:
        if type(linear) is not nn.Linear:  # an adapter, or other arithmetic
            return linear(inputs)
        out = self.take(name, inputs, len(inputs), linear.out_features)
        if linear.bias is None:
            return torch.mm(inputs, linear.weight.t(), out=out)
        return torch.addmm(linear.bias, inputs, linear.weight.t(), out=out)


def _add_linear(linear: Any, inputs: torch.Tensor, hidden: torch.Tensor) -> None:
    if type(linear) is nn.Linear and linear.bias is None:
        torch.addmm(hidden, inputs, linear.weight.t(), out=hidden)
    else:
        hidden.add_(linear(inputs))


class _Attention:
    """Attention within each text of a pack, and from all to the shared prefix."""

    def __init__(self, pack: _Pack | _Step, reader: PackedReader) -> None:
        n_shared, groups = reader.n_shared, reader.groups
        n_texts, longest = pack.sources.shape
        self._take, self._shape = reader.take, (n_texts, n_shared)
        # One row for each of what all see: tokens, heads, queries of a head.
        self._grouped = (len(pack.ids), n_shared, groups)
        # Rows of a pack are (token, head), those of the tables that queries and keys
        # come from (text, head, place): heads that share keys follow one another, as
        # further queries to them. Rows of what comes out are (text, head of those that
        # share keys, place, shared head).
        heads, shared = torch.arange(n_shared * groups), torch.arange(n_shared)
        sources = pack.sources[:, None]
        self._queries = (sources * len(heads) + heads[:, None]).flatten()
        text, place = pack.slots[:, None] // longest, pack.slots[:, None] % longest
        back = (text * groups + heads % groups) * longest + place
        self._back = (back * n_shared + heads // groups).flatten()
        n_left = reader.n_prefix % VECTOR
        self._n_common = reader.n_prefix - n_left
        key_sources = pack.key_sources[:, None]
        own = slice(n_left, n_left + key_sources.shape[2])
        width = math.ceil(own.stop / VECTOR) * VECTOR
        keys = torch.zeros(n_texts, 1, width, dtype=torch.long)
        keys[..., :n_left] = torch.arange(n_left)
        keys[..., own] = n_left + key_sources
        keys[..., own.stop :] = n_left + key_sources[..., -1:]  # not another text's NaN
        self._keys = (keys * n_shared + shared[:, None]).flatten()
        seen = torch.zeros(n_texts, longest, width, dtype=torch.bool)
        seen[..., :n_left] = True
        seen[..., own] = pack.seen
        mask = torch.zeros(seen.shape, dtype=reader.dtype)
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        self._mask = mask[:, None].repeat(1, 1, groups, 1)

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prefix: Any,
        scale: float,
    ) -> torch.Tensor:
        outside, inside = queries.dtype, self._mask.dtype
        queries, keys, values = (each.to(inside) for each in (queries, keys, values))
        width = queries.shape[2]
        attend: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        if prefix is not None:
            common_keys, keys = self._split(prefix.keys, keys)
            common_values, values = self._split(prefix.values, values)
        own, weight = attend(
            self._table("table q", queries, self._queries),
            self._table("table k", keys, self._keys),
            self._table("table v", values, self._keys),
            attn_mask=self._mask,
            scale=scale,
        )
        own = own.transpose(1, 2)
        mixed = self._rows("mixed", own, self._back).view(*self._grouped, width)
        if self._n_common:
            common, common_weight = attend(
                queries.view(*self._grouped, width).permute(2, 1, 0, 3),
                common_keys,
                common_values,
                scale=scale,
            )
            own_weight = weight.transpose(1, 2).reshape(-1)[self._back]
            share = common_weight.permute(2, 1, 0) - own_weight.view(self._grouped)
            share = share.sigmoid_()[..., None].to(common.dtype)
            mixed.lerp_(common.permute(2, 1, 0, 3), share)
        return mixed.flatten(1).to(outside)

    def _rows(self, name: str, what: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        out = self._take(name, what, len(rows), what.shape[-1])
        flat = what.reshape(-1, what.shape[-1])
        return torch.index_select(flat, 0, rows, out=out)

    def _table(self, name: str, what: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self._rows(name, what, rows).view(*self._shape, -1, what.shape[-1])

    def _split(
        self, prefix: torch.Tensor, own: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What all see, once for each head of a group; own, behind what is left."""
        n_left = prefix.shape[2] - self._n_common
        common, left = prefix.to(own.dtype).split([self._n_common, n_left], dim=2)
        own = torch.cat((left[0].transpose(0, 1), own)) if n_left else own
        return common.expand(self._grouped[2], -1, -1, -1), own
