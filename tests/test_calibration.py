"""Rules of helpers.calibration: calibrators that remember what they were fitted on."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from statsmodels.stats.meta_analysis import combine_effects

from helpers.calibration import (
    BaseCalibrator,
    BetaCalibrator,
    Calibrated,
    CalibrationWarning,
    Calibrator,
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    PlattScalingCalibrator,
    TemperatureScalingCalibrator,
    TopLabelCalibrator,
    TopVersusAll,
    VectorScaling,
    VennAbersCalibrator,
    cross_fitted,
    from_dict,
    load_calibrator,
)

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
    "temperature of rows": MulticlassTemperatureScaling(),
    "temperature of top": MulticlassTemperatureScaling(objective="top-versus-all"),
    "vector": VectorScaling(penalty=0.01),
    "vector of top": VectorScaling(objective="top-versus-all", penalty=0.01),
    "top-versus-all": TopVersusAll(IsotonicRegressionCalibrator()),
    "top-label": TopLabelCalibrator(IsotonicRegressionCalibrator()),
}
EACH = BINARY | ROWS

any_calibrator = pytest.mark.parametrize("made", EACH.values(), ids=EACH.keys())


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


def quiet(made: Any, *data: Any) -> Any:
    """A calibrator fitted whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return clone(made).fit(*data)


@pytest.mark.parametrize(
    ("made", "fitted"),
    [
        (TemperatureScalingCalibrator(), {"temperature_": 1.96783816}),
        # Platt's own A and B have the other sign.
        (
            PlattScalingCalibrator(scale="probability"),
            {"slope_": 3.2215057, "intercept_": -1.7931644},
        ),
        (PlattScalingCalibrator(), {"slope_": 0.4382979, "intercept_": 0.0141869}),
    ],
)
def test_parameters_of_the_fixture(made, fitted):
    found = made.fit(P, Y)
    for name, value in fitted.items():
        assert getattr(found, name) == pytest.approx(value, abs=5e-6)


BLOCKS = np.repeat([1 / 3, 1 / 2, 2 / 3, 0.8, 1], [3, 4, 6, 5, 2])
FEW = [0.1, 0.5, 0.5, 0.5, 0.5, 0.9]
TENTHS = np.arange(11) / 10
ROUNDS = [0.60, 0.70, 0.84, 0.94]
STEPS = ([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], [0, 1, 0, 1, 0, 1, 1])
TIES = ([0.2, 0.5, 0.5, 0.9], [0, 1, 0, 1])
SIX = ([0.1, 0.2, 0.3, 0.6, 0.7, 0.95], [0, 1, 1, 0, 1, 1])


@pytest.mark.parametrize(
    ("made", "data", "asked", "values"),
    [
        ("isotonic", (P, Y), P, BLOCKS),
        ("isotonic", (P, Y), ROUNDS, [0.5, 2 / 3, 0.7333333333, 0.8]),
        ("isotonic steps", (P, Y), ROUNDS, [0.5, 2 / 3, 0.8, 0.8]),
        # R's as.stepfun(isoreg(x, y)) and scikit-learn differ between blocks.
        ("isotonic", STEPS, [0.55, 0.92], [0.25, 0.7]),
        ("isotonic steps", STEPS, [0.1, 0.5, 0.51, 0.9, 0.91], [0, 0, 0.5, 0.5, 1]),
        ("isotonic", TIES, TIES[0], [0, 0.5, 0.5, 1]),
        ("isotonic steps", TIES, TIES[0], [0, 0.5, 0.5, 1]),
        ("venn-abers", (P, Y), [0.6, 0.8, 0.94], [0.473684, 0.636364, 0.714286]),
        # Equal scores are in one bin, here with an edge at .5 alone.
        (3, (FEW, [0, 1, 0, 1, 1, 0]), [0.49, 0.5], [0, 0.6]),
        # A score on an edge, here .25 and .65, is in the upper bin.
        (3, SIX, [0, 0.25, 0.64, 0.65, 1], [0.5, 0.5, 0.5, 1, 1]),
        # [0, .2) has .1; [.2, .4) .2 and .3; [.4, .6) none; then .6 and .7; .95.
        ("5 uniform", SIX, [0, 0.2, 0.45, 0.6, 1], [0, 1, 0.45, 0.5, 1]),
        # Edges are the decimals one types.
        ("10 uniform", (TENTHS, [0, 1] * 5 + [1]), [0.3, 0.7, 0.8], [1, 1, 0]),
    ],
)
def test_values_by_hand(made, data, asked, values):
    if made not in BINARY:
        n, *uniform = str(made).split()
        strategy = "uniform" if uniform else "quantile"
        found = HistogramBinningCalibrator(n_bins=int(n), strategy=strategy)
    else:
        found = clone(BINARY[made])
    found.fit(*data)
    np.testing.assert_allclose(np.asarray(found.predict(asked)), values, atol=1e-6)
    # Single precision and the order of rows say the same.
    again = clone(found).fit(data[0][::-1], data[1][::-1])
    single = again.predict(np.float32(asked))
    np.testing.assert_allclose(np.asarray(single), values, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_beta_and_platt_leave_nothing_to_gain(seed):
    """The slope of the loss is zero where it may be, and points out of a bound."""
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.beta(0.3, 0.5, 300), 1e-12, 1 - 1e-12)
    correct = (rng.random(300) < 0.4) ^ (scores > rng.random(300))
    beta = BetaCalibrator().fit(scores, correct)
    features = np.stack([np.log(scores), -np.log1p(-scores), np.ones(300)], axis=1)
    off = expit(features @ [beta.a_, beta.b_, beta.c_]) - correct
    slope = features.T @ off / len(off)
    free = [beta.a_ > 0, beta.b_ > 0, True]
    assert np.abs(slope[free]).max() < 1e-6
    assert (slope > -1e-6).all()
    platt = quiet(PlattScalingCalibrator(), scores, correct)
    right, wrong = correct.sum(), (~correct).sum()
    target = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    off = np.asarray(platt.predict(scores)) - target
    assert abs(off.mean()) < 1e-8
    assert abs((off * logit(scores)).mean()) < 1e-8


