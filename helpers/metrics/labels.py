"""How many labels certify a calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from ..checks import check_between, check_count, check_probabilities, check_rng
from .binning import N_BINS, Closed, Strategy, make_bins
from .cells import Cells, batches, make_cells, norm_of_gaps


class LabelsNeeded(NamedTuple):
    """How many labels certify a calibration error.

    Attributes
    ----------
    n : int
        The number of labels.
    limit : float
        With so many labels, a measured error below this certifies the target.
    floor : float
        The error that a perfect forecaster shows on average with so many labels.
    """

    n: int
    limit: float
    floor: float


def labels_needed(
    confidence: ArrayLike,
    *,
    target: float = 0.02,
    level: float = 0.95,
    power: float = 0.8,
    n_bins: int = N_BINS,
    strategy: Strategy = "uniform",
    closed: Closed = "left",
    n_simulations: int = 1000,
    most: int = 1_000_000,
    rng: np.random.Generator | int | None = 0,
) -> LabelsNeeded:
    """How many labels it takes to certify that the ECE is below a target.

    The question is put as a test. Suppose that the error is exactly the target,
    because every confidence is too high by about as much: an even error is harder to
    see than one that sits in a few bins. The measured ECE certifies the target if so
    small a value would then come with probability 1 − level or less. The answer is the
    number of labels with which a *perfect* forecaster passes with probability
    ``power``; a forecaster with a flaw of his own needs more. What cancels inside a
    bin, no measured ECE can exclude.

    Parameters
    ----------
    confidence : array-like of shape (m,)
        Confidences such as will be labelled; their number does not matter.
    target : float, default=0.02
        The error that is not to be exceeded.
    level : float, default=0.95
        Confidence of the certificate.
    power : float, default=0.8
        Probability that a perfect forecaster earns it.
    n_bins, strategy, closed
        The bins: see :func:`expected_calibration_error`.
    n_simulations : int, default=1000
        Simulated samples for each number of labels.
    most : int, default=1000000
        Give up beyond this many labels.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance.

    Returns
    -------
    LabelsNeeded
        ``n`` to about two per cent.

    Raises
    ------
    ValueError
        Bad data or rules, a target that these confidences cannot miss, or more labels
        needed than ``most``.

    Examples
    --------
    >>> labels_needed(np.linspace(0.5, 1, 500), target=0.05, n_simulations=200).n > 500
    True
    """
    values = check_probabilities(confidence)
    check_between("target", target, 0, 1)
    check_between("level", level, 0, 1)
    check_between("power", power, 0, 1)
    check_count("n_simulations", n_simulations)
    check_count("most", most)
    seed = int(check_rng(rng).integers(2**32))
    bins = make_bins(values, n_bins=n_bins, strategy=strategy, closed=closed)
    cells = make_cells(values, None, bins, levels=256)
    flawed = _too_high_by(cells, target)

    def trial(n: int) -> tuple[float, float, float]:
        """Share of perfect forecasters that pass with n labels; limit; floor."""
        generator = np.random.default_rng((seed, n))
        share = cells.count / cells.count.sum()
        perfect, bad = [], []
        for height, _ in batches(n_simulations, len(share)):
            rows = generator.multinomial(n, share, height)
            perfect.append(_drawn_errors(cells, rows, cells.confidence, generator))
            bad.append(_drawn_errors(cells, rows, flawed, generator))
        errors = np.concatenate(perfect)
        limit = float(np.quantile(np.concatenate(bad), 1 - level))
        return float(np.mean(errors < limit)), limit, float(errors.mean())

    low, high = 1, min(16, most)
    while (found := trial(high))[0] < power:
        if high >= most:
            raise ValueError(
                f"most={most} labels do not certify an error below {target!r}; a "
                f"perfect forecaster would show {found[2]:.4f} on average."
            )
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if (at := trial(middle))[0] < power:
            low = middle
        else:
            high, found = middle, at
    return LabelsNeeded(high, found[1], found[2])


def _drawn_errors(
    cells: Cells,
    rows: np.ndarray,
    probability: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    correct = generator.binomial(rows, probability)
    gap = cells.by_bin(rows * cells.confidence - correct)
    return norm_of_gaps(gap, cells.by_bin(rows), "l1")


def _too_high_by(cells: Cells, target: float) -> np.ndarray:
    """True probabilities that make every confidence too high, by target on average."""
    share = cells.count / cells.count.sum()

    def missing(shift: float) -> float:
        return float(share @ np.minimum(cells.confidence, shift)) - target

    if missing(1.0) < 0:
        raise ValueError(
            f"target must be below the mean confidence; it is {target!r}, and the mean "
            f"is {share @ cells.confidence:.4f}."
        )
    shift = brentq(missing, 0, 1)
    return np.maximum(cells.confidence - shift, 0.0)
