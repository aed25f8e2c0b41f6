"""Calibration errors: how far stated confidence lies from the share that is correct.

All of them are estimates from a sample, and the plain ones are too high: read them
beside the noise floor (:func:`helpers.metrics.noise_floor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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

    The sum over bins b of ``(n_b / n) * abs(accuracy_b - confidence_b)``, where
    ``confidence_b`` is the mean confidence in the bin, not its middle (Naeini et al.,
    AAAI 2015). It is positive even for a perfect forecaster: see :func:`noise_floor`.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct (or the event came), else 0.
    binning : Binning, default=Binning()
        The bins: by default 20 of equal width, [a, b).
    norm : {"l1", "l2", "max", "signed"}, default="l1"
        "l2" is the root of the mean squared gap, "max" the largest gap, "signed" the
        mean of confidence − accuracy, whatever the bins: positive is overconfident.

    Examples
    --------
    Ten predictions with confidence 0.8, of which seven are correct:

    >>> round(expected_calibration_error([0.8] * 10, [1] * 7 + [0] * 3), 3)
    0.1
    """
    check_choice("norm", norm, NORMS)
    return float(_binned(confidence, correct, binning).error(norm))


def maximum_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, binning: Binning = UNIFORM
) -> float:
    """Maximum calibration error (MCE): the gap of the worst bin.

    A bin with one row can make it anything; look at the counts before you quote it.

    Parameters
    ----------
    confidence, correct, binning
        See :func:`expected_calibration_error`, whose norm "max" this is.

    Examples
    --------
    >>> round(maximum_calibration_error([0.6, 0.6, 0.9], [1, 0, 1]), 3)
    0.1
    """
    return expected_calibration_error(confidence, correct, binning=binning, norm="max")


def classwise_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    average: Literal["macro"] | None = "macro",
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
) -> Any:
    """Classwise calibration error: each class's probability against its frequency.

    The ECE of p_k against [truth = k], averaged over the classes (Nixon et al., CVPR
    workshops 2019). All the probabilities count, not only that of the prediction.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
        Rows that sum to one; a data frame names the classes by its columns.
    truth : array-like of shape (n,)
        The true classes: positions 0, 1, …, or names of a data frame's columns.
    average : {"macro", None}, default="macro"
        None gives the error of each class, as a dict.
    binning, norm
        See :func:`expected_calibration_error`.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9]]
    >>> round(classwise_calibration_error(p, [0, 0, 1, 1]), 3)
    0.15
    """
    check_choice("average", "macro" if average is None else average, ("macro",))
    values, classes, actual = check_classified(probabilities, truth)
    columns = {
        name: (np.ascontiguousarray(values[:, at]), actual == at)
        for at, name in enumerate(classes)
    }
    return _error_of_classes(columns, average, binning, norm)


def top_label_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    average: Literal["weighted", "macro"] | None = "weighted",
    binning: Binning = UNIFORM,
    norm: Norm = "l1",
) -> Any:
    """Top-label calibration error: the ECE within each predicted class.

    One predicted class that is trusted too much and another that is trusted too little
    cannot make up for each other here (Gupta and Ramdas, ICLR 2022).

    Parameters
    ----------
    probabilities, truth
        See :func:`classwise_calibration_error`.
    average : {"weighted", "macro", None}, default="weighted"
        By the number of rows predicted so, every predicted class alike, or none: a dict
        with the error of each.
    binning, norm
        See :func:`expected_calibration_error`.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]]
    >>> error = top_label_calibration_error(p, [0, 0, 1, 0])  # right: 2 of 2, 1 of 2
    >>> round(error, 3)
    0.25
    """
    words = ("weighted", "macro")
    check_choice("average", words[0] if average is None else average, words)
    values, classes, actual = check_classified(probabilities, truth)
    predicted, confidence = values.argmax(axis=1), values.max(axis=1)
    parts = {
        classes[at]: (confidence[predicted == at], actual[predicted == at] == at)
        for at in np.unique(predicted)
    }
    return _error_of_classes(parts, average, binning, norm)


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    binning: Binning = QUANTILE,
    norm: Literal["squared", "l2", "l1"] = "squared",
) -> float:
    """Calibration error without the part that chance alone would add.

    "squared": Σ_b (n_b/n) [(confidence_b − accuracy_b)² − accuracy_b (1 − accuracy_b)
    / (n_b − 1)], for a perfect forecaster as often negative as positive (Kumar et al.,
    NeurIPS 2019). "l1": twice the plain value minus its expectation where each accuracy
    is drawn from a normal distribution around the observed one. Both may be negative:
    the error cannot be told from zero.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`.
    binning : Binning, default=Binning(strategy="quantile")
        The correction needs bins with many rows, hence those of equal mass. A bin with
        one row says nothing on its spread, and counts as zero in "squared".
    norm : {"squared", "l2", "l1"}, default="squared"
        "l2" is the root of "squared", and 0 where that is negative.

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
        gap = sums.mean_confidence - rate
        noise = np.sqrt(rate * (1 - rate) / sums.count)
        error = 2 * np.abs(gap) - _mean_of_folded(gap, noise)
        return float(np.average(error, weights=sums.count))
    squared = float(sums.debiased_error())
    return squared if norm == "squared" else float(np.sqrt(max(squared, 0.0)))


def smooth_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Smooth calibration error (smECE): a kernel in place of bins.

    The kernel is as wide as the error that it gives (Błasiok and Nakkiran, ICLR 2024);
    computed by the package ``relplot`` of the authors.

    Parameters
    ----------
    confidence, correct
        See :func:`expected_calibration_error`.

    Examples
    --------
    >>> round(smooth_calibration_error([0.8] * 10, [1] * 7 + [0] * 3), 2)
    0.1
    """
    from relplot.metrics import smECE  # brings plotting libraries along

    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    return float(smECE(values.astype(float), outcome.astype(float)))


def _binned(confidence: ArrayLike, correct: ArrayLike, binning: Binning) -> BinSums:
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    return Bins.of(values, binning).sums(values, outcome)


def _error_of_classes(
    parts: Mapping[Any, tuple[np.ndarray, np.ndarray]],
    average: str | None,
    binning: Binning,
    norm: Norm,
) -> Any:
    """The error of each class, by its confidences and outcomes, or their mean."""
    errors = {
        name: expected_calibration_error(*rows, binning=binning, norm=norm)
        for name, rows in parts.items()
    }
    if average is None:
        return errors
    sizes = [len(confidence) for confidence, _ in parts.values()]
    weights = sizes if average == "weighted" else None
    return float(np.average(list(errors.values()), weights=weights))


def _mean_of_folded(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E|X| for normal X (the folded normal distribution)."""
    safe = np.where(deviation > 0, deviation, 1.0)
    ratio = mean / safe
    folded = 2 * safe * normal.pdf(ratio) + mean * (1 - 2 * normal.cdf(-ratio))
    return np.where(deviation > 0, folded, np.abs(mean))
