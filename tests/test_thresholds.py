"""Thresholds with a guarantee, and their verification."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.special import ndtr
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from helpers import plots
from helpers.calibration import PlattScalingCalibrator, cross_fitted
from helpers.decisions import (
    CalibrationMonitor,
    ConformalSets,
    Costs,
    Policy,
    best_threshold,
    bucket_table,
    choose_threshold,
    choose_thresholds_per_class,
    cost_curve,
    error_free_labels,
    verify,
    verify_accepted,
    verify_per_class,
)
from helpers.decisions.risk import (
    labels_to_certify,
    one_row_each,
    passed_tests,
    sequence_starts,
    upper_limits,
)
from helpers.decisions.thresholds import _grid
from helpers.finetune import accuracy_above_table
from helpers.metrics import (
    paired_difference,
    risk_coverage_curve,
)

POINTS = _grid(None)


def slack(delta: float, repetitions: int = 2000) -> float:
    """What a share may exceed its expectation by, being simulated."""
    return 3 * math.sqrt(delta * (1 - delta) / repetitions)


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


@pytest.mark.parametrize(
    ("n", "accuracy", "risk"), [(187, 0.980, 0.016), (199, 0.981, 0.015)]
)
def test_hundred_percent_of_a_few_is_not_hundred_percent(
    n: int, accuracy: float, risk: float
) -> None:
    table = bucket_table([0.95] * n, [1] * n)
    assert round(table.loc["auto-approve", "low"], 3) == accuracy
    assert round(verify(0.9, [0.95] * n, [1] * n, 0.02).high, 3) == risk


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
    starts = sequence_starts(2000, 0.1, 0.05)
    tested = found.tested
    cdf = binom.cdf(tested["errors"], tested["n"], 0.1)
    assert ((tested["upper"] <= 0.1) == (cdf <= 0.05 / len(starts))).all()
    assert not tested["passed"][tested["upper"] > 0.1].any()
    # Each sequence by hand: from its start down to the first test that fails.
    expected = set()
    for start in starts:
        for at in np.flatnonzero(tested["n"] >= start):
            if tested["upper"][at] > 0.1:
                break
            expected.add(int(at))
    assert set(np.flatnonzero(tested["passed"])) == expected
    assert str(found).startswith(f"Accept from {found.threshold:g}")


# The guarantee, by simulation ------------------------------------------------------


def shape(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and the risk of each row."""
    s = rng.uniform(0.5, 1, n)
    if name == "calibrated":
        return s, 1 - s
    if name == "always at the limit":
        return s, np.full(n, 0.1001)
    if name == "jump below 0.8":
        return s, np.where(s >= 0.8, 0.02, 0.3)
    if name == "best in the middle":
        return s, np.where(s > 0.9, 0.3, 0.05)
    if name == "bad at the top, then good":
        return s, np.where(s > 0.95, 0.15, 0.095)
    s = rng.choice([0.6, 0.8, 0.9, 0.99], n, p=[0.2, 0.3, 0.3, 0.2])
    return s, np.select([s > 0.95, s > 0.85], [0.05, 0.14], 0.12)


