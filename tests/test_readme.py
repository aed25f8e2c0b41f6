"""The README's example does what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_example_separates_a_thousand_held_out_reviews() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = re.findall(r"python - <<'EOF'\n(.*?)\nEOF\n", readme, re.S)
    assert 'load_reviews("test", n=1000)' in code
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(AUROC|accuracy) +([\d.]+)$", done.stdout, re.M))
    assert float(found["AUROC"]) >= 0.88
    assert float(found["accuracy"]) >= 0.78
    assert "off_label" in done.stdout
