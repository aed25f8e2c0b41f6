"""What errors and reviews cost, and the threshold that is cheapest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_count,
    check_groups,
    check_not_fitted_on,
    check_not_negative,
    check_numbers,
    check_outcomes,
    check_rng,
    evaluation_of,
)
from ..metrics.resampling import Interval, drawn_groups, quantile_interval


@dataclass(frozen=True)
class Costs:
    """What happens to an item costs, each in the same currency and for one item.

    An item is either automated, which costs ``right`` or ``error``, or reviewed, which
    costs ``review`` and ``delay`` and, in the end, ``right`` or ``error``.

    Attributes
    ----------
    error : float
        Of acting on a wrong answer; more than ``right``.
    review, delay : float
        Of a person looking at an item, and of its waiting; 0 or more.
    right : float, default=0
        Of acting on a right answer; negative if it earns something.
    review_error : float, default=0
        Probability that the reviewer decides wrongly, in [0, 1].

    Examples
    --------
    >>> Costs(error=20, review=1.5, delay=0.5).reviewed
    2.0
    """

    error: float
    review: float
    delay: float = field(default=0.0, kw_only=True)
    right: float = field(default=0.0, kw_only=True)
    review_error: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("error", "right"):
            check_between(name, getattr(self, name), -math.inf, math.inf)
        for name in ("review", "delay"):
            check_not_negative(name, getattr(self, name))
        check_between("review_error", self.review_error, 0, 1, closed=True)
        if self.error <= self.right:
            raise ValueError(
                "error must be above right, the cost of a right answer "
                f"({self.right!r}), not {self.error!r}."
            )

    @property
    def reviewed(self) -> float:
        """What a reviewed item costs on average, with the reviewers' errors."""
        outcome = self.review_error * self.error + (1 - self.review_error) * self.right
        return self.review + self.delay + outcome


@dataclass(frozen=True)
class ThresholdChoice:
    """The threshold that was cheapest on labelled rows, and what it will cost.

    Attributes
    ----------
    threshold : float
        Items with this score or more are automated; infinite: none is.
    coverage, risk : float
        Share of the rows that it automates, and share of these that are wrong.
    apparent : float
        Cost per item on the rows that chose it: too low, on average.
    optimism : float
        By how much it is too low, as far as resamples tell.
    cost : Interval
        Cost per item of this threshold on new rows, ``apparent`` plus ``optimism``.
    review_all, automate_all : float
        Cost per item without a threshold.
    saving_over_review, saving_over_automation : Interval
        How much less the threshold costs than these, on new rows.
    level : float
        Level of the intervals.
    """

    threshold: float
    coverage: float
    risk: float
    apparent: float
    optimism: float
    cost: Interval
    review_all: float
    automate_all: float
    saving_over_review: Interval
    saving_over_automation: Interval
    level: float

    @property
    def certain(self) -> bool:
        """Whether both savings are above 0 with their whole intervals."""
        return self.saving_over_review.low > 0 and self.saving_over_automation.low > 0


def break_even(costs: Costs) -> float:
    """The confidence from which on automating an item is no dearer than its review.

    With confidence p, automating costs (1 − p) · error + p · right on average, and
    review costs :attr:`Costs.reviewed`. They are equal at
    p = (error − reviewed) / (error − right), which is 1 − review / error where nothing
    else costs anything. Where confidence is calibrated this is the cheapest threshold
    (Chow, 1970), and no labelled row is needed to find it.

    Parameters
    ----------
    costs : Costs
        The prices.

    Returns
    -------
    float
        In [0, 1]. 0: a review is never worth its price.

    Examples
    --------
    >>> break_even(Costs(error=20, review=1.5, delay=0.5))
    0.9

    Reviewers who are wrong one time in twenty:

    >>> round(break_even(Costs(error=20, review=1.5, delay=0.5, review_error=0.05)), 4)
    0.85
    """
    share = (costs.error - costs.reviewed) / (costs.error - costs.right)
    return max(share, 0.0)


