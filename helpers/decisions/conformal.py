"""Conformal prediction: sets of labels that hold the true one as often as asked."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import LACConformityScore
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..checks import (
    check_between,
    check_classified,
    check_distributions,
    check_not_fitted_on,
)


class ConformalSets(BaseEstimator):
    """Sets of labels in place of one, by split conformal prediction with MAPIE.

    Fitted on labelled rows that took no part in training, prompting or calibration,
    sets of new rows hold the true label with probability ``level`` or more, on average
    over all rows; for a class or a size it may be less. A set has the labels whose
    probability is large enough (Sadinle, Lei and Wasserman, 2019).

    Parameters
    ----------
    level : float, default=0.9
        Probability that a set holds the true label, in (0, 1).

    Examples
    --------
    >>> known = [[0.8, 0.2]] * 17 + [[0.6, 0.4]] * 2
    >>> sets = ConformalSets(level=0.9).fit(known, [0] * 17 + [1] * 2)
    >>> sets.predict([[0.9, 0.1], [0.55, 0.45]]).tolist()
    [[True, False], [True, True]]
    """

    classes_: list[Any]
    n_: int

    def __init__(self, level: float = 0.9) -> None:
        self.level = level

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
        values, classes, actual = check_classified(probabilities, truth)
        check_not_fitted_on(probabilities, "probabilities")
        labels = np.arange(len(classes))
        # For MAPIE, a fitted classifier that returns its input.
        given = SimpleNamespace(fit=None, classes_=labels, predict_proba=np.asarray)
        model = SplitConformalClassifier(
            given,
            confidence_level=level,
            conformity_score=LACConformityScore(),
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
                    f"of {level:g}: {error}"
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


def _scaled(values: np.ndarray) -> np.ndarray:
    """Rows that sum to one as closely as MAPIE asks."""
    exact = np.float32(values).astype(float)  # the same sets in either precision
    return exact / exact.sum(axis=1, keepdims=True)
