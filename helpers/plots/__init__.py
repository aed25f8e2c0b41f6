"""Every figure of the book: each function takes a result and returns its Axes.

``style`` holds colours and settings, ``tokens`` the figures of probabilities over
tokens and labels, ``calibration`` those of calibration, ``classes`` those of many
classes.
"""

from .calibration import (
    confidence_histogram,
    legend_below,
    often_filled,
    plot_accuracy_by_threshold,
    plot_before_after,
    plot_calibration_map,
    plot_learning_curves,
    plot_reliability_diagram,
    plot_sample_size_progression,
)
from .classes import plot_class_gaps, plot_confusion
from .style import HATCHES, LINES, MARKERS, PALETTE, style
from .tokens import (
    distribution_bars,
    label_bars,
    measure_dots,
    next_token_bars,
    probability_bars,
    score_histogram,
)

__all__ = [
    "HATCHES",
    "LINES",
    "MARKERS",
    "PALETTE",
    "confidence_histogram",
    "distribution_bars",
    "label_bars",
    "legend_below",
    "measure_dots",
    "next_token_bars",
    "often_filled",
    "plot_accuracy_by_threshold",
    "plot_before_after",
    "plot_calibration_map",
    "plot_class_gaps",
    "plot_confusion",
    "plot_learning_curves",
    "plot_reliability_diagram",
    "plot_sample_size_progression",
    "probability_bars",
    "score_histogram",
    "style",
]
