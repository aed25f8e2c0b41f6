"""Bins over the confidence, and the sums in them that calibration errors need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from ..checks import check_choice, check_count, chunks

Strategy = Literal["uniform", "quantile", "distinct"]
Closed = Literal["left", "right"]
Norm = Literal["l1", "l2", "max", "signed"]
NORMS = get_args(Norm)
_KINDS = {
    "uniform": "of equal width",
    "quantile": "of equal mass",
    "distinct": "of one value each",
}


@dataclass(frozen=True)
class Binning:
    """How to cut confidences into bins.

    Parameters
    ----------
    n : int, default=20
        Number of bins; equal values stay together, so there may be fewer of equal mass.
    strategy : {"uniform", "quantile", "distinct"}, default="uniform"
        Bins of equal width, of equal mass, or (whatever ``n``) one per distinct value.
    closed : {"left", "right"}, default="left"
        Whether bins are [a, b) or (a, b].

    Examples
    --------
    >>> Binning(10, "quantile")
    Binning(n=10, strategy='quantile', closed='left')
    """

    n: int = 20
    strategy: Strategy = "uniform"
    closed: Closed = "left"

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_choice("strategy", self.strategy, tuple(_KINDS))
        check_choice("closed", self.closed, ("left", "right"))


UNIFORM = Binning()
QUANTILE = Binning(strategy="quantile")


@dataclass(frozen=True)
class Bins:
    """Edges from 0 to 1, the rule for values on one, and how they were chosen."""

    edges: np.ndarray
    closed: Closed
    strategy: Strategy

    @classmethod
    def of(cls, confidence: np.ndarray, binning: Binning) -> Bins:
        if not isinstance(binning, Binning):
            raise TypeError(f"binning must be a Binning, not {binning!r}.")
        n = binning.n
        if binning.strategy == "uniform":
            inner = np.arange(1, n) / n
        elif binning.strategy == "distinct":
            values = np.unique(confidence)
            inner = (values[1:] + values[:-1]) / 2
        elif n > len(confidence):
            most = len(confidence)
            raise ValueError(f"n must be at most {most}, the number of rows, not {n}.")
        else:
            inner = _quantile_edges(confidence, n)
        edges = np.concatenate([[0.0], inner, [1.0]])
        return cls(edges, binning.closed, binning.strategy)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __str__(self) -> str:
        shape = "[a, b)" if self.closed == "left" else "(a, b]"
        plural = "s" if len(self) > 1 else ""
        return f"{len(self)} bin{plural} {_KINDS[self.strategy]}, {shape}"

    def index(self, confidence: np.ndarray) -> np.ndarray:
        """The bin of each value; with equal widths, values near an edge are on it."""
        if self.strategy != "uniform":
            # NumPy's "right" sends a value on an edge up: such bins are closed left.
            side: Closed = "right" if self.closed == "left" else "left"
            return np.searchsorted(self.edges[1:-1], confidence, side=side)
        n = len(self)
        slack = n * np.finfo(np.float32).eps
        confidence = confidence.astype(np.float32)
        if self.closed == "left":
            place = confidence * n
            place += slack
            index = place.astype(np.intp)
            return np.minimum(index, n - 1, out=index)
        index = np.ceil(confidence * n - slack).astype(np.intp)
        index -= 1
        return np.maximum(index, 0, out=index)

    def sums(self, confidence: np.ndarray, correct: np.ndarray) -> BinSums:
        """Rows, confidences and correct rows of each bin, in one pass."""
        n = len(self)
        cells = np.zeros(2 * n, dtype=np.intp)
        sums = np.zeros(n)
        for part in chunks(len(confidence)):
            values = confidence[part]
            index = self.index(values)
            sums += np.bincount(index, weights=values, minlength=n)
            index += n * correct[part]
            cells += np.bincount(index, minlength=2 * n)
        wrong, right = cells[:n], cells[n:]
        return BinSums(wrong + right, sums, right)


@dataclass(frozen=True)
class BinSums:
    """Rows, sum of the confidences and correct rows of each bin (the last axis)."""

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    @property
    def mean_confidence(self) -> np.ndarray:
        """Mean confidence of each bin; NaN where it is empty."""
        return _ratio(self.confidence, self.count)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of correct rows in each bin; NaN where it is empty."""
        return _ratio(self.correct, self.count)

    @property
    def filled(self) -> BinSums:
        some = self.count > 0
        return BinSums(self.count[some], self.confidence[some], self.correct[some])

    def means(self, level: float) -> dict[str, np.ndarray]:
        """Columns of a table: rows, confidence, and accuracy with Wilson's interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = proportion_confint(
                self.correct, self.count, alpha=1 - level, method="wilson"
            )
        return {
            "n": self.count,
            "confidence": self.mean_confidence,
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
        }

    def error(self, norm: Norm) -> Any:
        """The calibration error; one for each table of sums where there are many."""
        gap = self.confidence - self.correct
        total = self.count.sum(axis=-1)
        if norm == "l1":
            return np.abs(gap).sum(axis=-1) / total
        if norm == "signed":
            return gap.sum(axis=-1) / total
        some = np.maximum(self.count, 1)
        if norm == "l2":
            return np.sqrt((gap**2 / some).sum(axis=-1) / total)
        return np.abs(gap / some).max(axis=-1)

    def debiased_error(self) -> Any:
        """The squared calibration error, less what chance alone would add."""
        some = np.maximum(self.count, 1)
        rate = self.correct / some
        chance = rate * (1 - rate) / np.maximum(self.count - 1, 1)
        gap = (self.confidence - self.correct) / some
        excess = np.where(self.count > 1, gap**2 - chance, 0.0)
        return (self.count * excess).sum(axis=-1) / self.count.sum(axis=-1)


def at_least(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Whether confidences reach a threshold, both in single precision."""
    return np.asarray(confidence).astype(np.float32) >= np.float32(threshold)


def _quantile_edges(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """Midpoints between the parts that ``numpy.array_split`` makes of sorted values."""
    size, rest = divmod(len(confidence), n_bins)
    starts = np.cumsum([size + (at < rest) for at in range(n_bins - 1)], dtype=int)
    ranked = np.partition(confidence, np.unique([starts - 1, starts]))
    middle = (ranked[starts - 1].astype(float) + ranked[starts]) / 2
    # Where many values are 0 or 1, a cut among them is one beside them.
    if 1 in middle and len(below := confidence[confidence < 1]):
        middle[middle == 1] = (float(below.max()) + 1) / 2
    if 0 in middle and len(above := confidence[confidence > 0]):
        middle[middle == 0] = float(above.min()) / 2
    return np.unique(middle[(middle > 0) & (middle < 1)])


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return total / count
