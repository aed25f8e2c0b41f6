"""Rows drawn as if there were more of some classes, and of each class as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from helpers.decisions import shifted_rows

TRUTH = ["a"] * 6 + ["b"] * 3 + ["c"]


def counts(rows: np.ndarray, truth: Any = TRUTH) -> dict[Any, int]:
    return pd.Series(np.asarray(truth, dtype=object)[rows]).value_counts().to_dict()


def test_shares_by_hand() -> None:
    every = {"a": 0.1, "b": 0.2, "c": 0.7}
    rows = shifted_rows(TRUTH, every, 1000, rng=0)
    assert rows.shape == (1000,) and rows.dtype.kind == "i"
    assert counts(rows) == {"a": 100, "b": 200, "c": 700}
    # The others keep 6 to 3.
    assert counts(shifted_rows(TRUTH, {"c": 0.4}, 500, rng=0)) == {
        "a": 200,
        "b": 100,
        "c": 200,
    }
    assert counts(shifted_rows(TRUTH, {}, 100, rng=0)) == {"a": 60, "b": 30, "c": 10}
    assert counts(shifted_rows(TRUTH, {"c": 1}, 7, rng=0)) == {"c": 7}
    assert counts(shifted_rows(TRUTH, {"a": 0}, 40, rng=0)) == {"b": 30, "c": 10}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.integers(1, 200),
    st.integers(0, 100),
)
def test_each_class_is_within_one_of_its_share(
    truth: list[int], weights: list[float], n: int, seed: int
) -> None:
    named = sorted(set(truth))[:3]
    total = sum(weights[label] for label in named) + weights[-1] + 1e-9
    shares = {label: weights[label] / total for label in named}
    others = [label for label in truth if label not in shares]
    if not others:
        shares[named[0]] += 1 - sum(shares.values())
    rows = shifted_rows(truth, shares, n, rng=seed)
    assert len(rows) == n and 0 <= rows.min() and rows.max() < len(truth)
    found = counts(rows, truth)
    left = 1 - sum(shares.values())
    for label in set(truth):
        own = others.count(label) / max(len(others), 1)
        share = shares.get(label, left * own)
        assert abs(found.get(label, 0) - n * share) < 1 + 1e-6


def test_rounding_is_right_on_average() -> None:
    """Half a row of one class, and a tenth of a row of another."""
    rng = np.random.default_rng(0)
    found = [
        shifted_rows(TRUTH, {"b": 0.1, "c": 0.02}, 5, rng=rng) for _ in range(1500)
    ]
    drawn = counts(np.concatenate(found))
    assert drawn["b"] / 1500 == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(1500))
    assert drawn["c"] / 1500 == pytest.approx(0.1, abs=4 * 0.3 / np.sqrt(1500))


def test_rows_of_a_class_are_equally_likely_and_come_in_any_order() -> None:
    rows = shifted_rows(TRUTH, {"a": 0.75, "b": 0.25}, 8000, rng=1)
    times = np.bincount(rows, minlength=10)
    assert times[9] == 0
    assert chisquare(times[:6]).pvalue > 1e-3 and chisquare(times[6:9]).pvalue > 1e-3
    first = np.mean(rows[:4000] < 6)
    assert first == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000 / 2))
    # With replacement, also where there would be rows enough.
    few = shifted_rows(list(range(2)) * 50, {0: 0.5}, 40, rng=0)
    assert len(set(few.tolist())) < 40


@pytest.mark.parametrize(
    "truth",
    [
        np.array(TRUTH),
        pd.Series(TRUTH, index=range(50, 60)),
        pd.Series(TRUTH, dtype="category"),
        tuple(TRUTH),
    ],
)
def test_truth_of_any_kind(truth: Any) -> None:
    expected = shifted_rows(TRUTH, {"c": 0.5}, 20, rng=0)
    assert shifted_rows(truth, {"c": 0.5}, 20, rng=0).tolist() == expected.tolist()
    code = [{"a": 0, "b": 1, "c": 2}[label] for label in TRUTH]
    again = shifted_rows(np.array(code), {2: 0.5}, 20, rng=0)
    assert again.tolist() == expected.tolist()


def test_chance_is_the_callers() -> None:
    first, second, other = (
        shifted_rows(TRUTH, {"c": 0.5}, 30, rng=seed).tolist()
        for seed in (4, np.random.default_rng(4), 5)
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"truth": []}, ValueError, "truth must be one column with at least one row"),
        ({"truth": [["a"]]}, ValueError, r"truth must be one column .* \(1, 1\)"),
        (
            {"truth": ["a", None]},
            ValueError,
            "truth must not be missing; 1 of",
        ),
        ({"shares": {"d": 0.1}}, ValueError, "shares must be of labels .*; 'd' has no"),
        (
            {"shares": {"a": 60}},
            ValueError,
            "the share of 'a' must lie between 0 and 1",
        ),
        ({"shares": {"a": 0.7, "b": 0.4}}, ValueError, ".* at most 1, not 1.1"),
        (
            {"shares": {"a": 0.5, "b": 0.2, "c": 0.2}},
            ValueError,
            "shares must sum to 1 where they name every class, not 0.9",
        ),
        ({"shares": ["a"]}, TypeError, "shares must be a mapping, not list"),
        ({"n": 0}, ValueError, "n must be a whole number of 1 or more, not 0"),
        ({"rng": "x"}, TypeError, "rng must be a Generator"),
    ],
)
def test_bad_input(change: dict[str, Any], error: Any, says: str) -> None:
    given_: dict[str, Any] = {"truth": TRUTH, "shares": {"a": 0.5}, "n": 5, "rng": 0}
    given_ |= change
    with pytest.raises(error, match=f"^{says}"):
        shifted_rows(
            given_.pop("truth"), given_.pop("shares"), given_.pop("n"), **given_
        )
