"""Proper scores, discrimination and tests: what calibration errors do not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from mapie.metrics import calibration as mapie
from numpy.typing import ArrayLike
from scipy.stats import norm as normal
from sklearn.metrics import roc_auc_score

from ..checks import (
    check_between,
    check_choice,
    check_classified,
    check_rows,
    evaluation_of,
)
from .bins import UNIFORM, Binning, Bins

TestMethod = Literal["kolmogorov-smirnov", "kuiper", "spiegelhalter"]


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
    confidence, correct : numpy.ndarray of shape (n,)
        The largest probability of each row, and whether its class is the true one; the
        first class wins a tie.

    Examples
    --------
    >>> confidence, correct = top_label([[0.9, 0.1], [0.4, 0.6]], [0, 0])
    >>> confidence, correct
    (array([0.9, 0.6]), array([ True, False]))
    """
    values, _, actual = check_classified(probabilities, truth)
    return values.max(axis=1), values.argmax(axis=1) == actual


def brier_score(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Brier score: mean squared distance between probability and outcome.

    Of one column it lies in [0, 1]. Of several it is the sum over the classes, in
    [0, 2], which for two classes is twice that of one column: state which one you give.

    Parameters
    ----------
    probabilities : array-like of shape (n,) or (n, n_classes)
        One column: the probability of an event, or the confidence in a prediction.
        Several: rows that sum to one.
    truth : array-like of shape (n,)
        For one column, 1 or True where the event came (or the prediction was
        correct), else 0. For several, the true classes.

    Examples
    --------
    >>> round(brier_score([0.1, 0.9, 0.8, 0.3], [0, 1, 1, 0]), 4)
    0.0375
    >>> p = [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]]
    >>> round(brier_score(p, [0, 1, 1, 0]), 4)
    0.075
    """
    if np.ndim(probabilities) == 1:
        values, outcome = _read_column(probabilities, truth)
        return float(np.mean((values - outcome) ** 2, dtype=float))
    # scikit-learn's brier_score_loss warns of rows that sum to one but for rounding.
    values, classes, actual = check_classified(probabilities, truth)
    distance = values - np.eye(len(classes))[actual]
    return float(np.mean(np.sum(distance**2, axis=1)))


def log_loss(
    probabilities: ArrayLike, truth: ArrayLike, *, clip: float | None = None
) -> float:
    """Log loss (negative log-likelihood): the mean of −log p of what happened.

    Parameters
    ----------
    probabilities, truth
        See :func:`brier_score`.
    clip : float, optional
        Lift probabilities to at least this, in (0, 0.5). Without it, a zero probability
        for what happened gives an infinite loss.

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
        values, outcome = _read_column(probabilities, truth)
        happened = np.where(outcome, values, 1.0 - values).astype(float)
    else:
        values, _, actual = check_classified(probabilities, truth)
        happened = values[np.arange(len(values)), actual].astype(float)
    if clip is not None:
        happened = np.clip(happened, clip, 1 - clip)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(happened)) + 0.0)


