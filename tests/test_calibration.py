"""Rules of helpers.calibration: calibrators that remember what they were fitted on."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from helpers.calibration import (
    BaseCalibrator,
    BetaCalibrator,
    Calibrated,
    CalibrationWarning,
    Calibrator,
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    TopLabelCalibrator,
    PlattScalingCalibrator,
    TemperatureScalingCalibrator,
    TopVersusAll,
    VectorScaling,
    VennAbersCalibrator,
    cross_fitted,
    from_dict,
    load_calibrator,
)
from helpers.calibration.marks import row_ids, score_hashes
from helpers.datasets import load_review_scores

# The cross-library fixture of 20 rows: its values were made with scikit-learn 1.9.1,
# venn-abers 1.5.4 and R's rules, independently of this package.
P = np.array(
    [0.51, 0.53, 0.55, 0.58, 0.61, 0.62, 0.66, 0.68, 0.71, 0.74]
    + [0.77, 0.80, 0.83, 0.85, 0.88, 0.91, 0.93, 0.95, 0.97, 0.99]
)
Y = np.array([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1])

BINARY: dict[str, Calibrator] = {
    "temperature": TemperatureScalingCalibrator(),
    "platt": PlattScalingCalibrator(),
    "platt on p": PlattScalingCalibrator(scale="probability"),
    "beta": BetaCalibrator(),
    "isotonic": IsotonicRegressionCalibrator(),
    "isotonic steps": IsotonicRegressionCalibrator(rule="step"),
    "histogram": HistogramBinningCalibrator(n_bins=5),
    "histogram uniform": HistogramBinningCalibrator(n_bins=7, strategy="uniform"),
    "venn-abers": VennAbersCalibrator(),
}
ROWS: dict[str, Any] = {
    "temperature": MulticlassTemperatureScaling(),
    "temperature top": MulticlassTemperatureScaling(objective="top-versus-all"),
    "vector": VectorScaling(penalty=0.01),
    "vector top": VectorScaling(objective="top-versus-all", penalty=0.01),
    "top-versus-all": TopVersusAll(IsotonicRegressionCalibrator()),
    "per class": TopLabelCalibrator(PlattScalingCalibrator()),
}

any_binary = pytest.mark.parametrize("made", BINARY.values(), ids=BINARY.keys())
any_rows = pytest.mark.parametrize("made", ROWS.values(), ids=ROWS.keys())
any_calibrator = pytest.mark.parametrize(
    "made",
    [*BINARY.values(), *ROWS.values()],
    ids=[*BINARY, *(f"rows: {name}" for name in ROWS)],
)


def scored(n: int = 200, seed: int = 0, digits: int = 15) -> tuple[Any, Any]:
    """Overconfident scores, all different unless rounded, and their outcomes."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(2, 1, n), digits)
    correct = rng.random(n) < expit(0.6 * logit(np.clip(scores, 0.01, 0.99)) - 0.2)
    return scores, correct


def rowed(n: int = 200, seed: int = 0, k: int = 3) -> tuple[Any, Any]:
    """Overconfident rows of label probabilities, and the true classes."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, k))
    chances = softmax(z / 1.8 + np.linspace(-0.4, 0.4, k), axis=1)
    truth = np.array([rng.choice(k, p=row) for row in chances])
    return softmax(z, axis=1), truth


def data_for(made: BaseCalibrator, n: int = 200, seed: int = 0) -> tuple[Any, Any]:
    return scored(n, seed) if isinstance(made, Calibrator) else rowed(n, seed)


def calibration_error(confidence: Any, correct: Any) -> float:
    """ECE with a bin for each value: what it is for calibrators made of steps."""
    table = pd.DataFrame({"p": np.asarray(confidence), "y": np.asarray(correct)})
    blocks = table.groupby("p")["y"].agg(["mean", "size"])
    gap = np.abs(blocks["mean"] - blocks.index)
    return float((gap * blocks["size"]).sum() / len(table))


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are what it is given."""

    classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> Given:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        return np.argmax(X, axis=1)

    def predict_proba(self, X: Any) -> Any:
        return np.asarray(X)


def in_sklearn(rows: Any, truth: Any, method: str) -> CalibratedClassifierCV:
    given = Given()
    given.classes_ = np.arange(rows.shape[1])
    return CalibratedClassifierCV(FrozenEstimator(given), method=method).fit(
        rows, truth
    )


# Values ------------------------------------------------------------------------------


def test_temperature_of_the_fixture() -> None:
    """Fixture: T = 1.96783816, log loss .6079430467."""
    found = TemperatureScalingCalibrator().fit(P, Y)
    assert found.temperature_ == pytest.approx(1.96783816, abs=1e-7)
    assert not found.at_bound_
    q = found.predict(P)
    loss = -np.mean(np.where(Y, np.log(q), np.log(1 - q)))
    assert loss == pytest.approx(0.6079430467, abs=1e-10)


def test_platt_of_the_fixture() -> None:
    """Fixture: on p A = −3.2215057, B = 1.7931644; on the logit −.4382979, −.0141869;
    q = 1 / (1 + exp(A s + B)), as in Platt's paper and scikit-learn.
    """
    on_p = PlattScalingCalibrator(scale="probability").fit(P, Y)
    assert on_p.slope_ == pytest.approx(3.2215057, abs=5e-6)
    assert on_p.intercept_ == pytest.approx(-1.7931644, abs=5e-6)
    on_logit = PlattScalingCalibrator().fit(P, Y)
    assert on_logit.slope_ == pytest.approx(0.4382979, abs=1e-7)
    assert on_logit.intercept_ == pytest.approx(0.0141869, abs=1e-7)


def test_isotonic_of_the_fixture() -> None:
    """Fixture: 1/3 ×3, .5 ×4, 2/3 ×6, .8 ×5, 1 ×2; and between the blocks."""
    linear = IsotonicRegressionCalibrator().fit(P, Y)
    step = IsotonicRegressionCalibrator(rule="step").fit(P, Y)
    fit = np.repeat([1 / 3, 1 / 2, 2 / 3, 0.8, 1], [3, 4, 6, 5, 2])
    np.testing.assert_allclose(linear.predict(P), fit, atol=1e-12)
    np.testing.assert_array_equal(step.predict(P), linear.predict(P))
    between = [0.60, 0.70, 0.84, 0.94]
    np.testing.assert_allclose(
        linear.predict(between), [0.5, 2 / 3, 0.73333333, 0.8], atol=1e-8
    )
    np.testing.assert_allclose(step.predict(between), [0.5, 2 / 3, 0.8, 0.8])


def test_isotonic_rules_between_blocks() -> None:
    """R's as.stepfun(isoreg(x, y)) and scikit-learn, on the same seven rows: at .55
    R .5, scikit-learn .25; at .92 R 1, scikit-learn .70.
    """
    x, y = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], [0, 1, 0, 1, 0, 1, 1]
    step = IsotonicRegressionCalibrator(rule="step").fit(x, y)
    linear = IsotonicRegressionCalibrator().fit(x, y)
    asked = [0.1, 0.5, 0.5001, 0.55, 0.9, 0.9001, 0.92, 0.99, 1.0]
    np.testing.assert_allclose(
        step.predict(asked), [0, 0, 0.5, 0.5, 0.5, 1, 1, 1, 1], atol=1e-12
    )
    np.testing.assert_allclose(linear.predict([0.55, 0.92]), [0.25, 0.70], atol=1e-12)


@pytest.mark.parametrize("rule", ["linear", "step"])
def test_isotonic_pools_ties(rule: str) -> None:
    """x = (.2, .5, .5, .9), y = (0, 1, 0, 1) → (0, .5, .5, 1)."""
    x, y = [0.2, 0.5, 0.5, 0.9], [0, 1, 0, 1]
    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        found = IsotonicRegressionCalibrator(rule=rule)
        found.fit(np.take(x, order), np.take(y, order))
        assert found.predict(x).tolist() == [0, 0.5, 0.5, 1]


