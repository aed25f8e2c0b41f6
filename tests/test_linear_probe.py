"""Means of hidden states are the model's own; what the probe learns from them holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_scoring import PHI3

from helpers import datasets
from helpers.calibration import ProbabilityCalibrator
from helpers.checkpoints import ModelError
from helpers.classifier import LLMClassifier
from helpers.decisions import choose_threshold
from helpers.hidden_states import mean_hidden_states
from helpers.int8 import has_int8, to_int8
from helpers.linear_probe import LinearProbeClassifier
from helpers.models import LanguageModel
from helpers.tree import is_packed

Make = Callable[..., LanguageModel]
TINY = ["tiny_llama", "tiny_gpt2"]
tiny_models = pytest.mark.parametrize("any_model", TINY, indirect=True)
LENGTHS = (5, 1, 30, 12, 2, 17)
GEMMA = {"head_dim": 8, "sliding_window": 16}
ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("mistral", {"sliding_window": 16}),
    ("qwen3", {"head_dim": 16}),
    ("gpt2", {}),
    ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("gpt_neox", {}),
    ("gemma2", GEMMA),
    ("phi3", PHI3),
    ("mamba", {"state_size": 4}),
    ("bloom", {}),
]
GOOD = ["a warm film", "a funny film", "not dull", "warm and funny", "a joy"]
BAD = ["a dull film", "a bore", "no way", "the plot is a bore", "dull dull dull"]
TEXTS = [*GOOD, *BAD]
LABELS = ["positive"] * len(GOOD) + ["negative"] * len(BAD)


def random_texts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 250, length).tolist() for length in lengths]


def alone(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    prefix: Sequence[int] = (),
) -> np.ndarray:
    """The definition: each text by itself, all layers, no padding, no cache."""
    network, rows = deepcopy(model.network), []  # hooks stay behind in it
    for ids in texts:
        with torch.inference_mode():
            run = network(
                input_ids=torch.tensor([[*prefix, *ids]]),
                output_hidden_states=True,
                use_cache=False,
            )
        states = [run.hidden_states[layer][0, len(prefix) :] for layer in layers]
        rows.append(torch.stack([state.double().mean(0) for state in states]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("n_before", [0, 1, 20])
@pytest.mark.parametrize(("kind", "settings"), ARCHITECTURES, ids=lambda x: str(x)[:9])
def test_means_are_those_of_transformers(make_tiny, kind, settings, n_before):
    model = make_tiny(kind, **settings)
    texts, (prefix,) = random_texts(LENGTHS), random_texts([n_before], seed=1)
    expected = alone(model, texts, [0, 1, 2], prefix)
    for layers in ([1], [2], [1, 2], [2, 1]):
        found = mean_hidden_states(model, texts, layers, prefix=prefix, token_budget=60)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:, layers], rtol=1e-4, atol=1e-4)
    assert is_packed(model) is (kind in ("llama", "mistral", "qwen3"))
    assert not any(part._forward_hooks for part in model.network.modules())


def test_hooks_that_transformers_leaves_do_not_end_packing(make_tiny):
    model, (ids,) = make_tiny("llama"), random_texts([5])
    model.network(input_ids=torch.tensor([ids]), output_hidden_states=True)
    assert any(part._forward_hooks for part in model.network.modules())
    assert is_packed(model)


def test_embedded_model_reads_as_transformers_does(embedded):
    assert is_packed(embedded)
    texts = [
        embedded.text_ids(text) for text in datasets.load_reviews("train", n=3)["text"]
    ]
    prefix = embedded.encode("Text:\n")
    found = mean_hidden_states(embedded, texts, [5, 15, 30], prefix=prefix)
    expected = alone(embedded, texts, [5, 15, 30], prefix)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@tiny_models
def test_order_budget_and_copies_change_nothing(any_model):
    texts = random_texts(LENGTHS)
    expected = mean_hidden_states(any_model, texts, [1, 2])
    for budget in (1, 33, 10_000):
        found = mean_hidden_states(
            any_model, [*texts[::-1], texts[2]], [1, 2], token_budget=budget
        )
        np.testing.assert_allclose(found[:-1], expected[::-1], atol=1e-5)
        np.testing.assert_array_equal(found[-1], found[3])
    assert mean_hidden_states(any_model, [], [1, 2]).shape == (0, 2, 32)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_layers_above_are_not_computed(make_tiny, kind):
    model, texts = make_tiny(kind), random_texts(LENGTHS)
    mean_hidden_states(model, texts, [1])  # the trial reads all of it
    ran = []
    above = [
        stack[1]
        for stack in model.network.modules()
        if isinstance(stack, torch.nn.ModuleList) and len(stack) == 2
    ]
    assert len(above) == 1
    if kind == "llama":  # its layers are not called, as others are
        mlp = above[0].mlp
        del above[0].mlp
        mean_hidden_states(model, texts, [1])
        with pytest.raises(AttributeError, match="mlp"):
            mean_hidden_states(model, texts, [2])
        above[0].mlp = mlp
        with torch.no_grad():
            mlp.up_proj.weight.fill_(torch.nan)
        with pytest.raises(ModelError, match="NaN or infinity for text 2"):
            mean_hidden_states(model, texts, [2])
        return
    with above[0].mlp.register_forward_hook(lambda *_: ran.append(1)):
        mean_hidden_states(model, texts, [1])
        assert not ran
        mean_hidden_states(model, texts, [2])
        assert ran


def test_a_network_that_cannot_be_stopped_is_read_whole(make_tiny):
    model, texts = make_tiny("gpt2"), random_texts(LENGTHS)
    first = model.network.transformer.h[1]

    def doubled(_, args):
        return (2 * args[0], *args[1:])  # after transformers has noted what came in

    with first.register_forward_pre_hook(doubled):
        expected = alone(model, texts, [1, 2])
        found = mean_hidden_states(model, texts, [1, 2])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not has_int8(), reason="the processor has no 8-bit products")
def test_integers_do_not_depend_on_neighbours(make_tiny):
    model = make_tiny("llama", hidden_size=64, intermediate_size=128)
    exact = mean_hidden_states(model, random_texts(LENGTHS), [1])
    to_int8(model.network, list(range(2, 40)))
    texts = random_texts(LENGTHS)
    found = mean_hidden_states(model, texts, [1, 2])
    one_by_one = [mean_hidden_states(model, [ids], [1, 2])[0] for ids in texts]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-3, atol=1e-3)
    assert np.corrcoef(found[:, 0].ravel(), exact.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": [3]}, "layers must be at most 2, not 3"),
        ({"layers": [0]}, "layers must be a whole number of 1 or more, not 0"),
        ({"texts": [[3], []]}, "text 1 has 0 tokens"),
        ({"texts": [[3] * 255]}, "text 0 has 255 tokens; .* reads 1 to 254 here"),
        ({"token_budget": 0}, "token_budget must be"),
    ],
)
def test_senseless_input_is_named(tiny_llama, settings, words):
    usual = {"texts": [[3, 4]], "layers": [1], "prefix": [5, 6]}
    with pytest.raises(ValueError, match=words):
        mean_hidden_states(tiny_llama, **(usual | settings))


@pytest.fixture
def probe(tiny_llama: LanguageModel) -> LinearProbeClassifier:
    return LinearProbeClassifier(tiny_llama, (1 / 2, 1)).fit(TEXTS, LABELS)


def test_layers_are_shares_of_the_depth(make_tiny):
    deep = make_tiny("llama", num_hidden_layers=30)
    for shares, layers in [
        ((1 / 6, 1 / 3, 1 / 2), (5, 10, 15)),
        ((1.0,), (30,)),
        ((0.001, 0.6, 0.61), (1, 18)),
    ]:
        probe = LinearProbeClassifier(deep, shares)
        assert probe.fit(TEXTS, LABELS).layers_ == layers
        assert probe.features(TEXTS[:2]).shape == (2, 32 * len(layers))


def test_equals_the_parts_of_scikit_learn(tiny_llama):
    texts = [f"{word} {n}" for word in ("warm", "dull") for n in range(15)]
    labels = np.repeat(["good", "bad"], 15)
    probe = LinearProbeClassifier(tiny_llama, (1 / 2, 1)).fit(texts, labels)
    parts = make_pipeline(
        StandardScaler(), LogisticRegression(C=probe.C_, tol=1e-8, max_iter=10_000)
    ).fit(probe.features(texts), labels)
    new = ["a film", "dull way", "warm"]
    expected = parts.predict_proba(probe.features(new))
    assert np.ptp(expected[:, 0]) > 0.2
    np.testing.assert_allclose(
        probe.predict_proba(new), expected, atol=0.03
    )  # not run to the end
    logs = probe.predict_log_proba(new)
    np.testing.assert_allclose(logs, np.log(probe.predict_proba(new)), atol=1e-9)


def test_it_learns_what_words_alone_do_not_tell(embedded):
    train, test = (datasets.load_reviews(part, n=60) for part in ("train", "test"))
    probe = LinearProbeClassifier(embedded).fit(train["text"], train["label"])
    assert probe.score(test["text"][:40], test["label"][:40]) > 0.62


def test_many_labels_with_few_texts_each(tiny_llama):
    words = "warm funny film dull plot bore way maybe yes no".split()
    texts = [f"{one} {other}" for one in words for other in words[:4]]
    labels = [text.split()[0] for text in texts]
    labels[:3] = ["alone", "pair", "pair"]  # fewer than there are folds
    probe = LinearProbeClassifier(tiny_llama).fit(texts, labels)
    shares = probe.predict_proba(texts)
    assert probe.classes_.tolist() == sorted(set(labels))
    assert shares.shape == (40, 12)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.mean(probe.predict(texts) == labels) > 0.7


@pytest.mark.parametrize("seed", [0, 2])
def test_copies_do_not_choose_the_penalty(tiny_llama, seed):
    """Labels at random: what is learnt of a text by heart tells those of its copies."""
    rng = np.random.default_rng(seed)
    texts = [f"film {n} {rng.integers(1000)}" for n in range(40)]
    labels = rng.choice(["a", "b"], 40)
    once = LinearProbeClassifier(tiny_llama).fit(texts, labels)
    often = clone(once).fit([*texts, *texts, *texts], np.tile(labels, 3))
    assert often.C_ <= once.C_ < 1


def test_groups_do_not_choose_the_penalty(tiny_llama):
    """Labels of groups at random: their other texts would tell them."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(20), 3)
    texts = [f"no{n * 37} yes{n * 53} {at}" for at, n in enumerate(who)]
    labels = rng.choice(["a", "b"], 20)[who]
    alone = LinearProbeClassifier(tiny_llama).fit(texts, labels)
    grouped = clone(alone).fit(texts, labels, groups=who)
    assert grouped.C_ < alone.C_ / 10
    rows = pd.Series(texts, [f"r{at}" for at in range(60)])
    turned = pd.Series(who, rows.index)[::-1]
    assert clone(alone).fit(rows, labels, turned).C_ == grouped.C_
    with pytest.raises(ValueError, match="two or more different groups"):
        clone(alone).fit(["a", "b", "c"], ["x", "x", "y"], groups=[1, 1, 2])


