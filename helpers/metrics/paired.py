"""What changes from one set of confidences to another, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_groups,
    check_not_fitted_on,
    check_outcomes,
    check_probabilities,
    check_rng,
)
from .binning import N_BINS, Closed, Strategy, make_bins
from .cells import Cells, make_cells, weighted
from .resampling import MEASURES, Interval, drawn_groups, quantile_interval

Pair = tuple[ArrayLike, ArrayLike]


def paired_difference(
    a: Pair,
    b: Pair,
    measure: str = "brier",
    *,
    groups: ArrayLike | None = None,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> Interval:
    """What a measure changes by from a to b, with a paired bootstrap interval.

    Both are measured on the same rows, and each resample draws the same rows for both:
    what makes a row hard for both of them cancels.

    Parameters
    ----------
    a, b : pair of array-like of shape (n,)
        Confidences in [0, 1], and whether each row was right, 1 or True, else 0. Two
        models may be right in different rows; for two confidences in the same
        predictions give the same outcomes twice.
    measure : str, default="brier"
        The name of any measure that :func:`bootstrap_interval` knows.
    groups : array-like of shape (n,), optional
        Rows with the same value are drawn together: see :func:`bootstrap_interval`.
    n_bins, strategy, closed
        The bins, chosen once for a and once for b: see
        :func:`expected_calibration_error`.
    level : float, default=0.95
        Confidence level.
    n_resamples : int, default=1000
        How many resamples.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    Interval
        Of measure(b) − measure(a). Resamples in which it is not defined, such as the
        AUROC of rows that are all right, are left out; where it is not finite on the
        data, as the log loss of a certainty that was wrong, there is no interval, but
        NaN.

    Notes
    -----
    The interval has the quantiles of the resampled differences. For "ece" and "rmsce"
    these are reflected about the value, and for "squared" as in
    :func:`bootstrap_interval`, since resampling adds once more the bias that the value
    has: more of it to the better calibrated side.

    In simulations of 300 rows with pairs of forecasters whose errors are known, 10 and
    20 bins, 95 % intervals of "gap" and "brier" covered the true difference in 93 to
    96 % of samples, and those of "squared" in 94 % or more. Those of "ece" and "rmsce"
    did so in 61 to 99 % (without reflection 0 to 100 %), least often where one of the
    two is perfect: what its ECE shows is the noise floor, and the difference looks
    smaller than it is. Those of "mce" did so in 85 to 100 % (reflected 11 to 95 %). To
    say whether calibration has changed, use "squared" or "brier".

    Raises
    ------
    ValueError
        Bad data or rules, or another number of rows in b than in a.

    References
    ----------
    Davison and Hinkley, Bootstrap methods and their application, 1997.

    Examples
    --------
    >>> right = [1] * 80 + [0] * 20
    >>> found = paired_difference(([0.99] * 100, right), ([0.8] * 100, right))
    >>> round(found.value, 4), found.high < 0
    (-0.0361, True)
    """
    found = paired_differences(
        a,
        b,
        (measure,),
        groups=groups,
        n_bins=n_bins,
        strategy=strategy,
        closed=closed,
        level=level,
        n_resamples=n_resamples,
        rng=rng,
    )
    return found[measure]


def paired_differences(
    a: Pair,
    b: Pair,
    measures: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> dict[str, Interval]:
    """What several measures change by from a to b, on the same resamples.

    Parameters
    ----------
    a, b : pair of array-like of shape (n,)
        Confidences, and whether each row was right: see :func:`paired_difference`.
    measures : sequence of str
        Names of measures.
    groups, n_bins, strategy, closed, level, n_resamples, rng
        See :func:`paired_difference`.

    Returns
    -------
    dict of str to Interval

    Raises
    ------
    ValueError
        Bad data or rules.

    Examples
    --------
    >>> right = [1] * 80 + [0] * 20
    >>> sure, fair = ([0.99] * 100, right), ([0.8] * 100, right)
    >>> round(paired_differences(sure, fair, ["ece", "gap"])["gap"].value, 4)
    -0.19
    """
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list of names, not {measures!r}.")
    for measure in measures:
        check_choice("measure", measure, MEASURES)
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    generator = check_rng(rng)
    sides = []
    for name, pair in (("a", a), ("b", b)):
        values, outcome = _read(pair, name, *(a if name == "b" else ()))
        bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
        # Rows stay apart: those that are alike in a may differ in b.
        sides.append(make_cells(values, outcome, bins, merge=False))
    n = len(sides[0].rows)
    codes = np.arange(n) if groups is None else check_groups(groups, *a, *b)
    found: dict[str, list[np.ndarray]] = {measure: [] for measure in measures}
    for weights in drawn_groups(codes, n_resamples, generator):
        for measure, parts in found.items():
            parts.append(_differences(sides, weights, measure))
    return {
        measure: _interval(sides, measure, np.concatenate(parts), level)
        for measure, parts in found.items()
    }


def _read(pair: Any, name: str, *rows: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(
            f"{name} must be a pair, (confidence, correct), not {type(pair).__name__}"
            f"{f' of {len(pair)}' if isinstance(pair, (tuple, list)) else ''}."
        )
    values = check_probabilities(pair[0], f"confidence of {name}", *rows).astype(float)
    check_not_fitted_on(pair[0], f"confidence of {name}")
    right = check_outcomes(pair[1], *rows, pair[0], name=f"correct of {name}")
    return values, right


def _differences(
    sides: Sequence[Cells], weights: np.ndarray, measure: str
) -> np.ndarray:
    a, b = (weighted(cells, weights[:, cells.rows], measure) for cells in sides)
    with np.errstate(invalid="ignore"):  # both may be infinite
        return b - a


def _interval(
    sides: Sequence[Cells], measure: str, found: np.ndarray, level: float
) -> Interval:
    once = np.ones((1, len(sides[0].rows)), dtype=np.intp)
    value = float(_differences(sides, once, measure)[0])
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan)
    pivot = None
    if measure in ("ece", "rmsce"):
        pivot = value
    elif measure == "squared":
        # Resampled debiased errors spread around the plain ones of the data.
        a, b = (weighted(cells, once, "rmsce")[0] ** 2 for cells in sides)
        pivot = float(b - a)
    return quantile_interval(value, found, level, pivot)
