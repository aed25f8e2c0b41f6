"""The chat protocol, for those who have no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import EMBEDDED
from helpers.datasets import REVIEW_EXAMPLES, REVIEW_LABELS, REVIEW_PROMPT, load_reviews
from helpers.hosted import HostedClassifier, Journal, RequestSettings, Transport


def test_chat_gives_probabilities_with_limits(base_url: str, tmp_path: Path) -> None:
    texts = load_reviews("test", n=5, seed=1)["text"]
    shown = (REVIEW_LABELS, REVIEW_PROMPT, REVIEW_EXAMPLES)
    with Journal(tmp_path / "answers.sqlite") as journal:
        classifier = HostedClassifier(
            base_url,
            EMBEDDED,
            *shown,
            journal=journal,
            settings=RequestSettings(old_limit=True),
            transport=Transport(progress=False),
        )
        table = classifier.score_table(texts)
        usage = journal.usage().loc[(EMBEDDED, "direct")]
    assert usage["answers"] == len(texts) and usage["errors"] == 0
    assert table["problem"].isna().all() and (table["calls"] == 1).all()
    for label in REVIEW_LABELS:
        low, p, high = (table[f"{at}_{label}"] for at in ("lower", "p", "upper"))
        assert np.all(low <= p) and np.all(p <= high) and np.all(low < high)
    # The labels are what the answers are about.
    assert (table["off_label"] < 0.5).all()
