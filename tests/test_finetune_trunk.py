"""Rules of helpers.finetune.trunk: the same training, with less work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import adapters
from helpers.classifier import LLMClassifier
from helpers.finetune import (
    ConfidenceHead,
    CrossEntropy,
    LabelSmoothing,
    Lora,
    TrainingSettings,
    training,
    trunk,
)
from helpers.finetune.training import Task, Trainer
from helpers.finetune.trunk import cache_frozen_layers
from helpers.models import LanguageModel
from helpers.scoring import label_logprobs, tree_is_exact
from helpers.tree import forget_prefix

Make = Callable[..., LanguageModel]
ENDS = ["film", "plot", "a film that is warm and funny", "the plot", "way"]
X = [f"{word} {end}" for word in ("warm", "dull") for end in ENDS]
Y = ["positive"] * 5 + ["negative"] * 5
HELD_OUT = (["warm maybe", "warm one day", "dull maybe", "dull one"], Y[:2] + Y[-2:])
SETTINGS = TrainingSettings(
    Lora(rank=4, dropout=0.1, layers=1), epochs=2, token_budget=90, learning_rate=0.02
)
GPT2_DICE = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


@pytest.fixture(scope="module")
def deep(make_tiny: Make) -> LanguageModel:
    return make_tiny("llama", num_hidden_layers=3)


def trainer(
    model: LanguageModel, folder: Path, texts: Any = X, **changed: Any
) -> Trainer:
    asked = LLMClassifier(model, ["positive", "negative"], "Review: {text}\nSentiment:")
    lora = {name: changed.pop(name) for name in ("layers", "dropout") & changed.keys()}
    settings = replace(SETTINGS, lora=replace(SETTINGS.lora, **lora), **changed)
    return Trainer(
        Task(asked, texts, Y, HELD_OUT, settings=settings), folder / "checkpoint.pt"
    )


def is_cached(found: Trainer) -> bool:
    return not isinstance(found.read, MethodType)


@pytest.mark.parametrize(
    "more",
    [{}, {"loss": LabelSmoothing(0.1), "head": ConfidenceHead(2), "layers": 2}],
    ids=str,
)
def test_weights_are_those_of_the_whole_network(
    deep: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
) -> None:
    # Adam turns a gradient that is nothing but rounding into a whole step.
    split = trainer(deep, tmp_path, learning_rate=1e-3, **more)
    assert is_cached(split)
    monkeypatch.setattr(training, "cache_frozen_layers", lambda *_: None)
    whole = trainer(deep, tmp_path, learning_rate=1e-3, **more)
    start = [weight.detach().clone() for weight in split.trained]
    split.run()
    split.checkpoint.unlink()
    whole.run()
    for ours, theirs in zip(split.trained, whole.trained, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)
    moved = [(a - b).abs().max() for a, b in zip(split.trained, start, strict=True)]
    assert max(moved) > 2e-3
    ours, theirs = (pd.DataFrame(found.history) for found in (split, whole))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-4, rtol=1e-4)


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gemma2", {"head_dim": 8}),
    ("gemma3_text", {"head_dim": 8, "sliding_window": 64}),
    ("mistral", {"sliding_window": 6}),  # too short for a tree of labels
    ("opt", {"dropout": 0.0, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("gpt2", dict.fromkeys(GPT2_DICE, 0.0)),
]


@pytest.mark.parametrize(("kind", "settings"), FAMILIES, ids=[k[0] for k in FAMILIES])
def test_loss_of_a_step_is_that_of_the_whole_network(
    make_tiny: Make, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    layers = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    model = make_tiny(kind, **{layers: 3}, **settings)
    for loss in (CrossEntropy(), LabelSmoothing(0.1)):
        found = trainer(model, tmp_path, dropout=0.0, loss=loss)
        assert is_cached(found)
        read: Any = found.read
        found.step(0)
        batches = [[8, 2, 0, 5], [0, 1, 3, 5], [6], [3, 6]]
        split = [found.loss(rows).item() for rows in batches]
        found.read = read.read  # without what is kept
        whole = [found.loss(rows).item() for rows in batches]
        assert split == pytest.approx(whole, abs=1e-4)


def test_held_out_scores_are_those_of_scoring(
    deep: LanguageModel, tmp_path: Path
) -> None:
    found = trainer(deep, tmp_path)
    task = found.task
    for step in range(3):
        found.step(step)
        task.model.network.eval()
        forget_prefix(task.model)
        raw = label_logprobs(task.model, task.held_out, task.labels)
        np.testing.assert_allclose(found.held_out_logprobs(), raw, atol=1e-4)


def test_lowest_layer_reads_each_text_once(deep: LanguageModel, tmp_path: Path) -> None:
    found = trainer(deep, tmp_path)
    layers = found.task.model.network.model.layers
    seen: dict[int, int] = {0: 0, 2: 0}

    def count(at: int) -> Callable[..., None]:
        def add(_: Any, inputs: Any) -> None:
            seen[at] += len(inputs[0])

        return add

    with ExitStack() as hooked:
        for at in seen:
            hooked.enter_context(layers[at].register_forward_pre_hook(count(at)))
        found.run()
    assert seen[0] <= len(X) + len(HELD_OUT[0])
    assert seen[2] >= 2 * len(X) + len(found.history) * len(HELD_OUT[0])
    assert [type(layer).__name__ for layer in layers] == ["LlamaDecoderLayer"] * 3
    modules = found.task.model.network.modules()
    assert not any(part._forward_pre_hooks for part in modules)


def test_next_training_on_the_same_texts_reads_none_again(
    make_tiny: Make, tmp_path: Path
) -> None:
    model = make_tiny("llama", num_hidden_layers=3)
    seen: list[int] = []  # by its lowest layer, which copies of it share
    lowest = model.network.model.layers[0]
    lowest.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))

    def trained(**changed: Any) -> tuple[Trainer, int]:
        seen.clear()
        found = trainer(model, tmp_path, **changed)
        found.run()
        found.checkpoint.unlink()
        return found, sum(seen)

    first, n_first = trained()
    again, n_again = trained()
    other, n_other = trained(seed=1)
    n_texts = len(X) + len(HELD_OUT[0])
    assert n_first - n_texts == n_again == n_other  # the rest are trials
    for ours, theirs in zip(first.trained, again.trained, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    pd.testing.assert_frame_equal(*map(pd.DataFrame, (first.history, again.history)))
    assert first.history[-1] != other.history[-1]
    # Other layers are frozen here, and there every label is read.
    assert trained(layers=2)[1] == n_first
    n_labels = [trained(loss=LabelSmoothing(0.1))[1] for _ in range(2)]
    assert n_labels[0] - n_labels[1] == len(X)


def test_layers_are_put_back_after_an_error(
    deep: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer(deep, tmp_path)
    before = list(found.task.model.network.model.layers)
    found.loss([0])

    def fail(rows: list[int]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found.read, "read", fail)
    with pytest.raises(KeyboardInterrupt):
        found.loss([0])
    assert list(found.task.model.network.model.layers) == before


@pytest.mark.parametrize(
    ("kind", "network", "settings"),
    [
        ("gpt2", {}, {}),
        ("gpt2", {"embd_pdrop": 1e-9, "attn_pdrop": 0.0, "resid_pdrop": 0.0}, {}),
        ("llama", {"attention_dropout": 0.1}, {}),
        ("opt", {"dropout": 0.0, "layerdrop": 0.01, "word_embed_proj_dim": 32}, {}),
        ("bloom", {}, {}),
        ("llama", {}, {"layers": None}),
        ("llama", {}, {"layers": 2}),
        ("llama", {}, {"precision": "bfloat16"}),
        ("llama", {}, {"checkpointing": True}),
        ("llama", {}, {"epochs": 1}),
    ],
    ids=str,
)
def test_what_it_does_not_fit_is_run_whole(
    make_tiny: Make,
    tmp_path: Path,
    kind: str,
    network: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    found = trainer(make_tiny(kind, **network), tmp_path, **settings)
    assert not is_cached(found)
    assert (found.read_held_out is None) == (settings != {"epochs": 1})
    found.step(0)
    found.task.model.network.eval()
    assert np.isfinite(found.held_out_logprobs()).all()


@pytest.fixture
def adapted(make_tiny: Make) -> LanguageModel:
    model = make_tiny("llama")
    adapters.add_lora(model.network, layers=1)
    return model


def cached(model: LanguageModel) -> Any:
    texts = torch.arange(5, 25).reshape(4, 5)
    return cache_frozen_layers(
        model, lambda rows: [model.network(texts[rows]).logits], [5] * 4, {}
    )


def test_what_the_layers_above_do_not_see_is_found(adapted: LanguageModel) -> None:
    heard: list[torch.Tensor] = []
    assert cached(adapted) is not None
    lowest, output = adapted.network.model.layers[0], adapted.network.lm_head
    with (
        lowest.register_forward_hook(lambda *args: heard.append(args[2].mean())),
        output.register_forward_hook(lambda *args: args[2] + heard[-1]),
    ):
        assert cached(adapted) is None
    with lowest.register_forward_hook(lambda *args: args[2] + 0.1 * args[0].training):
        assert cached(adapted) is None
    adapted.network.model.embed_tokens.weight.requires_grad_(True)
    assert cached(adapted) is None
    adapted.network.model.embed_tokens.weight.requires_grad_(False)
    adapted.network.bfloat16()
    assert cached(adapted) is None


def test_texts_that_are_read_in_different_ways_are_run_whole(
    make_tiny: Make, tmp_path: Path
) -> None:
    # Short texts fit into the window with the tree of all labels, long ones do not.
    model = make_tiny("mistral", sliding_window=30)
    texts = [*X[:-1], " ".join([X[-1]] * 20)]
    found = trainer(model, tmp_path, texts, loss=LabelSmoothing(0.1))
    assert tree_is_exact(model, min(found.task.widths()) // 2)
    assert not tree_is_exact(model, max(found.task.widths()) // 2)
    assert not is_cached(found)
    found.step(0)


def test_too_much_to_keep_is_not_kept(
    deep: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 4 * 32 * sum(trainer(deep, tmp_path).task.widths())
    for limit, fits in ((most, True), (most - 1, False)):
        monkeypatch.setattr(trunk, "LIMIT", limit)
        assert is_cached(trainer(deep, tmp_path)) is fits
