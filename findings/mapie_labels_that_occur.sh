#!/usr/bin/env bash
# mapie 1.6.0: SplitConformalClassifier decides by the labels that occur in the truth, not
# by the classes of the probabilities, whether a task is binary.
# Seen: three classes, 60 rows to conformalise. With all three labels in the truth, the
# scores "aps" and "top_k" work; where the third, rare one happens not to occur among the
# rows, both end in "Invalid conformity score for binary target".
# Natural guess: the estimator's classes_ say how many labels there are, and the guarantee
# needs no row of each. So a task of many rare codes fails on some samples and not on
# others, with a message about a task that it is not.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check mapie==1.6.0 scikit-learn==1.9.1
"$work/env/bin/python" - <<'PY'
import warnings

import numpy as np
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

warnings.simplefilter("ignore")


class Given(ClassifierMixin, BaseEstimator):
    """Takes probabilities and gives them back."""

    classes_ = np.arange(3)
    n_features_in_ = 3

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.asarray(X).argmax(axis=1)


rng = np.random.default_rng(0)
rows = rng.dirichlet([4, 3, 1], 60)
found = {}
for name, truth in {
    "all three": np.arange(60) % 3, "two of three": np.arange(60) % 2
}.items():
    for score in ("lac", "aps", "top_k"):
        sets = SplitConformalClassifier(
            Given(), confidence_level=0.8, conformity_score=score, prefit=True
        )
        try:
            sets.conformalize(rows, truth)
            found[name, score] = "works"
        except ValueError as error:
            found[name, score] = str(error).split(".")[0]
for key, value in found.items():
    print(*key, "->", value)
assert all(found["all three", s] == "works" for s in ("lac", "aps", "top_k"))
for score in ("aps", "top_k"):
    assert "binary target" in found["two of three", score]
PY
