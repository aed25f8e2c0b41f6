"""How many labels a calibrator takes: fitted again and again on few and on many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone

from ..checks import (
    check_count,
    check_outcomes,
    check_probabilities,
    check_rng,
    check_rows,
)
from ..metrics import Binning, brier_score, expected_calibration_error, log_loss
from .base import Calibrator

SIZES = (25, 50, 100, 200, 500, 1000, 2000)


def learning_curves(
    calibrators: Mapping[str, Calibrator],
    scores: ArrayLike,
    correct: ArrayLike,
    test_scores: ArrayLike,
    test_correct: ArrayLike,
    *,
    sizes: Sequence[int] = SIZES,
    n_draws: int = 20,
    n_bins: int = 20,
    rng: np.random.Generator | int | None = 0,
) -> pd.DataFrame:
    """Held-out quality of calibrators against the number of labels.

    For each number of labels, so many rows are drawn from those for calibration, again
    and again; all calibrators are fitted on the same draw, and measured on the same
    test rows, none of which is ever fitted on.

    Parameters
    ----------
    calibrators : mapping of str to Calibrator
        Names and calibrators; they are cloned.
    scores, correct : array-like of shape (n,)
        Rows for calibration: scores in [0, 1], and outcomes 0 or 1.
    test_scores, test_correct : array-like of shape (m,)
        Rows to measure on.
    sizes : sequence of int, default=(25, 50, 100, 200, 500, 1000, 2000)
        Numbers of labels.
    n_draws : int, default=20
        Draws for each number.
    n_bins : int, default=20
        Bins of the ECE, of equal width.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of the draws.

    Returns
    -------
    pandas.DataFrame
        One row a calibrator, number and draw: ``calibrator``, ``n``, ``draw``, and on
        the test rows ``ece``, ``brier`` and ``log_loss`` (infinite where a certainty
        was wrong).

    Raises
    ------
    ValueError
        Bad data, or more labels than there are rows.

    Examples
    --------
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(0.5, 1, 400)
    >>> y = rng.random(400) < p
    >>> platt = {"Platt": PlattScalingCalibrator()}
    >>> len(learning_curves(platt, p, y, p, y, sizes=[100, 200], n_draws=3))
    6
    """
    test = check_probabilities(test_scores, "test_scores")
    truth = check_outcomes(test_correct, test_scores, name="test_correct")
    binning = Binning(n_bins)
    rows = []
    for n, draw, part, outcome in _draws(scores, correct, sizes, n_draws, rng):
        for name, calibrator in calibrators.items():
            fitted = clone(calibrator).fit(part, outcome)
            predicted = np.asarray(fitted.predict(test))
            rows.append(
                {
                    "calibrator": name,
                    "n": n,
                    "draw": draw,
                    "ece": expected_calibration_error(
                        predicted, truth, binning=binning
                    ),
                    "brier": brier_score(predicted, truth),
                    "log_loss": log_loss(predicted, truth),
                }
            )
    return pd.DataFrame(rows)


def held_out_curves(
    calibrator: Calibrator,
    scores: ArrayLike,
    correct: ArrayLike,
    test_scores: ArrayLike,
    test_correct: ArrayLike,
    *,
    sizes: Sequence[int] = (100, 200, 500, 1000),
    n_draws: int = 50,
    n_bins: int = 10,
    least: int = 50,
    rng: np.random.Generator | int | None = 0,
) -> pd.DataFrame:
    """What a calibrator promises and what it keeps, for several numbers of labels.

    Parameters
    ----------
    calibrator : Calibrator
        It is cloned.
    scores, correct : array-like of shape (n,)
        Rows for calibration: scores in [0, 1], and outcomes 0 or 1.
    test_scores, test_correct : array-like of shape (m,)
        Rows to measure on.
    sizes : sequence of int, default=(100, 200, 500, 1000)
        Numbers of labels.
    n_draws : int, default=50
        Draws for each number.
    n_bins : int, default=10
        Bins of the calibrated confidence, of equal width.
    least : int, default=50
        Bins with fewer test rows are left out.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of the draws.

    Returns
    -------
    pandas.DataFrame
        One row a number of labels, draw and bin: ``n``, ``draw``, ``bin`` (its lower
        edge), the mean calibrated ``confidence`` of the test rows in it, their
        ``accuracy``, and their number ``rows``.

    Raises
    ------
    ValueError
        Bad data, or more labels than there are rows.
    """
    check_count("n_bins", n_bins)
    test = check_probabilities(test_scores, "test_scores")
    truth = check_outcomes(test_correct, test_scores, name="test_correct")
    rows = []
    for n, draw, part, outcome in _draws(scores, correct, sizes, n_draws, rng):
        predicted = np.asarray(clone(calibrator).fit(part, outcome).predict(test))
        index = np.minimum((predicted * n_bins).astype(int), n_bins - 1)
        count = np.bincount(index, minlength=n_bins)
        stated = np.bincount(index, weights=predicted, minlength=n_bins)
        right = np.bincount(index, weights=truth, minlength=n_bins)
        for at in np.flatnonzero(count >= least):
            rows.append(
                {
                    "n": n,
                    "draw": draw,
                    "bin": at / n_bins,
                    "confidence": stated[at] / count[at],
                    "accuracy": right[at] / count[at],
                    "rows": int(count[at]),
                }
            )
    return pd.DataFrame(rows)


def _draws(
    scores: ArrayLike,
    correct: ArrayLike,
    sizes: Sequence[int],
    n_draws: int,
    rng: np.random.Generator | int | None,
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    values, outcome, _ = check_rows(scores, correct, name="scores")
    check_count("n_draws", n_draws)
    generator = check_rng(rng)
    for n in sizes:
        if check_count("sizes", n, least=2) > len(values):
            raise ValueError(
                f"sizes must not exceed the {len(values)} rows for calibration; one "
                f"is {n!r}."
            )
    if outcome.all() or not outcome.any():
        raise ValueError(
            f"correct must hold both outcomes; all {len(outcome)} rows are "
            f"{bool(outcome[0])}."
        )
    for n in sizes:
        for draw in range(n_draws):
            rows = generator.permutation(len(values))[:n]
            while len(np.unique(outcome[rows])) < 2:
                rows = generator.permutation(len(values))[:n]
            yield n, draw, values[rows], outcome[rows]
