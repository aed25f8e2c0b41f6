"""The figure of thresholds: what is drawn is what was found, odd results too."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_plots import legend, line

from helpers import plots
from helpers.decisions import (
    CertifiedThreshold,
    choose_threshold,
)

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


def test_it_uses_given_axes_changes_nothing_and_fits_the_page(
    certified: CertifiedThreshold,
) -> None:
    before, copied = dict(mpl.rcParams), certified.tested.copy()
    ax = Figure().subplots()
    assert plots.plot_tested_thresholds(certified, ax=ax) is ax
    assert not plt.get_fignums()
    with plots.style():
        ax = plots.plot_tested_thresholds(certified)
        ax.figure.canvas.draw()
        # The legend fits into the width of the figure.
        box = ax.get_legend().get_window_extent()
        assert box.x0 >= 0 and box.x1 <= ax.figure.bbox.x1
        assert box.y1 <= ax.figure.bbox.y1
    assert dict(mpl.rcParams) == before
    pd.testing.assert_frame_equal(certified.tested, copied)
