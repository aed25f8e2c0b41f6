"""Calibrators of the confidence in the predicted class, whichever it is."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, InstanceOf
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from .base import Calibrator, MulticlassCalibrator
from .files import Classes, Count, Share


def _fitted_map(calibrator: Calibrator) -> Calibrator:
    check_is_fitted(calibrator)
    return calibrator


_Map = Annotated[InstanceOf[Calibrator], AfterValidator(_fitted_map)]


class TopVersusAll(MulticlassCalibrator):
    """One map for all classes, from the greatest probability to being right.

    Parameters
    ----------
    calibrator : Calibrator
        What to learn the map with. It is copied, not changed.

    Attributes
    ----------
    calibrator_ : Calibrator
        The map.

    Notes
    -----
    ``predict`` gives one confidence a row, that of the most probable class; which
    class that is stays as it was.

    References
    ----------
    Le Coz, Herbin and Adjed, Confidence calibration of classifiers with many classes,
    NeurIPS 2024.

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]]
    >>> top = TopVersusAll(IsotonicRegressionCalibrator()).fit(rows, [1, 1, 0, 0])
    >>> top.predict(rows).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """

    _fitted = {"classes_": Classes, "calibrator_": _Map}

    calibrator_: Calibrator

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator

    def _check_parameters(self) -> None:
        _check_calibrator(self.calibrator)

    def _fit(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        correct = probabilities.argmax(axis=1) == truth
        self.calibrator_ = clone(self.calibrator)
        self.calibrator_.fit(probabilities.max(axis=1), correct)

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        return np.asarray(self.calibrator_.predict(probabilities.max(axis=1)))


class PerPredictedClass(MulticlassCalibrator):
    """One map for each predicted class, drawn towards the map for all of them.

    Parameters
    ----------
    calibrator : Calibrator
        What to learn each map with. It is copied, not changed.
    shrinkage : float, default=50.0
        How many rows the map for all classes counts for: the map of a class with n_k
        rows has weight n_k / (n_k + shrinkage).

    Attributes
    ----------
    shared_ : Calibrator
        The map for all classes.
    by_class_ : dict
        For each predicted class its own map; a number, (right + 1) / (n_k + 2), where
        its rows are too few for one, or all right or all wrong.
    counts_ : dict
        How many rows were predicted to be of each class.

    Notes
    -----
    ``predict`` gives one confidence a row, that of the most probable class; which
    class that is stays as it was. A class that was never predicted in ``fit`` gets the
    map for all classes.

    References
    ----------
    Gupta and Ramdas, Top-label calibration and multiclass-to-binary reductions, ICLR
    2022, without the shrinkage.

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]]
    >>> maps = PerPredictedClass(IsotonicRegressionCalibrator(), shrinkage=2)
    >>> maps.fit(rows, [1, 0, 0, 0]).by_class_[1]
    0.25
    >>> maps.predict(rows).round(3).tolist()
    [0.0, 0.667, 0.292, 0.292]
    """

    _fitted = {
        "classes_": Classes,
        "shared_": _Map,
        "by_class_": dict[Any, _Map | Share],
        "counts_": dict[Any, Count],
    }
    _lengths = {"counts_": ("classes_", 0)}

    shared_: Calibrator
    by_class_: dict[Any, Calibrator | float]
    counts_: dict[Any, int]

    def __init__(self, calibrator: Calibrator, *, shrinkage: float = 50.0) -> None:
        self.calibrator = calibrator
        self.shrinkage = shrinkage

    def _check_parameters(self) -> None:
        _check_calibrator(self.calibrator)
        is_number = isinstance(self.shrinkage, (int, float, np.number))
        if not is_number or not 0 <= self.shrinkage < math.inf:
            raise ValueError(
                "shrinkage must be a finite number of 0 or more, not "
                f"{self.shrinkage!r}."
            )

    def _fit(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
        correct = predicted == truth
        self.shared_ = clone(self.calibrator).fit(scores, correct)
        self.by_class_, self.counts_ = {}, {}
        for at, name in enumerate(self.classes_):
            rows = predicted == at
            self.counts_[name] = int(rows.sum())
            if rows.any():
                self.by_class_[name] = self._own_map(scores[rows], correct[rows])

    def _own_map(self, scores: np.ndarray, correct: np.ndarray) -> Calibrator | float:
        n, n_right = len(correct), int(correct.sum())
        if n < self.calibrator._least_rows() or n_right in (0, n):
            return (n_right + 1) / (n + 2)
        own: Calibrator = clone(self.calibrator).fit(scores, correct)
        return own

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
        result = np.array(self.shared_.predict(scores))
        for at, name in enumerate(self.classes_):
            rows = predicted == at
            if name not in self.by_class_ or not rows.any():
                continue
            own, n = self.by_class_[name], self.counts_[name]
            values = own.predict(scores[rows]) if isinstance(own, Calibrator) else own
            weight = n / (n + self.shrinkage)
            result[rows] = weight * values + (1 - weight) * result[rows]
        return result


def _check_calibrator(calibrator: Any) -> None:
    if not isinstance(calibrator, Calibrator):
        raise TypeError(
            "calibrator must be a Calibrator of scores, such as "
            f"PlattScalingCalibrator(), not {calibrator!r}."
        )
    calibrator._check_parameters()
