"""Rules of helpers.record: what a chapter records can be read back."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import nbformat
import numpy as np
import pytest

from helpers.record import read_flag, record, recorded


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    """What is displayed: pairs of data and metadata."""
    kept: list[tuple[dict, dict]] = []

    def display(data: dict, *, metadata: dict, raw: bool) -> None:
        assert raw
        kept.append((data, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return kept


def notebook_of(shown: list[tuple[dict, dict]], path: Path) -> Path:
    """An executed notebook with these outputs, among others."""
    outputs = [nbformat.v4.new_output("stream", text="read 3 texts\n")]
    for data, metadata in shown:
        outputs.append(
            nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        )
    cells = [nbformat.v4.new_markdown_cell("# A chapter")]
    cells.append(nbformat.v4.new_code_cell("...", outputs=outputs))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (0.25, 0.25),
        (1e-30, 1e-30),
        (7, 7),
        (True, True),
        ('it\'s "fresh"\n', 'it\'s "fresh"\n'),
        ("", ""),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(12752), 12752),
        (np.bool_(False), False),
        (np.str_("positive"), "positive"),
        (np.array(3.5), 3.5),
    ],
)
def test_value_comes_back_as_plain_python(shown, tmp_path, value, plain):
    assert recorded(notebook_of(shown, tmp_path / "chapter.ipynb")) == {}
    record("key", value)
    found = recorded(notebook_of(shown, tmp_path / "chapter.ipynb"))
    assert found == {"key": plain}
    assert type(found["key"]) is type(plain)
    # What glue reads.
    ((data, metadata),) = shown
    prefix = "application/papermill.record/"
    assert data == {f"{prefix}text/plain": repr(plain)}
    assert metadata == {"scrapbook": {"name": "key", "mime_prefix": prefix}}


@pytest.mark.parametrize(
    ("key", "value", "error", "said"),
    [
        *(
            ("key", value, TypeError, "value must be a number, a string or a bool")
            for value in (None, [1.0], {"a": 1}, 1j, b"x", Decimal(1), np.array([1.0]))
        ),
        *(
            ("key", value, ValueError, "value must be finite")
            for value in (float("nan"), float("inf"), np.float32("-inf"))
        ),
        *(
            (key, 1, ValueError, "key must be a name without a colon")
            for key in ("", "accuracy:.2f", None, 3)
        ),
    ],
)
def test_what_prose_cannot_quote_is_refused(shown, key, value, error, said):
    with pytest.raises(error, match=said):
        record(key, value)
    assert shown == []


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        *((word, True) for word in (True, 1, np.True_, "true", "True", "TRUE", "1")),
        *((word, False) for word in (False, 0, np.False_, "false", "False", "0")),
    ],
)
def test_switch_is_read_in_both_spellings(value, flag):
    assert read_flag(value) is flag


@pytest.mark.parametrize("value", ["yes", "", " true", None, 2, 1.5, float("nan"), []])
def test_switch_that_is_neither_is_refused(value):
    with pytest.raises(ValueError, match=re.escape(f"1 or 0, not {value!r}.")):
        read_flag(value)


@pytest.mark.parametrize("word", ["true", "false", "True", "False", "1", "0"])
def test_switch_as_papermill_hands_it_on(word):
    from papermill.cli import _resolve_type
    from papermill.translators import PythonTranslator

    given = {}
    exec(PythonTranslator.codify({"fast": _resolve_type(word)}), given)
    assert read_flag(given["fast"]) is (word.casefold() in ("true", "1"))
