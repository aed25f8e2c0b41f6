"""Figures of decisions: thresholds, buckets, costs, and whether a promise holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike

from ..checks import check_between, check_count, check_table
from .style import ABOVE, DOTS, LIMIT, LOOKS, OPEN, PALETTE, STAMP, WIDTH, Look, figure

if TYPE_CHECKING:
    from ..decisions import CertifiedThreshold, ThresholdChoice, Verification

_FEWEST = 20
_FEW_POINTS = 30
_SMALLEST_E = 1e-4
_BEYOND = 1000  # times the e-value of the alarm are still drawn


@figure
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


@figure
def plot_buckets(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy and mean confidence in each bucket, and how many rows it holds.

    An open mark to the right of the interval means overconfidence.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`helpers.decisions.bucket_table`.
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
    look = DOTS[1] | {"marker": "D", "markersize": 6, "label": "mean confidence"}
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


@figure
def plot_cost_curve(
    curve: pd.DataFrame,
    *,
    choice: ThresholdChoice | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Cost per item against the share automated.

    Parameters
    ----------
    curve : pandas.DataFrame
        From :func:`helpers.decisions.cost_curve`.
    choice : ThresholdChoice, optional
        From :func:`helpers.decisions.best_threshold` on the same rows, to mark on the
        curve, with the cost to expect on new rows.
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
    ax.xaxis.set_major_formatter(_percent)
    if curve["cost"].min() >= 0:
        ax.set_ylim(bottom=0)
    ax.legend(**ABOVE, ncols=2)
    if curve.attrs.get("evaluation") == "in-sample":
        ax.text(**STAMP, transform=ax.transAxes)
    return ax


@figure
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
        From the ``table`` of an :class:`helpers.decisions.AccuracyMonitor` or a
        :class:`helpers.decisions.CalibrationMonitor`.
    promised : float, optional
        The accuracy that was promised, in [0, 1].
    alpha : float, default=0.05
        That of the monitor: the alarm is raised where the e-value reaches 1 / alpha.
    change_at, alarm_at : int, optional
        Number of items before a change, and at the alarm.
    """
    table = check_table(table, ("item", "accuracy", "e_value", "lower", "upper"))
    check_between("alpha", alpha, 0, 1)
    if promised is not None:
        check_between("promised", promised, 0, 1, closed=True)
    for name, item, least in (("change_at", change_at, 0), ("alarm_at", alarm_at, 1)):
        if item is not None:
            check_count(name, item, least)
    shape = Look({"sharex": True, "height_ratios": (3, 2)})
    above, below = plt.subplots(2, 1, figsize=(WIDTH, 5.2), **shape)[1]
    _accuracy_so_far(table, promised, alpha, above)
    _evidence(table["item"], table["e_value"].to_numpy(), 1 / alpha, below)
    moments = (
        ("change after", change_at, {"linestyle": "--", "color": "0.45"}),
        ("alarm at", alarm_at, {"linestyle": "-", "color": PALETTE[1]}),
    )
    for ax in (above, below):
        for name, item, look in moments:
            if item is not None:
                label = f"{name} item {item:,}"
                ax.axvline(item, **look, linewidth=1.3, label=label)
        ax.set_xlim(0, 1.01 * table["item"].max())
    above.legend(**ABOVE, ncols=3)
    below.set_xlabel("items checked")
    return [above, below]


