"""Figures of decisions: thresholds, buckets, costs, and whether a promise holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from ..checks import check_between, check_choice, check_count, check_table
from .style import LINES, MARKERS, PALETTE, WIDTH, plain_texts, stamp

if TYPE_CHECKING:
    from ..decisions import CertifiedThreshold, ThresholdChoice, Verification
    from ..metrics import RiskCoverage

_ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
_LIMIT: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": ":"}
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
    dot on the dashed line is a threshold that passed. One whose limit is low enough may
    lack it: too few rows lie above it to begin there, or one before it failed.

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
    place, upper, passed = (
        tested[name].to_numpy() for name in ("threshold", "upper", "passed")
    )
    dot = _dot(place)
    ax.plot(
        place,
        tested["risk"],
        color=PALETTE[0],
        marker=dot,
        label="risk above the threshold",
    )
    ax.plot(
        place,
        upper,
        color=PALETTE[1],
        linestyle="--",
        marker="" if passed.any() else dot,
        linewidth=1.2,
        label="its upper limit",
    )
    if passed.any():
        ax.plot(
            place[passed],
            upper[passed],
            color=PALETTE[1],
            linestyle="",
            marker="o",
            markersize=3.5,
            label="passed",
        )
    ax.axhline(allowed, **_LIMIT, label=f"risk allowed: {_percent(allowed)}")
    if certified.threshold is None:
        ax.plot([], [], linestyle="", label="no threshold passed")
    else:
        ax.axvline(
            certified.threshold,
            color="0.3",
            linewidth=1.2,
            linestyle="-.",
            label=(
                f"accept from {certified.threshold:g}: {certified.n_accepted:,} of "
                f"{certified.n_labels:,} rows ({_percent(certified.coverage)})"
            ),
        )
    # Thresholds below the first that accepts all rows tell nothing new.
    whole = place[tested["n"] == tested["n"].max()]
    left = min(float(whole.max(initial=0.0)), 0.98)
    ax.set_xlim(left - 0.02 * (1 - left), 1 + 0.02 * (1 - left))
    highest = 1.1 * upper.max(initial=0.0)
    top = min(max(3 * allowed, 1.3 * upper.min(initial=1.0)), highest)
    top = min(max(top, 1.5 * allowed), 1.02)
    ax.set_ylim(-0.015 * top, top)
    ax.set(xlabel="threshold on the confidence", ylabel="risk above it")
    ax.yaxis.set_major_formatter(_tick)
    ax.legend(**_ABOVE, ncols=2)
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
        One row a bucket, the table's first on top; an empty one has no marks.

    Raises
    ------
    ValueError
        The table lacks a column, or rows.

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
    table = check_table(
        table,
        ("range", "n", "share", "accuracy", "low", "high", "mean_confidence"),
    )
    ax = ax or plt.subplots(figsize=(WIDTH, 1.3 + 0.5 * len(table)))[1]
    places = np.arange(len(table))
    some = table["n"].to_numpy() > 0
    found = table[some]
    accuracy = found["accuracy"]
    bars = [(accuracy - found["low"]).clip(lower=0)]
    bars.append((found["high"] - accuracy).clip(lower=0))
    kept = ax.errorbar(
        accuracy,
        places[some] - 0.13,
        xerr=np.stack(bars),
        fmt=MARKERS[0],
        color=PALETTE[0],
        markersize=6,
        capsize=3,
        label="accuracy and its interval",
    )
    (stated,) = ax.plot(
        found["mean_confidence"],
        places[some] + 0.13,
        color=PALETTE[1],
        linestyle="",
        marker=MARKERS[3],
        markerfacecolor="white",
        markeredgewidth=1.5,
        markersize=6,
        label="mean confidence",
    )
    rows = zip(table.index, table["range"], table["n"], table["share"], strict=True)
    ax.set_yticks(
        places,
        [
            f"{name} ({span})\n" + (f"{n:,} ({share:.1%})" if n else "none")
            for name, span, n, share in rows
        ],
    )
    lowest = found[["low", "mean_confidence"]].to_numpy().min(initial=1.0)
    ax.set(xlim=(min(math.floor(10 * lowest) / 10, 0.9) - 0.02, 1.02))
    ax.set(ylim=(len(table) - 0.5, -0.5), xlabel="accuracy, mean confidence")
    ax.set_ylabel("bucket, rows in it")
    ax.grid(False, axis="y")
    for place in places[1:] - 0.5:
        ax.axhline(place, color="0.9", linewidth=0.8)
    ax.legend(handles=[kept, stated], **_ABOVE, ncols=2)
    stamp(ax, table.attrs.get("evaluation"))
    return ax


@plain_texts
def plot_cost_curve(
    curve: pd.DataFrame,
    *,
    x: Literal["coverage", "threshold"] = "coverage",
    choice: ThresholdChoice | None = None,
    break_even: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What an item costs, by how much is automated or by the threshold.

    Parameters
    ----------
    curve : pandas.DataFrame
        What :func:`helpers.decisions.cost_curve` gives. Rows that review or automate
        everything are marked, where it has them.
    x : {"coverage", "threshold"}, default="coverage"
        What to draw the cost against.
    choice : ThresholdChoice, optional
        What :func:`helpers.decisions.best_threshold` gives on the same rows: its point
        on the curve, and what is to be expected of new rows, with the interval.
    break_even : float, optional
        What :func:`helpers.decisions.break_even` gives, for scores that are calibrated
        confidences: where the rule that needs no search cuts this curve.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        Infinite thresholds are drawn a little beyond the finite ones.

    Raises
    ------
    ValueError
        Another ``x``; a table that lacks a column or rows; a break-even that is above
        all thresholds of the table.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.decisions import Costs, cost_curve
    >>> curve = cost_curve([0.9, 0.8, 0.6], [1, 1, 0], Costs(error=8, review=1))
    >>> ax = plot_cost_curve(curve, break_even=0.7, ax=Figure().subplots())
    >>> ax.get_legend_handles_labels()[1]
    ['on these rows', 'review all: 1', 'automate all: 2.67', 'break-even 0.7: 0.333']
    """
    check_choice("x", x, ("coverage", "threshold"))
    curve = check_table(curve, ("threshold", "coverage", "cost"), "curve")
    if break_even is not None:
        check_between("break_even", break_even, 0, 1, closed=True)
        highest = float(curve["threshold"].max())
        if highest < break_even:
            raise ValueError(
                "break_even must not be above all thresholds of the curve, up to "
                f"{highest:g}; it is {break_even!r}."
            )
    ax = ax or plt.subplots(figsize=(WIDTH, 3.9))[1]
    finite = curve["threshold"][np.isfinite(curve["threshold"])]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    step = 0.03 * ((high - low) or 1.0)
    # Any threshold beyond all scores does what an infinite one does.
    near = curve["threshold"].clip(low - step, high + step)
    drawn = curve.assign(threshold=near).sort_values(x)
    ax.plot(
        drawn[x], drawn["cost"], color=PALETTE[0], zorder=2.5, label="on these rows"
    )
    ends = (("review all", 0, MARKERS[1]), ("automate all", 1, MARKERS[2]))
    for name, coverage, marker in ends:
        end = drawn[drawn["coverage"] == coverage]
        if len(end):
            # Of several that do the same, the one nearest to the others.
            at = end.iloc[-1 if coverage else 0]
            ax.plot(
                [at[x]],
                [at["cost"]],
                color="0.3",
                linestyle="",
                marker=marker,
                markersize=7,
                clip_on=False,
                zorder=4,
                label=f"{name}: {at['cost']:.3g}",
            )
    if break_even is not None:
        above = curve[curve["threshold"] >= break_even]
        cut = above.sort_values("threshold").iloc[0]
        ax.plot(
            [break_even if x == "threshold" else cut["coverage"]],
            [cut["cost"]],
            color=PALETTE[2],
            linestyle="",
            marker=MARKERS[3],
            markersize=7,
            markeredgecolor="white",
            zorder=5,
            label=f"break-even {break_even:.3g}: {cut['cost']:.3g}",
        )
    if choice is not None:
        place = choice.coverage
        if x == "threshold":
            place = min(choice.threshold, high + step)
        _chosen(choice, place, ax)
    label = "share automated" if x == "coverage" else "threshold on the score"
    ax.set(xlabel=label, ylabel="cost per item")
    if x == "coverage":
        ax.set(xlim=(-0.02, 1.02))
        ax.xaxis.set_major_formatter(_tick)
    bottom, top = ax.get_ylim()
    ax.set_ylim(0 if curve["cost"].min() >= 0 else bottom, top)
    ax.legend(**_ABOVE, ncols=2)
    stamp(ax, curve.attrs.get("evaluation"))
    return ax


