"""Two models on the same texts: what changed, and what is left above a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import fisher_exact
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from .. import checks
from ..metrics import Binning, noise_floor
from ..metrics.bins import Bins, at_least
from ..metrics.report import format_number, p_text
from ..metrics.resampling import Cells, NoiseFloor, bootstrapped, drawn_groups

Columns = ArrayLike | Mapping[str, ArrayLike] | pd.DataFrame
_ABOVE = "confidence of {threshold:g} or more"
# The rows of the table: what they are called below, and a note.
_ROWS = {
    "accuracy": ("accuracy", ""),
    "mean confidence": ("confidence", ""),
    "confidence − accuracy": ("gap", "positive is overconfident"),
    "ECE": ("ece", "{bins} of equal width"),
    "noise floor, mean": ("mean", "ECE of a perfect forecaster"),
    "noise floor, 95 %": ("upper", "an ECE above it is more than chance explains"),
    "debiased squared error": ("squared", "may be negative"),
    "MCE": ("mce", "one thin bin can make it"),
    "Brier score": ("brier", "of the confidence, in [0, 1]"),
    "Brier score of labels": ("label_brier", "of all label probabilities, in [0, 2]"),
    "log loss": ("log_loss", "of the confidence"),
    "log loss of labels": ("label_log_loss", "of the probability of the true label"),
    "AUROC": ("auroc", "ranking of right above wrong"),
    "rows above": ("n_above", _ABOVE),
    "accuracy above": ("accuracy_above", _ABOVE + ": other rows for each model"),
}


class McNemar(NamedTuple):
    """McNemar's exact test of whether one of two models is right more often."""

    only_base: int
    only_tuned: int
    p_value: float


