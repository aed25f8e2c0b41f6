"""A threshold chosen on some labels, with a guarantee; and checked on others.

The error rate above a threshold, read off the labels that the threshold was chosen on,
is too low: of many thresholds the luckiest looks best. Here each threshold has to pass
a test, in an order fixed beforehand, so that all that pass hold together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import beta, binom
from statsmodels.stats.proportion import proportion_confint

from ..checks import check_between, check_outcomes, check_probabilities

VERDICTS = ("holds", "fails", "not enough data")
_MOST_STARTS = 4
_APART = 4  # times as many rows at each start as at the one before
_SEARCH_UP_TO = 10**7


@dataclass(frozen=True)
class CertifiedThreshold:
    """The lowest threshold that passed, or why there is none.

    Attributes
    ----------
    threshold : float or None
        Accept what has at least this confidence; None if no threshold passed. Of
        several that accept the same labelled items, the highest.
    max_risk, delta : float
        What is certified: the share of errors among accepted items is at most
        ``max_risk``, and this statement is false with a probability of at most
        ``delta``.
    n_labels : int
        Labels used.
    n_accepted, n_errors : int
        Of these, how many have the threshold's confidence or more, and how many of
        them are wrong; 0 without a threshold.
    coverage : float
        Share of the labelled items that are accepted.
    labels_needed : int or None
        About how many labels it would take at least, where no threshold passed: if the
        risk of the best one is what it seems to be, which is often less than it is.
        None if a threshold passed, or if none has a lower risk than ``max_risk``, so
        that no number of labels would do.
    tested : pandas.DataFrame
        Every threshold with rows above it, from the highest: ``threshold``, ``n``,
        ``errors``, ``risk``, ``upper`` (Clopper and Pearson's limit of the risk, at
        the level of one of the tests) and ``passed``.
    """

    threshold: float | None
    max_risk: float
    delta: float
    n_labels: int
    n_accepted: int
    n_errors: int
    coverage: float
    labels_needed: int | None
    tested: pd.DataFrame

    def __str__(self) -> str:
        aim = f"a risk of at most {self.max_risk:g} at {1 - self.delta:.4g} confidence"
        if self.threshold is not None:
            return (
                f"Accept from {self.threshold:g}: {aim}. {self.n_accepted} of "
                f"{self.n_labels} labelled items are accepted, {self.n_errors} wrong."
            )
        text = f"No threshold can be certified for {aim} with {self.n_labels} labels."
        if self.labels_needed is None:
            return f"{text} No threshold seems to have so low a risk."
        return f"{text} It may take {self.labels_needed} or more."


@dataclass(frozen=True)
class Verification:
    """What other labels say of a threshold.

    Attributes
    ----------
    verdict : {"holds", "fails", "not enough data"}
        "holds" if the upper limit of the risk is at most ``max_risk``, "fails" if the
        lower limit is above it.
    threshold, max_risk, delta : float
        What was checked.
    n_labels, n_accepted, n_errors : int
        What it was checked on.
    risk, low, high : float
        Share of errors among the accepted, with Clopper and Pearson's limits; each of
        them is wrong with a probability of at most ``delta``. NaN, 0 and 1 where
        nothing was accepted.
    coverage, coverage_low, coverage_high : float
        Share of items accepted, with Wilson's interval at 95 %.
    """

    verdict: str
    threshold: float
    max_risk: float
    delta: float
    n_labels: int
    n_accepted: int
    n_errors: int
    risk: float
    low: float
    high: float
    coverage: float
    coverage_low: float
    coverage_high: float


def error_free_labels(max_risk: float, delta: float = 0.05) -> int:
    """How many items without an error show that the risk is low enough.

    The smallest n with (1 - max_risk)^n at most delta.

    Parameters
    ----------
    max_risk : float
        In (0, 1).
    delta : float, default=0.05
        Probability that the statement is false, in (0, 1).

    Returns
    -------
    int

    Examples
    --------
    >>> error_free_labels(0.1), error_free_labels(0.05), error_free_labels(0.01)
    (29, 59, 299)
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    n = max(1, math.ceil(math.log(delta) / math.log1p(-max_risk)) - 1)
    while (1 - max_risk) ** n > delta:
        n += 1
    return n


