"""How soon a monitor finds a fall: by hand, and against the monitor itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.decisions import AccuracyMonitor, DetectionDelay, detection_delay
from helpers.decisions.betting import log_wealth


def chances(promised: float, accuracy: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Probability that the alarm is raised at each item, by following all counts."""
    still = np.ones(1)  # of each number of right ones, without an alarm so far
    raised = np.zeros(len(accuracy))
    for at, p in enumerate(accuracy):
        still = np.append(still * (1 - p), 0) + np.append(0, still * p)
        n = np.full(at + 2, at + 1)
        alarm = log_wealth(np.arange(at + 2), n, promised) >= -math.log(alpha)
        raised[at] = still[alarm].sum()
        still[alarm] = 0
    return raised


def test_three_items_by_hand() -> None:
    # Against 1/2, the wealth after wrong items is 1.33, 1.86; after a right one and
    # two wrong ones, in any order, it is 1.002.
    monitor = AccuracyMonitor(0.5)
    monitor.update([False, False, True])
    wealth = monitor.table()["e_value"].tolist()
    assert wealth == pytest.approx([1.335, 1.862, 1.002], abs=0.001)
    # 1 / 0.6 is 1.67: only two wrong ones at once.
    found = detection_delay(0.5, 0.4, alpha=0.6, limit=3)
    assert found.chances == pytest.approx([0, 0.36, 0.36])
    assert (found.false_alarms, found.found) == (0, pytest.approx(0.36))
    # 1 / 0.999 is 1.001: one wrong one, or two after a right one.
    found = detection_delay(0.5, 0.4, alpha=0.999, limit=3)
    assert found.chances == pytest.approx([0.6, 0.6, 0.6 + 0.4 * 0.36])
    # An alarm at the last good item is a false one, and is left out.
    found = detection_delay(0.5, 0.4, was=0.7, before=1, alpha=0.999, limit=2)
    assert found.false_alarms == pytest.approx(0.3)
    assert found.chances == pytest.approx([0, 0.36])


def test_every_stream_shown_to_a_monitor() -> None:
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


def test_streams_drawn_for_a_monitor() -> None:
    before, limit, streams = 100, 250, 1500
    accuracy = np.repeat([0.95, 0.88], [before, limit])
    delays = []
    for right in np.random.default_rng(0).random((streams, before + limit)) < accuracy:
        monitor = AccuracyMonitor(0.95, alpha=0.2)
        monitor.update(right)
        delays.append((monitor.alarm_at or math.inf) - before)
    found = detection_delay(0.95, 0.88, before=before, alpha=0.2, limit=limit)
    early = np.mean(np.array(delays) <= 0)
    assert found.false_alarms == pytest.approx(early, abs=4 * 0.5 / math.sqrt(streams))
    late = np.sort([delay for delay in delays if delay > 0])
    drawn = np.searchsorted(late, np.arange(1, limit + 1), "right") / len(late)
    # Kolmogorov's limits: 1.95 at one in a thousand.
    assert np.abs(drawn - found.chances).max() < 1.95 / math.sqrt(len(late))


@pytest.mark.parametrize("promised", [0.2, 0.95])
def test_nothing_is_lost_on_the_way(promised: float) -> None:
    before, limit, actual = 200, 500, promised - 0.06
    found = detection_delay(promised, actual, before=before, limit=limit)
    exact = chances(promised, np.repeat([promised, actual], [before, limit]))
    early = exact[:before].sum()
    assert found.false_alarms == pytest.approx(early, rel=1e-9)
    after = np.cumsum(exact[before:]) / (1 - early)
    assert np.allclose(found.chances, after, rtol=1e-9, atol=0)


