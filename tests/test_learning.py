"""Learning curves: same draws for all, nothing fitted on what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.calibration import (
    Calibrator,
    HistogramBinningCalibrator,
    PlattScalingCalibrator,
    held_out_curves,
    learning_curves,
)
from helpers.metrics import Binning, brier_score, expected_calibration_error

FITTED: list[np.ndarray] = []


class Spy(Calibrator):
    """Remembers what it was fitted on, and leaves scores as they are."""

    def _fit(self, scores: np.ndarray, correct: np.ndarray) -> None:
        FITTED.append(np.sort(scores))

    def _predict(self, scores: np.ndarray) -> np.ndarray:
        return scores


@pytest.fixture
def data() -> tuple[np.ndarray, ...]:
    FITTED.clear()
    rng = np.random.default_rng(1)
    p, q = rng.uniform(0.5, 1, (2, 600))
    return p, rng.random(600) < p**2, q, rng.random(600) < q**2


def test_all_calibrators_get_the_same_draws(data: tuple[np.ndarray, ...]) -> None:
    table = learning_curves(
        {"a": Spy(), "b": Spy()}, *data, sizes=[50, 100], n_draws=3, rng=0
    )
    assert [len(part) for part in FITTED] == [50] * 6 + [100] * 6
    for first, second in zip(FITTED[::2], FITTED[1::2], strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(FITTED[0], FITTED[2])
    assert all(np.isin(part, data[0]).all() for part in FITTED)
    assert all(len(np.unique(part)) == len(part) for part in FITTED)  # none twice
    assert table.groupby(["calibrator", "n"]).size().tolist() == [3, 3, 3, 3]


def test_measures_are_those_of_the_test_rows(data: tuple[np.ndarray, ...]) -> None:
    table = learning_curves({"same": Spy()}, *data, sizes=[30], n_draws=2, n_bins=7)
    test, truth = data[2:]
    assert table["brier"].to_numpy() == pytest.approx(brier_score(test, truth))
    expected = expected_calibration_error(test, truth, binning=Binning(7))
    assert table["ece"].to_numpy() == pytest.approx(expected)


def test_more_labels_help_on_average(data: tuple[np.ndarray, ...]) -> None:
    table = learning_curves(
        {"histogram": HistogramBinningCalibrator()}, *data, sizes=[25, 500], n_draws=10
    )
    few, many = table.groupby("n")["brier"].mean()
    assert many < few


def test_curves_hold_every_test_row_in_its_bin(data: tuple[np.ndarray, ...]) -> None:
    table = held_out_curves(Spy(), *data, sizes=[40], n_draws=2, least=1, n_bins=10)
    one = table[table["draw"] == 0]
    assert one["bin"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert one["rows"].sum() == 600
    test, truth = data[2:]
    top = test >= 0.9
    assert one["confidence"].iloc[-1] == pytest.approx(test[top].mean())
    assert one["accuracy"].iloc[-1] == pytest.approx(truth[top].mean())
    assert one["rows"].iloc[-1] == top.sum()


def test_thin_bins_are_left_out(data: tuple[np.ndarray, ...]) -> None:
    table = held_out_curves(
        PlattScalingCalibrator(), *data, sizes=[200], n_draws=3, least=80
    )
    assert (table["rows"] >= 80).all() and len(table)


def test_same_seed_same_table(data: tuple[np.ndarray, ...]) -> None:
    platt: dict[str, Any] = {"Platt": PlattScalingCalibrator()}
    first, again, other = (
        learning_curves(platt, *data, sizes=[60], n_draws=2, rng=seed)
        for seed in (3, 3, 4)
    )
    assert first.equals(again) and not first.equals(other)


def test_a_rare_outcome_is_in_every_draw() -> None:
    scores = np.linspace(0.1, 0.9, 200)
    correct = np.zeros(200, bool)
    correct[:4] = True
    spy: dict[str, Any] = {"spy": Spy()}
    table = learning_curves(
        spy, scores, correct, scores, correct, sizes=[10], n_draws=5
    )
    assert len(table) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [601]}, "sizes must not exceed the 600 rows"),
        ({"sizes": [1]}, "sizes must be a whole number of 2 or more, not 1"),
        ({"n_draws": 0}, "n_draws must be a whole number of 1 or more"),
    ],
)
def test_bad_settings_are_refused(
    data: tuple[np.ndarray, ...], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learning_curves({"spy": Spy()}, *data, **change)
    assert not FITTED


def test_bad_rows_are_refused(data: tuple[np.ndarray, ...]) -> None:
    p, y, q, z = data
    spy: dict[str, Any] = {"spy": Spy()}
    with pytest.raises(ValueError, match="test_scores must lie in"):
        learning_curves(spy, p, y, q + 1, z)
    with pytest.raises(ValueError, match="test_correct must have one value"):
        held_out_curves(Spy(), p, y, q, z[:-1])
    with pytest.raises(ValueError, match="both outcomes; all 600 rows are True"):
        learning_curves(spy, p, np.ones(600), q, z, sizes=[10])
