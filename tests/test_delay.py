"""How soon a monitor finds a fall: against exact chances, and the monitor itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from helpers.decisions import AccuracyMonitor, DetectionDelay, delay, detection_delay
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


@pytest.mark.parametrize("before", [0, 150])
def test_delays_are_as_likely_as_they_should_be(before: int) -> None:
    limit, streams = 450, 8_000
    found = detection_delay(
        0.95, 0.88, alpha=0.2, before=before, limit=limit, n_streams=streams
    )
    exact = chances(0.95, np.repeat([0.95, 0.88], [before, limit]), 0.2)
    early = exact[:before].sum()
    assert (found.false_alarms > 0) == (before > 0) and early <= 0.2
    assert found.false_alarms == pytest.approx(early, abs=4 * 0.5 / math.sqrt(streams))
    later = np.cumsum(exact[before:]) / (1 - early)
    drawn = np.searchsorted(found.delays, np.arange(1, limit + 1), "right")
    # Kolmogorov's limits: 1.95 at one in a thousand.
    n = len(found.delays)
    assert n == round((1 - found.false_alarms) * streams)
    assert np.abs(drawn / n - later).max() < 1.95 / math.sqrt(n)
    assert found.found == drawn[-1] / n


def test_known_delays() -> None:
    exact = np.cumsum(chances(0.95, np.full(500, 0.9)))
    half, most = (int(np.argmax(exact >= share)) + 1 for share in (0.5, 0.9))
    assert (half, most) == (166, 395)
    found = detection_delay(0.95, 0.9, limit=2000, n_streams=4000)
    assert found.found == 1
    assert found.median == pytest.approx(half, rel=0.06)
    assert found.quantile(0.9) == pytest.approx(most, rel=0.06)


def test_each_stream_is_what_a_monitor_would_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules: dict[str, Any] = {"was": 0.81, "before": 60, "limit": 80, "n_streams": 50}
    found = detection_delay(0.8, 0.4, alpha=0.3, rng=3, **rules)
    accuracy = np.repeat([0.81, 0.4], [60, 80])
    expected, early = [], 0
    for right in np.random.default_rng(3).random((50, 140)) < accuracy:
        monitor = AccuracyMonitor(0.8, alpha=0.3)
        monitor.update(right)
        at = monitor.alarm_at
        if at is not None and at <= 60:
            early += 1
        else:
            expected.append(math.inf if at is None else at - 60)
    assert early and found.false_alarms == early / 50
    assert math.inf not in expected[:5]
    assert list(found.delays) == sorted(expected)
    # However many are drawn at a time.
    for cells in (1, 300, 140 * 50):
        monkeypatch.setattr(delay, "_CELLS", cells)
        assert detection_delay(0.8, 0.4, alpha=0.3, rng=3, **rules) == found


def test_it_takes_longer_after_a_good_past_and_for_a_small_fall() -> None:
    def median(actual: float, **more: Any) -> float:
        return detection_delay(0.9, actual, n_streams=200, limit=1500, **more).median

    plain = median(0.8)
    assert median(0.7) < plain < median(0.85)
    assert plain < median(0.8, before=300) < median(0.8, before=300, was=0.95)
    assert median(0.8, alpha=0.2) < plain < median(0.8, alpha=0.001)


def test_what_is_not_found_takes_for_ever() -> None:
    found = detection_delay(0.95, 0.94, limit=60, n_streams=100)
    assert 0 < found.found < 0.5 and found.median == math.inf
    assert found.delays.count(math.inf) == round(100 * (1 - found.found))
    assert math.isfinite(found.quantile(found.found))
    assert found.quantile(found.found + 0.001) == math.inf
    # All wrong ones: as soon as the wealth of nothing but errors is large enough.
    n = np.arange(1, 10)
    first = int(np.argmax(log_wealth(0 * n, n, 0.9) >= math.log(20))) + 1
    assert set(detection_delay(0.9, 0, limit=20, n_streams=5).delays) == {first}


def test_an_alarm_at_the_last_good_item_is_a_false_one() -> None:
    # A wrong first item is enough for so large an alpha. After a right one it takes
    # three wrong ones.
    rules: dict[str, Any] = {"alpha": 0.9, "before": 1, "n_streams": 400}
    found = detection_delay(0.5, 0, limit=5, **rules)
    assert found.false_alarms == pytest.approx(0.5, abs=0.1)
    assert set(found.delays) == {3}


def test_only_false_alarms_leave_no_delay() -> None:
    rules: dict[str, Any] = {"alpha": 0.99, "before": 400, "n_streams": 1, "limit": 5}
    found = [detection_delay(0.9, 0.5, rng=seed, **rules) for seed in range(10)]
    none = next(one for one in found if one.false_alarms == 1)
    assert none.delays == () and math.isnan(none.found) and math.isnan(none.median)


def test_quantiles_by_hand() -> None:
    def one(*delays: float) -> DetectionDelay:
        return DetectionDelay(0.9, 0.9, 0.8, 0, 0.05, 99, 9, 0.0, 1.0, delays)

    four = one(3, 5, 8, math.inf)
    quantiles = [four.quantile(q) for q in (0.01, 0.25, 0.26, 0.5, 0.75, 0.76)]
    assert quantiles == [3, 3, 5, 5, 8, math.inf] and four.median == 5
    assert one(4).median == one(4).quantile(0.99) == 4
    hundred = one(*range(1, 101))
    assert hundred.quantile(0.07) == 7 and hundred.quantile(0.9) == 90
    with pytest.raises(ValueError, match="^q must lie between 0 and 1, not 90"):
        four.quantile(90)


def test_chance_is_the_callers() -> None:
    rules: dict[str, Any] = {"limit": 300, "n_streams": 50}
    first, second, other = (
        detection_delay(0.9, 0.8, rng=seed, **rules)
        for seed in (1, np.random.default_rng(1), 2)
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"promised": 1}, ValueError, "promised must lie between 0 and 1, not 1"),
        ({"actual": 0.9}, ValueError, "actual must be 0 or more and below 0.9, not 0."),
        ({"actual": 80}, ValueError, "actual must be 0 or more and below 0.9, not 80"),
        ({"actual": -0.1}, ValueError, "actual must be 0 or more and below 0.9, not -"),
        ({"was": 0.85}, ValueError, "was must lie between 0.9 and 1, not 0.85"),
        ({"alpha": 5}, ValueError, "alpha must lie between 0 and 1, not 5"),
        ({"before": -1}, ValueError, "before must be a whole number of 0 or more"),
        ({"limit": 0}, ValueError, "limit must be a whole number of 1 or more"),
        ({"n_streams": 1.5}, ValueError, "n_streams must be a whole number of 1"),
        ({"rng": "x"}, TypeError, "rng must be a Generator"),
    ],
)
def test_bad_rules(change: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=f"^{says}"):
        detection_delay(**{"promised": 0.9, "actual": 0.8} | change)
