"""Whether scores are distributed as they were.

A model that is asked about other texts gives other scores, long before anybody has
labelled one. That is no proof that it is wrong, but a reason to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp, wasserstein_distance

from ..checks import check_between, check_count, check_numbers, check_rng
from ..metrics import NoiseFloor


class DriftMeasure(NamedTuple):
    """How far apart two samples of scores are, and what chance alone would do.

    Attributes
    ----------
    value : float
        The measure.
    floor : NoiseFloor
        Its mean and upper quantile for two samples of one distribution.
    p_value : float
        How often chance alone would give this value or more.
    method : str
        Where the p-value comes from.
    """

    value: float
    floor: NoiseFloor
    p_value: float
    method: str


@dataclass(frozen=True)
class ScoreDrift:
    """Whether the distribution of scores has moved.

    Attributes
    ----------
    psi : DriftMeasure
        Population stability index: the sum over bins of (c - r) log(c / r), where r
        and c are the bin's shares of reference and current scores. 0 or more.
    ks : DriftMeasure
        Kolmogorov-Smirnov statistic: the largest difference between the distribution
        functions, from 0 to 1.
    wasserstein : DriftMeasure
        Mean distance by which scores would have to move, in the unit of the scores.
    n_reference, n_current : int
        How many scores of each.
    level : float
        Which quantile the floor gives beside the mean.
    """

    psi: DriftMeasure
    ks: DriftMeasure
    wasserstein: DriftMeasure
    n_reference: int
    n_current: int
    level: float

    def table(self) -> pd.DataFrame:
        """One row a measure.

        Returns
        -------
        pandas.DataFrame
            With the index ``psi``, ``ks``, ``wasserstein`` and the columns ``value``,
            ``noise`` (mean by chance alone), ``noise_upper`` (its quantile), ``above``
            (whether the value is above that), ``p_value`` and ``method``.
        """
        measures = {name: getattr(self, name) for name in ("psi", "ks", "wasserstein")}
        rows = [
            (m.value, *m.floor, m.value > m.floor.upper, m.p_value, m.method)
            for m in measures.values()
        ]
        columns = ["value", "noise", "noise_upper", "above", "p_value", "method"]
        return pd.DataFrame(rows, index=list(measures), columns=columns)


def score_drift(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    rng: np.random.Generator | int | None,
    n_resamples: int = 999,
    level: float = 0.95,
    n_bins: int = 10,
) -> ScoreDrift:
    """Compare the scores of now with those of then; no labels are needed.

    Scores that moved do not say that accuracy fell, and accuracy can fall while the
    scores stay. This is one look at two samples of independent scores: it is no
    monitor, and a p-value that is looked at every week will one day be small.

    Parameters
    ----------
    reference : array-like of shape (n_reference,)
        Finite numbers, such as the confidences on which a threshold was chosen.
    current : array-like of shape (n_current,)
        Finite numbers: the same score, of newer items.
    rng : numpy.random.Generator, int or None
        Source or seed of chance.
    n_resamples : int, default=999
        How often the scores are dealt anew into two samples, for the noise floor and
        the p-values.
    level : float, default=0.95
        Which quantile of the noise to give beside its mean.
    n_bins : int, default=10
        Bins of the stability index, cut at quantiles of the reference. Where scores
        are tied, there are fewer. Half a score is added to each bin of either sample,
        so that none is empty.

    Returns
    -------
    ScoreDrift
        The p-value of the Kolmogorov-Smirnov statistic is that of SciPy, or a
        permutation p-value if scores are tied; the others are permutation p-values.

    Raises
    ------
    ValueError
        There are no scores, one is missing or infinite, or a setting is out of range.
    TypeError
        The scores are no numbers, or ``rng`` is no source of chance.

    References
    ----------
    Yurdakul and Naranjo, Statistical properties of the population stability index,
    Journal of Risk Model Validation 14, 2020.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> drift = score_drift(rng.beta(8, 2, 500), rng.beta(6, 2, 500), rng=0)
    >>> drift.table()[["value", "noise_upper", "above"]].round(3)
                 value  noise_upper  above
    psi          0.087        0.066   True
    ks           0.134        0.084   True
    wasserstein  0.039        0.017   True
    """
    check_count("n_resamples", n_resamples)
    check_between("level", level, 0, 1)
    check_count("n_bins", n_bins, 2)
    then = check_numbers(reference, "reference")
    now = check_numbers(current, "current")
    generator = check_rng(rng)
    pooled = np.concatenate([then, now])
    tied = len(np.unique(pooled)) < len(pooled)
    # The same scores may come in either precision.
    mantissa, exponent = np.frexp(pooled)
    pooled = np.ldexp(mantissa.astype(np.float32).astype(float), exponent)
    then, now = pooled[: len(then)], pooled[len(then) :]
    order = np.argsort(pooled, kind="stable")
    is_then, pooled = order < len(then), pooled[order]
    found = _distances(is_then, pooled, n_bins)
    chance = np.array(
        [
            _distances(generator.permutation(is_then), pooled, n_bins)
            for _ in range(n_resamples)
        ]
    )
    # Equal values may differ in their last digits.
    reached = (chance >= found * (1 - 1e-6)).sum(axis=0)
    p_values = (reached + 1) / (n_resamples + 1)
    floors = [
        NoiseFloor(float(values.mean()), float(np.quantile(values, level)))
        for values in chance.T
    ]
    ks, ks_p_value, ks_method = found[1], p_values[1], "permutation"
    if not tied:
        ks_method = "exact" if max(len(then), len(now)) <= 1000 else "asymptotic"
        method = "exact" if ks_method == "exact" else "asymp"
        ks, ks_p_value = ks_2samp(then, now, method=method)
    distance = wasserstein_distance(then, now)
    return ScoreDrift(
        DriftMeasure(float(found[0]), floors[0], float(p_values[0]), "permutation"),
        DriftMeasure(float(ks), floors[1], float(ks_p_value), ks_method),
        DriftMeasure(float(distance), floors[2], float(p_values[2]), "permutation"),
        len(then),
        len(now),
        float(level),
    )


def _distances(is_then: np.ndarray, pooled: np.ndarray, n_bins: int) -> np.ndarray:
    """Stability index, Kolmogorov-Smirnov and Wasserstein distance."""
    seen = np.cumsum(is_then)
    others = np.arange(1, len(seen) + 1) - seen
    gaps = np.abs(seen / seen[-1] - others / others[-1])[:-1]
    widths = np.diff(pooled)
    ks = gaps[widths > 0].max(initial=0)
    psi = _stability_index(pooled[is_then], pooled[~is_then], n_bins)
    return np.array([psi, ks, gaps @ widths])


def _stability_index(then: np.ndarray, now: np.ndarray, n_bins: int) -> float:
    """Of two sorted samples."""
    # Each edge is a score of the reference, and begins the bin above it.
    edges = np.unique(then[np.arange(1, n_bins) * len(then) // n_bins])
    r, c = (
        (np.diff(np.searchsorted(side, edges), prepend=0, append=len(side)) + 0.5)
        / (len(side) + 0.5 * (len(edges) + 1))
        for side in (then, now)
    )
    return float(((c - r) * np.log(c / r)).sum())
