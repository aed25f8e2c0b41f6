"""The recommended calibrator: it learns as much as its labels bear, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import default_rng
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import norm as normal
from sklearn.utils.validation import check_is_fitted

from ..checks import check_between, check_outcomes, check_probabilities
from .base import Data, Ids, MulticlassCalibrator, Source
from .binary import Floor
from .files import Classes, NotNegative, numbers
from .marks import Calibrated

# Parts of the map, with standard deviations of their priors: that of the first is
# fixed, those of the others are chosen, as if a share of a number of this size had been
# seen, from a start that is larger.
_PARTS = {
    "one weight for all labels": 0.5,
    "weights that differ by label": 0.1,
    "a shift for each label": 0.5,
    "weights of labels on each other": 0.03,
    "a curve that all labels share": 0.1,
}
_SEEN, _START = 0.3, 3.0
_NARROW, _WIDE = 1e-3, 10.0
_ROUNDS = 300
_NAMED = 0.1  # how many numbers a part must have free to be told
_ALLOWANCE = 2.0
# Weights on each other are more numbers than a few hundred labels can say anything of.
_MOST_LABELS = 30
_KNOTS = 8
_DRAWS = 400


@dataclass(kw_only=True, eq=False, repr=False)
class ProbabilityCalibrator(MulticlassCalibrator):
    """Calibrated probabilities, with as much learned as the labels bear.

    Matrix scaling with a curve, softmax(W ln p + f(ln p) + b), with normal priors
    around "leave it as it is". How wide they are, for the labels' own weights, for the
    shifts b, for the weights of 3 to 30 labels on each other, and for the curve f, is
    chosen on the rows fitted on, by maximum marginal likelihood (MacKay, Neural
    Computation 4, 1992): little is learned from few labels or where there is little to
    mend, and a finite map is found for any labels. A confidence s counts as the
    probabilities 1 − s of wrong and s of right.

    ``choice_`` says in a sentence what was learned, ``n_parameters_`` how many numbers
    were free in effect.

    Parameters
    ----------
    floor : float, default=1e-12
        Probabilities count as at least this.

    Examples
    --------
    >>> rows = [[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 20  # they lean to the first label
    >>> truth = [0] * 14 + [1] * 6 + [0] * 6 + [1] * 14
    >>> calibrator = ProbabilityCalibrator().fit(rows, truth)
    >>> calibrator.predict(rows[::20]).round(2).tolist()
    [[0.71, 0.29], [0.34, 0.66]]
    """

    floor: Floor = 1e-12

    _fitted = {
        "classes_": Classes | None,
        "parameters_": numbers(),
        "means_": numbers(),
        "knots_": numbers(rising=True),
        "widths_": numbers(0),
        "n_parameters_": NotNegative,
        "choice_": str,
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
        intervals may cover somewhat less often than ``level`` says. A file does not
        keep what they need: a calibrator that was read from one must be fitted again.

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
        check_is_fitted(self)
        check_between("level", level, 0, 1)
        if self._fitted_on is None:
            raise ValueError(
                "predict_interval needs a calibrator that was fitted, not one that "
                "was read from a file."
            )

        reach = normal.ppf((1 + level) / 2)

        def interval(values: np.ndarray) -> np.ndarray:
            p = self._rows(values)
            moved = np.array(list(self._moved(values, p, _DRAWS, default_rng(0))))
            size = np.sqrt((moved**2).mean(axis=0))
            ends = [expit(_log_odds(p) + side * reach * size) for side in (-1, 1)]
            both = np.stack(ends, axis=-1)
            return both if values.ndim == 2 else both[:, 1]

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
        k = len(self.classes_ or "ab")
        due = len(self.knots_) + 1 + k * (k + 1 if 2 < k <= _MOST_LABELS else 2)
        if len(self.means_) != k or len(self.parameters_) != due:
            raise ValueError("parameters_, means_ and classes_ must fit together.")

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> None:
        """Any labels will do: the priors keep the map finite."""

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        if values.ndim == 1:
            self.classes_ = None
        logs, truth = self._logs(values), truth.astype(np.intp)
        self.means_ = logs.mean(axis=0)
        # Where the two most probable labels are: the curve is for these.
        greatest = np.sort(logs, axis=1)[:, -2:]
        self.knots_ = np.unique(np.quantile(greatest, np.linspace(0, 1, _KNOTS)))
        model = _Model(logs, truth, self.means_, self.knots_)
        sizes = np.array(list(_PARTS.values()))
        width, theta = sizes * _START, np.zeros(len(model.part))
        width[0] = sizes[0]
        of_part = [model.part == at for at in range(len(sizes))]
        # Labels of one kind say nothing about the widths.
        rounds = 1 if (truth == truth[0]).all() else _ROUNDS
        for _ in range(rounds):
            precision = width[model.part] ** -2.0
            theta, told = model.mode(theta, precision)
            variances = _inverse_diagonal(told + np.diag(precision))
            known = 1 - variances * precision
            free = np.array([known[one].sum() for one in of_part])
            found = np.array([(theta[one] ** 2).sum() for one in of_part])
            used = width
            width = np.sqrt((found + _SEEN * sizes**2) / (free + _SEEN))
            width = np.append(sizes[0], width[1:].clip(_NARROW, _WIDE))
            if np.allclose(np.log(width), np.log(used), rtol=0, atol=0.01):
                break
        theta, told = model.mode(theta, precision, within=1e-10)
        self.parameters_, self.widths_ = theta, used
        self.n_parameters_ = float(free.sum())
        # Wider, since the widths themselves are only estimated.
        wide = used * np.where(np.arange(len(used)), _ALLOWANCE, 1)
        told = told + np.diag(wide[model.part] ** -2.0)
        # The symmetric root, as signs and order of eigenvectors hang on rounding.
        certain, vectors = np.linalg.eigh(told)
        self._errors = vectors / np.sqrt(certain) @ vectors.T
        self.choice_ = self._chosen(len(logs), free, model.part)

    def _chosen(self, n: int, free: np.ndarray, part: np.ndarray) -> str:
        weight = 1 + self.parameters_[0]
        first, *others = _PARTS
        learned = [f"{first}, {weight:.2f}"]
        for at, name in enumerate(others, 1):
            if free[at] > _NAMED:
                most = np.abs(self.parameters_[part == at]).max()
                learned.append(f"{name}, by up to {most:.2g}")
        return (
            f"learned from {n} labels: {'; '.join(learned)}; {self.n_parameters_:.1f} "
            f"of {len(part)} numbers were free in effect"
        )

    def _logs(self, values: np.ndarray) -> np.ndarray:
        if values.ndim == 1:
            values = np.column_stack([1 - values, values])
        return np.log(np.maximum(values, self.floor))

    def _change(self, theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
        return _change(theta, logs, self.means_, self.knots_)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        logs = self._logs(values)
        return softmax(logs + self._change(self.parameters_, logs), axis=1)

    def _predict(self, values: np.ndarray) -> np.ndarray:
        found = self._rows(values)
        return found if values.ndim == 2 else found[:, 1]

    def _plausible(
        self, values: np.ndarray, n: int, generator: np.random.Generator
    ) -> Iterator[np.ndarray] | None:
        if self._fitted_on is None:
            return None
        p = self._rows(values)
        label = p.argmax(axis=1) if values.ndim == 2 else np.ones(len(p), np.intp)
        at = np.arange(len(p)), label
        odds = _log_odds(p)[at]
        return (expit(odds + one[at]) for one in self._moved(values, p, n, generator))

    def _moved(
        self, values: np.ndarray, p: np.ndarray, n: int, generator: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """How far errors of the map, drawn n times, move the log odds of each label."""
        logs = self._logs(values)
        for _ in range(n):
            errors = self._errors @ generator.standard_normal(len(self._errors))
            by_logit = self._change(errors, logs)
            mean = (p * by_logit).sum(axis=1, keepdims=True)
            yield (by_logit - mean) / np.maximum(1 - p, 1e-16)


def _log_odds(p: np.ndarray) -> np.ndarray:
    return logit(np.clip(p, 1e-300, 1 - 1e-16))


def _inverse_diagonal(matrix: np.ndarray) -> np.ndarray:
    inverse, _ = lapack.dpotri(np.linalg.cholesky(matrix), lower=True)
    return np.diag(inverse)


def _change(
    theta: np.ndarray, logs: np.ndarray, mean: np.ndarray, knots: np.ndarray
) -> np.ndarray:
    """What the parameters add to the logs, in which they are linear."""
    k = logs.shape[1]
    shared, (own, shift, *between) = _parts(theta, k, len(knots))
    found = logs * (shared[0] + own) + np.interp(logs, knots, shared[1:]) + shift
    if between:
        weights = np.zeros((k, k))
        weights[~np.eye(k, dtype=bool)] = np.array(between).T.ravel()
        found += (logs - mean) @ weights.T
    return found


def _parts(theta: np.ndarray, k: int, n_knots: int) -> tuple[np.ndarray, np.ndarray]:
    """What all labels share, and a table with a label a column."""
    return theta[: 1 + n_knots], theta[1 + n_knots :].reshape(k, -1).T


class _Model:
    """The likelihood of the map, and its derivatives.

    Parameters: the weight that all labels share and the values of the curve at its
    knots; then of each label what its own weight differs by, its shift, and the weights
    on it of other labels' logs, less their means.
    """

    def __init__(
        self, logs: np.ndarray, truth: np.ndarray, mean: np.ndarray, knots: np.ndarray
    ) -> None:
        self.logs, self.mean, self.knots = logs, mean, knots
        n, k = logs.shape
        self.true = np.arange(n), truth
        curve = [np.interp(logs.T, knots, hat) for hat in np.eye(len(knots))]
        self.shared = np.array([logs.T, *curve])
        self.own = np.stack([logs.T, np.ones((k, n))], axis=2)
        if 2 < k <= _MOST_LABELS:
            away, each = logs - mean, np.arange(k)
            others = [away[:, each != at] for at in each]
            self.own = np.concatenate([self.own, others], axis=2)
        by_label = [1, 2, *[3] * (self.own.shape[2] - 2)]
        self.part = np.array([0, *[4] * len(knots), *by_label * k])
        self._at, self._found = np.zeros(0), (np.zeros(0), np.zeros(0))

    def mode(
        self, theta: np.ndarray, precision: np.ndarray, *, within: float = 1e-3
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most probable parameters, and the information in the rows, by Newton."""
        now, told = self._loss(theta, precision), np.zeros(0)
        for _ in range(100):
            of_rows, told = self._derivatives(theta)
            slope = of_rows + precision * theta
            step = cho_solve(cho_factor(told + np.diag(precision)), slope)
            length, gain = 1.0, float(slope @ step)
            if gain < within:
                break
            while True:
                then = self._loss(theta - length * step, precision)
                if then <= now - 1e-4 * length * gain or length < 1e-8:
                    break
                length /= 2
            if then >= now:
                break
            theta, now = theta - length * step, then
        return theta, told

    def _logits(self, theta: np.ndarray) -> np.ndarray:
        return self.logs + _change(theta, self.logs, self.mean, self.knots)

    def _loss(self, theta: np.ndarray, precision: np.ndarray) -> float:
        fit = log_softmax(self._logits(theta), axis=1)[self.true].sum()
        return float(precision @ theta**2 / 2 - fit)

    def _derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slope of the rows' negative log likelihood, and their information."""
        if theta is not self._at:  # one mode is where the search for the next starts
            p = softmax(self._logits(theta), axis=1)
            told = self._information(p.T)
            p[self.true] -= 1
            self._at, self._found = theta, (self._by_parameter(p.T[None])[0], told)
        return self._found

    def _by_parameter(self, by_logit: np.ndarray) -> np.ndarray:
        """Of tables of labels by rows, what each comes to for each parameter."""
        size = len(by_logit)
        shared = (
            by_logit.reshape(size, -1) @ self.shared.reshape(len(self.shared), -1).T
        )
        own = (by_logit.swapaxes(0, 1) @ self.own).swapaxes(0, 1)
        return np.hstack([shared, own.reshape(size, -1)])

    def _information(self, p: np.ndarray) -> np.ndarray:
        """The negative second derivative of the log likelihood."""
        (k, n, m), s = self.own.shape, len(self.shared)
        weighed = p[:, :, None] * self.own
        flat = weighed.swapaxes(0, 1).reshape(n, k * m)
        told = np.zeros((s + k * m, s + k * m))
        told[s:, s:] = -(flat.T @ flat)
        for at in range(k):
            block = slice(s + at * m, s + (at + 1) * m)
            told[block, block] += weighed[at].T @ self.own[at]
        mean = (p * self.shared).sum(axis=1, keepdims=True)
        told[:s] = self._by_parameter(p * (self.shared - mean))
        told[:, :s] = told[:s].T
        return told