def test_texts_seen_by_fit_are_marked(probe):
    new = ["a film", "maybe"]
    seen = probe.predict_proba([*new, " A  Joy"])
    assert seen.evaluation == "in-sample"
    assert seen.fitted_on.tolist() == [False, False, True]
    assert probe.predict_proba(new).evaluation == "held-out"
    right = np.tile([True, False], 30)
    with pytest.raises(ValueError, match="of rows that no calibrator was fitted on"):
        choose_threshold(
            probe.predict_proba(["a joy", "x"] * 30).max(axis=1), right, max_risk=0.1
        )


def test_cross_fitted_probabilities(tiny_llama):
    probe = LinearProbeClassifier(tiny_llama)
    found = cross_val_predict(probe, TEXTS, LABELS, cv=5, method="predict_proba")
    assert found.shape == (10, 2)
    apart = clone(probe).fit(TEXTS[1:5] + TEXTS[6:], LABELS[1:5] + LABELS[6:])
    expected = apart.predict_proba([TEXTS[0], TEXTS[5]])
    np.testing.assert_allclose(found[[0, 5]], expected, atol=1e-6)
    codes = np.repeat([1, 0], 5)
    assert clone(probe).fit(TEXTS, codes).classes_.tolist() == [0, 1]


def test_table_has_the_columns_of_the_prompted_one(probe, tiny_llama):
    new, truth = ["a film", "maybe"], ["negative", "positive"]
    found = probe.score_table(new, truth)
    other = LLMClassifier(tiny_llama, ["negative", "positive"])
    assert list(found) == list(other.score_table(new, truth))
    assert found["off_label"].isna().all()
    assert found.attrs["source"] == probe.source()
    calibrator = ProbabilityCalibrator()
    both = found[["p_negative", "p_positive"]]
    calibrator.fit(both, truth, ids=new)
    assert calibrator.source_ == probe.source()
    with pytest.raises(ValueError, match="truth must be in classes_; not .'neutral'"):
        probe.score_table(new, ["neutral", "positive"])


