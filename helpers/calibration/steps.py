"""Calibrators that follow the data: isotonic, histogram and Venn–Abers."""

from __future__ import annotations

from typing import Any
from warnings import catch_warnings, filterwarnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression

from ..checks import check_choice, check_count
from ..metrics.bins import Binning, Bins
from .base import Calibrator
from .files import numbers


class IsotonicRegressionCalibrator(Calibrator):
    """The rising curve that fits best.

    Parameters
    ----------
    rule : {"linear", "step"}, default="linear"
        What a score between two blocks of equal value gets. "linear" interpolates, as
        scikit-learn does. "step" gives it the value of the upper block, as
        ``as.stepfun(isoreg(x, y))`` does in R. On the rows fitted on, both are the
        same.

    Attributes
    ----------
    x_thresholds_, y_thresholds_ : numpy.ndarray
        First and last score of each block, and the value there.

    Notes
    -----
    The fit equals the share of right rows in each block, so that on the rows fitted on
    the calibration error of its values is zero, whatever the scores are worth. At the
    ends the value is often exactly 0 or 1.

    References
    ----------
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass
    probability estimates, KDD 2002.

    Examples
    --------
    >>> scores, correct = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], [0, 1, 0, 1, 0, 1, 1]
    >>> for rule in ("linear", "step"):
    ...     isotonic = IsotonicRegressionCalibrator(rule=rule).fit(scores, correct)
    ...     print(rule, isotonic.predict([0.55, 0.92]).round(2).tolist())
    linear [0.25, 0.7]
    step [0.5, 1.0]
    """

    _fitted = dict.fromkeys(
        ("x_thresholds_", "y_thresholds_"), numbers(0, 1, least=1, rising=True)
    )
    _lengths = {"y_thresholds_": ("x_thresholds_", 0)}

    x_thresholds_: np.ndarray
    y_thresholds_: np.ndarray

    def __init__(self, *, rule: str = "linear") -> None:
        self.rule = rule

    def _check_parameters(self) -> None:
        check_choice("rule", self.rule, ("linear", "step"))

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        curve.fit(scores, correct.astype(float))
        self.x_thresholds_ = curve.X_thresholds_
        self.y_thresholds_ = curve.y_thresholds_

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        x, y = self.x_thresholds_, self.y_thresholds_
        if self.rule == "linear":
            return np.interp(_on(x, scores), x, y)
        last_of_block = np.append(np.diff(y) != 0, True)
        return _steps(scores, x[last_of_block][:-1], y[last_of_block], "left")


class HistogramBinningCalibrator(Calibrator):
    """The share of right rows in each bin of scores.

    Parameters
    ----------
    n_bins : int, default=15
        Number of bins; fewer where ties leave fewer.
    strategy : {"quantile", "uniform"}, default="quantile"
        Bins of about the same number of rows, or of the same width.

    Attributes
    ----------
    edges_ : numpy.ndarray
        Where one bin ends and the next begins; a score on an edge, as far as single
        precision can tell, is in the upper bin.
    values_ : numpy.ndarray
        Share of right rows in each bin.
    counts_ : numpy.ndarray
        Rows in each bin. Where there are none, scores are left as they are.

    References
    ----------
    Zadrozny and Elkan, Obtaining calibrated probability estimates from decision trees
    and naive Bayesian classifiers, ICML 2001.

    Examples
    --------
    >>> scores = [0.1, 0.2, 0.6, 0.7, 0.8, 0.9]
    >>> histogram = HistogramBinningCalibrator(n_bins=3)
    >>> histogram.fit(scores, [0, 0, 1, 0, 1, 1]).predict([0.15, 0.72, 0.75]).tolist()
    [0.0, 0.5, 1.0]
    """

    _fitted = {
        "edges_": numbers(0, 1, rising=True),
        "values_": numbers(0, 1),
        "counts_": numbers(0),
    }
    _lengths = {"values_": ("edges_", 1), "counts_": ("edges_", 1)}

    edges_: np.ndarray
    values_: np.ndarray
    counts_: np.ndarray

    def __init__(self, *, n_bins: int = 15, strategy: str = "quantile") -> None:
        self.n_bins = n_bins
        self.strategy = strategy

    def _check_parameters(self) -> None:
        check_count("n_bins", self.n_bins)
        check_choice("strategy", self.strategy, ("quantile", "uniform"))

    def _least_rows(self) -> int:
        return max(2, self.n_bins)

    def _check_enough(self, n: int) -> None:
        if n < self.n_bins:
            raise ValueError(
                f"n_bins must be at most the number of rows, {n}, not {self.n_bins}."
            )
        super()._check_enough(n)

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        strategy: Any = self.strategy
        edges = Bins.of(scores, Binning(self.n_bins, strategy)).edges[1:-1]
        if strategy == "quantile":
            # Ties may leave no rows between two edges, or below the first.
            below = np.searchsorted(np.sort(scores), edges)
            edges = edges[np.diff(below, prepend=0) > 0]
        self.edges_ = edges
        bins = self._bins(scores)
        self.counts_ = np.bincount(bins, minlength=len(self.edges_) + 1)
        right = np.bincount(bins, weights=correct, minlength=len(self.edges_) + 1)
        self.values_ = right / np.maximum(self.counts_, 1)

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        bins = self._bins(scores)
        return np.where(self.counts_[bins] > 0, self.values_[bins], scores)

    def _bins(self, scores: np.ndarray) -> np.ndarray:
        edges = np.concatenate([[0.0], self.edges_, [1.0]])
        strategy: Any = self.strategy
        return Bins(edges, "left", strategy).index(_on(self.edges_, scores))


