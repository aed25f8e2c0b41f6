"""Figures of what more labels change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..checks import check_table
from .style import DIAGONAL, LINES, MARKERS, PALETTE, WIDTH, plain_texts

_NAMES = {"ece": "ECE", "brier": "Brier score", "log_loss": "log loss"}


@plain_texts
def plot_sample_size_progression(
    table: pd.DataFrame,
    *,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """What calibrators fitted on few and on many labels promise, and what they keep.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`helpers.calibration.held_out_curves` gives, for several numbers of
        labels.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each number of labels.

    Returns
    -------
    list of matplotlib.axes.Axes
        The median over draws, at the median of what they state, and a band that holds
        90 % of them, for every bin that at least half of the draws fill.
    """
    table = check_table(table, ("n", "draw", "bin", "confidence", "accuracy"))
    sizes = sorted(table["n"].unique())
    if axes is None:
        rows = (len(sizes) + 1) // 2
        size = (WIDTH, 2.9 * rows)
        grid = plt.subplots(
            rows, 2, figsize=size, sharex=True, sharey=True, squeeze=False
        )[1]
        axes = list(grid.flat)
    lowest = 1.0
    for at, (ax, n) in enumerate(zip(axes, sizes, strict=False)):
        found = often_filled(table[table["n"] == n]).groupby("bin")
        middle = found[["confidence", "accuracy"]].median()
        band = found["accuracy"].quantile(np.array([0.05, 0.95])).unstack()
        place = middle["confidence"]
        lowest = min(lowest, place.min(), band[0.05].min())
        ax.plot([0, 1], [0, 1], **DIAGONAL)
        ax.fill_between(
            place,
            band[0.05],
            band[0.95],
            color=PALETTE[0],
            alpha=0.25,
            linewidth=0,
        )
        ax.plot(
            place, middle["accuracy"], color=PALETTE[0], marker=MARKERS[0], markersize=4
        )
        ax.set_title(f"{n:,} labels", fontsize=10)
        if at % 2 == 0:
            ax.set_ylabel("held-out accuracy")
        if at >= len(sizes) - 2:
            ax.set_xlabel("calibrated confidence")
    axes[0].set(xlim=(lowest - 0.03, 1.0), ylim=(lowest - 0.03, 1.03))
    return list(axes)


def often_filled(table: pd.DataFrame) -> pd.DataFrame:
    """The bins of one number of labels that at least half of the draws fill.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`helpers.calibration.held_out_curves` with one value of ``n``.

    Returns
    -------
    pandas.DataFrame
    """
    table = check_table(table, ("draw", "bin"))
    draws = table.groupby("bin")["draw"].transform("size")
    return table[draws >= table["draw"].nunique() / 2]


@plain_texts
def plot_learning_curves(
    table: pd.DataFrame,
    *,
    measure: str = "ece",
    levels: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A held-out measure of each calibrator against the number of labels.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`helpers.calibration.learning_curves` gives.
    measure : str, default="ece"
        The column to draw.
    levels : mapping of str to float, optional
        Names and values of horizontal lines, such as the noise floor.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        Means over draws, and thin bands that hold half of them.
    """
    table = check_table(table, ("calibrator", "n", measure))
    ax = ax or plt.subplots(figsize=(WIDTH, 4.4))[1]
    for at, name in enumerate(table["calibrator"].unique()):
        found = table[table["calibrator"] == name].groupby("n")[measure]
        mean, ends = found.mean(), found.quantile([0.25, 0.75]).unstack()
        colour = PALETTE[at % len(PALETTE)]
        ax.plot(
            mean.index,
            mean,
            color=colour,
            marker=MARKERS[at % len(MARKERS)],
            linestyle=LINES[(at + at // len(PALETTE)) % len(LINES)],
            markerfacecolor=colour if at < len(PALETTE) else "white",
            markersize=5,
            label=name,
        )
        ax.fill_between(
            ends.index, ends[0.25], ends[0.75], color=colour, alpha=0.1, linewidth=0
        )
    for at, (name, value) in enumerate((levels or {}).items()):
        ax.axhline(value, color="0.3", linewidth=1, linestyle=LINES[(at + 1) % 4])
        ax.annotate(
            name,
            (0, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8,
        )
    sizes = sorted(table["n"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.set(
        xlabel="labels for calibration",
        ylabel=f"held-out {_NAMES.get(measure, measure)}",
    )
    ax.set_ylim(bottom=0 if measure == "ece" else None)
    ax.legend(loc="upper right", ncols=2)
    return ax


@plain_texts
def plot_threshold_progression(
    table: pd.DataFrame, *, axes: Sequence[Axes] | None = None
) -> list[Axes]:
    """Accuracy above each threshold, by the number of labels that calibrated.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a draw of labels: ``n``, how many; ``threshold``; and, on other rows, the
        ``coverage``, or share of rows above the threshold, and the ``accuracy`` there,
        NaN where nothing is.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each threshold.

    Returns
    -------
    list of matplotlib.axes.Axes
        The median over draws, and a band that holds 90 % of them. Under each number
        of labels stands the coverage, from the 5th to the 95th percentile.
    """
    table = check_table(table, ("n", "threshold", "coverage", "accuracy"))
    cuts = sorted(table["threshold"].unique())
    if axes is None:
        rows = (len(cuts) + 1) // 2
        size = (WIDTH, 3.1 * rows)
        grid = plt.subplots(rows, 2, figsize=size, squeeze=False)[1]
        axes = list(grid.flat)
    for at, (ax, cut) in enumerate(zip(axes, cuts, strict=False)):
        by_size = table[table["threshold"] == cut].groupby("n")
        ends = np.array([0.05, 0.5, 0.95])
        found = by_size["accuracy"].quantile(ends).unstack()
        covered = by_size["coverage"].quantile(ends).unstack()
        place = np.arange(len(found))
        ax.axhline(cut, color="black", linewidth=1, linestyle=":")
        ax.fill_between(
            place, found[0.05], found[0.95], color=PALETTE[0], alpha=0.25, linewidth=0
        )
        ax.plot(place, found[0.5], color=PALETTE[0], marker=MARKERS[0], markersize=4)
        words = [
            f"{n:,}\n{low:.0%} to {high:.0%}"
            for n, low, high in zip(
                covered.index, covered[0.05], covered[0.95], strict=True
            )
        ]
        ax.set_xticks(place, words, fontsize=8)
        ax.set_title(f"threshold {cut:g}", fontsize=10)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if at % 2 == 0:
            ax.set_ylabel("accuracy above it")
        if at >= len(cuts) - 2:
            ax.set_xlabel("labels, and share above the threshold")
    return list(axes)
