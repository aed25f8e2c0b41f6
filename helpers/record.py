"""What a chapter is told and what it tells: its switch, and values that prose quotes.

``record("accuracy", value)`` leaves the value in the cell's output, where the book's
text finds it as ``{glue:text}`accuracy:.2f```.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_PREFIX = "application/papermill.record/"


def record(key: str, value: str | int | float | bool) -> None:
    """Record a value under a key of the chapter.

    Parameters
    ----------
    key : str
        A name, unique in the chapter, without a colon.
    value : str, int, float or bool
        A finite value; NumPy scalars are fine.
    """
    from IPython.display import display

    if not isinstance(key, str) or not key or ":" in key:
        raise ValueError(f"key must be a name without a colon, not {key!r}.")
    plain = _plain(value)
    display(
        {f"{_PREFIX}text/plain": repr(plain)},
        metadata={"scrapbook": {"name": key, "mime_prefix": _PREFIX}},
        raw=True,
    )


def read_flag(value: object) -> bool:
    """Read a switch of a notebook: True or 1, False or 0, also as text.

    ``papermill -p fast false`` hands on the text "false".

    >>> read_flag("false"), read_flag("True"), read_flag(0)
    (False, True, False)
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(value).casefold() not in words:
        raise ValueError(f"value must be true or false, 1 or 0, not {value!r}.")
    return words[str(value).casefold()]


def recorded(notebook: str | Path) -> dict[str, Any]:
    """All values recorded in an executed notebook, a path to an .ipynb file, by key."""
    import ast

    import nbformat  # takes seconds, and a chapter that only records needs none

    found = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            scrap = output.get("metadata", {}).get("scrapbook")
            if scrap:
                text = output["data"][f"{scrap['mime_prefix']}text/plain"]
                found[scrap["name"]] = ast.literal_eval(text)
    return found


def _plain(value: object) -> str | int | float | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise ValueError(f"value must be finite, not {value!r}.")
        return float(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(value.item())
    raise TypeError(f"value must be a number, a string or a bool, not {value!r}.")
