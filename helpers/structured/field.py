"""The distribution over the values of one field of a JSON answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..answers import AnswerToken, read_tokens
from ..bounds import LOST, LabelMass, Position
from ..checks import check_choice
from ..verbalizer import FAMILIES
from .spans import find_field
from .values import ValueMatcher

_FORCED = -1e-6  # a log-probability that only rounding keeps from 0


@dataclass(frozen=True)
class FieldDistribution:
    """Between which limits the probability of each value of a field lies.

    ``value`` is the answer's, at ``path``; ``choices`` are compared by ``lower``,
    ``upper``, ``lower_share`` and ``upper_share``, ``decided`` and ``prediction``, as
    in :class:`helpers.bounds.LabelBounds`. ``off_list``, ``unlisted`` and
    ``unresolved`` are probabilities of listed tokens that lead to no choice, of tokens
    not listed, and of beginnings of choices not followed. ``tokens`` are the places of
    the value's tokens, ``logprob`` the sum of their log-probabilities, ``before``
    earlier fields with text.

    ``flags`` warn: "straddles", a token of the value also holds bytes around it;
    "masked", the listed tokens are all legal and sum to 1, as after renormalisation;
    "unmasked", probabilities are those before the mask of ``constrained``;
    "reasoning_before", text was sampled before the field; "forced", tokens inside the
    value have probability 1; "low_precision", log-probabilities are rounded, or sum to
    more than 1; "missing_logprob", a token of the value has none; "other_value", the
    answer's value is no choice; "not_top_k", a list cannot be of the most probable
    tokens.
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
        """One row a choice: its limits, and those of its share."""
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

    From the first token of the value on, listed alternatives that complete a choice
    count for both of its limits, those that begin one, and tokens not listed, for the
    upper limit only. The answer's own tokens are followed to the end of the value. An
    answer that is not whole JSON with log-probabilities and the field is refused with a
    ValueError.

    Parameters
    ----------
    response : object, dict or list
        A response of the chat, legacy or Responses API, as object or decoded JSON; a
        :class:`helpers.hosted.Answer`; or tokens as dicts with ``token``, ``logprob``
        and, where known, ``bytes`` and ``top_logprobs``.
    path : str or sequence of str and int
        The field, such as ``"person.role"`` or ``"items[2].type"``; "" for an answer
        that is one value.
    choices : sequence of str, bool, int, float or None, optional
        The values that the field can have. Default for a boolean: true and false.
    family : {"exact", "case", "wide"}, default="exact"
        Spellings of a string choice, as in :func:`helpers.bounds.spelling_texts`.
    constrained : bool, default=False
        Whether the server let the model write nothing but a choice, so that what begins
        only one choice ends in it.
    index : int, default=0
        Which of several texts in one response.

    Examples
    --------
    >>> top = [{"token": "true", "logprob": -0.5}, {"token": "false", "logprob": -1}]
    >>> answer = [
    ...     {"token": '{"spam":', "logprob": 0.0},
    ...     {"token": "true", "logprob": -0.5, "top_logprobs": top},
    ...     {"token": "}", "logprob": 0.0},
    ... ]
    >>> found = field_distribution(answer, "spam")
    >>> found.prediction, found.lower.round(3).tolist(), found.upper.round(3).tolist()
    (True, [0.607, 0.368], [0.632, 0.393])
    """
    check_choice("family", family, FAMILIES)
    tokens = read_tokens(response, index=index)
    answer = _Answer.of(tokens, path)
    given = _choices(answer, choices)
    quote = int(isinstance(answer.value, str))
    own = answer.overlapping(answer.start + quote, answer.end - quote)
    mixed = quote and not all(isinstance(choice, str) for choice in given)
    first = answer.overlapping(answer.start, answer.end)[0] if mixed else own[0]
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

    @cache
    def position(at: int) -> Position:
        return Position.read(tokens[at].top, tokens[at].chosen)

    mass = _FieldMass(match, len(given), constrained)
    begun = answer.data[base : answer.offsets[first]]
    mass.follow((position(at) for at in range(first, len(tokens))), begun)
    shown = [position(at) for at in own]
    logprobs = [_logprob(seen) for seen in shown]
    closer = {"object": b"}", "array": b"]", "": b"`"}[answer.inside]
    starts, ends = answer.offsets[own[0]], answer.offsets[own[-1] + 1]
    flags = {
        "straddles": starts < answer.start + quote or ends > answer.end - quote,
        "masked": _is_masked(position(first), match, begun),
        "unmasked": constrained and mass.off_list > 1e-9,
        "reasoning_before": bool(answer.before),
        "forced": any(logprob > _FORCED for logprob in logprobs[1:]),
        "low_precision": any(map(_is_rounded, shown)),
        "missing_logprob": any(map(math.isnan, logprobs)),
        "other_value": not match(answer.data[base : answer.end] + closer)[0],
        "not_top_k": mass.problem is not None,
    }
    return FieldDistribution(
        path=answer.path,
        value=answer.value,
        choices=tuple(given),
        **mass.limits(given),
        unresolved=mass.unresolved,
        tokens=tuple(own),
        logprob=math.fsum(logprobs),
        flags=tuple(name for name, raised in flags.items() if raised),
        before=answer.before,
    )


def _choices(answer: _Answer, choices: Sequence[Any] | None) -> Sequence[Any]:
    if choices is not None:
        return choices if isinstance(choices, (str, bytes)) else list(choices)
    if isinstance(answer.value, bool):
        return [True, False]
    raise ValueError(
        f"choices must be given for a field that is no boolean; {answer.path!r} is "
        f"{answer.value!r}."
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
        parts = [token.bytes or b"" for token in tokens]
        offsets = [0, *accumulate(map(len, parts))]
        data = b"".join(parts)
        # Bytes that are no text become placeholders that can be turned back.
        text = data.decode("utf-8", "surrogateescape")
        found = find_field(text, path)
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

    def overlapping(self, start: int, end: int) -> list[int]:
        """Tokens that hold any of these bytes."""
        spans = enumerate(pairwise(self.offsets))
        return [at for at, (low, high) in spans if low < end and high > start]


def _joined(written: bytes, value: str) -> str:
    """A string's value with surrogate pairs joined."""
    try:
        value = str(json.loads(written.decode("utf-8", "surrogatepass")))
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return value


