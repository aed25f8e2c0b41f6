"""Rules of helpers.uncertainty: spread, disagreement, orders, combined signals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from helpers.calibration import cross_fitted, from_dict, load_calibrator
from helpers.classifier import LLMClassifier
from helpers.models import LanguageModel
from helpers.uncertainty import (
    CombinedConfidence,
    combine,
    entropy,
    margin,
    mc_dropout,
    orders,
    position_bias,
)

LABELS = ["positive", "negative"]
EXAMPLES = [("a warm film", "positive"), ("a bore", "negative")]
NO_WEIGHTS = {name: {"array": []} for name in ("mean_", "scale_", "coef_")}
TEXTS = ["funny and warm", "dull", "no way, the plot is a bore"]


@st.composite
def members(draw: Any) -> np.ndarray:
    m, n, k = (draw(st.integers(low, 4)) for low in (1, 1, 2))
    raw = draw(arrays(float, (m, n, k), elements=st.floats(0, 1)))
    raw = np.where(raw < 1e-6, 0, raw)
    raw[..., 0] += raw.sum(axis=-1) == 0
    return raw / raw.sum(axis=-1, keepdims=True)


def test_a_row_by_hand() -> None:
    rows = [[0.5, 0.25, 0.25], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]
    bits = np.array([1.5, 0, math.log2(3)])
    assert entropy(rows) == pytest.approx(bits * math.log(2))
    assert not np.signbit(entropy(rows)).any()
    assert margin(rows) == pytest.approx([0.25, 1, 0])
    more = {"p_a": [0.9], "p_b": [0.1], "off_label": [0.3], "prediction": ["a"]}
    assert margin(pd.DataFrame(more)) == pytest.approx([0.8])


@given(members())
def test_measures_stay_in_bounds_under_any_order(found: np.ndarray) -> None:
    rows = found[0]
    most = math.log(rows.shape[1])
    assert np.all((entropy(rows) >= 0) & (entropy(rows) <= most + 1e-12))
    assert np.all((margin(rows) >= 0) & (margin(rows) <= 1))
    for measure in (entropy, margin):
        assert measure(rows[:, ::-1]) == pytest.approx(measure(rows), abs=1e-12)
    split = combine(found)
    assert np.all(split.epistemic >= 0)
    assert split.aleatoric + split.epistemic == pytest.approx(split.total, abs=1e-12)
    assert np.all(split.epistemic <= math.log(len(found)) + 1e-9)
    assert np.all((split.agreement >= 0) & (split.agreement <= 1))
    for turned in (combine(found[::-1]), combine(found[..., ::-1])):
        assert turned.epistemic == pytest.approx(split.epistemic, abs=1e-12)
        assert turned.total == pytest.approx(split.total, abs=1e-12)


@pytest.mark.parametrize("measure", [entropy, margin])
def test_bad_rows_are_refused(measure: Any) -> None:
    with pytest.raises(ValueError, match="a column for each of two"):
        measure([0.5, 0.5])
    with pytest.raises(ValueError, match="row 0 sums to 0.4"):
        measure([[0.2, 0.2]])


# A closed form: three members (.9, .1), (.6, .4), (.3, .7) for one row.
VECTOR = np.array([[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]]])


def test_decomposition_of_the_vector() -> None:
    found = combine(VECTOR)
    assert found.mean == pytest.approx(np.array([[0.6, 0.4]]))
    assert found.total == pytest.approx([0.6730116670], abs=1e-10)
    assert found.aleatoric == pytest.approx([0.5363196475], abs=1e-10)
    assert found.epistemic == pytest.approx([0.1366920196], abs=1e-10)
    assert found.agreement == pytest.approx([2 / 3])
    assert combine(VECTOR[::-1]).agreement == pytest.approx([2 / 3])


def test_members_at_the_limits() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), size=1000)
    same = combine([rows] * 3)
    assert np.all(same.epistemic >= 0)  # rounding goes either way
    assert same.epistemic == pytest.approx(0, abs=1e-12) and (same.agreement == 1).all()
    opposed = combine([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert opposed.aleatoric == [0]
    assert opposed.epistemic == pytest.approx([math.log(2)])


TABLE = pd.DataFrame({"p_a": [0.5], "p_b": [0.5]}, index=["x"])


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ([], "one or more tables"),
        (TABLE, "one or more tables"),
        ([[0.5, 0.5]], r"members\[0\]"),
        ([VECTOR[0], np.ones((1, 4)) / 4], r"members\[1\] has \(1, 4\)"),
        ([TABLE, TABLE[["p_b", "p_a"]]], r"members\[1\] has .* \['b', 'a'\]"),
        ([TABLE, TABLE.set_axis(["y"])], r"members\[1\] must have the index"),
        ([TABLE, TABLE.to_numpy()], "same columns"),
    ],
)
def test_members_that_do_not_fit_are_refused(wrong: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        combine(wrong)


@pytest.fixture(scope="module")
def dropping(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    return make_tiny("gpt2", resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)


def make(model: LanguageModel, **parameters: Any) -> LLMClassifier:
    return LLMClassifier(model, LABELS, "Review: {text}\nSentiment:", **parameters)


def test_passes_differ_and_repeat_by_seed(dropping: LanguageModel) -> None:
    asked = make(dropping, examples=EXAMPLES)
    state = torch.random.get_rng_state()
    found = mc_dropout(asked, TEXTS, n_passes=4, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.shape == (4, 3, 2)
    assert found.sum(axis=2) == pytest.approx(1)
    assert np.all(np.ptp(found, axis=0) > 0)
    assert np.array_equal(mc_dropout(asked, TEXTS, n_passes=2, seed=3), found[:2])
    assert not np.array_equal(mc_dropout(asked, TEXTS, n_passes=4, seed=4), found)
    assert np.all(combine(found).epistemic > 0)


def test_nothing_is_changed_even_by_an_error(
    dropping: LanguageModel, own_scores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make(dropping, examples=EXAMPLES, cache=False)
    before, told = asked.predict_proba(TEXTS), dict(vars(asked))
    layers = [*dropping.network.modules()]
    seen: list[set[str]] = []

    def unchanged(modes: list[bool]) -> bool:
        hooks = any(layer._forward_hooks for layer in layers)
        return [layer.training for layer in layers] == modes and not hooks

    def fail(self: LLMClassifier, texts: Sequence[str]) -> None:
        seen.append({type(layer).__name__ for layer in layers if layer.training})
        raise RuntimeError("stop")

    first = dropping.network.transformer.h[0]
    first.train()  # someone's own choice of modes
    modes = [layer.training for layer in layers]
    try:
        mc_dropout(asked, TEXTS, n_passes=2)
        assert unchanged(modes) and vars(asked) == told
    finally:
        first.eval()
    assert np.array_equal(asked.predict_proba(TEXTS), before)
    monkeypatch.setattr(LLMClassifier, "predict_proba", fail)
    with pytest.raises(RuntimeError, match="stop"):
        mc_dropout(asked, TEXTS)
    assert seen == [{"Dropout"}]  # nothing else was in training mode
    assert unchanged([False] * len(layers))


def test_the_shared_prefix_is_read_anew_in_each_pass(
    make_tiny: Callable[..., LanguageModel],
) -> None:
    model = make_tiny("gpt2", resid_pdrop=0, embd_pdrop=0.5, attn_pdrop=0)
    asked = make(model, examples=EXAMPLES)
    asked.predict_proba(TEXTS)  # leaves a prefix of the whole network behind
    read: list[torch.Tensor] = []
    drop = model.network.transformer.drop

    def note(layer: Any, _: Any, out: torch.Tensor) -> None:
        if layer.training:
            read.append(out)

    with drop.register_forward_hook(note):
        mc_dropout(asked, TEXTS, n_passes=3)
    prefixes, texts = read[::2], read[1::2]
    assert [len(out) for out in read] == [1, 3] * 3
    assert len({out.shape for out in prefixes}) == 1 and prefixes[0].shape[1] > 20
    for outs in (prefixes, texts):
        masks = [out == 0 for out in outs]
        assert not torch.equal(masks[0], masks[1])
        assert not torch.equal(masks[1], masks[2])


def test_passes_spread_as_plain_passes_do(
    make_tiny: Callable[..., LanguageModel],
) -> None:
    model = make_tiny("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0)
    asked = LLMClassifier(
        model, ["n", "y"], "Is it {text}?\n", examples=[("a", "n")], terminator=None
    )
    found = mc_dropout(asked, TEXTS[:1] * 2, n_passes=60)
    ids = model.encode(asked.render(TEXTS[0]))
    answers = [model.encode(label) for label in ("n", "y")]
    assert [len(answer) for answer in answers] == [1, 1]
    layers = [m for m in model.network.modules() if isinstance(m, torch.nn.Dropout)]
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(7)
        for layer in layers:
            layer.train()
        rows = torch.tensor([ids] * 400)
        logits = model.network(input_ids=rows, use_cache=False).logits[:, -1]
        for layer in layers:
            layer.eval()
    plain = logits[:, [answer[0] for answer in answers]].softmax(-1)[:, 0].numpy()
    for row in (0, 1):
        ours = found[:, row, 0]
        error = np.hypot(ours.std() / 60**0.5, plain.std() / 20)
        assert abs(ours.mean() - plain.mean()) < 4 * error
        assert ours.std() == pytest.approx(plain.std(), rel=0.3)


ONLY_ATTENTION = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}


@pytest.mark.parametrize(
    ("kind", "dropouts", "says"),
    [
        ("llama", {}, "has none. Llama-family"),
        ("llama", {"attention_dropout": 0.5}, "has none. Llama-fam"),  # no layer
        ("gpt2", ONLY_ATTENTION | {"attn_pdrop": 0.0}, "has none. Llama-family"),
        ("gpt2", ONLY_ATTENTION | {"attn_pdrop": 0.5}, "goes through none of its 2"),
        ("bloom", {"attention_dropout": 0.2}, "all labels in one pass"),
    ],
)
def test_a_model_without_dropout_that_works_is_refused(
    make_tiny: Callable[..., LanguageModel], kind: str, dropouts: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        mc_dropout(make(make_tiny(kind, **dropouts)), TEXTS)


def test_dropout_added_to_a_llama_is_used(
    make_tiny: Callable[..., LanguageModel],
) -> None:
    model = make_tiny("llama")
    layer = model.network.model.layers[1].mlp
    layer.down_proj = torch.nn.Sequential(torch.nn.Dropout(0.3), layer.down_proj)
    found = mc_dropout(make(model), TEXTS, n_passes=3)
    assert np.all(np.ptp(found, axis=0) > 0)


def test_what_was_fitted_stays(dropping: LanguageModel) -> None:
    drawn = make(dropping, examples=2, prior="domain")
    with pytest.raises(NotFittedError):
        mc_dropout(drawn, TEXTS)
    drawn.fit(["warm", "bore", "funny"], ["positive", "negative", "positive"])
    found = mc_dropout(drawn, TEXTS, n_passes=2)
    # With one prior for all passes, dividing it out is the same shift everywhere.
    bare = make(dropping, examples=drawn.examples_)
    shift = logit(found) - logit(mc_dropout(bare, TEXTS, n_passes=2))
    assert np.ptp(shift[..., 0]) == pytest.approx(0, abs=1e-4)


def test_bad_numbers_of_passes(dropping: LanguageModel) -> None:
    for wrong in ({"n_passes": 0}, {"seed": -1}, {"seed": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            mc_dropout(make(dropping), TEXTS, **wrong)


def test_orders_of_few_and_of_many_labels() -> None:
    assert orders(["a", "b", "c"]) == list(itertools.permutations("abc"))
    many = orders(list("abcde"))
    assert many[1] == tuple("bcdea") and len(many) == 5
    for place in zip(*many, strict=True):
        assert sorted(place) == list("abcde")


@pytest.mark.parametrize("labels", [["b", "a"], list("abcde")])
def test_a_pull_of_positions_is_found_and_averaged_out(labels: list[str]) -> None:
    k = len(labels)
    pull = np.arange(1, k + 1) / np.arange(1, k + 1).sum()
    shown = orders(labels)
    columns = sorted(labels)
    tables = np.array(
        [[[pull[order.index(label)] for label in columns]] * 2 for order in shown]
    )
    found = position_bias(tables, shown)
    assert found.by_position == pytest.approx(pull)
    assert found.mean == pytest.approx(np.full((2, k), 1 / k))


def test_columns_may_be_named() -> None:
    tables = [[[0.9, 0.1]], [[0.5, 0.5]]]
    shown = [("z", "a"), ("a", "z")]
    assert position_bias(tables, shown).by_position == pytest.approx([0.3, 0.7])
    told = position_bias(tables, shown, labels=["z", "a"])
    assert told.by_position == pytest.approx([0.7, 0.3])
    frames = [pd.DataFrame(table, columns=["p_z", "p_a"]) for table in tables]
    assert position_bias(frames, shown).by_position == pytest.approx([0.7, 0.3])


@pytest.mark.parametrize(
    ("shown", "rule"),
    [
        ([("a", "b")], "one for each of 2 tables, not 1"),
        ([("a", "b"), ("a", "b")], r"equally often; 'a' is there \[2, 0\] times"),
        ([("a", "b"), ("a", "c")], r"order 1 is \('a', 'c'\)"),
        ([("a", "b", "c"), ("c", "b", "a")], "hold the 2 labels"),
    ],
)
def test_orders_that_do_not_fit_are_refused(shown: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        position_bias([[[0.9, 0.1]], [[0.5, 0.5]]], shown)
    for labels in (["a"], ["a", "a"], "ab"):
        with pytest.raises(ValueError, match="labels must be two or more"):
            orders(labels)


def simulated(n: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    signals = pd.DataFrame({"p": rng.uniform(0.05, 0.95, n), "z": rng.normal(5, 3, n)})
    odds = 0.8 * logit(signals["p"]) - 0.3 * (signals["z"] - 5) + 0.5
    return signals, rng.random(n) < expit(odds)


@pytest.mark.parametrize("logits", [(), ("p",)])
def test_values_are_those_of_the_regression(logits: Any) -> None:
    signals, correct = simulated(300)
    found = CombinedConfidence(C=0.5, logit_columns=logits).fit(signals, correct)
    used = signals.assign(p=logit(signals["p"])) if logits else signals
    scaled = (used - used.mean()) / used.std(ddof=0)
    plain = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(scaled, correct)
    expected = plain.predict_proba(scaled)[:, 1]
    assert np.asarray(found.predict(signals)) == pytest.approx(expected, abs=1e-6)
    turned = signals[["z", "p"]]
    assert np.array_equal(found.predict(turned), found.predict(signals))


def test_signals_about_different_labels_are_not_mixed() -> None:
    signals, correct = simulated(50)
    signals["p_label"] = signals["z_label"] = np.where(signals["z"] > 5, "a", "b")
    found = CombinedConfidence().fit(signals, correct)
    assert found.signals_ == ["p", "z"]
    signals.loc[7, "z_label"] = "c"
    with pytest.raises(ValueError, match="about one label in each row; row 7 is about"):
        found.predict(signals)
    with pytest.raises(ValueError, match="row 7"):
        cross_fitted(CombinedConfidence(), signals, correct)
    signals.loc[3, "p_label"] = None
    with pytest.raises(ValueError, match="row 3"):
        CombinedConfidence().fit(signals, correct)


def test_limits_of_signals() -> None:
    signals, correct = simulated(60)
    signals["flat"] = 0.1
    signals.loc[0, "p"], signals.loc[1, "p"] = 0.0, 1.0
    found = CombinedConfidence(logit_columns=("p",)).fit(signals, correct)
    assert found.coef_[2] == 0
    assert np.isfinite(found.predict(signals.iloc[[0]])).all()
    with pytest.raises(NotFittedError):
        clone(found).predict(signals)
    with pytest.raises(NotFittedError):
        clone(found).to_dict()


@pytest.mark.parametrize("columns", [["p"], ("p",), np.array(["p"])])
def test_weights_are_stored(columns: Any, tmp_path: Path) -> None:
    signals, correct = simulated(200)
    names = np.array([f"row {at}" for at in range(200)])
    found = CombinedConfidence(C=2.0, logit_columns=columns, floor=1e-4)
    found.fit(signals[:100], correct[:100], ids=names[:100], source={"model": "é"})
    found.save(tmp_path / "made.json")
    again: Any = load_calibrator(tmp_path / "made.json")
    assert type(again) is CombinedConfidence
    assert (again.C, again.logit_columns, again.floor) == (2.0, ("p",), 1e-4)
    assert again.signals_ == ["p", "z"] and again.to_dict() == found.to_dict()
    marks = again.predict(signals[["z", "p"]], ids=names)
    assert np.array_equal(np.asarray(marks), np.asarray(found.predict(signals)))
    assert marks.fitted_on.tolist() == [True] * 100 + [False] * 100
    with pytest.raises(ValueError, match="must have the field 'intercept_'"):
        from_dict(found.to_dict() | {"fitted": {"signals_": ["p"], **NO_WEIGHTS}})


def test_signals_of_another_source_are_refused() -> None:
    signals, correct = simulated(60)
    signals.attrs["source"] = {"model": "a", "prompt": "x"}
    combined = CombinedConfidence().fit(signals, correct)
    # The parts of a table keep its source.
    assert cross_fitted(combined, signals, correct).evaluation == "held-out"
    signals.attrs["source"] = {"model": "b"}
    with pytest.raises(ValueError, match="scores of model 'a', these come from .* 'b'"):
        combined.predict(signals)


SIGNALS, CORRECT = simulated(20)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (SIGNALS[:0], "at least one row"),
        (SIGNALS.assign(z=np.inf), r"scores\['z'\] must be finite; row 0 is inf"),
        (SIGNALS.assign(z="0.5"), r"scores\['z'\] must be numbers"),
        (SIGNALS.set_axis(["p", "p"], axis=1), "column 'p' twice"),
        (SIGNALS.set_axis([0, 1], axis=1), "words as names"),
        (SIGNALS.rename(columns={"z": "x_label", "p": "y_label"}), "one label in each"),
        (SIGNALS[["z"]].rename(columns={"z": "x_label"}), "a column of numbers"),
    ],
)
def test_bad_signals_are_refused(wrong: Any, rule: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rule):
        CombinedConfidence().fit(wrong, CORRECT)
    with pytest.raises((TypeError, ValueError), match=rule):
        cross_fitted(CombinedConfidence(), wrong, CORRECT)


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"C": 0}, "C is 0"),
        ({"floor": 0}, "floor is 0"),
        ({"logit_columns": "p"}, "logit_columns is 'p'"),
        ({"logit_columns": ["q"]}, "logit_columns must be among .* not 'q'"),
        ({"logit_columns": ["z"]}, r"scores\['z'\] must lie"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        CombinedConfidence(**parameters).fit(SIGNALS, CORRECT)
    with pytest.raises(ValueError, match="both outcomes"):
        CombinedConfidence().fit(SIGNALS, np.ones(20))
    with pytest.raises(ValueError, match="those of fit"):
        CombinedConfidence().fit(SIGNALS, CORRECT).predict(SIGNALS[["p"]])
