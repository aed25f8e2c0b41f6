"""Buckets of confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from helpers.decisions import REVIEW_BUCKETS, TRUST_BUCKETS, Buckets, bucket_table


@pytest.mark.parametrize(
    ("confidence", "review", "trust"),
    [
        (0.0, "manual", "ask"),
        (0.4999, "manual", "ask"),
        (0.5, "manual check", "warn"),
        (0.7, "review", "warn"),
        (0.8999, "review", "warn"),
        (0.9, "auto-approve", "warn"),
        (0.9001, "auto-approve", "trust"),
        (1.0, "auto-approve", "trust"),
    ],
)
def test_edges_of_both_seeds(confidence, review, trust):
    assert REVIEW_BUCKETS.assign([confidence]).tolist() == [review]
    assert TRUST_BUCKETS.assign([confidence]).tolist() == [trust]
    # Single precision has edges of its own.
    single = np.array([confidence], dtype=np.float32)
    assert REVIEW_BUCKETS.assign(single).tolist() == [review]
    assert TRUST_BUCKETS.assign(single).tolist() == [trust]


def test_ranges_say_whose_the_edges_are():
    assert REVIEW_BUCKETS.ranges() == [
        "< 0.5",
        "0.5 to under 0.7",
        "0.7 to under 0.9",
        "≥ 0.9",
    ]
    one = Buckets([0.5], ["no", "yes"], "lower")
    assert one.ranges() == ["≤ 0.5", "> 0.5"]
    assert one.assign([0.5, 0.6]).tolist() == ["no", "yes"]


@pytest.mark.parametrize(
    ("edges", "sides", "possible"),
    [
        ([1.0], "upper", [True, True]),
        ([1.0], "lower", [True, False]),
        ([0.0], "lower", [True, True]),
        ([0.0], "upper", [False, True]),
        ([0.0, 1.0], ["upper", "lower"], [False, True, False]),
        ([0.0, 1.0], ["lower", "upper"], [True, True, True]),
    ],
)
def test_ranges_that_hold_no_confidence(edges, sides, possible):
    buckets = Buckets(edges, ["a", "b", "c"][: len(possible)], sides)
    assert buckets.possible() == possible
    # What is assigned at the ends and between bears it out.
    found = set(buckets.codes([0.0, 1e-300, 0.5, 1 - 1e-16, 1.0]))
    assert found == set(np.flatnonzero(possible))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.9, ["a", "b"]), "edges must be one column with at least one row"),
        (([], ["a"]), "edges must be one column with at least one row"),
        (([0.5, 0.5], ["a", "b", "c"]), "edges must rise"),
        (([-0.1], ["a", "b"]), r"edges must lie in \[0, 1\]; row 0 is -0.1"),
        (([0.5], "ab"), "names must be one column"),
        (([0.5], ["a"]), "names must be 2 different words"),
        (([0.5], ["a", "a"]), "names must be 2 different words"),
        (([0.5], ["a", ("b", "c")]), "names must be 2 different words"),
        (([0.5], ["a", "b"], "middle"), "edge_belongs_to must be one of"),
        (([0.5], ["a", "b"], ["upper"] * 2), "edge_belongs_to must have one value"),
    ],
)
def test_bad_buckets(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Buckets(*arguments)


def test_worked_example_of_the_popular_recipe():
    # 150 predictions at 92.3 %, 138 of them right: 92.0 %, an error of .003.
    table = bucket_table([0.923] * 150, [1] * 138 + [0] * 12)
    row = table.loc["auto-approve"]
    assert (row["n"], row["share"]) == (150, 1.0)
    assert row["accuracy"] == 0.92 and row["gap"] == pytest.approx(-0.003)
    assert (round(row["low"], 3), round(row["high"], 3)) == (0.865, 0.954)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([("wilson", "wilson", 0.9), ("clopper-pearson", "beta", 0.95)]),
)
def test_each_row_counts_its_bucket_and_those_above(rows, how):
    confidence, correct = (np.array(column) for column in zip(*rows, strict=True))
    method, name, level = how
    for buckets in (REVIEW_BUCKETS, TRUST_BUCKETS):
        table = bucket_table(confidence, correct, buckets, method=method, level=level)
        names = buckets.assign(confidence)
        assert table.index.tolist() == list(buckets.names)[::-1]
        assert table["range"].tolist() == buckets.ranges()[::-1]
        for at, label in enumerate(table.index):
            row = table.loc[label]
            for suffix, these in (
                ("", names == label),
                ("_above", np.isin(names, table.index[: at + 1])),
            ):
                n, right = these.sum(), correct[these].sum()
                assert row[f"n{suffix}"] == n
                found = row[[f"{of}{suffix}" for of in ("accuracy", "low", "high")]]
                if not n:
                    assert found.isna().all()
                    continue
                ends = proportion_confint(right, n, alpha=1 - level, method=name)
                assert found.tolist() == pytest.approx([right / n, *ends])
            own = names == label
            assert row["share"] == own.mean()
            mean = confidence[own].mean() if own.any() else np.nan
            assert row["mean_confidence"] == pytest.approx(mean, nan_ok=True)
            gap = row["accuracy"] - row["mean_confidence"]
            assert row["gap"] == pytest.approx(gap, nan_ok=True)


def test_unknown_intervals_are_refused():
    with pytest.raises(ValueError, match="method must be"):
        bucket_table([0.5], [1], method="wald")