@cache
def cells(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of rows between each threshold and the next higher, and their risk."""
    scores, risk = shape(name, 200_000, np.random.default_rng(9))
    cell = len(POINTS) - np.searchsorted(POINTS[::-1], scores, side="right")
    count = np.bincount(cell, minlength=len(POINTS))
    total = np.bincount(cell, risk, minlength=len(POINTS))
    return count / len(scores), total / np.maximum(count, 1)


def drawn(
    name: str, n: int, repetitions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows above each threshold, and errors among them, of many samples."""
    share, risk = cells(name)
    rows = rng.multinomial(n, share, size=repetitions)
    return rows.cumsum(axis=1), rng.binomial(rows, risk).cumsum(axis=1)


SHAPES = [
    "calibrated",
    "always at the limit",
    "jump below 0.8",
    "best in the middle",
    "bad at the top, then good",
    "ties",
]
MANY = [(name, 6000, 0.05) for name in SHAPES[3:5]]


@pytest.mark.parametrize(
    ("name", "n", "delta"),
    [(name, *size) for name in SHAPES for size in [(60, 0.2), (600, 0.05)]] + MANY,
)
def test_certified_risk_is_exceeded_no_more_often_than_promised(
    name: str, n: int, delta: float
) -> None:
    limit = 0.1
    starts = sequence_starts(n, limit, delta)
    assert len(starts) == {60: 1, 600: 2, 6000: 4}[n]
    rows, errors = drawn(name, n, 2000, np.random.default_rng(1))
    passed = passed_tests(rows, errors, starts, limit, delta / len(starts))
    share, risk = cells(name)
    above = share.cumsum()
    truth = (share * risk).cumsum() / np.where(above > 0, above, 1)
    # Not only the one chosen: all that passed hold together.
    broken = (passed & (truth > limit)).any(axis=1).mean()
    assert broken <= delta + slack(delta)
    if name in ("calibrated", "jump below 0.8") and n == 600:
        # And it is not by never choosing any.
        chosen = passed.any(axis=1).mean()
        assert chosen > (0.95 if name == "jump below 0.8" else 0.55)


def test_guarantee_with_several_rows_of_a_document() -> None:
    """Documents of 20 rows, a ninth of which are wrong nine times in ten."""
    documents, size, limit, delta = 100, 20, 0.0999, 0.05
    groups = np.repeat(np.arange(documents), size)
    rng = np.random.default_rng(4)
    bad = rng.uniform(size=(2000, documents)) < 1 / 9
    risk = np.repeat(np.where(bad, 0.9, 0), size, axis=1)
    wrong = rng.uniform(size=risk.shape) < risk
    used = one_row_each(groups, len(groups))
    assert len(used) == documents

    def broken(errors: np.ndarray, n: int) -> float:
        # One threshold that accepts all; its true risk is 0.1.
        starts = sequence_starts(n, limit, delta)[:1]
        rows = np.full((len(errors), 1), n)
        return passed_tests(rows, errors[:, None], starts, limit, delta).mean()

    assert broken(wrong.sum(axis=1), len(groups)) > 0.3
    assert broken(wrong[:, used].sum(axis=1), documents) <= delta + slack(delta)


def test_verdicts_are_wrong_no_more_often_than_promised() -> None:
    counts = np.arange(151)
    verdicts = np.array(
        [
            verify_accepted([1] * 150, counts[:150] >= wrong, 0.1, 0.1).verdict
            for wrong in counts
        ]
    )
    # Just at the limit, above and below it, with the exact probability of each count.
    for risk, false in [(0.1, "fails"), (0.1 + 1e-9, "holds")]:
        often = binom.pmf(counts, 150, risk)[verdicts == false].sum()
        assert 0.05 < often <= 0.1


# How many labels it takes ----------------------------------------------------------


def test_too_few_labels_say_how_many_it_takes() -> None:
    found = choose_threshold([0.95] * 20, [1] * 20, 0.1)
    assert found.threshold is None and found.labels_needed == 29
    assert str(found).endswith("with 20 labels. It may take about 29, or more.")
    assert found.n_accepted == found.n_errors == 0 and found.coverage == 0
    # Half of them accepted, so twice as many.
    half = choose_threshold([0.95] * 10 + [0.2] * 10, [1] * 20, 0.1, grid=[0.9])
    assert half.labels_needed == 58
    # A risk that is as high everywhere is not mended by labels.
    found = choose_threshold([0.95] * 100, [1, 0] * 50, 0.1)
    assert found.labels_needed is None and "no number of labels" in str(found)


def test_what_is_wanting_is_named() -> None:
    """Labels, or a confidence that ranks: with what was reached, and where."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1, 800)
    weak = choose_threshold(scores, rng.random(800) < 0.75 + 0.3 * (scores - 0.75), 0.1)
    assert not weak.can_rank and weak.labels_needed is not None
    assert weak.auroc is not None and weak.auroc.low < 0.58 < 0.6 < weak.auroc.high
    best = weak.tested.loc[weak.tested["upper"].idxmin()]
    for part in (
        "the confidence hardly ranks errors (AUROC 0.564, 0.519 to 0.608; 0.5 is chan",
        f"bound is {best['upper']:.1%}, at a coverage of {best['n'] / 800:.1%}",
        "More labels alone will hardly do.",
    ):
        assert part in str(weak)
    assert "may take" not in str(weak)
    right = rng.random(800) < scores
    strong = choose_threshold(scores, right, 0.02)
    assert strong.can_rank and "the labels are too few (AUROC 0.7" in str(strong)
    assert strong.auroc is not None
    assert strong.auroc.value == pytest.approx(roc_auc_score(right, scores))
    # No ranking is needed where all could be accepted, and none is seen without errors.
    assert choose_threshold([0.9] * 20, [1] * 19 + [0], 0.1).can_rank
    assert choose_threshold([0.9] * 20, [1] * 20, 0.1).auroc is None
    assert choose_threshold([0.9] * 99, [1] * 99, 0.1).auroc is None
    # From two errors nobody knows how a confidence ranks.
    few = choose_threshold(np.arange(10) / 10, [1, 1, 0, 1, 1, 1, 1, 0, 1, 1], 0.1)
    assert few.auroc is not None and few.auroc.value < 0.6 and few.can_rank
    assert "the labels are too few" in str(few) or few.labels_needed is None
    for scores, right, value in [
        ([0.9] * 9 + [0.5] * 9, [1] * 9 + [0] * 9, "1.000"),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], "0.333"),
    ]:
        unknown = choose_threshold(scores, right, 0.1)
        assert f"(AUROC {value}, no interval; 0.5 is chance)" in str(unknown)


def test_interval_of_the_ranking_holds_the_truth() -> None:
    """Scores N(1, 1) of right items and N(0, 1) of wrong ones: Φ(1/√2) = 0.760."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        correct = np.arange(60) < 25
        scores = ndtr(rng.normal(size=60) + correct)
        found = choose_threshold(scores, correct, 0.01).auroc
        assert found is not None
        held += found.low <= ndtr(math.sqrt(0.5)) <= found.high
    assert 0.91 <= held / 300 <= 0.98


@pytest.mark.parametrize(
    ("needed", "said"),
    [(26677, "27,000"), (572, "580"), (570, "570"), (99_001, "100,000"), (58, "58")],
)
def test_numbers_of_labels_that_are_guesses_are_round(needed: int, said: str) -> None:
    guessed = choose_threshold([0.95] * 20, [1] * 19 + [0], 0.1)
    assert guessed.labels_needed == 572
    text = str(replace(guessed, labels_needed=needed))
    assert text.endswith(f" It may take about {said}, or more.")
    # Without an error there is nothing to guess.
    exact = choose_threshold([0.95] * 20, [1] * 20, 0.1)
    text = str(replace(exact, labels_needed=needed))
    assert text.endswith(f" It may take about {needed:,}, or more.")


def test_number_of_labels_has_the_power_it_names() -> None:
    # One threshold, 14 errors in 200 rows; one in ten more makes 15 in 210.
    found = choose_threshold([0.95] * 200, ([1] * 93 + [0] * 7) * 2, 0.1)
    needed = found.labels_needed
    assert found.threshold is None and needed is not None and needed > 200

    def power(n: int) -> float:
        starts = sequence_starts(n, 0.1, 0.05)
        errors = np.arange(n + 1)[:, None]
        rows = np.full_like(errors, n)
        passed = passed_tests(rows, errors, starts, 0.1, 0.05 / len(starts))
        return float((binom.pmf(errors, n, 15 / 210) * passed).sum())

    assert 0.8 <= power(needed) < 0.83
    assert power(needed - 30) < 0.8


@pytest.mark.parametrize(
    ("name", "pilot", "least"),
    [("calibrated", 100, 0.8), ("jump below 0.8", 50, 0.75), ("ties", 200, 0.7)],
)
def test_as_many_labels_as_named_mostly_suffice(
    name: str, pilot: int, least: float
) -> None:
    rng = np.random.default_rng(5)
    starts = sequence_starts(pilot, 0.1, 0.05)
    success = []
    for n, errors in zip(*drawn(name, pilot, 40, rng), strict=True):
        if passed_tests(n, errors, starts, 0.1, 0.05 / len(starts)).any():
            continue
        needed = labels_to_certify(n, errors, pilot, 0.1, 0.05)
        if needed is not None and needed < 100_000:
            assert needed > pilot
            then = sequence_starts(needed, 0.1, 0.05)
            again = drawn(name, needed, 50, rng)
            passed = passed_tests(*again, then, 0.1, 0.05 / len(then))
            success.append(passed.any(axis=1).mean())
    assert len(success) > 20 and least < np.mean(success) < 1


def test_sequences_that_begin_among_bad_rows_do_not_count() -> None:
    # The tenth with the highest scores is bad; together with the rest it would do.
    needed = labels_to_certify(
        np.array([100, 1000]), np.array([50, 90]), 1000, 0.1, 0.05
    )
    assert needed is not None
    rng = np.random.default_rng(10)

    def success(n: int) -> float:
        rows = rng.multinomial(n, [0.1, 0.9], size=500)
        errors = rng.binomial(rows, [0.5, 40 / 900]).cumsum(axis=1)
        starts = sequence_starts(n, 0.1, 0.05)
        level = 0.05 / len(starts)
        passed = passed_tests(rows.cumsum(axis=1), errors, starts, 0.1, level)
        return passed.any(axis=1).mean()

    assert success(needed) > 0.75
    # With very many labels all begin in that tenth, and more do not help.
    assert success(100_000) == 0
    assert labels_to_certify(np.array([10]), np.array([9]), 1000, 0.1, 0.05) is None


def test_all_errors_and_no_errors() -> None:
    assert choose_threshold([0.9] * 300, [0] * 300, 0.1).labels_needed is None
    assert choose_threshold([0.9] * 300, [1] * 300, 0.1).threshold == 0.9


# Data as they come -----------------------------------------------------------------


def test_single_precision_is_verified_as_it_was_chosen() -> None:
    scores = np.float32([0.9] * 60 + [0.5] * 60)
    found = choose_threshold(scores, [1] * 60 + [0] * 60, 0.1, grid=[0.9])
    assert found.n_accepted == 60
    for threshold in (0.9, np.float64(0.9), found):
        assert verify(threshold, scores, [1] * 120, 0.1).n_accepted == 60
    each = verify_per_class({"a": found}, scores, [1] * 120, ["a"] * 120)
    assert each["a"].n_accepted == 60


def test_a_threshold_holds_for_the_same_table_in_single_precision() -> None:
    shares = np.repeat([0.9, 0.7, 0.3], [60, 40, 50])
    correct = [1] * 98 + [0] * 52
    stored = np.float32(shares).astype(float)
    for grid in (None, [0.3, 0.7, 0.9]):
        found = choose_threshold(shares, correct, 0.1, grid=grid)
        again = choose_threshold(stored, correct, 0.1, grid=grid)
        assert (again.threshold, again.n_accepted) == (found.threshold, 100)
        assert verify(found, stored, correct).n_accepted == 100
        each = verify_per_class({"a": found}, stored, correct, ["a"] * 150)
        assert each["a"].n_accepted == 100
    assert verify(0.7, stored, correct, 0.1) == verify(0.7, shares, correct, 0.1)


def test_own_grid_is_used_and_ties_go_together() -> None:
    scores = [0.9] * 100 + [0.7] * 100
    correct = [1] * 100 + [1, 0] * 50
    found = choose_threshold(scores, correct, 0.1, grid=[0.7, 0.9, 0.8, 0.9])
    assert found.tested["threshold"].tolist() == [0.9, 0.8, 0.7]
    # 0.8 accepts the same rows, and others that nobody has labelled.
    assert found.threshold == 0.9 and found.n_accepted == 100
    single = choose_threshold(np.float32(scores), correct, 0.1, grid=[0.9])
    assert single.n_accepted == 100


@settings(max_examples=20)
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
    scores, correct, *rest = arguments
    labels = ["a"] * len(scores)
    with pytest.raises(ValueError, match=message):
        choose_thresholds_per_class(scores, correct, labels, *rest)
    with pytest.raises(ValueError, match=message):
        verify_per_class({"a": 0.5}, scores, correct, labels, *rest)
    with pytest.raises(ValueError, match="grid"):
        choose_threshold([0.5], [1], 0.1, grid=[2.0])


def test_upper_limits_are_those_of_the_library() -> None:
    errors, n = np.array([0, 3, 40, 40, 0]), np.array([29, 60, 40, 80, 0])
    expected = [
        proportion_confint(k, rows, alpha=0.1, method="beta")[1] if rows else 1.0
        for k, rows in zip(errors, n, strict=True)
    ]
    assert upper_limits(errors, n, 0.05) == pytest.approx(expected)


# Groups ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_one_row_of_each_group(groups: list[int], seed: int) -> None:
    used = one_row_each(groups, len(groups), seed)
    assert sorted(groups[row] for row in used) == sorted(set(groups))
    assert (np.diff(used) > 0).all()
    assert (one_row_each(groups, len(groups), seed) == used).all()


def test_every_row_of_a_group_is_drawn_as_often() -> None:
    rng = np.random.default_rng(6)
    groups = ["b", "a", "b", "b", "c", "a", "b"]
    often = np.zeros(7)
    for _ in range(1000):
        often[one_row_each(groups, 7, rng)] += 1
    expected = np.array([1 / 4, 1 / 2, 1 / 4, 1 / 4, 1, 1 / 2, 1 / 4])
    assert often / 1000 == pytest.approx(expected, abs=3 * math.sqrt(0.25 / 1000))


def test_without_groups_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert one_row_each(None, 3, rng).tolist() == [0, 1, 2]
    assert rng.bit_generator.state == before


def test_groups_are_the_same_as_the_rows_drawn() -> None:
    rng = np.random.default_rng(7)
    scores, groups = rng.uniform(0.6, 1, 900), rng.integers(0, 300, 900)
    correct = rng.uniform(size=900) < 0.7 + 0.3 * scores
    labels = rng.choice(["a", "b"], 900)
    used = one_row_each(groups, 900, 8)
    part = scores[used], correct[used]
    more: dict[str, Any] = {"groups": groups, "rng": 8}

    chosen = choose_threshold(scores, correct, 0.2, **more)
    alone = choose_threshold(*part, 0.2)
    assert chosen.n_labels == len(used) == len(set(groups))
    assert chosen.threshold == alone.threshold and chosen.tested.equals(alone.tested)
    assert verify(0.8, scores, correct, 0.2, **more) == verify(0.8, *part, 0.2)
    accepted = scores > 0.7
    found = verify_accepted(accepted, correct, 0.2, **more)
    assert found == verify_accepted(accepted[used], correct[used], 0.2)

    both = choose_thresholds_per_class(scores, correct, labels, 0.2, **more)
    expected = choose_thresholds_per_class(*part, labels[used], 0.2)
    assert sum(one.n_labels for one in both.values()) == len(used)
    for label, one in both.items():
        assert one.tested.equals(expected[label].tested)
        assert one.delta == expected[label].delta == 0.025
    rules = {"a": 0.8, "b": 0.9}
    checked = verify_per_class(rules, scores, correct, labels, 0.2, **more)
    assert checked == verify_per_class(rules, *part, labels[used], 0.2)


def test_draw_does_not_depend_on_outcomes_or_scores() -> None:
    groups = [1, 1, 2, 2, 3, 3]
    used = one_row_each(groups, 6, 3)
    for row in range(6):
        # The row counts if and only if it was drawn, be it right or wrong.
        wrong = np.arange(6) == row
        found = verify_accepted([1] * 6, ~wrong, 0.5, groups=groups, rng=3)
        assert found.n_errors == (row in used) and found.n_labels == 3


def test_label_of_which_no_row_is_drawn() -> None:
    scores, labels = [0.9] * 60, ["a"] * 59 + ["b"]
    groups = [*range(59), 0]
    found = [
        choose_thresholds_per_class(
            scores, [1] * 60, labels, 0.1, groups=groups, rng=rng
        )
        for rng in range(20)
    ]
    without = [one["b"] for one in found if one["b"].n_labels == 0]
    assert 0 < len(without) < 20
    assert {one["a"].delta for one in found} == {0.025}
    assert without[0].threshold is None and without[0].labels_needed is None
    assert without[0].coverage == 0 and len(without[0].tested) == 0
    assert str(without[0]).endswith("confidence with 0 labels.")


def test_bad_groups() -> None:
    rows = ([0.9, 0.9], [1, 1])
    for bad, message in [
        (["a"], "groups must have one value"),
        (["a", None], "groups must not be"),
    ]:
        with pytest.raises(ValueError, match=message):
            choose_threshold(*rows, 0.1, groups=bad)
        with pytest.raises(ValueError, match=message):
            choose_thresholds_per_class(*rows, ["a", "a"], 0.1, groups=bad)
        with pytest.raises(ValueError, match=message):
            verify(0.5, *rows, 0.1, groups=bad)
        with pytest.raises(ValueError, match=message):
            verify_accepted(*rows[1:], [1, 1], 0.1, groups=bad)
        with pytest.raises(ValueError, match=message):
            verify_per_class({"a": 0.5}, *rows, ["a", "a"], 0.1, groups=bad)
    with pytest.raises(TypeError, match="rng must be"):
        verify(0.5, *rows, 0.1, rng="today")  # type: ignore[arg-type]


# Each class ------------------------------------------------------------------------


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
        says = "predicted must (have one value for each|not be missing)"
        with pytest.raises(ValueError, match=says):
            choose_thresholds_per_class(scores, [1] * 70, bad, 0.1)
        with pytest.raises(ValueError, match=says):
            verify_per_class(few, scores, [1] * 70, bad)


def test_each_class_is_verified_at_its_share() -> None:
    scores = [0.95] * 90 + [0.6] * 10
    labels = ["a"] * 35 + ["b"] * 45 + ["c"] * 20
    correct = [1] * 79 + [0] * 21
    rules = {"a": 0.9, "b": 0.5, "none": None, "absent": 0.2}
    found = verify_per_class(rules, scores, correct, labels, 0.1)
    assert list(found) == ["a", "b", "absent"]
    assert [one.threshold for one in found.values()] == [0.9, 0.5, 0.2]
    assert [one.n_accepted for one in found.values()] == [35, 45, 0]
    assert [one.n_errors for one in found.values()] == [0, 1, 0]
    assert [one.coverage for one in found.values()] == [0.35, 0.45, 0]
    assert {one.n_labels for one in found.values()} == {100}
    # Three are tested; the one without a threshold takes no share.
    assert {one.delta for one in found.values()} == {0.05 / 3}
    alone = verify_per_class(rules, scores, correct, labels, 0.1, together=False)
    assert {one.delta for one in alone.values()} == {0.05}
    assert alone["a"].high == verify_accepted(np.arange(100) < 35, correct, 0.1).high
    # 29 rows without an error show it alone; as one of three it takes 39.
    assert (alone["a"].verdict, found["a"].verdict) == ("holds", "not enough data")
    assert found["absent"].verdict == "not enough data"
    assert verify_per_class({"a": None}, scores, correct, labels, 0.1) == {}


def test_certificates_bring_their_risk_but_not_their_share() -> None:
    scores, labels = [0.9] * 120, ["a"] * 60 + ["b"] * 60
    certified = choose_thresholds_per_class(scores, [1] * 120, labels, 0.1, 0.02)
    found = verify_per_class(certified, scores, [1] * 120, labels)
    assert {(one.max_risk, one.delta) for one in found.values()} == {(0.1, 0.025)}
    other = verify_per_class(certified, scores, [1] * 120, labels, 0.05, 0.02)
    assert {(one.max_risk, one.delta) for one in other.values()} == {(0.05, 0.01)}
    mixed = certified | {"b": 0.5}
    with pytest.raises(
        ValueError,
        match="^max_risk must be given where thresholds are plain numbers.* of 'b' is",
    ):
        verify_per_class(mixed, scores, [1] * 120, labels)
    for bad in (0.9, [0.9]):
        with pytest.raises(
            TypeError, match="^thresholds must be a mapping .* not .*0.9"
        ):
            verify_per_class(bad, scores, [1] * 120, labels, 0.1)  # type: ignore
    with pytest.raises(ValueError, match=r"thresholds\['b'\] must lie .* not 1.5"):
        verify_per_class({"a": 0.5, "b": 1.5}, scores, [1] * 120, labels, 0.1)
    with pytest.raises(ValueError, match="thresholds must name"):
        verify_per_class({}, scores, [1] * 120, labels, 0.1)


def test_labels_of_another_type_are_no_lack_of_data() -> None:
    scores, correct, labels = [0.9] * 60, [1] * 60, ["1", "2"] * 30
    with pytest.raises(
        ValueError, match="^thresholds must name labels .* of 1 is among '1', '2'"
    ):
        verify_per_class({1: 0.9}, scores, correct, labels, 0.1)
    with pytest.raises(ValueError, match="of 0, 1, 2, 3, 4, … is among '1', '2'"):
        verify_per_class(dict.fromkeys(range(9), 0.9), scores, correct, labels, 0.1)
    # One that others stand beside may just be rare.
    found = verify_per_class({"1": 0.9, "3": 0.9}, scores, correct, labels, 0.2)
    assert found["1"].verdict == "holds"
    assert found["3"].verdict == "not enough data"
    # A label of which no row is drawn is there all the same.
    groups = ["a"] * 60
    found = verify_per_class({"1": 0.9}, scores, correct, labels, 0.2, groups=groups)
    assert found["1"].n_labels == 1
    other = verify_per_class({"2": 0.9}, scores, correct, labels, 0.2, groups=groups)
    assert found["1"].n_accepted + other["2"].n_accepted == 1


# Verification ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [(200, 0, "holds"), (100, 100, "fails"), (195, 10, "not enough data"), (0, 0, "")],
)
def test_verdicts(right: int, wrong: int, verdict: str) -> None:
    scores = [0.95] * (right + wrong) + [0.2] * 50
    correct = [1] * right + [0] * wrong + [0] * 50
    found = verify(0.9, scores, correct, 0.05)
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


