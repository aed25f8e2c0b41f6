"""Rules that were fixed beforehand, and what labels say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass as checked_dataclass
from statsmodels.stats.proportion import proportion_confint

from ..calibration.files import Count, Finite, Share, Stored
from ..checks import (
    check_between,
    check_choice,
    check_groups,
    check_interval,
    check_outcomes,
    check_probabilities,
    check_rng,
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
        edges = _several("edges", self.edges, "numbers")
        edges = [check_between("edges", edge, 0, 1, closed=True) for edge in edges]
        if not edges or (np.diff(edges) <= 0).any():
            raise ValueError(f"edges must rise and be at least one, not {self.edges}.")
        names = [str(name) for name in _several("names", self.names, "words")]
        if len(names) != len(edges) + 1 or len(set(names)) < len(names):
            raise ValueError(
                f"names must be {len(edges) + 1} different ones, one more than edges, "
                f"not {names}."
            )
        sides = self.edge_belongs_to
        if isinstance(sides, str):
            sides = [sides] * len(edges)
        sides = _several("edge_belongs_to", sides, "words")
        for side in sides:
            check_choice("edge_belongs_to", side, ("upper", "lower"))
        if len(sides) != len(edges):
            raise ValueError(
                f"edge_belongs_to must be one word or {len(edges)}, not {sides}."
            )
        object.__setattr__(self, "edges", tuple(edges))
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "edge_belongs_to", tuple(sides))

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


def _several(name: str, value: Any, of: str) -> list[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of {of}, not {value!r}.")
    return list(value)


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

    def rates(right: np.ndarray, n: np.ndarray, suffix: str) -> dict[str, np.ndarray]:
        found, some = np.full((3, size), np.nan), n > 0
        found[0, some] = right[some] / n[some]
        found[1:, some] = proportion_confint(
            right[some], n[some], alpha=1 - level, method=interval
        )
        names = [f"{name}{suffix}" for name in ("accuracy", "low", "high")]
        return dict(zip(names, found, strict=True))

    inside = rates(right, n, "")
    mean = np.divide(stated, n, where=n > 0, out=np.full(size, np.nan))
    columns = {
        "range": buckets.ranges()[::-1],
        "n": n,
        "share": n / len(values),
        **inside,
        "mean_confidence": mean,
        "gap": inside["accuracy"] - mean,
        "n_above": np.cumsum(n),
        **rates(np.cumsum(right), np.cumsum(n), "_above"),
    }
    table = pd.DataFrame(columns, index=list(buckets.names)[::-1])
    table.attrs["evaluation"] = evaluation_of(confidence)[0]
    return table


@checked_dataclass(frozen=True, config=Stored.model_config)
class Verification:
    """What labels say of a threshold, or of another rule, that was fixed before.

    The ``verdict`` is "holds" where ``high`` is at most ``max_risk``, "fails" where
    ``low`` is above it, else "not enough data". ``risk`` is the share of errors among
    the accepted, ``low`` and ``high`` its one-sided Clopper–Pearson limits,
    ``coverage`` the share accepted, with Wilson's interval at 95 %. One row of each
    group counts.
    """

    max_risk: Share
    delta: Share
    n_labels: Count
    n_accepted: Count
    n_errors: Count
    threshold: Finite | None = None
    action: str | None = None
    rule: str | None = None
    verdict: str = field(init=False)
    risk: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)
    coverage: float = field(init=False)
    coverage_low: float = field(init=False)
    coverage_high: float = field(init=False)

    def __post_init__(self) -> None:
        n, wrong = self.n_accepted, self.n_errors
        if not wrong <= n <= self.n_labels or not self.n_labels:
            raise ValueError("n_errors, n_accepted and n_labels must rise")
        risk, low, high = math.nan, 0.0, 1.0
        if n:
            risk = wrong / n
            low, high = proportion_confint(wrong, n, 2 * self.delta, method="beta")
        verdict = "fails" if low > self.max_risk else "not enough data"
        verdict = "holds" if high <= self.max_risk else verdict
        ends = proportion_confint(n, self.n_labels, method="wilson")
        numbers = map(float, (risk, low, high, n / self.n_labels, *ends))
        follows = (one.name for one in fields(self) if not one.init)
        for name, value in zip(follows, (verdict, *numbers), strict=True):
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        what = self.action or "Accept"
        if self.threshold is not None:
            what += f" from {self.threshold:g}"
        if self.rule is not None:
            what += f" by rule {self.rule}"
        elif what == "Accept":
            what = "Accept by this rule"
        aim = f"a risk of at most {self.max_risk:g}"
        sure = f"at {1 - self.delta:.4g} confidence"
        said = f"{what}: {aim} {self.verdict} {sure}."
        if self.verdict == "not enough data":
            said = f"{what}: not enough data on {aim} {sure}."
        if not self.n_accepted:
            return f"{said} None of {self.n_labels} labelled items is accepted."
        return (
            f"{said} {self.n_accepted} of {self.n_labels} labelled items are accepted "
            f"({self.coverage:.1%}), {self.n_errors} wrong ({self.risk:.2%}; at most "
            f"{self.high:.2%}, and at least {self.low:.2%}, each {sure})."
        )


def verify_accepted(
    accepted: ArrayLike,
    correct: ArrayLike,
    max_risk: float,
    delta: float = 0.05,
    *,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> Verification:
    """What labels that a rule was not made with say of what it accepts.

    Parameters
    ----------
    accepted : array-like of bool, of shape (n,)
        Whether the rule accepts each row.
    correct, max_risk, delta, groups, rng
        As for :func:`verify`.

    Examples
    --------
    >>> verify_accepted([True] * 60 + [False] * 20, [1] * 60 + [0] * 20, 0.05).verdict
    'holds'
    """
    taken = check_outcomes(accepted, name="accepted")
    if not len(taken):
        raise ValueError("accepted must have at least one row; there is none.")
    outcome = check_outcomes(correct, accepted)
    codes = None if groups is None else check_groups(groups, accepted, correct)
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    used = one_row_each(codes, len(taken), rng)
    taken, outcome = taken[used], outcome[used]
    n, wrong = int(taken.sum()), int((taken & ~outcome).sum())
    return Verification(float(max_risk), float(delta), len(taken), n, wrong)


def zero_failure_sample_size(max_risk: float, delta: float = 0.05) -> int:
    """How many items without an error suffice: least n with (1 - max_risk)^n ≤ delta.

    Parameters
    ----------
    max_risk, delta : float
        The risk and the probability of a false statement (default 0.05), in (0, 1).

    Examples
    --------
    >>> zero_failure_sample_size(0.05)
    59
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    n = max(1, math.ceil(math.log(delta) / math.log1p(-max_risk)) - 1)
    while (1 - max_risk) ** n > delta:
        n += 1
    return n


def one_row_each(
    codes: np.ndarray | None, n: int, rng: np.random.Generator | int | None
) -> np.ndarray:
    """One row of each group, drawn uniformly."""
    generator = check_rng(rng)
    if codes is None:
        return np.arange(n)
    order = generator.permutation(n)
    first = np.unique(codes[order], return_index=True)[1]
    return np.sort(order[first])
