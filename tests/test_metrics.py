"""Rules of helpers.metrics: bins, calibration errors, scores, tests and the report.

Expected values come from other packages and papers, named at each, or were worked out
by hand; what chance does to them is in test_resampling.py, and what is refused of odd
data by every function in test_inputs.py.
"""

from __future__ import annotations

import inspect
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm as normal

from helpers import metrics
from helpers.calibration import Calibrated
from helpers.metrics import (
    Binning,
    BrierDecomposition,
    aurc,
    auroc,
    bootstrap_interval,
    brier_score,
    calibration_metrics,
    calibration_test,
    classwise_calibration_error,
    debiased_calibration_error,
    expected_calibration_error,
    labels_needed,
    log_loss,
    noise_floor,
    risk_coverage_curve,
    top_label,
    top_label_calibration_error,
)
from helpers.metrics.bins import Bins

# The cross-library fixture of 20 rows: its values were made with netcal 1.4.0,
# torchmetrics 1.9.0, scikit-learn 1.9.1 and verified_calibration's
# formulas, independently of this package.
P = np.array(
    [0.51, 0.53, 0.55, 0.58, 0.61, 0.62, 0.66, 0.68, 0.71, 0.74]
    + [0.77, 0.80, 0.83, 0.85, 0.88, 0.91, 0.93, 0.95, 0.97, 0.99]
)
Y = np.array([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1])
FIXTURE = P, Y
TWENTY = Binning()
DISTINCT = Binning(strategy="distinct")
METHODS = ("kolmogorov-smirnov", "kuiper", "spiegelhalter")


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


def curve_of(p: Any, y: Any, binning: Any = TWENTY, **rule: Any) -> pd.DataFrame:
    """The bins, and what is in them."""
    return calibration_metrics(p, y, binning=binning, n_resamples=1, **rule).curve


TORCH_2 = [0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1]
TORCH_3 = top_label(
    [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]],
    [0, 1, 2, 0],
)
UC = [0.5, 0.5, 0.5, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6], [0, 1, 0, 1, 0, 1, 1, 1, 0]
UM_2 = np.array([0.91, 0.32, 0.66, 0.67, 0.57, 0.98, 0.41, 0.19])
UM_TOP = top_label(np.column_stack([1 - UM_2, UM_2]), [1, 0, 1, 1, 0, 1, 0, 0])


def mass(n: int) -> Binning:
    """Bins as verified_calibration makes them."""
    return Binning(n, "quantile", "right")


