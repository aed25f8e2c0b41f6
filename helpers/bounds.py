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
from itertools import pairwise, product

import numpy as np
import pandas as pd

from .checks import check_choice
from .verbalizer import FAMILIES, written_forms

# Servers write -9999.0 where a token is too improbable for them to say how much.
MISSING_BELOW = -1000.0
_LEADS = {"exact": ("",), "case": ("", " "), "wide": ("", " ", "\n")}
# A listed token is at most this many times less probable than all that is not listed.
_VOCABULARY = 1_000_000
_LOST = "\ufffd"  # what stands for a part of a character
_HEX = re.compile(rb"\\x([0-9a-fA-F]{2})")
_Bytes = bytes  # the name is taken inside the class


def token_bytes(text: str, *, before: str = "") -> bytes:
    """Bytes of a token of which only the text is known.

    Parameters
    ----------
    text : str
        As the server wrote it: plain text; ``bytes:\\\\xe2\\\\x80``, the form that the
        older completions protocol has for parts of a character; or with lone
        surrogates, which stand for single bytes or for halves of a character.
    before : str, optional
        The token before it. A surrogate that follows a high one is its other half.

    Returns
    -------
    bytes
        UTF-8. Halves of a character are kept as three bytes each.

    Examples
    --------
    >>> token_bytes("é"), token_bytes(r"bytes:\\xc3"), token_bytes("\\udcc3")
    (b'\\xc3\\xa9', b'\\xc3', b'\\xc3')
    """
    if text.startswith("bytes:"):
        rest = text.removeprefix("bytes:").encode("utf-8", "surrogatepass")
        if _HEX.search(rest):
            return _HEX.sub(lambda found: bytes([int(found[1], 16)]), rest)
    halves = any("\ud800" <= character <= "\udbff" for character in text)
    if not halves and not "\ud800" <= before[-1:] <= "\udbff":
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            pass
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class ListedToken:
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

    Raises
    ------
    ValueError
        The log-probability is above 0, or not a number.

    Examples
    --------
    >>> ListedToken("no", -9999.0).probability is None
    True
    """

    text: str
    logprob: float | None
    bytes: _Bytes | None = None

    def __post_init__(self) -> None:
        # Rounding in the server can put a certain token a little above 0.
        if self.logprob is not None and not self.logprob <= 1e-3:
            raise ValueError(
                f"logprob must be at most 0, not {self.logprob!r}, that of token "
                f"{self.text!r}."
            )

    @property
    def probability(self) -> float | None:
        """The probability; None where it is missing."""
        if self.logprob is None or self.logprob < MISSING_BELOW:
            return None
        return math.exp(min(self.logprob, 0.0))

    @property
    def data(self) -> _Bytes:
        """The bytes, from the text where there are none."""
        return token_bytes(self.text) if self.bytes is None else self.bytes


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
    unlisted : float
        Probability of all tokens that are not in the list, together.
    off_list : float
        Probability of tokens in the list that belong to no label.
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
        """One row a label: its limits, and those of its share.

        Returns
        -------
        pandas.DataFrame
            Columns ``label``, ``lower``, ``upper``, ``lower_share``, ``upper_share``.
        """
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
    return _disjoint(
        {
            label: [
                lead + form
                for lead, form in product(
                    _LEADS[family], written_forms([label], family)
                )
            ]
            for label in labels
        }
    )


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

    A spelling is counted as one token. Where the tokenizer has several ids for the
    same text, the limit u p is too low by as many; ``ranked=False`` does without it.
    A list that cannot be one of the most probable tokens (not in falling order, a token
    twice, without the chosen one though that is more probable than its last, or with
    more left over than tokens below its last could hold) bounds nothing: the limits
    are 0 and 1, and ``problem`` says why.
    The bounds are those of the spellings named: a label that takes several tokens,
    or that begins another word, needs more than one position.

    Parameters
    ----------
    listed : sequence of ListedToken
        The alternatives at the position; fewer than asked for will do. The same text
        may come twice, from two ids; both count.
    spellings : sequence of str or mapping of str to sequence of str
        The labels, each spelled as it is, or the texts of each as
        :func:`spelling_texts` gives them.
    chosen : ListedToken, optional
        The token that the answer has there. Servers do not always list it; it counts
        as listed. It may have been listed out of rank and is left out of p.
    ranked : bool, default=True
        Whether the list holds the most probable tokens. Of other lists, such as a
        printed table of chosen words, only R is used.

    Returns
    -------
    LabelBounds

    Raises
    ------
    ValueError
        Nothing is listed, fewer than two labels, a text that two of them share, or
        probabilities that sum to more than one.

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
    position = read_position(listed, chosen, ranked=ranked)
    rest = position.rest
    owner = {
        text.encode("utf-8", "surrogatepass"): at
        for at, label in enumerate(texts)
        for text in texts[label]
    }
    lower, off_list = np.zeros(len(texts)), 0.0
    for token in position.tokens:
        at = owner.get(token.data)
        if at is None:
            off_list += token.probability or 0.0
        else:
            lower[at] += token.probability or 0.0
    gain = np.full(len(texts), rest)
    if position.least is not None:
        seen = {token.data for token in position.tokens}
        missing = np.bincount(
            [at for data, at in owner.items() if data not in seen],
            minlength=len(texts),
        )
        gain = np.minimum(rest, missing * position.least)
    others = np.minimum(rest, gain.sum() - gain)
    low, high = share_bounds(lower, gain, others, np.zeros(len(texts)))
    upper = np.minimum(lower + gain, 1.0)
    best, decided = leader(lower, upper)
    names = tuple(texts)
    return LabelBounds(
        labels=names,
        lower=lower,
        upper=upper,
        lower_share=low,
        upper_share=high,
        unlisted=rest,
        off_list=off_list,
        decided=decided,
        prediction=None if best is None else names[best],
        problem=position.problem,
    )


@dataclass(frozen=True)
class Position:
    """What a list tells of one position of an answer.

    ``tokens`` are those whose probability is known, ``own``, the answer's, among them;
    ``rest`` is the probability of all others, none of which is more probable than
    ``least``, where that is known. A list with a ``problem`` tells nothing.
    """

    tokens: tuple[ListedToken, ...]
    own: ListedToken | None
    rest: float
    least: float | None
    problem: str | None


def read_position(
    listed: Sequence[ListedToken], chosen: ListedToken | None, *, ranked: bool = True
) -> Position:
    """What a list of tokens tells, or why it cannot be one of the most probable."""
    tokens, at = with_chosen(listed, chosen)
    own = None if at is None else tokens[at]
    known = [token for token in tokens if token.probability is not None]
    rest = unlisted_mass(known)
    # The token that was drawn may have been listed out of rank.
    chances = [token.probability or 0.0 for token in known if token is not own]
    least = min(chances) if ranked and chances else None
    last = own.probability if ranked and own and least is None else least
    if last is not None:
        # Several tokens have no text, or a broken one; some servers list but one.
        single = [token for token in known if token.data and _LOST not in token.text]
        order = [token.probability or 0.0 for token in single if token is not own]
        written = own.probability if own and at == len(listed) else None
        problem = None
        if any(p < q * (1 - 1e-6) for p, q in pairwise(order)):
            problem = "it is not in falling order"
        elif len(set(single)) < len(single):
            problem = "it has a token twice"
        elif rest > _VOCABULARY * last + 1e-3:
            problem = (
                f"{rest:.6f} of the probability is not listed, and tokens no more "
                f"probable than the last listed, {last:.1e}, cannot make it up"
            )
        elif written is not None and written > last * (1 + 1e-3):
            problem = f"it lacks {tokens[-1].text!r}, which is more probable"
        if problem:
            why = f"The list cannot be one of the most probable tokens: {problem}."
            return Position((), None, 1.0, None, why)
    return Position(tuple(known), own, rest, least, None)


def with_chosen(
    listed: Sequence[ListedToken], chosen: ListedToken | None
) -> tuple[list[ListedToken], int | None]:
    """The list of a position with the answer's token in it once, and where that is.

    It is the listed one with the same bytes and the nearest probability. Where these
    differ, and the sum leaves room for it, it is another id with the same text and is
    added, as it is where none is alike.
    """
    tokens = list(listed)
    if chosen is None:
        return tokens, None
    own = chosen.probability
    alike = [
        (abs((token.probability or 0.0) - (own or 0.0)), at)
        for at, token in enumerate(tokens)
        if token.data == chosen.data
    ]
    if alike:
        difference, at = min(alike)
        if own is None:
            return tokens, at
        total = sum(token.probability or 0.0 for token in tokens)
        if difference <= 1e-4 * own or total + own > 1 + 1e-6:
            tokens[at] = chosen
            return tokens, at
    return [*tokens, chosen], len(tokens)


def unlisted_mass(tokens: Sequence[ListedToken]) -> float:
    """Probability of everything that is not in a list; an error above 1.01 in it."""
    total = math.fsum(token.probability or 0.0 for token in tokens)
    if total > 1.01:
        raise ValueError(
            f"listed must have probabilities that sum to at most one, not {total:.4f}: "
            f"{[token.text for token in tokens]!r}."
        )
    return max(0.0, 1.0 - total)


def share_bounds(
    lower: np.ndarray, gain: np.ndarray, others: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of each label's share in the probability of all labels.

    A share x / (x + y) rises with the label's own x and falls with the others' y, so
    its limits lie where one is as small and the other as large as can be.

    ``lower`` is what each label has in any case and ``gain`` the most that it can have
    beside; ``others`` is the most that all others can have beside when it gains
    nothing, ``least`` the least that they must have when it gains all. The limits are
    0 and 1 for all where no label need have any probability, and none can.
    """
    total = lower.sum()
    worst, best = total + others, total + gain + least
    low = np.divide(lower, worst, out=np.zeros_like(lower), where=worst > 0)
    # Where nothing is known of this label, but something of others, its share is 0.
    empty = np.full(len(lower), 1.0 if not (worst > 0).any() else 0.0)
    high = np.divide(lower + gain, best, out=empty, where=best > 0)
    return low, np.minimum(high, 1.0)


def leader(lower: np.ndarray, upper: np.ndarray) -> tuple[int | None, bool]:
    """The label with the highest lower limit, if one has, and whether none can pass."""
    best = int(lower.argmax())
    if np.count_nonzero(lower == lower[best]) > 1:
        return None, False
    return best, bool((lower[best] > np.delete(upper, best)).all())


def _disjoint(spellings: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Spellings, each once, or an error where two labels share one."""
    owner: dict[str, str] = {}
    for label, texts in spellings.items():
        if isinstance(texts, str) or not len(texts):
            raise ValueError(
                f"spellings of {label!r} must be several strings, not {texts!r}."
            )
        for text in texts:
            if not isinstance(text, str) or not text:
                raise ValueError(
                    f"spellings of {label!r} must be strings that are not empty; one "
                    f"is {text!r}."
                )
            if owner.setdefault(text, label) != label:
                raise ValueError(
                    f"labels {owner[text]!r} and {label!r} share the spelling {text!r};"
                    " make them differ."
                )
    return {label: tuple(dict.fromkeys(texts)) for label, texts in spellings.items()}
