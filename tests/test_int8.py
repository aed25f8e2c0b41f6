"""Rules of helpers.int8: products of small integers, near those of the weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from scipy.special import softmax
from torch import nn

from helpers import packed, tree
from helpers.adapters import add_lora, save_adapter
from helpers.finetune.training import copy_of_base
from helpers.int8 import (
    Int8Linear,
    Rounded,
    has_int8,
    is_int8,
    share_rounding,
    to_int8,
    unrounded_inputs,
)
from helpers.models import LanguageModel
from helpers.packed import has_bfloat16
from helpers.scoring import label_logprobs, tree_is_exact
from helpers.tree import forget_prefix, is_packed, never_pack
from helpers.verbalizer import LabelTokens, Verbalizer

Make = Callable[..., LanguageModel]
pytestmark = pytest.mark.skipif(
    not has_int8(), reason="the processor has no 8-bit products"
)
LABELS = LabelTokens(("a", "b"), ((5, 6, 7), (9,)), (0, 1), (17,))
PROMPTS = [[3, 4, 5, 30, 31], [3, 4, 9, 40], [3, 4, 9, 40, 41, 42, 43]]


def linear(inputs: int = 64, outputs: int = 48, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def small_one(layer: nn.Linear, x: torch.Tensor) -> Int8Linear:
    largest = x.abs().reshape(-1, layer.in_features).amax(0)
    return Int8Linear.group([layer], largest)[0]


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", [(64,), (20, 64), (2, 3, 64)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_result_is_near_the_exact_one(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = linear(bias=bias), rows(*shape)
    found = small_one(layer, x)(x)
    assert found.shape == (*shape[:-1], 48)
    assert 1e-4 < relative_error(found, layer(x)) < 0.02


def test_small_integers_are_exact() -> None:
    layer = linear()
    weight = torch.randint(-127, 128, (48, 64), generator=torch.manual_seed(2))
    weight[:, 0], weight[0] = 127, 127  # scales of rows and columns are one
    layer.weight.copy_(weight)
    x = torch.randint(-127, 128, (9, 64), generator=torch.manual_seed(3)).float()
    x[:, 0] = 127
    found = Int8Linear(layer, torch.ones(64))(x)
    torch.testing.assert_close(found, layer(x), rtol=1e-6, atol=1e-2)


def test_each_row_and_each_output_has_a_scale_of_its_own() -> None:
    layer, x = linear(), rows(20, 64)
    plain = Int8Linear(layer, torch.ones(64))(x)  # nothing is spread
    by_row, by_output = 2.0 ** torch.arange(-10, 10), 2.0 ** torch.arange(-24, 24)
    layer.weight.mul_(by_output[:, None])
    found = Int8Linear(layer, torch.ones(64))(x * by_row[:, None])
    torch.testing.assert_close(found, plain * by_row[:, None] * by_output)


def test_one_large_input_leaves_digits_to_the_others() -> None:
    layer, x = linear(), rows(50, 64)
    x[:, 7] *= 300
    spread = small_one(layer, x)(x)
    plain = Int8Linear(layer, torch.ones(64))(x)
    exact = layer(x)
    assert relative_error(spread, exact) < 0.4 * relative_error(plain, exact)


def test_inputs_and_weights_may_be_zero() -> None:
    layer, x = linear(bias=True), rows(40, 64).relu()
    layer.weight[:, 3], layer.weight[4] = 0, 0
    largest = x.amax(0)
    largest[[3, 9, 20]] = 0  # in the sample, and then they come
    for seen in (largest, torch.zeros(64)):
        (small,) = Int8Linear.group([layer], seen)
        assert relative_error(small(x), layer(x)) < 0.03
        torch.testing.assert_close(small(torch.zeros(2, 64)), layer(torch.zeros(2, 64)))


def test_unrounded_inputs_within_another_time_stay_so() -> None:
    layer, x = linear(), rows(40, 64)
    small = small_one(layer, x)
    rounding = relative_error(small(x), layer(x))
    with unrounded_inputs():
        first = small(x)
        # The error of the weights is left.
        assert 1e-5 < relative_error(first, layer(x)) < 0.8 * rounding
        with pytest.raises(KeyError), unrounded_inputs():
            raise KeyError
        torch.testing.assert_close(small(x), first, rtol=0, atol=0)
    with ThreadPoolExecutor(1) as other, unrounded_inputs():
        elsewhere = other.submit(small, x).result()
    torch.testing.assert_close(elsewhere, small(x))


def test_layer_can_be_copied_and_take_other_weights() -> None:
    layer, x = linear(), rows(4, 64)
    one, other = small_one(layer, x), small_one(linear(), x)
    one(x)
    for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        torch.testing.assert_close(copied(x), one(x))
    with torch.no_grad():
        layer.weight.neg_()
    negative = small_one(layer, x)
    expected = negative(x)
    other(x)
    other.load_state_dict(negative.state_dict())
    torch.testing.assert_close(other(x), expected)


def test_layers_with_equal_inputs_share_them_in_integers(make_tiny: Make) -> None:
    network: Any = make_tiny("llama").network
    to_int8(network, [3, 4, 5, 6])
    part, mlp = network.model.layers[0].self_attn, network.model.layers[0].mlp
    shared = [part.q_proj, part.k_proj, part.v_proj]
    assert share_rounding(shared) and share_rounding([mlp.gate_proj, mlp.up_proj])
    for other in (part.o_proj, mlp.up_proj, network.lm_head):
        assert not share_rounding([part.q_proj, other])
    with unrounded_inputs():
        assert not share_rounding(shared)
    x = rows(7, 32)
    rounded = Rounded.of(x * part.q_proj.factors)
    for one in shared:
        torch.testing.assert_close(one.product(rounded), one(x))


@pytest.fixture
def wide(make_tiny: Make) -> LanguageModel:
    return make_tiny("llama", hidden_size=64, intermediate_size=128)


@pytest.fixture
def small(wide: LanguageModel) -> LanguageModel:
    """The wide model in integers."""
    network = copy.deepcopy(wide.network)
    to_int8(network, list(range(2, 40)))
    return LanguageModel(network, wide.tokenizer)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt"])
def test_every_linear_layer_but_the_last_is_turned(make_tiny: Make, kind: str) -> None:
    settings: dict[str, Any] = {"ffn_dim": 64} if kind == "opt" else {}
    network: Any = make_tiny(kind, **settings).network
    before = {n for n, p in network.named_modules() if type(p) is nn.Linear}
    to_int8(network, [3, 4, 5])
    left = {n for n, p in network.named_modules() if type(p) is nn.Linear}
    turned = {n for n, p in network.named_modules() if isinstance(p, Int8Linear)}
    assert len(left) == 1 and turned == before - left
    assert network.get_output_embeddings() is network.get_submodule(left.pop())
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_scores_are_by_tree_and_near(wide: LanguageModel, small: LanguageModel) -> None:
    exact = label_logprobs(wide, PROMPTS, LABELS)
    assert is_int8(small.network) and not is_int8(wide.network)
    found = label_logprobs(small, PROMPTS, LABELS)
    assert tree_is_exact(small, 20) and is_packed(small)
    assert 0 < np.abs(found - exact).max() < 1
    with unrounded_inputs():
        assert np.abs(label_logprobs(small, PROMPTS, LABELS) - exact).max() < 0.5
    assert small.fingerprint != wide.fingerprint


def test_attention_is_in_half_precision_where_the_processor_has_it(
    wide: LanguageModel, small: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = label_logprobs(wide, PROMPTS, LABELS)
    found = []
    for has in (True, False):
        monkeypatch.setattr(packed, "has_bfloat16", lambda has=has: has)
        found.append(label_logprobs(small, PROMPTS, LABELS))
        assert is_packed(small)
        with unrounded_inputs():
            found.append(label_logprobs(small, PROMPTS, LABELS))
        assert label_logprobs(wide, PROMPTS, LABELS).tolist() == exact.tolist()
    half, plain_half, whole, plain = found
    assert (half != whole).all() and (plain_half != plain).all()
    assert np.abs(np.array(found) - exact).max() < 0.3


def test_trial_sees_an_attention_that_goes_wrong_in_half_precision(
    wide: LanguageModel, small: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "has_bfloat16", lambda: True)
    attend = packed._Attention.__call__

    def wrong(self: Any, *args: Any) -> torch.Tensor:
        return attend(self, *args) * (self._mask.dtype != torch.bfloat16)

    monkeypatch.setattr(packed._Attention, "__call__", wrong)
    for model in (small, wide):
        label_logprobs(model, PROMPTS, LABELS)
    assert not is_packed(small) and is_packed(wide)


@pytest.mark.skipif(
    not (Path("/proc/cpuinfo").exists() and hasattr(torch.cpu, "get_capabilities")),
    reason="another system, or an older torch",
)
def test_half_precision_is_had_as_the_system_says() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bfloat16() == bool(flags & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("padded", [False, True])
def test_named_prefix_is_read_unrounded(small: LanguageModel, padded: bool) -> None:
    model, network = small, small.network
    if padded:
        never_pack(model)
    shared = list(range(50, 90))
    prompts = [shared + [at, *ids] for at, ids in enumerate(PROMPTS, 100)]

    def read() -> torch.Tensor:
        with torch.inference_mode():
            found = network(input_ids=torch.tensor([shared]), use_cache=True)
        return found.past_key_values.layers[-1].keys

    def kept(*, is_named: bool) -> torch.Tensor:
        cache: Any = tree.prefix_cache(model, tuple(shared), is_named=is_named)
        return cache.layers[-1].keys

    label_logprobs(model, prompts, LABELS)
    torch.testing.assert_close(read(), kept(is_named=False))
    alone = label_logprobs(model, prompts[:1], LABELS, prefix=shared)
    first = kept(is_named=True)
    assert relative_error(read(), first) > 1e-3
    with unrounded_inputs():
        torch.testing.assert_close(read(), first)
    label_logprobs(model, prompts, LABELS, prefix=shared)
    assert kept(is_named=True) is first
    again = label_logprobs(model, prompts[:1], LABELS, prefix=shared)
    np.testing.assert_array_equal(again, alone)


@pytest.mark.parametrize("more", ["", "output", "saved output", "dora"])
def test_adapter_counts_as_before(wide: LanguageModel, more: str) -> None:
    targets = ["v_proj", "down_proj"] + ["lm_head"] * (more == "output")
    settings = LoraConfig(
        target_modules=targets,
        modules_to_save=["lm_head"] if more == "saved output" else None,
        use_dora=more == "dora",
        init_lora_weights=False,
    )
    bare = label_logprobs(wide, PROMPTS, LABELS)
    torch.manual_seed(4)
    wide.network.add_adapter(settings)
    wide.network.eval()
    forget_prefix(wide)
    exact = label_logprobs(wide, PROMPTS, LABELS)
    to_int8(wide.network, list(range(2, 40)))
    forget_prefix(wide)
    assert is_int8(wide.network)
    found = label_logprobs(wide, PROMPTS, LABELS)
    assert np.abs(found - exact).mean() < 0.3 * np.abs(bare - exact).mean()


def test_an_adapter_is_read_anew_and_turned_with_its_base(
    wide: LanguageModel, tmp_path: Path
) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    wide.network.save_pretrained(base)
    wide.tokenizer.save_pretrained(base)
    add_lora(wide.network, base=str(base))
    save_adapter(wide.network, folder)
    found = [LanguageModel.load(str(folder), device="cpu") for _ in range(2)]
    assert found[0] is not found[1] and found[0].name == "adapter"
    assert found[0].fingerprint == found[1].fingerprint
    small = LanguageModel.load(str(folder), device="cpu", precision="int8")
    exact = label_logprobs(found[0], PROMPTS, LABELS)
    assert is_int8(small.network)
    assert 0 < np.abs(label_logprobs(small, PROMPTS, LABELS) - exact).max() < 1


def test_embedded_model_is_near_itself(embedded: LanguageModel) -> None:
    small = LanguageModel.load(embedded.name, device="cpu", precision="int8")
    assert LanguageModel.load(embedded.name, device="cpu", precision="int8") is small
    assert small is not embedded and small.fingerprint != embedded.fingerprint
    assert pickle.loads(pickle.dumps(small)) is small
    texts = [f"Review: {word}.\nSentiment:" for word in ("A joy", "A long bore", "So")]
    tokens = Verbalizer(["positive", "negative"]).tokens(embedded, after=texts[0])
    found, exact = (
        softmax(label_logprobs(model, [model.encode(t) for t in texts], tokens), axis=1)
        for model in (small, embedded)
    )
    assert tree_is_exact(small, 100) and is_packed(small)
    assert np.abs(found - exact).mean() < 0.1


def test_impossible_is_refused(small: LanguageModel, tiny_gpt2: LanguageModel) -> None:
    with pytest.raises(ValueError, match="without precision='int8', which has no grad"):
        copy_of_base(small)
    with pytest.raises(ValueError, match="finds no linear layers in this network"):
        to_int8(tiny_gpt2.network, [3, 4, 5])


def test_products_cut_off_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.full((1, 64), 32.8)
    monkeypatch.setattr(Int8Linear, "product", lambda self, rows: wrong)
    assert not has_int8.__wrapped__()
