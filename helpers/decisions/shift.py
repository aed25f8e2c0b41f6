"""Label shift: the same kinds of text, but more of some than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..checks import check_between, check_count, check_labels, check_rng


def shifted_rows(
    truth: ArrayLike,
    shares: Mapping[Any, float],
    n: int,
    *,
    rng: np.random.Generator | int | None,
) -> np.ndarray:
    """Rows drawn so that the true classes have other shares than they had.

    Each class keeps its own texts: how likely a text is, given its class, stays as it
    is. This is what label shift means, such as more injured fingers in the season of
    fireworks. Confidences that were calibrated before need not be so after it.

    Parameters
    ----------
    truth : array-like of shape (m,)
        The true class of each row that there is.
    shares : mapping of label to float
        The shares of some or all classes, in [0, 1]. The classes that it does not name
        share what is left in proportion to the shares they have.
    n : int
        How many rows to draw.
    rng : numpy.random.Generator, int or None
        Source or seed of chance.

    Returns
    -------
    numpy.ndarray of int, of shape (n,)
        Positions of rows, from 0, in random order. Of each class there are ``n`` times
        its share, rounded up or down by chance so that it is right on average. Inside
        a class, rows are drawn with replacement, each as likely as any other: one can
        come more than once, however small ``n`` is.

    Raises
    ------
    ValueError
        There are no rows, a class is missing, a label has no rows, a share is outside
        [0, 1], or the shares sum to more than 1, or to less if every class is named.
    TypeError
        ``shares`` is no mapping, or ``rng`` is no source of chance.

    References
    ----------
    Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a
    priori probabilities, Neural Computation 14, 2002; Lipton, Wang and Smola, Detecting
    and correcting for label shift with black box predictors, ICML 2018.

    Examples
    --------
    >>> truth = np.array(["hand", "hand", "hand", "foot", "head"])
    >>> rows = shifted_rows(truth, {"head": 0.6}, 10, rng=0)
    >>> labels, counts = np.unique(truth[rows], return_counts=True)
    >>> dict(zip(labels.tolist(), counts.tolist(), strict=True))
    {'foot': 1, 'hand': 3, 'head': 6}
    """
    codes, found = pd.factorize(check_labels(truth, "truth"))
    labels = list(found)
    counts = np.bincount(codes)
    wanted = _shares(shares, labels, counts / len(codes))
    check_count("n", n)
    generator = check_rng(rng)
    # The ends of the classes on a line of length n, and marks at random on it, one
    # apart: each class has as many marks as its length says, on average and within one.
    ends = np.append(n * np.cumsum(wanted)[:-1], n)
    marks = np.minimum(np.floor(ends + generator.random()), n).astype(int)
    drawn = np.diff(marks, prepend=0)
    rows = np.concatenate(
        [
            generator.choice(np.flatnonzero(codes == at), size)
            for at, size in enumerate(drawn.tolist())
        ]
    )
    return generator.permutation(rows)


def _shares(
    shares: Mapping[Any, float], labels: list[Any], present: np.ndarray
) -> np.ndarray:
    """The share of each label, those that are not named included."""
    if not isinstance(shares, Mapping):
        raise TypeError(f"shares must be a mapping, not {type(shares).__name__}.")
    wanted = np.full(len(labels), np.nan)
    for label, share in shares.items():
        if label not in labels:
            raise ValueError(
                f"shares must be of labels that have rows; {label!r} has none."
            )
        name = f"the share of {label!r}"
        wanted[labels.index(label)] = check_between(name, share, 0, 1, closed=True)
    others = np.isnan(wanted)
    left = 1 - float(np.nansum(wanted))
    if left < -1e-9 or (left > 1e-9 and not others.any()):
        rule = "at most 1" if left < 0 else "1 where they name every class"
        raise ValueError(f"shares must sum to {rule}, not {round(1 - left, 9):g}.")
    wanted[others] = max(left, 0.0) * present[others] / present[others].sum()
    return wanted / wanted.sum()