def test_beta_never_falls():
    """Without the bounds a would be −0.65 on the first data, b −4.0 on the second."""
    found = BetaCalibrator().fit([0.2, 0.3, 0.6, 0.7, 0.8, 0.9], [0, 1, 0, 1, 0, 1])
    assert found.a_ == 0 and found.b_ > 0
    found.fit([0.1, 0.2, 0.4, 0.6, 0.8, 0.9], [1, 0, 1, 1, 0, 0])
    assert (found.a_, found.b_) == (0, 0)


@pytest.mark.parametrize("digits", [1, 15])
def test_venn_abers_is_what_its_definition_says(digits):
    """Isotonic regression with the score added, once as wrong and once as right."""
    scores, correct = scored(60, digits, digits)
    asked = np.array([0, 1, scores.min(), scores.max(), *scores[:8], 0.123, 0.77])
    expected = []
    for score in asked:
        for label in (0, 1):
            curve = IsotonicRegression()
            curve.fit(np.append(scores, score), np.append(correct, label))
            expected.append(curve.predict([score])[0])
    found = VennAbersCalibrator().fit(scores, correct)
    interval = np.asarray(found.predict_interval(asked))
    np.testing.assert_allclose(interval.ravel(), expected, atol=1e-10)
    p0, p1 = interval.T
    np.testing.assert_allclose(found.predict(asked), p1 / (1 - p0 + p1), atol=1e-15)


def test_a_fresh_process(tmp_path):
    """venn-abers changes numpy at import; a file names a class of a later module."""
    from helpers.uncertainty import CombinedConfidence

    signals = pd.DataFrame({"p": P})
    CombinedConfidence().fit(signals, Y).save(tmp_path / "made.json")
    code = """
import sys
import numpy as np
np.seterr(divide="raise", invalid="raise")
before = np.geterr()
from helpers.calibration import VennAbersCalibrator, load_calibrator
VennAbersCalibrator().fit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1]).predict([0.5])
assert np.geterr() == before, np.geterr()
assert "helpers.uncertainty" not in sys.modules
assert type(load_calibrator(sys.argv[1])).__name__ == "CombinedConfidence"
"""
    command = [sys.executable, "-c", code, str(tmp_path / "made.json")]
    subprocess.run(command, check=True, timeout=120)


@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_vector_scaling_finds_what_a_plain_optimiser_finds(penalty):
    rows, truth = rowed(250, 3)

    def loss(parameters):
        w, b = parameters[:3], parameters[3:]
        z = log_softmax(w * np.log(rows) + b, axis=1)
        off = ((w - 1) ** 2).sum() + (b**2).sum()
        return float(penalty * off - z[np.arange(len(z)), truth].mean())

    start = np.array([1.0, 1, 1, 0, 0, 0])
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).fun
    found = VectorScaling(penalty=penalty).fit(rows, truth)
    assert loss(np.append(found.weights_, found.biases_)) <= best + 1e-9
    assert found.biases_.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_top_versus_all_objectives_find_the_least_loss(seed):
    rows, truth = rowed(150, seed)
    predicted = rows.argmax(axis=1)
    right = predicted == truth

    def loss(probabilities):
        q = np.asarray(probabilities)[range(150), predicted]
        return float(-np.mean(np.log(np.where(right, q, 1 - q) + 1e-300)))

    temperature = MulticlassTemperatureScaling(objective="top-versus-all")
    found = loss(temperature.fit(rows, truth).predict(rows))
    scales = np.exp(np.linspace(-3, 3, 601))
    assert found <= min(loss(softmax(np.log(rows) / t, axis=1)) for t in scales) + 1e-12
    plain = MulticlassTemperatureScaling().fit(rows, truth)
    losses = [
        -log_softmax(np.log(rows) / t, axis=1)[range(150), truth].mean()
        for t in (plain.temperature_, *scales)
    ]
    assert losses[0] == min(losses)
    assert plain.temperature_ != pytest.approx(temperature.temperature_, rel=1e-3)
    vector = VectorScaling(objective="top-versus-all").fit(rows, truth)
    at = np.append(vector.weights_, vector.biases_)
    nearby = np.random.default_rng(seed).normal(0, 1e-3, (100, 6)) + at
    losses = [
        loss(softmax(w[:3] * np.log(rows) + w[3:], axis=1)) for w in [at, *nearby]
    ]
    assert losses[0] <= min(found, *losses[1:]) + 1e-10


