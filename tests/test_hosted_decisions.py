"""Servers that answer typed questions with probabilities, and what is made of it."""

from __future__ import annotations

import json
import math
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from hosted_door import Door, chances
from hosted_model import changed, hosted
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from pytest_httpserver import HTTPServer
from sklearn.base import clone

from helpers.classifier import LLMClassifier, OffLabelWarning
from helpers.decision_server import decision_app
from helpers.hosted import (
    Answer,
    BudgetExceeded,
    Failure,
    Journal,
    Question,
    Request,
    RunStopped,
    ask,
    decision_request,
    play_recording,
    read_answer,
    read_decisions,
    save_recording,
)

DOORS = ("decisions", "systemone")
LABELS = ["positive", "negative", "mixed"]
TEXTS = ["A joy.", "A bore.", "So so.", "A film.", "What a mess!"]
Make = Callable[..., tuple[Any, Door]]


@pytest.fixture
def make(httpserver: HTTPServer, tmp_path: Path) -> Make:
    def build(door: Door | None = None, **options: Any) -> tuple[Any, Door]:
        door = door or Door()
        named = {"labels": LABELS, "protocol": "decisions", "instruction": "How?"}
        named |= {"journal": tmp_path / "j.sqlite", "retries": 0} | options
        return hosted(door.serve(httpserver), **named), door

    return build


# Asking ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", DOORS)
def test_probabilities_are_those_that_were_sent(make: Make, protocol: str) -> None:
    found, door = make(protocol=protocol)
    table = found.score_table(TEXTS, ["positive"] * 5)
    expected = np.array([chances(text, LABELS) for text in TEXTS])
    for at, label in enumerate(LABELS):
        assert table[f"p_{label}"].tolist() == pytest.approx(expected[:, at].tolist())
        assert table[f"lower_{label}"].tolist() == table[f"p_{label}"].tolist()
        assert table[f"upper_{label}"].tolist() == table[f"p_{label}"].tolist()
    best = [LABELS[at] for at in expected.argmax(axis=1)]
    assert table["prediction"].tolist() == best and table["decided"].all()
    assert table["confidence"].to_numpy() == pytest.approx(expected.max(axis=1))
    assert table["total"].to_numpy() == pytest.approx(1)
    # What nobody tells stays unknown.
    assert table[["off_label", "step", "level", "vendor_score"]].isna().all(axis=None)
    assert table[["action", "policy"]].isna().all(axis=None)
    assert not table["refused"].any() and table["problem"].isna().all()
    assert len(door.asked) == 5 and table["calls"].tolist() == [1] * 5
    sent = np.stack([table[f"p_{x}"] for x in sorted(LABELS)], axis=1)
    assert found.predict_proba(TEXTS).tolist() == sent.tolist()
    assert len(door.asked) == 5  # the rest is in the journal


def test_body_is_the_one_that_the_openai_client_sends(
    make: Make, httpserver: HTTPServer
) -> None:
    found, door = make(descriptions={"mixed": "a bit of both"})
    found.predict(TEXTS[:1])
    choices: list[Any] = [{"value": label} for label in LABELS]
    choices[2]["description"] = "a bit of both"
    client = OpenAI(api_key="-", base_url=httpserver.url_for("/v1"))
    question = {"type": "choice", "instructions": "How?", "choices": choices}
    said = client.decisions.create(
        model="m", input=TEXTS[0], questions=[question | {"name": "label"}]
    )
    assert door.asked[0] == door.asked[1]
    assert found.render(TEXTS[0]) == {
        k: door.asked[0][k] for k in ("input", "questions")
    }
    # Its object can be read as well as the JSON.
    [one] = read_decisions(
        read_answer("decisions", said), {"label": Question(LABELS, "How?")}
    ).values()
    assert one.probabilities == pytest.approx(chances(TEXTS[0], LABELS))
    assert one.chosen == one.probabilities.argmax()


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("choice", {"type": "choice", "criteria": {"low": "not much", "high": None}}),
        ("score", {"type": "score", "criteria": ["low: not much", "high"]}),
        ("predicate", {"type": "noul", "criteria": {"true": "not much"}}),
    ],
)
def test_system_one_maps_names_to_descriptions(kind: str, asked: Any) -> None:
    question = Question(["low", "high"], "How?", kind, {"low": "not much"})
    assert question.body("systemone") == {**asked, "instructions": "How?"}


