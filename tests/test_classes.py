"""Measures by predicted class and means of surveys: by hand, and over drawn data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.proportion import proportion_confint

from helpers.calibration import PlattScalingCalibrator
from helpers.metrics import class_gap, class_gap_difference, class_table, weighted_mean

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


def test_table_by_hand():
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


def test_one_row_tells_nothing_of_a_mean():
    ear = class_table(["ear", "toe", "toe"], [0, 1, 1], {"raw": [0.8] * 3}).loc["ear"]
    assert (ear["raw"], ear["raw_gap"]) == (0.8, 0.8)
    unknown = ear[["raw_low", "raw_high", "raw_gap_low", "raw_gap_high"]]
    assert unknown.isna().all()
    low, high = wilson(0, 1, norm.ppf(0.975))
    assert ear["accuracy_low"] == pytest.approx(low, abs=1e-12)
    assert ear["accuracy_high"] == pytest.approx(high)
    # Nor does one hospital of others.
    one = class_table(
        ["toe"] * 3, [1, 0, 1], {"raw": [0.5, 0.6, 0.7]}, groups=["a"] * 3
    )
    assert one.filter(regex="_low|_high").isna().all(axis=None)
    assert one["raw_gap"].item() == pytest.approx(0.6 - 2 / 3)


def test_ties_are_by_name_and_names_need_not_be_text():
    for names in (["b", "c", "a"], [2, 3, 1], np.array([2, 3, 1])):
        table = class_table([*names, names[1]], [1] * 4, {"raw": [0.5] * 4})
        assert list(table.index) == [names[1], *sorted([names[0], names[2]])]


def test_groups_by_hand():
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
    raw = [0.9, 0.8, 0.5, 0.6, 0.3]
    row = class_table(["toe"] * 5, correct, {"raw": raw}, groups=groups).iloc[0]
    expected = weighted_mean(raw, np.ones(5), clusters=groups)[:2]
    assert tuple(row[["raw", "raw_low"]]) == pytest.approx(expected)
    turned = class_table(
        ["toe"] * 5, correct[::-1], {"raw": raw[::-1]}, groups=groups[::-1]
    )
    pd.testing.assert_series_equal(turned.iloc[0], row)


def test_table_knows_what_was_fitted_on():
    predicted, correct, raw = cases(3)
    platt = PlattScalingCalibrator().fit(raw[:100], correct[:100])
    for rows, expected in ((slice(100), ["mended"]), (slice(100, None), [])):
        stated = {"raw": raw[rows], "mended": platt.predict(raw[rows])}
        table = class_table(predicted[rows], correct[rows], stated)
        assert table.attrs["in_sample"] == expected


def test_gap_by_hand():
    predicted, correct = ["hand"] * 3 + ["toe"], [1, 1, 0, 0]
    raw = [0.9, 0.8, 0.7, 0.5]  # gaps 2.4 / 3 − 2 / 3 and .5
    assert class_gap(predicted, correct, raw) == pytest.approx((0.4 / 3 + 0.5) / 2)
    assert class_gap(predicted, correct, raw, min_n=2) == pytest.approx(0.4 / 3)
    # Confidence less correct is −.1, −.2 and .7 in the one class with a spread.
    chance = np.var([-0.1, -0.2, 0.7], ddof=1) / 3
    squared = class_gap(predicted, correct, raw, norm="squared")
    assert squared == pytest.approx(((0.4 / 3) ** 2 - chance) / 2)


def plain_gap(
    predicted: np.ndarray, d: np.ndarray, kept: list[str], less: bool = True
) -> float:
    """The mean squared gap of the classes that have rows, less what chance adds."""
    scores = []
    for name in kept:
        own = d[predicted == name]
        if len(own):
            chance = own.var(ddof=1) / len(own) if len(own) > 1 else own.mean() ** 2
            scores.append(own.mean() ** 2 - less * chance)
    return float(np.mean(scores))


@pytest.mark.parametrize("grouped", [False, True])
def test_difference_is_that_of_a_plain_paired_bootstrap(grouped):
    predicted, correct, first = cases(7, 60)
    names, sizes = np.unique(predicted, return_counts=True)
    kept = [str(name) for name in names[sizes >= 4]]
    # Rows in the order of their classes, and groups numbered as they first occur.
    order = np.argsort(predicted, kind="stable")
    predicted, correct, first = predicted[order], correct[order], first[order]
    groups = pd.factorize(order % 20 if grouped else order)[0]
    n_groups = int(groups.max()) + 1
    even = np.full(n_groups, 1 / n_groups)
    counts = np.random.default_rng(5).multinomial(n_groups, even, 150)

    def difference(rows, less=True):
        a, b = (
            plain_gap(predicted[rows], (p - correct)[rows], kept, less)
            for p in (first, first**2)
        )
        return a - b

    every = np.arange(60)
    changes = [difference(np.repeat(every, count[groups])) for count in counts]
    value, pivot = difference(every), difference(every, less=False)
    low, high = np.quantile(changes, [0.05, 0.95])
    found = class_gap_difference(
        predicted,
        correct,
        (first, first**2),
        min_n=4,
        groups=groups if grouped else None,
        level=0.9,
        n_resamples=150,
        rng=5,
    )
    expected = (value, value + pivot - high, value + pivot - low)
    assert found == pytest.approx(expected, abs=1e-12)


def test_resamples_without_a_class_that_counts_are_left_out():
    predicted = ["toe", "toe", "hand", "ear", "knee"]
    both = [0.9] * 5, [0.6] * 5
    found = class_gap_difference(
        predicted, [1, 0, 1, 1, 1], both, min_n=2, n_resamples=500
    )
    assert found.value == pytest.approx(0.4**2 - 0.1**2)
    assert np.isfinite([found.low, found.high]).all()


PAIR = [0.5, 0.9, 0.7], [0.5, 0.9, 0.7]
TABLE: Any = (class_table, {"raw": PAIR[0]})
GAPS: Any = (class_gap_difference, PAIR)


@pytest.mark.parametrize(
    ("call", "change", "says"),
    [
        (TABLE, {"correct": [1, 0, 2]}, "correct must be 0 or 1; row 2 is 2"),
        (TABLE, {"confidences": {}}, "confidences must have at least one; there is no"),
        (TABLE, {"confidences": {"raw": [0.5, 2, 0]}}, r"raw must .* row 1 is 2"),
        (TABLE, {"confidences": {"n": PAIR[0]}}, "the table .* column 'n' twice"),
        (
            TABLE,
            {"confidences": dict(zip(("a", "a_gap"), PAIR, strict=True))},
            "the table of .* must not have the column 'a_gap' twice",
        ),
        (TABLE, {"level": 95}, "level must lie between 0 and 1, not 95"),
        (GAPS, {"confidences": (PAIR[0], [0.5, 2, 0])}, r"confidences\[1\] must"),
        (GAPS, {"confidences": PAIR[:1]}, "confidences must be two; there are 1"),
        (GAPS, {"min_n": 0}, "min_n must be a whole number of 1 or more, not 0"),
        (GAPS, {"min_n": 3}, "min_n must be at most 2, of the largest class, not 3"),
        (GAPS, {"n_resamples": 0}, "n_resamples must be a whole number"),
        (GAPS, {"level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_bad_settings(call, change, says):
    function, confidences = call
    given = {"correct": [1, 0, 1], "confidences": confidences} | change
    with pytest.raises(ValueError, match=f"^{says}"):
        function(["a", "b", "a"], **given)
    with pytest.raises(ValueError, match="norm must be one of 'l1', 'squared', not"):
        class_gap(["a"], [1], [0.5], norm="max")


# Six rows of four hospitals in two strata.
VALUES = [1, 0, 1, 0, 1, 1]
WEIGHTS = [1, 2, 1, 2, 2, 2]
STRATA = list("aaabbb")
HOSPITALS = [1, 1, 2, 3, 4, 4]


def survey(seed: int, n: int = 60) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    hospitals = rng.integers(0, 12, n)
    return {
        "values": rng.normal(size=n) + 0.3 * hospitals,
        "weights": rng.uniform(1, 50, n),
        "strata": hospitals % 3,
        "clusters": hospitals,
    }


@pytest.mark.parametrize(
    ("hospitals", "squares", "freedom"),
    [
        # Hospitals score −.08 and .04 in stratum a, −.12 and .16 in b: .06 and .14 on
        # each side of their stratum's mean.
        (HOSPITALS, 2 * 2 * 0.06**2 + 2 * 2 * 0.14**2, 4 - 2),
        # A lone one in stratum a scores −.04: it is held against the mean of all.
        ([1, 1, 1, 3, 4, 4], 0.04**2 + 2 * 2 * 0.14**2, 3 - 2),
    ],
)
def test_mean_by_hand(hospitals, squares, freedom):
    error = np.sqrt(squares)
    for level, quantile in ((0.95, 0.975), (0.5, 0.75)):
        found = weighted_mean(
            VALUES, WEIGHTS, strata=STRATA, clusters=hospitals, level=level
        )
        reach = student.ppf(quantile, freedom) * error
        assert found == pytest.approx((0.6, 0.6 - reach, 0.6 + reach, error, 100 / 18))


@pytest.mark.parametrize("seed", range(2))
def test_one_stratum_is_a_regression_on_a_constant(seed):
    """With clusters, the two agree without any factor."""
    data = survey(seed) | {"strata": None}
    found = weighted_mean(**data, level=0.9)
    model = WLS(data["values"], np.ones(60), weights=data["weights"])
    groups = {"groups": data["clusters"]}
    fitted = model.fit(cov_type="cluster", cov_kwds=groups, use_t=True)
    low, high = fitted.conf_int(0.1)[0]
    assert found[:4] == pytest.approx((fitted.params[0], low, high, fitted.bse[0]))


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-10, 10))
def test_units_order_and_names_do_not_matter(seed, scale, shift):
    data = survey(seed)
    found = np.array(weighted_mean(**data))
    turned = np.random.default_rng(seed).permutation(60)
    moved = {name: column[turned] for name, column in data.items()}
    moved["weights"] = moved["weights"] * scale
    moved["clusters"] = [f"Hospital {at}" for at in moved["clusters"]]
    assert np.array(weighted_mean(**moved)) == pytest.approx(found)
    moved["values"] = moved["values"] * scale + shift
    again = np.array(weighted_mean(**moved))
    assert again[:3] == pytest.approx(found[:3] * scale + shift)
    assert again[3:] == pytest.approx(found[3:] * [scale, 1])


def test_a_name_in_two_strata_is_two_hospitals():
    data = survey(2) | {"clusters": survey(2)["clusters"] // 3}
    own = data["clusters"] + 100 * data["strata"]
    assert weighted_mean(**data) == weighted_mean(**data | {"clusters": own})


def test_the_weight_0_leaves_out_rows_but_not_the_design():
    data = survey(3)
    data["weights"][data["clusters"] == 4] = 0  # one of four in its stratum
    found = weighted_mean(**data)
    some = data["weights"] > 0
    left = weighted_mean(**{name: column[some] for name, column in data.items()})
    assert found.value == pytest.approx(left.value)
    assert found.effective_n == pytest.approx(left.effective_n)
    # What hospitals can add to a total: one of them nothing.
    assert found.standard_error != pytest.approx(left.standard_error, rel=1e-3)
    reach = found.high - found.value
    assert reach / found.standard_error == pytest.approx(student.ppf(0.975, 11 - 3))


def test_without_freedom_there_is_no_interval():
    for design in ({"clusters": [1, 1, 1]}, {"strata": [1, 2, 3]}):
        found = weighted_mean([1, 0, 1], [1, 1, 2], **design)
        assert found.value == 0.75 and found.effective_n == pytest.approx(16 / 6)
        assert np.isnan([found.low, found.high, found.standard_error]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": [1, -2, 1]}, "weights must be 0 or more; row 1 is -2.0"),
        ({"weights": [0, 0, 0]}, "weights must not all be 0"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_bad_survey(change, says):
    arguments = {"values": [1, 0, 1], "weights": [1, 1, 1]} | change
    with pytest.raises(ValueError, match=f"^{says}"):
        weighted_mean(**arguments)