def test_certificate_is_verified_at_its_own_word() -> None:
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1, 0.02)
    new = [0.95] * 50 + [0.8] * 30, [1] * 80
    found = verify(certified, *new)
    assert (found.threshold, found.max_risk, found.delta) == (0.9, 0.1, 0.02)
    assert found == verify(0.9, *new, 0.1, 0.02)
    other = verify(certified, *new, 0.2, 0.3)
    assert (other.max_risk, other.delta) == (0.2, 0.3)
    assert verify(0.9, *new, 0.1).delta == 0.05
    with pytest.raises(ValueError, match="^max_risk must be given where threshold is"):
        verify(0.9, *new)
    none = choose_threshold([0.9] * 20, [1] * 20, 0.1)
    with pytest.raises(ValueError, match="threshold must be one that passed. No thr"):
        verify(none, *new)


def test_any_rule_is_verified_by_what_it_accepts() -> None:
    rng = np.random.default_rng(2)
    scores, correct = rng.uniform(size=200), rng.uniform(size=200) < 0.9
    by_threshold = verify(0.4, scores, correct, 0.2)
    by_rule = verify_accepted(scores >= 0.4, correct, 0.2)
    assert by_rule.threshold is None and by_threshold.threshold == 0.4
    assert (by_rule.n_accepted, by_rule.high) == (
        by_threshold.n_accepted,
        by_threshold.high,
    )
    assert by_rule.action is None and by_rule.rule is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 0.1), "accepted must have at least one row"),
        (([0.5], [1], 0.1), "accepted must be 0 or 1; row 0 is 0.5"),
        (([[1]], [1], 0.1), "accepted must be one column"),
        (([1, None], [1, 1], 0.1), "accepted must not be missing; 1 of 2"),
        (([1], [1, 1], 0.1), "correct must have one value"),
        (([1], [1], 0), "max_risk must lie between 0 and 1, not 0"),
        (([1], [1], 0.1, 1), "delta must lie between 0 and 1, not 1"),
    ],
)
def test_bad_rules(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_accepted(*arguments)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Accept by this rule: a risk of at most 0.1 holds at 0.95"),
        ({"threshold": 0.7}, "Accept from 0.7: a risk of at most 0.1 holds"),
        ({"action": "trust"}, "trust: a risk of at most 0.1 holds"),
        ({"action": "trust", "rule": "0f3a"}, "trust by rule 0f3a: a risk"),
        ({"rule": "0f3a"}, "Accept by rule 0f3a: a risk"),
        ({"verdict": "fails"}, "Accept by this rule: a risk of at most 0.1 fails"),
        (
            {"verdict": "not enough data"},
            "Accept by this rule: not enough data on a risk of at most 0.1 at 0.95",
        ),
    ],
)
def test_verification_in_words(fields: dict, text: str) -> None:
    found = verify_accepted([1] * 60 + [0] * 20, [1] * 59 + [0] * 21, 0.1)
    said = str(replace(found, **fields))
    assert said.startswith(text)
    assert said.endswith(
        "60 of 80 labelled items are accepted (75.0%), 1 wrong (1.67%; at most 7.66%, "
        "and at least 0.09%, each at 0.95 confidence)."
    )


