"""Calibration class by class, where each predicted class has few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm as normal
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_groups,
    check_labels,
    check_outcomes,
    check_probabilities,
    check_rng,
    evaluation_of,
)
from .resampling import Interval, drawn_groups, quantile_interval
from .survey import weighted_mean

ClassNorm = Literal["l1", "squared"]
Weighting = Literal["class", "case"]
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

    Parameters
    ----------
    predicted : array-like of shape (n,)
        The predicted classes.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    confidences : mapping of str to array-like of shape (n,)
        Names, and confidences in the prediction, in [0, 1]: such as before and after
        calibration.
    groups : array-like of shape (n,), optional
        Rows with the same value, such as the cases of a hospital, are not independent
        of each other; the intervals allow for it. Strings are compared without regard
        to case and white space.
    level : float, default=0.95
        Level of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row a predicted class, the most frequent first: ``n``; ``accuracy``,
        ``accuracy_low`` and ``accuracy_high``; and for each confidence its mean,
        ``<name>``, and the mean less the accuracy, ``<name>_gap`` (positive is
        overconfident), with ``_low`` and ``_high`` of each. The intervals of mean and
        gap are NaN where a class has one row; all are where it has one group.
        ``attrs["in_sample"]`` lists the confidences of which some rows were fitted on.

    Raises
    ------
    ValueError
        Bad data, no confidences, or a name that makes two columns of the same name.

    Notes
    -----
    The accuracy has Wilson's interval and the mean confidence Student's. The interval
    of the gap joins the two: from the gap it reaches as far as the root of the sum of
    their squared reaches (Newcombe's square-and-add, or MOVER). It is not empty for a
    class that is always right, as one from the variance of the gap or from a bootstrap
    would nearly be. That confidence and correctness go together in the rows is left
    out, which makes it wider than it need be, never narrower, as long as higher
    confidence is more often right.

    With groups, Student's interval counts groups, not rows; and Wilson's has the
    effective number of rows n / deff, where deff is the variance of the accuracy
    between groups over that of independent rows, but at least 1, and the quantile of
    Student's distribution. Where all rows are right, or all wrong, deff cannot be seen
    and is taken as 1.

    In simulations of accuracies of .5, .9 and .98, and of confidences that are true,
    crowd at .97, or are either .6 or .999, 95 % intervals of the gap covered its true
    value in 90 to 99 % of samples of 10 rows, 93 to 99 % of 30 and 94 to 99 % of 100;
    those of the accuracy in 92 to 99 %. Those of the mean confidence did so in 65, 80
    and 89 % where 98 % is true of confidences most of which are nearly 1, else in 88 to
    96 %: what is rare is not in the sample. For comparison, percentile bootstrap
    intervals of the gap of 10 rows covered in 18 to 92 %. Rows of 8 to 30 groups, 10 to
    450 in a class, with a correlation of .05 and .2 inside a group: the gap 90 to 99 %,
    the accuracy 89 to 99 %, least often for 98 % accuracy in large groups, and without
    ``groups`` down to 66 %.

    References
    ----------
    Wilson, JASA 22, 1927; Newcombe, Statistics in Medicine 17, 1998; Zou and Donner,
    Statistics in Medicine 27, 2008; Korn and Graubard, Survey Methodology 24, 1998, for
    the effective number of rows.

    Examples
    --------
    >>> table = class_table(
    ...     ["hand"] * 4 + ["knee"] * 2, [1, 1, 1, 0, 1, 1], {"raw": [0.9] * 6}
    ... )
    >>> table[["n", "accuracy", "raw_gap", "raw_gap_low", "raw_gap_high"]].round(2).T
    class         hand  knee
    n             4.00  2.00
    accuracy      0.75  1.00
    raw_gap       0.15 -0.10
    raw_gap_low  -0.05 -0.10
    raw_gap_high  0.60  0.56
    """
    check_between("level", level, 0, 1)
    codes, classes = _read_classes(predicted)
    outcome = check_outcomes(correct, predicted)
    _check_names(list(confidences))
    stated = _read_confidences(confidences, predicted, correct)
    rows_of = (predicted, correct, *confidences.values())
    member = None if groups is None else check_groups(groups, *rows_of)
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
    weighting: Weighting = "class",
    min_n: int = 1,
) -> float:
    """How far mean confidence and accuracy lie apart, on average over classes.

    Parameters
    ----------
    predicted : array-like of shape (n,)
        The predicted classes.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    confidence : array-like of shape (n,)
        Confidences in the prediction, in [0, 1].
    norm : {"l1", "squared"}, default="l1"
        The mean of the absolute gaps; or that of the squared gaps less what chance
        alone would add, the sample variance of confidence − correct in the class over
        its number of rows, taken as independent. That of one row is not known, and it
        counts as 0.
    weighting : {"class", "case"}, default="class"
        Whether each class counts once, or by its number of rows.
    min_n : int, default=1
        Leave out classes with fewer rows.

    Returns
    -------
    float
        "l1" is in [0, 1]. "squared" may be negative: the gaps cannot be told from 0.

    Raises
    ------
    ValueError
        Bad data, or no class with ``min_n`` rows.

    Notes
    -----
    Small classes show a gap by chance. How much of it a perfect forecaster would show
    :func:`noise_floor` says, as in the example. To say whether there is a gap, compare
    "l1" with it; to say how large, use "squared".

    Examples
    --------
    >>> predicted, correct = ["hand"] * 3 + ["knee"], [1, 1, 0, 1]
    >>> confidence = np.array([0.9, 0.9, 0.9, 0.8])
    >>> round(class_gap(predicted, correct, confidence), 4)  # .2333 and .2
    0.2167
    >>> from helpers.metrics import noise_floor
    >>> floor = noise_floor(
    ...     confidence, measure=lambda p, drawn: class_gap(predicted, drawn, p)
    ... )
    >>> round(floor.mean, 2)
    0.23
    """
    codes, sizes = _read_sizes(predicted, norm, weighting, min_n)
    outcome = check_outcomes(correct, predicted)
    values = check_probabilities(confidence, "confidence", predicted, correct)
    gap = values.astype(float) - outcome
    sums = np.stack([sizes, np.bincount(codes, gap), np.bincount(codes, gap**2)])
    return float(_mean_over_classes(sums[:, sizes >= min_n], norm, weighting))