def test_venn_abers_of_the_fixture() -> None:
    """Fixture, made with venn-abers 1.5.4."""
    found = VennAbersCalibrator().fit(P, Y)
    interval = [[1 / 3, 0.6], [0.571429, 0.75], [2 / 3, 0.833333]]
    np.testing.assert_allclose(
        found.predict_interval([0.6, 0.8, 0.94]), interval, atol=1e-6
    )
    np.testing.assert_allclose(
        found.predict([0.6, 0.8, 0.94]), [0.473684, 0.636364, 0.714286], atol=1e-6
    )


def test_histogram_by_hand() -> None:
    scores = [0.1, 0.2, 0.3, 0.6, 0.7, 0.95]
    correct = [0, 1, 1, 0, 1, 1]
    quantile = HistogramBinningCalibrator(n_bins=3).fit(scores, correct)
    np.testing.assert_allclose(quantile.edges_, [0.25, 0.65])
    # A score on an edge is in the upper bin.
    asked = [0.0, 0.25, 0.64, 0.65, 1.0]
    assert quantile.predict(asked).tolist() == [0.5, 0.5, 0.5, 1.0, 1.0]
    uniform = HistogramBinningCalibrator(n_bins=5, strategy="uniform")
    uniform.fit(scores, correct)
    # [0, .2) has .1; [.2, .4) has .2, .3; [.4, .6) none; [.6, .8) .6, .7; [.8, 1] .95.
    asked = [0.0, 0.2, 0.45, 0.6, 1.0]
    assert uniform.predict(asked).tolist() == [0.0, 1.0, 0.45, 0.5, 1.0]


def test_uniform_edges_are_the_decimals_one_types() -> None:
    found = HistogramBinningCalibrator(n_bins=10, strategy="uniform")
    found.fit(np.arange(11) / 10, [0, 1] * 5 + [1])
    np.testing.assert_array_equal(found.counts_, [1] * 9 + [2])
    assert found.predict([0.3]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("scores", "edges"),
    [
        ([0.1, 0.1, 0.5, 0.5, 0.5, 0.5], [0.3]),
        ([0.5, 0.5, 0.5, 0.5, 0.9, 0.9], [0.7]),
        ([0.1, 0.5, 0.5, 0.5, 0.5, 0.9], [0.5]),
    ],
)
def test_quantile_bins_keep_ties_together(scores: Any, edges: Any) -> None:
    found = HistogramBinningCalibrator(n_bins=3).fit(scores, [0, 1, 0, 1, 1, 0])
    assert found.counts_.min() > 0
    np.testing.assert_allclose(found.edges_, edges)
    values = found.predict(scores)
    for score in set(scores):
        assert len(set(values[np.array(scores) == score].tolist())) == 1


# Other implementations ---------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 2, 15])
@pytest.mark.parametrize("seed", range(3))
def test_isotonic_is_that_of_sklearn(seed: int, digits: int) -> None:
    scores, correct = scored(150, seed, digits)
    other = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    other.fit(scores, correct)
    asked = np.concatenate([np.linspace(0, 1, 101), scores])
    found = IsotonicRegressionCalibrator().fit(scores, correct)
    np.testing.assert_allclose(found.predict(asked), other.predict(asked), atol=1e-14)


@pytest.mark.parametrize("k", [2, 4])
def test_temperature_is_that_of_sklearn(k: int) -> None:
    rows, truth = rowed(300, 1, k)
    other = in_sklearn(rows, truth, "temperature").predict_proba(rows)
    found = MulticlassTemperatureScaling().fit(rows, truth).predict(rows)
    np.testing.assert_allclose(found, other, atol=1e-7)


def test_platt_is_that_of_sklearn() -> None:
    rows, truth = rowed(300, 2, 2)
    other = in_sklearn(rows, truth, "sigmoid").predict_proba(rows)[:, 1]
    found = PlattScalingCalibrator(scale="probability").fit(rows[:, 1], truth)
    np.testing.assert_allclose(found.predict(rows[:, 1]), other, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_temperature_and_beta_are_those_of_netcal(seed: int) -> None:
    """Both minimise the same loss there. Its optimiser has no gradient: 1e-4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from netcal.scaling import BetaCalibration, TemperatureScaling

        scores, correct = scored(500, seed)
        for ours, theirs in (
            (TemperatureScalingCalibrator(), TemperatureScaling()),
            (BetaCalibrator(), BetaCalibration()),
        ):
            expected = theirs.fit(scores, correct.astype(int)).transform(scores)
            found = ours.fit(scores, correct).predict(scores)
            np.testing.assert_allclose(found, np.ravel(expected), atol=1e-4)


def loss_of(weights: Any, features: Any, target: Any) -> float:
    z = features @ weights
    return float(np.mean(np.logaddexp(0, z) - target * z))


@pytest.mark.parametrize("seed", range(6))
def test_beta_and_platt_leave_nothing_to_gain(seed: int) -> None:
    """The slope of the loss is zero where it may be, and points out of a bound."""
    rng = np.random.default_rng(seed)
    scores, correct = rng.beta(0.3, 0.5, 300), rng.random(300) < 0.4
    scores = np.clip(scores, 1e-12, 1 - 1e-12)
    correct = correct ^ (scores > rng.random(300))
    beta = BetaCalibrator().fit(scores, correct)
    features = np.column_stack(
        [np.log(scores), -np.log1p(-scores), np.ones(len(scores))]
    )
    off = expit(features @ [beta.a_, beta.b_, beta.c_]) - correct
    slope = features.T @ off / len(off)
    free = [beta.a_ > 0, beta.b_ > 0, True]
    assert np.abs(slope[free]).max() < 1e-6
    assert (slope > -1e-6).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        platt = PlattScalingCalibrator().fit(scores, correct)
    right, wrong = correct.sum(), (~correct).sum()
    target = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    off = np.asarray(platt.predict(scores)) - target
    assert abs(off.mean()) < 1e-8
    assert abs((off * logit(scores)).mean()) < 1e-8


def venn_abers_by_force(scores: Any, correct: Any, asked: Any) -> np.ndarray:
    """Isotonic regression with the score added, once as wrong and once as right."""
    found = []
    for score in asked:
        pair = []
        for label in (0, 1):
            curve = IsotonicRegression()
            curve.fit(np.append(scores, score), np.append(correct, label))
            pair.append(curve.predict([score])[0])
        found.append(pair)
    return np.array(found)


@pytest.mark.parametrize("digits", [1, 2, 15])
@pytest.mark.parametrize("seed", range(3))
def test_venn_abers_is_what_its_definition_says(seed: int, digits: int) -> None:
    scores, correct = scored(60, seed, digits)
    asked = np.concatenate([[0, 1, scores.min(), scores.max()], scores[:10]])
    asked = np.concatenate([asked, np.random.default_rng(seed).random(20)])
    found = VennAbersCalibrator().fit(scores, correct)
    np.testing.assert_allclose(
        found.predict_interval(asked),
        venn_abers_by_force(scores, correct, asked),
        atol=1e-10,
    )
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from venn_abers import VennAbers

        other = VennAbers().fit(np.column_stack([1 - scores, scores]), correct)
        merged, pair = other.predict_proba(np.column_stack([1 - asked, asked]))
    np.testing.assert_array_equal(found.predict_interval(asked), pair)
    np.testing.assert_allclose(found.predict(asked), merged[:, 1], atol=1e-15)


def test_venn_abers_leaves_numpy_as_it_was() -> None:
    """In a fresh process: the package under it changes numpy when first imported."""
    code = """
import numpy as np
np.seterr(divide="raise", invalid="raise")
before = np.geterr()
from helpers.calibration import VennAbersCalibrator
VennAbersCalibrator().fit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1]).predict([0.5])
assert np.geterr() == before, np.geterr()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_beta_never_falls() -> None:
    """Without the bounds a would be −0.65 on the first data, b −4.0 on the second."""
    found = BetaCalibrator().fit([0.2, 0.3, 0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1, 0, 1])
    assert found.a_ == 0 and found.b_ > 0
    found.fit([0.1, 0.2, 0.4, 0.6, 0.8, 0.9], [1, 0, 1, 1, 0, 0])
    assert (found.a_, found.b_) == (0, 0)
    np.testing.assert_allclose(found.predict([0.1, 0.9]), [0.5, 0.5], atol=1e-7)


