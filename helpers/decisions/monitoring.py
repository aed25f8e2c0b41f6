"""Whether a promise still holds: tests to look at after every item.

Somebody checks a random part of what a policy accepted, and each check is right or
wrong. A test made for one look at a fixed number of checks raises false alarms when it
is looked at again and again. The monitors here may be looked at after every item, and
stopped at any time, for as long as one likes.

They bet against the promise (``betting``), and the wealth that they have won by then is
the evidence against it.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..calibration.files import write_json
from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_not_negative,
    check_outcomes,
    check_probabilities,
)
from ..metrics import Interval
from .betting import (
    ROWS,
    SHARES,
    SHIFTS,
    confidence_sequence,
    log_factors,
    log_sum,
    log_wealth,
)

Alternative = Literal["overconfident", "two-sided"]
_FORMAT = "helpers.monitoring/1"


class _Monitor:
    """What both monitors share: outcomes, wealth after each, and what follows."""

    _fields: tuple[str, ...] = ()

    def __init__(self, *, alpha: float) -> None:
        self.alpha = check_between("alpha", alpha, 0, 1)
        self._right = bytearray()
        self._log_e = array("d")
        self._n_right = 0
        self._log_max = 0.0
        self._alarm_at: int | None = None

    @property
    def n(self) -> int:
        """Number of items seen."""
        return len(self._right)

    @property
    def n_right(self) -> int:
        """Number of items that were right."""
        return self._n_right

    @property
    def log_e_value(self) -> float:
        """Natural logarithm of the wealth after the last item; 0 before the first."""
        return self._log_e[-1] if self._log_e else 0.0

    @property
    def e_value(self) -> float:
        """The wealth after the last item; infinite where it is too large for a float.

        It may fall again; ``p_value`` and ``alarm`` remember its maximum.
        """
        return float(_exp(self.log_e_value))

    @property
    def p_value(self) -> float:
        """One over the largest wealth so far: a p-value, whenever one looks."""
        return math.exp(-self._log_max)

    @property
    def alarm(self) -> bool:
        """Whether the wealth ever reached 1 / alpha; once True, it stays True."""
        return self._alarm_at is not None

    @property
    def alarm_at(self) -> int | None:
        """How many items had been seen when the alarm was raised; None without one."""
        return self._alarm_at

    @property
    def interval(self) -> Interval:
        """Accuracy so far, and a confidence sequence of level 1 - alpha around it.

        With a probability of at least 1 - alpha the interval holds, after every item
        at once, the mean over the items so far of the probability, given the past,
        that each would be right. Where accuracy stays the same, that is the accuracy.
        Where it drifts, that is its running average, and today's may be outside.
        Intersecting the intervals of several times is sound only without drift. Before
        the first item the value is NaN.
        """
        if not self.n:
            return Interval(math.nan, 0.0, 1.0)
        right, n = np.array([self.n_right]), np.array([self.n])
        low, high = confidence_sequence(right, n, self.alpha)
        return Interval(self.n_right / self.n, float(low[0]), float(high[0]))

    def table(self, *, every: int = 1) -> pd.DataFrame:
        """The course so far, for a figure.

        Parameters
        ----------
        every : int, default=1
            One row for so many items; the last item always has one. A thousand rows
            take about half a second, for the intervals.

        Returns
        -------
        pandas.DataFrame
            One row an item: ``item`` (from 1), ``right`` (so far), ``accuracy`` (so
            far), ``e_value``, and ``lower`` and ``upper``, the confidence sequence.

        Raises
        ------
        ValueError
            ``every`` is no whole number of 1 or more.
        """
        check_count("every", every)
        item = np.arange(every, self.n + 1, every)
        if self.n % every:
            item = np.append(item, self.n)
        right = np.cumsum(np.frombuffer(self._right, dtype=np.uint8), dtype=int)
        right = right[item - 1]
        lower, upper = confidence_sequence(right, item, self.alpha)
        columns = {
            "item": item,
            "right": right,
            "accuracy": right / item,
            "e_value": _exp(np.asarray(self._log_e)[item - 1]),
            "lower": lower,
            "upper": upper,
        }
        return pd.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as plain JSON, for :meth:`from_dict`.

        Returns
        -------
        dict
            The settings and every item; the rest follows from these.
        """
        return {
            "format": _FORMAT,
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in self._fields},
            "correct": "".join(map(str, self._right)),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The monitor that ``to_dict`` described, to go on where it stood.

        Parameters
        ----------
        stored : mapping
            What ``to_dict`` gave.

        Returns
        -------
        AccuracyMonitor or CalibrationMonitor
            With the same wealth, alarm and table.

        Raises
        ------
        ValueError
            It describes no such monitor, or one that is not whole.
        """
        if not isinstance(stored, Mapping):
            raise ValueError(f"stored must be a mapping, not {type(stored).__name__}.")
        for name, due in (("format", _FORMAT), ("class", cls.__name__)):
            if stored.get(name) != due:
                raise ValueError(f"{name} must be {due!r}, not {stored.get(name)!r}.")
        missing = [name for name in (*cls._fields, "correct") if name not in stored]
        if missing:
            raise ValueError(f"stored must have the field {missing[0]!r}.")
        digits = stored["correct"]
        if not isinstance(digits, str):
            raise ValueError(f"correct must be text, not {type(digits).__name__}.")
        strange = sorted(set(digits) - {"0", "1"})
        if strange:
            raise ValueError(f"correct must be text of 0 and 1; it has {strange[0]!r}.")
        return cls._replayed(stored, np.array([digit == "1" for digit in digits]))

    def save(self, path: str | Path) -> None:
        """Write the monitor to a JSON file, whole or not at all.

        Parameters
        ----------
        path : str or pathlib.Path
            The file; an existing one is replaced.
        """
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The monitor that ``save`` wrote to a file, to go on where it stood.

        Parameters
        ----------
        path : str or pathlib.Path
            The file.

        Returns
        -------
        AccuracyMonitor or CalibrationMonitor
            With the same wealth, alarm and table.

        Raises
        ------
        ValueError
            The file is no JSON, or holds no such monitor.
        """
        try:
            stored = json.loads(Path(path).read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no JSON: {error}.") from None
        return cls.from_dict(stored)

    @classmethod
    def _replayed(cls, stored: Mapping[str, Any], correct: np.ndarray) -> Self:
        raise NotImplementedError

    def _add(self, correct: np.ndarray, log_e: np.ndarray) -> bool:
        if self._alarm_at is None:
            over = np.flatnonzero(log_e >= -math.log(self.alpha))
            self._alarm_at = self.n + 1 + int(over[0]) if len(over) else None
        self._log_max = max(self._log_max, float(log_e.max()))
        self._n_right += int(correct.sum())
        self._right += correct.astype(np.uint8).tobytes()
        self._log_e.extend(log_e)
        return self.alarm

    def __repr__(self) -> str:
        settings = [f"{name}={getattr(self, name)!r}" for name in self._fields]
        state = f"{self.n_right} of {self.n} right, e-value {self.e_value:.3g}"
        alarm = f", alarm at item {self.alarm_at}" if self.alarm else ""
        return f"<{type(self).__name__}({', '.join(settings)}): {state}{alarm}>"


class AccuracyMonitor(_Monitor):
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


class CalibrationMonitor(_Monitor):
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
        stated = check_probabilities(np.atleast_1d(np.asarray(confidence)))
        p = stated.astype(float)
        new = check_outcomes(np.atleast_1d(np.asarray(correct)), len(p))
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


def _exp(log_value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(log_value)


def _read_outcomes(correct: ArrayLike) -> np.ndarray:
    values = np.atleast_1d(np.asarray(correct))
    if not values.size:
        raise ValueError("correct must have at least one outcome; there is none.")
    return check_outcomes(values, len(values))
