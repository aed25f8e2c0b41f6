"""What all calibrators share: they check, remember what they saw, and mark rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.utils.validation import check_is_fitted

from ..checks import (
    check_distributions,
    check_labels,
    check_outcomes,
    check_probabilities,
    check_truth,
    in_order_of,
)
from .files import StoredEstimator
from .marks import Calibrated

Data = ArrayLike | pd.DataFrame
Ids = ArrayLike | Sequence[Any] | None
Source = Mapping[str, str] | None

# Rows without names are taken for rows fitted on if at least half of them have scores
# fitted on, where at least 99 % of the scores fitted on are distinct.
_DISTINCT = 0.99
_OVERLAP = 0.5


class CalibrationWarning(UserWarning):
    """A calibrator was fitted, but its data does not settle what it should be."""


class BaseCalibrator(StoredEstimator):
    """Base of all calibrators: of scores, of label probabilities and of signals.

    After ``fit`` they have ``n_``, ``source_``, ``fitted_at_`` and hashes of the rows.
    """

    # Which attribute keeps the names of columns.
    _columns: ClassVar[str] = ""

    def fit(
        self, scores: Data, correct: Data, *, ids: Ids = None, source: Source = None
    ) -> Self:
        """Learn the map from scores and whether they were right.

        Parameters
        ----------
        scores : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
            Numbers in [0, 1]; or label probabilities, as rows or as a table with or
            without the ``p_`` of its columns; or a table of signals.
        correct : array-like of shape (n,)
            Whether each row was right; or, for label probabilities, the correct class:
            a column's name, or 0, 1, …
        ids : array-like of shape (n,), optional
            Names of the rows, by which ``predict`` recognises them. Default: the index
            of a pandas object, unless it consists of numbers and has no name.
        source : mapping of str to str, optional
            Where the scores came from, such as ``{"model": ..., "prompt": ...}``.
            Default: ``scores.attrs["source"]`` of a pandas object.
        """
        self._check_parameters()
        values, columns = self._read(scores)
        truth = self._read_truth(correct, scores, columns)
        hashed, stated = _hash_ids(scores, ids), _source_of(scores, source)
        if len(values) < self._least_rows():
            raise ValueError(
                f"scores must have {self._least_rows()} or more rows for {self!r}, "
                f"not {len(values)}."
            )
        self._check_variety(values, truth)
        if columns is not None:
            setattr(self, self._columns, columns)
        self._fit(values, truth)
        self.n_ = len(values)
        self.ids_ = None if hashed is None else np.sort(hashed)
        self.score_hashes_ = np.sort(_hash_scores(values))
        self.source_ = stated
        self.fitted_at_ = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    def predict(
        self, scores: Data, *, ids: Ids = None, source: Source = None
    ) -> Calibrated:
        """Calibrated values of scores, with the rows fitted on marked.

        Rows are recognised by their ids, if ``fit`` had some, too; else by their
        scores, if most of these were fitted on and hardly any occurs twice.
        """
        values, hashed = self._read_again(scores, ids, source)
        return self._marked(self._predict(values), values, hashed)

    def _least_rows(self) -> int:
        return 2

    def _read(self, scores: Any) -> tuple[np.ndarray, list[Any] | None]:
        """Checked values, and the names of their columns if there are several."""
        raise NotImplementedError

    def _read_truth(self, correct: Any, scores: Any, columns: Any) -> np.ndarray:
        return check_outcomes(correct, scores)

    def _right(self, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return truth

    def _check_variety(self, values: np.ndarray, truth: np.ndarray) -> None:
        """Raise ValueError unless there is something to learn."""
        right = self._right(values, truth)
        if right.all() or not right.any():
            raise ValueError(
                f"correct must hold both outcomes; all {len(right)} rows are "
                f"{bool(right[0])}."
            )

    def _match(self, values: np.ndarray, columns: list[Any], named: bool) -> np.ndarray:
        """Values with the columns of ``fit``; ValueError for others."""
        raise NotImplementedError

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        raise NotImplementedError

    def _predict(self, values: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _read_again(
        self, scores: Data, ids: Ids, source: Source
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_is_fitted(self)
        values, columns = self._read(scores)
        if columns is not None:
            values = self._match(values, columns, hasattr(scores, "columns"))
        stated = _source_of(scores, source)
        check_source(stated, self.source_, "this calibrator was fitted on")
        return values, _hash_ids(scores, ids)

    def _marked(
        self, result: np.ndarray, values: np.ndarray, hashed: np.ndarray | None
    ) -> Calibrated:
        # A mean of two probabilities may pass 1 by a rounding error.
        result = np.clip(result, 0.0, 1.0)
        if self.ids_ is not None and hashed is not None:
            return Calibrated(result, np.isin(hashed, self.ids_), known=True)
        given, fitted = _hash_scores(values), self.score_hashes_
        seen = np.isin(given, fitted)
        if not np.array_equal(np.sort(given), fitted):
            distinct = len(np.unique(fitted)) >= _DISTINCT * len(fitted)
            seen &= distinct and seen.mean() >= _OVERLAP
        return Calibrated(result, seen, known=False)

    @staticmethod
    def _log_odds(scores: np.ndarray, floor: float) -> np.ndarray:
        """ln(s / (1 − s)) of scores, kept finite: from floor to one minus floor."""
        return logit(np.clip(scores, floor, 1 - floor))


class Calibrator(BaseCalibrator):
    """Base of maps from a score in [0, 1]: define ``_fit`` and ``_predict``."""

    def _read(self, scores: Any) -> tuple[np.ndarray, None]:
        return check_probabilities(scores, "scores").astype(float), None


class MulticlassCalibrator(BaseCalibrator):
    """Base of maps from a probability for each of ``classes_``.

    Define ``_fit(probabilities, truth)``, with truth as positions, and ``_predict``.
    """

    _columns = "classes_"

    classes_: list[Any]

    def _read(self, scores: Any) -> tuple[np.ndarray, list[Any]]:
        values, classes = check_distributions(scores, "scores")
        return np.ascontiguousarray(values, dtype=float), classes

    def _read_truth(self, correct: Any, scores: Any, columns: Any) -> np.ndarray:
        return check_truth(correct, columns, scores, name="correct")

    def _right(self, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return values.argmax(axis=1) == truth

    def _match(self, values: np.ndarray, columns: list[Any], named: bool) -> np.ndarray:
        known = self.classes_
        if len(columns) != len(known) or (named and columns != known):
            raise ValueError(
                f"scores must have the classes of fit, {known!r}, not {columns!r}."
            )
        return values


def check_source(given: Source, known: Source, what: str) -> None:
    """Raise ValueError where two sources contradict each other."""
    for key, value in (given or {}).items():
        ours = (known or {}).get(key, value)
        if ours != value:
            raise ValueError(
                f"source differs: {what} scores of {key} {ours!r}, these come from "
                f"{key} {value!r}."
            )


def _source_of(data: Any, source: Any) -> dict[str, str] | None:
    """The source of data as stated, or else as a pandas object carries it."""
    if source is None:
        source = getattr(data, "attrs", {}).get("source")
    if source is None:
        return None
    words = [*source, *source.values()] if isinstance(source, Mapping) else [None]
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"source must map words to words; it is {source!r}.")
    return dict(source)


def _hash_ids(data: Any, ids: Any) -> np.ndarray | None:
    """Hashes of the names of rows; None where nothing names them."""
    if ids is not None:
        plain, index = check_labels(ids, "ids", data), in_order_of(data, ids, "ids")
        if not isinstance(index, pd.Index):
            index = pd.Index(index if hasattr(index, "dtype") else plain.tolist())
    elif isinstance(data, (pd.Series, pd.DataFrame)):
        index = data.index
    else:
        return None
    if not isinstance(index, pd.MultiIndex):
        index = index.infer_objects()
        numbers = pd.api.types.is_numeric_dtype(index.dtype) and index.name is None
        if ids is None and (
            numbers or index.hasnans or isinstance(index, pd.RangeIndex)
        ):
            return None
    # So that 1 is the same id in whatever type a table holds it.
    kind = index.dtype.kind
    if kind in "ib" or (kind == "f" and (index % 1 == 0).all()):
        index = index.astype("int64")
    return pd.util.hash_pandas_object(index, index=False).to_numpy(dtype=np.uint64)


def _hash_scores(values: np.ndarray) -> np.ndarray:
    """A hash of each row of scores, in single precision."""
    # Adding zero makes -0.0 the same as 0.0, as not every pandas does.
    columns = pd.DataFrame(values.astype(np.float32) + 0.0)
    return pd.util.hash_pandas_object(columns, index=False).to_numpy()