def test_of_several_minima_the_lowest_is_found():
    # Ties that are wrong cost most at first, right rows near the even one at last.
    rows = np.array([[0.5, 0.5, *[0] * 8]] * 7 + [[0.19, *[0.09] * 9]] * 3)
    made = MulticlassTemperatureScaling(objective="top-versus-all")
    assert made.fit(rows, [5] * 7 + [0] * 3).temperature_ < 0.1


RISING = ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
FALLING = ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
SAME = ([0.8] * 4, [1, 1, 0, 1])


@pytest.mark.parametrize(
    ("made", "data", "says", "asked", "values"),
    [
        ("temperature", RISING, "at its lower bound", [0.5], [0.5]),
        ("temperature", FALLING, "at its upper bound", [0.5], [0.5]),
        ("temperature", ([0.5] * 3, [0, 1, 1]), "any temperature", [0.3], [0.3]),
        ("platt", FALLING, "not more often right", [0.5], [0.5]),
        # Of Platt's targets 4/5 three times and 1/3: not of the outcomes.
        ("platt", SAME, "does not vary", [0.1, 0.8], [(3 * 4 / 5 + 1 / 3) / 4] * 2),
        ("platt on p", SAME, "does not vary", [0.1], [(3 * 4 / 5 + 1 / 3) / 4]),
        ("beta", SAME, "does not vary", [0.1, 0.8], [0.75, 0.75]),
        ("beta", RISING, "separate right from wrong", [0.1, 0.9], [0, 1]),
    ],
)
def test_data_that_settles_nothing_warns(made, data, says, asked, values):
    with pytest.warns(CalibrationWarning, match=says) as caught:
        found = clone(BINARY[made]).fit(*data)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(found.predict(asked), values, atol=1e-3)
    if made == "temperature":
        assert found.at_bound_ == ("bound" in says)
        rows = np.stack([np.subtract(1, data[0]), data[0]], axis=1)
        with pytest.warns(CalibrationWarning, match=says) as caught:
            both = MulticlassTemperatureScaling().fit(rows, data[1])
        assert caught[0].filename == __file__
        assert both.temperature_ == pytest.approx(found.temperature_)


def test_vector_scaling_says_that_nothing_finite_fits():
    rows, truth = rowed(100, 6)
    for unsettled in (np.minimum(truth, 1), rows.argmax(axis=1)):
        with pytest.warns(CalibrationWarning, match="Set a penalty") as caught:
            VectorScaling().fit(rows, unsettled)
        assert caught[0].filename == __file__
        VectorScaling(penalty=0.1).fit(rows, unsettled)  # without a warning


@any_calibrator
def test_extreme_scores_get_finite_values(made):
    scores, truth = data_for(made, 100, 7)
    asked = [0, 5e-324, 1e-300, 1e-12, 0.5, 1 - 1e-16, 1]
    if isinstance(made, Calibrator):
        scores[:4], truth[:4] = [0, 0, 1, 1], [0, 1, 1, 0]
    else:
        scores[:3] = asked = np.eye(3)
    values = np.asarray(quiet(made, scores, truth).predict(asked))
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()
    if values.ndim == 2:
        np.testing.assert_allclose(values.sum(axis=1), 1)


@any_calibrator
def test_order_changes_nothing_and_nothing_given_is_changed(made):
    scores, truth = data_for(made)
    kept, parameters = (scores.copy(), truth.copy()), repr(made.get_params())
    found = clone(made)
    assert found.fit(scores, truth) is found
    expected = np.asarray(found.predict(scores))
    np.testing.assert_array_equal(scores, kept[0])
    np.testing.assert_array_equal(truth, kept[1])
    assert repr(found.get_params()) == parameters
    assert not hasattr(clone(found), "n_")
    order = np.random.default_rng(0).permutation(len(truth))
    again = clone(made).fit(scores[order], truth[order]).predict(scores)
    np.testing.assert_allclose(np.asarray(again), expected, atol=1e-6)


def test_top_label_maps_by_hand():
    rows, truth = rowed(300, 10)
    predicted, top = rows.argmax(axis=1), rows.max(axis=1)
    right = predicted == truth
    inner = PlattScalingCalibrator()
    found = TopLabelCalibrator(inner, shrinkage=30).fit(rows, truth)
    shared = np.asarray(PlattScalingCalibrator().fit(top, right).predict(top))
    top_all = TopVersusAll(inner).fit(rows, truth).predict(rows)
    np.testing.assert_array_equal(top_all, shared)
    much = TopLabelCalibrator(inner, shrinkage=1e12).fit(rows, truth).predict(rows)
    np.testing.assert_allclose(much, shared, atol=1e-9)
    none = TopLabelCalibrator(inner, shrinkage=0).fit(rows, truth).predict(rows)
    for k in range(3):
        of = predicted == k
        own = np.asarray(clone(inner).fit(top[of], right[of]).predict(top[of]))
        weight = of.sum() / (of.sum() + 30)
        expected = weight * own + (1 - weight) * shared[of]
        np.testing.assert_allclose(found.predict(rows)[of], expected)
        np.testing.assert_allclose(none[of], own)
        assert found.counts_[k] == of.sum()
    assert not hasattr(inner, "n_")