def cost_curve(
    scores: ArrayLike,
    correct: ArrayLike,
    costs: Costs,
    *,
    thresholds: ArrayLike | None = None,
) -> pd.DataFrame:
    """Cost per item at each threshold, measured on labelled rows.

    Parameters
    ----------
    scores, correct, costs
        As for :func:`best_threshold`.
    thresholds : array-like of shape (m,), optional
        Rows with this score or more, in single precision, are automated. Default:
        infinity, which automates none, and each distinct score, from high to low.

    Returns
    -------
    pandas.DataFrame
        One row a ``threshold``: the ``coverage``, or share of rows automated; the
        ``risk``, or share of these that are wrong; and the ``cost`` per item. The
        lowest cost on these rows is lower than the same threshold's on others.

    Examples
    --------
    >>> cost_curve([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0], Costs(error=8, review=1))
       threshold  coverage      risk  cost
    0        inf      0.00       NaN  1.00
    1        0.9      0.25  0.000000  0.75
    2        0.8      0.75  0.333333  2.25
    3        0.6      1.00  0.500000  4.00
    """
    values, outcome = _read_rows(scores, correct)
    n = len(values)
    if thresholds is None:
        cuts = near = np.append(np.inf, np.unique(values)[::-1])
    else:
        cuts = check_numbers(thresholds, "thresholds", infinite=True)
        values, near = values.astype(np.float32), cuts.astype(np.float32)
    order = np.argsort(values, kind="stable")
    start = np.searchsorted(values[order], near, side="left")
    automated = n - start
    wrong = np.append(np.cumsum(~outcome[order][::-1])[::-1], 0)[start]
    risk = np.full(len(cuts), np.nan)
    np.divide(wrong, automated, out=risk, where=automated > 0)
    total = (
        wrong * costs.error
        + (automated - wrong) * costs.right
        + (n - automated) * costs.reviewed
    )
    curve = pd.DataFrame(
        {"threshold": cuts, "coverage": automated / n, "risk": risk, "cost": total / n}
    )
    curve.attrs["evaluation"] = evaluation_of(scores)[0]
    return curve