class VennAbersCalibrator(Calibrator):
    """Two isotonic curves a score lies between, and one value from both.

    A score is calibrated as if it had been among those fitted on, once as wrong (p0)
    and once as right (p1). How far p0 and p1 are apart shows how much the data says.

    Attributes
    ----------
    lower_knots_, lower_values_ : numpy.ndarray
        p0 as a step function: it changes at a knot.
    upper_knots_, upper_values_ : numpy.ndarray
        p1 as a step function: it changes just above a knot.

    Notes
    -----
    ``predict`` gives p1 / (1 − p0 + p1), which is never 0 nor 1 for finite data. The
    package venn-abers does the fit.

    References
    ----------
    Vovk, Petej and Fedorova, Large-scale probabilistic predictors with and without
    guarantees of validity, NeurIPS 2015.

    Examples
    --------
    >>> scores = [0.5, 0.6, 0.7, 0.8, 0.9]
    >>> venn_abers = VennAbersCalibrator().fit(scores, [0, 1, 0, 1, 1])
    >>> venn_abers.predict_interval([0.65]).round(3).tolist()
    [[0.333, 0.667]]
    >>> venn_abers.predict([0.65]).round(3).tolist()
    [0.5]
    """

    _fitted = dict.fromkeys(
        ("lower_knots_", "lower_values_", "upper_knots_", "upper_values_"),
        numbers(0, 1, rising=True),
    )
    _lengths = {
        "lower_values_": ("lower_knots_", 1),
        "upper_values_": ("upper_knots_", 1),
    }

    lower_knots_: np.ndarray
    lower_values_: np.ndarray
    upper_knots_: np.ndarray
    upper_values_: np.ndarray

    def predict_interval(
        self, scores: ArrayLike, *, ids: ArrayLike | None = None, source: Any = None
    ) -> np.ndarray:
        """p0 and p1 of scores.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Numbers in [0, 1].
        ids : array-like of shape (n,), optional
            What the rows are called: see ``fit``.
        source : mapping of str to str, optional
            What made the scores: see ``fit``.

        Returns
        -------
        Calibrated of shape (n, 2)
            p0 and p1, marked as ``predict`` marks rows.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            A score is outside [0, 1], or the scores come from another source.
        """
        values, names = self._check_predict(scores, ids, source)
        return self._marked(np.column_stack(self._interval(values)), values, names)

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        # The import changes how numpy reports errors, for everybody.
        with np.errstate():
            from venn_abers import VennAbers
        both = np.column_stack([1 - scores, scores])
        with np.errstate(divide="ignore", invalid="ignore"), catch_warnings():
            filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            fitted = VennAbers().fit(both, correct.astype(float))
        knots = fitted.c_
        self.lower_knots_, self.lower_values_ = _changes(knots, fitted.p0_[:, 1])
        self.upper_knots_, self.upper_values_ = _changes(knots, fitted.p1_[:, 1])

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        p0, p1 = self._interval(scores)
        return p1 / (1 - p0 + p1)

    def _interval(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p0 = _steps(scores, self.lower_knots_, self.lower_values_, "right")
        p1 = _steps(scores, self.upper_knots_, self.upper_values_, "left")
        return p0, p1


def _steps(scores: np.ndarray, knots: np.ndarray, values: np.ndarray, at: Any) -> Any:
    """Values of a step function; at a knot that of the "left" or the "right" step."""
    return values[np.searchsorted(knots, _on(knots, scores), side=at)]


def _on(knots: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores; those that single precision cannot tell from a knot are put on it."""
    if not len(knots):
        return scores
    near = knots[np.searchsorted((knots[1:] + knots[:-1]) / 2, scores)]
    return np.where(np.float32(near) == np.float32(scores), near, scores)


def _changes(knots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step function without the knots where it does not change."""
    changed = np.diff(values) != 0
    return knots[changed], np.append(values[:1], values[1:][changed])
