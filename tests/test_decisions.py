"""Buckets, and thresholds with a guarantee."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from helpers.decisions import (
    REVIEW_BUCKETS,
    TRUST_BUCKETS,
    Buckets,
    bucket_table,
    choose_threshold,
    choose_thresholds_per_class,
    error_free_labels,
    verify,
)
from helpers.decisions.thresholds import _counts, _grid, _passed, _starts

# Buckets --------------------------------------------------------------------------


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
    ("arguments", "message"),
    [
        (([], ["a"]), "at least one"),
        (([0.7, 0.5], ["a", "b", "c"]), "edges must rise"),
        (([0.5, 0.5], ["a", "b", "c"]), "edges must rise"),
        (([-0.1], ["a", "b"]), "edges must lie between 0 and 1"),
        (([0.5, 1.1], ["a", "b", "c"]), "edges must lie between 0 and 1"),
        (([0.5], ["a"]), "names must be 2"),
        (([0.5], ["a", "a"]), "names must be 2 different"),
        (([0.5], ["a", "b"], "middle"), "edge_belongs_to"),
        (([0.5], ["a", "b"], ["upper", "lower"]), "edge_belongs_to must be one word"),
    ],
)
def test_bad_buckets(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buckets(*arguments)


def test_worked_example_of_the_popular_recipe() -> None:
    # 150 predictions at 92.3 %, 138 of them right: 92.0 %, an error of .003.
    table = bucket_table([0.923] * 150, [1] * 138 + [0] * 12)
    row = table.loc["auto-approve"]
    assert (row["n"], row["share"]) == (150, 1.0)
    assert row["accuracy"] == 0.92 and row["gap"] == pytest.approx(-0.003)
    assert (round(row["low"], 3), round(row["high"], 3)) == (0.865, 0.954)
    assert table["accuracy"].isna().sum() == 3 and table["low"].isna().sum() == 3


def test_accuracy_in_a_bucket_is_not_that_above_its_edge() -> None:
    confidence = [0.95] * 80 + [0.8] * 20
    table = bucket_table(confidence, [1] * 80 + [1] * 10 + [0] * 10)
    assert table.loc["review", "accuracy"] == 0.5
    assert table.loc["review", "accuracy_above"] == 0.9
    assert table.loc["review", "n_above"] == 100
    assert table.index.tolist() == list(REVIEW_BUCKETS.names)[::-1]


def test_interval_is_the_one_asked_for() -> None:
    exact = bucket_table([0.95] * 20, [1] * 18 + [0] * 2, interval="clopper-pearson")
    low, high = proportion_confint(18, 20, method="beta")
    found = exact.loc["auto-approve", ["low", "high"]].tolist()
    assert found == pytest.approx([low, high])
    with pytest.raises(ValueError, match="interval"):
        bucket_table([0.5], [1], interval="wald")


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


# Thresholds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("risk", "delta", "n"), [(0.1, 0.05, 29), (0.05, 0.05, 59), (0.5, 0.5, 1)]
)
def test_error_free_labels(risk: float, delta: float, n: int) -> None:
    assert error_free_labels(risk, delta) == n
    assert (1 - risk) ** n <= delta and (n == 1 or (1 - risk) ** (n - 1) > delta)


@given(st.floats(1e-4, 0.999), st.floats(1e-6, 0.999))
def test_error_free_labels_are_the_fewest(risk: float, delta: float) -> None:
    n = error_free_labels(risk, delta)
    assert (1 - risk) ** n <= delta
    assert n == 1 or (1 - risk) ** (n - 1) > delta


def test_29_items_without_an_error_show_ten_percent() -> None:
    assert choose_threshold([0.9] * 28, [1] * 28, 0.1).threshold is None
    found = choose_threshold([0.9] * 29, [1] * 29, 0.1)
    assert found.threshold == 0.9 and found.n_accepted == 29 and found.coverage == 1
    # One error more, and they do not.
    assert choose_threshold([0.9] * 29, [1] * 28 + [0], 0.1).threshold is None


@pytest.mark.parametrize(("n", "accuracy"), [(187, 0.980), (199, 0.981)])
def test_hundred_percent_of_a_few_is_not_hundred_percent(
    n: int, accuracy: float
) -> None:
    table = bucket_table([0.95] * n, [1] * n)
    assert round(table.loc["auto-approve", "low"], 3) == accuracy
    assert (
        round(verify(0.9, [0.95] * n, [1] * n, 0.02).high, 3)
        == {
            187: 0.016,
            199: 0.015,
        }[n]
    )


def test_certified_threshold_passed_its_test_and_all_above_it() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1, 2000)
    correct = rng.uniform(size=2000) < scores
    found = choose_threshold(scores, correct, 0.1, 0.05)
    assert found.threshold is not None and 0.8 < found.threshold < 0.95
    row = found.tested[found.tested["threshold"] == found.threshold].iloc[0]
    assert (row["n"], row["errors"]) == (found.n_accepted, found.n_errors)
    assert row["upper"] <= 0.1 and row["passed"]
    accepted = scores >= found.threshold
    assert found.n_accepted == accepted.sum()
    assert found.n_errors == (~correct[accepted]).sum()
    # Clopper and Pearson's limit and the binomial test say the same.
    level = 0.05 / len(_starts(2000, 0.1, 0.05))
    tested = found.tested
    cdf = binom.cdf(tested["errors"], tested["n"], 0.1)
    assert ((tested["upper"] <= 0.1) == (cdf <= level)).all()
    assert not tested["passed"][tested["upper"] > 0.1].any()
    assert str(found).startswith(f"Accept from {found.threshold:g}")


def shape(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, Callable]:
    """Scores, and the risk of a row with each score."""
    if name == "calibrated":
        return rng.uniform(0.5, 1, n), lambda s: 1 - s
    if name == "always at the limit":
        return rng.uniform(0.5, 1, n), lambda s: np.full(len(s), 0.1001)
    if name == "jump below 0.8":
        return rng.uniform(0.5, 1, n), lambda s: np.where(s >= 0.8, 0.02, 0.3)
    if name == "best in the middle":
        return rng.uniform(0.5, 1, n), lambda s: np.where(s > 0.9, 0.3, 0.05)
    if name == "bad at the top, then good":
        return rng.uniform(0.5, 1, n), lambda s: np.where(s > 0.95, 0.15, 0.095)
    scores = rng.choice([0.6, 0.8, 0.9, 0.99], n, p=[0.2, 0.3, 0.3, 0.2])
    return scores, lambda s: np.select([s > 0.95, s > 0.85], [0.05, 0.14], 0.12)


def true_risks(name: str, points: np.ndarray) -> np.ndarray:
    """Risk above each threshold, from very many rows."""
    rng = np.random.default_rng(9)
    scores, risk = shape(name, 400_000, rng)
    order = np.argsort(-scores)
    total = np.append(0, np.cumsum(risk(scores)[order]))
    n = np.searchsorted(-scores[order], -points, side="right")
    return np.where(n > 0, total[n] / np.maximum(n, 1), 0)


SHAPES = [
    "calibrated",
    "always at the limit",
    "jump below 0.8",
    "best in the middle",
    "bad at the top, then good",
    "ties",
]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("n", "delta"), [(60, 0.2), (600, 0.05)])
def test_certified_risk_is_exceeded_no_more_often_than_promised(
    name: str, n: int, delta: float
) -> None:
    repetitions, limit = 2000, 0.1
    points = _grid(None)
    truth = true_risks(name, points)
    rng = np.random.default_rng(1)
    starts = _starts(n, limit, delta)
    level = delta / len(starts)
    broken = chosen = 0
    for _ in range(repetitions):
        scores, risk = shape(name, n, rng)
        correct = rng.uniform(size=n) >= risk(scores)
        rows, errors = _counts(scores, correct, points)
        passed = _passed(rows, errors, starts, limit, level)
        if passed.any():
            chosen += 1
            # Not only the one chosen: all that passed hold together.
            broken += bool((truth[passed] > limit + 2e-4).any())
    assert broken / repetitions <= delta + 3 * math.sqrt(delta * (1 - delta) / 2000)
    if name in ("calibrated", "jump below 0.8") and n == 600:
        # And it is not by never choosing any.
        assert chosen > (0.95 if name == "jump below 0.8" else 0.55) * repetitions


@pytest.mark.parametrize("name", ["best in the middle", "bad at the top, then good"])
def test_many_labels_with_all_sequences(name: str) -> None:
    points, n, limit, delta = _grid(None), 6000, 0.1, 0.05
    starts = _starts(n, limit, delta)
    assert len(starts) == 4
    truth = true_risks(name, points)
    rng = np.random.default_rng(2)
    scores, risk = shape(name, 400_000, rng)
    cell = len(points) - np.searchsorted(points[::-1], scores, side="right")
    share = np.bincount(cell, minlength=len(points)) / len(scores)
    total = np.bincount(cell, risk(scores), minlength=len(points))
    rates = np.divide(total, share * len(scores), where=share > 0, out=np.zeros(107))
    rows = rng.multinomial(n, share, size=2000)
    errors = rng.binomial(rows, rates)
    broken = 0
    for above, wrong in zip(rows.cumsum(axis=1), errors.cumsum(axis=1), strict=True):
        passed = _passed(above, wrong, starts, limit, delta / 4)
        broken += bool((truth[passed] > limit + 5e-4).any())
    assert broken / 2000 <= delta + 3 * math.sqrt(delta * (1 - delta) / 2000)


def test_single_precision_is_verified_as_it_was_chosen() -> None:
    scores = np.float32([0.9] * 60 + [0.5] * 60)
    found = choose_threshold(scores, [1] * 60 + [0] * 60, 0.1, grid=[0.9])
    assert found.n_accepted == 60
    for threshold in (0.9, np.float64(0.9)):
        assert verify(threshold, scores, [1] * 120, 0.1).n_accepted == 60


def test_too_few_labels_say_how_many_it_takes() -> None:
    found = choose_threshold([0.95] * 20, [1] * 20, 0.1)
    assert found.threshold is None and found.labels_needed == 29
    assert "may take 29 or more" in str(found)
    assert found.n_accepted == found.n_errors == 0 and found.coverage == 0
    # A risk that is as high everywhere is not mended by labels.
    found = choose_threshold([0.95] * 100, [1, 0] * 50, 0.1)
    assert found.labels_needed is None and "No threshold seems" in str(found)
    # Just below the limit it takes many, and with as many it works.
    correct = ([1] * 93 + [0] * 7) * 2
    found = choose_threshold([0.95] * 200, correct, 0.1)
    needed = found.labels_needed
    assert found.threshold is None and needed is not None and needed > 200
    more = ([1] * 93 + [0] * 7) * math.ceil(needed * 1.5 / 100)
    assert choose_threshold([0.95] * len(more), more, 0.1).threshold is not None


def test_all_errors_and_no_errors() -> None:
    assert choose_threshold([0.9] * 300, [0] * 300, 0.1).labels_needed is None
    assert choose_threshold([0.9] * 300, [1] * 300, 0.1).threshold == 0.9


def test_own_grid_is_used_and_ties_go_together() -> None:
    scores = [0.9] * 100 + [0.7] * 100
    correct = [1] * 100 + [1, 0] * 50
    found = choose_threshold(scores, correct, 0.1, grid=[0.7, 0.9, 0.8, 0.9])
    assert found.tested["threshold"].tolist() == [0.9, 0.8, 0.7]
    # 0.8 accepts the same rows, and others that nobody has labelled.
    assert found.threshold == 0.9 and found.n_accepted == 100
    single = choose_threshold(np.float32(scores), correct, 0.1, grid=[0.9])
    assert single.n_accepted == 100


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.5, 1, 300).round(2)
    correct = rng.uniform(size=300) < 0.8 + 0.2 * scores
    order = rng.permutation(300)
    first = choose_threshold(scores, correct, 0.1)
    second = choose_threshold(scores[order], correct[order], 0.1)
    assert first.tested.equals(second.tested)
    assert first.threshold == second.threshold


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 0.1), "scores"),
        (([0.5], [1], 0), "max_risk must lie between 0 and 1"),
        (([0.5], [1], 1), "max_risk"),
        (([0.5], [1], 0.1, 0), "delta must lie between 0 and 1"),
        (([0.5], [1, 0], 0.1), "correct"),
        (([1.5], [1], 0.1), "scores must lie in"),
        (([math.nan], [1], 0.1), "scores"),
    ],
)
def test_bad_input(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_threshold(*arguments)
    with pytest.raises(ValueError, match=message):
        verify(0.5, *arguments)
    with pytest.raises(ValueError, match="grid"):
        choose_threshold([0.5], [1], 0.1, grid=[2.0])


def test_thresholds_per_class_share_the_error() -> None:
    scores = [0.9] * 70
    labels = ["a"] * 35 + ["b"] * 35
    apart = choose_thresholds_per_class(scores, [1] * 70, labels, 0.1, together=False)
    assert {one.delta for one in apart.values()} == {0.05}
    assert all(one.threshold == 0.9 for one in apart.values())
    joint = choose_thresholds_per_class(scores, [1] * 70, labels, 0.1)
    assert {one.delta for one in joint.values()} == {0.025}
    few = choose_thresholds_per_class(scores, [1] * 70, ["a"] * 60 + ["b"] * 10, 0.1)
    assert few["a"].threshold == 0.9 and few["b"].threshold is None
    for bad in (["a"], [None] * 70):
        with pytest.raises(ValueError, match="predicted must have a label"):
            choose_thresholds_per_class(scores, [1] * 70, bad, 0.1)


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [(200, 0, "holds"), (100, 100, "fails"), (195, 10, "not enough data"), (0, 0, "")],
)
def test_verdicts(right: int, wrong: int, verdict: str) -> None:
    scores = [0.95] * (right + wrong) + [0.2] * 50
    found = verify(0.9, scores, [1] * right + [0] * wrong + [0] * 50, 0.05)
    assert found.verdict == (verdict or "not enough data")
    assert (found.n_accepted, found.n_errors) == (right + wrong, wrong)
    assert found.coverage == (right + wrong) / len(scores)
    assert found.coverage_low <= found.coverage <= found.coverage_high
    if not verdict:
        assert math.isnan(found.risk) and (found.low, found.high) == (0, 1)
        return
    low, high = proportion_confint(wrong, right + wrong, alpha=0.1, method="beta")
    assert found.high == pytest.approx(high)
    assert found.low == pytest.approx(low)


def test_verdicts_are_wrong_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(3)
    holds = fails = 0
    for _ in range(1000):
        correct = rng.uniform(size=150) >= 0.1  # exactly at the limit
        found = verify(0.5, np.full(150, 0.9), correct, 0.1 - 1e-9, 0.1)
        holds += found.verdict == "holds"
        fails += found.verdict == "fails"
    for wrong in (holds, fails):
        assert wrong / 1000 <= 0.1 + 3 * math.sqrt(0.09 / 1000)
