"""Figures of many classes: gaps class by class, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from ..checks import check_choice, check_labels, check_table, check_truth
from .style import LINES, MARKERS, PALETTE, WIDTH, plain_texts

# One hue, so that it reads in grey as well; without the lightest, which pass for blank.
_BLUES = ListedColormap(plt.get_cmap("Blues")(np.linspace(0.08, 1, 256)))
_SHOWN = 0.005
_WRITTEN = 0.05


@plain_texts
def plot_class_gaps(
    table: pd.DataFrame,
    *,
    names: Sequence[str] = ("raw", "calibrated"),
    ax: Axes | None = None,
) -> Axes:
    """Accuracy and mean confidences of each class: what is promised, what is kept.

    The upright dark mark is the accuracy, with its interval; a line leads from it to
    each mean confidence. A line to the right is overconfidence.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`helpers.metrics.class_table` gives.
    names : sequence of str, default=("raw", "calibrated")
        The confidences to draw, at most five.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        One row a class, the first on top. A confidence of which rows were fitted on
        says so in the legend.

    Raises
    ------
    ValueError
        No names or too many, or one that is no column of the table.
    """
    names = list(names)
    if not 1 <= len(names) <= len(PALETTE):
        raise ValueError(f"names must be 1 to {len(PALETTE)} of them, not {names!r}.")
    table = check_table(
        table, ("n", "accuracy", "accuracy_low", "accuracy_high", *names)
    )
    ax = ax or plt.subplots(figsize=(WIDTH, max(1.1 + 0.27 * len(table), 2.4)))[1]
    places = np.arange(len(table))
    accuracy = table["accuracy"].to_numpy()
    # Inside a row the interval comes first, then each confidence below it.
    tracks = np.linspace(-0.28, 0.28, 1 + len(names))
    dark: dict[str, Any] = {"color": "0.15", "zorder": 3}
    ends = table[["accuracy_low", "accuracy_high"]].to_numpy()
    ax.hlines(places + tracks[0], *ends.T, linewidth=1.4, **dark)
    ax.vlines(
        accuracy, places - 0.42, places + 0.42, linewidth=2.2, **dark, label="accuracy"
    )
    fitted_on = table.attrs.get("in_sample", ())
    for at, (name, track) in enumerate(zip(names, tracks[1:], strict=True)):
        rows, values = places + track, table[name].to_numpy()
        ax.hlines(
            rows, accuracy, values, color=PALETTE[at], linewidth=1, linestyle=LINES[at]
        )
        ax.plot(
            values,
            rows,
            color=PALETTE[at],
            linestyle="",
            marker=MARKERS[at],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=4,
            label=name + (" (IN-SAMPLE)" if name in fitted_on else ""),
        )
    counts = zip(table.index, table["n"], strict=True)
    ax.set_yticks(places, [f"{name} ({n:,})" for name, n in counts])
    ax.grid(False, axis="y")
    ax.set(ylim=(len(table) - 0.5, -0.5), ylabel="predicted class (cases)")
    ax.set_xlabel("accuracy with its interval, and mean confidence")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


@plain_texts
def plot_confusion(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    labels: Sequence[Any] | None = None,
    normalise: Literal["truth"] | None = "truth",
    ax: Axes | None = None,
) -> Axes:
    """Which class is taken for which: a heat map that bears many classes.

    A row is a true class, and its cells are shares of its cases. Cells below half a
    per cent of the row stay blank; from 5 % of it on, the number is written in them.

    Parameters
    ----------
    truth, predicted : array-like of shape (n,)
        True and predicted classes.
    labels : sequence, optional
        All classes, in the order in which to show them. Default: the most frequent
        true class first.
    normalise : {"truth", None}, default="truth"
        Whether colours and numbers are shares of the true class, in whole per cent,
        or cases.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        Another number of predictions than of true classes, none of either, a class
        that is not in ``labels`` or is there twice, or an unknown way to normalise.
    """
    check_choice("normalise", "truth" if normalise is None else normalise, ("truth",))
    actual = check_labels(truth, "truth")
    found = check_labels(predicted, "predicted", truth)
    classes = list(labels) if labels is not None else _by_frequency(actual, found)
    if len(set(classes)) < len(classes):
        raise ValueError(f"labels must not have a class twice: {classes!r}.")
    rows = check_truth(actual, classes)
    columns = check_truth(found, classes, name="predicted")
    counts = confusion_matrix(rows, columns, labels=np.arange(len(classes)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    values = shares if normalise else counts.astype(float)
    if ax is None:
        side = min(2.6 + 0.18 * len(classes), WIDTH)
        ax = plt.subplots(figsize=(side + 0.6, side))[1]
    image = ax.imshow(
        np.ma.masked_where(shares < _SHOWN, values),
        cmap=_BLUES,
        vmin=0,
        vmax=1 if normalise else max(values.max(), 1),
        aspect="auto",
    )
    for row, column in np.argwhere(shares >= _WRITTEN):
        value = values[row, column]
        ax.text(
            column,
            row,
            f"{100 * value:.0f}" if normalise else f"{value:,.0f}",
            ha="center",
            va="center",
            fontsize=7 if normalise else 6,
            color=_ink(_BLUES(image.norm(value))),
        )
    places = np.arange(len(classes))
    ax.set_xticks(places, [str(name) for name in classes], rotation=90)
    ax.set_yticks(places, [str(name) for name in classes])
    ax.grid(False)
    # Thin lines between cells lead the eye from a label to its cell.
    for lines in (ax.axhline, ax.axvline):
        for place in places[1:] - 0.5:
            lines(place, color="0.92", linewidth=0.5)
    ax.set(xlabel="predicted class", ylabel="true class")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
    bar.set_label("share of the true class" if normalise else "cases")
    bar.outline.set_visible(False)
    if normalise:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return ax


def _by_frequency(actual: np.ndarray, found: np.ndarray) -> list[Any]:
    """The classes, frequent true ones first; ties by name."""
    true, said = Counter(actual.tolist()), Counter(found.tolist())
    return sorted(true | said, key=lambda name: (-true[name], -said[name], str(name)))


def _ink(colour: Any) -> str:
    """Black or white, whichever stands out more on a colour (WCAG 2.1)."""
    parts = np.array(colour[:3])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ [0.2126, 0.7152, 0.0722] < 0.179 else "black"
