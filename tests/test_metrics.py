"""Rules of helpers.metrics: calibration errors, scores, tests and the report.

Expected values come from other packages and papers, named at each, or were worked out
by hand; what chance does to them is in test_resampling.py.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as normal

from helpers import metrics
from helpers.metrics import (
    aurc,
    auroc,
    bootstrap_interval,
    bootstrap_intervals,
    brier_decomposition,
    brier_score,
    calibration_metrics,
    calibration_test,
    classwise_calibration_error,
    debiased_calibration_error,
    expected_calibration_error,
    labels_needed,
    log_loss,
    make_bins,
    maximum_calibration_error,
    noise_floor,
    reliability_curve,
    risk_coverage_curve,
    smooth_calibration_error,
    sweep_calibration_error,
    top_label,
    top_label_calibration_error,
)
from helpers.metrics.binning import binned

# The cross-library fixture of 20 rows: its values were made with netcal 1.4.0,
# torchmetrics 1.9.0, scikit-learn 1.9.1, relplot 1.0.3 and verified_calibration's
# formulas, independently of this package.
P = np.array(
    [0.51, 0.53, 0.55, 0.58, 0.61, 0.62, 0.66, 0.68, 0.71, 0.74]
    + [0.77, 0.80, 0.83, 0.85, 0.88, 0.91, 0.93, 0.95, 0.97, 0.99]
)
Y = np.array([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1])


@contextmanager
def quiet() -> Iterator[None]:
    """Other packages warn as they are imported and used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def forecasts(
    n: int, seed: int, low: float = 0.0, off: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Random confidences, too high by ``off``, and what came."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(low, 1, n)
    return p, (rng.random(n) < p - off).astype(int)


def class_forecasts(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random distributions over classes, flatter than the truth, and true classes."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), n)
    true = p**2 / (p**2).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return p, np.minimum(truth, k - 1)


def plain_errors(
    groups: list[list[tuple[float, int]]],
) -> tuple[float, float, float]:
    """ECE, its L2 form and MCE of pairs that are in bins already."""
    total = sum(map(len, groups))
    gaps = [
        (len(g) / total, abs(sum(p for p, _ in g) - sum(y for _, y in g)) / len(g))
        for g in groups
        if g
    ]
    l1 = sum(w * gap for w, gap in gaps)
    return l1, math.sqrt(sum(w * gap**2 for w, gap in gaps)), max(g for _, g in gaps)


# Published values -----------------------------------------------------------------


def test_torchmetrics_binary_example() -> None:
    p, y = [0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1]
    found = [
        expected_calibration_error(p, y, binning=Binning(2), norm=norm)
        for norm in ("l1", "l2", "max")
    ]
    np.testing.assert_allclose(found, [0.29, 0.2918, 0.3167], atol=5e-5)


def test_torchmetrics_multiclass_example() -> None:
    p = [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    confidence, correct = top_label(p, [0, 1, 2, 0])
    found = [
        expected_calibration_error(confidence, correct, binning=Binning(3), norm=norm)
        for norm in ("l1", "l2", "max")
    ]
    np.testing.assert_allclose(found, [0.2, 0.2082, 0.2333], atol=5e-5)


def test_scikit_learn_calibration_curve_example() -> None:
    y = [0, 0, 0, 0, 1, 1, 1, 1, 1]
    p = [0.1, 0.2, 0.3, 0.4, 0.65, 0.7, 0.8, 0.9, 1.0]
    curve = reliability_curve(p, y, binning=Binning(3))
    np.testing.assert_allclose(curve["accuracy"], [0, 0.5, 1])
    np.testing.assert_allclose(curve["confidence"], [0.2, 0.525, 0.85])
    assert list(curve["n"]) == [3, 2, 4]


def test_scikit_learn_brier_example() -> None:
    p, y = np.array([0.1, 0.9, 0.8, 0.3]), [0, 1, 1, 0]
    assert brier_score(p, y) == pytest.approx(0.0375)
    both = np.column_stack([1 - p, p])
    assert brier_score(both, y) == pytest.approx(0.075)  # scale_by_half=False
    assert brier_score(both, y, scale="half") == pytest.approx(0.0375)


def test_scikit_learn_multiclass_brier_example() -> None:
    p = pd.DataFrame(
        [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.2, 0.2, 0.6]],
        columns=["eggs", "ham", "spam"],
    )
    truth = ["eggs", "ham", "spam"]
    assert brier_score(p, truth) == pytest.approx(0.44 / 3)  # "0.146…"
    assert brier_score(p, truth, scale="half") == pytest.approx(0.22 / 3)


def test_scikit_learn_log_loss_example() -> None:
    p = pd.DataFrame(
        [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]], columns=["ham", "spam"]
    )
    truth = ["spam", "ham", "ham", "spam"]
    assert log_loss(p, truth) == pytest.approx(0.21616, abs=5e-6)
    assert log_loss(p["spam"], [1, 0, 0, 1]) == pytest.approx(0.21616, abs=5e-6)


UC_P = [0.5, 0.5, 0.5, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6]
UC_Y = [0, 1, 0, 1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("l1", 4 / 9 * 0.25 + 5 / 9 * 0.2),
        ("l2", (4 / 9 * 0.25**2 + 5 / 9 * 0.2**2) ** 0.5),
        ("max", 0.25),
    ],
)
def test_verified_calibration_discrete_bins(norm: Any, expected: float) -> None:
    found = expected_calibration_error(UC_P, UC_Y, binning=Binning(strategy="distinct"), norm=norm)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_verified_calibration_debiased_is_below_plain(norm: Any) -> None:
    debiased = debiased_calibration_error(UC_P, UC_Y, binning=Binning(strategy="distinct"), norm=norm)
    assert debiased < expected_calibration_error(
        UC_P, UC_Y, binning=Binning(strategy="distinct"), norm=norm
    )


UC_3 = [[0.6, 0.3, 0.1]] * 6 + [[0.1, 0.8, 0.1]] * 4 + [[0.1, 0.0, 0.9]] * 4
UC_3_TRUTH = [0] * 5 + [1] * 4 + [2] * 5


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_verified_calibration_three_labels(norm: Any) -> None:
    power = 1 if norm == "l1" else 2
    top = 6 / 14 * (5 / 6 - 0.6) ** power + 4 / 14 * 0.05**power + 4 / 14 * 0.1**power
    found = expected_calibration_error(
        *top_label(UC_3, UC_3_TRUTH), binning=Binning(strategy="distinct"), norm=norm
    )
    assert found == pytest.approx(top ** (1 / power))
    parts = [(4, 0.1), (6, 5 / 6 - 0.6), (8, 0.1), (4, 0.05), (6, 0.3 - 1 / 6)]
    each = classwise_calibration_error(
        UC_3, UC_3_TRUTH, binning=Binning(strategy="distinct"), norm=norm, average=None
    )
    marginal = sum(n / 42 * gap**power for n, gap in parts)
    assert np.mean([v**power for v in each.values()]) == pytest.approx(marginal)


@pytest.mark.parametrize(
    ("p", "y", "bins", "expected"),
    [
        ([0.1], [1], 1, 0.9),
        ([0.1], [0], 1, 0.1),
        ([0.1, 0.7], [0, 1], 1, 0.1),
        ([0.7, 0.1], [1, 0], 1, 0.1),
        ([0.1, 0.7, 0.4], [0, 0, 0], 1, 0.4),
        ([0.1, 0.9], [0, 1], 1, 0.0),
        ([0.1, 0.7], [0, 1], 2, 0.2),
        ([0.1, 0.1, 0.7], [0, 1, 1], 2, 0.4 * 2 / 3 + 0.3 / 3),
        ([0.1, 0.1, 0.1, 0.1, 0.7], [0, 1, 0, 0, 1], 2, 0.15 * 4 / 5 + 0.3 / 5),
        ([0.1, 0.7, 0.5, 0.9], [0, 1, 0, 1], 2, 0.25),
        ([0.1, 0.7, 0.5, 0.9], [0, 1, 0, 1], 4, 0.25),
        ([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1], 2, 0.4),
        ([0.1, 0.7, 0.5, 0.9], [0, 1, 1, 1], 2, 0.2),
        ([0.1, 0.7, 0.5, 0.9], [0, 1, 1, 1], 4, 0.25),
    ],
)
def test_verified_calibration_equal_mass(
    p: list[float], y: list[int], bins: int, expected: float
) -> None:
    found = expected_calibration_error(
        p, y, binning=Binning(bins, "quantile", closed="right")
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p", "bins", "expected"),
    [
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], 1, []),
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], 2, [0.4]),
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], 3, [0.3, 0.5]),
        ([0.3, 0.5, 1.0, 1.0, 1.0, 1.0], 3, [0.75]),
        ([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 3, [0.55, 0.75]),
    ],
)
def test_verified_calibration_equal_mass_edges(
    p: list[float], bins: int, expected: list[float]
) -> None:
    found = make_bins(np.array(p), binning=Binning(bins, "quantile")).edges
    np.testing.assert_allclose(found, [0, *expected, 1])


def test_verified_calibration_discrete_edges() -> None:
    p = np.array([0.3, 0.5, 0.2, 0.3, 0.5, 0.7])
    found = make_bins(p, binning=Binning(strategy="distinct")).edges
    np.testing.assert_allclose(found, [0, 0.25, 0.4, 0.6, 1])


def test_verified_calibration_equal_width() -> None:
    found = expected_calibration_error([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1], binning=Binning(2))
    assert found == pytest.approx(0.25)


def test_verified_calibration_six_by_three_example() -> None:
    # The last row of the original sums to 1.05; so its top labels are given here.
    confidence, correct = [0.8, 0.6, 0.9, 1.0, 0.4, 0.85], [1, 1, 1, 1, 0, 1]
    found = expected_calibration_error(confidence, correct, binning=Binning(3))
    assert found == pytest.approx(4 / 6 * (1 - (0.8 + 0.85 + 0.9 + 1) / 4))


