"""Figures: what the artists show, never pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers import plots
from helpers.models import NextTokens


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture
def tokens() -> NextTokens:
    table = pd.DataFrame(
        {
            "rank": [1, 2],
            "token": ["␣yes", "␣no"],
            "id": [3, 4],
            "probability": [0.6, 0.3],
            "logprob": np.log([0.6, 0.3]),
        }
    )
    return NextTokens("prompt", table, 0.1)


def widths(ax: plt.Axes) -> list[float]:
    return [patch.get_width() for patch in ax.patches]


def test_import_and_style_leave_settings_alone() -> None:
    code = (
        "import matplotlib as m; m.use('agg'); before = dict(m.rcParams);"
        "from helpers import plots;"
        "exec('with plots.style(): plots.probability_bars({\\'a\\': 1})');"
        "assert {k: v for k, v in m.rcParams.items() if before[k] != v} == {}"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_every_figure_of_a_notebook_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    cell = "with plots.style():\n    ax = plots.probability_bars({'a': 0.5})"
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel sets its own
    cells = ["from helpers import plots", cell, cell]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    client.execute()
    shown = [
        sum("image/png" in output.get("data", {}) for output in c.outputs)
        for c in nbformat.from_dict(notebook).cells[-2:]
    ]
    assert shown == [1, 1]


def test_palette_stands_out_on_white() -> None:
    for colour in plots.PALETTE:
        parts = np.array(colour)
        linear = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 2.99  # WCAG 2.1, non-text contrast 3:1


def test_next_token_bars_show_what_is_not_listed(tokens: NextTokens) -> None:
    ax = plots.next_token_bars(tokens, groups={"agree": ["␣yes"]})
    assert widths(ax) == pytest.approx([0.6, 0.3, 0.1])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["␣yes", "␣no", "all others"]
    assert ax.get_legend().get_texts()[0].get_text() == "agree"
    assert [t.get_text() for t in ax.texts] == ["60.00%", "30.00%", "10.00%"]


def test_label_bars_add_up_to_one() -> None:
    table = pd.DataFrame(
        {"p_a": [0.75, 0.5], "p_b": [0.25, 0.5], "off_label": [0.2, 0.0]}
    )
    ax = plots.label_bars(table, ["first", "second"])
    assert widths(ax) == pytest.approx([0.6, 0.5, 0.2, 0.5, 0.2, 0.0])
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["a", "b", "no label"]


def test_distribution_bars_have_one_panel_a_treatment() -> None:
    table = pd.DataFrame({"T = 1": [0.7, 0.3], "T = 0": [1.0, 0.0]}, index=["x", "y"])
    axes = plots.distribution_bars(table)
    assert [ax.get_title() for ax in axes] == ["T = 1", "T = 0"]
    assert widths(axes[1]) == [1.0, 0.0]
    assert len(plots.distribution_bars(table[["T = 1"]])) == 1


def test_measure_dots_draw_intervals_and_chance() -> None:
    table = pd.DataFrame(
        {"accuracy": [0.5, 0.9], "AUROC": [0.6, 0.8]}, index=["a", "b"]
    )
    errors = pd.DataFrame({"accuracy": [0.1, 0.05], "AUROC": [np.nan, np.nan]})
    axes = plots.measure_dots(table, errors=errors, chance={"AUROC": 0.5})
    bars = axes[0].containers[0].lines[2][0].get_segments()
    assert bars[0][:, 0] == pytest.approx([0.4, 0.6])
    assert [ax.get_xlabel() for ax in axes] == ["accuracy", "AUROC"]
    assert axes[1].lines[-1].get_xdata()[0] == 0.5


def test_score_histogram_counts_every_text() -> None:
    scores, truth = np.array([0.0, 0.2, 0.99, 1.0]), np.array([0, 0, 1, 1])
    ax = plots.score_histogram(scores, truth, thresholds={"half": 0.5})
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert ax.lines[0].get_xdata()[0] == 0.5


def test_a_given_axes_is_drawn_on(tokens: NextTokens) -> None:
    ax = plt.subplots()[1]
    assert plots.next_token_bars(tokens, ax=ax) is ax
    assert plots.probability_bars({"a": 0.5}, ax=ax) is ax
