"""Drift of scores, and rows drawn as if there were more of some classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp, wasserstein_distance

from helpers.decisions import resample_label_shift, score_drift

TRUTH = ["a"] * 6 + ["b"] * 3 + ["c"]


SCORES = st.lists(st.integers(0, 30), min_size=2, max_size=40)


@given(SCORES, SCORES)
def test_distances_are_those_of_scipy(left: list[int], right: list[int]) -> None:
    then, now = np.array(left) / 30, np.array(right) / 30
    found = score_drift(then, now, rng=0, n_resamples=1)["value"]
    expected = ks_2samp(then, now, method="asymp").statistic
    assert found["ks"] == pytest.approx(expected, abs=1e-6)
    expected = wasserstein_distance(then, now)
    assert found["wasserstein"] == pytest.approx(expected, abs=1e-6)


def test_stability_index_by_hand():
    # Two bins cut at the third score of the reference: 2 and 2 scores, then 1 and 3.
    # With half a score more in each bin, 0.5 and 0.5 against 0.3 and 0.7.
    drift = score_drift([1, 2, 3, 4], [1.5, 3, 3.5, 9], rng=0, n_bins=2, n_resamples=9)
    expected = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    assert drift.loc["psi", "value"] == pytest.approx(expected)


def test_the_noise_floor_is_what_two_samples_of_one_distribution_give():
    rng = np.random.default_rng(8)
    table = score_drift(rng.random(1200), rng.random(600), rng=0)
    scale = math.sqrt(1 / 1200 + 1 / 600)
    assert table.loc["psi", "noise"] == pytest.approx(9 * scale**2, rel=0.1)
    # The limit distribution of the Kolmogorov-Smirnov statistic has the mean 0.8687
    # and the 95th percentile 1.358.
    ks = table.loc["ks"]
    assert ks["noise"] == pytest.approx(0.8687 * scale, rel=0.05)
    assert ks["noise_upper"] == pytest.approx(1.358 * scale, rel=0.05)
    assert ks["method"] == "asymptotic"


def test_p_values_under_no_drift_are_not_too_small():
    rng = np.random.default_rng(9)
    small = np.zeros(3)
    for _ in range(60):
        # Tied scores, so that all three are permutation p-values.
        then, now = rng.integers(0, 8, 60), rng.integers(0, 8, 40)
        table = score_drift(then, now, rng=rng, n_resamples=19)
        assert set(table["method"]) == {"permutation"}
        small += table["p_value"] <= 0.1
    # 0.1 of 60 is 6, and three standard deviations are 7.
    assert (small <= 13).all() and (small >= 1).all()


def test_drift_is_found():
    rng = np.random.default_rng(10)
    then, now = rng.beta(8, 2, 400), rng.beta(6, 2, 300)
    table = score_drift(then, now, rng=0, n_resamples=199)
    expected = [*ks_2samp(then, now, method="exact"), "exact"]
    assert table.loc["ks", ["value", "p_value", "method"]].tolist() == expected
    assert table.index.tolist() == ["psi", "ks", "wasserstein"]
    assert table["above"].all() and (table["p_value"] < 0.01).all()
    again = score_drift(then, now, rng=np.random.default_rng(0), n_resamples=199)
    pd.testing.assert_frame_equal(again, table)


def test_precision_is_no_drift():
    then, now = np.arange(400) % 20 / 20, np.arange(300) % 15 / 20
    expected = score_drift(then, now, rng=0, n_resamples=99)
    for reference, current in [
        (then, now.astype(np.float32)),
        (then, now.astype(np.float32).astype(float)),
        (then.astype(np.float32), now),
    ]:
        found = score_drift(reference, current, rng=0, n_resamples=99)
        pd.testing.assert_frame_equal(found, expected)
    huge = score_drift(then * 1e300, now * 1e300, rng=0, n_resamples=99)
    assert huge["p_value"].tolist() == expected["p_value"].tolist()


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ([0.7] * 5, [0.7] * 4),  # a bin below holds half a score of either sample
        ([0.7], [0.7]),
        ([1, 2, 3], [1, 2, 3]),
        (np.arange(40) / 40, (np.arange(40) / 40).astype(np.float32)),
    ],
)
def test_equal_scores_have_not_moved(then: Any, now: Any) -> None:
    table = score_drift(then, now, rng=0, n_resamples=19)
    assert (table["p_value"] == 1).all() and not table["above"].any()
    assert table["value"][["ks", "wasserstein"]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reference": []}, ValueError, "reference must be one column with at least"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be a whole number"),
        ({"n_bins": 1}, ValueError, "n_bins must be a whole number of 2 or more"),
        ({"level": 1}, ValueError, "level must lie between 0 and 1, not 1"),
        ({"rng": "x"}, TypeError, "rng must be a Generator"),
    ],
)
def test_bad_scores_and_settings(changes, error, message):
    with pytest.raises(error, match=message):
        score_drift(**{"reference": [0.1, 0.2], "current": [0.3], "rng": 0} | changes)


# Label shift


def counts(rows: np.ndarray, truth: Any = TRUTH) -> dict[Any, int]:
    return pd.Series(np.asarray(truth, dtype=object)[rows]).value_counts().to_dict()


@pytest.mark.parametrize(
    ("shares", "n", "expected"),
    [
        ({"a": 0.1, "b": 0.2, "c": 0.7}, 1000, {"a": 100, "b": 200, "c": 700}),
        ({"c": 0.4}, 500, {"a": 200, "b": 100, "c": 200}),  # the others keep 6 to 3
        ({}, 100, {"a": 60, "b": 30, "c": 10}),
        ({"c": 1}, 7, {"c": 7}),
        ({"a": 0}, 40, {"b": 30, "c": 10}),
    ],
)
def test_shares_by_hand(shares: Any, n: int, expected: dict[str, int]) -> None:
    rows = resample_label_shift(TRUTH, shares, n, rng=0)
    assert rows.shape == (n,) and rows.dtype.kind == "i"
    assert counts(rows) == expected


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
    rows = resample_label_shift(truth, shares, n, rng=seed)
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
        resample_label_shift(TRUTH, {"b": 0.1, "c": 0.02}, 5, rng=rng)
        for _ in range(600)
    ]
    drawn = counts(np.concatenate(found))
    assert drawn["b"] / 600 == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(600))
    assert drawn["c"] / 600 == pytest.approx(0.1, abs=4 * 0.3 / np.sqrt(600))


def test_rows_of_a_class_are_equally_likely_and_come_in_any_order() -> None:
    rows = resample_label_shift(TRUTH, {"a": 0.75, "b": 0.25}, 8000, rng=1)
    times = np.bincount(rows, minlength=10)
    assert times[9] == 0
    assert chisquare(times[:6]).pvalue > 1e-3 and chisquare(times[6:9]).pvalue > 1e-3
    first = np.mean(rows[:4000] < 6)
    assert first == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000 / 2))
    # With replacement, also where there would be rows enough.
    few = resample_label_shift(list(range(2)) * 50, {0: 0.5}, 40, rng=0)
    assert len(set(few.tolist())) < 40


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"truth": []}, ValueError, "truth must be one column with at least one row"),
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
    given_: Any = {"truth": TRUTH, "shares": {"a": 0.5}, "n": 5, "rng": 0} | change
    with pytest.raises(error, match=f"^{says}"):
        resample_label_shift(**given_)
