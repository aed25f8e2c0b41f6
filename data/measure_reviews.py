"""Measure what the embedded model says of the reviews, and write it down here.

    python data/measure_reviews.py scores     # about 5 minutes on two cores
    python data/measure_reviews.py signals    # about 15 minutes

The cards beside the two files say what is in them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from helpers import EMBEDDED, datasets
from helpers.classifier import LLMClassifier
from helpers.models import LanguageModel

HERE = Path(__file__).resolve().parent


def measure_scores(reviews: pd.DataFrame, model: LanguageModel) -> pd.DataFrame:
    """The probability of "positive", and the mass on no label, of each review."""
    classifier = LLMClassifier(
        model,
        datasets.REVIEW_LABELS,
        datasets.REVIEW_PROMPT,
        datasets.REVIEW_EXAMPLES,
    )
    table = classifier.score_table(reviews["text"])
    return table[["p_positive", "off_label"]].round(6).rename_axis("review")


if __name__ == "__main__":
    embedded = LanguageModel.load(EMBEDDED)
    if "scores" in sys.argv:
        both = pd.concat(
            [datasets.load_reviews(split) for split in datasets.SPLITS[1:]]
        ).sort_index()
        scores = measure_scores(both, embedded)
        scores.to_parquet(HERE / "review_scores.parquet", compression="zstd")
    if "signals" in sys.argv:
        drawn = datasets.load_reviews("test", n=datasets.N_SIGNALS).sort_index()
        signals = datasets.measure_review_signals(embedded, drawn["text"])
        signals.rename_axis("review").to_parquet(HERE / "review_signals.parquet")
