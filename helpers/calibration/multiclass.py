"""Calibrators of label probabilities: of whole rows, or of the predicted class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, InstanceOf
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.base import clone

from .base import BOUNDS, Calibrator, MulticlassCalibrator
from .binary import Floor
from .files import Classes, Count, NotNegative, Positive, Share, numbers

_LEAST = 1e-9


def _checked(calibrator: Calibrator) -> Calibrator:
    calibrator._check_parameters()
    return calibrator


@dataclass(kw_only=True, eq=False, repr=False)
class _ObjectiveCalibrator(MulticlassCalibrator):
    """Base of calibrators of whole rows, with a choice of objective."""

    objective: Literal["multiclass", "top-versus-all"] = "multiclass"
    floor: Floor = 1e-12

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> None:
        if self.objective == "top-versus-all":
            super()._constant(values, truth)
        elif (truth == truth[0]).all():
            raise ValueError(
                f"correct must hold two or more classes; all {len(truth)} rows are of "
                f"that in column {truth[0]}."
            )

    def _logs(self, probabilities: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(probabilities, self.floor))

    def _columns_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Log-probabilities, a class a row: over few classes, that is much faster."""
        return np.ascontiguousarray(self._logs(probabilities).T)

    def _loss(
        self, values: np.ndarray, truth: np.ndarray
    ) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """Mean loss of logits, and its gradient by each of them."""
        if self.objective == "multiclass":
            return lambda z: _true_class_loss(z, truth)
        predicted = values.argmax(axis=1)
        top = predicted, np.arange(len(values))
        return lambda z: _top_loss(z, top, predicted == truth)


@dataclass(kw_only=True, eq=False, repr=False)
class MulticlassTemperatureScaling(_ObjectiveCalibrator):
    """softmax(ln p / T), with the one temperature T that fits best.

    The prediction does not change. ``temperature_`` and ``at_bound_`` are those of
    :class:`TemperatureScalingCalibrator`.

    Parameters
    ----------
    objective : {"multiclass", "top-versus-all"}, default="multiclass"
        What is minimised: the log loss of the true class (Guo et al., 2017), or that of
        the predicted class for being right (Le Coz et al., 2024).
    floor : float, default=1e-12
        Probabilities count as at least this.

    Examples
    --------
    >>> rows = [[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]]
    >>> round(MulticlassTemperatureScaling().fit(rows, [0, 1, 2, 1]).temperature_, 3)
    1.692
    """

    _fitted = {"classes_": Classes, "temperature_": Positive, "at_bound_": bool}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        logs = self._columns_of(values)
        loss = self._loss(values, truth)

        def slope(log_beta: float) -> float:
            return float(np.sum(logs * loss(math.exp(log_beta) * logs)[1]))

        within = BOUNDS
        if self.objective == "top-versus-all":
            # This loss may have several minima: search around the lowest of a grid.
            grid = np.linspace(*BOUNDS, 81)
            losses = [loss(math.exp(at) * logs)[0] for at in grid]
            best = int(np.flatnonzero(losses == np.min(losses))[-1])
            within = (grid[max(best - 1, 0)], grid[min(best + 1, 80)])
        settled = bool((logs != logs[:1]).any())
        found = self._temperature(slope, within=within, settled=settled)
        self.temperature_, self.at_bound_ = found

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return softmax(self._logs(values) / self.temperature_, axis=1)


@dataclass(kw_only=True, eq=False, repr=False)
class VectorScaling(_ObjectiveCalibrator):
    """softmax(w · ln p + b), with a weight and a bias by class (Guo et al., 2017).

    The most probable class may change. ``biases_`` sum to zero. It warns where no
    finite w and b fit best: a class is never true, or the rows separate the classes.

    Parameters
    ----------
    objective, floor
        See :class:`MulticlassTemperatureScaling`.
    penalty : float, default=0.0
        Factor of the penalty, the sum of (w − 1)² and b².

    Examples
    --------
    >>> rows = [[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]]
    >>> VectorScaling(penalty=0.1).fit(rows, [0, 1, 2, 1]).weights_.round(2).tolist()
    [1.22, 0.39, 1.3]
    """

    penalty: NotNegative = 0.0

    _fitted = {"classes_": Classes, "weights_": numbers(), "biases_": numbers()}
    _lengths = {"weights_": ("classes_", 0), "biases_": ("classes_", 0)}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        logs, k = self._columns_of(values), values.shape[1]
        loss = self._loss(values, truth)
        start = np.repeat([1.0, 0.0], k)

        def penalised(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            weights, biases = parameters.reshape(2, k, 1)
            value, by_logit = loss(weights * logs + biases)
            off = parameters - start
            gradient = np.append((by_logit * logs).sum(axis=1), by_logit.sum(axis=1))
            value += self.penalty * float(off @ off)
            return value, gradient + 2 * self.penalty * off

        found = minimize(
            penalised,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 10_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-8},
        )
        self.weights_ = found.x[:k]
        self.biases_ = found.x[k:] - found.x[k:].mean()
        unsettled = len(np.unique(truth)) < k or np.abs(found.jac).max() > 1e-4
        unsettled &= self.objective == "multiclass"
        if self.penalty == 0 and (unsettled or found.fun < 1e-6):
            self._warn(
                "no finite weights and biases fit best: a class is never true, or the "
                "rows separate the classes. Set a penalty."
            )

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return softmax(self.weights_ * self._logs(values) + self.biases_, axis=1)


@dataclass(eq=False, repr=False)
class _TopCalibrator(MulticlassCalibrator):
    """Base of calibrators of the predicted class, which wrap another calibrator."""

    calibrator: Annotated[InstanceOf[Calibrator], AfterValidator(_checked)]

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> None:
        """Nothing: the wrapped calibrator says what to do."""


