"""What a list of the most probable tokens leaves open: bounds of label probabilities.

A hosted model shows a handful of tokens at each position, not the whole distribution.
What they hold is certain, what they do not hold adds up to a known rest, and so every
label has a lower and an upper bound. Nothing in between is made up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .checks import check_choice
from .verbalizer import FAMILIES, written_forms

LOST = "\ufffd"  # what servers that send no bytes write for a part of a character
MISSING_BELOW = -1000.0  # servers write -9999.0 where a token is too improbable
_LEADS = {"exact": ("",), "case": ("", " "), "wide": ("", " ", "\n")}
# A listed token is at most this many times less probable than all that is not listed.
_VOCABULARY = 1_000_000
_ROUNDING = 1e-12
_HEX = re.compile(rb"\\x([0-9a-fA-F]{2})")
# How servers write the token that ends a turn; some list it as an empty text.
_TURN_END = re.compile(r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>|</s>|<(eos|end_of_turn|eot)>|")
_Bytes = bytes  # the name is taken inside the class


class ListedToken(NamedTuple):
    """One token of a list.

    Attributes
    ----------
    text : str
        As the server wrote it.
    logprob : float or None
        Natural logarithm of its probability. None, and anything below -1000, such as
        the -9999.0 of some servers, means that it is not known, not that it is 0.
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
        """The probability; None where it is missing, an error where it is nonsense."""
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
        """Whether a model ends its turn with it, as servers write such tokens."""
        return _TURN_END.fullmatch(self.text) is not None

    def encode(self, before: str = "") -> _Bytes:
        r"""The bytes, from the text where the server sends none.

        A text is plain; or ``bytes:\xe2\x80``, the form of the legacy completions for
        parts of a character; or has lone surrogates, which stand for single bytes or
        for halves of a character. Halves, of which the first may end the text
        ``before``, are kept as three bytes each.
        """
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

    Attributes
    ----------
    labels : tuple of str
        The labels.
    lower, upper : numpy.ndarray of shape (K,)
        Limits of each label's probability. ``lower`` is what the list holds of it.
    lower_share, upper_share : numpy.ndarray of shape (K,)
        Limits of its probability divided by that of all labels together; 0 and 1 for
        all where nothing is known of any.
    unlisted, off_list : float
        Probability of all tokens that are not in the list, and of those in the list
        that belong to no label.
    decided : bool
        Whether one label is the most probable wherever in the limits the truth lies.
    prediction : str or None
        The label with the highest lower limit; None where two share it.
    problem : str or None
        Why the list cannot be one of the most probable tokens, so that nothing is
        known; None where it can.
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

    Returns
    -------
    dict of str to tuple of str

    Raises
    ------
    ValueError
        An unknown family, no labels, or a text that two of them share.

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

    With L the listed probability of a label, R all that is not listed, u the number of
    the label's spellings that are not listed and p the smallest listed probability,
    the label's probability lies between L and L + min(R, u p), for no token outside
    the list of the k most probable ones is more probable than the last in it.

    A spelling is counted as one token. Where the tokenizer has several ids for one
    text, the limit u p is too low; ``ranked=False`` does without it. A list that cannot
    be one of the most probable tokens (not in falling order, a token twice, without
    the chosen one though that is more probable than its last, or with more left over
    than tokens below its last could hold) bounds nothing: the limits are 0 and 1, and
    ``problem`` says why. A label that takes several tokens, or that begins another
    word, needs more than one position.

    Parameters
    ----------
    listed : sequence of ListedToken
        The alternatives at the position; fewer than asked for will do. The same text
        may come twice, from two ids; both count.
    spellings : sequence of str or mapping of str to sequence of str
        The labels, each spelled as it is, or the texts of each as
        :func:`spelling_texts` gives them.
    chosen : ListedToken, optional
        The token that the answer has there, listed or not. It may have been listed out
        of rank and is left out of p.
    ranked : bool, default=True
        Whether the list holds the most probable tokens. Of other lists, such as a
        printed table of chosen words, only R is used.

    Returns
    -------
    LabelBounds

    Raises
    ------
    ValueError
        Nothing is listed, fewer than two labels, a text that two of them share, a
        log-probability above 0, or probabilities that sum to more than one.

    Examples
    --------
    >>> listed = [ListedToken("Art", -0.0281), ListedToken("Sports", -4.2781)]
    >>> found = label_bounds(listed, ["Art", "Sports", "Politics"])
    >>> found.lower.round(4).tolist(), found.upper.round(4).tolist()
    ([0.9723, 0.0139, 0.0], [0.9723, 0.0139, 0.0138])
    >>> found.decided, found.prediction
    (True, 'Art')
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


class LabelMass:
    """Probability as it is found to be some label's, nobody's, or open.

    ``lower`` is what each label has in any case and ``gain`` the most that it can have
    beside; ``others`` is the most that all others can have beside when it gains
    nothing, ``least`` the least that they must have when it gains all. ``branches``
    are beginnings of labels that could be followed, with their probability.
    """

    def __init__(self, n_labels: int) -> None:
        self.lower, self.gain = np.zeros(n_labels), np.zeros(n_labels)
        self.others, self.least = np.zeros(n_labels), np.zeros(n_labels)
        self.off_list = self.unlisted = self.unresolved = 0.0
        self.branches: tuple[tuple[bytes, float], ...] = ()

    def open(self, p: float, labels: Sequence[int], *, sure: bool = False) -> None:
        """Count what is listed and begins these labels, or is nobody's if none.

        ``sure`` says that it becomes one of them.
        """
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
        """Count what is not listed, of which each label can have at most so much."""
        self.unlisted += p
        self._share(p, most)

    def _share(self, p: float, most: np.ndarray) -> None:
        self.gain += most
        self.others += np.minimum(p, most.sum() - most)

    def limits(self, names: Sequence[Any]) -> dict[str, Any]:
        """What is known, as the fields that results have in common.

        A share x / (x + y) rises with the label's own x and falls with the others' y,
        so its limits lie where one is as small and the other as large as can be. They
        are 0 and 1 for all where no label need have any probability, and none can.
        """
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
        """The label with the highest lower limit, if one has; whether none can pass."""
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
    """What a list tells of one position of an answer.

    ``shown`` are the tokens whose probability is known, ``own``, the answer's, among
    them; ``rest`` is the probability of all others, none of which is more probable
    than ``least``, where that is known. ``tokens`` are those shown by a list without a
    ``problem``; one with a problem tells nothing.
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
    """Put the answer's token into the list of its position, once, and give it back.

    It is the listed one with the same bytes and the nearest probability. Where these
    differ, and the sum leaves room for it, it is another id with the same text and is
    added, as it is where none is alike.
    """
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
    """Why tokens cannot be the most probable ones."""
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
    """Spellings, each once, or an error where two labels share one."""
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
