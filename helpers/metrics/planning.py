"""How many labels certify a calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from ..checks import check_between, check_count, check_probabilities, check_rng
from .bins import UNIFORM, Binning, Bins
from .resampling import Cells


class LabelsNeeded(NamedTuple):
    """With ``n`` labels an ECE below ``limit`` passes; ``floor`` is that of chance."""

    n: int
    limit: float
    floor: float


def labels_needed(
    confidence: ArrayLike,
    *,
    target: float = 0.02,
    level: float = 0.95,
    power: float = 0.8,
    binning: Binning = UNIFORM,
    n_simulations: int = 1000,
    most: int = 1_000_000,
    rng: np.random.Generator | int | None = 0,
) -> LabelsNeeded:
    """How many labels it takes to certify that the ECE is below a target.

    The measured ECE certifies it if so small a value would have probability 1 − level
    or less, were every confidence too high by the target. What cancels inside a bin, no
    ECE can exclude. The number is right to about two per cent.

    Parameters
    ----------
    confidence : array-like of shape (m,)
        Confidences such as will be labelled; their number does not matter.
    target : float, default=0.02
        The error that is not to be exceeded.
    level : float, default=0.95
        Confidence of the certificate.
    power : float, default=0.8
        Probability that a perfect forecaster earns it; others need more labels.
    binning, rng
        See :func:`bootstrap_interval`.
    n_simulations : int, default=1000
        Simulated samples for each number of labels.
    most : int, default=1000000
        Give up, with a ValueError, beyond this many labels.

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
    cells = Cells.of(values, None, Bins.of(values, binning), levels=256)
    share, stated = cells.count / cells.count.sum(), cells.means["confidence"]
    flawed = _too_high_by(share, stated, target)

    def trial(n: int) -> tuple[float, float, float]:
        """Share of perfect forecasters that pass with n labels; limit; floor."""
        generator = np.random.default_rng((seed, n))
        parts = []
        for height in cells.batches(n_simulations):
            rows = generator.multinomial(n, share, height)
            drawn = (generator.binomial(rows, chance) for chance in (stated, flawed))
            parts.append([cells.sums(rows, right).error("l1") for right in drawn])
        perfect, bad = np.concatenate(parts, axis=1)
        limit = float(np.quantile(bad, 1 - level))
        return float(np.mean(perfect < limit)), limit, float(perfect.mean())

    low, high = 1, min(16, most)
    while (found := trial(high))[0] < power:
        if high >= most:
            raise ValueError(
                f"most={most} labels cannot certify {target!r}: the floor is "
                f"{found[2]:.4f}."
            )
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if (at := trial(middle))[0] < power:
            low = middle
        else:
            high, found = middle, at
    return LabelsNeeded(high, found[1], found[2])


def _too_high_by(share: np.ndarray, stated: np.ndarray, target: float) -> np.ndarray:
    """True probabilities that make every confidence too high, by target on average."""
    if share @ stated < target:
        mean = share @ stated
        raise ValueError(f"target must be below {mean:.4f}, the mean, not {target!r}.")
    shift = brentq(lambda by: share @ np.minimum(stated, by) - target, 0, 1)
    return np.maximum(stated - shift, 0.0)