@pytest.mark.parametrize(("y", "expected"), [(0, 1.3 / 3), (1, 1.7 / 3)])
def test_verified_calibration_one_class(y: int, expected: float) -> None:
    found = expected_calibration_error([0.9, 0.1, 0.3], [y] * 3, binning=Binning(1))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.1], [1], 1.0),
        ([0.6], [0], 0.0),
        ([0.3, 0.9], [0, 1], 0.75),
        ([0.9, 0.3], [1, 0], 0.75),
        ([0.3, 0.9], [1, 0], 0.25),
        ([0.6, 0.0, 0.8], [1, 0, 1], 8 / 9),
        ([0.6, 0.0, 0.8], [1, 1, 1], 1.0),
        ([0.6, 0.0, 0.8], [0, 0, 0], 0.0),
        ([0.6, 0.0, 0.8], [0, 0, 1], 11 / 18),
        ([0.6, 0.0, 0.8], [0, 1, 0], 1 / 9),
        ([0.1] * 10 + [0.6, 0.7], [0] * 12, 0.0),
        ([0.1] * 10 + [0.6, 0.7], [0] * 11 + [1], np.mean(1 / np.arange(1, 13))),
    ],
)
def test_verified_calibration_selective_accuracy(
    p: list[float], y: list[int], expected: float
) -> None:
    assert 1 - aurc(p, y) == pytest.approx(expected)


def test_uncertainty_metrics_binary_of_the_largest() -> None:
    p = np.array([0.91, 0.32, 0.66, 0.67, 0.57, 0.98, 0.41, 0.19])
    y = np.array([1, 0, 1, 1, 0, 1, 0, 0])
    both = np.column_stack([1 - p, p])
    found = expected_calibration_error(*top_label(both, y), binning=Binning(30))
    assert found == pytest.approx(0.18125)


def test_uncertainty_metrics_binary_ten_bins() -> None:
    # The value is that of the top label too, not of the event.
    p = np.array([0.51, 0.45, 0.39, 0.66, 0.68, 0.29, 0.81, 0.85])
    y = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    both = np.column_stack([1 - p, p])
    found = expected_calibration_error(*top_label(both, y), binning=Binning(10))
    assert found == pytest.approx(0.145)


def test_uncertainty_metrics_three_classes() -> None:
    p = [
        [0.42610548, 0.41748077, 0.15641374],
        [0.44766216, 0.47721294, 0.0751249],
        [0.1862702, 0.15139402, 0.66233578],
        [0.05753544, 0.8561222, 0.08634236],
        [0.18697925, 0.29836466, 0.51465609],
    ]
    found = expected_calibration_error(*top_label(p, [0, 1, 2, 1, 2]), binning=Binning(30))
    assert found == pytest.approx(0.412713502)


def test_uncertainty_metrics_bin_counts() -> None:
    # The first row of the original sums to 0.9; so its top labels are given here.
    confidence, correct = [0.32, 0.37, 0.39, 0.61, 0.65, 0.91], [1, 1, 0, 0, 0, 1]
    sums = binned(confidence, correct, binning=Binning(10))
    assert list(sums.count) == [0, 0, 0, 3, 0, 0, 2, 0, 0, 1]


KS_P, KS_Y = [0.1, 0.9, 0.21, 0.9, 0.5], [0, 1, 0, 1, 0]
PV_P, PV_Y = [0.8, 0.3, 0.5, 0.5, 0.7, 0.1], [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("method", "expected"),
    # MAPIE's own Kuiper statistic is 0.857: it leaves the start of the walk out.
    [("kolmogorov-smirnov", 0.978), ("kuiper", 0.978), ("spiegelhalter", -0.757)],
)
def test_mapie_statistics(method: Any, expected: float) -> None:
    found = calibration_test(KS_P, KS_Y, method=method).statistic
    assert found == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("method", "alternative", "expected"),
    [
        ("kolmogorov-smirnov", "two-sided", 0.7857),
        ("kuiper", "two-sided", 0.9684),
        ("spiegelhalter", "greater", 0.8486),
        ("spiegelhalter", "less", 1 - 0.8486),
        ("spiegelhalter", "two-sided", 2 * (1 - 0.8486)),
    ],
)
def test_mapie_p_values(method: Any, alternative: Any, expected: float) -> None:
    found = calibration_test(PV_P, PV_Y, method=method, alternative=alternative)
    assert found.p_value == pytest.approx(expected, abs=1e-4)


def test_mapie_cumulative_differences() -> None:
    # (−.1, −.3, −.2), and the scale √Σp(1−p)/n: the statistics show both.
    p, y = [0.7, 0.3, 0.6], [1, 0, 0]
    scale = math.sqrt(0.21 + 0.21 + 0.24) / 3
    ks = calibration_test(p, y)
    assert ks.statistic * scale == pytest.approx(0.3)
    kuiper = calibration_test(p, y, method="kuiper")
    assert kuiper.statistic * scale == pytest.approx(0.3)  # from 0 down to −.3


def test_mapie_length_scale() -> None:
    # length_scale((0, 0, .4, .3, .8)) = .16; outcomes (0, 0, 0, 0, 0) sum to −1.5/5.
    ks = calibration_test([0, 0, 0.4, 0.3, 0.8], [0] * 5)
    assert 0.3 / ks.statistic == pytest.approx(0.16, abs=0.005)


@pytest.mark.parametrize(
    ("method", "p", "y", "at_one"),
    [
        # The difference .5 and the scale √(.5 · .5).
        ("kolmogorov-smirnov", [0.5], [1], 0.3708),
        # The range .6/2 and the scale √(.12 + .24)/2.
        ("kuiper", [(1 - math.sqrt(0.52)) / 2, 0.4], [0, 1], 0.0634),
    ],
)
def test_mapie_distributions_at_one(
    method: Any, p: list[float], y: list[int], at_one: float
) -> None:
    found = calibration_test(p, y, method=method)
    assert found.statistic == pytest.approx(1, abs=1e-6)
    assert 1 - found.p_value == pytest.approx(at_one, abs=5e-5)


@pytest.mark.parametrize(
    ("p", "y", "statistic", "p_value"),
    [
        ([0.5] * 10, [1] * 10, math.sqrt(10), 0.0063),
        ([0.9], [0], 3.0, 0.0108),
        ([0.25, 0.5], [1, 0], 0.75 / math.sqrt(7 / 16), 0.8486),
        ([0.25, 0.5], [0, 1], 0.5 / math.sqrt(7 / 16), 0.9974),
    ],
)
def test_the_range_of_a_walk_counts_its_start(
    p: list[float], y: list[int], statistic: float, p_value: float
) -> None:
    """Walks 0 → 5, 0 → −.9, 0 → .75 → .25 and 0 → −.25 → .25, over √Σp(1−p)."""
    found = calibration_test(p, y, method="kuiper")
    assert found.statistic == pytest.approx(statistic, abs=1e-6)
    assert found.p_value == pytest.approx(p_value, abs=5e-5)


@given(pairs=st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=1))
def test_a_range_is_at_least_the_largest_distance(pairs: Any) -> None:
    p, y = zip(*pairs, strict=True)
    kuiper = calibration_test(p, y, method="kuiper").statistic
    assert kuiper >= calibration_test(p, y).statistic - 1e-12


# The cross-library fixture --------------------------------------------------------


@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize(
    ("bins", "expected"), [(5, 0.1035), (10, 0.1035), (15, 0.1925)]
)
def test_fixture_ece_is_the_same_in_all_libraries(
    bins: int, expected: float, closed: Any
) -> None:
    found = expected_calibration_error(P, Y, binning=Binning(bins, closed=closed))
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("bins", "closed", "expected"),
    [
        (10, "left", 0.15),
        (10, "right", 0.186667),
        (15, "left", 0.305),
        (15, "right", 0.34),
        (20, "left", 0.315),  # torchmetrics
    ],
)
def test_fixture_mce_depends_on_the_edges(
    bins: int, closed: Any, expected: float
) -> None:
    found = maximum_calibration_error(P, Y, binning=Binning(bins, closed=closed))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("closed", "expected"), [("right", 0.2045), ("left", 0.1695)])
def test_fixture_with_twenty_bins_is_decided_by_exact_edges(
    closed: Any, expected: float
) -> None:
    pairs: dict[int, list[tuple[float, int]]] = {}
    for p, y in zip(P, Y, strict=True):
        place = Fraction(str(p)) * 20
        at = math.floor(place) if closed == "left" else math.ceil(place) - 1
        pairs.setdefault(at, []).append((p, y))
    assert plain_errors(list(pairs.values()))[0] == pytest.approx(expected)
    found = expected_calibration_error(P, Y, binning=Binning(closed=closed))
    assert found == pytest.approx(expected, abs=1e-9)


def test_fixture_value_of_netcal_comes_from_rounded_edges() -> None:
    # Its edges 17/20 and 19/20 are rounded up, so .85 and .95 fall into the bins below.
    with quiet():
        from netcal.metrics import ECE, MCE

        found = ECE(20).measure(P, Y), MCE(20).measure(P, Y)
    np.testing.assert_allclose(found, [0.1425, 0.263333], atol=1e-6)
    edges = np.linspace(0, 1, 21)
    assert edges[17] > 0.85 and edges[19] > 0.95
    moved = np.where((P == 0.85) | (P == 0.95), P - 1e-6, P)
    assert expected_calibration_error(moved, Y) == pytest.approx(0.1425, abs=1e-5)
    assert maximum_calibration_error(moved, Y) == pytest.approx(0.263333, abs=1e-5)


def test_fixture_scores() -> None:
    assert P.mean() == pytest.approx(0.7535)
    assert Y.mean() == pytest.approx(0.65)
    assert brier_score(P, Y) == pytest.approx(0.221065, abs=1e-9)
    assert log_loss(P, Y) == pytest.approx(0.6547611548, abs=1e-9)
    assert auroc(P, Y) == pytest.approx(0.6703296703, abs=1e-9)


