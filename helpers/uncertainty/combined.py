"""Several signals, one confidence: weights learned from outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from ..calibration import BaseCalibrator, Calibrated
from ..calibration.base import (
    check_both_outcomes,
    check_floor,
    log_odds,
    told_source,
)
from ..calibration.files import Finite, numbers
from ..calibration.marks import row_ids
from ..checks import (
    check_between,
    check_outcomes,
    check_probabilities,
    check_table,
)

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
    these must be equal in a row. Values for rows that the weights are learned from are
    in-sample; :func:`helpers.calibration.cross_fitted` gives held-out ones for all
    rows.

    Examples
    --------
    >>> signals = pd.DataFrame({"p": [0.6, 0.7, 0.8, 0.9], "margin": [0.3, 0, 0.1, 0]})
    >>> combined = CombinedConfidence(logit_columns=["p"])
    >>> combined.fit(signals, [0, 1, 0, 1]).coef_.round(2).tolist()
    [0.25, -0.8]
    >>> combined.predict(signals).evaluation
    'in-sample'
    """

    _fitted = {
        "signals_": Annotated[list[str], Field(min_length=1)],
        "mean_": numbers(),
        "scale_": numbers(np.nextafter(0, 1)),
        "coef_": numbers(),
        "intercept_": Finite,
    }
    _lengths = dict.fromkeys(("mean_", "scale_", "coef_"), ("signals_", 0))

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
        self,
        signals: pd.DataFrame,
        correct: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
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
        source : mapping of str to str, optional
            What made the signals. Default: ``signals.attrs["source"]``.

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
        right = check_outcomes(correct, signals)
        rows = row_ids(signals, ids, len(values))
        told = told_source(signals, source)
        check_both_outcomes(right)
        self.signals_ = names
        self.mean_, spread = values.mean(axis=0), values.std(axis=0)
        flat = values.min(axis=0) == values.max(axis=0)
        self.scale_ = np.where(flat, 1.0, spread)
        regression = LogisticRegression(C=self.C, solver="newton-cholesky", tol=1e-8)
        regression.fit(self._standardised(values), right)
        self.coef_ = np.where(flat, 0.0, regression.coef_[0])
        self.intercept_ = float(regression.intercept_[0])
        self._remember(values, rows, told)
        return self

    def predict(
        self,
        signals: pd.DataFrame,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Calibrated:
        """How probable it is that each row is right.

        Parameters
        ----------
        signals : pandas.DataFrame of shape (n, n_signals)
            The signals of ``fit``, in any order.
        ids : array-like of shape (n,), optional
            What the rows are called: see ``fit``.
        source : mapping of str to str, optional
            What made the signals: see ``fit``.

        Returns
        -------
        Calibrated of shape (n,)
            In [0, 1]; rows fitted on are marked: see :meth:`Calibrator.predict`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            Bad signals, others than in ``fit``, or signals of another source.
        """
        check_is_fitted(self)
        names, values = self._read(signals)
        if sorted(names) != sorted(self.signals_):
            raise ValueError(
                f"signals must be those of fit, {self.signals_!r}, not {names!r}."
            )
        values = values[:, [names.index(name) for name in self.signals_]]
        rows = row_ids(signals, ids, len(values))
        self._check_source(told_source(signals, source))
        odds = self._standardised(values) @ self.coef_ + self.intercept_
        return self._marked(expit(odds), values, rows)

    def _outcomes(self, data: Any, truth: Any) -> np.ndarray:
        self._read(data)
        return check_outcomes(truth, data)

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
    parts = check_probabilities(a, "a"), check_probabilities(b, "b", a)
    first, second = (
        given if isinstance(given, Calibrated) else part
        for given, part in zip((a, b), parts, strict=True)
    )
    return np.clip(weight * first + (1 - weight) * second, 0.0, 1.0)


def _check_table(signals: Any) -> None:
    check_table(signals, name="signals")
    if not all(isinstance(name, str) for name in signals.columns):
        raise ValueError(
            f"signals must have words as column names, not {list(signals.columns)!r}."
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
