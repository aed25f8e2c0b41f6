"""Which texts express a label in the answer of a model whose tokens are not known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from ..bounds import ListedToken
from ..verbalizer import Verbalizer

# How servers write the token that ends a turn; some list it as an empty text.
_TURN_END = re.compile(r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>|</s>|<(eos|end_of_turn|eot)>|")
_BYTES_A_TOKEN = 4  # tokens of common words are longer


def ends_turn(text: str) -> bool:
    """Whether a token is one by which a model ends its turn, as servers write it."""
    return _TURN_END.fullmatch(text) is not None


@dataclass(frozen=True)
class Ways:
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
    _seen: dict[bytes, Ways] = field(default_factory=dict, compare=False, repr=False)

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

    @property
    def has_end(self) -> bool:
        """Whether something must follow a label."""
        return bool(self.ends) or self.turn_ends

    def is_end(self, token: ListedToken) -> bool:
        """Whether a token is one that may follow a label."""
        begins = token.text.startswith(self.ends)
        return begins or (self.turn_ends and ends_turn(token.text))

    def ways(self, data: bytes) -> Ways:
        """How an answer that begins so, up to a token's end, can go on to labels."""
        if data not in self._seen:
            self._seen[data] = self._ways(data)
        return self._seen[data]

    def tokens_to_go(self, data: bytes) -> int:
        """How many tokens to ask for behind the beginning of an answer, a guess."""
        longest = max(map(len, self.ways(data).texts), default=len(data))
        return max(1, -(-(longest - len(data)) // _BYTES_A_TOKEN) + self.has_end)

    def _ways(self, data: bytes) -> Ways:
        whole, counts = self.owners.get(data), np.zeros(len(self.labels))
        if whole is not None and not self.has_end:
            return Ways((), {}, counts)
        texts = tuple(text for text in self.owners if text.startswith(data))
        steps: dict[bytes, frozenset[int]] = {}
        for text in texts:
            for end in range(len(data) + 1, len(text) + 1):
                step = text[len(data) : end]
                steps[step] = steps.get(step, frozenset()) | {self.owners[text]}
        for owned in steps.values():
            counts[list(owned)] += 1
        if whole is not None:
            counts[whole] = np.inf
        return Ways(texts, steps, counts)

    def _check_overlaps(self) -> None:
        for text, owner in self.owners.items():
            for longer, other in self.owners.items():
                rest = longer[len(text) :].decode("utf-8", "replace")
                if other == owner or not longer.startswith(text):
                    continue
                if not self.has_end or rest.startswith(self.ends):
                    raise ValueError(
                        f"label {self.labels[owner]!r} begins label "
                        f"{self.labels[other]!r}, so that an answer could be both. "
                        'Give a terminator, such as terminator="\\n".'
                    )
