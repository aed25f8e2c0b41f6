"""Figures of decisions: thresholds, buckets, costs, and whether a promise holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from numpy.typing import ArrayLike

from ..checks import check_between, check_count, check_table
from .style import (
    ABOVE,
    DOTS,
    LIMIT,
    LOOKS,
    MARKERS,
    OPEN,
    PALETTE,
    STAMP,
    WIDTH,
    Look,
    plain_texts,
)

if TYPE_CHECKING:
    from ..decisions import CertifiedThreshold, ThresholdChoice, Verification
    from ..metrics import RiskCoverage

_FEWEST = 20
_FEW_POINTS = 30
_SMALLEST_E = 1e-4
_BEYOND = 1000  # times the e-value of the alarm are still drawn


@plain_texts
def plot_tested_thresholds(
    certified: CertifiedThreshold, *, ax: Axes | None = None
) -> Axes:
    """The risk above every threshold that was tested, and which thresholds passed.

    The solid line is the risk on the labelled rows, the dashed one its upper limit. A
    dot on the dashed line is a threshold that passed; one may lack it in spite of a low
    limit, where few rows lie above it or one before it failed.

    Parameters
    ----------
    certified : CertifiedThreshold
        What :func:`helpers.decisions.choose_threshold` gives.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        From the threshold that accepts all rows on. Risks of more than three times the
        one allowed are cut off, unless all limits are as high.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.decisions import choose_threshold
    >>> found = choose_threshold([0.9] * 40 + [0.6] * 9, [1] * 40 + [0] * 9, 0.1)
    >>> ax = plot_tested_thresholds(found, ax=Figure().subplots())
    >>> ax.get_legend_handles_labels()[1][-1]
    'accept from 0.9: 40 of 49 rows (81.6%)'
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
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(**ABOVE, ncols=2)
    return ax


