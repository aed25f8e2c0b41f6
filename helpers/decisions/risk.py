"""Whether the risk, the share of errors among what is accepted, is low enough.

Of one rule that was fixed beforehand, labels say it by themselves. Of many thresholds
each has to pass a test, in sequences fixed beforehand, so that all that pass hold
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom
from statsmodels.stats.proportion import proportion_confint

from ..checks import check_between, check_groups, check_outcomes, check_rng

_MOST_STARTS = 4
_APART = 4  # times as many rows at each start as at the one before
_POWER = 0.8
_SEARCH_UP_TO = 10**7


@dataclass(frozen=True)
class Verification:
    """What other labels say of a threshold, or of another rule.

    Attributes
    ----------
    verdict : {"holds", "fails", "not enough data"}
        "holds" if the upper limit of the risk is at most ``max_risk``, "fails" if the
        lower limit is above it.
    threshold : float or None
        What was checked; None for another rule than one threshold.
    max_risk, delta : float
        The question, and how often a verdict may be false.
    n_labels, n_accepted, n_errors : int
        What it was checked on: the rows used, with groups one of each.
    risk, low, high : float
        Share of errors among the accepted, with Clopper and Pearson's limits; each of
        them is wrong with a probability of at most ``delta``. NaN, 0 and 1 where
        nothing was accepted.
    coverage, coverage_low, coverage_high : float
        Share of items accepted, with Wilson's interval at 95 %.
    action, rule : str or None
        Which action of which policy was checked, if it was one.
    """

    verdict: str
    threshold: float | None
    max_risk: float
    delta: float
    n_labels: int
    n_accepted: int
    n_errors: int
    risk: float
    low: float
    high: float
    coverage: float
    coverage_low: float
    coverage_high: float
    action: str | None = None
    rule: str | None = None

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
        if self.verdict == "not enough data":
            said = f"{what}: not enough data on {aim} {sure}."
        else:
            said = f"{what}: {aim} {self.verdict} {sure}."
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
    max_risk : float
        The most errors among accepted items, as a share in (0, 1).
    delta : float, default=0.05
        Probability that a verdict of "holds", or one of "fails", is false, in (0, 1).
    groups : array-like of shape (n,), optional
        What each row belongs to. Rows with the same value, such as pages of a
        document, are not independent: one row of each group, drawn at random, is used,
        so that the test is exact. It is then one of a random row of a random group.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance, for that draw.

    Returns
    -------
    Verification
        Without a threshold.

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    References
    ----------
    Clopper and Pearson, Biometrika 26, 1934.

    Examples
    --------
    >>> print(verify_accepted([True] * 60 + [False] * 20, [1] * 60 + [0] * 20, 0.05))
    Accept by this rule: a risk of at most 0.05 holds at 0.95 confidence. 60 of 80 \
labelled items are accepted (75.0%), 0 wrong (0.00%; at most 4.87%, and at least \
0.00%, each at 0.95 confidence).
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
    n = int(taken.sum())
    wrong = int((taken & ~outcome).sum())
    low = 0.0 if wrong == 0 else float(beta.ppf(delta, wrong, n - wrong + 1))
    high = float(upper_limits(np.array([wrong]), np.array([n]), delta)[0])
    verdict = "not enough data"
    if high <= max_risk:
        verdict = "holds"
    elif low > max_risk:
        verdict = "fails"
    covered = proportion_confint(n, len(taken), method="wilson")
    return Verification(
        verdict=verdict,
        threshold=None,
        max_risk=float(max_risk),
        delta=float(delta),
        n_labels=len(taken),
        n_accepted=n,
        n_errors=wrong,
        risk=wrong / n if n else math.nan,
        low=low,
        high=high,
        coverage=n / len(taken),
        coverage_low=float(covered[0]),
        coverage_high=float(covered[1]),
    )


def error_free_labels(max_risk: float, delta: float = 0.05) -> int:
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
    >>> error_free_labels(0.1), error_free_labels(0.05), error_free_labels(0.01)
    (29, 59, 299)
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    n = max(1, math.ceil(math.log(delta) / math.log1p(-max_risk)) - 1)
    while (1 - max_risk) ** n > delta:
        n += 1
    return n


def one_row_each(
    groups: ArrayLike | None, n: int, rng: np.random.Generator | int | None = 0
) -> np.ndarray:
    """One row of each group, any of its rows with the same probability."""
    generator = check_rng(rng)
    if groups is None:
        return np.arange(n)
    codes = check_groups(groups, n)
    order = generator.permutation(n)
    first = np.unique(codes[order], return_index=True)[1]
    return np.sort(order[first])


def upper_limits(errors: np.ndarray, n: np.ndarray, level: float) -> np.ndarray:
    """Clopper and Pearson's upper limits of risks."""
    open_ended = errors >= n
    limit = beta.ppf(1 - level, errors + 1, np.where(open_ended, 1, n - errors))
    return np.where(open_ended, 1.0, limit)


def sequence_starts(n: int, max_risk: float, delta: float) -> list[int]:
    """Row counts at which sequences of tests begin, by the number of labels only."""
    found = [error_free_labels(max_risk, delta)]
    for count in range(2, _MOST_STARTS + 1):
        least = error_free_labels(max_risk, delta / count)
        # One more costs all others some of their power.
        if 2 * least * _APART ** (count - 1) > n:
            break
        found = [least * _APART**at for at in range(count)]
    return found


def passed_tests(
    n: np.ndarray, errors: np.ndarray, starts: list[int], max_risk: float, level: float
) -> np.ndarray:
    """Thresholds that some sequence of tests came past."""
    passes = binom.cdf(errors, n, max_risk) <= level
    passed = np.zeros(np.shape(n), dtype=bool)
    for start in starts:
        begun = n >= start
        passed |= np.logical_and.accumulate(passes | ~begun, axis=-1) & begun
    return passed


def labels_to_certify(
    n: np.ndarray, errors: np.ndarray, n_labels: int, max_risk: float, delta: float
) -> int | None:
    """With how many labels a threshold passes with a probability of 0.8, or about."""
    seen = n > 0
    n, errors = n[seen], errors[seen]
    if not (errors < max_risk * n).any():
        return None
    share = n / n_labels
    more = int(errors.any())
    risk = (errors + more) / (n + more / max_risk)

    def enough(labels: int) -> bool:
        starts = np.array(sequence_starts(labels, max_risk, delta))
        level = delta / len(starts)
        first = np.searchsorted(share * labels, starts)
        starts, first = starts[first < len(share)], first[first < len(share)]
        rows = np.maximum(starts, np.floor(share[first] * labels))
        most = binom.ppf(level, rows, max_risk)
        most = np.where(binom.cdf(most, rows, max_risk) <= level, most, most - 1)
        return bool((binom.cdf(most, rows, risk[first]) >= _POWER).any())

    low, high = n_labels, n_labels + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _SEARCH_UP_TO:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