def test_prompt_instruction_and_examples(make: Make) -> None:
    found, _ = make(prompt="Review: {text}", examples=[("A joy.", "positive")])
    sent = found.render("Fine.")
    assert sent["input"] == "Review: Fine."
    told = "How?\n\nReview: A joy. positive"
    assert sent["questions"][0]["instructions"] == told
    bare = make(instruction=None)[0].render("Fine.")
    assert bare["input"] == "Fine."
    assert bare["questions"][0]["instructions"] == "Classify the text."


@pytest.mark.parametrize("protocol", DOORS)
def test_predicate_is_about_the_first_label(make: Make, protocol: str) -> None:
    labels = ["rude", "kind"]
    options = {"labels": labels, "kind": "predicate", "protocol": protocol}
    found, _ = make(instruction="The text is rude.", **options)
    table = found.score_table(TEXTS)
    expected = [chances(text, ["true", "false"])[0] for text in TEXTS]
    assert table["p_rude"].tolist() == pytest.approx(expected)
    assert table["p_kind"].tolist() == pytest.approx([1 - p for p in expected])
    assert found.classes_.tolist() == ["kind", "rude"]
    with pytest.raises(ValueError, match="instruction must be given.*'rude'"):
        make(instruction=None, **options)[0].predict(TEXTS)


@pytest.mark.parametrize("protocol", DOORS)
def test_score_has_an_expected_level(make: Make, protocol: str) -> None:
    levels = ["none", "some", "much", "all"]
    door = Door(first_level=1)
    found, _ = make(door, labels=levels, kind="score", protocol=protocol)
    table = found.score_table(TEXTS, ["none", "some", "much", "all", "none"])
    p = np.array([chances(text, levels) for text in TEXTS])
    assert table["level"].to_numpy() == pytest.approx(p @ range(4))
    # The server's own counts from one.
    assert table["vendor_score"].to_numpy() == pytest.approx(p @ range(1, 5))
    off = np.abs(p.argmax(axis=1) - [0, 1, 2, 3, 0])
    assert table["within_one"].tolist() == (off <= 1).tolist()
    assert table["correct"].tolist() == (off == 0).tolist()


def test_vendors_confidence_is_not_the_top_probability(make: Make) -> None:
    found, _ = make(Door(label_mass=0.6, confidence="joint"))
    table = found.score_table(TEXTS)
    top = table[[f"p_{label}" for label in LABELS]].max(axis=1)
    assert table["confidence"].tolist() == top.tolist()
    assert table["vendor_confidence"].to_numpy() == pytest.approx(0.6 * top)
    assert table["off_label"].to_numpy() == pytest.approx(0.4)


@pytest.mark.parametrize("protocol", DOORS)
def test_little_mass_on_the_labels_is_said(make: Make, protocol: str) -> None:
    found, _ = make(Door(label_mass=0.008), protocol=protocol)
    with pytest.warns(OffLabelWarning, match="more than half in 5 of 5 texts"):
        table = found.score_table(TEXTS)
    assert table["off_label"].to_numpy() == pytest.approx(0.992)


def test_what_a_policy_decided_is_passed_on(make: Make) -> None:
    told = {"calibrated_confidence": 0.71, "action": "review", "policy": "a1b2"}
    found, _ = make(Door(change=lambda text, said: said | told))
    row = found.score_table(TEXTS[:1]).iloc[0]
    assert row[list(told)].tolist() == list(told.values())


