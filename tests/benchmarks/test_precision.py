"""What fewer bits save, and what they cost: probabilities, accuracy, calibration.

Reviews with labels are classified in each precision in one run. Nothing is asserted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from cases import seconds
from rivals import ENGINES

from helpers import EMBEDDED
from helpers.classifier import LLMClassifier
from helpers.datasets import load_reviews
from helpers.datasets.reviews import REVIEW_EXAMPLES, REVIEW_LABELS, REVIEW_PROMPT
from helpers.metrics import expected_calibration_error
from helpers.models import LanguageModel

N_REVIEWS = 600
REPEATS = 3


def test_what_precision_costs() -> None:
    reviews = load_reviews("test", n=N_REVIEWS)
    texts, truth = reviews["text"].tolist(), reviews["label"].to_numpy()
    classifiers = [
        LLMClassifier(
            LanguageModel.load(EMBEDDED, **settings),
            REVIEW_LABELS,
            REVIEW_PROMPT,
            REVIEW_EXAMPLES,
            cache=False,
        ).fit()
        for _, settings in ENGINES
    ]
    for classifier in classifiers:
        classifier.predict_proba(texts[:8])  # warm up
    found: list[pd.DataFrame] = []
    times = []
    for _ in range(REPEATS):  # in turn, since machines are noisy
        found.clear()
        times.append(
            [
                seconds(lambda one=one: found.append(one.score_table(texts, truth)))
                for one in classifiers
            ]
        )
    took = np.array(times)
    rows = []
    for at, ((name, _), table) in enumerate(zip(ENGINES, found, strict=True)):
        moved = (table["p_positive"] - found[0]["p_positive"]).abs()
        ece = expected_calibration_error(table["confidence"], table["correct"])
        rows.append(
            {
                "way": name,
                "texts/s": len(texts) / np.median(took[:, at]),
                "ratio": np.median(took[:, 0] / took[:, at]),
                "accuracy": table["correct"].mean(),
                "ECE": ece,
                "moved by": moved.mean(),
                "at most": moved.max(),
                "other label": (table["prediction"] != found[0]["prediction"]).mean(),
            }
        )
    print(f"\n\n{N_REVIEWS} reviews, 2 labels, {len(REVIEW_EXAMPLES)} examples")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
