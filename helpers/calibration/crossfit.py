"""Calibrated values for all rows, none of them from a calibrator that has seen it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

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
    """Calibrated values, each by a calibrator fitted on the other folds of the data.

    Parameters
    ----------
    calibrator : BaseCalibrator
        What to fit, such as a :class:`Calibrator`, a :class:`MulticlassCalibrator` or
        a :class:`helpers.uncertainty.CombinedConfidence`. It is copied, not changed.
    scores : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
        What ``calibrator.fit`` takes first: scores, label probabilities or signals.
    correct : array-like of shape (n,)
        What it takes second: outcomes or true classes.
    groups : array-like of shape (n,), optional
        Rows of one group stay on the same side, as the same text met twice should.
        Strings that differ in case or white space only are one group.
    n_splits : int, default=5
        Number of folds, each with about the same share of right rows.
    seed : int, default=0
        Seed of the folds.

    Returns
    -------
    Calibrated of shape (n,) or (n, n_classes)
        In the order of the rows; held-out.

    Raises
    ------
    ValueError
        Lengths differ, n_splits is below 2 or above the number of rows, of groups or
        of rows with the more frequent outcome, a group is missing, or the calibrator
        cannot be fitted without one of the folds.

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> isotonic = IsotonicRegressionCalibrator()
    >>> scores, correct = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99], [0, 1, 0, 1, 0, 1]
    >>> isotonic.fit(scores, correct).predict(scores).tolist()
    [0.0, 0.5, 0.5, 0.5, 0.5, 1.0]
    >>> cross_fitted(isotonic, scores, correct, n_splits=2).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.5]
    """
    check_count("n_splits", n_splits, 2)
    check_count("seed", seed, 0)
    right = calibrator._outcomes(scores, correct)
    codes = None if groups is None else check_groups(groups, scores, correct)
    _check_splits(n_splits, right, codes)
    kind = StratifiedKFold if codes is None else StratifiedGroupKFold
    folds = kind(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Folds without a right row, or without a wrong one, do no harm.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(right, right, codes))
    in_pandas = isinstance(scores, (pd.DataFrame, pd.Series))
    data: Any = scores if in_pandas else np.asarray(scores)
    outcomes = check_labels(correct, "correct", scores)
    result: np.ndarray | None = None
    for train, test in parts:
        if not len(test):  # StratifiedGroupKFold may leave a fold empty.
            continue
        fitted: Any = clone(calibrator)
        fitted.fit(_taken(data, train), outcomes[train])
        values = np.asarray(fitted.predict(_taken(data, test)))
        if result is None:
            result = np.empty((len(right), *values.shape[1:]))
        result[test] = values
    assert result is not None
    return Calibrated(result, np.zeros(len(right), dtype=bool), known=True)


def _check_splits(n_splits: int, right: np.ndarray, codes: np.ndarray | None) -> None:
    n_groups = None if codes is None else len(np.unique(codes))
    most = max(int(right.sum()), int((~right).sum()))
    for number, what in (
        (len(right), "the number of rows"),
        (n_groups, "the number of groups"),
        (most, "the number of rows with the more frequent outcome"),
    ):
        if number is not None and n_splits > number:
            raise ValueError(
                f"n_splits must be at most {what}, {number}, not {n_splits}."
            )


def _taken(data: Any, rows: np.ndarray) -> Any:
    return data[rows] if isinstance(data, np.ndarray) else data.iloc[rows]
