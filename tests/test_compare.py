"""book/compare.py on two small builds."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

SCRIPT = Path(__file__).parents[1] / "book" / "compare.py"


def write_build(folder: Path, values: dict[str, object]) -> Path:
    """An executed chapter as `record` leaves it."""
    folder.mkdir()
    prefix = "application/papermill.record/"
    outputs = [
        new_output(
            "display_data",
            {f"{prefix}text/plain": repr(value)},
            metadata={"scrapbook": {"name": key, "mime_prefix": prefix}},
        )
        for key, value in values.items()
    ]
    cell = new_code_cell("pass", outputs=outputs)
    nbformat.write(new_notebook(cells=[cell]), folder / "01_one.ipynb")
    return folder


def test_two_builds_are_compared_value_by_value(tmp_path, monkeypatch, capsys):
    before = write_build(tmp_path / "a", {"x": 0.5, "n": 3, "word": "more", "old": 1})
    after = {"x": 0.5 + 1e-7, "n": 4, "word": "fewer", "new": True}
    other = write_build(tmp_path / "b", after)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr(sys, "argv", ["compare.py", str(before), str(other)])
    assert main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "01_one.ipynb n: 3 -> 4",
        "01_one.ipynb new: new, True",
        "01_one.ipynb old: gone, 1",
        "01_one.ipynb word: 'more' -> 'fewer'",
        "4 values differ",
    ]
    monkeypatch.setattr(sys, "argv", ["compare.py", str(before), str(before)])
    assert main() == 0
