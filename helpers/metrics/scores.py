"""Proper scores and discrimination: what calibration errors do not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from ..checks import (
    check_between,
    check_choice,
    check_classified,
    check_rows,
    evaluation_of,
)
from .binning import N_BINS, Closed, Strategy, make_bins, sum_bins


def top_label(
    probabilities: ArrayLike, truth: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence in the predicted class, and whether it was right.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
        Rows that sum to one; a data frame names the classes by its columns.
    truth : array-like of shape (n,)
        The true classes: positions 0, 1, …, or names of a data frame's columns.

    Returns
    -------
    confidence : numpy.ndarray of float, of shape (n,)
        The largest probability of each row.
    correct : numpy.ndarray of bool, of shape (n,)
        Whether its class is the true one; the first class wins a tie.

    Raises
    ------
    ValueError
        Rows that do not sum to one, or a truth that is no class.

    Examples
    --------
    >>> confidence, correct = top_label([[0.9, 0.1], [0.4, 0.6]], [0, 0])
    >>> confidence, correct
    (array([0.9, 0.6]), array([ True, False]))
    """
    values, _, actual = check_classified(probabilities, truth)
    return values.max(axis=1), values.argmax(axis=1) == actual


def brier_score(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    scale: Literal["sum", "half"] = "sum",
) -> float:
    """Brier score: mean squared distance between probability and outcome.

    Parameters
    ----------
    probabilities : array-like of shape (n,) or (n, n_classes)
        One column: the probability of an event, or the confidence in a prediction.
        Several: rows that sum to one.
    truth : array-like of shape (n,)
        For one column, 1 or True where the event came (or the prediction was
        correct), else 0. For several, the true classes.
    scale : {"sum", "half"}, default="sum"
        For several columns: the sum over the classes, in [0, 2], as Brier defined it;
        or half of it, in [0, 1], which for two classes is the score of one column.

    Returns
    -------
    float
        In [0, 1] for one column. The score of the confidence in a prediction is not
        that of all the classes: state which one you give.

    Raises
    ------
    ValueError
        Bad probabilities or outcomes, or an unknown scale.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly
    Weather Review 78, 1950.

    Examples
    --------
    >>> round(brier_score([0.1, 0.9, 0.8, 0.3], [0, 1, 1, 0]), 4)
    0.0375
    >>> p = [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]]
    >>> round(brier_score(p, [0, 1, 1, 0]), 4)
    0.075
    """
    check_choice("scale", scale, ("sum", "half"))
    if np.ndim(probabilities) == 1:
        values, outcome, _ = check_rows(
            probabilities, truth, name="probabilities", outcome="truth", unanswered=True
        )
        return float(np.mean((values - outcome) ** 2, dtype=float))
    values, classes, actual = check_classified(probabilities, truth)
    distance = values - np.eye(len(classes))[actual]
    total = float(np.mean(np.sum(distance**2, axis=1)))
    return total / 2 if scale == "half" else total


