"""Thresholds chosen on labels with a guarantee, and their verification on others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import hankel
from scipy.stats import beta, binom, nbinom, rankdata

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
_AGAIN, _MOST = 0.8, 16  # share of delta and most errors to begin tests again with
_FAR = 10**5  # rows; further down it would take too long to know the chances
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
    et al., Learn then Test, Annals of Applied Statistics 19, 2025), until one fails.
    As in the fallback procedure (Wiens and Dmitrienko, Journal of Biopharmaceutical
    Statistics 15, 2005), tests may begin again further down, where errors are few
    enough. Levels are such that to pass wrongly, or to begin again later, has a
    probability of ``delta`` at most. The guarantee is exact if the risk never falls as
    the threshold is lowered.

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
        Thresholds in [0, 1], chosen without these rows. Default: each score.
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
    return int(_least_rows(0, max_risk, delta))


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
    # Rows at or above each threshold, as a policy compares them, and errors in them.
    order = np.argsort(-scores.astype(np.float32), kind="stable")
    ranked = scores.astype(np.float32)[order]
    if points is None:
        found = np.unique(ranked)[::-1]
        points = np.array([float(str(one)) for one in found])  # 0.7, not 0.69999999
    n = np.searchsorted(-ranked, -points.astype(np.float32), side="right")
    points, n = points[n > 0].astype(float), n[n > 0]
    errors = np.append(0, np.cumsum(~correct[order]))[n]
    again, levels = _restarts(total, max_risk, delta)
    level = levels[np.minimum(n, len(levels) - 1)]
    passed = _passed(n, errors, max_risk, level, again)
    columns = {
        "threshold": points,
        "n": n,
        "errors": errors,
        "risk": errors / n,
        # Clopper and Pearson's limit.
        "upper": np.where(errors < n, beta.isf(level, errors + 1, n - errors), 1.0),
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


def _least_rows(errors: ArrayLike, max_risk: float, delta: float) -> np.ndarray:
    """The least rows among which so few errors let a threshold pass."""
    first = np.asarray(errors) + 1
    # With fewer rows, one error more comes too late with a probability above delta.
    return (first + nbinom.isf(delta, first, max_risk)).astype(int)


def _restarts(n: int, max_risk: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Where tests may begin again, in about the first half of n rows, and levels."""
    rows = _least_rows(np.arange(1, _MOST + 1), max_risk, delta / 4)
    return _design(int((rows <= min(n / 2, _FAR)).sum()), max_risk, delta)


@cache
def _design(most: int, max_risk: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows among which 1, 2, … errors let tests begin again, and levels by rows.

    The first false threshold to be tested passes, or tests begin again below it: the
    level of a test of so many rows is such that one or the other has a probability of
    delta at most, if the risk is ``max_risk`` from there on. That tests begin again
    anywhere has one of 0.8 delta. From the last place on, the level is delta.
    """
    errors, low, high = np.arange(most + 2), 0.0, _AGAIN * delta
    rows = np.zeros(0, int)
    for _ in range(20 if most else 0):
        middle = (low + high) / 2
        places = _least_rows(errors[1:-1], max_risk, middle)
        if _chance(places, max_risk) <= _AGAIN * delta:
            low, rows = middle, places
        else:
            high = middle
    later = np.zeros(len(errors))  # chance to begin again, by the errors so far
    levels = np.full(1, delta)
    for few in range(most, 0, -1):
        later[: few + 1] = 1
        n = np.arange(rows[few - 2] if few > 1 else 0, rows[few - 1])[:, None]
        again = binom.pmf(errors, rows[few - 1] - n, max_risk) @ hankel(later)
        chance, later = binom.pmf(errors, n, max_risk), again[0].copy()
        missed = np.cumsum((chance * again)[:, ::-1], axis=1)[:, ::-1]
        # With at most -1, 0, … errors a test passes, with more it may begin again.
        missed = np.pad(missed, ((0, 0), (0, 1)))
        wrong = missed + np.pad(np.cumsum(chance, axis=1), ((0, 0), (1, 0)))
        allowed = (wrong <= delta).sum(axis=1, keepdims=True) - 1
        level = delta - np.take_along_axis(missed, allowed, axis=1)[:, 0]
        levels = np.append(level, levels)
    return rows, levels


def _chance(rows: np.ndarray, max_risk: float) -> float:
    """That there are at most 1, 2, … errors among the first so many rows, for any."""
    errors = np.arange(len(rows) + 1)
    left, total = (errors == 0).astype(float), 0.0
    for few, step in enumerate(np.diff(rows, prepend=0), 1):
        left = np.convolve(left, binom.pmf(errors, step, max_risk))[: len(errors)]
        total += float(left[: few + 1].sum())
        left[: few + 1] = 0
    return total


def _passed(
    n: np.ndarray,
    errors: np.ndarray,
    max_risk: float,
    level: np.ndarray,
    again: np.ndarray,
) -> np.ndarray:
    """Which thresholds pass: each sequence of tests ends where one fails."""
    good = binom.cdf(errors, n, max_risk) <= level
    # The first sequence begins where a test can pass.
    begins = np.append(binom.cdf(0, n, max_risk) <= level, True).argmax()
    passed = np.append(np.zeros(begins, bool), np.logical_and.accumulate(good[begins:]))
    for few, place in enumerate(np.searchsorted(n, again), 1):
        if place < len(n) and errors[place] <= few:
            passed[place:] |= np.logical_and.accumulate(good[place:])
    return passed


def _labels_to_certify(
    n: np.ndarray, errors: np.ndarray, n_labels: int, max_risk: float, delta: float
) -> int | None:
    """About how many labels let a threshold pass with probability 0.8."""
    if not (errors < max_risk * n).any():
        return None
    some = np.unique(np.geomspace(1, len(n), 100).astype(int)) - 1  # are enough
    n, errors, more = n[some], errors[some], int(errors.any())
    share = n / n_labels
    risk = (errors + more) / (n + more / max_risk)

    def enough(labels: int) -> bool:
        again, levels = _restarts(labels, max_risk, delta)
        rows = np.floor(share * labels).astype(int)
        # As if tests could begin again anywhere; no sequence is counted on.
        level = np.full(len(rows), delta)
        if len(again):
            level[:] = binom.cdf(1, again[0], max_risk)
        own = levels[np.minimum(rows, len(levels) - 1)]
        begins = np.argmax(binom.cdf(0, rows, max_risk) <= own)
        level[begins] = own[begins]
        most = binom.ppf(level, rows, max_risk)
        most -= binom.cdf(most, rows, max_risk) > level
        return bool((binom.cdf(most, rows, risk) >= _POWER).any())

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
