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
from ..metrics import Binning, bootstrap_interval, noise_floor, paired_difference
from ..metrics.bins import at_least
from ..metrics.report import format_number, p_text
from ..metrics.resampling import Interval, drawn_groups

Columns = ArrayLike | Mapping[str, ArrayLike] | pd.DataFrame
_ABOVE = "confidence of {threshold:g} or more"
# The rows of the table: what helpers.metrics calls them, or None, and a note.
_ROWS: dict[str, tuple[str | None, str]] = {
    "accuracy": ("accuracy", ""),
    "mean confidence": ("confidence", ""),
    "confidence − accuracy": ("gap", "positive is overconfident"),
    "ECE": ("ece", "{bins} of equal width"),
    "noise floor, mean": (None, "ECE of a perfect forecaster"),
    "noise floor, 95 %": (None, "an ECE above it is more than chance explains"),
    "debiased squared error": ("squared", "may be negative"),
    "MCE": ("mce", "one thin bin can make it"),
    "Brier score": ("brier", "of the confidence, in [0, 1]"),
    "Brier score of labels": (None, "of all label probabilities, in [0, 2]"),
    "log loss": ("log_loss", "of the confidence"),
    "log loss of labels": (None, "of the probability of the true label"),
    "AUROC": ("auroc", "ranking of right above wrong"),
    "rows above": (None, _ABOVE),
    "accuracy above": (None, _ABOVE + ": other rows for each model"),
}
_RATIOS: tuple[str, ...] = ("Brier score of labels", "log loss of labels")
_RATIOS += ("rows above", "accuracy above")
_MEASURES = {name: measure for name, (measure, _) in _ROWS.items() if measure}


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
    sides = _read(base, tuned, truth)
    codes = np.arange(len(base))
    if groups is not None:
        codes = checks.check_groups(groups, base)
    pairs = [(side["confidence"], side["right"]) for side in sides]
    names = list(_MEASURES.values())
    binning = Binning(n_bins)
    found = paired_difference(
        pairs[0],
        pairs[1],
        names,
        groups=codes,
        binning=binning,
        n_resamples=n_resamples,
        rng=seed,
    )
    changes = {name: found[measure] for name, measure in _MEASURES.items()}
    parts = _parts_of_ratios(sides, threshold)
    draws = drawn_groups(codes, n_resamples, np.random.default_rng(seed))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.divide(*parts.sum(axis=-1))
        drawn = np.concatenate([np.divide(*parts @ w.T) for w in draws], axis=-1)
        change, resampled = np.diff(ratios)[:, 0], np.diff(drawn, axis=1)[:, 0]
    for at, name in enumerate(_RATIOS):
        known = resampled[at] if np.isfinite(change[at]) else np.array([])
        changes[name] = Interval.of_draws(change[at], known, 0.95)
    table = pd.DataFrame(index=pd.Index(_ROWS, name="measure"))
    for at, pair in enumerate(pairs):
        once = bootstrap_interval(
            pair[0], pair[1], names, binning=binning, n_resamples=1
        )
        floor = noise_floor(
            pair[0], binning=binning, n_simulations=n_resamples, rng=seed
        )
        values = {name: once[measure].value for name, measure in _MEASURES.items()}
        values |= {"noise floor, mean": floor.mean, "noise floor, 95 %": floor.upper}
        values |= dict(zip(_RATIOS, ratios[:, at], strict=True))
        table["tuned" if at else "base"] = pd.Series(values)
    ends = pd.DataFrame(changes, index=["difference", "low", "high"]).T
    table = table.join(ends)
    said = {"bins": f"{n_bins} bin{'s' * (n_bins > 1)}", "threshold": threshold}
    table["note"] = [note.format(**said) for _, note in _ROWS.values()]
    return Comparison(
        table=table,
        mcnemar=_mcnemar(sides[0]["right"], sides[1]["right"]),
        n=len(base),
        n_groups=int(codes.max()) + 1,
    )


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
        for at, (name, (stated, outcome)) in enumerate(models.items()):
            chosen = outcome[at_least(stated, threshold)]
            n, right = len(chosen), int(chosen.sum())
            wrong = n - right
            low = high = np.nan
            if n:
                low, high = proportion_confint(right, n, 1 - level, method="beta")
            first = rows[-at] if at else {"errors": wrong, "above": n}
            change = error_rate_difference(
                (first["errors"], wrong), (first["above"], n)
            )
            row = {
                "threshold": float(threshold),
                "model": name,
                "above": n,
                "right": right,
                "accuracy": right / n if n else np.nan,
                "low": low,
                "high": high,
                "errors": wrong,
                "error_rate": change.second,
                "errors_per_1000": 1000 * wrong / len(outcome),
                "difference": change.difference if at else np.nan,
                "p_value": change.p_value if at else np.nan,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _parts_of_ratios(sides: list[dict[str, Any]], threshold: float) -> np.ndarray:
    right = np.array([side["right"] for side in sides])
    over = np.array([at_least(side["confidence"], threshold) for side in sides])
    each, n = np.ones(right.shape), right.shape[1]
    losses = [np.array([side[name] for side in sides]) for name in _RATIOS[:2]]
    above = [*losses, n * over, over & right]
    return np.array([above, [each, each, each, over]], dtype=float)


def _read(base: Any, tuned: Any, truth: Any) -> list[dict[str, Any]]:
    """Confidence, outcome and the losses of labels, row by row, of both models."""
    rows, labels = _distributions(base, "base")
    others, order = _distributions(tuned, "tuned", base)
    if sorted(order) != sorted(labels):
        raise ValueError(f"tuned must have the labels of base, {labels!r}: {order!r}.")
    others = others[:, [order.index(label) for label in labels]]
    true = checks.check_truth(truth, labels, base)
    tuned = checks.in_order_of(base, tuned, "tuned")
    sides = []
    for name, table, p in (("base", base, rows), ("tuned", tuned, others)):
        called = f"prediction of {name}"
        said = checks.check_truth(table["prediction"], labels, name=called)
        called = f"confidence of {name}"
        confidence = checks.check_probabilities(table["confidence"], called)
        checks.check_not_fitted_on(table["confidence"], called)
        with np.errstate(divide="ignore"):
            loss = -np.log(p[np.arange(len(p)), true]) + 0.0
        side = {
            "confidence": confidence.astype(float),
            "right": said == true,
            "Brier score of labels": ((p - np.eye(len(labels))[true]) ** 2).sum(axis=1),
            "log loss of labels": loss,
        }
        sides.append(side)
    return sides


def _distributions(table: Any, name: str, *others: Any) -> tuple[np.ndarray, list[str]]:
    checks.check_table(table, ("prediction", "confidence"), name)
    stated = [c for c in table.columns if isinstance(c, str) and c.startswith("p_")]
    named = f"probabilities of {name}"
    rows, labels = checks.check_distributions(table[stated], named, *others)
    return rows.astype(float), labels


def _mcnemar(base: np.ndarray, tuned: np.ndarray) -> McNemar:
    only_base, only_tuned = int((base & ~tuned).sum()), int((~base & tuned).sum())
    # Rows that both have right, or both wrong, do not count.
    test = mcnemar([[0, only_base], [only_tuned, 0]], exact=True)
    return McNemar(only_base, only_tuned, float(test.pvalue))


def _models(confidence: Any, correct: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    for name, given in (("confidence", confidence), ("correct", correct)):
        if isinstance(given, pd.DataFrame):
            checks.check_table(given, name=name)
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