def test_confidence_of_the_limits_in_words_is_theirs() -> None:
    said = str(verify_accepted([1] * 60, [1] * 59 + [0], 0.1, 0.002))
    assert said.count("at 0.998 confidence") == 2


def test_nothing_accepted_in_words() -> None:
    said = str(verify(0.9, [0.5] * 7, [1] * 7, 0.1))
    assert said == (
        "Accept from 0.9: not enough data on a risk of at most 0.1 at 0.95 confidence. "
        "None of 7 labelled items is accepted."
    )


# Rows that a calibrator has seen -----------------------------------------------------


def _certifiers() -> dict[str, Callable[[Any, Any], Any]]:
    costs = Costs(error=9, review=1)
    return {
        "choose_threshold": lambda p, y: choose_threshold(p, y, 0.2),
        "per class": lambda p, y: choose_thresholds_per_class(
            p, y, ["a"] * len(y), 0.2
        ),
        "verify": lambda p, y: verify(0.5, p, y, 0.2),
        "verify per class": lambda p, y: verify_per_class(
            {"a": 0.5}, p, y, ["a"] * len(y), 0.2
        ),
        "cheapest": lambda p, y: best_threshold(p, y, costs, n_resamples=9),
        "monitor": lambda p, y: CalibrationMonitor().update(p, y),
        "business": lambda p, y: accuracy_above_table(p, y),
        "paired": lambda p, y: paired_difference((p, y), (p, y), "brier"),
        "sets": lambda p, y: ConformalSets().fit(np.stack([p, 1 - p], axis=1), 1 - y),
    }


