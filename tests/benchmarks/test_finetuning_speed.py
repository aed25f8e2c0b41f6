"""A training of the last six layers, with and without its trunk; by ``make bench``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.classifier import LLMClassifier
from helpers.datasets import load_sentiment
from helpers.finetune import Lora, TrainingSettings, finetune, training
from helpers.models import LanguageModel

N_TEXTS, N_HELD_OUT = 200, 60


def test_frozen_layers_are_not_run_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel.load("SmolLM2-135M-Instruct", device="cpu")
    labels = ["negative", "positive"]
    classifier = LLMClassifier(model, labels, "Text: {text}\nSentiment:")
    train = load_sentiment("train").sample(N_TEXTS, random_state=0)
    held_out = load_sentiment("calibration").sample(N_HELD_OUT, random_state=0)
    settings = TrainingSettings(Lora(layers=6), token_budget=256, epochs=2)
    kept = training.cache_frozen_layers
    took, losses = {}, {}
    for name, cache_frozen_layers in (("whole", lambda *_: None), ("trunk kept", kept)):
        monkeypatch.setattr(training, "cache_frozen_layers", cache_frozen_layers)
        marks: list[float] = []

        def mark(_: Any, marks: list[float] = marks) -> None:
            marks.append(time.process_time())  # others may use the machine

        found = finetune(
            classifier,
            train["text"],
            train["label"],
            validation=(held_out["text"], held_out["label"]),
            settings=settings,
            folder=tmp_path / name,
            on_evaluation=mark,
        )
        took[name] = np.diff([marks[0], marks[3], marks[-1]])
        losses[name] = found.history["log_loss"]

    print(f"\n{N_TEXTS} texts, {N_HELD_OUT} held out, seconds of processor time")
    for name, (first, second) in took.items():
        print(f"  {name:<12} first epoch {first:6.1f}  second {second:6.1f}")
    first, second = took["whole"] / took["trunk kept"]
    total = took["whole"].sum() / took["trunk kept"].sum()
    print(f"  quicker      first epoch {first:6.2f}  second {second:6.2f}", end="")
    print(f"  both {total:5.2f} times")
    np.testing.assert_allclose(losses["whole"], losses["trunk kept"], atol=1e-3)
    assert total > 1.5
