"""What probe finds out about servers whose ways are known."""

from __future__ import annotations

from typing import Any

import pytest
from hosted_model import END, ModelServer
from openai import AsyncOpenAI
from pytest_httpserver import HTTPServer

from helpers.hosted import AccessDenied, HostedClassifier, Probe, probe

KEY = "sk-test-0123456789abcdef"
COLOURS = "Blue Red Green Black White Pink Grey Brown Gold Teal Lime Navy".split()
COLOURS += [f"{colour}ish" for colour in COLOURS]


def model(prompt: str, written: str) -> dict[str, float]:
    """Knows colours, Paris, and what water is like."""
    if written == "The capital of France is Par":
        return {"is": 0.9, "ee": 0.1}
    if "France" in prompt:
        return {"Paris": 0.9, "The": 0.1} if not written else {END: 1.0}
    if "one word yes" in prompt:
        return {"yes": 0.9, "Yes": 0.1} if not written else {END: 0.8, ".": 0.2}
    if "JSON" in prompt:
        words = {"Water": 0.6, "It": 0.3, "A": 0.1}
        return words if not written else {" is": 0.4, " wet": 0.3, " clear": 0.3}
    weights = {colour: 0.75**at for at, colour in enumerate(COLOURS)}
    return {colour: w / sum(weights.values()) for colour, w in weights.items()}


def look(httpserver: HTTPServer, **how: Any) -> tuple[Probe, ModelServer]:
    server = ModelServer(model, **how)
    client = AsyncOpenAI(api_key=KEY, base_url=server.serve(httpserver))
    return probe(client, "m", retries=0), server


def test_good_server(httpserver: HTTPServer) -> None:
    found, server = look(httpserver, mask="after")
    assert {name: f.verdict for name, f in found.findings.items()} == {
        "chat": "yes",
        "completions": "yes",
        "responses": "no",
        "max_completion_tokens": "yes",
        "logprobs": "yes",
        "20 alternatives": "yes",
        "5 alternatives": "yes",
        "1 alternative": "yes",
        "bytes": "yes",
        "end of turn listed": "yes",
        "after temperature": "no",
        "sampling": "yes",
        "seed": "yes",
        "logit_bias": "yes",
        "json_object": "yes",
        "json_schema": "yes",
        "schema in json_object": "no",
        "after the mask": "yes",
        "continues": "yes",
        "reasoning": "no",
        "sentinel": "no",
    }
    assert found.protocol == "chat" and found.continue_with == {}
    assert not found.old_limit
    # The third protocol is not there, and still a request.
    assert found.requests == len(server.asked) + 1 <= 25
    assert found.completion_tokens <= 100
    assert found.prompt_tokens == 10 * len(server.asked)


def test_server_that_ignores_temperature_is_found_out(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, samples=False)
    assert found["sampling"].verdict == "no"
    assert found["seed"].verdict == "unclear"


def test_sampling_is_unclear_where_it_cannot_be_asked(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, refuses="temperature")
    assert found["sampling"].verdict == "no" and "temperature" in found["sampling"].seen


def test_way_to_ask_for_a_schema_is_the_one_that_works(httpserver: HTTPServer) -> None:
    schema = {"type": "object"}
    found, _ = look(httpserver)
    strict = found.response_format(schema)["json_schema"]
    assert strict["schema"] == schema and strict["strict"] is True
    httpserver.clear()
    found, _ = look(httpserver, formats=("json_object", "inside"))
    assert found.response_format(schema) == {"type": "json_object", "schema": schema}
    httpserver.clear()
    found, _ = look(httpserver, formats=())
    assert found.response_format(schema) is None


def test_result_can_be_read_and_tabulated(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver)
    table = found.table()
    assert table.columns.tolist() == ["verdict", "seen"]
    assert table.loc["seed", "verdict"] == found["seed"].verdict
    assert set(table["verdict"]) <= {"yes", "no", "unclear"}
    assert table["seen"].str.len().gt(5).all()
    lines = str(found).splitlines()
    assert len(lines) == len(table) + 1
    assert f"{found.requests} requests" in lines[0]
    assert found.base_url in lines[0] and str(found).count("tokens") >= 1
    assert KEY not in str(found) and KEY not in repr(found)


@pytest.mark.parametrize("hides", ["silently", "loudly"])
def test_server_without_log_probabilities(httpserver: HTTPServer, hides: str) -> None:
    found, _ = look(httpserver, hides=hides)
    assert (found["chat"].verdict, found["logprobs"].verdict) == ("yes", "no")
    assert found["20 alternatives"].verdict == "no"
    assert found["after temperature"].verdict == "unclear"
    assert found["after the mask"].verdict == "unclear"
    # What needs none is found out all the same.
    assert found["json_schema"].verdict == "yes"
    assert found["continues"].verdict == "yes" and found["seed"].verdict == "yes"