def test_shrinkage_is_what_random_effects_say():
    """With one bin, the shared map is a share, and all rows have the same variance."""
    rows, truth = rowed(300, 10)
    made = TopLabelCalibrator(HistogramBinningCalibrator(n_bins=1)).fit(rows, truth)
    predicted = rows.argmax(axis=1)
    right = predicted == truth
    n = np.bincount(predicted)
    apart = np.bincount(predicted, right) / n - right.mean()
    within = right.mean() * (1 - right.mean())
    between = combine_effects(apart, within / n, method_re="dl").tau2
    assert made.shrinkage_ == pytest.approx(within / between)
    fixed = TopLabelCalibrator(made.calibrator, shrinkage=made.shrinkage_)
    expected = fixed.fit(rows, truth).predict(rows)
    np.testing.assert_array_equal(made.predict(rows), expected)
    assert from_dict(made.to_dict()).shrinkage_ == made.shrinkage_
    stored = fixed.to_dict()
    assert "shrinkage_" not in stored["fitted"]  # as in files from before
    np.testing.assert_array_equal(from_dict(stored).predict(rows), expected)


@pytest.mark.parametrize("n_classes", [1, 2])
def test_classes_alike_share_their_map(n_classes):
    tops = np.tile([0.6, 0.7, 0.8, 0.9], 10)
    rows = np.column_stack([tops, 1 - tops])
    truth = np.tile([1, 0, 1, 0], 10)
    if n_classes == 2:
        rows, truth = np.vstack([rows, rows[:, ::-1]]), np.append(truth, 1 - truth)
    made = TopLabelCalibrator(PlattScalingCalibrator()).fit(rows, truth)
    shared = TopVersusAll(PlattScalingCalibrator()).fit(rows, truth)
    np.testing.assert_allclose(made.predict(rows), shared.predict(rows), atol=1e-6)
    assert made.shrinkage_ > 1e6


def test_classes_with_few_rows():
    made = IsotonicRegressionCalibrator()
    tops = [0.9, 0.8, 0.7, 0.6, 0.3]
    rows = np.array([[top, 1 - top, 0] for top in tops])
    found = TopLabelCalibrator(made, shrinkage=1).fit(rows, [0, 1, 0, 1, 1])
    assert isinstance(found.by_class_[0], Calibrator)
    assert found.by_class_[1] == pytest.approx(2 / 3)  # one row, right: (1+1) / (1+2)
    assert 2 not in found.by_class_
    assert found.counts_ == {0: 4, 1: 1, 2: 0}
    # Never predicted before: the shared map only.
    only = np.asarray(found.shared_.predict([0.6]))
    np.testing.assert_array_equal(found.predict([[0.2, 0.2, 0.6]]), only)


def test_names_of_classes():
    rows, truth = rowed(100, 12)
    table = pd.DataFrame(rows, columns=["p_a", "p_b", "p_c"], index=range(50, 150))
    names = pd.Series(np.array(["a", "b", "c"])[truth], index=table.index)
    found = VectorScaling(penalty=0.1).fit(table, names)
    assert found.classes_ == ["a", "b", "c"]
    plain = VectorScaling(penalty=0.1).fit(rows, truth).predict(rows)
    # Without names of columns only their number can be compared.
    for same in (table, rows):
        np.testing.assert_array_equal(found.predict(same), plain)
    for other, says in ((table[["p_b", "p_a", "p_c"]], "'b'"), ([[0.5, 0.5]], r"0, 1")):
        with pytest.raises(ValueError, match=rf"classes of fit, .*not \[{says}"):
            found.predict(other)
    crossed = (
        cross_fitted(found, table, names[::-1]),
        cross_fitted(found, rows, truth),
    )
    np.testing.assert_array_equal(*map(np.asarray, crossed))


@pytest.mark.parametrize(
    ("made", "scores", "correct", "says"),
    [
        ("platt", [0.2, 1.2], [0, 1], r"scores must lie in \[0, 1\]; row 1 is 1.2"),
        ("beta", [0.2, 0.3], [0, 2], "correct must be 0 or 1; row 1 is 2"),
        ("isotonic", [0.5], [1], "scores must have 2 or more rows for Iso.*, not 1"),
        ("top-label", [[0.4, 0.6], [0.5, 0.5]], [0, 7], "correct must be one .* is 7"),
        ("vector of top", [[0.4, 0.6]] * 9, [0] * 9, "both outcomes; .* are False"),
        ("vector", [[0.4, 0.6]] * 9, [1] * 9, "two or more classes; all 9 .* column 1"),
    ],
)
def test_bad_data(made, scores, correct, says):
    found = clone(EACH[made])
    with pytest.raises(ValueError, match=says):
        found.fit(scores, correct)
    for use in (lambda: found.predict(scores), found.to_dict):
        with pytest.raises(NotFittedError):
            use()


anything: Any = "x"  # and nothing that a type checker would let pass


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (TemperatureScalingCalibrator(floor=0), "floor is 0; .*greater than 0"),
        (PlattScalingCalibrator(scale=anything), "scale is 'x'; .* 'logit' or"),
        (BetaCalibrator(floor=math.nan), "floor is nan"),
        (IsotonicRegressionCalibrator(rule=anything), "rule is 'x'"),
        (HistogramBinningCalibrator(n_bins=0), "n_bins is 0"),
        (HistogramBinningCalibrator(strategy=anything), "strategy is 'x'"),
        (MulticlassTemperatureScaling(objective=anything), "objective is 'x'"),
        (VectorScaling(penalty=np.inf), "penalty is inf"),
        (TopLabelCalibrator(BetaCalibrator(), shrinkage=-1), "shrinkage is -1"),
        (TopVersusAll(PlattScalingCalibrator(floor=2)), "calibrator is .*floor is 2"),
        (TopLabelCalibrator(anything), "calibrator is 'x'"),
    ],
)
def test_bad_parameters(made, says):
    with pytest.raises(ValueError, match=says):
        made.fit(*data_for(made))


