"""Where in a JSON text one field's value stands, by the standard library's parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_OPENING = re.compile(r"\s*(?:```\w*\s)?\s*")
# Behind the value: a closing fence, and what servers list for the end of the turn.
_CLOSING = re.compile(r"(?:\s|```|<\|[^|>]*\|>|</s>)*\Z")
_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True)
class JsonField:
    """A field: its value, the characters that hold it, and its surroundings.

    ``inside`` is "object", "array" or "", and ``before`` are paths of earlier fields
    with text.
    """

    value: Any
    start: int
    end: int
    inside: str
    before: tuple[str, ...]


def find_field(text: str, path: str | Sequence[str | int]) -> JsonField:
    """Find a field in a JSON text or code fence; the last of equal keys counts."""
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
    inside, way = "", ""
    before: list[str] = []
    for step in steps:
        members = list(_members(text, start))
        kind = "object" if isinstance(value, dict) else "array"
        kind = kind if isinstance(value, (dict, list)) else ""
        if kind != ("array" if isinstance(step, int) else "object"):
            raise ValueError(
                f"path must lead to a field; {way or 'the whole'!r} is no "
                f"{'array' if isinstance(step, int) else 'object'}: {_shown(value)}"
            )
        found = [member for member in members if member[0] == step]
        if not found:
            have = list(dict.fromkeys(member[0] for member in members))
            raise ValueError(
                f"path must lead to a field; {way or 'the whole'!r} has {have!r}, not "
                f"{step!r}."
            )
        earlier = [member for member in members if member[1] < found[-1][1]]
        before += [_join(way, key) for key, *_, held in earlier if _has_text(held)]
        _, start, end, value = found[-1]
        inside, way = kind, _join(way, step)
    return JsonField(value, start, end, inside, tuple(dict.fromkeys(before)))


def _steps(path: str | Sequence[str | int]) -> list[str | int]:
    if not isinstance(path, str):
        for step in path:
            whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
            if not whole and not isinstance(step, str):
                raise ValueError(
                    f"path must be keys and indices from 0 on; one is {step!r}."
                )
        return list(path)
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        # A dot in front of the first key, or none in front of a later one, is wrong.
        if not found or (at == 0 and path.startswith(".")):
            raise ValueError(
                f'path must be like "person.role" or "items[2].type", not {path!r}; '
                "give keys with dots or brackets in a list."
            )
        steps.append(found[1] if found[2] is None else int(found[2]))
        at = found.end()
    return steps


def _members(text: str, start: int) -> Iterator[tuple[str | int, int, int, Any]]:
    """Key or index, start, end and value of each member of valid JSON."""
    if text[start] not in "{[":
        return
    at = _skip(text, start + 1)
    index = 0
    while text[at] not in "}]":
        key: str | int = index
        if text[start] == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        value, end = _DECODER.raw_decode(text, at)
        yield key, at, end, value
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
        index += 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_text, value.values()))
    if isinstance(value, list):
        return any(map(_has_text, value))
    return isinstance(value, str) and bool(value.strip())


def _join(way: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{way}[{step}]"
    return f"{way}.{step}" if way else step


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
