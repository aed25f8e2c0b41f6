"""Ranges of confidence, and how many of the predictions in each are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_choice,
    check_interval,
    check_labels,
    check_probabilities,
    check_rows,
    evaluation_of,
)


@dataclass(frozen=True)
class Buckets:
    """Ranges of confidence, each with a name.

    Parameters
    ----------
    edges : sequence of float
        Rising edges between ranges, in [0, 1].
    names : sequence of str
        One more than edges, from the lowest range to the highest.
    edge_belongs_to : {"upper", "lower"} or sequence of them, default="upper"
        Range of a confidence equal to an edge in single precision, for all edges or
        each.

    Examples
    --------
    >>> Buckets([0.5, 0.9], ["ask", "warn", "trust"]).assign([0.3, 0.5, 0.9]).tolist()
    ['ask', 'warn', 'trust']
    """

    edges: Sequence[float]
    names: Sequence[str]
    edge_belongs_to: str | Sequence[str] = "upper"

    def __post_init__(self) -> None:
        edges = check_probabilities(self.edges, "edges").astype(float).tolist()
        names = check_labels(self.names, "names").tolist()
        sides: Any = self.edge_belongs_to
        if isinstance(sides, str):
            sides = [sides] * len(edges)
        for side in check_labels(sides, "edge_belongs_to", edges):
            check_choice("edge_belongs_to", side, ("upper", "lower"))
        if (np.diff(edges) <= 0).any():
            raise ValueError(f"edges must rise, not {edges}.")
        words = {name for name in names if isinstance(name, str)}
        if not len(words) == len(names) == len(edges) + 1:
            raise ValueError(
                f"names must be {len(edges) + 1} different words, one more than edges, "
                f"not {names}."
            )
        kept = {"edges": edges, "names": names, "edge_belongs_to": sides}
        vars(self).update({name: tuple(values) for name, values in kept.items()})

    def codes(self, confidence: ArrayLike) -> np.ndarray:
        """Index of the range of each confidence, from 0, the lowest."""
        values = np.float32(check_probabilities(confidence))
        # A Python float takes the precision of the values.
        above = [
            values >= edge if side == "upper" else values > edge
            for edge, side in zip(self.edges, self.edge_belongs_to, strict=True)
        ]
        return np.sum(above, axis=0)

    def assign(self, confidence: ArrayLike) -> np.ndarray:
        """Name of the range of each confidence."""
        return np.array(self.names, dtype=object)[self.codes(confidence)]

    def ranges(self) -> list[str]:
        """Each range in words, such as "0.5 to 0.9", from the lowest to the highest."""
        upper = [side == "upper" for side in self.edge_belongs_to]
        words = [f"{'<' if upper[0] else '≤'} {self.edges[0]:g}"]
        for at, (low, high) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            left, right = "" if upper[at] else "over ", "under " * upper[at + 1]
            words.append(f"{left}{low:g} to {right}{high:g}")
        return [*words, f"{'≥' if upper[-1] else '>'} {self.edges[-1]:g}"]

    def possible(self) -> list[bool]:
        """Whether each range can hold a confidence: none is above 1 or below 0."""
        first = self.edges[0] > 0 or self.edge_belongs_to[0] == "lower"
        last = self.edges[-1] < 1 or self.edge_belongs_to[-1] == "upper"
        return [first, *[True] * (len(self.edges) - 1), last]


REVIEW_BUCKETS = Buckets(
    [0.5, 0.7, 0.9], ["manual", "manual check", "review", "auto-approve"]
)
TRUST_BUCKETS = Buckets([0.5, 0.9], ["ask", "warn", "trust"], ["upper", "lower"])


def bucket_table(
    confidence: ArrayLike,
    correct: ArrayLike,
    buckets: Buckets = REVIEW_BUCKETS,
    *,
    method: Literal["wilson", "clopper-pearson"] = "wilson",
    level: float = 0.95,
) -> pd.DataFrame:
    """How many predictions fall into each bucket, and how many of them are right.

    Parameters
    ----------
    confidence, correct : array-like of shape (n,)
        Probabilities in [0, 1], and 1 or True where the prediction was correct, else 0.
    buckets : Buckets, default=REVIEW_BUCKETS
        The ranges.
    method, level
        The interval, "wilson" (default) or "clopper-pearson", and its level (0.95).

    Returns
    -------
    pandas.DataFrame
        A row a bucket, the highest first: ``range``, ``n``, ``share``, ``accuracy``,
        ``low``, ``high``, ``mean_confidence``, ``gap`` (accuracy minus confidence); and
        of this and all higher buckets ``n_above``, ``accuracy_above``, ``low_above``,
        ``high_above``.

    Examples
    --------
    >>> table = bucket_table([0.95, 0.92, 0.8, 0.6], [1, 1, 0, 1])
    >>> table["accuracy"].tolist(), table["accuracy_above"].round(2).tolist()
    ([1.0, 0.0, 1.0, nan], [1.0, 0.67, 0.75, 0.75])
    """
    interval = check_interval(method)
    check_between("level", level, 0, 1)
    values, outcome, _ = check_rows(confidence, correct)
    code, size = buckets.codes(values), len(buckets.names)
    n, right, stated = (
        np.bincount(code, weights, size)[::-1] for weights in (None, outcome, values)
    )

    def rates(n: np.ndarray, right: np.ndarray) -> pd.DataFrame:
        low, high = proportion_confint(right, n, 1 - level, interval)
        columns = {"n": n, "accuracy": right / n, "low": low, "high": high}
        return pd.DataFrame(columns, index=list(buckets.names)[::-1])

    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where there are none
        table = rates(n, right)
        above = rates(n.cumsum(), right.cumsum()).add_suffix("_above")
        table["mean_confidence"] = stated / n
    table["gap"] = table["accuracy"] - table["mean_confidence"]
    table.insert(0, "range", buckets.ranges()[::-1])
    table.insert(2, "share", n / len(values))
    table = table.join(above)
    table.attrs["evaluation"] = evaluation_of(confidence)[0]
    return table
