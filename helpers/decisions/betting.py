"""Bets against a promised accuracy: the wealth won is the evidence that it fails.

Each of 64 gamblers believes that the log-odds of being right are off by one shift, and
all start with a share of a wealth of 1. Their bets are fair while the promise holds, so
by Ville's inequality the wealth ever reaches 1 / alpha with probability at most alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_between, check_count

SHIFTS = np.geomspace(0.02, 8, 64)
# Half-Cauchy with the median 1/2, by the trapezoidal rule.
SHARES = SHIFTS / (0.25 + SHIFTS**2)
SHARES[[0, -1]] /= 2
SHARES /= SHARES.sum()
ROWS = 4096  # so many rows by 64 shifts at a time stay small in memory
_HALVINGS = 30  # to one in a thousand million, rounded outward


def log_wealth(
    right: np.ndarray, n: np.ndarray, promised: float | np.ndarray
) -> np.ndarray:
    """Logarithm of the wealth against an accuracy of at least what was promised."""
    against = np.broadcast_to(np.asarray(promised, dtype=float), np.shape(right))
    found = np.empty(len(right))
    for start in range(0, len(right), ROWS):
        part = slice(start, start + ROWS)
        price = np.log1p(np.outer(against[part], np.expm1(-SHIFTS)))
        wealths = -np.outer(right[part], SHIFTS) - n[part, None] * price
        found[part] = log_sum(wealths + np.log(SHARES))
    return found


def is_enough(log_e: np.ndarray, alpha: float) -> np.ndarray:
    """Whether a wealth is evidence enough against the promise."""
    return log_e >= -math.log(alpha)


def log_factors(p: np.ndarray, correct: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Logarithm of what each gambler's wealth is multiplied by."""
    return np.outer(correct, shifts) - np.log1p(np.outer(p, np.expm1(shifts)))


def log_sum(log_wealths: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of each row's wealths."""
    # Several times as fast as SciPy's.
    top = log_wealths.max(axis=1)
    return top + np.log(np.exp(log_wealths - top[:, None]).sum(axis=1))


def confidence_sequence(
    right: ArrayLike, n: ArrayLike, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies against which no wealth has grown large."""
    won, of = np.asarray(right), np.asarray(n)
    return 1 - _upper(of - won, of, alpha / 2), _upper(won, of, alpha / 2)


def _upper(right: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    # The wealth grows with the accuracy it bets against, and is at most 1 at s / n.
    low, high = right / n, np.ones(len(n))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = is_enough(log_wealth(right, n, middle), alpha)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return high


@dataclass(frozen=True, eq=False)
class DetectionDelay:
    """How soon an :class:`AccuracyMonitor` detects a fall of the accuracy.

    ``false_alarms`` is the probability of an alarm before the change, and ``chances``
    has those of an alarm within 1, 2, …, ``limit`` items after it, given none before.
    """

    false_alarms: float
    chances: np.ndarray

    @property
    def found(self) -> float:
        """Probability of an alarm within the limit after the change."""
        return float(self.chances[-1])

    @property
    def median(self) -> float:
        """Number of items within which half of the falls are found."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """Number of items within which a share ``q`` of falls is found, or infinity."""
        share = check_between("q", q, 0, 1)
        # Probabilities that sum to 0.7 may sum to 0.7 - 1e-16 in floats.
        at = int(np.searchsorted(self.chances, share * (1 - 1e-12)))
        return at + 1.0 if at < len(self.chances) else math.inf


def detection_delay(
    promised: float,
    actual: float,
    *,
    was: float | None = None,
    before: int = 0,
    alpha: float = 0.05,
    limit: int = 5000,
) -> DetectionDelay:
    """How many spot checks a monitor takes to detect that accuracy fell; exact.

    Parameters
    ----------
    promised, actual : float
        Accuracies promised to the monitor, in (0, 1), and after the change, at most
        that.
    was : float, optional
        The accuracy before the change, in [``promised``, 1]. Default: ``promised``.
    before, limit : int
        Numbers of items checked before the change (0), and to look at after it (5000).
    alpha : float, default=0.05
        The monitor's largest probability of a false alarm, in (0, 1).

    Examples
    --------
    >>> detection_delay(0.95, 0.9).median
    166.0
    """
    check_between("promised", promised, 0, 1)
    check_between("actual", actual, 0, promised, closed=True)
    start = promised if was is None else was
    check_between("was", start, promised, 1, closed=True)
    check_count("before", before, 0)
    check_between("alpha", alpha, 0, 1)
    check_count("limit", limit)
    # How many of 1, 2, …, n items can be wrong without an alarm.
    items = np.arange(1, before + limit + 1)
    most, high = np.zeros(len(items), dtype=int), items
    while (most < high).any():
        middle = (most + high + 1) // 2
        alarm = is_enough(log_wealth(items - middle, items, promised), alpha)
        most, high = np.where(alarm, most, middle), np.where(alarm, middle - 1, high)
    early, calm = _alarms(np.ones(1), start, most[:before])
    raised, _ = _alarms(calm / calm.sum(), actual, most[before:])
    return DetectionDelay(float(early.sum()), np.minimum(np.cumsum(raised), 1))


def _alarms(
    calm: np.ndarray, accuracy: float, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    raised = np.empty(len(most))
    for at, allowed in enumerate(most):
        calm = np.append(calm * accuracy, 0) + np.append(0, calm * (1 - accuracy))
        raised[at] = calm[allowed + 1 :].sum()
        calm = calm[: allowed + 1]
    return raised, calm
