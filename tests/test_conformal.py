"""Conformal sets: against the quantile by hand, and the guarantee over drawn data."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from helpers.decisions import ConformalSets


def drawn(
    n: int, rng: np.random.Generator, k: int = 4, sharp: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident probabilities of k labels, and true labels."""
    logits = 1.5 * rng.normal(size=(n, k))
    truth = (logits + rng.gumbel(size=(n, k))).argmax(axis=1)
    raised = np.exp(sharp * logits)
    return raised / raised.sum(axis=1, keepdims=True), truth


def lac_by_hand(
    known: np.ndarray, truth: np.ndarray, new: np.ndarray, level: str
) -> np.ndarray:
    strange = np.sort(1 - known[np.arange(len(known)), truth])
    place = math.ceil((len(known) + 1) * Fraction(level))
    return 1 - new <= strange[place - 1] + 1e-8


@settings(max_examples=15)
@given(
    st.integers(0, 10_000),
    st.integers(2, 5),
    st.integers(20, 90),
    st.sampled_from(["0.5", "0.8", "0.9", "0.95"]),
)
def test_lac_is_the_quantile_by_hand(seed: int, k: int, n: int, level: str) -> None:
    rng = np.random.default_rng(seed)
    known, truth = drawn(n, rng, k)
    new, _ = drawn(30, rng, k)
    found = ConformalSets(float(level)).fit(known, truth).predict(new)
    assert found.dtype == bool
    assert found.tolist() == lac_by_hand(known, truth, new, level).tolist()


def test_the_guarantee() -> None:
    rng = np.random.default_rng(1)
    coverage, size = [], []
    for _ in range(20):
        sets = ConformalSets(0.8).fit(*drawn(150, rng))
        new, truth = drawn(400, rng)
        found = sets.predict(new)
        coverage.append(found[np.arange(400), truth].mean())
        size.append(found.sum(axis=1).mean())
    error = np.std(coverage) / math.sqrt(len(coverage))
    assert np.mean(coverage) >= 0.8 - 3 * error
    assert np.mean(size) < 3.2  # and not by letting in everything
    assert np.mean(coverage) <= 0.8 + 1 / 151 + 3 * error


@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_rare_labels_change_nothing(n_labels: int) -> None:
    """Four columns, of which one to three occur, the last of them in one row only."""
    known, _ = drawn(60, np.random.default_rng(11))
    truth = np.arange(60) % max(n_labels - 1, 1)
    truth[7] = n_labels - 1
    sets = ConformalSets(0.8).fit(known, truth)
    members = sets.predict(known)
    assert members.shape == (60, 4)
    assert members[np.arange(60), truth].mean() >= 0.8


def test_names_and_rounded_rows() -> None:
    known, truth = drawn(80, np.random.default_rng(5))
    plain = ConformalSets(0.8).fit(known, truth).predict(known)
    names = np.array(["w", "x", "y", "z"])
    named = pd.DataFrame(known, columns=[f"p_{name}" for name in names])
    sets = ConformalSets(0.8).fit(named, names[truth])
    assert sets.classes_ == names.tolist() and sets.n_ == 80
    assert (sets.predict(named) == plain).all()
    again = pickle.loads(pickle.dumps(sets))
    assert (again.predict(named) == plain).all()
    rough = known * (1 - 5e-4)  # sums that MAPIE itself does not take
    assert (ConformalSets(0.8).fit(rough, truth).predict(rough) == plain).all()


def test_precision_changes_no_set() -> None:
    known, truth = drawn(80, np.random.default_rng(3))
    single = known.astype(np.float32)
    plain = ConformalSets(0.5).fit(known, truth).predict(known)
    # One label lies at the quantile itself, and may have been stored otherwise.
    for fitted, stored in ((single, single), (single, known), (known, single)):
        again = ConformalSets(0.5).fit(fitted, truth)
        assert (again.predict(stored) == plain).all()


TWO = [[0.8, 0.2]] * 20


@pytest.mark.parametrize(
    ("rules", "rows", "truth", "says"),
    [
        ({"level": 90}, TWO, [0] * 20, "level must lie between 0 and 1, not 90"),
        ({"level": 0.99}, TWO, [0] * 20, "probabilities must have more rows than 20"),
        ({"level": 0.01}, TWO, [0] * 20, "probabilities must have more rows than 20"),
        ({}, TWO, [0] * 19 + [2], r"truth must be one of the classes \[0, 1\]; row 19"),
        ({}, [[0.8, 0.8]] * 20, [0] * 20, "probabilities must sum to one in each row"),
    ],
)
def test_bad_fit(rules: dict[str, Any], rows: Any, truth: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        ConformalSets(**rules).fit(rows, truth)


def test_bad_columns_and_no_fit() -> None:
    with pytest.raises(NotFittedError):
        ConformalSets(0.8).predict([[0.5, 0.5]])
    sets = ConformalSets().fit(pd.DataFrame(TWO, columns=["a", "b"]), ["a"] * 20)
    turned = pd.DataFrame(TWO, columns=["b", "a"])
    with pytest.raises(ValueError, match="^probabilities must have the columns"):
        sets.predict(turned)


def test_a_failed_fit_leaves_the_earlier_one() -> None:
    rows = [[0.9, 0.1], [0.6, 0.4]]
    sets = ConformalSets(0.9).fit(TWO, [0] * 20)
    before = sets.predict(rows)
    with pytest.raises(ValueError, match="more rows than 3"):
        sets.fit([[0.5, 0.3, 0.2]] * 3, [0] * 3)
    np.testing.assert_array_equal(sets.predict(rows), before)
    assert sets.n_ == 20
