"""The figures. Whatever was fitted on the rows it shows says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from ..metrics import CalibrationReport, calibration_metrics
from .style import ABOVE, DIAGONAL, DOTS, LIMIT, LOOKS, PALETTE, STAMP, WIDTH, Look

if TYPE_CHECKING:
    from ..decisions import CertifiedThreshold

_MOST_POINTS = 2000
_LEAST = 50
_TARGET = 0.9
_ZONES = ((0.9, 1.0, "act"), (0.7, 0.9, "review"), (0.5, 0.7, "check"))


def plot_reliability_diagram(
    report: CalibrationReport | ArrayLike,
    correct: ArrayLike | None = None,
    *,
    points: bool = True,
    panel: bool = True,
    counts: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against confidence by bin, with Wilson's intervals and noise band.

    Grey dots at the top and bottom are single predictions, right and wrong. Markers
    would lie in the grey band if the confidences were true; below the diagonal the
    model is overconfident. Rows that were fitted on give a stamp across the figure.

    Parameters
    ----------
    report : CalibrationReport or array-like of shape (n,)
        From :func:`calibration_metrics`; or confidences, with ``correct``.
    correct : array-like of shape (n,), optional
        1 or True where the prediction was correct, else 0.
    points, panel, counts : bool, default=True
        Whether to draw single predictions (at most 2,000), a panel with ECE, noise
        floor and number of rows, and the number of rows beside each marker.
    """
    if not isinstance(report, CalibrationReport):
        if correct is None:
            raise ValueError("correct must be given with confidences; it is None.")
        report = calibration_metrics(report, correct)
    ax = ax or plt.subplots(figsize=(5.6, 5.2))[1]
    curve = report.curve[report.curve["n"] > 0]
    if points:
        rng = np.random.default_rng(0)
        rows = rng.permutation(report.n)[:_MOST_POINTS]
        height = report.correct[rows] + rng.uniform(-0.025, 0.025, len(rows))
        look = Look({"s": 4, "color": PALETTE[0], "alpha": 0.25, "linewidths": 0})
        look |= {"rasterized": True, "label": "single prediction"}
        ax.scatter(report.confidence[rows], height, **look)
    ax.plot([0, 1], [0, 1], **DIAGONAL, label="perfect calibration")
    low, bottom = curve["low"], curve["band_low"]
    size = Look({"height": curve["band_high"] - bottom, "width": curve["high"] - low})
    look = Look({"align": "edge", "color": "0.5", "alpha": 0.25, "linewidth": 0})
    look["label"] = f"{report.level:.0%} if confidences were true"
    ax.bar(low, **size, bottom=bottom, **look)
    means = curve["confidence"], curve["accuracy"]
    reach = curve[["accuracy_low", "accuracy_high"]].sub(means[1], axis=0).abs()
    look = Look({"ecolor": "0.15", "elinewidth": 1.2, "capsize": 2, "zorder": 4})
    ax.errorbar(*means, yerr=reach.to_numpy().T, fmt="none", **look)
    sizes = 12 + 140 * np.sqrt(curve["n"] / curve["n"].max())
    look = Look({"color": PALETTE[1], "edgecolor": "white", "zorder": 3})
    ax.scatter(*means, s=sizes, **look, label="mean of a bin")
    if counts:
        above = Look({"ha": "center", "va": "bottom", "rotation": 60})
        for place, n in zip(curve["confidence"], curve["n"], strict=True):
            # A note is not drawn where its place is out of view, as a text is.
            ax.annotate(f"{n:,}", (place, 1.05), fontsize=7, color="0.3", **above)
    left = np.floor(10 * report.confidence.min()) / 10 - 0.03
    ax.set(xlim=(left, 1.03), ylim=(-0.05, 1.14 if counts else 1.05))
    ax.set(xlabel="confidence", ylabel="accuracy")
    if report.evaluation == "in-sample":
        ax.text(**STAMP, transform=ax.transAxes)
    if panel:
        _panel(report, ax)
    return ax


