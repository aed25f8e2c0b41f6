"""Calibrators of whole rows of label probabilities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from ..checks import check_choice
from .base import (
    CalibrationWarning,
    MulticlassCalibrator,
    check_both_outcomes,
    check_floor,
)
from .files import Classes, Positive, numbers
from .scaling import (
    check_bounds,
    falling_to_rising,
    warn_any_temperature,
    warn_at_bound,
)

OBJECTIVES = ("multiclass", "top-versus-all")
_GRID = 81


class _ObjectiveCalibrator(MulticlassCalibrator):
    """What the two calibrators share: what they minimise."""

    objective: str
    floor: float

    def _check_parameters(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_floor(self.floor)

    def _check_variety(
        self, probabilities: np.ndarray, truth: np.ndarray, classes: list[Any]
    ) -> None:
        if self.objective == "top-versus-all":
            check_both_outcomes(probabilities.argmax(axis=1) == truth)
        elif (truth == truth[0]).all():
            raise ValueError(
                f"truth must hold two or more classes; all {len(truth)} rows are "
                f"{classes[truth[0]]!r}."
            )

    def _logs(self, probabilities: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(probabilities, self.floor))

    def _loss(
        self, probabilities: np.ndarray, truth: np.ndarray
    ) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """Mean loss of logits, and its gradient by each of them."""
        if self.objective == "multiclass":
            return lambda z: _true_class_loss(z, truth)
        correct = probabilities.argmax(axis=1) == truth
        return lambda z: _top_loss(z, correct)


class MulticlassTemperatureScaling(_ObjectiveCalibrator):
    """softmax(ln p / T), with the one temperature T that fits best.

    Parameters
    ----------
    objective : {"multiclass", "top-versus-all"}, default="multiclass"
        What T minimises: the log loss of the true class (Guo et al., 2017), or that of
        the greatest probability as a forecast of whether the predicted class is right
        (Le Coz et al., 2024).
    floor : float, default=1e-12
        Probabilities count as at least this.
    bounds : (float, float), default=(-10.0, 10.0)
        Least and greatest ln(1 / T).

    Attributes
    ----------
    temperature_ : float
        T. Above 1 it takes confidence away, below 1 it adds some.
    at_bound_ : bool
        Whether T is at one of its bounds, so that the data settles only its direction.

    Warns
    -----
    CalibrationWarning
        T is at a bound, or all labels are equally probable so that any T does.

    Notes
    -----
    The most probable class stays the most probable one.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.

    Le Coz, Herbin and Adjed, Confidence calibration of classifiers with many
    classes, NeurIPS 2024.

    Examples
    --------
    >>> rows = [[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]]
    >>> temperature = MulticlassTemperatureScaling().fit(rows, [0, 1, 2, 1])
    >>> round(temperature.temperature_, 3)
    1.692
    >>> temperature.predict([[0.8, 0.1, 0.1]]).round(3).tolist()
    [[0.631, 0.185, 0.185]]
    """

    _fitted = {"classes_": Classes, "temperature_": Positive, "at_bound_": bool}

    temperature_: float
    at_bound_: bool

    def __init__(
        self,
        *,
        objective: str = "multiclass",
        floor: float = 1e-12,
        bounds: tuple[float, float] = (-10.0, 10.0),
    ) -> None:
        self.objective = objective
        self.floor = floor
        self.bounds = bounds

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_bounds(self.bounds)

    def _fit(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        logs = self._logs(probabilities)
        if (logs == logs[:, :1]).all():
            warn_any_temperature()
            self.temperature_, self.at_bound_ = 1.0, False
            return
        loss = self._loss(probabilities, truth)

        def value(log_beta: float) -> float:
            return loss(math.exp(log_beta) * logs)[0]

        def slope(log_beta: float) -> float:
            return float(np.sum(logs * loss(math.exp(log_beta) * logs)[1]))

        low, high = self.bounds
        if self.objective == "top-versus-all":
            # This loss may have several minima: first find the lowest.
            low, high = _around_lowest(value, low, high)
        log_beta = falling_to_rising(slope, low, high)
        self.temperature_ = math.exp(-log_beta)
        self.at_bound_ = warn_at_bound(log_beta, self.bounds)

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        return softmax(self._logs(probabilities) / self.temperature_, axis=1)


class VectorScaling(_ObjectiveCalibrator):
    """softmax(w · ln p + b), with a weight and a bias for each class.

    Parameters
    ----------
    objective : {"multiclass", "top-versus-all"}, default="multiclass"
        What w and b minimise: the log loss of the true class (Guo et al., 2017), or
        that of the greatest probability as a forecast of whether the predicted class
        is right (Le Coz et al., 2024).
    penalty : float, default=0.0
        What the sum of (w − 1)² and b² costs.
    floor : float, default=1e-12
        Probabilities count as at least this.

    Attributes
    ----------
    weights_, biases_ : numpy.ndarray of shape (n_classes,)
        w and b; b sums to zero.

    Warns
    -----
    CalibrationWarning
        No finite w and b fit best: a class is never true, or the rows separate the
        classes. A penalty makes them finite.

    Notes
    -----
    Another class than before may become the most probable one.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.

    Le Coz, Herbin and Adjed, Confidence calibration of classifiers with many
    classes, NeurIPS 2024.

    Examples
    --------
    >>> rows = [[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]]
    >>> vector = VectorScaling(penalty=0.1).fit(rows, [0, 1, 2, 1])
    >>> vector.weights_.round(2).tolist(), vector.biases_.round(2).tolist()
    ([1.22, 0.39, 1.3], [-0.35, 0.04, 0.31])
    """

    _fitted = {"classes_": Classes, "weights_": numbers(), "biases_": numbers()}
    _lengths = {"weights_": ("classes_", 0), "biases_": ("classes_", 0)}

    weights_: np.ndarray
    biases_: np.ndarray

    def __init__(
        self,
        *,
        objective: str = "multiclass",
        penalty: float = 0.0,
        floor: float = 1e-12,
    ) -> None:
        self.objective = objective
        self.penalty = penalty
        self.floor = floor

    def _check_parameters(self) -> None:
        super()._check_parameters()
        is_number = isinstance(self.penalty, (int, float, np.number))
        if not is_number or not 0 <= self.penalty < math.inf:
            raise ValueError(
                f"penalty must be a finite number of 0 or more, not {self.penalty!r}."
            )

    def _fit(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        logs, k = self._logs(probabilities), probabilities.shape[1]
        loss = self._loss(probabilities, truth)
        plain = np.repeat([1.0, 0.0], k)

        def penalised(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, by_logit = loss(parameters[:k] * logs + parameters[k:])
            off = parameters - plain
            gradient = np.append((by_logit * logs).sum(axis=0), by_logit.sum(axis=0))
            value += self.penalty * float(off @ off)
            return value, gradient + 2 * self.penalty * off

        found = minimize(
            penalised,
            plain,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 10_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-8},
        )
        self.weights_ = found.x[:k]
        self.biases_ = found.x[k:] - found.x[k:].mean()
        self._warn_unsettled(found.fun, found.jac, truth)

    def _warn_unsettled(
        self, loss: float, slope: np.ndarray, truth: np.ndarray
    ) -> None:
        never = [c for at, c in enumerate(self.classes_) if at not in truth]
        on_truth = self.objective == "multiclass"
        if self.penalty == 0 and on_truth and never:
            reason = f"class {never[0]!r} is never true"
        elif self.penalty == 0 and (
            loss < 1e-6 or (on_truth and np.abs(slope).max() > 1e-4)
        ):
            reason = "the rows separate the classes"
        else:
            return
        warnings.warn(
            f"no finite weights and biases fit best: {reason}. Set a penalty.",
            CalibrationWarning,
            stacklevel=4,
        )

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        z = self.weights_ * self._logs(probabilities) + self.biases_
        return softmax(z, axis=1)


def _true_class_loss(z: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log loss of the true class, and its gradient."""
    rows = np.arange(len(z))
    logs = log_softmax(z, axis=1)
    gradient = np.exp(logs)
    gradient[rows, truth] -= 1
    return -float(logs[rows, truth].mean()), gradient / len(z)


def _top_loss(z: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log loss of the greatest probability as one of being right; its gradient."""
    rows, top = np.arange(len(z)), z.argmax(axis=1)
    others = z.copy()
    others[rows, top] = -np.inf
    rest = logsumexp(others, axis=1)
    # The log odds of the greatest probability q: of it against all others.
    odds = z[rows, top] - rest
    sign = np.where(correct, 1.0, -1.0)
    loss = np.logaddexp(0, -sign * odds)
    by_odds = -sign * np.exp(-np.logaddexp(0, sign * odds)) / len(z)
    gradient = -by_odds[:, None] * np.exp(others - rest[:, None])
    gradient[rows, top] = by_odds
    return float(loss.mean()), gradient


def _around_lowest(
    value: Callable[[float], float], low: float, high: float
) -> tuple[float, float]:
    """The neighbours of the lowest point of a grid; of equal ones, the last."""
    grid = np.linspace(low, high, _GRID)
    values = np.array([value(at) for at in grid])
    best = int(np.flatnonzero(values == values.min())[-1])
    return float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