def choose_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
) -> CertifiedThreshold:
    """The lowest threshold above which the risk is certainly low enough.

    The hypothesis that the risk above a threshold is more than ``max_risk`` is tested
    with the binomial distribution, from high thresholds to low ones, until one fails:
    fixed-sequence testing, which needs no correction for the number of thresholds. It
    would often fail at its first and smallest group of items. So with many labels there
    are up to four such sequences, which begin where there are m, 4m, 16m and 64m items
    above the threshold, m being the fewest with which a test can pass at all; they
    share ``delta`` equally. How many there are depends on the number of labels only.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Confidences in [0, 1] of items that were labelled, a random sample of those to
        come. Neither the model nor a calibrator may have been fitted on them.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    max_risk : float
        The most errors among accepted items, as a share in (0, 1).
    delta : float, default=0.05
        Probability that the statement is false, in (0, 1).
    grid : array-like of float, optional
        Thresholds to consider, in [0, 1]. They must not depend on ``correct`` or on
        these scores; others, such as quantiles of unlabelled scores, may be used. The
        default is 0, 0.01, … 0.99 and, where scores near one crowd, 0.992 … 0.9999.

    Returns
    -------
    CertifiedThreshold

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Notes
    -----
    At a threshold that was fixed beforehand, the errors among the rows above it are
    binomial. The sequences begin at row counts, not at fixed thresholds. For the first
    one that changes nothing, whatever shape the risk has: fewer rows than it begins
    with could not pass. For the others the guarantee is exact where the risk does not
    fall as the threshold falls; for other shapes it was checked by simulation.

    Rows must be independent: with several rows of one document or person, the
    guarantee does not hold.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei, Learn then Test: calibrating
    predictive algorithms to achieve risk control, Annals of Applied Statistics 19,
    2025. Clopper and Pearson, Biometrika 26, 1934.

    Examples
    --------
    >>> scores = [0.95] * 100 + [0.6] * 100
    >>> correct = [1] * 99 + [0] + [1, 0] * 50
    >>> print(choose_threshold(scores, correct, max_risk=0.1))
    Accept from 0.95: a risk of at most 0.1 at 0.95 confidence. 100 of 200 labelled \
items are accepted, 1 wrong.
    >>> print(choose_threshold(scores[:20], correct[:20], max_risk=0.1))
    No threshold can be certified for a risk of at most 0.1 at 0.95 confidence with 20 \
labels. It may take 29 or more.
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    values = check_probabilities(scores, "scores")
    outcome = check_outcomes(correct, len(values))
    points = _grid(grid)
    n, errors = _counts(values, outcome, points)
    starts = _starts(len(values), max_risk, delta)
    level = delta / len(starts)
    passed = _passed(n, errors, starts, max_risk, level)
    tested = pd.DataFrame(
        {
            "threshold": points,
            "n": n,
            "errors": errors,
            "risk": np.divide(errors, n, where=n > 0, out=np.full(len(n), np.nan)),
            "upper": _upper(errors, n, level),
            "passed": passed,
        }
    )[n > 0].reset_index(drop=True)
    chosen = None
    if passed.any():
        # Of those that accept the same rows the highest: between them nothing was seen.
        lowest = np.flatnonzero(passed)[-1]
        chosen = int(np.flatnonzero(passed & (n == n[lowest]))[0])
    needed = None
    if chosen is None:
        needed = _labels_needed(n, errors, len(values), max_risk, level)
    return CertifiedThreshold(
        threshold=None if chosen is None else float(points[chosen]),
        max_risk=float(max_risk),
        delta=float(delta),
        n_labels=len(values),
        n_accepted=0 if chosen is None else int(n[chosen]),
        n_errors=0 if chosen is None else int(errors[chosen]),
        coverage=0.0 if chosen is None else float(n[chosen] / len(values)),
        labels_needed=needed,
        tested=tested,
    )


def choose_thresholds_per_class(
    scores: ArrayLike,
    correct: ArrayLike,
    predicted: Any,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
    together: bool = True,
) -> dict[Any, CertifiedThreshold]:
    """A threshold for each predicted label.

    Parameters
    ----------
    scores, correct, max_risk, delta, grid
        As for :func:`choose_threshold`.
    predicted : array-like of shape (n,)
        The predicted label of each row.
    together : bool, default=True
        Whether all statements are to hold at once, with probability ``1 - delta``.
        Otherwise each holds with that probability, and some may well be false.

    Returns
    -------
    dict
        A :class:`CertifiedThreshold` for each label in ``predicted``, in its order.

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Examples
    --------
    >>> found = choose_thresholds_per_class(
    ...     [0.9] * 80, [1] * 80, ["a"] * 40 + ["b"] * 40, max_risk=0.1
    ... )
    >>> {label: one.threshold for label, one in found.items()}
    {'a': 0.9, 'b': 0.9}
    """
    check_between("delta", delta, 0, 1)
    values = check_probabilities(scores, "scores")
    outcome = check_outcomes(correct, len(values))
    labels = pd.Series(np.asarray(predicted, dtype=object))
    if len(labels) != len(values) or labels.isna().any():
        raise ValueError(
            f"predicted must have a label for each of the {len(values)} rows, not "
            f"{len(labels)} with {int(labels.isna().sum())} missing."
        )
    kinds = labels.unique()
    share = delta / len(kinds) if together else delta
    return {
        kind: choose_threshold(
            values[labels == kind], outcome[labels == kind], max_risk, share, grid=grid
        )
        for kind in kinds
    }


def verify(
    threshold: float,
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float,
    delta: float = 0.05,
) -> Verification:
    """What labels that the threshold was not chosen on say of it.

    Parameters
    ----------
    threshold : float
        Items with at least this confidence are accepted.
    scores, correct : array-like of shape (n,)
        Confidences and outcomes of other items.
    max_risk : float
        The most errors among accepted items, as a share in (0, 1).
    delta : float, default=0.05
        Probability that a verdict of "holds", or one of "fails", is false.

    Returns
    -------
    Verification

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Examples
    --------
    >>> found = verify(0.9, [0.95] * 200 + [0.5] * 50, [1] * 195 + [0] * 55, 0.05)
    >>> found.verdict, found.n_errors, round(found.high, 3)
    ('not enough data', 5, 0.052)
    """
    threshold = check_between("threshold", threshold, 0, 1, closed=True)
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    values = check_probabilities(scores, "scores")
    outcome = check_outcomes(correct, len(values))
    accepted = values >= threshold
    n = int(accepted.sum())
    wrong = int((~outcome[accepted]).sum())
    low = 0.0 if wrong == 0 else float(beta.ppf(delta, wrong, n - wrong + 1))
    high = float(_upper(np.array([wrong]), np.array([n]), delta)[0])
    verdict = "not enough data"
    if high <= max_risk:
        verdict = "holds"
    elif low > max_risk:
        verdict = "fails"
    covered = proportion_confint(n, len(values), method="wilson")
    return Verification(
        verdict=verdict,
        threshold=float(threshold),
        max_risk=float(max_risk),
        delta=float(delta),
        n_labels=len(values),
        n_accepted=n,
        n_errors=wrong,
        risk=wrong / n if n else math.nan,
        low=low,
        high=high,
        coverage=n / len(values),
        coverage_low=float(covered[0]),
        coverage_high=float(covered[1]),
    )


def _grid(grid: ArrayLike | None) -> np.ndarray:
    if grid is None:
        near_one = 1 - np.array([8, 6, 4, 2, 1, 0.5, 0.1]) / 1000
        points = np.append(np.arange(100) / 100, near_one)
    else:
        points = check_probabilities(grid, "grid").astype(float)
    return np.unique(points)[::-1]


def _counts(
    scores: np.ndarray, correct: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows at or above each threshold, and errors among them."""
    order = np.argsort(scores, kind="stable")
    wrong = np.append(0, np.cumsum(~correct[order]))
    below = np.searchsorted(scores[order], points.astype(scores.dtype), side="left")
    return len(scores) - below, wrong[-1] - wrong[below]


