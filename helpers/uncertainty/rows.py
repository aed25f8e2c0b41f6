"""One row of label probabilities: how unsure it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import entr

from ..checks import check_distributions


def entropy(probabilities: ArrayLike, *, normalized: bool = False) -> np.ndarray:
    """Entropy of each row, −Σ p ln p: 0 for a sure row, ln K for an even one.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, K)
        Rows that sum to one within 0.001; what they lack or have too much is taken
        out by division. Of a data frame with ``p_`` columns, only these are read.
    normalized : bool, default=False
        Whether to divide by ln K, so that 1 is an even row for any K.

    Returns
    -------
    numpy.ndarray of shape (n,)
        In nats, or in [0, 1] if normalized. A probability of 0 adds 0.

    Raises
    ------
    ValueError
        Bad rows: numbers in [0, 1] that sum to one are good ones.

    Examples
    --------
    >>> entropy([[0.5, 0.5], [1.0, 0.0]]).round(4).tolist()
    [0.6931, 0.0]
    """
    rows, _ = read_rows(probabilities, "probabilities")
    found = row_entropy(rows)
    most = math.log(rows.shape[1])
    return np.clip(found / most, 0, 1) if normalized else found


def margin(probabilities: ArrayLike) -> np.ndarray:
    """The best probability of each row minus the second best.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, K)
        See :func:`entropy`.

    Returns
    -------
    numpy.ndarray of shape (n,)
        In [0, 1]; 0 is a tie.

    Raises
    ------
    ValueError
        Bad rows.

    Examples
    --------
    >>> margin([[0.6, 0.3, 0.1]]).round(6).tolist()
    [0.3]
    """
    rows, _ = read_rows(probabilities, "probabilities")
    top = np.sort(rows, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def max_probability(probabilities: ArrayLike) -> np.ndarray:
    """The best probability of each row: the confidence in the predicted label.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, K)
        See :func:`entropy`.

    Returns
    -------
    numpy.ndarray of shape (n,)
        In [1 / K, 1], as far as rows sum to one.

    Raises
    ------
    ValueError
        Bad rows.

    Examples
    --------
    >>> max_probability([[0.6, 0.3, 0.1]]).tolist()
    [0.6]
    """
    rows, _ = read_rows(probabilities, "probabilities")
    return rows.max(axis=1)


def read_rows(
    values: Any, name: str, *others: Any
) -> tuple[np.ndarray, list[str] | None]:
    """Rows in double precision, and the names of a data frame's (``p_``) columns."""
    if not isinstance(values, pd.DataFrame):
        return check_distributions(values, name, *others)[0].astype(float), None
    stated = [isinstance(c, str) and c.startswith("p_") for c in values.columns]
    columns = values.loc[:, stated] if any(stated) else values
    rows, classes = check_distributions(columns, name, *others)
    return rows.astype(float), classes


def stack_rows(members: Any, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Tables of one shape as one array, and the names of their columns."""
    if isinstance(members, pd.DataFrame) or not len(members):
        raise ValueError(f"{name} must be one or more tables of shape (n, K).")
    tables = list(members)
    first = tables[0]
    read = [read_rows(part, f"{name}[{at}]", first) for at, part in enumerate(tables)]
    rows, classes = read[0]
    for at, (others, theirs) in enumerate(read):
        if others.shape != rows.shape:
            raise ValueError(
                f"{name} must have one shape, {rows.shape}; {name}[{at}] has "
                f"{others.shape}."
            )
        if theirs != classes:
            raise ValueError(
                f"{name} must have the same columns, {classes!r}; {name}[{at}] has "
                f"{theirs!r}."
            )
    return np.stack([others for others, _ in read]), classes


def row_entropy(rows: np.ndarray) -> np.ndarray:
    """Entropy along the last axis, of rows that need not sum to one exactly."""
    shares = rows / rows.sum(axis=-1, keepdims=True)
    return np.maximum(entr(shares).sum(axis=-1), 0.0)
