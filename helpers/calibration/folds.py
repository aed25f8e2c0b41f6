"""Calibrators fitted on folds, for values of all rows that were not fitted on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
)

from ..checks import check_count, check_groups, check_labels
from .base import BaseCalibrator
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
