"""Which rows a calibrator was fitted on, and an array that does not forget it.

A calibrated value of a row that the calibrator has seen flatters the calibrator. So
every prediction carries, row by row, whether it was seen, and a measure can say so.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..checks import in_order_of, refuse_masked

# Shares of rows, for scores compared without ids: see ``seen_rows``.
_DISTINCT = 0.99
_OVERLAP = 0.5


class Calibrated(np.ndarray):
    """Calibrated values that know which of their rows a calibrator was fitted on.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, n_classes)
        Calibrated values.
    fitted_on : array-like of bool, of shape (n,)
        True for the rows that the calibrator was fitted on.
    known : bool
        Whether it could be established which rows these are.

    Attributes
    ----------
    fitted_on : numpy.ndarray of bool, of shape (n,)
    known : bool
    evaluation : str

    Raises
    ------
    ValueError
        The number of marks is not the number of rows.

    Notes
    -----
    Arithmetic, chosen rows, rows joined by ``numpy.concatenate`` and reductions within
    rows (``p.max(axis=1)``) keep the mark of each row. Wherever else, as in copies or
    after sorting, all rows are marked if any was. Comparisons and single values carry
    no marks. ``numpy.asarray`` takes the marks off, and so do some functions of numpy
    and most of pandas: take measures before a column of a table is made of the array.

    Examples
    --------
    >>> p = Calibrated([0.2, 0.9], [False, True], known=True)
    >>> p.evaluation, p[:1].evaluation
    ('in-sample', 'held-out')
    """

    fitted_on: np.ndarray
    known: bool

    def __new__(
        cls, values: ArrayLike, fitted_on: ArrayLike, *, known: bool
    ) -> Calibrated:
        array = np.asarray(values)
        marks = np.array(fitted_on, dtype=bool)
        if marks.shape != array.shape[:1]:
            raise ValueError(
                f"fitted_on must have one mark for each row of values of shape "
                f"{array.shape}, not shape {marks.shape}."
            )
        return array.view(cls)._mark(marks, known)

    @property
    def evaluation(self) -> str:
        """What a measure of these values is.

        "in-sample" where any row was fitted on, "held-out" where none was, "unstated"
        where that could not be established.
        """
        if self.fitted_on.any():
            return "in-sample"
        return "held-out" if self.known else "unstated"

    def _mark(self, fitted_on: np.ndarray, known: bool) -> Calibrated:
        self.fitted_on, self.known = fitted_on, bool(known)
        return self

    # What numpy asks for -------------------------------------------------------

    def __array_finalize__(self, obj: Any) -> None:
        # Whatever the operation was; those that keep rows in place set marks anew.
        marked = isinstance(obj, Calibrated)
        any_seen = marked and bool(obj.fitted_on.any())
        self._mark(np.full(self.shape[:1], any_seen), marked and obj.known)

    def __array_wrap__(
        self, array: np.ndarray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        if return_scalar or array.ndim == 0:
            return array[()]
        wrapped = np.asarray(array).view(Calibrated)
        any_seen = bool(self.fitted_on.any())
        return wrapped._mark(np.full(wrapped.shape[:1], any_seen), self.known)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        parts = [part for part in inputs if isinstance(part, Calibrated)]
        targets = out or (None,) * ufunc.nout
        if out is not None:
            kwargs["out"] = tuple(map(_plain, out))
        results = getattr(ufunc, method)(*map(_plain, inputs), **kwargs)
        several = isinstance(results, tuple)
        in_rows = method == "__call__" or (
            method == "reduce" and kwargs.get("axis", 0) in (1, -1)
        )
        found = [
            _joined(result, target, parts, in_rows)
            for result, target in zip(
                results if several else (results,), targets, strict=True
            )
        ]
        return tuple(found) if several else found[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.concatenate:
            return _concatenated(*args, **kwargs)
        found = super().__array_function__(func, types, args, kwargs)
        if type(found) is not np.ndarray:
            return found
        # numpy.where and others forget what they were given.
        given = [g if isinstance(g, (list, tuple)) else [g] for g in args]
        parts = [part for some in given for part in some]
        return _joined(found, None, [p for p in parts if isinstance(p, Calibrated)])

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if not isinstance(found, Calibrated) or not found.ndim:
            return found
        marks = _marks_at(self.fitted_on, key, len(found))
        return found if marks is None else found._mark(marks, self.known)

    def __deepcopy__(self, memo: Any) -> Calibrated:
        return self.copy("K")

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(value, Calibrated):
            seen = bool(self.fitted_on.any() or value.fitted_on.any())
            self._mark(np.full(self.shape[:1], seen), self.known and value.known)

    def sort(self, *args: Any, **kwargs: Any) -> None:
        """Sort in place; afterwards all rows are marked if any was."""
        super().sort(*args, **kwargs)
        self.fitted_on = np.full(self.shape[:1], bool(self.fitted_on.any()))

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        make, arguments, state = reduced
        return make, arguments, (state, self.fitted_on, self.known)

    def __setstate__(self, state: Any) -> None:
        array, fitted_on, known = state
        super().__setstate__(array)
        self._mark(fitted_on, known)


def row_ids(data: Any, ids: Any, n: int) -> np.ndarray | None:
    """What the rows are called, hashed; None where nothing names them."""
    if ids is None:
        index = data.index if isinstance(data, (pd.Series, pd.DataFrame)) else None
        if index is None or isinstance(index, pd.RangeIndex) or _missing(index).any():
            return None
        numbers = pd.api.types.is_numeric_dtype(index.infer_objects().dtype)
        return None if numbers and index.name is None else _hashes(index)
    refuse_masked(ids, "ids")
    if getattr(ids, "ndim", 1) != 1:
        raise ValueError(f"ids must be one column, not of shape {ids.shape}.")
    index = _as_index(in_order_of(data, ids, "ids"))
    if len(index) != n:
        raise ValueError(f"ids must be one for each of {n} rows, not {len(index)}.")
    if missing := int(_missing(index).sum()):
        raise ValueError(f"ids must not be missing; {missing} of {n} rows have none.")
    return _hashes(index)


def score_hashes(values: np.ndarray) -> np.ndarray:
    """One number for each row of scores; rows equal in single precision have one."""
    # Adding zero makes -0.0 the same as 0.0, as not every pandas does.
    columns = pd.DataFrame(np.asarray(values).astype(np.float32) + 0.0)
    return pd.util.hash_pandas_object(columns, index=False).to_numpy()


def seen_rows(hashes: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Rows whose scores suggest that a calibrator was fitted on them."""
    if np.array_equal(np.sort(hashes), fitted):
        return np.ones(len(hashes), dtype=bool)
    distinct = np.unique(fitted)
    shared = np.isin(hashes, distinct)
    if len(distinct) >= _DISTINCT * len(fitted) and shared.mean() >= _OVERLAP:
        return shared
    return np.zeros(len(hashes), dtype=bool)


