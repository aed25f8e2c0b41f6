"""Several signals, one confidence: weights learned from outcomes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from ..calibration import BaseCalibrator, Calibrated
from ..calibration.base import check_both_outcomes, check_floor, log_odds
from ..calibration.marks import row_ids
from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_groups,
    check_outcomes,
    check_probabilities,
    check_rng,
)
from ..metrics import Interval

_ABOUT = "_label"  # columns of this ending name the label that a signal is about


class CombinedConfidence(BaseCalibrator):
    """A confidence from several signals, weighted by what they proved to be worth.

    A small logistic regression of being right on standardised signals.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty on squared weights: less holds them closer
        to 0.
    logit_columns : sequence of str, default=()
        Signals that are probabilities: their log-odds are used.
    floor : float, default=1e-6
        For log-odds, a signal counts as at least this and at most one minus this.

    Attributes
    ----------
    signals_ : list of str
        Names of the signals.
    mean_, scale_ : numpy.ndarray of shape (n_signals,)
        What each signal, after log-odds, is centred on and divided by.
    coef_ : numpy.ndarray of shape (n_signals,)
        Weights of the standardised signals: they can be compared. A signal that does
        not vary has none.
    intercept_ : float
        Log-odds of being right where all signals are at their means.

    Notes
    -----
    Columns whose names end in ``_label`` are no signals: they say which label a
    signal is about. Signals about different labels must not be mixed, so all of
    these must be equal in a row. It is not stored: ``save`` raises an error.

    Examples
    --------
    >>> signals = pd.DataFrame({"p": [0.6, 0.7, 0.8, 0.9], "margin": [0.3, 0, 0.1, 0]})
    >>> combined = CombinedConfidence(logit_columns=["p"])
    >>> combined.fit(signals, [0, 1, 0, 1]).coef_.round(2).tolist()
    [0.25, -0.8]
    >>> combined.predict(signals).evaluation
    'in-sample'
    """

    signals_: list[str]
    mean_: np.ndarray
    scale_: np.ndarray
    coef_: np.ndarray
    intercept_: float

    def __init__(
        self,
        *,
        C: float = 1.0,
        logit_columns: Sequence[str] = (),
        floor: float = 1e-6,
    ) -> None:
        self.C = C
        self.logit_columns = logit_columns
        self.floor = floor

    def fit(
        self, signals: pd.DataFrame, correct: ArrayLike, *, ids: ArrayLike | None = None
    ) -> Self:
        """Learn the weights from signals and from what was right.

        Parameters
        ----------
        signals : pandas.DataFrame of shape (n, n_signals)
            Columns of finite numbers, any of them; and columns of labels.
        correct : array-like of shape (n,)
            Whether the label that the signals are about was right.
        ids : array-like of shape (n,), optional
            What the rows are called, so that ``predict`` knows them again: see
            :meth:`Calibrator.fit`.

        Returns
        -------
        CombinedConfidence
            Itself.

        Raises
        ------
        ValueError
            A signal is missing, infinite or no number, signals are about different
            labels, an outcome is neither 0 nor 1, or there is only one outcome.
        """
        names, values = self._read(signals)
        right = check_outcomes(correct, len(values))
        rows = row_ids(signals, ids, len(values))
        check_both_outcomes(right)
        self.signals_ = names
        self.mean_, spread = values.mean(axis=0), values.std(axis=0)
        flat = values.min(axis=0) == values.max(axis=0)
        self.scale_ = np.where(flat, 1.0, spread)
        regression = LogisticRegression(C=self.C, solver="newton-cholesky", tol=1e-8)
        regression.fit(self._standardised(values), right)
        self.coef_ = np.where(flat, 0.0, regression.coef_[0])
        self.intercept_ = float(regression.intercept_[0])
        self._remember(values, rows, None)
        return self

    def predict(
        self, signals: pd.DataFrame, *, ids: ArrayLike | None = None
    ) -> Calibrated:
        """How probable it is that each row is right.

        Parameters
        ----------
        signals : pandas.DataFrame of shape (n, n_signals)
            The signals of ``fit``, in any order.
        ids : array-like of shape (n,), optional
            What the rows are called: see ``fit``.

        Returns
        -------
        Calibrated of shape (n,)
            In [0, 1]; rows fitted on are marked: see :meth:`Calibrator.predict`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            Bad signals, or others than in ``fit``.
        """
        check_is_fitted(self)
        names, values = self._read(signals)
        if sorted(names) != sorted(self.signals_):
            raise ValueError(
                f"signals must be those of fit, {self.signals_!r}, not {names!r}."
            )
        values = values[:, [names.index(name) for name in self.signals_]]
        rows = row_ids(signals, ids, len(values))
        odds = self._standardised(values) @ self.coef_ + self.intercept_
        return self._marked(expit(odds), values, rows)

    def cross_fitted_predict(
        self,
        signals: pd.DataFrame,
        correct: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        n_splits: int = 5,
        seed: int = 0,
    ) -> Calibrated:
        """Values for all rows, each with weights learned on the other folds.

        Parameters
        ----------
        signals : pandas.DataFrame of shape (n, n_signals)
            See ``fit``.
        correct : array-like of shape (n,)
            See ``fit``.
        groups : array-like of shape (n,), optional
            Rows of one group stay on the same side: see :func:`cross_fitted`.
        n_splits : int, default=5
            Number of folds, each with about the same share of right rows.
        seed : int, default=0
            Seed of the folds.

        Returns
        -------
        Calibrated of shape (n,)
            Held-out. The object itself stays as it was.

        Raises
        ------
        ValueError
            Bad data, or n_splits is below 2 or above the number of groups or of rows
            with the less frequent outcome.
        """
        check_count("n_splits", n_splits, 2)
        check_count("seed", seed, 0)
        _, values = self._read(signals)
        right = check_outcomes(correct, len(values))
        codes = None if groups is None else check_groups(groups, len(values))
        result = np.empty(len(right))
        for train, test in _folds(right, codes, n_splits, seed):
            if not len(test):  # StratifiedGroupKFold may leave a fold empty.
                continue
            fitted = clone(self).fit(signals.iloc[train], right[train])
            result[test] = fitted.predict(signals.iloc[test])
        return Calibrated(result, np.zeros(len(right), dtype=bool), known=True)

    def to_dict(self) -> dict[str, Any]:
        """Not for this class, which is not stored.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "CombinedConfidence is not stored; fit it again on its signals."
        )

    def _check_parameters(self) -> None:
        check_between("C", self.C, 0, math.inf)
        check_floor(self.floor)
        if isinstance(self.logit_columns, str):
            raise ValueError(
                f"logit_columns must be a list of names, not {self.logit_columns!r}."
            )

    def _read(self, signals: pd.DataFrame) -> tuple[list[str], np.ndarray]:
        """Names of the signals, and their values after log-odds."""
        self._check_parameters()
        _check_table(signals)
        _check_same_label(signals)
        names = [name for name in signals.columns if not name.endswith(_ABOUT)]
        if not names:
            raise ValueError("signals must have a column of numbers; there is none.")
        strange = [name for name in self.logit_columns if name not in names]
        if strange:
            raise ValueError(
                f"logit_columns must be signals, {names!r}, not {strange[0]!r}."
            )
        values = [self._column(signals[name], name) for name in names]
        return names, np.column_stack(values)

    def _column(self, column: pd.Series, name: str) -> np.ndarray:
        if not pd.api.types.is_numeric_dtype(column) or column.dtype.kind == "c":
            raise ValueError(f"signals must be numbers; {name!r} is {column.dtype}.")
        values = column.to_numpy(dtype=float, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                "signals must be there and finite; "
                f"row {bad[0]} of {name!r} is {float(values[bad[0]])!r}."
            )
        if name not in self.logit_columns:
            return values
        return log_odds(check_probabilities(values, f"signal {name!r}"), self.floor)

    def _standardised(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean_) / self.scale_