def test_several_questions_travel_together(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    door = Door()
    url, asked = (
        door.serve(httpserver),
        {
            "feeling": Question(LABELS, "Which feeling?"),
            "rude": Question(["yes", "no"], "The text is rude.", "predicate"),
            "length": Question(["short", "long"], "How long?", "score"),
        },
    )
    with Journal(tmp_path / "j.sqlite") as journal:
        for protocol in DOORS:
            request = decision_request(protocol, "m", TEXTS[0], asked)
            [answer] = ask([request], url, journal, progress=False)
            found = read_decisions(answer, asked)
            assert list(found) == list(asked)
            for name, question in asked.items():
                offered = list(question.options)
                if question.kind == "predicate":
                    offered = ["true", "false"]
                expected = chances(TEXTS[0], offered)
                assert found[name].probabilities == pytest.approx(expected)
    assert len(door.asked) == 2


@pytest.mark.parametrize("protocol", DOORS)
def test_other_order_of_options_is_another_question(make: Make, protocol: str) -> None:
    found, door = make(Door(bias=1.0), protocol=protocol)
    first = found.predict_proba(TEXTS[:1])
    turned = clone(found).set_params(labels=LABELS[::-1]).predict_proba(TEXTS[:1])
    assert len(door.asked) == 2 and np.abs(first - turned).max() > 0.1


@pytest.mark.filterwarnings("ignore:The probabilities of")
def test_recording_plays_without_the_server(
    make: Make, tmp_path: Path, httpserver: HTTPServer
) -> None:
    url = httpserver.url_for("/v1")
    with Journal(tmp_path / "kept.sqlite", keep_requests=True) as journal:
        found, door = make(Door(step=0.01), journal=journal)
        table = found.score_table(TEXTS)
        save_recording(journal, tmp_path / "r.parquet", base_url=url, server="door")
    with Journal(":memory:") as journal:
        play_recording(tmp_path / "r.parquet", journal)
        again = clone(found).set_params(journal=journal).score_table(TEXTS)
    assert len(door.asked) == 5 and again.equals(table)


def test_budget_counts_each_question_with_the_whole_text(make: Make) -> None:
    options = {"prices": {"m": (1e6, 0.0)}, "concurrency": 1}
    found, door = make(**options)
    body = len(json.dumps(found.render(TEXTS[0]) | {"model": "m"}))
    changed(found, budget=body + 80.0).predict(TEXTS[:1])
    assert len(door.asked) == 1
    with pytest.raises(BudgetExceeded):
        changed(found, budget=body - 1.0).predict(TEXTS[1:])
    assert len(door.asked) == 1
    asked = {name: Question(LABELS, "How?") for name in "ab"}
    two = decision_request("decisions", "m", TEXTS[0], asked)
    assert two.most_usage.prompt > 2 * len(json.dumps(dict(two.arguments)))
    assert two.most_usage.completion == 2


@pytest.mark.parametrize("protocol", DOORS)
@pytest.mark.parametrize("n", [2, 26, 77])
def test_our_own_server_gives_the_classifiers_probabilities(
    make_tiny: Callable[..., Any], protocol: str, n: int
) -> None:
    model = make_tiny("llama", max_position_embeddings=2048)
    labels = [f"film {at}" if at % 3 else f"{at} films" for at in range(n)][::-1]
    item, examples = "Review: {text}\nSentiment:", [("A film.", labels[0])]
    options = {"protocol": protocol, "journal": ":memory:"}
    with serving(model) as url:
        named = (url, model.name, labels, None)
        found = hosted(*named, examples, instruction=item, **options)
        asked = hosted(*named, instruction="Which?", **options)
        with warnings.catch_warnings(action="ignore", category=OffLabelWarning):
            tables = [one.score_table(TEXTS[:2]) for one in (found, asked)]
    listed = "\n- ".join(["Which?", *labels])
    same = (
        LLMClassifier(model, labels, item, examples, cache=False),
        LLMClassifier(model, labels, instruction=listed, cache=False),
    )
    for table, local in zip(tables, same, strict=True):
        with warnings.catch_warnings(action="ignore", category=OffLabelWarning):
            right = local.score_table(TEXTS[:2])
        for name in [f"p_{label}" for label in labels] + ["off_label"]:
            assert table[name].to_numpy() == pytest.approx(right[name], abs=1e-6)


@contextmanager
def serving(model: Any) -> Iterator[str]:
    """The package's own server in a thread; its base_url."""
    server = uvicorn.Server(uvicorn.Config(decision_app(model), log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


# What is refused before anything is sent ---------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [f"l{at}" for at in range(256)]}, "2 to 255 labels, not 256"),
        ({"labels": LABELS, "kind": "predicate"}, "2 to 2 labels, not 3"),
        ({"kind": "ranking"}, "kind must be one of"),
        ({"descriptions": {"good": "fine"}}, "not of \\['good'\\]"),
        ({"fallback": "sampling"}, "fallback must be left out"),
        ({"spellings": {"mixed": ["so so"]}}, "spellings must be left out"),
        ({"step": -0.1}, "step must lie"),
        ({"protocol": "chat", "kind": "score"}, "kind and descriptions are for"),
    ],
)
def test_senseless_question_is_refused(
    make: Make, options: dict[str, Any], message: str
) -> None:
    found, door = make()
    with pytest.raises(ValueError, match=message):
        changed(found, **options).predict(TEXTS)
    assert not door.asked


@pytest.mark.parametrize("protocol", DOORS)
def test_number_of_questions_is_limited(protocol: str) -> None:
    asked = {f"q{at}": Question(["a", "b"], "?") for at in range(401)}
    with pytest.raises(ValueError, match="questions must be 1 to 400.*not 401"):
        decision_request(protocol, "m", "A text.", asked)
    with pytest.raises(ValueError, match="not 0"):
        decision_request(protocol, "m", "A text.", {})
    with pytest.raises(ValueError, match="must name model and"):
        Request(protocol, {"model": "m"})


@pytest.mark.parametrize("options", [["a"], "ab", ["a", "a"], ["a", " "], ["a", True]])
def test_odd_options_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="options"):
        Question(options, "?")