@plain_texts
def plot_buckets(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy and mean confidence in each bucket, and how many rows it holds.

    Where the open mark lies to the right of the interval, the bucket's confidence
    promises more than it keeps.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`helpers.decisions.bucket_table` gives.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.decisions import TRUST_BUCKETS, bucket_table
    >>> table = bucket_table([0.95, 0.6], [1, 0], TRUST_BUCKETS)
    >>> ax = plot_buckets(table, ax=Figure().subplots())
    >>> [label.get_text().split("\\n") for label in ax.get_yticklabels()]
    [['trust (> 0.9)', '1 (50.0%)'], ['warn (0.5 to 0.9)', '1 (50.0%)'], \
['ask (< 0.5)', 'none']]
    """
    columns = ("range", "n", "share", "accuracy", "low", "high", "mean_confidence")
    table = check_table(table, columns)
    ax = ax or plt.subplots(figsize=(WIDTH, 1.3 + 0.5 * len(table)))[1]
    places = np.arange(len(table))
    some = table["n"].to_numpy() > 0
    found = table[some]
    bars = _whiskers(found["low"], found["accuracy"], found["high"])
    look = Look({"markersize": 6, "capsize": 3, "label": "accuracy and its interval"})
    ax.errorbar(found["accuracy"], places[some] - 0.13, xerr=bars, **DOTS[0], **look)
    look = DOTS[1] | {"marker": MARKERS[3], "markersize": 6, "label": "mean confidence"}
    ax.plot(found["mean_confidence"], places[some] + 0.13, **look, **OPEN)
    rows = zip(table.index, table["range"], table["n"], table["share"], strict=True)
    names = [
        f"{name} ({span})\n" + (f"{n:,} ({share:.1%})" if n else "none")
        for name, span, n, share in rows
    ]
    ax.set_yticks(places, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    lowest = found[["low", "mean_confidence"]].to_numpy().min(initial=1.0)
    ax.set(xlim=(min(math.floor(10 * lowest) / 10, 0.9) - 0.02, 1.02))
    ax.set(xlabel="accuracy, mean confidence", ylabel="bucket, rows in it")
    ax.grid(False, axis="y")
    for place in places[1:] - 0.5:
        ax.axhline(place, color="0.9", linewidth=0.8)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], **ABOVE, ncols=2)
    if table.attrs.get("evaluation") == "in-sample":
        ax.text(**STAMP, transform=ax.transAxes)
    return ax


@plain_texts
def plot_cost_curve(
    curve: pd.DataFrame,
    *,
    choice: ThresholdChoice | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What an item costs, by how much is automated.

    Parameters
    ----------
    curve : pandas.DataFrame
        What :func:`helpers.decisions.cost_curve` gives. Rows that review or automate
        everything are marked, where it has them.
    choice : ThresholdChoice, optional
        What :func:`helpers.decisions.best_threshold` gives on the same rows: its point
        on the curve, and what is to be expected of new rows, with the interval.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.decisions import Costs, cost_curve
    >>> curve = cost_curve([0.9, 0.8, 0.6], [1, 1, 0], Costs(error=8, review=1))
    >>> ax = plot_cost_curve(curve, ax=Figure().subplots())
    >>> ax.get_legend_handles_labels()[1]
    ['on these rows', 'review all: 1', 'automate all: 2.67']
    """
    curve = check_table(curve, ("threshold", "coverage", "cost"), "curve")
    ax = ax or plt.subplots(figsize=(WIDTH, 3.9))[1]
    drawn = curve.sort_values("coverage")
    label = "on these rows"
    ax.plot(drawn["coverage"], drawn["cost"], **LOOKS[0], zorder=2.5, label=label)
    for name, coverage, at in (("review all", 0, 1), ("automate all", 1, 2)):
        end = drawn[drawn["coverage"] == coverage]
        if len(end):
            cost = end["cost"].iloc[0]
            look = DOTS[at] | {"color": "0.3", "markersize": 7, "clip_on": False}
            ax.plot([coverage], [cost], **look, zorder=4, label=f"{name}: {cost:.3g}")
    if choice is not None:
        _chosen(choice, ax)
    ax.set(xlim=(-0.02, 1.02), xlabel="share automated", ylabel="cost per item")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    if curve["cost"].min() >= 0:
        ax.set_ylim(bottom=0)
    ax.legend(**ABOVE, ncols=2)
    if curve.attrs.get("evaluation") == "in-sample":
        ax.text(**STAMP, transform=ax.transAxes)
    return ax


@plain_texts
def plot_monitor(
    table: pd.DataFrame,
    *,
    promised: float | None = None,
    alpha: float = 0.05,
    change_at: int | None = None,
    alarm_at: int | None = None,
) -> list[Axes]:
    """The course of a monitor: accuracy above, evidence against the promise below.

    Parameters
    ----------
    table : pandas.DataFrame
        What the ``table`` of :class:`helpers.decisions.AccuracyMonitor` or
        :class:`helpers.decisions.CalibrationMonitor` gives. The mean confidence of the
        latter is drawn as well.
    promised : float, optional
        The accuracy that was promised, in [0, 1].
    alpha : float, default=0.05
        That of the monitor: its alarm is raised where the e-value reaches 1 / alpha.
    change_at, alarm_at : int, optional
        After how many items something changed, and the alarm of the monitor.

    Returns
    -------
    list of matplotlib.axes.Axes
        The course of the first items may be cut off. E-values beyond 0.0001 and
        1000 / alpha lie on the edge.

    Examples
    --------
    >>> from helpers.decisions import AccuracyMonitor
    >>> monitor = AccuracyMonitor(0.9)
    >>> _ = monitor.update([True] * 18 + [False] * 4)
    >>> above, below = plot_monitor(monitor.table(), promised=0.9)
    >>> below.get_yscale(), [text.get_text() for text in below.texts]
    ('log', ['alarm from 20 on'])
    """
    table = check_table(table, ("item", "accuracy", "e_value", "lower", "upper"))
    check_between("alpha", alpha, 0, 1)
    if promised is not None:
        check_between("promised", promised, 0, 1, closed=True)
    for name, item, least in (("change_at", change_at, 0), ("alarm_at", alarm_at, 1)):
        if item is not None:
            check_count(name, item, least)
    size = (WIDTH, 5.2)
    axes = plt.subplots(2, 1, figsize=size, sharex=True, height_ratios=(3, 2))[1]
    above, below = axes
    _accuracy_so_far(table, promised, alpha, above)
    _evidence(table["item"], table["e_value"].to_numpy(), 1 / alpha, below)
    moments = (
        ("change after", change_at, {"linestyle": "--", "color": "0.45"}),
        ("alarm at", alarm_at, {"linestyle": "-", "color": PALETTE[1]}),
    )
    for ax in axes:
        for name, item, look in moments:
            if item is not None:
                label = f"{name} item {item:,}"
                ax.axvline(item, **look, linewidth=1.3, label=label)
        ax.set_xlim(0, 1.01 * table["item"].max())
    above.legend(**ABOVE, ncols=3)
    below.set_xlabel("items checked")
    return [above, below]


@plain_texts
def plot_risk_coverage(
    curves: Mapping[str, RiskCoverage],
    *,
    marks: Mapping[str, Verification] | None = None,
    max_risk: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of errors among what is accepted, by how much is accepted.

    Parameters
    ----------
    curves : mapping of str to RiskCoverage
        Names, and what :func:`helpers.metrics.risk_coverage_curve` gives.
    marks : mapping of str to Verification, optional
        Names, and what :func:`helpers.decisions.verify` gives: a point for each, with
        the intervals of its risk and its coverage. One with the name of a curve has
        its colour.
    max_risk : float, optional
        The risk allowed, in [0, 1].
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        A line begins with 20 accepted rows, or with a tenth of all rows if that is
        less: before, each error makes it jump. (Rows are counted in groups as large as
        the smallest one of equal confidence.) A line of few points shows them.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.metrics import risk_coverage_curve
    >>> curve = risk_coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0])
    >>> ax = plot_risk_coverage({"raw": curve}, ax=Figure().subplots())
    >>> ax.lines[0].get_ydata().tolist()
    [0.0, 0.0, 0.0, 0.25]
    """
    if not curves:
        raise ValueError("curves must be at least one; there is none.")
    if max_risk is not None:
        check_between("max_risk", max_risk, 0, 1, closed=True)
    ax = ax or plt.subplots(figsize=(WIDTH, 4.0))[1]
    top = 0.0 if max_risk is None else 1.3 * max_risk
    for at, (name, curve) in enumerate(curves.items()):
        smallest = np.diff(curve.coverage, prepend=0.0).min()
        shown = curve.coverage >= min(_FEWEST * smallest, 0.1) - 1e-9
        risk = curve.risk[shown]
        marker = DOTS[at]["marker"] if len(risk) <= _FEW_POINTS else ""
        look = LOOKS[at] | Look({"marker": marker, "markersize": 4})
        label = name + (" (IN-SAMPLE)" if curve.evaluation == "in-sample" else "")
        ax.plot(curve.coverage[shown], risk, **look, label=label)
        top = max(top, 1.1 * risk.max())
    if max_risk is not None:
        ax.axhline(max_risk, **LIMIT, label=f"risk allowed: {_percent(max_risk)}")
    names = list(curves)
    for at, (name, found) in enumerate((marks or {}).items()):
        look = (
            DOTS[names.index(name)] if name in names else DOTS[at] | {"color": "0.25"}
        )
        _verified(name, found, look, ax)
        if found.n_accepted:
            top = max(top, min(1.1 * found.high, 1.5 * top))
    top = min(top, 1.02) or 0.01
    ax.set(xlim=(0, 1.02), ylim=(-0.015 * top, top))
    ax.set(xlabel="share accepted", ylabel="risk among the accepted")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(**ABOVE, ncols=2)
    return ax


def _chosen(choice: ThresholdChoice, ax: Axes) -> None:
    place = choice.coverage
    never = choice.threshold == math.inf
    name = "review all" if never else f"from {choice.threshold:.3g} on"
    label = f"{name}, {_percent(choice.coverage)} automated: {choice.apparent:.3g}"
    look = DOTS[1] | {"marker": MARKERS[0], "markersize": 6}
    edge = Look({"markeredgecolor": "white", "zorder": 5, "label": f"chosen: {label}"})
    ax.plot([place], [choice.apparent], **look, **edge)
    cost = choice.cost
    span = f"{_percent(choice.level)}: {cost.low:.3g} to {cost.high:.3g}"
    label = f"the same on new rows: {cost.value:.3g} ({span})"
    bars = _whiskers([cost.low], [cost.value], [cost.high])
    look |= OPEN | {"capsize": 3, "zorder": 4, "label": label}
    ax.errorbar([place], [cost.value], yerr=bars, **look)


def _accuracy_so_far(
    table: pd.DataFrame, promised: float | None, alpha: float, ax: Axes
) -> None:
    item, dot = table["item"], _dot(table)
    label = f"{_percent(1 - alpha)} confidence sequence"
    band = Look({"color": PALETTE[0], "alpha": 0.2, "linewidth": 0})
    ax.fill_between(item, table["lower"], table["upper"], **band, label=label)
    ax.plot(item, table["accuracy"], **LOOKS[0], marker=dot, label="accuracy so far")
    columns = ["lower", "upper", "accuracy"]
    if "mean_confidence" in table:
        columns.append("mean_confidence")
        stated, label = table["mean_confidence"], "mean confidence"
        ax.plot(item, stated, **LOOKS[2], marker=dot, label=label)
    # The first items would stretch the axis and squeeze all others.
    late = table.loc[item >= 0.1 * item.max(), columns].to_numpy().ravel()
    if promised is not None:
        ax.axhline(promised, **LIMIT, label=f"promised: {_percent(promised)}")
        late = np.append(late, promised)
    low, high = np.nanmin(late), np.nanmax(late)
    margin = 0.05 * (high - low)
    ax.set(ylim=(max(low - margin, -0.02), min(high + margin, 1.02)))
    ax.set_ylabel("accuracy so far")
    ax.yaxis.set_major_formatter(PercentFormatter(1))


def _evidence(item: pd.Series, e_value: np.ndarray, limit: float, ax: Axes) -> None:
    drawn = np.clip(e_value, _SMALLEST_E, _BEYOND * limit)
    ax.plot(item, drawn, **LOOKS[0], marker=_dot(item))
    ax.axhline(limit, **LIMIT)
    place = Look({"xycoords": ("axes fraction", "data"), "fontsize": 8})
    label = f"alarm from {limit:,.4g} on"
    ax.annotate(label, (0, limit), (4, 3), textcoords="offset points", **place)
    ax.set_yscale("log")
    ax.set_ylim(min(drawn.min(), 0.5) / 2, max(drawn.max() * 2, limit * 8))
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    beyond = np.flatnonzero(e_value > drawn)
    if len(beyond):
        first = item.iloc[beyond[0]]
        early = first < item.max() / 2
        side = Look({"ha": "left" if early else "right", "va": "top"})
        ax.annotate(
            f"{_BEYOND * limit:,.6g} or more",
            (first, drawn[beyond[0]]),
            xytext=(5 if early else -5, -4),
            textcoords="offset points",
            fontsize=8,
            **side,
        )
    ax.set_ylabel("e-value")


def _verified(name: str, found: Verification, look: Look, ax: Axes) -> None:
    since = "" if found.threshold is None else f" from {found.threshold:.3g} on"
    label = f"{name}{since}: {found.verdict}"
    look = look | {"markeredgecolor": "white", "markersize": 6, "markeredgewidth": 0.5}
    look |= {"capsize": 3, "zorder": 4}
    if not found.n_accepted:
        ax.errorbar([], [], **look, label=f"{label} (nothing accepted)")
        return
    across = [found.coverage_low], [found.coverage], [found.coverage_high]
    up = [found.low], [found.risk], [found.high]
    bars = Look({"xerr": _whiskers(*across), "yerr": _whiskers(*up)})
    ax.errorbar(across[1], up[1], **bars, **look, label=label)


def _whiskers(low: ArrayLike, middle: ArrayLike, high: ArrayLike) -> np.ndarray:
    """How far an interval reaches to either side."""
    return np.diff([low, middle, high], axis=0).clip(min=0)


def _dot(values: Any) -> str:
    """A marker where there is one point only: a line of one is not to be seen."""
    return "o" if len(values) == 1 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
