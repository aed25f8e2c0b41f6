"""Options in other orders: what their places are worth to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from ..checks import check_count
from .rows import stack_rows


@dataclass(frozen=True)
class PositionBias:
    """Label probabilities freed of the options' order, and what the order did.

    Attributes
    ----------
    mean : numpy.ndarray of shape (n, K)
        Mean over the orders.
    by_position : numpy.ndarray of shape (K,)
        Mean probability of the option in each position; 1 / K each without bias.
    """

    mean: np.ndarray
    by_position: np.ndarray


def orders(
    labels: Sequence[str], *, n: int | None = None, seed: int = 0
) -> list[tuple[str, ...]]:
    """Orders in which to list the options of a prompt.

    Parameters
    ----------
    labels : sequence of str
        Two or more different labels.
    n : int, optional
        How many orders, at most K!. They come as all rotations of one random order,
        then of another, so that a multiple of K is balanced. Without it: all K! for
        up to four labels, else the K rotations of the labels as given.
    seed : int, default=0
        Seed of the random orders; without n there is no chance.

    Returns
    -------
    list of tuple of str
        All different.

    Raises
    ------
    ValueError
        Fewer than two labels, one of them twice, or n is above K!.

    Examples
    --------
    >>> orders(["A", "B"])
    [('A', 'B'), ('B', 'A')]
    """
    names = tuple(labels)
    if isinstance(labels, str) or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"labels must be two or more different ones, not {labels!r}.")
    check_count("seed", seed, 0)
    if n is None:
        every = len(names) <= 4
        return list(permutations(names)) if every else _rotations(names)
    most = math.factorial(len(names))
    if check_count("n", n) > most:
        raise ValueError(f"n must be at most {most}, the number of orders, not {n}.")
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, ...], None] = {}
    while len(found) < n:
        drawn = tuple(names[at] for at in rng.permutation(len(names)))
        found |= dict.fromkeys(_rotations(drawn))
    return list(found)[:n]


def position_bias(
    probabilities_by_order: Any,
    orders: Sequence[Sequence[str]],
    *,
    labels: Sequence[str] | None = None,
) -> PositionBias:
    """Average over the orders of the options, and show what position alone did.

    Parameters
    ----------
    probabilities_by_order : array-like of shape (m, n, K), or sequence of tables
        Label probabilities of the same n rows under each of m orders; the columns are
        always the same labels in the same order: see :func:`combine`.
    orders : sequence of sequence of str
        The order of each, such as :func:`orders` gives. Each label must be in each
        position equally often; else a label's own share would pass for a position's.
    labels : sequence of str, optional
        What the columns are. Default: the names of a data frame's columns, else the
        labels sorted, as in ``LLMClassifier.classes_``.

    Returns
    -------
    PositionBias

    Raises
    ------
    ValueError
        Bad probabilities, an order that is none of the labels, another number of
        orders, or orders that are not balanced.

    References
    ----------
    Zheng et al., Large language models are not robust multiple choice selectors,
    ICLR 2024.

    Examples
    --------
    >>> found = position_bias(
    ...     [[[0.9, 0.1]], [[0.5, 0.5]]], [("A", "B"), ("B", "A")]
    ... )
    >>> found.mean.round(6).tolist(), found.by_position.round(6).tolist()
    ([[0.7, 0.3]], [0.7, 0.3])
    """
    rows, columns = stack_rows(probabilities_by_order, "probabilities_by_order")
    shown = [tuple(order) for order in orders]
    if len(shown) != len(rows):
        raise ValueError(
            f"orders must be one for each of {len(rows)} tables, not {len(shown)}."
        )
    if labels is None:
        labels = sorted(shown[0]) if columns is None else columns
    names = list(labels)
    for at, order in enumerate(shown):
        if sorted(order) != sorted(names) or len(names) != rows.shape[2]:
            raise ValueError(
                f"orders must each hold the {rows.shape[2]} labels {names!r} once; "
                f"order {at} is {order!r}."
            )
    placed = np.array([[names.index(label) for label in order] for order in shown])
    _check_balanced(placed, names)
    by_order = np.take_along_axis(rows.mean(axis=1), placed, axis=1)
    return PositionBias(rows.mean(axis=0), by_order.mean(axis=0))


def _rotations(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [names[at:] + names[:at] for at in range(len(names))]


def _check_balanced(placed: np.ndarray, names: list[str]) -> None:
    for at, name in enumerate(names):
        counts = (placed == at).sum(axis=0).tolist()
        if len(set(counts)) > 1:
            raise ValueError(
                "orders must put each label into each position equally often; "
                f"{name!r} is there {counts} times."
            )