# Answers that tell nothing -----------------------------------------------------------


def _set(p: Any, **more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(said: dict[str, Any]) -> dict[str, Any]:
        told = said["probabilities"]
        if isinstance(told, dict):
            return {**said, "probabilities": told | {"positive": p}, **more}
        first = {**told[0], "probability": p}
        return {**said, "probabilities": [first, *told[1:]], **more}

    return change


def _listed(change: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    def changed(said: dict[str, Any]) -> dict[str, Any]:
        told = said["probabilities"]
        pairs = list(told.items()) if isinstance(told, dict) else told
        found = change(pairs)
        if isinstance(told, dict) and isinstance(found, list):
            found = dict(found)
        return {**said, "probabilities": found}

    return changed


def _surely(p: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(said: dict[str, Any]) -> dict[str, Any]:
        shares = dict(zip(LABELS, (p, 0.0, 0.0), strict=True))
        rows: Any = [{"value": x, "probability": v} for x, v in shares.items()]
        by_name = isinstance(said["probabilities"], dict)
        return {**said, "probabilities": shares if by_name else rows}

    return change


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "more than sure": _surely(1.05),
    "too large": _set(1.2),
    "negative": _set(-0.1),
    "nan": _set(math.nan),
    "infinite": _set(math.inf),
    "boolean": _set(True),
    "text": _set("0.9"),
    "nothing": _set(None),
    "list": _set([0.9]),
    "an option is missing": _listed(lambda pairs: pairs[1:]),
    "none at all": _listed(lambda pairs: []),
    "no list": _listed(lambda pairs: "0.9"),
    "null": _listed(lambda pairs: None),
    "a number": _listed(lambda pairs: 0.9),
    "other kind": lambda said: {**said, "type": "score"},
    "odd kind": lambda said: {**said, "type": ["choice"]},
    "no object": lambda said: "positive",
    "empty": lambda said: {},
    "name is no text": lambda said: {**said, "name": ["label"]},
    "other question": lambda said: {**said, "name": "mood"},
}


@pytest.mark.parametrize("protocol", DOORS)
def test_odd_answers_have_no_probabilities(make: Make, protocol: str) -> None:
    door = Door(change=lambda text, said: ODD.get(text, lambda x: x)(said))
    found, _ = make(door, protocol=protocol)
    named = ("other question", "name is no text")  # System One answers by name
    odd = [how for how in ODD if protocol == "decisions" or how not in named]
    says = f"{len(odd)} of {len(odd) + 1} texts have no confidence"
    with pytest.warns(UserWarning, match=says):
        table = found.score_table([*odd, "A joy."])
    for at in range(len(odd)):
        _check_lost(table.loc[at])
    assert table["p_mixed"].notna().tolist() == [False] * len(odd) + [True]


@pytest.mark.parametrize("protocol", DOORS)
def test_sum_far_from_one_is_no_distribution(make: Make, protocol: str) -> None:
    def change(text: str, said: dict[str, Any]) -> dict[str, Any]:
        p = {
            x: v * float(text)
            for x, v in zip(LABELS, chances(text, LABELS), strict=True)
        }
        rows = [{"value": x, "probability": v} for x, v in p.items()]
        return {**said, "probabilities": p if protocol == "systemone" else rows}

    found, _ = make(Door(change=change), protocol=protocol)
    with pytest.warns(UserWarning, match="3 of 4 texts have no confidence"):
        table = found.score_table(["0.5", "0.98", "1.02", "1"])
    for row in range(3):
        _check_lost(table.loc[row])
    assert table.loc[3, "p_mixed"] == pytest.approx(chances("1", LABELS)[2])


def _check_lost(row: Any) -> None:
    assert row["problem"].startswith("The probabilities make no sense")
    assert row[[f"p_{label}" for label in LABELS]].isna().all()
    assert row[["confidence", "prediction", "level"]].isna().all()
    assert row[[f"lower_{label}" for label in LABELS]].tolist() == [0] * 3
    assert row[[f"upper_{label}" for label in LABELS]].tolist() == [1] * 3
    assert not row["decided"] and not row["refused"]


STRANGE: dict[str, list[Any]] = {
    "more": [("positive", 0.5), ("negative", 0.3), ("mixed", 0.1), ("odd", 0.1)],
    "twice": [("positive", 0.5), ("positive", 0.3), ("mixed", 0.2)],
    "boolean": [("positive", 0.5), ("negative", 0.3), (True, 0.2)],
    "null": [("positive", 0.5), ("negative", 0.3), (None, 0.2)],
    "list": [("positive", 0.5), ("negative", 0.3), (["mixed"], 0.2)],
}


def test_other_options_than_were_asked(make: Make) -> None:
    def change(text: str, said: dict[str, Any]) -> dict[str, Any]:
        rows = [{"value": name, "probability": p} for name, p in STRANGE[text]]
        return {**said, "probabilities": rows}

    found, _ = make(Door(change=change))
    with pytest.warns(UserWarning, match="5 of 5 texts have no confidence"):
        table = found.score_table(list(STRANGE))
    for row in range(5):
        _check_lost(table.loc[row])
    with pytest.raises(ValueError, match="make no sense.*each of 5 texts"):
        changed(found, failed="error").predict(list(STRANGE))


def test_odd_numbers_of_the_vendor_are_unknown(make: Make) -> None:
    odd = {"confidence": "high", "label_mass": 7.0, "score": 10**400, "choice": "none"}
    odd |= {"calibrated_confidence": "low", "action": 3, "policy": ["a"]}
    found, _ = make(Door(change=lambda text, said: {**said, **odd}))
    table = found.score_table(TEXTS)
    assert (
        table[["vendor_confidence", "off_label", "vendor_score"]].isna().all(axis=None)
    )
    assert table["problem"].isna().all() and table["confidence"].notna().all()


def test_refusals_are_counted_apart(make: Make) -> None:
    def change(text: str, said: dict[str, Any]) -> Any:
        if text == "A bore.":
            return {"type": "refusal", "name": said["name"]}
        return _set(9)(said) if text == "A film." else said

    found, _ = make(Door(change=change))
    says = "2 of 5 texts have no confidence.* 1 were refused"
    with pytest.warns(UserWarning, match=says):
        table = found.score_table(TEXTS)
    assert table["refused"].tolist() == [False, True, False, False, False]
    assert table["p_mixed"].isna().tolist() == [False, True, False, True, False]
    assert table.loc[1, "problem"].startswith("The model refused")


@pytest.mark.parametrize(
    "body",
    [
        {"answers": []},
        {"answers": {}},
        {"answers": None},
        {"choices": [{"message": {"content": "positive"}}]},
        [],
        {"error": {"message": "overloaded"}},
    ],
)
@pytest.mark.parametrize("protocol", DOORS)
def test_body_without_answers_is_a_failure(
    httpserver: HTTPServer, tmp_path: Path, protocol: str, body: Any
) -> None:
    httpserver.expect_request(f"/v1/{protocol}").respond_with_json(body)
    options = {"protocol": protocol, "journal": tmp_path / "j.sqlite", "retries": 0}
    found = hosted(httpserver.url_for("/v1"), "m", LABELS, **options)
    with pytest.raises(RunStopped, match="1 of 1 requests failed"):
        found.predict(TEXTS)
    with pytest.warns(UserWarning, match="5 of 5 texts have no confidence"):
        table = changed(found, failed="open").score_table(TEXTS)
    assert table["p_mixed"].isna().all() and table["problem"].notna().all()


@pytest.mark.parametrize("protocol", DOORS)
def test_answers_of_the_other_form_are_no_answer(protocol: str) -> None:
    answers: Any = [{"type": "choice"}] if protocol == "systemone" else {"label": {}}
    with pytest.raises(ValueError, match="holds no answers"):
        read_answer(protocol, {"answers": answers})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "value", "0"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = "type name probability noul probabilities choice confidence label_mass score"


@given(
    st.sampled_from(["choice", "predicate", "score"]),
    st.dictionaries(st.sampled_from(FIELDS.split()), JSON),
    st.booleans(),
)
def test_whatever_is_sent_is_a_distribution_or_nothing(
    kind: str, said: dict[str, Any], typed: bool
) -> None:
    said |= {"type": kind} if typed else {}
    asked = {"q": Question(["x", "y"], "?", kind)}
    for protocol, answers in (("decisions", [said]), ("systemone", {"q": said})):
        body = json.dumps({"answers": answers})  # with what JSON has no word for
        found = read_decisions(read_answer(protocol, body), asked)["q"]
        p = found.probabilities
        assert p.shape == (2,) and (np.isnan(p).all() == (found.problem is not None))
        assert np.isnan(p).all() or ((p >= 0) & (p <= 1)).all()
        sent = {min(value, 1.0) for value in _numbers(said)}
        assert np.isnan(p).all() or p[0] in sent


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [part for inner in value.values() for part in _numbers(inner)]
    if isinstance(value, list):
        return [part for inner in value for part in _numbers(inner)]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [value] if is_number else []


def test_two_answers_to_one_question_are_none() -> None:
    asked = {"a": Question(["x", "y"], "?"), "b": Question(["x", "y"], "?")}
    rows = [{"value": "x", "probability": 0.9}, {"value": "y", "probability": 0.1}]
    one = {"type": "choice", "name": "a", "choice": "x", "probabilities": rows}
    found = read_decisions(read_answer("decisions", {"answers": [one, one]}), asked)
    assert all(np.isnan(part.probabilities).all() for part in found.values())
    assert "2 answers" in str(found["a"].problem)
    assert "0 answers" in str(found["b"].problem)
    unnamed = {**one, "name": None}
    said = read_answer("decisions", {"answers": [unnamed, unnamed]})
    assert isinstance(said, Answer) and said.problem is None
    assert [p.chosen for p in read_decisions(said, asked).values()] == [0, 0]
    # Without names, an answer too few could be to any of them.
    said = read_answer("decisions", {"answers": [unnamed]})
    assert np.isnan(read_decisions(said, asked)["a"].probabilities).all()
    lost = read_decisions(Failure("Timeout", "too slow"), asked)
    assert lost["a"].problem == "too slow"


def test_door_that_is_not_there_is_asked_once(make: Make) -> None:
    found, door = make(Door(protocols=("systemone",)))
    with pytest.raises(RunStopped, match="1 of 1 requests failed"):
        found.predict(TEXTS)
    assert not door.asked


# Rounding ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.1, 0.05, 0.01, 1 / 255])
@pytest.mark.parametrize("protocol", DOORS)
def test_rounded_probabilities_have_bounds(
    make: Make, protocol: str, step: float
) -> None:
    found, _ = make(Door(step=step), protocol=protocol)
    texts = [f"Film {at}." for at in range(40)]
    with warnings.catch_warnings(action="ignore"):
        table = found.score_table(texts)
    assert table["step"].to_numpy() == pytest.approx(step)
    exact = np.array([chances(text, LABELS) for text in texts])
    low, high = (
        table[[f"{side}_{label}" for label in LABELS]].to_numpy()
        for side in ("lower", "upper")
    )
    assert (low <= exact + 1e-9).all() and (exact <= high + 1e-9).all()
    assert (high - low <= step + 0.01).all() and (high > low).any()
    decided = table["decided"].to_numpy()
    best = np.array(LABELS)[exact.argmax(axis=1)]
    assert (table["prediction"].to_numpy() == best)[decided].all()
    assert decided.any()
    # A step that is known need not be found.
    with warnings.catch_warnings(action="ignore"):
        alone = changed(found, step=step).score_table(texts[:1])
    assert alone["step"].to_numpy() == pytest.approx(step)


def test_sums_that_are_not_one_are_said(make: Make) -> None:
    texts = [f"Film {at}." for at in range(40)]
    found, _ = make(Door(step=0.05))
    with pytest.warns(
        UserWarning, match=r"of 40 texts do not sum to one, but to 0\.95"
    ):
        table = found.score_table(texts)
    assert (table["total"] != 1).any()
    shares = table[[f"p_{label}" for label in LABELS]].sum(axis=1)
    assert shares.to_numpy() == pytest.approx(1)


def test_tie_goes_to_the_servers_choice_and_is_not_decided(make: Make) -> None:
    p = dict(zip(LABELS, (0.45, 0.45, 0.1), strict=True))
    rows = [{"value": label, "probability": share} for label, share in p.items()]

    def change(text: str, said: dict[str, Any]) -> dict[str, Any]:
        chosen = "positive" if "joy" in text else "negative"
        return {**said, "choice": chosen, "probabilities": rows}

    found, _ = make(Door(change=change))
    table = found.score_table(TEXTS)
    assert table["prediction"].tolist() == ["positive"] + ["negative"] * 4
    assert not table["decided"].any()


def test_source_tells_kind_and_order_of_options(make: Make) -> None:
    found, _ = make()
    was = found.source()
    for change, parts in (
        ({"labels": LABELS[::-1]}, ["prompt"]),
        ({"kind": "score"}, ["prompt"]),
        ({"descriptions": {"mixed": "both"}}, ["prompt"]),
        ({"protocol": "systemone"}, ["model", "prompt"]),
        ({"step": 0.01}, []),
        ({"concurrency": 2}, []),
    ):
        now = changed(clone(found), **change).source()
        assert [name for name in was if now[name] != was[name]] == parts
