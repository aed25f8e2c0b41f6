"""Monitors that may be looked at after every item, and how soon they find a fall."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, logsumexp

from helpers.decisions import AccuracyMonitor, CalibrationMonitor, detection_delay

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=60)
PROBABILITIES = st.floats(0.01, 0.99)
# Gamblers believe that log-odds are too high by a shift, which is half-Cauchy.
SHIFTS = np.geomspace(0.02, 8, 64)
SHARES = SHIFTS / (0.25 + SHIFTS**2) * np.r_[0.5, np.ones(62), 0.5]
SHARES /= SHARES.sum()


def by_hand(confidence, correct):
    """The wealth as the sum over gamblers of the product of what each one won."""
    total = 0.0
    for shift, share in zip(SHIFTS, SHARES, strict=True):
        for p, right in zip(confidence, correct, strict=True):
            q = expit(logit(p) - shift)
            share *= q / p if right else (1 - q) / (1 - p)
        total += share
    return total


def test_the_wealth_is_what_the_gamblers_won_together():
    correct = [1, 0, 1, 1, 0, 0, 1]
    accuracy, calibration = AccuracyMonitor(0.9), CalibrationMonitor()
    accuracy.update(correct)
    assert accuracy.e_value == pytest.approx(by_hand([0.9] * 7, correct), rel=1e-12)
    confidence = [0.9, 0.3, 0.99, 0.5, 0.7, 0.2, 0.8]
    calibration.update(confidence, correct)
    expected = by_hand(confidence, correct)
    assert calibration.e_value == pytest.approx(expected, rel=1e-12)
    stated = np.cumsum(confidence) / np.arange(1, 8)
    assert calibration.table()["mean_confidence"].to_numpy() == pytest.approx(stated)


@pytest.mark.parametrize("clip", [0, 0.01, 0.3])
def test_the_mean_wealth_is_at_most_one_with_any_clip(clip):
    # Over all outcomes of items that keep their promise, after each of the items.
    confidence = np.array([1.0, 0.0, 0.999, 0.002, 0.9, 0.2])
    mean = np.zeros(len(confidence))
    for correct in itertools.product([False, True], repeat=len(confidence)):
        chance = np.prod(np.where(correct, confidence, 1 - confidence))
        if chance:  # not where an item promised with 1 is wrong
            monitor = CalibrationMonitor(clip=clip)
            monitor.update(confidence, correct)
            mean += chance * monitor.table()["e_value"].to_numpy()
    assert (np.diff(mean, prepend=1) <= 1e-12).all()
    if clip == 0:
        assert mean == pytest.approx(1)
    elif clip == 0.01:
        # Confidences inside it are bet on as stated.
        assert mean[0] < 1 and mean[4:] == pytest.approx(mean[3])


@given(OUTCOMES, PROBABILITIES)
@settings(max_examples=20)
def test_one_by_one_is_all_at_once(correct, promised):
    once, singly = AccuracyMonitor(promised), AccuracyMonitor(promised)
    told = [singly.update(right) for right in correct]
    assert once.update(correct) == told[-1] == once.alarm
    pd.testing.assert_frame_equal(once.table(), singly.table())
    assert once.to_dict() == singly.to_dict()
    assert (once.p_value, once.alarm_at) == (singly.p_value, singly.alarm_at)
    assert told.count(True) == (len(correct) - once.alarm_at + 1 if once.alarm else 0)


def test_long_streams_neither_overflow_nor_lose_their_parts():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    for share in (0.3, 0.75):
        correct = rng.random(20_000) < share
        monitor, parts = CalibrationMonitor(), CalibrationMonitor()
        monitor.update(confidence, correct)
        for start in range(0, 20_000, 7_000):
            part = slice(start, start + 7_000)
            parts.update(confidence[part], correct[part])
        assert parts.e_value == monitor.e_value and parts.alarm_at == monitor.alarm_at
        assert monitor.n_right == correct.sum()
        if share == 0.3:
            assert monitor.e_value == math.inf and monitor.p_value == 0


def test_an_alarm_stays_while_the_wealth_falls_again():
    monitor = AccuracyMonitor(0.95)
    assert not monitor.update([True, True])
    assert monitor.update([False] * 4)
    highest, alarm_at = monitor.e_value, monitor.alarm_at
    assert monitor.update([True] * 100)
    assert monitor.e_value < 1 < 20 < highest
    assert monitor.p_value == pytest.approx(1 / highest)
    course = monitor.table()
    assert alarm_at == course.loc[course["e_value"] >= 20, "item"].iloc[0]
    assert monitor.alarm_at == alarm_at


def test_what_cannot_happen_raises_the_alarm_at_once():
    monitor = CalibrationMonitor(clip=0)
    assert not monitor.update([1.0, 1.0, 0.0, 0.0], [True, True, False, True])
    assert monitor.update([0.5, 1.0, 0.5], [True, False, True])
    assert (monitor.alarm_at, monitor.e_value) == (6, math.inf)
    monitor.update([0.1] * 50, [True] * 50)
    assert monitor.e_value == math.inf and monitor.p_value == 0
    assert np.isinf(monitor.table()["e_value"]).tolist() == [False] * 5 + [True] * 52


def test_certainty_is_bet_against_at_the_clip():
    # One error at a confidence of 1 is strong evidence, but no proof.
    for clip in (0.001, 0.05):
        monitor = CalibrationMonitor(clip=clip)
        monitor.update([0.9, 1.0, 0.7], [1, 0, 1])
        expected = by_hand([0.9, 1 - clip, 0.7], [1, 0, 1])
        assert monitor.e_value == pytest.approx(expected)
        assert not monitor.alarm
        assert monitor.table()["mean_confidence"].iloc[1] == 0.95
        again = CalibrationMonitor.from_dict(monitor.to_dict())
        assert again.clip == clip and again.e_value == monitor.e_value


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize(("right", "wrong"), [(0, 1), (3, 0), (45, 5), (480, 20)])
def test_the_interval_is_where_neither_wealth_is_large(alpha, right, wrong):
    n = right + wrong
    monitor = AccuracyMonitor(0.5, alpha=alpha)
    monitor.update([True] * right + [False] * wrong)

    def too_large(accuracy, shifts):
        won = shifts * right - n * np.log1p(accuracy * np.expm1(shifts))
        return logsumexp(won, b=SHARES) - math.log(2 / alpha)

    low, high = monitor.table()[["lower", "upper"]].iloc[-1]
    assert 0 <= low <= right / n <= high <= 1
    # The end is where the wealth becomes as large as an alarm takes, or there is none.
    for end, shifts in ((low, SHIFTS), (high, -SHIFTS)):
        if end in (0, 1):
            assert too_large(end, shifts) <= 1e-6
        else:
            assert too_large(end, shifts) == pytest.approx(0, abs=1e-5)


def test_the_table_tells_the_course():
    monitor = CalibrationMonitor()
    monitor.update([0.9, 0.7, 0.8, 0.6, 1.0], [1, 0, 1, 1, 1])
    table = monitor.table()
    assert table["item"].tolist() == [1, 2, 3, 4, 5]
    assert table["right"].tolist() == [1, 1, 2, 3, 4]
    assert table["accuracy"].tolist() == [1, 0.5, 2 / 3, 0.75, 0.8]
    few = monitor.table(every=2)
    assert few["item"].tolist() == [2, 4, 5]
    expected = table.iloc[[1, 3, 4]].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, expected)
    with pytest.raises(ValueError, match="every must be a whole number"):
        monitor.table(every=0)


@pytest.mark.parametrize(
    ("made", "first", "second"),
    [
        (AccuracyMonitor(0.9, alpha=0.1), ([1, 0],), ([0, 0, 0],)),
        (CalibrationMonitor(clip=0), ([0.1 + 0.2], [1]), ([1.0, 0.2], [0, 1])),
    ],
)
def test_a_monitor_goes_on_next_week(tmp_path, made, first, second):
    path = tmp_path / "week.json"
    made.save(path)  # before the first item
    again = type(made).load(path)
    assert again.n == 0 and repr(again) == repr(made)
    again.update(*first)
    again.save(str(path))
    again = type(made).load(str(path))
    made.update(*first)
    assert made.to_dict() == again.to_dict() == json.loads(path.read_text("utf-8"))
    assert made.update(*second) and again.update(*second)
    assert made.alarm_at == again.alarm_at and repr(again) == repr(made)
    pd.testing.assert_frame_equal(made.table(), again.table())


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (b"no JSON", "week.json is no JSON: Expecting value"),
        (b"{}", "must have the field 'format'"),
        ({"format": "other"}, "format is 'other'"),
        ({"class": "CalibrationMonitor"}, "class and settings must be AccuracyMonitor"),
        ({"settings": {"promised": 0.9}}, "class and settings must be AccuracyMonitor"),
        ({"settings": {"promised": 1, "alpha": 0.1}}, "promised must lie between 0 an"),
        ({"correct": "0120"}, "correct is '0120'"),
        ({"confidence": [0.5]}, "confidence is not as of AccuracyMonitor"),
    ],
)
def test_a_file_that_holds_no_monitor(tmp_path, held, message):
    path = tmp_path / "week.json"
    if isinstance(held, dict):
        held = json.dumps(AccuracyMonitor(0.9).to_dict() | held).encode()
    path.write_bytes(held)
    with pytest.raises(ValueError, match=message):
        AccuracyMonitor.load(path)


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        (None, "confidence is not as of CalibrationMonitor"),
        ([0.5], "correct must have one value for each of 1 rows"),
        ([0.5, math.nan], "confidence.1 is nan; it should be a finite number"),
    ],
)
def test_stored_confidences_that_are_not_whole(confidence, message):
    monitor = CalibrationMonitor()
    monitor.update([0.5, 0.6], [True, False])
    with pytest.raises(ValueError, match=message):
        CalibrationMonitor.from_dict(monitor.to_dict() | {"confidence": confidence})


DELAY = {"promised": 0.9, "actual": 0.8}


@pytest.mark.parametrize(
    ("make", "rules", "message"),
    [
        (AccuracyMonitor, {"promised": 0}, "promised must lie between 0 and 1, not 0"),
        (AccuracyMonitor, {"promised": "0.9"}, "promised must lie between 0 and 1"),
        (AccuracyMonitor, {"promised": 0.9, "alpha": 1}, "alpha must lie between 0"),
        (CalibrationMonitor, {"alpha": math.nan}, "alpha must lie between 0 and 1, n"),
        (CalibrationMonitor, {"clip": 0.5}, "clip must be 0 or more and below 0.5, n"),
        (CalibrationMonitor, {"clip": -0.1}, "clip must be 0 or more and below 0.5"),
        (detection_delay, {"promised": 1}, "promised must lie between 0 and 1, not 1"),
        (detection_delay, {"actual": 0.91}, "actual must lie between 0 and 0.9, not"),
        (detection_delay, {"was": 0.85}, "was must lie between 0.9 and 1, not 0.85"),
        (detection_delay, {"alpha": 5}, "alpha must lie between 0 and 1, not 5"),
        (detection_delay, {"before": -1}, "before must be a whole number of 0 or more"),
        (detection_delay, {"limit": 0}, "limit must be a whole number of 1 or more"),
    ],
)
def test_bad_settings(make, rules, message):
    given_ = rules if make is not detection_delay else DELAY | rules
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**given_)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (([],), "correct must have at least one outcome"),
        (([], []), "confidence must be one column with at least one row"),
        (([1.5], [1]), "confidence must lie in .0, 1.; row 0 is 1.5"),
    ],
)
def test_bad_items_change_nothing(items, message):
    monitor = AccuracyMonitor(0.9) if len(items) == 1 else CalibrationMonitor()
    monitor.update(*([True, False], [True, False])[-len(items) :])
    before = monitor.to_dict(), monitor.e_value
    with pytest.raises(ValueError, match=message):
        monitor.update(*items)
    assert before == (monitor.to_dict(), monitor.e_value)


def test_a_monitor_says_how_it_stands():
    monitor = AccuracyMonitor(0.9)
    assert (monitor.n, monitor.e_value, monitor.p_value) == (0, 1, 1)
    assert monitor.alarm_at is None and not monitor.alarm
    assert monitor.table().empty and CalibrationMonitor().table().empty
    said = "<AccuracyMonitor(promised=0.9, alpha=0.05): 0 of 0 right, e-value 1>"
    assert repr(monitor) == said
    monitor.update([False] * 3)
    assert repr(monitor).endswith("alarm at item 3>")


def test_every_stream_shown_to_a_monitor():
    before, limit = 4, 7
    at = np.zeros(before + limit + 1)
    for right in itertools.product([True, False], repeat=before + limit):
        monitor = AccuracyMonitor(0.8, alpha=0.4)
        monitor.update(right)
        p = np.where(right, *np.repeat([[0.85, 0.5], [0.15, 0.5]], [before, limit], 1))
        at[(monitor.alarm_at or 0) - 1] += p.prod()
    early = at[:before].sum()
    found = detection_delay(0.8, 0.5, was=0.85, before=before, alpha=0.4, limit=limit)
    assert found.false_alarms == pytest.approx(early, rel=1e-12) and early > 0
    after = np.cumsum(at[before:-1]) / (1 - early)
    assert np.allclose(found.chances, after, rtol=1e-12, atol=0)
    assert 0.3 < found.found < 1


def test_known_delays():
    found = detection_delay(0.95, 0.9)
    assert (found.median, found.quantile(0.9)) == (166, 395)
    assert 1 - 1e-9 < found.found <= 1 and found.false_alarms == 0
    assert found.chances.shape == (5000,)
    short = detection_delay(0.95, 0.94, limit=60)
    assert 0 < short.found < 0.5 and short.median == math.inf


@settings(max_examples=20)
@given(st.floats(0.02, 0.98), st.floats(0, 1), st.floats(0.01, 0.9), st.integers(0, 40))
def test_promises_that_are_kept_are_rarely_doubted(promised, more, alpha, before):
    was = min(1.0, promised + more * (1 - promised))
    kept = detection_delay(
        promised, promised, was=was, before=before, alpha=alpha, limit=60
    )
    assert kept.false_alarms + (1 - kept.false_alarms) * kept.found <= alpha + 1e-12


def test_quantiles_are_exact():
    found = detection_delay(0.5, 0.4, alpha=0.6, limit=3)
    found = replace(found, chances=np.array([0, 0, 0.25, 0.5, 0.75]))
    quantiles = [found.quantile(q) for q in (0.01, 0.25, 0.26, 0.5, 0.75, 0.76)]
    assert quantiles == [3, 3, 4, 4, 5, math.inf] and found.median == 4
    # 0.1 + 0.7 is 0.7999999999999999 in floats, and is 0.8.
    assert replace(found, chances=np.array([0.1, 0.1 + 0.7, 1])).quantile(0.8) == 2
    with pytest.raises(ValueError, match="^q must lie between 0 and 1, not 90"):
        found.quantile(90)
