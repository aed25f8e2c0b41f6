"""Figures of probabilities over tokens and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from ..checks import check_labels, check_outcomes, check_probabilities, check_table
from ..prompted import check_texts
from .style import GREY, HATCHES, MARKERS, PALETTE, WIDTH, plain_texts

if TYPE_CHECKING:
    from ..models import NextTokens


@plain_texts
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
        What :meth:`LanguageModel.next_tokens` gives.
    groups : mapping of str to sequence of str, optional
        Names of groups and the tokens in each, as written in the table; each group
        gets a colour and a pattern.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    table = tokens.table
    ax = ax or plt.subplots(figsize=(WIDTH, 0.6 + 0.27 * (len(table) + 1)))[1]
    names = [*table["token"], "all others"]
    values = np.append(table["probability"].to_numpy(), tokens.unlisted)
    places = np.arange(len(values))
    bars = ax.barh(places, values, color=GREY if groups else PALETTE[0])
    bars[-1].set(color="0.85", hatch="//", edgecolor="0.5")
    for at, (group, members) in enumerate((groups or {}).items()):
        own = [bar for bar, name in zip(bars, names, strict=True) if name in members]
        for bar in own:
            bar.set(facecolor=PALETTE[at], hatch=HATCHES[at], edgecolor="white")
        if own:
            own[0].set_label(group)
    for place, value in enumerate(values):
        ax.text(value + 0.01, place, f"{value:.2%}", va="center", fontsize=9)
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.15), xlabel="probability of the next token")
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.grid(False, axis="y")
    if groups:
        ax.legend(loc="lower right")
    return ax


@plain_texts
def probability_bars(
    probabilities: Mapping[str, float], *, ax: Axes | None = None
) -> Axes:
    """One bar for each probability, labelled with its value.

    Parameters
    ----------
    probabilities : mapping of str to float
        Names and probabilities in [0, 1].
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 0.6 + 0.3 * len(probabilities)))[1]
    places = np.arange(len(probabilities))
    values = np.array(list(probabilities.values()), dtype=float)
    ax.barh(places, values, color=PALETTE[0])
    for place, value in enumerate(values):
        ax.text(value + 0.01, place, f"{value:.2%}", va="center", fontsize=9)
    ax.set_yticks(places, list(probabilities))
    ax.invert_yaxis()
    ax.set(xlim=(0, max(values.max(), 1e-9) * 1.15), xlabel="probability")
    ax.grid(False, axis="y")
    return ax


@plain_texts
def label_bars(
    table: pd.DataFrame, texts: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """One bar a text: the model's mass on each label and on none of them.

    Parameters
    ----------
    table : pandas.DataFrame
        What :meth:`LLMClassifier.score_table` gives.
    texts : sequence of str
        The texts, one a row.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    table = check_table(table, ("off_label",))
    texts = check_texts(check_labels(texts, "texts", table))
    ax = ax or plt.subplots(figsize=(WIDTH, 1.2 + 0.32 * len(table)))[1]
    labels = [name for name in table.columns if name.startswith("p_")]
    on_label = 1 - table["off_label"].to_numpy()
    places, left = np.arange(len(table)), np.zeros(len(table))
    for at, name in enumerate(labels):
        width = table[name].to_numpy() * on_label
        ax.barh(
            places,
            width,
            left=left,
            color=PALETTE[at % len(PALETTE)],
            hatch=HATCHES[at % len(HATCHES)],
            edgecolor="white",
            label=name.removeprefix("p_"),
        )
        left = left + width
    ax.barh(places, 1 - left, left=left, color="0.88", label="no label")
    ax.set_yticks(places, [shorten(text, 44, placeholder=" …") for text in texts])
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="probability")
    ax.grid(False, axis="y")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(labels) + 1)
    return ax


@plain_texts
def distribution_bars(
    table: pd.DataFrame, *, axes: Sequence[Axes] | None = None
) -> list[Axes]:
    """The same outcomes under several treatments, side by side.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an outcome (a token), one column a treatment, probabilities as values.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each column.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each column.
    """
    table = check_table(table)
    n = table.shape[1]
    if axes is None:
        size = (WIDTH, 0.9 + 0.24 * len(table))
        axes = plt.subplots(
            1, n, figsize=size, sharey=True, sharex=True, squeeze=False
        )[1][0]
    places = np.arange(len(table))
    for at, (ax, name) in enumerate(zip(axes, table, strict=True)):
        values = table[name].to_numpy()
        ax.barh(places, values, color=PALETTE[0])
        for place, value in enumerate(values):
            shown = f"{value:.0%}" if value >= 0.005 else ("0" if not value else "<1%")
            ax.text(value + 0.02, place, shown, va="center", fontsize=8)
        ax.set_title(name, fontsize=9)
        ax.set_xlim(0, 1.2)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        ax.grid(False, axis="y")
        if at == 0:
            ax.set_yticks(places, table.index)
            ax.invert_yaxis()
    return list(axes)


@plain_texts
def measure_dots(
    table: pd.DataFrame,
    *,
    errors: pd.DataFrame | None = None,
    chance: Mapping[str, float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Several measures of several methods: a row of dots for each measure.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method, one column a measure, in [0, 1].
    errors : pandas.DataFrame, optional
        Half-widths of intervals, of the same shape; NaN where there is none.
    chance : mapping of str to float, optional
        For some measures, the value that guessing would reach.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each column.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each column.
    """
    table = check_table(table)
    n = table.shape[1]
    if axes is None:
        size = (WIDTH, 0.9 + 0.3 * len(table))
        axes = plt.subplots(1, n, figsize=size, sharey=True, squeeze=False)[1][0]
    places = np.arange(len(table))
    for at, (ax, name) in enumerate(zip(axes, table, strict=True)):
        half = None if errors is None else errors[name].to_numpy()
        ax.errorbar(
            table[name],
            places,
            xerr=half,
            fmt=MARKERS[at],
            color=PALETTE[at],
            capsize=2,
        )
        if chance and str(name) in chance:
            ax.axvline(chance[str(name)], color="0.4", linestyle="--", linewidth=1)
        ax.set(xlim=(-0.03, 1.03), xlabel=name)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        if at == 0:
            ax.set_yticks(places, table.index)
            ax.set_ylim(len(table) - 0.5, -0.5)
    return list(axes)


@plain_texts
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
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 3))[1]
    truth = check_outcomes(truth, scores, name="truth")
    scores = check_probabilities(scores, "scores")
    bins = np.linspace(0, 1, 31).tolist()
    for at, value in enumerate((False, True)):
        ax.hist(
            scores[truth == value],
            bins,
            label=name(value),
            color=to_rgba(PALETTE[at], 0.45),
            edgecolor=PALETTE[at],
            hatch=HATCHES[at],
        )
    for at, (label, place) in enumerate((thresholds or {}).items()):
        line = ("-", "--", ":")[at % 3]
        ax.axvline(place, color="black", linestyle=line, linewidth=1.5, label=label)
    ax.set(xlim=(0, 1), ylabel="number of texts")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax
