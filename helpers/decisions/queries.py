"""Query strategies: which items a person looks at next."""

from __future__ import annotations

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
    costs: Costs | None = None,
    rng: np.random.Generator | int | None = None,
    n_strata: int = 5,
) -> pd.DataFrame:
    """The items to label or review next, the most urgent first, and why.

    Only random strategies give rows from which the error rate of the table can be
    estimated: by :func:`helpers.metrics.weighted_mean`, with the weights and strata.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an item, with ``decided_on``, or else ``confidence``, in [0, 1].
    budget : int
        Number of items that can be looked at.
    strategy : str, default="least-confident"
        "least-confident": unknown confidence first, then the lowest. "value": by what
        review saves, where it saves anything. "near-threshold": nearest to it.
        "random": a simple random sample. "stratified": equally many from each stratum
        of confidence.
    threshold, costs
        For "near-threshold", a number in [0, 1]; for "value", :class:`Costs`.
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
    if costs is not None and not isinstance(costs, Costs):
        raise TypeError(f"costs must be Costs, not {costs!r}.")
    generator = check_rng(rng)
    has_policy = "decided_on" in check_table(table).columns
    by = "decided_on" if has_policy else "confidence"
    check_table(table, [by])
    missing = table[by].isna().to_numpy()
    known = check_probabilities(table[by].astype(object).mask(missing, 0), by)
    values = np.where(missing, np.nan, known.astype(float))
    if missing.any() and strategy not in ("least-confident", "random"):
        raise ValueError(
            f"{by} must be known of all items for strategy={strategy!r}; row "
            f"{int(missing.argmax())} is missing."
        )
    reasons: Any = "random" if strategy == "random" else "spot check"
    columns: dict[str, Any] = {}
    if strategy == "least-confident":
        rows = np.argsort(np.where(missing, -1, values), kind="stable")[:budget]
        # As a policy has it, which decides on nothing without a prediction.
        labels = table.get("prediction", pd.Series("", table.index)).isna()
        lost = np.where(labels, "no prediction is known", "no confidence is known")
        reasons = [
            lost[row] if missing[row] else f"{by} {values[row]:.4g}" for row in rows
        ]
    elif strategy == "value" and costs is not None:
        automated = (1 - values) * costs.error + values * costs.right
        saved = automated - costs.reviewed
        rows = np.argsort(-saved, kind="stable")
        rows = rows[saved[rows] > 0][:budget]
        reasons = [f"saves {at:.4g}" for at in saved[rows]]
    elif strategy == "near-threshold" and threshold is not None:
        away = values - threshold
        rows = np.argsort(np.abs(away), kind="stable")[:budget]
        sides = np.where(away < 0, "below", "above")
        reasons = [f"{abs(away[row]):.4g} {sides[row]} {threshold:g}" for row in rows]
    elif strategy == "random":
        rows = generator.permutation(len(values))[:budget]
        columns["queue_weight"] = len(values) / len(rows)
    else:
        rows, columns = _stratified(values, budget, generator, n_strata)
    columns = {"queue_reason": reasons, **columns}
    for column in columns:
        if column in table.columns:
            raise ValueError(
                f"table must have no column {column!r} yet: rename its own."
            )
    return table.iloc[rows].assign(**columns)


def _stratified(
    values: np.ndarray, budget: int, generator: np.random.Generator, n_strata: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
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
