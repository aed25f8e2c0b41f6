"""From a hosted model's answers to the probabilities of labels, and their bounds.

An answer expresses a label if its tokens spell it and what must follow does follow.
What was never seen stays open, and no number is made up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from ..answers import Answer, AnswerToken
from ..bounds import LOST, LabelMass, ListedToken, Position
from ..verbalizer import Verbalizer

_BYTES_A_TOKEN = 4  # tokens of common words are longer
_CERTAIN = 1 - 1e-12
_KEPT = 10_000  # beginnings of answers that are looked up once


class _Continuations(NamedTuple):
    texts: tuple[bytes, ...]
    steps: Mapping[bytes, frozenset[int]]
    counts: np.ndarray


@dataclass(frozen=True)
class LabelTexts:
    """Which texts express which label, and what must follow them."""

    labels: tuple[str, ...]
    owners: Mapping[bytes, int]
    ends: tuple[str, ...] = ()
    turn_ends: bool = False
    _seen: dict[bytes, _Continuations] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    @lru_cache(maxsize=16)
    def build(
        cls,
        labels: tuple[str, ...],
        *,
        family: str = "exact",
        spellings: tuple[tuple[str, Sequence[str]], ...] = (),
        after: str = "",
        ends: tuple[str, ...] = (),
        turn_ends: bool = False,
    ) -> LabelTexts:
        """Texts behind a prompt that ends in ``after``; a pair a label's spellings."""
        given = Verbalizer(labels, family=family, spellings=dict(spellings))
        for end in ends:
            if not isinstance(end, str) or not end:
                raise ValueError(f"terminator must not be empty, as in {ends!r}.")
        owners: dict[bytes, int] = {}
        for index, label in enumerate(labels):
            for way in product(given.leads(label, after), given.texts(label)):
                text = "".join(way)
                owner = owners.setdefault(text.encode("utf-8"), index)
                if owner != index:
                    raise ValueError(
                        f"labels {labels[owner]!r} and {label!r} share the text "
                        f"{text!r}; make them differ."
                    )
        found = cls(labels, owners, ends, turn_ends)
        found._check_overlaps()
        return found

    def _check_overlaps(self) -> None:
        for (text, owner), (longer, other) in product(self.owners.items(), repeat=2):
            if other == owner or not longer.startswith(text):
                continue
            rest = longer[len(text) :].decode("utf-8", "replace")
            if not self.has_end or rest.startswith(self.ends):
                raise ValueError(
                    f"label {self.labels[owner]!r} begins label "
                    f"{self.labels[other]!r}, so that an answer could be both. "
                    'Give a terminator, such as terminator="\\n".'
                )

    @property
    def has_end(self) -> bool:
        return bool(self.ends) or self.turn_ends

    def is_end(self, token: ListedToken) -> bool:
        begins = token.text.startswith(self.ends)
        return begins or (self.turn_ends and token.ends_turn)

    def tokens_to_go(self, data: bytes) -> int:
        """How many tokens to ask for behind the beginning of an answer, a guess."""
        longest = max(map(len, self.continuations(data).texts), default=len(data))
        return max(1, -(-(longest - len(data)) // _BYTES_A_TOKEN) + self.has_end)

    def continuations(self, data: bytes) -> _Continuations:
        """How an answer that begins so, up to a token's end, can go on to labels."""
        known = self._seen.get(data)  # in one step: threads share what is built once
        if known is not None:
            return known
        whole, counts = self.owners.get(data), np.zeros(len(self.labels))
        texts = tuple(text for text in self.owners if text.startswith(data))
        if whole is not None and not self.has_end:
            texts = ()
        steps: dict[bytes, frozenset[int]] = {}
        for text in texts:
            for end in range(len(data) + 1, len(text) + 1):
                step = text[len(data) : end]
                steps[step] = steps.get(step, frozenset()) | {self.owners[text]}
        for owned in steps.values():
            counts[list(owned)] += 1
        if whole is not None and self.has_end:
            counts[whole] = np.inf  # nobody knows how many tokens begin with an end
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        found = self._seen[data] = _Continuations(texts, steps, counts)
        return found

    def begun_by(self, data: bytes) -> list[int]:
        """The labels that an answer which begins so can become."""
        return list(np.flatnonzero(self.continuations(data).counts > 0))

    def read(self, answer: Answer) -> int | None:
        """The label that an answer in words is, and nothing else; None if none."""
        said = answer.text.lstrip()
        found = [at for end in self.ends if (at := said.find(end)) >= 0]
        if found:
            said = said[: min(found)]
        elif answer.finish_reason == "length" or (self.ends and not self.turn_ends):
            return None  # it may go on
        forms = {data.decode("utf-8").strip(): at for data, at in self.owners.items()}
        if said.strip() in forms:
            return forms[said.strip()]
        alike = {at for form, at in forms.items() if _bare(form) == _bare(said)}
        return alike.pop() if len(alike) == 1 else None


def _bare(text: str) -> str:
    marks = " \t\r\n\"'`*_“”"
    return text.strip(marks).removesuffix(".").strip(marks)


class LabelTree:
    """All positions seen in the answers to one text, by what stood before them."""

    def __init__(self, texts: LabelTexts) -> None:
        self.texts = texts
        self._positions: dict[bytes, Position] = {}
        self._asked: set[bytes] = set()

    @property
    def is_certain(self) -> bool:
        first = self._positions.get(b"")
        return first is not None and any(seen.p >= _CERTAIN for seen in first.tokens)

    def add(self, prefix: bytes, tokens: Sequence[AnswerToken]) -> str | None:
        """Take in an answer begun so; its later tokens tell how it goes on itself."""
        self._asked.add(prefix)
        data = prefix
        for token in tokens:
            if not self.texts.continuations(data).texts:
                break
            position = Position.read(token.top, token.chosen)
            if position.tokens or position.problem:
                self._positions.setdefault(data, position)
            own = position.own
            if position.problem or own is None or not own.data or _is_lost(token):
                return position.problem
            data += own.data
        return None

    def mass(self) -> LabelMass:
        mass, waiting = LabelMass(len(self.texts.labels)), {b"": 1.0}
        owners, branches = self.texts.owners, []
        while waiting:
            # What comes to the same text in several ways does so before it is read.
            data = min(waiting, key=len)
            p = waiting.pop(data)
            position = self._positions.get(data)
            if position is None:
                mass.open(p, self.texts.begun_by(data))
                is_text = data.decode("utf-8", "ignore").encode() == data
                if data not in self._asked and is_text:
                    branches.append((data, p))
                continue
            mass.leave(p * position.rest, p * self._room(data, position))
            for seen in position.tokens:
                q, after = p * seen.p, data + seen.data
                if data in owners and self.texts.is_end(seen.token):
                    mass.lower[owners[data]] += q
                elif _is_lost(seen.token):
                    cut = after.index(LOST.encode(), len(data))
                    mass.open(q, self.texts.begun_by(after[:cut]))
                elif seen.data and after in owners and not self.texts.has_end:
                    mass.lower[owners[after]] += q
                elif seen.data and self.texts.continuations(after).texts:
                    waiting[after] = waiting.get(after, 0.0) + q
                else:
                    mass.off_list += q
        mass.branches = tuple(sorted(branches, key=lambda branch: -branch[1]))
        return mass

    def _room(self, data: bytes, position: Position) -> np.ndarray:
        """The most that unlisted tokens can bring each label, at one position."""
        found = self.texts.continuations(data)
        counts = found.counts.copy()
        for step in {seen.data for seen in position.tokens}:
            counts[list(found.steps.get(step, ()))] -= 1
        if not position.least:
            return np.where(counts > 0, position.rest, 0.0)
        return np.minimum(position.rest, counts * position.least)


def _is_lost(token: ListedToken | AnswerToken) -> bool:
    """Whether it holds a part of a character, from a server that sends no bytes."""
    return token.bytes is None and LOST in token.text


@dataclass(frozen=True)
class HostedScores:
    """Label probabilities of texts and their bounds; what is not known is NaN."""

    columns: ClassVar[tuple[str, ...]] = (
        *("decided", "unlisted", "off_list", "unresolved", "calls"),
    )
    _kinds: ClassVar[dict[str, Any]] = {
        "best": int,
        "calls": int,
        "decided": bool,
        "problems": object,
    }

    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    best: np.ndarray
    decided: np.ndarray
    off_label: np.ndarray
    off_list: np.ndarray
    unlisted: np.ndarray
    unresolved: np.ndarray
    calls: np.ndarray
    problems: np.ndarray

    @classmethod
    def _of(cls, shares: np.ndarray, **known: Any) -> Self:
        n, gaps = len(shares), ("off_label", "off_list", "unlisted", "unresolved")
        parts: dict[str, Any] = {
            "shares": shares,
            "low": np.zeros_like(shares),
            "high": np.ones_like(shares),
            "best": np.where(np.isnan(shares[:, 0]), -1, shares.argmax(axis=1)),
            "decided": [False] * n,
            **dict.fromkeys(gaps, np.full(n, np.nan)),
            **known,
        }
        arrays: dict[str, Any] = {
            name: np.asarray(part, cls._kinds.get(name, float))
            for name, part in parts.items()
        }
        return cls(**arrays)

    @classmethod
    def of_masses(
        cls,
        found: Sequence[LabelMass],
        n_labels: int,
        calls: Sequence[int],
        problems: Sequence[str | None],
    ) -> Self:
        """Scores from what lists of tokens hold, and what they leave open."""
        limits = [mass.limits(range(n_labels)) for mass in found]
        names = ("lower", "lower_share", "upper_share")
        lower, low, high = (
            np.reshape([ends[name] for ends in limits], (-1, n_labels))
            for name in names
        )
        total = lower.sum(axis=1)
        shares = np.where(total > 0, lower.T / np.where(total > 0, total, 1), np.nan).T
        gaps = ("off_list", "unlisted", "unresolved")
        return cls._of(
            shares,
            problems=_told(
                problems, total, "The server lists nothing that is a label."
            ),
            low=np.fmin(low, shares),  # what rounding takes off an end
            high=np.fmax(high, shares),
            decided=[ends["decided"] for ends in limits],
            calls=calls,
            off_label=np.clip(1 - total, 0, 1),
            **{name: [getattr(mass, name) for mass in found] for name in gaps},
        )

    @classmethod
    def of_votes(
        cls, counts: np.ndarray, calls: Sequence[int], problems: Sequence[str | None]
    ) -> Self:
        """Scores from counted answers: a column for each label, the last for none."""
        votes, answers = counts[:, :-1], counts.sum(axis=1)
        valid = votes.sum(axis=1, keepdims=True)
        shares = np.where(valid, votes / np.maximum(valid, 1), np.nan)
        low, high = proportion_confint(votes, np.maximum(valid, 1), method="wilson")
        low = np.where(valid, np.clip(low, 0, shares), 0.0)
        high = np.where(valid, np.clip(high, shares, 1), 1.0)
        none = np.where(answers, counts[:, -1] / np.maximum(answers, 1), np.nan)
        return cls._of(
            shares,
            problems=_told(problems, valid[:, 0], "No answer is a label."),
            low=low,
            high=high,
            decided=[
                LabelMass.leader(*ends)[1] for ends in zip(low, high, strict=True)
            ],
            calls=calls,
            off_label=none,
        )

    @classmethod
    def of_reports(
        cls,
        given: Sequence[int | None],
        reports: Sequence[float],
        problems: Sequence[str | None],
        n_labels: int,
    ) -> Self:
        """Scores from labels in words, and how sure the model says it is of them."""
        best = np.array([-1 if label is None else label for label in given], int)
        report = np.where(best < 0, np.nan, reports)[:, None]
        others = (1 - report) / (n_labels - 1)
        shares = np.where(np.arange(n_labels) == best[:, None], report, others)
        calls = np.where(best < 0, 1, 2)
        return cls._of(shares, problems=problems, best=best, calls=calls)

    @property
    def known(self) -> np.ndarray:
        return ~np.isnan(self.shares[:, 0])

    def take(self, rows: Sequence[int]) -> Self:
        at = np.asarray(rows, dtype=np.intp)
        return type(self)(**{name: part[at] for name, part in vars(self).items()})


def _told(
    problems: Sequence[str | None], known: Sequence[float], why: str
) -> list[str | None]:
    """Problems, and why nothing is known where nothing is."""
    pairs = zip(problems, known, strict=True)
    return [problem or (None if n else why) for problem, n in pairs]
