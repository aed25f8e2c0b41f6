"""Parts of a data set that share no text, no template and no name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfVectorizer, strip_accents_unicode

from ..checks import (
    as_array,
    check_between,
    check_count,
    check_groups,
    check_table,
    plain_text,
)
from ..prompted import check_texts

_PARTS = ("train", "calibration", "test")
BLOCK = 1 << 22  # similarities at a time


def joined_groups(groups: ArrayLike | pd.DataFrame) -> np.ndarray:
    """Number the groups of rows that share a value in some column, or a chain of them.

    Parameters
    ----------
    groups : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
        What each row belongs to, such as its family of texts and the entity it names.
        Case and the amount of white space do not matter; missing values and empty
        strings join nothing.

    Returns
    -------
    numpy.ndarray of int, of shape (n,)
        Numbers from 0 on, in order of first occurrence.

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
    # The nodes of the graph are the rows, then the values of one column after another.
    joins, size = [], n
    for column in columns:
        plain = np.array([_plain(value) for value in column], dtype=object)
        codes = pd.factorize(plain)[0]
        known = np.flatnonzero(codes >= 0)
        joins.append([known, size + codes[known]])
        size += len(known)
    rows, values = np.concatenate(joins, axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, values)), (size, size))
    return pd.factorize(connected_components(graph, directed=False)[1][:n])[0]


