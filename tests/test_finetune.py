"""Rules of helpers.finetune: exact scores, honest losses, trainings that survive."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peft
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import adapters, checkpoints
from helpers.checkpoints import ModelError, check_quantisation
from helpers.classifier import LLMClassifier
from helpers.finetune import (
    BrierPenalty,
    ConfidenceHead,
    CrossEntropy,
    FineTuned,
    Focal,
    LabelSmoothing,
    SoftCalibration,
    TrainingSettings,
    agreement_targets,
    finetune,
    finetune_ensemble,
    label_logprobs_with_gradient,
    load_finetuned,
    members,
    true_label_logprobs_with_gradient,
)
from helpers.finetune import training as training_module
from helpers.finetune.ensembles import resampled
from helpers.finetune.head import head_loss
from helpers.finetune.label_scores import prompt_ends, read_answers
from helpers.finetune.store import Store
from helpers.finetune.task import make_task, plan_batches
from helpers.finetune.training import Trainer, trainable_copy
from helpers.metrics import (
    Binning,
    brier_score,
    expected_calibration_error,
    log_loss,
    top_label,
)
from helpers.models import LanguageModel
from helpers.sampling import sample_votes
from helpers.scoring import label_logprobs, tree_is_exact
from helpers.uncertainty import combine, mc_dropout
from helpers.verbalizer import LabelTokens

SEQUENCES = ((5, 6, 7, 8), (5, 6, 9), (10,), (11, 12), (11, 13), (14, 15, 16))
OWNERS = (0, 1, 2, 2, 3, 4)
LABELS = LabelTokens(tuple("abcde"), SEQUENCES, OWNERS)
ENDING = LabelTokens(tuple("abcde"), (*SEQUENCES, (5, 6)), (*OWNERS, 4), (17, 18))
ENDS = ["film", "plot", "a film", "the plot", "way"]
X = [f"{word} {end}" for word in ("warm", "dull") for end in ENDS]
Y = ["positive"] * 5 + ["negative"] * 5
HELD_OUT = (["warm maybe", "warm one", "dull maybe", "dull one"], Y[:2] + Y[-2:])
QUICK = TrainingSettings(
    rank=4, epochs=2, token_budget=60, dropout=0.1, learning_rate=0.02
)


def random_prompts(lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 300, length).tolist() for length in lengths]


PROMPTS = random_prompts([5, 1, 30, 12, 12, 2])


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    return make_tiny("llama")


@pytest.fixture
def asked(tiny: LanguageModel) -> LLMClassifier:
    return ask(tiny)


def ask(model: LanguageModel, **settings: Any) -> LLMClassifier:
    prompt = "Review: {text}\nSentiment:"
    return LLMClassifier(model, ["positive", "negative"], prompt, **settings)


def with_lora(model: LanguageModel, **settings: Any) -> LanguageModel:
    """The model with an adapter that does something."""
    network = adapters.copy_sharing_weights(model.network)
    adapters.add_lora(network, rank=2, **settings)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in adapters.adapter_parameters(network):
            weight.normal_(std=0.3)
    return LanguageModel(network, model.tokenizer, name="tuned")


def same_weights(first: Path, second: Path) -> bool:
    """Whether two results are equal bit by bit."""
    names = ("adapter_model.safetensors", "head.safetensors")
    pairs = [(first / name, second / name) for name in names if (first / name).exists()]
    return all(a.read_bytes() == b.read_bytes() for a, b in pairs)


# Label scores with gradient ----------------------------------------------------------

KINDS: list[tuple[str, dict[str, Any], bool]] = [
    ("llama", {}, True),
    ("gpt2", {}, True),
    ("gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0}, True),
    ("mistral", {"sliding_window": 20}, False),
    ("bloom", {}, False),
    ("mamba", {"state_size": 4}, False),
]


@pytest.mark.parametrize(("kind", "settings", "tree"), KINDS, ids=[k[0] for k in KINDS])
@pytest.mark.parametrize("labels", [LABELS, ENDING], ids=["open", "ending"])
def test_scores_are_those_of_scoring(
    make_tiny: Callable[..., LanguageModel],
    kind: str,
    settings: dict[str, Any],
    tree: bool,
    labels: LabelTokens,
) -> None:
    model = make_tiny(kind, **settings)
    assert tree_is_exact(model, 34) is tree
    expected = label_logprobs(model, PROMPTS, labels)
    found = label_logprobs_with_gradient(model, PROMPTS, labels)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)
    truth = [0, 2, 4, 2, 1, 3]
    own = true_label_logprobs_with_gradient(model, PROMPTS, labels, truth)
    column = expected[range(len(truth)), truth]
    np.testing.assert_allclose(own.detach().numpy(), column, atol=1e-4)


def test_rows_whose_positions_depend_on_their_length_are_read_alone(
    make_tiny: Callable[..., LanguageModel],
) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 24,
        "factor": 256 / 24,
    }
    model = make_tiny("phi3", original_max_position_embeddings=24, rope_parameters=rope)
    expected = label_logprobs(model, PROMPTS, ENDING)
    found = label_logprobs_with_gradient(model, PROMPTS, ENDING)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)


def test_gradients_of_all_paths_agree(tiny: LanguageModel) -> None:
    model = with_lora(tiny)
    weights = adapters.adapter_parameters(model.network)
    truth = [0, 2, 4, 2, 1, 3]
    table = label_logprobs_with_gradient(model, PROMPTS, ENDING)
    own = true_label_logprobs_with_gradient(model, PROMPTS, ENDING, truth)
    first = torch.autograd.grad(table[range(6), truth].mean(), weights)
    second = torch.autograd.grad(own.mean(), weights)
    assert any(grad.abs().max() > 0.01 for grad in first)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_gradient_is_the_slope(tiny: LanguageModel) -> None:
    model = with_lora(tiny)
    weight = adapters.adapter_parameters(model.network)[-1]
    score = label_logprobs_with_gradient(model, PROMPTS[:1], ENDING)[0, 0]
    (grad,) = torch.autograd.grad(score, weight)
    at = grad.abs().argmax()
    with torch.no_grad():
        ends = []
        for step in (1e-2, -2e-2):
            weight.view(-1)[at] += step
            ends.append(label_logprobs(model, PROMPTS[:1], ENDING)[0, 0])
    slope = (ends[0] - ends[1]) / 2e-2
    assert float(grad.view(-1)[at]) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("own", [False, True])
def test_no_logits_are_computed_within_the_prompt(
    tiny: LanguageModel, own: bool
) -> None:
    shapes = []
    head = tiny.network.get_output_embeddings()
    with head.register_forward_hook(lambda *args: shapes.append(args[2].shape[:2])):
        if own:
            true_label_logprobs_with_gradient(tiny, PROMPTS[:2], ENDING, [0, 3])
        else:
            label_logprobs_with_gradient(tiny, PROMPTS[:2], ENDING)
    # Five places behind the prompt for the longest label; or every node of the tree.
    assert shapes == [(2, 5)] if own else [(2, 1 + len(ENDING.trie.tokens) - 1)]


def test_both_paths_see_the_same_end_of_the_prompt(
    tiny: LanguageModel, make_tiny: Callable[..., LanguageModel]
) -> None:
    for model in (tiny, make_tiny("bloom"), make_tiny("gpt2")):
        _, ends = read_answers(model, PROMPTS, ENDING)
        alone = torch.cat([prompt_ends(model, [ids]) for ids in PROMPTS])
        torch.testing.assert_close(ends, alone, atol=1e-4, rtol=1e-4)
        hidden = model.network.base_model(torch.tensor(PROMPTS[2:3]))[0][0, -1]
        torch.testing.assert_close(ends[2], hidden, atol=1e-4, rtol=1e-4)


def test_bad_prompts_and_truths_are_named(tiny: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        label_logprobs_with_gradient(tiny, [], LABELS)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        label_logprobs_with_gradient(tiny, [[5], []], LABELS)
    for truth in ([0], [0, 5], [0, -1]):
        with pytest.raises(ValueError, match="truth must have a position below 5"):
            true_label_logprobs_with_gradient(tiny, PROMPTS[:2], LABELS, truth)


# Losses ------------------------------------------------------------------------------

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


def test_losses_by_hand() -> None:
    raw = torch.tensor([[0.6, 0.2], [0.1, 0.4]], dtype=torch.double).log()
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    log = np.log
    expected = [-log(0.6), -log(0.4)]
    assert CrossEntropy()(raw, hard).tolist() == pytest.approx(expected)
    smooth = [
        -0.9 * log(0.6) - 0.1 * log(0.2),
        -0.1 * log(0.1) - 0.9 * log(0.4),
    ]
    assert LabelSmoothing(0.2)(raw, hard).tolist() == pytest.approx(smooth)
    focal = [-(0.4**2) * log(0.6), -(0.6**2) * log(0.4)]
    assert Focal(2)(raw, hard).tolist() == pytest.approx(focal)
    brier = [-log(0.6) + 0.5 * 2 * 0.25**2, -log(0.4) + 0.5 * 2 * 0.2**2]
    assert BrierPenalty(0.5)(raw, hard).tolist() == pytest.approx(brier)


def test_losses_that_are_cross_entropy_in_a_limit() -> None:
    raw, target = raw_and_target()
    plain = CrossEntropy()(raw, target)
    limits: list[Any] = [Focal(0), LabelSmoothing(0), BrierPenalty(0)]
    for loss in [*limits, SoftCalibration(0)]:
        torch.testing.assert_close(loss(raw, target), plain)


def test_cross_entropy_pushes_down_what_falls_on_no_label() -> None:
    half = torch.tensor([[0.3, 0.2]]).log()
    target = torch.tensor([[0.6, 0.4]])
    whole = half.log_softmax(1)
    torch.testing.assert_close(
        CrossEntropy()(half, target) - CrossEntropy()(whole, target),
        torch.tensor([np.log(2)], dtype=torch.float),
    )


def test_soft_bins_become_hard_ones() -> None:
    rng = np.random.default_rng(0)
    raw = torch.as_tensor(rng.normal(size=(300, 2)) * 2).log_softmax(1)
    truth = rng.integers(2, size=300)
    found = SoftCalibration(1, 10, 1e-6).calibration_error(
        raw, torch.as_tensor(np.eye(2)[truth])
    )
    confidence, correct = top_label(raw.exp().numpy(), truth)
    hard = expected_calibration_error(
        confidence, correct, binning=Binning(10), norm="l2"
    )
    assert float(found) == pytest.approx(hard, rel=1e-3)


def test_soft_calibration_by_hand() -> None:
    raw = torch.tensor([[0.7, 0.1], [0.3, 0.3]], dtype=torch.double).log()
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.double)
    # Confidence 0.875, right; 0.5 (the first of a tie), wrong. Middles 0.25 and 0.75.
    share = np.exp(-((np.array([[0.875], [0.5]]) - [0.25, 0.75]) ** 2) / 0.1)
    share /= share.sum(1, keepdims=True)
    weight = share.sum(0)
    gaps = (share * np.array([[0.125], [-0.5]])).sum(0) / weight
    expected = np.sqrt((weight / 2 * gaps**2).sum())
    found = SoftCalibration(1, 2, 0.1).calibration_error(raw, hard)
    assert float(found) == pytest.approx(expected)


def test_certain_and_right_has_no_calibration_error_and_a_gradient() -> None:
    raw = torch.tensor([[0.0, -800.0]], dtype=torch.double, requires_grad=True)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    for loss in LOSSES:
        (grad,) = torch.autograd.grad(loss(raw, target).sum(), raw)
        assert torch.isfinite(grad).all(), loss
    assert float(SoftCalibration(1).calibration_error(raw.detach(), target)) == 0


@given(st.integers(0, 1000))
def test_order_of_labels_and_rows_changes_no_loss(seed: int) -> None:
    made = np.random.default_rng(seed)
    raw, target = raw_and_target()
    rows, columns = made.permutation(6), made.permutation(3)
    for loss in LOSSES:
        moved = loss(raw[rows][:, columns], target[rows][:, columns])
        torch.testing.assert_close(moved, loss(raw, target)[rows])


@pytest.mark.parametrize("make", [LabelSmoothing, Focal, BrierPenalty, SoftCalibration])
@pytest.mark.parametrize("wrong", [-0.1, float("nan"), "1", float("inf")])
def test_bad_losses_are_refused(make: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="amount|gamma|weight"):
        make(wrong)


def test_targets_by_agreement() -> None:
    votes = pd.DataFrame({"a": [8, 0, 1], "b": [2, 0, 3], "invalid": [0, 10, 6]})
    truth = np.array([[1, 0], [0, 1], [1, 0]])
    found = agreement_targets(truth, votes, 0.5)
    expected = [[0.9, 0.1], [0, 1], [0.625, 0.375]]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(agreement_targets(truth, votes, 0), truth)
    shares = [[0.8, 0.2], [0, 1], [0.25, 0.75]]
    np.testing.assert_allclose(agreement_targets(truth, votes, 1), shares)
    with pytest.raises(ValueError, match="strength must lie between 0 and 1"):
        agreement_targets(truth, votes, 1.5)
    with pytest.raises(ValueError, match="row for each of 2 texts"):
        agreement_targets(truth[:2], votes, 0.5)
    with pytest.raises(ValueError, match="votes must be 0 or more, not -2"):
        agreement_targets(truth, votes.replace(2, -2), 0.5)


# Settings, batches, task -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rank", 0),
        ("alpha", -1),
        ("dropout", 1),
        ("dropout", -0.1),
        ("target_modules", ()),
        ("target_modules", ""),
        ("layers", 0),
        ("learning_rate", 0),
        ("epochs", 1.5),
        ("token_budget", 0),
        ("warmup", 1),
        ("schedule", "step"),
        ("weight_decay", -1),
        ("max_grad_norm", 0),
        ("evaluate_every", 0),
        ("patience", 0),
        ("monitor", "accuracy"),
        ("precision", "int8"),
        ("checkpointing", 1),
        ("seed", -1),
    ],
)
def test_bad_settings_are_named(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        TrainingSettings(**{name: wrong})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(0, 5))
def test_batches_hold_each_row_once_within_budget(widths: list[int], seed: int) -> None:
    settings = TrainingSettings(epochs=2, token_budget=64, seed=seed)
    plan = plan_batches(widths, settings)
    assert plan == plan_batches(widths, settings)
    assert plan[:1] == plan_batches(widths, replace(settings, epochs=1))
    for epoch in plan:
        rows = [row for batch in epoch for row in batch]
        assert sorted(rows) == list(range(len(widths)))
        assert all(len(b) * max(widths[row] for row in b) <= 64 for b in epoch)


def test_epochs_differ_and_padding_is_little() -> None:
    widths = np.random.default_rng(0).integers(20, 60, 300).tolist()
    first, second = plan_batches(widths, TrainingSettings(epochs=2))
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}
    padded = sum(len(b) * max(widths[row] for row in b) for b in first)
    assert padded < 1.15 * sum(widths)
    assert len(first) < 1.2 * sum(widths) / 512 + 1


def test_bad_data_are_named(asked: LLMClassifier) -> None:
    good: dict[str, Any] = {"X": X, "y": Y, "validation": HELD_OUT}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"X": [], "y": []}, "X must hold at least one text"),
        ({"validation": ([], [])}, "validation must hold at least one text"),
        ({"y": Y[:3]}, "y must have one value for each of 10 rows"),
        ({"y": ["neutral"] * 10}, "must be one of the classes .* row 0 is 'neutral'"),
        ({"validation": (["WARM  film"], Y[:1])}, "other texts than X; text 0"),
        (
            {"sample_targets": np.eye(2)},
            r"sample_targets must have one value for each of 10 rows",
        ),
        ({"sample_targets": np.ones((10, 2))}, "sample_targets must sum to one"),
        ({"settings": TrainingSettings(precision="float16")}, "needs a CUDA device"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            make_task(asked, **(good | wrong))
    with pytest.raises(TypeError, match="loss must be a dataclass"):
        make_task(asked, X, Y, validation=HELD_OUT, loss=lambda raw, target: raw)


def test_what_a_result_depends_on_is_in_its_hash(
    asked: LLMClassifier, make_tiny: Callable[..., LanguageModel]
) -> None:
    def parts(classifier: LLMClassifier = asked, **changed: Any) -> dict[str, str]:
        data = {"X": X, "y": Y, "validation": HELD_OUT} | changed
        return make_task(classifier, **data).parts

    plain = parts()
    assert parts() == plain
    other = make_tiny("llama", rms_norm_eps=1e-3)
    cases: list[tuple[str, dict[str, str]]] = [
        ("model", parts(ask(other))),
        ("prompt", parts(ask(asked.model, instruction="Look."))),
        ("prompt", parts(ask(asked.model, terminator=None))),
        ("data", parts(y=Y[::-1])),
        ("data", parts(X=X[::-1], y=Y[::-1])),
        ("data", parts(validation=(HELD_OUT[0], HELD_OUT[1][::-1]))),
        ("data", parts(sample_targets=np.full((10, 2), 0.5))),
        ("loss", parts(loss=Focal(1.0))),
        ("settings", parts(settings=TrainingSettings(seed=1))),
        ("head", parts(head=ConfidenceHead())),
    ]
    for name, found in cases:
        assert [part for part in plain if plain[part] != found[part]] == [name]


# Adapters ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_fresh_adapter_changes_nothing(
    make_tiny: Callable[..., LanguageModel], kind: str
) -> None:
    model = make_tiny(kind)
    task = make_task(ask(model), X, Y, validation=HELD_OUT, settings=QUICK)
    tuned = trainable_copy(task)
    before = label_logprobs(model, task.prompts, task.labels)
    after = label_logprobs(tuned, task.prompts, task.labels)
    np.testing.assert_array_equal(after, before)
    assert type(tuned.network) is type(model.network)
    assert type(tuned.network.base_model) is type(model.network.base_model)
    weights = {n for n, w in tuned.network.named_parameters() if w.requires_grad}
    assert weights and all(".lora_" in name for name in weights)


def test_a_twin_shares_weights_and_nothing_else(tiny: LanguageModel) -> None:
    before = {name: id(part) for name, part in tiny.network.named_modules()}
    fingerprint, flags = (
        tiny.fingerprint,
        [weight.requires_grad for weight in tiny.network.parameters()],
    )
    tuned = with_lora(tiny)
    assert {name: id(part) for name, part in tiny.network.named_modules()} == before
    assert [weight.requires_grad for weight in tiny.network.parameters()] == flags
    theirs = tiny.network.model.layers[0].mlp.up_proj.weight
    ours = tuned.network.model.layers[0].mlp.up_proj.base_layer.weight
    assert ours.data_ptr() == theirs.data_ptr()
    again = LanguageModel(tiny.network, tiny.tokenizer)
    assert again.fingerprint == fingerprint != tuned.fingerprint
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
    found = {with_lora(tiny, alpha=alpha).fingerprint for alpha in (1.0, 2.0)}
    assert len(found) == 2
    assert with_lora(tiny).fingerprint == with_lora(tiny).fingerprint
    model = with_lora(tiny)
    with torch.no_grad():
        adapters.adapter_parameters(model.network)[3][0, 0] += 0.01
    assert model.fingerprint != with_lora(tiny).fingerprint


def test_weights_of_another_adapter_are_refused(tiny: LanguageModel) -> None:
    weights = adapters.adapter_weights(with_lora(tiny, layers=1).network)
    with pytest.raises(ValueError, match="for another one"):
        adapters.set_adapter_weights(with_lora(tiny).network, weights)


# A training --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_base(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk."""
    folder = tmp_path_factory.mktemp("base")
    tiny.network.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(saved_base: Path) -> LanguageModel:
    return LanguageModel.load(str(saved_base), device="cpu")


