"""Figures of calibration and decisions: functions that draw a result on Axes.

``ax``, where a function has it, is the Axes to draw on, by default a new one.
"""

from .figures import (
    legend_below,
    plot_accuracy_by_threshold,
    plot_before_after,
    plot_calibration_map,
    plot_reliability_diagram,
    plot_tested_thresholds,
)
from .style import LINES, MARKERS, PALETTE, style

__all__ = [
    "LINES",
    "MARKERS",
    "PALETTE",
    "legend_below",
    "plot_accuracy_by_threshold",
    "plot_before_after",
    "plot_calibration_map",
    "plot_reliability_diagram",
    "plot_tested_thresholds",
    "style",
]
