"""What training minimises: losses of label log-probabilities.

A loss takes the raw log-probabilities of the labels and the distribution that they
should have, both of shape (n, K), and gives one number a row. Raw log-probabilities are
those of the whole vocabulary: raising a label's takes probability from all other
answers, so that what falls on no label is pushed down, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from ..checks import (
    check_between,
    check_count,
    check_distributions,
    check_not_negative,
    check_table,
    in_order_of,
)
from ..sampling import INVALID


class Loss(Protocol):
    """What :func:`finetune` asks of a loss, beside being a dataclass.

    Attributes
    ----------
    truth_suffices : bool
        Whether, for targets that are all on one label, the loss depends on nothing
        but that label's log-probability.
    """

    truth_suffices: ClassVar[bool]

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy: the mean of −log p under the target, in nats.

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.25]]).log()
    >>> CrossEntropy()(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.6931])
    """

    truth_suffices: ClassVar[bool] = True

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        return -(target * raw).sum(1)


@dataclass(frozen=True)
class LabelSmoothing:
    """Cross-entropy with a part of each target spread over all labels alike.

    Parameters
    ----------
    amount : float
        The part, in [0, 1).

    References
    ----------
    Szegedy et al., Rethinking the inception architecture for computer vision, CVPR
    2016.

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.25]]).log()
    >>> LabelSmoothing(0.5)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.8664])
    """

    amount: float
    truth_suffices: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_not_negative("amount", self.amount, below=1)

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        smooth = (1 - self.amount) * target + self.amount / target.shape[1]
        return CrossEntropy()(raw, smooth)


@dataclass(frozen=True)
class Focal:
    """Cross-entropy that cares less for what is nearly certain already.

    The term −log p of each label is weighed by (1 − p)^gamma.

    Parameters
    ----------
    gamma : float
        0 or more; 0 is cross-entropy.

    References
    ----------
    Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020.

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.25]]).log()
    >>> Focal(1.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.3466])
    """

    gamma: float
    truth_suffices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_not_negative("gamma", self.gamma)

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        # Rounding may put a probability of one a little above it; and the gradient of
        # a fractional power has no value at 0.
        rest = (-torch.expm1(raw)).clamp(min=torch.finfo(raw.dtype).tiny)
        return -(target * rest**self.gamma * raw).sum(1)


@dataclass(frozen=True)
class BrierPenalty:
    """Cross-entropy plus the Brier score of the normalised distribution.

    Parameters
    ----------
    weight : float
        What the Brier score, the sum over the labels of squared differences, is
        multiplied by; 0 or more.

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.5]]).log()
    >>> BrierPenalty(2.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([1.6931])
    """

    weight: float
    truth_suffices: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_not_negative("weight", self.weight)

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        brier = (raw.softmax(1) - target).square().sum(1)
        return CrossEntropy()(raw, target) + self.weight * brier


@dataclass(frozen=True)
class SoftCalibration:
    """Cross-entropy plus a calibration error whose bins have soft edges.

    The second term is one number a batch and is added to each of its rows: it needs
    batches that are large beside the number of bins.

    Parameters
    ----------
    weight : float
        What the calibration error is multiplied by; 0 or more.
    n_bins : int, default=15
        Bins of equal width on [0, 1].
    temperature : float, default=0.01
        How soft their edges are: a confidence c belongs to a bin with middle m in
        proportion to exp(−(c − m)² / temperature). Towards 0 the bins become hard.

    Notes
    -----
    Confidence is the largest probability of the normalised distribution, and being
    right the target's probability of that label. The error is the root of the mean
    squared gap between the two, bin by bin. Whether a prediction is right is taken as
    given; gradients flow through the confidence alone.

    References
    ----------
    Karandikar et al., Soft calibration objectives for neural networks, NeurIPS 2021.

    Examples
    --------
    >>> raw = torch.tensor([[0.75, 0.25]]).log()
    >>> SoftCalibration(1.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.5377])
    """

    weight: float
    n_bins: int = 15
    temperature: float = 0.01
    truth_suffices: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_not_negative("weight", self.weight)
        check_count("n_bins", self.n_bins)
        check_between("temperature", self.temperature, 0, math.inf)

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        plain = CrossEntropy()(raw, target)
        return plain + self.weight * self.calibration_error(raw, target)

    def calibration_error(
        self, raw: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The calibration error of a batch, without its weight.

        Parameters
        ----------
        raw : torch.Tensor of shape (n, K)
            Raw log-probabilities.
        target : torch.Tensor of shape (n, K)
            Target distributions.

        Returns
        -------
        torch.Tensor
            A number in [0, 1].
        """
        confidence, prediction = raw.softmax(1).max(1)
        right = target.gather(1, prediction[:, None])[:, 0]
        middles = (torch.arange(self.n_bins).to(confidence) + 0.5) / self.n_bins
        distance = (confidence[:, None] - middles).square()
        share = (-distance / self.temperature).softmax(1)
        # With share s of n rows in a bin, s · gap² is (sum of gaps)² / (s · n²).
        total = (share * (right - confidence)[:, None]).sum(0)
        held = share.sum(0).clamp(min=torch.finfo(share.dtype).tiny)
        squared = (total.square() / held).sum() / len(raw)
        # At 0 the root has no gradient, and nothing is left to gain.
        return torch.where(squared > 0, squared.clamp(min=1e-24).sqrt(), 0 * squared)


def agreement_targets(
    truth_onehot: ArrayLike, votes: pd.DataFrame, strength: float
) -> np.ndarray:
    """Targets between the true label and what the model says when asked repeatedly.

    Label smoothing that leaves clear texts alone: a target gives probability away only
    to labels that the model's own answers went to.

    Parameters
    ----------
    truth_onehot : array-like of shape (n, K)
        1 for the true label and 0 elsewhere, columns in the order of the votes.
    votes : pandas.DataFrame
        What :func:`helpers.sampling.sample_votes` gives for the same texts. Invalid
        answers do not count; a text without a valid one keeps its label.
    strength : float
        0 keeps the labels, 1 puts the shares of the votes in their place.

    Returns
    -------
    numpy.ndarray of shape (n, K)
        Rows sum to one.

    Raises
    ------
    ValueError
        Shapes differ, a count is negative, or strength lies outside [0, 1].

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