@dataclass(frozen=True)
class BrierDecomposition:
    """The parts of a Brier score: brier = reliability − resolution + uncertainty +
    within_variance − within_covariance.

    Attributes
    ----------
    reliability : float
        Mean squared gap between a bin's confidence and its accuracy; less is better.
    resolution : float
        Mean squared distance of a bin's accuracy from the overall one; more is better.
    uncertainty : float
        Accuracy times one minus accuracy: the score of always stating the accuracy.
    within_variance, within_covariance : float
        What the bins hide: the variance of the confidence inside them, and twice its
        covariance with the outcome. Zero where each bin holds one value.
    brier : float
        The score itself.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float
    brier: float


def brier_decomposition(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
) -> BrierDecomposition:
    """Murphy's decomposition of the Brier score, exact also for bins.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    n_bins, strategy, closed
        The bins: see :func:`expected_calibration_error`.

    Returns
    -------
    BrierDecomposition

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`.

    References
    ----------
    Murphy, A new vector partition of the probability score, Journal of Applied
    Meteorology 12, 1973; the terms within bins: Stephenson, Coelho and Jolliffe,
    Two extra components in the Brier score decomposition, Weather and Forecasting
    23, 2008.

    Examples
    --------
    >>> parts = brier_decomposition([0.9, 0.9, 0.2, 0.2], [1, 1, 0, 1])
    >>> round(parts.reliability, 3), round(parts.resolution, 4), parts.uncertainty
    (0.05, 0.0625, 0.1875)
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
    sums = sum_bins(values, outcome, bins)
    base = outcome.mean()
    filled = sums.filled
    gap = filled.mean_confidence - filled.accuracy
    # Deviations from the mean of the row's own bin.
    index = bins.index(values)
    off = values - sums.mean_confidence[index]
    return BrierDecomposition(
        reliability=float(filled.weight @ gap**2),
        resolution=float(filled.weight @ (filled.accuracy - base) ** 2),
        uncertainty=float(base * (1 - base)),
        within_variance=float(np.mean(off**2)),
        within_covariance=float(2 * np.mean(off * (outcome - sums.accuracy[index]))),
        brier=float(np.mean((values - outcome) ** 2, dtype=float)),
    )


def log_loss(
    probabilities: ArrayLike, truth: ArrayLike, *, clip: float | None = None
) -> float:
    """Log loss (negative log-likelihood): the mean of −log p of what happened.

    Parameters
    ----------
    probabilities : array-like of shape (n,) or (n, n_classes)
        One column: the probability of an event, or the confidence in a prediction.
        Several: rows that sum to one.
    truth : array-like of shape (n,)
        For one column, 1 or True where the event came (or the prediction was
        correct), else 0. For several, the true classes.
    clip : float, optional
        Lift probabilities to at least this. Without it, whoever calls something
        impossible that happens gets an infinite loss, as he should.

    Returns
    -------
    float
        Natural logarithms; 0 or more, possibly infinite.

    Raises
    ------
    ValueError
        Bad probabilities or outcomes, or a clip outside (0, 0.5).

    Examples
    --------
    >>> round(log_loss([0.9, 0.2], [1, 0]), 4)
    0.1643
    >>> log_loss([1.0], [0])
    inf
    """
    if clip is not None:
        check_between("clip", clip, 0, 0.5)
    if np.ndim(probabilities) == 1:
        values, outcome, _ = check_rows(
            probabilities, truth, name="probabilities", outcome="truth", unanswered=True
        )
        happened = np.where(outcome, values, 1.0 - values).astype(float)
    else:
        values, _, actual = check_classified(probabilities, truth)
        happened = values[np.arange(len(values)), actual].astype(float)
    if clip is not None:
        happened = np.clip(happened, clip, 1 - clip)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(happened)) + 0.0)


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the ROC curve: how well confidence ranks right above wrong.

    The probability that a correct row has more confidence than a wrong one, ties
    counting half. Calibration by a rising map leaves it as it is.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0; both must occur.

    Returns
    -------
    float
        In [0, 1]; 0.5 is guessing.

    Raises
    ------
    ValueError
        Bad data, or all rows correct or all wrong: there is nothing to rank.

    Examples
    --------
    >>> auroc([0.9, 0.8, 0.6], [1, 0, 0])
    1.0
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    if outcome.all() or not outcome.any():
        raise ValueError(
            f"correct must hold both outcomes to rank them; all {len(outcome)} rows "
            f"are {bool(outcome[0])}."
        )
    return float(roc_auc_score(outcome, values))


@dataclass(frozen=True)
class RiskCoverage:
    """Risk at each coverage that a threshold on the confidence can reach.

    Attributes
    ----------
    threshold : numpy.ndarray of float
        Distinct confidences, from high to low: rows at or above are answered.
    coverage : numpy.ndarray of float
        Share of rows answered, in (0, 1].
    risk : numpy.ndarray of float
        Share of the answered rows that are wrong, in [0, 1].
    evaluation : {"held-out", "in-sample", "unstated"}
        Whether a calibrator was fitted on rows of them.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    evaluation: str = "unstated"


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Selective risk: the error rate among the most confident rows.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.

    Returns
    -------
    RiskCoverage
        One point a distinct confidence: rows with equal confidence are answered
        together or not at all.

    Raises
    ------
    ValueError
        Bad data.

    References
    ----------
    El-Yaniv and Wiener, On the foundations of noise-free selective
    classification, JMLR 11, 2010.

    Examples
    --------
    >>> curve = risk_coverage_curve([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0])
    >>> curve.coverage, curve.risk.round(3)
    (array([0.25, 0.75, 1.  ]), array([0.   , 0.333, 0.5  ]))
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    threshold, answered, wrong = _by_threshold(values, outcome)
    state = evaluation_of(confidence)[0]
    return RiskCoverage(threshold, answered / len(values), wrong / answered, state)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk–coverage curve: the mean risk over all coverages.

    The mean over k = 1 … n of the error rate among the k most confident rows.
    Among rows of equal confidence the order is a matter of chance, and the value is
    the mean over all orders, so that it does not depend on the order of the rows.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.

    Returns
    -------
    float
        In [0, 1]; less is better. It depends on the error rate as well as on the
        ranking.

    Raises
    ------
    ValueError
        Bad data.

    References
    ----------
    Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty estimation for deep
    neural classifiers, ICLR 2019.

    Examples
    --------
    >>> round(1 - aurc([0.6, 0.0, 0.8], [1, 0, 1]), 4)  # mean selective accuracy
    0.8889
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    _, answered, wrong = _by_threshold(values, outcome)
    k = np.arange(1, len(values) + 1)
    # Within a tie, errors are expected to come evenly.
    expected = np.interp(k, np.append(0, answered), np.append(0, wrong))
    return float(np.mean(expected / k))


def _by_threshold(
    confidence: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values from high to low, rows at or above each, and errors in them."""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    wrong = np.cumsum(~correct[order])[last]
    return ranked[last], last + 1, wrong
