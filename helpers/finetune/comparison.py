"""Two models asked the same questions: what changed, and what chance would change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.contingency_tables import mcnemar

from ..checks import (
    check_between,
    check_count,
    check_distributions,
    check_groups,
    check_not_fitted_on,
    check_probabilities,
    check_rng,
    check_table,
    check_truth,
    in_order_of,
)
from ..metrics import Binning, Interval, noise_floor, paired_difference
from ..metrics.bins import Bins, at_least
from ..metrics.report import format_number, p_text
from ..metrics.resampling import Cells, drawn_groups, quantile_interval

# What the rows of the table are called in helpers.metrics.
_OF_CONFIDENCE = {
    "accuracy": "accuracy",
    "mean confidence": "confidence",
    "confidence − accuracy": "gap",
    "ECE": "ece",
    "debiased squared error": "squared",
    "MCE": "mce",
    "Brier score": "brier",
    "log loss": "log_loss",
    "AUROC": "auroc",
}


class McNemar(NamedTuple):
    """McNemar's exact test of whether one of two models is right more often.

    Attributes
    ----------
    only_base, only_tuned : int
        Rows in which only this one was right: the others say nothing.
    p_value : float
        The probability of counts at least so unequal, were both equally often right.
    """

    only_base: int
    only_tuned: int
    p_value: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What :func:`compare` found.

    Shown in a notebook it is a table; printed, the same as text.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a measure: its value for ``base`` and for ``tuned``, their
        ``difference``, tuned − base, ``low`` and ``high``, the ends of its paired
        bootstrap interval, and a ``note``. The rows are called "accuracy", "mean
        confidence", "confidence − accuracy", "ECE", "noise floor, mean", "noise floor,
        95 %", "debiased squared error", "MCE", "Brier score", "Brier score of labels",
        "log loss", "log loss of labels", "AUROC", "rows above" and "accuracy above".
    mcnemar : McNemar
        The test of the accuracies.
    n : int
        Rows.
    n_groups : int
        Groups of rows that were drawn together; the number of rows, if there are none.
    threshold : float
        From which confidence on a row is above.
    level : float
        Level of the intervals.
    """

    table: pd.DataFrame = field(repr=False)
    mcnemar: McNemar
    n: int
    n_groups: int
    threshold: float
    level: float

    @property
    def verdict(self) -> str:
        """What McNemar's test says, in words."""
        test = self.mcnemar
        return (
            f"McNemar's exact test: only base was right in {test.only_base:,} rows, "
            f"only tuned in {test.only_tuned:,}; {p_text(test.p_value)}"
        )

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._shown().to_string()}\n{self.verdict}"

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            table = self._shown().to_html(border=0)
        return (
            f"<p><strong>{escape(self._title())}</strong></p>{table}"
            f"<p>{escape(self.verdict)}</p>"
        )

    def _title(self) -> str:
        drawn = f" in {self.n_groups:,} groups" if self.n_groups < self.n else ""
        return f"Comparison of two models on {self.n:,} rows{drawn}"

    def _shown(self) -> pd.DataFrame:
        """The table as it is printed."""
        shown = pd.DataFrame(index=self.table.index.rename(None))
        digits = [0 if name == "rows above" else 4 for name in shown.index]

        def column(name: str) -> list[str]:
            return list(map(format_number, self.table[name], digits))

        for name in ("base", "tuned", "difference"):
            shown[name] = column(name)
        shown[f"{100 * self.level:g}% interval"] = [
            "" if low == "–" else f"{low} to {high}"
            for low, high in zip(column("low"), column("high"), strict=True)
        ]
        shown[""] = self.table["note"]
        return shown