@pytest.mark.parametrize(
    ("rows", "binning", "norm", "expected"),
    [
        # torchmetrics
        (TORCH_2, Binning(2), "l1", 0.29),
        (TORCH_2, Binning(2), "l2", 0.2918),
        (TORCH_2, Binning(2), "max", 0.3167),
        (TORCH_3, Binning(3), "l1", 0.2),
        (TORCH_3, Binning(3), "l2", 0.2082),
        (TORCH_3, Binning(3), "max", 0.2333),
        # verified_calibration
        (UC, DISTINCT, "l1", 4 / 9 * 0.25 + 5 / 9 * 0.2),
        (UC, DISTINCT, "l2", (4 / 9 * 0.25**2 + 5 / 9 * 0.2**2) ** 0.5),
        (UC, DISTINCT, "max", 0.25),
        (([0.1, 0.1, 0.7], [0, 1, 1]), mass(2), "l1", 0.4 * 2 / 3 + 0.3 / 3),
        (([0.1, 0.7, 0.5, 0.9], [0, 1, 1, 1]), mass(2), "l1", 0.2),
        (([0.1, 0.7, 0.5, 0.9], [0, 1, 1, 1]), mass(4), "l1", 0.25),
        (([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1]), Binning(2), "l1", 0.25),
        # uncertainty-metrics, of the largest probability
        (UM_TOP, Binning(30), "l1", 0.18125),
        # netcal and torchmetrics
        (FIXTURE, Binning(10), "l1", 0.1035),
        (FIXTURE, Binning(10), "max", 0.15),
        (FIXTURE, Binning(10, closed="right"), "l1", 0.1035),
        (FIXTURE, Binning(10, closed="right"), "max", 0.186667),
        (FIXTURE, Binning(15, closed="right"), "l1", 0.1925),
        (FIXTURE, Binning(15, closed="right"), "max", 0.34),
        (FIXTURE, Binning(20), "l1", 0.1695),
        (FIXTURE, Binning(20), "max", 0.315),
        (FIXTURE, Binning(20, closed="right"), "l1", 0.2045),
        # a bucket of the chapters' sources: claimed 92.3 %, 138 of 150 right
        (([0.923] * 150, [1] * 138 + [0] * 12), Binning(), "l1", 0.003),
    ],
)
def test_published_errors(
    rows: Any, binning: Binning, norm: Any, expected: float
) -> None:
    found = expected_calibration_error(*rows, binning=binning, norm=norm)
    assert found == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("p", "binning", "expected"),
    [
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], Binning(1, "quantile"), []),
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], Binning(3, "quantile"), [0.3, 0.5]),
        ([0.3, 0.5, 1.0, 1.0, 1.0, 1.0], Binning(3, "quantile"), [0.75]),
        ([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], Binning(3, "quantile"), [0.55, 0.75]),
        ([0.3, 0.5, 0.2, 0.3, 0.5, 0.7], DISTINCT, [0.25, 0.4, 0.6]),
    ],
)
def test_edges_are_those_of_verified_calibration(
    p: list[float], binning: Binning, expected: list[float]
) -> None:
    curve = curve_of(p, np.ones(len(p)), binning)
    np.testing.assert_allclose(curve["low"], [0, *expected])
    np.testing.assert_allclose(curve["high"], [*expected, 1])


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.6], [0], 0.0),
        ([0.3, 0.9], [0, 1], 0.75),
        ([0.3, 0.9], [1, 0], 0.25),
        ([0.6, 0.0, 0.8], [0, 0, 1], 11 / 18),
        ([0.1] * 10 + [0.6, 0.7], [0] * 11 + [1], np.mean(1 / np.arange(1, 13))),
        # Ties, over both orders: risks (0, 0, 1/3, 1/2) and (0, 1/2, 1/3, 1/2).
        ([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0], 1 - (0.25 + 1 / 3 + 0.5) / 4),
    ],
)
def test_mean_selective_accuracy_of_verified_calibration(
    p: list[float], y: list[int], expected: float
) -> None:
    assert 1 - aurc(p, y) == pytest.approx(expected)


