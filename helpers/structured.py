"""From a JSON answer and its tokens to a distribution over one field's values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import regex

from .answers import AnswerToken, read_tokens
from .bounds import LOST, LabelMass, Position, spelling_texts
from .checks import check_choice
from .verbalizer import FAMILIES

_FORCED = -1e-6  # a log-probability that only rounding keeps from 0
_DECODER = json.JSONDecoder()
_OPENING = re.compile(r"\s*(?:```\w*\s)?\s*")
# Behind the value: a closing fence, and what servers list for the end of the turn.
_CLOSING = re.compile(r"(?:\s|```|<\|[^|>]*\|>|</s>)*\Z")
_BETWEEN = re.compile(r"[ \t\n\r,:]*")
_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")
_KINDS: dict[type, str] = {dict: "object", list: "array"}
_SPACE = b" \t\n\r"
_ANY_SPACE = b"[ \t\n\r]*"
_STRUCTURE = b'{}[]:,"'
_SHORT = dict(zip('"\\/\b\f\n\r\t', '"\\/bfnrt', strict=True))
# What ends a value, and what else may; behind the whole text, a fence or its end.
_ENDS = {"object": (b"}", b"[,}]"), "array": (b"]", b"[,\\]]"), "": (b"`", b"[`<]")}


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
    field = _Field.find(tokens, path)
    given = _checked(field, choices)
    quote = int(isinstance(field.value, str))
    own = field.overlapping(field.start + quote, field.end - quote)
    mixed = quote and not all(isinstance(choice, str) for choice in given)
    first = field.overlapping(field.start, field.end)[0] if mixed else own[0]
    base = min(field.offsets[first], field.start)

    @cache
    def position(at: int) -> Position:
        return Position.read(tokens[at].top, tokens[at].chosen)

    mass = _FieldMass(_patterns(field, given, family, base), constrained)
    begun = field.data[base : field.offsets[first]]
    mass.follow((position(at) for at in range(first, len(tokens))), begun)
    shown = [position(at) for at in own]
    logprobs = [_logprob(seen) for seen in shown]
    listed = position(first).tokens
    whole = abs(math.fsum(seen.p for seen in listed) - 1) <= 1e-6
    legal = all(mass.match(begun + seen.data)[0] for seen in listed)
    starts, ends = field.offsets[own[0]], field.offsets[own[-1] + 1]
    written = field.data[base : field.end] + _ENDS[field.inside][0]
    flags = {
        "straddles": starts < field.start + quote or ends > field.end - quote,
        "masked": len(listed) > 1 and whole and legal,
        "unmasked": constrained and mass.off_list > 1e-9,
        "reasoning_before": bool(field.before),
        "forced": any(logprob > _FORCED for logprob in logprobs[1:]),
        "low_precision": any(map(_is_rounded, shown)),
        "missing_logprob": any(map(math.isnan, logprobs)),
        "other_value": not mass.match(written)[0],
        "not_top_k": mass.problem is not None,
    }
    return FieldDistribution(
        path=field.path,
        value=field.value,
        choices=tuple(given),
        **mass.limits(given),
        unresolved=mass.unresolved,
        tokens=tuple(own),
        logprob=math.fsum(logprobs),
        flags=tuple(name for name, raised in flags.items() if raised),
        before=field.before,
    )


def _logprob(position: Position) -> float:
    own = position.own
    known = own.token.logprob if own and own.known else None
    return math.nan if known is None else float(known)


def _is_rounded(position: Position) -> bool:
    """Whether log-probabilities have three decimals, or sum to more than 1."""
    values = [float(seen.token.logprob or 0.0) for seen in position.shown]
    small = [value for value in values if value]
    coarse = len(small) > 1 and all(value == round(value, 3) for value in small)
    return coarse or math.fsum(seen.p for seen in position.shown) > 1 + 1e-5


def _checked(field: _Field, choices: Sequence[Any] | None) -> list[Any]:
    """The choices, or true and false; an error for what no field can be compared to."""
    if choices is None:
        if not isinstance(field.value, bool):
            raise ValueError(
                "choices must be given for a field that is no boolean; "
                f"{field.path!r} is {field.value!r}."
            )
        return [True, False]
    choices = [] if isinstance(choices, (str, bytes)) else list(choices)
    if not choices:
        raise ValueError("choices must be several values, not one string or none.")
    seen: set[tuple[bool, Any]] = set()
    for choice in choices:
        if not (choice is None or isinstance(choice, (str, bool, int, float))):
            raise TypeError(
                f"choices must be strings, numbers, bools or None, not {choice!r}."
            )
        if choice == "" or (_is_number(choice) and not math.isfinite(choice)):
            raise ValueError(
                f"choices must be finite numbers and strings that are not empty; one "
                f"is {choice!r}."
            )
        key = (isinstance(choice, bool), choice)
        if key in seen:
            raise ValueError(f"choices must all be different; {choice!r} is repeated.")
        seen.add(key)
    return list(choices)


class _FieldMass(LabelMass):
    """Probability of a field's choices, gathered along the tokens of an answer."""

    def __init__(self, patterns: Sequence[regex.Pattern], constrained: bool) -> None:
        super().__init__(len(patterns))
        self.patterns, self.constrained = patterns, constrained
        self.problem: str | None = None

    def match(self, data: bytes) -> tuple[list[int], bool]:
        """Choices that some bytes can lead to, and whether they are one in full."""
        begun = []
        for index, pattern in enumerate(self.patterns):
            found = pattern.fullmatch(data, partial=True)
            if found and not found.partial:
                return [index], True
            if found:
                begun.append(index)
        return begun, False

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
            if self._settles(*self.match(data)):
                break
        self._settle(data, p)

    def _settles(self, found: Sequence[int], whole: bool) -> bool:
        return whole or not found or (self.constrained and len(found) == 1)

    def _settle(self, data: bytes, p: float) -> None:
        found, whole = self.match(data)
        lost = LOST.encode()  # it could be any part of a character
        if not found and lost in data:
            self.open(p, self.match(data[: data.index(lost)])[0])
        elif found and self._settles(found, whole):
            self.lower[found[0]] += p
        else:
            self.open(p, found, sure=self.constrained)


