"""Tests of the claim that a forecaster is calibrated, without any bins."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from mapie.metrics import calibration as mapie_calibration
from numpy.typing import ArrayLike
from scipy.stats import norm as normal

from ..checks import check_choice, check_rows

Method = Literal["kolmogorov-smirnov", "kuiper", "spiegelhalter"]
_METHODS = ("kolmogorov-smirnov", "kuiper", "spiegelhalter")


class CalibrationTest(NamedTuple):
    """A test statistic and its p-value.

    Attributes
    ----------
    statistic : float
        On the scale on which a calibrated forecaster gives standard values.
    p_value : float
        The probability of a statistic as large as this, or larger, if the forecaster
        is calibrated. A large one is no proof that he is.
    """

    statistic: float
    p_value: float


def calibration_test(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    method: Method = "kolmogorov-smirnov",
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> CalibrationTest:
    """Test whether outcomes could come from these probabilities.

    The walks, and the distributions of the first two statistics, are MAPIE's. A walk
    starts at 0, and its range counts the start.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Probabilities in [0, 1].
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    method : str, default="kolmogorov-smirnov"
        "kolmogorov-smirnov" (the largest cumulative difference between outcomes and
        probabilities) or "kuiper" (the range of the cumulative differences), after
        Arrieta-Ibarra et al. (2022); "spiegelhalter" (a z-score of the Brier score,
        1986). The last one is blind to errors that leave the Brier score as expected;
        use it beside the others.
    alternative : {"two-sided", "greater", "less"}, default="two-sided"
        For "spiegelhalter": "greater" is a Brier score larger than expected, which
        overconfidence brings; it is what MAPIE reports.

    Returns
    -------
    CalibrationTest

    Raises
    ------
    ValueError
        Bad data, an unknown method, or probabilities that are all 0 or 1: the
        statistics then have no scale.

    References
    ----------
    Arrieta-Ibarra et al., Metrics of calibration for probabilistic
    predictions, JMLR 23, 2022.

    Spiegelhalter, Probabilistic prediction in patient management and clinical
    trials, Statistics in Medicine 5, 1986.

    Examples
    --------
    >>> p, y = [0.8, 0.3, 0.5, 0.5, 0.7, 0.1], [1, 0, 1, 0, 1, 0]
    >>> round(calibration_test(p, y, method="kuiper").p_value, 4)
    0.9684
    """
    check_choice("method", method, _METHODS)
    check_choice("alternative", alternative, ("two-sided", "greater", "less"))
    stated, right, _ = check_rows(confidence, correct, unanswered=True)
    values, outcome = stated.astype(float), right.astype(float)
    if method != "spiegelhalter" and alternative != "two-sided":
        raise ValueError(
            f"alternative must be 'two-sided' with {method!r}, not {alternative!r}."
        )
    if method == "spiegelhalter":
        return _spiegelhalter(values, outcome, alternative)
    if not np.any((values > 0) & (values < 1)):
        raise ValueError(
            "confidence must lie inside (0, 1) in some row for this test; all are 0 "
            f"or 1, the first is {float(values[0])!r}."
        )
    # MAPIE breaks ties by a jitter that depends on the order; so the order is fixed.
    order = np.lexsort((-outcome, values))
    values, outcome = values[order], outcome[order]
    walk = np.append(0.0, mapie_calibration.cumulative_differences(outcome, values))
    scale = mapie_calibration.length_scale(values)
    if method == "kuiper":
        # MAPIE's own statistic leaves the start of the walk out of its range.
        statistic = np.ptp(walk) / scale
        below = mapie_calibration.kuiper_cdf(statistic)
    else:
        statistic = np.abs(walk).max() / scale
        below = mapie_calibration.kolmogorov_smirnov_cdf(statistic)
    return CalibrationTest(float(statistic), float(np.clip(1 - below, 0, 1)))


def _spiegelhalter(
    values: np.ndarray, outcome: np.ndarray, alternative: str
) -> CalibrationTest:
    weight = (1 - 2 * values) ** 2
    if not np.any(weight * values * (1 - values) > 0):
        raise ValueError(
            "confidence must lie inside (0, 1) and off 0.5 in some row for "
            f"'spiegelhalter'; the first is {float(values[0])!r}."
        )
    z = float(mapie_calibration.spiegelhalter_statistic(outcome, values))
    p_value = {
        "two-sided": 2 * normal.sf(abs(z)),
        "greater": normal.sf(z),
        "less": normal.cdf(z),
    }[alternative]
    return CalibrationTest(z, float(p_value))
