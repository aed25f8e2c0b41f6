"""The recommended calibrator: it learns as much as its labels bear, and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import norm as normal
from sklearn.utils.validation import check_is_fitted

from ..checks import check_between, check_outcomes, check_probabilities
from .base import Data, Ids, MulticlassCalibrator, Source
from .binary import Floor
from .files import Classes, NotNegative, numbers
from .marks import Calibrated

# Standard deviations of the priors: of the weight that all labels share, of what the
# weight of each label differs by, and of the shifts. The last two are starts.
_START = (0.5, 0.3, 1.0)
_NARROW, _WIDE = 1e-3, 10.0
_ROUNDS = 300
_NAMED = 0.1  # how many numbers a part must have free to be told
_ALLOWANCE = 2.0


@dataclass(kw_only=True, eq=False, repr=False)
class ProbabilityCalibrator(MulticlassCalibrator):
    """Calibrated probabilities, with as much learned as the labels bear.

    Vector scaling, softmax(w · ln p + b), with normal priors around w = 1 and b = 0.
    How wide they are is chosen on the rows fitted on, by maximum marginal likelihood
    (MacKay, Neural Computation 4, 1992): little is learned from few labels or where
    there is little to mend, and a finite map is found for any labels. A confidence s
    counts as the probabilities 1 − s of wrong and s of right.

    ``choice_`` says in a sentence what was learned, ``n_parameters_`` how many numbers
    were free in effect. ``weights_`` and ``biases_`` are w and b.

    Parameters
    ----------
    floor : float, default=1e-12
        Probabilities count as at least this.

    Examples
    --------
    >>> rows = [[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]] * 10
    >>> truth = [0, 0, 1, 1, 0, 0, 0, 1] * 5  # the second label is right too often
    >>> calibrator = ProbabilityCalibrator().fit(rows, truth)
    >>> calibrator.predict([[0.6, 0.4]]).round(2).tolist()
    [[0.56, 0.44]]
    """

    floor: Floor = 1e-12

    _fitted = {
        "classes_": Classes | None,
        "weights_": numbers(),
        "biases_": numbers(),
        "widths_": numbers(0),
        "n_parameters_": NotNegative,
        "choice_": str,
        "weight_factor_": numbers(columns=True),
        "bias_factor_": numbers(columns=True),
    }
    _lengths = {
        name: ("weights_", 0) for name in ("biases_", "weight_factor_", "bias_factor_")
    }

    def predict_interval(
        self,
        scores: Data,
        *,
        level: float = 0.95,
        ids: Ids = None,
        source: Source = None,
    ) -> Calibrated:
        """Where each calibrated probability lies, given the labels fitted on.

        Given that the map has the right form. With a few hundred labels or fewer the
        intervals may cover somewhat less often than ``level`` says.

        Parameters
        ----------
        scores, ids, source
            As for ``predict``.
        level : float, default=0.95

        Returns
        -------
        Calibrated of shape (n, 2) or (n, n_classes, 2)
            Lower and upper ends of what ``predict`` gives.
        """
        check_between("level", level, 0, 1)
        z = normal.ppf((1 + level) / 2)

        def interval(values: np.ndarray) -> np.ndarray:
            found = self._rows(values)
            odds = logit(np.clip(found, 1e-300, 1 - 1e-16))
            labels = range(found.shape[1]) if values.ndim == 2 else [1]
            errors = [self._spread(values, np.full(len(values), at)) for at in labels]
            size = np.stack([np.linalg.norm(one, axis=1) for one in errors], axis=1)
            ends = [expit(odds[:, labels] + side * z * size) for side in (-1, 1)]
            both = np.stack(ends, axis=-1)
            return both if values.ndim == 2 else both[:, 0]

        return self._mapped(interval, scores, ids, source)

    def _least_rows(self) -> int:
        return 1

    def _read(self, scores: Any) -> tuple[np.ndarray, list[Any] | None]:
        if np.ndim(scores) == 1:
            return check_probabilities(scores, "scores").astype(float), None
        return super()._read(scores)

    def _read_truth(self, correct: Any, scores: Any, columns: Any) -> np.ndarray:
        if columns is None:
            return check_outcomes(correct, scores)
        return super()._read_truth(correct, scores, columns)

    def _mapped(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        scores: Data,
        ids: Ids,
        source: Source,
    ) -> Calibrated:
        check_is_fitted(self)
        if (np.ndim(scores) == 1) != (self.classes_ is None):
            kinds = "confidences", "label probabilities"
            asked, known = kinds if np.ndim(scores) == 1 else kinds[::-1]
            raise ValueError(f"scores must be {known}, as in fit, not {asked}.")
        return super()._mapped(function, scores, ids, source)

    def _right(self, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return truth if values.ndim == 1 else super()._right(values, truth)

    def _check_state(self) -> None:
        columns = {self.weight_factor_.shape[1], self.bias_factor_.shape[1]}
        if len(self.classes_ or "ab") != len(self.weights_) or len(columns) > 1:
            raise ValueError("weights_, factors and classes_ must fit together.")

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> None:
        """Any labels will do: the priors keep the map finite."""

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        if values.ndim == 1:
            self.classes_ = None
        logs, truth = self._logs(_as_rows(values)), truth.astype(np.intp)
        k = logs.shape[1]
        group = np.repeat([0, 1, 2], [1, k, k])
        width, theta = np.array(_START), np.zeros(2 * k + 1)
        # Labels of one kind say nothing about the widths.
        rounds = 1 if (truth == truth[0]).all() else _ROUNDS
        for _ in range(rounds):
            precision = width[group] ** -2.0
            theta, told = _mode(theta, precision, logs, truth)
            covariance = np.linalg.inv(told + np.diag(precision))
            free = 1 - np.diag(covariance) * precision
            used = width.copy()
            for at in (1, 2):
                size = np.sqrt((theta[group == at] ** 2).sum())
                known = max(free[group == at].sum(), 1e-9)
                width[at] = np.clip(size / np.sqrt(known), _NARROW, _WIDE)
            if np.allclose(np.log(width), np.log(used), rtol=0, atol=0.01):
                break
        shared, own, shift = theta[0], theta[1 : k + 1], theta[k + 1 :]
        self.weights_, self.biases_ = 1 + shared + own, shift - shift.mean()
        self.widths_, self.n_parameters_ = used, float(free.sum())
        # Wider, since the widths themselves are only estimated.
        wide = np.array([1, _ALLOWANCE, _ALLOWANCE]) * used
        sizes, vectors = np.linalg.eigh(told + np.diag(wide[group] ** -2.0))
        factor = vectors / np.sqrt(sizes)
        self.weight_factor_ = factor[:1] + factor[1 : k + 1]
        self.bias_factor_ = factor[k + 1 :]
        parts = [float(free[group == at].sum()) for at in (1, 2)]
        self.choice_ = self._chosen(len(logs), *parts)

    def _chosen(self, n: int, weights: float, shifts: float) -> str:
        mean = float(self.weights_.mean())
        learned = [f"one weight for all labels, {mean:.2f}"]
        for free, values, name in (
            (weights, self.weights_ - mean, "weights that differ by label"),
            (shifts, self.biases_, "a shift for each label"),
        ):
            if free > _NAMED:
                learned.append(f"{name}, by up to {np.abs(values).max():.2g}")
        return (
            f"learned from {n} labels: {'; '.join(learned)}; {self.n_parameters_:.1f} "
            f"of {2 * len(self.weights_) + 1} numbers were free in effect"
        )

    def _logs(self, probabilities: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(probabilities, self.floor))

    def _rows(self, values: np.ndarray) -> np.ndarray:
        logs = self._logs(_as_rows(values))
        return softmax(self.weights_ * logs + self.biases_, axis=1)

    def _predict(self, values: np.ndarray) -> np.ndarray:
        found = self._rows(values)
        return found if values.ndim == 2 else found[:, 1]

    def _spread(
        self, values: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """How far standard normal errors of the map move the log odds of a label."""
        others = self._rows(values)
        if label is None:
            label = others.argmax(axis=1) if values.ndim == 2 else np.ones_like(values)
        at = np.arange(len(values)), label.astype(np.intp)
        others[at] = 0
        by_logit = -others / np.maximum(others.sum(axis=1, keepdims=True), 1e-300)
        by_logit[at] = 1
        by_weight = by_logit * self._logs(_as_rows(values))
        return by_weight @ self.weight_factor_ + by_logit @ self.bias_factor_


def _as_rows(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 2 else np.column_stack([1 - values, values])


def _mode(
    theta: np.ndarray, precision: np.ndarray, logs: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable parameters, and the information in the rows, by Newton."""
    k = logs.shape[1]
    rows = np.arange(len(logs))

    def logits(theta: np.ndarray) -> np.ndarray:
        return (1 + theta[0] + theta[1 : k + 1]) * logs + theta[k + 1 :]

    def loss(theta: np.ndarray) -> float:
        fit = log_softmax(logits(theta), axis=1)[rows, truth].sum()
        return float(precision @ theta**2 / 2 - fit)

    def curvature(p: np.ndarray) -> np.ndarray:
        px = p * logs
        away = logs - px.sum(axis=1, keepdims=True)
        weight = np.diag((px * logs).sum(axis=0)) - px.T @ px
        shift = np.diag(p.sum(axis=0)) - p.T @ p
        both = np.diag(px.sum(axis=0)) - px.T @ p
        shared = np.append((px * away).sum(axis=0), (p * away).sum(axis=0))
        inner = np.block([[weight, both], [both.T, shift]])
        return np.block(
            [[np.atleast_2d(shared[:k].sum()), shared[None]], [shared[:, None], inner]]
        )

    now = loss(theta)
    for _ in range(100):
        p = softmax(logits(theta), axis=1)
        factor = cho_factor(curvature(p) + np.diag(precision))
        p[rows, truth] -= 1
        by_weight, by_shift = (p * logs).sum(axis=0), p.sum(axis=0)
        slope = np.concatenate([[by_weight.sum()], by_weight, by_shift])
        slope += precision * theta
        step = cho_solve(factor, slope)
        length, gain = 1.0, float(slope @ step)
        while (then := loss(theta - length * step)) > now - 1e-4 * length * gain:
            length /= 2
            if length < 1e-8:
                break
        if then < now:
            theta, now = theta - length * step, then
        if gain < 1e-10:
            break
    return theta, curvature(softmax(logits(theta), axis=1))
