"""Bets against a promise: what gamblers win who think that it no longer holds.

A gambler starts with a wealth of 1 and stakes it on each outcome, at odds that are fair
if the promise holds. On average the wealth, the *e-value*, then does not grow, and by
Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha. A
wealth of 20 is evidence against the promise at the level of 0.05, whenever it is
reached.

Each gambler believes that the log-odds of being right are off by some fixed shift. A
probability p then becomes q, and the wealth is multiplied by q / p at a right outcome
and by (1 - q) / (1 - p) at a wrong one. How large the shift will be is not known, so
64 gamblers share the starting wealth, for shifts from 0.02 to 8: about half of it goes
to shifts below 1/2, which is what takes an accuracy of 0.95 to 0.92. Nothing has to be
tuned.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

SHIFTS = np.geomspace(0.02, 8, 64)
# A half-Cauchy distribution with the median 1/2: heavy tails for want of knowledge.
# Half for the ends, as in the trapezoidal rule.
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
    # Several times as fast as that of SciPy, which one item at a time needs.
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
