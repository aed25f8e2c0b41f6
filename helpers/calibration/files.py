"""Plain files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(stored: Mapping[str, Any], path: str | Path) -> None:
    """Write a JSON file, whole or not at all.

    Parameters
    ----------
    stored : mapping
        What JSON can hold; no infinities.
    path : str or pathlib.Path
        The file; an existing one is replaced.
    """
    text = json.dumps(stored, indent=2, allow_nan=False, ensure_ascii=False)
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, target)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    object
        Of whatever kind it holds: check it.

    Raises
    ------
    ValueError
        The file is no JSON. NaN and infinities are none.
    OSError
        It cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "one.json")
    ...     write_json({"n": 1}, path)
    ...     read_json(path)
    {'n': 1}
    """
    try:
        return json.loads(Path(path).read_bytes(), parse_constant=_refused)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")