def test_fixture_smooth_calibration_error() -> None:
    # relplot 1.0.3
    assert smooth_calibration_error(P, Y) == pytest.approx(0.10369005, abs=1e-7)
    found = smooth_calibration_error(P, Y, bandwidth=0.05)
    assert found == pytest.approx(0.10564692, abs=1e-7)


@pytest.mark.parametrize(
    ("bins", "debiased", "plain"),
    [
        (2, -0.0118252778, 0.0109525),
        (4, -0.036441, 0.013559),
        (5, -0.0548245833, 0.01600875),
    ],
)
def test_fixture_debiased_squared_error(
    bins: int, debiased: float, plain: float
) -> None:
    found = debiased_calibration_error(P, Y, binning=Binning(bins))
    assert found == pytest.approx(debiased, abs=1e-9)
    l2 = expected_calibration_error(P, Y, binning=Binning(bins, "quantile"), norm="l2")
    assert l2**2 == pytest.approx(plain, abs=1e-9)


def test_fixture_murphy_decomposition() -> None:
    parts = brier_decomposition(P, Y, binning=Binning(10))
    assert parts.reliability == pytest.approx(0.0124741667, abs=1e-9)
    assert parts.resolution == pytest.approx(0.0166666667, abs=1e-9)
    assert parts.uncertainty == pytest.approx(0.2275, abs=1e-9)
    assert parts.within_variance == pytest.approx(0.0007575, abs=1e-9)
    assert parts.within_covariance == pytest.approx(0.003, abs=1e-9)
    assert parts.brier == pytest.approx(0.221065, abs=1e-9)


# Other packages on random data ----------------------------------------------------


@pytest.mark.parametrize("bins", [7, 20])
@pytest.mark.parametrize("low", [0.0, 0.5])
def test_ece_and_mce_agree_with_netcal(bins: int, low: float) -> None:
    p, y = forecasts(3000, seed=bins, low=low)
    with quiet():
        from netcal.metrics import ECE, MCE

        expected = ECE(bins).measure(p, y), MCE(bins).measure(p, y)
        equal_mass = ECE(bins, equal_intervals=False).measure(p, y)
    assert expected_calibration_error(p, y, binning=Binning(bins)) == pytest.approx(
        expected[0], abs=1e-6
    )
    assert maximum_calibration_error(p, y, binning=Binning(bins)) == pytest.approx(
        expected[1], abs=1e-6
    )
    if 3000 % bins == 0:
        found = expected_calibration_error(p, y, binning=Binning(bins, "quantile"))
        assert found == pytest.approx(equal_mass, abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_ece_agrees_with_torchmetrics(norm: Any) -> None:
    p, y = forecasts(3000, seed=3)
    q, truth = class_forecasts(3000, 4, seed=4)
    with quiet():
        import torch
        from torchmetrics.functional.classification import (
            binary_calibration_error,
            multiclass_calibration_error,
        )

        binary = binary_calibration_error(
            torch.tensor(p), torch.tensor(y), binning=Binning(20), norm=norm
        )
        multiclass = multiclass_calibration_error(
            torch.tensor(q), torch.tensor(truth), 4, binning=Binning(20), norm=norm
        )
    found = expected_calibration_error(p, y, norm=norm)
    assert found == pytest.approx(float(binary), abs=1e-6)
    found = expected_calibration_error(*top_label(q, truth), norm=norm)
    assert found == pytest.approx(float(multiclass), abs=1e-6)


def test_ece_agrees_with_mapie() -> None:
    # Its "uniform" with k bins has k edges, so one bin less; (a, b].
    p, y = forecasts(3000, seed=5)
    ranked = np.argsort(p)
    with quiet():
        from mapie.metrics.calibration import expected_calibration_error as ece

        uniform = ece(y, p, num_bins=21, split_strategy="uniform")
        mass = ece(y[ranked], p[ranked], num_bins=17, split_strategy="array split")
    found = expected_calibration_error(p, y, binning=Binning(closed="right"))
    assert found == pytest.approx(uniform, abs=1e-6)
    found = expected_calibration_error(p, y, binning=Binning(17, "quantile"))
    assert found == pytest.approx(mass, abs=1e-6)


def test_multiclass_errors_agree_with_mapie() -> None:
    q, truth = class_forecasts(3000, 4, seed=6)
    with quiet():
        from mapie.metrics.calibration import expected_calibration_error as ece
        from mapie.metrics.calibration import top_label_ece

        top = top_label_ece(truth, q, num_bins=21, split_strategy="uniform")
        each = [ece((truth == k).astype(int), q[:, k], num_bins=21) for k in range(4)]
    found = top_label_calibration_error(q, truth, average="macro", binning=Binning(closed="right"))
    assert found == pytest.approx(top, abs=1e-6)
    apart = classwise_calibration_error(q, truth, average=None, binning=Binning(closed="right"))
    assert list(apart) == [0, 1, 2, 3]
    np.testing.assert_allclose(list(apart.values()), each, atol=1e-6)
    found = classwise_calibration_error(q, truth, binning=Binning(closed="right"))
    assert found == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("method", ["kolmogorov-smirnov", "kuiper", "spiegelhalter"])
def test_tests_agree_with_mapie(method: Any) -> None:
    p, y = forecasts(800, seed=7, off=0.02)
    with quiet():
        from mapie.metrics import calibration as mapie

        name = method.replace("-", "_")
        statistic = getattr(mapie, f"{name}_statistic")(y, p)
        p_value = getattr(mapie, f"{name}_p_value")(y, p)
    alternative: Any = "greater" if method == "spiegelhalter" else "two-sided"
    found = calibration_test(p, y, method=method, alternative=alternative)
    assert found.statistic == pytest.approx(statistic, abs=1e-6)
    assert found.p_value == pytest.approx(p_value, abs=1e-6)


def test_scores_agree_with_scikit_learn() -> None:
    from sklearn import metrics as sklearn

    p, y = forecasts(3000, seed=8)
    p = p.round(2)  # with ties
    p_inner = p.clip(0.01, 0.99)
    q, truth = class_forecasts(3000, 4, seed=9)
    assert auroc(p, y) == pytest.approx(sklearn.roc_auc_score(y, p), abs=1e-9)
    assert brier_score(p, y) == pytest.approx(sklearn.brier_score_loss(y, p), abs=1e-9)
    assert log_loss(p_inner, y) == pytest.approx(sklearn.log_loss(y, p_inner), abs=1e-9)
    assert log_loss(q, truth) == pytest.approx(sklearn.log_loss(truth, q), abs=1e-9)
    for scale, half in [("sum", False), ("half", True)]:
        expected = sklearn.brier_score_loss(
            truth, q, scale_by_half=half, labels=[0, 1, 2, 3]
        )
        found = brier_score(q, truth, scale=scale)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, abs=1e-9)


def test_curve_agrees_with_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    p, y = forecasts(3000, seed=10)
    accuracy, confidence = calibration_curve(y, p, binning=Binning(20))
    curve = reliability_curve(p, y)
    np.testing.assert_allclose(curve["accuracy"], accuracy, atol=1e-9)
    np.testing.assert_allclose(curve["confidence"], confidence, atol=1e-9)


@pytest.mark.parametrize("bandwidth", [None, 0.02, 0.2])
def test_smooth_error_agrees_with_relplot(bandwidth: float | None) -> None:
    p, y = forecasts(500, seed=11)
    with quiet():
        from relplot.metrics import smECE, smECE_sigma

        expected = smECE(p, y) if bandwidth is None else smECE_sigma(p, y, bandwidth)
    found = smooth_calibration_error(p, y, bandwidth=bandwidth)
    assert found == pytest.approx(expected, abs=1e-6)


def test_aurc_is_the_mean_error_rate_of_the_most_confident() -> None:
    p, y = forecasts(300, seed=12)
    wrong = 1 - y[np.argsort(-p)]
    expected = np.mean([wrong[:k].mean() for k in range(1, 301)])
    assert aurc(p, y) == pytest.approx(expected)


def test_aurc_of_ties_is_the_mean_over_their_orders() -> None:
    # Two orders of the tied middle: risks (0, 0, 1/3, 1/2) and (0, 1/2, 1/3, 1/2).
    expected = np.mean([[0, 0, 1 / 3, 1 / 2], [0, 1 / 2, 1 / 3, 1 / 2]])
    p = [0.9, 0.8, 0.8, 0.6]
    assert aurc(p, [1, 1, 0, 0]) == pytest.approx(expected)
    assert aurc(p, [1, 0, 1, 0]) == pytest.approx(expected)
    # At the top: risks (0, 1/2, 1/3) and (1, 1/2, 1/3).
    assert aurc([0.8, 0.8, 0.6], [1, 0, 1]) == pytest.approx((1 + 1 / 3) / 3)


def test_risk_coverage_curve_by_hand() -> None:
    curve = risk_coverage_curve([0.9, 0.5, 0.9, 0.7], [1, 1, 0, 0])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.7, 0.5])
    np.testing.assert_allclose(curve.coverage, [0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [1 / 2, 2 / 3, 1 / 2])


# Arithmetic of the chapters' sources ----------------------------------------------


def test_bucket_of_150_rows_with_138_correct() -> None:
    # Claimed 92 %: 138/150 = .92; stated .923 the bucket is off by .003.
    sums = [1] * 138 + [0] * 12
    assert expected_calibration_error([0.923] * 150, sums) == pytest.approx(0.003)
    curve = reliability_curve([0.923] * 150, sums, binning=Binning(1))
    low, high = curve.loc[0, ["accuracy_low", "accuracy_high"]]
    assert (round(low, 3), round(high, 3)) == (0.865, 0.954)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (5, 5, 0.566, 1),
        (10, 10, 0.722, 1),
        (7, 10, 0.397, 0.892),
        (187, 187, 0.980, 1),
        (199, 199, 0.981, 1),
    ],
)
def test_wilson_interval_of_a_bin(right: int, n: int, low: float, high: float) -> None:
    curve = reliability_curve([0.8] * n, [1] * right + [0] * (n - right), binning=Binning(1))
    found = curve.loc[0, ["accuracy_low", "accuracy_high"]]
    np.testing.assert_allclose(found.astype(float), [low, high], atol=5.1e-4)
    centre = (right / n + 1.959964**2 / 2 / n) / (1 + 1.959964**2 / n)
    assert found.mean() == pytest.approx(centre, abs=1e-6)


