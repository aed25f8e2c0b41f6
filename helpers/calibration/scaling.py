"""Calibrators with one, two or three numbers: temperature, Platt and beta."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_expit, logit
from sklearn.linear_model import LogisticRegression

from ..checks import check_between, check_choice
from .base import CalibrationWarning, Calibrator, check_floor, log_odds
from .files import Finite, NotNegative, Positive

_NEAR = 1e-3


class TemperatureScalingCalibrator(Calibrator):
    """σ(logit(s) / T), with the one temperature T that fits best.

    Parameters
    ----------
    floor : float, default=1e-12
        Scores count as at least this and at most one minus this.
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
        T is at a bound, or the scores are all 0.5 so that any T does.

    Notes
    -----
    T minimises the mean log loss, which is convex in 1 / T: the root of its slope is
    the one minimum. For two labels this is softmax(ln p / T) over the labels. A score
    of 0.5 stays 0.5, and no score crosses it.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.

    Examples
    --------
    >>> scores = [0.9, 0.9, 0.9, 0.9, 0.8]
    >>> temperature = TemperatureScalingCalibrator().fit(scores, [1, 1, 0, 1, 0])
    >>> round(temperature.temperature_, 3)
    3.419
    >>> temperature.predict([0.5, 0.9]).round(3).tolist()
    [0.5, 0.655]
    """

    _fitted = {"temperature_": Positive, "at_bound_": bool}

    temperature_: float
    at_bound_: bool

    def __init__(
        self, *, floor: float = 1e-12, bounds: tuple[float, float] = (-10.0, 10.0)
    ) -> None:
        self.floor = floor
        self.bounds = bounds

    def _check_parameters(self) -> None:
        check_floor(self.floor)
        check_bounds(self.bounds)

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        x = log_odds(scores, self.floor)

        def slope(log_beta: float) -> float:
            return float(np.mean(x * (expit(math.exp(log_beta) * x) - correct)))

        if not x.any():
            warn_any_temperature()
            self.temperature_, self.at_bound_ = 1.0, False
            return
        log_beta = falling_to_rising(slope, *self.bounds)
        self.temperature_ = math.exp(-log_beta)
        self.at_bound_ = warn_at_bound(log_beta, self.bounds)

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        return expit(log_odds(scores, self.floor) / self.temperature_)


class PlattScalingCalibrator(Calibrator):
    """σ(slope · x + intercept), where x is the logit of the score or the score.

    Parameters
    ----------
    scale : {"logit", "probability"}, default="logit"
        What x is: ln(s / (1 − s)), or s itself as in most libraries.
    floor : float, default=1e-12
        For the logit, scores count as at least this and at most one minus this.

    Attributes
    ----------
    slope_, intercept_ : float
        Platt's own A and B are −slope and −intercept.

    Warns
    -----
    CalibrationWarning
        Higher scores are not more often right, or the score does not vary.

    Notes
    -----
    Without a penalty, but with Platt's targets: right counts as (N₊ + 1) / (N₊ + 2)
    and wrong as 1 / (N₋ + 2), so that the fit is finite even where scores separate
    right from wrong.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, 1999.

    Examples
    --------
    >>> scores = [0.6, 0.7, 0.8, 0.9, 0.95]
    >>> platt = PlattScalingCalibrator().fit(scores, [0, 1, 0, 1, 1])
    >>> round(platt.slope_, 3), round(platt.intercept_, 3)
    (0.772, -0.832)
    """

    _fitted = {"slope_": Finite, "intercept_": Finite}

    slope_: float
    intercept_: float

    def __init__(self, *, scale: str = "logit", floor: float = 1e-12) -> None:
        self.scale = scale
        self.floor = floor

    def _check_parameters(self) -> None:
        check_choice("scale", self.scale, ("logit", "probability"))
        check_floor(self.floor)

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        x = self._feature(scores)
        n_right = int(correct.sum())
        n_wrong = len(correct) - n_right
        target = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
        if x.min() == x.max():
            _warn("the score does not vary: the curve is flat.")
            self.slope_, self.intercept_ = 0.0, float(logit(target.mean()))
            return
        self.slope_, self.intercept_ = _logistic(x, target)
        if self.slope_ <= 0:
            _warn(
                f"slope_ is {self.slope_:.3g}: higher scores are not more often right."
            )

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        return expit(self.slope_ * self._feature(scores) + self.intercept_)

    def _feature(self, scores: np.ndarray) -> np.ndarray:
        return scores if self.scale == "probability" else log_odds(scores, self.floor)


class BetaCalibrator(Calibrator):
    """σ(a · ln s − b · ln(1 − s) + c) with a, b ≥ 0: it can bend at either end.

    Parameters
    ----------
    floor : float, default=1e-12
        Scores count as at least this and at most one minus this.

    Attributes
    ----------
    a_, b_, c_ : float
        a = b = 1, c = 0 leaves scores as they are; a = b is Platt scaling of the
        logit.

    Warns
    -----
    CalibrationWarning
        The scores separate right from wrong, or the score does not vary.

    Notes
    -----
    The log loss is minimised without a penalty, by L-BFGS-B.

    References
    ----------
    Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017.

    Examples
    --------
    >>> scores = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]
    >>> beta = BetaCalibrator().fit(scores, [0, 0, 1, 0, 0, 1, 1, 0, 1])
    >>> round(beta.a_, 2), round(beta.b_, 2), round(beta.c_, 2)
    (1.51, 0.01, 0.86)
    """

    _fitted = {"a_": NotNegative, "b_": NotNegative, "c_": Finite}

    a_: float
    b_: float
    c_: float

    def __init__(self, *, floor: float = 1e-12) -> None:
        self.floor = floor

    def _check_parameters(self) -> None:
        check_floor(self.floor)

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        features = self._features(scores)
        if scores.min() == scores.max():
            _warn("the score does not vary: the curve is flat.")
            self.a_, self.b_, self.c_ = 0.0, 0.0, float(logit(correct.mean()))
            return
        if scores[~correct].max() <= scores[correct].min():
            _warn("the scores separate right from wrong: no finite curve fits best.")
        # Features of the same size are what L-BFGS-B copes with.
        middle, size = features.mean(axis=0), features.std(axis=0)
        scaled = np.column_stack([(features - middle) / size, np.ones(len(scores))])
        sign = np.where(correct, 1.0, -1.0)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            z = scaled @ weights
            gradient = scaled.T @ (expit(z) - correct) / len(z)
            return -float(np.mean(log_expit(sign * z))), gradient

        found = minimize(
            loss,
            np.array([size[0], size[1], float(middle.sum())]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None), (0, None), (None, None)],
            options={"maxiter": 10_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-9},
        ).x
        self.a_, self.b_ = float(found[0] / size[0]), float(found[1] / size[1])
        self.c_ = float(found[2] - middle @ [self.a_, self.b_])

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        return expit(self._features(scores) @ [self.a_, self.b_] + self.c_)

    def _features(self, scores: np.ndarray) -> np.ndarray:
        kept = np.clip(scores, self.floor, 1 - self.floor)
        return np.column_stack([np.log(kept), -np.log1p(-kept)])


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raise an error unless there is room between two bounds of ln(1 / T)."""
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ValueError(
            f"bounds must be two numbers, the smaller one first, not {bounds!r}."
        )
    for bound in bounds:
        check_between("bounds", bound, -100, 100, closed=True)


