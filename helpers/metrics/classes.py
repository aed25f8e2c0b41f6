"""Calibration class by class, and means of surveys: few rows, in clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm as normal
from scipy.stats import t as student

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_different,
    check_groups,
    check_labels,
    check_numbers,
    check_outcomes,
    check_probabilities,
    check_rng,
    evaluation_of,
)
from .resampling import Interval, drawn_groups

ClassNorm = Literal["l1", "squared"]
_ENDS = ("", "_low", "_high")


def class_table(
    predicted: ArrayLike,
    correct: ArrayLike,
    confidences: Mapping[str, ArrayLike],
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy and mean confidence of each predicted class, with their intervals.

    Accuracies have Wilson's interval, means Student's, and gaps Newcombe's (1998). With
    groups, Student's counts groups, Wilson's n / deff rows (Korn and Graubard, 1998).

    Parameters
    ----------
    predicted, correct : array-like of shape (n,)
        The predicted classes, and 1 or True where the prediction was correct, else 0.
    confidences : mapping of str to array-like of shape (n,)
        Names, and confidences in the prediction, in [0, 1].
    groups, level
        See :func:`bootstrap_interval`; rows of one group are not independent.

    Returns
    -------
    pandas.DataFrame
        One row a class, the most frequent first: ``n``, ``accuracy``, and for each
        confidence its mean ``<name>`` and ``<name>_gap``, the mean less the accuracy.
        Each has ``_low`` and ``_high``: NaN for a class with one group or, but for the
        accuracy, one row. ``attrs["in_sample"]`` lists confidences with rows fitted on.

    Examples
    --------
    >>> table = class_table(["hand", "hand", "knee"], [1, 0, 1], {"raw": [0.9] * 3})
    >>> table["raw_gap"].round(2).to_dict()
    {'hand': 0.4, 'knee': -0.1}
    """
    check_between("level", level, 0, 1)
    codes, classes = _read_classes(predicted)
    outcome = check_outcomes(correct, predicted)
    if not confidences:
        raise ValueError("confidences must have at least one; there is none.")
    parts = ["accuracy", *confidences, *(f"{name}_gap" for name in confidences)]
    columns = ["n", *(f"{part}{end}" for part in parts for end in _ENDS)]
    check_different(columns, f"the table of {list(confidences)!r}")
    together = (predicted, correct, *confidences.values())
    stated = {
        name: check_probabilities(values, name, *together).astype(float)
        for name, values in confidences.items()
    }
    member = None if groups is None else check_groups(groups, *together)
    rows = []
    for at in range(len(classes)):
        own = codes == at
        right, hospital = outcome[own], None if member is None else member[own]
        accuracy = _accuracy(right, hospital, level)
        row = {"n": len(right)} | _columns("accuracy", accuracy)
        for name, values in stated.items():
            mean = _mean(values[own], hospital, level)
            row |= _columns(name, mean) | _columns(f"{name}_gap", _gap(mean, accuracy))
        rows.append(row)
    table = pd.DataFrame(rows, index=pd.Index(classes, name="class"))
    table = table.iloc[np.argsort(-table["n"].to_numpy(), kind="stable")]
    table.attrs["in_sample"] = [
        name
        for name, values in confidences.items()
        if evaluation_of(values)[0] == "in-sample"
    ]
    return table


def class_gap(
    predicted: ArrayLike,
    correct: ArrayLike,
    confidence: ArrayLike,
    *,
    norm: ClassNorm = "l1",
    min_n: int = 1,
) -> float:
    """How far mean confidence and accuracy lie apart, on average over classes.

    Small classes show a gap by chance: to say whether there is one, compare "l1" with
    its :func:`noise_floor` (its ``measure``); to say how large it is, use "squared".

    Parameters
    ----------
    predicted, correct
        See :func:`class_table`.
    confidence : array-like of shape (n,)
        Confidences in the prediction, in [0, 1].
    norm : {"l1", "squared"}, default="l1"
        Mean absolute gap; or mean squared gap less what chance would add, which may be
        negative and is 0 for a class of one row.
    min_n : int, default=1
        Leave out classes with fewer rows.

    Examples
    --------
    >>> predicted, correct = ["hand"] * 3 + ["knee"], [1, 1, 0, 1]
    >>> round(class_gap(predicted, correct, [0.9, 0.9, 0.9, 0.8]), 4)
    0.2167
    """
    check_choice("norm", norm, ("l1", "squared"))
    codes, sizes = _read_sizes(predicted, min_n)
    outcome = check_outcomes(correct, predicted)
    values = check_probabilities(confidence, "confidence", predicted, correct)
    gap = values.astype(float) - outcome
    sums = np.stack([sizes, np.bincount(codes, gap), np.bincount(codes, gap**2)])
    return float(_mean_over_classes(sums[:, sizes >= min_n], norm))


