"""Figures: what the artists show, never pixels; and that nothing hides its origin."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook

import helpers
from helpers import plots
from helpers.calibration import IsotonicRegressionCalibrator
from helpers.metrics import CalibrationReport, calibration_metrics, class_table
from helpers.models import NextTokens

Data = tuple[np.ndarray, np.ndarray]
PROBABILITIES = pd.DataFrame(
    {"T = 1": [0.7, 0.3], "T = 0": [1.0, 0.0]}, index=list("xy")
)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    return confidence, rng.random(400) < confidence**2


@pytest.fixture(scope="module")
def report(data: Data) -> CalibrationReport:
    return calibration_metrics(*data, n_resamples=20)


@pytest.fixture(scope="module")
def in_sample(data: Data) -> CalibrationReport:
    fitted = IsotonicRegressionCalibrator().fit(*data)
    return calibration_metrics(fitted.predict(data[0]), data[1], n_resamples=20)


@pytest.fixture
def tokens() -> NextTokens:
    table = pd.DataFrame({"token": ["␣yes", "␣no"], "probability": [0.6, 0.3]})
    return NextTokens("prompt", table, 0.1)


def widths(ax: Axes) -> list[float]:
    return [patch.get_width() for patch in ax.patches]


def texts(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax: Axes, start: str) -> Any:
    """The only line whose label starts so."""
    (found,) = (one for one in ax.lines if str(one.get_label()).startswith(start))
    return found


def test_import_and_style_leave_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(mpl.rcParams)
    monkeypatch.setattr(helpers, "plots", plots)  # and the package is put back
    for name in [name for name in sys.modules if name.startswith("helpers.plots")]:
        monkeypatch.delitem(sys.modules, name)
    again = importlib.import_module("helpers.plots")
    assert again is not plots
    with again.style():
        again.confidence_histogram([0.5])
    assert dict(mpl.rcParams) == before


def test_every_figure_of_a_notebook_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    cell = "with plots.style():\n    ax = plots.confidence_histogram([0.5])"
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel sets its own
    cells = ["from helpers import plots", cell, cell]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=40"]
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


@pytest.mark.parametrize("word", ["$20 to $50", r"$\frac{$"])
@pytest.mark.parametrize("own", [False, True], ids=["new axes", "own axes"])
def test_dollar_signs_are_drawn_as_dollar_signs(
    tokens: NextTokens, report: CalibrationReport, word: str, own: bool
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
    named = pd.DataFrame({word: [0.7, 0.2]}, index=[word, "b"])
    tokens.table["token"] = [word, "b"]
    drawn = [
        lambda: plots.label_bars(table, [f"A film of {word}.", "A bore."], ax=ax),
        lambda: plots.next_token_bars(tokens, groups={word: [word]}, ax=ax),
        lambda: plots.plot_confusion([word, "b"], [word, "b"], ax=ax),
        lambda: plots.plot_accuracy_by_threshold({word: report}, ax=ax),
        lambda: plots.legend_below(plots.plot_reliability_diagram(report, ax=ax)),
        lambda: plots.distribution_bars(named)[0],
        lambda: plots.measure_dots(named)[0],
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


def test_a_given_axes_is_drawn_on(
    tokens: NextTokens, report: CalibrationReport
) -> None:
    ax = Figure().subplots()
    for name, given in {
        "next_token_bars": [tokens],
        "plot_reliability_diagram": [report],
        "confidence_histogram": [report.confidence],
        "plot_accuracy_by_threshold": [{"raw": report}],
        "plot_calibration_map": [{"same": np.asarray}],
        "plot_confusion": [TRUTH, SAID],
    }.items():
        assert getattr(plots, name)(*given, ax=ax) is ax
    assert plots.legend_below(ax) is ax and not plt.get_fignums()


def test_next_token_bars_show_what_is_not_listed(tokens: NextTokens) -> None:
    ax = plots.next_token_bars(tokens, groups={"agree": ["␣yes"]})
    assert widths(ax) == pytest.approx([0.6, 0.3, 0.1])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["␣yes", "␣no", "all others"]
    assert legend(ax) == ["agree"]
    assert [t.get_text() for t in ax.texts] == ["60.00%", "30.00%", "10.00%"]


def test_label_bars_add_up_to_one() -> None:
    table = pd.DataFrame(
        {"p_a": [0.75, 0.5], "p_b": [0.25, 0.5], "off_label": [0.2, 0.0]}
    )
    ax = plots.label_bars(table, ["first", "second"])
    assert widths(ax) == pytest.approx([0.6, 0.5, 0.2, 0.5, 0.2, 0.0])
    assert legend(ax) == ["a", "b", "no label"]


def test_panels_have_one_column_each() -> None:
    axes = plots.distribution_bars(PROBABILITIES)
    assert [ax.get_title() for ax in axes] == ["T = 1", "T = 0"]
    assert widths(axes[1]) == [1.0, 0.0] and texts(axes[1]) == "100%\n0"
    assert len(plots.distribution_bars(PROBABILITIES[["T = 1"]])) == 1
    errors = PROBABILITIES.assign(**{"T = 1": 0.1, "T = 0": np.nan})
    axes = plots.measure_dots(PROBABILITIES, errors=errors, chance={"T = 0": 0.5})
    bars = axes[0].containers[0].lines[2][0].get_segments()
    assert bars[0][:, 0] == pytest.approx([0.6, 0.8])
    assert [ax.get_xlabel() for ax in axes] == ["T = 1", "T = 0"]
    assert axes[1].lines[-1].get_xdata()[0] == 0.5
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["x", "y"]


def test_histograms_count_every_row() -> None:
    scores, truth = np.array([0.0, 0.2, 0.99, 1.0]), np.array([0, 0, 1, 1])
    ax = plots.score_histogram(scores, truth, thresholds={"half": 0.5})
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert ax.lines[0].get_xdata()[0] == 0.5
    ax = plots.confidence_histogram([0.6, 0.8, 0.8, 1.0], [1, 1, 0, 1])
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([0.8, 0.75])
    assert legend(ax) == ["mean confidence 0.800", "accuracy 0.750"]


def test_counts_out_of_view_are_not_drawn(report: CalibrationReport) -> None:
    widths = []
    for counts in (True, False):
        ax = plots.plot_reliability_diagram(report, counts=counts)
        ax.set_xlim(0.8, 1.03)
        widths.append(ax.get_tightbbox().width)
    assert widths[0] == pytest.approx(widths[1])


@pytest.mark.parametrize(
    ("low", "corner"), [(0, ("left", "top")), (1, ("right", "bot"))]
)
def test_panel_stands_where_it_hides_no_interval(low: int, corner: Any) -> None:
    confidence = np.repeat([0.1, 0.9, 0.3], [50, 50, 3 * low])
    correct = np.arange(len(confidence)) % 50 < (45 if low else 15)
    ax = plots.plot_reliability_diagram(confidence, correct)
    panel = next(text for text in ax.texts if "noise floor" in text.get_text())
    assert (panel.get_ha(), panel.get_va()[:3]) == corner


def test_diagram_draws_intervals_the_band_and_a_panel(
    report: CalibrationReport,
) -> None:
    ax = plots.plot_reliability_diagram(report)
    curve = report.curve[report.curve["n"] > 0]
    band = [(p.get_y(), p.get_y() + p.get_height()) for p in ax.patches]
    assert np.array(band) == pytest.approx(curve[["band_low", "band_high"]].to_numpy())
    (bars,) = (c for c in ax.collections if isinstance(c, LineCollection))
    ends = np.array(bars.get_segments())[:, :, 1]
    assert ends == pytest.approx(curve[["accuracy_low", "accuracy_high"]].to_numpy())
    for shown in (report.ece, report.floor.mean, "n = 400", report.rule):
        assert (shown if isinstance(shown, str) else f"{shown:.3f}") in texts(ax)
    means = next(c for c in ax.collections if c.get_label() == "mean of a bin")
    assert np.asarray(means.get_offsets()) == pytest.approx(
        curve[["confidence", "accuracy"]].to_numpy()
    )
    assert (np.argsort(means.get_sizes()) == np.argsort(np.sqrt(curve["n"]))).all()
    assert all(f"{n:,}" in texts(ax) for n in curve["n"])
    dots = next(c for c in ax.collections if c.get_label() == "single prediction")
    height = np.asarray(dots.get_offsets())[:, 1]
    assert len(height) == 400 and np.sum(height > 0.5) == report.correct.sum()
    # Dots that are faint in the figure are not in its legend.
    plots.legend_below(ax)
    shown = ax.get_legend().legend_handles[legend(ax).index("single prediction")]
    assert dots.get_alpha() == 0.25 and shown.get_alpha() is None
    with pytest.raises(ValueError, match="correct must be given"):
        plots.plot_reliability_diagram(report.confidence)


def test_what_was_fitted_on_is_stamped(
    report: CalibrationReport, in_sample: CalibrationReport
) -> None:
    assert "IN-SAMPLE" not in texts(plots.plot_reliability_diagram(report))
    stamped = plots.plot_reliability_diagram(in_sample, panel=False, points=False)
    assert "IN-SAMPLE" in texts(stamped)
    first, second = plots.plot_before_after(report, in_sample, names=("a", "b"))
    assert [ax.get_title() for ax in (first, second)] == ["a", "b"]
    assert first.get_xlim() == second.get_xlim()
    assert "IN-SAMPLE" not in texts(first) and "IN-SAMPLE" in texts(second)
    ax = plots.plot_accuracy_by_threshold({"raw": report, "mended": in_sample})
    assert ["IN-SAMPLE" in name for name in legend(ax)] == [False, True]


def test_map_shows_steps_as_steps_and_marks_a_score() -> None:
    step = IsotonicRegressionCalibrator(rule="step").fit(
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], [0, 1, 0, 1, 0, 1, 1]
    )
    ax = plots.plot_calibration_map({"step": step.predict}, mark=0.55)
    assert set(np.round(line(ax, "step").get_ydata(), 6)) == {0.0, 0.5, 1.0}
    (marked,) = (one for one in ax.lines if one.get_marker() == "o")
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.55, 0.5)


def test_accuracy_by_threshold_is_that_of_the_rows_above() -> None:
    confidence = np.repeat([0.6, 0.8, 0.95], 100)
    correct = np.concatenate([np.arange(100) < right for right in (50, 70, 96)])
    found = calibration_metrics(confidence, correct, n_resamples=20)
    ax = plots.plot_accuracy_by_threshold({"raw": found})
    drawn = line(ax, "raw").get_xydata()
    values = dict(zip(np.round(drawn[:, 0], 4), drawn[:, 1], strict=True))
    assert values[0.5] == pytest.approx(216 / 300)
    assert values[0.6] == pytest.approx(216 / 300)  # at the threshold counts
    assert values[0.7] == pytest.approx(166 / 200)
    assert values[0.95] == pytest.approx(0.96)
    assert legend(ax) == ["raw: 100 from 0.9 on, 96.0% right"]
    assert {"act", "review", "check"} <= set(texts(ax).split("\n"))


def test_progression_draws_what_most_draws_state() -> None:
    rows = [(100, draw, 0.9, 0.97, 0.8 + draw / 100) for draw in range(11)]
    rows += [(100, 0, 0.1, 0.12, 0.5)]  # one draw in eleven states this
    rows += [(200, draw, 0.9, 0.95, 0.85) for draw in range(11)]
    columns = ["n", "draw", "bin", "confidence", "accuracy"]
    table = pd.DataFrame(rows, columns=columns)
    first, second = plots.plot_sample_size_progression(table)
    assert [ax.get_title() for ax in (first, second)] == ["100 labels", "200 labels"]
    middle = first.lines[-1]
    assert middle.get_xydata() == pytest.approx(np.array([[0.97, 0.85]]))


def test_learning_curves_draw_means_and_levels() -> None:
    table = pd.DataFrame(
        {
            "calibrator": ["a", "a", "a", "b"],
            "n": [25, 25, 100, 25],
            "ece": [0.1, 0.2, 0.05, 0.3],
        }
    )
    ax = plots.plot_learning_curves(table, levels={"noise floor": 0.02})
    assert line(ax, "a").get_xydata() == pytest.approx(
        np.array([[25, 0.15], [100, 0.05]])
    )
    assert texts(ax) == "noise floor"
    assert legend(ax) == ["a", "b"]
    # Many curves are told apart by marker or line alone.
    many = pd.DataFrame({"calibrator": list("abcdefghij"), "n": 25, "ece": 0.1})
    ax = plots.plot_learning_curves(many)
    assert len({(one.get_marker(), str(one._dash_pattern)) for one in ax.lines}) == 10


def test_threshold_progression_says_what_is_covered() -> None:
    rows = [
        (n, t, s, t + s) for n in (50, 1000) for t in (0.8, 0.9) for s in (0.02, 0.1)
    ]
    table = pd.DataFrame(rows, columns=["n", "threshold", "coverage", "accuracy"])
    first, second = plots.plot_threshold_progression(table)
    assert [ax.get_title() for ax in (first, second)] == [
        "threshold 0.8",
        "threshold 0.9",
    ]
    assert first.lines[-1].get_ydata() == pytest.approx([0.86, 0.86])
    words = [text.get_text() for text in second.get_xticklabels()]
    assert words == ["50\n2% to 10%", "1,000\n2% to 10%"]


def class_gaps(**confidences: np.ndarray) -> pd.DataFrame:
    predicted = np.repeat(["hand", "toe", "ear"], [30, 20, 1])
    return class_table(predicted, np.arange(51) % 4 > 0, confidences)


def test_class_gaps_lead_from_accuracy_to_confidence() -> None:
    table = class_gaps(raw=np.linspace(0.6, 1, 51), calibrated=np.full(51, 0.7))
    ax = plots.plot_class_gaps(table)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["hand (30)", "toe (20)", "ear (1)"]
    assert ax.yaxis_inverted()
    assert legend(ax) == ["accuracy", "raw", "calibrated"]
    for at, name in enumerate(("raw", "calibrated")):
        dots = line(ax, name)
        assert dots.get_xdata() == pytest.approx(table[name].to_numpy())
        assert dots.get_marker() == plots.MARKERS[at]
        gaps = np.array(ax.collections[2 + at].get_segments())
        assert gaps[:, :, 0] == pytest.approx(table[["accuracy", name]].to_numpy())
        assert gaps[:, 0, 1] == pytest.approx(np.asarray(dots.get_ydata()))
        # Every mark stays in the row of its class.
        assert np.abs(gaps[:, 0, 1] - np.arange(3)).max() < 0.5
    intervals = np.array(ax.collections[0].get_segments())[:, :, 0]
    assert intervals == pytest.approx(table[["accuracy_low", "accuracy_high"]].values)


def test_class_gaps_say_what_was_fitted_on(data: Data) -> None:
    fitted = IsotonicRegressionCalibrator().fit(*data).predict(data[0])[:51]
    ax = plots.plot_class_gaps(
        class_gaps(raw=data[0][:51], mended=fitted), names=["raw"]
    )
    assert legend(ax) == ["accuracy", "raw"]
    ax = plots.plot_class_gaps(class_gaps(mended=fitted), names=["mended"])
    assert legend(ax) == ["accuracy", "mended (IN-SAMPLE)"]
    with pytest.raises(ValueError, match="^table must have the column 'calibrated'"):
        plots.plot_class_gaps(class_gaps(raw=data[0][:51]))
    with pytest.raises(ValueError, match=r"^names must be 1 to 5 of them, not \[\]"):
        plots.plot_class_gaps(class_gaps(raw=data[0][:51]), names=[])


# 200 of a: 189 right, 10 taken for b, 1 for c; of b 3 of 4 right; c never right.
TRUTH = ["a"] * 200 + ["b"] * 4 + ["c"]
SAID = ["a"] * 189 + ["b"] * 10 + ["c"] + ["b"] * 3 + ["a"] + ["a"]


def test_confusion_writes_large_shares_and_leaves_out_small_ones() -> None:
    ax = plots.plot_confusion(TRUTH, SAID)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    # At (column, row). Of a, 94.5 %, 5 % and 0.5 %.
    of_a, of_b = {(0, 0): "94", (1, 0): "5"}, {(0, 1): "25", (1, 1): "75"}
    assert written == of_a | of_b | {(0, 2): "100"}
    shown = np.ma.asarray(ax.images[0].get_array())
    assert shown.mask.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert shown[0, 2] == pytest.approx(0.005)
    assert ax.images[0].get_clim() == (0, 1)
    rarer = plots.plot_confusion(["a"] * 201, ["a"] * 200 + ["b"])
    assert np.ma.asarray(rarer.images[0].get_array()).mask[0, 1]


def test_confusion_has_its_classes_in_order() -> None:
    def names(ax: Axes) -> list[str]:
        down = [text.get_text() for text in ax.get_yticklabels()]
        assert [text.get_text() for text in ax.get_xticklabels()] == down
        return down

    # As often as true; then as often as said; then by name.
    truth, said = ["b", "b", "a", "d", "c"], ["e", "e", "d", "d", "f"]
    assert names(plots.plot_confusion(truth, said)) == list("bdacef")
    assert names(plots.plot_confusion(truth, said, labels="fedcbaz")) == list("fedcbaz")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("a", "truth must be one of the classes .* row 1 is 'b'"),
        ("ab", "predicted must be one of the .* row 1 is 'c'"),
        ("abca", "labels must not have a class twice"),
    ],
)
def test_confusion_refuses_bad_input(labels: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        plots.plot_confusion(["a", "b"], ["a", "c"], labels=list(labels))
