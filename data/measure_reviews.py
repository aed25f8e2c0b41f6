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
from helpers.self_report import read_report

HERE = Path(__file__).resolve().parent
N_SIGNALS = 1500
N_SAMPLES = 10
# What the two examples of the prompt say when they are asked for their confidence.
REPORTS = (80, 95)
QUESTION = "How sure, from 0 to 100:"


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


def measure_signals(reviews: pd.DataFrame, model: LanguageModel) -> pd.DataFrame:
    """Ten sampled answers, and the confidence that the model states, of each review."""
    shown, asked = [], []
    pairs = zip(datasets.REVIEW_EXAMPLES, REPORTS, strict=True)
    for (text, label), report in pairs:
        shown.append(f"Review: {text}\nSentiment: {label}")
        asked.append(f"{shown[-1]}\n{QUESTION} {report}")
    predicted = datasets.load_review_scores("test", model=EMBEDDED)["prediction"]
    rows = []
    for review, text in reviews["text"].items():
        question = f"Review: {text}\nSentiment:"
        answers = model.generate(
            "\n\n".join([*shown, question]),
            n=N_SAMPLES,
            max_new_tokens=2,
            seed=int(str(review)),
        )
        # A label counts where the line ends after it, as it does for the scores.
        lines = [answer.split("\n")[0].strip() for answer in answers if "\n" in answer]
        found = {label: lines.count(label) for label in datasets.REVIEW_LABELS}
        stated = model.generate(
            "\n\n".join([*asked, f"{question} {predicted[review]}\n{QUESTION}"]),
            max_new_tokens=4,
            temperature=0,
        )
        invalid = N_SAMPLES - sum(found.values())
        rows.append({**found, "invalid": invalid, "report": stated[0]})
    table = pd.DataFrame(rows, index=reviews.index).rename_axis("review")
    table["report"] = [
        read_report(stated.lstrip().split("\n")[0]).value for stated in table["report"]
    ]
    return table.astype(dict.fromkeys([*datasets.REVIEW_LABELS, "invalid"], "int8"))


if __name__ == "__main__":
    embedded = LanguageModel.load(EMBEDDED)
    if "scores" in sys.argv:
        both = pd.concat(
            [datasets.load_reviews(split) for split in datasets.SPLITS[1:]]
        ).sort_index()
        scores = measure_scores(both, embedded)
        scores.to_parquet(HERE / "review_scores.parquet", compression="zstd")
    if "signals" in sys.argv:
        drawn = datasets.load_reviews("test", n=N_SIGNALS).sort_index()
        signals = measure_signals(drawn, embedded)
        signals.to_parquet(HERE / "review_signals.parquet")
