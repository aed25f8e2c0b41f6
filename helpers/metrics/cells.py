"""Rows merged into cells, and measures of many weightings of them at once.

Rows of equal confidence and outcome make one cell; where there are very many rows, so
do those that lie close together. The sums in a cell are those of its rows; only the
place of a row inside its cell is lost, which no measure can see to three digits. A
draw then costs as many numbers as there are cells, not rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .binning import Bins
from .errors import Norm

BINNED: dict[str, Norm] = {"ece": "l1", "rmsce": "l2", "mce": "max"}
MEANS = ("accuracy", "confidence", "gap", "brier", "log_loss")
_MANY = 20_000
_LEVELS = 2048
_NUMBERS = 1 << 18


@dataclass(frozen=True)
class Cells:
    """Merged rows, sorted by bin and, inside it, by confidence."""

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    means: dict[str, np.ndarray]
    starts: np.ndarray
    bins: np.ndarray
    ties: np.ndarray
    rows: np.ndarray

    def by_bin(self, values: np.ndarray) -> np.ndarray:
        """Sums over the cells of each bin, along the last axis."""
        return np.add.reduceat(values, self.starts, axis=-1)


def make_cells(
    confidence: np.ndarray,
    correct: np.ndarray | None,
    bins: Bins,
    *,
    merge: bool = True,
    levels: int | None = None,
) -> Cells:
    """Sort and merge rows."""
    values = confidence.astype(float)
    outcome = np.zeros(len(values), dtype=bool) if correct is None else correct
    if levels is None and merge and len(values) > _MANY:
        levels = _LEVELS
    place = values if levels is None else _places(values, levels, correct is not None)
    key = np.stack([outcome, place, bins.index(confidence)])
    rows = np.lexsort(key)
    key = key[:, rows]
    new = np.any(np.diff(key) != 0, axis=0) if merge else np.ones(len(rows) - 1, bool)
    starts = np.append(0, np.flatnonzero(new) + 1)
    count = np.diff(np.append(starts, len(rows)))
    filled, first = np.unique(key[2, starts], return_index=True)
    tied = np.all(np.diff(key[1:, starts]) == 0, axis=0)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.add.reduceat(x[rows].astype(float), starts) / count

    with np.errstate(divide="ignore"):
        loss = -np.log(np.where(outcome, values, 1 - values))
    return Cells(
        count=count,
        confidence=np.clip(mean(values), 0, 1),
        correct=outcome[rows][starts].astype(float),
        means={
            "accuracy": mean(outcome),
            "confidence": mean(values),
            "gap": mean(values - outcome),
            "brier": mean((values - outcome) ** 2),
            "log_loss": mean(loss),
        },
        starts=first,
        bins=filled.astype(np.intp),
        ties=np.append(0, np.flatnonzero(~tied) + 1),
        rows=rows,
    )


def batches(n: int, width: int) -> Iterator[tuple[int, int]]:
    """Shapes of tables that have n rows in all and each fit into little memory."""
    height = max(1, _NUMBERS // width)
    for start in range(0, n, height):
        yield min(height, n - start), width


def norm_of_gaps(gap: np.ndarray, count: np.ndarray, norm: Norm) -> np.ndarray:
    """Calibration errors from gaps that are summed over the rows of each bin."""
    total = count.sum(axis=-1)
    if norm == "l1":
        return np.abs(gap).sum(axis=-1) / total
    if norm == "signed":
        return gap.sum(axis=-1) / total
    some = np.maximum(count, 1)
    if norm == "l2":
        return np.sqrt((gap**2 / some).sum(axis=-1) / total)
    return np.abs(gap / some).max(axis=-1)


def weighted(cells: Cells, weights: np.ndarray, measure: str) -> np.ndarray:
    """A measure for each of many weightings of the cells."""
    if measure in MEANS:
        # Not a matrix product: an infinite loss that was not drawn does not count.
        parts = np.zeros(weights.shape)
        np.multiply(weights, cells.means[measure], out=parts, where=weights > 0)
        return parts.sum(axis=1) / weights.sum(axis=1)
    if measure == "auroc":
        return _aurocs(cells, weights)
    count = cells.by_bin(weights)
    gap = cells.by_bin(weights * (cells.confidence - cells.correct))
    if measure != "squared":
        return norm_of_gaps(gap, count, BINNED[measure])
    # As debiased_calibration_error has it.
    some = np.maximum(count, 1)
    rate = cells.by_bin(weights * cells.correct) / some
    chance = rate * (1 - rate) / np.maximum(count - 1, 1)
    excess = np.where(count > 1, (gap / some) ** 2 - chance, 0.0)
    return (count * excess).sum(axis=1) / count.sum(axis=1)


def _places(values: np.ndarray, levels: int, ranked: bool) -> np.ndarray:
    """Rising with the confidence, and equal where rows are to be merged."""
    place = np.floor(values * levels)
    if ranked:
        # Confidences often crowd at 1, where their order still makes the AUROC.
        rank = np.searchsorted(np.sort(values), values)
        place += np.floor(rank * (levels / len(values)))
        place[values == 0] = -1  # an infinite loss stays alone
    return place


def _aurocs(cells: Cells, weights: np.ndarray) -> np.ndarray:
    right = np.add.reduceat(weights * cells.correct, cells.ties, axis=1)
    wrong = np.add.reduceat(weights * (1 - cells.correct), cells.ties, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong / 2
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    ranked = (right * below).sum(axis=1)
    return np.divide(ranked, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
