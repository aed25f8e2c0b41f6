"""Tables of measures, of bins and of predicted classes, made from sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from .binning import BinSums
from .resampling import Interval

Measure = tuple[str, float | Interval, str]


def wilson(correct: ArrayLike, count: ArrayLike, level: float) -> np.ndarray:
    """Ends of Wilson's interval of shares; NaN where there are no rows."""
    right, n = np.asarray(correct), np.asarray(count)
    some = n > 0
    ends = np.full((2, *n.shape), np.nan)
    if some.any():
        ends[:, some] = proportion_confint(
            right[some], n[some], alpha=1 - level, method="wilson"
        )
    return ends


def bin_table(
    sums: BinSums, edges: np.ndarray, band: tuple[np.ndarray, np.ndarray], level: float
) -> pd.DataFrame:
    """What :func:`reliability_curve` says of each bin."""
    low, high = wilson(sums.correct, sums.count, level)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": sums.count,
            "confidence": sums.mean_confidence,
            "accuracy": sums.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "band_low": band[0],
            "band_high": band[1],
        }
    )


def sums_by_class(classes: pd.DataFrame, level: float) -> pd.DataFrame:
    """What :meth:`CalibrationSums.by_class` says of each predicted class."""
    n_all = classes["count"] + classes["n_unlabelled"]
    order = np.argsort(-n_all.to_numpy(), kind="stable")
    classes, n_all = classes.iloc[order], n_all.iloc[order]
    known = BinSums(
        *(classes[x].to_numpy() for x in ("count", "confidence", "correct"))
    )
    low, high = wilson(known.correct, known.count, level)
    total = classes["confidence"] + classes["unlabelled_confidence"]
    return pd.DataFrame(
        {
            "n": known.count,
            "accuracy": known.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "confidence": known.mean_confidence,
            "confidence_gap": known.mean_confidence - known.accuracy,
            "n_unlabelled": classes["n_unlabelled"],
            "confidence_of_all": total / n_all,
        },
        index=classes.index,
    )


def measure_table(rows: Sequence[Measure]) -> pd.DataFrame:
    """Measures, one a row: value, low and high of its interval, and note."""
    found = [
        (name, *value, note)
        if isinstance(value, Interval)
        else (name, value, np.nan, np.nan, note)
        for name, value, note in rows
    ]
    columns = ["measure", "value", "low", "high", "note"]
    return pd.DataFrame(found, columns=columns).set_index("measure")
