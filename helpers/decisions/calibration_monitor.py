"""Whether confidences still mean what they say."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..checks import (
    check_choice,
    check_not_fitted_on,
    check_not_negative,
    check_rows,
)
from .betting import ROWS, SHARES, SHIFTS, log_factors, log_sum
from .monitoring import Monitor

Alternative = Literal["overconfident", "two-sided"]


class CalibrationMonitor(Monitor):
    """Whether confidences still mean what they say.

    The promise: given all that came before, each item is right with a probability of
    exactly its confidence, or, where only overconfidence matters, of at least that.
    While it holds, an alarm is ever raised with a probability of at most ``alpha``,
    however often one looks. The stakes are shifts of the log-odds, all in one
    direction: confidences that are too high in one place and too low in another may
    pass unnoticed.

    Parameters
    ----------
    alpha : float, default=0.05
        Largest probability of a false alarm, between 0 and 1.
    alternative : {"overconfident", "two-sided"}, default="overconfident"
        Whether to bet on fewer right outcomes than promised, or half of the wealth on
        fewer and half on more.
    clip : float, default=0.001
        How near to certainty bets are made, 0 or more and below 1/2: a confidence of 1
        is taken for a promise of 1 - ``clip``. With 0 it is taken at its word.

    Attributes
    ----------
    alpha, alternative, clip
        As given.

    Raises
    ------
    ValueError
        ``alpha`` is not between 0 and 1, the alternative is another, or ``clip`` is
        negative, or 1/2 or more.

    Notes
    -----
    A confidence of exactly 1 says that the item cannot be wrong. With ``clip=0``, one
    that is wrong breaks the promise beyond doubt: the e-value is infinite from then on,
    and the alarm is raised at once. The same holds for a right item of confidence 0, if
    two-sided. But isotonic calibration, histograms and rounding give 0 and 1 that
    nobody meant so.

    Bets on fewer right outcomes are therefore made against min(p, 1 - ``clip``), bets
    on more against max(p, ``clip``). Who promises at least p promises at least the
    first, and who promises at most p at most the second. So nothing is bet against that
    was not promised, and false alarms are as rare as without. To move all confidences
    into [``clip``, 1 - ``clip``] beforehand would change the promise: thousands of
    items of confidence 1, all of them right, would break it, if two-sided. The
    ``mean_confidence`` of the table is that of the confidences as stated.

    References
    ----------
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting,
    Journal of the Royal Statistical Society B 86, 2024.

    Examples
    --------
    >>> monitor = CalibrationMonitor()
    >>> monitor.update([0.9, 0.8, 0.95, 0.9], [True, True, False, True])
    False
    >>> monitor.update(1.0, False), round(monitor.e_value, 1), monitor.alarm_at
    (False, 2.5, None)
    >>> strict = CalibrationMonitor(clip=0)
    >>> strict.update(1.0, False), strict.e_value
    (True, inf)
    """

    _fields = ("alpha", "alternative", "clip")
    _columns = ("correct", "confidence")

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        alternative: Alternative = "overconfident",
        clip: float = 0.001,
    ) -> None:
        super().__init__(alpha=alpha)
        choices = ("overconfident", "two-sided")
        self.alternative = check_choice("alternative", alternative, choices)
        self.clip = check_not_negative("clip", clip, below=0.5)
        both = self.alternative == "two-sided"
        self._log_wealths = np.log(np.tile(SHARES, 2) / 2 if both else SHARES)
        self._confidence = array("d")
        self._refuted = False

    def update(self, confidence: ArrayLike, correct: ArrayLike) -> bool:
        """Take in the next item, or several in their order.

        Parameters
        ----------
        confidence : float or array-like of shape (n,)
            Probabilities in [0, 1], each stated before its outcome was known.
        correct : bool or array-like of shape (n,)
            Whether each item was right: True and False, or 1 and 0.

        Returns
        -------
        bool
            Whether an alarm has been raised, now or before.

        Raises
        ------
        ValueError
            There is none, their numbers differ, a confidence is missing or outside
            [0, 1], or an outcome is missing or neither 0 nor 1; nothing is then taken
            in.
        TypeError
            The confidences are no numbers.
        """
        if np.ndim(confidence) == 0:
            confidence, correct = np.atleast_1d(confidence), np.atleast_1d(correct)
        stated, new, _ = check_rows(confidence, correct)
        check_not_fitted_on(confidence, "confidence")
        p = stated.astype(float)
        most, least = np.minimum(p, 1 - self.clip), np.maximum(p, self.clip)
        log_e = np.empty(len(p))
        wealths = self._log_wealths
        for start in range(0, len(p), ROWS):
            part = slice(start, start + ROWS)
            won = self._log_factors(most[part], least[part], new[part])
            grown = np.cumsum(np.vstack([wealths, won]), axis=0)[1:]
            log_e[part] = log_sum(grown)
            wealths = grown[-1]
        impossible = (most == 1) & ~new
        if self.alternative == "two-sided":
            impossible |= (least == 0) & new
        refuted = self._refuted | np.logical_or.accumulate(impossible)
        log_e[refuted] = math.inf
        self._log_wealths, self._refuted = wealths, bool(refuted[-1])
        self._confidence.extend(p)
        return self._add(new, log_e)

    def _log_factors(
        self, most: np.ndarray, least: np.ndarray, correct: np.ndarray
    ) -> np.ndarray:
        fewer = log_factors(most, correct, -SHIFTS)
        if self.alternative == "overconfident":
            return fewer
        return np.hstack([fewer, log_factors(least, correct, SHIFTS)])

    def table(self, *, every: int = 1) -> pd.DataFrame:
        """The course so far, for a figure.

        Parameters
        ----------
        every : int, default=1
            One row for so many items; the last item always has one.

        Returns
        -------
        pandas.DataFrame
            As that of :class:`AccuracyMonitor`, with ``mean_confidence`` so far after
            ``accuracy``. The confidence sequence is that of the average accuracy.

        Raises
        ------
        ValueError
            ``every`` is no whole number of 1 or more.
        """
        table = super().table(every=every)
        item = table["item"].to_numpy()
        stated = np.cumsum(np.asarray(self._confidence, dtype=float))[item - 1] / item
        table.insert(3, "mean_confidence", stated)
        return table

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as plain JSON, for :meth:`from_dict`.

        Returns
        -------
        dict
            The settings and every item; the rest follows from these.
        """
        return super().to_dict() | {"confidence": self._confidence.tolist()}

    @classmethod
    def _replayed(cls, stored: Mapping[str, Any], correct: np.ndarray) -> Self:
        monitor = cls(**{name: stored[name] for name in cls._fields})
        confidence = stored.get("confidence")
        if not isinstance(confidence, list):
            kind = type(confidence).__name__
            raise ValueError(f"confidence must be a list of numbers, not {kind}.")
        if len(confidence) != len(correct):
            raise ValueError(
                f"confidence must have one number for each of {len(correct)} outcomes, "
                f"not {len(confidence)}."
            )
        if confidence:
            try:
                monitor.update(confidence, correct)
            except TypeError as error:
                raise ValueError(str(error)) from error
        return monitor
