"""Measures of a table too large for memory: sums of its shards that add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm as normal
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_not_negative,
    check_outcomes,
    check_probabilities,
    check_rng,
    chunks,
)
from .binning import N_BINS, BinSums, make_bins, sum_bins
from .cells import batches, norm_of_gaps
from .errors import Norm, error_of
from .resampling import Interval, NoiseFloor

# A power of two times the 20 bins of a report: both then cut at the same floats.
N_CELLS = 128 * N_BINS
_FORMAT = "helpers.metrics.CalibrationSums/1"
_CELLS = ("count", "confidence", "correct")
_UNLABELLED = ("n_unlabelled", "unlabelled_confidence")
_SCALARS = ("squared", "loss", "n_impossible", *_UNLABELLED)
_CLASSES = (*_CELLS, *_UNLABELLED)
_WHOLE = ("count", "correct", "n_impossible", "n_unlabelled")
_NORMS = ("l1", "l2", "max", "signed")


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationSums:
    """What a report on calibration needs of some rows, in a form that adds up.

    Take the sums of each shard with :meth:`of`, and add them with ``+``, in any order
    and grouping; counts are exact, and other sums the same but for rounding. They take
    as much memory for a billion rows as for a thousand: [0, 1] is cut into narrow
    cells, and of the confidence only its sum in each cell is kept. Bins of equal width
    are made of whole cells, so that their errors are those of the rows. Only what asks
    for the order of rows inside a cell, :meth:`auroc`, or for their spread, the noise
    floor and the band, is not exact.

    Attributes
    ----------
    cells : BinSums
        Rows, confidence and correct rows of each cell. Cells are [a, b), the last one
        [a, 1]. As everything up to ``n_impossible``, of the rows whose outcome is
        known.
    squared : float
        Sum of the squared differences of confidence and outcome.
    loss : float
        Sum of the log losses that are finite.
    n_impossible : int
        Rows whose log loss is infinite: what happened had been called impossible.
    n_unlabelled : int
        Rows without a known outcome.
    unlabelled_confidence : float
        Sum of their confidences.
    classes : pandas.DataFrame
        For each predicted class the same sums: ``count``, ``confidence``, ``correct``,
        ``n_unlabelled`` and ``unlabelled_confidence``. Empty where predictions were
        not given.
    clip : float or None
        Probabilities were lifted to at least this for the log loss.

    Examples
    --------
    >>> shards = [([0.9, 0.8], [1, 0]), ([0.6, 0.7, 0.5], [1, None, None])]
    >>> parts = [CalibrationSums.of(*shard) for shard in shards]
    >>> total = sum(parts, CalibrationSums.of([]))
    >>> total
    CalibrationSums(n=3, n_unlabelled=2)
    >>> round(total.calibration_error(), 3), round(total.mean_confidence_of_all, 3)
    (0.433, 0.7)
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
            Probabilities in [0, 1]. No rows at all make sums to start from.
        correct : array-like of shape (n,), optional
            1 or True where the prediction was correct, else 0; missing (None or NaN)
            where that is not known. Without it, it is known of no row.
        predicted : array-like of str, of shape (n,), optional
            The predicted classes, for :meth:`by_class`.
        n_cells : int, default=2560
            How many cells. Bins must be made of whole ones: 1,920 have 15 bins.
        clip : float, optional
            See :func:`log_loss`.

        Returns
        -------
        CalibrationSums

        Raises
        ------
        ValueError
            Confidences outside [0, 1] or missing, outcomes other than 0 and 1, classes
            that are missing or no text, lengths that differ, or bad settings.

        Examples
        --------
        >>> CalibrationSums.of([0.9, 0.6, 0.8], [1, 0, None])
        CalibrationSums(n=2, n_unlabelled=1)
        """
        check_count("n_cells", n_cells)
        if clip is not None:
            check_between("clip", clip, 0, 0.5)
        empty = np.shape(confidence) == (0,)
        values = np.empty(0) if empty else check_probabilities(confidence)
        known, outcome = _read_outcomes(correct, len(values))
        classes = _by_class(values, known, outcome, predicted)
        others = values[~known]
        if len(others):
            values, outcome = values[known], outcome[known]
        squared, loss, n_impossible = _scores(values, outcome, clip)
        return cls(
            cells=sum_bins(values, outcome, make_bins(values, n_bins=n_cells)),
            squared=squared,
            loss=loss,
            n_impossible=n_impossible,
            n_unlabelled=len(others),
            unlabelled_confidence=float(others.sum(dtype=float)),
            classes=classes,
            clip=clip,
        )

    def __add__(self, other: CalibrationSums) -> CalibrationSums:
        if not isinstance(other, CalibrationSums):
            return NotImplemented
        for name in ("n_cells", "clip"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(
                    f"{name} must be the same in sums that are added; it is {mine!r} "
                    f"and {its!r}."
                )
        added: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name) for name in _SCALARS
        }
        cells = (getattr(self.cells, x) + getattr(other.cells, x) for x in _CELLS)
        classes = pd.concat([self.classes, other.classes]).groupby(level=0).sum()
        classes.index = classes.index.astype(object)
        return CalibrationSums(
            cells=BinSums(*cells),
            classes=classes,
            clip=self.clip,
            **added,
        )

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

    @property
    def n_correct(self) -> int:
        """How many of them are correct."""
        return int(self.cells.correct.sum())

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the rows whose outcome is known."""
        return float(self.cells.confidence.sum() / self._some())

    @property
    def mean_confidence_of_all(self) -> float:
        """Mean confidence of all the rows; NaN where there are none."""
        n = self.n + self.n_unlabelled
        if not n:
            return float("nan")
        return float((self.cells.confidence.sum() + self.unlabelled_confidence) / n)

    @property
    def brier(self) -> float:
        """Brier score of the confidence: see :func:`brier_score`."""
        return self.squared / self._some()

    @property
    def log_loss(self) -> float:
        """Log loss: see :func:`log_loss`; infinite where ``n_impossible`` is not 0."""
        return float("inf") if self.n_impossible else self.loss / self._some()

    def accuracy(self, *, level: float = 0.95) -> Interval:
        """Share of correct rows, with Wilson's interval.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level.

        Returns
        -------
        Interval

        Raises
        ------
        ValueError
            No row has a known outcome, or a bad level.

        Examples
        --------
        >>> CalibrationSums.of([0.9] * 4, [1, 1, 0, 0]).accuracy().value
        0.5
        """
        check_between("level", level, 0, 1)
        n, right = self._some(), self.n_correct
        return Interval(right / n, *map(float, _wilson(right, n, level)))

    def gap(self, *, level: float = 0.95) -> Interval:
        """Mean confidence minus accuracy: positive is overconfident.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level.

        Returns
        -------
        Interval
            From the normal distribution, with rows taken as independent; NaN for a
            single row.

        Raises
        ------
        ValueError
            No row has a known outcome, or a bad level.

        Notes
        -----
        In simulations with confidences that are true or 5 points too high, 95 %
        intervals covered the true gap in 93 to 96 % of samples with ten wrong rows or
        more, but in 86 % of those with about two. For few rows see
        :func:`class_table`.

        Examples
        --------
        >>> found = CalibrationSums.of([0.9] * 100, [1] * 80 + [0] * 20).gap()
        >>> [round(x, 3) for x in found]
        [0.1, 0.021, 0.179]
        """
        check_between("level", level, 0, 1)
        n = self._some()
        value = float((self.cells.confidence.sum() - self.n_correct) / n)
        if n == 1:
            return Interval(value, np.nan, np.nan)
        # The mean square of confidence − correct is the Brier score.
        variance = max(self.brier - value**2, 0.0) / (n - 1)
        reach = float(normal.ppf((1 + level) / 2) * np.sqrt(variance))
        return Interval(value, value - reach, value + reach)

    def bins(self, n_bins: int = N_BINS) -> BinSums:
        """Sums of wider bins of equal width.

        Parameters
        ----------
        n_bins : int, default=20
            How many; it must divide the number of cells.

        Returns
        -------
        BinSums
            What :func:`expected_calibration_error` sums over bins [a, b). Where the
            number of cells is ``n_bins`` times a power of two, every row is in the
            same bin as there; for other numbers one that lies four rounding errors
            below an edge may be in the bin beside it.

        Raises
        ------
        ValueError
            It does not divide the number of cells.

        Examples
        --------
        >>> CalibrationSums.of([0.2, 0.9, 0.95], [0, 1, 0]).bins(2).count
        array([1, 2])
        """
        width = self._width(n_bins)
        return BinSums(
            *(getattr(self.cells, x).reshape(-1, width).sum(axis=1) for x in _CELLS)
        )

    def calibration_error(self, *, n_bins: int = N_BINS, norm: Norm = "l1") -> float:
        """Expected calibration error (ECE), or with another norm its kin.

        Parameters
        ----------
        n_bins : int, default=20
            See :meth:`bins`.
        norm : {"l1", "l2", "max", "signed"}, default="l1"
            See :func:`expected_calibration_error`; "max" is the MCE.

        Returns
        -------
        float
            As :func:`expected_calibration_error` has it for bins of equal width.

        Raises
        ------
        ValueError
            No row has a known outcome, or an unknown rule.

        Examples
        --------
        >>> sums = CalibrationSums.of([0.8] * 10, [1] * 7 + [0] * 3)
        >>> round(sums.calibration_error(), 3)
        0.1
        """
        check_choice("norm", norm, _NORMS)
        sums = self.bins(n_bins)
        self._some()
        return error_of(sums, norm)

    def debiased_squared_error(self, *, n_bins: int = N_BINS) -> float:
        """Squared calibration error without what chance alone would add.

        Parameters
        ----------
        n_bins : int, default=20
            See :meth:`bins`.

        Returns
        -------
        float
            As :func:`debiased_calibration_error` has it for bins of equal width; it
            may be negative.

        Raises
        ------
        ValueError
            No row has a known outcome, or an unknown rule.

        Examples
        --------
        >>> sums = CalibrationSums.of([0.8] * 10, [1] * 8 + [0] * 2)
        >>> round(sums.debiased_squared_error(), 4)
        -0.0178
        """
        sums = self.bins(n_bins).filled
        self._some()
        rate = sums.accuracy
        chance = rate * (1 - rate) / np.maximum(sums.count - 1, 1)
        excess = (sums.mean_confidence - rate) ** 2 - chance
        return float(sums.weight @ np.where(sums.count > 1, excess, 0.0))

    def auroc(self) -> Interval:
        """Area under the ROC curve, as closely as the cells tell.

        Returns
        -------
        Interval
            ``low`` and ``high`` have nothing to do with chance: they are the values
            for the worst and the best order of the rows inside each cell, and
            :func:`auroc` of the rows lies between them. ``value`` is half way: rows of
            one cell count as ties.

        Raises
        ------
        ValueError
            There are not both correct and wrong rows.

        Examples
        --------
        >>> sums = CalibrationSums.of([0.9, 0.8, 0.80001, 0.6], [1, 1, 0, 0])
        >>> sums.auroc()
        Interval(value=0.875, low=0.75, high=1.0)
        """
        right = self.cells.correct.astype(float)
        wrong = self.cells.count - right
        pairs = right.sum() * wrong.sum()
        if not pairs:
            raise ValueError(
                f"correct must hold both outcomes to rank them; {self.n_correct:,} of "
                f"{self.n:,} rows are correct."
            )
        tied = float(right @ wrong / pairs)
        low = float(right @ (np.cumsum(wrong) - wrong) / pairs)
        return Interval(low + tied / 2, low, low + tied)

    def noise_floor(
        self,
        *,
        n_bins: int = N_BINS,
        norm: Norm = "l1",
        level: float = 0.95,
        n_simulations: int = 1000,
        rng: np.random.Generator | int | None = 0,
    ) -> NoiseFloor:
        """The calibration error that a perfect forecaster shows on so many rows.

        Parameters
        ----------
        n_bins, norm
            See :meth:`calibration_error`; use those of the error itself.
        level : float, default=0.95
            Which quantile to give beside the mean.
        n_simulations : int, default=1000
            How many times to draw.
        rng : numpy.random.Generator, int or None, default=0
            Source or seed of chance.

        Returns
        -------
        NoiseFloor
            As :func:`helpers.metrics.noise_floor` has it, but that all rows of a cell
            come true with the cell's mean confidence. Where that makes a difference,
            it is towards more noise.

        Raises
        ------
        ValueError
            No row has a known outcome, or an unknown rule.

        Examples
        --------
        >>> sums = CalibrationSums.of(np.linspace(0.5, 1, 200), [1] * 200)
        >>> floor = sums.noise_floor()
        >>> round(floor.mean, 2), round(floor.upper, 2)
        (0.07, 0.1)
        """
        check_choice("norm", norm, _NORMS)
        check_between("level", level, 0, 1)
        sums = self.bins(n_bins)
        found = np.concatenate(
            [
                norm_of_gaps(sums.confidence - right, sums.count, norm)
                for right in self._drawn(n_bins, n_simulations, rng)
            ]
        )
        return NoiseFloor(float(found.mean()), float(np.quantile(found, level)))

    def curve(
        self,
        *,
        n_bins: int = N_BINS,
        level: float = 0.95,
        n_simulations: int = 1000,
        rng: np.random.Generator | int | None = 0,
    ) -> pd.DataFrame:
        """Confidence and accuracy, bin by bin.

        Parameters
        ----------
        n_bins : int, default=20
            See :meth:`bins`.
        level : float, default=0.95
            Confidence level of intervals and band.
        n_simulations : int, default=1000
            How many times to draw, for the band.
        rng : numpy.random.Generator, int or None, default=0
            Source or seed of chance, for the band.

        Returns
        -------
        pandas.DataFrame
            The columns of :func:`reliability_curve`.

        Raises
        ------
        ValueError
            No row has a known outcome, or an unknown rule.

        Examples
        --------
        >>> curve = CalibrationSums.of([0.2, 0.9, 0.9], [0, 1, 0]).curve(n_bins=2)
        >>> curve[["n", "confidence", "accuracy"]]
           n  confidence  accuracy
        0  1         0.2       0.0
        1  2         0.9       0.5
        """
        check_between("level", level, 0, 1)
        sums = self.bins(n_bins)
        rights = np.concatenate([*self._drawn(n_bins, n_simulations, rng)])
        some = sums.count > 0
        ends = np.full((4, n_bins), np.nan)
        ends[:2, some] = _wilson(sums.correct[some], sums.count[some], level)
        tails = [(1 - level) / 2, (1 + level) / 2]
        ends[2:, some] = np.quantile(rights[:, some] / sums.count[some], tails, axis=0)
        edges = np.arange(n_bins + 1) / n_bins
        return pd.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "n": sums.count,
                "confidence": sums.mean_confidence,
                "accuracy": sums.accuracy,
                "accuracy_low": ends[0],
                "accuracy_high": ends[1],
                "band_low": ends[2],
                "band_high": ends[3],
            }
        )

    def by_class(self, *, level: float = 0.95) -> pd.DataFrame:
        """Each predicted class by itself.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level.

        Returns
        -------
        pandas.DataFrame
            One row a predicted class, the most frequent first. Of the rows whose
            outcome is known: ``n``, the ``accuracy`` with Wilson's interval
            (``accuracy_low``, ``accuracy_high``), the mean ``confidence``, and
            ``confidence_gap``, the mean less the accuracy; NaN where there are none.
            And ``n_unlabelled``, the other rows, and ``confidence_of_all``, the mean
            over both. No rows where predictions were not given.

        Raises
        ------
        ValueError
            A bad level.

        Examples
        --------
        >>> sums = CalibrationSums.of(
        ...     [0.9, 0.7, 0.6], [1, 0, None], ["hand", "hand", "knee"]
        ... )
        >>> sums.by_class()[["n", "accuracy", "confidence_gap", "n_unlabelled"]].T
        class           hand  knee
        n                2.0   0.0
        accuracy         0.5   NaN
        confidence_gap   0.3   NaN
        n_unlabelled     0.0   1.0
        """
        check_between("level", level, 0, 1)
        n_all = self.classes["count"] + self.classes["n_unlabelled"]
        order = np.argsort(-n_all.to_numpy(), kind="stable")
        found = self.classes.iloc[order]
        known = BinSums(*(found[x].to_numpy() for x in _CELLS))
        some = known.count > 0
        ends = np.full((2, len(found)), np.nan)
        if some.any():
            ends[:, some] = _wilson(known.correct[some], known.count[some], level)
        return pd.DataFrame(
            {
                "n": known.count,
                "accuracy": known.accuracy,
                "accuracy_low": ends[0],
                "accuracy_high": ends[1],
                "confidence": known.mean_confidence,
                "confidence_gap": known.mean_confidence - known.accuracy,
                "n_unlabelled": found["n_unlabelled"],
                "confidence_of_all": (
                    found["confidence"] + found["unlabelled_confidence"]
                )
                / n_all.iloc[order],
            },
            index=found.index,
        )

    def table(
        self,
        *,
        n_bins: int = N_BINS,
        level: float = 0.95,
        n_simulations: int = 1000,
        rng: np.random.Generator | int | None = 0,
    ) -> pd.DataFrame:
        """All the measures, under the names that :class:`CalibrationReport` has.

        Parameters
        ----------
        n_bins : int, default=20
            See :meth:`bins`.
        level : float, default=0.95
            Level of the intervals.
        n_simulations : int, default=1000
            How many times to draw, for the noise floor.
        rng : numpy.random.Generator, int or None, default=0
            Source or seed of chance, for the noise floor.

        Returns
        -------
        pandas.DataFrame
            One row a measure: ``value``, ``low`` and ``high`` of its interval or
            bounds, ``note``. Where no outcome is known, numbers of rows and mean
            confidence only; NaN for the AUROC where all rows are right, or all wrong.

        Raises
        ------
        ValueError
            An unknown rule.

        Examples
        --------
        >>> sums = CalibrationSums.of([0.9, 0.6, 0.8], [1, 0, None])
        >>> sums.table()["value"].round(3).loc[["rows", "accuracy", "AUROC"]].tolist()
        [2.0, 0.5, 1.0]
        """
        check_between("level", level, 0, 1)
        check_count("n_simulations", n_simulations)
        self._width(n_bins)
        rows: list[tuple[str, float | Interval, str]] = [
            ("rows", self.n, "outcome known; what follows is of these"),
            ("rows without outcome", self.n_unlabelled, ""),
            ("mean confidence, of all rows", self.mean_confidence_of_all, ""),
        ]
        if self.n:
            unranked = self.n_correct in (0, self.n)
            floor = self.noise_floor(
                n_bins=n_bins, n_simulations=n_simulations, rng=rng
            )
            rows += [
                ("accuracy", self.accuracy(level=level), ""),
                ("mean confidence", self.mean_confidence, ""),
                (
                    "confidence − accuracy",
                    self.gap(level=level),
                    "positive is overconfident",
                ),
                (
                    "ECE",
                    self.calibration_error(n_bins=n_bins),
                    f"{n_bins} bin{'s' if n_bins > 1 else ''} of equal width, [a, b)",
                ),
                ("noise floor, mean", floor.mean, "ECE of a perfect forecaster"),
                ("noise floor, 95 %", floor.upper, ""),
                (
                    "debiased squared error",
                    self.debiased_squared_error(n_bins=n_bins),
                    "may be negative",
                ),
                (
                    "MCE",
                    self.calibration_error(n_bins=n_bins, norm="max"),
                    "one thin bin can make it",
                ),
                ("Brier score", self.brier, "of the confidence, in [0, 1]"),
                (
                    "log loss",
                    self.log_loss,
                    f"infinite in {self.n_impossible:,} of the rows",
                ),
                (
                    "AUROC",
                    np.nan if unranked else self.auroc(),
                    f"bounds from {self.n_cells:,} cells, not of chance",
                ),
            ]
        found = [
            (name, *value, note)
            if isinstance(value, Interval)
            else (name, value, np.nan, np.nan, note)
            for name, value, note in rows
        ]
        columns = ["measure", "value", "low", "high", "note"]
        return pd.DataFrame(found, columns=columns).set_index("measure")

    def to_dict(self) -> dict[str, Any]:
        """The sums as plain JSON, for :meth:`from_dict`.

        Returns
        -------
        dict
        """
        return {
            "format": _FORMAT,
            "clip": self.clip,
            **{name: getattr(self.cells, name).tolist() for name in _CELLS},
            **{name: getattr(self, name) for name in _SCALARS},
            "classes": self.classes.index.tolist(),
            "by_class": {name: self.classes[name].tolist() for name in _CLASSES},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The sums that :meth:`to_dict` described.

        Parameters
        ----------
        stored : mapping
            What :meth:`to_dict` gave.

        Returns
        -------
        CalibrationSums

        Raises
        ------
        ValueError
            It describes no such sums, or some that are not whole.

        Examples
        --------
        >>> CalibrationSums.from_dict(CalibrationSums.of([0.9], [1]).to_dict())
        CalibrationSums(n=1, n_unlabelled=0)
        """
        if not isinstance(stored, Mapping):
            raise ValueError(f"stored must be a mapping, not {type(stored).__name__}.")
        if stored.get("format") != _FORMAT:
            raise ValueError(
                f"format must be {_FORMAT!r}, not {stored.get('format')!r}."
            )
        fields = ("clip", *_CELLS, *_SCALARS, "classes", "by_class")
        missing = [name for name in fields if name not in stored]
        if missing:
            raise ValueError(f"stored must have the field {missing[0]!r}.")
        if stored["clip"] is not None:
            check_between("clip", stored["clip"], 0, 0.5)
        cells = _read_columns(stored, _CELLS, None)
        check_count("the number of cells", len(cells["count"]))
        numbers: dict[str, Any] = {
            name: _read_number(stored[name], name) for name in _SCALARS
        }
        names = stored["classes"]
        if not (
            isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and len(set(names)) == len(names)
        ):
            raise ValueError(
                f"classes must be a list of different texts, not {names!r}."
            )
        if not isinstance(stored["by_class"], Mapping):
            raise ValueError(f"by_class must be a mapping, not {stored['by_class']!r}.")
        columns = _read_columns(stored["by_class"], _CLASSES, len(names))
        return cls(
            cells=BinSums(**cells),
            **numbers,
            classes=_frame(names, columns),
            clip=stored["clip"],
        )

    def _some(self) -> int:
        if not self.n:
            raise ValueError(
                "correct must be known for at least one row; it is missing in all "
                f"{self.n_unlabelled:,}."
            )
        return self.n

    def _width(self, n_bins: int) -> int:
        """How many cells make a bin."""
        width, rest = divmod(self.n_cells, check_count("n_bins", n_bins))
        if rest:
            raise ValueError(
                f"n_bins must divide the number of cells, {self.n_cells}; it is "
                f"{n_bins}."
            )
        return width

    def _drawn(
        self, n_bins: int, n_simulations: int, rng: np.random.Generator | int | None
    ) -> Iterator[np.ndarray]:
        """Correct rows of each bin if the confidences were true, drawn many times."""
        check_count("n_simulations", n_simulations)
        generator = check_rng(rng)
        self._some()
        at = np.flatnonzero(self.cells.count)
        cells = self.cells.filled
        chance = np.clip(cells.mean_confidence, 0, 1)
        filled, starts = np.unique(at // self._width(n_bins), return_index=True)
        for shape in batches(n_simulations, len(at)):
            right = np.zeros((shape[0], n_bins))
            drawn = generator.binomial(cells.count, chance, shape)
            right[:, filled] = np.add.reduceat(drawn, starts, axis=1)
            yield right


def _wilson(right: Any, n: Any, level: float) -> tuple[Any, Any]:
    return proportion_confint(right, n, alpha=1 - level, method="wilson")


def _read_outcomes(correct: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each outcome is known, and the outcome; False where it is not."""
    if correct is None:
        return np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    array = np.asarray(correct)
    missing = np.asarray(pd.isna(array))
    filled = np.where(missing, 0, array) if missing.any() else array
    return ~missing, check_outcomes(filled, n)


def _scores(
    values: np.ndarray, outcome: np.ndarray, clip: float | None
) -> tuple[float, float, int]:
    """Sums of squared differences and of finite log losses, and infinite ones."""
    squared, loss, n_impossible = 0.0, 0.0, 0
    for part in chunks(len(values)):
        stated, came = values[part], outcome[part]
        squared += float(np.sum((stated - came) ** 2, dtype=float))
        happened = np.where(came, stated, 1.0 - stated).astype(float)
        if clip is not None:
            happened = np.clip(happened, clip, 1 - clip)
        possible = happened[happened > 0]
        loss -= float(np.log(possible).sum())
        n_impossible += len(happened) - len(possible)
    return squared, loss, n_impossible


def _by_class(
    values: np.ndarray, known: np.ndarray, outcome: np.ndarray, predicted: Any
) -> pd.DataFrame:
    """The sums of each predicted class, sorted by its name."""
    if predicted is None:
        predicted, values = [], values[:0]
        known, outcome = known[:0], outcome[:0]
    given = (
        predicted
        if isinstance(predicted, (pd.Series, pd.Categorical))
        else np.asarray(predicted, dtype=object)
    )
    if given.ndim != 1 or len(given) != len(values):
        raise ValueError(
            f"predicted must have one class for each of {len(values)} rows, not shape "
            f"{given.shape}."
        )
    codes, found = pd.factorize(given)
    names = list(found)
    for at, name in enumerate(names):
        if not isinstance(name, str):
            row = int(np.argmax(codes == at))
            raise ValueError(f"predicted must be text; row {row} is {name!r}.")
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(f"predicted must not be missing; row {row} is.")
    n = len(names)
    key = codes + n * known.astype(np.intp)
    count = np.bincount(key, minlength=2 * n)
    confidence = np.bincount(key, values, minlength=2 * n)
    # Unknown outcomes are False.
    correct = np.bincount(codes[outcome], minlength=n)
    columns = {
        "count": count[n:],
        "confidence": confidence[n:],
        "correct": correct,
        "n_unlabelled": count[:n],
        "unlabelled_confidence": confidence[:n],
    }
    return _frame(names, columns).sort_index()


def _frame(names: list[str], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object, name="class"))


