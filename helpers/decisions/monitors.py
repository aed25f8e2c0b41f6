"""Whether a promise still holds: sequential tests to look at after every item.

Each of 64 gamblers believes that the log-odds of being right are off by one shift, and
all start with a share of a wealth of 1. Their bets are fair while the promise holds, so
by Ville's inequality the wealth ever reaches 1 / alpha with probability at most alpha.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field

from ..calibration.files import Stored
from ..checks import (
    check_between,
    check_count,
    check_not_fitted_on,
    check_not_negative,
    check_outcomes,
    check_rows,
)
from ..files import read_json, write_json

_SHIFTS = np.geomspace(0.02, 8, 64)
# Half-Cauchy with the median 1/2, by the trapezoidal rule.
_SHARES = _SHIFTS / (0.25 + _SHIFTS**2)
_SHARES[[0, -1]] /= 2
_SHARES /= _SHARES.sum()
_ROWS = 4096  # so many rows by 64 shifts at a time stay small in memory
_HALVINGS = 30  # to one in a thousand million, rounded outward


class _Course(Stored):
    """A monitor's settings and outcomes."""

    format: Literal["helpers.monitoring/2", "helpers.monitoring/3"]
    kind: str = Field(alias="class")
    settings: dict[str, Any]
    confidence: list[float] | None
    correct: Annotated[str, Field(pattern="^[01]*$")]


