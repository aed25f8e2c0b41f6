"""Losses of label log-probabilities, and a confidence head.

A loss takes raw log-probabilities of the labels (of the whole vocabulary) and their
target distribution, both of shape (n, K), and gives one number a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_type_hints

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import Field, create_model
from torch import nn

from ..calibration.files import NotNegative, Positive, Stored
from ..checks import check_between, check_distributions, check_table, in_order_of
from ..models import LanguageModel
from ..sampling import INVALID

Whole = Annotated[int, Field(ge=1)]
Part = Annotated[float, Field(ge=0, lt=1)]


class Checked:
    """A dataclass whose values must be of the kinds that its annotations say."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self), include_extras=True)
        named: Any = {name: (kinds[name], ...) for name in vars(self)}
        create_model("Values", __base__=Stored, **named).read(vars(self))


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy: the mean of −log p under the target, in nats."""

    truth_suffices: ClassVar[bool] = True

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -(target * raw).sum(1)


@dataclass(frozen=True)
class LabelSmoothing(Checked):
    """Cross-entropy with a part of each target spread evenly over all labels.

    See Szegedy et al., Rethinking the inception architecture, CVPR 2016.

    Parameters
    ----------
    amount : float
        The part, in [0, 1).
    """

    amount: Part
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        smooth = (1 - self.amount) * target + self.amount / target.shape[1]
        return CrossEntropy()(raw, smooth)


@dataclass(frozen=True)
class Focal(Checked):
    """Focal loss: the term −log p of each label is weighted by (1 − p)^gamma.

    See Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020.

    Parameters
    ----------
    gamma : float
        0 or more; 0 is cross-entropy.

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.25]]).log()
    >>> Focal(1.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.3466])
    """

    gamma: NotNegative
    truth_suffices: ClassVar[bool] = True

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # Rounding may lift a probability above one, and at 0 the gradient of a
        # fractional power is infinite.
        rest = (-torch.expm1(raw)).clamp(min=torch.finfo(raw.dtype).tiny)
        return -(target * rest**self.gamma * raw).sum(1)


@dataclass(frozen=True)
class BrierPenalty(Checked):
    """Cross-entropy plus the Brier score of the normalised distribution.

    Parameters
    ----------
    weight : float
        Factor of the Brier score (a sum over the labels); 0 or more.
    """

    weight: NotNegative
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        brier = (raw.softmax(1) - target).square().sum(1)
        return CrossEntropy()(raw, target) + self.weight * brier


@dataclass(frozen=True)
class SoftCalibration(Checked):
    """Cross-entropy plus a calibration error whose bins have soft edges.

    The second term is one number a batch: the root of the mean squared gap, bin by
    bin, between the confidence and the target's probability of that label. See
    Karandikar et al., Soft calibration objectives for neural networks, NeurIPS 2021.

    Parameters
    ----------
    weight : float
        Factor of the calibration error; 0 or more.
    n_bins : int, default=15
        Bins of equal width on [0, 1], few compared with a batch.
    temperature : float, default=0.01
        Softness: a confidence c belongs to a bin with middle m in proportion to
        exp(−(c − m)² / temperature).
    """

    weight: NotNegative
    n_bins: Whole = 15
    temperature: Positive = 0.01
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        plain = CrossEntropy()(raw, target)
        return plain + self.weight * self.calibration_error(raw, target)

    def calibration_error(
        self, raw: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The calibration error of a batch, a number in [0, 1], without its weight."""
        confidence, prediction = raw.softmax(1).max(1)
        right = target.gather(1, prediction[:, None])[:, 0]
        middles = (torch.arange(self.n_bins).to(confidence) + 0.5) / self.n_bins
        distance = (confidence[:, None] - middles).square()
        share = (-distance / self.temperature).softmax(1)
        # With share s of n rows in a bin, s · gap² is (sum of gaps)² / (s · n²).
        total = (share * (right - confidence)[:, None]).sum(0)
        held = share.sum(0).clamp(min=torch.finfo(share.dtype).tiny)
        squared = (total.square() / held).sum() / len(raw)
        # The root has no gradient at 0.
        return torch.where(squared > 0, squared.clamp(min=1e-24).sqrt(), 0 * squared)


def agreement_targets(
    truth_onehot: ArrayLike, votes: pd.DataFrame, strength: float
) -> np.ndarray:
    """Targets between the true label and the model's own repeated answers.

    Parameters
    ----------
    truth_onehot : array-like of shape (n, K)
        1 for the true label and 0 elsewhere, columns in the order of the votes.
    votes : pandas.DataFrame
        From :func:`helpers.sampling.sample_votes` for the same texts. Invalid answers
        do not count; a text without a valid one keeps its label.
    strength : float
        0 keeps the labels, 1 replaces them by the shares of the votes.

    Returns
    -------
    numpy.ndarray of shape (n, K)
        Rows sum to one.

    Examples
    --------
    >>> votes = pd.DataFrame({"no": [1], "yes": [3], "invalid": [6]})
    >>> agreement_targets([[0, 1]], votes, 0.5)
    array([[0.125, 0.875]])
    """
    check_between("strength", strength, 0, 1, closed=True)
    truth, _ = check_distributions(truth_onehot, "truth_onehot")
    check_table(votes, name="votes")
    votes = in_order_of(truth_onehot, votes, "votes")
    counts = votes.drop(columns=INVALID, errors="ignore").to_numpy(float)
    if counts.shape != truth.shape:
        raise ValueError(
            f"votes must have a row for each of {len(truth)} texts and a column for "
            f"each of {truth.shape[1]} labels, not shape {counts.shape}."
        )
    if not (counts >= 0).all():
        raise ValueError(f"votes must be 0 or more, not {counts.min():g}.")
    valid = counts.sum(1, keepdims=True)
    shares = np.where(valid > 0, counts / np.maximum(valid, 1), truth)
    return (1 - strength) * truth + strength * shares


@dataclass(frozen=True)
class ConfidenceHead(Checked):
    """A second output: how likely the model's own prediction is right.

    It maps the hidden state at the end of a prompt to a confidence, and is trained
    with the adapter by log loss against whether the prediction is right. See Kadavath
    et al., Language models (mostly) know what they know, 2022.

    Parameters
    ----------
    hidden : int, optional
        Units of a hidden layer; without it, the map is linear.
    weight : float, default=1.0
        Factor of the head's loss.
    learning_rate : float, default=0.001
        The highest one of the schedule, for the head alone.
    """

    hidden: Whole | None = None
    weight: Positive = 1.0
    learning_rate: Positive = 1e-3

    def build(self, model: LanguageModel, *, seed: int = 0) -> nn.Sequential:
        """A fresh head for a model's hidden states; all its log-odds are 0."""
        embedding: Any = model.network.get_output_embeddings()
        width = embedding.weight.shape[1]
        inner: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.hidden is not None:
                inner = [nn.Linear(width, self.hidden), nn.GELU()]
            last = nn.Linear(self.hidden or width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*inner, last).to(model.device)

    def loss(
        self, head: nn.Module, ends: torch.Tensor, is_right: torch.Tensor
    ) -> torch.Tensor:
        """Weighted log loss, row by row, against whether predictions are right."""
        odds = head(ends.float())[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits
        return self.weight * loss(odds, is_right.to(odds), reduction="none")
