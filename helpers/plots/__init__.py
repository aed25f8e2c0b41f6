"""Figures of calibration and decisions: functions that draw a result on Axes.

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
from .decisions import plot_tested_thresholds
from .style import LINES, MARKERS, PALETTE, style

__all__ = [
    "LINES",
    "MARKERS",
    "PALETTE",
    "confidence_histogram",
    "legend_below",
    "plot_accuracy_by_threshold",
    "plot_before_after",
    "plot_calibration_map",
    "plot_reliability_diagram",
    "plot_tested_thresholds",
    "style",
]
