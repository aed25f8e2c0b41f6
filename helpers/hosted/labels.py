"""From a hosted model's answers to the probabilities of labels, and their limits.

A label is a text, and an answer expresses it where its tokens, put together, are that
text, and what must follow does follow. Every position of every answer tells how such
beginnings go on; what was never seen stays open, and no number is made up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ..answers import Answer, AnswerToken
from ..bounds import LOST, LabelMass, ListedToken, Position
from ..verbalizer import Verbalizer

_BYTES_A_TOKEN = 4  # tokens of common words are longer
_CERTAIN = 1 - 1e-12


@dataclass(frozen=True)
class _Continuations:
    """How the beginning of an answer can go on towards labels."""

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
    def build(
        cls,
        labels: Sequence[str],
        *,
        family: str = "exact",
        spellings: Mapping[str, Sequence[str]] | None = None,
        after: str = "",
        ends: Sequence[str] = (),
        turn_ends: bool = False,
    ) -> LabelTexts:
        """The texts of a spelling family, or an error where they overlap."""
        given = Verbalizer(labels, family=family, spellings=spellings or {})
        for end in ends:
            if not isinstance(end, str) or not end:
                raise ValueError(f"terminator must not be empty, as in {ends!r}.")
        owners: dict[bytes, int] = {}
        for index, label in enumerate(given.labels):
            for before, form in product(given.leads(label, after), given.texts(label)):
                owner = owners.setdefault((before + form).encode("utf-8"), index)
                if owner != index:
                    raise ValueError(
                        f"labels {given.labels[owner]!r} and {label!r} share the text "
                        f"{before + form!r}; make them differ."
                    )
        found = cls(tuple(given.labels), owners, tuple(ends), turn_ends)
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
        """Whether something must follow a label."""
        return bool(self.ends) or self.turn_ends

    def is_end(self, token: ListedToken) -> bool:
        """Whether a token is one that may follow a label."""
        begins = token.text.startswith(self.ends)
        return begins or (self.turn_ends and token.ends_turn)

    def tokens_to_go(self, data: bytes) -> int:
        """How many tokens to ask for behind the beginning of an answer, a guess."""
        longest = max(map(len, self.continuations(data).texts), default=len(data))
        return max(1, -(-(longest - len(data)) // _BYTES_A_TOKEN) + self.has_end)

    def continuations(self, data: bytes) -> _Continuations:
        """How an answer that begins so, up to a token's end, can go on to labels."""
        if data in self._seen:
            return self._seen[data]
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
        found = self._seen[data] = _Continuations(texts, steps, counts)
        return found

    def read(self, answer: Answer) -> int | None:
        """The label that an answer without log-probabilities is; None if it is none.

        It must be the label and nothing else, but for white space, quotes, Markdown
        and a full stop. A label in a sentence may be denied there, or be one of
        several.
        """
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
        """Whether one token has all the probability at the first position."""
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
        """Add up what is known."""
        mass, waiting = LabelMass(len(self.texts.labels)), {b"": 1.0}
        branches = []
        while waiting:
            # What comes to the same text in several ways does so before it is read.
            data = min(waiting, key=len)
            p = waiting.pop(data)
            position = self._positions.get(data)
            if position is None:
                self._open(mass, data, p)
                if data not in self._asked and _is_text(data):
                    branches.append((data, p))
                continue
            mass.leave(p * position.rest, p * self._room(data, position))
            for seen in position.tokens:
                after = self._settle(mass, data, seen.token, seen.data, p * seen.p)
                if after is not None:
                    waiting[after] = waiting.get(after, 0.0) + p * seen.p
        mass.branches = tuple(sorted(branches, key=lambda branch: -branch[1]))
        return mass

    def _settle(
        self, mass: LabelMass, begun: bytes, token: ListedToken, data: bytes, p: float
    ) -> bytes | None:
        """Count a token behind the beginning of an answer; its end, if it goes on."""
        owners, after = self.texts.owners, begun + data
        owner = None
        if begun in owners and self.texts.is_end(token):
            owner = owners[begun]
        elif _is_lost(token):
            self._open(mass, begun + data[: data.index(LOST.encode())], p)
            return None
        elif data and after in owners and not self.texts.has_end:
            owner = owners[after]
        elif data and self.texts.continuations(after).texts:
            return after
        mass.add(p, [] if owner is None else [owner], whole=owner is not None)
        return None

    def _open(self, mass: LabelMass, data: bytes, p: float) -> None:
        """Count what is known to begin so, and no more."""
        counts = self.texts.continuations(data).counts
        mass.add(p, np.flatnonzero(counts > 0).tolist(), whole=False)

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


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class HostedScores:
    """Label probabilities of texts, and between which limits they lie.

    What is not known is NaN, and no label: half and half would look like an answer.
    """

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
    problems: list[str | None]

    @classmethod
    def _of(cls, shares: np.ndarray, **known: Any) -> HostedScores:
        """Scores of which some parts are known and the others missing."""
        names = ("off_label", "off_list", "unlisted", "unresolved")
        missing = dict.fromkeys(names, np.full(len(shares), np.nan))
        best = np.where(np.isnan(shares[:, 0]), -1, shares.argmax(axis=1))
        return cls(**{"shares": shares, "best": best, **missing, **known})

    @classmethod
    def of_masses(
        cls,
        found: Sequence[LabelMass],
        n_labels: int,
        calls: Sequence[int],
        problems: Sequence[str | None],
    ) -> HostedScores:
        """Scores from what lists of tokens hold, and what they leave open."""
        ends, decided = [], []
        for mass in found:
            limits, _ = mass.limits()
            total = mass.lower.sum()
            share = mass.lower / total if total else np.full(n_labels, np.nan)
            # What rounding takes off an end.
            low = np.fmin(limits["lower_share"], share)
            ends.append((share, low, np.fmax(limits["upper_share"], share)))
            decided.append(limits["decided"])
        shares, low, high = np.reshape(ends, (-1, 3, n_labels)).transpose(1, 0, 2)
        known = np.array([mass.lower.sum() for mass in found], dtype=float)
        names = ("off_list", "unlisted", "unresolved")
        return cls._of(
            shares,
            low=low,
            high=high,
            decided=np.array(decided, dtype=bool),
            off_label=np.clip(1 - known, 0, 1),
            calls=np.array(calls, dtype=int),
            problems=[
                why if total else why or "The server lists nothing that is a label."
                for why, total in zip(problems, known, strict=True)
            ],
            **{n: np.array([getattr(mass, n) for mass in found], float) for n in names},
        )

    @classmethod
    def of_votes(
        cls,
        counts: np.ndarray,
        calls: np.ndarray,
        problems: Sequence[str | None],
    ) -> HostedScores:
        """Scores from counted answers: a column for each label, the last for none.

        Shares are of the answers that are labels, with Wilson intervals at 95 %; a text
        is decided where the interval of one label lies above all others.
        """
        votes = counts[:, :-1]
        valid, answers = votes.sum(axis=1), counts.sum(axis=1)
        some, tries = valid[:, None] > 0, np.maximum(valid, 1)[:, None]
        shares = np.where(some, votes / tries, np.nan)
        low, high = proportion_confint(votes, tries, alpha=0.05, method="wilson")
        low = np.where(some, np.clip(low, 0, shares), 0.0)
        high = np.where(some, np.clip(high, shares, 1), 1.0)
        decided = [LabelMass.leader(*ends)[1] for ends in zip(low, high, strict=True)]
        off_label = np.full(len(counts), np.nan)
        np.divide(counts[:, -1], answers, out=off_label, where=answers > 0)
        return cls._of(
            shares,
            low=low,
            high=high,
            decided=np.array(decided, dtype=bool),
            off_label=off_label,
            calls=calls,
            problems=[
                why if n else why or "No answer is a label."
                for why, n in zip(problems, valid, strict=True)
            ],
        )

    @classmethod
    def of_reports(
        cls,
        given: Sequence[int | None],
        reports: Sequence[float],
        problems: Sequence[str | None],
        n_labels: int,
    ) -> HostedScores:
        """Scores from labels in words, and how sure the model says it is of them."""
        shares = np.full((len(given), n_labels), np.nan)
        for row, (label, report) in enumerate(zip(given, reports, strict=True)):
            if label is not None and not np.isnan(report):
                shares[row] = (1 - report) / (n_labels - 1)
                shares[row, label] = report
        return cls._of(
            shares,
            low=np.zeros_like(shares),
            high=np.ones_like(shares),
            best=np.array([-1 if label is None else label for label in given], int),
            decided=np.zeros(len(given), dtype=bool),
            calls=np.array([1 if label is None else 2 for label in given], dtype=int),
            problems=list(problems),
        )

    @property
    def known(self) -> np.ndarray:
        """Whether a text has a confidence."""
        return ~np.isnan(self.shares[:, 0])

    def take(self, rows: Sequence[int]) -> HostedScores:
        """Some of the rows, in another order or several times."""
        at = np.asarray(rows, dtype=np.intp)
        arrays = {
            name: value[at] for name, value in vars(self).items() if name != "problems"
        }
        return HostedScores(**arrays, problems=[self.problems[row] for row in at])

    def predictions(self, labels: Sequence[str]) -> np.ndarray:
        """The label of each text, None for none."""
        names = np.asarray([*labels, None], dtype=object)[self.best]
        return names if (self.best < 0).any() else names.astype(str)

    def table(self, labels: Sequence[str], index: pd.Index | None) -> pd.DataFrame:
        """One tidy row a text."""
        table = pd.DataFrame(
            self.shares, columns=[f"p_{label}" for label in labels], index=index
        )
        table["off_label"] = self.off_label
        table["prediction"] = self.predictions(labels)
        table["confidence"] = self.shares[np.arange(len(self.best)), self.best]
        for at, label in enumerate(labels):
            table[f"lower_{label}"] = self.low[:, at]
            table[f"upper_{label}"] = self.high[:, at]
        for name in ("decided", "unlisted", "off_list", "unresolved", "calls"):
            table[name] = getattr(self, name)
        table["problem"] = pd.Series(self.problems, index=table.index, dtype=object)
        return table
