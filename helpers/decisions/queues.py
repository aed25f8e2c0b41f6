"""Which items a person looks at next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
from .costs import Costs, expected_cost

Strategy = Literal["least-confident", "value", "near-threshold", "random", "stratified"]
STRATEGIES = ("least-confident", "value", "near-threshold", "random", "stratified")


def review_queue(
    table: pd.DataFrame,
    *,
    budget: int,
    strategy: Strategy = "least-confident",
    by: str | None = None,
    threshold: float | None = None,
    costs: Costs | Mapping[Any, Costs] | None = None,
    rng: np.random.Generator | int | None = None,
    n_strata: int = 5,
) -> pd.DataFrame:
    """The items to label or review next, the most urgent first, and why.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an item, with its ``confidence`` in [0, 1] and, where the costs depend
        on it, its ``prediction``: such as ``score_table`` and :meth:`Policy.apply`
        give.
    budget : int
        How many items can be looked at. All are queued if there are fewer.
    strategy : str, default="least-confident"
        "least-confident": lowest confidence first, and before these the items whose
        confidence is not known. "value": what review saves most on first, by
        :func:`expected_cost`; items that are cheaper to automate are left out, even if
        the budget is not used up. "near-threshold": nearest to the threshold first,
        whose items are the ones to move over it. "random": a simple random sample.
        "stratified": spot checks, drawn at random in each stratum of the confidence,
        as equally many from each as its size allows.
    by : str, optional
        The column that holds the confidence. Default: ``decided_on``, which a policy
        looked at, where the table has one; else ``confidence``. It may have missing
        values for "least-confident" and "random" only.
    threshold : float, optional
        For "near-threshold", and only for it: in [0, 1].
    costs : Costs or mapping of label to Costs, optional
        For "value", and only for it: the prices, or those of each prediction.
    rng : numpy.random.Generator, int or None, optional
        Source or seed of chance, for "random" and "stratified". None draws a seed
        from the system.
    n_strata : int, default=5
        For "stratified": into how many parts of equal width [0, 1] is cut. Those
        without an item do not count.

    Returns
    -------
    pandas.DataFrame
        The rows of the table that are queued, in order, with their index, and a column
        ``queue_reason``. Of equally urgent ones the one that stands first in the table
        comes first. Random samples, whose order is random too, also have
        ``queue_weight``, the number of items of the table that each stands for (1 / the
        probability of being drawn), and stratified ones ``queue_stratum``.

    Raises
    ------
    ValueError
        Bad confidences, a column that is missing or already there, an argument that
        the strategy needs or does not know, an item that it cannot place since its
        confidence is missing, a prediction without costs, or a budget below the number
        of strata, some of which would then have no chance.
    TypeError
        A table or costs that are something else.

    Notes
    -----
    Only random samples say how often the model is wrong: the rows that any other queue
    selects are wrong more often than the rest. From spot checks,
    ``weighted_mean(wrong, queue["queue_weight"], strata=queue["queue_stratum"])``
    (:func:`helpers.metrics.weighted_mean`) estimates the error rate of the whole table
    without bias. The weights are those of the whole queue; a part of it has others.

    References
    ----------
    Lewis and Gale, A sequential algorithm for training text classifiers, SIGIR 1994,
    for the least confident; Horvitz and Thompson, JASA 47, 1952, for the weights.

    Examples
    --------
    >>> table = pd.DataFrame({"confidence": [0.9, 0.55, 0.7, 0.55]})
    >>> review_queue(table, budget=3)
       confidence     queue_reason
    1        0.55  confidence 0.55
    3        0.55  confidence 0.55
    2        0.70   confidence 0.7
    >>> queue = review_queue(table, budget=3, strategy="stratified", rng=0)
    >>> queue.sort_index()[["queue_weight", "queue_stratum"]]
       queue_weight queue_stratum
    0           1.0      [0.8, 1]
    1           2.0    [0.4, 0.6)
    2           1.0    [0.6, 0.8)
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_count("budget", budget)
    check_count("n_strata", n_strata)
    _check_belongs("threshold", threshold, strategy, "near-threshold")
    _check_belongs("costs", costs, strategy, "value")
    if threshold is not None:
        check_between("threshold", threshold, 0, 1, closed=True)
    if costs is not None and not isinstance(costs, (Costs, Mapping)):
        raise TypeError(f"costs must be Costs or a mapping to Costs, not {costs!r}.")
    generator = check_rng(rng)
    new = ["queue_reason"]
    new += ["queue_weight"] if strategy in ("random", "stratified") else []
    new += ["queue_stratum"] if strategy == "stratified" else []
    check_table(table)
    if by is None:
        by = "decided_on" if "decided_on" in table.columns else "confidence"
    needed = [by] + (["prediction"] if isinstance(costs, Mapping) else [])
    check_table(table, needed)
    for column in new:
        if column in table.columns:
            raise ValueError(
                f"table must have no column {column!r} yet: rename its own."
            )
    values = _read_confidence(table[by], by)
    n = len(values)
    if strategy == "random":
        rows = generator.permutation(n)[:budget]
        return _queue(table, rows, queue_reason="random", queue_weight=n / len(rows))
    unknown = np.isnan(values)
    if strategy == "least-confident":
        rows = np.argsort(np.where(unknown, -1, values), kind="stable")[:budget]
        reasons = [
            _unknown(table, row) if unknown[row] else f"{by} {values[row]:.4g}"
            for row in rows
        ]
        return _queue(table, rows, queue_reason=reasons)
    if unknown.any():
        raise ValueError(
            f"{by} must be known of all items for strategy={strategy!r}; row "
            f"{int(np.argmax(unknown))} is missing."
        )
    if strategy == "stratified":
        return _spot_checks(table, values, budget, n_strata, generator)
    if costs is not None:  # only "value" has them
        saved = _savings(table, values, costs)
        rows = np.argsort(-saved, kind="stable")
        rows = rows[saved[rows] > 0][:budget]
        reasons = [f"saves {at:.4g}" for at in saved[rows]]
    else:
        away = values - threshold
        rows = np.argsort(np.abs(away), kind="stable")[:budget]
        reasons = [
            f"{abs(at):.4g} {'below' if at < 0 else 'above'} {threshold:g}"
            for at in away[rows]
        ]
    return _queue(table, rows, queue_reason=reasons)


