"""Calibrators: from what a model says to how often it is right.

A calibrator learns from scores in [0, 1] and from whether each was right
(:class:`Calibrator`), or from a probability for each class and the true one
(:class:`MulticlassCalibrator`); the wrappers turn the first kind into the second. What
it predicts is :class:`Calibrated`: it knows which rows the calibrator was fitted on,
so that a measure taken on them cannot pass for a held-out one. :func:`cross_fitted`
gives held-out values for all rows.
"""

from .base import (
    BaseCalibrator,
    CalibrationWarning,
    Calibrator,
    MulticlassCalibrator,
)
from .crossfit import cross_fitted
from .learning import held_out_curves, learning_curves
from .marks import Calibrated
from .multiclass import MulticlassTemperatureScaling, VectorScaling
from .scaling import (
    BetaCalibrator,
    PlattScalingCalibrator,
    TemperatureScalingCalibrator,
)
from .steps import (
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    VennAbersCalibrator,
)
from .storage import from_dict, load_calibrator
from .wrappers import PerPredictedClass, TopVersusAll

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
    "PerPredictedClass",
    "PlattScalingCalibrator",
    "TemperatureScalingCalibrator",
    "TopVersusAll",
    "VectorScaling",
    "VennAbersCalibrator",
    "cross_fitted",
    "from_dict",
    "held_out_curves",
    "learning_curves",
    "load_calibrator",
]
