"""How many spot checks it takes to find that accuracy fell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..checks import check_between, check_count
from .betting import is_enough, log_wealth


@dataclass(frozen=True)
class DetectionDelay:
    """How soon an :class:`AccuracyMonitor` finds a fall of the accuracy.

    Attributes
    ----------
    promised, was, actual : float
        Accuracies: the one promised, that before the change and that after it.
    before : int
        How many items there were before the change.
    alpha : float
        Of the monitor.
    limit : int
        How many items are waited for after the change.
    false_alarms : float
        Probability of an alarm before the change. Everything below is given that
        there was none.
    found : float
        Probability of an alarm within the limit after the change.
    chances : numpy.ndarray of shape (limit,)
        Probability of an alarm within 1, 2, …, ``limit`` items after the change.
    """

    promised: float
    was: float
    actual: float
    before: int
    alpha: float
    limit: int
    false_alarms: float
    found: float
    # It follows from the others, and arrays cannot be compared as numbers are.
    chances: np.ndarray = field(repr=False, compare=False)

    @property
    def median(self) -> float:
        """Number of items within which half of the falls are found."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """Number of items within which a share of the falls is found.

        Parameters
        ----------
        q : float
            The share, between 0 and 1.

        Returns
        -------
        float
            The smallest number of items within which an alarm has at least that
            probability, which is exact; infinite if the limit is too small for it.

        Raises
        ------
        ValueError
            ``q`` is not between 0 and 1.
        """
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
    """How many spot checks a monitor takes to find that accuracy fell.

    Parameters
    ----------
    promised : float
        The accuracy that the :class:`AccuracyMonitor` holds to, between 0 and 1.
    actual : float
        The accuracy after the change, from 0 to ``promised``.
    was : float, optional
        The accuracy before the change, from ``promised`` to 1. Default: ``promised``.
    before : int, default=0
        How many items the monitor has seen before the change. 0: it starts with it.
    alpha : float, default=0.05
        The monitor's largest probability of a false alarm, between 0 and 1.
    limit : int, default=5000
        How many items after the change to wait for the alarm.

    Returns
    -------
    DetectionDelay

    Raises
    ------
    ValueError
        An accuracy, number or ``alpha`` that breaks its rule.

    Notes
    -----
    Each item is taken to be right or wrong independently of the others. The monitor's
    wealth depends on how many items were wrong, not on which. So the probability of
    each number of wrong ones without an alarm is carried from item to item, and what
    crosses the monitor's limit leaves: the result is exact, up to rounding.

    A delay counts items that were checked. If one accepted item in twenty is, the
    model has answered twenty times as many by then.

    Examples
    --------
    A fall by five points, found by a new monitor and by one with a long good past:

    >>> new = detection_delay(0.95, 0.9)
    >>> new.median, new.quantile(0.9)
    (166.0, 395.0)
    >>> detection_delay(0.95, 0.9, before=1000).median
    522.0
    """
    check_between("promised", promised, 0, 1)
    check_between("actual", actual, 0, promised, closed=True)
    start = promised if was is None else was
    check_between("was", start, promised, 1, closed=True)
    check_count("before", before, 0)
    check_between("alpha", alpha, 0, 1)
    check_count("limit", limit)
    most = _most_wrong(promised, before + limit, alpha)
    early, calm = _alarms(np.ones(1), start, most[:before])
    raised, _ = _alarms(calm / calm.sum(), actual, most[before:])
    chances = np.minimum(np.cumsum(raised), 1)
    return DetectionDelay(
        float(promised),
        float(start),
        float(actual),
        int(before),
        float(alpha),
        int(limit),
        float(early.sum()),
        float(chances[-1]),
        chances,
    )


def _alarms(
    calm: np.ndarray, accuracy: float, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of an alarm at each of the next items."""
    raised = np.empty(len(most))
    for at, allowed in enumerate(most):
        calm = np.append(calm * accuracy, 0) + np.append(0, calm * (1 - accuracy))
        raised[at] = calm[allowed + 1 :].sum()
        calm = calm[: allowed + 1]
    return raised, calm


def _most_wrong(promised: float, n: int, alpha: float) -> np.ndarray:
    """How many of 1, 2, …, n items can be wrong without an alarm."""
    items = np.arange(1, n + 1)
    low, high = np.zeros(n, dtype=int), items
    while (low < high).any():
        middle = (low + high + 1) // 2
        alarm = is_enough(log_wealth(items - middle, items, promised), alpha)
        low, high = np.where(alarm, low, middle), np.where(alarm, middle - 1, high)
    return low
