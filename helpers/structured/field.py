"""The distribution over the values of one field of a JSON answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..bounds import (
    ListedToken,
    leader,
    read_position,
    share_bounds,
    with_chosen,
)
from ..checks import check_choice
from ..verbalizer import FAMILIES
from .spans import JsonField, find_field
from .tokens import AnswerToken, read_tokens
from .values import ValueMatcher, check_choices

# What a server without bytes writes for a part of a character; it could be any.
_LOST = "\ufffd".encode()
_FORCED = -1e-6  # a log-probability that only rounding keeps from 0


@dataclass(frozen=True)
class FieldDistribution:
    """Between which limits the probability of each value of a field lies.

    All probabilities are those of the answer as it went on from the field's first
    token, given everything before it.

    Attributes
    ----------
    path : str
        The way to the field.
    value : object
        What the answer holds there.
    choices : tuple
        The values compared.
    lower, upper : numpy.ndarray of shape (K,)
        Limits of each choice's probability.
    lower_share, upper_share : numpy.ndarray of shape (K,)
        Limits of its probability divided by that of all choices together.
    off_list : float
        Probability of listed tokens that lead to none of the choices.
    unlisted : float
        Probability of tokens that are not listed. It may lead anywhere.
    unresolved : float
        Probability of listed tokens that begin a choice, or several, and were not
        followed to the end.
    tokens : tuple of int
        Which tokens of the answer hold bytes of the value, quotes left out.
    logprob : float
        Sum of their log-probabilities; NaN where one is missing.
    decided : bool
        Whether one choice is the most probable wherever in the limits the truth lies.
    prediction : object
        The choice with the highest lower limit; None also where two share it.
    flags : tuple of str
        What to know about the numbers, of these:

        "straddles": a token of the value also holds bytes of what is around it.
        "masked": the listed tokens are all legal and sum to 1, so that the server may
        have renormalised them over what its schema allows. A hint, no proof: a sure
        model looks the same.
        "unmasked": listed tokens lead to no choice though ``constrained`` says that
        none can; the server reports what the model thought before the mask.
        "reasoning_before": text was sampled before the field; see ``before``.
        "forced": tokens inside the value have probability 1 within rounding; they say
        nothing, and thin out a mean.
        "low_precision": the log-probabilities are rounded to three decimals or less,
        or sum to more than 1.
        "missing_logprob": a token of the value has no log-probability.
        "other_value": the answer's value is none of the choices.
        "not_top_k": a list on the way cannot be one of the most probable tokens (see
        :func:`helpers.bounds.label_bounds`); from there on nothing is known.
    before : tuple of str
        Earlier fields that hold text; the probabilities depend on what was sampled
        there.
    """

    path: str
    value: Any
    choices: tuple[Any, ...]
    lower: np.ndarray
    upper: np.ndarray
    lower_share: np.ndarray
    upper_share: np.ndarray
    off_list: float
    unlisted: float
    unresolved: float
    tokens: tuple[int, ...]
    logprob: float
    decided: bool
    prediction: Any
    flags: tuple[str, ...]
    before: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row a choice: its limits, and those of its share.

        Returns
        -------
        pandas.DataFrame
            Columns ``value``, ``lower``, ``upper``, ``lower_share``, ``upper_share``.
        """
        limits = ("lower", "upper", "lower_share", "upper_share")
        values = {"value": pd.Series(self.choices, dtype=object)}
        return pd.DataFrame(values | {name: getattr(self, name) for name in limits})


