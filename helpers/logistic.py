"""Logistic regression with a penalty that cross-validation chooses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

Folds = list[tuple[np.ndarray, np.ndarray]]

_SURELY_WORSE = 1.1


def regression(strength: float = 1.0) -> LogisticRegression:
    """A regression that begins where it ended; ``strength`` is the inverse penalty."""
    return LogisticRegression(C=strength, max_iter=1000, warm_start=True)


def grouped_folds(truth: Any, groups: Any, n: int, seed: int = 0) -> Folds:
    """Up to n pairs of rows to fit on and to judge by: groups on one side."""
    most = pd.Series(groups).groupby(np.asarray(truth)).nunique().max()
    folds = StratifiedGroupKFold(
        max(2, min(n, int(most))), shuffle=True, random_state=seed
    )
    with warnings.catch_warnings(action="ignore"):  # of labels with fewer rows
        found = list(folds.split(truth, truth, groups))
    return [(fit, judge) for fit, judge in found if len(judge)]


def chosen_strength(
    features: Any, codes: np.ndarray, folds: Folds, strengths: np.ndarray
) -> float:
    """The strength of least log loss, tried upwards until the loss has surely risen."""
    models, best, chosen = [regression() for _ in folds], math.inf, strengths[0]
    for strength in strengths:
        loss = sum(
            _loss(model.set_params(C=strength), features, codes, *fold)
            for model, fold in zip(models, folds, strict=True)
        )
        if loss < best:
            best, chosen = loss, strength
        elif loss > _SURELY_WORSE * best:
            break
    return float(chosen)


def fitted_weights(
    features: np.ndarray, codes: np.ndarray, folds: Folds, strengths: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The chosen strength, with weights and intercepts, of many features."""
    # The penalty does not mind which way the axes point, so that no more of them
    # are needed than there are rows.
    axes = np.linalg.svd(features, full_matrices=False)[2]
    features = features @ axes.T
    strength = chosen_strength(features, codes, folds, strengths)
    found = regression(strength).fit(features, codes)
    return strength, found.coef_ @ axes, found.intercept_


def _loss(
    model: LogisticRegression,
    features: Any,
    codes: np.ndarray,
    fit: np.ndarray,
    judge: np.ndarray,
) -> float:
    """Log loss of the rows whose label is among those fitted on."""
    known = np.unique(codes[fit])
    judge = judge[np.isin(codes[judge], known)]
    if len(known) < 2 or not len(judge):
        return 0.0
    model.fit(features[fit], codes[fit])
    logs = log_proba(features[judge], model.coef_, model.intercept_)
    places = np.searchsorted(known, codes[judge])
    return float(-logs[np.arange(len(judge)), places].sum())


def log_proba(features: Any, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Log-probabilities of the labels, one a column."""
    scores = features @ coef.T + intercept
    if scores.shape[1] == 1:  # of the second of two classes
        scores = np.hstack([np.zeros_like(scores), scores])
    return log_softmax(scores, axis=1)