# Where the field stands --------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """A field in an answer's bytes, whose tokens begin at ``offsets``.

    ``inside`` is "object", "array" or "", and ``before`` are paths of earlier fields
    with text.
    """

    data: bytes
    offsets: list[int]
    path: str
    value: Any
    start: int
    end: int
    inside: str
    before: tuple[str, ...]

    @classmethod
    def find(
        cls, tokens: Sequence[AnswerToken], path: str | Sequence[str | int]
    ) -> _Field:
        parts = [token.bytes or b"" for token in tokens]
        offsets = [0, *accumulate(map(len, parts))]
        data = b"".join(parts)
        # Bytes that are no text become placeholders that can be turned back.
        text = data.decode("utf-8", "surrogateescape")
        value, *span, inside, before = _walk(text, path)
        start, end = (len(text[:at].encode("utf-8", "surrogateescape")) for at in span)
        way = path if isinstance(path, str) else json.dumps(list(path))
        if type(value) in _KINDS:
            raise ValueError(
                f"path must lead to one value; {way!r} is an {_KINDS[type(value)]}."
            )
        if value == "":
            raise ValueError(f"path must lead to a value; {way!r} is an empty string.")
        if isinstance(value, str):
            value = _joined(data[start:end], value)
        return cls(data, offsets, way, value, start, end, inside, before)

    def overlapping(self, start: int, end: int) -> list[int]:
        """Tokens that hold any of these bytes."""
        spans = enumerate(pairwise(self.offsets))
        return [at for at, (low, high) in spans if low < end and high > start]


def _walk(text: str, path: str | Sequence[str | int]) -> tuple[Any, ...]:
    """Value, start, end, inside and before; the last of equal keys counts."""
    steps = _steps(path)
    opening = _OPENING.match(text)
    start = opening.end() if opening else 0
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"response must be JSON; {error}: {_shown(text)}") from None
    if not _CLOSING.match(text, end):
        raise ValueError(
            f"response must be JSON alone; behind it: {_shown(text[end:])}"
        )
    inside, way, before = "", "", []
    for step in steps:
        where, needed = (
            way or "the whole",
            "array" if isinstance(step, int) else "object",
        )
        inside = _KINDS.get(type(value), "")
        if inside != needed:
            raise ValueError(
                f"path must lead to a field; {where!r} is no {needed}: {_shown(value)}"
            )
        members = list(_members(text, start))
        found = [member for member in members if member[0] == step]
        if not found:
            have = list(dict.fromkeys(member[0] for member in members))
            raise ValueError(
                f"path must lead to a field; {where!r} has {have!r}, not {step!r}."
            )
        for key, at, _, held in members:
            if at < found[-1][1] and _has_text(held):
                before.append(_join(way, key))
        _, start, end, value = found[-1]
        way = _join(way, step)
    return value, start, end, inside, tuple(dict.fromkeys(before))


def _steps(path: str | Sequence[str | int]) -> list[str | int]:
    if not isinstance(path, str):
        for step in path:
            whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
            if not whole and not isinstance(step, str):
                raise ValueError(
                    f"path must be keys and indices from 0 on; one is {step!r}."
                )
        return list(path)
    found = list(_STEP.finditer(path))
    # A dot in front of the first key, or none in front of a later one, is wrong.
    if path.startswith(".") or "".join(step[0] for step in found) != path:
        raise ValueError(
            f'path must be like "person.role" or "items[2].type", not {path!r}; '
            "give keys with dots or brackets in a list."
        )
    return [step[1] if step[2] is None else int(step[2]) for step in found]


def _members(text: str, start: int) -> Iterator[tuple[str | int, int, int, Any]]:
    """Key or index, start, end and value of each member of valid JSON."""
    index, at = 0, _next(text, start + 1)
    while text[at] not in "}]":
        key: str | int = index
        if text[start] == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _next(text, at)
        value, end = _DECODER.raw_decode(text, at)
        yield key, at, end, value
        index, at = index + 1, _next(text, end)


def _next(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _has_text(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_has_text, value.values() if type(value) is dict else value))
    return isinstance(value, str) and bool(value.strip())


def _join(way: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{way}[{step}]"
    return f"{way}.{step}" if way else step


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _joined(written: bytes, value: str) -> str:
    """A string's value with surrogate pairs joined."""
    try:
        value = str(json.loads(written.decode("utf-8", "surrogatepass")))
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return value


