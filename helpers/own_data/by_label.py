"""Errors among the accepted rows of each predicted label, with bounds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ..checks import check_groups
from ..decisions.thresholds import one_row_each
from ..metrics.bins import at_least

_LEAST = 10  # of fewer rows next to nothing can be said


def label_bounds(
    judged: pd.DataFrame,
    threshold: float | None,
    *,
    delta: float = 0.05,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a predicted label: its rows, the accepted, errors, and a bound on these.

    All bounds hold together, whatever threshold was chosen on the same rows, except
    with probability ``delta``, if no label's risk falls as the threshold is lowered.
    Then the risk above a threshold is at most that of any larger part of the label's
    rows, the surest first: all, half, a quarter and so on are tried. Clopper and
    Pearson's limits share ``delta`` equally among labels and parts.

    Parameters
    ----------
    judged : pandas.DataFrame
        ``truth``, ``prediction`` and ``confidence`` of rows.
    threshold : float or None
        Rows of this confidence or more are accepted; None: no row is.
    delta : float, default=0.05
        Probability that a bound is too low.
    groups : array-like of shape (n,), optional
        One row of each group counts, drawn at random, as of the threshold.
    seed : int, default=0
        Of that draw.

    Examples
    --------
    >>> rows = pd.DataFrame({"truth": "a", "prediction": "a", "confidence": [0.9] * 50})
    >>> label_bounds(rows, 0.8).round(3).to_dict("index")
    {'a': {'n': 50, 'accepted': 50, 'errors': 0, 'upper': 0.058}}
    """
    codes = None if groups is None else check_groups(groups, judged)
    rows = judged.iloc[one_row_each(codes, len(judged), seed)]
    kinds = judged["prediction"].unique()
    found = {}
    for kind in kinds:
        own = rows[rows["prediction"] == kind].sort_values(
            "confidence", ascending=False, kind="stable"
        )
        sure = own["confidence"].to_numpy(np.float32)
        wrong = (own["truth"] != own["prediction"]).cumsum().to_numpy()
        accepted = 0 if threshold is None else int(at_least(sure, threshold).sum())
        errors = int(wrong[accepted - 1]) if accepted else 0
        upper = math.nan
        if accepted:
            sizes = _parts(sure)
            level = delta / (len(kinds) * len(sizes))
            limits = [
                proportion_confint(wrong[size - 1], size, 2 * level, "beta")[1]
                for size in sizes
                if size >= accepted
            ]
            # As many as were wrong here may be wrong again.
            upper = max(min(limits), errors / accepted)
        found[kind] = {
            "n": len(own),
            "accepted": accepted,
            "errors": errors,
            "upper": upper,
        }
    return pd.DataFrame(found).T.astype({"n": int, "accepted": int, "errors": int})


def _parts(sure: np.ndarray) -> list[int]:
    """All rows, about the surer half, quarter, …: rows of one confidence together."""
    sizes: list[int] = []
    size = len(sure)
    while size >= _LEAST or not sizes:
        sizes.append(int((sure >= sure[size - 1]).sum()))
        size = math.ceil(size / 2)
    return sorted(set(sizes))
