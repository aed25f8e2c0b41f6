"""Thresholds with a guarantee, and verifications of them and of any other rule."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

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
    verify,
    verify_accepted,
    zero_failure_sample_size,
)


@cache
def tails(errors: int, risk: float) -> np.ndarray:
    return binom.cdf(errors, np.arange(1, 2000), risk)


def least_rows(errors: int, risk: float, level: float) -> int:
    """The least rows among which so few errors are as rare as the level."""
    return 1 + int(np.argmax(tails(errors, risk) <= level))


def chance_by_hand(
    rows: int, most: int, later: list[tuple[int, int]], risk: float
) -> float:
    """Chance of more errors than these now, and of few enough at any later place."""
    count = np.arange(40)  # with more nothing begins again
    now, before, total = binom.pmf(count, rows, risk), rows, 0.0
    now[: most + 1] = 0
    for place, few in later:
        now = np.convolve(now, binom.pmf(count, place - before, risk))[:40]
        total += float(now[: few + 1].sum())
        now[: few + 1], before = 0, place
    return total


@cache
def places_by_hand(n: int, risk: float) -> list[tuple[int, int]]:
    """Where tests begin again with so few errors: at the least rows of the highest
    level, of 1000, that leaves all of them together a chance of 0.04."""
    few = [k for k in range(1, 17) if 2 * least_rows(k, risk, 0.05 / 4) <= n]
    for level in np.linspace(0.04, 0, 1000)[:-1]:
        places = [(least_rows(k, risk, level), k) for k in few]
        if chance_by_hand(0, -1, places, risk) <= 0.04:
            return places
    raise AssertionError


@cache
def limit_by_hand(n: int, rows: int, risk: float) -> tuple[int, float]:
    """Most errors that pass among so many rows, and at which level."""
    later = [pair for pair in places_by_hand(n, risk) if pair[0] > rows]
    most = int(binom.ppf(0.05, rows, risk))
    while True:
        level = 0.05 - chance_by_hand(rows, most, later, risk)
        if binom.cdf(most, rows, risk) <= level:
            return most, level
        most -= 1


def passed_by_hand(
    rows: list[int], errors: list[int], n: int, risk: float
) -> list[tuple[bool, float]]:
    """Whether thresholds that accept so many rows pass, and their levels."""
    waiting = list(places_by_hand(n, risk))
    begun = going = False
    found: list[tuple[bool, float]] = []
    for accepted, wrong in zip(rows, errors, strict=True):
        most, level = limit_by_hand(n, accepted, risk)
        going |= not begun and most >= 0
        begun |= most >= 0
        while waiting and accepted >= waiting[0][0]:
            going |= wrong <= waiting.pop(0)[1]
        going &= wrong <= most
        found.append((going, level))
    return found


RISKS = {
    "calibrated": lambda s: 1 - s,
    "best in the middle": lambda s: np.where(s > 0.9, 0.3, 0.05),
    # Tests begun there must not go on, though further rows would pass.
    "bad at the top": lambda s: np.where(s > 0.98, 0.3, 0.01),
}


@pytest.mark.parametrize("n", [60, 300, 1200])
@pytest.mark.parametrize("shape", RISKS)
@pytest.mark.parametrize("levels", [None, 12])
def test_certified_threshold_is_that_of_the_procedure_by_hand(
    shape: str, n: int, levels: int | None
) -> None:
    rng = np.random.default_rng(n)
    scores = rng.uniform(0.5, 1, n)
    correct = rng.uniform(size=n) >= RISKS[shape](scores)
    if levels:
        scores = np.round(scores * levels) / levels
    found = choose_threshold(scores, correct, 0.1)
    tested, single = found.tested, scores.astype(np.float32)
    points = tested["threshold"].to_numpy()
    assert (np.diff(points) < 0).all()
    assert (points.astype(np.float32) == np.unique(single)[::-1]).all()
    rows = [int((single >= point).sum()) for point in np.float32(points)]
    errors = [int(((single >= point) & ~correct).sum()) for point in np.float32(points)]
    found_levels = passed_by_hand(rows, errors, n, 0.1)
    passed = [one for one, _ in found_levels]
    assert tested["n"].tolist() == rows and tested["errors"].tolist() == errors
    assert tested["passed"].tolist() == passed
    np.testing.assert_allclose(tested["risk"], np.array(errors) / rows)
    for (_, level), wrong, row, upper in zip(
        found_levels, errors, rows, tested["upper"], strict=True
    ):
        limit = beta.ppf(1 - level, wrong + 1, row - wrong) if wrong < row else 1.0
        assert upper == pytest.approx(limit)
    below = tested["upper"] <= 0.1
    assert below[tested["passed"]].all()
    if not any(passed):
        assert found.threshold is None and found.n_accepted == found.coverage == 0
        return
    lowest = len(passed) - 1 - passed[::-1].index(True)
    assert found.threshold == points[lowest]
    assert (found.n_accepted, found.n_errors) == (rows[lowest], errors[lowest])
    assert found.coverage == rows[lowest] / n and found.n_labels == n


# The risk in parts of the ranking, each of this share; at the limit it is just above.
BOUNDARIES = {
    "everywhere": ([1.0], [0.1001]),
    "after a jump": ([0.1, 0.0125, 0.8875], [0.0, 1.0, 0.1001]),
    "and below it between": ([0.1, 0.3, 0.6], [0.1001, 0.08, 0.12]),
    "in five levels": ([0.2] * 5, [0.0, 0.05, 0.1, 0.251, 0.1001]),
}


def chance_of_a_false_certificate(risks: np.ndarray, tested: np.ndarray) -> float:
    """That the last rows that pass are wrong too often, exactly, by the hand's rule.

    Kept are the chances of each number of errors, by whether tests go on and whether
    the last that passed was too weak.
    """
    n = len(risks)
    weak = risks.cumsum() / np.arange(1, n + 1) > 0.1
    chance = np.zeros((2, 2, 60))
    chance[0, 0, 0] = 1
    waiting, begun = list(places_by_hand(n, 0.1)), False
    for row in range(1, n + 1):
        wrong = chance * risks[row - 1]
        chance -= wrong
        chance[..., 1:] += wrong[..., :-1]
        chance[..., -1] += wrong[..., -1]
        if not tested[row - 1]:
            continue
        most, _ = limit_by_hand(n, row, 0.1)
        starts = [] if begun or most < 0 else [most]
        begun |= most >= 0
        while waiting and row >= waiting[0][0]:
            starts.append(waiting.pop(0)[1])
        for few in starts:
            chance[1, :, : few + 1] += chance[0, :, : few + 1]
            chance[0, :, : few + 1] = 0
        chance[0, :, most + 1 :] += chance[1, :, most + 1 :]
        chance[1, :, most + 1 :] = 0
        passes = chance[1].sum(axis=0)
        chance[1] = 0
        chance[1, int(weak[row - 1])] = passes
    return float(chance[:, 1].sum())


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize("where", BOUNDARIES)
def test_certificates_are_wrong_no_more_often_than_promised(where: str, n: int) -> None:
    share, risk = map(np.array, BOUNDARIES[where])
    part = np.searchsorted(share.cumsum(), (np.arange(n) + 0.5) / n)
    tested = np.append(np.diff(part) > 0, True) | ("levels" not in where)
    found = chance_of_a_false_certificate(risk[part], tested)
    assert found <= 0.05
    if where == "everywhere":
        assert found > 0.04


def test_just_enough_labels_without_an_error() -> None:
    n = zero_failure_sample_size(0.1)
    found = choose_threshold(np.linspace(0.5, 0.99, n), [1] * n, 0.1)
    assert found.threshold == 0.5 and found.n_accepted == n
    fewer = choose_threshold(np.linspace(0.5, 0.99, n - 1), [1] * (n - 1), 0.1)
    assert fewer.threshold is None


def test_confidences_near_one_are_told_apart() -> None:
    """A third of the confidences is above 0.9999, as of many tuned models."""
    rng = np.random.default_rng(0)
    scores = 1 - 10.0 ** -rng.uniform(1, 6, 9000)
    correct = rng.random(9000) < 1 - 0.85 * (1 - scores) ** 0.5
    found = choose_threshold(scores, correct, 0.005)
    assert found.threshold is not None and found.threshold > 0.9999


@given(st.floats(1e-4, 0.999), st.floats(1e-6, 0.999))
def test_fewest_items_without_an_error(risk: float, delta: float) -> None:
    n = zero_failure_sample_size(risk, delta)
    assert (1 - risk) ** n <= delta
    assert n == 1 or (1 - risk) ** (n - 1) > delta


@pytest.mark.parametrize(
    ("correct", "needed", "said"),
    [
        ([1] * 20, 29, "the labels are too few (none of them wrong), and the "),
        ([1] * 20, 29, "bound is 13.9%, at a coverage of 100.0%, with 20 labels."),
        ([1] * 20, 29, " It may take about 29, or more."),
        ([1] * 19 + [0], 447, " It may take about 450, or more."),  # a guess: upwards
        ([1, 0] * 50, None, "no number of labels would do."),
        ([0] * 300, None, "too many errors where it is highest (all wrong), and"),
    ],
)
def test_what_it_takes_is_said(correct: list, needed: int | None, said: str) -> None:
    found = choose_threshold([0.95] * len(correct), correct, 0.1)
    assert found.threshold is None and found.labels_needed == needed
    assert said in str(found)
    if needed == 29:  # with half of them accepted, twice as many
        rows = [0.95] * 10 + [0.2] * 10
        assert choose_threshold(rows, correct, 0.1, grid=[0.9]).labels_needed == 58


def test_what_is_wanting_is_named() -> None:
    """Labels, or a confidence that ranks: with what was reached, and where."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(0.5, 1, 800)
    weak = choose_threshold(scores, rng.random(800) < 0.75 + 0.3 * (scores - 0.75), 0.1)
    assert not weak.can_rank and weak.labels_needed is not None
    best = weak.tested.loc[weak.tested["upper"].idxmin()]
    for words in (
        "hardly ranks errors (AUROC 0.546, 0.501 to 0.591; 0.5 is chance)",
        f"bound is {best['upper']:.1%}, at a coverage of {best['n'] / 800:.1%}",
        "More labels alone will hardly do.",
    ):
        assert words in str(weak)
    right = rng.random(800) < scores
    strong = choose_threshold(scores, right, 0.02)
    assert strong.can_rank and "the labels are too few (AUROC 0.7" in str(strong)
    assert strong.auroc is not None
    assert strong.auroc.value == pytest.approx(roc_auc_score(right, scores))
    # No ranking is needed where all could be accepted, nor known from two errors.
    assert choose_threshold([0.9] * 20, [1] * 19 + [0], 0.1).can_rank
    few = choose_threshold(np.arange(10) / 10, [1, 1, 0, 1, 1, 1, 1, 0, 1, 1], 0.1)
    assert few.auroc is not None and few.auroc.value < 0.6 and few.can_rank
    unknown = choose_threshold([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 0.1)
    assert "(AUROC 0.333, no interval; 0.5 is chance)" in str(unknown)


def test_number_of_labels_has_the_power_it_names() -> None:
    # One threshold, 14 errors in 200 rows; one in ten more makes 15 in 210.
    found = choose_threshold([0.95] * 200, ([1] * 93 + [0] * 7) * 2, 0.1)
    needed = found.labels_needed
    assert found.threshold is None and needed is not None and needed > 200

    def power(n: int) -> float:
        # Where fewer errors pass, as many as these do not.
        most = next(
            k for k in range(n, -1, -1) if passed_by_hand([n], [k], n, 0.1)[0][0]
        )
        return float(binom.cdf(most, n, 15 / 210))

    assert 0.8 <= power(needed) < 0.83 and power(needed - 30) < 0.8


def test_precision_changes_neither_choice_nor_verdict() -> None:
    shares = np.repeat([0.9, 0.7, 0.3], [60, 40, 50])
    correct = [1] * 98 + [0] * 52
    for stored in (np.float32(shares), np.float32(shares).astype(float)):
        for grid in (None, [0.3, 0.7, 0.9]):
            found = choose_threshold(shares, correct, 0.1, grid=grid)
            again = choose_threshold(stored, correct, 0.1, grid=grid)
            assert (again.threshold, again.n_accepted) == (found.threshold, 100)
            assert verify(found, stored, correct).n_accepted == 100
        for threshold in (0.7, np.float64(0.7)):
            assert verify(threshold, stored, correct, 0.1).n_accepted == 100


def test_own_grid_is_used_and_ties_go_together() -> None:
    scores, correct = [0.9] * 100 + [0.7] * 100, [1] * 100 + [1, 0] * 50
    found = choose_threshold(scores, correct, 0.1, grid=[0.7, 0.9, 0.8, 0.9])
    assert found.tested["threshold"].tolist() == [0.9, 0.8, 0.7]
    # 0.8 accepts the same rows, and others that nobody has labelled.
    assert found.threshold == 0.9 and found.n_accepted == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": []}, "scores must be one column with at least one row"),
        ({"max_risk": 0}, "max_risk must lie between 0 and 1, not 0"),
        ({"delta": 1}, "delta must lie between 0 and 1, not 1"),
        ({"scores": [1.5, 0]}, r"scores must lie in \[0, 1\]; row 0 is 1.5"),
        ({"grid": [2.0]}, "grid must lie in"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given_ = {"scores": [0.9, 0.9], "correct": [1, 1], "max_risk": 0.1} | change
    with pytest.raises(ValueError, match=message):
        choose_threshold(**given_)
    with pytest.raises(ValueError, match=message):
        choose_thresholds_per_class(predicted=["a"] * 2, **given_)
    if "grid" not in change:
        with pytest.raises(ValueError, match=message):
            verify(0.5, **given_)
    if "scores" not in change and "grid" not in change:
        with pytest.raises(ValueError, match=message):
            verify_accepted([1], [1], **{"max_risk": 0.1} | change)


def rows_drawn(groups: Any, rng: Any) -> list[int]:
    """The rows that are used, by the scores that are left."""
    n = len(groups)
    scores = (np.arange(n) + 1) / n
    more: Any = {"grid": scores, "groups": groups, "rng": rng}
    tested = choose_threshold(scores, [1] * n, 0.5, 0.9, **more).tested
    used = tested["threshold"][np.diff(tested["n"], prepend=0) > 0]
    return sorted((used * n).round().astype(int) - 1)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_one_row_of_each_group(groups: list[int], seed: int) -> None:
    used = rows_drawn(groups, seed)
    assert sorted(groups[row] for row in used) == sorted(set(groups))
    for row in range(len(groups)):
        # The row counts if and only if it was drawn, be it right or wrong.
        wrong = np.arange(len(groups)) == row
        rule = verify_accepted([1] * len(groups), ~wrong, 0.5, groups=groups, rng=seed)
        assert rule.n_errors == (row in used) and rule.n_labels == len(used)


def test_every_row_of_a_group_is_drawn_as_often_and_without_groups_none() -> None:
    rng = np.random.default_rng(6)
    often = np.zeros(7)
    for _ in range(300):
        often[rows_drawn(["b", "a", "b", "b", "c", "a", "b"], rng)] += 1
    expected = np.array([1 / 4, 1 / 2, 1 / 4, 1 / 4, 1, 1 / 2, 1 / 4])
    assert often / 300 == pytest.approx(expected, abs=3 * math.sqrt(0.25 / 300))
    before = rng.bit_generator.state
    assert verify(0.5, [0.6, 0.7], [1, 1], 0.1, rng=rng).n_labels == 2
    assert rng.bit_generator.state == before
    with pytest.raises(TypeError, match="rng must be"):
        verify(0.5, [0.6], [1], 0.1, rng="today")  # type: ignore[arg-type]


def test_groups_are_the_same_as_the_rows_drawn() -> None:
    rng = np.random.default_rng(7)
    scores, groups = rng.uniform(0.6, 1, 900), rng.integers(0, 300, 900)
    correct = rng.uniform(size=900) < 0.7 + 0.3 * scores
    labels = rng.choice(["a", "b"], 900)
    used = rows_drawn(groups, 8)
    part, more = (scores[used], correct[used]), {"groups": groups, "rng": 8}
    chosen = choose_threshold(scores, correct, 0.2, **more)
    assert chosen.n_labels == len(used) == len(set(groups))
    assert chosen.tested.equals(choose_threshold(*part, 0.2).tested)
    assert verify(0.8, scores, correct, 0.2, **more) == verify(0.8, *part, 0.2)
    both = choose_thresholds_per_class(scores, correct, labels, 0.2, **more)
    for label, one in both.items():
        own = labels[used] == label
        single = choose_threshold(part[0][own], part[1][own], 0.2, 0.025)
        assert one.tested.equals(single.tested) and one.delta == 0.025
        assert one.n_labels == own.sum()


def test_classes_share_the_error_even_if_no_row_of_one_is_drawn() -> None:
    rows: Any = ([0.9] * 60, [1] * 60, ["a"] * 59 + ["b"], 0.1)
    groups = [*range(59), 0]
    found = [
        choose_thresholds_per_class(*rows, groups=groups, rng=rng) for rng in range(20)
    ]
    assert {one["a"].delta for one in found} == {0.025} == {found[0]["b"].delta}
    assert {one["a"].threshold for one in found} == {0.9}
    without = [one["b"] for one in found if one["b"].n_labels == 0]
    assert 0 < len(without) < 20
    assert without[0].threshold is None and without[0].labels_needed is None
    assert without[0].coverage == 0 and len(without[0].tested) == 0
    assert str(without[0]).endswith("confidence with 0 labels.")


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [
        (200, 0, "holds"),
        (100, 100, "fails"),
        (195, 10, "not enough data"),
        (0, 0, "not enough data"),
    ],
)
def test_verdicts(right: int, wrong: int, verdict: str) -> None:
    scores = [0.95] * (right + wrong) + [0.2] * 50
    found = verify(0.9, scores, [1] * right + [0] * (wrong + 50), 0.05)
    assert found.verdict == verdict and found.threshold == 0.9
    assert (found.n_accepted, found.n_errors) == (right + wrong, wrong)
    assert found.coverage == (right + wrong) / len(scores)
    ends = proportion_confint(right + wrong, len(scores), method="wilson")
    assert (found.coverage_low, found.coverage_high) == pytest.approx(ends)
    if not right:
        assert math.isnan(found.risk) and (found.low, found.high) == (0, 1)
        return
    low = beta.ppf(0.05, wrong, right + 1) if wrong else 0
    high = beta.ppf(0.95, wrong + 1, right)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.risk == wrong / (right + wrong)


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


def test_certificate_is_verified_at_its_own_word() -> None:
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1, 0.02)
    new = [0.95] * 50 + [0.8] * 30, [1] * 80
    found = verify(certified, *new)
    assert (found.threshold, found.max_risk, found.delta) == (0.9, 0.1, 0.02)
    assert found == verify(0.9, *new, 0.1, 0.02)
    other = verify(certified, *new, 0.2, 0.3)
    assert (other.max_risk, other.delta) == (0.2, 0.3)
    rule = verify_accepted(np.array(new[0]) >= 0.9, new[1], 0.1)
    assert rule == replace(verify(0.9, *new, 0.1, 0.05), threshold=None)
    none = choose_threshold([0.9] * 20, [1] * 20, 0.1)
    for threshold, says in (
        (0.9, "^max_risk must be given where threshold is"),
        (none, "threshold must be one that passed. No thr"),
    ):
        with pytest.raises(ValueError, match=says):
            verify(threshold, *new)