def test_risk_coverage_curve_by_hand() -> None:
    curve = risk_coverage_curve([0.9, 0.5, 0.9, 0.7], [1, 1, 0, 0])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.7, 0.5])
    np.testing.assert_allclose(curve.coverage, [0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [1 / 2, 2 / 3, 1 / 2])


PV = [0.8, 0.3, 0.5, 0.5, 0.7, 0.1], [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("method", "rows", "statistic", "p_value"),
    [
        # MAPIE's examples
        ("kolmogorov-smirnov", PV, None, 0.7857),
        ("kuiper", PV, None, 0.9684),
        ("spiegelhalter", PV, None, 2 * (1 - 0.8486)),
        ("spiegelhalter", ([0.1, 0.9, 0.21, 0.9, 0.5], [0, 1, 0, 1, 0]), -0.757, None),
        ("kolmogorov-smirnov", ([0.7, 0.3, 0.6], [1, 0, 0]), 0.9 / 0.66**0.5, None),
        ("kolmogorov-smirnov", ([0.5], [1]), 1, 1 - 0.3708),
        # Kuiper's range counts the start: walks 0 → 5, 0 → −.9, 0 → .75 → .25.
        ("kuiper", ([0.5] * 10, [1] * 10), 10**0.5, 0.0063),
        ("kuiper", ([0.9], [0]), 3, 0.0108),
        ("kuiper", ([0.25, 0.5], [1, 0]), 0.75 / (7 / 16) ** 0.5, 0.8486),
        # 100 of 400 wrong at .9: (.25 − .1) · 400 / √(400 · .09)
        ("spiegelhalter", ([0.9] * 400, [1] * 300 + [0] * 100), 10, 0),
    ],
)
def test_published_tests(
    method: Any, rows: Any, statistic: float | None, p_value: float | None
) -> None:
    found = calibration_test(*rows, method=method)
    if statistic is not None:
        assert found.statistic == pytest.approx(statistic, abs=5e-4)
    if p_value is not None:
        assert found.p_value == pytest.approx(p_value, abs=2e-4)


def test_fixture_scores() -> None:
    assert brier_score(P, Y) == pytest.approx(0.221065, abs=1e-9)
    assert log_loss(P, Y) == pytest.approx(0.6547611548, abs=1e-9)
    assert auroc(P, Y) == pytest.approx(0.6703296703, abs=1e-9)
    for bins, debiased in ((2, -0.0118252778), (4, -0.036441), (5, -0.0548245833)):
        binning = Binning(bins, "quantile")
        found = debiased_calibration_error(P, Y, binning=binning)
        assert found == pytest.approx(debiased, abs=1e-9)
        assert debiased_calibration_error(P, Y, binning=binning, norm="l2") == 0
    parts = BrierDecomposition.of(P, Y, binning=Binning(10))
    expected = [0.0124741667, 0.0166666667, 0.2275, 0.0007575, 0.003, 0.221065]
    assert [*vars(parts).values()] == pytest.approx(expected, abs=1e-9)


def test_scores_of_ties_and_of_classes_agree_with_scikit_learn() -> None:
    from sklearn import metrics as sklearn

    p, y = forecasts(300, seed=8)
    p = p.round(2).clip(0.01, 0.99)
    q, truth = class_forecasts(300, 4, seed=9)
    assert auroc(p, y) == pytest.approx(sklearn.roc_auc_score(y, p), abs=1e-9)
    assert log_loss(q, truth) == pytest.approx(sklearn.log_loss(truth, q), abs=1e-9)
    expected = sklearn.brier_score_loss(truth, q, scale_by_half=False)
    assert brier_score(q, truth) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("norm", ["l1", "signed"])
def test_errors_of_classes_are_those_of_their_columns(norm: Any) -> None:
    q, truth = class_forecasts(400, 4, seed=6)
    rule: dict[str, Any] = {"binning": Binning(closed="right"), "norm": norm}
    top, says = q.max(axis=1), q.argmax(axis=1)
    each = [expected_calibration_error(q[:, k], truth == k, **rule) for k in range(4)]
    found = classwise_calibration_error(q, truth, **rule)
    assert found == pytest.approx(np.mean(each))
    each = [
        expected_calibration_error(top[says == k], truth[says == k] == k, **rule)
        for k in range(4)
    ]
    found = top_label_calibration_error(q, truth, **rule)
    assert found == pytest.approx(np.average(each, weights=np.bincount(says)))


@pytest.mark.parametrize(
    ("right", "n", "level", "low", "high"),
    [(5, 5, 0.95, 0.566, 1), (7, 10, 0.95, 0.397, 0.892), (7, 10, 0.9, 0.4417, 0.8731)],
)
def test_wilson_interval_of_a_bin(
    right: int, n: int, level: float, low: float, high: float
) -> None:
    rows = [0.8] * n, [1] * right + [0] * (n - right)
    row = curve_of(*rows, Binning(1), level=level).iloc[0]
    ends = [row["accuracy_low"], row["accuracy_high"]]
    assert ends == pytest.approx([low, high], abs=6e-4)
    report = calibration_metrics(*rows, level=level, n_resamples=1)
    assert report.accuracy == pytest.approx((right / n, *ends))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("n_bins", [10, 20, 100])
def test_shares_fall_where_fractions_say(n_bins: int, closed: Any, dtype: type) -> None:
    shares = sorted({Fraction(k, n) for n in range(1, 101) for k in range(n + 1)})
    places = [share * n_bins for share in shares]
    if closed == "left":
        expected = [min(math.floor(place), n_bins - 1) for place in places]
    else:
        expected = [max(math.ceil(place) - 1, 0) for place in places]
    p = np.array([k.numerator / k.denominator for k in shares]).astype(dtype)
    for stored in (p, p.astype(float)):
        bins = Bins.of(stored, Binning(n_bins, closed=closed))
        assert bins.index(stored).tolist() == expected


@pytest.mark.parametrize(
    ("p", "closed", "place"),
    [
        (0.7 - 3e-7, "left", 6),
        (0.7 - 1e-12, "left", 7),
        (0.7 + 1e-12, "right", 6),
        (0.7 + 3e-7, "right", 7),
    ],
)
def test_a_value_just_off_an_edge_is_not_on_it(
    p: float, closed: Any, place: int
) -> None:
    assert curve_of([p], [1], Binning(10, closed=closed))["n"].idxmax() == place


@pytest.mark.parametrize("closed", ["left", "right"])
def test_all_functions_use_the_same_edges(closed: Any) -> None:
    p, y = np.arange(1, 20) / 20, np.arange(19) % 3 > 0
    rule: dict[str, Any] = {"binning": Binning(10, closed=closed)}
    places = (np.arange(1, 20) - (closed == "right")) // 2
    expected = np.abs(np.bincount(places, p - y)).sum() / 19
    for rows in (p, p.astype(np.float32)):
        ece = expected_calibration_error(rows, y, **rule)
        assert ece == pytest.approx(expected, abs=1e-6)
        found = bootstrap_interval(rows, y, n_resamples=20, **rule)
        assert found.value == pytest.approx(ece, abs=1e-6)
        l2 = expected_calibration_error(rows, y, norm="l2", **rule)
        parts = BrierDecomposition.of(rows, y, **rule)
        assert parts.reliability == pytest.approx(l2**2, abs=1e-6)
        floors = [noise_floor(x, n_simulations=20, **rule) for x in (rows, p)]
        np.testing.assert_allclose(*floors, atol=1e-6)
        need: dict[str, Any] = {"target": 0.2, "n_simulations": 50, **rule}
        assert labels_needed(rows, **need).n == labels_needed(p, **need).n


@pytest.mark.parametrize(
    ("p", "binning", "counts"),
    [
        ([0.3] * 3 + [1.0] * 9, Binning(6, "quantile"), [3, 9]),
        ([0.0] * 9 + [0.7] * 3, Binning(6, "quantile", "right"), [9, 3]),
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.9], Binning(3, "quantile"), [1, 5]),
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.9], Binning(3, "quantile", "right"), [5, 1]),
        ([0.0, 1.0, 0.0, 1.0], Binning(4), [2, 2]),
        ([0.0, 1.0, 0.0, 1.0], Binning(4, closed="right"), [2, 2]),
    ],
)
def test_equal_values_stay_together(
    p: list[float], binning: Binning, counts: list[int]
) -> None:
    found = curve_of(p, [1] * len(p), binning)["n"]
    assert list(found[found > 0]) == counts


