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


def test_report_has_a_line_for_each_classifier(
    neiss: ModuleType, found: dict[str, Any]
) -> None:
    lines = neiss.report(found).splitlines()
    assert lines[0].startswith("3 cases to calibrate on, 4 others")
    assert lines[2].split() == ["few-shot", "0.010", *"(0.020–0.030) 0.040".split()] + [
        "0.050",
        "0.060",
    ]
    assert [line.split()[0] for line in lines[2:5]] == [*neiss.MODELS.values()]
    assert (
        "5.000 top-versus-all, 6.000 with maps per label (chance alone: 7.000)"
        in lines[5]
    )


@pytest.mark.parametrize(
    ("given", "parameter"),
    [("2024", 2024), ("cases.tsv", str(Path.cwd() / "cases.tsv"))],
)
def test_file_or_year_reaches_the_chapter(
    neiss: ModuleType,
    found: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    parameter: int | str,
) -> None:
    calls = []
    monkeypatch.setattr(neiss, "execute", lambda *args: calls.append(args))
    monkeypatch.setattr(neiss, "recorded", lambda path: found)
    assert neiss.main([given, "--n", "1500"]) == 0
    root, chapter, executed, parameters = calls[0]
    assert chapter.exists() and chapter.name == executed.name
    assert executed.parent == root / "_build" / "neiss"
    assert parameters == {"neiss": parameter, "n_live": 1500, "model": None}
    assert "fine-tuned" in capsys.readouterr().out


def test_asks_about_a_thousand_cases_or_more(neiss: ModuleType, root: Path) -> None:
    calls: list[Any] = []
    neiss.execute = lambda *args: calls.append(args)
    neiss.recorded = lambda path: {}
    with pytest.raises(KeyError):  # nothing was recorded
        neiss.main(["2024"])
    assert calls[0][3]["n_live"] >= 1000


def test_failed_chapter_is_told(
    neiss: ModuleType,
    build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any) -> None:
        raise build.BuildError("There is no file x.tsv.")

    monkeypatch.setattr(neiss, "execute", fail)
    assert neiss.main(["x.tsv"]) == 1
    assert "was not run: There is no file x.tsv." in capsys.readouterr().err