@pytest.fixture(scope="module")
def tuned(base: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    folder = tmp_path_factory.mktemp("tuned") / "reviews"
    settings = replace(QUICK, epochs=12)
    head = ConfidenceHead(hidden=3)
    return finetune(
        ask(base),
        X,
        Y,
        validation=HELD_OUT,
        settings=settings,
        folder=folder,
        head=head,
    )


def test_training_learns(base: LanguageModel, tuned: FineTuned) -> None:
    before, after = ask(base, cache=False), tuned.classifier
    for texts, truth in ((X, Y), HELD_OUT):
        codes = (np.asarray(truth) == "positive").astype(int)
        was = log_loss(before.predict_proba(texts), codes)
        now = log_loss(after.predict_proba(texts), codes)
        assert now < 0.5 * was
    assert after.score(X, Y) == 1
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
    codes = (np.asarray(HELD_OUT[1]) == "positive").astype(int)
    at = {True: tuned.classifier, False: ask(base)}
    for row in (history[history["best"]].iloc[0], history.iloc[0]):
        found = at[bool(row["best"])].predict_proba(HELD_OUT[0])
        confidence, correct = top_label(found, codes)
        assert row["accuracy"] == pytest.approx(correct.mean())
        assert row["log_loss"] == pytest.approx(log_loss(found, codes), abs=1e-5)
        assert row["brier"] == pytest.approx(brier_score(found, codes), abs=1e-5)
        ece = expected_calibration_error(confidence, correct)
        assert row["ece"] == pytest.approx(ece, abs=1e-5)


def test_the_tuned_is_asked_as_the_base_was(
    base: LanguageModel, tuned: FineTuned, tmp_path: Path
) -> None:
    ours, theirs = tuned.classifier.inputs(X), ask(base).inputs(X)
    assert ours[0] is tuned.model and ours[1:] == theirs[1:]
    drawn = ask(base, prior="contextual").set_params(examples=2).fit(X, Y)
    settings = replace(QUICK, epochs=1, evaluate_every=99)
    found = finetune(
        drawn, X, Y, validation=HELD_OUT, settings=settings, folder=tmp_path / "f"
    )
    assert found.classifier.inputs(X)[1:] == drawn.inputs(X)[1:]
    assert found.classifier.prior is None and drawn.prior == "contextual"


def test_counts(base: LanguageModel, tuned: FineTuned) -> None:
    layer = (32 + 32) * 2 + (32 + 16) * 2 + (32 + 64) * 3  # q, o; k, v; gate, up, down
    head = 32 * 3 + 3 + 3 + 1
    assert tuned.n_trainable == 2 * 4 * layer + head
    plain = sum(weight.numel() for weight in base.network.parameters())
    share = tuned.n_trainable / (plain + tuned.n_trainable)
    assert tuned.share_trainable == pytest.approx(share)


def test_base_is_left_alone(base: LanguageModel, tuned: FineTuned) -> None:
    fresh = LanguageModel(base.network, base.tokenizer)
    assert fresh.fingerprint == base.fingerprint
    assert not hasattr(base.network, "peft_config")
    assert all(weight.grad is None for weight in base.network.parameters())
    assert not any(module._forward_pre_hooks for module in base.network.modules())
    assert not any(m._forward_pre_hooks for m in tuned.model.network.modules())
    assert not any(weight.requires_grad for weight in tuned.model.network.parameters())
    assert not any(module.training for module in tuned.model.network.modules())


def test_random_state_is_left_alone(asked: LLMClassifier, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    finetune(
        asked,
        X,
        Y,
        validation=HELD_OUT,
        settings=replace(QUICK, epochs=1),
        folder=tmp_path / "f",
        head=ConfidenceHead(2),
    )
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": "constant", "warmup": 0.0},
        {"schedule": "constant"},
        {"schedule": "linear", "precision": "bfloat16"},
        {"checkpointing": True},
        {"layers": 1},
    ],
    ids=str,
)
def test_settings_train(
    asked: LLMClassifier, tmp_path: Path, changed: dict[str, Any]
) -> None:
    settings = replace(QUICK, epochs=4, evaluate_every=99, **changed)
    found = finetune(
        asked, X, Y, validation=HELD_OUT, settings=settings, folder=tmp_path / "f"
    )
    values = found.history["log_loss"]
    assert values.iloc[-1] < values.iloc[0]