def test_wilson_interval_of_another_level() -> None:
    curve = reliability_curve([0.8] * 10, [1] * 7 + [0] * 3, binning=Binning(1), level=0.9)
    z = normal.ppf(0.95)
    half = z * math.sqrt(0.7 * 0.3 / 10 + z**2 / 400) / (1 + z**2 / 10)
    low, high = curve.loc[0, ["accuracy_low", "accuracy_high"]]
    assert (high - low) / 2 == pytest.approx(half)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bucket_edges_of_the_seeds(dtype: type) -> None:
    # .5, .7 and .9: "≥ .90, [.70, .90), [.50, .70)" is closed left, "> .90" right.
    p = np.array([0.5, 0.7, 0.9], dtype=dtype)
    for closed, places in [("left", [5, 7, 9]), ("right", [4, 6, 8])]:
        bins = make_bins(p, binning=Binning(10, closed=closed))  # type: ignore[arg-type]
        assert list(bins.index(p)) == places


# Edges ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("n_bins", [10, 15, 20, 100])
def test_shares_fall_where_fractions_say(n_bins: int, closed: Any, dtype: type) -> None:
    shares = sorted({Fraction(k, n) for n in range(1, 201) for k in range(n + 1)})
    places = [share * n_bins for share in shares]
    if closed == "left":
        expected = [min(math.floor(place), n_bins - 1) for place in places]
    else:
        expected = [max(math.ceil(place) - 1, 0) for place in places]
    p = np.array([k.numerator / k.denominator for k in shares]).astype(dtype)
    bins = make_bins(p, binning=Binning(n_bins, closed=closed))
    np.testing.assert_array_equal(bins.index(p), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("closed", ["left", "right"])
def test_all_functions_use_the_same_edges(closed: Any, dtype: type) -> None:
    p = (np.arange(1, 20) / 20).astype(dtype)
    y = np.arange(19) % 3 > 0
    rule: dict[str, Any] = {"n_bins": 10, "closed": closed}
    ece = expected_calibration_error(p, y, **rule)
    places = np.arange(1, 20) // 2 if closed == "left" else (np.arange(1, 20) - 1) // 2
    groups = [
        [(k / 20, int(y[k - 1])) for k in range(1, 20) if places[k - 1] == place]
        for place in range(10)
    ]
    assert ece == pytest.approx(plain_errors(groups)[0], abs=1e-6)
    report = calibration_metrics(p, y, n_resamples=20, **rule)
    assert report.ece == pytest.approx(ece, abs=1e-12)
    found = bootstrap_interval(p, y, n_resamples=20, **rule)
    assert found.value == pytest.approx(ece, abs=1e-6)
    l2 = expected_calibration_error(p, y, norm="l2", **rule)
    parts = brier_decomposition(p, y, **rule)
    assert parts.reliability == pytest.approx(l2**2, abs=1e-6)
    floor = noise_floor(p, n_simulations=20, **rule)
    exact = noise_floor(np.arange(1, 20) / 20, n_simulations=20, **rule)
    np.testing.assert_allclose(floor, exact, atol=1e-6)
    need: dict[str, Any] = {"target": 0.2, "n_simulations": 50, **rule}
    found_n = labels_needed(p, **need).n
    assert found_n == labels_needed(np.arange(1, 20) / 20, **need).n


def test_a_value_just_off_an_edge_is_not_on_it() -> None:
    near = np.array([0.7 - 3e-7, 0.7 - 1e-12, 0.7 + 1e-12, 0.7 + 3e-7])
    bins = make_bins(np.array([0.5]), binning=Binning(10))
    assert list(bins.index(near)) == [6, 7, 7, 7]
    right = make_bins(np.array([0.5]), binning=Binning(10, closed="right"))
    assert list(right.index(near)) == [6, 6, 6, 7]


@given(p=st.lists(st.floats(0, 1), min_size=1), binning=Binning(st.integers)(1, 40))
def test_what_went_through_single_precision_stays_in_its_bin(
    p: list[float], n_bins: int
) -> None:
    double = np.array([*p, *(k / n_bins for k in range(n_bins + 1))])
    for closed in ("left", "right"):
        bins = make_bins(double, binning=Binning(n_bins, closed=closed))  # type: ignore[arg-type]
        expected = bins.index(double)
        single = double.astype(np.float32)
        for stored in (single, single.astype(float), np.array(single.tolist())):
            np.testing.assert_array_equal(bins.index(stored), expected)


@pytest.mark.parametrize("store", [np.float32, lambda p: np.float32(p).tolist()])
def test_error_of_shares_that_went_through_single_precision(store: Any) -> None:
    # .3, .6, .7 open bins of ten; |1 − 1.4| in [.7, .8) and 0 − .3, 1 − .6, 0 − .1,
    # 1 − .9 make (.3 + .4 + .4 + .1 + .1) / 6.
    p, y = [0.3, 0.6, 0.7, 0.1, 0.7, 0.9], [0, 1, 0, 0, 1, 1]
    for rows in (p, store(p)):
        found = expected_calibration_error(rows, y, binning=Binning(10))
        assert found == pytest.approx(1.3 / 6, abs=1e-6)


@pytest.mark.parametrize("strategy", ["uniform", "quantile", "distinct"])
@pytest.mark.parametrize("closed", ["left", "right"])
def test_zero_and_one_have_a_bin(strategy: Any, closed: Any) -> None:
    p, y = [0.0, 1.0, 0.0, 1.0], [0, 1, 1, 1]
    rule: dict[str, Any] = {"strategy": strategy, "closed": closed, "n_bins": 4}
    sums = binned(p, y, **rule)
    assert sums.count[0] == 2 and sums.count[-1] == 2 and sums.count.sum() == 4
    assert expected_calibration_error(p, y, **rule) == pytest.approx(0.25)


@pytest.mark.parametrize("crowd", [1.0, 0.9])
def test_a_crowd_of_equal_values_has_a_bin_of_equal_mass(crowd: float) -> None:
    p = np.array([0.3] * 3 + [crowd] * 9)
    sums = binned(p, np.ones(12), binning=Binning(6, "quantile"))
    assert list(sums.filled.count) == [3, 9]


def test_a_crowd_at_zero_has_a_bin_of_equal_mass() -> None:
    p = np.array([0.0] * 9 + [0.7] * 3)
    for closed in ("left", "right"):
        sums = binned(p, np.ones(12), binning=Binning(6, "quantile", closed=closed))
        assert list(sums.filled.count) == [9, 3]


@pytest.mark.parametrize(("n", "bins"), [(100, 20), (103, 20), (20, 20), (7, 3)])
def test_bins_of_equal_mass_hold_the_parts_of_array_split(n: int, bins: int) -> None:
    p = np.random.default_rng(0).random(n)
    sums = binned(p, np.zeros(n), binning=Binning(bins, "quantile"))
    parts = np.array_split(np.sort(p), bins)
    np.testing.assert_array_equal(sums.count, [len(part) for part in parts])
    np.testing.assert_allclose(sums.confidence, [part.sum() for part in parts])


def test_equal_values_stay_together_in_bins_of_equal_mass() -> None:
    p = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.9])
    for closed, counts in [("left", [1, 5]), ("right", [5, 1])]:
        sums = binned(p, np.zeros(6), binning=Binning(3, "quantile", closed=closed))
        assert list(sums.filled.count) == counts


def test_rows_beyond_one_block_are_summed() -> None:
    p, y = forecasts(150_001, seed=13)
    sums = binned(p, y, binning=Binning(10))
    count, _ = np.histogram(p, np.linspace(0, 1, 11))
    np.testing.assert_array_equal(sums.count, count)
    correct, _ = np.histogram(p[y == 1], np.linspace(0, 1, 11))
    np.testing.assert_array_equal(sums.correct, correct)
    total, _ = np.histogram(p, np.linspace(0, 1, 11), weights=p)
    np.testing.assert_allclose(sums.confidence, total)


# Laws -----------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda k: k / 20)),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)
RULES = st.fixed_dictionaries(
    {
        "n_bins": st.integers(1, 25),
        "strategy": st.sampled_from(["uniform", "quantile", "distinct"]),
        "closed": st.sampled_from(["left", "right"]),
    }
)


