"""Whether the risk of a rule, the share of errors among what it accepts, is low enough.

Of a rule that was fixed before these labels were seen, they say it directly.
"""

from __future__ import annotations

import math
from dataclasses import field, fields

import numpy as np
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass
from statsmodels.stats.proportion import proportion_confint

from ..calibration.files import Count, Finite, Share, Stored
from ..checks import check_between, check_groups, check_outcomes, check_rng


@dataclass(frozen=True, config=Stored.model_config)
class Verification:
    """What other labels say of a threshold, or of another rule.

    Attributes
    ----------
    max_risk, delta : float
        The question, and how often a verdict may be false.
    n_labels, n_accepted, n_errors : int
        What it was checked on: the rows used, with groups one of each.
    threshold : float or None
        What was checked; None for another rule than one threshold.
    action, rule : str or None
        Which action of which policy was checked, if it was one.
    verdict : {"holds", "fails", "not enough data"}
        "holds" if the upper limit of the risk is at most ``max_risk``, "fails" if the
        lower limit is above it.
    risk, low, high : float
        Share of errors among the accepted, with Clopper and Pearson's limits; each of
        them is wrong with a probability of at most ``delta``. NaN, 0 and 1 where
        nothing was accepted.
    coverage, coverage_low, coverage_high : float
        Share of items accepted, with Wilson's interval at 95 %.
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
        Whether the rule accepts each row. Any rule will do that was fixed before these
        labels were seen.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    max_risk, delta, groups, rng
        As for :func:`verify`.

    Returns
    -------
    Verification
        Without a threshold.

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Examples
    --------
    >>> found = verify_accepted([True] * 60 + [False] * 20, [1] * 60 + [0] * 20, 0.05)
    >>> found.verdict, round(found.high, 4), found.coverage
    ('holds', 0.0487, 0.75)
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
    """How many items without an error show that the risk is low enough.

    The smallest n with (1 - max_risk)^n at most delta.

    Parameters
    ----------
    max_risk : float
        In (0, 1).
    delta : float, default=0.05
        Probability that the statement is false, in (0, 1).

    Returns
    -------
    int

    Examples
    --------
    >>> [zero_failure_sample_size(risk) for risk in (0.1, 0.05, 0.01)]
    [29, 59, 299]
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
    """One row of each group, any of its rows with the same probability."""
    generator = check_rng(rng)
    if codes is None:
        return np.arange(n)
    order = generator.permutation(n)
    first = np.unique(codes[order], return_index=True)[1]
    return np.sort(order[first])
