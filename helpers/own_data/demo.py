"""Stored reviews to try the command on: what the model answered is kept with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..datasets import (
    REVIEW_EXAMPLES,
    REVIEW_LABELS,
    REVIEW_PROMPT,
    load_review_scores,
    load_reviews,
)
from .candidates import WORDS, Candidate, ModelAnswer
from .deciding import Plan, plan
from .table import OwnTable

_LABELLED, _ROWS = 400, 700


class _KeptAnswers(ModelAnswer):
    """Answers that were stored once."""

    kept: pd.DataFrame

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        return self.kept.loc[list(texts), ["p_negative", "p_positive"]].to_numpy()

    def score_table(self, texts: pd.Series) -> pd.DataFrame:
        off_label = self.kept.loc[texts.tolist(), "off_label"].to_numpy()
        return Candidate.score_table(self, texts).assign(off_label=off_label)


def demo_plan() -> Plan:
    """400 labelled reviews and 300 others, read by words and by stored answers."""
    reviews = load_reviews("test", n=_ROWS)
    scores = load_review_scores("test")
    rows = reviews[["movie", "text", "label"]].reset_index(drop=True).astype(object)
    rows.loc[_LABELLED:, "label"] = ""
    table = OwnTable("demo", rows, "text", "label", "movie", (), "")
    made = plan(table, risk=0.1, candidates=[WORDS])
    answers = _KeptAnswers(REVIEW_LABELS, REVIEW_EXAMPLES, prompt=REVIEW_PROMPT)
    answers.kept = scores.loc[reviews.index].set_index(reviews["text"])
    return replace(made, candidates=[*made.candidates, answers])
