"""What measures and calibrators accept: probabilities, outcomes, class labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

_CHUNK = 1 << 16
_INTERVALS = {"wilson": "wilson", "clopper-pearson": "beta"}
_PANDAS = (pd.Series, pd.DataFrame)


def chunks(n: int) -> Iterator[slice]:
    """Slices of n rows that fit a processor's cache."""
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def check_rows(
    confidence: ArrayLike,
    correct: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    name: str = "confidence",
    outcome: str = "correct",
    unanswered: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Confidences, outcomes and optional groups of the same rows."""
    codes = None if groups is None else check_groups(groups, confidence, correct)
    stated = as_array(confidence, name)
    _check_column(stated, name)
    right = as_array(correct, outcome, confidence)
    if unanswered and right.ndim == 1:
        lost = np.asarray(pd.isna(stated) & pd.isna(right))
        if lost.any() and not lost.all():
            warnings.warn(
                f"{int(lost.sum())} of {len(lost)} rows have no {name} and no outcome, "
                "as texts without a usable answer; they are left out.",
                stacklevel=3,
            )
            confidence, correct = stated[~lost], right[~lost]
            if codes is not None:  # numbers without gaps: each is drawn
                codes = np.unique(codes[~lost], return_inverse=True)[1]
    values = check_probabilities(confidence, name)
    return values, check_outcomes(correct, confidence, name=outcome), codes


def check_probabilities(
    values: ArrayLike, name: str = "confidence", *rows: Any
) -> np.ndarray:
    """One probability for each row of other data; single precision is kept."""
    array = _numbers(values, name, *rows)
    _check_column(array, name)
    for part in chunks(len(array)):
        low, high = array[part].min(), array[part].max()
        if not (low >= 0 and high <= 1):
            _refuse_missing(np.isnan(array), name)
            inside = (array[part] >= 0) & (array[part] <= 1)
            at = int(part.start + np.flatnonzero(~inside)[0])
            raise ValueError(
                f"{name} must lie in [0, 1]; row {at} is {float(array[at])!r}."
            )
    return array


def check_numbers(
    values: ArrayLike, name: str, *rows: Any, infinite: bool = False
) -> np.ndarray:
    """One finite number for each row of other data."""
    array = _numbers(values, name, *rows).astype(float)
    _check_column(array, name)
    _refuse_missing(np.isnan(array), name)
    if not infinite and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name} must be finite; row {at} is {float(array[at])!r}.")
    return array


def check_outcomes(
    values: ArrayLike, *rows: Any, name: str = "correct", missing: bool = False
) -> np.ndarray:
    """True or False for each row of other data, or NaN where missing is allowed."""
    array = as_array(values, name, *rows)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one column, not of shape {array.shape}.")
    if array.dtype == bool:
        return array
    unknown = np.asarray(pd.isna(array))
    if not missing:
        _refuse_missing(unknown, name, "label")
    if array.dtype == object:
        array = np.where(unknown, np.nan, array)
    outcome = np.empty(len(array), dtype=float if missing else bool)
    for part in chunks(len(array)):
        right, wrong = array[part] == 1, array[part] == 0
        strange = np.asarray(~(right | wrong | unknown[part]), dtype=bool)
        if strange.any():
            at = int(part.start + np.flatnonzero(strange)[0])
            value = array[at].item() if hasattr(array[at], "item") else array[at]
            raise ValueError(f"{name} must be 0 or 1; row {at} is {value!r}.")
        outcome[part] = np.where(unknown[part], np.nan, right) if missing else right
    return outcome


def check_distributions(
    values: ArrayLike, name: str = "probabilities", *rows: Any
) -> tuple[np.ndarray, list[Any]]:
    """Rows of probabilities over classes, and the classes: columns without ``p_``."""
    classes = None
    if isinstance(values, pd.DataFrame):
        classes = [
            column.removeprefix("p_") if isinstance(column, str) else column
            for column in values.columns
        ]
        check_different(classes, name)
    array = _numbers(values, name, *rows)
    if array.ndim != 2 or array.shape[1] < 2 or not len(array):
        raise ValueError(
            f"{name} must have rows, and a column for each of two or more classes; "
            f"not shape {array.shape}."
        )
    inside = (array >= 0) & (array <= 1)
    if not inside.all():
        _refuse_missing(np.isnan(array).any(axis=1), name)
        row, column = np.argwhere(~inside)[0]
        value = float(array[row, column])
        raise ValueError(f"{name} must lie in [0, 1]; row {row} has {value!r}.")
    totals = array.sum(axis=1, dtype=float)
    room = np.full(len(array), 1e-3)
    for step in (0.001, 0.01):
        # Rounded to so many digits, they may be off by half a unit each.
        most = min(step * array.shape[1] / 2, 0.05)
        units = array / step
        rounded = (np.abs(units - np.rint(units)) < 1e-4).all(axis=1)
        room[rounded] = np.maximum(room[rounded], most)
    away = np.abs(totals - 1)
    off = np.flatnonzero(away > room + 1e-9)
    if len(off):
        total = round(float(totals[off[0]]), 6)
        raise ValueError(
            f"{name} must sum to one in each row; row {off[0]} sums to {total!r}."
        )
    if away.max() > 1e-3:
        array = array / totals[:, None]
    return array, list(range(array.shape[1])) if classes is None else classes


def check_classified(
    probabilities: ArrayLike, truth: ArrayLike
) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Rows of probabilities, the classes, and the place of each row's true class."""
    values, classes = check_distributions(probabilities)
    return values, classes, check_truth(truth, classes, probabilities)


def check_truth(
    values: ArrayLike, classes: list[Any], *rows: Any, name: str = "truth"
) -> np.ndarray:
    """Places among the classes, one a row of other data."""
    array = check_labels(values, name, *rows)
    places = {label: at for at, label in enumerate(classes)}
    found = [places.get(value, -1) for value in array.tolist()]
    if -1 in found:
        at = found.index(-1)
        raise ValueError(
            f"{name} must be one of the classes {classes!r}; row {at} is "
            f"{array.tolist()[at]!r}."
        )
    return np.asarray(found, dtype=np.intp)


def check_labels(values: Any, name: str, *rows: Any, what: str = "label") -> np.ndarray:
    """A label for each row of other data, as Python objects, none missing."""
    # As objects: NumPy makes the word "nan" of NaN among words.
    is_list = isinstance(values, (list, tuple))
    array = as_array(values, name, *rows, dtype=object if is_list else None)
    if not rows or array.ndim != 1:
        _check_column(array, name)
    _refuse_missing(pd.isna(array), name, what)
    return array.astype(object)


def evaluation_of(values: Any) -> tuple[str, int]:
    """How calibrated values are marked, and how many of their rows were fitted on."""
    # pandas may join several columns into one array and lose their marks.
    column = getattr(values, "values", None)
    marked = column if getattr(column, "evaluation", "") == "in-sample" else values
    state = getattr(marked, "evaluation", "unstated")
    return state, int(np.sum(getattr(marked, "fitted_on", 0)))


def check_not_fitted_on(values: Any, name: str) -> None:
    """Raise ValueError if values are marked as of rows that a calibrator has seen."""
    state, n = evaluation_of(values)
    if state == "in-sample":
        # In a table, and after arithmetic, one row that was fitted on marks all.
        which = f"{n} of these" if n < len(values) else "some or all of these"
        raise ValueError(
            f"{name} must be of rows that no calibrator was fitted on and no prompt "
            f"shows; {which} {len(values)} were, which makes them look better than "
            "others will. Take other rows, or values of cross_fitted."
        )


def plain_text(text: str) -> str:
    """The same for copies of a text, whatever their case and white space."""
    return " ".join(text.casefold().split())


def check_groups(values: Any, *rows: Any, name: str = "groups") -> np.ndarray:
    """Group number of each row; case and white space do not matter."""
    plain = [
        plain_text(group) if isinstance(group, str) else group
        for group in check_labels(values, name, *rows, what="value")
    ]
    return pd.factorize(pd.Series(plain, dtype=object))[0]


def check_table(
    table: Any,
    columns: Sequence[str] = (),
    name: str = "table",
    *,
    empty: bool = False,
) -> pd.DataFrame:
    """A table with these columns, none twice, and with rows unless it may be empty."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{name} must be a DataFrame, not {type(table).__name__}.")
    check_different(list(table.columns), name)
    for column in columns:
        if column not in table.columns:
            raise ValueError(
                f"{name} must have the column {column!r}; it has "
                f"{list(table.columns)!r}."
            )
    if not len(table) and not empty:
        raise ValueError(f"{name} must have at least one row; there is none.")
    return table.infer_objects()


def check_different(columns: list[Any], name: str) -> None:
    """Refuse column names that occur twice."""
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise ValueError(f"{name} must not have the column {twice[0]!r} twice.")


def check_rng(rng: np.random.Generator | int | None) -> np.random.Generator:
    """A random generator from a seed, or the one given."""
    if rng is not None and not isinstance(rng, (int, np.integer, np.random.Generator)):
        raise TypeError(f"rng must be a Generator, a seed or None, not {rng!r}.")
    return np.random.default_rng(rng)


def check_between(
    name: str, value: Any, low: float, high: float, *, closed: bool = False
) -> float:
    """A number between two others; with ``closed``, the bounds are allowed."""
    # sklearn.utils.check_scalar lets NaN pass, and True as a whole number.
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if is_number and not isinstance(value, bool):
        if (low <= value <= high) if closed else (low < value < high):
            return float(value)
    raise ValueError(f"{name} must lie between {low} and {high}, not {value!r}.")


def check_not_negative(name: str, value: Any, *, below: float = math.inf) -> float:
    """A number of 0 or more, below another."""
    try:
        return check_between(name, value, 0, below, closed=value != below)
    except ValueError:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} must be 0 or more{limit}, not {value!r}.") from None


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(
            f"{name} must be a whole number of {least} or more, not {value!r}."
        )
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {words}, not {value!r}.")
    return str(value)


def check_interval(method: Any) -> str:
    """Map an interval name to statsmodels' name for it."""
    return _INTERVALS[check_choice("method", method, tuple(_INTERVALS))]


def as_array(values: Any, name: str, *rows: Any, dtype: Any = None) -> np.ndarray:
    """Data as a plain array, aligned with the rows of other data."""
    _refuse_masked(values, name)
    leads = [part for part in rows if isinstance(part, _PANDAS)]
    if leads:
        values = in_order_of(leads[0], values, name)
    try:
        array = np.asarray(values, dtype)
    except (ValueError, RuntimeError) as error:  # as of tensors with a gradient
        raise ValueError(f"{name} must be an array: {error}") from error
    if rows:
        n = rows[0] if isinstance(rows[0], int) else len(rows[0])
        if array.ndim == 0 or len(array) != n:
            raise ValueError(
                f"{name} must have one value for each of {n} rows, not shape "
                f"{array.shape}."
            )
    return array


def in_order_of(lead: Any, values: Any, name: str) -> Any:
    """A pandas object in the order of another one's index; other data unchanged."""
    if not (isinstance(lead, _PANDAS) and isinstance(values, _PANDAS)):
        return values
    index = lead.index
    if values.index.equals(index) or len(values) != len(index):
        return values
    places = np.array([-1])
    if values.index.is_unique and index.is_unique:
        places = values.index.get_indexer(index)
    if places.min() < 0:
        raise ValueError(
            f"{name} must have the index of the other data, in any order, each label "
            "once; it has another. To pair rows by their places, pass .to_numpy()."
        )
    return values.iloc[places]


def _refuse_masked(values: Any, name: str) -> None:
    """Refuse masked values, which NumPy would use."""
    for part in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part):
            raise ValueError(
                f"{name} must not be masked; {np.ma.count_masked(part)} of {part.size} "
                "values are. Pass .compressed(), of all data alike, or .filled(...)."
            )


def _numbers(values: ArrayLike, name: str, *rows: Any) -> np.ndarray:
    array = as_array(values, name, *rows)
    if array.dtype.kind in "iub":
        return array.astype(float)
    if array.dtype == object:
        # Missing values of any kind become NaN, which no check lets pass.
        array = np.where(pd.isna(array), np.nan, array)
        if any(isinstance(value, (str, bytes)) for value in array.flat):
            raise TypeError(f"{name} must be numbers, not text.")
        try:
            return array.astype(float)
        except (TypeError, ValueError):
            pass
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must be numbers, not {array.dtype}.")
    return array if array.dtype.itemsize in (4, 8) else array.astype(float)


def _check_column(array: np.ndarray, name: str) -> None:
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name} must be one column with at least one row, not of shape "
            f"{array.shape}."
        )


def _refuse_missing(missing: Any, name: str, what: str = "value") -> None:
    if count := int(np.sum(missing)):
        n = len(missing)
        raise ValueError(
            f"{name} must not be missing; {count} of {n} rows have no {what}; pass the "
            f"{n - count} that have one."
        )
