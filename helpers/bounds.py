"""Bounds of label probabilities from a list of the most probable tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .checks import check_between, check_choice
from .verbalizer import FAMILIES, written_forms

LOST = "\ufffd"  # what servers that send no bytes write for a part of a character
MISSING_BELOW = -1000.0  # servers write -9999.0 where a token is too improbable
_LEADS = {"exact": ("",), "case": ("", " "), "wide": ("", " ", "\n")}
# A listed token is at most this many times less probable than all that is not listed.
_VOCABULARY = 1_000_000
_ROUNDING = 1e-12
_SINGLE = 1e-7
_COUNTS = np.array([*range(10, 1001), 2000, 5000, 10_000, 20_000, 50_000, 100_000])
_HEX = re.compile(rb"\\x([0-9a-fA-F]{2})")
# How servers write the token that ends a turn; some list it as an empty text.
_TURN_END = re.compile(r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>|</s>|<(eos|end_of_turn|eot)>|")
_Bytes = bytes  # the name is taken inside the class


class ListedToken(NamedTuple):
    """One token of a list.

    Parameters
    ----------
    text : str
        As the server wrote it.
    logprob : float or None
        Natural logarithm of its probability. None, or a value below -1000 such as some
        servers' -9999.0, means unknown.
    bytes : bytes, optional
        What the token stands for, where the server says so.

    Examples
    --------
    >>> ListedToken("no", -9999.0).probability is None
    True
    """

    text: str
    logprob: float | None
    bytes: _Bytes | None = None

    @property
    def probability(self) -> float | None:
        """The probability; None where unknown, ValueError where invalid."""
        if self.logprob is None or self.logprob < MISSING_BELOW:
            return None
        # Rounding in the server can put a certain token a little above 0.
        if not self.logprob <= 1e-3:
            raise ValueError(
                f"logprob must be at most 0, not {self.logprob!r}, that of token "
                f"{self.text!r}."
            )
        return math.exp(min(self.logprob, 0.0))

    @property
    def ends_turn(self) -> bool:
        """Whether it is a token with which models end their turn."""
        return _TURN_END.fullmatch(self.text) is not None

    def encode(self, before: str = "") -> _Bytes:
        r"""The bytes, or those of a text: plain, like ``bytes:\xe2``, or surrogates."""
        if self.bytes is not None:
            return self.bytes
        if self.text.startswith("bytes:"):
            rest = self.text.removeprefix("bytes:").encode("utf-8", "surrogatepass")
            if _HEX.search(rest):
                return _HEX.sub(lambda found: bytes([int(found[1], 16)]), rest)
        if not any("\ud800" <= half <= "\udbff" for half in before[-1:] + self.text):
            try:
                return self.text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                pass
        return self.text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class LabelBounds:
    """Between which limits the probability of each label lies.

    ``lower`` and ``upper`` are limits of the labels' probabilities, ``lower_share`` and
    ``upper_share`` of their shares in the probability of all labels. ``unlisted`` is
    the probability of all tokens not listed, ``off_list`` that of listed tokens of no
    label. ``prediction`` has the highest lower limit, if it is unique, and is
    ``decided`` if no other can be the most probable. ``problem`` says why an impossible
    list tells nothing.
    """

    labels: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    lower_share: np.ndarray
    upper_share: np.ndarray
    unlisted: float
    off_list: float
    decided: bool
    prediction: str | None
    problem: str | None = None

    def table(self) -> pd.DataFrame:
        """One row a label: its limits, and those of its share."""
        limits = ("lower", "upper", "lower_share", "upper_share")
        return pd.DataFrame(
            {"label": self.labels} | {name: getattr(self, name) for name in limits}
        )


def spelling_texts(labels: Sequence[str], family: str) -> dict[str, tuple[str, ...]]:
    """Texts of single tokens that a spelling family takes for each label.

    Parameters
    ----------
    labels : sequence of str
        Different strings.
    family : {"exact", "case", "wide"}
        "exact": the label as written. "case": also lower, Capital and UPPER case, with
        and without a space before it. "wide": also after a line break and in quotes.

    Examples
    --------
    >>> spelling_texts(["no"], "case")
    {'no': ('no', 'No', 'NO', ' no', ' No', ' NO')}
    """
    check_choice("family", family, FAMILIES)
    if isinstance(labels, str) or not len(labels):
        raise ValueError(f"labels must be several strings, not {labels!r}.")
    found = {}
    for label in labels:
        forms = written_forms([label], family)
        found[label] = [lead + form for lead in _LEADS[family] for form in forms]
    return _disjoint(found)


def label_bounds(
    listed: Sequence[ListedToken],
    spellings: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    chosen: ListedToken | None = None,
    ranked: bool = True,
) -> LabelBounds:
    """Bounds of the labels' probabilities from one position's list of tokens.

    A label has at least its listed probability L, and at most L + min(R, u p): R is
    what is not listed, u the number of its spellings not listed and p the smallest
    listed probability. Each spelling must be one token with one id. A list that cannot
    be one of the most probable tokens bounds nothing, and ``problem`` says why.

    Parameters
    ----------
    listed : sequence of ListedToken
        The alternatives at the position.
    spellings : sequence of str or mapping of str to sequence of str
        The labels, as spelled, or the texts of each as from :func:`spelling_texts`.
    chosen : ListedToken, optional
        The answer's token there, listed or not; left out of p.
    ranked : bool, default=True
        Whether the list holds the most probable tokens. Otherwise only R is used.

    Examples
    --------
    >>> listed = [ListedToken("Art", -0.0281), ListedToken("Sports", -4.2781)]
    >>> label_bounds(listed, ["Art", "Sports", "Politics"]).upper.round(4).tolist()
    [0.9723, 0.0139, 0.0138]
    """
    if not isinstance(spellings, Mapping):
        spellings = spelling_texts(spellings, "exact")
    texts = _disjoint(spellings)
    if len(texts) < 2:
        raise ValueError(f"labels must be at least two, not {tuple(texts)!r}.")
    if not len(listed) and chosen is None:
        raise ValueError("listed must hold at least one token; it is empty.")
    position = Position.read(listed, chosen, ranked=ranked)
    names = tuple(texts)
    owner = {
        text.encode("utf-8", "surrogatepass"): at
        for at, label in enumerate(names)
        for text in texts[label]
    }
    mass, missing = LabelMass(len(names)), dict(owner)
    for seen in position.tokens:
        missing.pop(seen.data, None)
        if seen.data in owner:
            mass.lower[owner[seen.data]] += seen.p
        else:
            mass.off_list += seen.p
    most = np.full(len(names), position.rest)
    if position.least is not None:
        counts = np.bincount(list(missing.values()), minlength=len(names))
        most = np.minimum(most, counts * position.least)
    mass.leave(position.rest, most)
    return LabelBounds(names, **mass.limits(names), problem=position.problem)


def rounding_step(probabilities: ArrayLike) -> float | None:
    """The step that all probabilities are multiples of; None if there is none.

    The largest 1/n from a tenth to a hundred-thousandth. With few values it can be
    larger than the step they were rounded to; bounds from it hold all the same.

    Parameters
    ----------
    probabilities : array-like
        As a server sent them; NaN is left out.

    Examples
    --------
    >>> rounding_step([[0.37, 0.63], [0.9, 0.1]])
    0.01
    """
    values = np.ravel(np.asarray(probabilities, dtype=float))
    values = np.unique(values[~np.isnan(values)])
    counts = _COUNTS[: len(values) * len(_COUNTS)]
    for part in (values[:16], values):  # a few show which are worth looking at
        places = part[:, None] * counts
        # Numbers in single precision are this far from what they stand for.
        off = np.abs(places - np.round(places)) > _SINGLE * counts
        counts = counts[~off.any(axis=0)]
    return 1 / float(counts[0]) if len(counts) else None


def rounding_bounds(probabilities: ArrayLike, step: float) -> np.ndarray:
    """Bounds of probabilities that were rounded, shape (n, K, 2).

    Each lies within half a step, and all of a row sum to one: so each is at least what
    the others leave if they are as large as they can be. Rows that no probabilities
    are rounded to, and rows with NaN, are NaN.

    Parameters
    ----------
    probabilities : array-like of shape (n, K)
        As a server sent them, of all labels.
    step : float
        What they are multiples of, as from :func:`rounding_step`.

    Examples
    --------
    >>> rounding_bounds([[0.99, 0.01, 0.0]], 0.01).round(3).tolist()
    [[[0.985, 0.995], [0.005, 0.015], [0.0, 0.005]]]
    """
    check_between("step", step, 0, 1, closed=True)
    sent = np.asarray(probabilities, dtype=float)
    if sent.ndim != 2:
        raise ValueError(f"probabilities must be rows, not of shape {sent.shape}.")
    low = np.clip(sent - step / 2, 0, 1)
    high = np.clip(sent + step / 2, 0, 1)
    least, most = low.sum(axis=1, keepdims=True), high.sum(axis=1, keepdims=True)
    noise = _SINGLE * sent.shape[1]
    possible = (least <= 1 + noise) & (most >= 1 - noise)
    low, high = np.maximum(low, 1 - (most - high)), np.minimum(high, 1 - (least - low))
    ends = np.sort(np.stack([low, high], axis=-1), axis=-1)  # noise may cross them
    return np.where(possible[..., None], np.clip(ends, 0, 1), np.nan)


class LabelMass:
    """Probability of each label (``lower``, and ``gain`` at most), of others, or open.

    ``others`` and ``least`` are what the other labels can have at most, and must have
    at least; ``branches`` are beginnings of labels to follow, with their probability.
    """

    def __init__(self, n_labels: int) -> None:
        self.lower, self.gain = np.zeros(n_labels), np.zeros(n_labels)
        self.others, self.least = np.zeros(n_labels), np.zeros(n_labels)
        self.off_list = self.unlisted = self.unresolved = 0.0
        self.branches: tuple[tuple[bytes, float], ...] = ()

    def open(self, p: float, labels: Sequence[int], *, sure: bool = False) -> None:
        """Count listed tokens that begin these labels, surely or not, or begin none."""
        if not labels:
            self.off_list += p
            return
        most = np.zeros(len(self.lower))
        most[labels] = p
        self.unresolved += p
        self._share(p, most)
        if sure:
            self.least += np.where(most > 0, 0.0, p)

    def leave(self, p: float, most: np.ndarray) -> None:
        """Count what is not listed, of which each label has at most so much."""
        self.unlisted += p
        self._share(p, most)

    def _share(self, p: float, most: np.ndarray) -> None:
        self.gain += most
        self.others += np.minimum(p, most.sum() - most)

    def limits(self, names: Sequence[Any]) -> dict[str, Any]:
        """What is known, as the fields that results have in common."""
        lower, upper = self.lower, np.minimum(self.lower + self.gain, 1.0)
        worst = lower.sum() + self.others
        best = lower.sum() + self.gain + self.least
        low = np.divide(lower, worst, out=np.zeros_like(lower), where=worst > 0)
        # Where nothing is known of this label, but something of others, its share is 0.
        empty = np.full(len(low), 0.0 if (worst > 0).any() else 1.0)
        high = np.divide(lower + self.gain, best, out=empty, where=best > 0)
        first, decided = self.leader(lower, upper)
        return {
            "lower": lower,
            "upper": upper,
            "lower_share": low,
            "upper_share": np.minimum(high, 1.0),
            "unlisted": self.unlisted,
            "off_list": self.off_list,
            "decided": decided,
            "prediction": None if first is None else names[first],
        }

    @staticmethod
    def leader(lower: np.ndarray, upper: np.ndarray) -> tuple[int | None, bool]:
        """The label with the highest lower limit, if unique, and whether decided."""
        best = int(lower.argmax())
        if np.count_nonzero(lower == lower[best]) > 1:
            return None, False
        # Of two limits that are the same, rounding can make either the higher.
        return best, bool((lower[best] > np.delete(upper, best) + _ROUNDING).all())


class _Seen(NamedTuple):
    """A token of a list with its bytes and its probability, 0 where it is missing."""

    data: bytes
    p: float
    known: bool
    token: ListedToken

    @classmethod
    def of(cls, token: ListedToken) -> _Seen:
        p = token.probability
        return cls(token.encode(), p or 0.0, p is not None, token)


@dataclass(frozen=True)
class Position:
    """What a list tells of one position of an answer; nothing if it has a ``problem``.

    ``shown`` are tokens with known probability, ``own`` the answer's; the ``rest`` is
    that of all others, each at most ``least``.
    """

    shown: tuple[_Seen, ...]
    tokens: tuple[_Seen, ...]
    own: _Seen | None
    rest: float
    least: float | None
    problem: str | None = None

    @classmethod
    def read(
        cls,
        listed: Sequence[ListedToken],
        chosen: ListedToken | None,
        *,
        ranked: bool = True,
    ) -> Position:
        """What a list tells, or why it cannot be one of the most probable tokens."""
        tokens, own = list(map(_Seen.of, listed)), None
        if chosen is not None:
            own = _place(tokens, _Seen.of(chosen))
        known = tuple(seen for seen in tokens if seen.known)
        total = math.fsum(seen.p for seen in known)
        if total > 1.01:
            raise ValueError(
                "listed must have probabilities that sum to at most one, not "
                f"{total:.4f}: {[seen.token.text for seen in known]!r}."
            )
        rest = max(0.0, 1.0 - total)
        # The token that was drawn may have been listed out of rank.
        least = min((seen.p for seen in known if seen is not own), default=None)
        last = least
        if last is None and own is not None and own.known:
            last = own.p
        if ranked and last is not None:
            added = len(tokens) > len(listed)
            problem = _problem(known, own, rest, last, added=added)
            if problem:
                why = f"The list cannot be one of the most probable tokens: {problem}."
                return cls(known, (), own, 1.0, None, why)
        return cls(known, known, own, rest, least if ranked else None)


def _place(tokens: list[_Seen], own: _Seen) -> _Seen:
    """Match the answer's token to the nearest listed one, or add it, and return it."""
    alike = [at for at, seen in enumerate(tokens) if seen.data == own.data]
    if alike:
        at = min(alike, key=lambda at: abs(tokens[at].p - own.p))
        if not own.known:
            return tokens[at]
        is_full = sum(seen.p for seen in tokens) + own.p > 1 + 1e-6
        if abs(tokens[at].p - own.p) <= 1e-4 * own.p or is_full:
            tokens[at] = own
            return own
    tokens.append(own)
    return own