class _Monitor:
    """What both monitors share; ``alarm_at`` is the item at the alarm, or None."""

    _settings: ClassVar[tuple[str, ...]]
    _confidence: array[float] | None = None

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
        """The wealth after the last item; it may fall again."""
        return float(_exp(self._log_e[-1])) if self._log_e else 1.0

    @property
    def p_value(self) -> float:
        """One over the largest wealth so far: a p-value valid at any time."""
        return math.exp(-max(0.0, max(self._log_e, default=0.0)))

    @property
    def alarm(self) -> bool:
        """Whether the wealth ever reached 1 / alpha; once True, it stays True."""
        return self.alarm_at is not None

    def table(self, *, every: int = 1) -> pd.DataFrame:
        """The course so far, a row for every so many items and for the last.

        Columns: ``item`` (from 1), ``right`` and ``accuracy`` so far, for a
        :class:`CalibrationMonitor` ``mean_confidence``, ``e_value``, and ``lower`` and
        ``upper``, a confidence sequence at level 1 - alpha for the mean probability of
        being right so far.
        """
        check_count("every", every)
        item = np.arange(every, self.n + 1, every)
        if self.n % every:
            item = np.append(item, self.n)
        right = np.cumsum(np.frombuffer(self._right, dtype=np.uint8), dtype=int)
        right = right[item - 1]
        columns = {"item": item, "right": right, "accuracy": right / item}
        if self._confidence is not None:
            stated = np.cumsum(np.asarray(self._confidence, dtype=float))
            columns["mean_confidence"] = stated[item - 1] / item
        columns["e_value"] = _exp(np.asarray(self._log_e)[item - 1])
        # Accuracies against which no wealth has grown large.
        columns["lower"] = 1 - _upper(item - right, item, self.alpha / 2)
        columns["upper"] = _upper(right, item, self.alpha / 2)
        return pd.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """Settings and outcomes as a JSON-serialisable dict, for :meth:`from_dict`."""
        stated = self._confidence
        return {
            "format": "helpers.monitoring/3",
            "class": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self._settings},
            "confidence": None if stated is None else stated.tolist(),
            "correct": "".join(map(str, self._right)),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The monitor that ``to_dict`` described; ValueError if it is not whole."""
        found = _Course.read(stored)
        if found.settings.get("alternative") == "overconfident":  # of format 2
            del found.settings["alternative"]
        if (found.kind, set(found.settings)) != (cls.__name__, set(cls._settings)):
            raise ValueError(
                f"class and settings must be {cls.__name__} with {cls._settings}, not "
                f"{found.kind} with {tuple(found.settings)}."
            )
        monitor = cls(**found.settings)
        if (found.confidence is None) != (monitor._confidence is None):
            raise ValueError(f"confidence is not as of {cls.__name__}.")
        correct = [digit == "1" for digit in found.correct]
        if correct:
            stated = () if found.confidence is None else (found.confidence,)
            monitor.update(*stated, correct)
        return monitor

    def update(self, *items: Any) -> bool:
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the monitor to a JSON file."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the monitor that ``save`` wrote; ValueError if it is not whole."""
        return read_json(path, cls.from_dict)

    def _add(self, correct: np.ndarray, log_e: np.ndarray) -> bool:
        over = np.flatnonzero(log_e >= -math.log(self.alpha))
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

    While the average accuracy so far is at least ``promised``, an alarm is ever raised
    with probability at most ``alpha``, however often one looks (Waudby-Smith and
    Ramdas, JRSS B 86, 2024). A long good past delays it (see :func:`detection_delay`):
    start a new monitor each week or month.

    Parameters
    ----------
    promised : float
        The accuracy promised, in (0, 1).
    alpha : float, default=0.05
        Largest probability of a false alarm, in (0, 1).

    Examples
    --------
    >>> monitor = AccuracyMonitor(0.95)
    >>> monitor.update([True] * 18 + [False] * 6), monitor.alarm_at
    (True, 24)
    """

    _settings = ("promised", "alpha")

    def __init__(self, promised: float, *, alpha: float = 0.05) -> None:
        self.promised = check_between("promised", promised, 0, 1)
        super().__init__(alpha=alpha)

    def update(self, correct: ArrayLike) -> bool:
        """Take in outcomes, 1 or 0, in order; True once an alarm has been raised."""
        new = check_outcomes(np.atleast_1d(correct))
        if not len(new):
            raise ValueError("correct must have at least one outcome; there is none.")
        right = self.n_right + np.cumsum(new)
        n = self.n + np.arange(1, len(new) + 1)
        return self._add(new, _log_wealth(right, n, self.promised))


class CalibrationMonitor(_Monitor):
    """Whether confidences are still no higher than they should be.

    While each item is right with its confidence as probability, or more, an alarm is
    ever raised with probability at most ``alpha``. Overconfidence in one place and
    underconfidence in another may pass unnoticed.

    Parameters
    ----------
    alpha : float, default=0.05
        Largest probability of a false alarm, in (0, 1).
    clip : float, default=0.001
        Confidences count as at most 1 - ``clip``; in [0, 1/2). With 0, one wrong item
        of confidence 1 is proof.

    Examples
    --------
    >>> monitor = CalibrationMonitor()
    >>> monitor.update([0.9, 0.8, 0.95, 0.9], [True, True, False, True])
    False
    """

    _settings = ("alpha", "clip")
    _confidence: array[float]

    def __init__(self, *, alpha: float = 0.05, clip: float = 0.001) -> None:
        super().__init__(alpha=alpha)
        self.clip = check_not_negative("clip", clip, below=0.5)
        self._log_wealths = np.log(_SHARES)
        self._confidence = array("d")

    def update(self, confidence: ArrayLike, correct: ArrayLike) -> bool:
        """Take in confidences and outcomes in order; True once an alarm was raised."""
        if np.ndim(confidence) == 0:
            confidence, correct = np.atleast_1d(confidence), np.atleast_1d(correct)
        stated, new, _ = check_rows(confidence, correct)
        check_not_fitted_on(confidence, "confidence")
        p = stated.astype(float)
        most = np.minimum(p, 1 - self.clip)
        log_e = np.empty(len(p))
        for start in range(0, len(p), _ROWS):
            part = slice(start, start + _ROWS)
            won = _log_won(new[part], 1, most[part], -_SHIFTS)
            grown = np.cumsum(np.vstack([self._log_wealths, won]), axis=0)[1:]
            log_e[part] = _log_sum(grown)
            self._log_wealths = grown[-1]
        refuted = (most == 1) & ~new
        refuted[0] |= self._log_e[-1:] == array("d", [math.inf])
        log_e[np.logical_or.accumulate(refuted)] = math.inf
        self._confidence.extend(p)
        return self._add(new, log_e)


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
        wealth = _log_wealth(items - middle, items, promised)
        alarm = wealth >= -math.log(alpha)
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


def _exp(log_value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(log_value)


def _log_won(right: Any, n: Any, p: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Logarithm of what each gambler won by n items of a probability."""
    return np.outer(right, shifts) - n * np.log1p(np.outer(p, np.expm1(shifts)))


def _log_sum(log_wealths: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of each row's wealths."""
    # Several times as fast as SciPy's.
    top = log_wealths.max(axis=1)
    return top + np.log(np.exp(log_wealths - top[:, None]).sum(axis=1))


def _log_wealth(
    right: np.ndarray, n: np.ndarray, promised: float | np.ndarray
) -> np.ndarray:
    """Logarithm of the wealth against an accuracy of at least what was promised."""
    against = np.broadcast_to(promised, np.shape(right))
    found = np.empty(len(right))
    for start in range(0, len(right), _ROWS):
        part = slice(start, start + _ROWS)
        won = _log_won(right[part], n[part, None], against[part], -_SHIFTS)
        found[part] = _log_sum(won + np.log(_SHARES))
    return found


def _upper(right: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    # The wealth grows with the accuracy it bets against, and is at most 1 at s / n.
    low, high = right / n, np.ones(len(n))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = _log_wealth(right, n, middle) >= -math.log(alpha)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return high