def fixed_mix(a: ArrayLike, b: ArrayLike, *, weight: float = 0.6) -> np.ndarray:
    """Two confidences mixed by a fixed rule: weight · a + (1 − weight) · b.

    Parameters
    ----------
    a, b : array-like of shape (n,)
        Confidences in [0, 1] in the same labels.
    weight : float, default=0.6
        The share of a, in [0, 1].

    Returns
    -------
    numpy.ndarray of shape (n,)
        In [0, 1]. Marks of :class:`Calibrated` values are kept.

    Raises
    ------
    ValueError
        A value outside [0, 1], or another number of rows.

    Notes
    -----
    "60 % this, 40 % that" is often found in code and never in data: it is here to be
    compared with learned weights.

    Examples
    --------
    >>> fixed_mix([0.9, 0.5], [0.4, 0.5]).round(6).tolist()
    [0.7, 0.5]
    """
    check_between("weight", weight, 0, 1, closed=True)
    parts = _pair(a, b, "a", "b")
    first, second = (
        given if isinstance(given, Calibrated) else part
        for given, part in zip((a, b), parts, strict=True)
    )
    return np.clip(weight * first + (1 - weight) * second, 0.0, 1.0)


def paired_gain(
    confidence_a: ArrayLike,
    confidence_b: ArrayLike,
    correct: ArrayLike,
    *,
    measure: Literal["brier", "auroc"] = "brier",
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
    level: float = 0.95,
) -> Interval:
    """What changes from confidence a to b, with a paired bootstrap interval.

    Parameters
    ----------
    confidence_a, confidence_b : array-like of shape (n,)
        Two confidences in [0, 1] of the same rows, none of them fitted on these.
    correct : array-like of shape (n,)
        Whether each row is right, the same for both.
    measure : {"brier", "auroc"}, default="brier"
        What to compare. Less is better for "brier", more for "auroc".
    groups : array-like of shape (n,), optional
        Rows of one group are drawn together.
    n_resamples : int, default=1000
        How many resamples. One without both outcomes has no AUROC and is left out.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.
    level : float, default=0.95
        Confidence level of the interval, of percentiles.

    Returns
    -------
    Interval
        Of measure(b) − measure(a). Each resample draws the same rows for both.

    Raises
    ------
    ValueError
        Bad data, another number of rows, or only one outcome for "auroc".

    References
    ----------
    Davison and Hinkley, Bootstrap methods and their application, 1997.

    Examples
    --------
    >>> sure, fair = [0.99] * 100, [0.8] * 100
    >>> gain = paired_gain(sure, fair, [1] * 80 + [0] * 20)
    >>> round(gain.value, 4), gain.high < 0
    (-0.0361, True)
    """
    check_choice("measure", measure, ("brier", "auroc"))
    check_between("level", level, 0, 1)
    check_count("n_resamples", n_resamples)
    a, b = _pair(confidence_a, confidence_b, "confidence_a", "confidence_b")
    right = check_outcomes(correct, len(a))
    codes = None if groups is None else check_groups(groups, len(a))
    generator = check_rng(rng)
    if measure == "auroc":
        check_both_outcomes(right)
    score = _brier if measure == "brier" else _auroc
    found = [
        score(b[drawn], right[drawn]) - score(a[drawn], right[drawn])
        for drawn in _draws(len(a), codes, n_resamples, generator)
    ]
    value = score(b, right) - score(a, right)
    known = [gain for gain in found if np.isfinite(gain)] or [np.nan]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(float(value), low, high)


