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
RNG = np.random.default_rng(1)
P, Q = RNG.uniform(0.5, 1, (2, 600))
LABELLED, TEST = (P, RNG.random(600) < P**2), (Q, RNG.random(600) < Q**2)


class Spy(Calibrator):
    """Remembers what it was fitted on, and leaves scores as they are."""

    def _fit(self, values: np.ndarray, truth: np.ndarray) -> None:
        FITTED.append(np.sort(values))

    def _predict(self, values: np.ndarray) -> np.ndarray:
        return values


@pytest.fixture(autouse=True)
def nothing_fitted() -> None:
    FITTED.clear()


def test_all_calibrators_get_the_same_draws_and_are_measured_on_the_test_rows() -> None:
    spies: Any = {"a": Spy(), "b": Spy()}
    table = learning_curves(spies, LABELLED, TEST, sizes=[50, 100], n_draws=3, n_bins=7)
    assert [len(part) for part in FITTED] == [50] * 6 + [100] * 6
    for first, second in zip(FITTED[::2], FITTED[1::2], strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(FITTED[0], FITTED[2])
    assert all(np.isin(part, P).all() for part in FITTED)
    assert all(len(np.unique(part)) == len(part) for part in FITTED)  # none twice
    assert table.groupby(["calibrator", "n"]).size().tolist() == [3, 3, 3, 3]
    assert table["brier"].to_numpy() == pytest.approx(brier_score(*TEST))
    expected = expected_calibration_error(*TEST, binning=Binning(7))
    assert table["ece"].to_numpy() == pytest.approx(expected)


def test_more_labels_help_on_average_and_the_seed_decides() -> None:
    made: Any = {"histogram": HistogramBinningCalibrator()}
    tables = [
        learning_curves(made, LABELLED, TEST, sizes=[25, 500], n_draws=8, rng=seed)
        for seed in (3, 3, 4)
    ]
    few, many = tables[0].groupby("n")["brier"].mean()
    assert many < few
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_curves_hold_every_test_row_in_its_bin() -> None:
    table = held_out_curves(Spy(), LABELLED, TEST, sizes=[40], n_draws=2, least=1)
    one = table[table["draw"] == 0]
    assert one["bin"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert one["rows"].sum() == 600
    top = Q >= 0.9
    last = [Q[top].mean(), TEST[1][top].mean(), top.sum()]
    found = one[["confidence", "accuracy", "rows"]].iloc[-1]
    assert found.tolist() == pytest.approx(last)
    thick = held_out_curves(Spy(), LABELLED, TEST, sizes=[40], n_draws=2, least=115)
    assert thick.equals(table[table["rows"] >= 115].reset_index(drop=True))
    assert 0 < len(thick) < len(table)


def test_a_rare_outcome_is_in_every_draw() -> None:
    rare = np.linspace(0.1, 0.9, 200), np.arange(200) < 4
    platt: Any = {"spy": PlattScalingCalibrator(scale="probability")}
    with pytest.warns(UserWarning, match="not more often right"):
        table = learning_curves(platt, rare, rare, sizes=[10], n_draws=5)
    assert len(table) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [601]}, "sizes must not exceed the 600 rows"),
        ({"sizes": [1]}, "sizes must be a whole number of 2 or more, not 1"),
        ({"n_draws": 0}, "n_draws must be a whole number of 1 or more"),
        ({"test": (Q + 1, TEST[1])}, "test_scores must lie in"),
        ({"labelled": (P, np.ones(600))}, "both outcomes; all 600 rows are True"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"labelled": LABELLED, "test": TEST, "sizes": [9]}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        learning_curves({"spy": Spy()}, **arguments)
    with pytest.raises(ValueError, match=message):
        held_out_curves(Spy(), **arguments)
    assert not FITTED
