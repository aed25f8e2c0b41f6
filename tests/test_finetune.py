"""Rules of helpers.finetune: exact scores, honest losses, trainings that survive."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import peft
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import ENDING, LABELS, PHI3, random_prompts

from helpers import adapters, checkpoints
from helpers.checkpoints import ModelError
from helpers.classifier import LLMClassifier
from helpers.datasets import neiss_classifier
from helpers.finetune import (
    BrierPenalty,
    ConfidenceHead,
    CrossEntropy,
    FineTuned,
    Focal,
    LabelSmoothing,
    Lora,
    SoftCalibration,
    TrainingSettings,
    agreement_targets,
    finetune,
    finetune_ensemble,
    load_finetuned,
    members,
    training,
)
from helpers.finetune.label_scores import label_scores, prompt_ends
from helpers.finetune.store import Record
from helpers.finetune.training import Task, Trainer
from helpers.metrics import brier_score, expected_calibration_error, log_loss, top_label
from helpers.models import LanguageModel
from helpers.sampling import sample_votes
from helpers.scoring import label_logprobs, tree_is_exact
from helpers.uncertainty import combine, mc_dropout
from helpers.verbalizer import LabelTokens

SINGLE = LabelTokens(tuple("abc"), LABELS.sequences[:3], (0, 1, 2), (17, 18))
ENDS = ["film", "plot", "a film", "the plot", "way"]
X = [f"{word} {end}" for word in ("warm", "dull") for end in ENDS]
Y = ["positive"] * 5 + ["negative"] * 5
HELD_OUT = (["warm maybe", "warm one", "dull maybe", "dull one"], Y[:2] + Y[-2:])
TRUE = (np.asarray(HELD_OUT[1]) == "positive").astype(int)
QUICK = TrainingSettings(
    Lora(rank=4, dropout=0.1), epochs=2, token_budget=60, learning_rate=0.02
)
Make = Callable[..., LanguageModel]


PROMPTS = random_prompts([5, 1, 30, 12, 12, 2])


def ask(model: LanguageModel, **more: Any) -> LLMClassifier:
    prompt = "Review: {text}\nSentiment:"
    return LLMClassifier(model, ["positive", "negative"], prompt, **more)


def tune(asked: LLMClassifier, folder: Path | None = None, **more: Any) -> FineTuned:
    """A training on the texts above; what is a setting goes into the settings."""
    names = TrainingSettings.__dataclass_fields__
    changed = {name: more.pop(name) for name in list(more) if name in names}
    given: dict[str, Any] = {"X": X, "y": Y, "validation": HELD_OUT} | more
    return finetune(asked, folder=folder, settings=replace(QUICK, **changed), **given)


def task_of(asked: LLMClassifier, **more: Any) -> Task:
    given: dict[str, Any] = {"X": X, "y": Y, "validation": HELD_OUT, "settings": QUICK}
    return Task(asked, **(given | more))


def with_lora(model: LanguageModel, **settings: Any) -> LanguageModel:
    """The model with an adapter that does something."""
    network = adapters.copy_sharing_weights(model.network)
    adapters.add_lora(network, **({"rank": 2} | settings))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in adapters.adapter_parameters(network):
            weight.normal_(std=0.3)
    return LanguageModel(network, model.tokenizer, name="tuned")


def same_weights(first: FineTuned, second: FineTuned) -> bool:
    """Whether two results are equal bit by bit."""
    names = ("adapter_model.safetensors", "head.safetensors")
    pairs = [(first.folder / name, second.folder / name) for name in names]
    there = [(a, b) for a, b in pairs if a.exists()]
    return all(a.read_bytes() == b.read_bytes() for a, b in there)


@pytest.fixture(scope="module")
def tiny(make_tiny: Make) -> LanguageModel:
    return make_tiny("llama")


@pytest.fixture
def asked(tiny: LanguageModel) -> LLMClassifier:
    return ask(tiny)


@pytest.fixture(scope="module")
def base(
    tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    """The tiny model, loaded from disk."""
    folder = tmp_path_factory.mktemp("base")
    tiny.network.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return LanguageModel.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def tuned(base: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    folder = tmp_path_factory.mktemp("tuned") / "reviews"
    return tune(ask(base), folder, epochs=12, head=ConfidenceHead(hidden=3))


@pytest.fixture
def copied(tuned: FineTuned, tmp_path: Path) -> Path:
    """A copy of a result, to be broken."""
    return Path(shutil.copytree(tuned.folder, tmp_path / "copy"))


KINDS: list[tuple[str, dict[str, Any], bool]] = [
    ("llama", {}, True),
    ("gpt2", {}, True),
    ("gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0}, True),
    ("mistral", {"sliding_window": 20}, False),
    ("mamba", {"state_size": 4}, False),
    ("phi3", PHI3, False),
]


@pytest.mark.parametrize(("kind", "settings", "tree"), KINDS, ids=[k[0] for k in KINDS])
def test_scores_and_ends_are_those_of_scoring(
    make_tiny: Make, kind: str, settings: dict[str, Any], tree: bool
) -> None:
    model = make_tiny(kind, **settings)
    assert tree_is_exact(model, 34) is tree
    for labels in (LABELS, ENDING):
        expected = label_logprobs(model, PROMPTS, labels)
        found, ends = label_scores(model, PROMPTS, labels)
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)
    alone = torch.cat([prompt_ends(model, [ids]) for ids in PROMPTS])
    torch.testing.assert_close(ends, alone, atol=1e-4, rtol=1e-4)
    expected = label_logprobs(model, PROMPTS, SINGLE)
    truth = [0, 2, 1, 2, 1, 0]
    own = label_scores(model, PROMPTS, SINGLE, truth)[0].detach()[:, 0]
    np.testing.assert_allclose(own.numpy(), expected[range(6), truth], atol=1e-4)


def test_gradients_of_both_paths_agree_and_are_the_slope(tiny: LanguageModel) -> None:
    model = with_lora(tiny)
    weights = adapters.adapter_parameters(model.network)
    truth = [0, 2, 1, 2, 1, 0]
    table = label_scores(model, PROMPTS, SINGLE)[0][range(6), truth].mean()
    own = label_scores(model, PROMPTS, SINGLE, truth)[0].mean()
    first = torch.autograd.grad(table, weights)
    for one, other in zip(first, torch.autograd.grad(own, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    at = first[-1].abs().argmax()
    ends = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            weights[-1].view(-1)[at] += step
            raw = label_logprobs(model, PROMPTS, SINGLE)
            ends.append(raw[range(6), truth].mean())
    slope = (ends[0] - ends[1]) / 2e-2
    assert abs(slope) > 0.01
    assert float(first[-1].view(-1)[at]) == pytest.approx(slope, rel=0.02)


def test_no_logits_are_computed_within_the_prompt(tiny: LanguageModel) -> None:
    shapes = []
    output = tiny.network.get_output_embeddings()
    with output.register_forward_hook(lambda *args: shapes.append(args[2].shape[:2])):
        label_scores(tiny, PROMPTS[:2], SINGLE, [0, 2])
        label_scores(tiny, PROMPTS[:2], ENDING)
    # Five places behind the prompt for the longest label; or every node of the tree.
    assert [shapes[0], shapes[-1]] == [(2, 5), (2, len(ENDING.trie.tokens))]


LOSSES: list[Any] = [
    CrossEntropy(),
    LabelSmoothing(0.1),
    Focal(2.0),
    Focal(0.5),
    BrierPenalty(0.7),
    SoftCalibration(2.0, n_bins=5, temperature=0.05),
]


def raw_and_target(n: int = 6, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw log-probabilities that do not sum to one, and soft targets."""
    made = torch.Generator().manual_seed(0)
    raw = torch.randn(n, k + 1, generator=made, dtype=torch.double).log_softmax(1)
    target = torch.randn(n, k, generator=made, dtype=torch.double).softmax(1)
    return raw[:, :k].contiguous(), target


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_of_losses(loss: Any) -> None:
    raw, target = raw_and_target()
    assert loss(raw, target).shape == (6,)
    assert torch.autograd.gradcheck(
        lambda values: loss(values, target), raw.requires_grad_()
    )
    certain = torch.tensor([[0.0, -800.0]], dtype=torch.double, requires_grad=True)
    right = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    (grad,) = torch.autograd.grad(loss(certain, right).sum(), certain)
    assert torch.isfinite(grad).all()


