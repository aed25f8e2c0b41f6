"""What chance does to helpers.metrics: noise floors, intervals, differences, labels.

Expected values are simulated here in plain NumPy, drawn row by row with the same seed,
or were recorded once: random streams must not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from helpers.metrics import (
    Binning,
    CalibrationSums,
    auroc,
    bootstrap_interval,
    brier_score,
    calibration_metrics,
    class_gap_difference,
    debiased_calibration_error,
    expected_calibration_error,
    labels_needed,
    log_loss,
    noise_floor,
    paired_difference,
)

LEVELS = np.linspace(0.525, 0.975, 10)
FIVE = Binning(5)
QUANTILE_TEN = Binning(10, "quantile")
MEASURES: dict[str, Callable[[Any, Any], float]] = {
    "ece": lambda p, y: expected_calibration_error(p, y, binning=FIVE),
    "rmsce": lambda p, y: expected_calibration_error(p, y, binning=FIVE, norm="l2"),
    "mce": lambda p, y: expected_calibration_error(p, y, binning=FIVE, norm="max"),
    "squared": lambda p, y: debiased_calibration_error(p, y, binning=FIVE),
    "accuracy": lambda p, y: float(np.mean(y)),
    "confidence": lambda p, y: float(np.mean(p)),
    "gap": lambda p, y: float(np.mean(p) - np.mean(y)),
    "brier": brier_score,
    "log_loss": log_loss,
    "auroc": auroc,
}


def some_rows(n: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.4, 0.99, n)
    y = rng.random(n) < p - 0.05
    return (p.round(1).clip(0.01, 0.99) if ties else p), y


def two_models(n: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.05, 0.95, (2, n)).round(1) + 0.03).clip(0.05, 0.95)
    return (a, rng.random(n) < a), (b, rng.random(n) < (a + 3 * b) / 4)


P, Y = some_rows(200, 1)
Q, Z = some_rows(200, 2)
GROUPS = np.arange(200) // 4
DRAWS: dict[str, Any] = {"n_resamples": 50, "rng": 3}
SEVEN = Binning(7, "quantile")
MANY = some_rows(21_000, 5)[0]  # so many that cells are merged
FLOOR_DRAWS: dict[str, Any] = {"n_simulations": 50, "rng": 3}
RECORDED: list[tuple[Callable[[], Any], Any]] = [
    (lambda: noise_floor(P, **FLOOR_DRAWS), (0.079968041, 0.106576242)),
    (
        lambda: noise_floor(P, binning=SEVEN, norm="l2", **FLOOR_DRAWS),
        (0.077664081, 0.113935771),
    ),
    (
        lambda: noise_floor(P, measure=brier_score, n_simulations=20, rng=3),
        (0.185540371, 0.202551381),
    ),
    (lambda: noise_floor(MANY, **FLOOR_DRAWS), (0.007702388, 0.010734553)),
    (
        lambda: bootstrap_interval(P, Y, ["ece", "squared", "gap", "auroc"], **DRAWS),
        {
            "ece": (0.092610057, 0.016316706, 0.104085632),
            "squared": (0.000402177, -0.020496101, 0.013541933),
            "gap": (0.004785934, -0.041982456, 0.065500485),
            "auroc": (0.691355113, 0.604958691, 0.754862728),
        },
    ),
    (
        lambda: bootstrap_interval(P, Y, "brier", groups=GROUPS, **DRAWS),
        (0.192451209, 0.156589235, 0.215368284),
    ),
    (
        lambda: paired_difference((P, Y), (Q, Z), "brier", groups=GROUPS, **DRAWS),
        (0.014927572, -0.027093541, 0.065806978),
    ),
    (
        lambda: labels_needed(P, target=0.06, **FLOOR_DRAWS),
        (752, 0.049323339, 0.040054996),
    ),
    (lambda: calibration_metrics(P, Y, **DRAWS).floor, (0.078621463, 0.105519886)),
    (
        lambda: calibration_metrics(P, Y, **DRAWS).curve.loc[10:, "band_low":].sum(),
        (5.543663555, 9.086742424),
    ),
    (
        lambda: class_gap_difference(
            np.arange(200) % 3, Y, (P, Q), groups=GROUPS, **DRAWS
        ),
        (-1.5054e-05, -0.004287001, 0.005202731),
    ),
    (
        lambda: CalibrationSums.of(P, Y).table(**FLOOR_DRAWS)["value"][
            ["noise floor, mean", "noise floor, 95 %"]
        ],
        (0.075963024, 0.101546313),
    ),
]


@pytest.mark.parametrize("at", range(len(RECORDED)))
def test_random_streams_are_those_of_the_book(at: int) -> None:
    call, expected = RECORDED[at]
    found = call()
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = sum(found.values(), ()), sum(expected.values(), ())
    assert tuple(found) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: noise_floor(LEVELS, n_simulations=50, rng=rng),
        lambda rng: noise_floor(LEVELS, measure=brier_score, n_simulations=9, rng=rng),
        lambda rng: bootstrap_interval(LEVELS, LEVELS > 0.6, "brier", rng=rng),
        lambda rng: paired_difference((P, Y), (Q, Z), n_resamples=50, rng=rng),
        lambda rng: labels_needed(LEVELS, target=0.1, n_simulations=50, rng=rng),
    ],
)
def test_the_same_seed_gives_the_same_result(call: Callable[[Any], Any]) -> None:
    assert call(5) == call(5) == call(np.random.default_rng(5))
    assert call(5) != call(6)
    assert call(None) != call(None) or call(None) != call(None)
    for bad in ("a", 1.5):
        with pytest.raises(TypeError, match="^rng must be a Generator, a seed or None"):
            call(bad)


@pytest.mark.parametrize("norm", ["l1", "l2", "max", "signed"])
@pytest.mark.parametrize(
    ("ties", "binning"),
    [
        (False, Binning(10)),
        (False, QUANTILE_TEN),
        (True, Binning(10, closed="right")),  # the ties are edges
    ],
)
def test_noise_floor_agrees_with_direct_simulation(
    ties: bool, binning: Binning, norm: Any
) -> None:
    p = np.repeat(some_rows(100, seed=2, ties=ties)[0], 3)
    found = noise_floor(p, norm=norm, binning=binning, n_simulations=2000, level=0.9)
    direct = noise_floor(
        p,
        measure=lambda c, y: expected_calibration_error(
            c, y, binning=binning, norm=norm
        ),
        n_simulations=500,
        level=0.9,
        rng=1,
    )
    spread = 0.02 if norm == "max" else 0.006
    assert found.mean == pytest.approx(direct.mean, abs=spread)
    assert found.upper == pytest.approx(direct.upper, abs=2 * spread)


def test_noise_floor_by_hand() -> None:
    # One row of .9: the error is .1 nine times of ten, and .9 once.
    found = noise_floor([0.9], n_simulations=40_000)
    assert found.mean == pytest.approx(0.9 * 0.1 + 0.1 * 0.9, abs=0.006)
    assert found.upper == pytest.approx(0.9)
    assert noise_floor([0.9], level=0.8).upper == pytest.approx(0.1)
    for certain in ([0.0, 1.0, 1.0], [0.0], [1.0]):
        assert noise_floor(certain) == (0, 0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
def test_interval_is_that_of_a_plain_bootstrap(
    measure: str, grouped: bool, paired: bool
) -> None:
    sides: Any = two_models(60, 2) if paired else (some_rows(60, seed=18),)
    call: Any = paired_difference if paired else bootstrap_interval
    every = np.arange(60)
    # Cells of one side are in the order of the confidence.
    groups = every if paired else np.argsort(np.argsort(sides[0][0]))
    groups = every % 20 if grouped else groups
    n_groups = groups.max() + 1
    even = np.full(n_groups, 1 / n_groups)
    counts = np.random.default_rng(5).multinomial(n_groups, even, 40)

    def score(rows: np.ndarray, name: str, power: int = 1) -> float:
        found = [MEASURES[name](p[rows], y[rows]) ** power for p, y in sides]
        return found[1] - found[0] if paired else found[0]

    value = score(every, measure)
    pivot = score(every, "rmsce", 2) if measure == "squared" else value
    changes = [score(np.repeat(every, count[groups]), measure) for count in counts]
    expected = np.array([value, *np.quantile(changes, [0.05, 0.95])])
    if measure in ("ece", "rmsce", "squared") or (measure == "mce" and not paired):
        expected[1:] = value + pivot - expected[:0:-1]
    if measure in ("ece", "rmsce", "mce") and not paired:
        expected = np.maximum(expected, 0)
    rule: dict[str, Any] = {"binning": FIVE, "level": 0.9, "n_resamples": 40}
    rule["groups"] = groups if grouped else None
    found = call(*(sides if paired else sides[0]), measure, rng=5, **rule)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "ties"), [(300, True), (21_000, False)])
def test_merged_cells_resample_like_rows(n: int, ties: bool) -> None:
    # Groups of one row each are not merged.
    p, y = some_rows(n, seed=19, ties=ties)
    names = [*MEASURES] if ties else ["ece", "squared", "log_loss", "auroc"]
    merged = bootstrap_interval(p, y, names, binning=FIVE, n_resamples=300)
    rows = bootstrap_interval(
        p, y, names, binning=FIVE, groups=np.arange(n), n_resamples=150
    )
    for measure, (value, low, high) in rows.items():
        width = high - low
        assert value == pytest.approx(MEASURES[measure](p, y), abs=1e-9), measure
        assert merged[measure].value == pytest.approx(value), measure
        assert merged[measure].low == pytest.approx(low, abs=0.2 * width), measure
        assert merged[measure].high == pytest.approx(high, abs=0.2 * width), measure


def test_ties_stay_ties_when_rows_are_merged() -> None:
    # The mean of three .1 is .10000000000000002, which must not rank above .1.
    y = ([1] * 23 + [0] * 7) * 2
    found = bootstrap_interval([0.9] * 30 + [0.1] * 30, y, "auroc")
    assert found.value == pytest.approx(0.5)
    assert (found.low + found.high) / 2 == pytest.approx(0.5, abs=0.03)
    one = bootstrap_interval([0.1] * 40, [1] * 30 + [0] * 10, "auroc")
    assert one == (0.5, 0.5, 0.5)


def test_confidences_that_crowd_at_one_keep_their_order() -> None:
    # 24,000 rows within 1/4096 of one; their order is the whole of the AUROC.
    rng = np.random.default_rng(20)
    off = 10 ** -rng.uniform(3.7, 8, 24_000)
    p, y = 1 - off, rng.random(24_000) > 800 * off
    found = bootstrap_interval(p, y, "auroc", n_resamples=200)
    assert found.low < roc_auc_score(y, p) < found.high
    small = bootstrap_interval(p[:12_000], y[:12_000], "auroc", n_resamples=200)
    assert np.ptp(found[1:]) == pytest.approx(np.ptp(small[1:]) / 2**0.5, rel=0.25)


@pytest.mark.parametrize("place", [0.0, 1.0])
def test_an_infinite_loss_stays_alone_when_rows_are_merged(place: float) -> None:
    p = np.full(21_000, abs(place - 1e-5))
    p[0] = place
    y = np.full(21_000, place == 0)
    # About one resample of e does without the row.
    found = bootstrap_interval(p, y, "log_loss", level=0.2, n_resamples=200)
    assert found.value == np.inf and found.low == pytest.approx(-np.log(1e-5))


def test_resamples_without_both_outcomes_are_left_out() -> None:
    # Two groups: half of the resamples have one outcome only.
    groups = np.repeat(["a", "b"], 10)
    rows = [0.9] * 10 + [0.6] * 10, [1] * 10 + [0] * 10
    assert bootstrap_interval(*rows, "auroc", groups=groups) == (1, 1, 1)
    assert all(np.isnan(bootstrap_interval([0.9, 0.8], [1, 1], "auroc")))


def test_few_of_a_kind_give_no_interval_for_the_auroc() -> None:
    scores, right = np.linspace(0.5, 1, 200), np.arange(200) % 20 != 7
    found = bootstrap_interval(scores, right, "auroc")
    assert found.value < found.high and found.low < found.value
    right[7] = True  # nine wrong ones are left
    value, *ends = bootstrap_interval(scores, right, "auroc")
    assert value == pytest.approx(roc_auc_score(right, scores)) and np.isnan(ends).all()
    table = calibration_metrics(scores, right).table
    assert table.loc["AUROC", "no_interval"] == "fewer than 10 right or wrong"


def test_groups_by_hand() -> None:
    # Two groups: 9 rows right, 1 wrong; a draw gives accuracy 1, .9 or 0.
    groups = ["A b"] * 9 + ["c"]
    rows = [0.5] * 10, [1] * 9 + [0]
    found = bootstrap_interval(*rows, "accuracy", groups=groups, level=0.6)
    assert found == pytest.approx((0.9, 0, 1))
    spelled = ["a  B"] * 4 + ["A b"] * 5 + [" C"]
    again = bootstrap_interval(*rows, "accuracy", groups=spelled, level=0.6)
    assert again == found
    alone = bootstrap_interval(P, Y, "brier", groups=["a"] * 200)
    assert alone.low == pytest.approx(alone.value) == alone.high


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([*MEASURES]))
def test_a_difference_turns_its_sign_with_its_sides(seed: int, measure: str) -> None:
    a, b = two_models(30, seed)
    there = paired_difference(a, b, measure, n_resamples=50)
    back = paired_difference(b, a, measure, n_resamples=50)
    assert back == pytest.approx((-there.value, -there.high, -there.low), nan_ok=True)
    # Several measures share their resamples.
    both = paired_difference(a, b, [measure, "accuracy"], n_resamples=50)
    np.testing.assert_equal(tuple(both[measure]), tuple(there))
    assert paired_difference(a, a, measure, n_resamples=20) == (0, 0, 0)


def test_undefined_differences() -> None:
    one_outcome = ([0.9, 0.8, 0.7], [1, 1, 1])
    both = ([0.9, 0.8, 0.7], [1, 1, 0])
    assert all(np.isnan(paired_difference(one_outcome, both, "auroc")))
    # Draws of rows that are all right, or all wrong, are left out.
    turned = ([0.7, 0.8, 0.9], [1, 1, 0])
    assert paired_difference(both, turned, "auroc") == (-1, -1, -1)
    certain = ([1.0, 0.8, 0.7], [0, 1, 1])
    found = paired_difference(both, certain, "log_loss")
    assert found.value == np.inf and np.isnan(found.low) and np.isnan(found.high)
    assert np.isnan(paired_difference(certain, certain, "log_loss").value)


@pytest.mark.parametrize(
    ("pool", "binning", "target", "level", "power"),
    [
        ((1, 1, 0.5), Binning(), 0.05, 0.95, 0.8),
        ((1, 1, 0.5), QUANTILE_TEN, 0.05, 0.95, 0.8),
        ((1, 1, 0.5), FIVE, 0.04, 0.9, 0.5),
        # Confidences near 0 cannot fall by all of the shift; others make up for it.
        ((0.6, 0.8, 0.0), Binning(), 0.06, 0.95, 0.8),
    ],
)
def test_labels_needed_against_direct_simulation(
    pool: Any, binning: Binning, target: float, level: float, power: float
) -> None:
    rng = np.random.default_rng(31)
    alpha, beta, least = pool
    p = least + (1 - least) * rng.beta(alpha, beta, 2000)
    rule: dict[str, Any] = {"target": target, "level": level, "power": power}
    found = labels_needed(p, binning=binning, n_simulations=2000, **rule)
    place = np.floor(p * binning.n).astype(int)
    if binning.strategy == "quantile":
        place = np.argsort(np.argsort(p)) * binning.n // 2000
    shifts = np.linspace(0, 0.5, 5001)
    lost = [np.minimum(p, shift).mean() for shift in shifts]
    too_high = shifts[np.searchsorted(lost, target)]
    assert too_high == pytest.approx(target, abs=1e-4) or too_high > 1.08 * target
    for shift, share, near in ((0, power, 0.05), (too_high, 1 - level, 0.025)):
        below = []
        for _ in range(400):
            rows = rng.integers(2000, size=found.n)
            wrong = rng.random(found.n) >= np.maximum(p[rows] - shift, 0)
            gap = np.bincount(place[rows], p[rows] - 1 + wrong)
            below.append(np.abs(gap).sum() / found.n < found.limit)
        assert np.mean(below) == pytest.approx(share, abs=near)
    floor = noise_floor(p[rng.integers(2000, size=found.n)], binning=binning).mean
    assert found.floor == pytest.approx(floor, abs=0.003)


def test_no_more_labels_than_most() -> None:
    assert labels_needed([0.999] * 9, target=0.9, most=3).n <= 3
    with pytest.raises(ValueError, match="^most=500 labels cannot certify 0.02"):
        labels_needed(LEVELS, target=0.02, most=500, n_simulations=50)
    with pytest.raises(ValueError, match="^target must be below 0.1500, the mean"):
        labels_needed([0.1, 0.2], target=0.3)


FLOOR: Any = (noise_floor, {"confidence": LEVELS})
LABELS: Any = (labels_needed, {"confidence": LEVELS})
BOOT: Any = (bootstrap_interval, {"confidence": LEVELS, "correct": LEVELS > 0.6})
PAIR: Any = (paired_difference, dict.fromkeys("ab", ([0.5, 0.9, 0.7], [1, 0, 1])))


@pytest.mark.parametrize(
    ("call", "change", "says"),
    [
        (FLOOR, {"level": 95}, "level must lie between 0 and 1"),
        (FLOOR, {"n_simulations": 0}, "n_simulations must be a whole number"),
        (FLOOR, {"norm": "squared"}, "norm must be one of"),
        (BOOT, {"measure": "ecce"}, "measure must be one of 'ece', .*, not 'ecce'"),
        (BOOT, {"measure": ["gap", "f1"]}, "measure must be one of .* 'f1'"),
        (BOOT, {"level": float("nan")}, "level must lie between 0 and 1, not nan"),
        (BOOT, {"n_resamples": 0}, "n_resamples must be a whole number"),
        (LABELS, {"target": 0}, "target must lie between 0 and 1"),
        (LABELS, {"level": 1.0}, "level must lie between 0 and 1"),
        (LABELS, {"power": 80}, "power must lie between 0 and 1"),
        (LABELS, {"most": 0}, "most must be a whole number"),
        (LABELS, {"n_simulations": 1.5}, "n_simulations must be a whole number"),
        (PAIR, {"a": [0.5, 0.9, 0.7]}, r"a must be a pair, .*, not list"),
        (PAIR, {"b": np.ones((2, 3))}, r"b must be a pair, .*, not ndarray"),
        (PAIR, {"a": ([0.5, 1.9], [1, 0])}, r"confidence of a must .* row 1 is 1.9"),
        (PAIR, {"b": ([0.5] * 3, [1, 0, 2])}, "correct of b must be 0 or 1; row 2"),
        (PAIR, {"measure": "f1"}, "measure must be one of 'ece', .*, not 'f1'"),
        (PAIR, {"level": 95}, "level must lie between 0 and 1, not 95"),
        (PAIR, {"n_resamples": 0}, "n_resamples must be a whole number of 1 or more"),
    ],
)
def test_bad_settings(call: Any, change: dict[str, Any], says: str) -> None:
    function, arguments = call
    with pytest.raises(ValueError, match=f"^{says}"):
        function(**arguments | change)