def falling_to_rising(
    slope: Callable[[float], float], low: float, high: float
) -> float:
    """Where a function stops falling, from its slope."""
    if slope(low) >= 0:
        return float(low)
    if slope(high) <= 0:
        return float(high)
    return float(brentq(slope, low, high, xtol=1e-13))


def warn_at_bound(log_beta: float, bounds: tuple[float, float]) -> bool:
    """Whether a temperature is at a bound; if so, say what that means."""
    temperature = math.exp(-log_beta)
    if log_beta > bounds[1] - _NEAR:
        _warn(
            f"temperature_ is at its lower bound, {temperature:.3g}: the smaller it "
            "is, the better it fits, as where scores separate right from wrong."
        )
    elif log_beta < bounds[0] + _NEAR:
        _warn(
            f"temperature_ is at its upper bound, {temperature:.3g}: the greater it "
            "is, the better it fits, as where scores say nothing about what is right."
        )
    else:
        return False
    return True


def warn_any_temperature() -> None:
    """Say that any temperature does."""
    _warn("all labels are equally probable in all rows: any temperature does.")


def _logistic(x: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic regression on targets between 0 and 1."""
    middle, size = x.mean(), x.std()
    rows = np.tile((x - middle) / size, 2)[:, None]
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    regression.fit(
        rows,
        np.repeat([1, 0], len(x)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(regression.coef_[0, 0] / size)
    return slope, float(regression.intercept_[0] - slope * middle)


def _warn(message: str) -> None:
    warnings.warn(message, CalibrationWarning, stacklevel=4)
