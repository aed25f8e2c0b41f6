"""The chat protocol, for those who have no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import EMBEDDED
from helpers.datasets import (
    REVIEW_EXAMPLES,
    REVIEW_LABELS,
    REVIEW_PROMPT,
    load_reviews,
)
from helpers.hosted import HostedClassifier, Journal, RequestSettings, Transport


def test_chat_gives_probabilities_with_limits(base_url: str, tmp_path: Path) -> None:
    texts = load_reviews("test", n=5, seed=1)["text"]
    with Journal(tmp_path / "answers.sqlite") as journal:
        classifier = HostedClassifier(
            base_url,
            EMBEDDED,
            REVIEW_LABELS,
            REVIEW_PROMPT,
            examples=REVIEW_EXAMPLES,
            journal=journal,
            settings=RequestSettings(old_limit=True),
            transport=Transport(progress=False),
        )
        assert [turn["role"] for turn in classifier.render(texts.iloc[0])] == [
            *["user", "assistant"] * 2,
            "user",
        ]
        table = classifier.score_table(texts)
        usage = journal.usage().loc[(EMBEDDED, "direct")]
    assert usage["answers"] == len(texts) and usage["errors"] == 0
    assert table["problem"].isna().all() and (table["calls"] == 1).all()
    assert table[["p_negative", "p_positive"]].sum(axis=1).tolist() == pytest.approx(
        [1.0] * len(texts)
    )
    for label in REVIEW_LABELS:
        low, p, high = (table[f"{at}_{label}"] for at in ("lower", "p", "upper"))
        assert np.all(low <= p) and np.all(p <= high) and np.all(low < high)
    # The labels are what the answers are about.
    assert (table["off_label"] < 0.5).all()
    best = table[["p_negative", "p_positive"]].to_numpy().argmax(axis=1)
    assert table["prediction"].tolist() == np.take(REVIEW_LABELS, best).tolist()
