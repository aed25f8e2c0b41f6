"""Rows of label probabilities: how unsure one is, how far several disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import entr

from ..checks import check_distributions


@dataclass(frozen=True)
class EnsembleDecomposition:
    """What the members of an ensemble say together, and how far they disagree.

    By row: the ``mean`` probabilities; their entropy in nats, ``total``, which is the
    mean entropy of the members, ``aleatoric``, plus ``epistemic``; and ``agreement``,
    the share of members that predict what the mean does.
    """

    mean: np.ndarray
    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    agreement: np.ndarray


@dataclass(frozen=True)
class PositionBias:
    """Label probabilities: ``mean`` over the orders, and mean ``by_position``."""

    mean: np.ndarray
    by_position: np.ndarray


def entropy(probabilities: ArrayLike) -> np.ndarray:
    """Entropy of each row, −Σ p ln p: 0 for a sure row, ln K for an even one.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, K)
        Rows that sum to one; of a data frame only the ``p_`` columns, if it has some.

    Examples
    --------
    >>> entropy([[0.5, 0.5], [1.0, 0.0]]).round(4).tolist()
    [0.6931, 0.0]
    """
    return _row_entropy(_read_rows(probabilities, "probabilities")[0])


def margin(probabilities: ArrayLike) -> np.ndarray:
    """The best probability of each row, as for :func:`entropy`, minus the second best.

    Examples
    --------
    >>> margin([[0.6, 0.3, 0.1]]).round(6).tolist()
    [0.3]
    """
    rows, _ = _read_rows(probabilities, "probabilities")
    top = np.sort(rows, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def combine(members: Any) -> EnsembleDecomposition:
    """Average the members' probabilities and split the uncertainty of the mean.

    Members that are wrong in the same way agree: epistemic uncertainty is only what
    these members can show (Lakshminarayanan et al., 2017; Depeweg et al., 2018).

    Parameters
    ----------
    members : array-like of shape (m, n, K), or sequence of (n, K) tables
        Rows as for :func:`entropy`, in the same order from each of m members.

    Examples
    --------
    >>> combine([[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]]]).epistemic.round(4).tolist()
    [0.1367]
    """
    rows, _ = _stack_rows(members, "members")
    mean = rows.mean(axis=0)
    total, aleatoric = _row_entropy(mean), _row_entropy(rows).mean(axis=0)
    epistemic = np.maximum(total - aleatoric, 0.0)
    votes = rows.argmax(axis=2) == mean.argmax(axis=1)
    return EnsembleDecomposition(mean, total, aleatoric, epistemic, votes.mean(axis=0))


def orders(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Orders in which to list the options of a prompt, each as often in each place.

    All K! orders of up to four labels; of more, the K rotations of the order given.

    Parameters
    ----------
    labels : sequence of str
        Two or more different labels.

    Examples
    --------
    >>> orders(["A", "B"])
    [('A', 'B'), ('B', 'A')]
    """
    names = tuple(labels)
    if isinstance(labels, str) or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"labels must be two or more different ones, not {labels!r}.")
    if len(names) <= 4:
        return list(permutations(names))
    return [names[at:] + names[:at] for at in range(len(names))]


def position_bias(
    probabilities_by_order: Any,
    orders: Sequence[Sequence[str]],
    *,
    labels: Sequence[str] | None = None,
) -> PositionBias:
    """Average over the orders of the options, and show the effect of position alone.

    Parameters
    ----------
    probabilities_by_order : array-like of shape (m, n, K), or sequence of tables
        Label probabilities under each of m orders, always in the same columns.
    orders : sequence of sequence of str
        The order of each, such as :func:`orders` gives, with each label in each
        position equally often.
    labels : sequence of str, optional
        What the columns are. Default: the names of a data frame's columns, else the
        labels sorted, as in ``LLMClassifier.classes_``.

    Examples
    --------
    >>> found = position_bias([[[0.9, 0.1]], [[0.5, 0.5]]], orders(["A", "B"]))
    >>> found.by_position.round(6).tolist()  # 1 / K each without bias
    [0.7, 0.3]
    """
    rows, columns = _stack_rows(probabilities_by_order, "probabilities_by_order")
    shown = [tuple(order) for order in orders]
    if len(shown) != len(rows):
        raise ValueError(
            f"orders must be one for each of {len(rows)} tables, not {len(shown)}."
        )
    names = list(labels or columns or sorted(shown[0]))
    for at, order in enumerate(shown):
        if sorted(order) != sorted(names) or len(names) != rows.shape[2]:
            raise ValueError(
                f"orders must each hold the {rows.shape[2]} labels {names!r} once; "
                f"order {at} is {order!r}."
            )
    placed = np.array([[names.index(label) for label in order] for order in shown])
    for at, name in enumerate(names):
        counts = (placed == at).sum(axis=0).tolist()
        if len(set(counts)) > 1:
            raise ValueError(
                "orders must put each label into each position equally often; "
                f"{name!r} is there {counts} times."
            )
    by_order = np.take_along_axis(rows.mean(axis=1), placed, axis=1)
    return PositionBias(rows.mean(axis=0), by_order.mean(axis=0))


def _read_rows(
    values: Any, name: str, *others: Any
) -> tuple[np.ndarray, list[Any] | None]:
    """Rows in double precision, and the names of a data frame's (``p_``) columns."""
    if not isinstance(values, pd.DataFrame):
        return check_distributions(values, name, *others)[0].astype(float), None
    stated = [isinstance(c, str) and c.startswith("p_") for c in values.columns]
    columns = values.loc[:, stated] if any(stated) else values
    rows, classes = check_distributions(columns, name, *others)
    return rows.astype(float), classes


def _stack_rows(members: Any, name: str) -> tuple[np.ndarray, list[Any] | None]:
    """Tables of one shape as one array, and the names of their columns."""
    if isinstance(members, pd.DataFrame) or not len(members):
        raise ValueError(f"{name} must be one or more tables of shape (n, K).")
    tables = list(members)
    read = [
        _read_rows(part, f"{name}[{at}]", tables[0]) for at, part in enumerate(tables)
    ]
    rows, classes = read[0]
    for at, (others, theirs) in enumerate(read):
        if others.shape != rows.shape or theirs != classes:
            raise ValueError(
                f"{name} must have one shape and the same columns, {rows.shape} and "
                f"{classes!r}; {name}[{at}] has {others.shape} and {theirs!r}."
            )
    return np.stack([others for others, _ in read]), classes


def _row_entropy(rows: np.ndarray) -> np.ndarray:
    """Entropy along the last axis, of rows that need not sum to one exactly."""
    shares = rows / rows.sum(axis=-1, keepdims=True)
    return np.maximum(entr(shares).sum(axis=-1), 0.0)
