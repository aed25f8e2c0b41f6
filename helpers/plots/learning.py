"""Figures of what more labels change."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from ..checks import check_table
from .style import DIAGONAL, DOTS, LIMIT, LINES, LOOKS, PALETTE, WIDTH, Look, figure


@figure
def plot_sample_size_progression(table: pd.DataFrame) -> list[Axes]:
    """Reliability of calibrators by number of labels, with bands of 90 % of the draws.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`helpers.calibration.held_out_curves`, for several numbers of labels.
    """
    table = check_table(table, ("n", "draw", "bin", "confidence", "accuracy"))
    sizes = sorted(table["n"].unique())
    axes = _panels(len(sizes), 2.9, True)
    lowest = 1.0
    for ax, n in zip(axes, sizes, strict=False):
        found = often_filled(table[table["n"] == n]).groupby("bin")
        place = found["confidence"].median()
        band = found["accuracy"].quantile(np.array([0.05, 0.5, 0.95])).unstack()
        lowest = min(lowest, place.min(), band[0.05].min())
        ax.plot([0, 1], [0, 1], **DIAGONAL)
        _median_and_band(ax, place, band)
        ax.set_title(f"{n:,} labels", fontsize=10)
    _label(axes[: len(sizes)], "calibrated confidence", "held-out accuracy")
    axes[0].set(xlim=(lowest - 0.03, 1.0), ylim=(lowest - 0.03, 1.03))
    return axes


def often_filled(table: pd.DataFrame) -> pd.DataFrame:
    """The bins of one number of labels that at least half of the draws fill.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`helpers.calibration.held_out_curves` with one value of ``n``.
    """
    table = check_table(table, ("draw", "bin"))
    draws = table.groupby("bin")["draw"].transform("size")
    return table[draws >= table["draw"].nunique() / 2]


@figure
def plot_learning_curves(
    table: pd.DataFrame,
    *,
    levels: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Held-out ECE of each calibrator by number of labels; bands hold half the draws.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`helpers.calibration.learning_curves`.
    levels : mapping of str to float, optional
        Names and values of horizontal lines, such as the noise floor.
    """
    table = check_table(table, ("calibrator", "n", "ece"))
    ax = ax or plt.subplots(figsize=(WIDTH, 4.4))[1]
    for at, name in enumerate(table["calibrator"].unique()):
        found = table[table["calibrator"] == name].groupby("n")["ece"]
        mean, ends = found.mean(), found.quantile([0.25, 0.75]).unstack()
        look = DOTS[at] | LOOKS[at]
        inside = look["color"] if at < len(PALETTE) else "white"
        ax.plot(mean, **look, markerfacecolor=inside, markersize=5, label=name)
        band = Look({"color": look["color"], "alpha": 0.1, "linewidth": 0})
        ax.fill_between(ends.index, ends[0.25], ends[0.75], **band)
    for at, (name, value) in enumerate((levels or {}).items()):
        line = Look({"color": "0.3", "linewidth": 1, "linestyle": LINES[(at + 1) % 4]})
        ax.axhline(value, **line)
        place = Look({"xycoords": ("axes fraction", "data"), "fontsize": 8})
        ax.annotate(name, (0, value), (4, 3), textcoords="offset points", **place)
    sizes = sorted(table["n"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.set(xlabel="labels for calibration", ylabel="held-out ECE")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right", ncols=2)
    return ax


@figure
def plot_threshold_progression(table: pd.DataFrame) -> list[Axes]:
    """Accuracy above each threshold by number of labels: medians, and bands of 90 %.

    Under each number stands the coverage, from the 5th to the 95th percentile.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a draw of labels: their number ``n``; ``threshold``; and on other rows the
        ``coverage`` above it and the ``accuracy`` there, or NaN.
    """
    table = check_table(table, ("n", "threshold", "coverage", "accuracy"))
    cuts = sorted(table["threshold"].unique())
    axes = _panels(len(cuts), 3.1, False)
    ends = np.array([0.05, 0.5, 0.95])
    for ax, cut in zip(axes, cuts, strict=False):
        by_size = table[table["threshold"] == cut].groupby("n")
        found = by_size["accuracy"].quantile(ends).unstack()
        covered = by_size["coverage"].quantile(ends).unstack()
        ax.axhline(cut, **LIMIT)
        _median_and_band(ax, np.arange(len(found)), found)
        shares = zip(covered.index, covered[0.05], covered[0.95], strict=True)
        words = [f"{n:,}\n{low:.0%} to {high:.0%}" for n, low, high in shares]
        ax.set_xticks(range(len(found)), words, fontsize=8)
        ax.set_title(f"threshold {cut:g}", fontsize=10)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    below = "labels, and share above the threshold"
    _label(axes[: len(cuts)], below, "accuracy above it")
    return axes


def _panels(n: int, height: float, share: bool) -> list[Axes]:
    rows = (n + 1) // 2
    shape: Look = {"sharex": share, "sharey": share, "squeeze": False}
    return list(plt.subplots(rows, 2, figsize=(WIDTH, height * rows), **shape)[1].flat)


def _label(axes: list[Axes], below: str, beside: str) -> None:
    for ax in axes[::2]:
        ax.set_ylabel(beside)
    for ax in axes[-2:]:
        ax.set_xlabel(below)


def _median_and_band(ax: Axes, place: ArrayLike, found: pd.DataFrame) -> None:
    band = Look({"color": PALETTE[0], "alpha": 0.25, "linewidth": 0})
    ax.fill_between(place, found[0.05], found[0.95], **band)
    ax.plot(place, found[0.5], color=PALETTE[0], marker="o", markersize=4)