def plot_before_after(
    before: CalibrationReport,
    after: CalibrationReport,
    *,
    names: tuple[str, str] = ("before", "after"),
) -> list[Axes]:
    """Two reliability diagrams of the same rows side by side.

    Parameters
    ----------
    before, after : CalibrationReport
        Reports on the same rows.
    names : tuple of (str, str), default=("before", "after")
        Their titles.
    """
    axes = plt.subplots(1, 2, figsize=(9.6, 4.8), sharex=True, sharey=True)[1]
    for ax, report, name in zip(axes, (before, after), names, strict=True):
        plot_reliability_diagram(report, points=False, ax=ax)
        ax.set_title(name, fontsize=10)
    axes[1].set_ylabel("")
    left = min(ax.get_xlim()[0] for ax in axes)
    axes[0].set_xlim(left, 1.03)
    return list(axes)


def plot_calibration_map(
    maps: Mapping[str, Callable[[np.ndarray], ArrayLike]],
    *,
    low: float = 0.0,
    high: float = 1.0,
    mark: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """From score to calibrated confidence: the map that each calibrator learnt.

    Parameters
    ----------
    maps : mapping of str to callable
        Names, and functions such as the ``predict`` of a fitted calibrator.
    low, high : float
        The range of scores.
    mark : float, optional
        A score at which to mark each map's value.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 4.2))[1]
    grid = np.linspace(low, high, 2001)
    ax.plot([low, high], [low, high], **DIAGONAL, label="unchanged")
    for at, (name, predict) in enumerate(maps.items()):
        ax.plot(grid, np.asarray(predict(grid)), **LOOKS[at], label=name)
        if mark is not None:
            value = float(np.asarray(predict(np.array([mark])))[0])
            ax.plot([mark], [value], **DOTS[at], markersize=6)
    if mark is not None:
        ax.axvline(mark, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(xlim=(low, high), xlabel="score", ylabel="calibrated confidence")
    ax.legend(loc="upper left")
    return ax


def plot_accuracy_by_threshold(
    reports: Mapping[str, CalibrationReport], *, ax: Axes | None = None
) -> Axes:
    """Accuracy of the predictions above each threshold, and how many there are.

    Zones behind the lines are those of rules in common use. A calibrated line lies
    above the dotted one, since all rows *above* a threshold count.

    Parameters
    ----------
    reports : mapping of str to CalibrationReport
        Names and reports, such as before and after calibration.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 4.2))[1]
    thresholds = np.linspace(0.5, 1, 201)
    for at, (start, end, name) in enumerate(_ZONES):
        ax.axvspan(start, end, color=PALETTE[3], alpha=0.08 * at)
        place = Look({"transform": ax.get_xaxis_transform(), "color": "0.3"})
        place |= {"ha": "center", "va": "top", "fontsize": 8}
        ax.text((start + end) / 2, 0.98, name, **place)
    ax.plot([0.5, 1], [0.5, 1], **LIMIT)
    floor = 1.0
    for at, (name, report) in enumerate(reports.items()):
        answered, right = _above(report, thresholds)
        some = answered >= _LEAST
        accuracy = right[some] / answered[some]
        ends = proportion_confint(right[some], answered[some], method="wilson")
        label = name + (" (IN-SAMPLE)" if report.evaluation == "in-sample" else "")
        (count,), (good,) = _above(report, np.array([_TARGET]))
        if count:
            ax.plot([_TARGET], [good / count], **DOTS[at])
            label += f": {count:,} from {_TARGET:g} on, {good / count:.1%} right"
        ax.plot(thresholds[some], accuracy, **LOOKS[at], label=label)
        band = Look({"color": LOOKS[at]["color"], "alpha": 0.15})
        ax.fill_between(thresholds[some], *ends, **band, linewidth=0)
        floor = min(floor, accuracy.min(initial=1.0))
    ax.set(xlim=(0.5, 1), ylim=(min(floor, 0.7) - 0.05, 1.05))
    ax.set(xlabel="threshold on the confidence", ylabel="accuracy above it")
    ax.legend(loc="lower left")
    return ax


