"""Calibrators: from what a model says to how often it is right.

They learn from scores in [0, 1] and whether each was right (:class:`Calibrator`), or
from label probabilities and the true classes (:class:`MulticlassCalibrator`).
"""

from .base import (
    BaseCalibrator,
    CalibrationWarning,
    Calibrator,
    MulticlassCalibrator,
    cross_fitted,
)
from .binary import (
    BetaCalibrator,
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    PlattScalingCalibrator,
    TemperatureScalingCalibrator,
    VennAbersCalibrator,
)
from .files import from_dict, load_calibrator
from .marks import Calibrated
from .multiclass import (
    MulticlassTemperatureScaling,
    TopLabelCalibrator,
    TopVersusAll,
    VectorScaling,
)
from .recommended import ProbabilityCalibrator

__all__ = [
    "BaseCalibrator",
    "BetaCalibrator",
    "Calibrated",
    "CalibrationWarning",
    "Calibrator",
    "HistogramBinningCalibrator",
    "IsotonicRegressionCalibrator",
    "MulticlassCalibrator",
    "MulticlassTemperatureScaling",
    "PlattScalingCalibrator",
    "ProbabilityCalibrator",
    "TemperatureScalingCalibrator",
    "TopLabelCalibrator",
    "TopVersusAll",
    "VectorScaling",
    "VennAbersCalibrator",
    "cross_fitted",
    "from_dict",
    "load_calibrator",
]
