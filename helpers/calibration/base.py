"""What all calibrators share: they check, remember what they saw, and mark rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import logit
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.utils.validation import check_is_fitted

from ..checks import (
    check_count,
    check_distributions,
    check_groups,
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

# Rows without names are taken for rows fitted on if one in twenty has a score fitted
# on, where 99 % of both are distinct; half of them, where only those fitted on are.
_DISTINCT, _OVERLAP, _MOST = 0.99, 0.05, 0.5
# Of ln(1 / T), and how near a temperature may come before it is at a bound.
BOUNDS = (-10.0, 10.0)
_NEAR = 1e-3
_REFITS = 100


class CalibrationWarning(UserWarning):
    """A calibrator was fitted, but its data does not settle what it should be."""


class BaseCalibrator(StoredEstimator):
    """Base of all calibrators: of scores, of label probabilities and of signals.

    After ``fit`` they have ``n_``, ``source_``, ``fitted_at_`` and hashes of the rows.
    """

    # Which attribute keeps the names of columns.
    _columns: ClassVar[str] = ""
    # The scores fitted on, for refits; they are not stored.
    _fitted_on: np.ndarray | None = None

    constant_: float | None = None

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
        constant = self._constant(values, truth)
        if columns is not None:
            setattr(self, self._columns, columns)
        if constant is None:
            self._fit(values, truth)
        self.constant_ = constant
        self.n_ = len(values)
        self.ids_ = None if hashed is None else np.sort(hashed)
        self.score_hashes_ = np.sort(_hash_scores(values))
        self._fitted_on = values.copy()
        self.source_ = stated
        self.fitted_at_ = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    def predict(
        self, scores: Data, *, ids: Ids = None, source: Source = None
    ) -> Calibrated:
        """Calibrated values of scores, with the rows fitted on marked.

        Rows are recognised by their ids, if ``fit`` had some, too; else by their
        scores, if one in twenty or more was fitted on and hardly any occurs twice.
        """
        kept: list[np.ndarray] = []

        def predicted(values: np.ndarray) -> np.ndarray:
            kept.append(values.copy())
            return self._map(values)

        found = self._mapped(predicted, scores, ids, source)
        found._origin = copy(self), kept[0]
        return found

    def _least_rows(self) -> int:
        return 2

    def _read(self, scores: Any) -> tuple[np.ndarray, list[Any] | None]:
        """Checked values, and the names of their columns if there are several."""
        raise NotImplementedError

    def _read_truth(self, correct: Any, scores: Any, columns: Any) -> np.ndarray:
        return check_outcomes(correct, scores)

    def _right(self, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return truth

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> float | None:
        """What all scores get where there is nothing to learn; or a ValueError."""
        right = self._right(values, truth)
        if 0 < right.sum() < len(right):
            return None
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

    def _map(self, values: np.ndarray) -> np.ndarray:
        if self.constant_ is not None:
            return np.full(len(values), self.constant_)
        return self._predict(values)

    def _mapped(
        self,
        function: Callable[..., np.ndarray],
        scores: Data,
        ids: Ids,
        source: Source,
    ) -> Calibrated:
        """A function of the checked scores, with the rows fitted on marked."""
        check_is_fitted(self)
        values, columns = self._read(scores)
        if columns is not None:
            values = self._match(values, columns, hasattr(scores, "columns"))
        stated = _source_of(scores, source)
        check_source(stated, self.source_, "this calibrator was fitted on")
        hashed = _hash_ids(scores, ids)
        # A mean of two probabilities may pass 1 by a rounding error.
        result = np.clip(function(values), 0.0, 1.0)
        known = distinct = False
        if self.ids_ is not None and hashed is not None:
            known, seen = True, np.isin(hashed, self.ids_)
        else:
            given, fitted = _hash_scores(values), self.score_hashes_
            seen = np.isin(given, fitted)
            distinct = _are_distinct(fitted) and _are_distinct(given)
            if not np.array_equal(np.sort(given), fitted):
                least = _OVERLAP if distinct else _MOST
                seen &= _are_distinct(fitted) and seen.mean() >= least
        return Calibrated(result, seen, known=known, can_tell=distinct)

    def _plausible(
        self, values: np.ndarray, n: int, generator: np.random.Generator
    ) -> Iterator[np.ndarray] | None:
        """What maps that the labels fitted on leave possible predict; None if unknown.

        Refits on outcomes drawn from the map itself.
        """
        if self._fitted_on is None:
            return None
        made = self._map(values)
        label = made.argmax(axis=1) if made.ndim == 2 else None
        refits = self._refits(self._fitted_on, min(n, _REFITS), generator)
        return islice(cycle(_at(refit._map(values), label) for refit in refits), n)

    def _refits(
        self, values: np.ndarray, n: int, generator: np.random.Generator
    ) -> Iterator[Self]:
        """The calibrator fitted again, n times, on outcomes drawn from its own map."""
        made = self._map(values)
        for _ in range(n):
            truth = self._drawn(values, made, generator)
            refit = copy(self)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    refit.constant_ = refit._constant(values, truth)
                except ValueError:  # no map can be fitted on outcomes of one kind
                    continue
                if refit.constant_ is None:
                    refit._fit(values, truth)
            yield refit

    def _drawn(
        self, values: np.ndarray, made: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Outcomes, or classes, of rows drawn as the map says."""
        return generator.random(len(values)) < made

    @staticmethod
    def _log_odds(scores: np.ndarray, floor: float) -> np.ndarray:
        """ln(s / (1 − s)) of scores, kept finite: from floor to one minus floor."""
        return logit(np.clip(scores, floor, 1 - floor))

    @staticmethod
    def _warn(message: str, *, stacklevel: int = 4) -> None:
        warnings.warn(message, CalibrationWarning, stacklevel=stacklevel)

    def _temperature(
        self,
        slope: Callable[[float], float],
        *,
        settled: bool,
        within: tuple[float, float] = BOUNDS,
    ) -> tuple[float, bool]:
        """T where a loss stops falling in ln(1 / T), and whether T is at a bound."""
        if not settled:
            says = "all labels are equally probable in all rows: any temperature does."
            self._warn(says, stacklevel=5)
            return 1.0, False
        low, high = within
        if slope(low) >= 0:
            log_beta = low
        elif slope(high) <= 0:
            log_beta = high
        else:
            log_beta = brentq(slope, low, high, xtol=1e-13)
        temperature, side = math.exp(-log_beta), ""
        if log_beta > BOUNDS[1] - _NEAR:
            side = "lower bound, as where scores separate right from wrong"
        elif log_beta < BOUNDS[0] + _NEAR:
            side = "upper bound, as where scores say nothing about what is right"
        if side:
            says = f"temperature_ is {temperature:.3g}, at its {side}."
            self._warn(says, stacklevel=5)
        return temperature, bool(side)


