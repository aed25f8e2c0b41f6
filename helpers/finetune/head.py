"""A second output: how likely the model's own prediction is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks import check_between, check_count
from ..models import LanguageModel, check_logprobs
from ..tree import batches
from .label_scores import prompt_ends


@dataclass(frozen=True)
class ConfidenceHead:
    """A map from the hidden state at the end of a prompt to a confidence.

    It is trained together with the adapter: the loss of a text is that of its label
    plus ``weight`` times the log loss of the head, whose target is whether the model's
    prediction, as it stands at that step, is right.

    Parameters
    ----------
    hidden : int, optional
        Units of a hidden layer; without it, the map is linear.
    weight : float, default=1.0
        What the head's loss is multiplied by.
    learning_rate : float, default=0.001
        The highest one of the schedule, for the head alone.

    Raises
    ------
    ValueError
        A value breaks its rule.

    References
    ----------
    Kadavath et al., Language models (mostly) know what they know, 2022.

    Corbière et al., Addressing failure prediction by learning model confidence,
    NeurIPS 2019.
    """

    hidden: int | None = None
    weight: float = 1.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.hidden is not None:
            check_count("hidden", self.hidden)
        for name in ("weight", "learning_rate"):
            check_between(name, getattr(self, name), 0, math.inf)

    def build(self, model: LanguageModel, *, seed: int = 0) -> nn.Sequential:
        """A fresh head for a model; it gives log-odds of 0 for everything.

        Parameters
        ----------
        model : LanguageModel
            The model whose hidden states it reads.
        seed : int, default=0
            Seed of a hidden layer's weights. Torch's own random state stays as it
            was.

        Returns
        -------
        torch.nn.Sequential
            From (n, hidden_size) to (n, 1), float32, on the model's device.
        """
        embedding: Any = model.network.get_output_embeddings()
        width = embedding.weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.hidden is None:
                head = nn.Sequential(nn.Linear(width, 1))
            else:
                inner = nn.Linear(width, self.hidden)
                head = nn.Sequential(inner, nn.GELU(), nn.Linear(self.hidden, 1))
        last = head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return head.to(model.device)


def head_loss(
    head: nn.Module, ends: torch.Tensor, raw: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    """Log loss in nats, row by row, of a head against whether predictions are right."""
    right = raw.detach().argmax(1) == truth
    odds = head(ends.float())[:, 0]
    return nn.functional.binary_cross_entropy_with_logits(
        odds, right.to(odds), reduction="none"
    )


@torch.inference_mode()
def head_confidence(
    head: nn.Module,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    token_budget: int,
) -> np.ndarray:
    """The head's probability, for each prompt, that the model's answer is right."""
    found = np.empty(len(prompts))
    widths = [len(ids) for ids in prompts]
    for rows in batches(widths, token_budget, len(prompts)) if prompts else ():
        ends = prompt_ends(model, [prompts[row] for row in rows])
        odds = head(ends.float()).double().cpu()
        check_logprobs(model, odds.numpy(), rows)
        found[rows] = odds[:, 0].sigmoid().numpy()
    return found