class Own(Calibrator):
    """A calibrator of a user, whose parameter has no kind."""

    def __init__(self, power: Any = 2) -> None:
        self.power = power

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None: ...

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return values**self.power


def test_calibrators_of_ones_own_work_but_are_not_read_from_files():
    assert np.asarray(cross_fitted(Own(), P, Y)).tolist() == (P**2).tolist()
    with pytest.raises(ValueError, match="class must be one of .*, not 'Own'"):
        from_dict(Own(power=1).fit(P, Y).to_dict())


@any_calibrator
def test_rows_fitted_on_are_marked_by_their_index(made):
    scores, truth = data_for(made)
    frame = pd.DataFrame if scores.ndim > 1 else pd.Series
    names = [f"row {at}" for at in range(200)]
    table = frame(scores, index=names)
    found = clone(made).fit(table[:100], truth[:100])
    both = found.predict(table[50:150])
    np.testing.assert_array_equal(both.fitted_on, np.arange(100) < 50)
    assert both.known
    assert both[:50].evaluation == "in-sample"
    assert both[50:].evaluation == "held-out"
    # The names decide, not the scores.
    renamed = frame(scores, index=[f"other {at}" for at in range(200)])
    assert found.predict(renamed).evaluation == "held-out"
    assert found.predict(scores[:100], ids=names[:100]).fitted_on.all()


@any_calibrator
def test_rows_without_names_are_compared_by_scores(made):
    scores, truth = data_for(made)
    found = clone(made).fit(scores[:100], truth[:100])
    for same in (scores[:100], scores[99::-1], scores[:100].tolist()):
        values = found.predict(same)
        assert values.evaluation == "in-sample"
        assert values.fitted_on.all()
        assert not values.known
    assert found.predict(scores[100:]).evaluation == "unstated"
    some = found.predict(scores[40:120])
    np.testing.assert_array_equal(some.fitted_on, np.arange(80) < 60)
    assert found.predict(scores[80:160]).fitted_on.sum() == 20
    assert found.predict(scores[97:177]).evaluation == "unstated"


@pytest.mark.parametrize(
    "index",
    [
        range(60),
        np.arange(60.0),
        np.arange(60).astype(object),
        [None, *map(str, range(59))],
    ],
    ids=str,
)
def test_row_numbers_name_nothing(index):
    """Two tables whose numbers overlap, and two parts of one whose numbers do not."""
    scores, correct = scored(60)
    scores[scores.argmin()] = 0
    fitted = PlattScalingCalibrator().fit(pd.Series(scores, index=index), correct)
    assert fitted.ids_ is None
    others = pd.Series(scored(60, seed=1)[0], index=index)
    assert fitted.predict(others).evaluation == "unstated"
    assert fitted.predict(others.set_axis(range(900, 960))).evaluation == "unstated"
    # Equal scores are an identity, wherever they stand and however they were stored.
    for again in (scores, scores[::-1], np.float32(scores), np.r_[-0.0, scores[1:]]):
        assert fitted.predict(again).evaluation == "in-sample"
    # Scores of few values agree by chance.
    few, correct = scored(300, 13, digits=1)
    isotonic = IsotonicRegressionCalibrator().fit(few[:150], correct[:150])
    assert not isotonic.predict(few[150:]).fitted_on.any()
    assert isotonic.predict(few[:150]).fitted_on.all()


@pytest.mark.parametrize("digits", [1, 15])
def test_a_table_fitted_on_in_part_is_not_called_held_out(digits):
    scores, correct = scored(1000, digits=digits)
    table = pd.DataFrame({"confidence": scores, "correct": correct})
    for part in (table[:900], table[:400], table.sample(900, random_state=0)):
        platt = PlattScalingCalibrator().fit(part["confidence"], part["correct"])
        assert platt.predict(table["confidence"]).evaluation != "held-out"


DATES = pd.DatetimeIndex(["2020-01-01", "2020-01-02"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a", "b"], pd.Series(["a", "b"], dtype="category")),
        ([1, -2], np.array([1, -2], dtype=np.int8)),
        ([1, -2], np.array([1.0, -2.0])),
        ([1, -2], pd.array([1, -2], dtype="Int64")),
        (DATES, DATES.to_numpy()),
    ],
)
def test_ids_are_known_again_in_another_type(first, second):
    found = PlattScalingCalibrator().fit([0.4, 0.6], [0, 1], ids=first)
    again = found.predict([0.1, 0.2], ids=second)
    assert again.fitted_on.tolist() == [True, True] and again.known
    indexed = pd.Series([0.1, 0.2], index=pd.Index(second, name="id"))
    assert found.predict(indexed).fitted_on.all()
    assert found.predict([0.1], ids=second[1:]).fitted_on.all()
    assert not found.predict([0.1], ids=["c"]).fitted_on.any()
    again = found.predict([0.1] * 2, ids=[first[0], first[0]])  # ids may repeat
    assert again.fitted_on.all()