class TopVersusAll(_TopCalibrator):
    """One map, ``calibrator_``, from the greatest probability to being right.

    ``predict`` gives one confidence a row, that of the most probable class; which class
    that is does not change (Le Coz et al., 2024).

    Parameters
    ----------
    calibrator : Calibrator
        What to learn the map with. It is copied, not changed.

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [[0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]]
    >>> top = TopVersusAll(IsotonicRegressionCalibrator()).fit(rows, [1, 1, 0, 0])
    >>> top.predict(rows).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """

    _fitted = {"classes_": Classes, "calibrator_": InstanceOf[Calibrator]}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        self.calibrator_ = clone(self.calibrator)
        self.calibrator_.fit(values.max(axis=1), self._right(values, truth))

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(self.calibrator_.predict(values.max(axis=1)))


@dataclass(eq=False, repr=False)
class TopLabelCalibrator(_TopCalibrator):
    """One map for each predicted class, shrunk towards the map for all of them.

    As with :class:`TopVersusAll`, ``predict`` gives one confidence a row. ``by_class_``
    holds maps, or (right + 1) / (n_k + 2) where a class has too few rows or one
    outcome; a class never predicted in ``fit`` gets ``shared_``. Without shrinkage:
    Gupta and Ramdas, 2022.

    Parameters
    ----------
    calibrator : Calibrator
        What to learn each map with. It is copied, not changed.
    shrinkage : float, optional
        The map of a class with n_k rows has weight n_k / (n_k + shrinkage). Default:
        ``shrinkage_``, estimated in ``fit``: the variance of outcomes within a class
        by that between classes of what the shared map leaves over (Bühlmann, 1967).

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]]
    >>> maps = TopLabelCalibrator(IsotonicRegressionCalibrator(), shrinkage=2)
    >>> maps.fit(rows, [1, 0, 0, 0]).predict(rows).round(3).tolist()
    [0.0, 0.667, 0.292, 0.292]
    """

    shrinkage: NotNegative | None = field(default=None, kw_only=True)

    _fitted = {
        "classes_": Classes,
        "shared_": InstanceOf[Calibrator],
        "by_class_": dict[Any, InstanceOf[Calibrator] | Share],
        "counts_": dict[Any, Count],
    }
    _lengths = {"counts_": ("classes_", 0)}

    def _kinds(self) -> Mapping[str, Any]:
        chosen = {"shrinkage_": NotNegative} if self.shrinkage is None else {}
        return {**super()._kinds(), **chosen}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        predicted, scores = values.argmax(axis=1), values.max(axis=1)
        right = predicted == truth
        self.shared_ = clone(self.calibrator).fit(scores, right)
        if self.shrinkage is None:
            shared = np.asarray(self.shared_.predict(scores))
            within = float(np.mean(shared * (1 - shared)))
            self.shrinkage_ = within / _between(predicted, right - shared, within)
        self.by_class_: dict[Any, Calibrator | float] = {}
        self.counts_: dict[Any, int] = {}
        for at, name in enumerate(self.classes_):
            rows = predicted == at
            n, n_right = int(rows.sum()), int(right[rows].sum())
            self.counts_[name] = n
            if n >= self._least_rows() and 0 < n_right < n:
                own = clone(self.calibrator)
                self.by_class_[name] = own.fit(scores[rows], right[rows])
            elif n:
                self.by_class_[name] = (n_right + 1) / (n + 2)

    def _predict(self, values: np.ndarray) -> np.ndarray:
        predicted, scores = values.argmax(axis=1), values.max(axis=1)
        result = np.array(self.shared_.predict(scores))
        shrinkage = self.shrinkage_ if self.shrinkage is None else self.shrinkage
        for at, name in enumerate(self.classes_):
            rows = predicted == at
            if name not in self.by_class_ or not rows.any():
                continue
            own, n = self.by_class_[name], self.counts_[name]
            found = own.predict(scores[rows]) if isinstance(own, Calibrator) else own
            weight = n / (n + shrinkage)
            result[rows] = weight * found + (1 - weight) * result[rows]
        return result


def _between(groups: np.ndarray, values: np.ndarray, within: float) -> float:
    """How much the means of groups vary beyond chance, as a variance above zero."""
    _, group, n = np.unique(groups, return_inverse=True, return_counts=True)
    if len(n) == 1:
        return _LEAST
    apart = np.bincount(group, values) / n - values.mean()
    beyond = n @ apart**2 - (len(n) - 1) * within
    return max(float(beyond / (n.sum() - n @ n / n.sum())), _LEAST)


def _true_class_loss(z: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log loss of the true class, and its gradient; z has a class a row."""
    at = truth, np.arange(len(truth))
    logs = log_softmax(z, axis=0)
    gradient = np.exp(logs)
    gradient[at] -= 1
    return -float(logs[at].mean()), gradient / len(truth)


def _top_loss(
    z: np.ndarray, top: tuple[np.ndarray, np.ndarray], correct: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean log loss of the predicted class as one of being right; its gradient.

    Predicted before the map, as is known to be correct: a map may change it.
    """
    others = z.copy()
    others[top] = -np.inf
    second = others.max(axis=0)
    share = np.exp(others - second)
    total = share.sum(axis=0)
    # The log odds of the predicted class against all others.
    against = z[top] - second - np.log(total)
    against[correct] *= -1
    loss = np.maximum(against, 0) + np.log1p(np.exp(-np.abs(against)))
    by_odds = expit(against) / len(correct)
    by_odds[correct] *= -1
    gradient = share * (-by_odds / total)
    gradient[top] = by_odds
    return float(loss.mean()), gradient