def plot_tested_thresholds(
    certified: CertifiedThreshold, *, ax: Axes | None = None
) -> Axes:
    """The risk above every threshold that was tested, and which thresholds passed.

    The solid line is the risk on the labelled rows, the dashed one its upper limit,
    with a dot for each threshold that passed. Risks above three times ``max_risk`` are
    cut off.

    Parameters
    ----------
    certified : CertifiedThreshold
        From :func:`helpers.decisions.choose_threshold`.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 3.9))[1]
    tested, allowed = certified.tested, certified.max_risk
    place, upper = tested["threshold"].to_numpy(), tested["upper"].to_numpy()
    passed = tested["passed"].to_numpy()
    dot = _dot(place)
    label = "risk above the threshold"
    ax.plot(place, tested["risk"], **LOOKS[0], marker=dot, label=label)
    mark = Look({"marker": "" if passed.any() else dot, "linewidth": 1.2})
    ax.plot(place, upper, **LOOKS[1], **mark, label="its upper limit")
    if passed.any():
        mark = DOTS[1] | {"marker": "o", "markersize": 3.5}
        ax.plot(place[passed], upper[passed], **mark, label="passed")
    ax.axhline(allowed, **LIMIT, label=f"risk allowed: {_percent(allowed)}")
    if certified.threshold is None:
        ax.plot([], [], linestyle="", label="no threshold passed")
    else:
        label = (
            f"accept from {certified.threshold:g}: {certified.n_accepted:,} of "
            f"{certified.n_labels:,} rows ({_percent(certified.coverage)})"
        )
        line = Look({"color": "0.3", "linewidth": 1.2, "linestyle": "-."})
        ax.axvline(certified.threshold, **line, label=label)
    # Thresholds below the first that accepts all rows tell nothing new.
    whole = place[tested["n"] == tested["n"].max()]
    left = min(float(whole.max(initial=0.0)), 0.98)
    ax.set_xlim(left - 0.02 * (1 - left), 1 + 0.02 * (1 - left))
    highest = 1.1 * upper.max(initial=0.0)
    top = min(max(3 * allowed, 1.3 * upper.min(initial=1.0)), highest)
    top = min(max(top, 1.5 * allowed), 1.02)
    ax.set_ylim(-0.015 * top, top)
    ax.set(xlabel="threshold on the confidence", ylabel="risk above it")
    ax.yaxis.set_major_formatter(_percent)
    ax.legend(**ABOVE, ncols=2)
    return ax


def _panel(report: CalibrationReport, ax: Axes) -> None:
    text = (
        f"ECE {report.ece:.3f}\n"
        f"noise floor {report.floor.mean:.3f} (95 %: {report.floor.upper:.3f})\n"
        f"n = {report.n:,}\n{report.rule}"
    )
    left, right = ax.get_xlim()
    curve, middle = report.curve, (left + right) / 2
    # Bars that reach below or above the diagonal's empty corners.
    below = (curve["confidence"] > middle) & (curve["accuracy_low"] < 0.3)
    above = (curve["confidence"] < middle) & (curve["accuracy_high"] > 0.75)
    corner = Look({"x": 0.02, "y": 0.86, "ha": "left", "va": "top"})
    if below.sum() <= above.sum():
        corner = Look({"x": 0.98, "y": 0.1, "ha": "right", "va": "bottom"})
    box = {"facecolor": "white", "edgecolor": "0.8", "alpha": 0.9}
    ax.text(s=text, **corner, transform=ax.transAxes, fontsize=8, bbox=box)


def _above(
    report: CalibrationReport, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with at least that confidence, and those of them that are correct."""
    stated = report.confidence.astype(np.float32)  # as a policy compares them
    order = np.argsort(stated)
    first = np.searchsorted(stated[order], thresholds.astype(np.float32))
    right = np.append(0, np.cumsum(report.correct[order]))
    return report.n - first, right[-1] - right[first]


def legend_below(ax: Axes, *, ncols: int = 2) -> Axes:
    """Put the legend of a diagram below it, in ``ncols`` columns."""
    handles, labels = ax.get_legend_handles_labels()
    if "single prediction" in labels:
        dot = Line2D([], [], **DOTS[0], markersize=4)
        handles[labels.index("single prediction")] = dot
    place = Look({"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)})
    ax.legend(handles, labels, **place, ncols=ncols)
    return ax


def _dot(values: Any) -> str:
    """A marker where there is one point only, of which a line shows nothing."""
    return "o" if len(values) == 1 else ""


def _percent(share: float, _: float = 0.0) -> str:
    return f"{100 * share:.3g}%"
