"""Read the confidence that an answer states, where it states one and nothing else.

Whatever cannot be read is an outcome with a name, never a row to drop: models refuse
and stumble where the task is hard, and a sample without these rows flatters them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, NamedTuple

from ..checks import check_choice

Scale = Literal["percent", "probability"]
STATUSES = ("ok", "empty", "refused", "out of range", "unreadable")
# A full stop behind a single digit may be a decimal point whose digits were cut off.
_STATED = re.compile(
    r"(-?(?:0|[1-9]\d*)(?:\.\d+)?)(?: ?(%|per ?cent)| ?(?:/|out of) ?(100?))?"
    r"(?:(?<!^\d)(?<![^\d.]\d)\.)?",
    re.ASCII | re.I,
)
_MARKED = re.compile(r"([\"'`*_]*)(.+?)\1", re.S)
_REFUSAL = re.compile(
    r"\b(can(?:no|')t|can not|unable|don't know|do not know|won't|refuse|sorry"
    r"|as an ai)\b",
    re.I,
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


def read_report(
    answer: str, *, scale: Scale = "percent", key: str = "confidence"
) -> Report:
    """The confidence that an answer states, if that is all that it states.

    Read is one number: ``85``, ``85%``, ``85 percent``, ``8/10``, ``85 out of 100`` or
    ``0.85``, with the key and a colon before it or not, in quotes or Markdown or not;
    and a JSON object that is whole and has such a number under the key, and no other
    number. Sentences, ranges, words for numbers and other scales are not read: what
    they mean would have to be guessed. So ask for a number and nothing else.

    Parameters
    ----------
    answer : str
        What the model wrote.
    scale : {"percent", "probability"}, default="percent"
        What was asked for, and so what a bare number means: of 100, or of 1. With
        "percent", a bare number with decimals below 1 is a probability all the same,
        and ``1.0``, which may be either, is not read.
    key : str, default="confidence"
        What the number was to be called, where that was asked for. Case does not
        matter.

    Returns
    -------
    Report
        Count the statuses: the share that is not "ok" is a result.

    Raises
    ------
    TypeError
        The answer is no string.
    ValueError
        An unknown scale.

    Examples
    --------
    >>> read_report("85%"), read_report('{"confidence": 0.85}')
    (Report(value=0.85, status='ok'), Report(value=0.85, status='ok'))
    >>> read_report("I'm not 100% sure.").status, read_report("110 %").status
    ('unreadable', 'out of range')
    """
    check_choice("scale", scale, ("percent", "probability"))
    if not isinstance(answer, str):
        raise TypeError(f"answer must be a string, not {answer!r}.")
    text = answer.strip()
    if not text:
        return Report(math.nan, "empty")
    marked = _MARKED.fullmatch(text)
    bare = marked[2].removeprefix("json\n").strip() if marked else text
    if bare.startswith("{"):
        stated = _json_field(bare, key)
    else:
        stated = re.sub(rf"^{re.escape(key)} ?[:=] ?", "", bare, flags=re.I)
    found = _STATED.fullmatch(stated)
    if not found or (scale == "percent" and re.fullmatch(r"1\.0+\.?", stated)):
        refused = _REFUSAL.search(text.replace("’", "'"))
        return Report(math.nan, "refused" if refused else "unreadable")
    number, percent, whole = float(found[1]), found[2], found[3]
    is_share = scale == "probability" or ("." in found[1] and number < 1)
    if whole or percent or not is_share:
        number /= int(whole or 100)
    return (
        Report(number, "ok") if 0 <= number <= 1 else Report(math.nan, "out of range")
    )


def _json_field(text: str, key: str) -> str:
    """What a JSON object has under a key; "" where that is not one thing."""
    try:
        fields: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return ""
    stated = [value for name, value in fields if name.casefold() == key.casefold()]
    others = [value for name, value in fields if name.casefold() != key.casefold()]
    # Nested fields may have the same key, or another number.
    clear = not any(
        type(value) in (int, float, list) or _STATED.fullmatch(str(value))
        for value in others
    )
    return str(stated[0]) if len(stated) == 1 and clear else ""