@dataclass(frozen=True)
class BrierDecomposition:
    """Murphy's decomposition of the Brier score, exact also for bins.

    brier = reliability − resolution + uncertainty + within_variance −
    within_covariance (Murphy 1973; Stephenson et al. 2008 for the terms within bins).

    Attributes
    ----------
    reliability : float
        Mean squared gap between a bin's confidence and its accuracy; less is better.
    resolution : float
        Mean squared distance of a bin's accuracy from the overall one; more is better.
    uncertainty : float
        Accuracy times one minus accuracy: the score of always stating the accuracy.
    within_variance, within_covariance : float
        Inside the bins: the variance of the confidence, and twice its covariance with
        the outcome. Zero where each bin holds one value.
    brier : float
        The score itself.

    Examples
    --------
    >>> parts = BrierDecomposition.of([0.9, 0.9, 0.2, 0.2], [1, 1, 0, 1])
    >>> round(parts.reliability, 3), round(parts.resolution, 4), parts.uncertainty
    (0.05, 0.0625, 0.1875)
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float
    brier: float

    @classmethod
    def of(
        cls, confidence: ArrayLike, correct: ArrayLike, *, binning: Binning = UNIFORM
    ) -> BrierDecomposition:
        """Decompose a score; arguments as of :func:`expected_calibration_error`."""
        values, outcome, _ = check_rows(confidence, correct, unanswered=True)
        bins = Bins.of(values, binning)
        index, sums = bins.index(values), bins.sums(values, outcome)
        stated, rate = sums.mean_confidence[index], sums.accuracy[index]
        base, off = outcome.mean(), values - stated
        return cls(
            reliability=float(np.mean((stated - rate) ** 2)),
            resolution=float(np.mean((rate - base) ** 2)),
            uncertainty=float(base * (1 - base)),
            within_variance=float(np.mean(off**2)),
            within_covariance=float(2 * np.mean(off * (outcome - rate))),
            brier=float(np.mean((values - outcome) ** 2, dtype=float)),
        )


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the ROC curve: how well confidence ranks right above wrong.

    The probability that a correct row has more confidence than a wrong one, ties
    counting half; 0.5 is guessing. A rising calibration map does not change it.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`; both outcomes must occur.

    Examples
    --------
    >>> auroc([0.9, 0.8, 0.6], [1, 0, 0])
    1.0
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    if outcome.all() or not outcome.any():
        only = bool(outcome[0])
        raise ValueError(
            f"correct must hold both outcomes to rank them; all are {only}."
        )
    return float(roc_auc_score(outcome, values))


@dataclass(frozen=True)
class RiskCoverage:
    """Risk at each coverage that a threshold on the confidence can reach.

    ``threshold`` are the distinct confidences, from high to low; ``coverage`` is the
    share of rows at or above each, which are answered, and ``risk`` the share of these
    that are wrong. ``evaluation`` says whether a calibrator was fitted on rows of them.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    evaluation: str = "unstated"


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Selective risk: the error rate among the most confident rows.

    One point a distinct confidence: rows with equal confidence are answered together
    or not at all (El-Yaniv and Wiener, JMLR 11, 2010).

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`.

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

    The mean over k = 1 … n of the error rate among the k most confident rows; among
    rows of equal confidence, over all their orders (Geifman et al., ICLR 2019). It
    depends on the error rate as well as on the ranking; less is better.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`.

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


class CalibrationTest(NamedTuple):
    """A test statistic, and the probability of such a one under perfect calibration."""

    statistic: float
    p_value: float


def calibration_test(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    method: TestMethod = "kolmogorov-smirnov",
) -> CalibrationTest:
    """Test whether outcomes could come from these probabilities, without any bins.

    Statistics and distributions are MAPIE's, but for Kuiper's range, which here counts
    the start of the walk, 0, as its distribution does.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`; some row must lie inside (0, 1).
    method : str, default="kolmogorov-smirnov"
        "kolmogorov-smirnov": the largest cumulative difference between outcomes and
        probabilities; "kuiper": the range of these differences (Arrieta-Ibarra et al.,
        JMLR 23, 2022); "spiegelhalter": a z-score of the Brier score, two-sided, which
        does not see errors that leave the Brier score as expected.

    Examples
    --------
    >>> p, y = [0.8, 0.3, 0.5, 0.5, 0.7, 0.1], [1, 0, 1, 0, 1, 0]
    >>> round(calibration_test(p, y, method="kuiper").p_value, 4)
    0.9684
    """
    check_choice("method", method, ("kolmogorov-smirnov", "kuiper", "spiegelhalter"))
    stated, right, _ = check_rows(confidence, correct, unanswered=True)
    values, outcome = stated.astype(float), right.astype(float)
    on_z = method == "spiegelhalter"
    inside = (values > 0) & (values < 1) & ~(on_z & (values == 0.5))
    if not inside.any():
        off = ", off 0.5" if on_z else ""
        raise ValueError(
            f"confidence must lie inside (0, 1){off} in some row; none does."
        )
    # MAPIE breaks ties by a jitter that depends on the order; so the order is fixed.
    order = np.lexsort((-outcome, values))
    values, outcome = values[order], outcome[order]
    if on_z:
        statistic = mapie.spiegelhalter_statistic(outcome, values)
        p_value = 2 * normal.sf(abs(statistic))
    elif method == "kuiper":
        walk = np.append(0.0, mapie.cumulative_differences(outcome, values))
        statistic = np.ptp(walk) / mapie.length_scale(values)
        p_value = 1 - mapie.kuiper_cdf(statistic)
    else:
        statistic = mapie.kolmogorov_smirnov_statistic(outcome, values)
        p_value = 1 - mapie.kolmogorov_smirnov_cdf(statistic)
    return CalibrationTest(float(statistic), float(np.clip(p_value, 0, 1)))


def _read_column(
    probabilities: ArrayLike, truth: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    return check_rows(
        probabilities, truth, name="probabilities", outcome="truth", unanswered=True
    )[:2]


def _by_threshold(
    confidence: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values from high to low, rows at or above each, and errors in them."""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    wrong = np.cumsum(~correct[order])[last]
    return ranked[last], last + 1, wrong