@figure
def plot_risk_coverage(
    curves: Mapping[str, pd.DataFrame],
    *,
    marks: Mapping[str, Verification] | None = None,
    max_risk: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of errors among what is accepted, by how much is accepted.

    Lines begin where 20 rows are accepted, or a tenth of them if fewer.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        Names, and results of :func:`helpers.metrics.risk_coverage_curve`.
    marks : mapping of str to Verification, optional
        Names, and results of :func:`helpers.decisions.verify`: a point with intervals
        for each, in the colour of the curve of that name.
    max_risk : float, optional
        The risk allowed, in [0, 1].
    """
    if not curves:
        raise ValueError("curves must be at least one; there is none.")
    if max_risk is not None:
        check_between("max_risk", max_risk, 0, 1, closed=True)
    ax = ax or plt.subplots(figsize=(WIDTH, 4.0))[1]
    top = 0.0 if max_risk is None else 1.3 * max_risk
    for at, (name, curve) in enumerate(curves.items()):
        coverage, risk = curve["coverage"], curve["risk"]
        smallest = np.diff(coverage, prepend=0.0).min()
        shown = coverage >= min(_FEWEST * smallest, 0.1) - 1e-9
        risk = risk[shown]
        marker = DOTS[at]["marker"] if len(risk) <= _FEW_POINTS else ""
        look = LOOKS[at] | Look({"marker": marker, "markersize": 4})
        seen = curve.attrs.get("evaluation") == "in-sample"
        label = name + (" (IN-SAMPLE)" if seen else "")
        ax.plot(coverage[shown], risk, **look, label=label)
        top = max(top, 1.1 * risk.max())
    if max_risk is not None:
        ax.axhline(max_risk, **LIMIT, label=f"risk allowed: {_percent(max_risk)}")
    names = list(curves)
    for at, (name, found) in enumerate((marks or {}).items()):
        known = name in names
        look = DOTS[names.index(name)] if known else DOTS[at] | {"color": "0.25"}
        _verified(name, found, look, ax)
        if found.n_accepted:
            top = max(top, min(1.1 * found.high, 1.5 * top))
    top = min(top, 1.02) or 0.01
    ax.set(xlim=(0, 1.02), ylim=(-0.015 * top, top))
    ax.set(xlabel="share accepted", ylabel="risk among the accepted")
    ax.xaxis.set_major_formatter(_percent)
    ax.yaxis.set_major_formatter(_percent)
    ax.legend(**ABOVE, ncols=2)
    return ax


def _chosen(choice: ThresholdChoice, ax: Axes) -> None:
    place, cost = [choice.coverage], choice.cost
    name = f"from {choice.threshold:.3g} on"
    if choice.threshold == math.inf:
        name = "review all"
    label = f"{name}, {_percent(choice.coverage)} automated: {choice.apparent:.3g}"
    look = DOTS[1] | {"marker": "o", "markersize": 6}
    edge = Look({"markeredgecolor": "white", "zorder": 5, "label": f"chosen: {label}"})
    ax.plot(place, [choice.apparent], **look, **edge)
    span = f"{_percent(choice.level)}: {cost.low:.3g} to {cost.high:.3g}"
    label = f"the same on new rows: {cost.value:.3g} ({span})"
    bars = _whiskers([cost.low], [cost.value], [cost.high])
    look |= OPEN | {"capsize": 3, "zorder": 4, "label": label}
    ax.errorbar(place, [cost.value], yerr=bars, **look)


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
    ax.yaxis.set_major_formatter(_percent)


def _evidence(item: pd.Series, e_value: np.ndarray, limit: float, ax: Axes) -> None:
    drawn = np.clip(e_value, _SMALLEST_E, _BEYOND * limit)
    ax.plot(item, drawn, **LOOKS[0], marker=_dot(item))
    ax.axhline(limit, **LIMIT)
    note = Look({"textcoords": "offset points", "fontsize": 8})
    edge = Look({"xycoords": ("axes fraction", "data")})
    ax.annotate(f"alarm from {limit:,.4g} on", (0, limit), (4, 3), **edge, **note)
    ax.set_yscale("log")
    ax.set_ylim(min(drawn.min(), 0.5) / 2, max(drawn.max() * 2, limit * 8))
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    beyond = np.flatnonzero(e_value > drawn)
    if len(beyond):
        first, height = item.iloc[beyond[0]], drawn[beyond[0]]
        side, shift = ("left", 5) if first < item.max() / 2 else ("right", -5)
        label = f"{_BEYOND * limit:,.6g} or more"
        ax.annotate(label, (first, height), (shift, -4), ha=side, va="top", **note)
    ax.set_ylabel("e-value")


def _verified(name: str, found: Verification, look: Look, ax: Axes) -> None:
    since = "" if found.threshold is None else f" from {found.threshold:.3g} on"
    label = f"{name}{since}: {found.verdict}"
    edge = Look({"markeredgecolor": "white", "markersize": 6, "markeredgewidth": 0.5})
    look = look | edge | {"capsize": 3, "zorder": 4}
    if not found.n_accepted:
        ax.errorbar([], [], **look, label=f"{label} (nothing accepted)")
        return
    across = [found.coverage_low], [found.coverage], [found.coverage_high]
    up = [found.low], [found.risk], [found.high]
    bars = Look({"xerr": _whiskers(*across), "yerr": _whiskers(*up)})
    ax.errorbar(across[1], up[1], **bars, **look, label=label)


def _whiskers(low: ArrayLike, middle: ArrayLike, high: ArrayLike) -> np.ndarray:
    return np.diff([low, middle, high], axis=0).clip(min=0)


def _dot(values: Any) -> str:
    """A marker where there is one point only, of which a line shows nothing."""
    return "o" if len(values) == 1 else ""


def _percent(share: float, _: float = 0.0) -> str:
    return f"{100 * share:.3g}%"