def field_distribution(
    response: Any,
    path: str | Sequence[str | int],
    *,
    choices: Sequence[Any] | None = None,
    family: str = "exact",
    constrained: bool = False,
    index: int = 0,
) -> FieldDistribution:
    """Bounds of the probability of every value that a field of an answer could have.

    The value's bytes are found by a JSON parser, and the tokens that hold them by
    their bytes. From the first of these on, each listed alternative either completes a
    choice, begins one or several, or leads to none. What completes a choice counts
    for its lower and its upper limit. What begins one counts for the upper limits,
    since nobody knows how it would have gone on, but for the answer's own tokens,
    which are followed to the end of the value; there the alternatives count times the
    probability of the way so far. What is not listed counts for the upper limits of
    all choices that are still possible; that no unlisted token is more probable than
    the last listed is no help, because nobody knows how many of them begin a choice.

    Strings end with their closing quote, numbers with what follows them.

    Parameters
    ----------
    response : object or dict
        The answer with its log-probabilities, as :func:`read_tokens` takes it.
    path : str or sequence of str and int
        The field, such as ``"person.role"`` or ``"items[2].type"``; "" for an answer
        that is one value. As a list, keys may hold dots.
    choices : sequence of str, bool, int, float or None, optional
        The values that the field can have. Default for a boolean: true and false;
        otherwise needed.
    family : {"exact", "case", "wide"}, default="exact"
        Which spellings count as a string choice, as in
        :func:`helpers.bounds.spelling_texts`.
    constrained : bool, default=False
        Whether the server let the model write nothing but a choice. Then what begins
        only one choice is sure to end in it. This takes the log-probabilities to be
        those of the constrained model, which the flag "unmasked" contradicts.
    index : int, default=0
        Which of several answers in one response.

    Returns
    -------
    FieldDistribution

    Raises
    ------
    ValueError
        No answer with log-probabilities (see :func:`read_tokens`), no JSON, no such
        field, an empty string, an object or an array in it, or bad choices.
    TypeError
        A choice of a type that no field has.

    Examples
    --------
    >>> answer = [
    ...     {"token": '{"spam":', "logprob": 0.0},
    ...     {"token": "true", "logprob": -0.5, "top_logprobs": [
    ...         {"token": "true", "logprob": -0.5},
    ...         {"token": "false", "logprob": -1.0}]},
    ...     {"token": "}", "logprob": 0.0},
    ... ]
    >>> found = field_distribution(answer, "spam")
    >>> found.prediction, found.decided
    (True, True)
    >>> found.table().round(3)
       value  lower  upper  lower_share  upper_share
    0   True  0.607  0.632        0.607        0.632
    1  False  0.368  0.393        0.368        0.393
    """
    check_choice("family", family, FAMILIES)
    given = None if choices is None else check_choices(choices)
    tokens = read_tokens(response, index=index)
    answer = _Answer.of(tokens, path)
    given = _choices(answer, given)
    with_quotes = isinstance(answer.value, str) and not all(
        isinstance(choice, str) for choice in given
    )
    quote = int(isinstance(answer.value, str))
    own = answer.overlapping(answer.start + quote, answer.end - quote)
    first = answer.overlapping(answer.start, answer.end)[0] if with_quotes else own[0]
    base = min(answer.offsets[first], answer.start)
    match = ValueMatcher(
        given,
        family,
        text=answer.data[: answer.start],
        start=base,
        inside=answer.inside,
        value=answer.value,
        as_written=answer.data[answer.start : answer.end],
    )
    walk = _Walk(match, len(given), constrained)
    walk.run(tokens[first:], answer.data[base : answer.offsets[first]])
    upper = np.minimum(walk.lower + walk.gain, 1.0)
    low, high = share_bounds(walk.lower, walk.gain, walk.others, walk.least)
    best, decided = leader(walk.lower, upper)
    logprobs = [
        math.nan if token.probability is None else float(token.logprob or 0.0)
        for token in (_own(tokens[at]) for at in own)
    ]
    seen = answer.data[base : answer.end] + answer.closer
    return FieldDistribution(
        path=answer.path,
        value=answer.value,
        choices=tuple(given),
        lower=walk.lower,
        upper=upper,
        lower_share=low,
        upper_share=high,
        off_list=walk.off_list,
        unlisted=walk.unlisted,
        unresolved=walk.unresolved,
        tokens=tuple(own),
        logprob=math.fsum(logprobs),
        decided=decided,
        prediction=None if best is None else given[best],
        flags=_flags(answer, tokens, own, walk, not match(seen)[0], constrained),
        before=answer.before,
    )


@dataclass(frozen=True)
class _Answer:
    """An answer's bytes, where its tokens begin, and where the field stands."""

    data: bytes
    offsets: list[int]
    path: str
    value: Any
    start: int
    end: int
    inside: str
    before: tuple[str, ...]

    @classmethod
    def of(
        cls, tokens: Sequence[AnswerToken], path: str | Sequence[str | int]
    ) -> _Answer:
        parts = [token.chosen.data for token in tokens]
        offsets = [0]
        for part in parts:
            offsets.append(offsets[-1] + len(part))
        data = b"".join(parts)
        # Bytes that are no text become placeholders that can be turned back.
        text = data.decode("utf-8", "surrogateescape")
        found: JsonField = find_field(text, path)
        start, end = (
            len(text[:at].encode("utf-8", "surrogateescape"))
            for at in (found.start, found.end)
        )
        way = path if isinstance(path, str) else json.dumps(list(path))
        value = found.value
        if isinstance(value, (dict, list)):
            raise ValueError(
                f"path must lead to one value; {way!r} is an "
                f"{'object' if isinstance(value, dict) else 'array'}."
            )
        if value == "":
            raise ValueError(f"path must lead to a value; {way!r} is an empty string.")
        if isinstance(value, str):
            value = _joined(data[start:end], value)
        return cls(data, offsets, way, value, start, end, found.inside, found.before)

    @property
    def closer(self) -> bytes:
        return {"object": b"}", "array": b"]", "": b"`"}[self.inside]

    def overlapping(self, start: int, end: int) -> list[int]:
        """Tokens that hold any of these bytes."""
        spans = enumerate(zip(self.offsets, self.offsets[1:], strict=False))
        return [at for at, (low, high) in spans if low < end and high > start]


