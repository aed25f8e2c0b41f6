"""Bins over the confidence, and the sums in them that calibration errors need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..checks import (
    check_choice,
    check_count,
    check_probabilities,
    check_rows,
    chunks,
)

Strategy = Literal["uniform", "quantile", "distinct"]
Closed = Literal["left", "right"]
STRATEGIES = ("uniform", "quantile", "distinct")
N_BINS = 20


@dataclass(frozen=True)
class Bins:
    """Bins that cover [0, 1], and the rule for values on an edge.

    Attributes
    ----------
    edges : numpy.ndarray of shape (n_bins + 1,)
        From 0 to 1, in increasing order.
    closed : {"left", "right"}
        Whether a value on an edge belongs to the bin above it ("left": the bins are
        [a, b), the last one [a, 1]) or below it ("right": (a, b], the first [0, b]).
    strategy : {"uniform", "quantile", "distinct"}
        How the edges were chosen.
    """

    edges: np.ndarray
    closed: Closed
    strategy: Strategy

    def __len__(self) -> int:
        return len(self.edges) - 1

    def index(self, confidence: np.ndarray) -> np.ndarray:
        """The bin of each value.

        With equal widths, a value within the rounding error of single precision
        (1e-7) of an edge counts as on it, so that k/n falls where fractions say, in
        double and in single precision and after the way from one to the other: 0.7
        is 14/20, though neither is a binary fraction.

        Parameters
        ----------
        confidence : numpy.ndarray of float
            Values in [0, 1].

        Returns
        -------
        numpy.ndarray of int, of the same shape
        """
        if self.strategy != "uniform":
            # numpy's "right" sends a value on an edge up: such bins are closed left.
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


@dataclass(frozen=True)
class BinSums:
    """What the bins hold.

    Attributes
    ----------
    count : numpy.ndarray of int, of shape (n_bins,)
        Rows.
    confidence : numpy.ndarray of float, of shape (n_bins,)
        Sum of the confidences.
    correct : numpy.ndarray of int, of shape (n_bins,)
        Rows that are correct.
    """

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """Share of the rows in each bin."""
        return self.count / self.count.sum()

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
        """The bins that are not empty."""
        some = self.count > 0
        return BinSums(self.count[some], self.confidence[some], self.correct[some])


def at_least(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Whether confidences reach a threshold, both in single precision."""
    return np.asarray(confidence).astype(np.float32) >= np.float32(threshold)


def make_bins(
    confidence: np.ndarray,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
) -> Bins:
    """Bins for some confidences.

    "quantile" cuts the sorted values into parts of equal size, half way between
    neighbours; equal values stay together, so there can be fewer bins.
    """
    confidence = check_probabilities(confidence)
    check_count("n_bins", n_bins)
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("closed", closed, ("left", "right"))
    if strategy == "uniform":
        return Bins(np.arange(n_bins + 1) / n_bins, closed, strategy)
    if strategy == "distinct":
        values = np.unique(confidence)
        inner = (values[1:] + values[:-1]) / 2
        return Bins(np.concatenate([[0.0], inner, [1.0]]), closed, strategy)
    if n_bins > len(confidence):
        raise ValueError(
            "n_bins must not exceed the number of rows where bins have equal mass; "
            f"it is {n_bins}, and there are {len(confidence)} rows."
        )
    inner = _quantile_edges(confidence, n_bins)
    return Bins(np.concatenate([[0.0], inner, [1.0]]), closed, strategy)


def sum_bins(confidence: np.ndarray, correct: np.ndarray, bins: Bins) -> BinSums:
    """Counts, confidences and correct rows of each bin, in one pass."""
    n = len(bins)
    cells = np.zeros(2 * n, dtype=np.intp)
    sums = np.zeros(n)
    for part in chunks(len(confidence)):
        values = confidence[part]
        index = bins.index(values)
        sums += np.bincount(index, weights=values, minlength=n)
        index += n * correct[part]
        cells += np.bincount(index, minlength=2 * n)
    wrong, right = cells[:n], cells[n:]
    return BinSums(wrong + right, sums, right)


def binned(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
) -> BinSums:
    """Check the data, make the bins and fill them."""
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
    return sum_bins(values, outcome, bins)


def _quantile_edges(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """Midpoints between the parts that ``numpy.array_split`` makes of sorted values."""
    size, rest = divmod(len(confidence), n_bins)
    starts = np.cumsum([size + (at < rest) for at in range(n_bins - 1)])
    if not len(starts):
        return np.empty(0)
    ranked = np.partition(confidence, np.unique([starts - 1, starts]))
    middle = (ranked[starts - 1].astype(float) + ranked[starts]) / 2
    # Where many values are 0 or 1, a cut among them is one beside them.
    if middle[-1] == 1 and len(below := confidence[confidence < 1]):
        middle[middle == 1] = (float(below.max()) + 1) / 2
    if middle[0] == 0 and len(above := confidence[confidence > 0]):
        middle[middle == 0] = float(above.min()) / 2
    return np.unique(middle[(middle > 0) & (middle < 1)])


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    result = np.full(len(count), np.nan)
    return np.divide(total, count, out=result, where=count > 0)
