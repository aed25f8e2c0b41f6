"""Rules of helpers.metrics.paired, against a bootstrap written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.metrics import (
    auroc,
    bootstrap_interval,
    brier_score,
    debiased_calibration_error,
    expected_calibration_error,
    log_loss,
    maximum_calibration_error,
    paired_difference,
    paired_differences,
)
from helpers.metrics.resampling import MEASURES

PLAIN: dict[str, Any] = {
    "ece": lambda p, y: expected_calibration_error(p, y, n_bins=5),
    "rmsce": lambda p, y: expected_calibration_error(p, y, n_bins=5, norm="l2"),
    "mce": lambda p, y: maximum_calibration_error(p, y, n_bins=5),
    "squared": lambda p, y: debiased_calibration_error(
        p, y, n_bins=5, strategy="uniform"
    ),
    "accuracy": lambda p, y: y.mean(),
    "confidence": lambda p, y: p.mean(),
    "gap": lambda p, y: p.mean() - y.mean(),
    "brier": brier_score,
    "log_loss": log_loss,
    "auroc": auroc,
}


def two_models(n: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.05, 0.95, (2, n)).round(1) + 0.03).clip(0.05, 0.95)
    return (a, rng.random(n) < a), (b, rng.random(n) < (a + 3 * b) / 4)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
def test_difference_is_that_of_a_plain_paired_bootstrap(
    measure: str, grouped: bool
) -> None:
    (a, right_a), (b, right_b) = two_models(60, 2)
    score = PLAIN[measure]
    groups = np.arange(60) % 20 if grouped else np.arange(60)
    n_groups = 20 if grouped else 60
    counts = np.random.default_rng(5).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), 200
    )
    changes = []
    for count in counts:
        drawn = np.repeat(np.arange(60), count[groups])
        changes.append(
            score(b[drawn], right_b[drawn]) - score(a[drawn], right_a[drawn])
        )
    low, high = np.quantile(changes, [0.05, 0.95])
    value = score(b, right_b) - score(a, right_a)
    pivot = value
    if measure == "squared":
        pivot = PLAIN["rmsce"](b, right_b) ** 2 - PLAIN["rmsce"](a, right_a) ** 2
    if measure in ("ece", "rmsce", "squared"):
        low, high = value + pivot - high, value + pivot - low
    found = paired_difference(
        (a, right_a),
        (b, right_b),
        measure,
        groups=groups if grouped else None,
        n_bins=5,
        level=0.9,
        n_resamples=200,
        rng=5,
    )
    assert found == pytest.approx((value, low, high), abs=1e-12)


def test_by_hand() -> None:
    # Squares .01, .01, .81 against .25 each; row 2 is right in b only.
    a, b = ([0.9, 0.9, 0.9], [1, 1, 0]), ([0.5, 0.5, 0.5], [1, 1, 1])
    found = paired_differences(a, b, ["brier", "accuracy", "confidence", "gap"])
    assert found["brier"].value == pytest.approx(0.25 - 0.83 / 3)
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert found["confidence"] == pytest.approx((-0.4, -0.4, -0.4))
    assert found["gap"].value == pytest.approx(-0.4 - 1 / 3)
    # The difference in accuracy is that of row 2: drawn k of 3 times.
    assert (found["accuracy"].low, found["accuracy"].high) == (0, 1)


def test_several_measures_share_their_resamples() -> None:
    a, b = two_models(80, 3)
    both = paired_differences(a, b, ["brier", "ece"], n_resamples=50)
    assert list(both) == ["brier", "ece"]
    for measure, interval in both.items():
        assert interval == paired_difference(a, b, measure, n_resamples=50)


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_changes_from_a_model_to_itself(measure: str) -> None:
    a, _ = two_models(50, 4)
    assert paired_difference(a, a, measure, n_resamples=20) == (0, 0, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(MEASURES))
def test_a_difference_turns_its_sign_with_its_sides(seed: int, measure: str) -> None:
    a, b = two_models(30, seed)
    there = paired_difference(a, b, measure, n_resamples=50)
    back = paired_difference(b, a, measure, n_resamples=50)
    assert back == pytest.approx((-there.value, -there.high, -there.low), nan_ok=True)


def test_pairs_are_kept_together() -> None:
    """Two forecasters that are nearly one: what differs is much less than either."""
    rng = np.random.default_rng(6)
    p = rng.uniform(0.5, 1, 400)
    y = rng.random(400) < p
    found = paired_difference((p, y), (p - 0.01, y), "brier")
    alone = bootstrap_interval(p, y, "brier")
    assert found.high - found.low < 0.1 * (alone.high - alone.low)


def test_groups_undo_duplicates() -> None:
    a, b = two_models(300, 7)
    many_a, many_b = ([np.repeat(part, 5) for part in side] for side in (a, b))
    groups = np.repeat([f"text {n}" for n in range(300)], 5)
    single = paired_difference(a, b, n_resamples=2000)
    grouped = paired_difference(many_a, many_b, groups=groups, n_resamples=2000)  # type: ignore[arg-type]
    naive = paired_difference(many_a, many_b, n_resamples=2000)  # type: ignore[arg-type]
    assert grouped == pytest.approx(single, abs=0.1 * (single.high - single.low))
    assert grouped.high - grouped.low > 1.5 * (naive.high - naive.low)


def test_undefined_measures() -> None:
    one_outcome = ([0.9, 0.8, 0.7], [1, 1, 1])
    both = ([0.9, 0.8, 0.7], [1, 1, 0])
    found = paired_difference(one_outcome, both, "auroc")
    assert all(np.isnan(found))
    # Draws of rows that are all right, or all wrong, are left out.
    turned = ([0.7, 0.8, 0.9], [1, 1, 0])
    assert paired_difference(both, turned, "auroc") == (-1, -1, -1)
    certain = ([1.0, 0.8, 0.7], [0, 1, 1])
    found = paired_difference(both, certain, "log_loss")
    assert found.value == np.inf and np.isnan(found.low) and np.isnan(found.high)
    assert np.isnan(paired_difference(certain, certain, "log_loss").value)


def test_intervals_cover_as_often_as_they_say() -> None:
    """A known difference of Brier scores: that of p + 0.1 over p is 0.01."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        p = rng.uniform(0.3, 0.9, 150)
        y = rng.random(150) < p
        found = paired_difference((p, y), (p + 0.1, y), n_resamples=200, rng=seed)
        covered += found.low <= 0.01 <= found.high
    assert covered / 200 == pytest.approx(0.95, abs=0.045)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": [0.5, 0.9, 0.7]}, r"a must be a pair, .*, not list of 3"),
        ({"b": np.ones((2, 3))}, r"b must be a pair, .*, not ndarray\."),
        ({"a": ([0.5, 1.9, 0.7], [1, 0, 1])}, r"confidence of a must .* row 1 is 1.9"),
        (
            {"b": ([0.5, 0.9], [1, 0])},
            "confidence of b must have one value for each of 3 rows",
        ),
        ({"b": ([0.5, 0.9, 0.7], [1, 0])}, "correct of b must have one value for"),
        ({"b": ([0.5, 0.9, 0.7], [1, 0, 2])}, "correct of b must be 0 or 1; row 2"),
        ({"measures": ["brier", "f1"]}, "measure must be one of 'ece', .*, not 'f1'"),
        ({"measures": "brier"}, "measures must be a list of names, not 'brier'"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
        ({"n_resamples": 0}, "n_resamples must be a whole number of 1 or more"),
        ({"groups": [0, 1]}, "groups must have one value for each of 3 rows"),
        ({"groups": [0, None, 1]}, "groups must not be missing; 1 of"),
        ({"n_bins": 0}, "n_bins must be a whole number"),
        ({"closed": "both"}, "closed must be one of"),
    ],
)
def test_bad_input(change: dict[str, Any], says: str) -> None:
    pair = ([0.5, 0.9, 0.7], [1, 0, 1])
    arguments: dict[str, Any] = {"a": pair, "b": pair, "measures": ["brier"]} | change
    with pytest.raises(ValueError, match=f"^{says}"):
        paired_differences(**arguments)
    with pytest.raises(TypeError, match="rng must be"):
        paired_difference(pair, pair, rng="a")  # type: ignore[arg-type]
