"""Monitors that may be looked at after every item, and drift of scores."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp
from scipy.stats import binom, ks_2samp, wasserstein_distance

from helpers.decisions import AccuracyMonitor, CalibrationMonitor, score_drift
from helpers.decisions.betting import (
    SHARES,
    SHIFTS,
    confidence_sequence,
    log_wealth,
)
from helpers.decisions.drift import _distances

N = 600
OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=60)
PROBABILITIES = st.floats(0.01, 0.99)


def courses(right, log_wealth_of):
    """log e-values after every item of each stream, quickly.

    Each is computed once for all streams with so many right ones of so many.
    """
    counts = np.cumsum(right, axis=1)
    found = np.empty(counts.shape)
    for at, column in enumerate(counts.T):
        low = column.min()
        some = np.arange(low, column.max() + 1)
        found[:, at] = log_wealth_of(some, np.full(len(some), at + 1))[column - low]
    return found


def accuracy_courses(promised, right):
    return courses(right, lambda some, n: log_wealth(some, n, promised))


def by_hand(confidence, correct, shifts, shares):
    """The wealth as the sum over gamblers of the product of what each one won."""
    total = 0.0
    for shift, share in zip(shifts, shares, strict=True):
        for p, right in zip(confidence, correct, strict=True):
            q = expit(logit(p) + shift)
            share *= q / p if right else (1 - q) / (1 - p)
        total += share
    return total


# The wealth


def test_the_wealth_is_what_the_gamblers_won_together():
    correct = [1, 0, 1, 1, 0, 0, 1]
    monitor = AccuracyMonitor(0.9)
    monitor.update(correct)
    expected = by_hand([0.9] * 7, correct, -SHIFTS, SHARES)
    assert monitor.e_value == pytest.approx(expected, rel=1e-12)
    confidence = [0.9, 0.3, 0.99, 0.5, 0.7, 0.2, 0.8]
    monitor = CalibrationMonitor()
    monitor.update(confidence, correct)
    expected = by_hand(confidence, correct, -SHIFTS, SHARES)
    assert monitor.e_value == pytest.approx(expected, rel=1e-12)
    monitor = CalibrationMonitor(alternative="two-sided")
    monitor.update(confidence, correct)
    both = np.r_[-SHIFTS, SHIFTS], np.r_[SHARES, SHARES] / 2
    assert monitor.e_value == pytest.approx(by_hand(confidence, correct, *both))


@pytest.mark.parametrize("promised", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("right", "wrong"), [(5, 0), (0, 3), (17, 3), (90, 10)])
def test_the_gamblers_stand_for_an_integral_over_all_shifts(promised, right, wrong):
    low, high = SHIFTS[0], SHIFTS[-1]
    mass = 2 * (math.atan(2 * high) - math.atan(2 * low))

    def integrand(shift):
        q = expit(logit(promised) - shift)
        ratio = (q / promised) ** right * ((1 - q) / (1 - promised)) ** wrong
        return ratio / (0.25 + shift**2)

    expected = quad(integrand, low, high, epsabs=0, limit=200)[0] / mass
    monitor = AccuracyMonitor(promised)
    monitor.update([True] * right + [False] * wrong)
    assert monitor.e_value == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("promised", [0.8, 0.95, 0.99])
def test_the_mean_wealth_is_one_at_the_boundary_and_less_above_it(promised):
    n = np.full(41, 40)
    wealth = np.exp(log_wealth(np.arange(41), n, promised))
    assert binom.pmf(np.arange(41), 40, promised) @ wealth == pytest.approx(1)
    above = (1 + promised) / 2
    assert binom.pmf(np.arange(41), 40, above) @ wealth < 0.99


def test_the_mean_wealth_of_the_calibration_monitor_is_one_for_any_confidences():
    confidence = [0.3, 0.9, 0.99, 0.6]
    for alternative in ("overconfident", "two-sided"):
        mean = 0.0
        for code in range(16):
            correct = [bool(code >> at & 1) for at in range(4)]
            chance = math.prod(
                p if right else 1 - p
                for p, right in zip(confidence, correct, strict=True)
            )
            monitor = CalibrationMonitor(alternative=alternative)
            monitor.update(confidence, correct)
            mean += chance * monitor.e_value
        assert mean == pytest.approx(1, rel=1e-12)


def test_the_shares_are_those_of_one_gambler():
    assert SHARES.sum() == pytest.approx(1) and (SHARES > 0).all()
    assert SHARES[SHIFTS < 0.5].sum() == pytest.approx(0.5, abs=0.05)


@given(OUTCOMES, PROBABILITIES, st.randoms())
@settings(deadline=None, max_examples=30)
def test_order_does_not_matter(correct, promised, random):
    shuffled = random.sample(correct, len(correct))
    first, second = AccuracyMonitor(promised), AccuracyMonitor(promised)
    first.update(correct)
    second.update(shuffled)
    assert first.log_e_value == second.log_e_value
    assert first.interval == second.interval


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.randoms())
@settings(deadline=None, max_examples=30)
def test_order_of_stated_confidences_does_not_matter(items, random):
    shuffled = random.sample(items, len(items))
    first, second = CalibrationMonitor(), CalibrationMonitor()
    first.update(*zip(*items, strict=True))
    second.update(*zip(*shuffled, strict=True))
    assert first.log_e_value == pytest.approx(second.log_e_value, abs=1e-9)


@given(OUTCOMES, PROBABILITIES)
@settings(deadline=None, max_examples=30)
def test_one_by_one_is_all_at_once(correct, promised):
    once, singly = AccuracyMonitor(promised), AccuracyMonitor(promised)
    told = [singly.update(right) for right in correct]
    assert once.update(correct) == told[-1] == once.alarm
    pd.testing.assert_frame_equal(once.table(), singly.table())
    assert once.to_dict() == singly.to_dict()
    assert (once.p_value, once.alarm_at) == (singly.p_value, singly.alarm_at)
    assert told.count(True) == (len(correct) - once.alarm_at + 1 if once.alarm else 0)


@given(OUTCOMES, PROBABILITIES)
@settings(deadline=None, max_examples=30)
def test_constant_confidence_is_a_promised_accuracy(correct, promised):
    accuracy, calibration = AccuracyMonitor(promised), CalibrationMonitor()
    accuracy.update(correct)
    for right in correct:
        calibration.update(promised, right)
    assert calibration.log_e_value == pytest.approx(accuracy.log_e_value, abs=1e-9)
    assert calibration.interval == accuracy.interval


def test_long_streams_neither_overflow_nor_lose_their_parts():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    correct = rng.random(20_000) < 0.3
    monitor, parts = CalibrationMonitor(), CalibrationMonitor()
    monitor.update(confidence, correct)
    for start in range(0, 20_000, 7_000):
        part = slice(start, start + 7_000)
        parts.update(confidence[part], correct[part])
    assert monitor.e_value == math.inf and math.isfinite(monitor.log_e_value)
    assert monitor.p_value == 0 and monitor.n_right == correct.sum()
    assert parts.log_e_value == monitor.log_e_value
    assert parts.alarm_at == monitor.alarm_at
    accuracy = AccuracyMonitor(0.5)
    accuracy.update(correct)
    # The best gambler's wealth bounds that of all, and is its share at least.
    shift = -SHIFTS[:, None]
    best = shift * correct.sum() - 20_000 * np.log1p(0.5 * np.expm1(shift))
    assert best.max() + np.log(SHARES.min()) < accuracy.log_e_value < best.max()


# Alarms


def test_an_alarm_stays_while_the_wealth_falls_again():
    monitor = AccuracyMonitor(0.95)
    assert not monitor.update([True, True])
    assert monitor.update([False] * 4)
    highest, alarm_at = monitor.e_value, monitor.alarm_at
    assert monitor.update([True] * 100)
    assert monitor.e_value < 1 < 20 < highest
    assert monitor.p_value == pytest.approx(1 / highest)
    assert monitor.alarm_at == alarm_at
    course = monitor.table()
    first = course.loc[course["e_value"] >= 20, "item"].iloc[0]
    assert alarm_at == first


def test_before_the_first_item():
    monitor = AccuracyMonitor(0.9)
    assert (monitor.n, monitor.n_right, monitor.alarm_at) == (0, 0, None)
    assert (monitor.e_value, monitor.p_value, monitor.alarm) == (1, 1, False)
    assert monitor.interval[1:] == (0, 1) and math.isnan(monitor.interval.value)
    assert monitor.table().empty and CalibrationMonitor().table().empty


def test_one_wrong_item_by_hand():
    # With one wrong item a gambler's wealth is 1 / (1 - m + m exp(-d)).
    m = Fraction(9, 10)
    expected = sum(
        share / (1 - m + m * Fraction(math.exp(-shift)))
        for share, shift in zip(
            map(Fraction, SHARES.tolist()), SHIFTS.tolist(), strict=True
        )
    )
    monitor = AccuracyMonitor(0.9)
    monitor.update(False)
    assert monitor.e_value == pytest.approx(float(expected), rel=1e-12)
    assert 1 < monitor.e_value < 10


@pytest.mark.parametrize("promised", [0.8, 0.95, 0.99])
def test_false_alarms_at_the_boundary_are_at_most_alpha(promised):
    rng = np.random.default_rng(1)
    right = rng.random((2000, 500)) < promised
    course = accuracy_courses(promised, right)
    for alpha in (0.05, 0.2):
        share = (course >= -math.log(alpha)).any(axis=1).mean()
        assert 0 < share <= alpha
    for at in range(3):
        monitor = AccuracyMonitor(promised)
        monitor.update(right[at])
        assert monitor.log_e_value == pytest.approx(course[at, -1])


def test_varying_accuracy_raises_no_false_alarm_while_its_average_holds():
    # Most items are nearly certain and a quarter is poor: 0.95 on average, at any
    # time, though a quarter of the items breaks the promise.
    rng = np.random.default_rng(2)
    accuracy = np.tile([0.99, 0.99, 0.99, 0.83], 125)
    right = rng.random((2000, 500)) < accuracy
    average = np.cumsum(accuracy) / np.arange(1, 501)
    course = accuracy_courses(0.95, right)
    alarms = (course >= math.log(20)) & (average >= 0.95 - 1e-12)
    assert alarms.any(axis=1).mean() <= 0.05


@pytest.mark.parametrize("alternative", ["overconfident", "two-sided"])
def test_false_alarms_of_the_calibration_monitor(alternative):
    rng = np.random.default_rng(3)
    confidence = rng.beta(6, 1, 500)
    right = rng.random((2000, 500)) < confidence
    shifts, shares = -SHIFTS, SHARES
    if alternative == "two-sided":
        shifts, shares = np.r_[-SHIFTS, SHIFTS], np.r_[SHARES, SHARES] / 2
    # Given the confidences, the wealth depends on the number of right items alone.
    price = np.log1p(np.outer(confidence, np.expm1(shifts))).cumsum(axis=0)

    def of(some, n):
        return logsumexp(np.outer(some, shifts) - price[n - 1], b=shares, axis=1)

    course = courses(right, of)
    share = (course >= math.log(20)).any(axis=1).mean()
    assert 0 < share <= 0.05
    monitor = CalibrationMonitor(alternative=alternative, clip=0)
    monitor.update(confidence, right[0])
    found = np.log(monitor.table()["e_value"])
    np.testing.assert_allclose(found, course[0], atol=1e-9)


def test_a_fall_of_five_points_is_found_soon():
    rng = np.random.default_rng(4)
    course = accuracy_courses(0.95, rng.random((2000, N)) < 0.90)
    found = course >= math.log(20)
    delay = np.where(found.any(axis=1), found.argmax(axis=1) + 1, N + 1)
    assert found.any(axis=1).mean() >= 0.95
    assert np.median(delay) < 200 and np.quantile(delay, 0.9) < 450


def test_wrong_confidences_are_found():
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.6, 0.99, 2000)
    too_high = rng.random(2000) < expit(logit(confidence) - 0.5)
    too_low = rng.random(2000) < expit(logit(confidence) + 0.5)
    for outcome, alternative, alarm in (
        (too_high, "overconfident", True),
        (too_high, "two-sided", True),
        (too_low, "overconfident", False),
        (too_low, "two-sided", True),
    ):
        monitor = CalibrationMonitor(alternative=alternative)
        assert monitor.update(confidence, outcome) == alarm


def test_what_cannot_happen_raises_the_alarm_at_once():
    monitor = CalibrationMonitor(clip=0)
    assert not monitor.update([1.0, 1.0, 0.0, 0.0], [True, True, False, True])
    assert monitor.n == 4 and monitor.log_e_value < 0
    assert monitor.update([0.5, 1.0, 0.5], [True, False, True])
    assert (monitor.alarm_at, monitor.log_e_value) == (6, math.inf)
    monitor.update([0.1] * 50, [True] * 50)
    assert monitor.e_value == math.inf and monitor.p_value == 0
    assert np.isinf(monitor.table()["e_value"]).to_numpy().nonzero()[0][0] == 5
    monitor = CalibrationMonitor(alternative="two-sided", clip=0)
    assert not monitor.update([0, 1], [False, True])
    assert monitor.log_e_value == pytest.approx(0, abs=1e-9)
    assert monitor.update(0, True) and monitor.alarm_at == 3


def test_certainty_is_bet_against_at_the_clip():
    # One error at a confidence of 1 is strong evidence, but no proof.
    confidence, correct = [0.9, 1.0, 0.0, 0.7], [1, 0, 1, 1]
    for clip in (0.001, 0.05):
        monitor = CalibrationMonitor(clip=clip)
        monitor.update(confidence, correct)
        # Nobody bets on more right ones, so the confidence of 0 stays what it is: its
        # right outcome costs every gambler a factor of exp(-shift).
        shares = SHARES * np.exp(-SHIFTS)
        most = [0.9, 1 - clip, 0.7]
        expected = by_hand(most, [1, 0, 1], -SHIFTS, shares)
        assert monitor.e_value == pytest.approx(expected)
        assert not monitor.alarm
        both = CalibrationMonitor(alternative="two-sided", clip=clip)
        both.update(confidence, correct)
        # For those who bet on more, the wrong outcome at 1 does the same.
        least = [0.9, clip, 0.7]
        more = by_hand(least, [1, 1, 1], SHIFTS, shares)
        assert both.e_value == pytest.approx((expected + more) / 2)
        stated = both.table()["mean_confidence"].tolist()
        assert stated == pytest.approx(np.cumsum(confidence) / [1, 2, 3, 4])
    again = CalibrationMonitor.from_dict(monitor.to_dict())
    assert again.clip == 0.05 and again.e_value == monitor.e_value


@given(
    st.lists(st.tuples(st.floats(0.05, 0.95), st.booleans()), min_size=1, max_size=20),
    st.sampled_from(["overconfident", "two-sided"]),
)
@settings(deadline=None, max_examples=30)
def test_the_clip_is_nothing_to_confidences_inside_it(items, alternative):
    confidence, correct = map(list, zip(*items, strict=True))
    log_e = []
    for clip in (0, 0.001, 0.05):
        monitor = CalibrationMonitor(alternative=alternative, clip=clip)
        monitor.update(confidence, correct)
        log_e.append(monitor.log_e_value)
    assert log_e[0] == log_e[1] == log_e[2]


@pytest.mark.parametrize("alternative", ["overconfident", "two-sided"])
@pytest.mark.parametrize("clip", [0.01, 0.3])
def test_the_mean_wealth_is_at_most_one_with_any_clip(alternative, clip):
    # Over all outcomes of items that keep their promise, after each of the items.
    confidence = np.array([1.0, 0.0, 0.999, 0.002, 0.9, 0.2, 0.5])
    mean = np.zeros(len(confidence))
    for correct in itertools.product([False, True], repeat=len(confidence)):
        chance = np.prod(np.where(correct, confidence, 1 - confidence))
        if chance:  # not where an item promised with 1 is wrong
            monitor = CalibrationMonitor(alternative=alternative, clip=clip)
            for at, item in enumerate(zip(confidence, correct, strict=True)):
                monitor.update(*item)
                mean[at] += chance * monitor.e_value
    assert (np.diff(mean, prepend=1) <= 1e-12).all() and mean[0] < 1
    if clip == 0.01:
        # Confidences inside it are bet on as stated.
        np.testing.assert_allclose(mean[4:], mean[3], rtol=1e-12)


@pytest.mark.parametrize(
    ("alternative", "sure"), [("overconfident", 0), ("two-sided", 0), ("two-sided", 1)]
)
def test_being_certain_and_right_for_long_raises_no_alarm(alternative, sure):
    # Confidences moved to 0.001 or 0.999 would: they promise another thing.
    confidence, correct = np.full(6000, float(sure)), np.full(6000, sure == 1)
    monitor = CalibrationMonitor(alternative=alternative)
    assert not monitor.update(confidence, correct) and monitor.p_value > 0.99
    moved = CalibrationMonitor(alternative=alternative)
    assert moved.update(np.clip(confidence, 0.001, 0.999), correct)


def test_certain_ones_that_are_often_wrong_are_found():
    right = np.arange(400) % 50 != 49  # 0.98 of them
    monitor = CalibrationMonitor()
    assert monitor.update(np.ones(400), right)
    assert math.isfinite(monitor.log_e_value) and monitor.alarm_at == 150


@pytest.mark.parametrize("clip", [0.5, -0.1, 1, math.nan, "0.1", None, True])
def test_bad_clips(clip):
    with pytest.raises(ValueError, match="^clip must be 0 or more and below 0.5, not"):
        CalibrationMonitor(clip=clip)


# The confidence sequence


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_interval_is_where_neither_wealth_is_large(alpha):
    for right, wrong in ((0, 1), (3, 0), (45, 5), (480, 20)):
        n = right + wrong
        monitor = AccuracyMonitor(0.5, alpha=alpha)
        monitor.update([True] * right + [False] * wrong)

        def wealth(accuracy, sign, right=right, n=n):
            shifts = sign * SHIFTS
            won = shifts * right - n * np.log1p(accuracy * np.expm1(shifts))
            return logsumexp(won, b=SHARES) - math.log(2 / alpha)

        value, low, high = monitor.interval
        assert value == right / n
        share = right / n
        expected = brentq(wealth, 0, share, (1,)) if wealth(0, 1) > 0 else 0
        assert low == pytest.approx(expected, abs=1e-8)
        expected = brentq(wealth, share, 1, (-1,)) if wealth(1, -1) > 0 else 1
        assert high == pytest.approx(expected, abs=1e-8)


@given(OUTCOMES)
@settings(deadline=None, max_examples=30)
def test_right_and_wrong_mirror_each_other(correct):
    first, second = AccuracyMonitor(0.9), AccuracyMonitor(0.9)
    first.update(correct)
    second.update([not right for right in correct])
    value, low, high = first.interval
    mirrored = (1 - value, 1 - high, 1 - low)
    assert second.interval == pytest.approx(mirrored, abs=1e-12)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_the_sequence_covers_at_all_times(accuracy):
    # An accuracy is inside exactly if neither wealth against it is large.
    rng = np.random.default_rng(6)
    right = rng.random((1000, 500)) < accuracy
    too_few = accuracy_courses(accuracy, right)
    too_many = accuracy_courses(1 - accuracy, ~right)
    outside = np.maximum(too_few, too_many) >= math.log(40)
    assert outside.any(axis=1).mean() <= 0.05
    for at in range(3):
        low, high = confidence_sequence(
            np.cumsum(right[at]), np.arange(1, 501), alpha=0.05
        )
        inside = (low < accuracy) & (accuracy < high)
        np.testing.assert_array_equal(inside, ~outside[at])


def test_the_sequence_covers_the_running_average_of_a_drifting_accuracy():
    rng = np.random.default_rng(7)
    accuracy = np.r_[np.linspace(0.98, 0.6, 60), np.full(60, 0.9)]
    average = np.cumsum(accuracy) / np.arange(1, 121)
    right = np.cumsum(rng.random((200, 120)) < accuracy, axis=1)[:, 9::10]
    n = np.tile(np.arange(10, 121, 10), 200)
    low, high = (
        end.reshape(200, 12) for end in confidence_sequence(right.ravel(), n, 0.05)
    )
    inside = (low <= average[9::10]) & (average[9::10] <= high)
    assert 190 <= inside.all(axis=1).sum() < 200


def test_the_interval_narrows_and_is_wider_than_one_for_a_single_look():
    table = AccuracyMonitor(0.9)
    table.update([True] * 9 + [False])
    wide = table.interval
    for _ in range(99):
        table.update([True] * 9 + [False])
    narrow = table.interval
    assert narrow.high - narrow.low < (wide.high - wide.low) / 8
    single = 1.96 * math.sqrt(0.09 / 1000)
    assert single < narrow.high - 0.9 < 3 * single


def test_the_table_tells_the_course():
    monitor = CalibrationMonitor()
    monitor.update([0.9, 0.7, 0.8, 0.6, 1.0], [1, 0, 1, 1, 1])
    table = monitor.table()
    assert table["item"].tolist() == [1, 2, 3, 4, 5]
    assert table["right"].tolist() == [1, 1, 2, 3, 4]
    assert table["accuracy"].tolist() == [1, 0.5, 2 / 3, 0.75, 0.8]
    assert table["mean_confidence"].tolist() == pytest.approx(
        [0.9, 0.8, 0.8, 0.75, 0.8]
    )
    assert table["e_value"].iloc[-1] == monitor.e_value
    assert tuple(table.iloc[-1][["accuracy", "lower", "upper"]]) == monitor.interval
    few = monitor.table(every=2)
    assert few["item"].tolist() == [2, 4, 5]
    expected = table.iloc[[1, 3, 4]].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, expected)
    with pytest.raises(ValueError, match="every must be a whole number"):
        monitor.table(every=0)


# Stored and taken up again


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2), st.data())
@settings(deadline=None, max_examples=30)
def test_a_stored_monitor_goes_on_where_it_stood(items, data):
    confidence, correct = map(list, zip(*items, strict=True))
    cut = data.draw(st.integers(0, len(items) - 1))
    for made in (
        AccuracyMonitor(0.9, alpha=0.1),
        CalibrationMonitor(alternative="two-sided", clip=0.01),
    ):
        whole = type(made).from_dict(made.to_dict())
        accuracy = isinstance(made, AccuracyMonitor)
        whole.update(*([correct] if accuracy else [confidence, correct]))
        if cut:
            early = correct[:cut]
            made.update(*([early] if accuracy else [confidence[:cut], early]))
        text = json.dumps(made.to_dict(), allow_nan=False)
        again = type(made).from_dict(json.loads(text))
        late = correct[cut:]
        again.update(*([late] if accuracy else [confidence[cut:], late]))
        assert repr(again) == repr(whole) and again.alpha == made.alpha
        pd.testing.assert_frame_equal(again.table(), whole.table())


@pytest.mark.parametrize(
    ("made", "first", "second"),
    [
        (AccuracyMonitor(0.9, alpha=0.1), ([1, 0],), ([0, 0, 0],)),
        (
            CalibrationMonitor(alternative="two-sided", clip=0),
            ([0.1 + 0.2, 1.0], [1, 0]),
            ([0.9, 0.2], [1, 1]),
        ),
    ],
)
def test_a_monitor_goes_on_next_week(tmp_path, made, first, second):
    path = tmp_path / "week.json"
    made.save(path)  # before the first item
    again = type(made).load(path)
    assert again.n == 0 and repr(again) == repr(made)
    again.update(*first)
    again.save(str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["week.json"]
    again = type(made).load(str(path))
    made.update(*first)
    assert made.to_dict() == again.to_dict() == json.loads(path.read_text("utf-8"))
    assert made.update(*second) and again.update(*second)
    assert made.alarm_at == again.alarm_at
    pd.testing.assert_frame_equal(made.table(), again.table())


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (b"no JSON", "week.json is no JSON: Expecting value"),
        (b"\xff{}", "week.json is no JSON: 'utf-8' codec"),
        (b"[]", "stored must be a mapping, not list"),
        (b"{}", "format must be 'helpers.monitoring/1', not None"),
    ],
)
def test_a_file_that_holds_no_monitor(tmp_path, held, message):
    path = tmp_path / "week.json"
    path.write_bytes(held)
    with pytest.raises(ValueError, match=message):
        CalibrationMonitor.load(path)
    AccuracyMonitor(0.9).save(path)
    with pytest.raises(ValueError, match="class must be 'CalibrationMonitor', not 'A"):
        CalibrationMonitor.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format must be 'helpers.monitoring/1', not 'other'"),
        ({"class": "CalibrationMonitor"}, "class must be 'AccuracyMonitor'"),
        ({"promised": 1}, "promised must lie between 0 and 1, not 1"),
        ({"alpha": "0.05"}, "alpha must lie between 0 and 1, not '0.05'"),
        ({"correct": "0120"}, "correct must be text of 0 and 1; it has '2'"),
        ({"correct": [1, 0]}, "correct must be text, not list"),
        ({"promised": math.nan}, "promised must lie between 0 and 1, not nan"),
    ],
)
def test_a_stored_monitor_that_is_not_whole(change, message):
    stored = AccuracyMonitor(0.9).to_dict()
    with pytest.raises(ValueError, match=message):
        AccuracyMonitor.from_dict(stored | change)
    with pytest.raises(ValueError, match="must not have the field 'more'"):
        AccuracyMonitor.from_dict(stored | {"more": 1})
    name = next(iter(change))
    if name not in ("format", "class"):
        with pytest.raises(ValueError, match=f"must have the field '{name}'"):
            AccuracyMonitor.from_dict({k: v for k, v in stored.items() if k != name})


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        (None, "confidence must be a list of numbers, not NoneType"),
        ([0.5], "confidence must have one number for each of 2 outcomes, not 1"),
        ([0.5, math.nan], "confidence must not be missing; 1 of 2"),
        ([0.5, "x"], "confidence must be numbers"),
    ],
)
def test_stored_confidences_that_are_not_whole(confidence, message):
    monitor = CalibrationMonitor()
    monitor.update([0.5, 0.6], [True, False])
    with pytest.raises(ValueError, match=message):
        CalibrationMonitor.from_dict(monitor.to_dict() | {"confidence": confidence})
    with pytest.raises(ValueError, match="stored must be a mapping, not list"):
        CalibrationMonitor.from_dict([])


# Bad input


@pytest.mark.parametrize("promised", [0, 1, -0.1, 1.5, math.nan, "0.9", None, True])
def test_bad_promises(promised):
    with pytest.raises(ValueError, match="promised must lie between 0 and 1, not"):
        AccuracyMonitor(promised)


@pytest.mark.parametrize("alpha", [0, 1, -1, math.nan, "x"])
def test_bad_alphas(alpha):
    for make in (lambda: AccuracyMonitor(0.9, alpha=alpha), CalibrationMonitor):
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1, not"):
            make() if make is not CalibrationMonitor else make(alpha=alpha)


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        ([], "correct must have at least one outcome"),
        (
            [True, math.nan],
            "correct must not be missing; 1 of 2 rows have no label; pass the 1",
        ),
        (None, "correct must not be missing; 1 of 1 rows have no label"),
        (2, "correct must be 0 or 1; row 0 is 2"),
        ("right", "correct must be 0 or 1; row 0 is 'right'"),
        ([[True]], "correct must be one column"),
    ],
)
def test_bad_outcomes_change_nothing(correct, message):
    monitor = AccuracyMonitor(0.9)
    monitor.update([True, False])
    before = monitor.to_dict(), monitor.e_value
    with pytest.raises(ValueError, match=message):
        monitor.update(correct)
    assert before == (monitor.to_dict(), monitor.e_value)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "confidence must be one column with at least one row"),
        ([0.5, 0.5], [True], "correct must have one value for each of 2 rows"),
        (0.5, [True, False], "correct must have one value for each of 1 rows"),
        ([0.5, math.nan], [1, 1], "confidence must not be missing; 1 of 2"),
        ([1.5], [1], "confidence must lie in .0, 1.; row 0 is 1.5"),
        (
            [0.5],
            [math.nan],
            "correct must not be missing; 1 of 1 rows have no label",
        ),
        ([[0.5]], [1], "confidence must be one column"),
    ],
)
def test_bad_items_change_nothing(confidence, correct, message):
    monitor = CalibrationMonitor()
    monitor.update(0.8, True)
    before = monitor.to_dict(), monitor.e_value
    with pytest.raises(ValueError, match=message):
        monitor.update(confidence, correct)
    assert before == (monitor.to_dict(), monitor.e_value)
    with pytest.raises(ValueError, match="alternative must be one of"):
        CalibrationMonitor(alternative="underconfident")


def test_a_monitor_says_how_it_stands():
    monitor = AccuracyMonitor(0.9)
    assert repr(monitor) == (
        "<AccuracyMonitor(promised=0.9, alpha=0.05): 0 of 0 right, e-value 1>"
    )
    monitor.update([False] * 3)
    assert repr(monitor).endswith("alarm at item 3>")


# Drift of scores


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=40),
    st.lists(st.integers(0, 30), min_size=2, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_scipy(then, now):
    pooled = np.array(then + now, dtype=float) / 30
    order = np.argsort(pooled, kind="stable")
    _, ks, wasserstein = _distances(order < len(then), pooled[order], 10)
    left, right = pooled[: len(then)], pooled[len(then) :]
    expected = ks_2samp(left, right, method="asymp").statistic
    assert ks == pytest.approx(expected, abs=1e-12)
    expected = wasserstein_distance(left, right)
    assert wasserstein == pytest.approx(expected, abs=1e-12)


def test_stability_index_by_hand():
    # Two bins cut at the third score of the reference: 2 and 2 scores, then 1 and 3.
    # With half a score more in each bin, 0.5 and 0.5 against 0.3 and 0.7.
    drift = score_drift([1, 2, 3, 4], [1.5, 3, 3.5, 9], rng=0, n_bins=2, n_resamples=9)
    expected = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    assert drift.psi.value == pytest.approx(expected)


def test_the_noise_floor_is_what_two_samples_of_one_distribution_give():
    rng = np.random.default_rng(8)
    drift = score_drift(rng.random(2000), rng.random(1000), rng=0)
    expected = 9 * (1 / 2000 + 1 / 1000)
    assert drift.psi.floor.mean == pytest.approx(expected, rel=0.1)
    # The limit distribution of the Kolmogorov-Smirnov statistic has the mean 0.8687
    # and the 95th percentile 1.358.
    scale = math.sqrt(1 / 2000 + 1 / 1000)
    assert drift.ks.floor.mean == pytest.approx(0.8687 * scale, rel=0.05)
    assert drift.ks.floor.upper == pytest.approx(1.358 * scale, rel=0.05)
    assert drift.ks.method == "asymptotic"


def test_p_values_under_no_drift_are_not_too_small():
    rng = np.random.default_rng(9)
    small = np.zeros(3)
    for _ in range(150):
        # Tied scores, so that all three are permutation p-values.
        then, now = rng.integers(0, 8, 60), rng.integers(0, 8, 40)
        table = score_drift(then, now, rng=rng, n_resamples=19).table()
        assert set(table["method"]) == {"permutation"}
        small += table["p_value"] <= 0.1
    # 0.1 of 150 is 15, and three standard deviations are 11.
    assert (small <= 26).all() and (small >= 4).all()


def test_drift_is_found():
    rng = np.random.default_rng(10)
    then, now = rng.beta(8, 2, 400), rng.beta(6, 2, 300)
    drift = score_drift(then, now, rng=0, n_resamples=199)
    expected = ks_2samp(then, now, method="exact")
    assert drift.ks.value == expected.statistic
    assert drift.ks.p_value == expected.pvalue and drift.ks.method == "exact"
    assert drift.wasserstein.value == pytest.approx(wasserstein_distance(then, now))
    table = drift.table()
    assert table.index.tolist() == ["psi", "ks", "wasserstein"]
    assert table["above"].all() and (table["p_value"] < 0.01).all()
    assert (drift.n_reference, drift.n_current, drift.level) == (400, 300, 0.95)
    again = score_drift(then, now, rng=np.random.default_rng(0), n_resamples=199)
    assert again == drift


def test_precision_is_no_drift():
    then, now = np.arange(400) % 20 / 20, np.arange(300) % 15 / 20
    double, single = then, now.astype(np.float32)
    expected = score_drift(then, now, rng=0, n_resamples=99).table()
    for reference, current in [
        (double, single),
        (double, single.astype(float)),
        (double.astype(np.float32), now),
    ]:
        found = score_drift(reference, current, rng=0, n_resamples=99).table()
        pd.testing.assert_frame_equal(found, expected)
    found = score_drift(then, then.astype(np.float32), rng=0, n_resamples=99).table()
    assert (found["p_value"] == 1).all()
    huge = score_drift(then * 1e300, now * 1e300, rng=0, n_resamples=99).table()
    assert huge["p_value"].tolist() == expected["p_value"].tolist()


def test_equal_scores_have_not_moved():
    drift = score_drift([0.7] * 5, [0.7] * 4, rng=0, n_resamples=19)
    # A bin below the only score, which holds half a score of either sample.
    assert drift.ks.value == drift.wasserstein.value == 0
    assert drift.psi.value == pytest.approx(drift.psi.floor.mean)
    assert (drift.table()["p_value"] == 1).all()
    single = score_drift([0.7], [0.7], rng=0, n_resamples=19)
    assert (single.table()["p_value"] == 1).all()
    same = score_drift([1, 2, 3], [1, 2, 3], rng=0, n_resamples=19)
    assert same.psi.value == 0 and (same.table()["p_value"] == 1).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reference": []}, ValueError, "reference must be one column with at least"),
        ({"current": [[1]]}, ValueError, "current must be one column"),
        (
            {"current": [0.5, math.nan]},
            ValueError,
            "current must not be missing; 1 of 2",
        ),
        ({"reference": [math.inf]}, ValueError, "reference must be finite; row 0"),
        ({"current": [1, None]}, ValueError, "current must not be missing; 1 of"),
        ({"current": ["a"]}, TypeError, "current must be numbers"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be a whole number"),
        ({"n_bins": 1}, ValueError, "n_bins must be a whole number of 2 or more"),
        ({"level": 1}, ValueError, "level must lie between 0 and 1, not 1"),
        ({"rng": "x"}, TypeError, "rng must be a Generator"),
    ],
)
def test_bad_scores_and_settings(changes, error, message):
    given = {"reference": [0.1, 0.2], "current": [0.3], "rng": 0} | changes
    with pytest.raises(error, match=message):
        score_drift(given.pop("reference"), given.pop("current"), **given)