def test_protocol_that_lists_is_chosen_and_the_other_is_still_asked(
    httpserver: HTTPServer,
) -> None:
    found, _ = look(httpserver, hides="loudly", hides_in=("chat",))
    assert found.protocol == "completions"
    assert found["logprobs"].seen == "By completions."
    assert found["20 alternatives"].verdict == "yes"
    assert found["json_schema"].verdict == "yes"
    assert found["continues"].verdict == "yes"


@pytest.mark.parametrize(
    ("refused", "kept"),
    [("max_completion_tokens", "old_limit"), ("temperature", None)],
)
def test_server_that_refuses_an_argument(
    httpserver: HTTPServer, refused: str, kept: str | None
) -> None:
    found, _ = look(httpserver, refuses=refused, protocols=("chat",))
    assert found["chat"].verdict == "yes" and found["logprobs"].verdict == "yes"
    assert found["json_object"].verdict == "yes"
    assert found.old_limit == (kept == "old_limit")
    assert found["after temperature"].verdict == ("no" if kept else "unclear")


@pytest.mark.parametrize("refuses", [False, True])
def test_server_with_five_alternatives(httpserver: HTTPServer, refuses: bool) -> None:
    found, _ = look(httpserver, most=5, refuses_more=refuses)
    assert found["logprobs"].verdict == "yes"
    assert found["20 alternatives"].verdict == "no"
    assert found["5 alternatives"].verdict == "yes"
    assert ("at most 5" if refuses else "5 came") in found["20 alternatives"].seen
    assert found["after temperature"].verdict == "no"


@pytest.mark.parametrize(("mask", "verdict"), [("after", "yes"), ("before", "no")])
def test_values_before_and_after_the_mask(
    httpserver: HTTPServer, mask: str, verdict: str
) -> None:
    found, _ = look(httpserver, mask=mask, formats=("json_object", "inside"))
    assert found["after the mask"].verdict == verdict
    assert found["json_schema"].verdict == "no"
    assert found["schema in json_object"].verdict == "yes"


def test_server_without_structured_answers(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, formats=())
    for name in ("json_object", "json_schema", "schema in json_object"):
        assert found[name].verdict == "no" and "Water" in found[name].seen
    assert found["after the mask"].verdict == "unclear"


def test_values_after_temperature(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, after_temperature=True)
    assert found["after temperature"].verdict == "yes"
    assert "factor of 0.50" in found["after temperature"].seen


def test_server_of_old_completions_only(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, protocols=("completions",), sentinel=True)
    assert found.protocol == "completions" and found.continue_with is None
    assert (found["chat"].verdict, found["completions"].verdict) == ("no", "yes")
    assert found["bytes"].verdict == "no" and found["sentinel"].verdict == "yes"
    for name in ("json_schema", "continues", "after the mask"):
        assert found[name].verdict == "unclear" and "chat only" in found[name].seen


def test_server_that_ignores_much(httpserver: HTTPServer) -> None:
    found, _ = look(
        httpserver,
        has_seed=False,
        bias_works=False,
        shows_end=False,
        sends_bytes=False,
        continues="",
        ignores_new_limit=True,
    )
    assert found["seed"].verdict == "no" and found["logit_bias"].verdict == "no"
    assert found["bytes"].verdict == "no" and found["continues"].verdict == "no"
    assert found["end of turn listed"].verdict == "no"
    assert found["max_completion_tokens"].verdict == "no" and found.old_limit


def test_flags_that_make_it_go_on_are_handed_over(httpserver: HTTPServer) -> None:
    found, server = look(httpserver, continues="flag")
    assert found["continues"].verdict == "yes"
    assert found.continue_with == {
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    classifier = HostedClassifier(
        AsyncOpenAI(api_key=KEY, base_url=found.base_url),
        "m",
        ["Paris", "Nice"],
        continue_with=found.continue_with,
        old_limit=found.old_limit,
    )
    assert classifier.get_params()["continue_with"] == found.continue_with


def test_server_that_answers_nothing(httpserver: HTTPServer) -> None:
    found, _ = look(httpserver, protocols=())
    assert found.protocol is None and found.requests == 3
    assert set(found.findings) == {"chat", "completions", "responses"}


def test_wrong_key_is_an_error(httpserver: HTTPServer) -> None:
    for path in ("chat/completions", "completions", "responses"):
        httpserver.expect_request(f"/v1/{path}").respond_with_json(
            {"error": {"message": f"bad key {KEY}"}}, status=401
        )
    client = AsyncOpenAI(api_key=KEY, base_url=httpserver.url_for("/v1"))
    with pytest.raises(AccessDenied) as caught:
        probe(client, "m", retries=0)
    assert KEY not in str(caught.value)