@dataclass
class _Walk:
    """Probability gathered along the tokens that the answer has."""

    match: ValueMatcher
    n_choices: int
    constrained: bool
    off_list: float = 0.0
    unlisted: float = 0.0
    unresolved: float = 0.0
    looks_masked: bool = False
    problem: str | None = None
    lower: np.ndarray = field(init=False)
    gain: np.ndarray = field(init=False)
    others: np.ndarray = field(init=False)
    least: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name in ("lower", "gain", "others", "least"):
            setattr(self, name, np.zeros(self.n_choices))

    def run(self, tokens: Sequence[AnswerToken], data: bytes) -> None:
        mass = 1.0
        for step, token in enumerate(tokens):
            position = read_position(token.listed, token.chosen)
            own, rest = position.own, position.rest
            self.problem = position.problem
            if step == 0:
                self.looks_masked = self._is_masked(position.tokens, data)
            self.unlisted += mass * rest
            self._open(self.match(data)[0], mass * rest, sure=False)
            for other in position.tokens:
                if other is not own and other.probability is not None:
                    self._settle(data + other.data, mass * other.probability)
            if own is None or own.probability is None:
                return  # what it has is part of what is not listed
            mass *= own.probability
            data += own.data
            found, whole = self.match(data)
            if whole or not found or (self.constrained and len(found) == 1):
                break
        self._settle(data, mass)

    def _settle(self, data: bytes, mass: float) -> None:
        found, whole = self.match(data)
        lost = not found and _LOST in data
        if lost:
            found = self.match(data[: data.index(_LOST)])[0]
        if whole or (self.constrained and len(found) == 1 and not lost):
            self.lower[found[0]] += mass
        elif found:
            self.unresolved += mass
            self._open(found, mass, sure=self.constrained and not lost)
        else:
            self.off_list += mass

    def _open(self, found: list[int], mass: float, *, sure: bool) -> None:
        """Probability that these choices share in a way not known."""
        members = np.isin(np.arange(self.n_choices), found)
        self.gain += mass * members
        self.others += mass * (members.sum() - members > 0)
        if sure:
            self.least += mass * ~members

    def _is_masked(self, known: Sequence[ListedToken], data: bytes) -> bool:
        total = math.fsum(token.probability or 0.0 for token in known)
        legal = all(self.match(data + token.data)[0] for token in known)
        return len(known) > 1 and legal and abs(total - 1) <= 1e-6


def _own(token: AnswerToken) -> ListedToken:
    """The answer's token, from the list where only the list has its probability."""
    listed, at = with_chosen(token.listed, token.chosen)
    return token.chosen if at is None else listed[at]


def _choices(answer: _Answer, choices: list[Any] | None) -> list[Any]:
    if choices is not None:
        return choices
    if isinstance(answer.value, bool):
        return [True, False]
    raise ValueError(
        f"choices must be given for a field that is no boolean; {answer.path!r} is "
        f"{answer.value!r}."
    )


def _joined(written: bytes, value: str) -> str:
    """A string's value, halves of characters put together."""
    try:
        value = str(json.loads(written.decode("utf-8", "surrogatepass")))
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return value


def _flags(
    answer: _Answer,
    tokens: Sequence[AnswerToken],
    own: list[int],
    walk: _Walk,
    other_value: bool,
    constrained: bool,
) -> tuple[str, ...]:
    quote = int(isinstance(answer.value, str))
    outside = (
        answer.offsets[own[0]] < answer.start + quote
        or answer.offsets[own[-1] + 1] > answer.end - quote
    )
    logprobs = [_own(tokens[at]).logprob for at in own]
    known = [_own(tokens[at]).probability is not None for at in own]
    flags = {
        "straddles": outside,
        "masked": walk.looks_masked,
        "unmasked": constrained and walk.off_list > 1e-9,
        "reasoning_before": bool(answer.before),
        "forced": any(p is not None and p > _FORCED for p in logprobs[1:]),
        "low_precision": any(_is_rounded(tokens[at]) for at in own),
        "missing_logprob": not all(known),
        "other_value": other_value,
        "not_top_k": walk.problem is not None,
    }
    return tuple(name for name, raised in flags.items() if raised)


def _is_rounded(token: AnswerToken) -> bool:
    listed, _ = with_chosen(token.listed, token.chosen)
    known = [entry for entry in listed if entry.probability is not None]
    values = [float(entry.logprob or 0.0) for entry in known]
    total = math.fsum(entry.probability or 0.0 for entry in known)
    small = [value for value in values if value]
    coarse = len(small) > 1 and all(value == round(value, 3) for value in small)
    return coarse or total > 1 + 1e-5
