"""The README's examples of hosted models do what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def run(code: str, base_url: str, root: Path) -> str:
    """What an example prints that asks this server."""
    address = "http://127.0.0.1:8000/v1"  # where make serve listens
    assert address in code
    command = [sys.executable, "-c", code.replace(address, base_url)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_probes_and_classifies(root: Path, base_url: str) -> None:
    readme = (root / "README.md").read_text("utf-8")
    [code] = re.findall(r"```python\n([^`]*HostedClassifier, probe\n[^`]*)```", readme)
    said = run(code, base_url, root)
    assert re.search(r"^after the mask +no ", said, re.M)
    rows = re.findall(r"^\d+ +([\d.]+) +([\d.]+) +([\d.]+) +(True|False)$", said, re.M)
    assert len(rows) == 5
    for p, low, high, _ in rows:
        assert float(low) <= float(p) <= float(high)


def test_examples_ask_our_own_server(root: Path) -> None:
    readme = (root / "README.md").read_text("utf-8")
    codes = re.findall(r"```python\n([^`]*127\.0\.0\.1[^`]*)```", readme)
    command = [sys.executable, "-m", "helpers", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as door:
        try:
            told = next(line for line in door.stderr if "running on" in line)
            url = f"{re.search(r'http://[.:0-9]+', told)[0]}/v1"
            probed, asked = (run(code, url, root) for code in codes[1:])
        finally:
            door.terminate()
            door.communicate()
    assert "It is the top probability" in probed
    assert len(re.findall(r"^[01] +0\.\d+ +0\.\d+ +0\.\d+$", probed, re.M)) == 2
    assert "probability=" in asked and "'lower leg'" in asked
