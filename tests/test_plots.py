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

from helpers import metrics, plots
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


@pytest.mark.parametrize("word", ["$20 to $50", r"$\frac{$"])
@pytest.mark.parametrize("own", [False, True], ids=["new axes", "own axes"])
def test_dollar_signs_are_drawn_as_dollar_signs(
    tokens: NextTokens, word: str, own: bool
) -> None:
    """Labels, texts, tokens, titles and legends, on axes made by us or by a user."""
    ax = plt.subplots()[1] if own else None
    table = pd.DataFrame(
        {
            f"p_{word}": [0.7, 0.2],
            "p_other": [0.3, 0.8],
            "off_label": [0.0, 0.0],
            "prediction": [word, "other"],
        }
    )
    p = np.linspace(0.5, 1, 100)
    report = metrics.calibration_metrics(p, p > 0.6, n_resamples=20)
    named = pd.DataFrame({word: [0.7, 0.2]}, index=[word, "b"])
    tokens.table["token"] = [word, "b"]
    drawn = [
        lambda: plots.probability_bars({word: 0.7}, ax=ax),
        lambda: plots.label_bars(table, [f"A film of {word}.", "A bore."], ax=ax),
        lambda: plots.next_token_bars(tokens, groups={word: [word]}, ax=ax),
        lambda: plots.plot_confusion([word, "b"], [word, "b"], ax=ax),
        lambda: plots.plot_accuracy_by_threshold({word: report}, ax=ax),
        lambda: plots.legend_below(plots.plot_reliability_diagram(report, ax=ax)),
        lambda: plots.distribution_bars(named, axes=None if ax is None else [ax])[0],
        lambda: plots.measure_dots(named, axes=None if ax is None else [ax])[0],
    ]
    for draw in drawn:
        if ax is not None:
            ax.clear()
        found = draw()
        found.figure.draw_without_rendering()
        for text in found.findobj(mpl.text.Text):
            if "$" in text.get_text():
                assert not text.get_parse_math()
        plt.close("all" if ax is None else None)


def test_powers_of_ten_stay_formulas() -> None:
    ax = plt.subplots()[1]
    ax.set_xscale("log")
    ax.set_xlim(1, 1000)
    plots.legend_below(ax)
    ax.figure.draw_without_rendering()
    powers = [text for text in ax.get_xticklabels() if "mathdefault" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)
