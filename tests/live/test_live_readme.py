"""The README's example of a hosted model does what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_example_probes_and_classifies(root: Path, base_url: str) -> None:
    readme = (root / "README.md").read_text("utf-8")
    [code] = re.findall(r"```python\n([^`]*HostedClassifier[^`]*)```", readme)
    address = "http://127.0.0.1:8000/v1"  # where make serve listens
    assert address in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(address, base_url)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^after the mask +no ", done.stdout, re.M)
    rows = re.findall(
        r"^\d+ +([\d.]+) +([\d.]+) +([\d.]+) +(True|False)$", done.stdout, re.M
    )
    assert len(rows) == 5
    for p, low, high, _ in rows:
        assert float(low) <= float(p) <= float(high)
