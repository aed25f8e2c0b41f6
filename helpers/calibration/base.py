"""What all calibrators share: they check, remember what they saw, and mark rows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..checks import (
    check_between,
    check_classified,
    check_distributions,
    check_probabilities,
    check_rows,
)
from .files import write_json
from .marks import Calibrated, row_ids, score_hashes, seen_rows

FORMAT = "helpers.calibration/1"


class CalibrationWarning(UserWarning):
    """A calibrator was fitted, but its data does not settle what it should be."""


class BaseCalibrator(BaseEstimator):
    """What calibrators of scores and of label probabilities share.

    Attributes
    ----------
    n_ : int
        Number of rows fitted on.
    ids_ : numpy.ndarray of uint64 or None
        Their ids, hashed and sorted; None where nothing named the rows.
    score_hashes_ : numpy.ndarray of uint64
        Their scores, hashed and sorted.
    source_ : dict or None
        What made the scores, as far as it was told.
    fitted_at_ : str
        When it was fitted: date and time in UTC.
    """

    # All that predictions need of a fit, by name: the kind that pydantic checks.
    _fitted: ClassVar[Mapping[str, Any]] = {}
    # Which of these are as long as another one, or longer by so many.
    _lengths: ClassVar[Mapping[str, tuple[str, int]]] = {}

    n_: int
    ids_: np.ndarray | None
    score_hashes_: np.ndarray
    source_: dict[str, str] | None
    fitted_at_: str

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_")

    def to_dict(self) -> dict[str, Any]:
        """The calibrator as plain numbers, lists and words.

        Returns
        -------
        dict
            :func:`from_dict` makes the same calibrator of it.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            A class is called by something that JSON does not know.
        """
        check_is_fitted(self)
        return {
            "format": FORMAT,
            **_settings(self),
            "fitted": {name: _encoded(getattr(self, name)) for name in self._fitted},
            "source": self.source_,
            "n": self.n_,
            "fitted_at": self.fitted_at_,
            "ids": None if self.ids_ is None else _packed(self.ids_),
            "score_hashes": _packed(self.score_hashes_),
        }

    def save(self, path: str | Path) -> None:
        """Write the calibrator to a JSON file, whole or not at all.

        Parameters
        ----------
        path : str or pathlib.Path
            The file; an existing one is replaced.
        """
        write_json(self.to_dict(), path)

    def _check_parameters(self) -> None:
        """Raise ValueError for a parameter that breaks its rule."""

    def _outcomes(self, data: Any, truth: Any) -> np.ndarray:
        """Whether each row is right, from what ``fit`` takes."""
        raise NotImplementedError

    def _remember(
        self,
        values: np.ndarray,
        ids: np.ndarray | None,
        source: dict[str, str] | None,
    ) -> None:
        self.n_ = len(values)
        self.ids_ = None if ids is None else np.sort(ids)
        self.score_hashes_ = np.sort(score_hashes(values))
        self.source_ = source
        self.fitted_at_ = datetime.now(UTC).isoformat(timespec="seconds")

    def _check_source(self, source: Mapping[str, str] | None) -> None:
        check_source(source, self.source_, "this calibrator was fitted on")

    def _marked(
        self, result: np.ndarray, values: np.ndarray, ids: np.ndarray | None
    ) -> Calibrated:
        # A mean of two probabilities may pass 1 by a rounding error.
        result = np.clip(result, 0.0, 1.0)
        if self.ids_ is not None and ids is not None:
            return Calibrated(result, np.isin(ids, self.ids_), known=True)
        seen = seen_rows(score_hashes(values), self.score_hashes_)
        return Calibrated(result, seen, known=False)


class Calibrator(BaseCalibrator):
    """Base of calibrators that map a score in [0, 1] to how often it is right.

    A subclass defines ``_fit(scores, correct)`` and ``_predict(scores)``.
    """

    def fit(
        self,
        scores: ArrayLike,
        correct: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Self:
        """Learn the map from scores and whether they were right.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Numbers in [0, 1].
        correct : array-like of shape (n,)
            Whether each was right: True and False, or 1 and 0.
        ids : array-like of shape (n,), optional
            What the rows are called, so that ``predict`` knows them again. Default:
            the index of a pandas Series, if it has a name or holds no numbers: mere
            row numbers, in whatever order, could be those of another table.
        source : mapping of str to str, optional
            What made the scores, such as ``{"model": ..., "prompt": ...}``. Default:
            ``scores.attrs["source"]`` of a pandas Series.

        Returns
        -------
        Calibrator
            Itself.

        Raises
        ------
        ValueError
            A score is outside [0, 1], an outcome is neither 0 nor 1, lengths differ,
            there are fewer than two rows or there is only one outcome.
        """
        self._check_parameters()
        found, right, _ = check_rows(scores, correct, name="scores")
        values = found.astype(float)
        names = row_ids(scores, ids, len(values))
        told = told_source(scores, source)
        self._check_enough(len(values))
        check_both_outcomes(right)
        self._fit(values, right)
        self._remember(values, names, told)
        return self

    def predict(
        self,
        scores: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Calibrated:
        """Calibrated values of scores.

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
        Calibrated of shape (n,)
            In [0, 1]. Where rows have names, here and in ``fit``, those fitted on are
            marked. Where not, scores are compared: all rows are marked if they are
            the scores fitted on, in any order. Else, where at least 99 % of the scores
            fitted on are distinct and half of these rows or more have one of them,
            the rows that have one are marked.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            A score is outside [0, 1], or the scores come from another source.
        """
        values, names = self._check_predict(scores, ids, source)
        return self._marked(self._predict(values), values, names)

    def _outcomes(self, data: Any, truth: Any) -> np.ndarray:
        return check_rows(data, truth, name="scores")[1]

    def _check_predict(
        self, scores: Any, ids: Any, source: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_is_fitted(self)
        values = check_probabilities(scores, "scores").astype(float)
        names = row_ids(scores, ids, len(values))
        self._check_source(told_source(scores, source))
        return values, names

    def _least_rows(self) -> int:
        return 2

    def _check_enough(self, n: int) -> None:
        if n < self._least_rows():
            raise ValueError(
                f"scores must have {self._least_rows()} or more rows, not {n}."
            )

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        raise NotImplementedError

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class MulticlassCalibrator(BaseCalibrator):
    """Base of calibrators that start from a probability for each class.

    A subclass defines ``_fit(probabilities, truth)``, with the truth as positions, and
    ``_predict(probabilities)``.

    Attributes
    ----------
    classes_ : list
        What the classes are called.
    """

    classes_: list[Any]

    def fit(
        self,
        probabilities: ArrayLike,
        truth: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Self:
        """Learn the map from label probabilities and true classes.

        Parameters
        ----------
        probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
            Rows that sum to one. The columns of a data frame name the classes, with or
            without the ``p_`` of the tidy table; else they are 0, 1, …
        truth : array-like of shape (n,)
            The true classes.
        ids : array-like of shape (n,), optional
            What the rows are called, so that ``predict`` knows them again. Default:
            the index of a data frame, if it has a name or holds no numbers: mere row
            numbers, in whatever order, could be those of another table.
        source : mapping of str to str, optional
            What made the probabilities, such as ``{"model": ..., "prompt": ...}``.
            Default: ``probabilities.attrs["source"]`` of a data frame.

        Returns
        -------
        MulticlassCalibrator
            Itself.

        Raises
        ------
        ValueError
            A row is no distribution, a true class is no column, lengths differ, there
            are fewer than two rows, or there is nothing to learn from them: one true
            class only, or only right or only wrong predictions where these are what
            is learned from.
        """
        self._check_parameters()
        array, classes, true = check_classified(probabilities, truth)
        values = np.ascontiguousarray(array, dtype=float)
        names = row_ids(probabilities, ids, len(values))
        told = told_source(probabilities, source)
        if len(values) < 2:
            raise ValueError(
                f"probabilities must have 2 or more rows, not {len(values)}."
            )
        self._check_variety(values, true, classes)
        self.classes_ = classes
        self._fit(values, true)
        self._remember(values, names, told)
        return self

    def predict(
        self,
        probabilities: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Calibrated:
        """Calibrated values of label probabilities.

        Parameters
        ----------
        probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
            Rows that sum to one, with the columns of ``fit``.
        ids : array-like of shape (n,), optional
            What the rows are called: see ``fit``.
        source : mapping of str to str, optional
            What made the probabilities: see ``fit``.

        Returns
        -------
        Calibrated
            Of shape (n, n_classes), rows summing to one; or, from the wrappers, of
            shape (n,), for the predicted class. Rows fitted on are marked: see
            :meth:`Calibrator.predict`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            A row is no distribution, there are other classes, or the probabilities
            come from another source.
        """
        check_is_fitted(self)
        array, classes = check_distributions(probabilities)
        values = np.ascontiguousarray(array, dtype=float)
        named = hasattr(probabilities, "columns")
        if len(classes) != len(self.classes_) or (named and classes != self.classes_):
            raise ValueError(
                f"probabilities must have the classes of fit, {self.classes_!r}, "
                f"not {classes!r}."
            )
        names = row_ids(probabilities, ids, len(values))
        self._check_source(told_source(probabilities, source))
        return self._marked(self._predict(values), values, names)

    def _outcomes(self, data: Any, truth: Any) -> np.ndarray:
        probabilities, _, true = check_classified(data, truth)
        return probabilities.argmax(axis=1) == true

    def _check_variety(
        self, probabilities: np.ndarray, truth: np.ndarray, classes: list[Any]
    ) -> None:
        check_both_outcomes(probabilities.argmax(axis=1) == truth)

    def _fit(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        raise NotImplementedError

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def check_both_outcomes(correct: np.ndarray) -> None:
    """Raise ValueError unless some are right and some are wrong."""
    if correct.all() or not correct.any():
        raise ValueError(
            f"correct must hold both outcomes; all {len(correct)} rows are "
            f"{bool(correct[0])}."
        )


def check_floor(floor: Any) -> float:
    """The least probability that is told from zero: above 0 and below 0.1."""
    return check_between("floor", floor, 0, 0.1)


def log_odds(scores: np.ndarray, floor: float) -> np.ndarray:
    """ln(s / (1 − s)) of scores, kept finite: from floor to one minus floor."""
    return logit(np.clip(scores, floor, 1 - floor))


def told_source(data: Any, source: Any) -> dict[str, str] | None:
    """What made the scores, as said or else as a pandas object carries it."""
    if source is None:
        source = getattr(data, "attrs", {}).get("source")
    if source is None:
        return None
    if not isinstance(source, Mapping):
        raise ValueError(f"source must map words to words; it is {source!r}.")
    for key, value in source.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise ValueError(f"source must map words to words; {key!r} is {value!r}.")
    return {str(key): str(value) for key, value in source.items()}


def check_source(
    given: Mapping[str, str] | None, known: Mapping[str, str] | None, what: str
) -> None:
    """Raise ValueError if scores come from elsewhere; what only one says may be."""
    for key, value in (given or {}).items():
        ours = (known or {}).get(key, value)
        if ours != value:
            raise ValueError(
                f"source differs: {what} scores of {key} {ours!r}, these come from "
                f"{key} {value!r}."
            )


def _settings(calibrator: BaseCalibrator) -> dict[str, Any]:
    parameters = calibrator.get_params(deep=False)
    return {
        "class": type(calibrator).__name__,
        "parameters": {name: _encoded(value) for name, value in parameters.items()},
    }


def _encoded(value: Any) -> Any:
    """A parameter or a fitted value as JSON knows it."""
    if isinstance(value, BaseCalibrator):
        return value.to_dict() if hasattr(value, "n_") else _settings(value)
    if isinstance(value, dict):
        return {"pairs": [[_encoded(k), _encoded(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": value.tolist()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_encoded(part) for part in value]
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, (bool, int, float, str)):
        return plain
    raise ValueError(f"only numbers and words can be stored, not {value!r}.")


def _packed(hashes: np.ndarray) -> str:
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")