def _pair(a: Any, b: Any, *names: str) -> tuple[np.ndarray, np.ndarray]:
    first = check_probabilities(a, names[0]).astype(float)
    second = check_probabilities(b, names[1]).astype(float)
    if len(first) != len(second):
        raise ValueError(
            f"{names[1]} must have the {len(first)} rows of {names[0]}, not "
            f"{len(second)}."
        )
    return first, second


def _check_table(signals: Any) -> None:
    if not isinstance(signals, pd.DataFrame):
        raise ValueError(f"signals must be a data frame, not {type(signals).__name__}.")
    if not len(signals):
        raise ValueError("signals must have at least one row; there is none.")
    names = list(signals.columns)
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise ValueError(
                f"signals must have different words as column names, not {names!r}."
            )


def _check_same_label(signals: pd.DataFrame) -> None:
    columns = [name for name in signals.columns if name.endswith(_ABOUT)]
    for name in columns:
        missing = signals[name].isna().to_numpy()
        same = signals[name].to_numpy() == signals[columns[0]].to_numpy()
        bad = np.flatnonzero(missing | ~np.asarray(same, dtype=bool))
        if len(bad):
            at = int(bad[0])
            about = {column: signals[column].iloc[at] for column in columns}
            raise ValueError(
                f"signals must be about one label in each row; row {at} has {about!r}."
            )


def _folds(
    right: np.ndarray, codes: np.ndarray | None, n_splits: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    least = min(int(right.sum()), int((~right).sum()))
    limits = {"the number of rows with the less frequent outcome": least}
    if codes is not None:
        limits["the number of groups"] = int(codes.max()) + 1
    for what, most in limits.items():
        if n_splits > most:
            raise ValueError(
                f"n_splits must be at most {what}, {most}, not {n_splits}."
            )
    kind = StratifiedKFold if codes is None else StratifiedGroupKFold
    folds = kind(n_splits, shuffle=True, random_state=seed)
    return list(folds.split(right, right, codes))


def _draws(
    n: int,
    codes: np.ndarray | None,
    n_resamples: int,
    generator: np.random.Generator,
) -> Iterable[np.ndarray]:
    """Rows of each resample: rows, or whole groups, drawn with replacement."""
    if codes is None:
        for _ in range(n_resamples):
            yield generator.integers(n, size=n)
        return
    members = [np.flatnonzero(codes == group) for group in range(int(codes.max()) + 1)]
    for _ in range(n_resamples):
        drawn = generator.integers(len(members), size=len(members))
        yield np.concatenate([members[group] for group in drawn])


def _brier(confidence: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean((confidence - right) ** 2))


def _auroc(confidence: np.ndarray, right: np.ndarray) -> float:
    """The share of pairs of right and wrong rows that are ranked right."""
    n_right = int(right.sum())
    n_pairs = n_right * (len(right) - n_right)
    if not n_pairs:
        return math.nan
    above = rankdata(confidence)[right].sum() - n_right * (n_right + 1) / 2
    return float(above / n_pairs)
