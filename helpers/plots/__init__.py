"""Every figure of the book: each function takes a result and returns its Axes.

``ax``, where a function has it, is the Axes to draw on, by default a new one.
"""

from .calibration import (
    confidence_histogram,
    legend_below,
    plot_accuracy_by_threshold,
    plot_before_after,
    plot_calibration_map,
    plot_reliability_diagram,
)
from .decisions import (
    plot_buckets,
    plot_cost_curve,
    plot_monitor,
    plot_risk_coverage,
    plot_tested_thresholds,
)
from .labels import (
    distribution_bars,
    label_bars,
    measure_dots,
    next_token_bars,
    plot_class_gaps,
    plot_confusion,
    score_histogram,
)
from .learning import (
    often_filled,
    plot_learning_curves,
    plot_sample_size_progression,
    plot_threshold_progression,
)
from .style import LINES, MARKERS, PALETTE, style

__all__ = [
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
    "plot_buckets",
    "plot_calibration_map",
    "plot_class_gaps",
    "plot_confusion",
    "plot_cost_curve",
    "plot_learning_curves",
    "plot_monitor",
    "plot_reliability_diagram",
    "plot_risk_coverage",
    "plot_sample_size_progression",
    "plot_tested_thresholds",
    "plot_threshold_progression",
    "score_histogram",
    "style",
]
