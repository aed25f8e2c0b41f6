"""What measures and calibrators accept: probabilities, outcomes, class labels.

Everything is checked before any work, and an error names the argument, the rule and
the offending value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

_CHUNK = 1 << 16
_INTERVALS = {"wilson": "wilson", "clopper-pearson": "beta"}


def chunks(n: int) -> Iterator[slice]:
    """Slices that cover n rows, each small enough to stay in a processor's cache.

    Parameters
    ----------
    n : int
        Number of rows.

    Yields
    ------
    slice

    Examples
    --------
    >>> list(chunks(3))
    [slice(0, 65536, None)]
    """
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def check_probabilities(values: ArrayLike, name: str = "confidence") -> np.ndarray:
    """Probabilities as an array of floats.

    Parameters
    ----------
    values : array-like of shape (n,)
        Numbers in [0, 1], at least one.
    name : str, default="confidence"
        What an error calls them.

    Returns
    -------
    numpy.ndarray of shape (n,)
        Single precision stays single; everything else becomes double.

    Raises
    ------
    ValueError
        There are none, they have another shape, or one is missing or outside [0, 1].
    TypeError
        They are no numbers.

    Examples
    --------
    >>> check_probabilities([0.2, 1.5])
    Traceback (most recent call last):
    ...
    ValueError: confidence must lie in [0, 1]; row 1 is 1.5.
    """
    array = _column(_numbers(values, name), name)
    for part in chunks(len(array)):
        low, high = array[part].min(), array[part].max()
        if not (low >= 0 and high <= 1):
            inside = (array[part] >= 0) & (array[part] <= 1)
            at = int(part.start + np.flatnonzero(~inside)[0])
            raise ValueError(
                f"{name} must lie in [0, 1]; row {at} is {float(array[at])!r}."
            )
    return array


def check_numbers(
    values: ArrayLike, name: str, *, infinite: bool = False
) -> np.ndarray:
    """Numbers on any scale as an array of floats.

    Parameters
    ----------
    values : array-like of shape (n,)
        Numbers, at least one.
    name : str
        What an error calls them.
    infinite : bool, default=False
        Whether infinities are allowed.

    Returns
    -------
    numpy.ndarray of float, of shape (n,)

    Raises
    ------
    ValueError
        There are none, they have another shape, or one is missing or infinite.
    TypeError
        They are no numbers.

    Examples
    --------
    >>> check_numbers([-3, 2.5], "scores")
    array([-3. ,  2.5])
    >>> check_numbers([0.5, None], "scores")
    Traceback (most recent call last):
    ...
    ValueError: scores must be finite; row 1 is nan.
    """
    array = _numbers(values, name).astype(float)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name} must be one column with at least one row, not of shape "
            f"{array.shape}."
        )
    bad = np.isnan(array) if infinite else ~np.isfinite(array)
    if bad.any():
        at = int(np.argmax(bad))
        rule = "not be missing" if infinite else "be finite"
        raise ValueError(f"{name} must {rule}; row {at} is {float(array[at])!r}.")
    return array


def check_outcomes(values: ArrayLike, n: int, name: str = "correct") -> np.ndarray:
    """Outcomes, right or wrong, as an array of bools.

    Parameters
    ----------
    values : array-like of shape (n,)
        True and False, or 1 and 0.
    n : int
        How many there must be.
    name : str, default="correct"
        What an error calls them.

    Returns
    -------
    numpy.ndarray of bool, of shape (n,)

    Raises
    ------
    ValueError
        Their number is another, or one is missing or neither 0 nor 1.

    Examples
    --------
    >>> check_outcomes([1, 0], 2)
    array([ True, False])
    >>> check_outcomes([1, 2], 2)
    Traceback (most recent call last):
    ...
    ValueError: correct must be 0 or 1; row 1 is 2.
    """
    array = np.asarray(values)
    if array.ndim != 1 or len(array) != n:
        raise ValueError(
            f"{name} must have one value for each of {n} rows, not shape {array.shape}."
        )
    if array.dtype == bool:
        return array
    if array.dtype == object:
        # NA compares as NA, which is neither true nor false.
        array = np.where(pd.isna(array), np.nan, array)
    outcome = np.empty(n, dtype=bool)
    for part in chunks(n):
        right, wrong = array[part] == 1, array[part] == 0
        strange = np.asarray(~(right | wrong), dtype=bool)
        if strange.any():
            at = int(part.start + np.flatnonzero(strange)[0])
            value = array[at].item() if hasattr(array[at], "item") else array[at]
            raise ValueError(f"{name} must be 0 or 1; row {at} is {value!r}.")
        outcome[part] = right
    return outcome


def check_distributions(
    values: ArrayLike, name: str = "probabilities"
) -> tuple[np.ndarray, list[Any]]:
    """Rows of probabilities over classes, and what the classes are called.

    Parameters
    ----------
    values : array-like or pandas.DataFrame of shape (n, n_classes)
        Numbers in [0, 1]; each row sums to one within 0.001. A data frame names the
        classes by its columns, without the ``p_`` of the tidy table.
    name : str, default="probabilities"
        What an error calls them.

    Returns
    -------
    probabilities : numpy.ndarray of shape (n, n_classes)
    classes : list
        The names, or 0, 1, …

    Raises
    ------
    ValueError
        Another shape, fewer than two classes, no rows, a value outside [0, 1], or a
        row that does not sum to one.

    Examples
    --------
    >>> check_distributions([[0.2, 0.9]])
    Traceback (most recent call last):
    ...
    ValueError: probabilities must sum to one in each row; row 0 sums to 1.1.
    """
    array = _numbers(values, name)
    if array.ndim != 2 or array.shape[1] < 2 or not len(array):
        raise ValueError(
            f"{name} must have rows, and a column for each of two or more classes; "
            f"not shape {array.shape}."
        )
    inside = (array >= 0) & (array <= 1)
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        value = float(array[row, column])
        raise ValueError(f"{name} must lie in [0, 1]; row {row} has {value!r}.")
    totals = array.sum(axis=1, dtype=float)
    off = np.flatnonzero(np.abs(totals - 1) > 1e-3)
    if len(off):
        total = round(float(totals[off[0]]), 6)
        raise ValueError(
            f"{name} must sum to one in each row; row {off[0]} sums to {total!r}."
        )
    columns = getattr(values, "columns", None)
    if columns is None:
        return array, list(range(array.shape[1]))
    return array, [
        column.removeprefix("p_") if isinstance(column, str) else column
        for column in columns
    ]


def check_truth(
    values: ArrayLike, n: int, classes: list[Any], name: str = "truth"
) -> np.ndarray:
    """True classes as positions among the classes.

    Parameters
    ----------
    values : array-like of shape (n,)
        One class a row.
    n : int
        How many there must be.
    classes : list
        What the classes are called.
    name : str, default="truth"
        What an error calls the values.

    Returns
    -------
    numpy.ndarray of int, of shape (n,)

    Raises
    ------
    ValueError
        Their number is another, or one is none of the classes.

    Examples
    --------
    >>> check_truth(["b", "a"], 2, ["a", "b"])
    array([1, 0])
    """
    array = np.asarray(values)
    if array.ndim != 1 or len(array) != n:
        raise ValueError(
            f"{name} must have one class for each of {n} rows, not shape {array.shape}."
        )
    places = {label: at for at, label in enumerate(classes)}
    truth = [places.get(value, -1) for value in array.tolist()]
    if -1 in truth:
        at = truth.index(-1)
        raise ValueError(
            f"{name} must be one of the classes {classes!r}; row {at} is "
            f"{array.tolist()[at]!r}."
        )
    return np.asarray(truth, dtype=np.intp)


def evaluation_of(values: Any) -> tuple[str, int]:
    """What the marks of calibrated values say, and how many rows were fitted on."""
    # A column of a table may hold marked values. That it holds unmarked ones says
    # nothing: pandas may make one array of several columns.
    column = getattr(values, "values", None)
    marked = column if getattr(column, "evaluation", "") == "in-sample" else values
    state = getattr(marked, "evaluation", "unstated")
    return state, int(np.sum(getattr(marked, "fitted_on", 0)))


def check_not_fitted_on(values: Any, name: str) -> None:
    """Raise ValueError if values are marked as of rows that a calibrator has seen."""
    state, n = evaluation_of(values)
    if state == "in-sample":
        raise ValueError(
            f"{name} must be of rows that no calibrator was fitted on; {n} of these "
            f"{len(values)} were, which makes them look better than others will. Take "
            "other rows, or values of cross_fitted."
        )


def check_groups(values: Any, n: int, name: str = "groups") -> np.ndarray:
    """Rows that belong together, as numbers.

    Parameters
    ----------
    values : array-like of shape (n,)
        What each row belongs to: a text, a document, a person. Strings are compared
        without regard to case and to the amount of white space.
    n : int
        How many there must be.
    name : str, default="groups"
        What an error calls them.

    Returns
    -------
    numpy.ndarray of int, of shape (n,)
        From 0 on, in the order in which the groups first occur.

    Raises
    ------
    ValueError
        Their number is another, or one is missing.

    Examples
    --------
    >>> check_groups(["A joy.", "a  joy.", "A bore."], 3)
    array([0, 0, 1])
    """
    named = values if isinstance(values, (pd.Series, np.ndarray)) else list(values)
    if np.ndim(named) != 1 or len(named) != n:
        raise ValueError(
            f"{name} must have one value for each of {n} rows, not shape "
            f"{np.shape(named)}."
        )
    plain = [
        " ".join(group.casefold().split()) if isinstance(group, str) else group
        for group in named
    ]
    codes = pd.factorize(pd.Series(plain, dtype=object))[0]
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        at = int(missing[0])
        raise ValueError(f"{name} must not be missing; row {at} is {plain[at]!r}.")
    return codes


def check_rng(rng: np.random.Generator | int | None) -> np.random.Generator:
    """A random generator from a seed, or the one given.

    Parameters
    ----------
    rng : numpy.random.Generator, int or None
        None draws a seed from the system.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    TypeError
        Something else.

    Examples
    --------
    >>> float(check_rng(0).random())
    0.6369616873214543
    """
    if rng is not None and not isinstance(rng, (int, np.integer, np.random.Generator)):
        raise TypeError(f"rng must be a Generator, a seed or None, not {rng!r}.")
    return np.random.default_rng(rng)


def check_between(
    name: str, value: Any, low: float, high: float, *, closed: bool = False
) -> float:
    """A number between two others.

    Parameters
    ----------
    name : str
        What an error calls it.
    value : object
        The number.
    low, high : float
        The limits.
    closed : bool, default=False
        Whether the limits themselves are allowed.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        It is no such number.

    Examples
    --------
    >>> check_between("level", 95, 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: level must lie between 0 and 1, not 95.
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if is_number and not isinstance(value, bool):
        if (low <= value <= high) if closed else (low < value < high):
            return float(value)
    raise ValueError(f"{name} must lie between {low} and {high}, not {value!r}.")


def check_not_negative(name: str, value: Any, *, below: float = math.inf) -> float:
    """A number of 0 or more.

    Parameters
    ----------
    name : str
        What an error calls it.
    value : object
        The number.
    below : float, default=inf
        What it must stay below.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        It is no such number.

    Examples
    --------
    >>> check_not_negative("dropout", 1, below=1)
    Traceback (most recent call last):
    ...
    ValueError: dropout must be 0 or more and below 1, not 1.
    """
    try:
        return check_between(name, value, 0, below, closed=value != below)
    except ValueError:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} must be 0 or more{limit}, not {value!r}.") from None


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough.

    Parameters
    ----------
    name : str
        What an error calls it.
    value : object
        The number.
    least : int, default=1
        The smallest allowed.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        It is no such number.

    Examples
    --------
    >>> check_count("n_bins", 0)
    Traceback (most recent call last):
    ...
    ValueError: n_bins must be a whole number of 1 or more, not 0.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(
            f"{name} must be a whole number of {least} or more, not {value!r}."
        )
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of a few words.

    Parameters
    ----------
    name : str
        What an error calls it.
    value : object
        The word.
    choices : tuple of str
        The words allowed.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        It is none of them.

    Examples
    --------
    >>> check_choice("closed", "both", ("left", "right"))
    Traceback (most recent call last):
    ...
    ValueError: closed must be one of 'left', 'right', not 'both'.
    """
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {words}, not {value!r}.")
    return str(value)


def check_interval(method: Any) -> str:
    """Which interval of a share, in the word that statsmodels has for it.

    Parameters
    ----------
    method : object
        "wilson" or "clopper-pearson".

    Returns
    -------
    str
        What ``statsmodels.stats.proportion.proportion_confint`` calls it.

    Raises
    ------
    ValueError
        It is neither.

    Examples
    --------
    >>> check_interval("clopper-pearson")
    'beta'
    """
    return _INTERVALS[check_choice("method", method, tuple(_INTERVALS))]


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
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


def _column(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"{name} must be one column, not of shape {array.shape}.")
    if not len(array):
        raise ValueError(f"{name} must have at least one row; there is none.")
    return array