@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_vector_scaling_finds_what_a_plain_optimiser_finds(penalty: float) -> None:
    rows, truth = rowed(250, 3)
    logs = np.log(rows)

    def loss(parameters: Any) -> float:
        w, b = parameters[:3], parameters[3:]
        z = log_softmax(w * logs + b, axis=1)
        return float(
            -z[np.arange(len(z)), truth].mean()
            + penalty * (((w - 1) ** 2).sum() + (b**2).sum())
        )

    start = np.array([1.0, 1, 1, 0, 0, 0])
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).fun
    found = VectorScaling(penalty=penalty).fit(rows, truth)
    assert loss(np.append(found.weights_, found.biases_)) <= best + 1e-9
    assert found.biases_.sum() == pytest.approx(0, abs=1e-12)


def top_loss(rows: Any, original: Any, truth: Any) -> float:
    q, right = rows.max(axis=1), original.argmax(axis=1) == truth
    return float(-np.mean(np.log(np.where(right, q, 1 - q) + 1e-300)))


@pytest.mark.parametrize("seed", range(3))
def test_top_versus_all_objectives_find_the_least_loss(seed: int) -> None:
    rows, truth = rowed(150, seed)
    temperature = MulticlassTemperatureScaling(objective="top-versus-all")
    found = top_loss(temperature.fit(rows, truth).predict(rows), rows, truth)
    grid = [
        top_loss(softmax(np.log(rows) / t, axis=1), rows, truth)
        for t in np.exp(np.linspace(-3, 3, 601))
    ]
    assert found <= min(grid) + 1e-12
    vector = VectorScaling(objective="top-versus-all").fit(rows, truth)
    at = np.append(vector.weights_, vector.biases_)

    def loss(parameters: Any) -> float:
        z = parameters[:3] * np.log(rows) + parameters[3:]
        return top_loss(softmax(z, axis=1), rows, truth)

    assert loss(at) <= found + 1e-12
    nearby = np.random.default_rng(seed).normal(0, 1e-3, (200, 6))
    assert loss(at) <= min(loss(at + step) for step in nearby) + 1e-10


def test_two_objectives_differ() -> None:
    rows, truth = rowed(300, 4, 5)
    plain, top = MulticlassTemperatureScaling(), ROWS["temperature top"]
    assert plain.fit(rows, truth).temperature_ != pytest.approx(
        clone(top).fit(rows, truth).temperature_, rel=1e-3
    )


def test_two_classes_are_the_binary_case() -> None:
    rows, truth = rowed(200, 5, 2)
    both = MulticlassTemperatureScaling().fit(rows, truth)
    one = TemperatureScalingCalibrator().fit(rows[:, 1], truth == 1)
    assert both.temperature_ == pytest.approx(one.temperature_, rel=1e-9)
    np.testing.assert_allclose(
        both.predict(rows)[:, 1], one.predict(rows[:, 1]), atol=1e-9
    )


# What does not settle a calibrator ---------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "correct", "says"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], "lower bound"),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], "upper bound"),
    ],
)
def test_temperature_says_that_it_is_at_a_bound(
    scores: Any, correct: Any, says: str
) -> None:
    with pytest.warns(CalibrationWarning, match=says):
        found = TemperatureScalingCalibrator().fit(scores, correct)
    assert found.at_bound_
    rows = np.column_stack([np.subtract(1, scores), scores])
    with pytest.warns(CalibrationWarning, match=says):
        both = MulticlassTemperatureScaling().fit(rows, correct)
    assert both.at_bound_
    assert both.temperature_ == pytest.approx(found.temperature_)


def test_temperature_at_bounds_of_ones_own() -> None:
    narrow = TemperatureScalingCalibrator(bounds=(-0.1, 0.1))
    with pytest.warns(CalibrationWarning, match="upper bound"):
        narrow.fit(P, Y)
    assert narrow.temperature_ == pytest.approx(np.exp(0.1))
    narrow.set_params(bounds=(-3, -2))
    with pytest.warns(CalibrationWarning, match="lower bound"):
        narrow.fit(P, Y)
    assert narrow.temperature_ == pytest.approx(np.exp(2))


def test_scores_of_one_half_allow_any_temperature() -> None:
    with pytest.warns(CalibrationWarning, match="any temperature"):
        found = TemperatureScalingCalibrator().fit([0.5, 0.5, 0.5], [0, 1, 1])
    assert found.predict([0.3]).tolist() == [pytest.approx(0.3)]
    with pytest.warns(CalibrationWarning, match="any temperature"):
        MulticlassTemperatureScaling().fit(np.full((3, 3), 1 / 3), [0, 1, 1])


def test_platt_says_that_its_slope_is_not_positive() -> None:
    with pytest.warns(CalibrationWarning, match="not more often right"):
        found = PlattScalingCalibrator().fit([0.1, 0.4, 0.6, 0.9], [1, 1, 0, 0])
    assert found.slope_ < 0


def test_platt_is_finite_where_scores_separate() -> None:
    found = PlattScalingCalibrator().fit([0.0, 0.2, 0.8, 1.0], [0, 0, 1, 1])
    assert 0 < found.slope_ < 10


