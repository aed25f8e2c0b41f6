"""What fewer bits save, and what they cost: probabilities, accuracy, calibration.

Reviews with labels are classified in each precision in one run. Nothing is asserted.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
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
    times: list[list[float]] = [[] for _ in classifiers]
    found: list[np.ndarray] = []
    for _ in range(REPEATS):  # in turn, since machines are noisy
        found = []
        for classifier, took in zip(classifiers, times, strict=True):
            start = time.perf_counter()
            found.append(classifier.predict_proba(texts))
            took.append(time.perf_counter() - start)
    rows = []
    for (name, _), classifier, took, probabilities in zip(
        ENGINES, classifiers, times, found, strict=True
    ):
        chosen = probabilities.argmax(axis=1)
        correct = np.asarray(classifier.classes_)[chosen] == truth
        confidence = probabilities.max(axis=1)
        moved = np.abs(probabilities - found[0])
        rows.append(
            {
                "way": name,
                "texts/s": len(texts) / np.median(took),
                "ratio": np.median(np.divide(times[0], took)),
                "accuracy": correct.mean(),
                "ECE": expected_calibration_error(confidence, correct),
                "moved by": moved.mean(),
                "at most": moved.max(),
                "other label": (chosen != found[0].argmax(axis=1)).mean(),
            }
        )
    print(f"\n\n{N_REVIEWS} reviews, 2 labels, {len(REVIEW_EXAMPLES)} examples")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
