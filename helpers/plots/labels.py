"""Figures of probabilities over tokens and labels, and of many classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from ..checks import (
    check_labels,
    check_outcomes,
    check_probabilities,
    check_table,
    check_truth,
)
from ..prompted import check_texts
from .style import ABOVE, DOTS, GREY, HATCHES, LOOKS, PALETTE, WIDTH, Look, figure

if TYPE_CHECKING:
    from ..models import NextTokens

# One hue, so that it reads in grey as well; without the lightest, which pass for blank.
_BLUES = ListedColormap(plt.get_cmap("Blues")(np.linspace(0.08, 1, 256)))
_SHOWN, _WRITTEN = 0.005, 0.05


@figure
def next_token_bars(
    tokens: NextTokens,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The most probable next tokens as bars, with what is not listed below them.

    Parameters
    ----------
    tokens : NextTokens
        From :meth:`LanguageModel.next_tokens`.
    groups : mapping of str to sequence of str, optional
        Names of groups, to colour, and the tokens in each, as written in the table.
    """
    table = tokens.table
    ax = ax or plt.subplots(figsize=(WIDTH, 0.6 + 0.27 * (len(table) + 1)))[1]
    names = [*table["token"], "all others"]
    values = np.append(table["probability"].to_numpy(), tokens.unlisted)
    bars = ax.barh(range(len(names)), values, color=GREY if groups else PALETTE[0])
    bars[-1].set(color="0.85", hatch="//", edgecolor="0.5")
    for at, (group, members) in enumerate((groups or {}).items()):
        own = [bar for bar, name in zip(bars, names, strict=True) if name in members]
        for bar in own:
            bar.set(facecolor=PALETTE[at], hatch=HATCHES[at], edgecolor="white")
        if own:
            own[0].set_label(group)
    for place, value in enumerate(values):
        ax.text(value + 0.01, place, f"{value:.2%}", va="center", fontsize=9)
    _name_rows(ax, names)
    ax.set(xlim=(0, 1.15), xlabel="probability of the next token")
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.grid(False, axis="y")
    if groups:
        ax.legend(loc="lower right")
    return ax


