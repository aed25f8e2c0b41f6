"""How many spot checks it takes to find that accuracy fell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..checks import check_between, check_count, check_not_negative, check_rng
from .betting import log_wealth

_CELLS = 1 << 20  # streams times items that are drawn at a time


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
        How many items were waited for after the change.
    n_streams : int
        How many streams of items were drawn.
    false_alarms : float
        Share of the streams with an alarm before the change. They are left out of
        everything below.
    found : float
        Share of the other streams with an alarm within the limit after the change;
        NaN if there are none.
    delays : tuple of float
        How many items after the change each of the other streams had its alarm, from
        the soonest to the latest; infinite where it had none within the limit.
    """

    promised: float
    was: float
    actual: float
    before: int
    alpha: float
    limit: int
    n_streams: int
    false_alarms: float
    found: float
    delays: tuple[float, ...] = field(repr=False)

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
            A delay that occurred: the smallest within which at least that share was
            found. Infinite if the limit was too small for it; NaN without delays.

        Raises
        ------
        ValueError
            ``q`` is not between 0 and 1.
        """
        share = check_between("q", q, 0, 1)
        if not self.delays:
            return math.nan
        # 0.07 of 100 is 7.000000000000001 in floats, and is 7.
        place = math.ceil(share * len(self.delays) * (1 - 1e-12))
        return self.delays[place - 1]


def detection_delay(
    promised: float,
    actual: float,
    *,
    was: float | None = None,
    alpha: float = 0.05,
    before: int = 0,
    limit: int = 5000,
    n_streams: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> DetectionDelay:
    """How many spot checks a monitor takes to find that accuracy fell, by simulation.

    Parameters
    ----------
    promised : float
        The accuracy that the :class:`AccuracyMonitor` holds to, between 0 and 1.
    actual : float
        The accuracy after the change, of 0 or more and below ``promised``.
    was : float, optional
        The accuracy before the change, from ``promised`` to 1. Default: ``promised``.
    alpha : float, default=0.05
        The monitor's largest probability of a false alarm.
    before : int, default=0
        How many items the monitor has seen before the change. 0: it starts with it.
    limit : int, default=5000
        How many items after the change to wait for the alarm.
    n_streams : int, default=1000
        How many streams of items to draw, each item right or wrong independently of
        the others. With a thousand, the median is mostly within six percent of that
        of very many.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    DetectionDelay

    Raises
    ------
    ValueError
        An accuracy, number or ``alpha`` that breaks its rule.
    TypeError
        ``rng`` is no source of chance.

    Notes
    -----
    A delay counts items that were checked. If one accepted item in twenty is, the
    model has answered twenty times as many by then.

    Examples
    --------
    A fall by five points, found by a new monitor and by one with a long good past:

    >>> new = detection_delay(0.95, 0.9)
    >>> new.median, new.quantile(0.9), new.found
    (156.0, 383.0, 1.0)
    >>> detection_delay(0.95, 0.9, before=1000).median
    522.0
    """
    check_between("promised", promised, 0, 1)
    check_not_negative("actual", actual, below=promised)
    start = promised if was is None else was
    check_between("was", start, promised, 1, closed=True)
    check_between("alpha", alpha, 0, 1)
    check_count("before", before, 0)
    check_count("limit", limit)
    check_count("n_streams", n_streams)
    generator = check_rng(rng)
    n = before + limit
    fewest = _fewest_right(promised, n, alpha)
    accuracy = np.repeat([start, actual], [before, limit])
    early, delays = 0, []
    streams = max(1, _CELLS // n)
    for first in range(0, n_streams, streams):
        size = (min(streams, n_streams - first), n)
        right = np.cumsum(generator.random(size) < accuracy, axis=1, dtype=np.int32)
        alarm = right < fewest
        good = ~alarm[:, :before].any(axis=1)
        early += int(np.sum(~good))
        after = alarm[good, before:]
        delays.append(np.where(after.any(axis=1), after.argmax(axis=1) + 1.0, math.inf))
    found = np.sort(np.concatenate(delays))
    return DetectionDelay(
        float(promised),
        float(start),
        float(actual),
        int(before),
        float(alpha),
        int(limit),
        int(n_streams),
        early / n_streams,
        float(np.isfinite(found).mean()) if len(found) else math.nan,
        tuple(found.tolist()),
    )


def _fewest_right(promised: float, n: int, alpha: float) -> np.ndarray:
    """How many of 1, 2, …, n items must be right at least for there to be no alarm.

    The wealth depends on the number of right ones only, and falls with it.
    """
    items = np.arange(1, n + 1)
    low, high = np.zeros(n, dtype=int), items
    while (low < high).any():
        middle = (low + high) // 2
        alarm = log_wealth(middle, items, promised) >= -math.log(alpha)
        low, high = np.where(alarm, middle + 1, low), np.where(alarm, high, middle)
    return low.astype(np.int32)
