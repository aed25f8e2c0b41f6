"""Whether what is accepted is still right as often as promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_between, check_outcomes
from .betting import log_wealth
from .monitoring import Monitor


class AccuracyMonitor(Monitor):
    """Whether accepted items are still right as often as promised.

    The promise: given all that came before, each item is right with a probability of
    at least ``promised``. While it holds, an alarm is ever raised with a probability
    of at most ``alpha``, however often one looks.

    More is true. Accuracies that vary are no excuse for a false alarm: the chance that
    an alarm is ever raised at a time when the *average* accuracy so far is still
    ``promised`` or more is at most ``alpha`` as well. For the same reason a long good
    past delays the alarm: :func:`detection_delay` says how much. Where a fall should be
    found soon after it, start a new monitor each week or month; each has its own chance
    of a false alarm.

    Parameters
    ----------
    promised : float
        Between 0 and 1, without the ends.
    alpha : float, default=0.05
        Largest probability of a false alarm, between 0 and 1.

    Attributes
    ----------
    promised, alpha : float
        As given.

    Raises
    ------
    ValueError
        ``promised`` or ``alpha`` is not between 0 and 1.

    Notes
    -----
    With s of n items right, a gambler who believes in a shift of -d has a wealth of
    ``exp(-d * s) / (1 - m + m * exp(-d)) ** n``, where m is the promised accuracy. As
    the logarithm of the denominator is concave in m, the wealth against an average of
    accuracies is at most the product of what is won against each of them. The e-value
    depends on s and n only, not on the order. A fall in log-odds of less than 0.01,
    such as that from 0.95 to 0.9496, is too small for the smallest shift and may
    never be found.

    References
    ----------
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting,
    Journal of the Royal Statistical Society B 86, 2024. Howard et al., Time-uniform
    Chernoff bounds via nonnegative supermartingales, Probability Surveys 17, 2020.

    Examples
    --------
    >>> monitor = AccuracyMonitor(0.95)
    >>> monitor.update([True] * 18 + [False] * 4)
    False
    >>> monitor.update(False), monitor.update([False, True])
    (False, True)
    >>> monitor.alarm_at, round(monitor.e_value, 1), monitor.n_right, monitor.n
    (24, 28.2, 19, 25)
    """

    _fields = ("promised", "alpha")

    def __init__(self, promised: float, *, alpha: float = 0.05) -> None:
        self.promised = check_between("promised", promised, 0, 1)
        super().__init__(alpha=alpha)

    def update(self, correct: ArrayLike) -> bool:
        """Take in the next outcome, or several in their order.

        Parameters
        ----------
        correct : bool or array-like of shape (n,)
            Whether each item was right: True and False, or 1 and 0.

        Returns
        -------
        bool
            Whether an alarm has been raised, now or before.

        Raises
        ------
        ValueError
            There is none, or one is missing or neither 0 nor 1; nothing is then taken
            in.
        """
        new = _read_outcomes(correct)
        right = self.n_right + np.cumsum(new)
        n = self.n + np.arange(1, len(new) + 1)
        return self._add(new, log_wealth(right, n, self.promised))

    @classmethod
    def _replayed(cls, stored: Mapping[str, Any], correct: np.ndarray) -> Self:
        monitor = cls(stored["promised"], alpha=stored["alpha"])
        if len(correct):
            monitor.update(correct)
        return monitor


def _read_outcomes(correct: ArrayLike) -> np.ndarray:
    outcome = check_outcomes(np.atleast_1d(correct))
    if not len(outcome):
        raise ValueError("correct must have at least one outcome; there is none.")
    return outcome
