"""Which bytes can begin, and which complete, a value in a JSON text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import regex

from ..bounds import spelling_texts

_SPACE = b" \t\n\r"
_ANY_SPACE = b"[ \t\n\r]*"
_STRUCTURE = b"{}[]:,"
_SHORT = dict(zip('"\\/\b\f\n\r\t', '"\\/bfnrt', strict=True))
# What may follow a value; behind the whole text, a fence or the mark of its end.
_CLOSERS = {"object": b"[,}]", "array": b"[,\\]]", "": b"[`<]"}


class ValueMatcher:
    """Compares the bytes that follow some point of a JSON text with choices.

    Of ``text``, the JSON up to the value, the first ``start`` bytes are settled;
    ``value`` is the answer's, written ``as_written``, and ``inside`` is "object",
    "array" or "".
    """

    def __init__(
        self,
        choices: Sequence[Any],
        family: str,
        *,
        text: bytes = b"",
        start: int = 0,
        inside: str = "object",
        as_written: bytes = b"",
        value: Any = None,
    ) -> None:
        _check_choices(choices)
        texts = [choice for choice in choices if isinstance(choice, str)]
        forms = spelling_texts(texts, family) if texts else {}
        closed = _CLOSERS[inside] + b".*"
        end = b"(?:" + _ANY_SPACE + b"|" + _ANY_SPACE + closed + b")"
        # A number may go on, and ends only with what follows it.
        end_of_number = b"(?:[ \t\n\r]+|" + _ANY_SPACE + closed + b")"
        self._patterns = []
        for choice in choices:
            if isinstance(choice, str):
                ways = [b'"' + b"".join(map(_spelled, f)) + b'"' for f in forms[choice]]
            else:
                ways = [regex.escape(json.dumps(choice).encode())]
            after = end_of_number if _is_number(choice) else end
            if _is_number(choice) and _is_number(value) and choice == value:
                ways.append(regex.escape(as_written))
            whole = _loosened(text, start) + b"(?:" + b"|".join(ways) + b")" + after
            self._patterns.append(regex.compile(whole, regex.DOTALL))

    def __call__(self, data: bytes) -> tuple[list[int], bool]:
        """Choices that some bytes can lead to, and whether they are one in full."""
        begun = []
        for index, pattern in enumerate(self._patterns):
            found = pattern.fullmatch(data, partial=True)
            if found and not found.partial:
                return [index], True
            if found:
                begun.append(index)
        return begun, False


def _check_choices(choices: Sequence[Any]) -> None:
    if isinstance(choices, (str, bytes)) or not len(choices):
        raise ValueError(f"choices must be several values, not {choices!r}.")
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
            separate = byte in _STRUCTURE or byte == ord('"')
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