MARKS = np.array([True, False, False, True, False, False])
ALL = [True] * 6


@cache
def marked(seen: bool = True) -> Calibrated:
    return Calibrated(np.arange(6) / 10, MARKS & seen, known=True)


def table_of(p: Any) -> Any:
    return p[:, None] * np.ones((6, 3))


CHANGES: list[tuple[Callable[[Any], Any], Any]] = [
    # Rows taken keep their marks.
    (lambda p: pickle.loads(pickle.dumps(p)), MARKS),
    (lambda p: p[1:4], MARKS[1:4]),
    (lambda p: p[::-1], MARKS[::-1]),
    (lambda p: p[[5, 3]], MARKS[[5, 3]]),
    (lambda p: p[pd.Series(np.asarray(p) > 0.2)], MARKS[3:]),
    (lambda p: p[:, None], MARKS),
    (lambda p: p[:, None][[0, 1], [0]], MARKS[:2]),
    (lambda p: np.concatenate([p[1:3], p[:1]]), MARKS[[1, 2, 0]]),
    (lambda p: np.vstack([marked(seen=False), p])[0], [False] * 6),
    (lambda p: np.vstack([marked(seen=False), p])[1], ALL),
    # In any other result all rows are marked.
    (lambda p: p[:, None][[0, 1], [[0], [0]]], [True] * 2),
    (lambda p: np.float64(1) - p, ALL),
    (lambda p: np.ones(6) * p, ALL),
    (lambda p: np.clip(p, 0.1, 0.4), ALL),
    (lambda p: p.astype(np.float32), ALL),
    (copy.deepcopy, ALL),
    (np.sort, ALL),
    (lambda p: p.cumsum(), ALL),
    (lambda p: p.take([5, 4, 3, 2, 1, 0]), ALL),
    (lambda p: np.where(np.arange(6) > 2, p, 0.5), ALL),
    (lambda p: p.reshape(3, 2), [True] * 3),
    (lambda p: np.median(table_of(p), axis=1), ALL),
    (lambda p: table_of(p).sum(axis=0), [True] * 3),
    (lambda p: table_of(p)[4], [True] * 3),
    (lambda p: table_of(p).T, [True] * 3),
    (lambda p: np.ones((6, 6)) @ p, ALL),
]


@pytest.mark.parametrize(("change", "marks"), CHANGES)
def test_marks_stay(change, marks):
    found = change(marked())
    assert isinstance(found, Calibrated)
    np.testing.assert_array_equal(found.fitted_on, marks)
    assert found.known
    expected = change(np.asarray(marked()))
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(marked().fitted_on, MARKS)
    assert change(marked(seen=False)).evaluation == "held-out"


def test_marks_of_two_arrays_add_up():
    unknown = Calibrated(np.ones(6), [False] * 6, known=False)
    for both in (marked() * unknown, unknown * marked()):
        assert both.fitted_on.all() and not both.known
    for join in (np.concatenate, np.hstack, lambda parts: np.append(*parts)):
        joined = join([marked(seen=False), np.ones(2)])
        assert joined.evaluation == "unstated"  # nobody knows where the ones are from
        assert join([np.ones(2), marked()]).evaluation == "in-sample"
    target = np.empty(6)
    assert np.multiply(marked(), 2, out=target) is target
    for change in (
        lambda p: p.__imul__(marked()),
        lambda p: np.multiply(marked(), 2, out=p),
        lambda p: (p.__setitem__(slice(0, 6), marked()), p.sort()),
    ):
        clean = marked(seen=False).copy()
        clean[1:] = clean[1:]
        assert clean.evaluation == "held-out"
        change(clean)
        assert clean.fitted_on.all()


@pytest.mark.parametrize(
    "reduce",
    [np.mean, np.sum, np.median, np.std, np.max, np.ptp, lambda p: np.quantile(p, 0.5)]
    + [lambda p: p[0]],
)
def test_single_values_are_plain(reduce):
    assert type(reduce(marked())) is np.float64
    assert type(marked() > 0.2) is np.ndarray
    assert np.array([0.5]).view(Calibrated).evaluation == "unstated"
    with pytest.raises(ValueError, match=r"one mark for each row .* not shape \(3,\)"):
        Calibrated([0.1, 0.2], [True, False, True], known=True)


def test_scores_of_another_source_are_refused():
    source = {"model": "a", "prompt": "x"}
    found = PlattScalingCalibrator().fit(P, Y, source=source)
    for same in (None, source, {"model": "a", "labels": "new"}):
        found.predict(P, source=same)
    says = "fitted on scores of model 'a', these come from model 'b'"
    with pytest.raises(ValueError, match=says):
        found.predict(P, source={"model": "b"})
    assert found.fit(P, Y).source_ is None
    found.predict(P, source=source)
    table = pd.DataFrame({"confidence": P})
    table.attrs["source"] = {"model": "a"}
    found.fit(table["confidence"], Y)
    table.attrs["source"] = {"model": "b"}
    with pytest.raises(ValueError, match=says):
        found.predict(table["confidence"])
    found.predict(table["confidence"], source={"model": "a"})
    for bad in ("a", {"model": 3}, {3: "a"}, ["model"]):
        with pytest.raises(ValueError, match="source must map words to words"):
            found.fit(P, Y, source=bad)


