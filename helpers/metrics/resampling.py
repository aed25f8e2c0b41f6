"""What chance does to a measure: the noise floor and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_groups,
    check_not_fitted_on,
    check_outcomes,
    check_probabilities,
    check_rng,
    check_rows,
)
from .bins import NORMS, UNIFORM, Binning, Bins, BinSums, Norm
from .scores import auroc

Measure = Callable[[np.ndarray, np.ndarray], float]
Pair = tuple[ArrayLike, ArrayLike]
_BINNED: dict[str, Norm] = {"ece": "l1", "rmsce": "l2", "mce": "max"}
_MEANS = ("accuracy", "confidence", "gap", "brier", "log_loss")
MEASURES = (*_BINNED, "squared", *_MEANS, "auroc")
_MANY = 20_000
_LEAST_OF_A_KIND = 10
_LEVELS = 2048
_NUMBERS = 1 << 18


class NoiseFloor(NamedTuple):
    """What a perfect forecaster would score: the ``mean`` and an ``upper`` quantile."""

    mean: float
    upper: float


class Interval(NamedTuple):
    """A ``value`` on the data, and ``low`` and ``high``, the ends of its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, right: float, n: float, level: float) -> Interval:
        """The share of right among n, with Wilson's interval."""
        low, high = proportion_confint(right, n, alpha=1 - level, method="wilson")
        return cls(right / n, float(low), float(high))

    @classmethod
    def of_draws(
        cls, value: float, found: np.ndarray, level: float, pivot: float | None = None
    ) -> Interval:
        """Quantiles of resampled values; with a pivot, reflected about the value."""
        found = found[np.isfinite(found)]
        if not len(found):
            return cls(value, np.nan, np.nan)
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
        if pivot is None:
            return cls(value, low, high)
        return cls(value, value + pivot - high, value + pivot - low)


