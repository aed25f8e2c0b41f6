"""Calibrators fitted again and again: on folds, on few labels and on many."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
)

from ..checks import check_count, check_groups, check_labels, check_rng, check_rows
from ..metrics import Binning, brier_score, expected_calibration_error, log_loss
from .base import BaseCalibrator, Calibrator
from .marks import Calibrated


def cross_fitted(
    calibrator: BaseCalibrator,
    scores: ArrayLike | pd.DataFrame,
    correct: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Calibrated:
    """Held-out values of all rows, each by a calibrator fitted on the other folds.

    Parameters
    ----------
    calibrator : BaseCalibrator
        What to fit. It is copied, not changed.
    scores, correct : array-like or pandas.DataFrame
        What ``calibrator.fit`` takes.
    groups : array-like of shape (n,), optional
        Rows of one group stay in one fold, as copies of a text should. Strings are
        compared without regard to case and white space.
    n_splits : int, default=5
        Number of folds, each with about the same share of right rows.
    seed : int, default=0

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99], [0, 1, 0, 1, 0, 1]
    >>> cross_fitted(IsotonicRegressionCalibrator(), *rows, n_splits=2).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.5]
    """
    check_count("n_splits", n_splits, 2)
    check_count("seed", seed, 0)
    calibrator._check_parameters()
    values, columns = calibrator._read(scores)
    right = calibrator._right(values, calibrator._read_truth(correct, scores, columns))
    codes = None if groups is None else check_groups(groups, scores, correct)
    if codes is not None and n_splits > codes.max() + 1:
        raise ValueError(
            f"n_splits must be at most the number of groups, {codes.max() + 1}, not "
            f"{n_splits}."
        )
    kind = StratifiedKFold if codes is None else StratifiedGroupKFold
    folds = kind(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Folds without a right row, or without a wrong one, do no harm.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(right, right, codes))
    found = cross_val_predict(
        calibrator,
        scores if hasattr(scores, "iloc") else np.asarray(scores),
        check_labels(correct, "correct", scores),
        cv=[(rest, fold) for rest, fold in parts if len(fold)],  # groups may leave none
    )
    return Calibrated(np.asarray(found), np.zeros(len(right), dtype=bool), known=True)


def learning_curves(
    calibrators: Mapping[str, Calibrator],
    labelled: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    *,
    sizes: Sequence[int] = (25, 50, 100, 200, 500, 1000, 2000),
    n_draws: int = 20,
    n_bins: int = 20,
    rng: np.random.Generator | int | None = 0,
) -> pd.DataFrame:
    """Held-out quality of calibrators against the number of labels.

    Parameters
    ----------
    calibrators : mapping of str to Calibrator
        Calibrators by name, all of which are fitted (as copies) on the same draws.
    labelled, test : (array-like, array-like)
        Scores in [0, 1] and outcomes, of the rows to fit on and to measure on.
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
        ``ece``, ``brier`` and ``log_loss`` for each ``n``, ``draw`` and ``calibrator``.

    Examples
    --------
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> platt, rows = PlattScalingCalibrator(), ([0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1])
    >>> len(learning_curves({"Platt": platt}, rows, rows, sizes=[4], n_draws=2))
    2
    """
    rows = []
    binning = Binning(n_bins)
    drawn = _draws(labelled, test, sizes, n_draws, rng)
    for n, draw, part, scores, truth in drawn:
        for name, calibrator in calibrators.items():
            predicted = np.asarray(clone(calibrator).fit(*part).predict(scores))
            ece = expected_calibration_error(predicted, truth, binning=binning)
            brier = brier_score(predicted, truth)
            rows.append((name, n, draw, ece, brier, log_loss(predicted, truth)))
    columns = ["calibrator", "n", "draw", "ece", "brier", "log_loss"]
    return pd.DataFrame(rows, columns=columns)


def held_out_curves(
    calibrator: Calibrator,
    labelled: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
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
        What to fit. It is copied.
    labelled, test, sizes, n_draws, rng
        See :func:`learning_curves`.
    n_bins : int, default=10
        Bins of the calibrated confidence, of equal width.
    least : int, default=50
        Bins with fewer test rows are left out.

    Returns
    -------
    pandas.DataFrame
        Mean calibrated ``confidence``, ``accuracy`` and number of test ``rows`` for
        each ``n``, ``draw`` and ``bin`` (its lower edge).

    Examples
    --------
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> platt, rows = PlattScalingCalibrator(), ([0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1])
    >>> found = held_out_curves(platt, rows, rows, sizes=[4], n_draws=1, least=1)
    >>> found["bin"].tolist()
    [0.3, 0.4, 0.5, 0.6]
    """
    check_count("n_bins", n_bins)
    tables = []
    drawn = _draws(labelled, test, sizes, n_draws, rng)
    for n, draw, part, scores, truth in drawn:
        predicted = np.asarray(clone(calibrator).fit(*part).predict(scores))
        bins = np.minimum((predicted * n_bins).astype(int), n_bins - 1) / n_bins
        table = pd.DataFrame({"confidence": predicted, "accuracy": truth, "rows": 1})
        means = table.groupby(bins).agg(
            {"confidence": "mean", "accuracy": "mean", "rows": "sum"}
        )
        kept = means[means["rows"] >= least].rename_axis("bin").reset_index()
        tables.append(kept.assign(n=n, draw=draw))
    columns = ["n", "draw", "bin", "confidence", "accuracy", "rows"]
    return pd.concat(tables, ignore_index=True)[columns]


def _draws(
    labelled: tuple[Any, Any],
    test: tuple[Any, Any],
    sizes: Sequence[int],
    n_draws: int,
    rng: np.random.Generator | int | None,
) -> Iterator[tuple[int, int, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
    """Number, draw, drawn rows with both outcomes, and the test rows."""
    values, outcome, _ = check_rows(*labelled, name="scores")
    tested, truth, _ = check_rows(*test, name="test_scores", outcome="test_correct")
    check_count("n_draws", n_draws)
    generator = check_rng(rng)
    for n in sizes:
        if check_count("sizes", n, least=2) > len(values):
            raise ValueError(
                f"sizes must not exceed the {len(values)} rows to fit on; one is {n!r}."
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
            yield n, draw, (values[rows], outcome[rows]), tested, truth
