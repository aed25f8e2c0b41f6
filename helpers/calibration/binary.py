"""Calibrators of one score: curves with a formula, and curves that follow the data."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ..metrics.bins import Binning, Bins
from .base import Calibrator, Data, Ids, Source
from .files import Finite, NotNegative, Positive, numbers
from .marks import Calibrated

Floor = Annotated[float, Field(gt=0, lt=0.1)]


@dataclass(kw_only=True, eq=False, repr=False)
class TemperatureScalingCalibrator(Calibrator):
    """σ(logit(s) / T), with the one temperature T that fits best (Guo et al., 2017).

    No score crosses 0.5. ``temperature_`` above 1 lowers the confidence; ``at_bound_``
    says whether the data settles only its direction, which also gives a warning.

    Parameters
    ----------
    floor : float, default=1e-12
        Scores count as at least this and at most one minus this.

    Examples
    --------
    >>> scores = [0.9, 0.9, 0.9, 0.9, 0.8]
    >>> temperature = TemperatureScalingCalibrator().fit(scores, [1, 1, 0, 1, 0])
    >>> round(temperature.temperature_, 3)
    3.419
    """

    floor: Floor = 1e-12

    _fitted = {"temperature_": Positive, "at_bound_": bool}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        x = self._log_odds(values, self.floor)

        def slope(log_beta: float) -> float:
            return float(np.mean(x * (expit(math.exp(log_beta) * x) - truth)))

        found = self._temperature(slope, settled=bool(x.any()))
        self.temperature_, self.at_bound_ = found

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return expit(self._log_odds(values, self.floor) / self.temperature_)


@dataclass(kw_only=True, eq=False, repr=False)
class PlattScalingCalibrator(Calibrator):
    """σ(slope · x + intercept), where x is the logit of the score or the score.

    Right counts as (N₊ + 1) / (N₊ + 2) and wrong as 1 / (N₋ + 2), so that the fit is
    always finite (Platt, 1999); it warns where higher scores are not more often right.
    Platt's own A and B are −``slope_`` and −``intercept_``.

    Parameters
    ----------
    scale : {"logit", "probability"}, default="logit"
        What x is: ln(s / (1 − s)), or s itself as in most libraries.
    floor : float, default=1e-12
        For the logit, scores count as at least this and at most one minus this.

    Examples
    --------
    >>> platt = PlattScalingCalibrator().fit([0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1])
    >>> platt.predict([0.5, 0.9]).round(3).tolist()
    [0.294, 0.673]
    """

    scale: Literal["logit", "probability"] = "logit"
    floor: Floor = 1e-12

    _fitted = {"slope_": Finite, "intercept_": Finite}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        x = self._feature(values)
        n_right, n_wrong = int(truth.sum()), int((~truth).sum())
        target = np.where(truth, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
        if x.min() == x.max():
            self._warn("the score does not vary: the curve is flat.")
            self.slope_, self.intercept_ = 0.0, float(logit(target.mean()))
            return
        middle, size = x.mean(), x.std()
        # Each row counts as right and as wrong, with weights that add up to one.
        regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        regression.fit(
            np.tile((x - middle) / size, 2)[:, None],
            np.repeat([1, 0], len(x)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        self.slope_ = float(regression.coef_[0, 0] / size)
        self.intercept_ = float(regression.intercept_[0] - self.slope_ * middle)
        if self.slope_ <= 0:
            self._warn(
                f"slope_ is {self.slope_:.3g}: higher scores are not more often right."
            )

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return expit(self.slope_ * self._feature(values) + self.intercept_)

    def _feature(self, scores: np.ndarray) -> np.ndarray:
        if self.scale == "probability":
            return scores
        return self._log_odds(scores, self.floor)


@dataclass(kw_only=True, eq=False, repr=False)
class BetaCalibrator(Calibrator):
    """σ(a · ln s − b · ln(1 − s) + c) with ``a_``, ``b_`` ≥ 0 (Kull et al., 2017).

    a = b = 1, c = 0 leaves scores unchanged; a = b is Platt scaling of the logit. It
    warns where scores separate right from wrong, so that no finite curve fits best.

    Parameters
    ----------
    floor : float, default=1e-12
        Scores count as at least this and at most one minus this.

    Examples
    --------
    >>> beta = BetaCalibrator().fit([0.1, 0.3, 0.6, 0.7, 0.9], [0, 1, 0, 1, 1])
    >>> beta.predict([0.5]).round(2).tolist()
    [0.61]
    """

    floor: Floor = 1e-12

    _fitted = {"a_": NotNegative, "b_": NotNegative, "c_": Finite}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        features = self._features(values)
        if values.min() == values.max():
            self._warn("the score does not vary: the curve is flat.")
            self.a_, self.b_, self.c_ = 0.0, 0.0, float(logit(truth.mean()))
            return
        if values[~truth].max() <= values[truth].min():
            self._warn(
                "the scores separate right from wrong: no finite curve fits best."
            )
        # L-BFGS-B needs features of similar size.
        middle, size = features.mean(axis=0), features.std(axis=0)
        scaled = np.column_stack([(features - middle) / size, np.ones(len(values))])
        sign = np.where(truth, 1.0, -1.0)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            z = scaled @ weights
            gradient = scaled.T @ (expit(z) - truth) / len(z)
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

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return expit(self._features(values) @ [self.a_, self.b_] + self.c_)

    def _features(self, scores: np.ndarray) -> np.ndarray:
        kept = np.clip(scores, self.floor, 1 - self.floor)
        return np.column_stack([np.log(kept), -np.log1p(-kept)])


@dataclass(kw_only=True, eq=False, repr=False)
class IsotonicRegressionCalibrator(Calibrator):
    """The rising curve that fits best (Zadrozny and Elkan, 2002).

    Each value is the share of right rows in a block, so the calibration error on the
    rows fitted on is zero, whatever the scores are worth.

    Parameters
    ----------
    rule : {"linear", "step"}, default="linear"
        The value between two blocks: interpolated, as in scikit-learn, or that of the
        upper block, as in R's ``as.stepfun(isoreg(x, y))``.

    Examples
    --------
    >>> curve = IsotonicRegressionCalibrator().fit([0.5, 0.6, 0.7, 0.8], [0, 1, 0, 1])
    >>> curve.predict([0.55, 0.65]).round(2).tolist()
    [0.25, 0.5]
    """

    rule: Literal["linear", "step"] = "linear"

    _fitted = dict.fromkeys(
        ("x_thresholds_", "y_thresholds_"), numbers(0, 1, rising=True)
    )
    _lengths = {"y_thresholds_": ("x_thresholds_", 0)}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        curve.fit(values, truth.astype(float))
        self.x_thresholds_ = curve.X_thresholds_
        self.y_thresholds_ = curve.y_thresholds_

    def _predict(self, values: np.ndarray) -> np.ndarray:
        x, y = self.x_thresholds_, self.y_thresholds_
        if self.rule == "linear":
            return np.interp(_on(x, values), x, y)
        last_of_block = np.append(np.diff(y) != 0, True)
        return _steps(values, x[last_of_block][:-1], y[last_of_block], "left")


@dataclass(kw_only=True, eq=False, repr=False)
class HistogramBinningCalibrator(Calibrator):
    """The share of right rows in each bin of scores (Zadrozny and Elkan, 2001).

    A score on one of ``edges_`` is in the upper bin; an empty bin changes none.

    Parameters
    ----------
    n_bins : int, default=15
        Number of bins; ties, or fewer rows than bins, leave fewer.
    strategy : {"quantile", "uniform"}, default="quantile"
        Bins of about the same number of rows, or of the same width.

    Examples
    --------
    >>> scores = [0.1, 0.2, 0.6, 0.7, 0.8, 0.9]
    >>> histogram = HistogramBinningCalibrator(n_bins=3).fit(scores, [0, 0, 1, 0, 1, 1])
    >>> histogram.predict([0.15, 0.72, 0.75]).tolist()
    [0.0, 0.5, 1.0]
    """

    n_bins: Annotated[int, Field(ge=1)] = 15
    strategy: Literal["quantile", "uniform"] = "quantile"

    _fitted = {
        "edges_": numbers(0, 1, rising=True),
        "values_": numbers(0, 1),
        "counts_": numbers(0),
    }
    _lengths = {"values_": ("edges_", 1), "counts_": ("edges_", 1)}

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        strategy: Any = self.strategy
        n_bins = min(self.n_bins, len(values))
        if n_bins < self.n_bins:
            self._warn(f"{n_bins} rows fill only so many of {self.n_bins} bins.")
        edges = Bins.of(values, Binning(n_bins, strategy)).edges[1:-1]
        if strategy == "quantile":
            # Ties may leave no rows between two edges, or below the first.
            below = np.searchsorted(np.sort(values), edges)
            edges = edges[np.diff(below, prepend=0) > 0]
        self.edges_ = edges
        bins = self._bins(values)
        self.counts_ = np.bincount(bins, minlength=len(edges) + 1)
        right = np.bincount(bins, weights=truth, minlength=len(edges) + 1)
        self.values_ = right / np.maximum(self.counts_, 1)

    def _predict(self, values: np.ndarray) -> np.ndarray:
        bins = self._bins(values)
        return np.where(self.counts_[bins] > 0, self.values_[bins], values)

    def _bins(self, scores: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges_, _on(self.edges_, scores), side="right")


class VennAbersCalibrator(Calibrator):
    """Two isotonic curves that a score lies between, and one value from both.

    A score is calibrated as if it had been among those fitted on, once as wrong (p0)
    and once as right (p1); their distance shows how much the data says. ``predict``
    gives p1 / (1 − p0 + p1), which is never 0 or 1 (Vovk et al., 2015).

    Examples
    --------
    >>> both = VennAbersCalibrator().fit([0.5, 0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1, 1])
    >>> both.predict_interval([0.65]).round(3).tolist()
    [[0.333, 0.667]]
    """

    _fitted = dict.fromkeys(
        ("lower_knots_", "lower_values_", "upper_knots_", "upper_values_"),
        numbers(0, 1, rising=True),
    )
    _lengths = {
        "lower_values_": ("lower_knots_", 1),
        "upper_values_": ("upper_knots_", 1),
    }

    def predict_interval(
        self, scores: Data, *, ids: Ids = None, source: Source = None
    ) -> Calibrated:
        """p0 and p1 of scores, as an array of shape (n, 2); see ``predict``."""
        return self._mapped(self._interval, scores, ids, source)

    _may_be_constant = False

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> None:
        """None: the two curves still differ."""

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        if truth.all() or not truth.any():
            kind = f"all {len(truth)} rows are {bool(truth[0])}"
            self._warn(f"{kind}: one of the two curves is flat.")
            self._fit_one_outcome(np.sort(values), bool(truth[0]))
            return
        # The import changes how numpy reports errors, for the whole process.
        with np.errstate():
            from venn_abers import VennAbers
        both = np.column_stack([1 - values, values])
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            fitted = VennAbers().fit(both, truth.astype(float))
        knots = fitted.c_
        self.lower_knots_, self.lower_values_ = _changes(knots, fitted.p0_[:, 1])
        self.upper_knots_, self.upper_values_ = _changes(knots, fitted.p1_[:, 1])

    def _fit_one_outcome(self, knots: np.ndarray, right: bool) -> None:
        """A row of the other outcome is pooled with those below it, or above it."""
        n, none = len(knots), np.array([])
        pooled = np.arange(n + 1)
        self.lower_knots_, self.lower_values_ = none, np.array([0.0])
        self.upper_knots_, self.upper_values_ = none, np.array([1.0])
        if right:
            self.lower_knots_, self.lower_values_ = knots, pooled / (pooled + 1)
        else:
            self.upper_knots_, self.upper_values_ = knots, 1 / (n - pooled + 1)

    def _predict(self, values: np.ndarray) -> np.ndarray:
        p0, p1 = self._interval(values).T
        return p1 / (1 - p0 + p1)

    def _interval(self, scores: np.ndarray) -> np.ndarray:
        p0 = _steps(scores, self.lower_knots_, self.lower_values_, "right")
        p1 = _steps(scores, self.upper_knots_, self.upper_values_, "left")
        return np.stack([p0, p1], axis=1)


def _steps(scores: np.ndarray, knots: np.ndarray, values: np.ndarray, at: Any) -> Any:
    """Values of a step function; at a knot that of the "left" or the "right" step."""
    return values[np.searchsorted(knots, _on(knots, scores), side=at)]


def _on(knots: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores; those that equal a knot in single precision are moved onto it."""
    if not len(knots):
        return scores
    near = knots[np.searchsorted((knots[1:] + knots[:-1]) / 2, scores)]
    return np.where(np.float32(near) == np.float32(scores), near, scores)


def _changes(knots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step function without the knots where it does not change."""
    changed = np.diff(values) != 0
    return knots[changed], np.append(values[:1], values[1:][changed])
