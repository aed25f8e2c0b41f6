"""Read the confidence that an answer states, in figures, words, ratios or JSON.

Whatever cannot be read is an outcome with a name, never a row to drop: models refuse
and stumble where the task is hard, and a sample without these rows flatters them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Literal, NamedTuple

from ..checks import check_choice

Scale = Literal["percent", "probability"]
STATUSES = ("ok", "empty", "refused", "out of range", "unreadable")
_NUMBER = r"(?<![\d.,])-?\d+(?:[.,]\d+)?(?!\d|[.,]\d)"
_PERCENT = re.compile(rf"({_NUMBER})\s*(?:%|per\s?cent)", re.I)
_RATIO = re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*(\d+)", re.I)
_KEY = re.compile(r"confidence|probability|certainty|sure", re.I)
_REFUSAL = re.compile(
    r"\b(can(?:no|')t|can not|unable|don't know|do not know|won't|refuse|sorry"
    r"|as an ai)\b",
    re.I,
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS = {word: value for value, word in enumerate(_UNITS)}
_WORDS |= {word: 10 * (at + 2) for at, word in enumerate(_TENS)}
_TENS_AND_UNITS = rf"(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS[1:10])}))?"
_SPELLED = re.compile(
    rf"\b(?:(?:an?|one) hundred|{_TENS_AND_UNITS}"
    rf"|{'|'.join(sorted(_UNITS, key=len, reverse=True))})\b",
    re.I,
)
_WHOLE_FIELD = re.compile(
    rf'"[^"]*(?:{_KEY.pattern})[^"]*"\s*:\s*"?([^",}}\]]*?)\s*[",}}\]]', re.I
)


class Report(NamedTuple):
    """A confidence that a model stated.

    Attributes
    ----------
    value : float
        In [0, 1]; NaN unless the status is "ok".
    status : {"ok", "empty", "refused", "out of range", "unreadable"}
        What became of the answer.
    """

    value: float
    status: str


def read_report(answer: str, *, scale: Scale = "percent") -> Report:
    """The confidence that an answer states.

    Read are, in this order: a field of a JSON object whose name speaks of confidence,
    probability, certainty or being sure; a percentage; a ratio such as 8/10 or "8 out
    of 10"; a number in figures; a number in words.

    Parameters
    ----------
    answer : str
        What the model wrote.
    scale : {"percent", "probability"}, default="percent"
        What was asked for, and so what a bare number means: of 100, or of 1. With
        "percent", a bare number with decimals that is at most 1 is a probability all
        the same.

    Returns
    -------
    Report
        "unreadable" also where an answer states two different numbers of the same
        kind, or where a JSON object breaks off behind a number, which may then lack
        digits.

    Raises
    ------
    TypeError
        The answer is no string.
    ValueError
        An unknown scale.

    Examples
    --------
    >>> read_report("I am 85% sure.")
    Report(value=0.85, status='ok')
    >>> read_report("ninety percent").value, read_report("I'm 110 % sure").status
    (0.9, 'out of range')
    """
    check_choice("scale", scale, ("percent", "probability"))
    if not isinstance(answer, str):
        raise TypeError(f"answer must be a string, not {answer!r}.")
    text = answer.strip()
    if not text:
        return Report(math.nan, "empty")
    field = _json_field(text[text.index("{") :]) if "{" in text else text
    if field is None:
        return Report(math.nan, "unreadable")
    values = _stated(field, scale)
    if not values:
        refused = _REFUSAL.search(text.replace("’", "'"))
        return Report(math.nan, "refused" if refused else "unreadable")
    if len(set(values)) > 1:
        return Report(math.nan, "unreadable")
    if not 0 <= values[0] <= 1:
        return Report(math.nan, "out of range")
    return Report(values[0], "ok")


def _json_field(text: str) -> str | None:
    """What a JSON object says of confidence, as text; None where it cannot be read."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        # Broken off: a value that ends before the break is whole.
        whole = _WHOLE_FIELD.search(text)
        return whole[1] if whole else None
    fields = [value for key, value in found.items() if _KEY.search(key)]
    if len(fields) != 1 or isinstance(fields[0], (bool, dict, list, type(None))):
        return None
    return str(fields[0])


def _stated(text: str, scale: Scale) -> list[float]:
    """Every value that a text states, in the first notation that it uses."""
    if found := _PERCENT.findall(text):
        return [_float(number) / 100 for number in found]
    if found := re.findall(rf"({_SPELLED.pattern})\s*(?:%|per\s?cent)", text, re.I):
        return [_spelled(words) / 100 for words in found]
    if found := _RATIO.findall(text):
        return [
            _float(part) / int(whole) if int(whole) else -1 for part, whole in found
        ]
    if found := re.findall(_NUMBER, text):
        return [_bare(number, scale) for number in found]
    unit = 100 if scale == "percent" else 1
    return [_spelled(words) / unit for words in _SPELLED.findall(text)]


def _float(number: str) -> float:
    return float(number.replace(",", "."))


def _bare(number: str, scale: Scale) -> float:
    value = _float(number)
    is_share = scale == "probability" or (value <= 1 and re.search("[.,]", number))
    return value if is_share else value / 100


def _spelled(words: str) -> float:
    parts = words.lower().replace("-", " ").split()
    if "hundred" in parts:
        return 100.0
    return float(sum(_WORDS[part] for part in parts))