def test_beta_says_that_scores_separate() -> None:
    with pytest.warns(CalibrationWarning, match="separate right from wrong"):
        found = BetaCalibrator().fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    np.testing.assert_allclose(found.predict([0.1, 0.9]), [0, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("made", "value"),
    [
        # Platt's targets are (1.5 + ...): 3 rows right of 4, (4/5 * 3 + 1/3) / 4.
        (PlattScalingCalibrator(), (3 * 4 / 5 + 1 / 3) / 4),
        (PlattScalingCalibrator(scale="probability"), (3 * 4 / 5 + 1 / 3) / 4),
        (BetaCalibrator(), 0.75),
    ],
)
def test_score_that_does_not_vary(made: Calibrator, value: float) -> None:
    with pytest.warns(CalibrationWarning, match="does not vary"):
        found = clone(made).fit([0.8] * 4, [1, 1, 0, 1])
    np.testing.assert_allclose(found.predict([0.1, 0.8]), [value, value])


@any_binary
def test_equal_scores_get_one_sensible_value(made: Calibrator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = clone(made).fit([0.8] * 20, [1] * 15 + [0] * 5).predict([0.8])
    assert found[0] == pytest.approx(0.75, abs=0.05)


def test_vector_scaling_says_that_nothing_finite_fits() -> None:
    rows, truth = rowed(100, 6)
    with pytest.warns(CalibrationWarning, match="class 2 is never true"):
        VectorScaling().fit(rows, np.minimum(truth, 1))
    with pytest.warns(CalibrationWarning, match="separate"):
        VectorScaling().fit(rows, rows.argmax(axis=1))
    VectorScaling(penalty=0.01).fit(rows, rows.argmax(axis=1))


# Properties --------------------------------------------------------------------------

samples = st.integers(0, 10_000).flatmap(
    lambda seed: st.builds(
        scored, st.integers(20, 80), st.just(seed), st.sampled_from([1, 2, 15])
    )
)


@settings(max_examples=40, deadline=None)
@given(sample=samples, rule=st.sampled_from(["linear", "step"]))
def test_isotonic_rises_and_keeps_the_mean(sample: Any, rule: str) -> None:
    scores, correct = sample
    if correct.all() or not correct.any():
        return
    found = IsotonicRegressionCalibrator(rule=rule).fit(scores, correct)
    assert (np.diff(np.asarray(found.predict(np.linspace(0, 1, 201)))) >= 0).all()
    values = found.predict(scores)
    assert values.mean() == pytest.approx(correct.mean(), abs=1e-12)
    assert calibration_error(np.round(values, 12), correct) < 1e-11


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 6))
def test_temperature_keeps_the_argmax(seed: int, k: int) -> None:
    rows, truth = rowed(40, seed, k)
    if len(set(truth)) < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = MulticlassTemperatureScaling().fit(rows, truth).predict(rows)
    if np.ptp(np.asarray(found), axis=1).min() > 1e-9:
        np.testing.assert_array_equal(found.argmax(axis=1), rows.argmax(axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1)


@any_binary
def test_extreme_scores_get_finite_values(made: Calibrator) -> None:
    scores, correct = scored(100, 7)
    scores[:4], correct[:4] = [0, 0, 1, 1], [0, 1, 1, 0]
    asked = np.array([0, 5e-324, 1e-300, 1e-12, 0.5, 1 - 1e-16, 1])
    values = np.asarray(clone(made).fit(scores, correct).predict(asked))
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()


@any_rows
def test_extreme_rows_get_finite_values(made: Any) -> None:
    rows, truth = rowed(100, 8)
    rows[:3] = np.eye(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        values = np.asarray(clone(made).fit(rows, truth).predict(rows))
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()
    if values.ndim == 2:
        np.testing.assert_allclose(values.sum(axis=1), 1)


@any_calibrator
def test_order_of_rows_changes_nothing(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    order = np.random.default_rng(0).permutation(len(truth))
    one: Any = clone(made).fit(scores, truth)
    other: Any = clone(made).fit(scores[order], truth[order])
    np.testing.assert_allclose(
        np.asarray(other.predict(scores[:50])),
        np.asarray(one.predict(scores[:50])),
        atol=1e-6,
    )


@any_calibrator
def test_kinds_of_input_change_nothing(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    expected = np.asarray(clone(made).fit(scores, truth).predict(scores))
    for scores_as in (
        np.ndarray.tolist,
        pd.DataFrame if scores.ndim > 1 else pd.Series,
    ):
        for truth_as in (np.ndarray.tolist, pd.Series, lambda t: t.astype(int)):
            found = clone(made).fit(scores_as(scores), truth_as(truth))
            np.testing.assert_array_equal(
                np.asarray(found.predict(scores_as(scores))), expected
            )


@any_calibrator
def test_fitting_changes_neither_data_nor_parameters(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    kept = scores.copy(), truth.copy()
    found: Any = clone(made)
    parameters = found.get_params()
    assert found.fit(scores, truth) is found
    found.predict(scores)
    np.testing.assert_array_equal(scores, kept[0])
    np.testing.assert_array_equal(truth, kept[1])
    assert repr(found.get_params()) == repr(parameters)
    assert not hasattr(clone(found), "n_")


@any_calibrator
def test_calibrators_help(made: BaseCalibrator) -> None:
    """On held-out rows of overconfident scores the Brier score gets better."""
    scores, truth = data_for(made, 1500, 1)
    new, new_truth = data_for(made, 1500, 2)
    q: Any = np.asarray(clone(made).fit(scores, truth).predict(new))
    if new.ndim == 2:
        new_truth = new.argmax(axis=1) == new_truth
        q = q.max(axis=1) if q.ndim == 2 else q
        new = new.max(axis=1)
    assert np.mean((q - new_truth) ** 2) < np.mean((new - new_truth) ** 2)


# Wrappers ----------------------------------------------------------------------------


def test_top_versus_all_is_the_binary_calibrator_of_the_top() -> None:
    rows, truth = rowed(200, 9, 4)
    inner = PlattScalingCalibrator()
    found = TopVersusAll(inner).fit(rows, truth)
    by_hand = PlattScalingCalibrator().fit(rows.max(axis=1), rows.argmax(1) == truth)
    np.testing.assert_array_equal(
        np.asarray(found.predict(rows)), np.asarray(by_hand.predict(rows.max(axis=1)))
    )
    assert not hasattr(inner, "n_")


def test_per_predicted_class_by_hand() -> None:
    rows, truth = rowed(300, 10)
    predicted, top = rows.argmax(axis=1), rows.max(axis=1)
    right = predicted == truth
    found = TopLabelCalibrator(PlattScalingCalibrator(), shrinkage=30).fit(rows, truth)
    shared = PlattScalingCalibrator().fit(top, right).predict(top)
    for k in range(3):
        of = predicted == k
        own = PlattScalingCalibrator().fit(top[of], right[of]).predict(top[of])
        weight = of.sum() / (of.sum() + 30)
        np.testing.assert_allclose(
            found.predict(rows)[of], weight * own + (1 - weight) * shared[of]
        )
        assert found.counts_[k] == of.sum()


def test_shrinkage_leads_from_own_maps_to_the_shared_one() -> None:
    rows, truth = rowed(300, 11)
    none = TopLabelCalibrator(PlattScalingCalibrator(), shrinkage=0).fit(rows, truth)
    own: Any = none.by_class_[1]
    of = rows.argmax(axis=1) == 1
    np.testing.assert_allclose(
        none.predict(rows)[of], own.predict(rows.max(axis=1)[of])
    )
    much = TopLabelCalibrator(PlattScalingCalibrator(), shrinkage=1e12).fit(rows, truth)
    shared = TopVersusAll(PlattScalingCalibrator()).fit(rows, truth)
    np.testing.assert_allclose(much.predict(rows), shared.predict(rows), atol=1e-9)


def test_classes_with_few_rows() -> None:
    rows = np.array(
        [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0], [0.6, 0.4, 0], [0.3, 0.7, 0]]
    )
    truth = [0, 1, 0, 1, 1]
    for made, own in (
        (IsotonicRegressionCalibrator(), Calibrator),
        # Five bins are too many for the four rows of class 0.
        (HistogramBinningCalibrator(n_bins=5), float),
    ):
        found = TopLabelCalibrator(made, shrinkage=1).fit(rows, truth)
        assert isinstance(found.by_class_[0], own)
        # One row, right: (1 + 1) / (1 + 2).
        assert found.by_class_[1] == pytest.approx(2 / 3)
        assert 2 not in found.by_class_
        assert found.counts_ == {0: 4, 1: 1, 2: 0}
        # Never predicted before: the shared map only.
        np.testing.assert_array_equal(
            np.asarray(found.predict([[0.2, 0.2, 0.6]])),
            np.asarray(found.shared_.predict([0.6])),
        )


def test_names_of_classes() -> None:
    rows, truth = rowed(100, 12)
    table = pd.DataFrame(rows, columns=["p_a", "p_b", "p_c"])
    found = VectorScaling(penalty=0.1).fit(table, np.array(["a", "b", "c"])[truth])
    assert found.classes_ == ["a", "b", "c"]
    plain = VectorScaling(penalty=0.1).fit(rows, truth)
    np.testing.assert_array_equal(
        np.asarray(found.predict(table)), np.asarray(plain.predict(rows))
    )
    # Without names of columns only their number can be compared.
    np.testing.assert_array_equal(
        np.asarray(found.predict(rows)), np.asarray(plain.predict(rows))
    )
    with pytest.raises(ValueError, match=r"classes of fit, .*, not \['b'"):
        found.predict(table[["p_b", "p_a", "p_c"]])
    with pytest.raises(ValueError, match=r"classes of fit, .* not \[0, 1\]"):
        found.predict([[0.5, 0.5]])


@pytest.mark.parametrize("wrapper", [TopVersusAll, TopLabelCalibrator])
def test_wrappers_take_binary_calibrators_only(wrapper: Any) -> None:
    for wrong in (VectorScaling(), IsotonicRegression(), "isotonic"):
        with pytest.raises(TypeError, match="calibrator must be a Calibrator"):
            wrapper(wrong).fit(*rowed())


# Errors ------------------------------------------------------------------------------


@any_binary
@pytest.mark.parametrize(
    ("scores", "correct", "error", "says"),
    [
        ([0.2, 1.2], [0, 1], ValueError, r"scores must lie in \[0, 1\]; row 1 is 1.2"),
        ([-0.1, 0.2], [0, 1], ValueError, "row 0 is -0.1"),
        ([0.2, np.nan], [0, 1], ValueError, "scores must not be missing; 1 of 2"),
        ([0.2, None], [0, 1], ValueError, "scores must not be missing; 1 of 2"),
        (["a", "b"], [0, 1], TypeError, "scores must be numbers"),
        ([[0.2, 0.8]], [1], ValueError, "one column"),
        ([], [], ValueError, "at least one row"),
        ([0.2, 0.3, 0.4], [0, 1], ValueError, "one value for each of 3 rows"),
        ([0.2, 0.3], [0, 2], ValueError, "correct must be 0 or 1; row 1 is 2"),
        (
            [0.2, 0.3],
            [0, np.nan],
            ValueError,
            "correct must not be missing; 1 of 2 rows have no label; pass the 1",
        ),
        ([0.5], [1], ValueError, "must"),
    ],
)
def test_bad_scores(
    made: Calibrator, scores: Any, correct: Any, error: Any, says: str
) -> None:
    found = clone(made)
    with pytest.raises(error, match=says):
        found.fit(scores, correct)
    with pytest.raises(NotFittedError):
        found.predict([0.5])


@any_binary
@pytest.mark.parametrize("only", [True, False])
def test_one_outcome_only(made: Calibrator, only: bool) -> None:
    with pytest.raises(
        ValueError, match=f"correct must hold both outcomes; all 50 rows are {only}"
    ):
        clone(made).fit(np.linspace(0, 1, 50), [only] * 50)


@any_binary
def test_bad_scores_to_predict(made: Calibrator) -> None:
    found = clone(made).fit(*scored())
    for wrong in ([1.5], [np.nan], [], [[0.5]]):
        with pytest.raises(ValueError, match="scores must"):
            found.predict(wrong)


@any_rows
@pytest.mark.parametrize(
    ("rows", "truth", "says"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], [0, 1], "row 0 sums to 1.1"),
        ([[np.nan, 1], [0.5, 0.5]], [0, 1], "must not be missing; 1 of 2"),
        ([[1.5, -0.5], [0.5, 0.5]], [0, 1], "row 0 has 1.5"),
        ([0.5, 0.5], [0, 1], "not shape"),
        (np.empty((0, 3)), [], "must have rows"),
        ([[0.4, 0.6], [0.5, 0.5]], [0], "one value for each of 2 rows"),
        ([[0.4, 0.6], [0.5, 0.5]], [0, 7], "row 1 is 7"),
        ([[0.4, 0.6]], [0], "2 or more rows"),
        ([[0.4, 0.6]] * 50, [0] * 50, "must hold"),
    ],
)
def test_bad_rows(made: Any, rows: Any, truth: Any, says: str) -> None:
    found = clone(made)
    with pytest.raises(ValueError, match=says):
        found.fit(rows, truth)
    with pytest.raises(NotFittedError):
        found.predict([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (TemperatureScalingCalibrator(floor=0), "floor must lie between"),
        (TemperatureScalingCalibrator(bounds=(1, 1)), "bounds must be two numbers"),
        (TemperatureScalingCalibrator(bounds=(0, 1e9)), "bounds must lie between"),
        (PlattScalingCalibrator(scale="log"), "scale must be one of 'logit'"),
        (BetaCalibrator(floor=1), "floor must lie between"),
        (IsotonicRegressionCalibrator(rule="R"), "rule must be one of 'linear'"),
        (HistogramBinningCalibrator(n_bins=0), "n_bins must be a whole number"),
        (HistogramBinningCalibrator(n_bins=300), "n_bins must be at most .* 200"),
        (HistogramBinningCalibrator(strategy="mass"), "strategy must be one of"),
        (MulticlassTemperatureScaling(objective="nll"), "objective must be one of"),
        (VectorScaling(penalty=-1), "penalty must be a finite number"),
        (VectorScaling(penalty=np.inf), "penalty must be a finite number"),
        (TopLabelCalibrator(BetaCalibrator(), shrinkage=-1), "shrinkage must be"),
        (TopVersusAll(PlattScalingCalibrator(scale="log")), "scale must be one of"),
    ],
)
def test_bad_parameters(made: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made.fit(*data_for(made))


# Marks -------------------------------------------------------------------------------


@any_calibrator
def test_rows_fitted_on_are_marked_by_their_index(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    frame = pd.DataFrame if scores.ndim > 1 else pd.Series
    names = [f"row {at}" for at in range(200)]
    table: Any = frame(scores, index=names)
    found: Any = clone(made).fit(table[:100], truth[:100])
    both = found.predict(table[50:150])
    np.testing.assert_array_equal(both.fitted_on, np.arange(100) < 50)
    assert both.known
    assert both.evaluation == "in-sample"
    assert both[:50].evaluation == "in-sample"
    assert both[50:].evaluation == "held-out"
    assert found.predict(table[100:]).evaluation == "held-out"
    # The names decide, not the scores.
    renamed = frame(scores, index=[f"other {at}" for at in range(200)])
    assert found.predict(renamed).evaluation == "held-out"
    assert found.predict(scores[:100], ids=names[:100]).fitted_on.all()


@any_calibrator
def test_rows_without_names_are_compared_by_scores(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    found: Any = clone(made).fit(scores[:100], truth[:100])
    order = np.random.default_rng(0).permutation(100)
    for same in (scores[:100], scores[order], scores[:100].tolist()):
        values = found.predict(same)
        assert values.evaluation == "in-sample"
        assert values.fitted_on.all()
        assert not values.known
    held_out = found.predict(scores[100:])
    assert held_out.evaluation == "unstated"
    assert not held_out.fitted_on.any()
    some = found.predict(scores[40:120])
    np.testing.assert_array_equal(some.fitted_on, np.arange(80) < 60)
    assert found.predict(scores[80:160]).evaluation == "unstated"


def test_scores_of_few_values_agree_by_chance() -> None:
    scores, correct = scored(300, 13, digits=1)
    found = IsotonicRegressionCalibrator().fit(scores[:150], correct[:150])
    assert not found.predict(scores[150:]).fitted_on.any()
    assert found.predict(scores[:150]).fitted_on.all()


@pytest.mark.parametrize(
    "index",
    [
        range(60),
        range(100, 160),
        [*range(60)],
        [*range(60, 0, -1)],
        np.arange(60.0),
        np.arange(60).astype(object),
        pd.RangeIndex(60, name="row"),
    ],
    ids=str,
)
def test_row_numbers_name_nothing(index: Any) -> None:
    """Two tables whose numbers overlap, and two parts of one whose numbers do not."""
    scores, correct = scored(60)
    fitted = PlattScalingCalibrator().fit(pd.Series(scores, index=index), correct)
    assert fitted.ids_ is None
    others = pd.Series(scored(60, seed=1)[0], index=index)
    assert fitted.predict(others).evaluation == "unstated"
    assert fitted.predict(others.set_axis(range(900, 960))).evaluation == "unstated"
    # Equal scores are an identity, wherever they stand and however they were stored.
    for again in (scores, scores[::-1], np.float32(scores)):
        assert fitted.predict(again).evaluation == "in-sample"
    named = pd.Series(scores, index=pd.Index(np.arange(60), name="review"))
    found = PlattScalingCalibrator().fit(named, correct)
    assert found.predict(named[:5]).fitted_on.all()
    assert found.predict(others.set_axis(named.index + 60)).evaluation == "held-out"


@pytest.mark.parametrize("digits", [1, 15])
@pytest.mark.parametrize("index", [None, [*range(1000)]], ids=["range", "numbers"])
def test_a_table_fitted_on_in_part_is_not_called_held_out(
    index: Any, digits: int
) -> None:
    scores, correct = scored(1000, digits=digits)
    table = pd.DataFrame({"confidence": scores, "correct": correct}, index=index)
    for part in (table[:900], table[:400], table.sample(900, random_state=0)):
        platt = PlattScalingCalibrator().fit(part["confidence"], part["correct"])
        assert platt.predict(table["confidence"]).evaluation != "held-out"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a", "b"], np.array(["a", "b"])),
        (["a", "b"], pd.Series(["a", "b"], dtype=object)),
        (["a", "b"], pd.Series(["a", "b"], dtype="category")),
        ([1, -2], np.array([1, -2], dtype=np.int8)),
        ([1, -2], np.array([1.0, -2.0])),
        ([1, -2], pd.array([1, -2], dtype="Int64")),
        ([1, -2], np.array([1, -2], dtype=object)),
        ([("a", 1), ("b", 2)], pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    ],
)
def test_ids_are_known_again_in_another_type(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(row_ids([], first, 2), row_ids([], second, 2))
    assert len(set(np.asarray(row_ids([], first, 2)).tolist())) == 2


def test_ids_may_repeat_but_not_lack() -> None:
    scores, correct = scored(20)
    found = PlattScalingCalibrator().fit(scores, correct, ids=["same"] * 20)
    assert found.predict(scores, ids=["same"] * 20).fitted_on.all()
    with pytest.raises(ValueError, match="ids must be one for each of 20 rows, not 3"):
        found.fit(scores, correct, ids=[1, 2, 3])
    with pytest.raises(ValueError, match="ids must not be missing; 1 of"):
        found.predict([0.5, 0.5], ids=["a", None])
    holed = pd.Series(scores, index=[None, *"abcdefghijklmnopqrs"])
    assert found.fit(holed, correct).ids_ is None


def test_negative_zero_is_zero() -> None:
    one, other = score_hashes(np.array([0.0, -0.0]))
    assert one == other


MARKS = np.array([True, False, False, True, False, False])


@pytest.fixture
def marked() -> Calibrated:
    return Calibrated(np.arange(6) / 10, MARKS, known=True)


@pytest.mark.parametrize(
    ("change", "marks"),
    [
        (lambda p: p * 1.0, MARKS),
        (lambda p: 1 - p, MARKS),
        (lambda p: np.float64(1) - p, MARKS),
        (lambda p: np.clip(p, 0.1, 0.4), MARKS),
        (lambda p: p.clip(0.1, 0.4), MARKS),
        (lambda p: pickle.loads(pickle.dumps(p)), MARKS),
        (lambda p: p[1:4], MARKS[1:4]),
        (lambda p: p[::-1], MARKS[::-1]),
        (lambda p: p[[5, 3]], MARKS[[5, 3]]),
        (lambda p: p[p > 0.2], MARKS[3:]),
        (lambda p: p[pd.Series(np.asarray(p) > 0.2)], MARKS[3:]),
        (lambda p: p[:, None], MARKS),
        (lambda p: p[:, None] * np.ones((6, 3)), MARKS),
        (lambda p: (p[:, None] * np.ones((6, 3))).max(axis=1), MARKS),
        (lambda p: (p[:, None] * np.ones((6, 3)))[np.arange(6), [0] * 6], MARKS),
        (lambda p: (p[:, None] * np.ones((6, 3)))[3], [True] * 3),
        (lambda p: (p[:, None] * np.ones((6, 3)))[4], [False] * 3),
        (lambda p: np.concatenate([p[:2], p[4:]]), [True, False, False, False]),
        # Where rows may be mixed, all are marked; and in copies.
        (lambda p: np.round(p, 1), [True] * 6),
        (lambda p: p.astype(np.float32), [True] * 6),
        (lambda p: p.copy(), [True] * 6),
        (copy.copy, [True] * 6),
        (copy.deepcopy, [True] * 6),
        (np.sort, [True] * 6),
        (lambda p: p.cumsum(), [True] * 6),
        (lambda p: p.reshape(3, 2), [True] * 3),
        (lambda p: p * np.ones((6, 6)), [True] * 6),
        (lambda p: (p[:, None] * np.ones((6, 6))).sum(axis=0), [True] * 6),
        (lambda p: (p[:, None] * np.ones((6, 6))).T, [True] * 6),
        (lambda p: np.where(np.arange(6) > 2, p, 0.5), [True] * 6),
        (lambda p: p.take([5, 4, 3, 2, 1, 0]), [True] * 6),
    ],
)
def test_marks_stay_with_their_rows(
    marked: Calibrated, change: Callable[[Any], Any], marks: Any
) -> None:
    found = change(marked)
    assert isinstance(found, Calibrated)
    np.testing.assert_array_equal(found.fitted_on, marks)
    assert found.known
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(change(np.asarray(marked)))
    )
    np.testing.assert_array_equal(marked.fitted_on, MARKS)
    clean = change(Calibrated(np.arange(6) / 10, [False] * 6, known=True))
    assert clean.evaluation == "held-out"


def test_marks_of_two_arrays_add_up(marked: Calibrated) -> None:
    other = Calibrated(np.ones(6), np.arange(6) == 5, known=False)
    both = marked * other
    np.testing.assert_array_equal(both.fitted_on, MARKS | (np.arange(6) == 5))
    assert not both.known
    marked *= other
    assert isinstance(marked, Calibrated)
    np.testing.assert_array_equal(marked.fitted_on, both.fitted_on)
    target = np.empty(6)
    assert np.multiply(other, 2, out=target) is target


def test_marks_come_along_into_another_array(marked: Calibrated) -> None:
    clean = Calibrated(np.ones(3), [False] * 3, known=True)
    clean[1:] = marked[1:3]
    assert clean.evaluation == "held-out"
    clean[1:] = marked[:2]
    assert clean.fitted_on.all()


def test_sorting_in_place_marks_all(marked: Calibrated) -> None:
    marked[:] = marked[::-1].copy()
    marked.sort()
    assert marked.fitted_on.all()


@pytest.mark.parametrize(
    "reduce", [np.mean, np.sum, np.median, np.std, np.max, lambda p: p[0], np.ptp]
)
def test_single_values_are_plain(marked: Calibrated, reduce: Any) -> None:
    assert type(reduce(marked)) is np.float64
    assert type(np.quantile(marked, 0.5)) is np.float64


def test_comparisons_are_plain(marked: Calibrated) -> None:
    assert type(marked > 0.2) is np.ndarray
    assert type(np.asarray(marked)) is np.ndarray


def test_calibrated_checks_its_marks() -> None:
    with pytest.raises(ValueError, match=r"one mark for each row .* not shape \(3,\)"):
        Calibrated([0.1, 0.2], [True, False, True], known=True)
    assert Calibrated([], [], known=False).evaluation == "unstated"
    assert np.array([0.5]).view(Calibrated).evaluation == "unstated"


# Sources -----------------------------------------------------------------------------


@any_calibrator
def test_scores_of_another_source_are_refused(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    source = {"model": "a", "prompt": "x"}
    found: Any = clone(made).fit(scores, truth, source=source)
    found.predict(scores)
    found.predict(scores, source=source)
    found.predict(scores, source={"model": "a", "labels": "new"})
    says = "fitted on scores of model 'a', these come from model 'b'"
    with pytest.raises(ValueError, match=says):
        found.predict(scores, source={"model": "b"})
    found.fit(scores, truth).predict(scores, source=source)
    assert found.source_ is None


def test_source_comes_with_a_table() -> None:
    scores, correct = scored(50)
    table = pd.DataFrame({"confidence": scores})
    table.attrs["source"] = {"model": "a"}
    found = PlattScalingCalibrator().fit(table["confidence"], correct)
    assert found.source_ == {"model": "a"}
    table.attrs["source"] = {"model": "b"}
    with pytest.raises(ValueError, match="source differs"):
        found.predict(table["confidence"])
    found.predict(table["confidence"], source={"model": "a"})


@pytest.mark.parametrize("source", ["a", {"model": 3}, {3: "a"}, ["model"]])
def test_source_maps_words_to_words(source: Any) -> None:
    scores, correct = scored(50)
    with pytest.raises(ValueError, match="source must map words to words"):
        PlattScalingCalibrator().fit(scores, correct, source=source)


# Files -------------------------------------------------------------------------------


@any_calibrator
def test_stored_calibrators_predict_the_same(
    made: BaseCalibrator, tmp_path: Path
) -> None:
    scores, truth = data_for(made)
    names = np.array([f"row {at}" for at in range(200)])
    found: Any = clone(made).fit(
        scores[:100], truth[:100], ids=names[:100], source={"model": "é"}
    )
    found.save(tmp_path / "made.json")
    assert [file.name for file in tmp_path.iterdir()] == ["made.json"]
    again: Any = load_calibrator(str(tmp_path / "made.json"))
    assert type(again) is type(found)
    assert repr(again) == repr(found)
    np.testing.assert_array_equal(
        np.asarray(again.predict(scores)), np.asarray(found.predict(scores))
    )
    marks = again.predict(scores, ids=names)
    np.testing.assert_array_equal(marks.fitted_on, np.arange(200) < 100)
    assert again.predict(scores[:100]).evaluation == "in-sample"
    with pytest.raises(ValueError, match="source differs"):
        again.predict(scores, source={"model": "b"})
    assert (again.n_, again.fitted_at_) == (100, found.fitted_at_)
    assert again.to_dict() == found.to_dict()
    pickled = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(
        np.asarray(pickled.predict(scores)), np.asarray(found.predict(scores))
    )


def test_names_of_classes_are_stored() -> None:
    rows, truth = rowed(100, 12)
    table = pd.DataFrame(rows, columns=["p_a", "p_b", "p_c"])
    for made in (VectorScaling(penalty=1), TopLabelCalibrator(BetaCalibrator())):
        found: Any = made.fit(table, np.array(["a", "b", "c"])[truth])
        again: Any = from_dict(json.loads(json.dumps(found.to_dict())))
        assert again.classes_ == ["a", "b", "c"]
        again.predict(table)


def test_a_stored_calibrator_can_be_read() -> None:
    text = json.dumps(PlattScalingCalibrator().fit(P, Y).to_dict())
    stored = json.loads(text)
    assert stored["format"] == "helpers.calibration/1"
    assert stored["class"] == "PlattScalingCalibrator"
    assert stored["parameters"] == {"scale": "logit", "floor": 1e-12}
    assert set(stored["fitted"]) == {"slope_", "intercept_"}
    assert stored["n"] == 20
    assert pd.Timestamp(stored["fitted_at"]).tzinfo is not None
    assert stored["ids"] is None


def test_nothing_is_stored_before_fit(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        PlattScalingCalibrator().save(tmp_path / "made.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "helpers.calibration/2"}, "format is"),
        ({"class": "Popen"}, "class must be one of BetaCalibrator, "),
        ({"class": "Calibrator"}, "class must be one of"),
        ({"fitted": {"slope_": 1.0}}, "must have the field 'intercept_'"),
        ({"fitted": {"slope_": "1", "intercept_": 0.0}}, "slope_ is '1'"),
        ({"parameters": {"scale": "log", "floor": 1e-12}}, "scale must be one of"),
        ({"parameters": {"colour": "red"}}, "parameters of Platt.* must be"),
        ({"fitted": {"slope_": {"a": 1}, "intercept_": 0.0}}, "a field is not"),
        ({"parameters": 3}, "parameters is 3"),
        ({"n": "many"}, "n is 'many'"),
        ({"n": 0}, "n is 0"),
        ({"n": 21}, "score_hashes must be 21 hashes"),
        ({"fitted_at": "today"}, "fitted_at is 'today'"),
        ({"more": 1}, "must not have the field 'more'"),
        ({"ids": "not base64!"}, "ids must be"),
        ({"score_hashes": None}, "score_hashes is None"),
        ({"source": {"model": 3}}, "source.model is 3"),
        *(
            ({field: None}, f"must have the field {field!r}")
            for field in ("class", "fitted", "source", "n", "ids", "fitted_at")
        ),
    ],
)
def test_broken_files_are_refused(change: Any, says: str, tmp_path: Path) -> None:
    stored = PlattScalingCalibrator().fit(P, Y).to_dict()
    if "must have the field" in says and list(change.values()) == [None]:
        del stored[next(iter(change))]
    else:
        stored |= change
    (tmp_path / "made.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=says):
        load_calibrator(tmp_path / "made.json")


STORED = {
    "platt": PlattScalingCalibrator(),
    "beta": BetaCalibrator(),
    "temperature": TemperatureScalingCalibrator(),
    "isotonic": IsotonicRegressionCalibrator(),
    "histogram": HistogramBinningCalibrator(n_bins=4),
    "venn": VennAbersCalibrator(),
    "vector": VectorScaling(penalty=1),
    "many": MulticlassTemperatureScaling(),
    "top": TopVersusAll(PlattScalingCalibrator()),
    "each": TopLabelCalibrator(PlattScalingCalibrator()),
}


@pytest.mark.parametrize(
    ("kind", "field", "value", "says"),
    [
        ("platt", "slope_", [1, 2], "slope_ is"),
        ("platt", "slope_", None, "slope_ is None"),
        ("platt", "slope_", True, "slope_ is True"),
        ("platt", "intercept_", math.nan, "intercept_ is nan"),
        ("platt", "intercept_", -math.inf, "intercept_ is -inf"),
        ("platt", "extra_", 1.0, "must not have the field 'extra_'"),
        ("beta", "a_", -0.1, "a_ is -0.1"),
        ("temperature", "temperature_", 0, "temperature_ is 0"),
        ("temperature", "at_bound_", 1, "at_bound_ is 1"),
        ("isotonic", "x_thresholds_", slice(None, None, -1), "x_thresholds_ is .*fall"),
        ("isotonic", "y_thresholds_", slice(None, None, -1), "y_thresholds_ is .*fall"),
        ("isotonic", "y_thresholds_", slice(1), "y_thresholds_ must have"),
        ("isotonic", "x_thresholds_", slice(0), "x_thresholds_ is .*1 or more"),
        ("histogram", "edges_", slice(None, None, -1), "edges_ is .*must not fall"),
        ("histogram", "edges_", slice(0), "values_ must have 1 values, by edges_, not"),
        ("histogram", "values_", slice(1), "values_ must have"),
        ("histogram", "values_", [0.1, 0.2, 0.3, 1.1], "values_ is .*from 0 to 1"),
        ("histogram", "values_", [0.1, 0.2, 0.3, math.nan], "values_ is .*finite"),
        ("histogram", "values_", [True, 0.2, 0.3, 0.4], "array must hold numbers"),
        ("histogram", "counts_", [5, 5, 5, -5], "counts_ is .*from 0"),
        ("histogram", "counts_", slice(2), "counts_ must have 4 values"),
        ("venn", "lower_knots_", slice(1), "lower_values_ must have 2 values"),
        ("venn", "upper_values_", slice(None, None, -1), "upper_values_ is .*fall"),
        ("vector", "weights_", slice(2), "weights_ must have 3 values, by classes_"),
        ("vector", "biases_", [0.0, 0.0, math.inf], "biases_ is"),
        ("vector", "classes_", ["a", "a", "b"], "classes_ is .*all different"),
        ("many", "classes_", [], "classes_ is"),
        ("many", "classes_", [["a"], ["b"]], "classes_"),
        ("top", "calibrator_", 0.5, "calibrator_ is 0.5"),
        ("each", "shared_", None, "shared_ is None"),
        ("each", "by_class_", {"pairs": [[0, 1.5]]}, "by_class_.0"),
        ("each", "by_class_", {"pairs": [["z", 0.5]]}, "by_class_ must be of classes_"),
        ("each", "counts_", {"pairs": [[0, 1], [1, 1], [1.0, 1]]}, "each class once"),
        ("each", "counts_", {"pairs": [[0, 1], [1, 1]]}, "counts_ must have 3"),
        ("each", "counts_", {"pairs": [[0, 1], [1, -1], [2, 1]]}, "counts_.1 is -1"),
    ],
)
def test_fitted_values_that_cannot_be_are_refused(
    kind: str, field: str, value: Any, says: str
) -> None:
    made = STORED[kind]
    rows, truth = rowed(60, 12)
    data = (rows, truth) if kind in ("vector", "many", "top", "each") else (P, Y)
    stored = json.loads(json.dumps(clone(made).fit(*data).to_dict()))
    from_dict(stored)
    fitted = stored["fitted"]
    if isinstance(value, slice):
        value = {"array": fitted[field]["array"][value]}
    elif isinstance(value, list) and isinstance(fitted.get(field), dict):
        value = {"array": value}
    fitted[field] = value
    with pytest.raises(ValueError, match=says):
        from_dict(stored)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON: Expecting value"),
        ("{", "is no JSON: Expecting property name"),
        ("\x80", "is no JSON: 'utf-8' codec"),
        ("[]", "must be a mapping"),
        ("3", "must be a mapping"),
        ('{"n": NaN}', "is no JSON: NaN is no number"),
        ("{}", "must have the field 'format'"),
        ('{"n": 1e999}', "is no JSON: 1e999 is no number"),
    ],
)
def test_other_files_are_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=says):
        load_calibrator(tmp_path / "made.json")


def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PlattScalingCalibrator().fit(P, Y)
    found.save(tmp_path / "made.json")
    before = (tmp_path / "made.json").read_text()
    found.slope_ = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        found.save(tmp_path / "made.json")

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    found.slope_ = 2.0
    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        found.save(tmp_path / "made.json")
    assert (tmp_path / "made.json").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["made.json"]


# Cross-fitting -----------------------------------------------------------------------


class Spy(Calibrator):
    """Predicts the scores themselves and writes down what it was shown."""

    seen: list[tuple[set[float], set[float]]] = []

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        self.train_ = set(scores.tolist())

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        self.seen.append((self.train_, set(scores.tolist())))
        return scores


def test_no_row_is_predicted_by_what_has_seen_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Spy, "seen", [])
    scores, correct = scored(103)
    found = cross_fitted(Spy(), scores, correct, n_splits=4, seed=3)
    np.testing.assert_array_equal(np.asarray(found), scores)
    assert found.evaluation == "held-out"
    assert found.known and not found.fitted_on.any()
    assert len(Spy.seen) == 4
    for train, test in Spy.seen:
        assert not train & test
        assert train | test == set(scores.tolist())
    assert set.union(*(test for _, test in Spy.seen)) == set(scores.tolist())


def test_no_group_is_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spy, "seen", [])
    scores, correct = scored(120)
    texts = [f"{'Text' if at % 2 else 'TEXT  '} \n{at // 4}" for at in range(120)]
    group = dict(zip(scores.tolist(), np.arange(120) // 4, strict=True))
    cross_fitted(Spy(), scores, correct, groups=texts)
    assert len(Spy.seen) == 5
    for train, test in Spy.seen:
        assert not {group[s] for s in train} & {group[s] for s in test}
    # Without groups they are on both.
    monkeypatch.setattr(Spy, "seen", [])
    cross_fitted(Spy(), scores, correct)
    train, test = Spy.seen[0]
    assert {group[s] for s in train} & {group[s] for s in test}


@any_calibrator
def test_cross_fitted_is_not_in_sample(made: BaseCalibrator) -> None:
    scores, truth = data_for(made)
    found = cross_fitted(made, scores, truth)
    inside: Any = clone(made).fit(scores, truth).predict(scores)
    assert found.shape == inside.shape
    assert found.evaluation == "held-out"
    assert inside.evaluation == "in-sample"
    assert np.abs(np.asarray(found) - np.asarray(inside)).max() > 1e-6
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(cross_fitted(made, scores, truth))
    )
    other = cross_fitted(made, scores, truth, seed=1)
    assert (np.asarray(found) != np.asarray(other)).any()
    assert not hasattr(made, "n_")


def test_in_sample_isotonic_looks_perfect_and_is_not() -> None:
    scores, correct = scored(200, 14)
    made = IsotonicRegressionCalibrator(rule="step")
    inside = np.round(made.fit(scores, correct).predict(scores), 12)
    outside = np.round(cross_fitted(made, scores, correct), 12)
    assert calibration_error(inside, correct) < 1e-11
    assert calibration_error(outside, correct) > 0.02


def test_tables_are_cross_fitted_like_arrays() -> None:
    rows, truth = rowed(100, 15)
    names = np.array(["a", "b", "c"])
    table = pd.DataFrame(rows, columns=["p_a", "p_b", "p_c"], index=range(50, 150))
    found = cross_fitted(VectorScaling(penalty=0.1), table, names[truth])
    plain = cross_fitted(VectorScaling(penalty=0.1), rows, truth)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(plain))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_splits": 1}, "n_splits must be a whole number of 2 or more, not 1"),
        ({"n_splits": 21}, "n_splits must be at most the number of rows, 20, not 21"),
        ({"n_splits": 14}, "rows with the more frequent outcome, 13, not 14"),
        ({"groups": [0, 1] * 10}, "at most the number of groups, 2, not 5"),
        ({"groups": ["a", " A "] * 10, "n_splits": 2}, "the number of groups, 1"),
        ({"groups": [0]}, "groups must have one value for each of 20 rows, not shape"),
        ({"groups": [None, *range(19)]}, "groups must not be missing; 1 of"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"correct": Y[:19]}, "one value for each of 20 rows"),
        ({"scores": P * 2}, "scores must lie in"),
        ({"correct": [0] * 20}, "correct must hold both outcomes"),
        ({"correct": [1] + [0] * 19}, "correct must hold both outcomes"),
    ],
)
def test_bad_cross_fitting(change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"scores": P, "correct": Y, "n_splits": 5} | change
    with pytest.raises(ValueError, match=says):
        cross_fitted(PlattScalingCalibrator(), **arguments)


