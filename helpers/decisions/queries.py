"""Query strategies: which items a person looks at next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_probabilities,
    check_rng,
    check_table,
)
from ..metrics.bins import Binning, Bins
from .costs import Costs

Strategy = Literal["least-confident", "value", "near-threshold", "random", "stratified"]


def review_queue(
    table: pd.DataFrame,
    *,
    budget: int,
    strategy: Strategy = "least-confident",
    threshold: float | None = None,
    costs: Costs | Mapping[Any, Costs] | None = None,
    rng: np.random.Generator | int | None = None,
    n_strata: int = 5,
) -> pd.DataFrame:
    """The items to label or review next, the most urgent first, and why.

    Only random strategies give rows from which the error rate of the table can be
    estimated: by :func:`helpers.metrics.weighted_mean`, with the weights and strata.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an item, with ``decided_on``, or else ``confidence``, in [0, 1] and,
        for costs by label, ``prediction``.
    budget : int
        Number of items that can be looked at.
    strategy : str, default="least-confident"
        "least-confident": unknown confidence first, then the lowest. "value": by what
        review saves, where it saves anything. "near-threshold": nearest to it.
        "random": a simple random sample. "stratified": equally many from each stratum
        of confidence.
    threshold, costs
        For "near-threshold", a number in [0, 1]; for "value", :class:`Costs` or a
        mapping of predictions to them.
    rng, n_strata
        For "random" and "stratified", a random generator or its seed; for the latter,
        the number of equal parts of [0, 1] (5).

    Returns
    -------
    pandas.DataFrame
        The queued rows in order, with ``queue_reason``; for random strategies also
        ``queue_weight``, the number of items each stands for, and ``queue_stratum``.

    Examples
    --------
    >>> table = pd.DataFrame({"confidence": [0.9, 0.55, 0.7, 0.55]})
    >>> review_queue(table, budget=3).index.tolist()
    [1, 3, 2]
    """
    check_choice("strategy", strategy, get_args(Strategy))
    check_count("budget", budget)
    check_count("n_strata", n_strata)
    for name, value, owner in (
        ("threshold", threshold, "near-threshold"),
        ("costs", costs, "value"),
    ):
        if (value is None) == (strategy == owner):
            must = "must be given" if value is None else "must be left out"
            raise ValueError(f"{name} {must} for strategy={strategy!r}, not {value!r}.")
    if threshold is not None:
        check_between("threshold", threshold, 0, 1, closed=True)
    if costs is not None and not isinstance(costs, (Costs, Mapping)):
        raise TypeError(f"costs must be Costs or a mapping to Costs, not {costs!r}.")
    generator = check_rng(rng)
    check_table(table)
    by = "decided_on" if "decided_on" in table.columns else "confidence"
    check_table(table, [by, "prediction"] if isinstance(costs, Mapping) else [by])
    missing = table[by].isna()
    known = check_probabilities(table[by].astype(object).mask(missing, 0), by)
    values = np.where(missing, np.nan, known.astype(float))
    if missing.any() and strategy not in ("least-confident", "random"):
        raise ValueError(
            f"{by} must be known of all items for strategy={strategy!r}; row "
            f"{int(missing.to_numpy().argmax())} is missing."
        )
    ways = {
        "least-confident": lambda: _least_confident(table, values, by, budget),
        "value": lambda: _most_valuable(table, values, budget, costs),
        "near-threshold": lambda: _near_threshold(values, budget, threshold),
        "random": lambda: _random(len(values), budget, generator),
        "stratified": lambda: _stratified(values, budget, generator, n_strata),
    }
    rows, columns = ways[strategy]()
    for column in columns:
        if column in table.columns:
            raise ValueError(
                f"table must have no column {column!r} yet: rename its own."
            )
    return table.iloc[rows].assign(**columns)


_Answer = tuple[np.ndarray, dict[str, Any]]


def _least_confident(
    table: pd.DataFrame, values: np.ndarray, by: str, budget: int
) -> _Answer:
    unknown = np.isnan(values)
    rows = np.argsort(np.where(unknown, -1, values), kind="stable")[:budget]
    # As a policy has it, which decides on nothing without a prediction.
    labels = table.get("prediction", pd.Series("", table.index))
    lost = np.where(labels.isna(), "no prediction is known", "no confidence is known")
    reasons = [lost[row] if unknown[row] else f"{by} {values[row]:.4g}" for row in rows]
    return rows, {"queue_reason": reasons}


def _most_valuable(
    table: pd.DataFrame, values: np.ndarray, budget: int, costs: Any
) -> _Answer:
    labels: list[Any] = [None] * len(values)
    if isinstance(costs, Mapping):
        labels = table["prediction"].tolist()
    else:
        costs = {None: costs}
    saved = np.empty(len(values))
    for row, (label, p) in enumerate(zip(labels, values, strict=True)):
        price = costs.get(label)
        if not isinstance(price, Costs):
            raise ValueError(f"costs must hold those of the prediction {label!r}.")
        saved[row] = (1 - p) * price.error + p * price.right - price.reviewed
    rows = np.argsort(-saved, kind="stable")
    rows = rows[saved[rows] > 0][:budget]
    return rows, {"queue_reason": [f"saves {at:.4g}" for at in saved[rows]]}


def _near_threshold(values: np.ndarray, budget: int, threshold: Any) -> _Answer:
    away = values - threshold
    rows = np.argsort(np.abs(away), kind="stable")[:budget]
    sides = np.where(away < 0, "below", "above")
    reasons = [f"{abs(away[row]):.4g} {sides[row]} {threshold:g}" for row in rows]
    return rows, {"queue_reason": reasons}


def _random(n: int, budget: int, generator: np.random.Generator) -> _Answer:
    rows = generator.permutation(n)[:budget]
    return rows, {"queue_reason": "random", "queue_weight": n / len(rows)}


def _stratified(
    values: np.ndarray, budget: int, generator: np.random.Generator, n_strata: int
) -> _Answer:
    bins = Bins.of(values, Binning(n_strata))
    stratum = bins.index(values)
    filled, sizes = np.unique(stratum, return_counts=True)
    if budget < len(filled):
        raise ValueError(
            f"budget must be at least {len(filled)}, the number of strata with items, "
            f"not {budget}."
        )
    counts = _shares(sizes, budget)
    drawn = [
        generator.permutation(np.flatnonzero(stratum == at))[:count]
        for at, count in zip(filled, counts, strict=True)
    ]
    rows = generator.permutation(np.concatenate(drawn))
    weight = np.zeros(n_strata)
    weight[filled] = sizes / counts
    ends = zip(bins.edges[:-1], bins.edges[1:], strict=True)
    names = np.array([f"[{low:.4g}, {high:.4g})" for low, high in ends])
    names[-1] = names[-1].replace(")", "]")
    return rows, {
        "queue_reason": "spot check",
        "queue_weight": weight[stratum[rows]],
        "queue_stratum": names[stratum[rows]],
    }


def _shares(sizes: np.ndarray, budget: int) -> np.ndarray:
    """The budget in parts as equal as the sizes allow, remainders to the largest."""
    left, level = min(budget, int(sizes.sum())), 0
    while np.minimum(sizes, level + 1).sum() <= left and level < left:
        level += 1
    shares = np.minimum(sizes, level)
    largest = np.argsort(-sizes, kind="stable")[: left - shares.sum()]
    shares[largest] += 1
    return shares