@any_calibrator
def test_stored_calibrators_are_the_same(made, tmp_path):
    scores, truth = data_for(made)
    if scores.ndim == 2:
        scores = pd.DataFrame(scores, columns=["p_a", "p_b", "p_c"])
        truth = np.array(["a", "b", "c"])[truth]
    names = np.array([f"row {at}" for at in range(200)])
    found = clone(made).fit(
        scores[:100], truth[:100], ids=names[:100], source={"model": "é"}
    )
    found.save(tmp_path / "made.json")
    assert [file.name for file in tmp_path.iterdir()] == ["made.json"]
    again = load_calibrator(str(tmp_path / "made.json"))
    assert type(again) is type(found)
    assert repr(again) == repr(found)
    assert again.to_dict() == found.to_dict()
    values = np.asarray(found.predict(scores))
    np.testing.assert_array_equal(np.asarray(again.predict(scores)), values)
    marks = again.predict(scores, ids=names)
    np.testing.assert_array_equal(marks.fitted_on, np.arange(200) < 100)
    assert marks.known
    assert again.predict(np.asarray(scores)[:100]).evaluation == "in-sample"
    with pytest.raises(ValueError, match="source differs"):
        again.predict(scores, source={"model": "b"})


def test_the_format_is_fixed():
    """Policy.rule is a hash of it: equal to the letter, but for the dates."""
    made = TopVersusAll(HistogramBinningCalibrator(n_bins=2))
    stored = made.fit([[0.75, 0.25], [0.125, 0.875]], [0, 0], ids=["a", 1]).to_dict()
    for at in (stored, stored["fitted"]["calibrator_"]):
        assert pd.Timestamp(at.pop("fitted_at")).tzinfo is not None
    assert stored["ids"] == "0L9XQEWamcEGhKnyBf8t1A=="
    assert stored["fitted"]["calibrator_"]["fitted"]["edges_"] == {"array": [0.8125]}
    text = json.dumps(stored, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2b5bded5ee7c28f4"


BASE: Any = {"slope_": 1.0, "intercept_": 0.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "helpers.calibration/2"}, "format is"),
        ({"class": "Popen"}, "class must be one of .*'BetaCalibrator'"),
        ({"fitted": {"slope_": 1.0}}, "must have the field 'intercept_'"),
        ({"fitted": BASE | {"slope_": "1"}}, "slope_ is '1'"),
        ({"fitted": BASE | {"slope_": True}}, "slope_ is True"),
        ({"fitted": BASE | {"extra_": 1.0}}, "must not have the field 'extra_'"),
        ({"fitted": BASE | {"intercept_": math.nan}}, "is no JSON: NaN is no number"),
        ({"parameters": {"scale": "log", "floor": 1e-12}}, "scale is 'log'"),
        ({"parameters": {"scale": "logit"}}, "parameters of Platt.* must be"),
        ({"parameters": 3}, "parameters is 3"),
        ({"n": 0}, "n is 0"),
        ({"n": 21}, "n must be the number of hashes, 20"),
        ({"more": 1}, "must not have the field 'more'"),
        ({"ids": "not base64!"}, "ids is 'not base64!'"),
        ({"score_hashes": None}, "score_hashes is None"),
        ({"source": {"model": 3}}, "source.model is 3"),
        *(
            ({field: ...}, f"must have the field {field!r}")
            for field in ("class", "fitted", "source", "n", "ids", "fitted_at")
        ),
        (b"", "is no JSON: Expecting value"),
        (b"\x80", "is no JSON: 'utf-8' codec"),
        (b"[]", "must be a mapping"),
        (b"{}", "must have the field 'format'"),
        (b'{"n": 1e999}', "is no JSON: 1e999 is no number"),
    ],
)
def test_broken_files_are_refused(change, says, tmp_path):
    if isinstance(change, dict):
        stored = PlattScalingCalibrator().fit(P, Y).to_dict() | change
        kept = {name: value for name, value in stored.items() if value is not ...}
        change = json.dumps(kept).encode()
    (tmp_path / "made.json").write_bytes(change)
    with pytest.raises(ValueError, match=rf"made\.json.*{says}"):
        load_calibrator(tmp_path / "made.json")


@pytest.mark.parametrize(
    ("made", "field", "value", "says"),
    [
        ("beta", "a_", -0.1, "a_ is -0.1"),
        ("temperature", "temperature_", 0, "temperature_ is 0"),
        ("isotonic", "x_thresholds_", slice(None, None, -1), "x_thresholds_ is .*fall"),
        ("isotonic", "y_thresholds_", slice(1), "y_thresholds_ must have"),
        ("histogram", "edges_", slice(0), "values_ must have 1 values, by edges_"),
        ("histogram", "values_", [0.1, 0.2, 0.3, 0.3, 1.1], "values_ is .*from 0 to 1"),
        ("histogram", "counts_", [5, 5, 5, 5, -5], "counts_ is .*from 0"),
        ("venn-abers", "lower_knots_", slice(1), "lower_values_ must have 2 values"),
        ("vector", "weights_", slice(2), "weights_ must have 3 values, by classes_"),
        ("vector", "biases_", [0.0, 0.0, None], "biases_ is"),
        ("vector", "classes_", ["a", "a", "b"], "classes_ is .*all different"),
        ("top-versus-all", "calibrator_", 0.5, "calibrator_ is 0.5"),
        ("top-label", "by_class_", {"pairs": [[0, 1.5]]}, "by_class_.0"),
        ("top-label", "counts_", {"pairs": [[0, 1], [1, -1], [2, 1]]}, "counts_.1 is"),
    ],
)
def test_fitted_values_that_cannot_be_are_refused(made, field, value, says):
    stored = clone(EACH[made]).fit(*data_for(EACH[made], 60, 12)).to_dict()
    stored = json.loads(json.dumps(stored))
    from_dict(stored)
    fitted = stored["fitted"]
    if isinstance(value, slice):
        value = {"array": fitted[field]["array"][value]}
    elif isinstance(value, list) and isinstance(fitted[field], dict):
        value = {"array": value}
    fitted[field] = value
    with pytest.raises(ValueError, match=says):
        from_dict(stored)