def compare(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    truth: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    threshold: float = 0.9,
    n_bins: int = 20,
    level: float = 0.95,
    n_resamples: int = 2000,
    rng: np.random.Generator | int | None = 0,
) -> Comparison:
    """Compare two models on the same texts, row by row.

    Parameters
    ----------
    base, tuned : pandas.DataFrame
        Tidy tables of the two models with one index: ``p_<label>``, ``prediction`` and
        ``confidence``, as :meth:`helpers.classifier.LLMClassifier.score_table` gives.
        The confidence may be a calibrated one. No row may have been trained on.
    truth : array-like of shape (n,)
        The true labels; of a pandas Series, with the index of the tables.
    groups : array-like of shape (n,), optional
        Rows with the same value, such as families of texts, are drawn together: see
        :func:`helpers.metrics.paired_difference` and :func:`joined_groups`.
    threshold : float, default=0.9
        Rows with at least this confidence count as above, in [0, 1].
    n_bins : int, default=20
        Bins of equal width, for all calibration errors.
    level : float, default=0.95
        Level of the intervals.
    n_resamples : int, default=2000
        Bootstrap resamples, the same for all measures, and simulations of the noise
        floor.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        The tables differ in their rows or labels, lack a column, or hold bad values;
        a true label is none of theirs; or a rule is bad.

    Notes
    -----
    "Brier score" and "log loss" are of the confidence as a probability of being right,
    the former in [0, 1]; those "of labels" are of the whole distribution over labels
    and of the true label's probability. The Brier score of labels is a sum over labels,
    in [0, 2]; with two labels it is twice that of the most probable one.

    What is "above" differs between the models: the accuracies above are of different
    rows, and resamples in which a model has none above are left out of the interval.

    McNemar's test takes rows for independent; where groups matter, look at the
    interval of the accuracy. Intervals of "ECE" and "MCE" cover less often than they
    say: see :func:`helpers.metrics.paired_difference`.

    References
    ----------
    Dietterich, Approximate statistical tests for comparing supervised classification
    learning algorithms, Neural Computation 10, 1998.

    Examples
    --------
    >>> truth = ["a", "b"] * 50
    >>> base = pd.DataFrame({"p_a": [0.8, 0.6] * 50})
    >>> tuned = pd.DataFrame({"p_a": [0.9, 0.2] * 50})
    >>> for table in (base, tuned):
    ...     table["p_b"] = 1 - table["p_a"]
    ...     table["prediction"] = np.where(table["p_a"] > 0.5, "a", "b")
    ...     table["confidence"] = table[["p_a", "p_b"]].max(axis=1)
    >>> found = compare(base, tuned, truth, n_resamples=200)
    >>> found.table.loc["accuracy", ["base", "tuned", "difference"]].tolist()
    [0.5, 1.0, 0.5]
    >>> found.mcnemar.only_tuned, found.mcnemar.p_value < 1e-9
    (50, True)
    """
    check_between("threshold", threshold, 0, 1, closed=True)
    check_between("level", level, 0, 1)
    check_count("n_bins", n_bins)
    check_count("n_resamples", n_resamples)
    seed = int(check_rng(rng).integers(2**32))
    sides = _read(base, tuned, truth)
    n = len(base)
    codes = np.arange(n) if groups is None else check_groups(groups, base)
    found = paired_difference(
        (sides[0].confidence, sides[0].right),
        (sides[1].confidence, sides[1].right),
        tuple(_OF_CONFIDENCE.values()),
        groups=codes,
        binning=Binning(n_bins),
        level=level,
        n_resamples=n_resamples,
        rng=seed,
    )
    changes = {name: found[measure] for name, measure in _OF_CONFIDENCE.items()}
    draws = drawn_groups(codes, n_resamples, np.random.default_rng(seed))
    changes |= _ratio_changes([side.ratios(threshold) for side in sides], draws, level)
    values = [
        _values_of_confidence(side, n_bins, n_resamples, seed)
        | {name: _ratio(*parts) for name, parts in side.ratios(threshold).items()}
        for side in sides
    ]
    nothing = Interval(np.nan, np.nan, np.nan)
    rows = [
        (name, values[0][name], values[1][name], *changes.get(name, nothing), note)
        for name, note in _notes(n_bins, threshold).items()
    ]
    columns = ["measure", "base", "tuned", "difference", "low", "high", "note"]
    return Comparison(
        table=pd.DataFrame(rows, columns=columns).set_index("measure"),
        mcnemar=_mcnemar(sides[0].right, sides[1].right),
        n=n,
        n_groups=int(codes.max()) + 1,
        threshold=float(threshold),
        level=level,
    )


