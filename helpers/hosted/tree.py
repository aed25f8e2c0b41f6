"""From answers to one text to what is known of each label's probability.

A label is a text, and an answer expresses it where its tokens, put together, are that
text, and what must follow does follow. Every position of every answer says how such
ways go on; what was never seen stays open, and no number is made up for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bounds import ListedToken, Position, read_position
from .answers import AnswerToken
from .spelling import LabelTexts

_LOST = "\ufffd"  # a part of a character, from a server that sends no bytes


@dataclass(frozen=True)
class LabelMass:
    """What is known of the labels' probabilities, and what is open."""

    lower: np.ndarray
    gain: np.ndarray
    others: np.ndarray
    off_list: float
    unlisted: float
    unresolved: float
    branches: tuple[tuple[bytes, float], ...]


class LabelTree:
    """All positions seen in the answers to one text, by what stood before them."""

    def __init__(self, texts: LabelTexts) -> None:
        self.texts = texts
        self._positions: dict[bytes, Position] = {}
        self._asked: set[bytes] = set()

    @property
    def is_certain(self) -> bool:
        """Whether one token has all the probability at the first position."""
        first = self._positions.get(b"")
        return (
            first is not None and max(map(_p, first.tokens), default=0.0) >= 1 - 1e-12
        )

    def add(self, prefix: bytes, tokens: Sequence[AnswerToken]) -> str | None:
        """Take in an answer begun so; its later tokens tell how its own way goes on."""
        self._asked.add(prefix)
        data = prefix
        for token in tokens:
            if not self.texts.ways(data).texts:
                break
            chosen = ListedToken(token.text, token.logprob, token.bytes)
            position = read_position([ListedToken(*top) for top in token.top], chosen)
            if position.tokens or position.problem:
                self._positions.setdefault(data, position)
            if position.problem:
                return position.problem
            if not chosen.data or _is_lost(chosen):
                break
            data += chosen.data
        return None

    def mass(self) -> LabelMass:
        """Add up what is known."""
        total = _Total(self.texts)
        waiting, branches = {b"": 1.0}, {}
        while waiting:
            # Ways that come to the same text do so before it is looked at.
            data = min(waiting, key=len)
            mass = waiting.pop(data)
            position = self._positions.get(data)
            if position is None:
                branches[data] = mass
                total.open(data, mass)
                continue
            total.unlisted += mass * position.rest
            total.share(mass * position.rest, mass * self._room(data, position))
            for token in position.tokens:
                after = total.settle(data, token, mass * _p(token))
                if after is not None:
                    waiting[after] = waiting.get(after, 0.0) + mass * _p(token)
        askable = [
            (data, mass)
            for data, mass in branches.items()
            if data not in self._asked and _is_text(data)
        ]
        return LabelMass(
            total.lower,
            total.gain,
            total.others,
            total.off_list,
            total.unlisted,
            sum(branches.values()) + total.lost,
            tuple(sorted(askable, key=lambda branch: -branch[1])),
        )

    def _room(self, data: bytes, position: Position) -> np.ndarray:
        """The most that unlisted tokens can bring each label, at one position."""
        ways = self.texts.ways(data)
        counts = ways.counts.copy()
        for step in {token.data for token in position.tokens}:
            counts[list(ways.steps.get(step, ()))] -= 1
        if not position.least:
            return np.where(counts > 0, position.rest, 0.0)
        return np.minimum(position.rest, counts * position.least)


class _Total:
    """Probability as it is found to be somebody's, or nobody's."""

    def __init__(self, texts: LabelTexts) -> None:
        self.texts = texts
        n = len(texts.labels)
        self.lower, self.gain, self.others = np.zeros(n), np.zeros(n), np.zeros(n)
        self.off_list = self.unlisted = self.lost = 0.0

    def settle(self, data: bytes, token: ListedToken, mass: float) -> bytes | None:
        """Count a token behind the beginning of an answer; its end, if it goes on."""
        owners, after = self.texts.owners, data + token.data
        if data in owners and self.texts.is_end(token):
            self.lower[owners[data]] += mass
        elif _is_lost(token):
            cut = data + token.text[: token.text.index(_LOST)].encode("utf-8")
            if self.texts.ways(cut).texts:
                self.lost += mass
                self.open(cut, mass)
            else:
                self.off_list += mass
        elif not token.data:
            self.off_list += mass
        elif after in owners and not self.texts.has_end:
            self.lower[owners[after]] += mass
        elif self.texts.ways(after).texts:
            return after
        else:
            self.off_list += mass
        return None

    def open(self, data: bytes, mass: float) -> None:
        """Probability of which only the beginning is known."""
        self.share(mass, np.where(self.texts.ways(data).counts > 0, mass, 0.0))

    def share(self, mass: float, most: np.ndarray) -> None:
        """Probability that labels share in a way not known, each at most so much."""
        self.gain += most
        self.others += np.minimum(mass, most.sum() - most)


def _p(token: ListedToken) -> float:
    return token.probability or 0.0


def _is_lost(token: ListedToken) -> bool:
    return token.bytes is None and _LOST in token.text


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