def test_verification_in_words() -> None:
    found = verify_accepted([1] * 60 + [0] * 20, [1] * 59 + [0] * 21, 0.1)
    assert str(found) == (
        "Accept by this rule: a risk of at most 0.1 holds at 0.95 confidence. 60 of 80 "
        "labelled items are accepted (75.0%), 1 wrong (1.67%; at most 7.66%, and at "
        "least 0.09%, each at 0.95 confidence)."
    )
    for fields, text in (
        ({"threshold": 0.7}, "Accept from 0.7: a risk of at most 0.1 holds"),
        ({"action": "trust", "rule": "0f3a"}, "trust by rule 0f3a: a risk"),
        ({"max_risk": 0.0008}, "Accept by this rule: a risk of at most 0.0008 fails"),
        ({"max_risk": 0.05}, "Accept by this rule: not enough data on a risk of at mo"),
    ):
        assert str(replace(found, **fields)).startswith(text)
    nothing = str(verify(0.9, [0.5] * 7, [1] * 7, 0.1))
    assert nothing.endswith("None of 7 labelled items is accepted.")


COSTS = Costs(error=9, review=1)
CERTIFIERS = {
    "threshold": lambda p, y: choose_threshold(p, y, 0.2),
    "class": lambda p, y: choose_thresholds_per_class(p, y, ["a"] * len(y), 0.2),
    "verify": lambda p, y: verify(0.5, p, y, 0.2),
    "cheapest": lambda p, y: best_threshold(p, y, COSTS, n_resamples=9),
    "monitor": lambda p, y: CalibrationMonitor().update(p, y),
    "sets": lambda p, y: ConformalSets().fit(np.stack([p, 1 - p], axis=1), 1 - y),
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Scores, outcomes, and values that were calibrated on the same rows."""
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"raw": rng.uniform(0.3, 1, 200)})
    made["correct"] = (rng.random(200) < made["raw"]).astype(int)
    platt = PlattScalingCalibrator().fit(made["raw"], made["correct"])
    return made.assign(mended=platt.predict(made["raw"]))


@pytest.mark.parametrize("certify", CERTIFIERS.values(), ids=CERTIFIERS)
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
        with pytest.raises(ValueError, match="fitted on.*; some or all of these 200"):
            certify(marked, correct[:200])
    with pytest.raises(ValueError, match="(200|some or all) of these 400"):
        certify(platt.predict(scores), correct)


def test_marks_in_a_column_are_seen_and_those_beside_it_are_not(table: Any) -> None:
    choose_threshold(table["raw"], table["correct"], 0.2)
    for whole in (table, table.copy()):
        with pytest.raises(ValueError, match="^scores must be of rows that no calib"):
            choose_threshold(whole["mended"], whole["correct"], 0.2)
    named = table.assign(prediction="a", confidence=table["mended"])
    with pytest.raises(ValueError, match="must be of rows that no calib"):
        Policy.from_threshold(0.5).verify(named, 0.2)


def test_tables_of_seen_rows_say_so(table: Any) -> None:
    rows = table["mended"], table["correct"]
    curve, buckets = cost_curve(*rows, COSTS), bucket_table(*rows)
    for made in (buckets, curve):
        assert made.attrs["evaluation"] == "in-sample"
    plain = bucket_table(table["raw"], table["correct"])
    assert plain.attrs["evaluation"] == "unstated"
