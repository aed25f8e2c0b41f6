"""Thresholds chosen on labels with a guarantee, and their verification on others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binom, rankdata
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_labels,
    check_not_fitted_on,
    check_probabilities,
    check_rng,
    check_rows,
)
from ..metrics.resampling import Interval

_RANKS, _RANKS_WELL = 0.6, 0.75  # an AUROC below the first is hardly above chance
_STARTS = (0, 2, 8, 32)  # errors that are allowed where a share of delta comes in
_POWER = 0.8
_SEARCH_UP_TO = 10**7


@dataclass(frozen=True)
class CertifiedThreshold:
    """The lowest threshold that passed, or None and why there is none.

    Above ``threshold`` the risk is at most ``max_risk``, except with probability
    ``delta``. ``tested`` lists all thresholds with ``n``, ``errors``, ``risk``, its
    ``upper`` limit and ``passed``. Where none passed, ``labels_needed`` is about how
    many labels let one pass with probability 0.8, None if no number would do, and
    ``auroc`` that of the confidence for right against wrong items, with DeLong's
    interval at 95 %.
    """

    threshold: float | None
    max_risk: float
    delta: float
    n_labels: int
    n_accepted: int
    n_errors: int
    tested: pd.DataFrame
    labels_needed: int | None = None
    auroc: Interval | None = None

    @property
    def coverage(self) -> float:
        """Share of the labelled items that are accepted."""
        return self.n_accepted / self.n_labels if self.n_labels else 0.0

    @property
    def can_rank(self) -> bool:
        """Whether confidence ranks errors well enough for more labels to help."""
        if self.auroc is None or not len(self.tested):
            return True
        poor = self.auroc.value < _RANKS and self.auroc.high < _RANKS_WELL
        return bool(not poor or self.tested["risk"].iloc[-1] <= self.max_risk)

    def __str__(self) -> str:
        aim = f"a risk of at most {self.max_risk:g} at {1 - self.delta:.4g} confidence"
        if self.threshold is not None:
            return (
                f"Accept from {self.threshold:g}: {aim}. {self.n_accepted} of "
                f"{self.n_labels} labelled items are accepted, {self.n_errors} wrong."
            )
        text = f"No threshold can be certified for {aim}"
        if not len(self.tested):
            return f"{text} with {self.n_labels} labels."
        needed = self.labels_needed
        why = "the labels are too few"
        hope = "It seems that no number of labels would do."
        if (self.tested["upper"] <= self.max_risk).any():
            why = "errors among the highest confidences ended the tests"
        if needed is None:
            why = "the confidence has too many errors where it is highest"
        else:
            unit = 1
            if self.tested["errors"].any():  # a guess: rounded upwards
                unit = 10 ** max(len(str(needed)) - 2, 0)
            hope = f"It may take about {-(-needed // unit) * unit:,}, or more."
        if not self.can_rank:
            why = "the confidence hardly ranks errors"
            hope = "More labels alone will hardly do." if needed else hope
        ranks = "all wrong" if self.tested["risk"].iloc[-1] else "none of them wrong"
        if self.auroc is not None:
            value, low, high = self.auroc
            interval = f"{low:.3f} to {high:.3f}" if low <= high else "no interval"
            ranks = f"AUROC {value:.3f}, {interval}; 0.5 is chance"
        best = self.tested.iloc[int(self.tested["upper"].argmin())]
        return (
            f"{text}: {why} ({ranks}), and the tightest bound is {best['upper']:.1%}, "
            f"at a coverage of {best['n'] / self.n_labels:.1%}, with {self.n_labels} "
            f"labels. {hope}"
        )


def choose_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> CertifiedThreshold:
    """The lowest threshold above which the risk is certified to be low enough.

    Thresholds are tested from high to low with the binomial distribution (Angelopoulos
    et al., Learn then Test, Annals of Applied Statistics 19, 2025), by the fallback
    procedure of Wiens and Dmitrienko (Journal of Biopharmaceutical Statistics 15,
    2005): shares of ``delta`` come in at up to four sizes, and what passes carries its
    share on. The guarantee is exact if the risk never falls as the threshold is
    lowered.

    Parameters
    ----------
    scores, correct : array-like of shape (n,)
        Confidences in [0, 1] and outcomes, 1 or True if correct, of a random sample of
        items like those to come, on which neither model nor calibrator was fitted.
    max_risk : float
        The largest share of errors among accepted items, in (0, 1).
    delta : float, default=0.05
        Probability that the statement is false, in (0, 1).
    grid : array-like of float, optional
        Thresholds in [0, 1], chosen without these rows. Default: scores at places of
        their ranking that are fixed by the number of rows, ``max_risk`` and ``delta``.
    groups : array-like of shape (n,), optional
        Group of each row, such as its document. One random row of each is used.
    rng : numpy.random.Generator, int or None, default=0
        Generator for that draw, or its seed. Keeping the best of several voids the
        guarantee.

    Examples
    --------
    >>> choose_threshold([0.9] * 60 + [0.5] * 40, [1] * 60 + [0] * 40, 0.1).threshold
    0.9
    """
    check_risk(max_risk, delta)
    values, outcome, used = read_rows(scores, correct, groups, rng)
    return _certified(values[used], outcome[used], max_risk, delta, _grid(grid))


def choose_thresholds_per_class(
    scores: ArrayLike,
    correct: ArrayLike,
    predicted: Any,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> dict[Any, CertifiedThreshold]:
    """A threshold for each predicted label, by label; all statements hold together.

    Parameters
    ----------
    scores, correct, max_risk, grid, groups, rng
        As for :func:`choose_threshold`.
    predicted : array-like of shape (n,)
        The predicted label of each row.
    delta : float, default=0.05
        Probability that any statement is false, shared equally by the labels.

    Examples
    --------
    >>> labels = ["a"] * 40 + ["b"] * 40
    >>> found = choose_thresholds_per_class([0.9] * 80, [1] * 80, labels, max_risk=0.1)
    >>> {label: one.threshold for label, one in found.items()}
    {'a': 0.9, 'b': 0.9}
    """
    check_risk(max_risk, delta)
    values, outcome, used = read_rows(scores, correct, groups, rng)
    labels = check_labels(predicted, "predicted", scores, correct)
    points = _grid(grid)
    # Of all labels, also those of which no row is drawn: the share is fixed before.
    kinds = pd.unique(labels)
    share = delta / len(kinds)
    rows = {kind: used[labels[used] == kind] for kind in kinds}
    return {
        kind: _certified(values[own], outcome[own], max_risk, share, points)
        for kind, own in rows.items()
    }


def zero_failure_sample_size(max_risk: float, delta: float = 0.05) -> int:
    """How many items without an error suffice: least n with (1 - max_risk)^n ≤ delta.

    Parameters
    ----------
    max_risk, delta : float
        The risk and the probability of a false statement (default 0.05), in (0, 1).

    Examples
    --------
    >>> zero_failure_sample_size(0.05)
    59
    """
    check_risk(max_risk, delta)
    n = max(1, math.ceil(math.log(delta) / math.log1p(-max_risk)) - 1)
    while (1 - max_risk) ** n > delta:
        n += 1
    return n


def read_rows(
    scores: ArrayLike,
    correct: ArrayLike,
    groups: ArrayLike | None,
    rng: np.random.Generator | int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, outcome, codes = check_rows(scores, correct, groups, name="scores")
    check_not_fitted_on(scores, "scores")
    return values, outcome, one_row_each(codes, len(values), rng)


def check_risk(max_risk: float, delta: float) -> None:
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)


def one_row_each(
    codes: np.ndarray | None, n: int, rng: np.random.Generator | int | None
) -> np.ndarray:
    """One row of each group, drawn uniformly."""
    generator = check_rng(rng)
    if codes is None:
        return np.arange(n)
    order = generator.permutation(n)
    first = np.unique(codes[order], return_index=True)[1]
    return np.sort(order[first])


def _grid(grid: ArrayLike | None) -> np.ndarray | None:
    if grid is None:
        return None
    return np.unique(check_probabilities(grid, "grid").astype(float))[::-1]


def _certified(
    scores: np.ndarray,
    correct: np.ndarray,
    max_risk: float,
    delta: float,
    points: np.ndarray | None,
) -> CertifiedThreshold:
    """The choice among thresholds, on independent rows, which may be none."""
    total = len(scores)
    starts = _starts(total, max_risk, delta)
    # Rows at or above each threshold, as a policy compares them, and errors in them.
    order = np.argsort(-scores.astype(np.float32), kind="stable")
    ranked = scores.astype(np.float32)[order]
    by_rank = points is None
    if points is None:
        found = np.unique(ranked[_ranks(total, starts, max_risk)])[::-1]
        points = np.array([float(str(one)) for one in found])  # 0.7, not 0.69999999
    n = np.searchsorted(-ranked, -points.astype(np.float32), side="right")
    points, n = points[n > 0].astype(float), n[n > 0]
    errors = np.append(0, np.cumsum(~correct[order]))[n]
    # A row that is a threshold itself says less: its rank, not its score, was chosen.
    # That all are accepted was no choice.
    lone = by_rank & (n < total) & ((n < 2) | (ranked[n - 1] != ranked[n - 2]))
    rows = n - lone
    level = _levels(rows, errors, starts, max_risk, delta)
    passed = binom.cdf(errors, rows, max_risk) <= level
    share = np.where(level > 0, level, delta / len(starts))
    columns = {
        "threshold": points,
        "n": n,
        "errors": errors,
        "risk": errors / n,
        "upper": [_upper(*one) for one in zip(errors, rows, share, strict=True)],
        "passed": passed,
    }
    about = (float(max_risk), float(delta), total)
    tested = pd.DataFrame(columns)
    if not passed.any():
        needed = _labels_to_certify(n, errors, total, max_risk, delta)
        auroc = _auroc(scores, correct)
        return CertifiedThreshold(None, *about, 0, 0, tested, needed, auroc)
    # Of those that accept the same rows the highest: between them nothing was seen.
    at = int(np.flatnonzero(passed & (n == n[passed][-1]))[0])
    chosen = float(points[at])
    return CertifiedThreshold(chosen, *about, int(n[at]), int(errors[at]), tested)


def _starts(n: int, max_risk: float, delta: float) -> np.ndarray:
    """Row counts at which shares of delta come in, by the number of labels only."""
    for count in range(len(_STARTS), 0, -1):
        share = delta / count
        starts = [_least_rows(errors, max_risk, share) for errors in _STARTS[:count]]
        # Each further share takes from the others.
        if 2 * starts[-1] <= n:
            break
    return np.array(starts)


@cache
def _least_rows(errors: int, max_risk: float, delta: float) -> int:
    """The least rows among which so few errors let a threshold pass."""
    high = errors + 1
    while binom.cdf(errors, high, max_risk) > delta:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if binom.cdf(errors, middle, max_risk) <= delta:
            high = middle
        else:
            low = middle
    return high


def _ranks(n: int, starts: np.ndarray, max_risk: float) -> np.ndarray:
    """Places in the ranking of n scores that are tried, known before the outcomes.

    More often than twice for each error that is allowed, a chain of tests would only
    have more chances to break.
    """
    step = max(1, int(0.5 / max_risk))
    places = np.concatenate([np.arange(starts[0] % step, n, step), starts, [n - 1]])
    return np.unique(places[(places >= 0) & (places < n)]).astype(int)


def _levels(
    n: np.ndarray, errors: np.ndarray, starts: np.ndarray, max_risk: float, delta: float
) -> np.ndarray:
    """At which level each threshold is tested: what passes carries its share on."""
    values = binom.cdf(errors, n, max_risk)
    share, begun, level = delta / len(starts), 0, 0.0
    levels = np.zeros(len(n))
    for at, value in enumerate(values):
        reached = int((n[at] >= starts).sum())
        level, begun = level + share * (reached - begun), reached
        levels[at] = level
        level *= value <= level
    return levels


def _upper(errors: int, n: int, level: float) -> float:
    """Clopper and Pearson's upper limit of the risk."""
    if errors >= n:
        return 1.0
    return float(proportion_confint(errors, n, alpha=2 * level, method="beta")[1])