@pytest.mark.parametrize("certify", _certifiers().values(), ids=_certifiers())
def test_rows_that_a_calibrator_has_seen_certify_nothing(certify: Any) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.3, 1, 400)
    correct = (rng.random(400) < scores).astype(int)
    platt = PlattScalingCalibrator().fit(scores[:200], correct[:200])
    seen, new = platt.predict(scores[:200]), platt.predict(scores[200:])
    certify(new, correct[200:])
    certify(np.asarray(seen), correct[:200])  # whoever takes the marks off means it
    certify(cross_fitted(platt, scores, correct), correct)
    for marked in (seen, 1 - (1 - seen), np.clip(seen, 0.1, 0.9), seen[::-1].copy()):
        with pytest.raises(ValueError, match="fitted on; 200 of these 200"):
            certify(marked, correct[:200])
    with pytest.raises(ValueError, match="fitted on; [24]00 of these 400"):
        certify(platt.predict(scores), correct)


def test_marks_in_a_column_are_seen_and_of_a_column_beside_it_are_not() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"raw": rng.uniform(0.3, 1, 200)})
    table["correct"] = rng.random(200) < table["raw"]
    platt = PlattScalingCalibrator().fit(table["raw"], table["correct"])
    table["mended"] = platt.predict(table["raw"])
    for whole in (table, table.copy()):
        choose_threshold(whole["raw"], whole["correct"], 0.2)
        with pytest.raises(ValueError, match="^scores must be of rows that no calib"):
            choose_threshold(whole["mended"], whole["correct"], 0.2)
    policy = Policy.from_threshold(0.5)
    named = table.assign(prediction="a", confidence=table["mended"])
    with pytest.raises(ValueError, match=r"table\['confidence'\] must be of rows"):
        policy.verify(named, 0.2)


def test_tables_and_figures_of_seen_rows_say_so() -> None:
    p = np.linspace(0.3, 1, 100)
    y = p > 0.6
    seen = PlattScalingCalibrator().fit(p, y).predict(p)
    curve = cost_curve(seen, y, Costs(error=9, review=1))
    risks = risk_coverage_curve(seen, y)
    for made in (bucket_table(seen, y), curve):
        assert made.attrs["evaluation"] == "in-sample"
    assert risks.evaluation == "in-sample"
    for ax in (
        plots.plot_cost_curve(curve, ax=Figure().subplots()),
        plots.plot_buckets(bucket_table(seen, y), ax=Figure().subplots()),
    ):
        assert "IN-SAMPLE" in [text.get_text() for text in ax.texts]
    ax = plots.plot_risk_coverage({"a": risks}, ax=Figure().subplots())
    assert ax.get_legend_handles_labels()[1] == ["a (IN-SAMPLE)"]
    assert bucket_table(p, y).attrs["evaluation"] == "unstated"
