"""Texts that are nearly the same, found before they stand on both sides of a split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from ..checks import check_between, check_groups
from ..prompted import check_texts

_NUMBERS = 1 << 22  # in one block of similarities


def near_duplicates(
    texts: Iterable[str], *, groups: Any = None, threshold: float = 0.6
) -> pd.DataFrame:
    """Pairs of texts that are the same, or nearly.

    Texts are compared without regard to case, accents, punctuation and white space, by
    the cosine of their weighted counts of pieces of words of 3 to 5 characters.

    Parameters
    ----------
    texts : iterable of str
        The texts.
    groups : array-like of shape (n,), optional
        What each text belongs to, such as a family, or the part of a split: only pairs
        of different groups are given.
    threshold : float, default=0.6
        The least similarity of a pair, above 0 and at most 1.

    Returns
    -------
    pandas.DataFrame
        One row a pair, the most similar first: ``row_a`` and ``row_b``, their places
        among the texts, from 0 on, the first before the second; ``similarity``, in
        [0, 1], and 1 for texts of the same words; ``text_a`` and ``text_b``.

    Raises
    ------
    ValueError
        There is no text, one is empty, or the threshold or a group is bad.
    TypeError
        A text is no string.

    Notes
    -----
    What is common to many of the texts weighs little: a similarity depends on the
    other texts, and a threshold on the kind of text. The order of words does not
    matter. Texts of the same meaning in other words are not found. Time grows with the
    square of the number of texts (20,000 sentences take about 20 seconds), memory does
    not.

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
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), lowercase=False)
    vectors = pieces.fit_transform([_normalised(text) for text in given]).tocsr()
    a, b, similarity = (np.concatenate(part) for part in _pairs(vectors, threshold))
    kept = codes[a] != codes[b]
    table = pd.DataFrame(
        {"row_a": a[kept], "row_b": b[kept], "similarity": similarity[kept]}
    )
    table = table.sort_values(
        ["similarity", "row_a", "row_b"],
        ascending=[False, True, True],
        ignore_index=True,
    )
    for side in "ab":
        shown = [given[row] for row in table[f"row_{side}"]]
        table[f"text_{side}"] = pd.Series(shown, dtype=object)
    return table


def _normalised(text: str) -> str:
    """Words in lower case, without accents; the text itself where it has no words."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    words = re.findall(r"[^\W_]+", re.sub("['’]", "", plain))
    return " ".join(words or text.split())


def _pairs(
    vectors: Any, threshold: float
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Places of pairs at or above the threshold, and their cosines, block by block."""
    n = vectors.shape[0]
    height = max(1, _NUMBERS // n)
    first, second, found = [], [], []
    for start in range(0, n, height):
        block = vectors[start : start + height]
        # Rows from the block on, against those of the block.
        cosines = (vectors[start:] @ block.T.tocsr()).tocoo()
        # Equal texts are to be 1 in spite of rounding.
        values = np.minimum(np.round(cosines.data, 12), 1.0)
        kept = (cosines.row > cosines.col) & (values >= threshold)
        first.append(start + cosines.col[kept])
        second.append(start + cosines.row[kept])
        found.append(values[kept])
    return first, second, found