def _read_number(value: Any, name: str) -> float:
    if name in _WHOLE:
        return check_count(name, value, 0)
    return check_not_negative(name, value)


def _read_columns(
    stored: Mapping[str, Any], names: tuple[str, ...], n: int | None
) -> dict[str, np.ndarray]:
    """Stored lists of sums as arrays, if they are of one length and go together."""
    columns = {}
    for name in names:
        numbers = stored.get(name)
        if not isinstance(numbers, list):
            raise ValueError(f"{name} must be a list, not {type(numbers).__name__}.")
        n = len(numbers) if n is None else n
        if len(numbers) != n:
            raise ValueError(f"{name} must have {n} numbers, not {len(numbers)}.")
        kind = np.int64 if name in _WHOLE else np.float64
        columns[name] = np.array([_read_number(x, name) for x in numbers], dtype=kind)
    for part, whole in (
        ("correct", "count"),
        ("confidence", "count"),
        ("unlabelled_confidence", "n_unlabelled"),
    ):
        if part in columns and (columns[part] > columns[whole]).any():
            at = int(np.argmax(columns[part] > columns[whole]))
            raise ValueError(
                f"{part} must be at most {whole}; number {at} is "
                f"{columns[part][at].item()!r}, of {columns[whole][at].item()!r}."
            )
    return columns