def test_losses_by_hand() -> None:
    raw = torch.tensor([[0.6, 0.2], [0.1, 0.4]], dtype=torch.double).log()
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    log = np.log
    cases: list[tuple[Any, list[float]]] = [
        (CrossEntropy(), [-log(0.6), -log(0.4)]),
        (
            LabelSmoothing(0.2),
            [-0.9 * log(0.6) - 0.1 * log(0.2), -0.1 * log(0.1) - 0.9 * log(0.4)],
        ),
        (Focal(2), [-(0.4**2) * log(0.6), -(0.6**2) * log(0.4)]),
        (BrierPenalty(0.5), [-log(0.6) + 0.25**2, -log(0.4) + 0.2**2]),
    ]
    for loss, expected in cases:
        assert loss(raw, hard).tolist() == pytest.approx(expected), loss
    plain = CrossEntropy()(*raw_and_target())
    limits = (Focal(0), LabelSmoothing(0), BrierPenalty(0), SoftCalibration(0))
    for limit in limits:
        torch.testing.assert_close(limit(*raw_and_target()), plain)  # type: ignore
    # What falls on no label is pushed down, too.
    half, target = torch.tensor([[0.3, 0.2]]).log(), torch.tensor([[0.6, 0.4]])
    more = CrossEntropy()(half, target) - CrossEntropy()(half.log_softmax(1), target)
    assert float(more) == pytest.approx(np.log(2))