def test_rows_beyond_one_block_are_summed() -> None:
    p, y = forecasts(150_001, seed=13)
    edges = np.linspace(0, 1, 11)
    stated, right = (np.histogram(p, edges, weights=w)[0] for w in (p, y))
    found = expected_calibration_error(p, y, binning=Binning(10))
    assert found == pytest.approx(np.abs(stated - right).sum() / 150_001)
    for at, bad in ((150_000, p), (140_001, y.astype(float))):
        bad[at] = 3
        with pytest.raises(ValueError, match=f"row {at} is 3.0"):
            expected_calibration_error(p, bad if bad is not p else y)
        bad[at] = 0


ROWS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda k: k / 20)),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)
BINNINGS = st.builds(
    Binning,
    st.integers(1, 25),
    st.sampled_from(["uniform", "quantile", "distinct"]),
    st.sampled_from(["left", "right"]),
)


@given(ROWS, BINNINGS, st.randoms(use_true_random=False))
def test_laws_of_errors_and_scores(
    rows: list[tuple[float, bool]], binning: Binning, random: Any
) -> None:
    p, y = (np.array(column) for column in zip(*rows, strict=True))
    rule: dict[str, Any] = {
        "binning": Binning(min(binning.n, len(p)), binning.strategy, binning.closed)
    }
    l1, l2, top, signed = (
        expected_calibration_error(p, y, norm=norm, **rule)  # type: ignore[arg-type]
        for norm in ("l1", "l2", "max", "signed")
    )
    assert signed == pytest.approx(p.mean() - y.mean(), abs=1e-9)
    assert abs(signed) - 1e-9 <= l1 <= l2 + 1e-9 <= top + 2e-9 <= 1 + 1e-8
    assert expected_calibration_error(p, y, **rule, norm="max") == top
    d = BrierDecomposition.of(p, y, **rule)
    total = d.reliability - d.resolution + d.uncertainty
    total += d.within_variance - d.within_covariance
    assert total == pytest.approx(brier_score(p, y), abs=1e-9)
    assert d.brier == pytest.approx(brier_score(p, y), abs=1e-12)

    def measured(p: np.ndarray, y: np.ndarray) -> list[float]:
        found = [
            expected_calibration_error(p, y, **rule),
            debiased_calibration_error(p, y, **rule),
            debiased_calibration_error(p, y, norm="l1", **rule),
            aurc(p, y),
        ]
        if 0 < y.sum() < len(y):
            found.append(auroc(p, y))
        if np.any((np.abs(p - 0.5) > 1e-3) & (p * (1 - p) > 1e-9)):
            tests = [calibration_test(p, y, method=m) for m in METHODS]  # type: ignore[arg-type]
            assert tests[1].statistic >= tests[0].statistic - 1e-12  # range, distance
            found += [test.p_value for test in tests]
        return found

    order = list(range(len(p)))
    random.shuffle(order)
    one, other = measured(p, y), measured(p[order], y[order])
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_forecasters_by_hand() -> None:
    base = [0.3] * 10, [1] * 3 + [0] * 7
    parts = BrierDecomposition.of(*base)
    assert (parts.reliability, parts.resolution) == pytest.approx((0, 0), abs=1e-12)
    assert parts.brier == pytest.approx(parts.uncertainty) and auroc(*base) == 0.5
    assert log_loss([1.0, 0.5], [0, 1]) == np.inf == log_loss([[1.0, 0.0]], [1])
    for right, share in ((0, 0.01), (1, 0.99)):
        found = log_loss([1.0], [right], clip=0.01)
        assert found == pytest.approx(-math.log(share))
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
    rows = [0.9] * 10, [1] * 5 + [0] * 5
    found = debiased_calibration_error(*rows, binning=Binning(1), norm=norm)
    assert found == pytest.approx(expected)
    # A bin of one row counts as zero.
    rows = [0.2] + [0.9] * 4, [1, 1, 1, 0, 0]
    found = debiased_calibration_error(*rows, binning=DISTINCT)
    assert found == pytest.approx(4 / 5 * (0.16 - 0.25 / 3))


