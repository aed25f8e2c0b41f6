"""Means of a survey: weighted rows, drawn in clusters within strata."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from ..checks import check_between, check_groups, check_numbers


class WeightedMean(NamedTuple):
    """A mean over a survey.

    Attributes
    ----------
    value : float
        The weighted mean.
    low, high : float
        The interval's ends; NaN where the design leaves no degrees of freedom.
    standard_error : float
        By the design; NaN with the interval.
    effective_n : float
        Kish's effective number of rows, (Σw)² / Σw²: so many rows of equal weight
        would say as much. It knows of the weights only, not of the clusters.
    """

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
    """The mean of a population, from a survey of it.

    Each row stands for as many members of the population as its weight says. The mean
    is Σwy / Σw; its standard error is that of the total of w (y − mean) / Σw, which
    varies from cluster to cluster inside each stratum.

    Parameters
    ----------
    values : array-like of shape (n,)
        Finite numbers, such as 1 where a prediction was correct, else 0.
    weights : array-like of shape (n,)
        Finite numbers of 0 or more, in any unit. To see a part of the population only,
        give the rest the weight 0 rather than leaving it out: which clusters were
        drawn stays known.
    strata : array-like of shape (n,), optional
        The parts of the population that were drawn from separately. Default: one.
    clusters : array-like of shape (n,), optional
        What was drawn in a stratum, such as hospitals (primary sampling units). The
        same name in two strata means two clusters. Default: each row is its own.
        Strings here and in ``strata`` are compared without regard to case and white
        space.
    level : float, default=0.95
        Level of the interval.

    Returns
    -------
    WeightedMean

    Raises
    ------
    ValueError
        Another number of weights, strata or clusters than of values, a missing or
        infinite number, or weights that are negative or all 0.

    Notes
    -----
    Taylor linearisation, with clusters taken as drawn with replacement. In a stratum
    with a single cluster nothing can be said on how clusters vary; its distance from
    the mean over all strata is taken instead, which errs on the wide side. The interval
    is Student's, with as many degrees of freedom as there are clusters less strata,
    counted where some weight is above 0. It may reach beyond the values, such as above
    1; and where all values are equal it has no width, however few they are: for
    the accuracy of a small class see :func:`class_table`.

    References
    ----------
    Cochran, Sampling techniques, 3rd edition, 1977, section 11; Lumley, Complex
    surveys, 2010, chapter 2.

    Examples
    --------
    Two hospitals in each of two strata:

    >>> found = weighted_mean(
    ...     [1, 0, 1, 1],
    ...     [10, 10, 30, 50],
    ...     strata=["small", "small", "large", "large"],
    ...     clusters=[1, 2, 3, 4],
    ... )
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


def _variance(score: np.ndarray, stratum: np.ndarray) -> float:
    """Of the sum of the clusters' scores, which is 0 over all strata."""
    count = np.bincount(stratum)
    centre = np.where(count > 1, np.bincount(stratum, score) / count, 0.0)
    scale = np.where(count > 1, count / np.maximum(count - 1, 1), 1.0)
    return float(scale @ np.bincount(stratum, (score - centre[stratum]) ** 2))
