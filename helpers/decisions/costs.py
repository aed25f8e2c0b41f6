"""What errors and reviews cost, and the cheapest threshold."""

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
from ..metrics.resampling import Interval, drawn_groups


@dataclass(frozen=True)
class Costs:
    """What happens to one item costs, all in one currency.

    Parameters
    ----------
    error, right : float
        Cost of acting on a wrong answer, and on a right one (default 0; less than
        ``error``, and negative for a gain).
    review, delay : float
        Cost of a person's look at an item, and of its waiting; 0 or more.
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
        """Mean cost of a reviewed item, reviewers' errors included."""
        outcome = self.review_error * self.error + (1 - self.review_error) * self.right
        return self.review + self.delay + outcome


@dataclass(frozen=True)
class ThresholdChoice:
    """The cheapest threshold on labelled rows, and what to expect of it on new ones.

    Items with at least the score ``threshold`` are automated: a share ``coverage`` of
    the rows, of which ``risk`` are wrong. ``apparent`` is the cost per item on these
    rows, ``optimism`` the estimate of its bias, ``cost`` their sum with an interval.
    ``review_all`` and ``automate_all`` are costs without a threshold.
    """

    threshold: float
    coverage: float
    risk: float
    apparent: float
    optimism: float
    cost: Interval
    review_all: float
    automate_all: float
    level: float


def break_even(costs: Costs) -> float:
    """The confidence from which automating an item costs no more than its review.

    p = (error − reviewed) / (error − right), in [0, 1]: the cheapest threshold if
    confidence is calibrated (Chow, 1970).

    Examples
    --------
    >>> break_even(Costs(error=20, review=1.5, delay=0.5))
    0.9
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
        Default: infinity, which automates no row, and each distinct score, falling.

    Returns
    -------
    pandas.DataFrame
        ``threshold``, ``coverage`` (share automated), ``risk`` (share of these that are
        wrong) and ``cost`` per item. The lowest cost is too low for new rows.

    Examples
    --------
    >>> cost_curve([0.9, 0.6], [1, 0], Costs(error=8, review=1))["cost"].tolist()
    [1.0, 0.5, 4.0]
    """
    values = check_numbers(scores, "scores")
    outcome, n = check_outcomes(correct, scores), len(values)
    if thresholds is None:
        cuts = near = np.append(np.inf, np.unique(values)[::-1])
    else:
        cuts = check_numbers(thresholds, "thresholds", infinite=True)
        values, near = values.astype(np.float32), cuts.astype(np.float32)
    order = np.argsort(values, kind="stable")
    start = np.searchsorted(values[order], near, side="left")
    automated = n - start
    wrong = np.append(np.cumsum(~outcome[order][::-1])[::-1], 0)[start]
    total = (
        wrong * costs.error
        + (automated - wrong) * costs.right
        + (n - automated) * costs.reviewed
    )
    curve = pd.DataFrame({"threshold": cuts, "coverage": automated / n})
    with np.errstate(invalid="ignore"):  # NaN where nothing is automated
        curve["risk"] = wrong / automated
    curve["cost"] = total / n
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
    """The cheapest threshold on labelled rows, and its cost without selection bias.

    How much more thresholds chosen on resamples cost on the rows not drawn is the
    optimism (Efron, JASA 78, 1983). For calibrated confidence, use :func:`break_even`.

    Parameters
    ----------
    scores, correct : array-like of shape (n,)
        Finite numbers, higher for answers more likely right; and 1 or True where the
        prediction was correct, else 0.
    costs : Costs
        The prices.
    level : float, default=0.95
        Level of the intervals.
    rng, n_resamples
        Random generator or its seed (0), and number of resamples (1000).
    groups : array-like of shape (n,), optional
        Rows of one group, such as pages of a document, are drawn together.

    Examples
    --------
    >>> score = np.linspace(0, 1, 400)
    >>> correct = np.arange(400) % 10 < 10 * score
    >>> round(best_threshold(score, correct, Costs(error=10, review=2)).cost.value, 3)
    1.772
    """
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    values = check_numbers(scores, "scores")
    outcome, n = check_outcomes(correct, scores), len(values)
    check_not_fitted_on(scores, "scores")
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
    apparent = float(on_rows[chosen])
    lost, unseen = [], []
    for counts in drawn_groups(codes, n_resamples, generator):
        drawn = _costs_by_cut(added, counts, last) + costs.reviewed
        each, picked = np.arange(len(drawn)), drawn.argmin(axis=1)
        lost.append(on_rows[picked] - drawn[each, picked])
        with np.errstate(invalid="ignore"):  # a resample may hold every row
            left_out = _costs_by_cut(added, counts == 0, last)[each, picked]
        unseen.append(left_out[np.isfinite(left_out)] + costs.reviewed)
    loss, others = np.concatenate(lost), np.concatenate(unseen)
    optimism = float(others.mean() - apparent if len(others) else loss.mean())
    # The rows themselves hold most of those that chose, and so lose too little.
    more = max(optimism - float(loss.mean()), 0.0)
    cut = 0 if chosen == 0 else int(last[chosen - 1]) + 1
    wrong, beyond = int(np.sum(~right[:cut])), np.zeros(2)
    if cut:
        # If no row automated is wrong, none is in a resample, and yet one may come.
        ends = proportion_confint(wrong, cut, alpha=1 - level, method="beta")
        each_error = (costs.error - costs.right) * cut / n
        beyond = each_error * (np.array(ends) - wrong / cut)
    least, most = (apparent + beyond).tolist()
    _, low, high = Interval.of_draws(apparent + optimism, apparent + loss, level)
    return ThresholdChoice(
        math.inf if chosen == 0 else float(ranked[cut - 1]),
        cut / n,
        wrong / cut if cut else math.nan,
        apparent,
        optimism,
        Interval(apparent + optimism, min(low, least), max(high + more, most)),
        costs.reviewed,
        float(on_rows[-1]),
        float(level),
    )


def _costs_by_cut(added: Any, counts: Any, last: Any) -> np.ndarray:
    """Cost per row beyond that of reviewing all, if the first rows are automated."""
    total = np.cumsum(counts * added, axis=1)[:, last]
    none = np.zeros((len(counts), 1))
    return np.hstack([none, total]) / counts.sum(axis=1, keepdims=True)
