"""Rules of helpers.finetune.trunk: the same training, with less work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
    FineTuned,
    LabelSmoothing,
    TrainingSettings,
    finetune,
)
from helpers.finetune import training as training_module
from helpers.finetune import trunk as trunk_module
from helpers.finetune.store import Store
from helpers.finetune.task import make_task
from helpers.finetune.training import Trainer, trainable_copy
from helpers.finetune.trunk import read_once
from helpers.models import LanguageModel
from helpers.scoring import label_logprobs, tree_is_exact
from helpers.tree import forget_prefix

ENDS = ["film", "plot", "a film that is warm and funny", "the plot", "way"]
X = [f"{word} {end}" for word in ("warm", "dull") for end in ENDS]
Y = ["positive"] * 5 + ["negative"] * 5
HELD_OUT = (["warm maybe", "warm one day", "dull maybe", "dull one"], Y[:2] + Y[-2:])
SETTINGS = TrainingSettings(
    rank=4, epochs=3, token_budget=90, dropout=0.1, learning_rate=0.02, layers=1
)
GPT2_DICE = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


@pytest.fixture(scope="module")
def deep(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    return make_tiny("llama", num_hidden_layers=3)


def ask(model: LanguageModel) -> LLMClassifier:
    prompt = "Review: {text}\nSentiment:"
    return LLMClassifier(model, ["positive", "negative"], prompt)


def run(model: LanguageModel, folder: Path, **more: Any) -> FineTuned:
    settings = more.pop("settings", SETTINGS)
    return finetune(
        ask(model), X, Y, validation=HELD_OUT, settings=settings, folder=folder, **more
    )


def trainer(model: LanguageModel, folder: Path, **more: Any) -> Trainer:
    settings = replace(SETTINGS, **more.pop("settings", {}))
    task = make_task(ask(model), X, Y, validation=HELD_OUT, settings=settings, **more)
    return Trainer(task, trainable_copy(task), Store(folder, {}))


def has_trunk(found: Trainer) -> bool:
    return isinstance(found._read, trunk_module._Trunk)


def run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "read_once", lambda *_: None)


# The same training -------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [{}, {"loss": LabelSmoothing(0.1)}, {"head": ConfidenceHead(2)}],
    ids=["own label", "all labels", "head"],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_weights_are_those_of_the_whole_network(
    deep: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    layers: int,
) -> None:
    # Adam turns a gradient that is nothing but rounding into a whole step.
    settings = replace(SETTINGS, layers=layers, learning_rate=1e-3)
    assert has_trunk(trainer(deep, tmp_path / "t", settings={"layers": layers}, **more))
    split = run(deep, tmp_path / "split", settings=settings, **more)
    run_whole(monkeypatch)
    whole = run(deep, tmp_path / "whole", settings=settings, **more)
    start = adapters.adapter_weights(
        trainable_copy(
            make_task(ask(deep), X, Y, validation=HELD_OUT, settings=settings)
        ).network
    )
    ours, theirs = (
        adapters.adapter_weights(found.model.network) for found in (split, whole)
    )
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=2e-5, rtol=1e-3)
    assert max((theirs[name] - start[name]).abs().max() for name in start) > 2e-3
    pd.testing.assert_frame_equal(split.history, whole.history, atol=1e-4, rtol=1e-4)


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 8}),
    ("gemma2", {"head_dim": 8}),
    ("gemma3_text", {"head_dim": 8, "sliding_window": 64}),
    ("mistral", {"sliding_window": 6}),  # too short for a tree of labels
    ("phi3", {}),
    ("opt", {"dropout": 0.0, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("gpt_neox", {"hidden_act": "gelu"}),
    ("gpt2", dict.fromkeys(GPT2_DICE, 0.0)),
]


@pytest.mark.parametrize(("kind", "settings"), FAMILIES, ids=[k[0] for k in FAMILIES])
@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(0.1)], ids=repr)
def test_loss_of_a_step_is_that_of_the_whole_network(
    make_tiny: Callable[..., LanguageModel],
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
    loss: Any,
) -> None:
    layers = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    model = make_tiny(kind, **{layers: 3}, **settings)
    found = trainer(model, tmp_path / "f", settings={"dropout": 0.0}, loss=loss)
    assert has_trunk(found)
    found._step(0)
    batches = [[8, 2, 0, 5], [0, 1, 3, 5], [6], [3, 6]]
    split = [found._loss(rows).item() for rows in batches]
    found._read = found._read_whole
    whole = [found._loss(rows).item() for rows in batches]
    assert split == pytest.approx(whole, abs=1e-4)


def test_held_out_scores_are_those_of_scoring(
    deep: LanguageModel, tmp_path: Path
) -> None:
    found = trainer(deep, tmp_path / "f")
    for step in range(3):
        found._step(step)
        found.model.network.eval()
        forget_prefix(found.model)
        raw = label_logprobs(found.model, found.task.held_out, found.task.labels)
        np.testing.assert_allclose(found._held_out_logprobs(), raw, atol=1e-4)


def test_resumed_it_ends_with_the_very_same_weights(
    deep: LanguageModel, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise Stop

    settings = replace(SETTINGS, evaluate_every=2)
    whole = run(deep, tmp_path / "whole", settings=settings)
    with pytest.raises(Stop):
        run(deep, tmp_path / "f", settings=settings, on_evaluation=stop)
    resumed = run(deep, tmp_path / "f", settings=settings)
    name = "adapter_model.safetensors"
    first, second = ((f.folder / name).read_bytes() for f in (whole, resumed))
    assert first == second
    assert whole.history.equals(resumed.history)


# Less work ---------------------------------------------------------------------------


def rows_through(layer: torch.nn.Module, work: Callable[[], object]) -> int:
    """How many rows a layer is given."""
    seen: list[int] = []
    with layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))):
        work()
    return sum(seen)


def test_lowest_layer_reads_each_text_once(deep: LanguageModel, tmp_path: Path) -> None:
    found = trainer(deep, tmp_path / "f")
    found._read._kept.clear()  # type: ignore[attr-defined]
    found._read_held_out._kept.clear()  # type: ignore[union-attr]
    layers = found.model.network.model.layers
    upper: list[int] = []
    with layers[2].register_forward_pre_hook(lambda _, x: upper.append(len(x[0]))):
        lower = rows_through(layers[0], found.run)
    assert lower == len(X) + len(HELD_OUT[0])
    n_evaluations = len(found.history)
    assert sum(upper) >= 3 * len(X) + n_evaluations * len(HELD_OUT[0])
    assert layers is found.model.network.model.layers
    assert [type(layer).__name__ for layer in layers] == ["LlamaDecoderLayer"] * 3
    assert not any(m._forward_pre_hooks for m in found.model.network.modules())


def test_layers_are_put_back_after_an_error(
    deep: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer(deep, tmp_path / "f")
    before = list(found.model.network.model.layers)
    trunk: Any = found._read

    def fail(rows: list[int]) -> None:
        raise KeyboardInterrupt

    found._loss([0])
    monkeypatch.setattr(trunk, "read", fail)
    with pytest.raises(KeyboardInterrupt):
        found._loss([0])
    assert list(found.model.network.model.layers) == before


# Where it would be wrong -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {}),
        ("gpt2", {"embd_pdrop": 1e-9, "attn_pdrop": 0.0, "resid_pdrop": 0.0}),
        ("llama", {"attention_dropout": 0.1}),
        ("opt", {"dropout": 0.0, "layerdrop": 0.01, "word_embed_proj_dim": 32}),
        ("bloom", {}),
    ],
    ids=str,
)
def test_networks_that_it_does_not_fit_are_run_whole(
    make_tiny: Callable[..., LanguageModel],
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
) -> None:
    model = make_tiny(kind, **settings)
    found = trainer(model, tmp_path / "f")
    assert not has_trunk(found) and found._read_held_out is None
    found.run()
    assert len(found.history) > 1


@pytest.fixture
def adapted(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    model = make_tiny("llama")
    adapters.add_lora(model.network, layers=1)
    return model


def read_once_by(model: LanguageModel) -> Any:
    texts = torch.arange(5, 25).reshape(4, 5)
    return read_once(model, lambda rows: model.network(texts[rows]), [5] * 4)


def test_another_way_from_below_to_the_logits_is_found(adapted: LanguageModel) -> None:
    heard: list[torch.Tensor] = []
    assert read_once_by(adapted) is not None
    lowest, output = adapted.network.model.layers[0], adapted.network.lm_head
    with (
        lowest.register_forward_hook(lambda *args: heard.append(args[2].mean())),
        output.register_forward_hook(lambda *args: args[2] + heard[-1]),
    ):
        assert read_once_by(adapted) is None


def test_a_lower_layer_that_training_changes_is_found(adapted: LanguageModel) -> None:
    lowest = adapted.network.model.layers[0]
    with lowest.register_forward_hook(lambda *args: args[2] + 0.1 * args[0].training):
        assert read_once_by(adapted) is None


def test_what_is_trained_below_is_found(adapted: LanguageModel) -> None:
    adapted.network.model.embed_tokens.weight.requires_grad_(True)
    assert read_once_by(adapted) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": None},
        {"layers": 3},
        {"precision": "bfloat16"},
        {"checkpointing": True},
        {"epochs": 1},
    ],
    ids=str,
)
def test_settings_that_it_does_not_fit(
    deep: LanguageModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert not has_trunk(trainer(deep, tmp_path / "f", settings=settings))


def test_texts_that_are_read_in_different_ways_are_run_whole(
    make_tiny: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    # Short texts fit into the window with the tree of all labels, long ones do not.
    model = make_tiny("mistral", sliding_window=30)
    texts = [*X[:-1], " ".join([X[-1]] * 20)]
    task = make_task(
        ask(model),
        texts,
        Y,
        validation=HELD_OUT,
        settings=SETTINGS,
        loss=LabelSmoothing(0.1),
    )
    found = Trainer(task, trainable_copy(task), Store(tmp_path / "f", {}))
    assert tree_is_exact(model, min(found.task.widths()) // 2)
    assert not tree_is_exact(model, max(found.task.widths()) // 2)
    assert not has_trunk(found)
    found.run()


def test_too_much_to_keep_is_not_kept(
    deep: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = sum(trainer(deep, tmp_path / "a").task.widths())
    monkeypatch.setattr(trunk_module, "LIMIT", 4 * 32 * positions)
    assert has_trunk(trainer(deep, tmp_path / "b"))
    monkeypatch.setattr(trunk_module, "LIMIT", 4 * 32 * positions - 1)
    assert not has_trunk(trainer(deep, tmp_path / "c"))


def test_a_network_in_half_precision_is_run_whole(adapted: LanguageModel) -> None:
    adapted.network.bfloat16()
    assert read_once_by(adapted) is None
