"""Whether a promise still holds: tests to look at after every item.

Somebody checks a random part of what a policy accepted, and each check is right or
wrong. A test made for one look at a fixed number of checks raises false alarms when it
is looked at again and again. A monitor may be looked at after every item, and stopped
at any time. It bets against the promise (``betting``), and the wealth that it has won
by then is the evidence against it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field

from ..calibration.files import Stored, load
from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_not_fitted_on,
    check_not_negative,
    check_outcomes,
    check_rows,
)
from ..files import write_json
from .betting import (
    ROWS,
    SHARES,
    SHIFTS,
    confidence_sequence,
    is_enough,
    log_factors,
    log_sum,
    log_wealth,
)


class _Course(Stored):
    """A monitor's settings and all items that it saw; the rest follows from these."""

    format: Literal["helpers.monitoring/2"]
    kind: str = Field(alias="class")
    settings: dict[str, Any]
    confidence: list[float] | None
    correct: Annotated[str, Field(pattern="^[01]*$")]


class _Monitor:
    """What both monitors share: outcomes, wealth after each, and what follows.

    Attributes
    ----------
    alarm_at : int or None
        How many items had been seen when the alarm was raised; None without one.
    """

    _settings: ClassVar[tuple[str, ...]]

    def __init__(self, *, alpha: float) -> None:
        self.alpha = check_between("alpha", alpha, 0, 1)
        self._right = bytearray()
        self._log_e = array("d")
        self.alarm_at: int | None = None

    @property
    def n(self) -> int:
        """Number of items seen."""
        return len(self._right)

    @property
    def n_right(self) -> int:
        """Number of items that were right."""
        return self._right.count(1)

    @property
    def e_value(self) -> float:
        """The wealth after the last item; infinite where it is too large for a float.

        It may fall again; ``p_value`` and ``alarm`` remember its maximum.
        """
        return float(_exp(self._log_e[-1])) if self._log_e else 1.0

    @property
    def p_value(self) -> float:
        """One over the largest wealth so far: a p-value, whenever one looks."""
        return math.exp(-max(0.0, max(self._log_e, default=0.0)))

    @property
    def alarm(self) -> bool:
        """Whether the wealth ever reached 1 / alpha; once True, it stays True."""
        return self.alarm_at is not None

    def table(self, *, every: int = 1) -> pd.DataFrame:
        """The course so far, for a figure.

        Parameters
        ----------
        every : int, default=1
            One row for so many items; the last item always has one.

        Returns
        -------
        pandas.DataFrame
            ``item`` (from 1), ``right`` and ``accuracy`` (so far), ``e_value``, and
            ``lower`` and ``upper``, a confidence sequence of level 1 - alpha: with at
            least that probability it holds, after every item at once, the mean over the
            items so far of the probability, given the past, that each would be right.
            Where accuracy drifts, today's may be outside.
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
        """Settings and every item, as plain JSON, for :meth:`from_dict`."""
        return {
            "format": "helpers.monitoring/2",
            "class": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self._settings},
            "confidence": None,
            "correct": "".join(map(str, self._right)),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The monitor that ``to_dict`` described, to go on where it stood.

        A ValueError says what is wrong if it is none, or not whole.
        """
        found = _Course.read(stored)
        for name, value, due in (
            ("class", found.kind, cls.__name__),
            ("settings", sorted(found.settings), sorted(cls._settings)),
            ("confidence", found.confidence is None, cls is AccuracyMonitor),
        ):
            if value != due:
                due = "left out" if due is True else due or "given"
                raise ValueError(f"{name} must be {due}, as of {cls.__name__}.")
        monitor = cls(**found.settings)
        correct = [digit == "1" for digit in found.correct]
        if correct:
            stated = () if found.confidence is None else (found.confidence,)
            monitor.update(*stated, correct)
        return monitor

    def update(self, *items: Any) -> bool:
        """Take in the next items."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the monitor to a JSON file, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The monitor that ``save`` wrote; ValueError where the file holds none."""
        return load(path, cls.from_dict)

    def _add(self, correct: np.ndarray, log_e: np.ndarray) -> bool:
        over = np.flatnonzero(is_enough(log_e, self.alpha))
        if self.alarm_at is None and len(over):
            self.alarm_at = self.n + 1 + int(over[0])
        self._right += correct.astype(np.uint8).tobytes()
        self._log_e.extend(log_e)
        return self.alarm

    def __repr__(self) -> str:
        settings = [f"{name}={getattr(self, name)!r}" for name in self._settings]
        state = f"{self.n_right} of {self.n} right, e-value {self.e_value:.3g}"
        alarm = f", alarm at item {self.alarm_at}" if self.alarm else ""
        return f"<{type(self).__name__}({', '.join(settings)}): {state}{alarm}>"


