"""Parts of a data set that share no text, no template and no name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..checks import as_array, check_count, check_table

PARTS = ("train", "calibration", "test")


def joined_groups(groups: ArrayLike | pd.DataFrame) -> np.ndarray:
    """Rows that hang together, by any of several columns, as numbers.

    Two rows are joined if they have the same value in some column, or if there is a
    chain of such rows between them.

    Parameters
    ----------
    groups : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
        What each row belongs to, such as its family of texts and the entity it names.
        Strings are compared without regard to case and to the amount of white space.
        Missing values and empty strings join nothing; equal values in different
        columns neither.

    Returns
    -------
    numpy.ndarray of int, of shape (n,)
        From 0 on, in the order in which the components first occur. They serve as
        ``groups`` in folds and bootstraps.

    Raises
    ------
    ValueError
        There are no rows, or more than two dimensions.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {"family": ["a", "a", "b", "c"], "entity": ["", "Ann", "ann ", None]}
    ... )
    >>> joined_groups(table)
    array([0, 0, 0, 1])
    """
    columns = _columns(groups, "groups")
    n = len(columns[0])
    rows, values, n_values = [], [], 0
    for column in columns:
        codes = pd.factorize(np.array([_plain(v) for v in column], dtype=object))[0]
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        values.append(n + n_values + codes[known])
        n_values += len(known)
    # Rows and values are the two kinds of nodes.
    size = n + n_values
    joins = (np.concatenate(rows), np.concatenate(values))
    graph = coo_array((np.ones(len(joins[0]), dtype=np.int8), joins), (size, size))
    found = connected_components(graph, directed=False)[1][:n]
    return pd.factorize(found)[0]


def grouped_split(
    groups: ArrayLike | pd.DataFrame,
    *,
    shares: Sequence[float] = (0.6, 0.2, 0.2),
    stratify: ArrayLike | pd.DataFrame | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Split rows into three parts, so that rows that belong together stay together.

    Parameters
    ----------
    groups : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
        What each row belongs to: see :func:`joined_groups`. Joined rows are in one
        part.
    shares : sequence of float, default=(0.6, 0.2, 0.2)
        Shares of the rows for training, calibration and test; 0 leaves a part out.
    stratify : array-like or pandas.DataFrame of shape (n,) or (n, n_columns), optional
        What is to be as frequent in each part, such as labels: each combination of
        values is one stratum.
    seed : int, default=0
        Seed of the order among components of one size.

    Returns
    -------
    numpy.ndarray of str, of shape (n,)
        "train", "calibration" or "test".

    Raises
    ------
    ValueError
        Three shares that sum to one are not given, strata are not one for each row, a
        component has more rows than the largest part is to have, or there are too few
        components to fill all parts.

    Notes
    -----
    The components are taken by size, the largest first, and each goes to the part
    where it makes the chi-squared distance between the numbers of rows wanted and
    given, in all and in each stratum, least. Shares are met as well as sizes allow.

    Examples
    --------
    >>> families = np.repeat(["a", "b", "c", "d", "e"], 4)
    >>> parts = grouped_split(families, stratify=["yes", "no"] * 10)
    >>> [int((parts == part).sum()) for part in ("train", "calibration", "test")]
    [12, 4, 4]
    """
    wanted = _check_shares(shares)
    check_count("seed", seed, 0)
    joined = joined_groups(groups)
    n = len(joined)
    strata = _strata(stratify, groups)
    n_components = int(joined.max()) + 1
    _check_components(joined, groups, wanted)
    n_strata = int(strata.max()) + 1
    cells = np.bincount(joined * n_strata + strata, minlength=n_components * n_strata)
    by_stratum = cells.reshape(n_components, n_strata)
    # Rows of each component in all, and in each stratum.
    counts = np.column_stack([by_stratum.sum(axis=1), by_stratum])
    targets = wanted[:, None] * counts.sum(axis=0)
    mixed = np.random.default_rng(seed).permutation(n_components)
    order = mixed[np.argsort(-counts[mixed, 0], kind="stable")]
    given = np.zeros(targets.shape)
    open_parts = np.flatnonzero(wanted > 0)
    part_of = np.empty(n_components, dtype=np.intp)
    for component in order:
        more = counts[component]
        target = targets[open_parts]
        before = given[open_parts] - target
        growth = (((before + more) ** 2 - before**2) / target).sum(axis=1)
        chosen = open_parts[growth.argmin()]
        part_of[component] = chosen
        given[chosen] += more
    empty = [PARTS[at] for at in open_parts if not given[at, 0]]
    if empty:
        raise ValueError(
            f"groups must fill every part; {n_components} components of at most "
            f"{int(counts[:, 0].max())} of {n} rows leave {empty[0]!r} empty."
        )
    return np.array(PARTS)[part_of[joined]]


def _check_shares(shares: Any) -> np.ndarray:
    values = np.asarray(shares)
    good = values.shape == (len(PARTS),) and values.dtype.kind in "if"
    if not good or not (values >= 0).all() or not math.isclose(values.sum(), 1):
        raise ValueError(
            f"shares must be one number of 0 or more for each of {', '.join(PARTS)}, "
            f"and sum to 1; not {shares!r}."
        )
    return values.astype(float)


def _check_components(joined: np.ndarray, groups: Any, wanted: np.ndarray) -> None:
    sizes = np.bincount(joined)
    most = math.ceil(wanted.max() * len(joined))
    if sizes.max() <= most:
        return
    first = int(np.flatnonzero(joined == sizes.argmax())[0])
    values = [column[first] for column in _columns(groups, "groups")]
    raise ValueError(
        f"groups must not join more rows than the largest part is to have, {most} of "
        f"{len(joined)}; those joined to row {first}, {values!r}, are {sizes.max()}."
    )


def _strata(stratify: Any, groups: Any) -> np.ndarray:
    if stratify is None:
        return np.zeros(len(groups), dtype=np.intp)
    columns = _columns(stratify, "stratify", groups)
    table = pd.DataFrame(dict(enumerate(columns)))
    by = list(table.columns)
    return table.groupby(by, dropna=False, sort=False).ngroup().to_numpy()


def _columns(values: Any, name: str, *rows: Any) -> list[np.ndarray]:
    """The columns of a table, or of an array of one or two dimensions."""
    if isinstance(values, pd.DataFrame):
        check_table(values, name=name)
    array = as_array(values, name, *rows, dtype=object)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must be columns, not of shape {array.shape}.")
    columns = [array] if array.ndim == 1 else list(array.T)
    if not columns or not len(columns[0]):
        raise ValueError(f"{name} must have at least one row and one column.")
    return columns


def _plain(value: Any) -> Any:
    """A value as it is compared; None where it joins nothing."""
    if isinstance(value, str):
        return " ".join(value.casefold().split()) or None
    return None if pd.isna(value) else value
