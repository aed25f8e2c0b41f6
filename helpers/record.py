"""What a chapter is told and what it tells: its switch, and values that prose quotes.

``record("accuracy", value)`` in a notebook leaves the value in the cell's output,
where the book's text finds it as ``{glue:text}`accuracy:.2f```. No number in the prose
is typed, so none can go stale.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import nbformat

_PREFIX = "application/papermill.record/"


def record(key: str, value: str | int | float | bool) -> None:
    """Record a value under a key of the chapter.

    Parameters
    ----------
    key : str
        A name, unique in the chapter.
    value : str, int, float or bool
        NumPy scalars are fine.

    Raises
    ------
    TypeError
        The value is none of these.
    ValueError
        The key is empty or contains a colon (which begins the format), or the value
        is infinite or not a number.
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
    """A switch of a notebook, however it was set.

    ``papermill -p fast false`` hands on the text "false", which Python takes for true.

    Parameters
    ----------
    value : bool, int or str
        True or 1, False or 0; as text in any case of its letters.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        It is neither.

    Examples
    --------
    >>> read_flag("false"), read_flag("True"), read_flag(0)
    (False, True, False)
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(value).casefold() not in words:
        raise ValueError(f"value must be true or false, 1 or 0, not {value!r}.")
    return words[str(value).casefold()]


def recorded(notebook: str | Path) -> dict[str, Any]:
    """All values recorded in an executed notebook.

    Parameters
    ----------
    notebook : str or pathlib.Path
        An .ipynb file with outputs.

    Returns
    -------
    dict
        Values by key.
    """
    import ast

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