def class_gap_difference(
    predicted: ArrayLike,
    correct: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    norm: ClassNorm = "l1",
    weighting: Weighting = "class",
    min_n: int = 1,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> Interval:
    """How much larger the class gap of one confidence is than that of another.

    Parameters
    ----------
    predicted : array-like of shape (n,)
        The predicted classes, the same for both.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    first, second : array-like of shape (n,)
        Two confidences in the prediction, in [0, 1].
    norm, weighting, min_n
        See :func:`class_gap`.
    groups : array-like of shape (n,), optional
        Rows with the same value are drawn together: see :func:`bootstrap_interval`.
    level : float, default=0.95
        Confidence level.
    n_resamples : int, default=1000
        How many resamples.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    Interval
        Of the class gap of ``first`` less that of ``second``: above 0, the second is
        better calibrated class by class.

    Raises
    ------
    ValueError
        Bad data or rules, or no class with ``min_n`` rows.

    Notes
    -----
    Each resample draws the same rows for both. Classes are those of the data with
    ``min_n`` rows; one that a resample misses is left out of its mean.

    Resampled "l1" differences are reflected about the value, and those of "squared"
    spread around the plain squares, as in :func:`paired_difference`. In simulations of
    26 classes of 20 to 450 rows, 95 % intervals of "squared" covered the true
    difference in 91 to 95 % of samples. Those of "l1" did so in 3 to 93 % (without
    reflection 0 to 98 %), least often where one of the two is perfect: what it shows is
    the noise floor, and the difference looks smaller than it is. To say whether the
    gaps have changed, use "squared".

    Examples
    --------
    >>> predicted, correct = ["hand", "knee"] * 50, [1] * 80 + [0] * 20
    >>> found = class_gap_difference(predicted, correct, [0.99] * 100, [0.8] * 100)
    >>> round(found.value, 2), found.low > 0
    (0.19, True)
    """
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    codes, sizes = _read_sizes(predicted, norm, weighting, min_n)
    n, given = len(codes), {"first": first, "second": second}
    outcome = check_outcomes(correct, predicted)
    stated = _read_confidences(given, predicted, correct)
    member = np.arange(n)
    if groups is not None:
        member = check_groups(groups, predicted, correct, first, second)
    order = np.argsort(codes, kind="stable")
    starts = np.append(0, np.cumsum(sizes)[:-1])
    gaps = [(values - outcome)[order] for values in stated.values()]

    def differences(weights: np.ndarray, norm: str) -> np.ndarray:
        found = []
        for gap in gaps:
            parts = np.stack([weights, weights * gap, weights * gap**2])
            sums = np.add.reduceat(parts, starts, axis=-1)[..., sizes >= min_n]
            found.append(_mean_over_classes(sums, norm, weighting))
        return found[0] - found[1]

    once = np.ones((1, n))
    value = float(differences(once, norm)[0])
    # Resampled debiased gaps spread around the plain ones of the data.
    pivot = float(differences(once, "plain")[0]) if norm == "squared" else value
    found = [
        differences(weights, norm)
        for weights in drawn_groups(member[order], n_resamples, generator)
    ]
    return quantile_interval(value, np.concatenate(found), level, pivot)


def _mean_over_classes(sums: np.ndarray, norm: str, weighting: Weighting) -> np.ndarray:
    """The mean gap from the sums of 1, gap and squared gap in each class (last axis).

    "plain" is "squared" with what chance adds. NaN where no class has a row.
    """
    count, some = sums[0], np.maximum(sums[0], 1)
    gap, square = sums[1] / some, sums[2] / some
    if norm == "l1":
        scores = np.abs(gap)
    elif norm == "plain":
        scores = gap**2
    else:
        chance = (square - gap**2) / np.maximum(count - 1, 1)
        scores = np.where(count > 1, gap**2 - chance, 0.0)
    weight = count if weighting == "case" else (count > 0).astype(float)
    total = weight.sum(axis=-1)
    top = (weight * scores).sum(axis=-1)
    return np.divide(top, total, out=np.full(np.shape(top), np.nan), where=total > 0)


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
    alpha = 2 * float(normal.sf(reach))
    low, high = proportion_confint(rate * size, size, alpha=alpha, method="wilson")
    return Interval(rate, float(low), float(high))


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


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("confidences must have at least one; there is none.")
    parts = ["accuracy", *names, *(f"{name}_gap" for name in names)]
    columns = ["n", *(f"{part}{end}" for part in parts for end in _ENDS)]
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise ValueError(
            f"confidences must have names that make different columns; {list(names)!r} "
            f"make {twice[0]!r} twice."
        )


def _read_classes(predicted: ArrayLike) -> tuple[np.ndarray, list[Any]]:
    """The class of each row as a number, and what the classes are called, sorted."""
    codes, classes = pd.factorize(check_labels(predicted, "predicted"), sort=True)
    return codes, list(classes)


def _read_sizes(
    predicted: ArrayLike, norm: str, weighting: str, min_n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class of each row as a number, and the rows of each class."""
    check_choice("norm", norm, ("l1", "squared"))
    check_choice("weighting", weighting, ("class", "case"))
    check_count("min_n", min_n)
    codes, _ = _read_classes(predicted)
    sizes = np.bincount(codes)
    if sizes.max() < min_n:
        raise ValueError(
            f"min_n must be at most {sizes.max()}, the rows of the most frequent "
            f"class, not {min_n}."
        )
    return codes, sizes


def _read_confidences(
    confidences: Mapping[str, ArrayLike], *rows: Any
) -> dict[str, np.ndarray]:
    stated: dict[str, np.ndarray] = {}
    for name, given in confidences.items():
        together = (*rows, *(confidences[known] for known in stated))
        stated[name] = check_probabilities(given, name, *together).astype(float)
    return stated