def _labels_to_certify(
    n: np.ndarray, errors: np.ndarray, n_labels: int, max_risk: float, delta: float
) -> int | None:
    """About how many labels let a threshold pass with probability 0.8."""
    if not (errors < max_risk * n).any():
        return None
    share = n / n_labels
    more = int(errors.any())
    risk = (errors + more) / (n + more / max_risk)

    def enough(labels: int) -> bool:
        starts, rows = _starts(labels, max_risk, delta), np.floor(share * labels)
        # The shares of delta that come in at each threshold; no chain is counted on.
        fresh = np.diff(np.searchsorted(starts, rows, side="right"), prepend=0)
        level, rows, at = delta / len(starts) * fresh, rows[fresh > 0], risk[fresh > 0]
        level = level[fresh > 0]
        most = binom.ppf(level, rows, max_risk)
        most = np.where(binom.cdf(most, rows, max_risk) <= level, most, most - 1)
        return bool((binom.cdf(most, rows, at) >= _POWER).any())

    low, high = n_labels, n_labels + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _SEARCH_UP_TO:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _auroc(scores: np.ndarray, correct: np.ndarray) -> Interval | None:
    """AUROC with the interval of DeLong, DeLong and Clarke-Pearson (1988)."""
    right, wrong = scores[correct], scores[~correct]
    if not len(right) or not len(wrong):
        return None
    everywhere = rankdata(np.append(right, wrong))
    # The share of the other side that each item is above, a tie for a half.
    above = (everywhere[: len(right)] - rankdata(right)) / len(wrong)
    below = 1 - (everywhere[len(right) :] - rankdata(wrong)) / len(right)
    value, half = float(above.mean()), np.nan
    if min(len(right), len(wrong)) > 1 and 0 < value < 1:
        variance = sum(np.var(x) / (len(x) - 1) for x in (above, below))
        half = 1.96 * float(np.sqrt(variance))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))
