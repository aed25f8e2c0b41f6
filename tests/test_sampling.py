"""Rules of helpers.sampling: answers are drawn from the model's own distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, multinomial

from helpers import sampling
from helpers.classifier import LLMClassifier
from helpers.models import LanguageModel
from helpers.sampling import (
    INVALID,
    agreement,
    sample_votes,
    winners_share,
)
from helpers.scoring import label_logprobs
from helpers.verbalizer import LabelTokens

LABELS = ["positive", "negative"]
PROMPT = "Review: {text}\nSentiment:"
TEXTS = ["funny and warm", "dull", "no way", "a film", "not a bore"]


def make(model: LanguageModel, **settings: Any) -> LLMClassifier:
    return LLMClassifier(model, **({"labels": LABELS, "prompt": PROMPT} | settings))


def table(*rows: list[int], columns: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=[*columns, INVALID])


class Fixed:
    """In place of a classifier: prompts and labels as they are given."""

    token_budget: int | None = None

    def __init__(self, model: LanguageModel, labels: LabelTokens, n: int = 5) -> None:
        self.model, self.labels = model, labels
        asked = [
            f"Review: {text} {at}\nSentiment:" for at, text in enumerate(TEXTS * n)
        ]
        self.prompts = [model.encode(prompt) for prompt in asked]

    def inputs(self, X: Any) -> Any:
        return self.model, self.labels, self.prompts[: len(X)], ()

    def source(self) -> dict[str, str]:
        return {"model": self.model.name}


def likely_labels(model: LanguageModel, *, ended: bool) -> LabelTokens:
    """Labels of very many spellings, so that every text gives all of them.

    Of tokens with numbers 3k and 3k + 1 the first two labels are made; some of 3k + 2
    begin the third one. If even tokens end an answer, odd ones may go on: so "a" also
    begins "b" there.
    """
    n = len(model.tokenizer)
    owned = {(token,): token % 3 for token in range(n) if token % 3 < 2}
    owned |= {(token, end): 2 for token in range(2, n, 3) for end in range(1, n, 29)}
    if ended:
        owned |= {(0, odd): 1 for odd in range(1, 40, 2)}
    stops = tuple(range(0, n, 2)) if ended else ()
    return LabelTokens(("a", "b", "c"), tuple(owned), tuple(owned.values()), stops)


@pytest.mark.parametrize("any_model", ["tiny_llama", "tiny_gpt2"], indirect=True)
@pytest.mark.parametrize("ended", [True, False])
def test_shares_are_the_models_own(any_model: LanguageModel, ended: bool) -> None:
    labels = likely_labels(any_model, ended=ended)
    asked: Any = Fixed(any_model, labels)
    n = 4000
    votes = sample_votes(asked, TEXTS, n=n, seed=1)
    exact = np.exp(label_logprobs(any_model, asked.prompts[:5], labels))
    expected = np.column_stack([exact, 1 - exact.sum(axis=1)]).clip(0, 1)
    assert (expected.max(axis=0) > 0.1).sum() >= 3  # else there is nothing to see
    assert list(votes.columns) == ["a", "b", "c", INVALID]
    assert (votes.sum(axis=1) == n).all()
    deviation = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(votes / n - expected) <= 4.5 * deviation + 1e-3).all(axis=None)


def test_same_seed_same_answers_whatever_the_batches(tiny_llama: LanguageModel) -> None:
    asked: Any = Fixed(tiny_llama, likely_labels(tiny_llama, ended=True))
    votes = sample_votes(asked, TEXTS, n=60, seed=5)
    assert not votes.equals(sample_votes(asked, TEXTS, n=60, seed=6))
    asked.token_budget = 1
    pd.testing.assert_frame_equal(votes, sample_votes(asked, TEXTS, n=60, seed=5))


def test_without_a_tree_the_answers_are_the_same(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = Fixed(tiny_llama, likely_labels(tiny_llama, ended=False))
    votes = sample_votes(asked, TEXTS[:2], n=200, seed=7)
    assert (votes.sum() > 0).sum() >= 3
    monkeypatch.setattr(sampling, "tree_is_exact", lambda *_: False)
    alone = sample_votes(asked, TEXTS[:2], n=200, seed=7)
    # A rounding error can turn a draw.
    assert np.abs(votes.to_numpy() - alone.to_numpy()).sum() <= 4


def test_temperature_sharpens_and_flattens(tiny_llama: LanguageModel) -> None:
    asked: Any = Fixed(tiny_llama, likely_labels(tiny_llama, ended=False))
    cold, own, hot = (
        sample_votes(asked, TEXTS, n=400, temperature=t, seed=1) for t in (0.2, 1, 30)
    )
    entropies = [agreement(votes)["entropy"].mean() for votes in (cold, own)]
    assert entropies[0] < entropies[1]
    greedy = sample_votes(asked, TEXTS, n=40, top_k=1)
    assert (greedy.max(axis=1) == 40).all() and not (own.max(axis=1) == 400).all()
    # So hot that all tokens are alike: a third of them is "a", a third "b".
    assert (hot[["a", "b"]] / 400).to_numpy() == pytest.approx(1 / 3, abs=0.09)


def test_votes_know_their_texts_and_their_source(tiny_llama: LanguageModel) -> None:
    texts = pd.Series(TEXTS, index=[9, 4, 7, 1, 3])
    classifier = make(tiny_llama)
    votes = sample_votes(classifier, texts, n=2)
    assert list(votes.index) == [9, 4, 7, 1, 3]
    assert votes.attrs["source"] == classifier.source()
    assert sample_votes(classifier, [], n=3).shape == (0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be a whole number of 1 or more, not 0"),
        ({"temperature": 0}, "without chance all answers are the same"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
    ],
)
def test_bad_settings_are_refused(
    tiny_llama: LanguageModel, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sample_votes(make(tiny_llama), TEXTS, **settings)


def test_labels_that_share_an_answer_are_refused(tiny_llama: LanguageModel) -> None:
    shared = make(tiny_llama, spellings={"positive": ["yes"], "negative": ["yes"]})
    with pytest.raises(ValueError, match="share the tokens"):
        sample_votes(shared, TEXTS)
    with pytest.raises(ValueError, match="must not contain 'invalid'"):
        sample_votes(make(tiny_llama, labels=["yes", INVALID]), TEXTS)


# Votes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("won", "n", "wilson", "exact"),
    # formulas_and_pitfalls §4.5; ends computed by hand to three digits.
    [
        (5, 5, (0.566, 1.0), (0.478, 1.0)),
        (10, 10, (0.722, 1.0), (0.692, 1.0)),
        (7, 10, (0.397, 0.892), (0.348, 0.933)),
    ],
)
def test_intervals_of_agreement(
    won: int, n: int, wilson: tuple[float, float], exact: tuple[float, float]
) -> None:
    methods: dict[Any, Any] = {"wilson": wilson, "clopper-pearson": exact}
    for method, ends in methods.items():
        found = agreement(table([won, n - won, 0]), method=method).iloc[0]
        assert (found["low"], found["high"]) == pytest.approx(ends, abs=5e-4)


def test_invalid_answers_stay_in_the_denominator() -> None:
    found = agreement(table([6, 1, 3], [0, 0, 10]))
    assert found["agreement"].tolist() == [0.6, 0.0]
    assert found["n"].tolist() == [10, 10]
    assert found["prediction"].tolist() == ["a", "a"]
    assert found["entropy"].tolist() == pytest.approx([0.89794572, 0.0])
    given = agreement(table([6, 1, 3], [2, 8, 0]), prediction=["b", "a"])
    assert given["agreement"].tolist() == [0.1, 0.2]


def test_every_share_lies_in_its_interval() -> None:
    votes = table(*[[k, 20 - k, 0] for k in range(21)])
    for method in ("wilson", "clopper-pearson"):
        chosen: Any = method
        found = agreement(votes, prediction=["a"] * 21, method=chosen)
        assert (found["low"] <= found["agreement"]).all()
        assert (found["agreement"] <= found["high"]).all()
        assert found[["low", "high"]].isin([0, 1]).sum().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("p", "n", "share"),
    # formulas_and_pitfalls §4.5: E[max share] of two labels.
    [(0.5, 3, 0.75), (0.5, 20, 0.588), (0.6, 10, 0.647), (0.9, 5, 0.902)],
)
def test_winners_share_of_the_table(p: float, n: int, share: float) -> None:
    found = winners_share([p, 1 - p], n)
    assert found == pytest.approx(share, abs=0.002)
    k = np.arange(n + 1)
    exact = float(np.sum(binom.pmf(k, n, p) * np.maximum(k, n - k)) / n)
    assert found == pytest.approx(exact, abs=1e-9)


def test_winners_share_of_several_outcomes() -> None:
    p, n = np.array([0.5, 0.3, 0.2]), 6
    counts = [[a, b, n - a - b] for a in range(n + 1) for b in range(n + 1 - a)]
    expected = multinomial.pmf(counts, n, p) @ np.max(counts, axis=1) / n
    assert winners_share(p, n) == pytest.approx(expected)
    assert winners_share([1.0, 0.0], 9) == pytest.approx(1)
    assert winners_share([0.25] * 4, 1) == 1
    assert winners_share([0.5, 0.5], 400) == pytest.approx(0.52, abs=0.001)


VOTES = table([1, 2, 0])
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: agreement(table([0, 0, 0])), "an answer in each row; row 0 has none"),
    (lambda: agreement(table([1, -1, 0])), "whole numbers of 0 or more"),
    (lambda: agreement(VOTES / 2), "whole numbers of 0 or more"),
    (lambda: agreement(VOTES.head(0)), "votes must have at least one row"),
    (lambda: agreement(VOTES, prediction=["c"]), "row 0 is 'c'"),
    (lambda: agreement(VOTES, prediction=[INVALID]), "row 0 is 'invalid'"),
    (lambda: agreement(VOTES, prediction=["a", "b"]), "one value for each"),
    (lambda: agreement(VOTES, level=95), "level must lie between 0 and 1"),
    (lambda: winners_share([0.5, 0.6], 3), "must sum to one"),
    (lambda: winners_share([0.5, 0.5], 0), "n must be a whole number"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[m for _, m in CALLS])
def test_bad_votes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
