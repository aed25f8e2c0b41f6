"""Low-rank adapters (LoRA) in the format of ``peft``, left unmerged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_WEIGHTS = "adapter_model.safetensors"
_NAME = "default"  # what peft calls an adapter inside a network
_PREFIX = "base_model.model."  # what peft's files put before a network's own names


def copy_sharing_weights(network: PreTrainedModel) -> PreTrainedModel:
    """A second network with the same weights, to which an adapter can be added."""
    if hasattr(network, "peft_config"):
        raise ValueError(
            "network must be without an adapter; this one has one already. Start from "
            "its base."
        )
    shared: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in network.parameters()
    }
    return copy.deepcopy(network, shared)


def add_lora(
    network: PreTrainedModel,
    *,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: str | tuple[str, ...] = "all-linear",
    layers: int | None = None,
    base: str | None = None,
    seed: int = 0,
) -> None:
    """Add a fresh low-rank adapter to a network, and freeze everything else."""
    depth = network.config.get_text_config().num_hidden_layers
    if layers is not None and layers > depth:
        raise ValueError(f"layers must be at most {depth}, not {layers}.")
    if target_modules == "all-linear":
        last = network.get_output_embeddings()
        target_modules = tuple(
            {
                name.rpartition(".")[2]
                for name, part in network.named_modules()
                if isinstance(part, (nn.Linear, Conv1D)) and part is not last
            }
        )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=sorted(target_modules),
        layers_to_transform=list(range(depth - layers, depth)) if layers else None,
        # GPT-2 keeps its weights the other way round.
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in network.modules()),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )
    _inject(config, network, seed)


def adapter_parameters(network: PreTrainedModel) -> list[nn.Parameter]:
    named = network.named_parameters()
    return [weight for name, weight in named if ".lora_" in name]


def save_adapter(
    network: PreTrainedModel, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the adapter of a network as ``peft`` does, rounded to ``dtype``."""
    config = copy.copy(network.peft_config[_NAME])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    weights = {
        _PREFIX + name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in _state(network).items()
    }
    safetensors.torch.save_file(weights, folder / _WEIGHTS, {"format": "pt"})


def load_adapter(network: PreTrainedModel, folder: Path) -> None:
    """Put an adapter on the network it was trained on, in place, without merging."""
    config = peft.PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, peft.LoraConfig):
        raise ValueError(
            f"{folder} must hold a LoRA adapter, not one of {config.peft_type}."
        )
    _inject(config, network)
    weights = read_weights(folder / _WEIGHTS)
    own = {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}
    if _shapes(own) != _shapes(_state(network)):
        raise ValueError(f"{folder} must fit the network; it is for another one.")
    peft.set_peft_model_state_dict(network, own)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; a ValueError where one is not finite, or it is damaged."""
    try:
        found = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise ValueError(f"{path} must hold finite numbers; {name} has others.")
    return found


def _inject(config: peft.LoraConfig, network: PreTrainedModel, seed: int = 0) -> None:
    devices = [network.device] if network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, network, _NAME)
    for name, weight in network.named_parameters():
        is_adapter_weight = ".lora_" in name
        weight.requires_grad_(is_adapter_weight and not config.inference_mode)
        if is_adapter_weight:
            # In half precision, small steps of training would be lost.
            weight.data = weight.data.float()


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _state(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    return peft.get_peft_model_state_dict(network, save_embedding_layers=False)