def test_checkpointing_changes_memory_only(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    found = []
    for checkpointing in (False, True):
        settings = replace(QUICK, epochs=1, checkpointing=checkpointing)
        folder = tmp_path / str(checkpointing)
        found.append(
            finetune(asked, X, Y, validation=HELD_OUT, settings=settings, folder=folder)
        )
    pairs = zip(
        *(adapters.adapter_weights(f.model.network).values() for f in found),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_every_loss_trains(asked: LLMClassifier, tmp_path: Path, loss: Any) -> None:
    settings = replace(QUICK, epochs=5, dropout=0.0)
    task = make_task(asked, X, Y, validation=HELD_OUT, settings=settings, loss=loss)
    trainer = Trainer(task, trainable_copy(task), Store(tmp_path / "f", {}))
    targets = torch.as_tensor(task.targets)

    def whole() -> float:
        raw = label_logprobs(trainer.model, task.prompts, task.labels)
        return float(loss(torch.as_tensor(raw), targets).mean())

    before = whole()
    for step in range(len(trainer.plan)):
        trainer._step(step)
    assert whole() < 0.8 * before


def test_own_labels_alone_train_to_the_same(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=3, dropout=0.0)
    task = make_task(asked, X, Y, validation=HELD_OUT, settings=settings)
    assert task.truth_suffices
    for changed in ({"head": ConfidenceHead()}, {"loss": LabelSmoothing(0.1)}):
        other = make_task(asked, X, Y, validation=HELD_OUT, **changed)  # type: ignore
        assert not other.truth_suffices
    quick = Trainer(task, trainable_copy(task), Store(tmp_path / "a", {}))
    whole = Trainer(task, trainable_copy(task), Store(tmp_path / "b", {}))
    rows = [0, 3, 7]
    first = quick._loss(rows)
    raw = label_logprobs_with_gradient(
        whole.model, [task.prompts[row] for row in rows], task.labels
    )
    second = -raw[range(3), task.truth[rows]].mean()
    assert first.item() == pytest.approx(second.item(), abs=1e-5)


def test_targets_count_and_not_the_labels(asked: LLMClassifier, tmp_path: Path) -> None:
    # Columns are "negative", "positive"; the first five texts are positive.
    turned = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    found = finetune(
        asked,
        X,
        Y,
        validation=(HELD_OUT[0], HELD_OUT[1][::-1]),
        settings=replace(QUICK, epochs=12, dropout=0.0),
        folder=tmp_path / "f",
        sample_targets=turned,
    )
    assert found.classifier.score(X, Y) == 0


def test_training_stops_when_nothing_is_gained_and_keeps_the_best(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    # Learning the wrong labels makes the held-out texts worse from the first step.
    wrong = Y[::-1]
    settings = replace(QUICK, epochs=9, evaluate_every=1, patience=2)
    found = finetune(
        asked, X, wrong, validation=HELD_OUT, settings=settings, folder=tmp_path / "f"
    )
    history = found.history
    best = int(history.index[history["best"]][0])
    assert len(history) == best + 3 < 9
    model = LanguageModel(found.model.network, found.model.tokenizer)
    again = ask(model, cache=False).predict_proba(HELD_OUT[0])
    codes = (np.asarray(HELD_OUT[1]) == "positive").astype(int)
    assert log_loss(again, codes) == pytest.approx(history["log_loss"].min(), abs=1e-5)


def test_a_loss_that_is_no_number_stops_the_training(
    asked: LLMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training_module,
        "true_label_logprobs_with_gradient",
        lambda *_: torch.tensor([float("nan")], requires_grad=True),
    )
    with pytest.raises(FloatingPointError, match="nan at step 0: take a lower"):
        finetune(asked, X, Y, validation=HELD_OUT, folder=tmp_path / "f")


# Interrupted trainings ---------------------------------------------------------------


class Stop(Exception):
    """What stops a training from inside."""


def stop_at(step: int) -> Callable[[dict[str, float]], None]:
    def look(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Stop

    return look


def run(classifier: LLMClassifier, folder: Path, **more: Any) -> FineTuned:
    settings = replace(QUICK, epochs=3, evaluate_every=2)
    return finetune(
        classifier,
        X,
        Y,
        validation=HELD_OUT,
        settings=settings,
        folder=folder,
        head=ConfidenceHead(2),
        **more,
    )


def test_each_step_leaves_out_other_parts(
    asked: LLMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    sow = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda s: (seeds.append(s), sow(s))[1])
    task = make_task(asked, X, Y, validation=HELD_OUT, settings=QUICK)
    trainer = Trainer(task, trainable_copy(task), Store(tmp_path / "f", {}))
    seeds.clear()
    trainer.run()
    assert len(seeds) == len(set(seeds)) == len(trainer.plan) > 3


@pytest.mark.parametrize("step", [0, 2])
def test_resumed_after_an_error_it_ends_the_same(
    asked: LLMClassifier, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(asked, tmp_path / "whole")
    with pytest.raises(Stop):
        run(asked, tmp_path / "broken", on_evaluation=stop_at(step))
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(ValueError, match="not: call finetune again"):
        load_finetuned(tmp_path / "broken", asked)
    # Once more, between two checkpoints; and a write that was cut short.
    (tmp_path / "broken" / "checkpoint-00000099.unfinished").mkdir()
    (tmp_path / "broken" / "training.json.unfinished").write_text("{")
    steps = []
    do_step = Trainer._step

    def fail(self: Any, at: int) -> float:
        steps.append(at)
        if len(steps) == 2:
            raise Stop
        return do_step(self, at)

    monkeypatch.setattr(Trainer, "_step", fail)
    with pytest.raises(Stop):
        run(asked, tmp_path / "broken")
    assert steps[0] == step
    monkeypatch.undo()
    resumed = run(asked, tmp_path / "broken")
    assert same_weights(whole.folder, resumed.folder)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert not list((tmp_path / "broken").glob("checkpoint-*"))


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from helpers.models import LanguageModel
from test_finetune import ask, run
from helpers.finetune import training
from pathlib import Path

do_step = training.Trainer._step
def kill(self, at):
    if at == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return do_step(self, at)
training.Trainer._step = kill
run(ask(LanguageModel.load({base!r}, device="cpu"), cache=False), Path({folder!r}))
"""


def test_resumed_after_a_kill_it_ends_the_same(
    base: LanguageModel, saved_base: Path, tmp_path: Path, root: Path
) -> None:
    whole = run(ask(base), tmp_path / "whole")
    folder = tmp_path / "killed"
    script = KILLED.format(
        tests=str(Path(__file__).parent), base=str(saved_base), folder=str(folder)
    )
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert [path.name for path in folder.glob("checkpoint-*")] == [
        "checkpoint-00000002"
    ]
    resumed = run(ask(base), folder)
    assert same_weights(whole.folder, resumed.folder)
    assert whole.history.equals(resumed.history)


def test_a_finished_training_is_loaded_not_repeated(
    asked: LLMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(asked, tmp_path / "f")
    taken: list[int] = []
    do_step = Trainer._step

    def count(self: Any, at: int) -> float:
        taken.append(at)
        return do_step(self, at)

    monkeypatch.setattr(Trainer, "_step", count)
    again = run(asked, tmp_path / "f")
    assert not taken
    assert again.history.equals(first.history)
    np.testing.assert_array_equal(again.confidence(X), first.confidence(X))
    assert again.model.fingerprint == first.model.fingerprint
    assert (
        again.classifier.source() == first.classifier.source()
    )  # a calibrator fits both
    run(asked, tmp_path / "f", resume=False)
    assert taken


def test_without_a_folder_it_is_kept_in_the_cache(
    asked: LLMClassifier, own_scores: Path
) -> None:
    settings = replace(QUICK, epochs=1)
    found = [
        finetune(asked, X, Y, validation=HELD_OUT, settings=s)
        for s in (settings, settings, replace(settings, seed=1))
    ]
    assert found[0].folder == found[1].folder != found[2].folder
    assert found[0].folder.parent == own_scores / "adapters"


def test_folder_of_something_else_is_refused(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=1)
    mine = tmp_path / "mine"
    finetune(asked, X, Y, validation=HELD_OUT, settings=settings, folder=mine)
    with pytest.raises(ValueError, match="mine holds one with other loss, settings"):
        finetune(asked, X, Y, validation=HELD_OUT, folder=mine, loss=Focal(1.0))
    with pytest.raises(ValueError, match="holds one with other data"):
        finetune(
            asked,
            X[:9],
            Y[:9],
            validation=HELD_OUT,
            settings=settings,
            folder=mine,
            resume=False,
        )
    assert (mine / "adapter_model.safetensors").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("my only copy")
    with pytest.raises(ValueError, match=r"must be empty.*thesis\.txt"):
        finetune(asked, X, Y, validation=HELD_OUT, folder=other, resume=False)
    assert (other / "thesis.txt").exists()


def test_an_adapted_model_is_not_adapted_again(
    tuned: FineTuned, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has one already"):
        finetune(tuned.classifier, X, Y, validation=HELD_OUT, folder=tmp_path / "f")


# What is left behind -----------------------------------------------------------------

# peft asks transformers by a name that is going out of use.
theirs_warn = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def test_loading_by_path_gives_the_same_model(
    base: LanguageModel, tuned: FineTuned
) -> None:
    before = ask(base, cache=False).predict_proba(X)
    loaded = LanguageModel.load(str(tuned.folder), device="cpu")
    assert loaded.name == tuned.model.name == "reviews"
    assert loaded.fingerprint == tuned.model.fingerprint != base.fingerprint
    found = ask(loaded, cache=False).predict_proba(X)
    expected = tuned.classifier.set_params(cache=False).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(ask(base, cache=False).predict_proba(X), before)
    assert LanguageModel.load(base.name, device="cpu") is base
    assert not any(module.training for module in loaded.network.modules())


def test_tuned_and_base_share_no_kept_scores(
    base: LanguageModel, tuned: FineTuned
) -> None:
    first = ask(base).predict_proba(X)
    second = ask(LanguageModel.load(str(tuned.folder), device="cpu")).predict_proba(X)
    assert np.abs(first - second).max() > 0.1
    bare = tuned.classifier.set_params(cache=False).predict_proba(X)
    np.testing.assert_allclose(second, bare, atol=1e-6)


def test_what_other_helpers_do_with_a_tuned_model(tuned: FineTuned) -> None:
    loaded = ask(LanguageModel.load(str(tuned.folder), device="cpu"))
    for classifier in (tuned.classifier, loaded):
        passes = mc_dropout(classifier, X[:3], n_passes=4)
        assert passes.shape == (4, 3, 2) and np.all(np.ptp(passes, axis=0) > 0)
        votes = sample_votes(classifier, X, n=20)
        assert (votes.sum(axis=1) == 20).all()
        model = classifier.model
        assert isinstance(model, LanguageModel)
        prompt = classifier.render("a warm film")
        answer = model.generate(prompt, temperature=0, max_new_tokens=3)[0]
        with torch.inference_mode():
            ids = model.encode(prompt)
            for _ in range(3):  # without a cache
                logits = model.network(torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        assert answer == model.tokenizer.decode(ids[-3:])


def test_load_finetuned_gives_it_back(base: LanguageModel, tuned: FineTuned) -> None:
    again = load_finetuned(tuned.folder, ask(base))
    pd.testing.assert_frame_equal(again.history, tuned.history)
    np.testing.assert_array_equal(
        again.classifier.predict_proba(X), tuned.classifier.predict_proba(X)
    )
    np.testing.assert_array_equal(again.confidence(X), tuned.confidence(X))
    assert again.n_trainable == tuned.n_trainable
    assert copy.deepcopy(again.model) is again.model


def test_loading_onto_the_wrong_thing_is_refused(
    base: LanguageModel,
    tuned: FineTuned,
    make_tiny: Callable[..., LanguageModel],
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="with another prompt"):
        load_finetuned(tuned.folder, ask(base, instruction="Look."))
    other = make_tiny("llama", rms_norm_eps=1e-3)
    with pytest.raises(ValueError, match="belongs to another one"):
        load_finetuned(tuned.folder, ask(other))
    with pytest.raises(ValueError, match="no training.json"):
        load_finetuned(tmp_path, ask(base))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("base"), "training.json: .* the field 'base'"),
        (lambda r: r.update(more=1), "must not have the field 'more'"),
        (lambda r: r.update(n=-1), "n is -1"),
        (lambda r: r.update(labels=[1, 2]), "labels.0 is 1"),
        (lambda r: r["history"][0].update(brier="low"), "history.0.brier is 'low'"),
        (lambda r: r["history"][0].update(accuracy=1.5), "history.0.accuracy is 1.5"),
        (lambda r: [row.update(best=False) for row in r["history"]], "one best row"),
        (lambda r: r["settings"].update(rank=0), "rank must be a whole number"),
        (lambda r: r["settings"].update(speed=1), "settings or head"),
        (lambda r: r["head"].update(weight=-1), "weight must lie"),
    ],
)
def test_a_record_that_does_not_hold_is_refused(
    base: LanguageModel, tuned: FineTuned, tmp_path: Path, change: Any, says: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tuned.folder, folder)
    record = json.loads((folder / "training.json").read_text("utf-8"))
    change(record)
    (folder / "training.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ValueError, match=says):
        load_finetuned(folder, ask(base))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("kind", ["not finite", "cut"])
def test_damaged_weights_are_refused(
    base: LanguageModel, tuned: FineTuned, tmp_path: Path, name: str, kind: str
) -> None:
    shutil.copytree(tuned.folder, tmp_path / "copy")
    path = tmp_path / "copy" / name
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        weights = safetensors.torch.load_file(path)
        next(iter(weights.values())).view(-1)[0] = torch.nan
        safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=f"{name} (is damaged|must hold finite)"):
        load_finetuned(tmp_path / "copy", ask(base))


@theirs_warn
def test_peft_reads_the_adapter(base: LanguageModel, tuned: FineTuned) -> None:
    theirs = peft.PeftModel.from_pretrained(
        copy.deepcopy(base.network), str(tuned.folder)
    ).eval()
    ids = torch.tensor([tuned.model.encode("Review: warm\nSentiment:")])
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(input_ids=ids).logits, tuned.model.network(input_ids=ids).logits
        )


@theirs_warn
def test_we_read_an_adapter_of_peft(base: LanguageModel, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=3,
        target_modules=["q_proj", "down_proj"],
        base_model_name_or_path=base.name,
        init_lora_weights=False,
    )
    with torch.random.fork_rng():
        theirs = peft.get_peft_model(copy.deepcopy(base.network), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = LanguageModel.load(str(tmp_path), device="cpu")
    ids = torch.tensor([PROMPTS[2]])
    with torch.inference_mode():
        expected = theirs(input_ids=ids).logits
        assert (expected - base.network(input_ids=ids).logits).abs().max() > 0.01
        torch.testing.assert_close(ours.network(input_ids=ids).logits, expected)


def test_files_say_what_they_are(base: LanguageModel, tuned: FineTuned) -> None:
    names = {path.name for path in tuned.folder.iterdir()}
    assert names == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "training.json",
    }
    config = json.loads((tuned.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.name
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    text = (tuned.folder / "training.json").read_text()
    record = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert record["base"]["fingerprint"] == base.fingerprint
    assert record["settings"]["epochs"] == 12 and record["n"] == 10
    card = (tuned.folder / "README.md").read_text()
    for said in (
        base.fingerprint,
        "Texts trained on: 10",
        "Held-out texts: 4",
        "CrossEntropy()",
        "- epochs: `12`",
        f"- peft {peft.__version__}",
        "    Review: {text}",
        f"{tuned.history['log_loss'].min():.4f}",
    ):
        assert said in card
    weights = safetensors.torch.load_file(tuned.folder / "adapter_model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"base_model"}
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_an_adapter_whose_base_is_unknown_or_broken_says_so(
    tuned: FineTuned, tiny: LanguageModel, tmp_path: Path
) -> None:
    adapters.save_adapter(with_lora(tiny).network, tmp_path)
    with pytest.raises(ModelError, match="does not name its base.*load_finetuned"):
        LanguageModel.load(str(tmp_path), device="cpu")
    path = tmp_path / "adapter_config.json"
    path.write_text("{")
    with pytest.raises(ModelError, match="broken"):
        LanguageModel.load(str(tmp_path), device="cpu")
    told = json.loads((tuned.folder / "adapter_config.json").read_text())
    path.write_text(json.dumps(told))  # the rank of another adapter
    with pytest.raises(ModelError, match="no adapter that can be put on"):
        LanguageModel.load(str(tmp_path), device="cpu")


def test_an_adapter_can_be_written_in_half_precision(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    network = with_lora(tiny).network
    sizes = {}
    for dtype in (torch.float32, torch.float16):
        folder = tmp_path / str(dtype)
        adapters.save_adapter(network, folder, dtype=dtype)
        sizes[dtype] = (folder / "adapter_model.safetensors").stat().st_size
    assert sizes[torch.float16] < 0.7 * sizes[torch.float32]
    again = adapters.copy_sharing_weights(tiny.network)
    adapters.load_adapter(again, tmp_path / "torch.float16")
    expected = adapters.adapter_weights(network)
    for name, weight in adapters.adapter_weights(again).items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name].half().float())


def test_embedded_name_is_a_base_like_any_other(
    base: LanguageModel,
    tuned: FineTuned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in tuned.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    told = json.loads((folder / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = "SmolLM2-135M-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(told))
    monkeypatch.setattr(checkpoints, "fetch_embedded", lambda: Path(base.name))
    loaded = LanguageModel.load(str(folder), device="cpu")
    assert loaded.fingerprint == tuned.model.fingerprint


# Few bits ----------------------------------------------------------------------------


def test_few_bits_need_cuda_and_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in ("4bit", "8bit"):
        with pytest.raises(ValueError, match=f"quantize='{bits}' needs a CUDA device"):
            LanguageModel.load("any", device="cpu", quantize=bits)  # type: ignore
    with pytest.raises(ValueError, match="must be '8bit', '4bit' or None, not '2bit'"):
        check_quantisation("2bit", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package bitsandbytes"):
        check_quantisation("4bit", "cuda")


def test_a_quantised_base_is_loaded_again_not_copied(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = copy.deepcopy(tiny.network)
    network.hf_quantizer = object()
    model = LanguageModel(network, tiny.tokenizer)
    with pytest.raises(ValueError, match="must be loaded by LanguageModel.load"):
        training_module.copy_of_base(model)
    model.source = ("name", "cuda", "auto", "4bit")
    monkeypatch.setattr(training_module, "load_checkpoint", lambda *key: (key, None))
    assert training_module.copy_of_base(model) == model.source


# A second output ---------------------------------------------------------------------


def test_head_starts_undecided_and_its_gradient_reaches_the_adapter(
    tiny: LanguageModel,
) -> None:
    model = with_lora(tiny)
    head = ConfidenceHead().build(model)
    raw, ends = read_answers(model, PROMPTS, ENDING)
    truth = raw.argmax(1)
    truth[0] = (truth[0] + 1) % 5
    loss = head_loss(head, ends, raw, truth)
    assert loss.tolist() == pytest.approx([np.log(2)] * 6)
    with torch.no_grad():
        head[0].weight.normal_()
        head[0].bias.fill_(0.3)
    loss = head_loss(head, ends, raw, truth)
    odds = (ends @ head[0].weight[0] + 0.3).detach().double().numpy()
    right = np.array([0, 1, 1, 1, 1, 1])
    expected = np.logaddexp(0, odds) - right * odds
    assert loss.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    grads = torch.autograd.grad(
        loss.sum(), [*head.parameters(), *adapters.adapter_parameters(model.network)]
    )
    assert all(grad.abs().max() > 0 for grad in grads)
    assert torch.autograd.grad(
        head_loss(head, ends.detach(), raw, truth).sum(), raw, allow_unused=True
    ) == (None,)


def test_head_learns_where_the_model_is_wrong(
    asked: LLMClassifier, tmp_path: Path
) -> None:
    # Labels that cannot be learned by so weak an adapter: right is what it says.
    settings = replace(
        QUICK, epochs=30, learning_rate=1e-6, dropout=0.0, evaluate_every=9999
    )
    head = ConfidenceHead(learning_rate=0.05)
    found = finetune(
        asked,
        X,
        Y,
        validation=HELD_OUT,
        settings=settings,
        folder=tmp_path / "f",
        head=head,
    )
    right = found.classifier.predict(X) == np.asarray(Y)
    assert 0 < right.sum() < 10
    confidence = found.confidence(X)
    assert confidence.shape == (10,)
    assert confidence[right].min() > confidence[~right].max()


def test_confidence_does_not_depend_on_batches(tuned: FineTuned) -> None:
    whole = tuned.confidence(X)
    assert np.all((whole > 0) & (whole < 1)) and np.ptp(whole) > 0
    alone = np.concatenate([tuned.confidence([text]) for text in X])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    assert tuned.confidence([]).shape == (0,)


def test_confidence_without_a_head_is_refused(tuned: FineTuned) -> None:
    with pytest.raises(ValueError, match="trained without one"):
        replace(tuned, head=None).confidence(X)


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"weight": 0}, {"learning_rate": -1}])
def test_bad_heads_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConfidenceHead(**wrong)


# Several adapters --------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [False, True])
def test_ensemble(asked: LLMClassifier, tmp_path: Path, bootstrap: bool) -> None:
    settings = replace(QUICK, epochs=2, evaluate_every=99)
    found = finetune_ensemble(
        asked,
        X,
        Y,
        validation=HELD_OUT,
        seeds=[3, 5],
        bootstrap=bootstrap,
        settings=settings,
        folder=tmp_path,
        loss=Focal(1.0),
    )
    assert [member.folder.name for member in found] == ["seed-3", "seed-5"]
    table = members(found, X)
    assert table.shape == (2, 10, 2)
    np.testing.assert_array_equal(table[1], found[1].classifier.predict_proba(X))
    assert np.all(combine(table).epistemic > 0)
    records = [json.loads((f.folder / "training.json").read_text()) for f in found]
    assert [record["settings"]["seed"] for record in records] == [3, 5]
    same_data = records[0]["parts"]["data"] == records[1]["parts"]["data"]
    assert same_data is not bootstrap
    first, second = (f.model.network.model.layers[0].mlp.up_proj for f in found)
    assert first.base_layer.weight.data_ptr() == second.base_layer.weight.data_ptr()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 99))
def test_resamples_keep_groups_whole(raw: list[int], seed: int) -> None:
    groups = pd.factorize(np.asarray(raw))[0]
    rows = resampled(groups, seed)
    drawn = np.bincount(rows, minlength=len(groups))
    for group in np.unique(groups):
        assert len(set(drawn[groups == group])) == 1
    sizes = np.bincount(groups)
    n_drawn = sum(np.bincount(groups[rows], minlength=len(sizes)) / sizes)
    assert n_drawn == pytest.approx(len(sizes))


def test_bad_ensembles_are_refused(asked: LLMClassifier) -> None:
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(ValueError, match="seeds must be"):
            finetune_ensemble(asked, X, Y, validation=HELD_OUT, seeds=seeds)
    with pytest.raises(ValueError, match="y must have one value for each of 10"):
        finetune_ensemble(asked, X, Y[:2], validation=HELD_OUT, seeds=[0])
    with pytest.raises(ValueError, match="at least one member"):
        members([], X)
