"""Numbers that others published or that follow from theirs by hand, met by our code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.calibration import (
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    TemperatureScalingCalibrator,
)
from helpers.datasets import load_published_tables


@pytest.fixture(scope="module")
def published() -> dict[str, pd.Series]:
    """Probabilities by token for each text of the README (test_vectors §5.1)."""
    table = load_published_tables()
    return {
        text: rows.set_index("token")["probability"]
        for text, rows in table.groupby("text")
    }


def test_spellings_of_yes_add_up(published):
    clear = published["I love this movie!"]
    unsure = published["Best worst thing ever"]
    assert clear[["Yes", "yes", "YES"]].sum() == pytest.approx(0.999563)
    yes, no = unsure[["Yes", "yes", "YES"]].sum(), unsure[["No", "no"]].sum()
    assert (yes, no) == pytest.approx((0.5211, 0.4763))
    assert unsure.sum() == pytest.approx(0.9980, abs=5e-5)
    assert yes / (yes + no) == pytest.approx(0.5224583918)


@pytest.mark.parametrize(
    ("temperature", "label_level", "token_level"),
    # test_vectors §5.1: the label's probability tempered, and the tokens' before they
    # are added up. The two differ.
    [
        (2.0, 0.5112348654, 0.5087169441),
        (3.0, 0.5074906107, 0.5120936740),
        (0.5, 0.5448263457, 0.5783246776),
    ],
)
def test_temperature_on_labels_is_not_temperature_on_tokens(
    published, temperature, label_level, token_level
):
    unsure = published["Best worst thing ever"]
    yes, no = unsure[["Yes", "yes", "YES"]], unsure[["No", "no"]]
    share = yes.sum() / (yes.sum() + no.sum())
    single = TemperatureScalingCalibrator().fit([0.6, 0.7, 0.8], [1, 0, 1])
    single.temperature_ = temperature
    assert single.predict([share])[0] == pytest.approx(label_level, abs=1e-9)
    several = MulticlassTemperatureScaling()
    several.fit([[0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4]], [0, 0, 1, 1])
    several.temperature_ = temperature
    assert several.predict([[share, 1 - share]])[0, 0] == pytest.approx(label_level)
    powers = [(tokens ** (1 / temperature)).sum() for tokens in (yes, no)]
    assert powers[0] / sum(powers) == pytest.approx(token_level, abs=1e-9)


@pytest.mark.parametrize(
    ("y", "fitted"),
    # test_vectors §5.3. The first three: R's help page of isoreg; the last:
    # scikit-learn's test of isotonic_regression.
    [
        ([1, 0, 4, 3, 3, 5, 4, 2, 0], [0.5] * 2 + [3] * 7),
        ([1, 0, 4, 3, 3, 5, 4, 2, 3], [0.5] * 2 + [10 / 3] * 3 + [3.5] * 4),
        ([5, 9, 1, 2, 5, 6, 7, 8, 3, 8], [4.25] * 4 + [5] + [6] * 4 + [8]),
        ([5, 3, 1, 2, 8, 10, 7, 9, 6, 4], [2.75] * 4 + [22 / 3] * 6),
    ],
)
@pytest.mark.parametrize("rule", ["linear", "step"])
def test_isotonic_fits_of_r_and_scikit_learn(y, fitted, rule):
    # A mean of y/m stands for m rows of equal score, y of them right.
    most = max(y)
    scores = np.linspace(0.1, 0.9, len(y))
    correct = np.concatenate([np.arange(most) < value for value in y])
    isotonic = IsotonicRegressionCalibrator(rule=rule)
    isotonic.fit(np.repeat(scores, most), correct)
    assert np.asarray(isotonic.predict(scores)) * most == pytest.approx(fitted)