def best_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    costs: Costs,
    *,
    level: float = 0.95,
    rng: np.random.Generator | int | None = 0,
    n_resamples: int = 1000,
    groups: ArrayLike | None = None,
) -> ThresholdChoice:
    """The threshold that is cheapest on labelled rows, and an honest price for it.

    If the confidence is calibrated, take :func:`break_even`: it needs no search. The
    lowest of many costs is low in part by luck. So the whole choice is repeated on
    resamples. What a threshold chosen there costs on the rows that were not drawn, on
    average, exceeds the apparent cost by the optimism (Efron, JASA 78, 1983).

    Parameters
    ----------
    scores : array-like of shape (n,)
        Finite numbers, higher for answers more likely right; need not be
        probabilities. Rows with equal scores are automated together.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    costs : Costs
        The prices.
    level : float, default=0.95
        Level of the intervals.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.
    n_resamples : int, default=1000
        How many resamples.
    groups : array-like of shape (n,), optional
        Rows with the same value, such as pages of a document, are drawn together.

    Returns
    -------
    ThresholdChoice
        Of several equally cheap thresholds the highest, which automates least.

    Notes
    -----
    What a resample's threshold costs on the rows themselves, less what it costs on the
    resample, spreads about the optimism, or below it, for these rows hold those that
    chose. The interval is the apparent cost plus the quantiles of this difference, the
    upper one moved up by what its mean falls short of the optimism. As resamples of
    rows without an error have none either, it reaches at least as far as the
    Clopper–Pearson limits of the risk among the automated rows; likewise that of the
    saving over automation, by the rows left to review.

    Examples
    --------
    >>> score = np.linspace(0, 1, 400)
    >>> correct = np.arange(400) % 10 < 10 * score
    >>> found = best_threshold(score, correct, Costs(error=10, review=2))
    >>> found.apparent < found.cost.value < found.review_all, found.certain
    (True, True)
    """
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    values, outcome = _read_rows(scores, correct)
    check_not_fitted_on(scores, "scores")
    n = len(values)
    order = np.lexsort((outcome, -values))
    codes = np.arange(n)
    if groups is not None:
        codes = check_groups(groups, scores, correct)[order]
    ranked, right = values[order], outcome[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), n - 1)
    # What automating a row adds to the cost of its review.
    added = np.where(right, costs.right, costs.error) - costs.reviewed
    on_rows = _costs_by_cut(added, np.ones((1, n)), last)[0] + costs.reviewed
    chosen = int(on_rows.argmin())
    apparent, automate_all = float(on_rows[chosen]), float(on_rows[-1])
    lost, gained, unseen = [], [], []
    for counts in drawn_groups(codes, n_resamples, generator):
        drawn = _costs_by_cut(added, counts, last) + costs.reviewed
        each, picked = np.arange(len(drawn)), drawn.argmin(axis=1)
        seen = drawn[each, picked]
        lost.append(on_rows[picked] - seen)
        gained.append(automate_all - on_rows[picked] - (drawn[:, -1] - seen))
        with np.errstate(invalid="ignore"):  # a resample may hold every row
            left_out = _costs_by_cut(added, counts == 0, last)[each, picked]
        unseen.append(left_out[np.isfinite(left_out)] + costs.reviewed)
    loss, gain, others = map(np.concatenate, (lost, gained, unseen))
    optimism = float(others.mean() - apparent if len(others) else loss.mean())
    # The rows themselves hold most of those that chose, and so lose too little.
    more = max(optimism - float(loss.mean()), 0.0)
    # The parts on either side of the threshold: an error-free one is not for certain.
    cut = 0 if chosen == 0 else int(last[chosen - 1]) + 1
    cost = _widened(
        quantile_interval(apparent + optimism, apparent + loss, level),
        (0, more),
        apparent + _limits(right[:cut], n, costs, level),
    )
    saving = automate_all - apparent
    over_all = _widened(
        quantile_interval(saving - optimism, saving + gain, level),
        (-more, 0),
        saving + _limits(right[cut:], n, costs, level),
    )
    return ThresholdChoice(
        math.inf if chosen == 0 else float(ranked[cut - 1]),
        cut / n,
        float(np.mean(~right[:cut])) if cut else math.nan,
        apparent,
        optimism,
        cost,
        costs.reviewed,
        automate_all,
        Interval(*(costs.reviewed - cost[at] for at in (0, 2, 1))),
        over_all,
        float(level),
    )


def _costs_by_cut(added: Any, counts: Any, last: Any) -> np.ndarray:
    """Cost per row beyond that of reviewing all, if the first rows are automated."""
    total = np.cumsum(counts * added, axis=1)[:, last]
    none = np.zeros((len(counts), 1))
    return np.hstack([none, total]) / counts.sum(axis=1, keepdims=True)


def _limits(right: np.ndarray, n: int, costs: Costs, level: float) -> np.ndarray:
    """How far below and above its own the mean cost of these of n rows may lie."""
    if not len(right):
        return np.zeros(2)
    wrong = int(np.sum(~right))
    ends = proportion_confint(wrong, len(right), alpha=1 - level, method="beta")
    beyond = (costs.error - costs.right) * (np.array(ends) - wrong / len(right))
    return len(right) / n * beyond


def _widened(interval: Interval, by: tuple[float, float], to: np.ndarray) -> Interval:
    """The interval with its ends moved, and further where limits lie beyond them."""
    low, high = min(interval.low + by[0], to[0]), max(interval.high + by[1], to[1])
    return Interval(interval.value, float(low), float(high))


def _read_rows(scores: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    return check_numbers(scores, "scores"), check_outcomes(correct, scores)