@dataclass(frozen=True)
class _Side:
    """One model: label probabilities, confidence, and what was true and right."""

    rows: np.ndarray
    truth: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def ratios(self, threshold: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Measures that are a sum over the rows divided by another."""
        n, n_labels = self.rows.shape
        each = np.ones(n)
        above = at_least(self.confidence, threshold).astype(float)
        squares = (self.rows - np.eye(n_labels)[self.truth]) ** 2
        with np.errstate(divide="ignore"):
            loss = -np.log(self.rows[np.arange(n), self.truth]) + 0.0
        return {
            "Brier score of labels": (squares.sum(axis=1), each),
            "log loss of labels": (loss, each),
            "rows above": (n * above, each),
            "accuracy above": (above * self.right, above),
        }


def _notes(n_bins: int, threshold: float) -> dict[str, str]:
    above = f"confidence of {threshold:g} or more"
    return {
        "accuracy": "",
        "mean confidence": "",
        "confidence − accuracy": "positive is overconfident",
        "ECE": f"{n_bins} bin{'s' if n_bins > 1 else ''} of equal width",
        "noise floor, mean": "ECE of a perfect forecaster",
        "noise floor, 95 %": "an ECE above it is more than chance explains",
        "debiased squared error": "may be negative",
        "MCE": "one thin bin can make it",
        "Brier score": "of the confidence, in [0, 1]",
        "Brier score of labels": "of all label probabilities, in [0, 2]",
        "log loss": "of the confidence",
        "log loss of labels": "of the probability of the true label",
        "AUROC": "ranking of right above wrong",
        "rows above": above,
        "accuracy above": f"{above}: other rows for each model",
    }


def _read(base: Any, tuned: Any, truth: Any) -> tuple[_Side, _Side]:
    first, labels = _read_table(base, "base")
    second, others = _read_table(tuned, "tuned", base)
    tuned = in_order_of(base, tuned, "tuned")
    if sorted(others) != sorted(labels):
        raise ValueError(f"tuned must have the labels of base, {labels!r}: {others!r}.")
    true = check_truth(truth, labels, base)
    order = [others.index(label) for label in labels]
    return (
        _side(base, "base", first, labels, true),
        _side(tuned, "tuned", second[:, order], labels, true),
    )


def _read_table(table: Any, name: str, *others: Any) -> tuple[np.ndarray, list[str]]:
    check_table(table, ("prediction", "confidence"), name)
    stated = [c for c in table.columns if isinstance(c, str) and c.startswith("p_")]
    named = f"probabilities of {name}"
    rows, labels = check_distributions(table[stated], named, *others)
    return rows.astype(float), labels


def _side(
    table: pd.DataFrame,
    name: str,
    rows: np.ndarray,
    labels: list[str],
    truth: np.ndarray,
) -> _Side:
    places = check_truth(table["prediction"], labels, name=f"prediction of {name}")
    confidence = check_probabilities(table["confidence"], f"confidence of {name}")
    check_not_fitted_on(table["confidence"], f"confidence of {name}")
    return _Side(rows, truth, confidence.astype(float), places == truth)


def _values_of_confidence(
    side: _Side, n_bins: int, n_simulations: int, seed: int
) -> dict[str, float]:
    binning = Binning(n_bins)
    bins = Bins.of(side.confidence, binning)
    cells = Cells.of(side.confidence, side.right, bins)
    once = cells.count[None, :]
    floor = noise_floor(
        side.confidence, binning=binning, n_simulations=n_simulations, rng=seed
    )
    values = {
        name: float(cells.measured(once, measure)[0])
        for name, measure in _OF_CONFIDENCE.items()
    }
    return values | {"noise floor, mean": floor.mean, "noise floor, 95 %": floor.upper}


def _ratio(above: np.ndarray, below: np.ndarray) -> float:
    return float(above.sum() / below.sum()) if below.any() else np.nan


def _ratio_changes(
    sides: list[dict[str, tuple[np.ndarray, np.ndarray]]],
    draws: Iterable[np.ndarray],
    level: float,
) -> dict[str, Interval]:
    """Changes of measures that are ratios of sums, on resampled rows."""
    names = list(sides[0])
    above, below = (
        np.stack([[side[name][part] for name in names] for side in sides])
        for part in (0, 1)
    )
    found = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for weights in draws:
            base, tuned = (weights @ above.mT) / (weights @ below.mT)
            found.append(tuned - base)
    resampled = np.concatenate(found)
    changes = {}
    for at, name in enumerate(names):
        base_value, tuned_value = (_ratio(*side[name]) for side in sides)
        value = tuned_value - base_value
        changes[name] = Interval(value, np.nan, np.nan)
        if np.isfinite(value):
            changes[name] = quantile_interval(value, resampled[:, at], level)
    return changes


def _mcnemar(base: np.ndarray, tuned: np.ndarray) -> McNemar:
    only_base, only_tuned = int((base & ~tuned).sum()), int((~base & tuned).sum())
    counts = [
        [int((base & tuned).sum()), only_base],
        [only_tuned, int((~base & ~tuned).sum())],
    ]
    return McNemar(only_base, only_tuned, float(mcnemar(counts, exact=True).pvalue))
