"""Rules of helpers.scoring, tree, packed: as if each sequence were read on its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from helpers import packed, tree
from helpers.adapters import add_lora
from helpers.models import LanguageModel
from helpers.packed import NodeLogits, ProjectedLogits
from helpers.scoring import label_logprobs, sequence_scores, tree_is_exact
from helpers.tree import forget_prefix, is_packed, nodes_to_read, prefix_cache
from helpers.verbalizer import LabelTokens, Verbalizer

Make = Callable[..., LanguageModel]
TOLERANCE = 1e-4
TINY = ["tiny_llama", "tiny_gpt2"]
tiny_models = pytest.mark.parametrize("any_model", TINY, indirect=True)
# Depths 1 to 4, shared beginnings, two spellings of one label, one label inside
# another but for what follows.
SEQUENCES = ((5, 6, 7, 8), (5, 6, 9), (10,), (11, 12), (11, 13), (14, 15, 16))
OWNERS = (0, 1, 2, 2, 3, 4)
LABELS = LabelTokens(tuple("abcde"), SEQUENCES, OWNERS)
ENDING = LabelTokens(tuple("abcde"), (*SEQUENCES, (5, 6)), (*OWNERS, 4), (17, 18))


def naive(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> np.ndarray:
    """The definition: each sequence a row by itself, no padding, no cache."""
    scores = np.empty((len(prompts), len(labels.sequences)))
    for row, prompt in enumerate(prompts):
        for column, sequence in enumerate(labels.sequences):
            ids = torch.tensor([[*prompt, *sequence]])
            with torch.inference_mode():
                logits = model.network(input_ids=ids, use_cache=False).logits[0]
            logprobs = logits.double().log_softmax(-1)[len(prompt) - 1 :]
            total = sum(float(logprobs[at, t]) for at, t in enumerate(sequence))
            if labels.stop_ids:
                total += float(logprobs[-1, list(labels.stop_ids)].logsumexp(-1))
            scores[row, column] = total
    return scores


def by_sequence(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    **settings: Any,
) -> np.ndarray:
    """Scores where each sequence is a label by itself."""
    n = len(labels.sequences)
    single = LabelTokens(
        tuple(map(str, range(n))), labels.sequences, tuple(range(n)), labels.stop_ids
    )
    return label_logprobs(model, prompts, single, **settings)


def check(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    packed: bool | None = None,
    **settings: Any,
) -> np.ndarray:
    """Scores, which must be those of the definition, and read in the expected way."""
    found = by_sequence(model, prompts, labels, **settings)
    np.testing.assert_allclose(found, naive(model, prompts, labels), atol=TOLERANCE)
    if packed is not None:
        assert tree_is_exact(model, 48) and is_packed(model) is packed
    return found


def random_prompts(lengths: Sequence[int], prefix: Sequence[int] = ()) -> list:
    rng = np.random.default_rng(0)
    return [[*prefix, *rng.integers(2, 300, length).tolist()] for length in lengths]


PREFIX = random_prompts([9])[0]
PROMPTS = random_prompts([5, 1, 30, 12, 12, 2], PREFIX)
CASES = {
    "many": [PROMPTS[row] for row in (5, 2, 0, 4, 1, 3)],
    "one token each": random_prompts([1, 1, 1]),
    "one token alone": [[7]],
    "equal prompts": [PROMPTS[0]] * 3,
    "one begins the other": [PROMPTS[2], PROMPTS[2][:5], PROMPTS[2][:1]],
    "the window is full": random_prompts([256 - 4, 3]),
}


@pytest.mark.parametrize("any_model", [*TINY, "embedded"], indirect=True)
def test_equals_scoring_each_sequence_on_its_own(any_model: LanguageModel) -> None:
    check(any_model, PROMPTS[:2], LABELS)
    assert tree_is_exact(any_model, 48)  # the quick way was taken


@cache
def many_by_hand(model: LanguageModel) -> np.ndarray:
    return naive(model, CASES["many"], ENDING)


@tiny_models
@pytest.mark.parametrize("budget", [1, 40])
@pytest.mark.parametrize("prefix", [(), PREFIX[:4], PREFIX, PROMPTS[0], [299]], ids=len)
def test_budget_and_prefix_change_nothing(
    any_model: LanguageModel, budget: int, prefix: list[int]
) -> None:
    settings: dict[str, Any] = {"prefix": prefix, "token_budget": budget}
    found = by_sequence(any_model, CASES["many"], ENDING, **settings)
    np.testing.assert_allclose(found, many_by_hand(any_model), atol=TOLERANCE)


@tiny_models
@pytest.mark.parametrize("case", CASES)
def test_equals_it_whatever_is_in_common(any_model: LanguageModel, case: str) -> None:
    check(any_model, CASES[case], ENDING)


QUICK, SLOW = True, False
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
    "factor": 256 / 24,
}
# Other rotations for long texts: a longer neighbour would change a row's positions.
PHI3 = {"original_max_position_embeddings": 24, "rope_parameters": ROPE}
SOME_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
GPT_NEO = {"num_layers": 2, "num_heads": 4, "window_size": 32}
SOFT = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
HEAD = {"head_dim": 8}
# Windows are wider than the model's own trial (26 tokens) and narrower than PROMPTS.
ARCHITECTURES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "packed": [
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("mistral", {"sliding_window": 64}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
    ],
    "padded": [
        ("gpt2", {}),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("gpt_neox", {}),
        ("gemma2", HEAD | SOFT | {"sliding_window": 64}),
        *((kind, HEAD) for kind in ("gemma", "granite", "olmo2")),
    ],
    "one by one": [
        ("mistral", {"sliding_window": 32}),
        ("gemma2", HEAD | {"sliding_window": 32}),
        ("gemma3_text", HEAD | SOME_LAYERS | {"sliding_window": 32}),
        ("gpt_neo", GPT_NEO | {"attention_types": [[["global", "local"], 1]]}),
        ("phi3", PHI3),
        ("mamba", {"state_size": 4}),
        ("bloom", {}),
    ],
}


@pytest.mark.parametrize(
    ("way", "kind", "settings"),
    [(way, *case) for way, cases in ARCHITECTURES.items() for case in cases],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_every_architecture_is_scored_right(
    make_tiny: Make, way: str, kind: str, settings: dict[str, Any]
) -> None:
    model = make_tiny(kind, **settings)
    for part in model.network.modules():  # zeros when made, and so never seen
        if way == "packed" and getattr(part, "bias", None) is not None:
            torch.nn.init.normal_(part.bias, generator=torch.manual_seed(1))
    check(model, PROMPTS, ENDING, token_budget=100)
    assert tree_is_exact(model, max(map(len, PROMPTS)) + 4) is (way != "one by one")
    assert way == "one by one" or is_packed(model) is (way == "packed")


def check_pruned(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prune: float,
    **settings: Any,
) -> np.ndarray:
    """The share that was not followed, which must bound what labels are short of."""
    exact = np.exp(label_logprobs(model, prompts, labels, **settings))
    found = label_logprobs(model, prompts, labels, prune=prune, **settings)
    lower, unresolved = np.exp(found[:, :-1]), np.exp(found[:, -1])
    rounding = TOLERANCE * exact
    assert (lower <= exact + rounding).all()
    assert (exact <= lower + unresolved[:, None] + rounding).all()
    total = lower.sum(axis=1)
    left = unresolved / (total + unresolved)
    assert (left <= prune * (1 + 1e-9)).all()
    shares = [each / each.sum(axis=1, keepdims=True) for each in (lower, exact)]
    assert np.abs(shares[0] - shares[1]).max() <= prune + TOLERANCE
    return left


@pytest.mark.parametrize(
    ("kind", "settings"),
    [*ARCHITECTURES["packed"], ARCHITECTURES["padded"][0], ("mamba", {})],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_pruned_as_little_as_may_be_is_exact(
    make_tiny: Make, kind: str, settings: dict[str, Any]
) -> None:
    model = make_tiny(kind, **settings)
    for labels, budget in ((LABELS, None), (ENDING, 40)):
        more: dict[str, Any] = {"prefix": PREFIX, "token_budget": budget}
        exact = label_logprobs(model, PROMPTS, labels, **more)
        found = label_logprobs(model, PROMPTS, labels, prune=1e-300, **more)
        np.testing.assert_allclose(found[:, :-1], exact, atol=TOLERANCE)
        assert (found[:, -1] == -np.inf).all()


@pytest.fixture(scope="module")
def sharp(make_tiny: Make) -> LanguageModel:
    """A tiny network that is sure of what follows."""
    model = make_tiny("llama")
    with torch.no_grad():
        model.network.get_output_embeddings().weight.mul_(3)
    return model


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.lists(st.integers(2, 299), min_size=1, max_size=9), min_size=1, max_size=4
    ),
    st.lists(
        st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple),
        min_size=2,
        max_size=12,
        unique=True,
    ),
    st.sampled_from([(), (4, 17)]),
    st.floats(1e-6, 0.9),
)
def test_what_is_not_followed_is_bounded(
    sharp: LanguageModel,
    prompts: list[list[int]],
    sequences: list[tuple[int, ...]],
    stop_ids: tuple[int, ...],
    prune: float,
) -> None:
    n = len(sequences)
    owners = tuple(at % max(2, n // 2) for at in range(n))
    names = tuple(map(str, range(max(owners) + 1)))
    labels = LabelTokens(names, tuple(sequences), owners, stop_ids)
    check_pruned(sharp, prompts, labels, prune, progress=False)


def test_a_sure_model_follows_few_beginnings(
    sharp: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[int] = []
    step = packed.KeptTexts.step

    def count(self: Any, paths: Any, tokens: Any) -> Any:
        followed.extend(tokens)
        return step(self, paths, tokens)

    monkeypatch.setattr(packed.KeptTexts, "step", count)
    n_nodes = len(nodes_to_read(ENDING)) - 1
    check_pruned(sharp, PROMPTS, ENDING, 1e-300)
    assert len(followed) == n_nodes * len(PROMPTS)
    followed.clear()
    left = check_pruned(sharp, PROMPTS, ENDING, 0.01)
    assert 0 < len(followed) < n_nodes * len(PROMPTS)
    assert (left > 0).any()
    for share in left[left > 0]:  # a little less is not enough any more
        check_pruned(sharp, PROMPTS, ENDING, 0.99 * share)


def test_pruned_scores_are_kept_apart_from_exact_ones(
    sharp: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOW_SURE_CACHE", str(tmp_path))
    first = [
        label_logprobs(sharp, PROMPTS, ENDING, prune=prune, cache=True)
        for prune in (0.1, None, 1e-3)
    ]
    monkeypatch.setattr(sharp.network, "forward", None)
    monkeypatch.setattr(packed.PackedReader, "projected", None)
    for prune, expected in zip((0.1, None, 1e-3), first, strict=True):
        again = label_logprobs(sharp, PROMPTS, ENDING, prune=prune, cache=True)
        np.testing.assert_array_equal(again, expected)
    assert (first[0][:, -1] > first[2][:, -1]).any()  # which follows more


@pytest.mark.parametrize("prune", [0, 1, -1e-4, np.nan, "0.1"])
def test_prune_must_be_a_share(tiny_llama: LanguageModel, prune: Any) -> None:
    with pytest.raises(ValueError, match="prune must lie between 0 and 1, not"):
        label_logprobs(tiny_llama, [[3]], LABELS, prune=prune)


@pytest.mark.parametrize("length", [1, 16, 17, 45])
def test_shared_prefix_of_any_length(make_tiny: Make, length: int) -> None:
    model, (prefix,) = make_tiny("llama"), random_prompts([length])
    prompts = random_prompts([5, 1, 30, 12, 2], prefix)
    check(model, prompts, ENDING, token_budget=100, packed=True)


@pytest.mark.parametrize("length", [0, 16, 20])
def test_text_that_is_not_a_number_leaves_the_others_alone(
    make_tiny: Make, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(LanguageModel, "check_logprobs", lambda *_: None)
    model = make_tiny("llama", num_hidden_layers=3)
    prefix = [22] * length
    good, bad = [3, 4, 5], [7, 8, 9, 250, 11, 12]
    embeddings = model.network.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[250] = torch.nan
    prompts = [[*prefix, *ids] for ids in (bad, good, good[:1])]
    found = by_sequence(model, prompts, LABELS, prefix=prefix)
    assert is_packed(model)
    assert np.isnan(found[0]).all()
    expected = naive(model, prompts[1:], LABELS)
    np.testing.assert_allclose(found[1:], expected, atol=TOLERANCE)


def test_an_infinite_logit_leaves_no_label_below_it_a_number() -> None:
    labels = LabelTokens(("a", "b"), ((3, 4), (5,)), (0, 1), ())
    logits = torch.zeros(1, len(nodes_to_read(labels)), 9)
    logits[0, 1, 7] = torch.inf  # of a token that no label has
    (found,) = sequence_scores(NodeLogits(logits), labels)
    assert found[0].isnan() and found[1].isfinite()


@pytest.mark.parametrize("misread", ["in common", "left over"])
@pytest.mark.parametrize("half", [False, True])
def test_trial_sees_a_shared_prefix_that_is_misread(
    make_tiny: Make,
    embedded: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    misread: str,
    half: bool,
) -> None:
    split = packed._Attention._split

    def wrong(self: Any, prefix: torch.Tensor, own: torch.Tensor) -> Any:
        common, rows = split(self, prefix, own)
        if misread == "in common":
            return 0 * common, rows
        rows[: len(rows) - len(own)] = 0
        return common, rows

    monkeypatch.setattr(packed._Attention, "_split", wrong)
    if half:
        model = LanguageModel.load(embedded.name, device="cpu", dtype="bfloat16")
        assert tree_is_exact(model, 48) and not is_packed(model)
    else:
        check(make_tiny("llama"), PROMPTS, ENDING, packed=False)


def test_network_that_computes_otherwise_is_padded(make_tiny: Make) -> None:
    model = make_tiny("llama")

    class Doubled(type(model.network.model.norm)):  # type: ignore
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(hidden)

    model.network.model.layers[1].input_layernorm.__class__ = Doubled
    check(model, PROMPTS, ENDING, packed=False)


def test_trial_is_of_the_way_that_is_taken(make_tiny: Make) -> None:
    model = make_tiny("llama")
    body: Any = model.network.base_model
    with body.register_forward_hook(lambda *_: None):
        check(model, PROMPTS, ENDING)  # padded, and so was the trial
    body.layers[0].mlp.act_fn = torch.nn.GELU()
    check(model, PROMPTS, ENDING)
    check(make_tiny("llama", hidden_act="gelu"), PROMPTS, ENDING, packed=False)


@pytest.mark.parametrize("at", ["layer", "new part"])
@pytest.mark.parametrize("pre", [True, False])
def test_hooks_are_called(make_tiny: Make, pre: bool, at: str) -> None:
    model = make_tiny("llama")
    first = by_sequence(model, PROMPTS, ENDING)
    assert is_packed(model)
    layer, called = model.network.model.layers[0], []
    if at == "new part":  # put in after the model has been looked at
        layer.input_layernorm = torch.nn.Sequential(layer.input_layernorm)
        layer = layer.input_layernorm
    listen = layer.register_forward_pre_hook if pre else layer.register_forward_hook
    with listen(lambda *_: called.append(1)):
        again = by_sequence(model, PROMPTS, ENDING)
    assert called
    np.testing.assert_allclose(again, first, atol=TOLERANCE)


def test_autocast_is_left_to_transformers(make_tiny: Make) -> None:
    model = make_tiny("llama")
    assert tree_is_exact(model, 48)  # a trial would come between what is compared
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_packed(model)
        found = by_sequence(model, PROMPTS, ENDING)
    # Nothing is left of what was computed in half precision, such as the prefix.
    again = check(model, PROMPTS, ENDING, packed=True)
    assert 1e-4 < np.abs(found - again).max() < 3


def test_adapters_count_without_padding(make_tiny: Make) -> None:
    model = make_tiny("llama")
    before = by_sequence(model, PROMPTS, ENDING)
    add_lora(model.network)
    for name, weight in model.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, generator=torch.manual_seed(2))
    forget_prefix(model)
    found = check(model, PROMPTS, ENDING, packed=True)
    assert np.abs(found - before).max() > 0.1


def test_half_precision_is_near_the_whole_one(embedded: LanguageModel) -> None:
    half = LanguageModel.load(embedded.name, device="cpu", dtype="bfloat16")
    texts = [f"Review: {word}.\nSentiment:" for word in ("A joy", "A long bore", "So")]
    tokens = Verbalizer(["positive", "negative"]).tokens(embedded, after=texts[0])
    scores = [
        np.exp(label_logprobs(model, [model.encode(t) for t in texts], tokens))
        for model in (embedded, half)
    ]
    assert is_packed(half)
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.1, atol=0.01)


def test_a_wrong_tree_is_out(make_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny("gpt2")
    forward = model.network.forward

    def without_positions(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.network, "forward", without_positions)
    assert not tree_is_exact(model, 20)
    check(model, PROMPTS, ENDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_tokens_sum_to_one(make_tiny: Make, kind: str, dtype: torch.dtype) -> None:
    model = make_tiny(kind)
    model.network.to(dtype)  # turned into float32 before the softmax
    n = model.network.config.vocab_size
    everything = LabelTokens(
        tuple(map(str, range(n))), tuple((i,) for i in range(n)), tuple(range(n))
    )
    found = label_logprobs(model, PROMPTS, everything)
    np.testing.assert_allclose(logsumexp(found, axis=1), 0, atol=1e-5)


@tiny_models
def test_label_is_the_sum_of_its_sequences(any_model: LanguageModel) -> None:
    each = np.exp(naive(any_model, PROMPTS, ENDING))
    owners = np.array(ENDING.owners)
    expected = np.stack([each[:, owners == k].sum(axis=1) for k in range(5)], axis=1)
    found = label_logprobs(any_model, PROMPTS, ENDING)
    np.testing.assert_allclose(found, np.log(expected), atol=TOLERANCE)


@tiny_models
def test_prefix_is_computed_once_for_many_calls(
    any_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
    read: list[int] = []
    forward = any_model.network.base_model.forward

    def count(*args: Any, **kwargs: Any) -> Any:
        ids = args[0] if args else kwargs["input_ids"]
        read.append(ids.shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(any_model.network.base_model, "forward", count)
    by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
    read.clear()  # of the trial, and of the prefix
    for _ in range(2):
        again = by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
        np.testing.assert_allclose(again, first, atol=TOLERANCE)
    nodes = len(nodes_to_read(ENDING)) - 1
    assert read == [30 + nodes] * 2  # one pass a call: texts and labels, no prefix


def test_prefixes_are_kept_while_there_is_room(
    make_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")
    one, other, third = (tuple(ids) for ids in random_prompts([9, 9, 9]))

    def kept(shared: tuple[int, ...]) -> Any:
        return prefix_cache(model, shared, is_named=True)

    first, second = kept(one), kept(other)
    assert kept(one) is first and kept(other) is second
    layers = first.layers
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    monkeypatch.setattr(tree, "PREFIX_BUDGET", 2 * size)
    assert kept(one) is first  # so that the other was asked for longest ago
    newest = kept(third)
    assert kept(one) is first and kept(third) is newest
    assert kept(other) is not second
    monkeypatch.setattr(tree, "PREFIX_BUDGET", 0)  # one is kept all the same
    last = kept(other)
    assert kept(other) is last and kept(one) is not first
    forget_prefix(model)
    assert kept(one) is not first


@tiny_models
def test_kept_prefix_survives_other_work_and_errors(
    any_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
    for interruption in (KeyboardInterrupt, RuntimeError):
        with monkeypatch.context() as patch:

            def fail(*args: Any, error: type = interruption, **kwargs: Any) -> None:
                raise error

            patch.setattr(any_model.network.get_output_embeddings(), "forward", fail)
            with pytest.raises(interruption):
                by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
        again = by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
        np.testing.assert_array_equal(again, first)
    check(any_model, random_prompts([3, 4]), LABELS)
    again = by_sequence(any_model, PROMPTS, ENDING, prefix=PREFIX)
    np.testing.assert_array_equal(again, first)


def test_batches_are_long_ones_first_and_within_budget(
    make_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")
    sizes: list[tuple[int, int]] = []
    forward = model.network.forward

    def count(*args: Any, **kwargs: Any) -> Any:
        sizes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    count.__signature__ = inspect.signature(forward)  # type: ignore
    monkeypatch.setattr(model.network, "forward", count)
    tree_is_exact(model, 48)
    sizes.clear()  # of its trial
    label_logprobs(
        model, random_prompts([5, 30, 8, 20, 3, 11]), ENDING, token_budget=60
    )
    widths = [width for _, width in sizes]
    assert sum(rows for rows, _ in sizes) == 6 and len(sizes) > 2
    assert widths == sorted(widths, reverse=True)
    assert max(rows * width for rows, width in sizes) <= 60


@pytest.mark.parametrize(("kind", "most"), [("llama", 2048), ("gpt2", 1024)])
def test_batches_without_padding_are_larger(
    make_tiny: Make, monkeypatch: pytest.MonkeyPatch, kind: str, most: int
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        LanguageModel, "check_logprobs", lambda *given: sizes.append(len(given[2]))
    )
    label_logprobs(make_tiny(kind), random_prompts([97] * 30), ENDING)
    width = 97 + len(nodes_to_read(ENDING)) - 1
    assert sizes[0] == most // width


@pytest.mark.parametrize(
    ("prompts", "settings", "said"),
    [
        # the longest label has 4 tokens
        ([3, 253, 254], {}, "text 1 makes a prompt of 253 .* for 252"),
        ([5, 0], {}, "prompt 1 has no tokens"),
        ([5], {"token_budget": 0}, "token_budget must be .* 1 or more, not 0"),
        ([], {"token_budget": -1}, "token_budget must be .* 1 or more, not -1"),
    ],
)
def test_senseless_input_is_named(
    tiny_llama: LanguageModel, prompts: list[int], settings: dict[str, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        label_logprobs(tiny_llama, random_prompts(prompts), LABELS, **settings)
    assert label_logprobs(tiny_llama, [], LABELS).shape == (0, 5)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 300)),
    st.integers(0, 99),
    st.sampled_from([1e-2, 1, 1e3]),
)
def test_numbers_are_those_of_the_table(
    shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(*shape[:2], 8, generator=generator) * scale
    weight = torch.randn(shape[2], 8, generator=generator).bfloat16()
    whole = np.einsum("tnh,vh->tnv", states.double(), weight.double())
    rng, close = np.random.default_rng(seed), {"atol": 1e-5 * scale, "rtol": 1e-4}
    nodes = rng.integers(0, shape[1], 6).tolist()
    tokens = rng.integers(0, shape[2], 6).tolist()
    for one in (ProjectedLogits(states, weight), NodeLogits(torch.tensor(whole))):
        np.testing.assert_allclose(one.whole(), whole, **close)
        np.testing.assert_allclose(
            one.of(nodes, tokens), whole[:, nodes, tokens], **close
        )
        np.testing.assert_allclose(
            one.each(nodes, tuple(tokens)), whole[:, nodes][..., tokens], **close
        )
        np.testing.assert_allclose(one.normaliser(), logsumexp(whole, -1), **close)


def test_slices_of_the_vocabulary_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_SLICE", 1)  # the narrowest there are
    for vocabulary in (63, 64, 65, 1000):
        states, weight = torch.randn(3, 2, 8), torch.randn(vocabulary, 8)
        found = ProjectedLogits(states, weight).normaliser()
        np.testing.assert_allclose(found, (states @ weight.T).logsumexp(-1), atol=1e-5)
