"""The floor of a fitted map: the luck of its labels, of the test rows, or misfit."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from helpers.calibration import (
    BaseCalibrator,
    BetaCalibrator,
    Calibrated,
    CalibrationWarning,
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    PlattScalingCalibrator,
    TemperatureScalingCalibrator,
    TopLabelCalibrator,
    TopVersusAll,
    VectorScaling,
    VennAbersCalibrator,
    load_calibrator,
)
from helpers.metrics import calibration_metrics
from helpers.uncertainty import CombinedConfidence

OF_SCORES: list[BaseCalibrator] = [
    TemperatureScalingCalibrator(),
    PlattScalingCalibrator(),
    BetaCalibrator(),
    IsotonicRegressionCalibrator(),
    HistogramBinningCalibrator(n_bins=5),
    VennAbersCalibrator(),
]
OF_ROWS: list[BaseCalibrator] = [
    MulticlassTemperatureScaling(),
    VectorScaling(),
    TopVersusAll(PlattScalingCalibrator()),
    TopLabelCalibrator(BetaCalibrator()),
]


def _overconfident(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose right map is Platt's, and outcomes."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.5, 0.99, n)
    return scores, rng.random(n) < expit(0.6 * logit(scores) - 0.3)


def _rows(scores: np.ndarray, right: np.ndarray) -> tuple[Any, np.ndarray]:
    """Probabilities of two labels, the first named in the even rows."""
    first = np.arange(len(scores)) % 2 == 0
    top = np.where(first, scores, 1 - scores)
    return np.column_stack([top, 1 - top]), np.where(right == first, 0, 1)


def _drawn(values: Any, n: int = 500) -> np.ndarray:
    """Plausible values, a draw a row."""
    return np.array(list(values.plausible(n, np.random.default_rng(99))))


def test_where_the_form_is_right_a_report_blames_the_labels():
    plain, own = [], []
    for seed in range(15):
        scores, right = _overconfident(2200, seed)
        found = PlattScalingCalibrator().fit(scores[:200], right[:200])
        p = found.predict(scores[200:])
        report = calibration_metrics(p, right[200:], n_resamples=60)
        plain.append(report.ece <= report.floor.upper)
        own.append("200 labels to fit the map on" in report.verdict or plain[-1])
    assert np.mean(plain) < 0.6 < 0.9 <= np.mean(own)


def test_where_it_is_wrong_a_report_says_so():
    rng = np.random.default_rng(0)
    scores = rng.random(6000)
    right = rng.random(6000) < 0.2 + 0.6 * scores + 0.15 * np.sin(12 * scores)
    found = PlattScalingCalibrator().fit(scores[:3000], right[:3000])
    report = calibration_metrics(found.predict(scores[3000:]), right[3000:])
    assert "more than chance and the labels fitted on explain" in report.verdict


@pytest.mark.parametrize("made", [*OF_SCORES, *OF_ROWS], ids=repr)
def test_every_map_has_a_floor(made, tmp_path):
    given, truth = _overconfident(600)
    right = truth[300:]
    if made in OF_ROWS:
        given, truth = _rows(given, truth)
    part = given[:300].copy()
    found = made.fit(part, truth[:300])
    p = found.predict(given[300:])
    before = np.asarray(p).copy()
    if p.ndim == 2:
        right = p.argmax(axis=1) == truth[300:]
        p = p.max(axis=1)
    drawn = _drawn(p, 3)
    part[:] = 0.5
    np.testing.assert_array_equal(_drawn(p, 3), drawn)
    report = calibration_metrics(p, right, n_resamples=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report.floor.upper < report.fitted_floor.upper < 0.4
    np.testing.assert_array_equal(found.predict(given[300:]), before)
    assert report.n_labels == 300

    found.save(tmp_path / "map.json")
    again = load_calibrator(tmp_path / "map.json").predict(given[300:])
    again = again.max(axis=1) if again.ndim == 2 else again
    report = calibration_metrics(again, right, n_resamples=100)
    assert report.n_labels == 300 and report.fitted_floor is None
    line = report.table.loc["floor of the map, 95 %"]
    assert np.isnan(line["value"]) and "file" in line["no_interval"]


def test_a_map_from_a_file_leaves_the_luck_of_its_labels_open(tmp_path):
    scores, right = _overconfident(3000)
    PlattScalingCalibrator().fit(scores[:50], right[:50]).save(tmp_path / "map.json")
    p = load_calibrator(tmp_path / "map.json").predict(scores[50:])
    verdict = calibration_metrics(p, ~right[50:], n_resamples=50).verdict
    assert "unless it is the luck of the 50 labels fitted on" in verdict
    plain = calibration_metrics(np.asarray(p), ~right[50:], n_resamples=50)
    assert plain.n_labels is plain.fitted_floor is None and "luck" not in plain.verdict


def test_one_bin_is_a_share():
    """Its refits are binomial shares, with one of being right or of a class."""
    scores, right = _overconfident(400)
    one = HistogramBinningCalibrator(n_bins=1)
    share = right.mean()
    expected = np.sqrt(share * (1 - share) / 400)
    rows, truth = _rows(scores, right)
    for p in (
        one.fit(scores, right).predict(scores),
        TopVersusAll(one).fit(rows, truth).predict(rows),
    ):
        found = _drawn(p)[:100, 0]
        assert found.mean() == pytest.approx(share, abs=4 * expected / 10)
        assert found.std() == pytest.approx(expected, rel=0.3)
        np.testing.assert_allclose(found * 400, np.round(found * 400), atol=1e-9)


@pytest.mark.parametrize("rows", [False, True])
def test_one_temperature_is_as_sure_as_its_information(rows):
    scores, right = _overconfident(1000)
    x = logit(scores)
    data = (scores, right)
    made = TemperatureScalingCalibrator()
    if rows:
        data, made = _rows(scores, right), MulticlassTemperatureScaling()
    p = made.fit(*data).predict(data[0])
    p = p.max(axis=1) if rows else p
    information = (x**2 * np.asarray(p * (1 - p))).sum()
    found = (logit(_drawn(p)[:100]) / x).std(axis=0)
    np.testing.assert_allclose(found, information**-0.5, rtol=0.25)


def test_outcomes_of_one_kind_are_no_map():
    """One wrong row in forty: a third of the draws have none."""
    signals = pd.DataFrame({"a": np.tile([0.2, 0.4, 0.6, 0.8], 10)})
    right = np.arange(40) > 0
    p = CombinedConfidence().fit(signals, right).predict(signals)
    assert _drawn(p, 100).shape == (100, 40)
    assert calibration_metrics(p, right, n_resamples=20).fitted_floor.upper < 0.2


def test_all_labels_alike_leave_maps_possible():
    scores = np.linspace(0.6, 0.9, 50)
    with pytest.warns(CalibrationWarning):
        found = PlattScalingCalibrator().fit(scores, np.ones(50))
    drawn = _drawn(found.predict(scores[::2]))
    assert drawn.shape == (500, 25) and drawn.min() < found.constant_ - 0.01


def test_values_of_no_calibrator_have_no_maps():
    given = Calibrated([0.5], [False], known=True)
    assert given.plausible(3, np.random.default_rng(0)) is None
