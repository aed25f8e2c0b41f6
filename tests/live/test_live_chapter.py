"""The chapter on answers from an API, asked live instead of played back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import papermill

from helpers.record import recorded


def test_chapter_runs_at_a_server_of_the_readers_own(
    root: Path, base_url: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOW_SURE_BASE_URL", base_url)
    done = tmp_path / "03.ipynb"
    papermill.execute_notebook(
        str(root / "notebooks" / "03_structured_answers.ipynb"),
        str(done),
        parameters={"fast": True, "n_reviews": 3},
        cwd=str(root / "notebooks"),
        kernel_name="python3",
        progress_bar=False,
    )
    found = recorded(done)
    assert found["n_servers"] == 1 and found["first"] == found["strict"] == "asked"
    assert found["n_reviews"] == 3
    # Nothing came from a recording: this server's answers are in the user's journals.
    assert list((tmp_path.parent).parent.glob("**/hosted/asked/reviews-20.sqlite"))
