"""Answers above a threshold: how many, how many of them wrong, and with what error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import fisher_exact
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    check_between,
    check_count,
    check_not_fitted_on,
    check_outcomes,
    check_probabilities,
    check_table,
)
from ..metrics.bins import at_least

Columns = ArrayLike | Mapping[str, ArrayLike] | pd.DataFrame


class RateDifference(NamedTuple):
    """The error rates of two sets of answers, and whether they differ.

    Attributes
    ----------
    first, second : float
        Share of wrong answers of each, in [0, 1].
    difference : float
        second − first.
    p_value : float
        Of Fisher's exact test, two-sided: the probability of a table at most as
        probable as this one, were both equally often wrong.
    """

    first: float
    second: float
    difference: float
    p_value: float


def error_rate_difference(
    errors: Sequence[int], answered: Sequence[int]
) -> RateDifference:
    """Compare two error rates, where only counts are known.

    Parameters
    ----------
    errors : sequence of int, of length 2
        Wrong answers of the first and the second.
    answered : sequence of int, of length 2
        Answers of the first and the second.

    Returns
    -------
    RateDifference
        NaN where one has no answers.

    Raises
    ------
    ValueError
        They are not two counts each, or there are more errors than answers.

    Notes
    -----
    Fewer errors may be due to fewer answers alone; the rate says whether. Fisher's
    test takes the two sets for independent. Answers of two models to the same texts
    are not; where the rows are known, compare them by :func:`compare`.

    Examples
    --------
    Of 285 answers 47 were wrong, and of 92 others 10:

    >>> found = error_rate_difference([47, 10], [285, 92])
    >>> round(found.first, 3), round(found.second, 3), round(found.p_value, 2)
    (0.165, 0.109, 0.24)
    """
    for name, counts in (("errors", errors), ("answered", answered)):
        if len(counts) != 2:
            raise ValueError(f"{name} must be two counts, not {counts!r}.")
        for count in counts:
            check_count(name, count, 0)
    for wrong, n in zip(errors, answered, strict=True):
        if wrong > n:
            raise ValueError(f"errors must be at most answered, {n}, not {wrong}.")
    if not min(answered):
        rates = [e / n if n else np.nan for e, n in zip(errors, answered, strict=True)]
        return RateDifference(rates[0], rates[1], np.nan, np.nan)
    first, second = (e / n for e, n in zip(errors, answered, strict=True))
    table = [[e, n - e] for e, n in zip(errors, answered, strict=True)]
    p_value = float(fisher_exact(table).pvalue)
    return RateDifference(first, second, second - first, p_value)


def business_table(
    confidence: Columns,
    correct: Columns,
    thresholds: Sequence[float] = (0.9,),
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """What is left to act on at each threshold, for one model or several.

    Parameters
    ----------
    confidence : array-like of shape (n,), mapping or pandas.DataFrame
        Confidences in [0, 1]; of several models, by name, on the same texts.
    correct : array-like of shape (n,), mapping or pandas.DataFrame
        1 or True where the model was right, else 0; of several models, by the same
        names. One column serves all models, if they give the same predictions.
    thresholds : sequence of float, default=(0.9,)
        An answer is above a threshold if its confidence is that or more. In [0, 1].
    level : float, default=0.95
        Level of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row a ``threshold`` and ``model``: the number of texts ``above``; of these,
        the number ``right``, their share, ``accuracy``, and its Clopper–Pearson
        interval, ``low`` and ``high``; the ``errors``, their share of the texts above,
        ``error_rate``, and their number for 1,000 texts of all,
        ``errors_per_1000``. For models after the first one: ``difference``, the error
        rate minus that of the first model, and ``p_value``, of Fisher's exact test of
        the two: see :func:`error_rate_difference`. Shares of no texts are NaN.

    Raises
    ------
    ValueError
        Bad data or rules, or the names of the models differ.

    Examples
    --------
    >>> right = [1] * 8 + [0] * 2
    >>> models = {"base": [0.95] * 10, "tuned": [0.95] * 5 + [0.6] * 5}
    >>> table = business_table(models, right)
    >>> table[["model", "above", "errors", "errors_per_1000"]]
       model  above  errors  errors_per_1000
    0   base     10       2            200.0
    1  tuned      5       0              0.0
    """
    check_between("level", level, 0, 1)
    if np.ndim(thresholds) != 1 or not len(thresholds):
        raise ValueError(f"thresholds must be one or more numbers, not {thresholds!r}.")
    for threshold in thresholds:
        check_between("thresholds", threshold, 0, 1, closed=True)
    models = _models(confidence, correct)
    return pd.DataFrame(
        [
            row
            for threshold in thresholds
            for row in _rows(models, float(threshold), level)
        ]
    )


def _models(confidence: Any, correct: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    named = isinstance(confidence, (Mapping, pd.DataFrame))
    if isinstance(confidence, pd.DataFrame):
        check_table(confidence, name="confidence")
    values = dict(confidence) if named else {"model": confidence}
    if not values:
        raise ValueError("confidence must be of at least one model; there is none.")
    if isinstance(correct, pd.DataFrame):
        check_table(correct, name="correct")
    if isinstance(correct, (Mapping, pd.DataFrame)):
        outcomes = dict(correct)
    else:
        outcomes = dict.fromkeys(values, correct)
    if set(outcomes) != set(values):
        raise ValueError(
            f"correct must be of the models of confidence, {list(values)!r}, not "
            f"{list(outcomes)!r}."
        )
    models = {}
    for at, (name, column) in enumerate(values.items()):
        others = [*values.values()][:at]
        checked = check_probabilities(column, f"confidence of {name!r}", *others)
        check_not_fitted_on(column, f"confidence of {name!r}")
        right = check_outcomes(
            outcomes[name], *others, column, name=f"correct of {name!r}"
        )
        models[name] = (checked, right)
    return models


def _rows(
    models: dict[str, tuple[np.ndarray, np.ndarray]], threshold: float, level: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (confidence, correct) in models.items():
        chosen = correct[at_least(confidence, threshold)]
        above, right = len(chosen), int(chosen.sum())
        low, high = np.nan, np.nan
        if above:
            low, high = proportion_confint(right, above, 1 - level, method="beta")
        first = rows[0] if rows else {"errors": above - right, "above": above}
        change = error_rate_difference(
            (first["errors"], above - right), (first["above"], above)
        )
        rows.append(
            {
                "threshold": threshold,
                "model": name,
                "above": above,
                "right": right,
                "accuracy": right / above if above else np.nan,
                "low": float(low),
                "high": float(high),
                "errors": above - right,
                "error_rate": change.second,
                "errors_per_1000": 1000 * (above - right) / len(correct),
                "difference": change.difference if rows else np.nan,
                "p_value": change.p_value if rows else np.nan,
            }
        )
    return rows
