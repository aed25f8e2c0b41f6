"""One report of everything that is to be said about the calibration of a forecaster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from .bins import UNIFORM, Binning, Bins
from .errors import debiased_calibration_error, expected_calibration_error
from .resampling import (
    Cells,
    Interval,
    NoiseFloor,
    bootstrap_interval,
    fitted_floor,
    noise_floor,
)
from .scores import BrierDecomposition, TestMethod, aurc, calibration_test, log_loss

_MOST_MAPS = 500
_NOT_IN_FILE = "unknown of a map read from a file"
_STAMPS = {
    "held-out": "held out: none of these rows was fitted on",
    "in-sample": "IN-SAMPLE: {n} of these rows were fitted on; "
    "this says nothing about other data",
    "unstated": "as given; not stated whether a calibrator was fitted on these rows",
}
# Notes on measures, and why they have no interval: the plain errors lie above an error
# of zero in every sample, so that no interval made of them covers it.
_NOTES = {
    "mean confidence": ("", "known of these rows"),
    "confidence − accuracy": ("positive is overconfident", ""),
    "ECE": ("", "biased upwards"),
    "noise floor, mean": ("ECE of a perfect forecaster", "simulated"),
    "noise floor, 95 %": ("", "simulated"),
    "floor of the map, 95 %": ("", "simulated"),
    "debiased squared error": ("may be negative", ""),
    "debiased L1 error": ("may be negative", "biased near zero"),
    "MCE": ("one thin bin can make it", "biased upwards"),
    "Brier score": ("of the confidence, in [0, 1]", ""),
    "log loss": ("", "may be infinite"),
    "AUROC": ("ranking, apart from calibration", ""),
    "AURC": ("mean risk over coverages", "see AUROC"),
    "Spiegelhalter's p": ("two-sided", "a p-value"),
    "Kolmogorov–Smirnov p": ("no bins", "a p-value"),
}


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Everything about the calibration of one set of confidences, shown as a table.

    It has bootstrap intervals of ``gap`` (confidence − accuracy), ``squared`` (the
    debiased error), ``brier`` and ``auroc``; the noise ``floor``; ``evaluation``,
    whether rows were fitted on; ``n_labels`` that a map was fitted on, if confidences
    know it; and ``curve``, one row a bin: its edges, ``n``, mean ``confidence``,
    ``accuracy`` with Wilson's interval, and the band (``band_low``, ``band_high``)
    where the accuracy would lie if the confidences were true.
    """

    confidence: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)
    gap: Interval
    squared: Interval
    brier: Interval
    auroc: Interval
    floor: NoiseFloor
    curve: pd.DataFrame = field(repr=False)
    binning: Binning
    rule: str
    level: float
    evaluation: str
    n_fitted_on: int
    n_labels: int | None = None
    _floor_of_map: Callable[[], NoiseFloor | None] | None = field(
        default=None, repr=False
    )

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.confidence)

    @property
    def accuracy(self) -> Interval:
        """Share of correct rows, with Wilson's interval."""
        return Interval.of_share(int(self.correct.sum()), self.n, self.level)

    @property
    def mean_confidence(self) -> float:
        """Mean confidence."""
        return float(self.confidence.mean(dtype=float))

    @cached_property
    def ece(self) -> float:
        """Expected calibration error."""
        return expected_calibration_error(*self._rows, binning=self.binning)

    @cached_property
    def fitted_floor(self) -> NoiseFloor | None:
        """What a map of the right form shows, fitted on as many labels; or None.

        None where confidences do not know their map, or it was read from a file. It is
        computed when first asked for, from a hundred refits or a formula. Of histogram
        and isotonic maps of few labels it is too low.
        """
        return self._floor_of_map and self._floor_of_map()

    @cached_property
    def debiased(self) -> float:
        """The debiased L1 error; it may be negative."""
        rows, binning = self._rows, self.binning
        return debiased_calibration_error(*rows, binning=binning, norm="l1")

    @cached_property
    def decomposition(self) -> BrierDecomposition:
        """The parts of the Brier score."""
        return BrierDecomposition.of(*self._rows, binning=self.binning)

    @cached_property
    def log_loss(self) -> float:
        """Log loss; infinite where a certainty was wrong."""
        return log_loss(*self._rows)

    @property
    def stamp(self) -> str:
        """Whether the rows were held out, in words."""
        return _STAMPS[self.evaluation].format(n=f"{self.n_fitted_on:,}")

    @property
    def verdict(self) -> str:
        """What the ECE shows, given the noise floor."""
        if self.evaluation == "in-sample":
            return "nothing can be concluded from rows that were fitted on"
        perfect = "cannot be told from a perfect forecaster with these bins and"
        if self.ece <= self.floor.upper:
            return f"{perfect} this many rows"
        fitted, why = self.fitted_floor, "chance explains"
        if fitted is not None:
            if self.ece <= fitted.upper:
                return f"{perfect} {self.n_labels:,} labels to fit the map on"
            why = "chance and the labels fitted on explain"
        elif self.n_labels is not None:
            why += f", unless it is the luck of the {self.n_labels:,} labels fitted on"
        way = "over" if self.gap.value > 0 else "under"
        return f"more than {why}; on the whole {way}confident"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The measures: value, interval, note, and why there is no interval."""
        rows, binning = self._rows, self.binning
        fitted = {}
        if self.n_labels is not None:
            upper = self.fitted_floor.upper if self.fitted_floor else np.nan
            fitted["floor of the map, 95 %"] = upper
        measures: dict[str, float | Interval] = {
            "rows": self.n,
            "accuracy": self.accuracy,
            "mean confidence": self.mean_confidence,
            "confidence − accuracy": self.gap,
            "ECE": self.ece,
            "noise floor, mean": self.floor.mean,
            "noise floor, 95 %": self.floor.upper,
            **fitted,
            "debiased squared error": self.squared,
            "debiased L1 error": self.debiased,
            "MCE": expected_calibration_error(*rows, binning=binning, norm="max"),
            "Brier score": self.brier,
            "log loss": self.log_loss,
            "AUROC": self.auroc,
            "AURC": aurc(*rows),
            "Spiegelhalter's p": self._p_value("spiegelhalter"),
            "Kolmogorov–Smirnov p": self._p_value("kolmogorov-smirnov"),
        }
        notes = {"ECE": self.rule, "noise floor, 95 %": self.verdict}
        notes["floor of the map, 95 %"] = (
            f"ECE of a right map of {self.n_labels} labels"
        )
        table = measure_table(measures, notes)
        table["no_interval"] = [_NOTES.get(name, ("", ""))[1] for name in measures]
        if fitted and self.fitted_floor is None:
            table.loc["floor of the map, 95 %", "no_interval"] = _NOT_IN_FILE
        if np.isnan(self.auroc.low):
            table.loc["AUROC", "no_interval"] = "fewer than 10 right or wrong"
        return table

    def __str__(self) -> str:
        lines = [
            f"{name:<22}  {value:>8}  {interval:<25}  {note}".rstrip()
            for name, value, interval, note in self._shown()
        ]
        return "\n".join([f"Calibration report ({self.stamp})", *lines])

    def _repr_html_(self) -> str:
        colour = "#b00020" if self.evaluation == "in-sample" else "inherit"
        columns = ["", "value", f"{100 * self.level:g}% interval", " "]
        shown = pd.DataFrame(self._shown(), columns=columns)
        return (
            f'<p style="color:{colour}"><strong>Calibration report</strong> '
            f"({escape(self.stamp)})</p>{shown.to_html(index=False, border=0)}"
        )

    def _shown(self) -> list[tuple[str, str, str, str]]:
        shown = []
        for name, value, low, high, note, reason in self.table.itertuples():
            digits = 0 if name == "rows" else 5 if "squared" in name else 4
            interval = f"none: {reason}" if reason else ""
            if not np.isnan(low):
                ends = (format_number(end, digits) for end in (low, high))
                interval = " to ".join(ends)
            shown.append((name, format_number(value, digits), interval, note))
        return shown

    @property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.confidence, self.correct

    def _p_value(self, method: TestMethod) -> float:
        try:
            return calibration_test(*self._rows, method=method).p_value
        except ValueError:  # certain, or always at 0.5: the test has no scale
            return np.nan


def calibration_metrics(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    binning: Binning = UNIFORM,
    groups: ArrayLike | None = None,
    evaluation: Literal["held-out", "in-sample"] | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> CalibrationReport:
    """Measure calibration in every way that matters, and what chance does to it.

    Parameters
    ----------
    confidence, correct, binning, groups, level, n_resamples, rng
        See :func:`bootstrap_interval`. Confidences predicted by a calibrator of
        :mod:`helpers.calibration` know whether their rows were fitted on.
    evaluation : {"held-out", "in-sample"}, optional
        Whether the rows were fitted on, where the confidences do not know it. Of
        calibrated confidences, "held-out" counts only where rows fitted on would have
        been recognised: by ids, or by scores of which hardly any occurs twice.

    Examples
    --------
    >>> calibration_metrics([0.9] * 100, [1] * 90 + [0] * 10).verdict
    'cannot be told from a perfect forecaster with these bins and this many rows'
    """
    if evaluation is not None:
        check_choice("evaluation", evaluation, ("held-out", "in-sample"))
    check_between("level", level, 0, 1)
    generator = check_rng(rng)
    values, outcome, codes = check_rows(confidence, correct, groups, unanswered=True)
    state, n_fitted_on = evaluation_of(confidence)
    if state != "in-sample" and evaluation is not None:
        # Calibrated values whose rows cannot be recognised are not held out by claim.
        marked = getattr(confidence, "values", confidence)
        if evaluation == "in-sample" or getattr(marked, "can_tell", True):
            state, n_fitted_on = evaluation, len(values) * (evaluation == "in-sample")
        else:
            warnings.warn(
                "evaluation='held-out' is not believed: without names, rows with such "
                "scores would not be recognised as fitted on. Give ids to fit and to "
                "predict of the calibrator.",
                stacklevel=2,
            )
    elif evaluation == "held-out":
        n = n_fitted_on
        raise ValueError(f"evaluation must not be 'held-out'; {n} rows were fitted on.")
    names = ["gap", "squared", "brier", "auroc"]
    rule: Any = {"binning": binning, "rng": generator}
    draws: Any = {"groups": codes, "level": level, "n_resamples": n_resamples}
    intervals = bootstrap_interval(values, outcome, names, **draws, **rule)
    floor = noise_floor(values, n_simulations=n_resamples, **rule)
    bins = Bins.of(values, binning)
    curve = _curve(values, outcome, bins, level, generator)
    n_maps, later = min(n_resamples, _MOST_MAPS), deepcopy(generator)
    floor_of_map = partial(_floor_of_map, confidence, values, bins, n_maps, later)
    return CalibrationReport(
        confidence=np.asarray(values),
        correct=outcome,
        **intervals,
        floor=floor,
        curve=curve,
        binning=binning,
        rule=str(bins),
        level=level,
        evaluation=state,
        n_fitted_on=n_fitted_on,
        n_labels=getattr(confidence, "n_labels", None),
        _floor_of_map=floor_of_map if hasattr(confidence, "plausible") else None,
    )


def _floor_of_map(
    confidence: Any,
    values: np.ndarray,
    bins: Bins,
    n_maps: int,
    generator: np.random.Generator,
) -> NoiseFloor | None:
    """The floor of the map that confidences come from; None where it is unknown."""
    truths = confidence.plausible(n_maps, generator)
    return truths and fitted_floor(values, truths, bins, generator)


def measure_table(
    measures: Mapping[str, float | Interval], notes: Mapping[str, str]
) -> pd.DataFrame:
    """Measures, one a row: value, low and high of its interval, and note."""
    rows = []
    for name, found in measures.items():
        value = found if isinstance(found, Interval) else (found, np.nan, np.nan)
        rows.append((name, *value, notes.get(name, _NOTES.get(name, ("",))[0])))
    columns = ["measure", "value", "low", "high", "note"]
    return pd.DataFrame(rows, columns=columns).set_index("measure")


def _curve(
    values: np.ndarray,
    outcome: np.ndarray,
    bins: Bins,
    level: float,
    generator: np.random.Generator,
) -> pd.DataFrame:
    cells = Cells.of(values, None, bins)
    drawn = [sums.correct / sums.count for sums in cells.drawn(1000, generator)]
    band = np.full((2, len(bins)), np.nan)
    tails = [(1 - level) / 2, (1 + level) / 2]
    band[:, cells.bins] = np.quantile(np.concatenate(drawn), tails, axis=0)
    edges = {"low": bins.edges[:-1], "high": bins.edges[1:]}
    means = bins.sums(values, outcome).means(level)
    return pd.DataFrame(edges | means | {"band_low": band[0], "band_high": band[1]})


def p_text(value: float) -> str:
    """A p-value in words; none is printed as zero.

    >>> p_text(0.0216), p_text(0.0004), p_text(np.nan)
    ('p = 0.022', 'p < 0.001', '–')
    """
    if np.isnan(value):
        return "–"
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def format_number(value: float, digits: int) -> str:
    """A number as a table shows it: NaN is a dash, and nothing is rounded to zero."""
    if np.isnan(value):
        return "–"
    if 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:,.{digits}f}".replace("-", "−")