def _passed(
    n: np.ndarray, errors: np.ndarray, starts: list[int], max_risk: float, level: float
) -> np.ndarray:
    """Thresholds, from the highest, that some sequence of tests came past."""
    fails = binom.cdf(errors, n, max_risk) > level
    passed = np.zeros(len(n), dtype=bool)
    for first in np.searchsorted(n, starts):
        passed[first : first + int(np.argmax(np.append(fails[first:], True)))] = True
    return passed


def _starts(n: int, max_risk: float, delta: float) -> list[int]:
    """Row counts at which a sequence of tests begins, by the number of labels."""
    found = [error_free_labels(max_risk, delta)]
    for count in range(2, _MOST_STARTS + 1):
        least = error_free_labels(max_risk, delta / count)
        # One more costs all others some of their power.
        if 2 * least * _APART ** (count - 1) > n:
            break
        found = [least * _APART**at for at in range(count)]
    return found


def _upper(errors: np.ndarray, n: np.ndarray, level: float) -> np.ndarray:
    """Clopper and Pearson's upper limit; 1 where all are errors, or none are there."""
    open_ended = errors >= n
    limit = beta.ppf(1 - level, errors + 1, np.where(open_ended, 1, n - errors))
    return np.where(open_ended, 1.0, limit)


def _labels_needed(
    n: np.ndarray, errors: np.ndarray, n_labels: int, max_risk: float, level: float
) -> int | None:
    """How many labels would let some threshold pass, were its risk as it seems."""
    seen = n > 0
    if not seen.any():
        return None
    needed = []
    # Thresholds with equal rows are the same test.
    for rows, wrong in {
        (int(a), int(b)) for a, b in zip(n[seen], errors[seen], strict=True)
    }:
        accepted = _rows_needed(wrong / rows, max_risk, level)
        if accepted is not None:
            needed.append(math.ceil(accepted * n_labels / rows))
    return max(min(needed), n_labels + 1) if needed else None


def _rows_needed(risk: float, max_risk: float, level: float) -> int | None:
    """Rows with which a test passes if exactly this share of them is wrong."""
    if risk >= max_risk:
        return None

    def passes(rows: int) -> bool:
        return bool(binom.cdf(math.ceil(risk * rows), rows, max_risk) <= level)

    low, high = 1, error_free_labels(max_risk, level)
    while not passes(high):
        low, high = high, 2 * high
        if high > _SEARCH_UP_TO:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return high