@plain_texts
def plot_monitor(
    table: pd.DataFrame,
    *,
    promised: float | None = None,
    alpha: float = 0.05,
    change_at: int | None = None,
    alarm_at: int | None = None,
    axes: Sequence[Axes] | None = None,
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
    change_at : int, optional
        After how many items something changed, if it is known.
    alarm_at : int, optional
        That of the monitor.
    axes : sequence of matplotlib.axes.Axes, optional
        Two of them, the upper first.

    Returns
    -------
    list of matplotlib.axes.Axes
        The accuracy of the first items, and how uncertain it is, may be cut off.
        E-values are drawn between 0.0001 and 1000 / alpha; those beyond, such as
        infinite ones, lie on the edge.

    Raises
    ------
    ValueError
        The table lacks a column or rows, a number is out of range, or the axes are
        not two.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from helpers.decisions import AccuracyMonitor
    >>> monitor = AccuracyMonitor(0.9)
    >>> _ = monitor.update([True] * 18 + [False] * 4)
    >>> above, below = plot_monitor(
    ...     monitor.table(), promised=0.9, axes=Figure().subplots(2)
    ... )
    >>> below.get_yscale(), [text.get_text() for text in below.texts]
    ('log', ['alarm from 20 on'])
    """
    table = check_table(table, ("item", "accuracy", "e_value", "lower", "upper"))
    check_between("alpha", alpha, 0, 1)
    if promised is not None:
        check_between("promised", promised, 0, 1, closed=True)
    if change_at is not None:
        check_count("change_at", change_at, 0)
    if alarm_at is not None:
        check_count("alarm_at", alarm_at)
    if axes is not None and len(axes) != 2:
        raise ValueError(f"axes must be two, not {len(axes)}.")
    if axes is None:
        axes = plt.subplots(
            2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=(3, 2)
        )[1]
    above, below = axes
    _accuracy_so_far(table, promised, alpha, above)
    _evidence(table["item"], table["e_value"].to_numpy(), alpha, below)
    moments = (
        ("change after", change_at, "--", "0.45"),
        ("alarm at", alarm_at, "-", PALETTE[1]),
    )
    for name, item, line, colour in moments:
        if item is not None:
            label = f"{name} item {item:,}"
            for ax in axes:
                ax.axvline(
                    item, color=colour, linewidth=1.3, linestyle=line, label=label
                )
    for ax in axes:
        ax.set_xlim(0, 1.01 * table["item"].max())
    above.legend(**_ABOVE, ncols=3)
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

    Raises
    ------
    ValueError
        No curves, or a risk out of range.

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
        ax.plot(
            curve.coverage[shown],
            risk,
            color=PALETTE[at % len(PALETTE)],
            linestyle=LINES[(at + at // len(PALETTE)) % len(LINES)],
            marker=MARKERS[at % len(MARKERS)] if len(risk) <= _FEW_POINTS else "",
            markersize=4,
            label=name + (" (IN-SAMPLE)" if curve.evaluation == "in-sample" else ""),
        )
        top = max(top, 1.1 * risk.max())
    if max_risk is not None:
        ax.axhline(max_risk, **_LIMIT, label=f"risk allowed: {_percent(max_risk)}")
    names = list(curves)
    for at, (name, found) in enumerate((marks or {}).items()):
        known = names.index(name) if name in names else None
        _verified(name, found, at if known is None else known, known is not None, ax)
        if found.n_accepted:
            top = max(top, min(1.1 * found.high, 1.5 * top))
    top = min(top, 1.02) or 0.01
    ax.set(xlim=(0, 1.02), ylim=(-0.015 * top, top))
    ax.set(xlabel="share accepted", ylabel="risk among the accepted")
    ax.xaxis.set_major_formatter(_tick)
    ax.yaxis.set_major_formatter(_tick)
    ax.legend(**_ABOVE, ncols=2)
    return ax


def _chosen(choice: ThresholdChoice, place: float, ax: Axes) -> None:
    never = choice.threshold == math.inf
    name = "chosen: review all" if never else f"chosen: from {choice.threshold:.3g} on"
    ax.plot(
        [place],
        [choice.apparent],
        color=PALETTE[1],
        linestyle="",
        marker=MARKERS[0],
        markersize=6,
        markeredgecolor="white",
        zorder=5,
        label=f"{name}, {_percent(choice.coverage)} automated: {choice.apparent:.3g}",
    )
    cost = choice.cost
    bars = np.maximum([[cost.value - cost.low], [cost.high - cost.value]], 0)
    ax.errorbar(
        [place],
        [cost.value],
        yerr=bars,
        fmt=MARKERS[0],
        color=PALETTE[1],
        markerfacecolor="white",
        markeredgewidth=1.3,
        markersize=6,
        capsize=3,
        zorder=4,
        label=(
            f"the same on new rows: {cost.value:.3g} "
            f"({_percent(choice.level)}: {cost.low:.3g} to {cost.high:.3g})"
        ),
    )


def _accuracy_so_far(
    table: pd.DataFrame, promised: float | None, alpha: float, ax: Axes
) -> None:
    item = table["item"]
    ax.fill_between(
        item,
        table["lower"],
        table["upper"],
        color=PALETTE[0],
        alpha=0.2,
        linewidth=0,
        label=f"{_percent(1 - alpha)} confidence sequence",
    )
    ax.plot(
        item,
        table["accuracy"],
        color=PALETTE[0],
        marker=_dot(item),
        label="accuracy so far",
    )
    # The first items would stretch the axis and squeeze all others.
    late = table[item >= 0.1 * item.max()]
    columns = ["lower", "upper", "accuracy"]
    if "mean_confidence" in table:
        columns.append("mean_confidence")
        ax.plot(
            item,
            table["mean_confidence"],
            color=PALETTE[2],
            linestyle=LINES[2],
            marker=_dot(item),
            label="mean confidence",
        )
    low, high = late[columns].min(axis=None), late[columns].max(axis=None)
    if promised is not None:
        ax.axhline(promised, **_LIMIT, label=f"promised: {_percent(promised)}")
        low, high = min(low, promised), max(high, promised)
    margin = 0.05 * (high - low)
    ax.set(ylim=(max(low - margin, -0.02), min(high + margin, 1.02)))
    ax.set_ylabel("accuracy so far")
    ax.yaxis.set_major_formatter(_tick)


def _evidence(item: pd.Series, e_value: np.ndarray, alpha: float, ax: Axes) -> None:
    limit = 1 / alpha
    drawn = np.clip(e_value, _SMALLEST_E, _BEYOND * limit)
    ax.plot(item, drawn, color=PALETTE[0], marker=_dot(item))
    ax.axhline(limit, **_LIMIT)
    ax.annotate(
        f"alarm from {limit:,.4g} on",
        (0, limit),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set_yscale("log")
    ax.set_ylim(min(drawn.min(), 0.5) / 2, max(drawn.max() * 2, limit * 8))
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    beyond = np.flatnonzero(e_value > drawn)
    if len(beyond):
        first = item.iloc[beyond[0]]
        early = first < item.max() / 2
        ax.annotate(
            f"{_BEYOND * limit:,.6g} or more",
            (first, drawn[beyond[0]]),
            xytext=(5 if early else -5, -4),
            textcoords="offset points",
            ha="left" if early else "right",
            va="top",
            fontsize=8,
        )
    ax.set_ylabel("e-value")


def _verified(
    name: str, found: Verification, at: int, is_curve: bool, ax: Axes
) -> None:
    colour = PALETTE[at % len(PALETTE)] if is_curve else "0.25"
    since = "" if found.threshold is None else f" from {found.threshold:.3g} on"
    look: dict[str, Any] = {
        "fmt": MARKERS[at % len(MARKERS)],
        "color": colour,
        "markeredgecolor": "white",
        "markersize": 6,
        "markeredgewidth": 0.5,
        "capsize": 3,
        "zorder": 4,
        "label": f"{name}{since}: {found.verdict}",
    }
    if not found.n_accepted:
        look["label"] += " (nothing accepted)"
        ax.errorbar([], [], **look)
        return
    across = [
        [max(found.coverage - found.coverage_low, 0)],
        [max(found.coverage_high - found.coverage, 0)],
    ]
    up = [[max(found.risk - found.low, 0)], [max(found.high - found.risk, 0)]]
    ax.errorbar([found.coverage], [found.risk], xerr=across, yerr=up, **look)


def _dot(values: Any) -> str:
    """A marker where there is one point only: a line of one is not to be seen."""
    return "o" if len(values) == 1 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _tick(share: float, _: float = 0.0) -> str:
    return f"{100 * share:.4g}%"