class RateDifference(NamedTuple):
    """Two error rates, second − first, and the p-value of Fisher's exact test."""

    first: float
    second: float
    difference: float
    p_value: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What :func:`compare` found; shown as a table.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a measure: ``base``, ``tuned``, their ``difference`` (tuned − base), its
        paired 95 % bootstrap interval ``low`` to ``high``, and a ``note``.
    mcnemar : McNemar
        The exact test of the accuracies: ``only_base``, ``only_tuned``, ``p_value``.
    n, n_groups : int
        Rows, and groups of rows that were drawn together.
    """

    table: pd.DataFrame = field(repr=False)
    mcnemar: McNemar
    n: int
    n_groups: int

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
        title, verdict = escape(self._title()), escape(self.verdict)
        return f"<p><strong>{title}</strong></p>{table}<p>{verdict}</p>"

    def _title(self) -> str:
        drawn = f" in {self.n_groups:,} groups" if self.n_groups < self.n else ""
        return f"Comparison of two models on {self.n:,} rows{drawn}"

    def _shown(self) -> pd.DataFrame:
        shown = self.table.rename_axis(None).rename(columns={"note": ""})
        digits = [0 if name == "rows above" else 4 for name in shown.index]
        for name in ("base", "tuned", "difference", "low", "high"):
            shown[name] = list(map(format_number, shown[name], digits))
        low, high = shown.pop("low"), shown.pop("high")
        shown.insert(3, "95% interval", (low + " to " + high).where(low != "–", ""))
        return shown


def compare(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    truth: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    threshold: float = 0.9,
    n_bins: int = 20,
    n_resamples: int = 2000,
    rng: np.random.Generator | int | None = 0,
) -> Comparison:
    """Compare two models on the same texts, row by row.

    "Brier score" and "log loss" are of the confidence as a probability of being right;
    those "of labels" are of the whole distribution. McNemar's test (see Dietterich,
    Neural Computation 10, 1998) assumes independent rows: with groups, use the interval
    of the accuracy.

    Parameters
    ----------
    base, tuned : pandas.DataFrame
        Tables with one index: ``p_<label>``, ``prediction`` and ``confidence``, as from
        :meth:`helpers.classifier.LLMClassifier.score_table`; no training rows.
    truth : array-like of shape (n,)
        The true labels; a pandas Series must have the index of the tables.
    groups : array-like of shape (n,), optional
        Rows with the same value are drawn together: see :func:`joined_groups`.
    threshold : float, default=0.9
        Rows with at least this confidence count as above, in [0, 1].
    n_bins : int, default=20
        Bins of equal width for calibration errors.
    n_resamples : int, default=2000
        Bootstrap resamples, and simulations of the noise floor.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Examples
    --------
    >>> base = pd.DataFrame({"p_a": [0.8, 0.6], "p_b": [0.2, 0.4]})
    >>> base["prediction"], base["confidence"] = "a", base["p_a"]
    >>> compare(base, base, ["a", "b"], n_resamples=9).table.loc["accuracy", "base"]
    np.float64(0.5)
    """
    checks.check_between("threshold", threshold, 0, 1, closed=True)
    checks.check_count("n_bins", n_bins)
    checks.check_count("n_resamples", n_resamples)
    seed = int(checks.check_rng(rng).integers(2**32))
    binning = Binning(n_bins)
    sides = _read(base, tuned, truth, threshold, binning)
    before, after = sides.values()
    codes = np.arange(len(base))
    if groups is not None:
        codes = checks.check_groups(groups, base)
    measures, notes = zip(*_ROWS.values(), strict=True)
    names = [name for name in measures if name not in NoiseFloor._fields]
    once = np.ones((1, len(base)), dtype=np.intp)
    draws = drawn_groups(codes, n_resamples, np.random.default_rng(seed))

    def change(weights: np.ndarray, name: str) -> np.ndarray:
        return after.measured(weights, name) - before.measured(weights, name)

    # A certainty that is wrong has an infinite loss, and nothing may be above.
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = bootstrapped(names, change, once, draws, 0.95, ("ece",))
        values = {
            column: {name: side.measured(once, name)[0] for name in names}
            for column, side in sides.items()
        }
    for column, side in sides.items():
        floor = noise_floor(
            side.confidence, binning=binning, n_simulations=n_resamples, rng=seed
        )
        values[column] |= floor._asdict()
    ends = pd.DataFrame(changes, index=["difference", "low", "high"]).T
    ends.loc[~np.isfinite(ends["difference"]), ["low", "high"]] = np.nan
    table = pd.DataFrame(values).join(ends).loc[list(measures)]
    table.index = pd.Index(_ROWS, name="measure")
    bins = f"{n_bins} bin{'s' * (n_bins > 1)}"
    table["note"] = [note.format(bins=bins, threshold=threshold) for note in notes]
    only_base = int((before.right & ~after.right).sum())
    only_tuned = int((after.right & ~before.right).sum())
    # Rows that both have right, or both wrong, do not count.
    test = mcnemar([[0, only_base], [only_tuned, 0]], exact=True)
    counts = McNemar(only_base, only_tuned, float(test.pvalue))
    return Comparison(table, counts, len(base), int(codes.max()) + 1)


def error_rate_difference(
    errors: Sequence[int], answered: Sequence[int]
) -> RateDifference:
    """Compare two error rates where only counts are known, by Fisher's exact test.

    The test assumes independent sets; for two models on the same texts see
    :func:`compare`.

    Parameters
    ----------
    errors, answered : sequence of int, of length 2
        Wrong answers, and all answers, of the first and the second.

    Returns
    -------
    RateDifference
        The rates ``first`` and ``second``, their ``difference`` (second − first), and
        the two-sided ``p_value``; NaN where one has no answers.

    Examples
    --------
    >>> round(error_rate_difference([47, 10], [285, 92]).p_value, 2)
    0.24
    """
    for name, counts in (("errors", errors), ("answered", answered)):
        if len(counts) != 2:
            raise ValueError(f"{name} must be two counts, not {counts!r}.")
        for count in counts:
            checks.check_count(name, count, 0)
    pairs = list(zip(errors, answered, strict=True))
    for wrong, n in pairs:
        if wrong > n:
            raise ValueError(f"errors must be at most answered, {n}, not {wrong}.")
    first, second = (wrong / n if n else np.nan for wrong, n in pairs)
    p_value = np.nan
    if min(answered):
        p_value = float(fisher_exact([[wrong, n - wrong] for wrong, n in pairs]).pvalue)
    return RateDifference(first, second, second - first, p_value)


def accuracy_above_table(
    confidence: Columns,
    correct: Columns,
    thresholds: Sequence[float] = (0.9,),
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """Answers above each threshold, and their accuracy, for one model or several.

    Parameters
    ----------
    confidence : array-like of shape (n,), mapping or pandas.DataFrame
        Confidences in [0, 1]; of several models, by name, on the same texts.
    correct : array-like of shape (n,), mapping or pandas.DataFrame
        1 or True where the model was right, else 0; one column for all models, or by
        the same names.
    thresholds : sequence of float, default=(0.9,)
        An answer is above a threshold if its confidence is that or more. In [0, 1].
    level : float, default=0.95
        Level of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row a ``threshold`` and ``model``: the counts ``above`` and ``right``, the
        ``accuracy`` with its Clopper–Pearson interval ``low`` to ``high``, ``errors``,
        ``error_rate``, ``errors_per_1000`` of all texts, and ``difference`` and
        ``p_value`` of :func:`error_rate_difference` from the first model.

    Examples
    --------
    >>> accuracy_above_table([0.95, 0.95, 0.6], [1, 0, 1])[["above", "errors"]]
       above  errors
    0      2       1
    """
    checks.check_between("level", level, 0, 1)
    if np.ndim(thresholds) != 1 or not len(thresholds):
        raise ValueError(f"thresholds must be one or more numbers, not {thresholds!r}.")
    for threshold in thresholds:
        checks.check_between("thresholds", threshold, 0, 1, closed=True)
    models = _models(confidence, correct)
    rows: list[dict[str, Any]] = []
    for threshold in thresholds:
        for name, (stated, outcome) in models.items():
            chosen = outcome[at_least(stated, threshold)]
            row = {"threshold": float(threshold), "model": name, "above": len(chosen)}
            rows.append(row | {"right": int(chosen.sum())})
    table = pd.DataFrame(rows)
    above, right = table["above"].to_numpy(), table["right"].to_numpy()
    errors, some = above - right, above > 0
    n = np.maximum(above, 1)
    ends = proportion_confint(right, n, 1 - level, method="beta")
    first = table.index // len(models) * len(models)
    counts = np.stack([errors[first], errors, above[first], above], axis=1)
    tests = [error_rate_difference(row[:2], row[2:]) for row in counts.tolist()]
    changes = pd.DataFrame(tests)[["difference", "p_value"]]
    table["accuracy"] = table["right"] / table["above"]
    table["low"], table["high"] = (np.where(some, end, np.nan) for end in ends)
    table["errors"] = errors
    table["error_rate"] = table["errors"] / table["above"]
    table["errors_per_1000"] = 1000 * errors / len(outcome)
    return table.join(changes[table.index > first])


@dataclass(frozen=True)
class _Side:
    """One model row by row; some measures are ratios of weighted sums."""

    confidence: np.ndarray
    right: np.ndarray
    cells: Cells
    ratios: dict[str, np.ndarray]

    def measured(self, weights: np.ndarray, name: str) -> np.ndarray:
        if name not in self.ratios:
            return self.cells.measured(weights[:, self.cells.rows], name)
        above, below = self.ratios[name] @ weights.T
        return above / below


def _read(
    base: Any, tuned: Any, truth: Any, threshold: float, binning: Binning
) -> dict[str, _Side]:
    sides: dict[str, _Side] = {}
    stated: list[str] = []
    for name, table in (("base", base), ("tuned", tuned)):
        checks.check_table(table, ("prediction", "confidence"), name)
        found = [column for column in table if str(column).startswith("p_")]
        stated = stated or found
        if sorted(found) != sorted(stated):
            raise ValueError(
                f"{name} must have the labels of base, {stated!r}, not {found!r}."
            )
        called = f"probabilities of {name}"
        p, labels = checks.check_distributions(table[stated], called, base)
        true = checks.check_truth(truth, labels, base)
        table = checks.in_order_of(base, table, name)
        called = f"prediction of {name}"
        right = checks.check_truth(table["prediction"], labels, name=called) == true
        called = f"confidence of {name}"
        confidence = checks.check_probabilities(table["confidence"], called)
        checks.check_not_fitted_on(table["confidence"], called)
        over, every = at_least(confidence, threshold), np.ones(len(p))
        confidence, p = confidence.astype(float), p.astype(float)
        squared = ((p - np.eye(len(labels))[true]) ** 2).sum(axis=1)
        with np.errstate(divide="ignore"):
            loss = -np.log(p[np.arange(len(p)), true]) + 0.0
        ratios = {
            "label_brier": np.array([squared, every]),
            "label_log_loss": np.array([loss, every]),
            "n_above": np.array([len(p) * over, every]),
            "accuracy_above": np.array([over & right, over], dtype=float),
        }
        bins = Bins.of(confidence, binning)
        cells = Cells.of(confidence, right, bins, merge=False)
        sides[name] = _Side(confidence, right, cells, ratios)
    return sides


def _models(confidence: Any, correct: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not isinstance(confidence, (Mapping, pd.DataFrame)):
        confidence = {"model": confidence}
    if not isinstance(correct, (Mapping, pd.DataFrame)):
        correct = dict.fromkeys(confidence, correct)
    if set(correct) != set(confidence) or not len(confidence):
        raise ValueError(
            "correct must be of the models of confidence, one or more, "
            f"{list(confidence)!r}, not {list(correct)!r}."
        )
    models: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    seen: list[Any] = []
    for name in confidence:
        called = f"confidence of {name!r}"
        values = checks.check_probabilities(confidence[name], called, *seen)
        checks.check_not_fitted_on(confidence[name], called)
        seen.append(confidence[name])
        right = checks.check_outcomes(correct[name], *seen, name=f"correct of {name!r}")
        models[name] = (values, right)
    return models