def _plain(part: Any) -> Any:
    return np.asarray(part) if isinstance(part, Calibrated) else part


def _joined(
    result: Any, target: Any, parts: list[Calibrated], in_rows: bool = False
) -> Any:
    """A result, in its target if it has one, with the marks of what it is made of."""
    is_array = isinstance(result, np.ndarray) and result.ndim > 0
    if not is_array or result.dtype.kind != "f" or not parts:
        return result if target is None else target
    if target is not None and not isinstance(target, Calibrated):
        return target
    marks = np.zeros(len(result), dtype=bool)
    for part in parts:
        in_place = in_rows and len(part.fitted_on) == len(result)
        if in_place and part.ndim >= result.ndim:
            marks |= part.fitted_on
        else:
            marks |= part.fitted_on.any()
    found = result.view(Calibrated) if target is None else target
    return found._mark(marks, all(part.known for part in parts))


def _concatenated(arrays: Any, axis: int | None = 0, **kwargs: Any) -> Any:
    """What ``numpy.concatenate`` gives, with the marks of the parts."""
    parts = list(arrays)
    joined = np.concatenate([_plain(part) for part in parts], axis, **kwargs)
    marks = [
        part.fitted_on if isinstance(part, Calibrated) else np.zeros(len(part), bool)
        for part in parts
    ]
    known = all(isinstance(part, Calibrated) and part.known for part in parts)
    if axis == 0:
        return joined.view(Calibrated)._mark(np.concatenate(marks), known)
    any_seen = bool(np.concatenate(marks).any())
    return joined.view(Calibrated)._mark(np.full(len(joined), any_seen), known)


def _marks_at(marks: np.ndarray, key: Any, n: int) -> np.ndarray | None:
    """Marks of the rows that a key takes, or None where that is not plain."""
    first, *rest = key if isinstance(key, tuple) else (key,)
    if any(np.ndim(part) > 1 for part in rest if part is not None):
        return None
    if isinstance(first, SupportsIndex) and not isinstance(first, (bool, np.ndarray)):
        return np.full(n, marks[first])
    if first is None or first is Ellipsis or isinstance(first, (bool, np.bool_)):
        return None
    if not isinstance(first, slice) and np.ndim(first) != 1:
        return None
    taken = marks[first if isinstance(first, slice) else np.asarray(first)]
    return taken.copy() if len(taken) == n else None


def _as_index(ids: Any) -> pd.Index:
    if isinstance(ids, pd.Index):
        return ids
    return pd.Index(ids if isinstance(ids, (pd.Series, np.ndarray)) else list(ids))


def _missing(index: pd.Index) -> np.ndarray:
    if isinstance(index, pd.MultiIndex):
        return np.zeros(len(index), dtype=bool)
    return np.asarray(index.isna())


def _hashes(index: pd.Index) -> np.ndarray:
    # So that 1 is the same id in whatever type a table holds it.
    if not isinstance(index, pd.MultiIndex):
        index = index.infer_objects()
    kind = index.dtype.kind
    if kind in "ib" or (kind == "f" and (index % 1 == 0).all()):
        index = index.astype("int64")
    return pd.util.hash_pandas_object(index, index=False).to_numpy(dtype=np.uint64)