# Which bytes can begin, and which complete, a value -----------------------------------


def _patterns(
    field: _Field, choices: Sequence[Any], family: str, base: int
) -> list[regex.Pattern]:
    """For each choice, a pattern of what may stand from some point of the answer on."""
    texts = [choice for choice in choices if isinstance(choice, str)]
    forms = spelling_texts(texts, family) if texts else {}
    lead = _loosened(field.data[: field.start], base)
    closed = _ANY_SPACE + _ENDS[field.inside][1] + b".*"
    patterns = []
    for choice in choices:
        end = b"(?:" + _ANY_SPACE + b"|" + closed + b")"
        if isinstance(choice, str):
            ways = [b'"' + b"".join(map(_spelled, f)) + b'"' for f in forms[choice]]
        else:
            ways = [regex.escape(json.dumps(choice).encode())]
        if _is_number(choice):
            # A number may go on, and ends only with what follows it.
            end = b"(?:[ \t\n\r]+|" + closed + b")"
            if _is_number(field.value) and choice == field.value:
                ways.append(regex.escape(field.data[field.start : field.end]))
        whole = lead + b"(?:" + b"|".join(ways) + b")" + end
        patterns.append(regex.compile(whole, regex.DOTALL))
    return patterns


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _loosened(text: bytes, start: int) -> bytes:
    """A pattern for JSON text from some point on, with any white space."""
    steps: list[bytes] = []
    quoted = escaped = False
    joined = False  # whether the byte before is part of the same word
    for at, byte in enumerate(text):
        written = regex.escape(bytes([byte]))
        if quoted:
            quoted = escaped or byte != ord('"')
            escaped = byte == ord("\\") and not escaped
        elif byte in _SPACE:
            joined, written = False, b""
        else:
            separate = byte in _STRUCTURE
            written = (b"" if joined and not separate else _ANY_SPACE) + written
            quoted = byte == ord('"')
            joined = not separate
        steps.append(written if at >= start else b"")
    return b"".join(steps) + _ANY_SPACE


@lru_cache(maxsize=4096)
def _spelled(character: str) -> bytes:
    """A pattern for all ways to write a character inside a JSON string."""
    pair = character.encode("utf-16-be", "surrogatepass")
    halves = [pair[at : at + 2] for at in range(0, len(pair), 2)]
    ways = [b"".join(b"\\\\u(?i:%s)" % half.hex().encode() for half in halves)]
    if character in _SHORT:
        ways.append(regex.escape(b"\\" + _SHORT[character].encode()))
    if character not in '"\\' and ord(character) >= 0x20:
        ways.append(regex.escape(character.encode("utf-8", "surrogatepass")))
    if len(halves) == 2:
        # Some servers hand on the two halves of a character as text of their own.
        both = (chr(int.from_bytes(half, "big")) for half in halves)
        data = b"".join(half.encode("utf-8", "surrogatepass") for half in both)
        ways.append(regex.escape(data))
    return b"(?:" + b"|".join(ways) + b")"
