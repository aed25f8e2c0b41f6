"""Calibration errors, proper scores, discrimination, and what chance does to them.

Arrays in, plain results out. The data are always the confidence in a prediction (or
the probability of an event) and whether it was correct (or came).

``binning`` holds bins and their sums; ``errors`` the calibration errors; ``scores``
what they do not see; ``significance`` tests; ``resampling`` the noise floor and
intervals; ``paired`` what changes from one set of confidences to another; ``labels``
how many labels a certificate takes; ``report`` all of it at once; ``classes`` each
predicted class by itself; ``survey`` means by survey weight; ``streaming`` the report
on a table too large for memory, from ``sums`` that add up over its shards.
"""

from .binning import Bins, BinSums, make_bins
from .classes import class_gap, class_gap_difference, class_table
from .errors import (
    classwise_calibration_error,
    debiased_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    smooth_calibration_error,
    sweep_calibration_error,
    top_label_calibration_error,
)
from .labels import LabelsNeeded, labels_needed
from .paired import paired_difference, paired_differences
from .report import CalibrationReport, calibration_metrics, reliability_curve
from .resampling import (
    Interval,
    NoiseFloor,
    bootstrap_interval,
    bootstrap_intervals,
    consistency_band,
    noise_floor,
)
from .scores import (
    BrierDecomposition,
    RiskCoverage,
    aurc,
    auroc,
    brier_decomposition,
    brier_score,
    log_loss,
    risk_coverage_curve,
    top_label,
)
from .significance import CalibrationTest, calibration_test
from .streaming import CalibrationSums
from .survey import WeightedMean, weighted_mean

__all__ = [
    "BinSums",
    "Bins",
    "BrierDecomposition",
    "CalibrationReport",
    "CalibrationSums",
    "CalibrationTest",
    "Interval",
    "LabelsNeeded",
    "NoiseFloor",
    "RiskCoverage",
    "WeightedMean",
    "aurc",
    "auroc",
    "bootstrap_interval",
    "bootstrap_intervals",
    "brier_decomposition",
    "brier_score",
    "calibration_metrics",
    "calibration_test",
    "class_gap",
    "class_gap_difference",
    "class_table",
    "classwise_calibration_error",
    "consistency_band",
    "debiased_calibration_error",
    "expected_calibration_error",
    "labels_needed",
    "log_loss",
    "make_bins",
    "maximum_calibration_error",
    "noise_floor",
    "paired_difference",
    "paired_differences",
    "reliability_curve",
    "risk_coverage_curve",
    "smooth_calibration_error",
    "sweep_calibration_error",
    "top_label",
    "top_label_calibration_error",
    "weighted_mean",
]
