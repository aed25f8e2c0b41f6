"""Calibration errors: how far stated confidence lies from the share that is correct."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm as normal

from ..checks import check_choice, check_classified, check_rows
from .bins import NORMS, QUANTILE, UNIFORM, Binning, Bins, BinSums, Norm


def expected_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
) -> float:
    """Expected calibration error (ECE): the mean gap in bins of the confidence.

    The sum over bins of ``(n_b / n) * abs(accuracy_b - confidence_b)`` (Naeini et al.,
    2015). It is positive even for a perfect forecaster: see :func:`noise_floor`.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct (or the event came), else 0.
    binning : Binning, default=Binning()
        The bins: by default 20 of equal width, [a, b).
    norm : {"l1", "l2", "max", "signed"}, default="l1"
        Mean absolute gap, root mean squared gap, largest gap, or mean of confidence −
        accuracy (positive is overconfident).

    Examples
    --------
    >>> round(expected_calibration_error([0.8] * 10, [1] * 7 + [0] * 3), 3)
    0.1
    """
    check_choice("norm", norm, NORMS)
    return float(_binned(confidence, correct, binning).error(norm))


def classwise_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
) -> float:
    """Classwise calibration error: each class's probability against its frequency.

    The mean over classes k of the ECE of p_k against truth = k (Nixon et al., 2019).

    Parameters
    ----------
    probabilities, truth
        See :func:`top_label`.
    binning, norm
        See :func:`expected_calibration_error`.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9]]
    >>> round(classwise_calibration_error(p, [0, 0, 1, 1]), 3)
    0.15
    """
    values, _, actual = check_classified(probabilities, truth)
    errors = [
        expected_calibration_error(column, actual == at, binning=binning, norm=norm)
        for at, column in enumerate(values.T.copy())
    ]
    return float(np.mean(errors))


def top_label_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
) -> float:
    """Top-label calibration error: the ECE within each predicted class.

    Their mean, by the rows of each: over- and underconfident classes do not cancel out
    (Gupta and Ramdas, ICLR 2022).

    Parameters
    ----------
    probabilities, truth, binning, norm
        See :func:`classwise_calibration_error`.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]]
    >>> round(top_label_calibration_error(p, [0, 0, 1, 0]), 3)
    0.25
    """
    values, _, actual = check_classified(probabilities, truth)
    predicted, confidence = values.argmax(axis=1), values.max(axis=1)
    classes, sizes = np.unique(predicted, return_counts=True)
    errors = [
        expected_calibration_error(
            confidence[predicted == at],
            actual[predicted == at] == at,
            binning=binning,
            norm=norm,
        )
        for at in classes
    ]
    return float(np.average(errors, weights=sizes))


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    binning: Binning = QUANTILE,
    norm: Literal["squared", "l2", "l1"] = "squared",
) -> float:
    """Calibration error without the part that chance alone would add.

    "squared" is the estimate of Kumar et al. (NeurIPS 2019), "l2" its root, or 0 where
    it is negative. "l1" is twice the plain value less its expectation, each accuracy
    drawn from a normal distribution around the observed one; more than half of what
    chance adds stays in it, where the ECE less its :func:`noise_floor`'s mean keeps
    none. Where "squared" or "l1" is negative, the error cannot be told from zero.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`.
    binning : Binning, default=Binning(strategy="quantile")
        The correction needs many rows a bin; one of a single row adds 0 to "squared".
    norm : {"squared", "l2", "l1"}, default="squared"

    Examples
    --------
    >>> p, right = [0.8] * 10, [1] * 8 + [0] * 2
    >>> round(debiased_calibration_error(p, right, binning=Binning(1)), 4)
    -0.0178
    """
    check_choice("norm", norm, ("squared", "l2", "l1"))
    sums = _binned(confidence, correct, binning)
    if norm == "l1":
        sums = sums.filled
        rate = sums.accuracy
        gap = np.abs(sums.mean_confidence - rate)
        noise = np.maximum(np.sqrt(rate * (1 - rate) / sums.count), 1e-99)
        # E|X| for normal X, the folded normal distribution.
        expected = gap * (1 - 2 * normal.cdf(-gap / noise))
        expected += 2 * noise * normal.pdf(gap / noise)
        return float(np.average(2 * gap - expected, weights=sums.count))
    squared = float(sums.debiased_error())
    return squared if norm == "squared" else float(np.sqrt(max(squared, 0.0)))


def _binned(confidence: ArrayLike, correct: ArrayLike, binning: Binning) -> BinSums:
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    return Bins.of(values, binning).sums(values, outcome)
