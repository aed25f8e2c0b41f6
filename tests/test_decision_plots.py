"""Figures of decisions: what is drawn is what was found, and odd results draw too."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from test_plots import legend, line

from helpers import plots
from helpers.decisions import (
    AccuracyMonitor,
    Buckets,
    CalibrationMonitor,
    CertifiedThreshold,
    Costs,
    ThresholdChoice,
    bucket_table,
    choose_threshold,
    cost_curve,
    verify,
)
from helpers.metrics import risk_coverage_curve
from helpers.metrics.resampling import Interval

Data = tuple[np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 600)
    return confidence, rng.random(600) < confidence


@pytest.fixture(scope="module")
def certified(data: Data) -> CertifiedThreshold:
    return choose_threshold(*data, max_risk=0.15)


@pytest.fixture(scope="module")
def monitor() -> AccuracyMonitor:
    found = AccuracyMonitor(0.9)
    found.update(np.arange(100) % 20 > 0)
    found.update(np.arange(60) % 2 > 0)
    return found


def bars(ax: Axes, start: str) -> ErrorbarContainer:
    """The only marks with error bars whose label starts so."""
    (found,) = (one for one in ax.containers if str(one.get_label()).startswith(start))
    assert isinstance(found, ErrorbarContainer)
    return found


def ends(found: ErrorbarContainer, which: int, axis: int) -> np.ndarray:
    segments = found.lines[2][which].get_segments()
    return np.array([segment[:, axis] for segment in segments])


def middle(found: ErrorbarContainer) -> np.ndarray:
    assert found.lines[0]
    return np.asarray(found.lines[0].get_xydata())


def points(ax: Axes, start: str) -> np.ndarray:
    return np.asarray(line(ax, start).get_xydata())


def test_thresholds_draw_the_risk_its_limit_and_what_passed(
    certified: CertifiedThreshold,
) -> None:
    ax = plots.plot_tested_thresholds(certified)
    tested = certified.tested
    for start, column in (("risk above", "risk"), ("its upper", "upper")):
        assert points(ax, start) == pytest.approx(tested[["threshold", column]].values)
    assert line(ax, "its upper").get_linestyle() == "--"
    passed = tested[tested["passed"]]
    assert 1 < len(passed) < len(tested)
    assert points(ax, "passed") == pytest.approx(passed[["threshold", "upper"]].values)
    assert line(ax, "risk allowed").get_ydata() == [0.15, 0.15]
    assert line(ax, "accept").get_xdata() == [certified.threshold] * 2
    assert legend(ax)[3:] == [
        "risk allowed: 15%",
        f"accept from {certified.threshold:g}: {certified.n_accepted:,} of 600 rows "
        f"({100 * certified.coverage:.3g}%)",
    ]


def test_what_matters_of_few_thresholds_is_in_view(
    certified: CertifiedThreshold,
) -> None:
    ax = plots.plot_tested_thresholds(certified)
    all_accepted = certified.tested["threshold"][certified.tested["n"] == 600].max()
    # The limit of the fewest rows is far above all that matters.
    assert certified.tested["upper"].max() > 0.6 and ax.get_ylim()[1] < 0.5
    assert all_accepted - 0.02 < ax.get_xlim()[0] < all_accepted
    for errors, allowed in ((50, 0.01), (10, 0.3), (100, 0.5), (0, 0.9)):
        found = choose_threshold([0.9] * 100, np.arange(100) >= errors, allowed)
        bottom, top = plots.plot_tested_thresholds(found).get_ylim()
        assert bottom < 0 and max(allowed, found.tested["upper"].min()) <= top <= 1.02
    for threshold, n in ((0.8, 1), (0.95, 0)):
        found = choose_threshold([0.9] * 4, [1] * 4, max_risk=0.1, grid=[threshold])
        ax = plots.plot_tested_thresholds(found)
        assert legend(ax)[-1] == "no threshold passed" and "passed" not in legend(ax)
        assert len(points(ax, "risk above")) == n
        assert (line(ax, "risk above").get_marker() == "o") == (n == 1)


def test_buckets_draw_accuracies_intervals_and_confidences() -> None:
    table = bucket_table([0.95] * 1500 + [0.55] * 500, np.arange(2000) % 9 > 0)
    ax = plots.plot_buckets(table)
    found = table[table["n"] > 0]
    kept, stated = bars(ax, "accuracy"), points(ax, "mean confidence")
    assert middle(kept)[:, 0] == pytest.approx(found["accuracy"].values)
    assert ends(kept, 0, 0) == pytest.approx(found[["low", "high"]].values)
    assert stated[:, 0] == pytest.approx(found["mean_confidence"].values)
    assert line(ax, "mean confidence").get_markerfacecolor() == "white"
    # Both stay in the row of their bucket, and do not hide one another.
    for rows in (middle(kept)[:, 1], stated[:, 1]):
        assert np.round(rows).tolist() == [0, 2] and ax.yaxis_inverted()
    assert (np.abs(middle(kept)[:, 1] - stated[:, 1]) > 0.2).all()
    assert legend(ax) == ["accuracy and its interval", "mean confidence"]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "auto-approve (≥ 0.9)\n1,500 (75.0%)",
        "review (0.7 to under 0.9)\nnone",
        "manual check (0.5 to under 0.7)\n500 (25.0%)",
        "manual (< 0.5)\nnone",
    ]

    for confidence, right in (([0.0], [0]), ([1.0] * 10**4, [1] * 10**4)):
        buckets = Buckets([0.5], ["a", "b"])
        ax = plots.plot_buckets(bucket_table(confidence, right, buckets))
        left, edge = ax.get_xlim()
        assert left < middle(bars(ax, "acc"))[0, 0] < edge == 1.02
    ax = plots.plot_buckets(bucket_table([0.9], [1])[2:])
    assert not len(points(ax, "mean confidence"))


TABLE = bucket_table([0.9], [1])
COURSE = pd.DataFrame(
    {"item": [1], "accuracy": [1.0], "e_value": [1.0], "lower": [0.1], "upper": [1.0]}
)
SCORES, CORRECT = [0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0]
CURVE = cost_curve(SCORES, CORRECT, Costs(error=4, review=1))  # 1, .75, .5, 1.25, 2
CHOICE = ThresholdChoice(
    threshold=0.8,
    coverage=0.5,
    risk=0.0,
    apparent=0.5,
    optimism=0.1,
    cost=Interval(0.6, 0.4, 0.9),
    review_all=1.0,
    automate_all=2.0,
    level=0.9,
)


def test_costs_by_coverage_lead_from_review_to_automation() -> None:
    ax = plots.plot_cost_curve(CURVE)
    assert points(ax, "on these") == pytest.approx(CURVE[["coverage", "cost"]].values)
    assert points(ax, "review all").tolist() == [[0, 1]]
    assert points(ax, "automate all").tolist() == [[1, 2]]
    assert legend(ax) == ["on these rows", "review all: 1", "automate all: 2"]
    assert ax.get_ylim()[0] == 0
    assert "20%" in {text.get_text() for text in ax.get_xticklabels()}


def test_costs_mark_the_choice_and_its_honest_price() -> None:
    ax = plots.plot_cost_curve(CURVE, choice=CHOICE)
    assert points(ax, "chosen") == pytest.approx(np.array([[0.5, 0.5]]))
    honest = bars(ax, "the same on new rows")
    assert middle(honest) == pytest.approx(np.array([[0.5, 0.6]]))
    assert ends(honest, 0, 1) == pytest.approx(np.array([[0.4, 0.9]]))
    assert legend(ax)[3:] == [
        "chosen: from 0.8 on, 50% automated: 0.5",
        "the same on new rows: 0.6 (90%: 0.4 to 0.9)",
    ]
    never = replace(CHOICE, threshold=math.inf, coverage=0.0, apparent=1.0)
    ax = plots.plot_cost_curve(CURVE, choice=never)
    assert points(ax, "chosen: review all") == pytest.approx(points(ax, "review all"))

    curve = cost_curve(SCORES, CORRECT, Costs(error=4, review=1), thresholds=[0.7])
    assert legend(plots.plot_cost_curve(curve)) == ["on these rows"]
    earns = cost_curve(SCORES, CORRECT, Costs(error=1, review=1, right=-3))
    assert earns["cost"].min() < 0
    assert plots.plot_cost_curve(earns).get_ylim()[0] < earns["cost"].min()


def test_monitor_draws_accuracy_and_evidence(monitor: AccuracyMonitor) -> None:
    table = monitor.table()
    above, below = plots.plot_monitor(
        table, promised=0.9, change_at=100, alarm_at=monitor.alarm_at
    )
    assert points(above, "accuracy") == pytest.approx(
        table[["item", "accuracy"]].values
    )
    band = np.asarray(above.collections[0].get_paths()[0].vertices)
    assert band[:, 1].min() == pytest.approx(table["lower"].min())
    assert {*np.round(table["upper"], 9)} <= {*np.round(band[:, 1], 9)}
    assert line(above, "promised").get_ydata() == [0.9, 0.9]
    assert below.lines[0].get_xydata() == pytest.approx(
        table[["item", "e_value"]].values
    )
    assert below.get_yscale() == "log" and below.lines[1].get_ydata() == [20, 20]
    assert [text.get_text() for text in below.texts] == ["alarm from 20 on"]
    assert monitor.alarm_at is not None
    for ax in (above, below):
        assert line(ax, "change").get_xdata() == [100, 100]
        assert line(ax, "alarm at").get_xdata() == [monitor.alarm_at] * 2
        assert ax.get_xlim() == pytest.approx((0, 1.01 * 160))
    assert legend(above) == [
        "95% confidence sequence",
        "accuracy so far",
        "promised: 90%",
        "change after item 100",
        f"alarm at item {monitor.alarm_at}",
    ]


def test_monitor_draws_mean_confidence_and_infinite_evidence() -> None:
    for certain_at, side in ((2, "left"), (30, "right")):
        found = CalibrationMonitor(clip=0)
        certain = np.arange(40) == certain_at
        found.update(np.where(certain, 1.0, 0.9), ~certain)
        table = found.table()
        assert np.isinf(table["e_value"]).any()
        above, below = plots.plot_monitor(table, alarm_at=found.alarm_at)
        assert points(above, "mean confidence") == pytest.approx(
            table[["item", "mean_confidence"]].values
        )
        drawn = np.asarray(below.lines[0].get_ydata())
        assert drawn == pytest.approx(table["e_value"].clip(1e-4, 20_000).values)
        assert below.get_ylim()[1] > 20_000
        note = below.texts[-1]
        assert note.get_text() == "20,000 or more"
        assert note.get_horizontalalignment() == side
    table["e_value"] = np.append(np.geomspace(1, 1e-300, 39), 0)
    above, below = plots.plot_monitor(table, promised=0.3, alpha=0.01)
    assert np.asarray(below.lines[0].get_ydata())[-1] == 1e-4
    assert 0 < below.get_ylim()[0] < 1e-4 and below.get_ylim()[1] > 100
    assert above.get_ylim()[0] < 0.3 and above.get_ylim()[1] > 1
    assert legend(above)[0] == "99% confidence sequence"
    # The first items do not stretch the axis.
    assert plots.plot_monitor(table)[0].get_ylim()[0] > table["lower"].min() + 0.1


def test_risk_lines_begin_with_twenty_rows_or_a_tenth() -> None:
    # Of 500 rows, 100 share a confidence near the middle.
    confidence = np.linspace(0.5, 1, 500)
    confidence[200:300] = confidence[200]
    tied = risk_coverage_curve(confidence, np.arange(500) % 7 > 0)
    ones = np.arange(1, 31) / 30
    few = pd.DataFrame({"coverage": ones, "risk": np.linspace(0, 0.2, 30)})
    coarse = pd.DataFrame({"coverage": [0.4, 1], "risk": [0, 0.1]})
    ax = plots.plot_risk_coverage({"tied": tied, "few": few, "coarse": coarse})
    assert points(ax, "tied")[0, 0] == pytest.approx(20 / 500)
    assert points(ax, "few")[:, 0] == pytest.approx(ones[2:])
    assert points(ax, "coarse").tolist() == [[0.4, 0], [1, 0.1]]
    assert line(ax, "coarse").get_marker() == "^"
    only = {"only": risk_coverage_curve([0.9], [1])}
    ax = plots.plot_risk_coverage(only, max_risk=0.2)
    assert line(ax, "risk allowed").get_ydata() == [0.2, 0.2]
    assert legend(ax) == ["only", "risk allowed: 20%"]
    ax = plots.plot_risk_coverage(only)
    assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1]  # a risk of nothing has an axis


def test_risk_marks_have_intervals_both_ways(data: Data) -> None:
    curve = risk_coverage_curve(*data)
    found = verify(0.8, *data, max_risk=0.1)
    ax = plots.plot_risk_coverage(
        {"other": curve, "raw": curve}, marks={"raw": found, "elsewhere": found}
    )
    mark = bars(ax, "raw from")
    at = np.array([[found.coverage, found.risk]])
    assert middle(mark) == pytest.approx(at)
    across = np.array([[found.coverage_low, found.coverage_high]])
    assert ends(mark, 0, 0) == pytest.approx(across)
    assert ends(mark, 1, 1) == pytest.approx(np.array([[found.low, found.high]]))
    assert legend(ax)[2:] == [
        f"raw from 0.8 on: {found.verdict}",
        f"elsewhere from 0.8 on: {found.verdict}",
    ]
    colours = [to_hex(bars(ax, name).lines[0].get_color()) for name in ("raw", "else")]
    assert colours[0] == to_hex(line(ax, "raw").get_color())
    known = {to_hex(colour) for colour in plots.PALETTE}
    assert colours[0] in known and colours[1] not in known

    nothing = verify(0.99, [0.5, 0.6], [1, 0], max_risk=0.1)
    ax = plots.plot_risk_coverage({"raw": curve}, marks={"raw": nothing})
    assert legend(ax)[1] == "raw from 0.99 on: not enough data (nothing accepted)"
    assert not len(middle(bars(ax, "raw from")))


FIGURES = ("tested_thresholds", "buckets", "cost_curve", "risk_coverage", "monitor")


@pytest.fixture(params=FIGURES)
def figure(request: Any, certified: Any, monitor: AccuracyMonitor) -> tuple[Any, ...]:
    """A function that draws, what it draws, and options."""
    verified = verify(0.8, [0.9] * 20, [1] * 20, max_risk=0.1)
    curves = {"raw": risk_coverage_curve([0.9, 0.8], [1, 0])}
    given: dict[str, tuple[Any, dict[str, Any]]] = {
        "tested_thresholds": (certified, {}),
        "buckets": (TABLE, {}),
        "cost_curve": (CURVE, {"choice": CHOICE}),
        "risk_coverage": (curves, {"marks": {"raw": verified}}),
        "monitor": (monitor.table(), {"promised": 0.9, "alarm_at": 120}),
    }
    return getattr(plots, f"plot_{request.param}"), *given[request.param]


def test_figures_use_given_axes_change_nothing_and_fit_the_page(
    figure: tuple[Any, ...],
) -> None:
    draw, given, options = figure
    table = getattr(given, "tested", given)
    before, copied = dict(mpl.rcParams), copy.deepcopy(table)
    if draw is not plots.plot_monitor:
        ax = Figure().subplots()
        assert draw(given, ax=ax, **options) is ax and not plt.get_fignums()
    with plots.style():
        found = draw(given, **options)
        ax = found[0] if isinstance(found, list) else found
        ax.figure.canvas.draw()
        # The legend fits into the width of the figure.
        box = ax.get_legend().get_window_extent()
        assert box.x0 >= 0 and box.x1 <= ax.figure.bbox.x1
        assert box.y1 <= ax.figure.bbox.y1
    assert dict(mpl.rcParams) == before
    if isinstance(table, pd.DataFrame):
        pd.testing.assert_frame_equal(table, copied)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("plot_buckets", [TABLE[["n"]]], "table must have the column 'range'"),
        ("plot_buckets", [TABLE[:0]], "table must have at least one row"),
        ("plot_cost_curve", [CURVE.drop(columns="cost")], "curve must .* 'cost'"),
        ("plot_risk_coverage", [{}], "curves must be at least one"),
        ("plot_risk_coverage", [{"a": 1}, {"max_risk": 5}], "max_risk must lie .* 5"),
        ("plot_monitor", [COURSE[:0]], "table must have at least one row"),
        ("plot_monitor", [COURSE, {"alpha": 5}], "alpha must lie .* not 5"),
        ("plot_monitor", [COURSE, {"promised": 95}], "promised must lie .* not 95"),
        ("plot_monitor", [COURSE, {"change_at": -1}], "change_at must be .* not -1"),
        ("plot_monitor", [COURSE, {"alarm_at": 0}], "alarm_at must be .* not 0"),
    ],
)
def test_bad_input_is_refused_before_a_figure_is_made(
    name: str, given: list[Any], says: str
) -> None:
    options = given.pop() if isinstance(given[-1], dict) and len(given) > 1 else {}
    with pytest.raises(ValueError, match=f"^{says}"):
        getattr(plots, name)(*given, **options)
    assert not plt.get_fignums()
