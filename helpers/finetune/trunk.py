"""Cached hidden states below the first trained layer, up to :data:`LIMIT` in memory.

They belong to the base, not to an adapter: the next training on the same texts finds
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models import LanguageModel
from ..tree import batches, positions_in_batch

LIMIT = 2**30  # bytes of hidden states; for more, all layers are run every time
_TOLERANCE = 1e-4

Read = Callable[[list[int]], Any]
States = dict[int, torch.Tensor]
_kept: WeakKeyDictionary[LanguageModel, dict[str, States]] = WeakKeyDictionary()


def kept_states(base: LanguageModel, key: str) -> States:
    """What trainings on a base keep of the rows that the key stands for."""
    known = _kept.setdefault(base, {})
    held = sum(row.nbytes for states in known.values() for row in states.values())
    if key not in known and held > LIMIT // 2:
        known.clear()
    return known.setdefault(key, {})


def cache_frozen_layers(
    model: LanguageModel, read: Read, widths: Sequence[int], kept: States
) -> Read | None:
    """The same reading with cached lower layers; None where that is not exact."""
    network = model.network
    quantised = getattr(network, "hf_quantizer", None) is not None
    if quantised or network.dtype != torch.float32:
        return None
    embedding: Any = network.get_input_embeddings()
    if 4 * embedding.weight.shape[1] * sum(widths) > LIMIT:
        return None
    layers, n_frozen = _frozen_layers(network)
    if not n_frozen:
        return None
    budget = positions_in_batch(model, None)
    groups = list(batches(widths, budget, len(widths)))
    trunk = _Trunk(layers, n_frozen, read, groups, kept)
    longest, shortest = groups[0][0], groups[-1][-1]
    # The trials show where padding goes: alone, the shortest text loses that of its
    # group; beside the longest it gains some.
    trials = [[shortest], [longest, shortest]]
    with suppress(Exception):  # each architecture refuses in its own way
        if _is_random(trunk, network, trials[-1]):
            return None
        for trunk.padded_before in (False, True):
            if all(_agrees(trunk, rows) for rows in trials):
                return trunk
    return None


def _frozen_layers(network: PreTrainedModel) -> tuple[nn.ModuleList, int]:
    depth = network.config.get_text_config().num_hidden_layers
    for layers in network.modules():
        if isinstance(layers, nn.ModuleList) and len(layers) == depth:
            trained = [_n_trained(layer) for layer in layers]
            if sum(trained) == _n_trained(network) > 0:
                return layers, next(at for at, n in enumerate(trained) if n)
    return nn.ModuleList(), 0


def _n_trained(part: nn.Module) -> int:
    return sum(weight.requires_grad for weight in part.parameters())


class _Reached(Exception):
    """The first trained layer is reached; nothing more is to be computed."""


class _Passed(nn.Module):
    """Stands where a layer was, and lets hidden states pass."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden


class _Trunk:
    """A reading whose lower layers are run once for each group of texts."""

    def __init__(
        self,
        layers: nn.ModuleList,
        n_frozen: int,
        read: Read,
        groups: list[list[int]],
        kept: States,
    ) -> None:
        self.read, self.padded_before = read, False
        self._layers, self._n_frozen = layers, n_frozen
        self._groups = {row: group for group in groups for row in group}
        self._kept = kept

    def __call__(self, rows: list[int]) -> Any:
        for row in rows:
            if row not in self._kept:
                group = self._groups[row]
                states = self.hidden(group).tensor_split(len(group))
                self._kept.update(zip(group, states, strict=True))
        with self._replayed([self._kept[row] for row in rows]):
            return self.read(rows)

    @torch.no_grad()
    def hidden(self, rows: list[int]) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.append(inputs[0])
            raise _Reached

        first = self._layers[self._n_frozen]
        with first.register_forward_pre_hook(stop), suppress(_Reached):
            self.read(rows)
        return found[0]

    @contextmanager
    def _replayed(self, kept: list[torch.Tensor]) -> Iterator[None]:
        """Skip the lower layers, and let these states enter the first trained one."""

        def give(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            fitted = []
            for states in kept:
                # Padding is added or, by a negative number, taken away.
                missing = inputs[0].shape[1] - states.shape[1]
                edges = (missing, 0) if self.padded_before else (0, missing)
                fitted.append(nn.functional.pad(states, (0, 0, *edges)))
            return (torch.cat(fitted), *inputs[1:])

        lower = list(self._layers)[: self._n_frozen]
        try:
            for at in range(len(lower)):
                self._layers[at] = _Passed()
            with self._layers[len(lower)].register_forward_pre_hook(give):
                yield
        finally:
            for at, layer in enumerate(lower):
                self._layers[at] = layer


def _is_random(trunk: _Trunk, network: PreTrainedModel, rows: list[int]) -> bool:
    """Whether the lower layers draw anything in training: a dropout of their own."""
    usual = trunk.hidden(rows)
    devices = [network.device] if network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        state = torch.random.get_rng_state()
        network.train()
        try:
            in_training = trunk.hidden(rows)
        finally:
            network.eval()
        # Both are needed: a layer that may be left out may have stayed, and an
        # accelerator has a random state of its own.
        drawn = not torch.equal(state, torch.random.get_rng_state())
    return drawn or not _are_close(usual, in_training)


@torch.no_grad()
def _agrees(trunk: _Trunk, rows: list[int]) -> bool:
    # The whole network comes last: what it leaves behind would help the split one.
    return _are_close(trunk(rows)[0], trunk.read(rows)[0])


def _are_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=_TOLERANCE / 10, atol=_TOLERANCE)