def test_soft_calibration() -> None:
    raw = torch.tensor([[0.7, 0.1], [0.3, 0.3]], dtype=torch.double).log()
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    # Confidence 0.875, right; 0.5 (the first of a tie), wrong. Middles 0.25 and 0.75.
    share = np.exp(-((np.array([[0.875], [0.5]]) - [0.25, 0.75]) ** 2) / 0.1)
    share /= share.sum(1, keepdims=True)
    gaps = (share * np.array([[0.125], [-0.5]])).sum(0) / share.sum(0)
    expected = np.sqrt((share.sum(0) / 2 * gaps**2).sum())
    found = SoftCalibration(1, 2, 0.1).calibration_error(raw, hard)
    assert float(found) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_order_of_labels_and_rows_changes_no_loss(seed: int) -> None:
    made = np.random.default_rng(seed)
    raw, target = raw_and_target()
    rows, columns = made.permutation(6), made.permutation(3)
    for loss in LOSSES:
        moved = loss(raw[rows][:, columns], target[rows][:, columns])
        torch.testing.assert_close(moved, loss(raw, target)[rows])


def test_targets_by_agreement() -> None:
    votes = pd.DataFrame({"a": [8, 0, 1], "b": [2, 0, 3], "invalid": [0, 10, 6]})
    truth = np.array([[1, 0], [0, 1], [1, 0]])
    for strength, expected in (
        (0.5, [[0.9, 0.1], [0, 1], [0.625, 0.375]]),
        (0, truth),
        (1, [[0.8, 0.2], [0, 1], [0.25, 0.75]]),
    ):
        np.testing.assert_allclose(agreement_targets(truth, votes, strength), expected)
    for wrong, says in (
        ((truth, votes, 1.5), "strength"),
        ((truth[:2], votes, 0.5), "row for each of 2 texts"),
        ((truth, votes.replace(2, -2), 0.5), "votes must be 0 or more, not -2"),
    ):
        with pytest.raises(ValueError, match=says):
            agreement_targets(*wrong)


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (Lora, dict(rank=0, alpha=-1, dropout=1, target_modules=(), layers=0)),
    (Lora, dict(target_modules=("q_proj", ""))),
    (TrainingSettings, dict(lora={"rank": 4}, loss=lambda raw, target: raw)),
    (TrainingSettings, dict(learning_rate=0, epochs=1.5, token_budget=0, warmup=1)),
    (TrainingSettings, dict(schedule="step", weight_decay=-1, max_grad_norm=0)),
    (TrainingSettings, dict(evaluate_every=0, patience=0, monitor="accuracy")),
    (TrainingSettings, dict(precision="int8", checkpointing=1, seed=-1)),
    (ConfidenceHead, dict(hidden=0, weight=0, learning_rate=-1)),
    (LabelSmoothing, dict(amount=-0.1)),
    (Focal, dict(gamma=float("nan"))),
    (BrierPenalty, dict(weight="1")),
    (SoftCalibration, dict(weight=float("inf"))),
]


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [(kind, *one) for kind, given in WRONG for one in given.items()],
)
def test_bad_settings_are_named(kind: Any, name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b.* is "):
        kind(**{name: wrong})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(0, 5))
def test_batches_hold_each_row_once_within_budget(widths: list[int], seed: int) -> None:
    settings = TrainingSettings(epochs=2, token_budget=64, seed=seed)
    plan = settings.plan(widths)
    assert plan[:1] == replace(settings, epochs=1).plan(widths)
    for epoch in plan:
        assert sorted(row for batch in epoch for row in batch) == [*range(len(widths))]
        assert all(len(b) * max(widths[row] for row in b) <= 64 for b in epoch)