def columns(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    p, y = zip(*rows, strict=True)
    return np.array(p, dtype=float), np.array(y, dtype=bool)


@given(ROWS, RULES)
@settings(max_examples=150, deadline=None)
def test_norms_are_ordered(
    rows: list[tuple[float, bool]], rule: dict[str, Any]
) -> None:
    p, y = columns(rows)
    rule = rule | {"n_bins": min(rule["n_bins"], len(p))}
    l1, l2, top, signed = (
        expected_calibration_error(p, y, norm=norm, **rule)  # type: ignore[arg-type]
        for norm in ("l1", "l2", "max", "signed")
    )
    gap = p.mean() - y.mean()
    assert signed == pytest.approx(gap, abs=1e-9)
    assert abs(gap) <= l1 + 1e-9
    assert l1 <= l2 + 1e-9
    assert l2 <= top + 1e-9
    assert 0 <= l1 and top <= 1 + 1e-12
    assert maximum_calibration_error(p, y, **rule) == top


@given(ROWS, RULES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_changes_nothing(
    rows: list[tuple[float, bool]], rule: dict[str, Any], random: Any
) -> None:
    p, y = columns(rows)
    rule = rule | {"n_bins": min(rule["n_bins"], len(p))}
    order = list(range(len(p)))
    random.shuffle(order)

    def measured(p: np.ndarray, y: np.ndarray) -> list[float]:
        found = [
            expected_calibration_error(p, y, **rule),
            debiased_calibration_error(p, y, **rule),
            debiased_calibration_error(p, y, norm="l1", **rule),
            sweep_calibration_error(p, y),
            brier_score(p, y),
            aurc(p, y),
            *vars(brier_decomposition(p, y, **rule)).values(),
        ]
        if 0 < y.sum() < len(y):
            found.append(auroc(p, y))
        if np.any((p > 0) & (p < 1) & (np.abs(p - 0.5) > 1e-3) & (p * (1 - p) > 1e-9)):
            found += [
                calibration_test(p, y, method=method).p_value  # type: ignore[arg-type]
                for method in ("kolmogorov-smirnov", "kuiper", "spiegelhalter")
            ]
        return found

    np.testing.assert_allclose(
        measured(p, y), measured(p[order], y[order]), rtol=1e-6, atol=1e-9
    )


@given(ROWS, RULES)
@settings(max_examples=100, deadline=None)
def test_the_decomposition_adds_up(
    rows: list[tuple[float, bool]], rule: dict[str, Any]
) -> None:
    p, y = columns(rows)
    rule = rule | {"n_bins": min(rule["n_bins"], len(p))}
    d = brier_decomposition(p, y, **rule)
    total = d.reliability - d.resolution + d.uncertainty
    total += d.within_variance - d.within_covariance
    assert total == pytest.approx(brier_score(p, y), abs=1e-9)
    assert d.brier == pytest.approx(brier_score(p, y), abs=1e-12)


@pytest.mark.parametrize("n_bins", [1, 2, 7, 20, 100])
@pytest.mark.parametrize("closed", ["left", "right"])
def test_one_confidence_is_off_by_its_distance_from_the_accuracy(
    n_bins: int, closed: Any
) -> None:
    y = [1] * 60 + [0] * 40
    for c in (0.0, 0.35, 0.6, 0.7, 1.0):
        for strategy in ("uniform", "quantile", "distinct"):
            rule: dict[str, Any] = {"n_bins": n_bins, "strategy": strategy}
            rule |= {"closed": closed}
            for norm in ("l1", "l2", "max"):
                found = expected_calibration_error([c] * 100, y, norm=norm, **rule)  # type: ignore[arg-type]
                assert found == pytest.approx(abs(c - 0.6), abs=1e-12)
            signed = expected_calibration_error([c] * 100, y, norm="signed", **rule)
            assert signed == pytest.approx(c - 0.6, abs=1e-12)
        assert sweep_calibration_error([c] * 100, y) == pytest.approx(abs(c - 0.6))


def test_a_perfect_forecaster_of_two_values_has_no_error() -> None:
    p = [0.2] * 10 + [0.7] * 10
    y = [1] * 2 + [0] * 8 + [1] * 7 + [0] * 3
    for norm in ("l1", "l2", "max", "signed"):
        found = expected_calibration_error(p, y, norm=norm)  # type: ignore[arg-type]
        assert found == pytest.approx(0, abs=1e-12)
    assert brier_decomposition(p, y).reliability == pytest.approx(0, abs=1e-12)


def test_the_base_rate_for_all_has_no_calibration_error_and_no_resolution() -> None:
    parts = brier_decomposition([0.3] * 10, [1] * 3 + [0] * 7)
    assert parts.reliability == pytest.approx(0, abs=1e-12)
    assert parts.resolution == pytest.approx(0, abs=1e-12)
    assert parts.brier == pytest.approx(parts.uncertainty)
    assert auroc([0.3] * 10, [1] * 3 + [0] * 7) == 0.5


def test_all_values_in_one_bin() -> None:
    p, y = np.linspace(0.91, 0.94, 50), np.arange(50) % 2
    expected = abs(p.mean() - 0.5)
    for norm in ("l1", "l2", "max"):
        found = expected_calibration_error(p, y, norm=norm)  # type: ignore[arg-type]
        assert found == pytest.approx(expected)


def test_log_loss_of_a_wrong_certainty_is_infinite_unless_clipped() -> None:
    assert log_loss([1.0, 0.5], [0, 1]) == np.inf
    assert log_loss([[1.0, 0.0]], [1]) == np.inf
    assert log_loss([1.0], [0], clip=0.01) == pytest.approx(-math.log(0.01))
    assert log_loss([1.0], [1], clip=0.01) == pytest.approx(-math.log(0.99))
    assert math.copysign(1, log_loss([1.0], [1])) == 1  # no −0


@pytest.mark.parametrize("norm", ["squared", "l2", "l1"])
def test_debiased_error_by_hand(norm: Any) -> None:
    # One bin, ten rows of .9, five correct: (.4)² − .25/9, its root, and twice .4
    # minus E|N(.4, √.025)|.
    deviation = math.sqrt(0.25 / 10)
    ratio = 0.4 / deviation
    folded = 2 * deviation * normal.pdf(ratio) + 0.4 * (2 * normal.cdf(ratio) - 1)
    expected = {
        "squared": 0.16 - 0.25 / 9,
        "l2": math.sqrt(0.16 - 0.25 / 9),
        "l1": 0.8 - folded,
    }[norm]
    found = debiased_calibration_error(
        [0.9] * 10, [1] * 5 + [0] * 5, binning=Binning(1), norm=norm
    )
    assert found == pytest.approx(expected)


def test_debiased_l1_error_is_the_mean_over_normal_draws() -> None:
    # As verified_calibration does it: by drawing.
    p, y = forecasts(400, seed=14)
    sums = binned(p, y, binning=Binning(8, "quantile"))
    rng = np.random.default_rng(0)
    spread = np.sqrt(sums.accuracy * (1 - sums.accuracy) / sums.count)
    drawn = rng.normal(sums.accuracy, spread, (200_000, 8))
    plain = np.abs(sums.mean_confidence - sums.accuracy) @ sums.weight
    mean = np.mean(np.abs(sums.mean_confidence - drawn) @ sums.weight)
    found = debiased_calibration_error(p, y, binning=Binning(8), norm="l1")
    assert found == pytest.approx(2 * plain - mean, abs=3e-4)


def test_debiased_root_is_never_below_zero() -> None:
    assert debiased_calibration_error(P, Y, binning=Binning(4)) < 0
    assert debiased_calibration_error(P, Y, binning=Binning(4), norm="l2") == 0


def test_a_bin_of_one_row_counts_as_zero_in_the_debiased_error() -> None:
    p, y = [0.2] + [0.9] * 4, [1, 1, 1, 0, 0]
    found = debiased_calibration_error(p, y, binning=Binning(strategy="distinct"))
    assert found == pytest.approx(4 / 5 * (0.16 - 0.25 / 3))


def plain_sweep(p: np.ndarray, y: np.ndarray) -> float:
    """Roelofs' rule, for values without ties, in the plainest way."""
    order = np.argsort(p)
    p, y = p[order], y[order]
    last = abs(p.mean() - y.mean())
    for n_bins in range(2, len(p) + 1):
        parts = list(
            zip(np.array_split(p, n_bins), np.array_split(y, n_bins), strict=True)
        )
        rates = [b.mean() for _, b in parts]
        if any(x > z for x, z in zip(rates, rates[1:], strict=False)):
            break
        last = sum(len(a) * abs(a.mean() - b.mean()) for a, b in parts) / len(p)
    return float(last)


@pytest.mark.parametrize("seed", range(5))
def test_sweep_agrees_with_the_plain_rule(seed: int) -> None:
    p, y = forecasts(200, seed=seed)
    assert sweep_calibration_error(p, y) == pytest.approx(plain_sweep(p, y))


def test_sweep_goes_on_while_accuracies_are_equal() -> None:
    # Two bins of accuracy .5, stated at .3 and .7.
    found = sweep_calibration_error([0.29, 0.31, 0.69, 0.71], [0, 1, 0, 1])
    assert found == pytest.approx(0.2)


def test_sweep_keeps_ties_together() -> None:
    p, y = [0.2, 0.2, 0.2, 0.8], [0, 1, 0, 1]
    expected = 3 / 4 * abs(0.2 - 1 / 3) + 1 / 4 * 0.2
    assert sweep_calibration_error(p, y) == pytest.approx(expected)


def test_top_label_error_does_not_let_classes_make_up_for_each_other() -> None:
    # Both classes stated at .8; one right always, the other 6 times of 10.
    p = [[0.8, 0.2]] * 10 + [[0.2, 0.8]] * 10
    truth = [0] * 10 + [1] * 6 + [0] * 4
    assert expected_calibration_error(*top_label(p, truth)) == pytest.approx(0)
    assert top_label_calibration_error(p, truth) == pytest.approx(0.2)
    apart = top_label_calibration_error(p, truth, average=None, norm="signed")
    assert apart[0] == pytest.approx(-0.2) and apart[1] == pytest.approx(0.2)


def test_top_label_averages() -> None:
    p = [[0.9, 0.1]] * 3 + [[0.4, 0.6]]
    truth = [0, 0, 0, 1]  # gaps .1 (three rows) and .4 (one)
    assert top_label_calibration_error(p, truth) == pytest.approx(0.7 / 4)
    macro = top_label_calibration_error(p, truth, average="macro")
    assert macro == pytest.approx(0.25)


def test_top_label_leaves_out_classes_never_predicted() -> None:
    p = pd.DataFrame({"p_a": [0.7, 0.6], "p_b": [0.2, 0.3], "p_c": [0.1, 0.1]})
    found = top_label_calibration_error(p, ["a", "b"], average=None)
    assert list(found) == ["a"]
    each = classwise_calibration_error(p, ["a", "b"], average=None)
    assert list(each) == ["a", "b", "c"]
    assert each["c"] == pytest.approx(0.1)


def test_the_first_class_wins_a_tie() -> None:
    confidence, correct = top_label([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    assert list(confidence) == [0.5, 0.5] and list(correct) == [True, False]


@given(st.permutations([0, 1, 2, 3]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_classes_changes_nothing(order: list[int]) -> None:
    q, truth = class_forecasts(200, 4, seed=15)
    moved, place = q[:, order], np.argsort(order)[truth]
    for measure in (
        brier_score,
        log_loss,
        classwise_calibration_error,
        top_label_calibration_error,
    ):
        assert measure(moved, place) == pytest.approx(measure(q, truth))


def test_spiegelhalter_sees_overconfidence_in_the_upper_tail() -> None:
    p = np.full(400, 0.9)
    y = np.repeat([1, 0], [300, 100])
    greater = calibration_test(p, y, method="spiegelhalter", alternative="greater")
    less = calibration_test(p, y, method="spiegelhalter", alternative="less")
    both = calibration_test(p, y, method="spiegelhalter")
    assert greater.statistic == pytest.approx(
        (0.25 - 0.1) * 400 / math.sqrt(400 * 0.09)
    )
    assert greater.p_value < 1e-6 and less.p_value > 1 - 1e-6
    assert both.p_value == pytest.approx(2 * greater.p_value)


@pytest.mark.parametrize("method", ["kolmogorov-smirnov", "kuiper", "spiegelhalter"])
def test_p_values_of_a_perfect_forecaster_are_spread_evenly(method: Any) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        p = rng.random(300)
        found.append(calibration_test(p, rng.random(300) < p, method=method).p_value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)
    assert np.mean(np.array(found) < 0.05) < 0.09


@pytest.mark.parametrize("method", ["kolmogorov-smirnov", "kuiper", "spiegelhalter"])
def test_p_values_of_a_bad_forecaster_are_small(method: Any) -> None:
    p, y = forecasts(2000, seed=16, low=0.5, off=0.15)
    assert calibration_test(p, y, method=method).p_value < 1e-3


# Kinds of input -------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        pd.Series,
        lambda x: pd.Series(x, index=range(len(x), 0, -1)),
        lambda x: pd.array(x, dtype="Float64"),
        lambda x: np.array(x, dtype=object),
        lambda x: np.array(x, dtype=np.float32),
        lambda x: np.array(x, dtype=np.longdouble),
        lambda x: np.repeat(x, 2)[::2],
    ],
)
def test_kinds_of_confidence(make: Callable[[Any], Any]) -> None:
    found = expected_calibration_error(make(P), Y)
    assert found == pytest.approx(expected_calibration_error(P, Y), abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        list,
        pd.Series,
        lambda y: y.astype(bool),
        lambda y: y.astype(float),
        lambda y: y.astype(np.uint8),
        lambda y: y.astype(object),
        lambda y: pd.array(y, dtype="Int64"),
        lambda y: pd.array(y.astype(bool), dtype="boolean"),
    ],
)
def test_kinds_of_outcome(make: Callable[[Any], Any]) -> None:
    found = expected_calibration_error(P, make(Y))
    assert found == expected_calibration_error(P, Y)


def test_input_is_left_as_it_is() -> None:
    p, y = P.copy(), Y.copy()
    p.setflags(write=False)
    y.setflags(write=False)
    calibration_metrics(p, y, n_resamples=10)
    np.testing.assert_array_equal(p, P)


# Bad input ------------------------------------------------------------------------

TAKE_ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "ece": expected_calibration_error,
    "mce": maximum_calibration_error,
    "debiased": lambda p, y: debiased_calibration_error(p, y, binning=Binning(1)),
    "sweep": sweep_calibration_error,
    "smooth": smooth_calibration_error,
    "brier": brier_score,
    "log loss": log_loss,
    "decomposition": brier_decomposition,
    "auroc": auroc,
    "aurc": aurc,
    "risk": risk_coverage_curve,
    "test": calibration_test,
    "curve": reliability_curve,
    "report": calibration_metrics,
    "bootstrap": bootstrap_interval,
    "own bootstrap": lambda p, y: bootstrap_interval(p, y, brier_score),
    "bootstraps": lambda p, y: bootstrap_interval(p, y, ["gap"]),
    "floor": lambda p, _: noise_floor(p),
    "labels": lambda p, _: labels_needed(p),
}
WITH_OUTCOMES = {k: v for k, v in TAKE_ROWS.items() if k not in ("floor", "labels")}


@pytest.mark.parametrize("call", TAKE_ROWS.values(), ids=TAKE_ROWS)
@pytest.mark.parametrize(
    ("p", "y", "error", "message"),
    [
        ([0.5, 1.5], [0, 1], ValueError, r"must lie in \[0, 1\]; row 1 is 1.5"),
        ([-0.1, 0.5], [0, 1], ValueError, r"must lie in \[0, 1\]; row 0 is -0.1"),
        ([0.5, np.nan], [0, 1], ValueError, r"must not be missing; 1 of"),
        ([0.5, np.inf], [0, 1], ValueError, r"must lie in \[0, 1\]; row 1 is inf"),
        ([None, 0.5], [0, 1], ValueError, r"must not be missing; 1 of"),
        ([0.5, pd.NA], [0, 1], ValueError, r"must not be missing; 1 of"),
        (["0.5", "0.6"], [0, 1], TypeError, r"must be numbers, not <U3"),
        (pd.Series(["0.5", "0.6"]), [0, 1], TypeError, r"must be numbers, not text"),
        ([0.5, "high"], [0, 1], TypeError, r"must be numbers"),
        ([0.5 + 0j, 0.5], [0, 1], TypeError, r"must be numbers, not complex128"),
        (
            np.array([]),
            np.array([]),
            ValueError,
            "must be one column with at least one row",
        ),
        (
            pd.Series([], dtype=float),
            [],
            ValueError,
            "must be one column with at least one row",
        ),
    ],
    ids=lambda value: None if isinstance(value, type) else repr(value)[:40],
)
def test_bad_confidences(
    call: Callable[[Any, Any], Any], p: Any, y: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=rf"^(confidence|probabilities) .*{message}"):
        call(p, y)


@pytest.mark.parametrize(
    "call",
    [call for name, call in TAKE_ROWS.items() if name not in ("brier", "log loss")],
    ids=[name for name in TAKE_ROWS if name not in ("brier", "log loss")],
)
def test_confidence_is_one_column(call: Callable[[Any, Any], Any]) -> None:
    message = (
        r"^confidence must be one column with at least one row, not of shape \(2, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        call([[0.5, 0.5], [0.2, 0.8]], [0, 1])


@pytest.mark.parametrize("call", WITH_OUTCOMES.values(), ids=WITH_OUTCOMES)
@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 1], r"one value for each of 2 rows, not shape \(3,\)"),
        ([[0, 1]], r"one value for each of 2 rows, not shape \(1, 2\)"),
        (1, r"one value for each of 2 rows, not shape \(\)"),
        ([0, 2], r"must be 0 or 1; row 1 is 2"),
        ([0.5, 1], r"must be 0 or 1; row 0 is 0.5"),
        ([0, np.nan], r"must not be missing; 1 of 2 rows have no label; pass the 1"),
        ([0, None], r"must not be missing; 1 of 2 rows have no label; pass the 1"),
        ([pd.NA, 1], r"must not be missing; 1 of 2 rows have no label; pass the 1"),
        (
            pd.array([True, None], dtype="boolean"),
            r"must not be missing; 1 of 2 rows have no label; pass the 1",
        ),
        (["0", "1"], r"must be 0 or 1; row 0 is '0'"),
        (["yes", 1], r"must be 0 or 1; row 0 is 'yes'"),
        ([-1, 1], r"must be 0 or 1; row 0 is -1"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_outcomes(call: Callable[[Any, Any], Any], y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^(correct|truth) .*{message}"):
        call([0.4, 0.6], y)


def test_a_bad_value_is_found_beyond_the_first_block() -> None:
    p, y = np.full(200_000, 0.5), np.zeros(200_000)
    p[150_000] = 2
    with pytest.raises(ValueError, match="row 150000 is 2.0"):
        expected_calibration_error(p, y)
    p[150_000], y[170_001] = 0.5, 3
    with pytest.raises(ValueError, match="row 170001 is 3.0"):
        expected_calibration_error(p, y)


BINNED: dict[str, Callable[..., Any]] = {
    "ece": expected_calibration_error,
    "mce": maximum_calibration_error,
    "debiased": debiased_calibration_error,
    "decomposition": brier_decomposition,
    "curve": reliability_curve,
    "report": calibration_metrics,
    "bootstrap": bootstrap_interval,
    "bootstraps": lambda p, y, **rule: bootstrap_interval(p, y, ["ece"], **rule),
    "floor": lambda p, y, **rule: noise_floor(p, **rule),
    "labels": lambda p, y, **rule: labels_needed(p, **rule),
    "classwise": lambda p, y, **rule: classwise_calibration_error(
        np.column_stack([1 - p, p]), y, **rule
    ),
}


@pytest.mark.parametrize("call", BINNED.values(), ids=BINNED)
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"n_bins": 0}, "n_bins must be a whole number of 1 or more, not 0"),
        ({"n_bins": -3}, "n_bins must be a whole number of 1 or more, not -3"),
        ({"n_bins": 2.5}, "n_bins must be a whole number of 1 or more, not 2.5"),
        ({"n_bins": True}, "n_bins must be a whole number of 1 or more, not True"),
        ({"n_bins": None}, "n_bins must be a whole number of 1 or more, not None"),
        ({"strategy": "equal"}, "strategy must be one of 'uniform', .*not 'equal'"),
        ({"closed": "both"}, "closed must be one of 'left', 'right', not 'both'"),
        (
            {"n_bins": 21, "strategy": "quantile"},
            "n_bins must not exceed .* it is 21, and there are 20 rows",
        ),
    ],
    ids=repr,
)
def test_bad_bins(call: Callable[..., Any], rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(P, Y, **rule)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: expected_calibration_error(P, Y, norm="l3"),  # type: ignore[arg-type]
            "norm must be one of 'l1', 'l2', 'max', 'signed', not 'l3'",
        ),
        (
            lambda: debiased_calibration_error(P, Y, norm="max"),  # type: ignore[arg-type]
            "norm must be one of 'squared', 'l2', 'l1', not 'max'",
        ),
        (
            lambda: sweep_calibration_error(P, Y, norm="l0"),  # type: ignore[arg-type]
            "norm must be one of",
        ),
        (
            lambda: noise_floor(P, norm="squared"),  # type: ignore[arg-type]
            "norm must be one of",
        ),
        (
            lambda: brier_score(P, Y, scale="double"),  # type: ignore[arg-type]
            "scale must be one of 'sum', 'half', not 'double'",
        ),
        (
            lambda: classwise_calibration_error(UC_3, UC_3_TRUTH, average="weighted"),  # type: ignore[arg-type]
            "average must be one of 'macro', not 'weighted'",
        ),
        (
            lambda: top_label_calibration_error(UC_3, UC_3_TRUTH, average="mean"),  # type: ignore[arg-type]
            "average must be one of 'weighted', 'macro', not 'mean'",
        ),
        (lambda: log_loss(P, Y, clip=0.5), "clip must lie between 0 and 0.5, not 0.5"),
        (lambda: log_loss(P, Y, clip=0), "clip must lie between 0 and 0.5, not 0"),
        (
            lambda: smooth_calibration_error(P, Y, bandwidth=2),
            "bandwidth must lie between 0.0001 and 1, not 2",
        ),
        (
            lambda: smooth_calibration_error(P, Y, bandwidth=0),
            "bandwidth must lie between",
        ),
        (
            lambda: calibration_test(P, Y, method="hosmer"),  # type: ignore[arg-type]
            "method must be one of 'kolmogorov-smirnov', .*, not 'hosmer'",
        ),
        (
            lambda: calibration_test(P, Y, method="spiegelhalter", alternative="up"),  # type: ignore[arg-type]
            "alternative must be one of .*, not 'up'",
        ),
        (
            lambda: calibration_test(P, Y, alternative="less"),
            "alternative must be 'two-sided' with 'kolmogorov-smirnov', not 'less'",
        ),
        (
            lambda: reliability_curve(P, Y, level=95),
            "level must lie between 0 and 1, not 95",
        ),
        (
            lambda: calibration_metrics(P, Y, level=1),
            "level must lie between 0 and 1, not 1",
        ),
        (
            lambda: calibration_metrics(P, Y, evaluation="unstated"),  # type: ignore[arg-type]
            "evaluation must be one of 'held-out', 'in-sample', not 'unstated'",
        ),
        (
            lambda: calibration_metrics(P, Y, n_resamples=0),
            "n_resamples must be a whole number of 1 or more, not 0",
        ),
        (
            lambda: calibration_metrics(P, Y, groups=[1, 2, 3]),
            r"groups must have one value for each of 20 rows, not shape \(3,\)",
        ),
    ],
)
def test_bad_settings(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        top_label,
        brier_score,
        log_loss,
        classwise_calibration_error,
        top_label_calibration_error,
    ],
)
@pytest.mark.parametrize(
    ("p", "truth", "message"),
    [
        ([[0.5, 0.6]], [0], r"probabilities must sum to one .* row 0 sums to 1.1"),
        ([[0.5, 0.5], [1.2, -0.2]], [0, 1], r"must lie in \[0, 1\]; row 1 has 1.2"),
        ([[0.5, np.nan]], [0], r"must not be missing; 1 of"),
        ([[0.5, None]], [0], r"must not be missing; 1 of"),
        ([[1.0], [1.0]], [0, 0], r"column for each of two or more classes"),
        (np.empty((0, 3)), [], r"must have rows"),
        ([[[0.5, 0.5]]], [0], r"not shape \(1, 1, 2\)"),
        ([[0.5, 0.5]], [2], r"truth must be one of the classes \[0, 1\]; row 0 is 2"),
        ([[0.5, 0.5]], [None], r"truth must not be missing; 1 of 1 rows have no label"),
        (
            [[0.5, 0.5]],
            [np.nan],
            r"truth must not be missing; 1 of 1 rows have no label",
        ),
        ([[0.5, 0.5]], [0, 1], r"truth must have one value for each of 1 rows"),
        (
            pd.DataFrame({"p_yes": [0.5], "p_no": [0.5]}),
            ["maybe"],
            r"truth must be one of the classes \['yes', 'no'\]; row 0 is 'maybe'",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_distributions(call: Any, p: Any, truth: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(p, truth)


def test_words_for_probabilities_of_classes() -> None:
    with pytest.raises(TypeError, match="probabilities must be numbers"):
        brier_score(pd.DataFrame({"a": ["0.5"], "b": ["0.5"]}), ["a"])


@pytest.mark.parametrize("y", [0, 1])
def test_one_outcome_only(y: int) -> None:
    p = [0.7, 0.9, 0.8]
    with pytest.raises(ValueError, match=f"both outcomes .* 3 rows are {bool(y)}"):
        auroc(p, [y] * 3)
    assert expected_calibration_error(p, [y] * 3) == pytest.approx(abs(y - 0.8))
    report = calibration_metrics(p, [y] * 3, n_resamples=50)
    assert np.isnan(report.auroc.value) and np.isnan(report.table.loc["AUROC", "low"])
    line = next(x for x in str(report).splitlines() if x.startswith("AUROC"))
    assert "–" in line and "nan" not in str(report) + report._repr_html_()


def test_fewer_rows_than_bins() -> None:
    assert expected_calibration_error([0.2, 0.9], [0, 1]) == pytest.approx(0.15)
    with pytest.raises(ValueError, match="it is 20, and there are 2 rows"):
        expected_calibration_error([0.2, 0.9], [0, 1], binning=Binning(strategy="quantile"))
    with pytest.raises(ValueError, match="it is 20, and there are 2 rows"):
        debiased_calibration_error([0.2, 0.9], [0, 1])


@pytest.mark.parametrize("p", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("method", ["kolmogorov-smirnov", "kuiper", "spiegelhalter"])
def test_certainties_have_no_scale_for_tests(p: list[float], method: Any) -> None:
    with pytest.raises(ValueError, match=r"confidence must lie inside \(0, 1\)"):
        calibration_test(p, [0, 1, 0], method=method)


def test_spiegelhalter_says_nothing_on_one_half() -> None:
    with pytest.raises(ValueError, match="off 0.5 in some row for 'spiegelhalter'"):
        calibration_test([0.5, 0.5], [0, 1], method="spiegelhalter")


@pytest.mark.parametrize(
    "p", [[0.0] * 4, [1.0] * 4, [0.5] * 4, [0.0, 1.0, 0.0, 1.0]], ids=repr
)
def test_reports_of_degenerate_confidences(p: list[float]) -> None:
    y = [0, 1, 0, 0]
    report = calibration_metrics(p, y, n_resamples=50)
    assert report.ece == expected_calibration_error(p, y)
    assert "nan" not in str(report) + report._repr_html_()
    assert "–" in str(report)  # some test has no scale


# The report -----------------------------------------------------------------------


class Marked(np.ndarray):
    """Confidences that know which rows were fitted on, as calibrators give them."""

    fitted_on: np.ndarray
    evaluation: str

    @classmethod
    def of(cls, values: Any, fitted_on: Any) -> Marked:
        array = np.asarray(values).view(cls)
        array.fitted_on = np.asarray(fitted_on)
        array.evaluation = "in-sample" if array.fitted_on.any() else "held-out"
        return array


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return forecasts(1500, seed=17, low=0.4)


def test_report_values_are_those_of_the_functions(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    p, y = rows
    rule: dict[str, Any] = {"n_bins": 12, "strategy": "quantile", "closed": "right"}
    report = calibration_metrics(p, y, n_resamples=200, **rule)
    table = report.table
    expected = {
        "rows": 1500,
        "accuracy": y.mean(),
        "mean confidence": p.mean(),
        "confidence − accuracy": expected_calibration_error(p, y, norm="signed"),
        "ECE": expected_calibration_error(p, y, **rule),
        "debiased squared error": debiased_calibration_error(p, y, **rule),
        "debiased L1 error": debiased_calibration_error(p, y, norm="l1", **rule),
        "MCE": maximum_calibration_error(p, y, **rule),
        "Brier score": brier_score(p, y),
        "log loss": log_loss(p, y),
        "AUROC": auroc(p, y),
        "AURC": aurc(p, y),
        "Spiegelhalter's p": calibration_test(p, y, method="spiegelhalter").p_value,
        "Kolmogorov–Smirnov p": calibration_test(p, y).p_value,
    }
    for name, value in expected.items():
        assert table.loc[name, "value"] == pytest.approx(value, abs=1e-9), name
    floor = noise_floor(p, n_simulations=2000, **rule)
    assert table.loc["noise floor, mean", "value"] == pytest.approx(
        floor.mean, abs=0.002
    )
    assert table.loc["noise floor, 95 %", "value"] == pytest.approx(
        floor.upper, abs=0.004
    )
    assert set(table.index) == {*expected, "noise floor, mean", "noise floor, 95 %"}
    assert vars(report.decomposition) == pytest.approx(
        vars(brier_decomposition(p, y, **rule))
    )
    assert report.spiegelhalter == calibration_test(p, y, method="spiegelhalter")


def test_report_has_an_interval_or_says_why_not(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    report = calibration_metrics(*rows, n_resamples=50)
    table = report.table
    bare = table["low"].isna()
    assert (bare == (table["no_interval"] != "")).drop("rows").all()
    assert table.loc["ECE", "no_interval"] == "biased upwards"
    for shown in (str(report), report._repr_html_()):
        assert shown.count("none: ") == bare.sum() - 1
        assert re.search(r"ECE\W.*none: biased upwards", shown)


def test_report_intervals_are_those_of_the_functions(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    p, y = rows
    report = calibration_metrics(p, y, n_resamples=300, level=0.9)
    found = bootstrap_interval(
        p, y, ["gap", "squared", "brier", "auroc"], n_resamples=300, level=0.9, rng=0
    )
    assert (report.gap, report.squared, report.brier, report.auroc) == tuple(
        found.values()
    )
    curve = reliability_curve(p, y, binning=Binning(1), level=0.9)
    assert report.accuracy[1:] == pytest.approx(
        tuple(curve.loc[0, ["accuracy_low", "accuracy_high"]])
    )
    np.testing.assert_array_equal(
        report.table[["low", "high"]].dropna().index,
        ["accuracy", "confidence − accuracy", "debiased squared error"]
        + ["Brier score", "AUROC"],
    )


def test_report_curve_has_every_bin(rows: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = rows
    report = calibration_metrics(p, y, n_resamples=20)
    curve, plain = report.curve, reliability_curve(p, y)
    same = ["low", "high", "n", "confidence", "accuracy", "accuracy_low"]
    pd.testing.assert_frame_equal(curve[same], plain[same])
    assert len(curve) == 20 and curve["n"].sum() == 1500
    np.testing.assert_allclose(curve["low"], np.arange(20) / 20)
    empty = curve["n"] == 0
    assert empty.sum() == 8  # below .4
    assert curve.loc[empty, "confidence":].isna().all(axis=None)
    assert curve.loc[~empty].notna().all(axis=None)
    assert (
        curve["n"] / 1500 * (curve["accuracy"] - curve["confidence"]).abs()
    ).sum() == (pytest.approx(report.ece))


def test_report_is_the_same_each_time(rows: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = rows
    one, other = (calibration_metrics(p, y, n_resamples=50) for _ in range(2))
    assert str(one) == str(other)
    third = calibration_metrics(p, y, n_resamples=50, rng=np.random.default_rng(1))
    assert str(one) != str(third)


def test_report_draws_groups_together() -> None:
    p, y = forecasts(100, seed=18, low=0.5)
    p, y, groups = np.repeat(p, 10), np.repeat(y, 10), np.repeat(np.arange(100), 10)
    plain = calibration_metrics(p, y, n_resamples=200)
    grouped = calibration_metrics(p, y, n_resamples=200, groups=groups)
    assert np.ptp(grouped.brier[1:]) > 2 * np.ptp(plain.brier[1:])


@pytest.mark.parametrize("show", [str, lambda report: report._repr_html_()])
def test_report_marks_rows_that_were_fitted_on(show: Callable[[Any], str]) -> None:
    p, y = forecasts(3000, seed=19)
    marked = Marked.of(p, np.arange(3000) < 1234)
    report = calibration_metrics(marked, y, n_resamples=20)
    assert report.evaluation == "in-sample" and report.n_fitted_on == 1234
    text = show(report)
    assert "IN-SAMPLE: 1,234 of these rows were fitted on" in text
    assert "nothing can be concluded" in report.verdict and report.verdict in text
    assert "held out" not in text


def test_fitted_on_rows_cannot_be_called_held_out() -> None:
    marked = Marked.of(P, np.arange(20) < 3)
    with pytest.raises(
        ValueError, match="not be 'held-out': 3 of the rows were fitted"
    ):
        calibration_metrics(marked, Y, evaluation="held-out")
    report = calibration_metrics(marked, Y, evaluation="in-sample", n_resamples=20)
    assert report.n_fitted_on == 3


def test_marked_rows_that_are_held_out() -> None:
    marked = Marked.of(P, np.zeros(20, bool))
    report = calibration_metrics(marked, Y, n_resamples=20)
    assert report.evaluation == "held-out" and report.n_fitted_on == 0
    assert "held out: none of these rows was fitted on" in str(report)
    assert "IN-SAMPLE" not in str(report) + report._repr_html_()
    stated = calibration_metrics(marked, Y, evaluation="in-sample", n_resamples=20)
    assert "IN-SAMPLE: 20 of these rows" in str(stated)


def test_marks_change_no_value() -> None:
    marked = Marked.of(P, np.ones(20, bool))
    one = calibration_metrics(marked, Y, n_resamples=20).table
    other = calibration_metrics(P, Y, n_resamples=20).table
    columns = ["value", "low", "high"]
    pd.testing.assert_frame_equal(one[columns], other[columns])


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (None, "as given; not stated whether"),
        ("held-out", "held out: none of these rows"),
        ("in-sample", "IN-SAMPLE: 20 of these rows"),
    ],
)
def test_report_says_what_was_stated(evaluation: Any, words: str) -> None:
    report = calibration_metrics(P, Y, evaluation=evaluation, n_resamples=20)
    assert str(report).startswith(f"Calibration report ({words}")
    assert words in report._repr_html_()
    assert report.evaluation == (evaluation or "unstated")


@pytest.mark.parametrize(("off", "way"), [(0.2, "over"), (-0.2, "under")])
def test_verdict_names_the_direction(off: float, way: str) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.3, 0.7, 2000)
    report = calibration_metrics(p, rng.random(2000) < p - off, n_resamples=100)
    assert report.verdict == f"more than chance explains; on the whole {way}confident"
    assert report.verdict in str(report)


def test_verdict_follows_the_noise_floor() -> None:
    rng = np.random.default_rng(0)
    said = []
    for _ in range(120):
        p = rng.uniform(0.5, 1, 200).round(1)
        report = calibration_metrics(p, rng.random(200) < p, n_resamples=100)
        assert ("cannot be told" in report.verdict) == (
            report.ece <= report.floor.upper
        )
        said.append("cannot be told" in report.verdict)
    assert 0.9 <= np.mean(said) <= 0.99  # 95 % of perfect forecasters


class Strict(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed() -> None:
    report = calibration_metrics(P, Y, level=0.995, n_resamples=50)
    html = report._repr_html_()
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert not parser.open
    soup = BeautifulSoup(html, "html.parser")
    body = soup.select("tbody tr")
    assert len(body) == len(report.table)
    assert {len(row.find_all(["th", "td"])) for row in body} == {4}
    assert "99.5% interval" in soup.text
    cells = {row.th.text: row.td.text for row in body if row.th and row.td}
    assert cells["ECE"] == f"{report.ece:.4f}" and cells["rows"] == "20"
    assert list(cells) == list(report.table.index)


def test_html_escapes() -> None:
    report = calibration_metrics([0.9] * 200, [0, 1] * 100, n_resamples=20)
    html = report._repr_html_()
    assert 0 < report.spiegelhalter.p_value < 1e-9
    assert "Spiegelhalter&#x27;s p" in html and "Spiegelhalter's p" not in html
    assert "<td>&lt;0.0001</td>" in html
    soup = BeautifulSoup(html, "html.parser")
    assert "<0.0001" in soup.text and "<0.0001" in str(report)
    assert "#b00020" not in html
    marked = calibration_metrics(P, Y, evaluation="in-sample", n_resamples=20)
    assert "#b00020" in marked._repr_html_()


def test_text_and_html_hold_the_same_values() -> None:
    report = calibration_metrics(P, Y, n_resamples=50)
    text = BeautifulSoup(report._repr_html_(), "html.parser").get_text(" ")
    for name, value, interval, note in report._shown():
        for part in (name, value, interval, note):
            assert part in str(report) and part in text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "20 bins of equal width, [a, b)"),
        ({"n_bins": 1, "closed": "right"}, "1 bin of equal width, (a, b]"),
        ({"n_bins": 5, "strategy": "quantile"}, "5 bins of equal mass, [a, b)"),
        ({"strategy": "distinct"}, "20 bins of one value each, [a, b)"),
    ],
)
def test_report_states_its_bins(rule: dict[str, Any], words: str) -> None:
    report = calibration_metrics(P, Y, n_resamples=20, **rule)
    assert report.rule == words and words in str(report)


def test_report_shows_an_infinite_loss() -> None:
    report = calibration_metrics([1.0, 0.6, 0.4], [0, 1, 0], n_resamples=50)
    assert report.log_loss == np.inf
    line = next(x for x in str(report).splitlines() if x.startswith("log loss"))
    assert "inf" in line


def test_every_public_name_exists_and_is_sorted() -> None:
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__


OF_OUTCOMES = {
    name: found
    for name in metrics.__all__
    if inspect.isfunction(found := getattr(metrics, name))
    and [*inspect.signature(found).parameters][:2] == ["confidence", "correct"]
} | {"brier_score": brier_score, "log_loss": log_loss}


@pytest.mark.parametrize("name", OF_OUTCOMES)
def test_texts_without_an_answer_are_left_out(name: str) -> None:
    measure, parameters = OF_OUTCOMES[name], str(inspect.signature(OF_OUTCOMES[name]))
    more = {"measures": ["gap"]} if "measures" in parameters else {}
    rng = np.random.default_rng(0)
    stated, right = rng.uniform(0.3, 1, 40), rng.random(40) < 0.6
    groups = np.arange(40) // 2
    lost = np.isin(np.arange(40), [3, 10, 11])  # the last two are a whole group
    gaps = pd.Series(right, dtype="boolean").mask(lost)

    def given(rows: np.ndarray) -> dict[str, Any]:
        return more | ({"groups": groups[rows]} if "groups" in parameters else {})

    with pytest.warns(UserWarning, match="^3 of 40 rows have no .* left out"):
        found = measure(np.where(lost, np.nan, stated), gaps, **given(lost | ~lost))
    expected = measure(stated[~lost], right[~lost], **given(~lost))
    assert repr(found) == repr(expected)
    for bad in [
        (np.where(lost, np.nan, stated), right),
        (stated, gaps),
        (np.full(40, np.nan), gaps.mask(~lost)),
    ]:
        with pytest.raises(ValueError, match="must not be missing"):
            measure(*bad, **given(lost | ~lost))


@pytest.mark.parametrize("pair", [0, 1])
def test_pairs_of_measures_need_answers(pair: int) -> None:
    # Left out on one side, a row would have no partner on the other.
    sides = [([0.5, 0.75], [0, 1]), ([0.5, 0.75], [0, 1])]
    sides[pair] = ([0.5, np.nan], [0, None])
    with pytest.raises(ValueError, match="confidence of [ab] must not be missing; 1"):
        metrics.paired_difference(*sides, "gap", n_resamples=9)


@pytest.mark.parametrize("confidence", [0.5, iter([0.5]), {0.5}, np.ones((2, 1)) / 2])
def test_what_is_no_column_is_named(confidence: Any) -> None:
    with pytest.raises(ValueError, match="confidence must be one column"):
        expected_calibration_error(confidence, [1])
    with pytest.raises(ValueError, match="probabilities must be one column"):
        brier_score(pd.Series([], dtype=float), [])