def test_few_right_rows_are_no_reason_to_warn() -> None:
    scores, _ = scored(40)
    correct = np.arange(40) < 3
    groups = np.arange(40) // 2
    made = IsotonicRegressionCalibrator()
    assert cross_fitted(made, scores, correct).shape == (40,)
    assert cross_fitted(made, scores, correct, groups=groups, n_splits=4).shape == (40,)


def test_a_fold_that_stays_empty_does_no_harm() -> None:
    """scikit-learn leaves the third of these four folds without any group."""
    groups = [0, 1, 2, 3, 3, 3, 3, 2, 1]
    correct = [0, 0, 1, 0, 0, 1, 0, 1, 0]
    scores = np.arange(9) / 10
    found = cross_fitted(
        IsotonicRegressionCalibrator(), scores, correct, groups=groups, n_splits=4
    )
    assert found.shape == (9,)
    assert found.evaluation == "held-out"


def test_step_rule_is_what_r_predicts_on_the_reviews() -> None:
    # R 4.2.2, as.stepfun(isoreg(confidence, correct)) on these 2,000 rows, at scores
    # inside a group, between two groups, and below and above all.
    labelled = load_review_scores("calibration", n=3184).head(2000)
    step = IsotonicRegressionCalibrator(rule="step")
    step.fit(labelled["confidence"], labelled["correct"])
    expected = {
        0.1: 0.0,
        0.5: 0.0,
        0.561992: 0.582706766917293,
        0.6: 0.582706766917293,
        0.7390815: 0.775773195876289,
        0.85: 0.897435897435897,
        0.896705: 0.962962962962963,
        0.999: 1.0,
    }
    found = step.predict(list(expected))
    assert found == pytest.approx(list(expected.values()), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_three_calibrators_mend_the_confidence_of_real_reviews(seed: int) -> None:
    # Fitted on 2,000 reviews, measured on 6,369 of other films, 20 bins.
    columns = ["p_negative", "p_positive"]
    labelled = load_review_scores("calibration", n=2000, seed=seed)
    test = load_review_scores("test")
    correct = test["correct"].to_numpy()

    def ece(confidence: np.ndarray) -> float:
        bins = np.minimum((np.asarray(confidence) * 20).astype(int), 19)
        gaps = np.bincount(bins, weights=np.asarray(confidence) - correct)
        return float(np.abs(gaps).sum() / len(correct))

    assert ece(test["confidence"]) > 0.03
    errors = []
    for simple in (PlattScalingCalibrator(), BetaCalibrator()):
        simple.fit(labelled["confidence"], labelled["correct"])
        errors.append(ece(simple.predict(test["confidence"])))
    for inner in (PlattScalingCalibrator(), BetaCalibrator()):
        each = TopLabelCalibrator(inner).fit(labelled[columns], labelled["truth"])
        errors.append(ece(each.predict(test[columns])))
    assert max(errors) <= 0.025