@dataclass(frozen=True)
class Cells:
    """Merged rows, sorted by bin (first cells ``starts``) and confidence (``ties``)."""

    count: np.ndarray
    means: dict[str, np.ndarray]
    starts: np.ndarray
    bins: np.ndarray
    ties: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(
        cls,
        confidence: np.ndarray,
        correct: np.ndarray | None,
        bins: Bins,
        *,
        merge: bool = True,
        levels: int | None = None,
    ) -> Self:
        values = confidence.astype(float)
        outcome = np.zeros(len(values), dtype=bool) if correct is None else correct
        if levels is None and merge and len(values) > _MANY:
            levels = _LEVELS
        place = values
        if levels is not None:
            place = _places(values, levels, correct is not None)
        key = np.stack([outcome, place, bins.index(confidence)])
        rows = np.lexsort(key)
        key = key[:, rows]
        new = np.any(np.diff(key) != 0, axis=0) | (not merge)
        starts = np.append(0, np.flatnonzero(new) + 1)
        count = np.diff(np.append(starts, len(rows)))
        filled, first = np.unique(key[2, starts], return_index=True)
        tied = np.all(np.diff(key[1:, starts]) == 0, axis=0)
        with np.errstate(divide="ignore"):
            loss = -np.log(np.where(outcome, values, 1 - values))
        columns = {
            "accuracy": outcome,
            "confidence": values,
            "gap": values - outcome,
            "brier": (values - outcome) ** 2,
            "log_loss": loss,
        }
        means = {
            name: np.add.reduceat(x[rows].astype(float), starts) / count
            for name, x in columns.items()
        }
        means["confidence"] = means["confidence"].clip(0, 1)
        ties = np.append(0, np.flatnonzero(~tied) + 1)
        return cls(count, means, first, filled.astype(np.intp), ties, rows)

    def sums(self, weights: np.ndarray, correct: np.ndarray) -> BinSums:
        """Sums of the filled bins for each weighting of the cells (the last axis)."""
        tables = (weights, weights * self.means["confidence"], correct)
        return BinSums(*(np.add.reduceat(x, self.starts, axis=-1) for x in tables))

    def batches(self, n: int) -> Iterator[int]:
        """Numbers of draws that are n in all, each a table that fits into memory."""
        return _batches(n, len(self.count))

    def drawn(self, n: int, generator: np.random.Generator) -> Iterator[BinSums]:
        """Sums of the filled bins if the confidences were true, drawn n times."""
        for height in self.batches(n):
            shape, chance = (height, len(self.count)), self.means["confidence"]
            yield self.sums(self.count, generator.binomial(self.count, chance, shape))

    def resampled(self, n: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """How often each cell is drawn, in tables of one row a resample."""
        n_rows = int(self.count.sum())
        for height in self.batches(n):
            yield generator.multinomial(n_rows, self.count / n_rows, height)

    def floor(
        self, norm: Norm, level: float, n: int, generator: np.random.Generator
    ) -> NoiseFloor:
        errors = [sums.error(norm) for sums in self.drawn(n, generator)]
        return _floor(np.concatenate(errors), level)

    def measured(self, weights: np.ndarray, measure: str) -> np.ndarray:
        """A measure for each of many weightings of the cells."""
        if measure in _MEANS:
            # Not a matrix product: an infinite loss that was not drawn does not count.
            parts = np.zeros(weights.shape)
            np.multiply(weights, self.means[measure], out=parts, where=weights > 0)
            return parts.sum(axis=1) / weights.sum(axis=1)
        right = weights * self.means["accuracy"]
        if measure == "auroc":
            return self._auroc(right, weights - right)
        sums = self.sums(weights, right)
        if measure == "squared":
            return sums.debiased_error()
        if measure == "plain":
            return sums.error("l2") ** 2
        return sums.error(_BINNED[measure])

    def _auroc(self, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
        right, wrong = (np.add.reduceat(x, self.ties, axis=1) for x in (right, wrong))
        below = np.cumsum(wrong, axis=1) - wrong / 2
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return (right * below).sum(axis=1) / pairs


def noise_floor(
    confidence: ArrayLike,
    *,
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
    measure: Measure | None = None,
    level: float = 0.95,
    n_simulations: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> NoiseFloor:
    """The calibration error that a perfect forecaster shows at this sample size.

    Outcomes are drawn with the stated probabilities and measured like real ones
    (Bröcker and Smith, 2007). No observed error should be quoted without it.

    Parameters
    ----------
    confidence, binning, norm
        See :func:`expected_calibration_error`; use those of the error itself.
    measure : callable, optional
        Another measure, called with confidences and drawn outcomes.
    level : float, default=0.95
        Which quantile ``upper`` is.
    n_simulations : int, default=1000
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Examples
    --------
    >>> floor = noise_floor(np.linspace(0.5, 1, 200))
    >>> round(floor.mean, 2), round(floor.upper, 2)
    (0.07, 0.1)
    """
    check_choice("norm", norm, NORMS)
    check_between("level", level, 0, 1)
    check_count("n_simulations", n_simulations)
    generator = check_rng(rng)
    values = check_probabilities(confidence)
    if measure is None:
        cells = Cells.of(values, None, Bins.of(values, binning))
        return cells.floor(norm, level, n_simulations, generator)
    found = [
        measure(values, generator.random(len(values)) < values)
        for _ in range(n_simulations)
    ]
    return _floor(found, level)


def fitted_floor(
    values: np.ndarray,
    truths: Iterable[np.ndarray],
    bins: Bins,
    generator: np.random.Generator,
    level: float = 0.95,
) -> NoiseFloor | None:
    """The ECE of a map if any of the truths holds; None if there are none."""
    errors = []
    for truth in truths:
        drawn = generator.random(len(values)) < truth
        errors.append(float(bins.sums(values, drawn).error("l1")))
    return _floor(errors, level) if errors else None


def bootstrap_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    measure: str | Sequence[str] = "ece",
    *,
    groups: ArrayLike | None = None,
    binning: Binning = UNIFORM,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> Any:
    """A bootstrap interval for a measure, or a dict of them for several.

    They are quantiles of the resampled values, for calibration errors reflected about
    the value. Those of the plain errors seldom cover a small one: use "squared" for the
    size of an error, though of scores of a few values it covers a little less often
    than ``level``, and the noise floor for whether there is one.

    Where hardly any row is wrong, or right, intervals are too short, in the extreme a
    point; with fewer than ten of either kind, "auroc" has none (NaN). Resamples in
    which a measure is undefined are left out.

    Parameters
    ----------
    confidence, correct, binning
        See :func:`expected_calibration_error`; the bins are chosen once, on the data.
    measure : str or list of str, default="ece"
        "ece", "rmsce" (its L2 form), "mce", "squared" (the debiased squared error),
        "accuracy", "confidence", "gap" (confidence − accuracy), "brier", "log_loss" or
        "auroc".
    groups : array-like of shape (n,), optional
        Rows of one group, such as copies of a text, are drawn together. Strings are
        compared without regard to case and white space.
    level : float, default=0.95
    n_resamples : int, default=1000
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Examples
    --------
    >>> bootstrap_interval([0.9] * 100, [1] * 80 + [0] * 20, "accuracy")
    Interval(value=0.8, low=0.72, high=0.88)
    """
    names = _read_names(measure)
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    values, outcome, codes = check_rows(confidence, correct, groups, unanswered=True)
    cells = Cells.of(values, outcome, Bins.of(values, binning), merge=codes is None)
    if codes is None:
        draws = cells.resampled(n_resamples, generator)
    else:
        draws = drawn_groups(codes[cells.rows], n_resamples, generator)
    once = cells.count[None, :]
    found = bootstrapped(names, cells.measured, once, draws, level, tuple(_BINNED))
    for name, interval in found.items():
        if name in _BINNED:
            ends = (max(end, 0.0) for end in interval[1:])
            found[name] = Interval(interval.value, *ends)
        elif name == "auroc" and np.isfinite(interval.value):
            found[name] = interval._replace(value=auroc(values, outcome))
            if min(outcome.sum(), (~outcome).sum()) < _LEAST_OF_A_KIND:
                found[name] = found[name]._replace(low=np.nan, high=np.nan)
    return found[measure] if isinstance(measure, str) else found


def paired_difference(
    a: Pair,
    b: Pair,
    measure: str | Sequence[str] = "brier",
    *,
    groups: ArrayLike | None = None,
    binning: Binning = UNIFORM,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> Any:
    """measure(b) − measure(a), with a bootstrap interval on the same rows.

    To say whether calibration has changed, use "squared" or "brier": intervals of
    "ece", "rmsce" and "mce" cover less often than they say. Where the difference is not
    finite, as with the log loss of a wrong certainty, the interval is NaN.

    Parameters
    ----------
    a, b : pair of array-like of shape (n,)
        Confidences in [0, 1], and whether each row was right, which may differ.
    measure, groups, binning, level, n_resamples, rng
        See :func:`bootstrap_interval`; bins are chosen once for a and once for b.

    Examples
    --------
    >>> right = [1] * 80 + [0] * 20
    >>> round(paired_difference(([0.99] * 100, right), ([0.8] * 100, right)).value, 4)
    -0.0361
    """
    names = _read_names(measure)
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    sides = []
    for name, pair in (("a", a), ("b", b)):
        values, outcome = _read_pair(pair, name, *(a if name == "b" else ()))
        # Rows stay apart: those that are alike in a may differ in b.
        sides.append(Cells.of(values, outcome, Bins.of(values, binning), merge=False))
    once = np.ones((1, len(sides[0].rows)), dtype=np.intp)
    codes = np.arange(once.size) if groups is None else check_groups(groups, *a, *b)

    def change(weights: np.ndarray, name: str) -> np.ndarray:
        before, after = (side.measured(weights[:, side.rows], name) for side in sides)
        with np.errstate(invalid="ignore"):  # both may be infinite
            return after - before

    draws = drawn_groups(codes, n_resamples, generator)
    found = bootstrapped(names, change, once, draws, level, ("ece", "rmsce"))
    for name, interval in found.items():
        if not np.isfinite(interval.value):
            found[name] = Interval(interval.value, np.nan, np.nan)
    return found[measure] if isinstance(measure, str) else found


def bootstrapped(
    names: Sequence[str],
    measured: Callable[[np.ndarray, str], np.ndarray],
    once: np.ndarray,
    draws: Iterator[np.ndarray],
    level: float,
    reflected: Sequence[str] = (),
) -> dict[str, Interval]:
    """Intervals of measures from drawn weights, and ``once``, those of the data."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for weights in draws:
        for name, parts in found.items():
            parts.append(measured(weights, name))
    intervals = {}
    for name, parts in found.items():
        value = float(measured(once, name)[0])
        pivot = value if name in reflected else None
        if name == "squared":
            # Resampled debiased errors spread around the plain ones of the data.
            pivot = float(measured(once, "plain")[0])
        draws_of = np.concatenate(parts)
        intervals[name] = Interval.of_draws(value, draws_of, level, pivot)
    return intervals


def drawn_groups(
    groups: np.ndarray, n_resamples: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each row counts where whole groups are drawn."""
    n_groups = int(groups.max()) + 1
    even = np.full(n_groups, 1 / n_groups)
    for height in _batches(n_resamples, len(groups)):
        yield generator.multinomial(n_groups, even, height)[:, groups]


def _batches(n: int, width: int) -> Iterator[int]:
    """Heights of tables that have n rows in all and each fit into little memory."""
    height = max(1, _NUMBERS // width)
    for start in range(0, n, height):
        yield min(height, n - start)


def _floor(found: Any, level: float) -> NoiseFloor:
    return NoiseFloor(float(np.mean(found)), float(np.quantile(found, level)))


def _places(values: np.ndarray, levels: int, ranked: bool) -> np.ndarray:
    """Keys that rise with the confidence, equal where rows are to be merged."""
    place = np.floor(values * levels)
    if ranked:
        # Confidences often crowd at 1, where their order still makes the AUROC.
        rank = np.searchsorted(np.sort(values), values)
        place += np.floor(rank * (levels / len(values)))
        place[values == 0] = -1  # an infinite loss stays alone
    return place


def _read_names(measure: str | Sequence[str]) -> list[str]:
    names = [measure] if isinstance(measure, str) else list(measure)
    return [check_choice("measure", name, MEASURES) for name in names]


def _read_pair(pair: Any, name: str, *rows: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        kind = type(pair).__name__
        raise ValueError(f"{name} must be a pair, (confidence, correct), not {kind}.")
    values = check_probabilities(pair[0], f"confidence of {name}", *rows).astype(float)
    check_not_fitted_on(pair[0], f"confidence of {name}")
    right = check_outcomes(pair[1], *rows, pair[0], name=f"correct of {name}")
    return values, right
