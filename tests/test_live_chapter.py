"""book/neiss.py, which runs the chapter on NEISS on the cases of a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def neiss(root: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "build", build)
    spec = importlib.util.spec_from_file_location("neiss", root / "book" / "neiss.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **more: None)
    return module


@pytest.fixture
def found(neiss: ModuleType) -> dict[str, Any]:
    """Values such as the chapter records, each of them another one."""
    names = ["n_fit", "n_test", "few_class_tva", "few_class_ppc", "few_class_floor"]
    values: dict[str, Any] = {name: at + 3 for at, name in enumerate(names)}
    parts = ("acc", "acc_low", "acc_high", "raw", "cal", "cal_upper")
    keys = [f"{key}_{part}" for key in neiss.MODELS for part in parts]
    return values | {key: (at + 1) / 100 for at, key in enumerate(keys)}


def test_report_has_a_line_for_each_classifier(neiss, found):
    first, _, *rows, last = neiss.report(found).splitlines()[:6]
    assert first.startswith("3 cases to calibrate on, 4 others")
    numbers = "few-shot 0.010 (0.020–0.030) 0.040 0.050 0.060"
    assert rows[0].split() == numbers.split()
    assert [row.split()[0] for row in rows] == [*neiss.MODELS.values()]
    assert "5.000 top-versus-all, 6.000 with maps per label (chance alone: 7." in last


@pytest.mark.parametrize(
    ("given", "parameter", "n_live"),
    [
        (["2024", "--n", "1500"], 2024, 1500),
        (["cases.tsv"], str(Path.cwd() / "cases.tsv"), 1000),
    ],
)
def test_file_or_year_reaches_the_chapter(
    neiss, found, monkeypatch, capsys, given, parameter, n_live
):
    calls = []
    monkeypatch.setattr(neiss, "execute", lambda *args: calls.append(args))
    monkeypatch.setattr(neiss, "recorded", lambda path: found)
    assert neiss.main(given) == 0
    root, chapter, executed, parameters = calls[0]
    assert chapter.exists() and chapter.name == executed.name
    assert executed.parent == root / "_build" / "neiss"
    assert parameters["neiss"] == parameter and parameters["model"] is None
    assert parameters["n_live"] >= n_live and "fine-tuned" in capsys.readouterr().out


def test_failed_chapter_is_told(neiss, build, monkeypatch, capsys):
    def fail(*args):
        raise build.BuildError("There is no file x.tsv.")

    monkeypatch.setattr(neiss, "execute", fail)
    assert neiss.main(["x.tsv"]) == 1
    assert "was not run: There is no file x.tsv." in capsys.readouterr().err