def grouped_split(
    groups: ArrayLike | pd.DataFrame,
    *,
    shares: Sequence[float] = (0.6, 0.2, 0.2),
    stratify: ArrayLike | pd.DataFrame | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Split rows into three parts, so that rows that belong together stay together.

    Groups are assigned from the largest on, each to the part where it reduces the
    chi-squared distance from the wanted numbers of rows, overall and by stratum, most.

    Parameters
    ----------
    groups : array-like or pandas.DataFrame of shape (n,) or (n, n_columns)
        What each row belongs to: see :func:`joined_groups`.
    shares : sequence of float, default=(0.6, 0.2, 0.2)
        Shares of the rows for training, calibration and test; 0 leaves a part out.
    stratify : array-like or pandas.DataFrame of shape (n,) or (n, n_columns), optional
        What should be equally frequent in all parts, such as labels.
    seed : int, default=0
        Seed of the order among groups of one size.

    Returns
    -------
    numpy.ndarray of str, of shape (n,)
        "train", "calibration" or "test".

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
    strata: np.ndarray = np.zeros(len(joined))
    if stratify is not None:
        table = pd.DataFrame(_columns(stratify, "stratify", groups)).T
        alike = table.groupby(list(table), dropna=False, sort=False)
        strata = alike.ngroup().to_numpy()
    by_stratum = pd.crosstab(joined, strata).to_numpy()
    # Rows of each component overall, and in each stratum.
    counts = np.column_stack([by_stratum.sum(axis=1), by_stratum])
    targets = wanted[:, None] * counts.sum(axis=0)
    largest, most = counts[:, 0].argmax(), math.ceil(targets[:, 0].max())
    if counts[largest, 0] > most:
        raise ValueError(
            f"groups must not join more rows than the largest part should have, {most} "
            f"of {len(joined)}; those joined to row {np.argmax(joined == largest)} are "
            f"{counts[largest, 0]}."
        )
    mixed = np.random.default_rng(seed).permutation(len(counts))
    order = mixed[np.argsort(-counts[mixed, 0], kind="stable")]
    given = np.zeros(targets.shape)
    open_parts = np.flatnonzero(wanted > 0)
    part_of = np.empty(len(counts), dtype=np.intp)
    for component in order:
        more, target = counts[component], targets[open_parts]
        before = given[open_parts] - target
        growth = (((before + more) ** 2 - before**2) / target).sum(axis=1)
        part_of[component] = chosen = open_parts[growth.argmin()]
        given[chosen] += more
    empty = [_PARTS[at] for at in open_parts if not given[at, 0]]
    if empty:
        raise ValueError(
            f"groups must fill every part; {len(counts)} components of at most "
            f"{counts[:, 0].max()} of {len(joined)} rows leave {empty[0]!r} empty."
        )
    return np.array(_PARTS)[part_of[joined]]


def near_duplicates(
    texts: Iterable[str], *, groups: Any = None, threshold: float = 0.6
) -> pd.DataFrame:
    """Pairs of texts that are the same, or nearly.

    Similarity is the cosine of TF-IDF weighted counts of character 3- to 5-grams within
    words, regardless of case, accents, punctuation and white space. Word order does not
    matter, and paraphrases are not found. Time is quadratic in the number of texts.

    Parameters
    ----------
    texts : iterable of str
        The texts.
    groups : array-like of shape (n,), optional
        What each text belongs to, such as a family or a part of a split; then only
        pairs of different groups are given.
    threshold : float, default=0.6
        The least similarity of a pair, above 0 and at most 1.

    Returns
    -------
    pandas.DataFrame
        One row a pair, the most similar first: ``row_a`` < ``row_b``, ``similarity``,
        ``text_a`` and ``text_b``.

    Examples
    --------
    >>> found = near_duplicates(["A joy to watch!", "a joy to  watch", "A bore."])
    >>> found[["row_a", "row_b", "similarity"]].values.tolist()
    [[0.0, 1.0, 1.0]]
    """
    check_between("threshold", threshold, 0, 1, closed=True)
    if threshold == 0:
        raise ValueError("threshold must be above 0; all pairs are at or above 0.")
    given = check_texts(texts)
    if not given:
        raise ValueError("texts must hold at least one text; there is none.")
    n = len(given)
    codes = np.arange(n) if groups is None else check_groups(groups, given, texts)
    pieces = TfidfVectorizer(
        preprocessor=_normalised, analyzer="char_wb", ngram_range=(3, 5)
    )
    vectors = pieces.fit_transform(given).tocsr()
    height = max(1, BLOCK // n)
    starts = range(0, n, height)
    pairs = pd.concat([_pairs(vectors, at, height, threshold) for at in starts])
    apart = pairs[codes[pairs["row_a"]] != codes[pairs["row_b"]]]
    order, rising = ["similarity", "row_a", "row_b"], [False, True, True]
    table = apart.sort_values(order, ascending=rising, ignore_index=True)
    words = pd.Series(given, dtype=object)
    for side in "ab":
        table[f"text_{side}"] = words[table[f"row_{side}"]].to_numpy()
    return table


def _check_shares(shares: Any) -> np.ndarray:
    values = np.asarray(shares)
    good = values.shape == (len(_PARTS),) and values.dtype.kind in "if"
    if not good or not (values >= 0).all() or not math.isclose(values.sum(), 1):
        raise ValueError(
            f"shares must be one number of 0 or more for each of {', '.join(_PARTS)}, "
            f"and sum to 1; not {shares!r}."
        )
    return values.astype(float)


def _columns(values: Any, name: str, *rows: Any) -> list[np.ndarray]:
    if isinstance(values, pd.DataFrame):
        check_table(values, name=name)
    array = as_array(values, name, *rows, dtype=object)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(
            f"{name} must be one or more columns with at least one row, not of shape "
            f"{array.shape}."
        )
    return [array] if array.ndim == 1 else list(array.T)


def _plain(value: Any) -> Any:
    """A value as it is compared; None where it joins nothing."""
    if isinstance(value, str):
        return plain_text(value) or None
    return None if pd.isna(value) else value


def _normalised(text: str) -> str:
    """Words in lower case, without accents; the text itself where it has no words."""
    plain = re.sub("['’]", "", strip_accents_unicode(text.casefold()))
    words = re.findall(r"[^\W_]+", plain)
    return " ".join(words or text.split())


def _pairs(vectors: Any, start: int, height: int, threshold: float) -> pd.DataFrame:
    block = vectors[start : start + height]
    cosines = (vectors[start:] @ block.T.tocsr()).tocoo()
    # Equal texts are to be 1 in spite of rounding.
    values = np.minimum(np.round(cosines.data, 12), 1.0)
    kept = (cosines.row > cosines.col) & (values >= threshold)
    low, high = start + cosines.col[kept], start + cosines.row[kept]
    return pd.DataFrame({"row_a": low, "row_b": high, "similarity": values[kept]})
