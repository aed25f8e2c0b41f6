"""What chance does to helpers.metrics, against simulations written out here.

The simulations share no code with the package: plain numpy, one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.metrics import (
    auroc,
    bootstrap_interval,
    bootstrap_intervals,
    brier_score,
    debiased_calibration_error,
    expected_calibration_error,
    labels_needed,
    log_loss,
    make_bins,
    maximum_calibration_error,
    noise_floor,
    reliability_curve,
)
from helpers.metrics.cells import make_cells
from helpers.metrics.resampling import MEASURES, consistency_band


def of_each_row(p: np.ndarray, strategy: str, n_bins: int) -> np.ndarray:
    """The bin of each row, for values that lie on no edge."""
    if strategy == "uniform":
        return np.floor(p * n_bins).astype(int)
    bins = np.empty(len(p), dtype=int)
    for at, rows in enumerate(np.array_split(np.argsort(p), n_bins)):
        bins[rows] = at
    return bins


def simulated(
    p: np.ndarray, strategy: str, n_bins: int, repeats: int, seed: int
) -> dict[str, np.ndarray]:
    """Calibration errors of a perfect forecaster, drawn directly."""
    rng = np.random.default_rng(seed)
    member = of_each_row(p, strategy, n_bins)[:, None] == np.arange(n_bins)
    member = member[:, member.any(axis=0)].astype(np.float32)
    count = member.sum(axis=0)
    stated = p @ member
    gaps = []
    while sum(map(len, gaps)) < repeats:
        height = max(1, 2_000_000 // len(p))
        drawn = rng.random((height, len(p)), dtype=np.float32) < p.astype(np.float32)
        gaps.append((stated - drawn.astype(np.float32) @ member) / count)
    gap = np.concatenate(gaps)
    weight = count / len(p)
    return {
        "l1": np.abs(gap) @ weight,
        "l2": np.sqrt(gap**2 @ weight),
        "max": np.abs(gap).max(axis=1),
        "signed": gap @ weight,
    }


# The noise floor ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n", [100, 200, 500, 1000, 2000, 5000])
def test_noise_floor_agrees_with_direct_simulation(n: int, strategy: Any) -> None:
    p = np.random.default_rng(n).beta(4, 1, n)
    repeats = 8000 if n <= 500 else 2000
    direct = simulated(p, strategy, 20, repeats, seed=1)["l1"]
    found = noise_floor(p, strategy=strategy, n_simulations=repeats)
    assert found.mean == pytest.approx(direct.mean(), abs=0.002)
    assert found.upper == pytest.approx(np.quantile(direct, 0.95), abs=0.004)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_noise_floor_of_merged_cells_agrees_with_direct_simulation(
    strategy: Any,
) -> None:
    # Beyond 20,000 rows cells are merged.
    p = np.random.default_rng(0).beta(4, 1, 25_000)
    direct = simulated(p, strategy, 20, 600, seed=1)["l1"]
    found = noise_floor(p, strategy=strategy)
    assert found.mean == pytest.approx(direct.mean(), abs=2e-4)
    assert found.upper == pytest.approx(np.quantile(direct, 0.95), abs=4e-4)


@pytest.mark.parametrize("norm", ["l1", "l2", "max", "signed"])
def test_noise_floor_of_each_norm(norm: Any) -> None:
    p = np.random.default_rng(2).uniform(0.3, 1, 600)
    direct = simulated(p, "uniform", 10, 6000, seed=3)[norm]
    found = noise_floor(p, norm=norm, n_bins=10, n_simulations=6000, level=0.9)
    assert found.mean == pytest.approx(direct.mean(), abs=0.002)
    assert found.upper == pytest.approx(np.quantile(direct, 0.9), abs=0.005)


def test_noise_floor_with_ties_agrees_with_direct_simulation() -> None:
    p = np.random.default_rng(4).choice([0.55, 0.72, 0.91, 0.97], 300)
    direct = simulated(p, "uniform", 10, 6000, seed=5)["l1"]
    found = noise_floor(p, n_bins=10, n_simulations=6000)
    assert found.mean == pytest.approx(direct.mean(), abs=0.002)


def test_noise_floor_by_hand() -> None:
    # One row of .9: the error is .1 nine times of ten, and .9 once.
    found = noise_floor([0.9], n_simulations=40_000)
    assert found.mean == pytest.approx(0.9 * 0.1 + 0.1 * 0.9, abs=0.006)
    assert found.upper == pytest.approx(0.9)
    assert noise_floor([0.9], level=0.8).upper == pytest.approx(0.1)


@pytest.mark.parametrize("p", [[0.0, 1.0, 1.0], [0.0], [1.0]])
def test_certainty_has_no_noise(p: list[float]) -> None:
    assert noise_floor(p) == (0, 0)


def test_noise_floor_shrinks_with_the_root_of_the_rows() -> None:
    rng = np.random.default_rng(6)
    small, large = (noise_floor(rng.uniform(0.5, 1, n)).mean for n in (500, 8000))
    assert small / large == pytest.approx(4, rel=0.1)


def test_noise_floor_of_another_measure() -> None:
    p = np.random.default_rng(7).uniform(0.5, 1, 300)
    named = noise_floor(p, n_bins=10, n_simulations=3000)
    own = noise_floor(
        p,
        measure=lambda c, y: expected_calibration_error(c, y, n_bins=10),
        n_simulations=3000,
    )
    np.testing.assert_allclose(own, named, atol=0.003)


def test_noise_floor_uses_the_rule_of_the_edge() -> None:
    p = np.repeat([0.5, 0.55, 0.6, 0.65], 30)  # pairs: (.5 .55)(.6 .65), or split
    left, right = (
        noise_floor(p, n_bins=10, closed=closed, n_simulations=5000).mean  # type: ignore[arg-type]
        for closed in ("left", "right")
    )
    assert right > left * 1.1  # three bins have more noise than two


# Bands ----------------------------------------------------------------------------


def test_consistency_band_agrees_with_direct_simulation() -> None:
    rng = np.random.default_rng(8)
    p = rng.uniform(0.4, 1, 800)
    bins = make_bins(p, n_bins=10)
    low, high = consistency_band(p, bins, n_simulations=8000)
    drawn = rng.random((8000, 800)) < p
    for at in range(10):
        inside = (p >= at / 10) & (p < (at + 1) / 10)
        if not inside.any():
            assert np.isnan(low[at]) and np.isnan(high[at])
            continue
        expected = np.quantile(drawn[:, inside].mean(axis=1), [0.025, 0.975])
        np.testing.assert_allclose([low[at], high[at]], expected, atol=0.016)


def test_consistency_band_holds_its_share_of_perfect_forecasts() -> None:
    rng = np.random.default_rng(9)
    p = np.repeat(np.linspace(0.525, 0.975, 10), 60)
    bins = make_bins(p)
    low, high = (x[10:] for x in consistency_band(p, bins, level=0.9))
    rates = (rng.random((1000, 600)) < p).reshape(1000, 10, 60).mean(axis=2)
    inside = np.mean((rates >= low - 1e-9) & (rates <= high + 1e-9))
    assert 0.88 < inside < 0.96  # above .9, since rates are multiples of 1/60


def test_a_wider_level_gives_a_wider_band() -> None:
    p = np.random.default_rng(10).uniform(0, 1, 500)
    narrow, wide = (
        reliability_curve(p, p > 0.5, level=level, n_bins=5) for level in (0.5, 0.99)
    )
    for name in ("band", "accuracy"):
        width, other = (c[f"{name}_high"] - c[f"{name}_low"] for c in (wide, narrow))
        assert (width > other).all()


# Coverage of intervals ------------------------------------------------------------

LEVELS = np.linspace(0.525, 0.975, 10)
MISSES = {"perfect": LEVELS, "overconfident": LEVELS - 0.1}


def truths(rate: np.ndarray) -> dict[str, float]:
    """Expected measures where ten confidences are equally frequent."""
    right, wrong = rate / rate.sum(), (1 - rate) / (1 - rate).sum()
    above = right @ (np.tri(10, k=-1) @ wrong) + right @ wrong / 2
    return {
        "gap": (LEVELS - rate).mean(),
        "brier": (rate * (1 - LEVELS) ** 2 + (1 - rate) * LEVELS**2).mean(),
        "auroc": above,
        "squared": ((LEVELS - rate) ** 2).mean(),
    }


@pytest.mark.parametrize("miss", MISSES)
def test_bootstrap_intervals_cover_the_truth(miss: str) -> None:
    rate = MISSES[miss]
    true = truths(rate)
    rng = np.random.default_rng(11)
    covered = dict.fromkeys(true, 0)
    for _ in range(1000):
        at = rng.integers(10, size=400)
        found = bootstrap_intervals(
            LEVELS[at],
            rng.random(400) < rate[at],
            list(true),
            n_resamples=200,
            rng=rng,
        )
        for measure, interval in found.items():
            covered[measure] += interval.low <= true[measure] <= interval.high
    for measure in ("gap", "brier", "auroc"):
        assert 920 <= covered[measure] <= 980, (measure, covered)
    # The squared error of a perfect forecaster lies on the edge of what can be; there
    # the interval is too wide, and elsewhere it errs little.
    assert covered["squared"] >= 920, covered


def test_bootstrap_interval_covers_the_brier_score_without_ties() -> None:
    # p uniform on (.5, 1) and perfect: E p(1 − p) = 1/6.
    rng = np.random.default_rng(12)
    covered = 0
    for _ in range(1000):
        p = rng.uniform(0.5, 1, 120)
        found = bootstrap_interval(
            p, rng.random(120) < p, "brier", n_resamples=250, rng=rng
        )
        covered += found.low <= 1 / 6 <= found.high
    assert 920 <= covered <= 980


@pytest.mark.parametrize("n", [40, 150])
@pytest.mark.parametrize("rate", [0.55, 0.8, 0.92])
def test_wilson_intervals_cover_the_accuracy_of_each_bin(rate: float, n: int) -> None:
    # A thousand bins of n rows, each with a confidence of its own.
    p = np.repeat(0.7 + np.arange(1000) * 1e-6, n)
    y = np.random.default_rng(13).random(1000 * n) < rate
    curve = reliability_curve(p, y, strategy="distinct")
    assert len(curve) == 1000 and (curve["n"] == n).all()
    covered = (curve["accuracy_low"] <= rate) & (rate <= curve["accuracy_high"])
    assert 0.92 <= covered.mean() <= 0.98


def test_interval_of_an_ece_that_is_large_covers_it() -> None:
    rng = np.random.default_rng(14)
    covered = 0
    for _ in range(300):
        at = rng.integers(10, size=1000)
        y = rng.random(1000) < (LEVELS - 0.2)[at]
        found = bootstrap_interval(LEVELS[at], y, n_resamples=300, rng=rng)
        covered += found.low <= 0.2 <= found.high
    assert 0.92 <= covered / 300 <= 0.98


# Bias -----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_debiased_errors_of_a_perfect_forecaster(strategy: Any) -> None:
    rng = np.random.default_rng(15)
    rule: dict[str, Any] = {"n_bins": 10, "strategy": strategy}
    found = []
    for _ in range(1500):
        p = rng.uniform(0.5, 1, 300)
        y = rng.random(300) < p
        found.append(
            (
                debiased_calibration_error(p, y, **rule),
                expected_calibration_error(p, y, norm="l2", **rule) ** 2,
                debiased_calibration_error(p, y, norm="l1", **rule),
                expected_calibration_error(p, y, **rule),
            )
        )
    squared, plain_squared, absolute, plain = np.transpose(found)
    error = squared.std() / np.sqrt(len(squared))
    assert abs(squared.mean()) < 3 * error
    assert plain_squared.mean() > 30 * error
    # The L1 form takes about half of the bias away, not all of it.
    assert 0 < absolute.mean() < 0.7 * plain.mean()


def test_debiased_squared_error_finds_the_error_of_a_bad_forecaster() -> None:
    rng = np.random.default_rng(16)
    at = rng.integers(10, size=(2000, 200))
    found = [
        debiased_calibration_error(
            LEVELS[row], rng.random(200) < LEVELS[row] - 0.1, strategy="distinct"
        )
        for row in at
    ]
    assert np.mean(found) == pytest.approx(0.01, abs=3 * np.std(found) / 2000**0.5)


# Bootstrap ------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Any, Any], float]] = {
    "ece": expected_calibration_error,
    "rmsce": lambda p, y: expected_calibration_error(p, y, norm="l2"),
    "mce": maximum_calibration_error,
    "squared": lambda p, y: debiased_calibration_error(p, y, strategy="uniform"),
    "accuracy": lambda p, y: float(np.mean(y)),
    "confidence": lambda p, y: float(np.mean(p)),
    "gap": lambda p, y: expected_calibration_error(p, y, norm="signed"),
    "brier": brier_score,
    "log_loss": log_loss,
    "auroc": auroc,
}


def some_rows(n: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.4, 0.99, n)
    p = p.round(1) if ties else p
    return p, rng.random(n) < p - 0.05


def test_there_is_a_function_for_each_measure() -> None:
    assert set(FUNCTIONS) == set(MEASURES)


@pytest.mark.parametrize("n", [300, 30_000])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
def test_bootstrap_value_is_the_measure(measure: str, ties: bool, n: int) -> None:
    p, y = some_rows(n, seed=17, ties=ties)
    p = p.clip(0.01, 0.99)
    found = bootstrap_interval(p, y, measure, n_resamples=10)
    assert found.value == pytest.approx(FUNCTIONS[measure](p, y), abs=1e-9)
    grouped = bootstrap_interval(p, y, measure, groups=np.arange(n), n_resamples=2)
    assert grouped.value == pytest.approx(found.value, abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
def test_named_measures_resample_like_functions(measure: str, ties: bool) -> None:
    p, y = some_rows(250, seed=18, ties=ties)
    p = p.clip(0.01, 0.99)
    own = FUNCTIONS[measure]
    rule: dict[str, Any] = {"method": "percentile"}
    named = bootstrap_interval(p, y, measure, n_resamples=2000, rng=1, **rule)
    plain = bootstrap_interval(p, y, own, n_resamples=400, rng=2, **rule)
    assert named.value == pytest.approx(plain.value)
    width = plain.high - plain.low
    assert named.low == pytest.approx(plain.low, abs=0.2 * width)
    assert named.high == pytest.approx(plain.high, abs=0.2 * width)


def test_merged_cells_resample_like_rows() -> None:
    # Groups of one row each are not merged.
    p, y = some_rows(21_000, seed=19)
    rule: dict[str, Any] = {"n_resamples": 400}
    merged = bootstrap_intervals(p, y, MEASURES, **rule)
    rows = bootstrap_intervals(p, y, MEASURES, groups=np.arange(21_000), **rule)
    for measure, (value, low, high) in rows.items():
        width = high - low
        assert merged[measure].value == pytest.approx(value), measure
        assert merged[measure].low == pytest.approx(low, abs=0.2 * width), measure
        assert merged[measure].high == pytest.approx(high, abs=0.2 * width), measure


def test_ties_stay_ties_when_rows_are_merged() -> None:
    # The mean of three .1 is .10000000000000002, which must not rank above .1.
    y = ([1] * 23 + [0] * 7) * 2
    found = bootstrap_interval([0.9] * 30 + [0.1] * 30, y, "auroc")
    assert found.value == pytest.approx(0.5)
    assert (found.low + found.high) / 2 == pytest.approx(0.5, abs=0.03)
    one = bootstrap_interval([0.1] * 4, [1, 1, 1, 0], "auroc")
    assert one == (0.5, 0.5, 0.5)


def test_confidences_that_crowd_at_one_keep_their_order() -> None:
    # 30,000 rows within 1/4096 of one; their order is the whole of the AUROC.
    rng = np.random.default_rng(20)
    off = 10 ** -rng.uniform(3.7, 8, 30_000)
    p, y = 1 - off, rng.random(30_000) > 800 * off
    found = bootstrap_interval(p, y, "auroc", n_resamples=300)
    assert found.low < roc_auc_score(y, p) < found.high
    small = bootstrap_interval(p[:15_000], y[:15_000], "auroc", n_resamples=300)
    assert np.ptp(found[1:]) == pytest.approx(np.ptp(small[1:]) / 2**0.5, rel=0.25)


@pytest.mark.parametrize("place", [0.0, 1.0])
def test_an_infinite_loss_stays_alone_when_rows_are_merged(place: float) -> None:
    p = np.full(30_000, abs(place - 1e-5))
    p[0] = place
    found = bootstrap_interval(p, np.full(30_000, place == 0), "log_loss")
    assert found.value == np.inf
    # About one resample of e does without the row.
    drawn = bootstrap_interval(
        p, np.full(30_000, place == 0), "log_loss", level=0.2, n_resamples=200
    )
    assert drawn.low == pytest.approx(-np.log(1e-5))


def test_a_measure_that_is_a_function_gets_the_rows() -> None:
    p, y = some_rows(80, seed=21)
    seen = []

    def measure(confidence: np.ndarray, correct: np.ndarray) -> float:
        seen.append(set(zip(confidence.tolist(), correct.tolist(), strict=True)))
        return float(confidence.mean())

    found = bootstrap_interval(p, y, measure, n_resamples=50)
    assert len(seen) == 51 and all(s <= seen[0] for s in seen)
    assert np.mean([len(s) for s in seen[1:]]) == pytest.approx(80 * 0.632, rel=0.04)
    assert found.low < found.value < found.high


def test_basic_interval_reflects_the_percentile_interval() -> None:
    p, y = some_rows(300, seed=22)
    for measure in ("brier", "gap", "auroc", "accuracy"):
        default = bootstrap_interval(p, y, measure)
        percentile = bootstrap_interval(p, y, measure, method="percentile")
        basic = bootstrap_interval(p, y, measure, method="basic")
        assert default == percentile
        assert basic.low == pytest.approx(2 * basic.value - percentile.high)
        assert basic.high == pytest.approx(2 * basic.value - percentile.low)


def test_calibration_errors_have_basic_intervals_that_stay_above_zero() -> None:
    p, y = some_rows(300, seed=23)
    for measure in ("ece", "rmsce", "mce"):
        default = bootstrap_interval(p, y, measure)
        percentile = bootstrap_interval(p, y, measure, method="percentile")
        assert default == bootstrap_interval(p, y, measure, method="basic")
        for end, other in [(1, 2), (2, 1)]:
            expected = max(2 * default.value - percentile[other], 0)
            assert default[end] == pytest.approx(expected)


def test_function_measures_have_percentile_intervals_unless_asked() -> None:
    p, y = some_rows(100, seed=24)
    rule: dict[str, Any] = {"n_resamples": 200, "rng": 3}
    default = bootstrap_interval(p, y, brier_score, **rule)
    percentile = bootstrap_interval(p, y, brier_score, method="percentile", **rule)
    basic = bootstrap_interval(p, y, brier_score, method="basic", **rule)
    assert default == percentile
    assert basic.low == pytest.approx(2 * basic.value - percentile.high)


def test_interval_of_the_accuracy_has_the_width_of_theory() -> None:
    found = bootstrap_interval([0.9] * 400, [1] * 300 + [0] * 100, "accuracy")
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.low == pytest.approx(0.75 - half, abs=0.006)
    assert found.high == pytest.approx(0.75 + half, abs=0.006)
    narrow = bootstrap_interval(
        [0.9] * 400, [1] * 300 + [0] * 100, "accuracy", level=0.5
    )
    assert np.ptp(narrow[1:]) == pytest.approx(2 * half * 0.6745 / 1.96, abs=0.006)


def test_resamples_without_both_outcomes_are_left_out() -> None:
    # A resample of four rows has one outcome only in 1/8 of the cases.
    found = bootstrap_interval([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], "auroc")
    assert found == (1, 1, 1)
    alone = bootstrap_interval([0.9, 0.8], [1, 1], "auroc")
    assert all(np.isnan(alone))


def test_several_measures_share_their_resamples() -> None:
    p, y = some_rows(200, seed=25)
    both = bootstrap_intervals(p, y, ["brier", "ece"])
    assert list(both) == ["brier", "ece"]
    for measure, interval in both.items():
        assert interval == bootstrap_interval(p, y, measure)


# Groups ---------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["ece", "brier", "gap", "accuracy", "auroc"])
def test_groups_undo_duplicates(measure: str) -> None:
    p, y = some_rows(300, seed=26)
    groups = np.repeat(np.arange(300), 5)
    copies, truth = np.repeat(p, 5), np.repeat(y, 5)
    rule: dict[str, Any] = {"n_resamples": 2000, "method": "percentile"}
    single = bootstrap_interval(p, y, measure, **rule)
    naive = bootstrap_interval(copies, truth, measure, **rule)
    grouped = bootstrap_interval(copies, truth, measure, groups=groups, **rule)
    assert grouped.value == pytest.approx(single.value)
    width = np.ptp(single[1:])
    np.testing.assert_allclose(grouped[1:], single[1:], atol=0.1 * width)
    assert np.ptp(grouped[1:]) > 1.5 * np.ptp(naive[1:])


def test_groups_undo_duplicates_for_a_function() -> None:
    p, y = some_rows(150, seed=27)
    groups = np.repeat([f"text {n}" for n in range(150)], 5)
    rule: dict[str, Any] = {"n_resamples": 1000}
    single = bootstrap_interval(p, y, brier_score, **rule)
    grouped = bootstrap_interval(
        np.repeat(p, 5), np.repeat(y, 5), brier_score, groups=groups, **rule
    )
    width = np.ptp(single[1:])
    np.testing.assert_allclose(grouped[1:], single[1:], atol=0.12 * width)


def test_order_and_names_of_groups_do_not_matter() -> None:
    p, y = some_rows(200, seed=28)
    groups = np.arange(200) // 4
    one = bootstrap_interval(p, y, "brier", groups=groups)
    named = bootstrap_interval(p, y, "brier", groups=[f"g{g}" for g in groups])
    assert named == one
    order = np.random.default_rng(0).permutation(200)
    mixed = bootstrap_interval(p[order], y[order], "brier", groups=groups[order])
    width = np.ptp(one[1:])
    np.testing.assert_allclose(mixed[1:], one[1:], atol=0.12 * width)


@pytest.mark.parametrize("measure", ["brier", brier_score])
def test_missing_groups_are_refused(measure: Any) -> None:
    p, y = np.linspace(0.5, 0.9, 40), np.arange(40) % 2
    missing = [0, None, *range(38)]
    with pytest.raises(ValueError, match="groups must not be missing; 1 of"):
        bootstrap_interval(p, y, measure, groups=missing)


def test_one_group_leaves_nothing_to_draw() -> None:
    p, y = some_rows(50, seed=29)
    found = bootstrap_interval(p, y, "brier", groups=["a"] * 50)
    assert found.low == pytest.approx(found.value) == found.high


def test_groups_of_unlike_size_are_drawn_whole() -> None:
    # Two groups: 9 rows right, 1 wrong; a draw gives accuracy 1, .9 or 0.
    found = bootstrap_interval(
        [0.5] * 10, [1] * 9 + [0], "accuracy", groups=[0] * 9 + [1], level=0.6
    )
    assert found == pytest.approx((0.9, 0, 1))


# Chance and settings --------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: noise_floor(LEVELS, n_simulations=50, rng=rng),
        lambda rng: noise_floor(LEVELS, measure=brier_score, n_simulations=9, rng=rng),
        lambda rng: bootstrap_interval(
            LEVELS, LEVELS > 0.6, "brier", n_resamples=50, rng=rng
        ),
        lambda rng: bootstrap_interval(
            LEVELS, LEVELS > 0.6, brier_score, n_resamples=50, rng=rng
        ),
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: noise_floor(LEVELS, level=95),
            "level must lie between 0 and 1, not 95",
        ),
        (
            lambda: noise_floor(LEVELS, n_simulations=0),
            "n_simulations must be a whole number of 1 or more, not 0",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, "ecce"),
            "measure must be one of 'ece', .*, not 'ecce'",
        ),
        (
            lambda: bootstrap_intervals(LEVELS, LEVELS > 0.6, ["gap", "f1"]),
            "measure must be one of 'ece', .*, not 'f1'",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, method="bca"),  # type: ignore[arg-type]
            "method must be one of 'basic', 'percentile', not 'bca'",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, brier_score, level=0),
            "level must lie between 0 and 1, not 0",
        ),
        (
            lambda: bootstrap_interval(
                LEVELS, LEVELS > 0.6, brier_score, n_resamples=0
            ),
            "n_resamples must be a whole number",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, level=float("nan")),
            "level must lie between 0 and 1, not nan",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, groups=[1, 2]),
            r"groups must have one value for each of 10 rows, not shape \(2,\)",
        ),
        (
            lambda: bootstrap_interval(LEVELS, LEVELS > 0.6, auroc, groups=[1] * 11),
            r"groups must have one value for each of 10 rows, not shape \(11,\)",
        ),
        (lambda: labels_needed(LEVELS, target=0), "target must lie between 0 and 1"),
        (lambda: labels_needed(LEVELS, level=1.0), "level must lie between 0 and 1"),
        (lambda: labels_needed(LEVELS, power=80), "power must lie between 0 and 1"),
        (lambda: labels_needed(LEVELS, most=0), "most must be a whole number"),
        (
            lambda: labels_needed(LEVELS, n_simulations=1.5),  # type: ignore[arg-type]
            "n_simulations must be a whole number",
        ),
        (
            lambda: labels_needed([0.1, 0.2], target=0.3),
            "target must be below the mean confidence; it is 0.3, .* 0.1500",
        ),
        (
            lambda: labels_needed(LEVELS, target=0.02, most=500, n_simulations=50),
            "most=500 labels do not certify an error below 0.02; .* would show 0.0",
        ),
    ],
)
def test_bad_settings(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_cells_hold_all_rows() -> None:
    for n in (400, 25_000):
        p, y = some_rows(n, seed=30, ties=n == 400)
        bins = make_bins(p, n_bins=7)
        cells = make_cells(p, y, bins)
        assert cells.count.sum() == n and len(cells.count) < n
        assert cells.count @ cells.confidence == pytest.approx(p.sum())
        assert cells.count @ cells.correct == y.sum()
        assert len(make_cells(p, y, bins, merge=False).ties) == len(np.unique(p))
        assert cells.count @ cells.means["brier"] == pytest.approx(((p - y) ** 2).sum())
        expected = np.bincount(np.minimum(p * 7, 6).astype(int), minlength=7)
        np.testing.assert_array_equal(cells.by_bin(cells.count), expected[cells.bins])


# How many labels ------------------------------------------------------------------


def pass_rate(
    pool: np.ndarray,
    shift: float,
    found: Any,
    seed: int,
    strategy: str = "uniform",
    n_bins: int = 20,
) -> float:
    """Share of samples of found.n labels whose ECE is below the limit."""
    rng = np.random.default_rng(seed)
    place = of_each_row(pool, strategy, n_bins)
    below = []
    for _ in range(1500):
        rows = rng.integers(len(pool), size=found.n)
        wrong = rng.random(found.n) >= np.maximum(pool[rows] - shift, 0)
        gap = np.bincount(place[rows], pool[rows] - 1 + wrong, minlength=n_bins)
        below.append(np.abs(gap).sum() / found.n < found.limit)
    return float(np.mean(below))


@pytest.mark.parametrize(
    ("rule", "target", "level", "power"),
    [
        ({}, 0.05, 0.95, 0.8),
        ({"strategy": "quantile", "n_bins": 10}, 0.05, 0.95, 0.8),
        ({"n_bins": 5}, 0.04, 0.9, 0.5),
    ],
)
def test_labels_needed_against_direct_simulation(
    rule: dict[str, Any], target: float, level: float, power: float
) -> None:
    pool = np.random.default_rng(31).uniform(0.5, 1, 2000)
    settings: dict[str, Any] = {"target": target, "level": level, "power": power}
    found = labels_needed(pool, n_simulations=2000, **settings, **rule)
    assert pass_rate(pool, 0, found, 1, **rule) == pytest.approx(power, abs=0.04)
    bad = pass_rate(pool, target, found, 2, **rule)
    assert bad == pytest.approx(1 - level, abs=0.02)
    assert target / 2 < found.limit < target + found.floor
    sample = pool[np.random.default_rng(3).integers(2000, size=found.n)]
    assert found.floor == pytest.approx(noise_floor(sample, **rule).mean, abs=0.003)


def test_labels_needed_where_the_shift_hits_zero() -> None:
    # Confidences below the shift cannot fall by all of it; the others make up for it.
    pool = np.random.default_rng(32).beta(0.6, 0.8, 2000)
    found = labels_needed(pool, target=0.06, n_simulations=2000)
    shifts = np.linspace(0, 0.5, 5001)
    lost = [np.minimum(pool, shift).mean() for shift in shifts]
    shift = shifts[np.searchsorted(lost, 0.06)]
    assert shift > 0.065
    assert pass_rate(pool, 0, found, 1) == pytest.approx(0.8, abs=0.04)
    assert pass_rate(pool, shift, found, 2) == pytest.approx(0.05, abs=0.02)


def test_a_smaller_target_or_more_power_takes_more_labels() -> None:
    rule: dict[str, Any] = {"n_simulations": 300}
    base = labels_needed(LEVELS, target=0.06, **rule).n
    assert labels_needed(LEVELS, target=0.03, **rule).n > 3 * base
    assert labels_needed(LEVELS, target=0.06, power=0.95, **rule).n > 1.1 * base
    assert labels_needed(LEVELS, target=0.06, level=0.99, **rule).n > 1.1 * base
    assert labels_needed(LEVELS, target=0.06, n_bins=1, **rule).n < 0.7 * base


def test_the_number_of_confidences_does_not_matter() -> None:
    one = labels_needed(LEVELS, target=0.06)
    many = labels_needed(np.tile(LEVELS, 50), target=0.06)
    assert many.n == pytest.approx(one.n, rel=0.06)


def test_no_more_labels_than_most() -> None:
    for most in (1, 3, 10, 100):
        try:
            assert labels_needed([0.999] * 9, target=0.9, most=most).n <= most
        except ValueError as error:
            assert f"most={most} labels" in str(error)
