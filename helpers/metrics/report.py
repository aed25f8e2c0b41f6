"""One report of everything that is to be said about the calibration of a forecaster."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..checks import (
    check_between,
    check_choice,
    check_rng,
    check_rows,
    evaluation_of,
)
from .binning import N_BINS, Bins, Closed, Strategy, make_bins, sum_bins
from .errors import debiased_calibration_error, error_of
from .resampling import (
    Interval,
    NoiseFloor,
    bootstrap_intervals,
    consistency_band,
    noise_floor,
)
from .scores import BrierDecomposition, aurc, brier_decomposition, log_loss
from .significance import CalibrationTest, calibration_test
from .tables import Measure, bin_table, measure_table, wilson

# The plain errors lie above an error of zero in every sample, so that no interval made
# of them covers it.
_NO_INTERVAL = {
    "mean confidence": "known of these rows",
    "ECE": "biased upwards",
    "noise floor, mean": "simulated",
    "noise floor, 95 %": "simulated",
    "debiased L1 error": "biased near zero",
    "MCE": "biased upwards",
    "log loss": "may be infinite",
    "AURC": "see AUROC",
    "Spiegelhalter's p": "a p-value",
    "Kolmogorov–Smirnov p": "a p-value",
}
Evaluation = Literal["held-out", "in-sample", "unstated"]
_STAMPS = {
    "held-out": "held out: none of these rows was fitted on",
    "in-sample": "IN-SAMPLE: {n} of these rows were fitted on; "
    "this says nothing about other data",
    "unstated": "as given; not stated whether a calibrator was fitted on these rows",
}


def reliability_curve(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    level: float = 0.95,
    rng: np.random.Generator | int | None = 0,
) -> pd.DataFrame:
    """Confidence and accuracy, bin by bin.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    n_bins, strategy, closed
        The bins: see :func:`expected_calibration_error`.
    level : float, default=0.95
        Confidence level of intervals and band.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance, for the band.

    Returns
    -------
    pandas.DataFrame
        One row a bin, empty ones too: its edges ``low`` and ``high``; ``n``; the mean
        ``confidence`` and the ``accuracy`` in it; Wilson's interval for the accuracy,
        ``accuracy_low`` and ``accuracy_high``; and the consistency band, ``band_low``
        and ``band_high``: where the accuracy would lie if the confidences were true.
        ``attrs["evaluation"]`` says whether a calibrator was fitted on the rows.

    Raises
    ------
    ValueError
        Bad data or rules.

    Examples
    --------
    >>> curve = reliability_curve([0.2, 0.9, 0.9], [0, 1, 0], n_bins=2)
    >>> curve[["n", "confidence", "accuracy"]]
       n  confidence  accuracy
    0  1         0.2       0.0
    1  2         0.9       0.5
    """
    check_between("level", level, 0, 1)
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
    curve = _curve(values, outcome, bins, level, check_rng(rng))
    curve.attrs["evaluation"] = evaluation_of(confidence)[0]
    return curve


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Everything about the calibration of one set of confidences.

    Shown in a notebook it is a table; printed, the same as text. It says on every
    occasion whether the rows were held out, and gives an interval for every measure, or
    why there is none.

    Attributes
    ----------
    n : int
        Rows.
    accuracy : Interval
        Share of correct rows, with Wilson's interval.
    mean_confidence : float
        Mean confidence.
    gap : Interval
        Mean confidence minus accuracy, with a bootstrap interval; positive is
        overconfident.
    ece, mce : float
        Expected and maximum calibration error.
    floor : NoiseFloor
        The ECE of a perfect forecaster with these confidences: mean and 95th
        percentile.
    squared : Interval
        The debiased squared calibration error, with a bootstrap interval; it may be
        negative.
    debiased : float
        The debiased L1 error; it may be negative.
    brier : Interval
        Brier score of the confidence, with a bootstrap interval.
    decomposition : BrierDecomposition
        Its parts.
    log_loss : float
        Log loss; infinite where a certainty was wrong.
    auroc : Interval
        Ranking of right above wrong; NaN where all rows are right, or all wrong.
    aurc : float
        Area under the risk–coverage curve.
    spiegelhalter, kolmogorov_smirnov : CalibrationTest
        Tests of perfect calibration, two-sided; NaN where they are not defined.
    curve : pandas.DataFrame
        What :func:`reliability_curve` gives.
    bins : Bins
        The bins and their rule.
    level : float
        Level of the intervals.
    evaluation : {"held-out", "in-sample", "unstated"}
        Whether the rows were fitted on.
    n_fitted_on : int
        How many of them were.
    confidence, correct : numpy.ndarray of shape (n,)
        The data.
    """

    n: int
    accuracy: Interval
    mean_confidence: float
    gap: Interval
    ece: float
    mce: float
    floor: NoiseFloor
    squared: Interval
    debiased: float
    brier: Interval
    decomposition: BrierDecomposition
    log_loss: float
    auroc: Interval
    aurc: float
    spiegelhalter: CalibrationTest
    kolmogorov_smirnov: CalibrationTest
    curve: pd.DataFrame = field(repr=False)
    bins: Bins = field(repr=False)
    level: float
    evaluation: Evaluation
    n_fitted_on: int
    confidence: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)

    @property
    def stamp(self) -> str:
        """Whether the rows were held out, in words."""
        return _STAMPS[self.evaluation].format(n=f"{self.n_fitted_on:,}")

    @property
    def rule(self) -> str:
        """The bins, in words."""
        kind = {
            "uniform": "of equal width",
            "quantile": "of equal mass",
            "distinct": "of one value each",
        }[self.bins.strategy]
        shape = "[a, b)" if self.bins.closed == "left" else "(a, b]"
        n = len(self.bins)
        return f"{n} bin{'s' if n > 1 else ''} {kind}, {shape}"

    @property
    def verdict(self) -> str:
        """What the ECE shows, given the noise floor; no praise, no blame."""
        if self.evaluation == "in-sample":
            return "nothing can be concluded from rows that were fitted on"
        if self.ece <= self.floor.upper:
            return (
                "cannot be told from a perfect forecaster with these bins and this "
                "many rows"
            )
        way = "over" if self.gap.value > 0 else "under"
        return f"more than chance explains; on the whole {way}confident"

    @property
    def table(self) -> pd.DataFrame:
        """The measures: ``value``, ``low`` and ``high`` of its interval, ``note``.

        ``no_interval`` says why there is none, where one could be asked for.
        """
        table = measure_table(self._rows())
        table["no_interval"] = [_NO_INTERVAL.get(str(name), "") for name in table.index]
        return table

    def __str__(self) -> str:
        lines = [
            f"{name:<22}  {value:>8}  {interval:<25}  {note}".rstrip()
            for name, value, interval, note in self._shown()
        ]
        return "\n".join([f"Calibration report ({self.stamp})", *lines])

    def _repr_html_(self) -> str:
        colour = "#b00020" if self.evaluation == "in-sample" else "inherit"
        left = 'style="text-align:left"'
        body = "".join(
            f'<tr><th scope="row" {left}>{escape(name)}</th><td>{escape(value)}'
            f'</td><td style="white-space:nowrap">{escape(interval)}</td><td {left}>'
            f"{escape(note)}</td></tr>"
            for name, value, interval, note in self._shown()
        )
        return (
            f'<p style="color:{colour}"><strong>Calibration report</strong> '
            f"({escape(self.stamp)})</p><table><thead><tr><th></th><th>value</th>"
            f"<th>{100 * self.level:g}% interval</th><th></th></tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )

    def _rows(self) -> list[Measure]:
        return [
            ("rows", self.n, ""),
            ("accuracy", self.accuracy, ""),
            ("mean confidence", self.mean_confidence, ""),
            ("confidence − accuracy", self.gap, "positive is overconfident"),
            ("ECE", self.ece, self.rule),
            ("noise floor, mean", self.floor.mean, "ECE of a perfect forecaster"),
            ("noise floor, 95 %", self.floor.upper, self.verdict),
            ("debiased squared error", self.squared, "may be negative"),
            ("debiased L1 error", self.debiased, "may be negative"),
            ("MCE", self.mce, "one thin bin can make it"),
            ("Brier score", self.brier, "of the confidence, in [0, 1]"),
            ("log loss", self.log_loss, ""),
            ("AUROC", self.auroc, "ranking, apart from calibration"),
            ("AURC", self.aurc, "mean risk over coverages"),
            ("Spiegelhalter's p", self.spiegelhalter.p_value, "two-sided"),
            ("Kolmogorov–Smirnov p", self.kolmogorov_smirnov.p_value, "no bins"),
        ]

    def _shown(self) -> list[tuple[str, str, str, str]]:
        shown = []
        for name, value, note in self._rows():
            digits = 0 if name == "rows" else 5 if "squared" in name else 4
            reason = _NO_INTERVAL.get(name)
            interval = f"none: {reason}" if reason else ""
            if isinstance(value, Interval):
                if not np.isnan(value.low):
                    ends = (in_digits(end, digits) for end in value[1:])
                    interval = " to ".join(ends)
                value = value.value
            shown.append((name, in_digits(value, digits), interval, note))
        return shown


def calibration_metrics(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    groups: ArrayLike | None = None,
    evaluation: Literal["held-out", "in-sample"] | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> CalibrationReport:
    """Measure calibration in every way that matters, and what chance does to it.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1]. What a calibrator of :mod:`helpers.calibration`
        predicts knows whether its rows were fitted on, and the report says so.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct (or the event came), else 0.
    n_bins, strategy, closed
        The bins: see :func:`expected_calibration_error`.
    groups : array-like of shape (n,), optional
        Rows with the same value are drawn together in the bootstrap.
    evaluation : {"held-out", "in-sample"}, optional
        Whether the rows were fitted on, where the confidences do not know it. Rows
        that are known to be fitted on cannot be called held out.
    level : float, default=0.95
        Level of the intervals.
    n_resamples : int, default=1000
        Bootstrap resamples, and simulations of the noise floor.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    ValueError
        Bad data or rules, or a false claim to be held out.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(0.5, 1, 2000)
    >>> report = calibration_metrics(p, rng.random(2000) < p, evaluation="held-out")
    >>> report.verdict
    'cannot be told from a perfect forecaster with these bins and this many rows'
    """
    if evaluation is not None:
        check_choice("evaluation", evaluation, ("held-out", "in-sample"))
    check_between("level", level, 0, 1)
    generator = check_rng(rng)
    values, outcome, codes = check_rows(confidence, correct, groups, unanswered=True)
    state, n_fitted_on = _evaluation(confidence, len(values), evaluation)
    bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
    sums = sum_bins(values, outcome, bins)
    rule: dict[str, Any] = {"n_bins": n_bins, "strategy": strategy, "closed": closed}
    intervals = bootstrap_intervals(
        values,
        outcome,
        ["gap", "squared", "brier", "auroc"],
        groups=codes,
        level=level,
        n_resamples=n_resamples,
        rng=generator,
        **rule,
    )
    right = int(outcome.sum())
    return CalibrationReport(
        n=len(values),
        accuracy=Interval(
            right / len(values), *wilson(right, len(values), level).tolist()
        ),
        mean_confidence=float(values.mean(dtype=float)),
        gap=intervals["gap"],
        ece=error_of(sums, "l1"),
        mce=error_of(sums, "max"),
        floor=noise_floor(values, n_simulations=n_resamples, rng=generator, **rule),
        squared=intervals["squared"],
        debiased=debiased_calibration_error(values, outcome, norm="l1", **rule),
        brier=intervals["brier"],
        decomposition=brier_decomposition(values, outcome, **rule),
        log_loss=log_loss(values, outcome),
        auroc=intervals["auroc"],
        aurc=aurc(values, outcome),
        spiegelhalter=_test(values, outcome, "spiegelhalter"),
        kolmogorov_smirnov=_test(values, outcome, "kolmogorov-smirnov"),
        curve=_curve(values, outcome, bins, level, generator),
        bins=bins,
        level=level,
        evaluation=state,
        n_fitted_on=n_fitted_on,
        confidence=np.asarray(values),
        correct=outcome,
    )


def _evaluation(
    confidence: ArrayLike, n: int, stated: Literal["held-out", "in-sample"] | None
) -> tuple[Any, int]:
    """Whether rows were fitted on, and how many of them."""
    known, n_fitted_on = evaluation_of(confidence)
    if known == "in-sample":
        if stated == "held-out":
            raise ValueError(
                f"evaluation must not be 'held-out': {n_fitted_on} of the rows were "
                "fitted on."
            )
        return known, n_fitted_on
    return stated or known, n if stated == "in-sample" else 0


def _curve(
    values: np.ndarray,
    outcome: np.ndarray,
    bins: Bins,
    level: float,
    generator: np.random.Generator,
) -> pd.DataFrame:
    sums = sum_bins(values, outcome, bins)
    band = consistency_band(values, bins, level=level, rng=generator)
    return bin_table(sums, bins.edges, band, level)


def _test(
    values: np.ndarray,
    outcome: np.ndarray,
    method: Literal["spiegelhalter", "kolmogorov-smirnov"],
) -> CalibrationTest:
    try:
        return calibration_test(values, outcome, method=method)
    except ValueError:
        # Certain, or always at 0.5: the test has no scale.
        return CalibrationTest(np.nan, np.nan)


def p_text(value: float) -> str:
    """A p-value in words; none is printed as zero.

    Examples
    --------
    >>> p_text(0.0216), p_text(0.0004), p_text(np.nan)
    ('p = 0.022', 'p < 0.001', '–')
    """
    if np.isnan(value):
        return "–"
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def in_digits(value: float, digits: int) -> str:
    """A number as a table shows it: NaN is a dash, and nothing is rounded to zero.

    Examples
    --------
    >>> in_digits(-1234.5, 2), in_digits(0.00001, 4), in_digits(np.nan, 4)
    ('−1,234.50', '<0.0001', '–')
    """
    if np.isnan(value):
        return "–"
    if 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:,.{digits}f}".replace("-", "−")