def _problem(
    known: Sequence[_Seen], own: _Seen | None, rest: float, last: float, *, added: bool
) -> str | None:
    # Several tokens have no text, or a broken one; some servers list but one.
    single = [seen for seen in known if seen.data and LOST not in seen.token.text]
    order = [seen.p for seen in single if seen is not own]
    if any(p < q * (1 - 1e-6) for p, q in pairwise(order)):
        return "it is not in falling order"
    if len({seen.token for seen in single}) < len(single):
        return "it has a token twice"
    if rest > _VOCABULARY * last + 1e-3:
        return (
            f"{rest:.6f} of the probability is not listed, and tokens no more "
            f"probable than the last listed, {last:.1e}, cannot make it up"
        )
    if added and own and own.known and own.p > last * (1 + 1e-3):
        return f"it lacks {own.token.text!r}, which is more probable"
    return None


def _disjoint(spellings: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Distinct spellings, or ValueError where two labels share one."""
    owner: dict[str, str] = {}
    for label, texts in spellings.items():
        several = not isinstance(texts, str) and len(texts) > 0
        if not several or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(
                f"spellings of {label!r} must be several strings that are not empty, "
                f"not {texts!r}."
            )
        for text in texts:
            if owner.setdefault(text, label) != label:
                raise ValueError(
                    f"labels {owner[text]!r} and {label!r} share the spelling {text!r};"
                    " make them differ."
                )
    return {label: tuple(dict.fromkeys(texts)) for label, texts in spellings.items()}
