"""Linear layers in 8-bit integers, for processors that have instructions for them.

Weights have a scale for each output, inputs one for each row. SmoothQuant (Xiao et al.,
ICML 2023) with strength one half spreads outliers of the inputs, measured on
:data:`SAMPLE`, over both. A shared prefix is read with :func:`unrounded_inputs`, since
its rounding errors would shift all answers alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Prose, notes, questions, code, another language.
SAMPLE = """The film was a joy: warm, funny and never dull.
34 YOM FELL FROM LADDER, PAIN IN LEFT WRIST. DX: FRACTURE.

Question: What is 2 + 2?
Answer: 4

La ville est belle. import os; print(os.getcwd())  # <html>
Text: I want my money back!
Label: complaint
"""
_MARK = "_how_sure_int8"
_TINY = 1e-12  # a row of zeros has no scale
# Whether inputs meet the rounded weights as they are.
is_unrounded: ContextVar[bool] = ContextVar("is_unrounded", default=False)


@cache
def has_int8() -> bool:
    """Whether this processor multiplies 8-bit integers correctly."""
    try:
        layer = nn.Linear(64, 64, bias=False)
        with torch.no_grad():
            layer.weight.fill_(1.0)
            found = Int8Linear(layer, torch.ones(64))(torch.ones(1, 64))
    except (RuntimeError, AttributeError):
        return False
    return bool(torch.allclose(found, torch.full_like(found, 64.0), rtol=1e-3))


def to_int8(network: PreTrainedModel, sample: list[int]) -> None:
    """Turn a network's linear layers into layers of 8-bit integers, in place."""
    output: Any = network.get_output_embeddings()
    kept = set(output.modules())
    for part in network.modules():
        if any(getattr(part, "use_dora", {}).values()):
            kept.update(part.modules())
    parts = {
        name: part
        for name, part in network.named_modules()
        if type(part) is nn.Linear and part not in kept and "lora_" not in name
    }
    if not parts:
        raise ValueError(
            "precision='int8' finds no linear layers in this network; leave it out."
        )
    network.requires_grad_(False)
    window = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    largest: dict[str, torch.Tensor] = {}

    def listen(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = inputs[0].abs().flatten(0, -2).amax(0)
        largest[name] = torch.maximum(found, largest.get(name, found))

    with ExitStack() as listening, torch.inference_mode():
        for name, part in parts.items():
            hook = part.register_forward_pre_hook(partial(listen, name))
            listening.enter_context(hook)
        network(input_ids=torch.tensor([sample[:window]]), use_cache=False)
    for name, part in parts.items():
        if name not in largest:  # an expert that the sample does not ask, for one
            largest[name] = part.weight.abs().amax(0)
    for _, neighbours in groupby(largest.items(), _inputs):
        names = [name for name, _ in neighbours]
        group = Int8Linear.group([parts[name] for name in names], largest[names[0]])
        for name, layer in zip(names, group, strict=True):
            network.set_submodule(name, layer)
    setattr(network, _MARK, True)


def _inputs(measured: tuple[str, torch.Tensor]) -> tuple[str, list[float]]:
    """Alike for neighbours that got the same, such as queries, keys and values."""
    name, largest = measured
    return name.removesuffix(".base_layer").rpartition(".")[0], largest.tolist()


def _lifted(largest: torch.Tensor) -> torch.Tensor:
    """Small numbers made larger: what was zero so far may not stay so."""
    some = largest[largest > 0]
    return largest.clamp_min(0.01 * float(some.median()) if len(some) else 1.0)


def is_int8(network: nn.Module) -> bool:
    return getattr(network, _MARK, False)


@contextmanager
def unrounded_inputs() -> Iterator[None]:
    """Let inputs meet the rounded weights as they are, which is slow."""
    token = is_unrounded.set(True)
    try:
        yield
    finally:
        is_unrounded.reset(token)


@dataclass(frozen=True)
class Rounded:
    codes: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Rounded:
        """Round rows, shape (n, in_features), whose memory is used up."""
        top = torch.maximum(rows.amax(1, True), -rows.amin(1, True)).clamp_min_(_TINY)
        signed = rows.mul_(127 / top).round_().to(torch.int8)
        # Adding 128 wraps around. (torch is slow in turning floats into unsigned ones.)
        return cls(signed.view(torch.uint8).add_(128), top / 127)


class Int8Linear(nn.Module):
    """A linear layer whose products are those of 8-bit integers."""

    codes: torch.Tensor
    scales: torch.Tensor
    factors: torch.Tensor

    def __init__(self, linear: nn.Linear, factors: torch.Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach() / factors
        scales = weight.abs().amax(1).clamp_min(_TINY) / 127
        self.register_buffer("codes", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("factors", factors)
        self.bias = linear.bias
        self._packed: torch.Tensor | None = None
        self._no_shift = torch.zeros(len(scales), dtype=torch.int64)

    @classmethod
    def group(
        cls, layers: Sequence[nn.Linear], largest: torch.Tensor
    ) -> list[Int8Linear]:
        """Layers for the same inputs, of which the largest are known."""
        weights = torch.cat([layer.weight for layer in layers])
        # What each input is multiplied by, and its weights are divided by.
        factors = (_lifted(weights.abs().amax(0)) / _lifted(largest)).sqrt()
        return [cls(layer, factors) for layer in layers]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.reshape(-1, self.in_features)
        if is_unrounded.get():
            weight = self.codes * self.scales[:, None]
            found = nn.functional.linear(rows * self.factors, weight, self.bias)
        else:
            found = self.product(Rounded.of(rows * self.factors))
        return found.view(*inputs.shape[:-1], self.out_features)

    def product(self, rows: Rounded) -> torch.Tensor:
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.codes, None)
        # The scale of all inputs is one, since each row has its own; then come scale
        # and offset of the output, and what could be done to it at once.
        found = torch.ops.onednn.qlinear_pointwise(
            *(rows.codes, 1.0, 128, self._packed, self.scales, self._no_shift, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        found.mul_(rows.scales)
        return found if self.bias is None else found.add_(self.bias)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # it cannot be copied

    def _load_from_state_dict(self, *args: Any, **settings: Any) -> None:
        super()._load_from_state_dict(*args, **settings)
        self._packed = None


def share_rounding(layers: Sequence[nn.Module]) -> bool:
    """Whether layers can take the same :class:`Rounded` inputs."""
    first = layers[0]
    return not is_unrounded.get() and all(
        isinstance(layer, Int8Linear) and layer.factors is first.factors
        for layer in layers
    )
