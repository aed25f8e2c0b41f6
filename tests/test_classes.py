"""Measures by predicted class: by hand, against plain loops, and over drawn classes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from helpers.calibration import PlattScalingCalibrator
from helpers.metrics import (
    class_gap,
    class_gap_difference,
    class_table,
    debiased_calibration_error,
    noise_floor,
    top_label_calibration_error,
)

ENDS = ("", "_low", "_high")


def cases(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.choice(["hand", "knee", "toe", "ear"], n, p=[0.5, 0.3, 0.15, 0.05])
    confidence = rng.uniform(0.3, 1, n)
    return predicted, rng.random(n) < confidence**2, confidence


def wilson(rate: float, n: float, z: float) -> tuple[float, float]:
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return middle - reach, middle + reach


# The table ------------------------------------------------------------------------


def test_table_by_hand() -> None:
    predicted = ["toe", "ear", "hand", "hand", "toe", "hand", "hand"]
    raw, fair = np.array([0.9, 0.8, 0.6, 0.9, 0.5, 0.8, 0.9]), np.full(7, 0.7)
    table = class_table(predicted, [1, 0, 1, 1, 1, 0, 0], {"raw": raw, "fair": fair})
    assert list(table.index) == ["hand", "toe", "ear"]
    assert list(table["n"]) == [4, 2, 1]
    assert list(table["accuracy"]) == [0.5, 1, 0]
    hand = table.loc["hand"]
    low, high = proportion_confint(2, 4, method="wilson")
    assert (hand["accuracy_low"], hand["accuracy_high"]) == pytest.approx((low, high))
    assert hand["raw"] == pytest.approx(0.8)
    below = student.ppf(0.975, 3) * np.std([0.6, 0.9, 0.8, 0.9], ddof=1) / 2
    assert hand["raw_low"] == pytest.approx(0.8 - below)
    assert hand["raw_high"] == 1  # 1.025 is no confidence
    assert hand["raw_gap"] == pytest.approx(0.3)
    assert hand["raw_gap_low"] == pytest.approx(0.3 - np.hypot(below, high - 0.5))
    assert hand["raw_gap_high"] == pytest.approx(0.3 + np.hypot(0.2, 0.5 - low))
    # A confidence that never changes has no interval: what is left is Wilson's.
    assert tuple(hand[["fair_low", "fair_high"]]) == pytest.approx((0.7, 0.7))
    ends = tuple(hand[["fair_gap_low", "fair_gap_high"]])
    assert ends == pytest.approx((0.7 - high, 0.7 - low))
    parts = ["accuracy", "raw", "raw_gap", "fair", "fair_gap"]
    assert list(table) == ["n"] + [f"{p}{e}" for p in parts for e in ENDS]


def test_one_row_tells_nothing_of_a_mean() -> None:
    ear = class_table(["ear", "toe", "toe"], [0, 1, 1], {"raw": [0.8] * 3}).loc["ear"]
    assert (ear["raw"], ear["raw_gap"]) == (0.8, 0.8)
    unknown = ear[["raw_low", "raw_high", "raw_gap_low", "raw_gap_high"]]
    assert unknown.isna().all()
    low, high = wilson(0, 1, norm.ppf(0.975))
    assert ear["accuracy_low"] == pytest.approx(low, abs=1e-12)
    assert ear["accuracy_high"] == pytest.approx(high)


def test_ties_are_by_name_and_names_need_not_be_text() -> None:
    for names in (["b", "c", "a"], [2, 3, 1], np.array([2, 3, 1])):
        table = class_table([*names, names[1]], [1] * 4, {"raw": [0.5] * 4})
        assert list(table.index) == [names[1], *sorted([names[0], names[2]])]


def test_an_always_right_class_is_not_certain() -> None:
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.95, 1, 30)
    row = class_table(["toe"] * 30, [1] * 30, {"raw": raw}).iloc[0]
    assert row["raw_gap"] < 0 < row["raw_gap_high"]
    # A bootstrap would see the spread of the confidence only.
    spread = row["raw_high"] - row["raw_low"]
    assert row["raw_gap_high"] - row["raw_gap_low"] > 5 * spread


def test_groups_by_hand() -> None:
    # Two hospitals of two rows, one of one; scores −.2, .2 and .1 times two, −.1.
    correct = np.array([1, 1, 1, 0, 0])
    groups = ["A", "A", "B", "B", "C"]
    row = class_table(["toe"] * 5, correct, {"raw": [0.6] * 5}, groups=groups).iloc[0]
    totals = np.array([0.8, -0.2, -0.6]) / 5
    between = 3 / 2 * np.sum(totals**2)
    size = 5 / (between / (0.6 * 0.4 / 4))
    assert size < 5
    low, high = wilson(0.6, size, student.ppf(0.975, 2))
    assert tuple(row[["accuracy_low", "accuracy_high"]]) == pytest.approx((low, high))
    assert row["raw_gap_high"] == pytest.approx(0.6 - low)


def test_groups_undo_duplicates() -> None:
    predicted, correct, raw = cases(1, 400)
    single = class_table(predicted, correct, {"raw": raw})
    many = [np.repeat(column, 5) for column in (predicted, correct, raw)]
    groups = np.repeat([f"text {at}" for at in range(400)], 5)
    grouped = class_table(many[0], many[1], {"raw": many[2]}, groups=groups)
    naive = class_table(many[0], many[1], {"raw": many[2]})
    for part in ("accuracy", "raw", "raw_gap"):
        widths = [
            t[f"{part}_high"] - t[f"{part}_low"] for t in (single, grouped, naive)
        ]
        common = single["n"] > 50
        assert widths[1][common].to_numpy() == pytest.approx(
            widths[0][common].to_numpy(), rel=0.06
        )
        assert (widths[1] > 1.8 * widths[2]).all()


def test_one_hospital_tells_nothing_of_others() -> None:
    table = class_table(
        ["toe"] * 3, [1, 0, 1], {"raw": [0.5, 0.6, 0.7]}, groups=["a"] * 3
    )
    ends = [name for name in table if name.endswith(("_low", "_high"))]
    assert table[ends].isna().all(axis=None)
    assert table["raw_gap"].item() == pytest.approx(0.6 - 2 / 3)


@pytest.mark.parametrize(("n", "accuracy"), [(10, 0.98), (30, 0.9)])
def test_intervals_cover_as_often_as_they_say(n: int, accuracy: float) -> None:
    rng = np.random.default_rng(n)
    predicted = np.repeat(np.arange(200), n)
    raw = rng.beta(29.1, 0.9, len(predicted))
    table = class_table(predicted, rng.random(len(predicted)) < accuracy, {"raw": raw})
    gap = 0.97 - accuracy
    covered = (table["raw_gap_low"] <= gap) & (gap <= table["raw_gap_high"])
    assert 0.87 <= covered.mean() <= 0.995
    covered = table["accuracy_low"].le(accuracy) & table["accuracy_high"].ge(accuracy)
    assert 0.93 <= covered.mean() <= 0.998


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_order_of_rows_does_not_matter(seed: int, grouped: bool) -> None:
    predicted, correct, raw = cases(seed, 60)
    groups = np.random.default_rng(seed).integers(0, 9, 60)
    turned = np.random.default_rng(seed + 1).permutation(60)
    table = class_table(
        predicted, correct, {"raw": raw}, groups=groups if grouped else None
    )
    again = class_table(
        predicted[turned],
        correct[turned],
        {"raw": raw[turned]},
        groups=groups[turned] if grouped else None,
    )
    pd.testing.assert_frame_equal(table, again)


def test_a_class_is_measured_by_its_own_rows() -> None:
    predicted, correct, raw = cases(2)
    table = class_table(predicted, correct, {"raw": raw})
    for name, row in table.iterrows():
        own = predicted == name
        alone = class_table(predicted[own], correct[own], {"raw": raw[own]}).iloc[0]
        assert row.to_numpy() == pytest.approx(alone.to_numpy(), nan_ok=True)


def test_table_knows_what_was_fitted_on() -> None:
    predicted, correct, raw = cases(3)
    platt = PlattScalingCalibrator().fit(raw[:100], correct[:100])
    for rows, expected in ((slice(100), ["mended"]), (slice(100, None), [])):
        stated = {"raw": raw[rows], "mended": platt.predict(raw[rows])}
        table = class_table(predicted[rows], correct[rows], stated)
        assert table.attrs["in_sample"] == expected


# The mean gap ---------------------------------------------------------------------


def test_gap_by_hand() -> None:
    predicted, correct = ["hand"] * 3 + ["toe"], [1, 1, 0, 0]
    raw = [0.9, 0.8, 0.7, 0.5]  # gaps 2.4 / 3 − 2 / 3 and .5
    assert class_gap(predicted, correct, raw) == pytest.approx((0.4 / 3 + 0.5) / 2)
    by_case = class_gap(predicted, correct, raw, weighting="case")
    assert by_case == pytest.approx((0.4 + 0.5) / 4)
    assert class_gap(predicted, correct, raw, min_n=2) == pytest.approx(0.4 / 3)
    # Confidence less correct is −.1, −.2 and .7 in the one class with a spread.
    chance = np.var([-0.1, -0.2, 0.7], ddof=1) / 3
    squared = class_gap(predicted, correct, raw, norm="squared")
    assert squared == pytest.approx(((0.4 / 3) ** 2 - chance) / 2)
    squared = class_gap(predicted, correct, raw, norm="squared", weighting="case")
    assert squared == pytest.approx(((0.4 / 3) ** 2 - chance) * 3 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_gap_is_the_top_label_error_with_one_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5] * 5, 150)
    truth = rng.integers(0, 5, 150)
    top, says = p.max(axis=1), p.argmax(axis=1)
    weightings: list[tuple[Any, Any]] = [("class", "macro"), ("case", "weighted")]
    for weighting, average in weightings:
        expected = top_label_calibration_error(p, truth, average=average, n_bins=1)
        found = class_gap(says, says == truth, top, weighting=weighting)
        assert found == pytest.approx(expected)


def test_gap_is_that_of_the_table() -> None:
    predicted, correct, raw = cases(4)
    table = class_table(predicted, correct, {"raw": raw})
    found = class_gap(predicted, correct, raw)
    assert found == pytest.approx(table["raw_gap"].abs().mean())
    big = table[table["n"] >= 25]
    found = class_gap(predicted, correct, raw, weighting="case", min_n=25)
    assert found == pytest.approx(np.average(big["raw_gap"].abs(), weights=big["n"]))


def test_squared_gap_of_one_confidence_is_the_debiased_error() -> None:
    _, correct, _ = cases(5)
    stated = np.full(200, 0.8)
    expected = debiased_calibration_error(stated, correct, n_bins=1)
    found = class_gap(["toe"] * 200, correct, stated, norm="squared")
    assert found == pytest.approx(expected)


def test_squared_gap_is_right_on_average_and_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(6)
    predicted = np.repeat(np.arange(10), 15)
    p = rng.uniform(0.4, 0.9, 150)
    drawn = rng.random((400, 150)) < p
    squared = [class_gap(predicted, y, p, norm="squared") for y in drawn]
    error = np.std(squared) / np.sqrt(len(squared))
    assert np.mean(squared) == pytest.approx(0, abs=4 * error)
    floor = noise_floor(
        p, measure=lambda at, y: class_gap(predicted, y, at), n_simulations=200
    )
    plain = np.mean([np.abs((p - y).reshape(10, 15).mean(axis=1)) for y in drawn])
    assert floor.mean == pytest.approx(plain, abs=0.01)
    assert floor.mean > 0.05


# The difference of two confidences ------------------------------------------------


def plain_gap(
    predicted: np.ndarray, d: np.ndarray, norm: str, weighting: str, kept: list[str]
) -> float:
    scores, sizes = [], []
    for name in kept:
        own = d[predicted == name]
        if not len(own):
            continue
        gap = own.mean()
        if norm == "l1":
            score = abs(gap)
        elif norm == "plain":
            score = gap**2
        else:
            score = gap**2 - own.var(ddof=1) / len(own) if len(own) > 1 else 0.0
        scores.append(score)
        sizes.append(len(own) if weighting == "case" else 1)
    return float(np.average(scores, weights=sizes))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighting", ["class", "case"])
@pytest.mark.parametrize("norm_", ["l1", "squared"])
def test_difference_is_that_of_a_plain_paired_bootstrap(
    norm_: Literal["l1", "squared"],
    weighting: Literal["class", "case"],
    grouped: bool,
) -> None:
    predicted, correct, first = cases(7, 60)
    second = first**2
    names, sizes = np.unique(predicted, return_counts=True)
    kept = [str(name) for name in names[sizes >= 4]]
    groups = np.arange(60) % 20 if grouped else np.arange(60)
    # Groups are numbered as they first occur among rows in the order of their classes.
    order = np.argsort(predicted, kind="stable")
    predicted, correct, first, second, groups = (
        column[order] for column in (predicted, correct, first, second, groups)
    )
    n_groups = int(groups.max()) + 1
    codes = pd.factorize(groups)[0]
    counts = np.random.default_rng(5).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), 150
    )

    def difference(rows: np.ndarray, how: str) -> float:
        a, b = (
            plain_gap(predicted[rows], (p - correct)[rows], how, weighting, kept)
            for p in (first, second)
        )
        return a - b

    every = np.arange(60)
    changes = [difference(np.repeat(every, count[codes]), norm_) for count in counts]
    value = difference(every, norm_)
    pivot = difference(every, "plain") if norm_ == "squared" else value
    low, high = np.quantile(changes, [0.05, 0.95])
    found = class_gap_difference(
        predicted,
        correct,
        first,
        second,
        norm=norm_,
        weighting=weighting,
        min_n=4,
        groups=groups if grouped else None,
        level=0.9,
        n_resamples=150,
        rng=5,
    )
    expected = (value, value + pivot - high, value + pivot - low)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm_", ["l1", "squared"])
def test_value_is_first_less_second(norm_: Any) -> None:
    predicted, correct, first = cases(8)
    second = np.sqrt(first)
    found = class_gap_difference(
        predicted, correct, first, second, norm=norm_, n_resamples=200
    )
    one, two = (class_gap(predicted, correct, p, norm=norm_) for p in (first, second))
    assert found.value == pytest.approx(one - two)
    assert found.high < 0  # the second is far too sure
    back = class_gap_difference(
        predicted, correct, second, first, norm=norm_, n_resamples=200
    )
    assert back == pytest.approx((-found.value, -found.high, -found.low))
    same = class_gap_difference(predicted, correct, first, first, norm=norm_)
    assert same == (0, 0, 0)


def test_resamples_without_a_class_that_counts_are_left_out() -> None:
    predicted = ["toe", "toe", "hand", "ear", "knee"]
    found = class_gap_difference(
        predicted, [1, 0, 1, 1, 1], [0.9] * 5, [0.6] * 5, min_n=2, n_resamples=500
    )
    assert found.value == pytest.approx(0.4 - 0.1)
    assert np.isfinite([found.low, found.high]).all()


# What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"predicted": []}, "predicted must be one column with at least one row"),
        ({"predicted": [["a", "b", "a"]]}, r"predicted must be one column .*\(1, 3\)"),
        ({"predicted": ["a", None, "b"]}, "predicted must not be missing; 1 of"),
        ({"correct": [1, 0]}, "correct must have one value for each of 3 rows"),
        ({"correct": [1, 0, 2]}, "correct must be 0 or 1; row 2 is 2"),
        ({"confidences": {}}, "confidences must have at least one; there is none"),
        ({"confidences": {"raw": [0.5, 0.5]}}, "raw must have one value for each of 3"),
        (
            {"confidences": {"raw": [0.5, 2, 0]}},
            r"raw must lie in \[0, 1\]; row 1 is 2",
        ),
        (
            {"confidences": {"a": [0.5] * 3, "a_gap": [0.5] * 3}},
            r"confidences must have names .*; \['a', 'a_gap'\] make 'a_gap' twice",
        ),
        ({"confidences": {"n": [0.5] * 3}}, "confidences must have names .* 'n' twice"),
        ({"groups": [1, 2]}, "groups must have one value for each of 3 rows"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_bad_table(change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {
        "predicted": ["a", "b", "a"],
        "correct": [1, 0, 1],
        "confidences": {"raw": [0.5, 0.9, 0.7]},
    }
    with pytest.raises(ValueError, match=f"^{says}"):
        class_table(**arguments | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"predicted": ["a", None, "b"]}, "predicted must not be missing; 1 of"),
        ({"correct": [1, 0, 2]}, "correct must be 0 or 1; row 2 is 2"),
        ({"second": [0.5, 2, 0]}, r"second must lie in \[0, 1\]; row 1 is 2"),
        ({"first": [0.5]}, "first must have one value for each of 3 rows"),
        ({"norm": "max"}, "norm must be one of 'l1', 'squared', not 'max'"),
        ({"weighting": "row"}, "weighting must be one of 'class', 'case', not 'row'"),
        ({"min_n": 0}, "min_n must be a whole number of 1 or more, not 0"),
        ({"min_n": 3}, "min_n must be at most 2, the rows of the most frequent"),
        ({"groups": [1, None, 2]}, "groups must not be missing; 1 of"),
        ({"n_resamples": 0}, "n_resamples must be a whole number"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_bad_gaps(change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {
        "predicted": ["a", "b", "a"],
        "correct": [1, 0, 1],
        "first": [0.5, 0.9, 0.7],
        "second": [0.5, 0.9, 0.7],
    }
    with pytest.raises(ValueError, match=f"^{says}"):
        class_gap_difference(**arguments | change)
