"""What labels say of a threshold, or of another rule, that was fixed before."""

from __future__ import annotations

import math
from dataclasses import field, fields, replace

import numpy as np
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass as checked_dataclass
from statsmodels.stats.proportion import proportion_confint

from ..calibration.files import Count, Finite, Share, Stored
from ..checks import (
    check_between,
    check_groups,
    check_outcomes,
)
from ..metrics.bins import at_least
from .thresholds import (
    CertifiedThreshold,
    check_risk,
    one_row_each,
    read_rows,
)


@checked_dataclass(frozen=True, config=Stored.model_config)
class Verification:
    """What labels say of a threshold, or of another rule, that was fixed before.

    The ``verdict`` is "holds" where ``high`` is at most ``max_risk``, "fails" where
    ``low`` is above it, else "not enough data". ``risk`` is the share of errors among
    the accepted, ``low`` and ``high`` its one-sided Clopper–Pearson limits,
    ``coverage`` the share accepted, with Wilson's interval at 95 %. One row of each
    group counts. ``by`` and ``segment`` name a column and the value that all rows have.
    """

    max_risk: Share
    delta: Share
    n_labels: Count
    n_accepted: Count
    n_errors: Count
    threshold: Finite | None = None
    action: str | None = None
    rule: str | None = None
    by: str | None = None
    segment: str | None = None
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
        vars(self).update(zip(follows, (verdict, *numbers), strict=True))

    def __str__(self) -> str:
        what = self.action or "Accept"
        if self.threshold is not None:
            what += f" from {self.threshold:g}"
        if self.rule is not None:
            what += f" by rule {self.rule}"
        elif what == "Accept":
            what = "Accept by this rule"
        if self.by is not None:
            what += f" where {self.by} is {self.segment}"
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


def verify(
    threshold: float | CertifiedThreshold,
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float | None = None,
    delta: float | None = None,
    *,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> Verification:
    """What labels that a threshold was not chosen on say of it.

    Parameters
    ----------
    threshold : float or CertifiedThreshold
        Items with at least this confidence are accepted.
    scores, correct, groups, rng
        As for :func:`choose_threshold`, of other items.
    max_risk : float, optional
        Largest share of errors among accepted items. Default: what was certified.
    delta : float, optional
        Probability that a verdict of "holds", or one of "fails", is false. Default:
        that of the certificate, or 0.05.

    Examples
    --------
    >>> from helpers.decisions import choose_threshold
    >>> certified = choose_threshold([0.9] * 60, [1] * 60, max_risk=0.1)
    >>> verify(certified, [0.95] * 40 + [0.5] * 10, [1] * 50).verdict
    'holds'
    """
    if isinstance(threshold, CertifiedThreshold):
        if threshold.threshold is None:
            raise ValueError(f"threshold must be one that passed. {threshold}")
        max_risk = threshold.max_risk if max_risk is None else max_risk
        delta = threshold.delta if delta is None else delta
        threshold = threshold.threshold
    least = check_between("threshold", threshold, 0, 1, closed=True)
    if max_risk is None:
        raise ValueError("max_risk must be given where threshold is a plain number.")
    level = 0.05 if delta is None else delta
    values, outcome, used = read_rows(scores, correct, groups, rng)
    accepted = at_least(values, least)
    found = verify_accepted(accepted[used], outcome[used], max_risk, level)
    return replace(found, threshold=least)


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
    check_risk(max_risk, delta)
    used = one_row_each(codes, len(taken), rng)
    taken, outcome = taken[used], outcome[used]
    n, wrong = int(taken.sum()), int((taken & ~outcome).sum())
    return Verification(float(max_risk), float(delta), len(taken), n, wrong)
