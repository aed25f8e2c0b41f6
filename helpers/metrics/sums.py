"""Measures of a table too large for memory, from sums of its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import norm as normal

from ..checks import (
    check_between,
    check_count,
    check_labels,
    check_outcomes,
    check_probabilities,
    check_rng,
)
from .bins import UNIFORM, Binning, Bins, BinSums
from .report import measure_table
from .resampling import Cells, Interval, NoiseFloor

# A power of two times the 20 bins of a report: both then cut at the same floats.
N_CELLS = 128 * UNIFORM.n
_SUMS = ("count", "confidence", "correct")
_UNLABELLED = ("n_unlabelled", "unlabelled_confidence")
_SCALARS = ("squared", "loss", "n_impossible", *_UNLABELLED)


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationSums:
    """What a report on calibration needs of some rows, in a form that adds up.

    Take the sums of each shard with :meth:`of` and add them with ``+``, in any order.
    Only the sums of each narrow cell of [0, 1], and of each predicted class, are kept,
    however many the rows. Bins of equal width are exact; the AUROC and the noise floor
    lose the order inside cells.

    Examples
    --------
    >>> shards = [([0.9, 0.8], [1, 0]), ([0.6, 0.7, 0.5], [1, None, None])]
    >>> sum((CalibrationSums.of(*shard) for shard in shards), CalibrationSums.of([]))
    CalibrationSums(n=3, n_unlabelled=2)
    """

    cells: BinSums
    squared: float
    loss: float
    n_impossible: int
    n_unlabelled: int
    unlabelled_confidence: float
    classes: pd.DataFrame
    clip: float | None

    @classmethod
    def of(
        cls,
        confidence: ArrayLike,
        correct: ArrayLike | None = None,
        predicted: ArrayLike | None = None,
        *,
        n_cells: int = N_CELLS,
        clip: float | None = None,
    ) -> Self:
        """The sums of some rows.

        Parameters
        ----------
        confidence : array-like of shape (n,)
            Probabilities in [0, 1], perhaps none.
        correct : array-like of shape (n,), optional
            1 or True where correct, else 0; None or NaN where that is not known.
        predicted : array-like of str, of shape (n,), optional
            The predicted classes, for :meth:`by_class`.
        n_cells : int, default=2560
            How many cells, a multiple of the number of bins wanted later.
        clip : float, optional
            See :func:`log_loss`.
        """
        check_count("n_cells", n_cells)
        if clip is not None:
            check_between("clip", clip, 0, 0.5)
        empty = np.shape(confidence) == (0,)
        values = np.empty(0) if empty else check_probabilities(confidence)
        given = np.full(len(values), np.nan) if correct is None else correct
        outcome = check_outcomes(given, confidence, missing=True)
        known, right = ~np.isnan(outcome), outcome == 1
        labels = np.empty(0, dtype=object)
        if predicted is not None:
            labels = check_labels(predicted, "predicted", confidence, correct)
        part = slice(len(labels))
        classes = _by_class(values[part], known[part], right[part], labels)
        others = values[~known]
        if len(others):
            values, right = values[known], right[known]
        happened = np.where(right, values, 1.0 - values).astype(float)
        if clip is not None:
            happened = np.clip(happened, clip, 1 - clip)
        possible = happened[happened > 0]
        return cls(
            cells=Bins.of(values, Binning(n_cells)).sums(values, right),
            squared=float(np.sum((values - right) ** 2, dtype=float)),
            loss=0.0 - float(np.log(possible).sum()),
            n_impossible=len(happened) - len(possible),
            n_unlabelled=len(others),
            unlabelled_confidence=float(others.sum(dtype=float)),
            classes=classes,
            clip=clip,
        )

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        for name in ("n_cells", "clip"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(f"{name} must be the same in both: {mine!r}, {its!r}.")
        cells = (getattr(self.cells, x) + getattr(other.cells, x) for x in _SUMS)
        scalars: Any = {x: getattr(self, x) + getattr(other, x) for x in _SCALARS}
        rows = pd.concat([self.classes, other.classes])
        classes = _add_classes(rows, rows.index)
        return replace(self, cells=BinSums(*cells), classes=classes, **scalars)

    def __repr__(self) -> str:
        return f"CalibrationSums(n={self.n:,}, n_unlabelled={self.n_unlabelled:,})"

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells.count)

    @property
    def n(self) -> int:
        """Number of rows whose outcome is known."""
        return int(self.cells.count.sum())

    def accuracy(self, *, level: float = 0.95) -> Interval:
        """Share of correct rows, with Wilson's interval."""
        check_between("level", level, 0, 1)
        return Interval.of_share(int(self.cells.correct.sum()), self._some(), level)

    def bins(self, n_bins: int = UNIFORM.n) -> BinSums:
        """Sums of bins [a, b) of equal width, whose number divides that of cells."""
        n = self.n_cells
        if n % check_count("n_bins", n_bins):
            raise ValueError(f"n_bins must divide the {n} cells; it is {n_bins}.")
        rows = (getattr(self.cells, x).reshape(n_bins, -1) for x in _SUMS)
        return BinSums(*(row.sum(axis=1) for row in rows))

    def calibration_error(self, *, n_bins: int = UNIFORM.n) -> float:
        """What :func:`expected_calibration_error` gives for bins of equal width."""
        self._some()
        return float(self.bins(n_bins).error("l1"))

    def by_class(self, *, level: float = 0.95) -> pd.DataFrame:
        """One row a predicted class, the most frequent first.

        ``n``, the means and ``confidence_gap`` are of rows with known outcome,
        ``confidence_of_all`` of these and the ``n_unlabelled`` others.
        """
        check_between("level", level, 0, 1)
        n_all = self.classes["count"] + self.classes["n_unlabelled"]
        classes = self.classes.iloc[np.argsort(-n_all.to_numpy(), kind="stable")]
        known = BinSums(*(classes[x].to_numpy() for x in _SUMS))
        table = pd.DataFrame(known.means(level), index=classes.index)
        table["confidence_gap"] = table["confidence"] - table["accuracy"]
        table["n_unlabelled"] = classes["n_unlabelled"]
        total = classes["confidence"] + classes["unlabelled_confidence"]
        return table.assign(confidence_of_all=total / n_all)

    def table(
        self,
        *,
        n_bins: int = UNIFORM.n,
        level: float = 0.95,
        n_simulations: int = 1000,
        rng: np.random.Generator | int | None = 0,
    ) -> pd.DataFrame:
        """The measures of :class:`CalibrationReport` that sums and outcomes allow."""
        check_between("level", level, 0, 1)
        check_count("n_simulations", n_simulations)
        generator = check_rng(rng)
        binned, n = self.bins(n_bins), self.n
        total = float(self.cells.confidence.sum())
        n_all, of_all = n + self.n_unlabelled, total + self.unlabelled_confidence
        measures: dict[str, float | Interval] = {
            "rows": n,
            "rows without outcome": self.n_unlabelled,
            "mean confidence, of all rows": of_all / n_all if n_all else np.nan,
        }
        if n:
            floor = self._noise_floor(n_bins, n_simulations, generator)
            measures |= {
                "accuracy": self.accuracy(level=level),
                "mean confidence": total / n,
                "confidence − accuracy": self._gap(level),
                "ECE": float(binned.error("l1")),
                "noise floor, mean": floor.mean,
                "noise floor, 95 %": floor.upper,
                "debiased squared error": float(binned.debiased_error()),
                "MCE": float(binned.error("max")),
                "Brier score": self.squared / n,
                "log loss": np.inf if self.n_impossible else self.loss / n,
                "AUROC": self._auroc(),
            }
        notes = {
            "rows": "outcome known; what follows is of these",
            "ECE": str(Bins.of(np.empty(0), Binning(n_bins))),
            "log loss": f"infinite in {self.n_impossible:,} of the rows",
            "AUROC": f"bounds from {self.n_cells:,} cells, not of chance",
        }
        return measure_table(measures, notes)

    def to_dict(self) -> dict[str, Any]:
        """The sums as plain JSON, for :meth:`from_dict`."""
        return {
            "format": "helpers.metrics.CalibrationSums/1",
            "clip": self.clip,
            **{name: getattr(self.cells, name).tolist() for name in _SUMS},
            **{name: getattr(self, name) for name in _SCALARS},
            "classes": self.classes.index.tolist(),
            "by_class": self.classes.to_dict("list"),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The sums that :meth:`to_dict` described; anything else is refused."""
        read = _Stored.model_validate(stored)
        cells = pd.DataFrame({name: getattr(read, name) for name in _SUMS})
        rows = pd.DataFrame(read.by_class.model_dump())
        for sums in (cells, rows):
            parts = sums[["confidence", "correct"]]
            if parts.gt(sums["count"] * (1 + 1e-9), axis=0).any(axis=None):
                raise ValueError("confidence and correct must be at most count.")
        return cls(
            cells=BinSums(*(cells[name].to_numpy() for name in _SUMS)),
            classes=_add_classes(rows, read.classes),
            clip=read.clip,
            **{name: getattr(read, name) for name in _SCALARS},
        )

    def _gap(self, level: float) -> Interval:
        """Mean confidence minus accuracy; normal interval, for independent rows."""
        n, value = self.n, float(self.bins(1).error("signed"))
        if n == 1:
            return Interval(value, np.nan, np.nan)
        # The mean square of confidence − correct is the Brier score.
        variance = max(self.squared / n - value**2, 0.0) / (n - 1)
        reach = float(normal.ppf((1 + level) / 2) * np.sqrt(variance))
        return Interval(value, value - reach, value + reach)

    def _auroc(self) -> float | Interval:
        """AUROC, with bounds for the worst and the best order of rows inside cells."""
        right = self.cells.correct.astype(float)
        wrong = self.cells.count - right
        pairs = right.sum() * wrong.sum()
        if not pairs:
            return np.nan
        tied = float(right @ wrong / pairs)
        low = float(right @ (np.cumsum(wrong) - wrong) / pairs)
        return Interval(low + tied / 2, low, low + tied)

    def _noise_floor(
        self, n_bins: int, n_simulations: int, generator: np.random.Generator
    ) -> NoiseFloor:
        """As :func:`helpers.metrics.noise_floor`, at each cell's mean confidence."""
        of_cell = np.flatnonzero(self.cells.count) // (self.n_cells // n_bins)
        bins, starts = np.unique(of_cell, return_index=True)
        filled = self.cells.filled
        means = {"confidence": filled.mean_confidence.clip(0, 1)}
        cells = Cells(filled.count, means, starts, bins, starts, of_cell)
        return cells.floor("l1", 0.95, n_simulations, generator)

    def _some(self) -> int:
        if not self.n:
            n = self.n_unlabelled
            raise ValueError(f"correct must be known of a row; it is of none of {n:,}.")
        return self.n


_Count = Annotated[int, Field(ge=0)]
_Sum = Annotated[float, Field(ge=0)]


class _Columns(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    count: list[_Count]
    confidence: list[_Sum]
    correct: list[_Count]


class _Classes(_Columns):
    n_unlabelled: list[_Count]
    unlabelled_confidence: list[_Sum]


class _Stored(_Columns):
    format: Literal["helpers.metrics.CalibrationSums/1"]
    clip: Annotated[float, Field(gt=0, lt=0.5)] | None
    count: Annotated[list[_Count], Field(min_length=1)]
    squared: _Sum
    loss: _Sum
    n_impossible: _Count
    n_unlabelled: _Count
    unlabelled_confidence: _Sum
    classes: list[str]
    by_class: _Classes


def _by_class(
    values: np.ndarray, known: np.ndarray, right: np.ndarray, predicted: np.ndarray
) -> pd.DataFrame:
    """The sums of each predicted class, sorted by its name."""
    for row, name in enumerate(predicted):
        if not isinstance(name, str):
            raise ValueError(f"predicted must be text; row {row} is {name!r}.")
    columns = {
        "count": known,
        "confidence": np.where(known, values, 0.0),
        "correct": right,
        "n_unlabelled": ~known,
        "unlabelled_confidence": np.where(known, 0.0, values),
    }
    return _add_classes(pd.DataFrame(columns), predicted)


def _add_classes(rows: pd.DataFrame, names: Any) -> pd.DataFrame:
    """Rows of the same class as one, in the order of their names."""
    rows.index = pd.Index(names, dtype=object, name="class")
    kinds = {name: float if "confidence" in str(name) else int for name in rows}
    return rows.astype(kinds).groupby(level=0).sum()
