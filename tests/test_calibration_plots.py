"""Figures of calibration: what the artists show, and that nothing hides its origin."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots
from helpers.calibration import IsotonicRegressionCalibrator
from helpers.metrics import CalibrationReport, calibration_metrics, class_table


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    return confidence, rng.random(400) < confidence**2


@pytest.fixture(scope="module")
def report(data: tuple[np.ndarray, np.ndarray]) -> CalibrationReport:
    return calibration_metrics(*data, n_resamples=50)


@pytest.fixture(scope="module")
def in_sample(data: tuple[np.ndarray, np.ndarray]) -> CalibrationReport:
    fitted = IsotonicRegressionCalibrator().fit(*data)
    return calibration_metrics(fitted.predict(data[0]), data[1], n_resamples=50)


def texts(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_histogram_counts_every_prediction_and_marks_both_means() -> None:
    ax = plots.confidence_histogram([0.6, 0.8, 0.8, 1.0], [1, 1, 0, 1])
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([0.8, 0.75])
    assert legend(ax) == ["mean confidence 0.800", "accuracy 0.750"]


def test_diagram_shows_each_bin_where_it_belongs(report: CalibrationReport) -> None:
    ax = plots.plot_reliability_diagram(report)
    curve = report.curve[report.curve["n"] > 0]
    means = next(c for c in ax.collections if c.get_label() == "mean of a bin")
    assert np.asarray(means.get_offsets()) == pytest.approx(
        curve[["confidence", "accuracy"]].to_numpy()
    )
    assert (np.argsort(means.get_sizes()) == np.argsort(np.sqrt(curve["n"]))).all()
    for n in curve["n"]:
        assert f"{n:,}" in texts(ax)


def test_panel_stands_where_it_hides_no_interval() -> None:
    corners = {}
    for name, accuracy in (("low", 0.3), ("high", 0.9)):
        confidence = np.repeat([0.1, 0.9], 50)
        correct = np.arange(100) % 50 < 50 * accuracy
        few = np.append(correct, [True] * 3) if name == "high" else correct
        also = np.append(confidence, [0.3] * 3) if name == "high" else confidence
        ax = plots.plot_reliability_diagram(also, few)
        panel = next(text for text in ax.texts if "noise floor" in text.get_text())
        corners[name] = (panel.get_ha(), panel.get_va())
    assert corners == {"low": ("left", "top"), "high": ("right", "bottom")}


def test_diagram_draws_intervals_and_the_band(report: CalibrationReport) -> None:
    ax = plots.plot_reliability_diagram(report, points=False)
    curve = report.curve[report.curve["n"] > 0]
    band = [(p.get_y(), p.get_y() + p.get_height()) for p in ax.patches]
    assert np.array(band) == pytest.approx(curve[["band_low", "band_high"]].to_numpy())
    bars = ax.containers[-1].lines[2][0].get_segments()
    ends = np.array([segment[:, 1] for segment in bars])
    expected = curve[["accuracy_low", "accuracy_high"]].to_numpy()
    assert ends == pytest.approx(expected, abs=1e-9)


def test_diagram_has_a_panel_and_single_predictions(report: CalibrationReport) -> None:
    ax = plots.plot_reliability_diagram(report)
    for shown in (f"ECE {report.ece:.3f}", f"{report.floor.mean:.3f}", "n = 400"):
        assert shown in texts(ax)
    assert report.rule in texts(ax)
    dots = next(c for c in ax.collections if c.get_label() == "single prediction")
    height = np.asarray(dots.get_offsets())[:, 1]
    assert len(height) == 400
    assert np.sum(height > 0.5) == report.correct.sum()


def test_diagram_takes_confidences_and_outcomes(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    ax = plots.plot_reliability_diagram(*data)
    assert "n = 400" in texts(ax)
    with pytest.raises(ValueError, match="correct must be given"):
        plots.plot_reliability_diagram(data[0])


def test_what_was_fitted_on_is_stamped(
    report: CalibrationReport, in_sample: CalibrationReport
) -> None:
    assert "IN-SAMPLE" not in texts(plots.plot_reliability_diagram(report))
    stamped = plots.plot_reliability_diagram(in_sample, panel=False, points=False)
    assert "IN-SAMPLE" in texts(stamped)
    first, second = plots.plot_before_after(report, in_sample)
    assert "IN-SAMPLE" not in texts(first) and "IN-SAMPLE" in texts(second)
    ax = plots.plot_accuracy_by_threshold({"raw": report, "mended": in_sample})
    assert ["IN-SAMPLE" in name for name in legend(ax)] == [False, True]


def test_before_and_after_share_their_axes(report: CalibrationReport) -> None:
    first, second = plots.plot_before_after(report, report, names=("a", "b"))
    assert [ax.get_title() for ax in (first, second)] == ["a", "b"]
    assert first.get_xlim() == second.get_xlim()


def test_map_shows_steps_as_steps_and_marks_a_score() -> None:
    step = IsotonicRegressionCalibrator(rule="step").fit(
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], [0, 1, 0, 1, 0, 1, 1]
    )
    ax = plots.plot_calibration_map({"step": step.predict}, mark=0.55)
    line = next(line for line in ax.lines if line.get_label() == "step")
    assert set(np.round(line.get_ydata(), 6)) == {0.0, 0.5, 1.0}
    marked = next(line for line in ax.lines if line.get_marker() == "o")
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.55, 0.5)


def test_accuracy_by_threshold_is_that_of_the_rows_above() -> None:
    confidence = np.repeat([0.6, 0.8, 0.95], 100)
    correct = np.concatenate([np.arange(100) < right for right in (50, 70, 96)])
    found = calibration_metrics(confidence, correct, n_resamples=20)
    ax = plots.plot_accuracy_by_threshold({"raw": found})
    line = next(line for line in ax.lines if line.get_label().startswith("raw"))
    values = dict(zip(np.round(line.get_xdata(), 4), line.get_ydata(), strict=True))
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
    line = next(line for line in ax.lines if line.get_label() == "a")
    assert line.get_xydata() == pytest.approx(np.array([[25, 0.15], [100, 0.05]]))
    assert texts(ax) == "noise floor"
    assert legend(ax) == ["a", "b"]


def test_seven_calibrators_are_told_apart_without_colour() -> None:
    names = [f"calibrator {at}" for at in range(7)]
    table = pd.DataFrame({"calibrator": names, "n": 25, "ece": 0.1})
    ax = plots.plot_learning_curves(table)
    looks = {
        (line.get_marker(), line.get_markerfacecolor() == "white") for line in ax.lines
    }
    assert len(looks) == 7


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
        dots = next(line for line in ax.lines if line.get_label() == name)
        assert dots.get_xdata() == pytest.approx(table[name].to_numpy())
        assert dots.get_marker() == plots.MARKERS[at]
        gaps = np.array(ax.collections[2 + at].get_segments())
        assert gaps[:, :, 0] == pytest.approx(table[["accuracy", name]].to_numpy())
        assert gaps[:, 0, 1] == pytest.approx(np.asarray(dots.get_ydata()))
        # Every mark stays in the row of its class.
        assert np.abs(gaps[:, 0, 1] - np.arange(3)).max() < 0.5
    intervals = np.array(ax.collections[0].get_segments())[:, :, 0]
    assert intervals == pytest.approx(table[["accuracy_low", "accuracy_high"]].values)


def test_class_gaps_say_what_was_fitted_on(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    fitted = IsotonicRegressionCalibrator().fit(*data).predict(data[0])[:51]
    ax = plots.plot_class_gaps(
        class_gaps(raw=data[0][:51], mended=fitted), names=["raw"]
    )
    assert legend(ax) == ["accuracy", "raw"]
    ax = plots.plot_class_gaps(class_gaps(mended=fitted), names=["mended"])
    assert legend(ax) == ["accuracy", "mended (IN-SAMPLE)"]


def test_class_gaps_refuse_other_names() -> None:
    table = class_gaps(raw=np.full(51, 0.7))
    with pytest.raises(ValueError, match="^table must have the column 'calibrated'"):
        plots.plot_class_gaps(table)
    with pytest.raises(ValueError, match=r"^names must be 1 to 5 of them, not \[\]"):
        plots.plot_class_gaps(table, names=[])


# 200 of a: 189 right, 10 taken for b, 1 for c; of b 3 of 4 right; c never right.
TRUTH = ["a"] * 200 + ["b"] * 4 + ["c"]
SAID = ["a"] * 189 + ["b"] * 10 + ["c"] + ["b"] * 3 + ["a"] + ["a"]


def test_confusion_writes_large_shares_and_leaves_out_small_ones() -> None:
    ax = plots.plot_confusion(TRUTH, SAID)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    # At (column, row). Of a, 94.5 %, 5 % and 0.5 %.
    assert written == {
        (0, 0): "94",
        (1, 0): "5",
        (0, 1): "25",
        (1, 1): "75",
        (0, 2): "100",
    }
    shown = np.ma.asarray(ax.images[0].get_array())
    assert shown.mask.tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, True],
    ]
    assert shown[0, 2] == pytest.approx(0.005)
    assert ax.images[0].get_clim() == (0, 1)
    rarer = plots.plot_confusion(["a"] * 201, ["a"] * 200 + ["b"])
    assert np.ma.asarray(rarer.images[0].get_array()).mask[0, 1]


def test_confusion_counts_cases() -> None:
    ax = plots.plot_confusion(TRUTH, SAID, normalise=None)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(0, 0)] == "189" and written[(1, 0)] == "10"
    assert ax.images[0].get_clim() == (0, 189)


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
    ("change", "says"),
    [
        ({"truth": []}, "truth must be one column with at least one row"),
        ({"predicted": ["a"]}, "predicted must have one value for each of 2 rows"),
        ({"labels": ["a"]}, "truth must be one of the classes .* row 1 is 'b'"),
        ({"labels": ["a", "b"]}, "predicted must be one of the .* row 1 is 'c'"),
        ({"labels": ["a", "b", "c", "a"]}, "labels must not have a class twice"),
        ({"normalise": "all"}, "normalise must be one of 'truth', not 'all'"),
    ],
)
def test_confusion_refuses_bad_input(change: dict[str, object], says: str) -> None:
    arguments = {"truth": ["a", "b"], "predicted": ["a", "c"]} | change
    with pytest.raises(ValueError, match=f"^{says}"):
        plots.plot_confusion(**arguments)  # type: ignore[arg-type]


def test_every_figure_draws_on_given_axes(report: CalibrationReport) -> None:
    figure = Figure()
    ax = figure.subplots()
    assert plots.plot_reliability_diagram(report, ax=ax) is ax
    assert plots.confidence_histogram(report.confidence, ax=ax) is ax
    assert plots.plot_accuracy_by_threshold({"raw": report}, ax=ax) is ax
    assert plots.plot_calibration_map({"same": np.asarray}, ax=ax) is ax
    assert plots.legend_below(ax) is ax
    table = class_gaps(raw=np.full(51, 0.7))
    assert plots.plot_class_gaps(table, names=["raw"], ax=ax) is ax
    assert plots.plot_confusion(TRUTH, SAID, ax=figure.subplots()).figure is figure
