"""Proper scores, discrimination and tests: what calibration errors do not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
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
    """Confidence in the predicted class (the first of ties), and whether it was right.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
        Rows that sum to one; a data frame names the classes by its columns.
    truth : array-like of shape (n,)
        The true classes: positions 0, 1, …, or names of a data frame's columns.

    Examples
    --------
    >>> top_label([[0.9, 0.1], [0.4, 0.6]], [0, 0])
    (array([0.9, 0.6]), array([ True, False]))
    """
    values, _, actual = check_classified(probabilities, truth)
    return values.max(axis=1), values.argmax(axis=1) == actual


def brier_score(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Brier score: mean squared distance between probability and outcome.

    In [0, 1] for one column; for rows summed over the classes, in [0, 2], which for two
    classes is twice that of one column: state which one you give.

    Parameters
    ----------
    probabilities : array-like of shape (n,) or (n, n_classes)
        Probabilities of an event, or confidences; or rows that sum to one.
    truth : array-like of shape (n,)
        For one column, 1 or True where the event came (or the prediction was correct),
        else 0. For rows, the true classes, as for :func:`top_label`.

    Examples
    --------
    >>> round(brier_score([0.1, 0.9, 0.8, 0.3], [0, 1, 1, 0]), 4)
    0.0375
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
        Raise probabilities to at least this, in (0, 0.5). By default, a zero
        probability for what happened gives infinite loss.

    Examples
    --------
    >>> round(log_loss([0.9, 0.2], [1, 0]), 4)
    0.1643
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

    brier = reliability − resolution + uncertainty + within_variance − within_covariance
    (Murphy, 1973; Stephenson et al., 2008). Less reliability and more resolution is
    better; the last two are 0 where each bin holds one value.

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
    counting half. Arguments are those of :func:`expected_calibration_error`.

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


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> pd.DataFrame:
    """Selective risk: the error rate among rows at or above each distinct confidence.

    See El-Yaniv and Wiener (JMLR 11, 2010); the arguments are those of :func:`aurc`.

    Returns
    -------
    pandas.DataFrame
        Each ``threshold``, from high to low, ``coverage``, the share of rows that reach
        it, and ``risk``, the error rate among these. ``attrs["evaluation"]`` says
        whether any was fitted on.

    Examples
    --------
    >>> curve = risk_coverage_curve([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0])
    >>> curve["risk"].round(3).tolist()
    [0.0, 0.333, 0.5]
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    threshold, answered, wrong = _by_threshold(values, outcome)
    columns = {"coverage": answered / len(values), "risk": wrong / answered}
    curve = pd.DataFrame({"threshold": threshold} | columns)
    curve.attrs["evaluation"] = evaluation_of(confidence)[0]
    return curve


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk–coverage curve; less is better.

    The mean over k = 1 … n of the error rate among the k most confident rows, over all
    orders of ties (Geifman et al., ICLR 2019); it depends on the error rate, too.
    Arguments are those of :func:`expected_calibration_error`.

    Examples
    --------
    >>> round(aurc([0.6, 0.0, 0.8], [1, 0, 1]), 4)
    0.1111
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    _, answered, wrong = _by_threshold(values, outcome)
    k = np.arange(1, len(values) + 1)
    # Within a tie, errors are expected to come evenly.
    expected = np.interp(k, np.append(0, answered), np.append(0, wrong))
    return float(np.mean(expected / k))


class CalibrationTest(NamedTuple):
    """A test statistic and its ``p_value`` under perfect calibration."""

    statistic: float
    p_value: float


def calibration_test(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    method: TestMethod = "kolmogorov-smirnov",
) -> CalibrationTest:
    """Test whether outcomes could come from these probabilities, without any bins.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`; some row must lie inside (0, 1).
    method : {"kolmogorov-smirnov", "kuiper", "spiegelhalter"}
        By default the largest cumulative difference of outcomes and probabilities; the
        range of these, from 0 (Arrieta-Ibarra et al., JMLR 23, 2022); or a two-sided
        z-score of the Brier score, blind to errors that leave it as expected.

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
