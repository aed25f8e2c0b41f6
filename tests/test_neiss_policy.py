"""A policy on real injury cases: certified on some of them, verified on others."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from helpers import datasets
from helpers.calibration import TopLabelCalibrator, PlattScalingCalibrator
from helpers.decisions import Policy, choose_threshold


@cache
def predictions(how: str, split: str) -> pd.DataFrame:
    return datasets.load_neiss_predictions(how, split)


def certified(
    how: str, fit: pd.DataFrame, choose: pd.DataFrame, max_risk: float
) -> Policy:
    columns = [name for name in fit if name.startswith("p_")]
    maps = TopLabelCalibrator(PlattScalingCalibrator()).fit(fit[columns], fit["truth"])
    scores = maps.predict(choose[columns])
    found = choose_threshold(scores, choose["correct"], max_risk)
    return Policy.from_certified(found, calibrator=maps, name=how)


# A class with few cases may have a map that falls.
@pytest.mark.filterwarnings("ignore::helpers.calibration.CalibrationWarning")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("how", "coverage"), [("fine-tuned", 0.8), ("tf-idf", 0.55)])
def test_most_cases_are_coded_at_95_percent(
    how: str, coverage: float, turned: bool
) -> None:
    """Whichever part chooses, the other one bears it out."""
    known, others = (predictions(how, part) for part in ("calibration", "test"))
    if turned:
        known, others = others, known
    for seed in range(3):
        half = np.random.default_rng(seed).permutation(len(known)) < len(known) // 2
        policy = certified(how, known[half], known[~half], 0.05)
        (found,) = policy.verify(others, max_risk=0.05).verified
        assert found.verdict != "fails"
        assert found.n_labels == len(others) and found.rule == policy.rule
        assert coverage < found.coverage_low < found.coverage < found.coverage_high
        acted = policy.apply(others)
        accepted = acted["action"] == "accept"
        assert accepted.sum() == found.n_accepted
        assert (~acted["correct"])[accepted].mean() == pytest.approx(found.risk)
        assert found.risk < 0.05


def test_the_split_of_the_chapter_is_certified_and_verified() -> None:
    known = predictions("fine-tuned", "calibration")
    half = np.random.default_rng(0).permutation(len(known)) < len(known) // 2
    policy = certified("fine-tuned", known[half], known[~half], 0.05)
    (found,) = policy.verify(predictions("fine-tuned", "test"), 0.05).verified
    assert found.verdict == "holds" and found.high <= 0.05 and found.coverage > 0.85


def test_a_model_that_is_seldom_right_gets_no_threshold() -> None:
    known = predictions("few-shot", "calibration")
    half = np.random.default_rng(0).permutation(len(known)) < len(known) // 2
    policy = certified("few-shot", known[half], known[~half], 0.05)
    assert "No threshold can be certified" in policy.note
    assert set(policy.apply(known[~half])["action"]) == {"review"}


def test_another_model_and_rows_that_were_fitted_on_are_refused() -> None:
    known = predictions("fine-tuned", "calibration")
    half = np.random.default_rng(0).permutation(len(known)) < len(known) // 2
    policy = certified("fine-tuned", known[half], known[~half], 0.05)
    with pytest.raises(ValueError, match="source differs: this policy is for"):
        policy.apply(predictions("few-shot", "test"))
    with pytest.raises(
        ValueError, match=f"fitted on {half.sum()} of these {len(known)}"
    ):
        policy.verify(known, 0.05)
