"""Conformal prediction: sets of labels that hold the true one as often as asked."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, Literal, Self

import numpy as np
from mapie import conformity_scores
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import LACConformityScore
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from ..checks import (
    check_between,
    check_choice,
    check_classified,
    check_count,
    check_distributions,
    check_not_fitted_on,
)

Score = Literal["lac", "top_k", "aps", "raps"]


class ConformalSets(BaseEstimator):
    """Sets of labels in place of one, by split conformal prediction with MAPIE.

    Fitted on labelled rows that took no part in training, prompting or calibration,
    sets of new rows hold the true label with probability ``level`` or more, on average
    over all rows; for a class or a size it may be less.

    Parameters
    ----------
    level : float, default=0.9
        Probability that a set holds the true label, in (0, 1).
    score : {"lac", "top_k", "aps", "raps"}, default="lac"
        Nonconformity: by a label's probability, its rank, the probability of all labels
        ahead of it (Romano, Sesia and Candès, 2020), or that with a penalty for large
        sets, tuned on a fifth of the rows. With two labels, "lac" only.
    seed : int, default=0
        Seed for "aps" and "raps".

    Examples
    --------
    >>> known = [[0.8, 0.2]] * 17 + [[0.6, 0.4]] * 2
    >>> sets = ConformalSets(level=0.9).fit(known, [0] * 17 + [1] * 2)
    >>> sets.predict([[0.9, 0.1], [0.55, 0.45]]).tolist()
    [[True, False], [True, True]]
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
        """
        level = check_between("level", self.level, 0, 1)
        score = check_choice("score", self.score, tuple(_SCORES))
        seed = check_count("seed", self.seed, 0)
        values, classes, actual = check_classified(probabilities, truth)
        check_not_fitted_on(probabilities, "probabilities")
        if len(classes) == 2 and score != "lac":
            raise ValueError(f"score must be 'lac' for two labels, not {score!r}.")
        labels = np.arange(len(classes))
        # For MAPIE, a fitted classifier that returns its input.
        given = SimpleNamespace(fit=None, classes_=labels, predict_proba=np.asarray)
        model = SplitConformalClassifier(
            given,
            confidence_level=level,
            conformity_score=_SCORES[score](),
            random_state=seed,
        )
        with warnings.catch_warnings():
            # The guarantee does not need every label among the rows.
            warnings.filterwarnings("ignore", ".*conformalization dataset has less")
            model.conformalize(_scaled(values), actual)
            try:
                model.predict_set(_scaled(values[:1]))
            except ValueError as error:  # too few rows
                raise ValueError(
                    f"probabilities must have more rows than {len(values)} for a level "
                    f"of {level:g} with score {score!r}: {error}"
                ) from error
        self._model, self.classes_, self.n_ = model, classes, len(values)
        return self

    def predict(self, probabilities: ArrayLike) -> np.ndarray:
        """Whether each label is in the set of each row, as a Boolean array."""
        check_is_fitted(self)
        values, classes = check_distributions(probabilities)
        if classes != self.classes_:
            raise ValueError(
                f"probabilities must have the columns fitted on, {self.classes_!r}, "
                f"not {classes!r}."
            )
        return self._model.predict_set(_scaled(values))[1][:, :, 0]


# MAPIE refuses all but "lac" if fewer than three labels occur; fit has checked.
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


def _scaled(values: np.ndarray) -> np.ndarray:
    """Rows that sum to one as closely as MAPIE asks."""
    exact = np.float32(values).astype(float)  # the same sets in either precision
    return exact / exact.sum(axis=1, keepdims=True)