class _FieldMass(LabelMass):
    """Probability of a field's choices, gathered along the tokens of an answer."""

    def __init__(self, match: ValueMatcher, n_choices: int, constrained: bool) -> None:
        super().__init__(n_choices)
        self.match, self.constrained = match, constrained
        self.problem: str | None = None

    def follow(self, positions: Iterable[Position], data: bytes) -> None:
        """Count what is listed beside each token, and follow the answer's own."""
        p = 1.0
        for position in positions:
            self.problem = position.problem
            own, rest = position.own, p * position.rest
            most = np.zeros(len(self.lower))
            most[self.match(data)[0]] = rest
            self.leave(rest, most)
            for seen in position.tokens:
                if seen is not own:
                    self._settle(data + seen.data, p * seen.p)
            if own is None or not own.known or position.problem:
                return  # what it has is part of what is not listed
            p *= own.p
            data += own.data
            found, whole = self.match(data)
            if whole or not found or (self.constrained and len(found) == 1):
                break
        self._settle(data, p)

    def _settle(self, data: bytes, p: float) -> None:
        found, whole = self.match(data)
        lost = LOST.encode()  # it could be any part of a character
        if not found and lost in data:
            self.open(p, self.match(data[: data.index(lost)])[0])
        elif whole or (self.constrained and len(found) == 1):
            self.lower[found[0]] += p
        else:
            self.open(p, found, sure=self.constrained)


def _logprob(position: Position) -> float:
    own = position.own
    known = own.token.logprob if own and own.known else None
    return math.nan if known is None else float(known)


def _is_masked(position: Position, match: ValueMatcher, data: bytes) -> bool:
    """Whether all listed tokens are legal and sum to 1."""
    tokens = position.tokens
    legal = all(match(data + seen.data)[0] for seen in tokens)
    total = math.fsum(seen.p for seen in tokens)
    return len(tokens) > 1 and legal and abs(total - 1) <= 1e-6


def _is_rounded(position: Position) -> bool:
    """Whether log-probabilities have three decimals, or sum to more than 1."""
    values = [float(seen.token.logprob or 0.0) for seen in position.shown]
    small = [value for value in values if value]
    coarse = len(small) > 1 and all(value == round(value, 3) for value in small)
    return coarse or math.fsum(seen.p for seen in position.shown) > 1 + 1e-5
