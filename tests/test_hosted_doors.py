"""What is found out about servers that answer with probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosted_door import Door, chances
from hosted_model import hosted
from openai import AsyncOpenAI
from pytest_httpserver import HTTPServer

from helpers.hosted import Journal, Probe, order_effect, probe_door
from helpers.uncertainty import orders

KEY = "sk-test-0123456789abcdef"
LABELS = ["positive", "negative", "mixed"]
TEXTS = ["A joy.", "A bore.", "So so.", "A film."]


def look(httpserver: HTTPServer, protocol: str = "decisions", **how: Any) -> Probe:
    client = AsyncOpenAI(api_key=KEY, base_url=Door(**how).serve(httpserver))
    return probe_door(client, "m", protocol=protocol, retries=0)


@pytest.mark.parametrize("protocol", ["decisions", "systemone"])
def test_good_door(httpserver: HTTPServer, protocol: str) -> None:
    found = look(httpserver, protocol, label_mass=0.9, confidence="top")
    expected = dict.fromkeys(found.findings, "yes")
    expected |= dict.fromkeys(["rounded", "order matters"], "no")
    assert {name: one.verdict for name, one in found.findings.items()} == expected
    assert found.protocol == protocol and found.step is None
    assert found.requests == len(httpserver.log) == 13
    assert found.prompt_tokens == 13 * 20 and found.completion_tokens == 13
    assert "0.9 to 0.9" in found["off-label mass told"].seen
    assert KEY not in str(found)


# What a door does, a finding that shows it, its verdict and words of why.
WAYS: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"label_mass": 0.01, "confidence": "joint"},
        *("confidence is the top probability", "no", "times label_mass: 0.00"),
    ),
    (
        {"confidence": "margin"},
        *("confidence is the top probability", "no", "It is the lead over the second"),
    ),
    (
        {"label_mass": 1.0, "confidence": "joint"},
        *("confidence is the top probability", "unclear", "alike here"),
    ),
    (
        {"change": lambda text, said: {**said, "confidence": 0.123}},
        *("confidence is the top probability", "no", "none of what was tried: 0.123"),
    ),
    (
        {"change": lambda text, said: {**said, "confidence": None}},
        *("confidence is the top probability", "unclear", "No answer"),
    ),
    ({"step": 0.01}, "rounded", "yes", "multiples of 0.01"),
    ({}, "off-label mass told", "no", "not known"),
    ({"bias": 0.5}, "order matters", "yes", "decisions change"),
    ({"noise": 1.0}, "repeatable", "no", "Asked twice"),
    ({"joint": True}, "questions apart", "no", "beside another"),
    ({"first_level": 1}, "levels from 0", "no", "expected level from 0 is"),
    ({"most": 26}, "27 options", "no", "at most 26"),
    ({"most": 26}, "255 options", "no", "at most 26"),
    ({"kinds": ("choice",)}, "score", "no", "unknown question type"),
    ({"kinds": ("choice",)}, "levels from 0", "unclear", "No answer has a score"),
    (
        {"change": lambda text, said: {"type": "refusal"} if "on" in said else said},
        *("predicate", "yes", "2 probabilities"),
    ),
]


@pytest.mark.parametrize(("how", "name", "verdict", "words"), WAYS)
def test_doors_ways_are_found_out(
    httpserver: HTTPServer, how: dict[str, Any], name: str, verdict: str, words: str
) -> None:
    found = look(httpserver, **how)
    assert found[name].verdict == verdict and words in found[name].seen
    assert found.step == (how["step"] if "step" in how else None)
    assert found.table().loc[name, "verdict"] == verdict


def test_sums_that_are_not_one_are_found(httpserver: HTTPServer) -> None:
    def halve(text: str, said: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {**row, "probability": row["probability"] / 2}
            for row in said.get("probabilities", [])
        ]
        return {**said, "probabilities": rows} if rows else said

    found = look(httpserver, change=halve)["sums to one"]
    assert found.verdict == "no" and "0.5 to 1" in found.seen


@pytest.mark.parametrize("protocols", [(), ("systemone",)])
def test_no_door_is_one_request(httpserver: HTTPServer, protocols: Any) -> None:
    found = look(httpserver, protocols=protocols)
    assert found.protocol is None and found.requests == 1 == len(httpserver.log)
    assert {n: f.verdict for n, f in found.findings.items()} == {"choice": "no"}


def test_refusals_and_nonsense_are_no_answers(httpserver: HTTPServer) -> None:
    found = look(httpserver, change=lambda text, said: {"type": "refusal"})
    assert found.protocol is None and found["choice"].verdict == "unclear"
    httpserver.clear()
    found = look(httpserver, change=lambda text, said: {**said, "probabilities": []})
    assert found.protocol is None and found["choice"].verdict == "no"
    # A predicate has no list to be wrong.
    assert found["predicate"].verdict == "yes"


def test_probe_is_answered_from_a_journal(httpserver: HTTPServer) -> None:
    client = Door(step=0.05).serve(httpserver)
    with Journal(":memory:") as journal:
        first = probe_door(client, "m", journal=journal)
        asked = len(httpserver.log)
        assert str(probe_door(client, "m", journal=journal)) == str(first)
    assert len(httpserver.log) == asked == first.requests


# Order of options --------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "protocol"), [(0.0, "decisions"), (0.8, "systemone")])
def test_effect_of_order_is_measured(
    httpserver: HTTPServer, tmp_path: Path, bias: float, protocol: str
) -> None:
    url = Door(bias=bias).serve(httpserver)
    options = {"protocol": protocol, "journal": tmp_path / "j.sqlite"}
    classifier = hosted(url, "m", LABELS, **options)
    found = order_effect(classifier, TEXTS)
    assert sorted(found.orders) == sorted(orders(LABELS)) and len(found.orders) == 6
    assert len(httpserver.log) == 24
    names = sorted(LABELS)
    expected = np.array(
        [
            [
                chances(text, list(order), bias=bias)[[order.index(x) for x in names]]
                for text in TEXTS
            ]
            for order in found.orders
        ]
    )
    assert found.probabilities == pytest.approx(expected)
    assert found.moved == pytest.approx(np.ptp(expected, axis=0).max(axis=1))
    best = expected.argmax(axis=2)
    assert found.flips.tolist() == (best != best[0]).any(axis=0).tolist()
    assert found.bias.mean == pytest.approx(expected.mean(axis=0))
    if bias:
        assert found.flips.any() and found.moved.min() > 0.1
        assert (np.diff(found.bias.by_position) < -0.05).all()
        assert "of the decisions change" in str(found)
    else:
        assert found.bias.by_position == pytest.approx(1 / 3)
        assert not found.flips.any() and found.moved == pytest.approx(0)
    # Two orders in which each label has each place once.
    pair = [("positive", "negative"), ("negative", "positive")]
    two = hosted(url, "m", pair[0], **options)
    assert order_effect(two, TEXTS[:1], shown=pair).orders == tuple(pair)


@pytest.mark.filterwarnings("ignore:.*have no confidence")
def test_texts_without_an_answer_are_left_out(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    def change(text: str, said: dict[str, Any]) -> dict[str, Any]:
        first = said["probabilities"][0]["value"]
        if text == "A bore." and first == "mixed":
            return {"type": "refusal", "name": said["name"]}
        return {"type": "refusal"} if text == "No." else said

    url, path = Door(change=change).serve(httpserver), tmp_path / "j.sqlite"
    classifier = hosted(url, "m", LABELS, protocol="decisions", journal=path)
    found = order_effect(classifier, TEXTS)
    assert found.unknown.tolist() == [False, True, False, False]
    assert np.isnan(found.moved).tolist() == found.unknown.tolist()
    assert not found.flips.any() and len(found.bias.mean) == 3
    assert "3 of 4 texts" in str(found)
    with pytest.raises(ValueError, match="answered in every order"):
        order_effect(classifier, ["No."])


def test_examples_that_were_drawn_stay(httpserver: HTTPServer, tmp_path: Path) -> None:
    door = Door()
    options = {"protocol": "systemone", "journal": tmp_path / "j.sqlite"}
    classifier = hosted(door.serve(httpserver), "m", None, None, 2, **options)
    classifier.fit(["a", "b", "c", "d"], ["x", "y", "x", "y"])
    assert order_effect(classifier, ["e"]).flips.tolist() == [False]
    told = {str(body["questions"]["label"]["instructions"]) for body in door.asked}
    assert len(told) == 1 and "a x" in told.pop().replace("c x", "a x")


@pytest.mark.parametrize(
    "options", [{"protocol": "chat"}, {"protocol": "decisions", "kind": "score"}]
)
def test_order_is_of_choices_only(options: dict[str, Any]) -> None:
    classifier = hosted("http://localhost/v1", "m", LABELS, **options)
    with pytest.raises(ValueError, match="classifier must ask for a choice"):
        order_effect(classifier, TEXTS)