@pytest.mark.parametrize("grouped", [False, True])
@any_calibrator
def test_cross_fitted_values_are_of_calibrators_that_have_not_seen_them(made, grouped):
    scores, truth = data_for(made, 90, 4)
    right = truth if scores.ndim == 1 else scores.argmax(axis=1) == truth
    groups = np.arange(90) // 3 if grouped else None
    # Copies of a text that differ in case or white space are one group.
    texts = [f"{'Text' if at % 2 else 'TEXT  '} \n{at // 3}" for at in range(90)]
    told = texts if grouped else None
    found = cross_fitted(made, scores, truth, groups=told, n_splits=3, seed=3)
    assert found.known and not found.fitted_on.any()
    folds = StratifiedGroupKFold if grouped else StratifiedKFold
    folds = folds(3, shuffle=True, random_state=3).split(right, right, groups)
    for train, test in folds:
        expected = clone(made).fit(scores[train], truth[train]).predict(scores[test])
        np.testing.assert_array_equal(np.asarray(found)[test], np.asarray(expected))
    assert not hasattr(made, "n_")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_splits": 1}, "n_splits must be a whole number of 2 or more, not 1"),
        ({"n_splits": 14}, "n_splits=14 cannot be greater than the number of members"),
        ({"groups": [0, 1] * 10}, "at most the number of groups, 2, not 5"),
        ({"groups": ["a", " A "] * 10, "n_splits": 2}, "the number of groups, 1"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"calibrator": PlattScalingCalibrator(floor=1)}, "floor is 1"),
    ],
)
def test_bad_cross_fitting(change, says):
    arguments = {"calibrator": BINARY["platt"], "scores": P}
    with pytest.raises(ValueError, match=says):
        cross_fitted(**arguments | {"correct": Y} | change)


@pytest.mark.parametrize("right", [True, False])
def test_venn_abers_of_labels_that_are_all_alike(right):
    """As isotonic regression of the rows and one more, by hand."""
    with pytest.warns(CalibrationWarning, match="all 4 rows are"):
        found = VennAbersCalibrator().fit([0.2, 0.4, 0.6, 0.8], [right] * 4)
    ends = np.asarray(found.predict_interval([0.1, 0.3, 0.4, 0.9]))
    p0, p1 = ([0, 1 / 2, 2 / 3, 4 / 5], 1) if right else (0, [1 / 5, 1 / 4, 1 / 4, 1])
    np.testing.assert_allclose(ends[:, 0], p0)
    np.testing.assert_allclose(ends[:, 1], p1)


FLAT = {name: made for name, made in BINARY.items() if name != "venn-abers"}


@pytest.mark.parametrize("made", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("right", [True, False])
def test_labels_that_are_all_alike(made, right, tmp_path):
    """Laplace's rule instead of a certainty that twenty labels do not bear."""
    with pytest.warns(CalibrationWarning, match=f"all 20 rows are {right}") as caught:
        found = clone(made).fit(P, [right] * 20)
    assert caught[0].filename == __file__
    expected = 21 / 22 if right else 1 / 22
    np.testing.assert_allclose(found.predict([0.1, 0.99]), expected)
    found.save(tmp_path / "flat.json")
    again = load_calibrator(tmp_path / "flat.json")
    np.testing.assert_allclose(again.predict([0.4]), expected)
    with pytest.warns(CalibrationWarning):
        top = TopVersusAll(clone(made)).fit([[0.2, 0.8]] * 20, [int(right)] * 20)
    np.testing.assert_allclose(top.predict([[0.3, 0.7]]), expected)
    assert clone(made).fit(P, Y).predict([0.4]) != expected


def test_fewer_rows_than_bins():
    with pytest.warns(CalibrationWarning, match="4 rows fill only so many of 15 bins"):
        found = HistogramBinningCalibrator().fit(P[:4], [0, 1, 0, 1])
    assert len(found.values_) == 4


def test_few_right_rows_and_empty_folds_do_no_harm():
    scores, made = scored(40)[0], IsotonicRegressionCalibrator()
    assert cross_fitted(made, scores, np.arange(40) < 3).shape == (40,)
    # scikit-learn leaves the third of these four folds without any group.
    groups = [0, 1, 2, 3, 3, 3, 3, 2, 1]
    correct = [0, 0, 1, 0, 0, 1, 0, 1, 0]
    found = cross_fitted(made, np.arange(9) / 10, correct, groups=groups, n_splits=4)
    assert found.shape == (9,) and found.evaluation == "held-out"