def test_source_tells_fits_apart(probe):
    first = probe.source()
    assert set(first) == {"model", "prompt", "labels"}
    assert clone(probe).fit(TEXTS, LABELS).source() == first
    other = clone(probe).fit(TEXTS[:-1], LABELS[:-1])
    assert other.source()["prompt"] != first["prompt"]
    assert other.source()["labels"] == first["labels"]
    for changed in ({"layers": (1,)}, {"instruction": "Film:"}):
        again = clone(probe).set_params(**changed)
        assert not hasattr(again, "coef_")
        assert again.fit(TEXTS, LABELS).source()["prompt"] != first["prompt"]


def test_control_tokens_in_texts_are_text(tiny_llama):
    probe = LinearProbeClassifier(tiny_llama, (1,), instruction=None, cache=False)
    found = probe.features(["a </s> film"])
    ids = tiny_llama.text_ids("a </s> film")
    assert 1 not in ids
    expected = alone(tiny_llama, [ids], [2], [0])  # behind the start token
    np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-4)


def test_long_texts_are_refused_or_cut(tiny_llama):
    long = "film " * 300
    probe = LinearProbeClassifier(tiny_llama)
    with pytest.raises(ValueError, match="text 1 has .* tokens; tiny llama reads"):
        probe.features(["a film", long])
    found = probe.set_params(too_long="cut").features(["a film", long])
    room = 256 - len(tiny_llama.encode("Text:\n"))
    expected = mean_hidden_states(
        tiny_llama,
        [tiny_llama.text_ids(long)[:room]],
        [1],
        prefix=tiny_llama.encode("Text:\n"),
    )
    np.testing.assert_allclose(found[1], expected[0, 0], atol=1e-5)