def test_epochs_differ_and_padding_is_little() -> None:
    widths = np.random.default_rng(0).integers(20, 60, 300).tolist()
    first, second = TrainingSettings(epochs=2).plan(widths)
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}
    padded = sum(len(b) * max(widths[row] for row in b) for b in first)
    assert padded < 1.15 * sum(widths) and len(first) < 1.2 * sum(widths) / 512 + 1
    # An interrupted training goes on in the plan it began with.
    (plan,) = TrainingSettings(epochs=1, token_budget=64).plan(
        [30, 32, 31, 33, 30, 34, 32, 31]
    )
    assert plan == [[4, 7], [1, 0], [2], [3], [6], [5]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"validation": ([], [])}, "validation must hold at least one text"),
        ({"y": ["neutral"] * 10}, "must be one of the classes .* row 0 is 'neutral'"),
        ({"validation": (["WARM  film"], Y[:1])}, "other texts than X; 'warm film'"),
        ({"X": [*X[:9], "way " * 300]}, "text 9 makes a prompt of"),
        ({"sample_targets": np.ones((10, 2))}, "sample_targets must sum to one"),
        ({"sample_targets": np.full((10, 4), 0.25)}, r"must have the shape \(10, 2\)"),
    ],
)
def test_bad_data_are_named(asked: LLMClassifier, wrong: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tune(asked, **wrong)


def test_what_a_result_depends_on_is_in_its_hash(
    asked: LLMClassifier, make_tiny: Make
) -> None:
    def parts(classifier: LLMClassifier = asked, **changed: Any) -> dict[str, str]:
        return task_of(classifier, **changed).parts

    plain = parts()
    assert parts() == plain
    # Trainings that are kept are found by these.
    assert {name: plain[name][:16] for name in ("prompt", "data", "settings")} == {
        "prompt": "c181b82c75b17aa7",
        "data": "55ba3b650e9709ff",
        "settings": "c791845d6a3af01e",
    }
    assert (plain["loss"], plain["head"]) == ("CrossEntropy()", "None")
    cases: list[tuple[str, dict[str, str]]] = [
        ("model", parts(ask(make_tiny("llama", rms_norm_eps=1e-3)))),
        ("prompt", parts(ask(asked.model, instruction="Look."))),
        ("prompt", parts(ask(asked.model, terminator=None))),
        ("data", parts(y=Y[::-1])),
        ("data", parts(validation=(HELD_OUT[0], HELD_OUT[1][::-1]))),
        ("data", parts(sample_targets=np.full((10, 2), 0.5))),
        ("loss", parts(settings=replace(QUICK, loss=Focal(1.0)))),
        ("settings", parts(settings=replace(QUICK, lora=Lora(rank=4)))),
        ("head", parts(settings=replace(QUICK, head=ConfidenceHead()))),
    ]
    for name, found in cases:
        assert [part for part in plain if plain[part] != found[part]] == [name]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_fresh_adapter_changes_nothing(
    make_tiny: Make, tmp_path: Path, kind: str
) -> None:
    model = make_tiny(kind)
    fresh = Trainer(task_of(ask(model)), tmp_path / "f").task
    np.testing.assert_array_equal(
        label_logprobs(fresh.model, fresh.prompts, fresh.labels),
        label_logprobs(model, fresh.prompts, fresh.labels),
    )
    assert type(fresh.model.network) is type(model.network)
    named = fresh.model.network.named_parameters()
    weights = {name for name, weight in named if weight.requires_grad}
    assert weights and all(".lora_" in name for name in weights)


def test_a_copy_shares_weights_and_nothing_else(tiny: LanguageModel) -> None:
    def state() -> list[Any]:
        network = tiny.network
        flags = [weight.requires_grad for weight in network.parameters()]
        return [flags, {name: id(part) for name, part in network.named_modules()}]

    before = state()
    tuned = with_lora(tiny)
    assert state() == before
    theirs = tiny.network.model.layers[0].mlp.up_proj.weight
    ours = tuned.network.model.layers[0].mlp.up_proj.base_layer.weight
    assert ours.data_ptr() == theirs.data_ptr()
    again = LanguageModel(tiny.network, tiny.tokenizer)
    assert again.fingerprint == tiny.fingerprint != tuned.fingerprint
    with pytest.raises(ValueError, match="has one already"):
        adapters.copy_sharing_weights(tuned.network)


def test_only_the_layers_and_modules_asked_for_get_an_adapter(
    tiny: LanguageModel,
) -> None:
    def names(**settings: Any) -> set[str]:
        network = with_lora(tiny, **settings).network
        named = network.named_parameters()
        return {name.partition(".lora_")[0] for name, w in named if w.requires_grad}

    linear = {f"self_attn.{n}_proj" for n in "qkvo"}
    linear |= {f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    last = {f"model.layers.1.{name}" for name in linear}
    assert names(layers=1) == last
    assert names() == last | {f"model.layers.0.{name}" for name in linear}
    some = names(target_modules=("q_proj", "v_proj"), layers=1)
    assert some == {f"model.layers.1.self_attn.{n}_proj" for n in "qv"}
    with pytest.raises(ValueError, match="layers must be at most 2, not 3"):
        with_lora(tiny, layers=3)


def test_strength_and_weights_of_an_adapter_are_in_the_fingerprint(
    tiny: LanguageModel,
) -> None:
    models = [with_lora(tiny, alpha=alpha) for alpha in (1.0, 2.0, 2.0, 2.0)]
    with torch.no_grad():
        adapters.adapter_parameters(models[3].network)[3][0, 0] += 0.01
    first, second, third, fourth = (model.fingerprint for model in models)
    assert first != second == third != fourth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_adapter_is_written_rounded_and_read(
    tiny: LanguageModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    network = with_lora(tiny).network
    adapters.save_adapter(network, tmp_path, dtype=dtype)
    kept = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {dtype}
    again = adapters.copy_sharing_weights(tiny.network)
    adapters.load_adapter(again, tmp_path)
    parts = map(adapters.adapter_parameters, (network, again))
    for before, after in zip(*parts, strict=True):
        assert after.dtype == torch.float32
        assert torch.equal(after, before.to(dtype).float())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(ValueError, match="it is for another one"):
        adapters.load_adapter(adapters.copy_sharing_weights(tiny.network), tmp_path)


def test_training_learns(base: LanguageModel, tuned: FineTuned) -> None:
    before, after = ask(base, cache=False), tuned.classifier
    was, now = (log_loss(a.predict_proba(HELD_OUT[0]), TRUE) for a in (before, after))
    assert now < 0.5 * was
    assert after.score(X, Y) == 1
    layer = (32 + 32) * 2 + (32 + 16) * 2 + (32 + 64) * 3  # q, o; k, v; gate, up, down
    assert tuned.n_trainable == 2 * 4 * layer + (32 * 3 + 3 + 3 + 1)
    plain = sum(weight.numel() for weight in base.network.parameters())
    share = tuned.n_trainable / (plain + tuned.n_trainable)
    assert tuned.share_trainable == pytest.approx(share)
    rows = range(len(X)), [int(label == "positive") for label in Y]
    gained = after.raw_log_proba(X)[rows] - before.raw_log_proba(X)[rows]
    assert gained.min() > 3  # not only beside the other label


def test_history_is_what_the_held_out_texts_say(
    base: LanguageModel, tuned: FineTuned
) -> None:
    columns = ["step", "epoch", "train_loss", "accuracy", "log_loss", "brier", "ece"]
    history = tuned.history
    assert history.columns.tolist() == [*columns, "best"]
    assert history["step"].iloc[0] == 0 and np.isnan(history["train_loss"].iloc[0])
    assert history["epoch"].iloc[-1] == 12
    assert history["best"].sum() == 1
    assert history.loc[history["best"], "log_loss"].item() == history["log_loss"].min()
    best = history[history["best"]].iloc[0]
    for row, asked in ((history.iloc[0], ask(base)), (best, tuned.classifier)):
        found = asked.predict_proba(HELD_OUT[0])
        confidence, correct = top_label(found, TRUE)
        assert row["accuracy"] == pytest.approx(correct.mean())
        assert row["log_loss"] == pytest.approx(log_loss(found, TRUE), abs=1e-5)
        assert row["brier"] == pytest.approx(brier_score(found, TRUE), abs=1e-5)
        ece = expected_calibration_error(confidence, correct)
        assert row["ece"] == pytest.approx(ece, abs=1e-5)


def test_the_tuned_is_asked_as_the_base_was(
    base: LanguageModel, tuned: FineTuned, tmp_path: Path
) -> None:
    ours, theirs = tuned.classifier.inputs(X), ask(base).inputs(X)
    assert ours[0] is tuned.model and ours[1:] == theirs[1:]
    drawn = ask(base, prior="contextual").set_params(examples=2).fit(X, Y)
    found = tune(drawn, tmp_path / "f", epochs=1, evaluate_every=99)
    assert found.classifier.inputs(X)[1:] == drawn.inputs(X)[1:]
    assert found.classifier.prior is None and drawn.prior == "contextual"


def test_base_and_random_state_are_left_alone(
    base: LanguageModel, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    found = tune(ask(base), tmp_path / "f", epochs=1, head=ConfidenceHead(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert LanguageModel(base.network, base.tokenizer).fingerprint == base.fingerprint
    assert not hasattr(base.network, "peft_config")
    assert all(weight.grad is None for weight in base.network.parameters())
    assert not any(weight.requires_grad for weight in found.model.network.parameters())
    for part in (*base.network.modules(), *found.model.network.modules()):
        assert not part._forward_pre_hooks and not part.training


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": "constant", "warmup": 0.0},
        {"schedule": "linear", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_settings_train(
    asked: LLMClassifier, tmp_path: Path, changed: dict[str, Any]
) -> None:
    values = tune(asked, tmp_path / "f", evaluate_every=99, **changed).history
    assert values["log_loss"].iloc[-1] < values["log_loss"].iloc[0]


@dataclass(frozen=True)
class Own:
    """A loss that somebody writes."""

    truth_suffices: ClassVar[bool] = False

    def __call__(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -2 * (target * raw).sum(1)


@pytest.mark.parametrize("loss", [LOSSES[-1], Own()], ids=repr)
def test_every_loss_trains(asked: LLMClassifier, tmp_path: Path, loss: Any) -> None:
    changed = replace(QUICK, lora=Lora(rank=4, dropout=0.0), epochs=5, loss=loss)
    trainer = Trainer(task_of(asked, settings=changed), tmp_path / "f")
    rows = list(range(len(X)))
    before = trainer.loss(rows).item()
    for step in range(len(trainer.plan)):
        trainer.step(step)
    assert trainer.loss(rows).item() < 0.8 * before


def test_checkpointing_changes_memory_only(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    plain = tune(asked, tmp_path / "a", epochs=1, evaluate_every=1)
    again = tune(asked, tmp_path / "b", epochs=1, evaluate_every=1, checkpointing=True)
    pd.testing.assert_frame_equal(again.history, plain.history, atol=1e-4, rtol=1e-4)


def test_own_labels_alone_give_the_same_loss(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    task = task_of(asked, settings=replace(QUICK, lora=Lora(rank=4, dropout=0.0)))
    assert task.truth_suffices
    for changed in ({"head": ConfidenceHead()}, {"loss": LabelSmoothing(0.1)}):
        assert not task_of(asked, settings=replace(QUICK, **changed)).truth_suffices  # type: ignore[arg-type]
    soft = task_of(asked, sample_targets=np.full((10, 2), 0.5))
    assert not soft.truth_suffices
    rows = [0, 3, 7]
    raw, _ = label_scores(task.model, [task.prompts[r] for r in rows], task.labels)
    expected = -raw[range(3), task.truth[rows]].mean().item()
    found = Trainer(task, tmp_path / "f").loss(rows)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_targets_count_and_not_the_labels(asked: LLMClassifier, tmp_path: Path) -> None:
    # Columns are "negative", "positive"; the first five texts are positive.
    turned = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    held_out = (HELD_OUT[0], HELD_OUT[1][::-1])
    more: dict[str, Any] = {"validation": held_out, "sample_targets": turned}
    found = tune(asked, tmp_path / "f", epochs=12, evaluate_every=99, **more)
    assert found.classifier.score(X, Y) == 0


def test_training_stops_when_nothing_is_gained_and_keeps_the_best(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    # Learning the wrong labels makes the held-out texts worse from the first step.
    settings = {"epochs": 9, "evaluate_every": 1, "patience": 2}
    found = tune(asked, tmp_path / "f", y=Y[::-1], **settings)
    history = found.history
    best = int(history.index[history["best"]][0])
    assert len(history) == best + 3 < 9
    again = found.classifier.set_params(cache=False).predict_proba(HELD_OUT[0])
    assert log_loss(again, TRUE) == pytest.approx(history["log_loss"].min(), abs=1e-5)


def test_a_loss_that_is_no_number_stops_the_training(
    asked: LLMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="nan at step 0: take a lower"):
        tune(asked, tmp_path / "f")


class Stop(Exception):
    """What stops a training from inside."""


def run(asked: LLMClassifier, folder: Path | None, **more: Any) -> FineTuned:
    settings = {"epochs": 3, "evaluate_every": 2, "head": ConfidenceHead(2)}
    return tune(asked, folder, **(settings | more))


@pytest.fixture(scope="module")
def whole(base: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """A training that nobody interrupted."""
    return run(ask(base), tmp_path_factory.mktemp("whole") / "f")


def test_resumed_after_its_end_it_ends_the_same(
    base: LanguageModel,
    whole: FineTuned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, folder, do_step = ask(base), tmp_path / "killed", Trainer.step

    def step(self: Trainer, at: int) -> Any:
        if at == 3:  # what a process leaves that is killed here
            shutil.copytree(tmp_path / "first", folder)
            raise Stop
        return do_step(self, at)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "step", step)
        run(asked, tmp_path / "first")
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(ValueError, match="call finetune again"):
        load_finetuned(folder, asked)
    with pytest.raises(ValueError, match="holds one with other settings"):
        run(asked, folder, seed=7)
    (folder / "checkpoint.unfinished").write_text("{")  # a write that was cut short
    steps: list[float] = []

    def stop(row: dict[str, float]) -> None:
        steps.append(row["step"])
        raise Stop

    with torch.random.fork_rng(), pytest.raises(Stop):
        torch.manual_seed(7)  # another process has drawn something else
        run(asked, folder, on_evaluation=stop)
    assert steps == [4] and not torch.is_inference_mode_enabled()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["best"] = [0 * weight for weight in state["best"]]  # it goes on from the last
    torch.save(state, folder / "checkpoint.pt")
    resumed = run(asked, folder)
    assert same_weights(whole, resumed)
    assert whole.history.equals(resumed.history)
    assert not (folder / "checkpoint.pt").exists()


def test_a_finished_training_is_loaded_not_repeated(
    base: LanguageModel, whole: FineTuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    again = run(ask(base), whole.folder)
    pd.testing.assert_frame_equal(again.history, whole.history)
    np.testing.assert_array_equal(again.confidence(X), whole.confidence(X))
    assert again.model.fingerprint == whole.model.fingerprint
    assert again.n_trainable == whole.n_trainable
    # A calibrator fits both.
    assert again.classifier.source() == whole.classifier.source()


def test_each_step_leaves_out_other_parts(
    asked: LLMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    trainer = Trainer(task_of(asked), tmp_path / "f")
    sow = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda s: (seeds.append(s), sow(s))[1])
    trainer.run()
    assert len(seeds) == len(set(seeds)) == len(trainer.plan) > 3


def test_without_a_folder_it_is_kept_in_the_cache(
    asked: LLMClassifier, own_scores: Path
) -> None:
    found = [tune(asked, epochs=1, seed=seed) for seed in (0, 0, 1)]
    assert found[0].folder == found[1].folder != found[2].folder
    assert found[0].folder.parent == own_scores / "adapters"


def test_folder_of_something_else_is_refused(
    base: LanguageModel, whole: FineTuned, tmp_path: Path
) -> None:
    asked = ask(base)
    with pytest.raises(ValueError, match="holds one with other loss, settings"):
        run(asked, whole.folder, loss=Focal(1.0), seed=1)
    with pytest.raises(ValueError, match="holds one with other data"):
        run(asked, whole.folder, X=X[:9], y=Y[:9])
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(ValueError, match=r"must be empty.*thesis\.txt"):
        run(asked, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_loading_by_path_gives_the_same_model(
    base: LanguageModel, tuned: FineTuned
) -> None:
    before = ask(base).predict_proba(X)
    loaded = LanguageModel.load(str(tuned.folder), device="cpu")
    assert loaded.name == tuned.model.name == "reviews"
    assert loaded.fingerprint == tuned.model.fingerprint != base.fingerprint
    found = ask(loaded).predict_proba(X)  # with kept scores, but not those of the base
    expected = tuned.classifier.set_params(cache=False).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - before).max() > 0.1
    np.testing.assert_array_equal(ask(base, cache=False).predict_proba(X), before)
    assert LanguageModel.load(base.name, device="cpu") is base
    assert not any(module.training for module in loaded.network.modules())


def test_what_other_helpers_do_with_a_tuned_model(tuned: FineTuned) -> None:
    classifier, model = tuned.classifier, tuned.model
    passes = mc_dropout(classifier, X[:3], n_passes=4)
    assert passes.shape == (4, 3, 2) and np.all(np.ptp(passes, axis=0) > 0)
    assert (sample_votes(classifier, X, n=20).sum(axis=1) == 20).all()
    prompt = classifier.render("a warm film")
    answer = model.generate(prompt, temperature=0, max_new_tokens=3)[0]
    with torch.inference_mode():
        ids = model.encode(prompt)
        for _ in range(3):  # without a cache
            logits = model.network(torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    assert answer == model.tokenizer.decode(ids[-3:])
    with pytest.raises(ValueError, match="has one already"):
        tune(classifier)


def test_loading_onto_the_wrong_thing_is_refused(
    base: LanguageModel, tuned: FineTuned, make_tiny: Make, tmp_path: Path
) -> None:
    other = make_tiny("llama", rms_norm_eps=1e-3)
    for folder, asked, says in (
        (tuned.folder, ask(base, instruction="Look."), "with another prompt"),
        (tuned.folder, ask(other), "belongs to another one"),
        (tmp_path, ask(base), r"no training\.json"),
    ):
        with pytest.raises(ValueError, match=says):
            load_finetuned(folder, asked)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("base"), "training.json: .* the field 'base'"),
        (lambda r: r["base"].pop("dtype"), "base is "),
        (lambda r: r.update(n_trainable=-1), "n_trainable is -1"),
        (lambda r: r["history"][0].update(brier="low"), "history.0.brier is 'low'"),
        (lambda r: r["head"].update(weight=-1), "weight is -1"),
    ],
)
def test_a_record_that_does_not_hold_is_refused(
    base: LanguageModel, copied: Path, change: Any, says: str
) -> None:
    record = json.loads((copied / "training.json").read_text("utf-8"))
    change(record)
    (copied / "training.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ValueError, match=says):
        load_finetuned(copied, ask(base))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("kind", ["not finite", "cut"])
def test_damaged_weights_are_refused(
    base: LanguageModel, copied: Path, name: str, kind: str
) -> None:
    path = copied / name
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        weights = safetensors.torch.load_file(path)
        next(iter(weights.values())).view(-1)[0] = torch.nan
        safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=f"{name} (is damaged|must hold finite)"):
        load_finetuned(copied, ask(base))


@pytest.mark.filterwarnings(
    # peft asks transformers by a name that is going out of use.
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
def test_peft_reads_our_adapter_and_we_read_one_of_peft(
    base: LanguageModel, tuned: FineTuned, tmp_path: Path
) -> None:
    config = peft.LoraConfig(
        r=3,
        target_modules=["q_proj", "down_proj"],
        base_model_name_or_path=base.name,
        init_lora_weights=False,
    )
    with torch.random.fork_rng():
        theirs = peft.get_peft_model(copy.deepcopy(base.network), config).eval()
    theirs.save_pretrained(str(tmp_path))
    read = LanguageModel.load(str(tmp_path), device="cpu").network
    by_peft = peft.PeftModel.from_pretrained(
        copy.deepcopy(base.network), str(tuned.folder)
    ).eval()
    ids = torch.tensor([PROMPTS[2]])
    with torch.inference_mode():
        plain = base.network(input_ids=ids).logits
        for ours, other in ((read, theirs), (tuned.model.network, by_peft)):
            expected = other(input_ids=ids).logits
            assert (expected - plain).abs().max() > 0.01
            torch.testing.assert_close(ours(input_ids=ids).logits, expected)


def test_files_say_what_they_are(base: LanguageModel, tuned: FineTuned) -> None:
    names = {path.name for path in tuned.folder.iterdir()}
    weights = {"adapter_model.safetensors", "head.safetensors"}
    assert names == weights | {"README.md", "adapter_config.json", "training.json"}
    config = json.loads((tuned.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.name
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    text = (tuned.folder / "training.json").read_text()
    record = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert record["base"]["fingerprint"] == base.fingerprint
    assert record["settings"]["epochs"] == 12 and record["n"] == 10
    card = (tuned.folder / "README.md").read_text()
    assert base.fingerprint in card and "CrossEntropy()" in card


def test_an_adapter_whose_base_is_unknown_or_broken_says_so(
    tuned: FineTuned, tiny: LanguageModel, tmp_path: Path
) -> None:
    def refused(says: str) -> None:
        with pytest.raises(ModelError, match=says):
            LanguageModel.load(str(tmp_path), device="cpu")

    adapters.save_adapter(with_lora(tiny).network, tmp_path)
    refused("does not name its base.*load_finetuned")
    path = tmp_path / "adapter_config.json"
    path.write_text("{")
    refused("broken")
    shutil.copy(tuned.folder / path.name, path)  # the rank of another adapter
    refused("no adapter that can be put on")


def test_adapters_on_the_embedded_model_are_read(
    base: LanguageModel, tuned: FineTuned, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that comes with this repository, written by an earlier version.
    assert len(neiss_classifier("fine-tuned").classes_) == 26
    path = copied / "adapter_config.json"
    told = json.loads(path.read_text()) | {
        "base_model_name_or_path": "SmolLM2-135M-Instruct"
    }
    path.write_text(json.dumps(told))
    monkeypatch.setattr(checkpoints, "fetch_embedded", lambda: Path(base.name))
    loaded = LanguageModel.load(str(copied), device="cpu")
    assert loaded.fingerprint == tuned.model.fingerprint


def test_a_quantised_base_is_loaded_again_not_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package bitsandbytes"):
        LanguageModel.load("any", device="cuda", quantize="4bit")
    network: Any = SimpleNamespace(modules=lambda: [], hf_quantizer=object())
    quantised: Any = SimpleNamespace(network=network, source=None)
    with pytest.raises(ValueError, match=r"must be loaded by LanguageModel\.load"):
        training.copy_of_base(quantised)
    quantised.source = checkpoints.Source("name", "cuda", "auto", "4bit")
    monkeypatch.setattr(checkpoints.Source, "load", lambda source: (source, None))
    assert training.copy_of_base(quantised) == quantised.source


def test_head_starts_undecided_and_its_gradient_reaches_the_adapter(
    tiny: LanguageModel,
) -> None:
    model, kind = with_lora(tiny), ConfidenceHead(weight=2.0)
    head: Any = kind.build(model)
    ends = prompt_ends(model, PROMPTS)
    right = np.array([0, 1, 1, 1, 1, 1])
    is_right = torch.tensor(right == 1)
    assert kind.loss(head, ends, is_right).tolist() == pytest.approx([np.log(4)] * 6)
    with torch.no_grad():
        head[0].weight.normal_()
        head[0].bias.fill_(0.3)
    loss = kind.loss(head, ends, is_right)
    odds = (ends @ head[0].weight[0] + 0.3).detach().double().numpy()
    expected = 2 * (np.logaddexp(0, odds) - right * odds)
    assert loss.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    weights = [*head.parameters(), *adapters.adapter_parameters(model.network)]
    grads = torch.autograd.grad(loss.sum(), weights)
    assert all(grad.abs().max() > 0 for grad in grads)


def test_head_learns_where_the_model_is_wrong(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    # Labels that cannot be learned by so weak an adapter: right is what it says.
    head = ConfidenceHead(learning_rate=0.05)
    settings = {"epochs": 30, "learning_rate": 1e-6, "evaluate_every": 9999}
    found = tune(asked, tmp_path / "f", head=head, **settings)
    right = found.classifier.predict(X) == np.asarray(Y)
    assert 0 < right.sum() < 10
    confidence = found.confidence(X)
    assert confidence[right].min() > confidence[~right].max()
    alone = np.concatenate([found.confidence([text]) for text in X])
    np.testing.assert_allclose(confidence, alone, atol=1e-5)
    assert found.confidence([]).shape == (0,)
    with pytest.raises(ValueError, match="trained without one"):
        replace(found, head=None).confidence(X)


def test_ensemble(asked: LLMClassifier, tmp_path: Path) -> None:
    given: dict[str, Any] = {"validation": HELD_OUT, "settings": QUICK}
    found = finetune_ensemble(asked, X, Y, seeds=[3, 5], folder=tmp_path, **given)
    assert [member.folder.name for member in found] == ["seed-3", "seed-5"]
    table = members(found, X)
    assert table.shape == (2, 10, 2)
    np.testing.assert_array_equal(table[1], found[1].classifier.predict_proba(X))
    assert np.all(combine(table).epistemic > 0)
    records = [json.loads((f.folder / "training.json").read_text()) for f in found]
    assert [record["settings"]["seed"] for record in records] == [3, 5]
    first, second = (f.model.network.model.layers[0].mlp.up_proj for f in found)
    assert first.base_layer.weight.data_ptr() == second.base_layer.weight.data_ptr()
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(ValueError, match="seeds must be"):
            finetune_ensemble(asked, X, Y, seeds=seeds, **given)
    with pytest.raises(ValueError, match="at least one member"):
        members([], X)


def test_a_record_without_its_end_is_no_result(root: Path) -> None:
    text = (root / "data" / "neiss_adapter" / "training.json").read_text("utf-8")
    whole = json.loads(text)
    assert Record.read(whole).parts == whole["parts"]
    for wrong in ({**whole, "finished": False}, {**whole, "parts": [1]}):
        with pytest.raises(ValueError, match=r"^(finished|parts)"):
            Record.read(wrong)
