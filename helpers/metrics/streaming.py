"""Measures of a table too large for memory, from the sums of its shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..checks import check_between, check_choice, check_count, check_rng
from .binning import N_BINS, BinSums
from .cells import batches, norm_of_gaps
from .errors import NORMS, Norm, debiased_error_of, error_of
from .resampling import Interval, NoiseFloor
from .stored_sums import CELLS
from .sums import RowSums
from .tables import Measure, bin_table, measure_table, sums_by_class


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationSums(RowSums):
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
            *(getattr(self.cells, x).reshape(-1, width).sum(axis=1) for x in CELLS)
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
        check_choice("norm", norm, NORMS)
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
        sums = self.bins(n_bins)
        self._some()
        return debiased_error_of(sums)

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
        check_choice("norm", norm, NORMS)
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
        low, high = np.full((2, n_bins), np.nan)
        tails = [(1 - level) / 2, (1 + level) / 2]
        shares = rights[:, some] / sums.count[some]
        low[some], high[some] = np.quantile(shares, tails, axis=0)
        return bin_table(sums, np.arange(n_bins + 1) / n_bins, (low, high), level)

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
        return sums_by_class(self.classes, level)

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
        rows: list[Measure] = [
            ("rows", self.n, "outcome known; what follows is of these"),
            ("rows without outcome", self.n_unlabelled, ""),
            ("mean confidence, of all rows", self.mean_confidence_of_all, ""),
        ]
        if not self.n:
            return measure_table(rows)
        bins = f"{n_bins} bin{'s' if n_bins > 1 else ''} of equal width, [a, b)"
        floor = self.noise_floor(n_bins=n_bins, n_simulations=n_simulations, rng=rng)
        gap = self.gap(level=level)
        ece = self.calibration_error(n_bins=n_bins)
        mce = self.calibration_error(n_bins=n_bins, norm="max")
        debiased = self.debiased_squared_error(n_bins=n_bins)
        ranking = np.nan if self.n_correct in (0, self.n) else self.auroc()
        impossible = f"infinite in {self.n_impossible:,} of the rows"
        rows += [
            ("accuracy", self.accuracy(level=level), ""),
            ("mean confidence", self.mean_confidence, ""),
            ("confidence − accuracy", gap, "positive is overconfident"),
            ("ECE", ece, bins),
            ("noise floor, mean", floor.mean, "ECE of a perfect forecaster"),
            ("noise floor, 95 %", floor.upper, ""),
            ("debiased squared error", debiased, "may be negative"),
            ("MCE", mce, "one thin bin can make it"),
            ("Brier score", self.brier, "of the confidence, in [0, 1]"),
            ("log loss", self.log_loss, impossible),
            ("AUROC", ranking, f"bounds from {self.n_cells:,} cells, not of chance"),
        ]
        return measure_table(rows)

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
