"""What a model answers and its hidden states, in one regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from helpers.logistic import grouped_folds
from helpers.models import LanguageModel
from helpers.own_data import deciding
from helpers.own_data.candidates import (
    ANSWER,
    BOTH,
    PROBE,
    AnswerAndStates,
    LinearProbe,
    ModelAnswer,
)
from helpers.own_data.on_request import from_dict
from helpers.own_data.table import OwnTable, Rows

EXAMPLES = [("yes a joy", "good"), ("no bore", "bad")]


@pytest.fixture
def model(tiny_gpt2: LanguageModel, tmp_path: Path) -> LanguageModel:
    """A tiny network that can be loaded by its path."""
    folder = tmp_path / "network"
    tiny_gpt2.network.save_pretrained(folder)
    tiny_gpt2.tokenizer.save_pretrained(folder)
    return LanguageModel.load(str(folder), device="cpu")


def made_of(model: LanguageModel) -> AnswerAndStates:
    answer = ModelAnswer(["good", "bad"], EXAMPLES, model)
    return AnswerAndStates(answer, LinearProbe(model))


def drawn(n: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.choice(["good", "bad"], n)
    words = np.where(
        rng.random(n) < 0.1, "maybe", np.where(truth == "good", "yes", "no")
    )
    return [f"{word} film {at}" for at, word in enumerate(words)], truth


def test_equals_the_parts_of_scikit_learn(model: LanguageModel) -> None:
    texts, truth = drawn(60)
    groups = np.arange(60) // 2
    made = made_of(model).fit(Rows(texts, truth, groups))
    codes = (truth == "good").astype(int)

    def features(some: list[str]) -> list[np.ndarray]:
        answers = made.answer.classifier.raw_log_proba(some)
        return [made.states.probe.features(some), answers]

    scalers = [StandardScaler().fit(block) for block in features(texts)]

    def scaled(some: list[str]) -> np.ndarray:
        pairs = zip(scalers, features(some), strict=True)
        blocks = [scaler.transform(block) for scaler, block in pairs]
        return np.hstack([block / np.sqrt(block.shape[1]) for block in blocks])

    known, folds = scaled(texts), grouped_folds(codes, groups, 3)

    def loss(strength: float) -> float:
        regression, found = LogisticRegression(C=strength, max_iter=10_000), 0.0
        for fit, judge in folds:
            shares = regression.fit(known[fit], codes[fit]).predict_proba(known[judge])
            found += log_loss(codes[judge], shares, labels=[0, 1], normalize=False)
        return found

    best = min(np.logspace(-2, 4, 7), key=loss)
    expected = LogisticRegression(C=best, max_iter=10_000).fit(known, codes)
    new = ["yes", "no no", "maybe a bore"]
    found = made.predict_proba(new)
    assert made.labels == ["bad", "good"]
    np.testing.assert_allclose(found, expected.predict_proba(scaled(new)), atol=1e-3)
    assert 1e-3 < found.min() < 0.3


def test_examples_teach_nothing_about_answers(model: LanguageModel) -> None:
    texts, truth = drawn(30)
    alone = made_of(model).fit(Rows(texts, truth, np.arange(30)))
    more = [*texts, *(text.upper() for text, _ in EXAMPLES)]
    labels = np.array([*truth, *(label for _, label in EXAMPLES)])
    again = made_of(model).fit(Rows(more, labels, np.arange(32)))
    found = again.predict_proba(texts)
    np.testing.assert_allclose(found, alone.predict_proba(texts), atol=1e-6)


def test_it_reads_nothing_that_the_others_have_read_and_is_stored(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, truth = drawn(40)
    rows = pd.DataFrame({"text": texts, "label": truth})
    table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    asked: dict[str, Any] = {"model": model, "candidates": [ANSWER, PROBE]}
    plan = deciding.plan(table, **asked)
    assert [one.name for one in plan.candidates] == [ANSWER, PROBE, BOTH]
    seconds = plan.seconds()
    assert seconds.loc[BOTH, "compared"] == 0
    sums = seconds.loc[[ANSWER, PROBE], "chosen"].sum()
    assert seconds.loc[BOTH, "chosen"] == pytest.approx(sums)
    answer, probe, both = plan.candidates
    rest = plan.chosen_on
    texts, truth = rows["text"][rest].tolist(), truth[rest]
    answer.predict_proba(texts)
    groups = np.arange(len(texts))
    probe.fit(Rows(texts, truth, groups))

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a text is read again")

    with monkeypatch.context() as patched:
        patched.setattr(type(model.network), "forward", read)
        patched.setattr(type(model.network.base_model), "forward", read)
        shares = both.fit(Rows(texts, truth, groups)).predict_proba(texts)
    stored = json.loads(json.dumps(both.to_dict()))
    again = from_dict(stored)
    np.testing.assert_allclose(again.predict_proba(texts), shares, atol=1e-6)
    assert again.source() == both.source()
    assert both.fit(Rows(texts, truth[::-1], groups)).source() != again.source()
    for part in ("mean", "scale", "coef", "intercept"):
        other = stored["coef" if part == "intercept" else "intercept"]
        with pytest.raises(ValueError, match="do not fit together"):
            from_dict({**stored, part: other})
    stored["answer"]["fingerprint"] = "0" * 64
    with pytest.raises(ValueError, match="is for the model"):
        from_dict(stored)


def test_it_is_tried_beside_both_of_its_parts_only(model: LanguageModel) -> None:
    texts, truth = drawn(40)
    rows = pd.DataFrame({"text": texts, "label": truth})
    table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    for name in (ANSWER, PROBE):
        plan = deciding.plan(table, model=model, candidates=[name])
        assert [one.name for one in plan.candidates] == [name]