class Calibrator(BaseCalibrator):
    """Base of maps from a score in [0, 1]: define ``_fit`` and ``_predict``."""

    _may_be_constant = True

    def _read(self, scores: Any) -> tuple[np.ndarray, None]:
        return check_probabilities(scores, "scores").astype(float), None

    def _constant(self, values: np.ndarray, truth: np.ndarray) -> float | None:
        n_right, n = int(truth.sum()), len(truth)
        if 0 < n_right < n:
            return None
        share = (n_right + 1) / (n + 2)
        self._warn(f"all {n} rows are {bool(n_right)}: all scores get {share:.3g}.")
        return share


class MulticlassCalibrator(BaseCalibrator):
    """Base of maps from a probability for each of ``classes_``.

    Define ``_fit(probabilities, truth)``, with truth as positions, and ``_predict``.
    """

    _columns = "classes_"

    classes_: Any

    def _read(self, scores: Any) -> tuple[np.ndarray, list[Any] | None]:
        values, classes = check_distributions(scores, "scores")
        return np.ascontiguousarray(values, dtype=float), classes

    def _read_truth(self, correct: Any, scores: Any, columns: Any) -> np.ndarray:
        return check_truth(correct, columns, scores, name="correct")

    def _right(self, values: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return values.argmax(axis=1) == truth

    def _drawn(
        self, values: np.ndarray, made: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        if made.ndim == 1:
            # Which class is true instead makes no difference to such maps.
            right = super()._drawn(values, made, generator)
            return (values.argmax(axis=1) + ~right) % values.shape[1]
        below = generator.random((len(made), 1)) > made.cumsum(axis=1)
        return below[:, :-1].sum(axis=1)

    def _match(self, values: np.ndarray, columns: list[Any], named: bool) -> np.ndarray:
        known = self.classes_ or []  # none, where confidences were fitted
        if len(columns) != len(known) or (named and columns != known):
            raise ValueError(
                f"scores must have the classes of fit, {known!r}, not {columns!r}."
            )
        return values


def cross_fitted(
    calibrator: BaseCalibrator,
    scores: ArrayLike | pd.DataFrame,
    correct: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Calibrated:
    """Held-out values of all rows, each by a calibrator fitted on the other folds.

    Parameters
    ----------
    calibrator : BaseCalibrator
        What to fit. It is copied, not changed.
    scores, correct : array-like or pandas.DataFrame
        What ``calibrator.fit`` takes.
    groups : array-like of shape (n,), optional
        Rows of one group stay in one fold, as copies of a text should. Strings are
        compared without regard to case and white space.
    n_splits : int, default=5
        Number of folds, each with about the same share of right rows.
    seed : int, default=0

    Examples
    --------
    >>> from helpers.calibration import IsotonicRegressionCalibrator
    >>> rows = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99], [0, 1, 0, 1, 0, 1]
    >>> cross_fitted(IsotonicRegressionCalibrator(), *rows, n_splits=2).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.5]
    """
    check_count("n_splits", n_splits, 2)
    check_count("seed", seed, 0)
    calibrator._check_parameters()
    values, columns = calibrator._read(scores)
    right = calibrator._right(values, calibrator._read_truth(correct, scores, columns))
    codes = None if groups is None else check_groups(groups, scores, correct)
    if codes is not None and n_splits > codes.max() + 1:
        raise ValueError(
            f"n_splits must be at most the number of groups, {codes.max() + 1}, not "
            f"{n_splits}."
        )
    kind = StratifiedKFold if codes is None else StratifiedGroupKFold
    folds = kind(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Folds without a right row, or without a wrong one, do no harm.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(right, right, codes))
    found = cross_val_predict(
        calibrator,
        scores if hasattr(scores, "iloc") else np.asarray(scores),
        check_labels(correct, "correct", scores),
        cv=[(rest, fold) for rest, fold in parts if len(fold)],  # groups may leave none
    )
    return Calibrated(np.asarray(found), np.zeros(len(right), dtype=bool), known=True)


def _at(values: np.ndarray, label: np.ndarray | None) -> np.ndarray:
    """Of rows, the values of one label each; other values as they are."""
    return values if label is None else values[np.arange(len(values)), label]


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


def _are_distinct(hashes: np.ndarray) -> bool:
    return len(np.unique(hashes)) >= _DISTINCT * len(hashes)


def _hash_scores(values: np.ndarray) -> np.ndarray:
    """A hash of each row of scores, in single precision."""
    # Adding zero makes -0.0 the same as 0.0, as not every pandas does.
    columns = pd.DataFrame(values.astype(np.float32) + 0.0)
    return pd.util.hash_pandas_object(columns, index=False).to_numpy()