@figure
def label_bars(
    table: pd.DataFrame, texts: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """One bar a text: the model's mass on each label and on none of them.

    Parameters
    ----------
    table : pandas.DataFrame
        From :meth:`LLMClassifier.score_table`.
    texts : sequence of str
        The texts, one a row.
    """
    table = check_table(table, ("off_label",))
    texts = check_texts(check_labels(texts, "texts", table))
    ax = ax or plt.subplots(figsize=(WIDTH, 1.2 + 0.32 * len(table)))[1]
    labels = [name for name in table.columns if name.startswith("p_")]
    left, on_label = np.zeros(len(table)), 1 - table["off_label"].to_numpy()
    for at, name in enumerate(labels):
        width = table[name].to_numpy() * on_label
        look = Look({"color": PALETTE[at % 5], "hatch": HATCHES[at % 5]})
        look |= {"edgecolor": "white", "label": name.removeprefix("p_")}
        ax.barh(range(len(table)), width, left=left, **look)
        left = left + width
    ax.barh(range(len(table)), 1 - left, left=left, color="0.88", label="no label")
    _name_rows(ax, [shorten(text, 44, placeholder=" …") for text in texts])
    ax.set(xlim=(0, 1), xlabel="probability")
    ax.grid(False, axis="y")
    ax.legend(**ABOVE, ncols=len(labels) + 1)
    return ax


@figure
def distribution_bars(table: pd.DataFrame) -> list[Axes]:
    """The same outcomes under several treatments, side by side.

    Parameters
    ----------
    table : pandas.DataFrame
        Probabilities: one row an outcome (a token), one column a treatment.
    """
    table = check_table(table)
    axes = _side_by_side(table, 0.24)
    for ax, name in zip(axes, table, strict=True):
        values = table[name].to_numpy()
        ax.barh(range(len(table)), values, color=PALETTE[0])
        for place, value in enumerate(values):
            shown = f"{value:.0%}" if value >= 0.005 else ("0" if not value else "<1%")
            ax.text(value + 0.02, place, shown, va="center", fontsize=8)
        ax.set_title(str(name), fontsize=9)
        ax.set_xlim(0, 1.2)
        ax.grid(False, axis="y")
    return axes


@figure
def measure_dots(
    table: pd.DataFrame,
    *,
    errors: pd.DataFrame | None = None,
    chance: Mapping[str, float] | None = None,
) -> list[Axes]:
    """Several measures of several methods: a panel of dots for each measure.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method, one column a measure, in [0, 1].
    errors : pandas.DataFrame, optional
        Half-widths of intervals, of the same shape; NaN where there is none.
    chance : mapping of str to float, optional
        For some measures, the value that guessing would reach.
    """
    table = check_table(table)
    axes = _side_by_side(table, 0.3)
    for at, (ax, name) in enumerate(zip(axes, table, strict=True)):
        half = None if errors is None else errors[name].to_numpy()
        ax.errorbar(table[name], range(len(table)), xerr=half, capsize=2, **DOTS[at])
        if chance and str(name) in chance:
            ax.axvline(chance[str(name)], color="0.4", linestyle="--", linewidth=1)
        ax.set(xlim=(-0.03, 1.03), xlabel=name)
    return axes


@figure
def score_histogram(
    scores: np.ndarray,
    truth: np.ndarray,
    *,
    thresholds: Mapping[str, float] | None = None,
    name: Callable[[bool], str] = str,
    ax: Axes | None = None,
) -> Axes:
    """How a score is spread over the two classes, with thresholds as lines.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Scores in [0, 1].
    truth : array-like of bool, of shape (n,)
        Whether each item belongs to the positive class.
    thresholds : mapping of str to float, optional
        Names and places of vertical lines.
    name : callable, default=str
        What to call each class.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 3))[1]
    truth = check_outcomes(truth, scores, name="truth")
    scores = check_probabilities(scores, "scores")
    for at, value in enumerate((False, True)):
        look = Look({"color": to_rgba(PALETTE[at], 0.45), "edgecolor": PALETTE[at]})
        look |= {"hatch": HATCHES[at], "label": name(value)}
        ax.hist(scores[truth == value], np.linspace(0, 1, 31).tolist(), **look)
    for at, (label, place) in enumerate((thresholds or {}).items()):
        line = ("-", "--", ":")[at % 3]
        ax.axvline(place, color="black", linestyle=line, linewidth=1.5, label=label)
    ax.set(xlim=(0, 1), ylabel="number of texts")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


@figure
def plot_class_gaps(
    table: pd.DataFrame,
    *,
    names: Sequence[str] = ("raw", "calibrated"),
    ax: Axes | None = None,
) -> Axes:
    """Accuracy and mean confidences of each class, the first class on top.

    A line leads from the accuracy, with its interval, to each mean confidence: one to
    the right is overconfidence. The legend says which rows were fitted on.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`helpers.metrics.class_table`.
    names : sequence of str, default=("raw", "calibrated")
        The confidences to draw, at most five.
    """
    names = list(names)
    if not 1 <= len(names) <= len(PALETTE):
        raise ValueError(f"names must be 1 to {len(PALETTE)} of them, not {names!r}.")
    columns = ["n", "accuracy", "accuracy_low", "accuracy_high", *names]
    table = check_table(table, tuple(columns))
    ax = ax or plt.subplots(figsize=(WIDTH, max(1.1 + 0.27 * len(table), 2.4)))[1]
    places, accuracy = np.arange(len(table)), table["accuracy"].to_numpy()
    # Inside a row the interval comes first, then each confidence below it.
    tracks = np.linspace(-0.28, 0.28, 1 + len(names))
    dark = Look({"color": "0.15", "zorder": 3})
    ends = table[["accuracy_low", "accuracy_high"]].to_numpy().T
    ax.hlines(places + tracks[0], *ends, linewidth=1.4, **dark)
    heights = places - 0.42, places + 0.42
    ax.vlines(accuracy, *heights, linewidth=2.2, label="accuracy", **dark)
    fitted_on = table.attrs.get("in_sample", ())
    edge = Look({"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5})
    for at, (name, track) in enumerate(zip(names, tracks[1:], strict=True)):
        rows, values = places + track, table[name].to_numpy()
        ax.hlines(rows, accuracy, values, linewidth=1, **LOOKS[at])
        label = name + (" (IN-SAMPLE)" if name in fitted_on else "")
        ax.plot(values, rows, **DOTS[at], **edge, zorder=4, label=label)
    counts = zip(table.index, table["n"], strict=True)
    _name_rows(ax, [f"{name} ({n:,})" for name, n in counts])
    ax.grid(False, axis="y")
    ax.set_ylabel("predicted class (cases)")
    ax.set_xlabel("accuracy with its interval, and mean confidence")
    ax.legend(**ABOVE, ncols=3)
    return ax


@figure
def plot_confusion(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    labels: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Confusion matrix as a heat map for many classes.

    Rows are true classes, cells shares of the row, blank below 0.5 %, numbered from 5
    %.

    Parameters
    ----------
    truth, predicted : array-like of shape (n,)
        True and predicted classes.
    labels : sequence, optional
        All classes, in order. Default: the most frequent true class first.
    """
    actual = check_labels(truth, "truth")
    found = check_labels(predicted, "predicted", truth)
    classes = list(labels) if labels is not None else _by_frequency(actual, found)
    if len(set(classes)) < len(classes):
        raise ValueError(f"labels must not have a class twice: {classes!r}.")
    rows = check_truth(actual, classes)
    columns = check_truth(found, classes, name="predicted")
    every = np.arange(len(classes))
    shares = confusion_matrix(rows, columns, labels=every, normalize="true")
    if ax is None:
        side = min(2.6 + 0.18 * len(classes), WIDTH)
        ax = plt.subplots(figsize=(side + 0.6, side))[1]
    shown = np.ma.masked_where(shares < _SHOWN, shares)
    image = ax.imshow(shown, cmap=_BLUES, vmin=0, vmax=1, aspect="auto")
    words = Look({"ha": "center", "va": "center", "fontsize": 7})
    for row, column in np.argwhere(shares >= _WRITTEN):
        share = shares[row, column]
        ink = _ink(_BLUES(image.norm(share)))
        ax.text(column, row, f"{100 * share:.0f}", color=ink, **words)
    names = [str(name) for name in classes]
    ax.set_xticks(every, names, rotation=90)
    ax.set_yticks(every, names)
    ax.grid(False)
    # Thin lines between cells lead the eye from a label to its cell.
    for place in np.arange(1, len(names)) - 0.5:
        ax.axhline(place, color="0.92", linewidth=0.5)
        ax.axvline(place, color="0.92", linewidth=0.5)
    ax.set(xlabel="predicted class", ylabel="true class")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return ax


def _name_rows(ax: Axes, names: Any) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _side_by_side(table: pd.DataFrame, height: float) -> list[Axes]:
    """An axes for each column, from 0 to 1, with the names of rows at the first."""
    size = (WIDTH, 0.9 + height * len(table))
    shared = Look({"sharex": True, "sharey": True, "squeeze": False})
    axes = plt.subplots(1, table.shape[1], figsize=size, **shared)[1][0]
    for ax in axes:
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    _name_rows(axes[0], table.index)
    return list(axes)


def _by_frequency(actual: np.ndarray, found: np.ndarray) -> list[Any]:
    true, said = Counter(actual.tolist()), Counter(found.tolist())
    return sorted(true | said, key=lambda name: (-true[name], -said[name], str(name)))


def _ink(colour: Any) -> str:
    """Black or white, whichever has more contrast on a colour (WCAG 2.1)."""
    parts = np.array(colour[:3])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ [0.2126, 0.7152, 0.0722] < 0.179 else "black"