def _queue(table: pd.DataFrame, rows: np.ndarray, **columns: Any) -> pd.DataFrame:
    return table.iloc[rows].assign(**columns)


def _read_confidence(column: pd.Series, name: str) -> np.ndarray:
    """Probabilities, NaN where one is missing."""
    missing = column.isna().to_numpy()
    if not missing.any():
        return check_probabilities(column, name).astype(float)
    known = column.to_numpy(dtype=object, copy=True)
    known[missing] = 0
    return np.where(missing, np.nan, check_probabilities(known, name))


def _unknown(table: pd.DataFrame, row: int) -> str:
    # As a policy has it, which decides on nothing without a prediction.
    if "prediction" in table.columns and pd.isna(table["prediction"].iloc[row]):
        return "no prediction is known"
    return "no confidence is known"


def _savings(
    table: pd.DataFrame, confidence: np.ndarray, costs: Costs | Mapping[Any, Costs]
) -> np.ndarray:
    """What each row's review saves on average."""
    if isinstance(costs, Costs):
        return expected_cost(confidence, costs, threshold=0) - costs.reviewed
    predicted = table["prediction"].to_numpy()
    saved = np.empty(len(confidence))
    for label in dict.fromkeys(predicted.tolist()):
        if not isinstance(costs.get(label), Costs):
            raise ValueError(f"costs must hold those of the prediction {label!r}.")
        own = predicted == label
        saved[own] = _savings(table, confidence[own], costs[label])
    return saved


def _spot_checks(
    table: pd.DataFrame,
    confidence: np.ndarray,
    budget: int,
    n_strata: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    bins = Bins.of(confidence, Binning(n_strata))
    stratum = bins.index(confidence)
    filled, sizes = np.unique(stratum, return_counts=True)
    if budget < len(filled):
        raise ValueError(
            f"budget must be at least {len(filled)}, the number of strata with items, "
            f"not {budget}."
        )
    counts = _shares(sizes, budget)
    rows = np.concatenate(
        [
            generator.permutation(np.flatnonzero(stratum == at))[:count]
            for at, count in zip(filled, counts, strict=True)
        ]
    )
    rows = generator.permutation(rows)
    weight = np.zeros(n_strata)
    weight[filled] = sizes / counts
    names = np.array(
        [
            f"[{low:.4g}, {high:.4g}{']' if high == 1 else ')'}"
            for low, high in zip(bins.edges[:-1], bins.edges[1:], strict=True)
        ]
    )
    at = stratum[rows]
    return _queue(
        table,
        rows,
        queue_reason="spot check",
        queue_weight=weight[at],
        queue_stratum=names[at],
    )


def _shares(sizes: np.ndarray, budget: int) -> np.ndarray:
    """The budget in parts as equal as the sizes allow; the largest get what is over."""
    shares = np.zeros(len(sizes), int)
    left = min(budget, int(sizes.sum()))
    while left:
        open_ = np.flatnonzero(shares < sizes)
        each = left // len(open_)
        if not each:
            largest = open_[np.argsort(-sizes[open_], kind="stable")]
            shares[largest[:left]] += 1
            break
        more = np.minimum(each, (sizes - shares)[open_])
        shares[open_] += more
        left -= int(more.sum())
    return shares


def _check_belongs(name: str, value: Any, strategy: str, owner: str) -> None:
    if strategy == owner and value is None:
        raise ValueError(f"{name} must be given for strategy={owner!r}.")
    if strategy != owner and value is not None:
        raise ValueError(
            f"{name} must be left out for strategy={strategy!r}; it is for {owner!r}."
        )
