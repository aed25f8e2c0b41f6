"""Several signals, one confidence: weights learned from outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from ..calibration import BaseCalibrator
from ..calibration.binary import Floor
from ..calibration.files import Finite, Positive, numbers
from ..checks import check_numbers, check_probabilities, check_table

_ABOUT = "_label"  # columns of this ending name the label that a signal is about


@dataclass(kw_only=True, eq=False, repr=False)
class CombinedConfidence(BaseCalibrator):
    """A confidence from several signals, by logistic regression of being right.

    Signals are columns of a data frame, standardised, so that ``coef_`` can be
    compared. Columns named ``…_label`` say which one label the signals are about.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty on squared weights.
    logit_columns : sequence of str, default=()
        Signals that are probabilities: their log-odds are used.
    floor : float, default=1e-6
        For log-odds, a signal counts as at least this and at most one minus this.

    Examples
    --------
    >>> signals = pd.DataFrame({"p": [0.6, 0.7, 0.8, 0.9], "margin": [0.3, 0, 0.1, 0]})
    >>> combined = CombinedConfidence(logit_columns=["p"])
    >>> combined.fit(signals, [0, 1, 0, 1]).coef_.round(2).tolist()
    [0.25, -0.8]
    """

    C: Positive = 1.0
    logit_columns: Sequence[str] = ()
    floor: Floor = 1e-6

    _columns = "signals_"
    _fitted = {
        "signals_": Annotated[list[str], Field(min_length=1)],
        "mean_": numbers(),
        "scale_": numbers(np.nextafter(0, 1)),
        "coef_": numbers(),
        "intercept_": Finite,
    }
    _lengths = dict.fromkeys(("mean_", "scale_", "coef_"), ("signals_", 0))

    signals_: list[str] = field(init=False)

    def _read(self, scores: Any) -> tuple[np.ndarray, list[str]]:
        columns = list(check_table(scores, name="scores").columns)
        if not all(isinstance(name, str) for name in columns):
            raise ValueError(f"scores must have words as names, not {columns!r}.")
        _check_same_label(scores[[name for name in columns if name.endswith(_ABOUT)]])
        names = [name for name in columns if not name.endswith(_ABOUT)]
        if not names:
            raise ValueError("scores must have a column of numbers; there is none.")
        for name in self.logit_columns:
            if name not in names:
                raise ValueError(
                    f"logit_columns must be among the columns {names!r}, not {name!r}."
                )
        return np.column_stack([self._column(scores, name) for name in names]), names

    def _column(self, scores: pd.DataFrame, name: str) -> np.ndarray:
        values = check_numbers(scores[name], f"scores[{name!r}]")
        if name not in self.logit_columns:
            return values
        check_probabilities(values, f"scores[{name!r}]")
        return self._log_odds(values, self.floor)

    def _match(self, values: np.ndarray, columns: list[Any], named: bool) -> np.ndarray:
        if sorted(columns) != sorted(self.signals_):
            raise ValueError(
                f"scores must be those of fit, {self.signals_!r}, not {columns!r}."
            )
        return values[:, [columns.index(name) for name in self.signals_]]

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        flat = values.min(axis=0) == values.max(axis=0)
        self.mean_ = values.mean(axis=0)
        self.scale_ = np.where(flat, 1.0, values.std(axis=0))
        regression = LogisticRegression(C=self.C, solver="newton-cholesky", tol=1e-8)
        regression.fit((values - self.mean_) / self.scale_, truth)
        self.coef_ = np.where(flat, 0.0, regression.coef_[0])
        self.intercept_ = float(regression.intercept_[0])

    def _predict(self, values: np.ndarray) -> np.ndarray:
        scaled = (values - self.mean_) / self.scale_
        return expit(scaled @ self.coef_ + self.intercept_)


def _check_same_label(about: pd.DataFrame) -> None:
    labels = about.astype(object).where(about.notna(), None).to_numpy()
    bad = (pd.isna(labels) | (labels != labels[:, :1])).any(axis=1)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"scores must be about one label in each row; row {at} is about "
            f"{labels[at].tolist()!r}."
        )
