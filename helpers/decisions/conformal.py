"""Sets of labels that hold the true one as often as asked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from mapie import conformity_scores
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import LACConformityScore
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from statsmodels.stats.proportion import proportion_confint

from ..checks import (
    as_array,
    check_between,
    check_choice,
    check_classified,
    check_count,
    check_distributions,
    check_interval,
    check_not_fitted_on,
    check_outcomes,
    check_table,
    check_truth,
)

Score = Literal["lac", "top_k", "aps", "raps"]


class ConformalSets(BaseEstimator):
    """Sets of labels in place of one, by split conformal prediction.

    Labelled rows that took no part in training, prompting or calibration say how far
    down a row's list of labels the true one tends to be. With a level of 0.9, the sets
    of new rows then hold the true label with a probability of at least 0.9, whatever
    the probabilities are worth: bad ones make large sets. That is an average over all
    rows, and over the rows fitted on: :func:`set_coverage` says what became of classes
    and sizes. MAPIE does the work.

    Parameters
    ----------
    level : float, default=0.9
        Probability with which a set is to hold the true label, between 0 and 1.
    score : {"lac", "top_k", "aps", "raps"}, default="lac"
        What makes a label strange. "lac": a low probability; the smallest sets on
        average, some of which may be empty. "top_k": its rank. "aps": the probability
        of all labels ahead of it, which errs on the large side. "raps": the same with
        a penalty for long sets, chosen on a fifth of the rows, of which it takes five
        times as many. With two columns only "lac" can be had.
    seed : int, default=0
        Seed of the chance in "aps" and "raps".

    Attributes
    ----------
    classes_ : list
        The labels, in the order of the columns.
    n_ : int
        Number of rows fitted on.

    References
    ----------
    Vovk, Gammerman and Shafer, 2005; Sadinle, Lei and Wasserman, JASA 114, 2019, for
    "lac"; Romano, Sesia and Candès, NeurIPS 2020, for "aps"; Angelopoulos, Bates, Malik
    and Jordan, ICLR 2021, for "raps".

    Examples
    --------
    >>> known = [[0.8, 0.2]] * 17 + [[0.6, 0.4]] * 2
    >>> sets = ConformalSets(level=0.9).fit(known, [0] * 17 + [1] * 2)
    >>> sets.predict([[0.9, 0.1], [0.55, 0.45]])
    array([[ True, False],
           [ True,  True]])
    """

    classes_: list[Any]
    n_: int

    def __init__(
        self, level: float = 0.9, *, score: Score = "lac", seed: int = 0
    ) -> None:
        self.level = level
        self.score = score
        self.seed = seed

    def fit(self, probabilities: ArrayLike, truth: ArrayLike) -> Self:
        """Learn from labelled rows how large sets must be.

        Parameters
        ----------
        probabilities : array-like or pandas.DataFrame of shape (n, K)
            Rows that sum to one; a data frame names the labels by its columns.
        truth : array-like of shape (n,)
            The true labels: positions 0, 1, …, or names of a data frame's columns.

        Returns
        -------
        ConformalSets
            Itself.
        """
        level = check_between("level", self.level, 0, 1)
        score = check_choice("score", self.score, tuple(_SCORES))
        seed = check_count("seed", self.seed, 0)
        values, classes, actual = check_classified(probabilities, truth)
        check_not_fitted_on(probabilities, "probabilities")
        if len(classes) == 2 and score != "lac":
            raise ValueError(f"score must be 'lac' for two labels, not {score!r}.")
        share = Fraction(str(level))
        least = math.ceil(1 / min(share, 1 - share))
        if score == "raps":  # a fifth, rounded up, must do
            least = 5 * least - 4
        if len(values) < least:
            raise ValueError(
                f"probabilities must have at least {least} rows for a level of "
                f"{level:g} with score {score!r}, not {len(values)}."
            )
        # What MAPIE takes for a fitted classifier: one whose input is its output.
        labels = np.arange(len(classes))
        given = SimpleNamespace(fit=None, classes_=labels, predict_proba=_as_given)
        self._model = SplitConformalClassifier(
            given,
            confidence_level=level,
            conformity_score=_SCORES[score](),
            random_state=seed,
        )
        with warnings.catch_warnings():
            # The guarantee does not need every label among the rows.
            warnings.filterwarnings("ignore", ".*conformalization dataset has less")
            self._model.conformalize(_scaled(values), actual)
            self._model.predict_set(_scaled(values[:1]))
        self.classes_ = classes
        self.n_ = len(values)
        return self

    def predict(self, probabilities: ArrayLike) -> np.ndarray:
        """Which labels are in the set of each row: a Boolean for each column."""
        return self._read_and_predict(probabilities)[1]

    def table(self, probabilities: ArrayLike) -> pd.DataFrame:
        """The set of each row in words, the most probable label first.

        Examples
        --------
        >>> known = pd.DataFrame({"p_no": [0.8] * 17 + [0.6] * 2})
        >>> known["p_yes"] = 1 - known["p_no"]
        >>> sets = ConformalSets(level=0.9).fit(known, ["no"] * 17 + ["yes"] * 2)
        >>> sets.table(known.iloc[[0, 18]])
                  set  size prediction  confidence
        0       (no,)     1         no         0.8
        18  (no, yes)     2         no         0.6
        """
        values, sets = self._read_and_predict(probabilities)
        order = np.argsort(-values, axis=1, kind="stable").tolist()
        held = [
            tuple(self.classes_[at] for at in ranked if row[at])
            for ranked, row in zip(order, sets, strict=True)
        ]
        columns = {
            "set": pd.Series(held, dtype=object),
            "size": sets.sum(axis=1),
            "prediction": [self.classes_[ranked[0]] for ranked in order],
            "confidence": values.max(axis=1),
        }
        table = pd.DataFrame(columns)
        if isinstance(probabilities, pd.DataFrame):
            table.index = probabilities.index
        return table

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_")

    def _read_and_predict(
        self, probabilities: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        values, classes = check_distributions(probabilities)
        if classes != self.classes_:
            raise ValueError(
                f"probabilities must have the columns fitted on, {self.classes_!r}, "
                f"not {classes!r}."
            )
        return values, self._model.predict_set(_scaled(values))[1][:, :, 0]


def set_coverage(
    sets: ArrayLike,
    truth: ArrayLike,
    labels: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    method: Literal["wilson", "clopper-pearson"] = "wilson",
) -> pd.DataFrame:
    """How often sets hold the true label: overall, by class and by size.

    Parameters
    ----------
    sets : array-like of bool, of shape (n, K)
        Which labels are in the set of each row, of rows that it was not fitted on.
    truth : array-like of shape (n,)
        The true labels.
    labels : sequence, optional
        What the columns are. Default: 0, 1, ….
    level : float, default=0.95
        Level of the intervals, not of the sets.
    method : {"wilson", "clopper-pearson"}, default="wilson"
        Wilson's interval covers its level on average, the other always.

    Returns
    -------
    pandas.DataFrame
        One row for ``by`` "all", for each true class that occurs and for each size,
        named by ``value``: its rows ``n``; ``coverage``, the share of its sets that
        hold the true label, with ``low`` and ``high``; ``mean_size``; ``empty`` and
        ``singletons``, the shares of its sets with no and with one label.

    Examples
    --------
    >>> sets = [[True, False], [True, False], [True, True], [True, False]]
    >>> found = set_coverage(sets, ["no", "no", "yes", "yes"], ["no", "yes"])
    >>> found[["by", "value", "n", "coverage", "mean_size"]]
          by value  n  coverage  mean_size
    0    all   all  4  0.750000       1.25
    1  class    no  2  1.000000       1.00
    2  class   yes  2  0.500000       1.50
    3   size     1  3  0.666667       1.00
    4   size     2  1  1.000000       2.00
    """
    check_between("level", level, 0, 1)
    interval = check_interval(method)
    held = _check_sets(sets)
    n, k = held.shape
    names = list(range(k) if labels is None else labels)
    if isinstance(labels, str) or len(names) != k or len(set(names)) < k:
        raise ValueError(
            f"labels must be one for each of {k} columns, all different, not "
            f"{labels!r}."
        )
    actual = check_truth(truth, names, sets)
    size = held.sum(axis=1)
    rows = pd.DataFrame({"n": 1, "coverage": held[np.arange(n), actual]})
    rows["mean_size"], rows["empty"], rows["singletons"] = size, size == 0, size == 1
    parts = {"all": np.zeros(n, int), "class": actual, "size": size}
    sums = {by: rows.groupby(part).sum() for by, part in parts.items()}
    table = pd.concat(sums, names=["by", "value"]).reset_index()
    ends = proportion_confint(table["coverage"], table["n"], 1 - level, interval)
    shares = list(rows.columns[1:])
    table[shares] = table[shares].div(table["n"], axis=0)
    for at, (name, end) in enumerate(zip(("low", "high"), ends, strict=True)):
        table.insert(4 + at, name, end)
    called = {"all": ["all"], "class": names, "size": range(k + 1)}
    table["value"] = [called[by][at] for by, at in table[["by", "value"]].to_numpy()]
    return table


# MAPIE takes fewer than three labels that occur for two classes, and then refuses all
# scores that are not of this one kind; whether there are two classes, fit has checked.
class _TopK(conformity_scores.TopKConformityScore, LACConformityScore):
    """Ranks, however many labels occur."""


class _Aps(conformity_scores.APSConformityScore, LACConformityScore):
    """Adaptive sets, however many labels occur."""


class _Raps(conformity_scores.RAPSConformityScore, LACConformityScore):
    """Adaptive sets with a penalty, however many labels occur."""

    def split_data(
        self, X: Any, y: Any, y_enc: Any, sample_weight: Any = None, groups: Any = None
    ) -> tuple[Any, ...]:
        # Not by label, as in MAPIE: of a rare one there may be a single row.
        kept, tuned = train_test_split(
            np.arange(len(X)), test_size=self.size_raps, random_state=self.random_state
        )
        self.X_raps, self.y_raps, self.y_raps_no_enc = X[tuned], y_enc[tuned], y[tuned]
        self.n_samples_ = len(kept)
        return X[kept], y[kept], y_enc[kept], sample_weight, groups


_SCORES = {"lac": LACConformityScore, "top_k": _TopK, "aps": _Aps, "raps": _Raps}


def _as_given(probabilities: np.ndarray) -> np.ndarray:
    return probabilities


def _scaled(values: np.ndarray) -> np.ndarray:
    """Rows that sum to one as closely as MAPIE asks."""
    exact = np.float32(values).astype(float)  # the same sets in either precision
    return exact / exact.sum(axis=1, keepdims=True)


def _check_sets(sets: ArrayLike) -> np.ndarray:
    if isinstance(sets, pd.DataFrame):
        check_table(sets, name="sets")
    array = as_array(sets, "sets")
    if array.ndim != 2 or not array.size:
        raise ValueError(
            "sets must have rows, and a column for each label, not shape "
            f"{array.shape}."
        )
    return np.stack([check_outcomes(part, name="sets") for part in array.T], axis=1)
