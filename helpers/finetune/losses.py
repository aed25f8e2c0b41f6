"""What training minimises: losses of label log-probabilities, and a confidence head.

A loss takes the raw log-probabilities of the labels and their target distribution,
both of shape (n, K), and gives one number a row. Raw log-probabilities are those of the
whole vocabulary: raising a label's takes probability from all other answers.
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
from ..models import LanguageModel, check_logprobs
from ..sampling import INVALID
from ..tree import batches
from .label_scores import prompt_ends

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
class LabelSmoothing(Checked):
    """Cross-entropy with a part of each target spread evenly over all labels.

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

    amount: Part
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        smooth = (1 - self.amount) * target + self.amount / target.shape[1]
        return CrossEntropy()(raw, smooth)


@dataclass(frozen=True)
class Focal(Checked):
    """Focal loss: the term −log p of each label is weighted by (1 − p)^gamma.

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

    gamma: NotNegative
    truth_suffices: ClassVar[bool] = True

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
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

    Examples
    --------
    >>> raw = torch.tensor([[0.5, 0.5]]).log()
    >>> BrierPenalty(2.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([1.6931])
    """

    weight: NotNegative
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
        brier = (raw.softmax(1) - target).square().sum(1)
        return CrossEntropy()(raw, target) + self.weight * brier


@dataclass(frozen=True)
class SoftCalibration(Checked):
    """Cross-entropy plus a calibration error whose bins have soft edges.

    The second term is one number a batch, added to each of its rows: the root of the
    mean squared gap, bin by bin, between the confidence and the target's probability of
    that label. Batches should be large compared with the number of bins.

    Parameters
    ----------
    weight : float
        Factor of the calibration error; 0 or more.
    n_bins : int, default=15
        Bins of equal width on [0, 1].
    temperature : float, default=0.01
        Softness: a confidence c belongs to a bin with middle m in proportion to
        exp(−(c − m)² / temperature).

    References
    ----------
    Karandikar et al., Soft calibration objectives for neural networks, NeurIPS 2021.

    Examples
    --------
    >>> raw = torch.tensor([[0.75, 0.25]]).log()
    >>> SoftCalibration(1.0)(raw, torch.tensor([[1.0, 0.0]]))
    tensor([0.5377])
    """

    weight: NotNegative
    n_bins: Whole = 15
    temperature: Positive = 0.01
    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each row, shape (n,)."""
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
    together with the adapter: to the loss of a text is added ``weight`` times the log
    loss of the head, whose target is whether the prediction, at that step, is right.

    Parameters
    ----------
    hidden : int, optional
        Units of a hidden layer; without it, the map is linear.
    weight : float, default=1.0
        Factor of the head's loss.
    learning_rate : float, default=0.001
        The highest one of the schedule, for the head alone.

    References
    ----------
    Kadavath et al., Language models (mostly) know what they know, 2022.

    Corbière et al., Addressing failure prediction by learning model confidence,
    NeurIPS 2019.

    Examples
    --------
    >>> ConfidenceHead(hidden=16)
    ConfidenceHead(hidden=16, weight=1.0, learning_rate=0.001)
    """

    hidden: Whole | None = None
    weight: Positive = 1.0
    learning_rate: Positive = 1e-3

    def build(self, model: LanguageModel, *, seed: int = 0) -> nn.Sequential:
        """A fresh head for a model's hidden states; all its log-odds are 0."""
        embedding: Any = model.network.get_output_embeddings()
        width = embedding.weight.shape[1]
        last = nn.utils.skip_init(nn.Linear, self.hidden or width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.hidden is None:
            return nn.Sequential(last).to(model.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inner = nn.Linear(width, self.hidden)
        return nn.Sequential(inner, nn.GELU(), last).to(model.device)


def head_loss(
    head: nn.Module, ends: torch.Tensor, raw: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    """Log loss in nats, row by row, of a head against whether predictions are right."""
    odds = head(ends.float())[:, 0]
    right = (raw.detach().argmax(1) == truth).to(odds)
    return nn.BCEWithLogitsLoss(reduction="none")(odds, right)


@torch.inference_mode()
def head_confidence(
    head: nn.Module, model: LanguageModel, prompts: list[list[int]], token_budget: int
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
