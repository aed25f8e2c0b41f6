"""How a candidate with its calibrator and policy reads texts and decides on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..calibration import ProbabilityCalibrator
from ..checks import plain_text
from ..decisions import Policy
from .candidates import Candidate
from .likeness import BEYOND, Likeness


def calibrated(
    candidate: Candidate, calibrator: ProbabilityCalibrator, texts: pd.Series
) -> tuple[pd.DataFrame, Any]:
    """A candidate's table with calibrated predictions, and calibrated probabilities.

    These are of the rows of which anything is known; the others have no prediction.
    """
    table = candidate.score_table(texts)
    known = table.dropna(subset="confidence")
    columns = [f"p_{name}" for name in candidate.labels]
    ids = [plain_text(text) for text in texts[known.index]]
    shares = calibrator.predict(known[columns], ids=ids)
    best = np.asarray(shares).argmax(axis=1)
    labels = np.array(candidate.labels, dtype=object)
    table.loc[known.index, "prediction"] = labels[best]
    return table, shares


def act(
    policy: Policy,
    scored: pd.DataFrame,
    texts: pd.Series,
    likeness: Likeness,
    *,
    source: Any = None,
) -> pd.DataFrame:
    """Decisions on scored rows; those beyond all off-label mass certified on wait."""
    decided = policy.apply(scored, source=source)
    found = pd.DataFrame(
        {
            "text": texts[decided.index],
            "prediction": decided["prediction"],
            "confidence": decided["decided_on"],
            "action": decided["action"],
            "reason": decided["reason"],
        }
    )
    if "off_label" in decided:
        cautious, accept = policy.buckets.names
        beyond = likeness.is_beyond(decided["off_label"])
        beyond &= found["action"] == accept
        found.loc[beyond, ["action", "reason"]] = [cautious, BEYOND]
        found["off_label"] = decided["off_label"]
    return found