def test_known_delays() -> None:
    found = detection_delay(0.95, 0.9)
    assert (found.median, found.quantile(0.9)) == (166, 395)
    assert 1 - 1e-9 < found.found <= 1 and found.false_alarms == 0
    assert found.chances.shape == (5000,)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.02, 0.98),
    st.floats(0, 1),
    st.floats(0.01, 0.9),
    st.integers(0, 40),
)
def test_promises_that_are_kept_are_rarely_doubted(
    promised: float, more: float, alpha: float, before: int
) -> None:
    was = min(1.0, promised + more * (1 - promised))
    kept = detection_delay(
        promised, promised, was=was, before=before, alpha=alpha, limit=60
    )
    assert kept.false_alarms <= alpha and kept.found <= alpha
    assert kept.false_alarms + (1 - kept.false_alarms) * kept.found <= alpha + 1e-12
    fallen = detection_delay(
        promised, promised / 2, was=was, before=before, alpha=alpha, limit=60
    )
    assert fallen.false_alarms == kept.false_alarms
    assert np.all(fallen.chances >= kept.chances - 1e-12)
    assert np.all(np.diff(fallen.chances) >= 0) and fallen.found <= 1


def test_it_takes_longer_after_a_good_past_and_for_a_small_fall() -> None:
    def median(actual: float, **more: Any) -> float:
        return detection_delay(0.9, actual, limit=1500, **more).median

    plain = median(0.8)
    assert median(0.7) < plain < median(0.85)
    assert plain < median(0.8, before=300) < median(0.8, before=300, was=0.95)
    assert median(0.8, alpha=0.2) < plain < median(0.8, alpha=0.001)


def test_what_is_not_found_takes_for_ever() -> None:
    short, long = (detection_delay(0.95, 0.94, limit=limit) for limit in (60, 90))
    assert 0 < short.found < 0.5 and short.median == math.inf
    assert short.quantile(short.found) <= 60
    assert short.quantile(short.found + 0.001) == math.inf
    assert np.array_equal(long.chances[:60], short.chances) and long != short


def test_without_chance_in_the_items_there_is_none_in_the_delay() -> None:
    # All wrong: as soon as the wealth of nothing but errors is large enough.
    n = np.arange(1, 10)
    first = int(np.argmax(log_wealth(0 * n, n, 0.9) >= math.log(20))) + 1
    found = detection_delay(0.9, 0, limit=8)
    assert found.chances.tolist() == [0] * (first - 1) + [1] * (9 - first)
    assert found.median == found.quantile(0.001) == found.quantile(0.999) == first
    assert detection_delay(0.9, 0, was=1, before=500, limit=8).false_alarms == 0


def test_quantiles_by_hand() -> None:
    def one(*chances: float) -> DetectionDelay:
        at = np.array(chances)
        return DetectionDelay(0.9, 0.9, 0.8, 0, 0.05, len(at), 0.0, chances[-1], at)

    five = one(0, 0, 0.25, 0.5, 0.75)
    quantiles = [five.quantile(q) for q in (0.01, 0.25, 0.26, 0.5, 0.75, 0.76)]
    assert quantiles == [3, 3, 4, 4, 5, math.inf] and five.median == 4
    # 0.1 + 0.7 is 0.7999999999999999 in floats, and is 0.8.
    assert one(0.1, 0.1 + 0.7, 1).quantile(0.8) == 2
    with pytest.raises(ValueError, match="^q must lie between 0 and 1, not 90"):
        five.quantile(90)


def test_results_can_be_compared() -> None:
    first, second = (detection_delay(0.9, 0.8, limit=30) for _ in range(2))
    assert first == second != detection_delay(0.9, 0.7, limit=30)
    assert "chances" not in repr(first)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"promised": 1}, "promised must lie between 0 and 1, not 1"),
        ({"actual": 0.91}, "actual must lie between 0 and 0.9, not 0.91"),
        ({"actual": 80}, "actual must lie between 0 and 0.9, not 80"),
        ({"actual": -0.1}, "actual must lie between 0 and 0.9, not -0.1"),
        ({"was": 0.85}, "was must lie between 0.9 and 1, not 0.85"),
        ({"alpha": 5}, "alpha must lie between 0 and 1, not 5"),
        ({"before": -1}, "before must be a whole number of 0 or more, not -1"),
        ({"limit": 0}, "limit must be a whole number of 1 or more, not 0"),
        ({"limit": math.inf}, "limit must be a whole number of 1 or more, not inf"),
    ],
)
def test_bad_rules(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        detection_delay(**{"promised": 0.9, "actual": 0.8} | change)
