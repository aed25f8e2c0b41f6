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
