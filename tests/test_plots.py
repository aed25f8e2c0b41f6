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
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook

import helpers
from helpers import plots
from helpers.calibration import IsotonicRegressionCalibrator
from helpers.metrics import CalibrationReport, calibration_metrics

Data = tuple[np.ndarray, np.ndarray]


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
        again.plot_calibration_map({"same": np.asarray})
    assert dict(mpl.rcParams) == before


def test_every_figure_of_a_notebook_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    cell = "with plots.style():\n    ax = plots.plot_calibration_map({'same': list})"
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


def test_a_given_axes_is_drawn_on(report: CalibrationReport) -> None:
    ax = Figure().subplots()
    for name, given in {
        "plot_reliability_diagram": [report],
        "plot_accuracy_by_threshold": [{"raw": report}],
        "plot_calibration_map": [{"same": np.asarray}],
    }.items():
        assert getattr(plots, name)(*given, ax=ax) is ax
    assert plots.legend_below(ax) is ax and not plt.get_fignums()


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