def test_top_label_error_does_not_let_classes_make_up_for_each_other() -> None:
    # Both classes stated at .8; one right always, the other 6 times of 10.
    p = [[0.8, 0.2]] * 10 + [[0.2, 0.8]] * 10
    truth = [0] * 10 + [1] * 6 + [0] * 4
    assert expected_calibration_error(*top_label(p, truth)) == pytest.approx(0)
    assert top_label_calibration_error(p, truth) == pytest.approx(0.2)
    # Classes that are never predicted count for classwise errors only.
    table = pd.DataFrame({"p_a": [0.7, 0.6], "p_b": [0.2, 0.3], "p_c": [0.1, 0.1]})
    assert top_label_calibration_error(table, ["a", "b"]) == pytest.approx(0.45)
    classwise = classwise_calibration_error(table, ["a", "b"])
    assert classwise == pytest.approx((0.45 + 0.45 + 0.1) / 3)
    confidence, correct = top_label([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    assert list(correct) == [True, False]  # the first class wins a tie


@pytest.mark.parametrize(
    ("function", "rows", "change", "says"),
    [
        (expected_calibration_error, (P, Y), {"norm": "l3"}, "norm must be one of 'l1"),
        (debiased_calibration_error, (P, Y), {"norm": "max"}, "norm must be one of"),
        (log_loss, (P, Y), {"clip": 0.5}, "clip must lie between 0 and 0.5, not 0.5"),
        (calibration_test, (P, Y), {"method": "hosmer"}, "method must be one of 'kolm"),
        (calibration_metrics, (P, Y), {"level": 95}, "level must lie between 0 and 1"),
        (calibration_metrics, (P, Y), {"evaluation": "x"}, "evaluation must be one of"),
        (calibration_metrics, (P, Y), {"n_resamples": 0}, "n_resamples must be a whol"),
        (auroc, ([0.5, 1.5], [0, 1]), {}, r"confidence must .* \[0, 1\]; row 1 is 1.5"),
        (auroc, ([0.5, 0.6], [0, 2]), {}, "correct must be 0 or 1; row 1 is 2"),
        (auroc, (P, [1] * 20), {}, "correct must hold both outcomes .* all are True"),
        (calibration_test, ([0, 1], [0, 1]), {}, "confidence must lie inside"),
        (
            calibration_test,
            ([0.5], [0]),
            {"method": METHODS[2]},
            ".* off 0.5",
        ),
        (Binning, (0,), {}, "n must be a whole number of 1 or more, not 0"),
        (Binning, (2.5,), {}, "n must be a whole number of 1 or more, not 2.5"),
        (Binning, (True,), {}, "n must be a whole number of 1 or more, not True"),
        (Binning, (), {"strategy": "equal"}, "strategy must be one of 'uniform', .*eq"),
        (Binning, (), {"closed": "both"}, "closed must be one of 'left', 'right', no"),
    ],
)
def test_bad_settings(function: Any, rows: Any, change: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{says}"):
        function(*rows, **change)


OF_OUTCOMES = {
    name: found
    for name in metrics.__all__
    if inspect.isfunction(found := getattr(metrics, name))
    and [*inspect.signature(found).parameters][:2] == ["confidence", "correct"]
} | {"brier_score": brier_score, "log_loss": log_loss}


@pytest.mark.parametrize("name", OF_OUTCOMES)
def test_texts_without_an_answer_are_left_out(name: str) -> None:
    measure, parameters = OF_OUTCOMES[name], str(inspect.signature(OF_OUTCOMES[name]))
    rng = np.random.default_rng(0)
    stated, right = rng.uniform(0.3, 1, 40), rng.random(40) < 0.6
    groups = np.arange(40) // 2
    lost = np.isin(np.arange(40), [3, 10, 11])  # the last two are a whole group
    gaps = pd.Series(right, dtype="boolean").mask(lost)

    def given(rows: np.ndarray) -> dict[str, Any]:
        return {"groups": groups[rows]} if "groups" in parameters else {}

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


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return forecasts(1500, seed=17, low=0.4)


def test_report_values_are_those_of_the_functions(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    rule: dict[str, Any] = {"binning": Binning(12, "quantile", "right")}
    draws: dict[str, Any] = {"n_resamples": 200, "level": 0.9}
    report = calibration_metrics(*rows, **draws, **rule)
    rng = np.random.default_rng(0)
    names = ["gap", "squared", "brier", "auroc"]
    found = bootstrap_interval(*rows, names, rng=rng, **draws, **rule)
    floor = noise_floor(rows[0], n_simulations=200, rng=rng, **rule)
    expected = {
        "rows": 1500,
        "accuracy": rows[1].mean(),
        "mean confidence": rows[0].mean(),
        "confidence − accuracy": found["gap"],
        "ECE": expected_calibration_error(*rows, **rule),
        "noise floor, mean": floor.mean,
        "noise floor, 95 %": floor.upper,
        "debiased squared error": found["squared"],
        "debiased L1 error": debiased_calibration_error(*rows, norm="l1", **rule),
        "MCE": expected_calibration_error(*rows, **rule, norm="max"),
        "Brier score": found["brier"],
        "log loss": log_loss(*rows),
        "AUROC": found["auroc"],
        "AURC": aurc(*rows),
        "Spiegelhalter's p": calibration_test(*rows, method="spiegelhalter").p_value,
        "Kolmogorov–Smirnov p": calibration_test(*rows).p_value,
    }
    assert list(report.table.index) == list(expected)
    for name, value in expected.items():
        row = tuple(report.table.loc[name, ["value", "low", "high"]])
        if isinstance(value, tuple):
            assert row == pytest.approx(value)
        else:
            assert row[0] == pytest.approx(value, abs=1e-9), name
    assert report.decomposition == BrierDecomposition.of(*rows, **rule)
    assert report.rule == "12 bins of equal mass, (a, b]" and report.rule in str(report)
    curve = report.curve
    assert len(curve) == 12 and curve["n"].sum() == 1500
    gaps = (curve["accuracy"] - curve["confidence"]).abs()
    assert (curve["n"] / 1500 * gaps).sum() == pytest.approx(report.ece)
    assert report.debiased == expected["debiased L1 error"]
    bare = report.table["low"].isna()
    assert (bare == (report.table["no_interval"] != "")).drop("rows").all()
    for shown in (str(report), report._repr_html_()):
        assert shown.count("none: ") == bare.sum() - 1
        assert re.search(r"ECE\W.*none: biased upwards", shown, re.S)


@pytest.fixture(scope="module")
def plain_table(rows: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    return calibration_metrics(*rows, n_resamples=5).table


@pytest.mark.parametrize(
    ("n_marked", "stated", "evaluation", "words"),
    [
        (None, None, "unstated", "as given; not stated whether"),
        (None, "held-out", "held-out", "held out: none of these rows"),
        (None, "in-sample", "in-sample", "IN-SAMPLE: 1,500 of these rows were"),
        (0, None, "held-out", "held out: none of these rows"),
        (0, "in-sample", "in-sample", "IN-SAMPLE: 1,500 of these rows were"),
        (1234, None, "in-sample", "IN-SAMPLE: 1,234 of these rows were fitted on"),
    ],
)
def test_report_says_whether_rows_were_fitted_on(
    rows: tuple[np.ndarray, np.ndarray],
    plain_table: pd.DataFrame,
    n_marked: int | None,
    stated: Any,
    evaluation: str,
    words: str,
) -> None:
    p, y = rows
    marked: Any = p
    if n_marked is not None:
        marked = Calibrated(p, np.arange(1500) < n_marked, known=True)
    report = calibration_metrics(marked, y, evaluation=stated, n_resamples=5)
    seen = evaluation == "in-sample"
    assert report.evaluation == evaluation
    assert ("nothing can be concluded" in report.verdict) == seen
    for shown in (str(report), report._repr_html_()):
        assert words in shown and report.verdict in shown
        assert ("IN-SAMPLE" in shown) == seen
        assert ("held out" in shown) == (evaluation == "held-out")
    assert ("#b00020" in report._repr_html_()) == seen
    pd.testing.assert_frame_equal(report.table.iloc[:, :3], plain_table.iloc[:, :3])
    if n_marked:
        with pytest.raises(ValueError, match="not be 'held-out'; 1234 rows were fit"):
            calibration_metrics(marked, y, evaluation="held-out")


def test_verdict_names_the_direction_and_follows_the_noise_floor() -> None:
    rng = np.random.default_rng(0)
    for off, way in ((0.2, "over"), (-0.2, "under")):
        p = rng.uniform(0.3, 0.7, 1000)
        report = calibration_metrics(p, rng.random(1000) < p - off, n_resamples=50)
        assert report.verdict.endswith(f"explains; on the whole {way}confident")
    p, said = P.repeat(9), []
    for off in np.linspace(0, 0.15, 9):
        report = calibration_metrics(p, rng.random(180) < p - off)
        said.append("cannot be told" in report.verdict)
        assert ("cannot be told" in report.verdict) == (
            report.ece <= report.floor.upper
        )
    assert {*said} == {True, False}


def test_html_is_a_table_of_the_same_values() -> None:
    report = calibration_metrics([0.9] * 200, [0, 1] * 100, level=0.995, n_resamples=20)
    html, text = report._repr_html_(), str(report)
    assert 0 < calibration_test(report.confidence, report.correct).p_value < 1e-4
    soup = BeautifulSoup(html, "html.parser")
    body = soup.select("tbody tr")
    assert "99.5% interval" in soup.text and "<td>&lt;0.0001</td>" in html
    cells = [[cell.text for cell in row.find_all(["th", "td"])] for row in body]
    assert [row[0] for row in cells] == list(report.table.index)
    for row in cells:
        assert len(row) == 4
        assert re.search(r"\s+".join(map(re.escape, filter(None, row))), text)


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([0.0] * 4, [0, 1, 0, 0]),
        ([0.5] * 4, [0, 1, 0, 0]),
        ([0.0, 1.0, 0.0, 1.0], [0, 1, 0, 0]),
        ([0.7, 0.9, 0.8], [1, 1, 1]),
    ],
)
def test_reports_of_degenerate_rows(p: list[float], y: list[int]) -> None:
    report = calibration_metrics(p, y, n_resamples=50)
    assert report.ece == expected_calibration_error(p, y)
    shown = str(report) + report._repr_html_()
    assert "nan" not in shown and "–" in shown  # some measure is not defined
    empty = report.curve["n"] == 0
    assert report.curve.loc[empty, "confidence":].isna().all(axis=None)
    assert report.curve.loc[~empty].notna().all(axis=None) and len(empty) == 20
    assert ("  inf  " in shown) == (0 in p)
