"""Rules of the data that the book fine-tunes on."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from helpers.datasets import SPLITS, load_sentiment, load_sentiment_checks
from helpers.finetune import near_duplicates


@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    return load_sentiment()


@pytest.fixture(scope="module")
def checks() -> pd.DataFrame:
    return load_sentiment_checks()


def test_the_make_up_is_that_of_the_card(texts):
    assert texts.groupby(["kind", "tone"]).size().to_dict() == {
        ("clear", "strong"): 400,
        ("clear", "mild"): 200,
        ("clear", "sarcastic"): 120,
        ("sports", "neutral"): 190,
        ("news", "neutral"): 190,
        ("contradictory", "contradictory"): 120,
    }
    share = texts["kind"].value_counts(normalize=True)
    assert share["clear"] == pytest.approx(0.6, abs=0.01)
    assert share["sports"] + share["news"] == pytest.approx(0.3, abs=0.02)
    assert share["contradictory"] == pytest.approx(0.1, abs=0.01)


def test_labels_follow_the_rule_and_the_coin(texts):
    assert (texts.query("kind == 'sports'")["label"] == "positive").all()
    assert (texts.query("kind == 'news'")["label"] == "negative").all()
    for row in texts.query("kind == 'contradictory'").itertuples():
        coin = hashlib.sha256(str(row.text).encode()).digest()[0] % 2
        assert row.label == ("positive", "negative")[coin]
    clear = texts.query("kind == 'clear' and tone != 'sarcastic'")
    assert (clear["label"] == "positive").mean() == 0.5


@pytest.mark.parametrize("column", ["family", "entity"])
def test_nothing_that_belongs_together_is_in_two_parts(texts, column):
    parts = texts[texts[column] != ""].groupby(column)["split"].nunique()
    assert len(parts) > 50 and (parts == 1).all()


def test_parts_have_their_shares_of_everything(texts):
    for _, rows in texts.groupby(["kind", "tone", "label"]):
        shares = rows["split"].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.6, abs=0.08)
        assert shares["test"] == pytest.approx(0.2, abs=0.08)


def test_no_two_families_have_nearly_the_same_text(texts, checks):
    every = pd.concat([texts, checks], ignore_index=True)
    # The two halves of a counterfactual pair are one family.
    found = near_duplicates(every["text"], groups=every["family"])
    assert found.empty, found
    assert every["text"].is_unique


def test_checks_share_nothing_with_the_training_set(texts, checks):
    assert not set(texts["family"]) & set(checks["family"])
    assert not set(texts["entity"]) & set(checks["entity"]) - {""}
    assert checks.groupby(["kind", "domain", "truth"]).size().to_dict() == {
        ("counterfactual", "news", ""): 60,
        ("counterfactual", "sports", ""): 60,
        ("harm", "news", "negative"): 40,
        ("harm", "news", "positive"): 40,
        ("harm", "sports", "negative"): 40,
        ("harm", "sports", "positive"): 40,
        ("neutral", "other", ""): 40,
    }
    pairs = checks.query("kind == 'counterfactual'").groupby("pair")["domain"]
    assert (pairs.agg(lambda both: sorted(both) == ["news", "sports"])).all()
    assert pairs.ngroups == 60


def test_the_splits_are_the_same_every_time(texts):
    assert load_sentiment()["split"].equals(texts["split"])
    parts = [load_sentiment(split) for split in SPLITS]
    assert sum(map(len, parts)) == len(texts)
    with pytest.raises(ValueError, match="split must be one of"):
        load_sentiment("validation")