class AccuracyMonitor(_Monitor):
    """Whether accepted items are still right as often as promised.

    The promise: given all that came before, each item is right with a probability of
    at least ``promised``. While it holds, or while the *average* accuracy so far does,
    an alarm is ever raised with a probability of at most ``alpha``, however often one
    looks. So a long good past delays the alarm, and :func:`detection_delay` says how
    much: start a new monitor each week or month where a fall should be found soon. A
    fall in log-odds of less than 0.01 may never be found.

    Parameters
    ----------
    promised : float
        Between 0 and 1, without the ends.
    alpha : float, default=0.05
        Largest probability of a false alarm, between 0 and 1.

    References
    ----------
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting,
    Journal of the Royal Statistical Society B 86, 2024.

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

    _settings = ("promised", "alpha")

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
        """
        new = check_outcomes(np.atleast_1d(correct))
        if not len(new):
            raise ValueError("correct must have at least one outcome; there is none.")
        right = self.n_right + np.cumsum(new)
        n = self.n + np.arange(1, len(new) + 1)
        return self._add(new, log_wealth(right, n, self.promised))


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
        Bets on fewer are made against min(p, 1 - ``clip``), those on more against
        max(p, ``clip``): who promises p promises these, too. 0 or more, below 1/2.
        With 0, a wrong item of confidence 1 is proof, though isotonic calibration and
        rounding give 1 that nobody meant so.

    References
    ----------
    As for :class:`AccuracyMonitor`.

    Examples
    --------
    >>> monitor = CalibrationMonitor()
    >>> monitor.update([0.9, 0.8, 0.95, 0.9], [True, True, False, True])
    False
    >>> monitor.update(1.0, False), round(monitor.e_value, 1), monitor.alarm_at
    (False, 2.5, None)
    """

    _settings = ("alpha", "alternative", "clip")

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        alternative: Literal["overconfident", "two-sided"] = "overconfident",
        clip: float = 0.001,
    ) -> None:
        super().__init__(alpha=alpha)
        choices = ("overconfident", "two-sided")
        self.alternative = check_choice("alternative", alternative, choices)
        self.clip = check_not_negative("clip", clip, below=0.5)
        self._two_sided = self.alternative == "two-sided"
        shares = np.tile(SHARES, 2) / 2 if self._two_sided else SHARES
        self._log_wealths = np.log(shares)
        self._confidence = array("d")

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
        """
        if np.ndim(confidence) == 0:
            confidence, correct = np.atleast_1d(confidence), np.atleast_1d(correct)
        stated, new, _ = check_rows(confidence, correct)
        check_not_fitted_on(confidence, "confidence")
        p = stated.astype(float)
        most, least = np.minimum(p, 1 - self.clip), np.maximum(p, self.clip)
        log_e = np.empty(len(p))
        for start in range(0, len(p), ROWS):
            part = slice(start, start + ROWS)
            won = log_factors(most[part], new[part], -SHIFTS)
            if self._two_sided:
                more = log_factors(least[part], new[part], SHIFTS)
                won = np.hstack([won, more])
            grown = np.cumsum(np.vstack([self._log_wealths, won]), axis=0)[1:]
            log_e[part] = log_sum(grown)
            self._log_wealths = grown[-1]
        refuted = ((most == 1) & ~new) | (self._two_sided & (least == 0) & new)
        refuted[0] |= self._log_e[-1:] == array("d", [math.inf])
        log_e[np.logical_or.accumulate(refuted)] = math.inf
        self._confidence.extend(p)
        return self._add(new, log_e)

    def table(self, *, every: int = 1) -> pd.DataFrame:
        """The course so far, for a figure.

        Parameters
        ----------
        every : int, default=1
            One row for so many items; the last item always has one.

        Returns
        -------
        pandas.DataFrame
            As that of :class:`AccuracyMonitor`, with ``mean_confidence`` so far, as
            stated, after ``accuracy``.
        """
        table = super().table(every=every)
        item = table["item"].to_numpy()
        stated = np.cumsum(np.asarray(self._confidence, dtype=float))[item - 1] / item
        table.insert(3, "mean_confidence", stated)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Settings and every item, as plain JSON, for :meth:`from_dict`."""
        return super().to_dict() | {"confidence": self._confidence.tolist()}


def _exp(log_value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(log_value)
