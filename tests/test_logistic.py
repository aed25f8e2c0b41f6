"""The penalty that is chosen is that of least log loss on rows kept apart."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from helpers.logistic import chosen_strength, grouped_folds

STRENGTHS = np.logspace(-3, 2, 11)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_it_is_that_of_a_plain_search(seed, kind):
    rng = np.random.default_rng(seed)
    codes = np.repeat([0, 1, 2], 8)
    features = rng.normal(size=(24, 6)) + 0.5 * np.eye(3, 6)[codes]
    folds = grouped_folds(codes, np.arange(24), 3)

    def loss(strength):
        model, found = LogisticRegression(C=strength, max_iter=1000), 0.0
        for fit, judge in folds:
            shares = model.fit(features[fit], codes[fit]).predict_proba(features[judge])
            found += log_loss(codes[judge], shares, labels=[0, 1, 2], normalize=False)
        return found

    best = min(STRENGTHS, key=loss)
    assert chosen_strength(kind(features), codes, folds, STRENGTHS) == best


def test_a_label_that_a_fold_lacks_is_left_out_there():
    features, codes = np.eye(6), np.array([0, 0, 0, 0, 0, 1])
    folds = grouped_folds(codes, np.arange(6), 3)
    assert chosen_strength(features, codes, folds, STRENGTHS) in STRENGTHS


def test_groups_stay_on_one_side():
    groups = np.repeat(np.arange(10), 3)
    folds = grouped_folds(np.arange(30) % 2, groups, 5, seed=1)
    assert len(folds) == 5
    for fit, judge in folds:
        assert not set(groups[fit]) & set(groups[judge])
        assert len(fit) + len(judge) == 30
