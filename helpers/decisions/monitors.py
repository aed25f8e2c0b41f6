"""Whether a promise still holds: sequential tests to look at after every item."""

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

from ..calibration.files import Stored
from ..checks import (
    check_between,
    check_choice,
    check_count,
    check_not_fitted_on,
    check_not_negative,
    check_outcomes,
    check_rows,
)
from ..files import read_json, write_json
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
    """A monitor's settings and outcomes."""

    format: Literal["helpers.monitoring/2"]
    kind: str = Field(alias="class")
    settings: dict[str, Any]
    confidence: list[float] | None
    correct: Annotated[str, Field(pattern="^[01]*$")]


class _Monitor:
    """What both monitors share; ``alarm_at`` is the item at the alarm, or None."""

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

        Columns: ``item`` (from 1), ``right`` and ``accuracy`` so far, ``e_value``, and
        ``lower`` and ``upper``, a confidence sequence at level 1 - alpha for the mean
        probability of being right so far.
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
        """Settings and outcomes as a JSON-serialisable dict, for :meth:`from_dict`."""
        return {
            "format": "helpers.monitoring/2",
            "class": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self._settings},
            "confidence": None,
            "correct": "".join(map(str, self._right)),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The monitor that ``to_dict`` described; ValueError if it is not whole."""
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
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the monitor to a JSON file."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the monitor that ``save`` wrote; ValueError if it is not whole."""
        return read_json(path, cls.from_dict)

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
        return self._add(new, log_wealth(right, n, self.promised))


class CalibrationMonitor(_Monitor):
    """Whether confidences are still calibrated, or at least not overconfident.

    While each item is right with its confidence as probability (or more, one-sided), an
    alarm is ever raised with probability at most ``alpha``. Overconfidence in one place
    and underconfidence in another may pass unnoticed.

    Parameters
    ----------
    alpha : float, default=0.05
        Largest probability of a false alarm, in (0, 1).
    alternative : {"overconfident", "two-sided"}, default="overconfident"
        Whether to bet on fewer right outcomes than promised, or on fewer and on more.
    clip : float, default=0.001
        Confidences are clipped to at most 1 - ``clip``, or at least ``clip`` in bets on
        more. In [0, 1/2). With 0, one wrong item of confidence 1 is proof.

    Examples
    --------
    >>> monitor = CalibrationMonitor()
    >>> monitor.update([0.9, 0.8, 0.95, 0.9], [True, True, False, True])
    False
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
        """Take in confidences and outcomes in order; True once an alarm was raised."""
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
        """As :meth:`AccuracyMonitor.table`, with ``mean_confidence`` so far."""
        table = super().table(every=every)
        item = table["item"].to_numpy()
        stated = np.cumsum(np.asarray(self._confidence, dtype=float))[item - 1] / item
        table.insert(3, "mean_confidence", stated)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Settings and outcomes as a JSON-serialisable dict, for :meth:`from_dict`."""
        return super().to_dict() | {"confidence": self._confidence.tolist()}


def _exp(log_value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(log_value)
