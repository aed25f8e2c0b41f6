"""Calibration errors: how far stated confidence lies from the share that is correct.

All of them are estimates from a sample, and the plain ones are too high: read them
beside the noise floor (:func:`helpers.metrics.noise_floor`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm as normal

from ..checks import check_between, check_choice, check_classified, check_rows
from .binning import N_BINS, BinSums, Closed, Strategy, binned

Norm = Literal["l1", "l2", "max", "signed"]
NORMS = ("l1", "l2", "max", "signed")


def expected_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    norm: Norm = "l1",
) -> float:
    """Expected calibration error (ECE): the mean gap in bins of the confidence.

    The sum over bins b of ``(n_b / n) * abs(accuracy_b - confidence_b)``, where
    ``confidence_b`` is the mean confidence in the bin, not its middle. It is positive
    even for a perfect forecaster, by about √(bins/n): see :func:`noise_floor`.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct (or the event came), else 0.
    n_bins : int, default=20
        How many bins.
    strategy : {"uniform", "quantile", "distinct"}, default="uniform"
        Bins of equal width, of equal mass, or one for each value: see
        :func:`make_bins`.
    closed : {"left", "right"}, default="left"
        Whether a value on an edge falls into the bin above it, [a, b), or below it,
        (a, b]. Values k/n count as on an edge where the fraction is.
    norm : {"l1", "l2", "max", "signed"}, default="l1"
        "l2" is the root of the mean squared gap, "max" the largest gap (MCE),
        "signed" the mean of confidence − accuracy: positive is overconfident, and
        the bins do not matter for it.

    Returns
    -------
    float
        In [0, 1]; "signed" in [−1, 1].

    Raises
    ------
    ValueError
        Values outside [0, 1] or missing, outcomes other than 0 and 1, lengths that
        differ, no rows, or an unknown rule.

    References
    ----------
    Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities
    using Bayesian binning, AAAI 2015.

    Examples
    --------
    Ten predictions with confidence 0.8, of which seven are correct:

    >>> round(expected_calibration_error([0.8] * 10, [1] * 7 + [0] * 3), 3)
    0.1
    """
    check_choice("norm", norm, NORMS)
    sums = binned(confidence, correct, n_bins=n_bins, strategy=strategy, closed=closed)
    return error_of(sums, norm)


def maximum_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
) -> float:
    """Maximum calibration error (MCE): the gap of the worst bin.

    A bin with one row can make it anything; look at the counts before you quote it.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    n_bins, strategy, closed
        The bins: see :func:`expected_calibration_error`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`.

    Examples
    --------
    >>> round(maximum_calibration_error([0.6, 0.6, 0.9], [1, 0, 1]), 3)
    0.1
    """
    return expected_calibration_error(
        confidence, correct, n_bins=n_bins, strategy=strategy, closed=closed, norm="max"
    )


def classwise_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    average: Literal["macro"] | None = "macro",
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    norm: Norm = "l1",
) -> Any:
    """Classwise calibration error: each class's probability against its frequency.

    The ECE of p_k against [truth = k], averaged over the classes. It asks more
    than confidence calibration does, since all the probabilities count, not only that
    of the prediction.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
        Rows that sum to one; a data frame names the classes by its columns.
    truth : array-like of shape (n,)
        The true classes: positions 0, 1, …, or names of a data frame's columns.
    average : {"macro", None}, default="macro"
        None gives the error of each class.
    n_bins, strategy, closed, norm
        See :func:`expected_calibration_error`.

    Returns
    -------
    float, or dict of class to float
        Each in [0, 1].

    Raises
    ------
    ValueError
        Rows that do not sum to one, a truth that is no class, or an unknown rule.

    References
    ----------
    Nixon et al., Measuring calibration in deep learning, CVPR workshops 2019.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9]]
    >>> round(classwise_calibration_error(p, [0, 0, 1, 1]), 3)
    0.15
    """
    check_choice("average", "macro" if average is None else average, ("macro",))
    values, classes, actual = check_classified(probabilities, truth)
    errors = {
        name: expected_calibration_error(
            np.ascontiguousarray(values[:, at]),
            actual == at,
            n_bins=n_bins,
            strategy=strategy,
            closed=closed,
            norm=norm,
        )
        for at, name in enumerate(classes)
    }
    return errors if average is None else float(np.mean(list(errors.values())))


def top_label_calibration_error(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    average: Literal["weighted", "macro"] | None = "weighted",
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    norm: Norm = "l1",
) -> Any:
    """Top-label calibration error: the ECE within each predicted class.

    Confidence calibration may hold on average while one predicted class is trusted
    too much and another too little; here they cannot make up for each other.

    Parameters
    ----------
    probabilities : array-like or pandas.DataFrame of shape (n, n_classes)
        Rows that sum to one; a data frame names the classes by its columns.
    truth : array-like of shape (n,)
        The true classes: positions 0, 1, …, or names of a data frame's columns.
    average : {"weighted", "macro", None}, default="weighted"
        By the number of rows predicted so, every predicted class alike, or none: the
        error of each.
    n_bins, strategy, closed, norm
        See :func:`expected_calibration_error`.

    Returns
    -------
    float, or dict of class to float
        Each in [0, 1]; classes that are never predicted are left out.

    Raises
    ------
    ValueError
        Rows that do not sum to one, a truth that is no class, or an unknown rule.

    References
    ----------
    Gupta and Ramdas, Top-label calibration and multiclass-to-binary
    reductions, ICLR 2022.

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
    predicted = values.argmax(axis=1)
    confidence = values.max(axis=1)
    found = np.unique(predicted)
    errors = {
        classes[at]: expected_calibration_error(
            confidence[predicted == at],
            actual[predicted == at] == at,
            n_bins=n_bins,
            strategy=strategy,
            closed=closed,
            norm=norm,
        )
        for at in found
    }
    if average is None:
        return errors
    sizes = [np.sum(predicted == at) for at in found]
    return float(
        np.average(
            list(errors.values()), weights=sizes if average == "weighted" else None
        )
    )


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = N_BINS,
    strategy: Strategy = "quantile",
    closed: Closed = "left",
    norm: Literal["squared", "l2", "l1"] = "squared",
) -> float:
    """Calibration error without the part that chance alone would add.

    "squared": Σ_b (n_b/n) [(confidence_b − accuracy_b)² − accuracy_b (1 − accuracy_b)
    / (n_b − 1)]. Its expectation is that of the binned squared error itself, so it is
    as often negative as positive for a perfect forecaster. "l1": twice the plain
    value minus its expectation where each accuracy is drawn from a normal
    distribution around the observed one; this expectation is computed in closed
    form, not by drawing.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    n_bins : int, default=20
        How many bins.
    strategy : {"uniform", "quantile", "distinct"}, default="quantile"
        Bins of equal mass by default: the correction needs bins with many rows. A bin
        with one row says nothing on its spread, and counts as zero in "squared".
    closed : {"left", "right"}, default="left"
        See :func:`expected_calibration_error`.
    norm : {"squared", "l2", "l1"}, default="squared"
        "l2" is the root of "squared", and 0 where that is negative.

    Returns
    -------
    float
        "squared" and "l1" may be negative: the error cannot be told from zero.

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`.

    References
    ----------
    Kumar, Liang and Ma, Verified uncertainty calibration, NeurIPS 2019.

    Examples
    --------
    >>> round(debiased_calibration_error([0.8] * 10, [1] * 8 + [0] * 2, n_bins=1), 4)
    -0.0178
    """
    check_choice("norm", norm, ("squared", "l2", "l1"))
    sums = binned(confidence, correct, n_bins=n_bins, strategy=strategy, closed=closed)
    if norm == "l1":
        sums = sums.filled
        rate = sums.accuracy
        gap = sums.mean_confidence - rate
        noise = np.sqrt(rate * (1 - rate) / sums.count)
        return float(sums.weight @ (2 * np.abs(gap) - _mean_of_folded(gap, noise)))
    squared = debiased_error_of(sums)
    return squared if norm == "squared" else float(np.sqrt(max(squared, 0.0)))


def sweep_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    norm: Norm = "l1",
) -> float:
    """ECE with as many bins of equal mass as the data bear.

    The number of bins grows from one until, for the first time, the accuracy no longer
    rises from bin to bin; the last number before that is used.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    norm : {"l1", "l2", "max", "signed"}, default="l1"
        See :func:`expected_calibration_error`.

    Returns
    -------
    float
        In [0, 1]; "signed" in [−1, 1].

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`.

    References
    ----------
    Roelofs et al., Mitigating bias in calibration error estimation, AISTATS
    2022.

    Examples
    --------
    >>> round(sweep_calibration_error([0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1]), 3)
    0.25
    """
    check_choice("norm", norm, NORMS)
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    confidences = np.append(0.0, np.cumsum(ranked, dtype=float))
    rights = np.append(0, np.cumsum(outcome[order]))
    # Equal values stay together: a cut among them moves to the first of them.
    first = np.searchsorted(ranked, ranked)
    best = None
    for n_bins in range(1, len(ranked) + 1):
        size, rest = divmod(len(ranked), n_bins)
        at = np.arange(n_bins)
        cuts = np.append(first[at * size + np.minimum(at, rest)], len(ranked))
        cuts = np.unique(cuts)
        count, right = np.diff(cuts), np.diff(rights[cuts])
        if np.any(np.diff(right / count) < 0):
            break
        best = BinSums(count, np.diff(confidences[cuts]), right)
    assert best is not None  # one bin always rises
    return error_of(best, norm)


def smooth_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bandwidth: float | None = None
) -> float:
    """Smooth calibration error (smECE): a kernel in place of bins.

    Computed by the package ``relplot`` of the method's authors.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    bandwidth : float, optional
        Width of the kernel, on the scale of the confidence. Without one, the width
        that equals the error it gives, so that nothing is left to choose.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        Bad data, or a bandwidth outside (0, 1].

    References
    ----------
    Błasiok and Nakkiran, Smooth ECE: principled reliability diagrams via
    kernel smoothing, ICLR 2024.

    Examples
    --------
    >>> round(smooth_calibration_error([0.8] * 10, [1] * 7 + [0] * 3), 2)
    0.1
    """
    values, outcome, _ = check_rows(confidence, correct, unanswered=True)
    if bandwidth is not None:
        check_between("bandwidth", bandwidth, 1e-4, 1, closed=True)
    # Here, since it brings plotting libraries along.
    from relplot.metrics import smECE, smECE_sigma

    values, outcome = values.astype(float), outcome.astype(float)
    if bandwidth is None:
        return float(smECE(values, outcome))
    return float(smECE_sigma(values, outcome, float(bandwidth)))


def error_of(sums: BinSums, norm: Norm) -> float:
    """The calibration error of filled bins."""
    sums = sums.filled
    gap = sums.mean_confidence - sums.accuracy
    if norm == "max":
        return float(np.abs(gap).max())
    if norm == "l2":
        return float(np.sqrt(sums.weight @ gap**2))
    return float(sums.weight @ (gap if norm == "signed" else np.abs(gap)))


def debiased_error_of(sums: BinSums) -> float:
    """The squared calibration error of filled bins without what chance would add."""
    sums = sums.filled
    rate = sums.accuracy
    chance = rate * (1 - rate) / np.maximum(sums.count - 1, 1)
    excess = (sums.mean_confidence - rate) ** 2 - chance
    return float(sums.weight @ np.where(sums.count > 1, excess, 0.0))


def _mean_of_folded(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E|X| for normal X (the folded normal distribution)."""
    safe = np.where(deviation > 0, deviation, 1.0)
    ratio = mean / safe
    folded = 2 * safe * normal.pdf(ratio) + mean * (1 - 2 * normal.cdf(-ratio))
    return np.where(deviation > 0, folded, np.abs(mean))
