"""Buckets of confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
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
def test_edges_of_both_seeds(confidence: float, review: str, trust: str) -> None:
    assert REVIEW_BUCKETS.assign([confidence]).tolist() == [review]
    assert TRUST_BUCKETS.assign([confidence]).tolist() == [trust]
    # Single precision has edges of its own.
    single = np.array([confidence], dtype=np.float32)
    assert REVIEW_BUCKETS.assign(single).tolist() == [review]
    assert TRUST_BUCKETS.assign(single).tolist() == [trust]


def test_ranges_say_whose_the_edges_are() -> None:
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
def test_ranges_that_hold_no_confidence(
    edges: list[float], sides: str | list[str], possible: list[bool]
) -> None:
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
def test_bad_buckets(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Buckets(*arguments)


def test_worked_example_of_the_popular_recipe() -> None:
    # 150 predictions at 92.3 %, 138 of them right: 92.0 %, an error of .003.
    table = bucket_table([0.923] * 150, [1] * 138 + [0] * 12)
    row = table.loc["auto-approve"]
    assert (row["n"], row["share"]) == (150, 1.0)
    assert row["accuracy"] == 0.92 and row["gap"] == pytest.approx(-0.003)
    assert (round(row["low"], 3), round(row["high"], 3)) == (0.865, 0.954)
    assert table["accuracy"].isna().sum() == 3 and table["low"].isna().sum() == 3


def test_interval_is_the_one_asked_for() -> None:
    exact = bucket_table([0.95] * 20, [1] * 18 + [0] * 2, method="clopper-pearson")
    low, high = proportion_confint(18, 20, method="beta")
    found = exact.loc["auto-approve", ["low", "high"]].tolist()
    assert found == pytest.approx([low, high])
    row = exact.loc["manual", ["n_above", "low_above", "high_above"]].tolist()
    assert row == pytest.approx([20, low, high])
    with pytest.raises(ValueError, match="method must be"):
        bucket_table([0.5], [1], method="wald")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_buckets_part_the_rows(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = zip(*rows, strict=True)
    for buckets in (REVIEW_BUCKETS, TRUST_BUCKETS):
        table = bucket_table(confidence, correct, buckets)
        assert table["n"].sum() == len(rows) and table["share"].sum() == pytest.approx(
            1
        )
        right = (table["n"] * table["accuracy"].fillna(0)).sum()
        assert right == pytest.approx(sum(correct))
        assert table["accuracy_above"].iloc[-1] == pytest.approx(np.mean(correct))
        ends = table[["low_above", "high_above"]].iloc[-1].tolist()
        assert ends == pytest.approx(
            proportion_confint(sum(correct), len(rows), method="wilson")
        )


def test_interval_above_is_that_of_all_rows_above() -> None:
    confidence = [0.8] * 30 + [0.6] * 10
    correct = [1] * 27 + [0] * 3 + [1] * 4 + [0] * 6
    table = bucket_table(confidence, correct, level=0.9)
    both = ["low_above", "high_above"]
    assert table.loc["auto-approve", both].isna().all()
    # Of the highest bucket with rows, above and in are the same.
    first = table.loc["review"]
    assert first[both].tolist() == first[["low", "high"]].tolist()
    for name, right, n in [("review", 27, 30), ("manual check", 31, 40)]:
        expected = proportion_confint(right, n, alpha=0.1, method="wilson")
        assert table.loc[name, both].tolist() == pytest.approx(expected)
    assert table.loc["manual", both].equals(table.loc["manual check", both])
