"""The README's example does what the README says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[[str], str]
pytestmark = pytest.mark.usefixtures("embedded")  # loaded once for all of them


@pytest.fixture(scope="module")
def examples(root: Path) -> list[str]:
    readme = (root / "README.md").read_text("utf-8")
    return re.findall(r"python - <<'EOF'\n(.*?)\nEOF\n", readme, re.S)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What code prints that sees no name of any other."""

    def run(code: str) -> str:
        with warnings.catch_warnings(action="default"):
            exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run


def test_classifier_separates_held_out_reviews(examples, run):
    code, _, _ = examples
    for whole, fewer in (('"test", n=1000', 60), ('"calibration", n=200', 40)):
        assert whole in code
        code = code.replace(whole, f"{whole.split('=')[0]}={fewer}")
    shown = run(code)
    found = dict(re.findall(r"^(AUROC|accuracy) +([\d.]+)", shown, re.M))
    assert float(found["AUROC"]) >= 0.7
    assert float(found["accuracy"]) >= 0.77
    assert "learned from 40 labels" in shown and "(held out:" in shown
    assert "cannot be told from a perfect forecaster" in shown


def test_calibrator_mends_the_confidence_of_other_films(examples, run):
    _, code, _ = examples
    before, after = run(code).strip().split("\n\n")
    assert "not stated" in before and "(held out:" in after
    errors = [
        float(re.search(r"^Brier score +([\d.]+)", report, re.M)[1])
        for report in (before, after)
    ]
    assert errors[1] < 0.95 * errors[0]
    assert "cannot be told from a perfect forecaster" in after


def test_policy_holds_on_other_films(examples, run):
    _, _, code = examples
    shown = run(code)
    assert "a risk of at most 0.1 holds" in shown and "accept" in shown
