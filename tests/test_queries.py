"""Query strategies: orders by hand, and samples that say what is true of the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.decisions import TRUST_BUCKETS, Costs, Policy, review_queue
from helpers.metrics import weighted_mean

TABLE = pd.DataFrame(
    {
        "prediction": ["no", "yes", "yes", "no", "yes"],
        "confidence": [0.9, 0.6, 0.8, 0.6, 1.0],
    },
    index=list("abcde"),
)


def test_least_confident_first_and_ties_by_row():
    found = review_queue(TABLE, budget=4)
    assert found.index.tolist() == ["b", "d", "c", "a"]
    assert found["queue_reason"].tolist() == [
        f"confidence {at}" for at in (0.6, 0.6, 0.8, 0.9)
    ]
    pd.testing.assert_frame_equal(found[list(TABLE)], TABLE.loc[found.index])
    assert "queue_reason" not in TABLE


def test_a_queue_of_what_a_policy_decided():
    table = TABLE.assign(confidence=[0.9, np.nan, 0.8, 0.4, 0.95])
    table.loc["d", "prediction"] = None
    decided = Policy(TRUST_BUCKETS).apply(table)
    found = review_queue(decided, budget=4)
    assert found.index.tolist() == ["b", "d", "c", "a"]
    assert found["queue_reason"].tolist() == [
        "no confidence is known",
        "no prediction is known",
        "decided_on 0.8",
        "decided_on 0.9",
    ]
    # The policy's own reasons and actions are still there.
    pd.testing.assert_frame_equal(found[list(decided)], decided.loc[found.index])
    assert found["reason"].tolist()[:2] == found["queue_reason"].tolist()[:2]


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_items_without_a_confidence(missing):
    table = TABLE.assign(confidence=[0.9, 0.6, missing, 0.6, missing])
    found = review_queue(table, budget=3)
    assert found.index.tolist() == ["c", "e", "b"]
    assert found["queue_reason"].iloc[1] == "no confidence is known"
    drawn = review_queue(table, budget=5, strategy="random", rng=0)
    assert sorted(drawn.index) == list("abcde")
    none = review_queue(table[["confidence"]].loc[["c", "e"]], budget=5)
    assert none.index.tolist() == ["c", "e"]
    needs = {
        "value": {"costs": Costs(10, 1.5)},
        "near-threshold": {"threshold": 0.5},
        "stratified": {},
    }
    for strategy, more in needs.items():
        with pytest.raises(ValueError, match="^confidence must be known .* row 2 is m"):
            review_queue(table, budget=5, strategy=strategy, **more)


def test_near_a_threshold():
    found = review_queue(TABLE, budget=3, strategy="near-threshold", threshold=0.875)
    assert found.index.tolist() == ["a", "c", "e"]
    assert found["queue_reason"].tolist() == [
        "0.025 above 0.875",
        "0.075 below 0.875",
        "0.125 above 0.875",
    ]


def test_value_leaves_out_what_is_cheaper_to_automate():
    found = review_queue(TABLE, budget=5, strategy="value", costs=Costs(10, 1.5))
    assert found.index.tolist() == ["b", "d", "c"]
    assert found["queue_reason"].tolist() == ["saves 2.5", "saves 2.5", "saves 0.5"]
    none = review_queue(TABLE, budget=5, strategy="value", costs=Costs(10, 10))
    assert len(none) == 0 and "queue_reason" in none


def test_spot_checks_are_spread_over_the_confidence():
    confidence = np.repeat([0.1, 0.3, 0.9, 1.0], [1, 4, 60, 35])
    table = pd.DataFrame({"confidence": confidence})
    found = review_queue(table, budget=13, strategy="stratified", rng=1)
    # One of one; four of four; and eight of 95.
    by = found.groupby("queue_stratum")["queue_weight"].agg(
        ["size", "first", "nunique"]
    )
    assert by.index.tolist() == ["[0, 0.2)", "[0.2, 0.4)", "[0.8, 1]"]
    assert by["size"].tolist() == [1, 4, 8]
    assert by["first"].tolist() == [1, 1, 95 / 8] and set(by["nunique"]) == {1}
    assert found.index.is_unique and set(found["queue_reason"]) == {"spot check"}
    # What is over goes to the largest.
    found = review_queue(table, budget=8, strategy="stratified", rng=1)
    counts = found["queue_stratum"].value_counts()
    assert counts.to_dict() == {"[0.8, 1]": 4, "[0.2, 0.4)": 3, "[0, 0.2)": 1}


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(1, 8),
    st.sampled_from(["random", "stratified"]),
)
def test_weights_stand_for_the_whole_table(confidence, budget, n_strata, strategy):
    table = pd.DataFrame({"confidence": confidence})
    budget = max(budget, n_strata)
    found = review_queue(
        table, budget=budget, strategy=strategy, rng=0, n_strata=n_strata
    )
    assert len(found) == min(budget, len(table)) and found.index.is_unique
    assert found["queue_weight"].sum() == pytest.approx(len(table))
    assert (found["queue_weight"] >= 1).all()


def test_spot_checks_estimate_the_error_rate_without_bias():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"confidence": rng.beta(4, 1, 300)})
    table["wrong"] = rng.random(300) > table["confidence"]
    truth = table["wrong"].mean()
    estimates, plain, covered, drawn = [], [], [], np.zeros(300)
    chance = np.zeros(300)
    for seed in range(120):
        found = review_queue(table, budget=60, strategy="stratified", rng=seed)
        mean = weighted_mean(
            found["wrong"], found["queue_weight"], strata=found["queue_stratum"]
        )
        estimates.append(mean.value)
        plain.append(found["wrong"].mean())
        covered.append(mean.low <= truth <= mean.high)
        drawn[found.index] += 1
        chance[found.index] = 1 / found["queue_weight"]
    error = np.std(estimates) / np.sqrt(120)
    assert abs(np.mean(estimates) - truth) < 3 * error
    assert np.mean(plain) > truth + 10 * error  # without the weights
    assert np.mean(covered) > 0.9
    # Each row is drawn as often as its weight says.
    assert np.abs(drawn / 120 - chance).max() < 4.5 * np.sqrt(0.25 / 120)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strategy": "newest"}, "strategy must be one of 'least-confident', "),
        ({"budget": 0}, "budget must be a whole number of 1 or more, not 0"),
        ({"strategy": "near-threshold"}, "threshold must be given for strategy="),
        ({"strategy": "value"}, "costs must be given for strategy='value'"),
        ({"threshold": 0.5}, "threshold must be left out for .*'least-confident', not"),
        ({"strategy": "random", "costs": Costs(2, 1)}, "costs must be left out for"),
        ({"strategy": "near-threshold", "threshold": 90}, "threshold must lie between"),
        ({"strategy": "value", "costs": 2}, "costs must be Costs, not 2"),
        ({"strategy": "stratified", "budget": 1}, "budget must be at least 2, the num"),
        ({"table": TABLE[["prediction"]]}, "table must have the column 'confidence'"),
        (
            {"table": TABLE.assign(queue_reason="")},
            "table must have no column 'queue_r",
        ),
        (
            {"table": TABLE.assign(decided_on=[1, 2, 0, None, 0])},
            r"decided_on must lie in \[0, 1\]; row 1 is 2.0",
        ),
        ({"table": TABLE.assign(confidence=90)}, r"confidence must lie in \[0, 1\]"),
        ({"table": TABLE[:0]}, "table must have at least one row"),
    ],
)
def test_bad_input(change, says):
    arguments = {"table": TABLE, "budget": 3} | change
    with pytest.raises((ValueError, TypeError), match=f"^{says}"):
        review_queue(**arguments)
