"""Whether scores are distributed as before, and resampling to another class mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from ..checks import check_between, check_count, check_labels, check_numbers, check_rng


def score_drift(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    rng: np.random.Generator | int | None,
    n_resamples: int = 999,
    level: float = 0.95,
    n_bins: int = 10,
) -> pd.DataFrame:
    """Compare current scores with earlier ones; no labels needed.

    Scores can move while accuracy stays, and the reverse. The p-values are for one
    look, not for one every week.

    Parameters
    ----------
    reference, current : array-like of shape (n_reference,) and (n_current,)
        Finite scores: those on which a threshold was chosen, and newer ones.
    rng, n_resamples
        Random generator or its seed, and number of permutations (999).
    level : float, default=0.95
        Level of the upper quantile of the noise.
    n_bins : int, default=10
        Bins of the stability index, at quantiles of the reference.

    Returns
    -------
    pandas.DataFrame
        A row each for the population stability index, Kolmogorov–Smirnov and
        Wasserstein distances: ``value``; ``noise`` and ``noise_upper``, their mean and
        quantile by chance; ``above`` (this quantile); ``p_value`` and its ``method``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> drift = score_drift(rng.beta(8, 2, 500), rng.beta(6, 2, 500), rng=0)
    >>> drift["value"].round(3).to_dict()
    {'psi': 0.087, 'ks': 0.134, 'wasserstein': 0.039}
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
    dealt = (generator.permutation(is_then) for _ in range(n_resamples))
    chance = np.array([_distances(mix, pooled, n_bins) for mix in dealt])
    # Equal values may differ in their last digits.
    reached = (chance >= found * (1 - 1e-6)).sum(axis=0)
    table = pd.DataFrame({"value": found}, index=["psi", "ks", "wasserstein"])
    table["noise"] = chance.mean(axis=0)
    table["noise_upper"] = np.quantile(chance, level, axis=0)
    table["p_value"] = (reached + 1) / (n_resamples + 1)
    table["method"] = "permutation"
    if not tied:
        method = "exact" if max(len(then), len(now)) <= 1000 else "asymptotic"
        columns = ["value", "p_value", "method"]
        test = ks_2samp(then, now, method=method.removesuffix("totic"))
        table.loc["ks", columns] = [test.statistic, test.pvalue, method]
    table.insert(3, "above", table["value"] > table["noise_upper"])
    return table


def _distances(is_then: np.ndarray, pooled: np.ndarray, n_bins: int) -> np.ndarray:
    seen = np.cumsum(is_then)
    others = np.arange(1, len(seen) + 1) - seen
    gaps = np.abs(seen / seen[-1] - others / others[-1])[:-1]
    widths = np.diff(pooled)
    ks = gaps[widths > 0].max(initial=0)
    psi = _stability_index(pooled[is_then], pooled[~is_then], n_bins)
    return np.array([psi, ks, gaps @ widths])


def _stability_index(then: np.ndarray, now: np.ndarray, n_bins: int) -> float:
    # Each edge is a score of the reference, and begins the bin above it.
    edges = np.unique(then[np.arange(1, n_bins) * len(then) // n_bins])
    r, c = (
        (np.diff(np.searchsorted(side, edges), prepend=0, append=len(side)) + 0.5)
        / (len(side) + 0.5 * (len(edges) + 1))
        for side in (then, now)
    )
    return float(((c - r) * np.log(c / r)).sum())


def resample_label_shift(
    truth: ArrayLike,
    shares: Mapping[Any, float],
    n: int,
    *,
    rng: np.random.Generator | int | None,
) -> np.ndarray:
    """Positions of rows drawn so that the true classes have given shares: label shift.

    Parameters
    ----------
    truth : array-like of shape (m,)
        The true class of each row.
    shares : mapping of label to float
        Shares of some or all classes, in [0, 1]; the others keep their proportions.
    n, rng
        Number of rows to draw, with replacement, and random generator or seed.

    Examples
    --------
    >>> rows = resample_label_shift(["hand", "hand", "head"], {"head": 0.6}, 10, rng=0)
    >>> int((rows == 2).sum())
    6
    """
    codes, labels = pd.factorize(check_labels(truth, "truth"))
    wanted = _class_shares(shares, list(labels), np.bincount(codes))
    check_count("n", n)
    generator = check_rng(rng)
    # Systematic sampling: marks one apart on a line of n that the classes divide.
    ends = np.append(n * np.cumsum(wanted)[:-1], n)
    marks = np.minimum(np.floor(ends + generator.random()), n).astype(int)
    drawn = np.diff(marks, prepend=0)
    rows = [
        generator.choice(np.flatnonzero(codes == at), size)
        for at, size in enumerate(drawn.tolist())
    ]
    return generator.permutation(np.concatenate(rows))


def _class_shares(
    shares: Mapping[Any, float], labels: list[Any], present: np.ndarray
) -> np.ndarray:
    """The share of each label, unnamed ones included."""
    if not isinstance(shares, Mapping):
        raise TypeError(f"shares must be a mapping, not {type(shares).__name__}.")
    wanted = np.full(len(labels), np.nan)
    for label, share in shares.items():
        if label not in labels:
            raise ValueError(
                f"shares must be of labels that have rows; {label!r} has none."
            )
        name = f"the share of {label!r}"
        wanted[labels.index(label)] = check_between(name, share, 0, 1, closed=True)
    others = np.isnan(wanted)
    left = 1 - float(np.nansum(wanted))
    if left < -1e-9 or (left > 1e-9 and not others.any()):
        rule = "at most 1" if left < 0 else "1 where they name every class"
        raise ValueError(f"shares must sum to {rule}, not {round(1 - left, 9):g}.")
    wanted[others] = max(left, 0.0) * present[others] / present[others].sum()
    return wanted / wanted.sum()