def test_features_are_kept(tiny_llama, own_scores):
    probe = LinearProbeClassifier(tiny_llama, (1,))
    expected, ran = probe.features(TEXTS), []
    body = tiny_llama.network.model
    with body.embed_tokens.register_forward_hook(lambda *_: ran.append(1)):
        np.testing.assert_array_equal(probe.features(TEXTS[::-1]), expected[::-1])
        assert not ran
        for changed in ({"layers": (0.5,)}, {"instruction": None}, {"cache": False}):
            clone(probe).set_params(**changed).features(TEXTS)
            assert ran, changed
            ran.clear()
    assert (own_scores / "hidden_states" / "cache.db").exists()


def test_saved_and_loaded_it_is_the_same(probe, tiny_gpt2, tmp_path):
    path, new = tmp_path / "probe.json", ["a film", "a joy"]
    probe.save(path)
    found = LinearProbeClassifier.load(path, probe.model)
    np.testing.assert_array_equal(found.predict_proba(new), probe.predict_proba(new))
    assert found.predict_proba(new).fitted_on.tolist() == [False, True]
    assert found.predict(new).tolist() == probe.predict(new).tolist()
    assert found.source() == probe.source() and found.layers_ == (1, 2)
    with pytest.raises(ValueError, match="model must be the one that .*tiny gpt2"):
        LinearProbeClassifier.load(path, tiny_gpt2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "helpers.linear_probe/2"}, "format"),
        ({"coef_": "AAAAAAAAAAA="}, "do not fit together"),
        ({"mean_": "AAAAAAAA+H8="}, "mean_ .* finite numbers"),
        ({"scale_": 3}, "scale_ is 3; it should be numbers in base64"),
        ({"classes": ["a"]}, "two or more names"),
        ({"layers": [2.0]}, "less than or equal to 1"),
        ({"extra": 1}, "must not have the field 'extra'"),
    ],
)
def test_damaged_files_are_refused(probe, tmp_path, changed, words):
    path = tmp_path / "probe.json"
    probe.save(path)
    stored = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(stored | changed), "utf-8")
    with pytest.raises(ValueError, match=words):
        LinearProbeClassifier.load(path, probe.model)


@pytest.mark.parametrize(
    ("settings", "texts", "labels", "words"),
    [
        ({"layers": (10, 20)}, TEXTS, LABELS, "layers must be shares of the depth"),
        ({"layers": ()}, TEXTS, LABELS, "layers must be shares of the depth"),
        ({"instruction": 3}, TEXTS, LABELS, "instruction must be a text, not 3"),
        ({"too_long": "drop"}, TEXTS, LABELS, "too_long must be one of"),
        ({}, ["a", " "], ["x", "y"], "texts must not be empty; text 1 is ' '"),
        ({}, ["a", "b"], ["x", "x"], "y must have two or more labels; all 2 texts"),
        ({}, ["a", "b"], ["x", "y"], "a label with two or more different texts"),
        ({}, ["a", "A "], ["x", "y"], "a label with two or more different texts"),
        ({}, ["a", "b", "c"], ["x", "y"], "y must have one value for each of 3 rows"),
        ({}, ["a", "b"], ["x", None], "y must not be missing; 1 of 2 rows"),
        ({}, ["a", "b"], ["x", 3], "y must be all strings, or all whole numbers"),
        ({}, ["a", "b"], [0.5, 1.5], "y must be all strings, or all whole numbers"),
    ],
)
def test_senseless_fits_are_named(tiny_llama, settings, texts, labels, words):
    probe = LinearProbeClassifier(tiny_llama, **settings)
    with pytest.raises(ValueError, match=words):
        probe.fit(texts, labels)
    assert not hasattr(probe, "classes_")
