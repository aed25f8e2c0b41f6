"""Which bytes can begin, and which complete, a value in a JSON text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, TypeGuard

from ..bounds import spelling_texts

_SPACE = b" \t\n\r"
_STRUCTURE = b"{}[]:,"
_SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n"}
_SHORT |= {"\r": "r", "\t": "t"}
# What may follow a value; behind the whole text, a fence or the mark of its end.
_CLOSERS = {"object": b",}", "array": b",]", "": b"`<"}


class ValueMatcher:
    """Compares the bytes that follow some point of a JSON text with choices.

    Parameters
    ----------
    choices : sequence of str, bool, int, float or None
        The values, all different. Strings may be written with any of JSON's escapes;
        numbers only as ``json.dumps`` writes them.
    family : {"exact", "case", "wide"}
        What else stands for a string, as in
        :func:`helpers.bounds.spelling_texts`.
    text : bytes, optional
        The JSON text up to the value.
    start : int, default=0
        The point: how many bytes of that text are settled. What follows of it, such
        as a colon, must come before the value; white space may be more or less.
    inside : {"object", "array", ""}, default="object"
        What the value is a member of.
    value : object, optional
        What the answer holds, and
    as_written : bytes, optional
        how it wrote it: where it is a number, that way counts as well.

    Raises
    ------
    ValueError
        No choices, one twice, or two that share a spelling.
    TypeError
        A choice of another type.

    Examples
    --------
    >>> match = ValueMatcher(["fruit", "herb"], "exact")
    >>> match(b' "fru'), match(b'"herb",'), match(b'"veg')
    (([0], False), ([1], True), ([], False))
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
        choices = check_choices(choices)
        texts = [choice for choice in choices if isinstance(choice, str)]
        forms = spelling_texts(texts, family) if texts else {}
        self._strings = [
            [[_spellings(character) for character in form] for form in forms[choice]]
            if isinstance(choice, str)
            else []
            for choice in choices
        ]
        self._plain: list[list[bytes]] = [
            [] if isinstance(choice, str) else [json.dumps(choice).encode()]
            for choice in choices
        ]
        for plain, choice in zip(self._plain, choices, strict=True):
            if _is_number(choice) and _is_number(value) and choice == value:
                plain.append(as_written)
        self._letters = [
            choice is None or isinstance(choice, bool) for choice in choices
        ]
        self._closers = _CLOSERS[inside]
        self._structure = [
            (byte, loose) for byte, loose in _loosened(text)[start:] if byte >= 0
        ]

    def __call__(self, data: bytes) -> tuple[list[int], bool]:
        """Choices that some bytes can lead to."""
        at = 0
        for byte, loose in self._structure:
            while loose and at < len(data) and data[at] in _SPACE:
                at += 1
            if at == len(data):
                return list(range(len(self._plain))), False
            if data[at] != byte:
                return [], False
            at += 1
        data = data[at:].lstrip(_SPACE)
        if not data:
            return list(range(len(self._plain))), False
        begun = []
        for index, letters in enumerate(self._letters):
            results = [self._string(form, data) for form in self._strings[index]]
            results += [self._word(word, data, letters) for word in self._plain[index]]
            if True in results:
                return [index], True
            if False in results:
                begun.append(index)
        return begun, False

    def _string(self, form: list[tuple[bytes, ...]], data: bytes) -> bool | None:
        """True: in full. False: begun. None: something else."""
        if data[:1] != b'"':
            return None
        at = 1
        for spellings in form:
            # Of the ways to write a character none begins another.
            for spelling in spellings:
                if data.startswith(spelling, at):
                    at += len(spelling)
                    break
            else:
                rest = data[at:]
                return False if any(s.startswith(rest) for s in spellings) else None
        if at == len(data):
            return False
        return self._closed(data[at + 1 :]) if data[at : at + 1] == b'"' else None

    def _word(self, word: bytes, data: bytes, letters: bool) -> bool | None:
        if len(data) < len(word) or (data == word and not letters):
            return False if word.startswith(data) else None
        if not data.startswith(word):
            return None
        return self._closed(data[len(word) :])

    def _closed(self, rest: bytes) -> bool | None:
        after = rest.lstrip(_SPACE)
        return True if not after or after[0] in self._closers else None


def check_choices(choices: Sequence[Any]) -> list[Any]:
    """Values that a field can have, as a list."""
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
    return list(choices)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _loosened(text: bytes) -> list[tuple[int, bool]]:
    """Each byte, and whether white space may come before it; -1 for white space."""
    steps: list[tuple[int, bool]] = []
    quoted = escaped = False
    joined = False  # whether the byte before is part of the same word
    for byte in text:
        if quoted:
            steps.append((byte, False))
            quoted = escaped or byte != ord('"')
            escaped = byte == ord("\\") and not escaped
        elif byte in _SPACE:
            steps.append((-1, False))
            joined = False
        else:
            separate = byte in _STRUCTURE or byte == ord('"')
            steps.append((byte, separate or not joined))
            quoted = byte == ord('"')
            joined = not separate
    return steps


@lru_cache(maxsize=4096)
def _spellings(character: str) -> tuple[bytes, ...]:
    """All ways to write a character inside a JSON string."""
    found = []
    if character not in '"\\' and ord(character) >= 0x20:
        found.append(character.encode("utf-8", "surrogatepass"))
    if character in _SHORT:
        found.append(b"\\" + _SHORT[character].encode())
    pair = character.encode("utf-16-be", "surrogatepass")
    halves = [pair[:2], pair[2:]] if len(pair) == 4 else [pair]
    if len(halves) == 2:
        # Some servers hand on the two halves of a character as text of their own.
        found.append(
            b"".join(
                chr(int.from_bytes(half, "big")).encode("utf-8", "surrogatepass")
                for half in halves
            )
        )
    digits = "".join("\\u" + half.hex() for half in halves)
    cased = [
        sorted({digit, digit.upper()}) if digit in "abcdef" else [digit]
        for digit in digits
    ]
    found += ["".join(way).encode() for way in product(*cased)]
    return tuple(found)
