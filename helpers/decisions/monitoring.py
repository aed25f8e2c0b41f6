"""Whether a promise still holds: tests to look at after every item.

Somebody checks a random part of what a policy accepted, and each check is right or
wrong. A test made for one look at a fixed number of checks raises false alarms when it
is looked at again and again. A monitor may be looked at after every item, and stopped
at any time, for as long as one likes.

Monitors bet against the promise (``betting``), and the wealth that they have won by
then is the evidence against it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..calibration.files import load, write_json
from ..checks import check_between, check_count
from ..metrics import Interval
from .betting import confidence_sequence, is_enough

_FORMAT = "helpers.monitoring/1"


class Monitor:
    """What both monitors share: outcomes, wealth after each, and what follows."""

    _fields: tuple[str, ...] = ()
    _columns: tuple[str, ...] = ("correct",)

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
        for name, word in (("format", _FORMAT), ("class", cls.__name__)):
            if stored.get(name) != word:
                raise ValueError(f"{name} must be {word!r}, not {stored.get(name)!r}.")
        due = {"format", "class", *cls._fields, *cls._columns}
        for name in sorted(due ^ set(stored)):
            must = "must" if name in due else "must not"
            raise ValueError(f"stored {must} have the field {name!r}.")
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
        return load(path, cls.from_dict)

    @classmethod
    def _replayed(cls, stored: Mapping[str, Any], correct: np.ndarray) -> Self:
        raise NotImplementedError

    def _add(self, correct: np.ndarray, log_e: np.ndarray) -> bool:
        if self._alarm_at is None:
            over = np.flatnonzero(is_enough(log_e, self.alpha))
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


def _exp(log_value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(log_value)
