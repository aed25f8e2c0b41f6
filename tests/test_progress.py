"""Rules of helpers.progress: a bar for whoever wants one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers.progress import progress_bar


@pytest.mark.parametrize(
    ("variable", "show", "off"),
    [("", True, False), ("", False, True), ("1", True, True), ("1", False, True)],
)
def test_the_environment_and_the_caller_can_each_say_no(variable, show, off):
    # tqdm reads its environment when it is imported.
    asked = (
        "from helpers.progress import progress_bar;"
        f"print(progress_bar(total=3, show={show}).disable)"
    )
    said = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "TQDM_DISABLE": variable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [str(off)]


def test_the_bar_gives_the_items():
    assert list(progress_bar("abc", show=False)) == ["a", "b", "c"]
    with progress_bar(total=5, initial=2, unit="step", show=False) as bar:
        bar.update()
