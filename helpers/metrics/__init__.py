"""Calibration errors, proper scores, discrimination, and what chance does to them.

The data are arrays: the confidence in a prediction (or the probability of an event),
and whether it was correct (or came).
"""

from .bins import Binning
from .classes import class_gap, class_gap_difference, class_table, weighted_mean
from .errors import (
    classwise_calibration_error,
    debiased_calibration_error,
    expected_calibration_error,
    top_label_calibration_error,
)
from .planning import labels_needed
from .report import CalibrationReport, calibration_metrics
from .resampling import (
    Interval,
    NoiseFloor,
    bootstrap_interval,
    noise_floor,
    paired_difference,
)
from .scores import (
    BrierDecomposition,
    aurc,
    auroc,
    brier_score,
    calibration_test,
    log_loss,
    risk_coverage_curve,
    top_label,
)
from .sums import CalibrationSums

__all__ = [
    "Binning",
    "BrierDecomposition",
    "CalibrationReport",
    "CalibrationSums",
    "Interval",
    "NoiseFloor",
    "aurc",
    "auroc",
    "bootstrap_interval",
    "brier_score",
    "calibration_metrics",
    "calibration_test",
    "class_gap",
    "class_gap_difference",
    "class_table",
    "classwise_calibration_error",
    "debiased_calibration_error",
    "expected_calibration_error",
    "labels_needed",
    "log_loss",
    "noise_floor",
    "paired_difference",
    "risk_coverage_curve",
    "top_label",
    "top_label_calibration_error",
    "weighted_mean",
]
