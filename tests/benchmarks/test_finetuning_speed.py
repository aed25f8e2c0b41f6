"""A training of the last six layers beside slower ways; by ``make bench``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from helpers.adapters import add_lora
from helpers.classifier import LLMClassifier
from helpers.datasets import load_sentiment
from helpers.finetune import Lora, TrainingSettings, finetune, training
from helpers.finetune.training import Task, Trainer, copy_of_base
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


def test_training_beside_peft_and_its_trainer(tmp_path: Path) -> None:
    model = LanguageModel.load("SmolLM2-135M-Instruct", device="cpu")
    labels = ["negative", "positive"]
    # No stop token: the loss of a label's own tokens is what transformers computes.
    classifier = LLMClassifier(
        model, labels, "Text: {text}\nSentiment:", terminator=None
    )
    train = load_sentiment("train").sample(N_TEXTS, random_state=0)
    held_out = load_sentiment("calibration").sample(2, random_state=0)
    settings = TrainingSettings(
        Lora(layers=6, dropout=0.0), epochs=3, token_budget=256, evaluate_every=10**6
    )
    validation = held_out["text"], held_out["label"]
    task = Task(classifier, train["text"], train["label"], validation, None, settings)
    took, losses = {}, {}

    start = time.process_time()
    ours = Trainer(task, tmp_path / "checkpoint.pt")
    losses["this package"] = [ours.step(at) for at in range(len(ours.plan))]
    took["this package"] = time.process_time() - start

    start = time.process_time()
    network: Any = copy_of_base(model)
    add_lora(network, layers=6, seed=settings.seed)
    theirs = OurBatches(
        network,
        transformers.TrainingArguments(
            str(tmp_path / "peft"),
            num_train_epochs=1,  # the plan holds all of them
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=math.ceil(settings.warmup * len(ours.plan)),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[batch(task, rows) for rows in ours.plan],
        data_collator=lambda found: found[0],
    )
    theirs.train()
    took["peft, Trainer"] = time.process_time() - start
    logged = [row["loss"] for row in theirs.state.log_history if "loss" in row]
    losses["peft, Trainer"] = logged

    print(f"\n{N_TEXTS} texts, {settings.epochs} epochs, seconds of processor time")
    for name, seconds in took.items():
        print(f"  {name:<14} {seconds:6.1f}   last loss {losses[name][-1]:.4f}")
    np.testing.assert_allclose(*losses.values(), atol=1e-3)


class OurBatches(transformers.Trainer):
    """Takes one batch of the plan after the other."""

    def get_train_dataloader(self) -> Any:
        found: Any = torch.utils.data.DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            collate_fn=self.data_collator,
        )
        return found


def batch(task: Task, rows: list[int]) -> dict[str, torch.Tensor]:
    """Prompts with their own label behind them, of which alone there is a loss."""
    answers = [task.labels.sequences[task.truth[row]] for row in rows]
    whole = [[*task.prompts[row], *a] for row, a in zip(rows, answers, strict=True)]
    ids = pad_sequence([torch.tensor(row) for row in whole], True)
    wanted = torch.full_like(ids, -100)
    for at, (row, answer) in enumerate(zip(whole, answers, strict=True)):
        wanted[at, len(row) - len(answer) : len(row)] = torch.tensor(answer)
    mask = (torch.arange(ids.shape[1]) < torch.tensor([[len(r)] for r in whole])).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": wanted}