def class_gap_difference(
    predicted: ArrayLike,
    correct: ArrayLike,
    confidences: tuple[ArrayLike, ArrayLike],
    *,
    min_n: int = 1,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> Interval:
    """Squared class gap of one confidence less that of another, on the same resamples.

    Parameters
    ----------
    predicted, correct, min_n
        See :func:`class_gap`.
    confidences : pair of array-like of shape (n,)
        In the same predictions; above 0, the second is better calibrated.
    groups, level, n_resamples, rng
        See :func:`bootstrap_interval`.

    Examples
    --------
    >>> predicted, correct = ["hand", "knee"] * 50, [1] * 80 + [0] * 20
    >>> both = [0.99] * 100, [0.8] * 100
    >>> round(class_gap_difference(predicted, correct, both).value, 3)
    0.036
    """
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    codes, sizes = _read_sizes(predicted, min_n)
    outcome = check_outcomes(correct, predicted)
    if len(confidences) != 2:
        raise ValueError(f"confidences must be two; there are {len(confidences)}.")
    together = (predicted, correct, *confidences)
    member = np.arange(len(codes))
    if groups is not None:
        member = check_groups(groups, *together)
    order = np.argsort(codes, kind="stable")
    starts = np.append(0, np.cumsum(sizes)[:-1])
    gaps = []
    for at, part in enumerate(confidences):
        values = check_probabilities(part, f"confidences[{at}]", *together)
        gaps.append((values.astype(float) - outcome)[order])

    def difference(weights: np.ndarray, norm: str) -> np.ndarray:
        means = []
        for gap in gaps:
            parts = np.stack([weights, weights * gap, weights * gap**2])
            sums = np.add.reduceat(parts, starts, axis=-1)[..., sizes >= min_n]
            means.append(_mean_over_classes(sums, norm))
        return means[0] - means[1]

    draws = drawn_groups(member[order], n_resamples, generator)
    found = np.concatenate([difference(weights, "squared") for weights in draws])
    once = np.ones((1, len(codes)))
    value, plain = (float(difference(once, x)[0]) for x in ("squared", "plain"))
    # Resampled debiased gaps spread around the plain ones of the data.
    return Interval.of_draws(value, found, level, plain)


class WeightedMean(NamedTuple):
    """A mean over a survey: its interval, standard error and Kish's ``effective_n``."""

    value: float
    low: float
    high: float
    standard_error: float
    effective_n: float


def weighted_mean(
    values: ArrayLike,
    weights: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> WeightedMean:
    """The mean of a population, Σwy / Σw, from a survey of it.

    Taylor linearisation, clusters as if drawn with replacement (Lumley, 2010), and
    Student's interval, NaN without degrees of freedom; a single cluster in a stratum is
    compared with the overall mean. Equal values give an interval of no width: for the
    accuracy of a small class see :func:`class_table`.

    Parameters
    ----------
    values : array-like of shape (n,)
        Finite numbers, such as 1 where a prediction was correct, else 0.
    weights : array-like of shape (n,)
        How many members of the population each row stands for, in any unit. To see a
        part of the population, give the rest the weight 0; do not leave it out.
    strata : array-like of shape (n,), optional
        The parts of the population that were drawn from separately. Default: one.
    clusters : array-like of shape (n,), optional
        What was drawn, such as hospitals; one name in two strata is two clusters.
        Default: each row. Strings are compared without regard to case and white space.
    level : float, default=0.95

    Examples
    --------
    >>> found = weighted_mean([1, 0, 1, 1], [1, 1, 3, 5], strata=["a", "a", "b", "b"])
    >>> round(found.value, 2), round(found.standard_error, 3)
    (0.9, 0.102)
    """
    check_between("level", level, 0, 1)
    y = check_numbers(values, "values")
    w = check_numbers(weights, "weights", values)
    if (w < 0).any():
        at = int(np.argmax(w < 0))
        raise ValueError(f"weights must be 0 or more; row {at} is {w[at].item()!r}.")
    total = float(w.sum())
    if total == 0:
        raise ValueError("weights must not all be 0.")
    stratum, named = np.zeros(len(y), int), np.arange(len(y))
    if strata is not None:
        stratum = check_groups(strata, values, weights, name="strata")
    if clusters is not None:
        named = check_groups(clusters, values, weights, strata, name="clusters")
    # The same name in two strata is two clusters.
    pair = stratum * (int(named.max()) + 1) + named
    first, cluster = np.unique(pair, return_index=True, return_inverse=True)[1:]
    of_cluster = stratum[first]
    value = float(w @ y / total)
    score = np.bincount(cluster, w * (y - value) / total)
    counted = np.bincount(cluster, w > 0) > 0
    freedom = int(counted.sum()) - len(np.unique(of_cluster[counted]))
    effective = float(total**2 / (w @ w))
    if freedom < 1:
        return WeightedMean(value, np.nan, np.nan, np.nan, effective)
    error = float(np.sqrt(_variance(score, of_cluster)))
    reach = float(student.ppf((1 + level) / 2, freedom)) * error
    return WeightedMean(value, value - reach, value + reach, error, effective)


def _mean_over_classes(sums: np.ndarray, norm: str) -> np.ndarray:
    """The mean gap, from each class's sums of 1, gap and squared gap (last axis)."""
    count, some = sums[0], np.maximum(sums[0], 1)
    gap, square = sums[1] / some, sums[2] / some
    scores = np.abs(gap) if norm == "l1" else gap**2
    if norm == "squared":
        chance = (square - gap**2) / np.maximum(count - 1, 1)
        scores = np.where(count > 1, scores - chance, 0.0)
    seen = count > 0
    with np.errstate(invalid="ignore"):
        return (seen * scores).sum(axis=-1) / seen.sum(axis=-1)


def _accuracy(right: np.ndarray, groups: np.ndarray | None, level: float) -> Interval:
    n, rate = len(right), float(right.mean())
    size, reach = float(n), float(normal.ppf((1 + level) / 2))
    if groups is not None:
        n_groups = len(np.unique(groups))
        if n_groups == 1:
            return Interval(rate, np.nan, np.nan)
        reach = float(student.ppf((1 + level) / 2, n_groups - 1))
        if 0 < rate < 1:
            error = weighted_mean(right, np.ones(n), clusters=groups).standard_error
            size = n / max(1.0, error**2 * (n - 1) / (rate * (1 - rate)))
    return Interval.of_share(rate * size, size, 1 - 2 * float(normal.sf(reach)))


def _mean(values: np.ndarray, groups: np.ndarray | None, level: float) -> Interval:
    ones = np.ones(len(values))
    found = weighted_mean(values, ones, clusters=groups, level=level)
    low, high = np.clip([found.low, found.high], 0, 1).tolist()
    return Interval(found.value, low, high)


def _gap(mean: Interval, accuracy: Interval) -> Interval:
    """Newcombe's square-and-add interval of a difference."""
    gap = mean.value - accuracy.value
    below = np.hypot(mean.value - mean.low, accuracy.high - accuracy.value)
    above = np.hypot(mean.high - mean.value, accuracy.value - accuracy.low)
    low, high = np.clip([gap - below, gap + above], -1, 1).tolist()
    return Interval(gap, low, high)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}{end}": at for end, at in zip(_ENDS, interval, strict=True)}


def _read_classes(predicted: ArrayLike) -> tuple[np.ndarray, list[Any]]:
    """The class of each row as a number, and what the classes are called, sorted."""
    codes, classes = pd.factorize(check_labels(predicted, "predicted"), sort=True)
    return codes, list(classes)


def _read_sizes(predicted: ArrayLike, min_n: int) -> tuple[np.ndarray, np.ndarray]:
    """The class of each row as a number, and the rows of each class."""
    check_count("min_n", min_n)
    codes, _ = _read_classes(predicted)
    sizes = np.bincount(codes)
    if sizes.max() < min_n:
        most = sizes.max()
        raise ValueError(
            f"min_n must be at most {most}, of the largest class, not {min_n}."
        )
    return codes, sizes


def _variance(score: np.ndarray, stratum: np.ndarray) -> float:
    """Variance of the sum of the clusters' scores, which is 0 over all strata."""
    count = np.bincount(stratum)
    centre = np.where(count > 1, np.bincount(stratum, score) / count, 0.0)
    scale = np.where(count > 1, count / np.maximum(count - 1, 1), 1.0)
    return float(scale @ np.bincount(stratum, (score - centre[stratum]) ** 2))
