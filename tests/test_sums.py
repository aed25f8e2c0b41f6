"""Rules of helpers.metrics.sums: sums of shards say what all the rows say."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.metrics import (
    Binning,
    CalibrationSums,
    auroc,
    calibration_metrics,
    class_table,
    expected_calibration_error,
    log_loss,
    noise_floor,
)
from helpers.metrics.bins import Bins

# Bins of 2,560 cells: a power of two of them each, or not.
NESTED = (5, 10, 20, 40, 640, 2560)
OTHERS = (1, 2, 4, 8, 16, 64, 512)
UNLABELLED = ["rows without outcome", "mean confidence, of all rows"]


def rows(n: int, seed: int, dtype: type = float) -> tuple[np.ndarray, np.ndarray]:
    """Confidences with ties, edges of bins, 0 and 1 among them, and outcomes."""
    rng = np.random.default_rng(seed)
    p = np.concatenate(
        [
            rng.beta(3, 1, n),
            rng.integers(0, 21, n) / 20,
            rng.integers(0, 1001, n) / 1000,
            1 - rng.exponential(1e-4, n),
        ]
    ).astype(dtype)
    y = rng.random(len(p)) < 0.9 * p
    y[p == 1], y[p == 0] = True, False  # no infinite loss
    return p, y


def beside_edges(dtype: type) -> np.ndarray:
    """The floats around k/20, as far as ten of them to each side."""
    near = [np.arange(21, dtype=dtype) / dtype(20)] * 2
    found = [near[0]]
    for _ in range(10):
        near = [np.nextafter(x, dtype(to)) for x, to in zip(near, (0, 1), strict=True)]
        found += near
    return np.concatenate(found)


ROW = st.tuples(
    st.one_of(st.sampled_from([0.0, 0.35, 0.7, 1.0]), st.floats(0, 1)),
    st.sampled_from([0, 1, None]),
    st.sampled_from(["hand", "knee", "toe"]),
)


def sums_of(table: list[tuple[float, int | None, str]], **settings: Any) -> Any:
    confidence, correct, predicted = zip(*table, strict=True) if table else ([],) * 3
    return CalibrationSums.of(
        list(confidence), list(correct), list(predicted), **settings
    )


def assert_same(one: CalibrationSums, other: CalibrationSums) -> None:
    """Whole numbers are equal, others to 1e-9."""
    first, second = one.to_dict(), other.to_dict()
    for name in ("count", "correct", "n_impossible", "n_unlabelled", "classes", "clip"):
        assert first[name] == second[name], name
    for name in ("confidence", "squared", "loss", "unlabelled_confidence"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9, atol=1e-12)
    for name, column in first["by_class"].items():
        np.testing.assert_allclose(column, second["by_class"][name], rtol=1e-9)


@given(
    st.lists(st.tuples(ROW, st.integers(0, 4)), max_size=40), st.permutations(range(5))
)
@settings(max_examples=12)
def test_any_split_in_any_order_gives_the_same_sums(table, order):
    whole = sums_of([row for row, _ in table])
    shards = [sums_of([row for row, at in table if at == shard]) for shard in order]
    a, b, c, d, e = shards
    assert_same(sum(shards, CalibrationSums.of([])), whole)
    assert_same((a + (b + c)) + (d + e), whole)
    assert_same(e + (d + (c + (b + a))), whole)


def test_sums_worked_out_by_hand():
    sums = CalibrationSums.of(
        [0.0, 0.25, 0.7, 1.0, 0.5, 0.9],
        [0, 1, 1, 0, None, np.nan],
        ["a", "b", "b", "b", "b", "c"],
        n_cells=4,
    )
    assert sums.cells.count.tolist() == [1, 1, 1, 1]
    assert sums.cells.correct.tolist() == [0, 1, 1, 0]
    assert sums.cells.confidence.tolist() == [0.0, 0.25, 0.7, 1.0]
    assert sums.squared == pytest.approx(0.75**2 + 0.3**2 + 1)
    assert sums.loss == pytest.approx(-math.log(0.25) - math.log(0.7))
    assert (sums.n, sums.n_impossible) == (4, 1)
    assert (sums.n_unlabelled, sums.unlabelled_confidence) == (2, 1.4)
    found = sums.table(n_bins=2)
    assert found.loc["log loss", ["value", "note"]].tolist() == [
        math.inf,
        "infinite in 1 of the rows",
    ]
    assert found.loc["mean confidence", "value"] == pytest.approx(1.95 / 4)
    of_all = found.loc["mean confidence, of all rows", "value"]
    assert of_all == pytest.approx(3.35 / 6)
    assert sums.bins(2).count.tolist() == [2, 2]
    assert sums.calibration_error(n_bins=2) == pytest.approx(0.5 * 0.375 + 0.5 * 0.35)
    # Right at 0.25 and 0.7, wrong at 0 and 1: two of the four pairs are in order.
    assert found.loc["AUROC", ["value", "low", "high"]].tolist() == [0.5] * 3
    table = sums.by_class()
    assert table.index.tolist() == ["b", "a", "c"]
    assert table["n"].tolist() == [3, 1, 0]
    assert table["n_unlabelled"].tolist() == [1, 0, 1]
    assert table.loc["b", "confidence_gap"] == pytest.approx(1.95 / 3 - 2 / 3)
    assert table.loc["b", "confidence_of_all"] == pytest.approx(2.45 / 4)
    assert table.loc["c", ["accuracy", "accuracy_low", "confidence"]].isna().all()
    assert table.loc["c", "confidence_of_all"] == 0.9


MEASURES = ["value", "low", "high"]


@pytest.mark.parametrize(
    ("dtype", "n_bins"), [(np.float64, 5), (np.float32, 10), (np.float64, 20)]
)
def test_the_table_has_the_numbers_of_the_report(dtype, n_bins):
    p, y = rows(2_000, 0, dtype)
    parts = np.array_split(np.random.default_rng(0).permutation(len(p)), 7)
    shards = [CalibrationSums.of(p[at], y[at]) for at in parts]
    sums = sum(shards, CalibrationSums.of([]))
    report = calibration_metrics(p, y, binning=Binning(n_bins), n_resamples=400)
    found = sums.bins(n_bins)
    np.testing.assert_array_equal(found.count, report.curve["n"])
    np.testing.assert_allclose(found.accuracy, report.curve["accuracy"])
    np.testing.assert_allclose(found.mean_confidence, report.curve["confidence"])
    assert sums.calibration_error(n_bins=n_bins) == pytest.approx(report.ece)
    table, expected = sums.table(n_bins=n_bins), report.table
    exact = ["rows", "accuracy", "mean confidence", "confidence − accuracy", "ECE"]
    exact += ["debiased squared error", "MCE", "Brier score", "log loss"]
    near = ["noise floor, mean", "noise floor, 95 %", "AUROC"]
    assert set(table.index) - set(exact + near) == {*UNLABELLED}
    np.testing.assert_allclose(
        table.loc[exact, "value"], expected.loc[exact, "value"], rtol=1e-7
    )
    np.testing.assert_allclose(
        table.loc[near, "value"], expected.loc[near, "value"], rtol=0.05
    )
    assert table.loc["ECE", "note"] == report.rule
    ends = table.loc["accuracy", MEASURES]
    assert ends.tolist() == pytest.approx(report.accuracy)
    low, high = table.loc["AUROC", ["low", "high"]]
    assert low <= auroc(p, y) <= high < low + 0.05


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_floats_beside_an_edge_fall_into_the_same_bin(dtype):
    p = beside_edges(dtype)
    y = np.zeros(len(p), dtype=bool)
    sums = CalibrationSums.of(p, y)
    for n_bins in NESTED + OTHERS:
        rows = Bins.of(p, Binning(n_bins)).sums(p, y)
        moved = np.cumsum(sums.bins(n_bins).count - rows.count)
        # Of other bins float by float and edge by edge.
        assert np.abs(moved).max() <= (n_bins in OTHERS)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_few_rows_of_any_kind(table):
    p, y = map(np.array, zip(*table, strict=True))
    error = expected_calibration_error(p, y)
    for clip in (None, 1e-3):
        sums = CalibrationSums.of(p, y, clip=clip)
        found = sums.table(n_simulations=1)
        assert sums.calibration_error() == pytest.approx(error, abs=1e-12)
        loss = found.loc["log loss", "value"]
        assert loss == pytest.approx(log_loss(p, y, clip=clip), rel=1e-9)
    mean, low, high = found.loc["AUROC", MEASURES]
    assert math.isnan(mean) == (y.sum() in (0, len(y)))
    if not math.isnan(mean):
        assert low - 1e-12 <= auroc(p, y) <= high + 1e-12
        one_cell = CalibrationSums.of(p, y, n_cells=1).table(n_bins=1, n_simulations=1)
        assert one_cell.loc["AUROC", MEASURES].tolist() == [0.5, 0, 1]


def test_the_bounds_of_the_auroc_are_reached():
    # One cell holds both: in the best order all right ones are above, in the worst
    # below, and no rows that make these sums lie outside.
    orders = [0.70, 0.71, 0.2], [0.71, 0.70, 0.2]
    for confidence in orders:
        sums = CalibrationSums.of(confidence, [1, 0, 0], n_cells=10)
        bounds = sums.table(n_bins=10).loc["AUROC", ["low", "high"]]
        assert bounds.tolist() == [auroc(rows, [1, 0, 0]) for rows in orders]


def test_the_interval_of_the_gap_is_normal():
    p, y = rows(500, 5)
    d = p - y
    error = d.std(ddof=1) / math.sqrt(len(d))
    for level, reach in ((0.95, 1.959964), (0.8, 1.281552)):
        table = CalibrationSums.of(p, y).table(level=level, n_simulations=1)
        expected = d.mean() + reach * error * np.array([0, -1, 1])
        found = table.loc["confidence − accuracy", MEASURES]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_noise_floor_is_that_of_the_rows_where_cells_hold_equal_ones():
    p = np.random.default_rng(1).integers(0, 101, 3000) / 100
    found = CalibrationSums.of(p, np.ones(3000)).table(n_simulations=300, rng=7)
    floor = found.loc[["noise floor, mean", "noise floor, 95 %"], "value"]
    expected = noise_floor(p, n_simulations=300, rng=7)
    assert floor.tolist() == pytest.approx(expected, abs=1e-12)


def test_classes_are_those_of_the_rows():
    p, y = rows(500, 4)
    predicted = np.random.default_rng(4).choice(["toe", "hand", "knee"], len(p))
    expected = class_table(predicted, y, {"confidence": p})
    shared = ["n", "accuracy", "accuracy_low", "accuracy_high", "confidence"]
    shared.append("confidence_gap")
    for given_as in (predicted, list(predicted), pd.Categorical(predicted)):
        found = CalibrationSums.of(p, y, given_as).by_class()
        pd.testing.assert_frame_equal(
            found[shared], expected[shared], check_index_type=False, rtol=1e-9
        )
    assert found["n_unlabelled"].eq(0).all()
    np.testing.assert_allclose(found["confidence_of_all"], found["confidence"])


@pytest.mark.parametrize(
    "correct",
    [
        [1, None, 0, None],
        [1.0, np.nan, 0.0, np.nan],
        np.array([True, None, False, np.nan], dtype=object),
        pd.Series([True, None, False, None], dtype="boolean"),
        pd.Series([1, None, 0, None], dtype="Int64"),
    ],
)
def test_a_missing_outcome_is_one_in_any_form(correct):
    sums = CalibrationSums.of([0.9, 0.8, 0.7, 0.6], correct)
    assert_same(
        sums, CalibrationSums.of([0.9, 0.7], [1, 0]) + CalibrationSums.of([0.8, 0.6])
    )
    assert (sums.n, sums.n_unlabelled) == (2, 2)


def test_rows_without_outcome_change_no_measure():
    p, y = rows(100, 6)
    labelled = CalibrationSums.of(p, y)
    both = labelled + CalibrationSums.of(np.linspace(0, 1, 99))
    pd.testing.assert_frame_equal(
        both.table().drop(index=UNLABELLED), labelled.table().drop(index=UNLABELLED)
    )
    assert both.table().loc[UNLABELLED[0], "value"] == 99


def test_a_table_says_what_can_be_said():
    unknown = CalibrationSums.of([0.5, 0.7]).table()["value"]
    assert unknown.tolist() == pytest.approx([0, 2, 0.6])
    empty = CalibrationSums.of([]).table()["value"]
    assert empty.index.equals(unknown.index) and math.isnan(empty.iloc[2])
    right = CalibrationSums.of([0.5, 1.0], [1, 1]).table()["value"]
    assert math.isnan(right["AUROC"]) and right["accuracy"] == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_sums_survive_json_and_pickle(labelled):
    p, y = rows(200, 8)
    predicted = np.where(y, "ä", "b") if labelled else None
    sums = CalibrationSums.of(p, y, predicted, clip=0.01) + CalibrationSums.of(
        [1.0, 0.1], clip=0.01
    )
    text = json.dumps(sums.to_dict(), allow_nan=False)
    for again in (
        CalibrationSums.from_dict(json.loads(text)),
        pickle.loads(pickle.dumps(sums)),
    ):
        assert again.to_dict() == sums.to_dict()
        pd.testing.assert_frame_equal(again.table(), sums.table())
        pd.testing.assert_frame_equal(again.by_class(), sums.by_class())
        assert_same(again + sums, sums + again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format\\n.*'other'"),
        ({"clip": 2}, "clip\\n.*less than 0.5"),
        ({"count": [1.5, 0]}, "count.0\\n.*valid integer.*1.5"),
        ({"count": [2]}, "must be of the same length"),
        ({"count": [], "confidence": [], "correct": []}, "count\\n.*at least 1 item"),
        ({"correct": [0, 3]}, "confidence and correct must be at most count"),
        ({"confidence": [0, 2.5]}, "confidence and correct must be at most count"),
        ({"confidence": [0, -1]}, "confidence.1\\n.*greater than or equal to 0"),
        ({"squared": float("nan")}, "squared\\n.*finite number"),
        ({"more": 1}, "more\\n.*not permitted"),
        ({"classes": ["a", "a"]}, "Length mismatch"),
        ({"classes": [1]}, "classes.0\\n.*valid string"),
        ({"by_class": {}}, "by_class.count\\n.*required"),
    ],
)
def test_broken_sums_are_not_read(change, message):
    stored = CalibrationSums.of([0.9, 0.8], [1, 0], ["a", "a"], n_cells=2).to_dict()
    rounded = stored | {"confidence": [0, 2 * (1 + 1e-10)]}
    for sound in (stored, rounded):
        table = CalibrationSums.from_dict(sound).table(n_bins=2)
        assert table.loc["rows", "value"] == 2
    with pytest.raises(ValueError, match=message):
        CalibrationSums.from_dict(stored | change)
    for name in stored:
        less = {key: value for key, value in stored.items() if key != name}
        with pytest.raises(ValueError, match=f"{name}\n.*required"):
            CalibrationSums.from_dict(less)


@pytest.mark.parametrize(
    ("measure", "setting", "message"),
    [
        ("of", {"n_cells": 0}, "n_cells must be a whole num"),
        ("of", {"clip": 0}, "clip must lie between 0 and 0.5"),
        *(
            (name, {"n_bins": 15}, "n_bins must divide the 2560 cells; it is 15")
            for name in ("bins", "calibration_error", "table")
        ),
        *(
            (name, {"level": 95}, "level must lie between 0 and 1")
            for name in ("accuracy", "by_class", "table")
        ),
        ("table", {"n_simulations": 0}, "n_simulations must be"),
    ],
)
def test_bad_settings(measure, setting, message):
    sums, unknown = CalibrationSums.of([0.5], [1]), CalibrationSums.of([0.5, 0.6])
    rows = ([0.5], [1]) if measure == "of" else ()
    with pytest.raises(ValueError, match=message):
        getattr(sums, measure)(*rows, **setting)
    for refused in (unknown.accuracy, unknown.calibration_error):
        with pytest.raises(ValueError, match="known of a row; it is of none of 2"):
            refused()
    with pytest.raises(TypeError, match="rng must be a Generator, a seed or None"):
        sums.table(rng="0")


def test_sums_of_other_settings_do_not_add():
    sums = CalibrationSums.of([0.5], [1])
    with pytest.raises(ValueError, match="n_cells must be the same in both: 2560, 20"):
        sums + CalibrationSums.of([0.5], [1], n_cells=20)
    with pytest.raises(ValueError, match="clip must be the same in both: None, 0.01"):
        sums + CalibrationSums.of([0.5], [1], clip=0.01)
    with pytest.raises(TypeError, match="unsupported operand"):
        sums + 1
    assert CalibrationSums.of([0.5], n_cells=1920).bins(15).count.sum() == 0


def test_sums_take_the_same_memory_for_any_number_of_rows():
    p, y = rows(2, 9)
    few = many = CalibrationSums.of(p, y)
    for _ in range(27):
        many = many + many
    assert many.n == 8 * 2**27 > 10**9
    assert len(pickle.dumps(many)) == pytest.approx(len(pickle.dumps(few)), rel=0.01)
    table = many.table(n_simulations=10)["value"]
    for name in ("ECE", "AUROC", "Brier score"):
        assert table[name] == pytest.approx(few.table()["value"][name], rel=1e-9)
    assert table["noise floor, 95 %"] < 1e-4
