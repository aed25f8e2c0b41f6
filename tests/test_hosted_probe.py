"""What probe finds out about servers whose ways are known."""

from __future__ import annotations

from typing import Any

import pytest
from hosted_model import END, ModelServer
from openai import AsyncOpenAI
from pytest_httpserver import HTTPServer

from helpers.hosted import AccessDenied, Probe, probe

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


def verdicts(written: str) -> dict[str, str]:
    """Of "yes a, b; no c": what is found of each."""
    parts = [part.split(" ", 1) for part in written.split("; ")]
    return {name: verdict for verdict, names in parts for name in names.split(", ")}


FORMS = "json_object, json_schema, schema in json_object"
FORMATS = FORMS.split(", ")
GOOD = verdicts(
    "yes chat, completions, max_completion_tokens, logprobs, 20 alternatives, "
    "5 alternatives, 1 alternative, bytes, end of turn listed, sampling, seed, "
    "logit_bias, json_object, json_schema, after the mask, continues; "
    "no responses, after temperature, schema in json_object, reasoning, sentinel"
)


def test_good_server(httpserver: HTTPServer) -> None:
    found, server = look(httpserver, mask="after")
    assert {name: f.verdict for name, f in found.findings.items()} == GOOD
    assert found.protocol == "chat" and found.continue_with == {}
    assert not found.old_limit
    # The third protocol is not there, and still a request.
    assert found.requests == len(server.asked) + 1 <= 25
    assert found.completion_tokens <= 100
    assert found.prompt_tokens == 10 * len(server.asked)
    table = found.table()
    assert table["verdict"].to_dict() == GOOD and table["seen"].str.len().gt(5).all()
    first, *lines = str(found).splitlines()
    assert len(lines) == len(table) and f"{found.requests} requests" in first
    assert found.base_url in first and "tokens" in first
    assert KEY not in str(found) and KEY not in repr(found)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, {"type": "json_schema"}),
        ({"formats": ("json_object", "inside")}, {"type": "json_object", "schema": {}}),
        ({"formats": ()}, None),
    ],
)
def test_way_to_ask_for_a_schema_is_the_one_that_works(
    httpserver: HTTPServer, how: dict[str, Any], expected: Any
) -> None:
    found = look(httpserver, **how)[0].response_format({})
    strict = found.pop("json_schema", None) if found else None
    assert found == expected
    assert not strict or (strict["schema"] == {} and strict["strict"] is True)


# What a server does, what is found of it, and words of why.
WAYS: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    ({"samples": False}, "no sampling; unclear seed", {}),
    (
        *({"refuses": "temperature"}, "no sampling; unclear after temperature"),
        {"sampling": "temperature"},
    ),
    *(
        (
            {"hides": hides},
            # What needs no log-probabilities is found out all the same.
            "yes chat, json_schema, continues, seed; no logprobs, 20 alternatives; "
            "unclear after temperature, after the mask",
            {},
        )
        for hides in ("silently", "loudly")
    ),
    (
        {"hides": "loudly", "hides_in": ("chat",)},
        "yes 20 alternatives, json_schema, continues",
        {"logprobs": "By completions."},
    ),
    (
        {"refuses": "max_completion_tokens", "protocols": ("chat",)},
        "yes chat, logprobs, json_object; no after temperature, max_completion_tokens",
        {"max_completion_tokens": "max_tokens is not"},
    ),
    (
        {"refuses": "temperature", "protocols": ("chat",)},
        "yes chat, logprobs, json_object; unclear after temperature",
        {},
    ),
    *(
        (
            {"most": 5, "refuses_more": refuses},
            "yes logprobs, 5 alternatives; no 20 alternatives, after temperature",
            {"20 alternatives": "at most 5" if refuses else "5 came"},
        )
        for refuses in (False, True)
    ),
    *(
        (
            {"mask": mask, "formats": ("json_object", "inside")},
            f"{verdict} after the mask; no json_schema; yes schema in json_object",
            {},
        )
        for mask, verdict in (("after", "yes"), ("before", "no"))
    ),
    (
        *({"formats": ()}, f"no {FORMS}; unclear after the mask"),
        dict.fromkeys(FORMATS, "Water"),
    ),
    ({"continues": "flag"}, "yes continues", {}),
    (
        *({"after_temperature": True}, "yes after temperature"),
        {"after temperature": "factor of 0.50"},
    ),
    (
        {"protocols": ("completions",), "sentinel": True},
        "no chat, bytes; yes completions, sentinel; "
        f"unclear {FORMS}, continues, after the mask",
        dict.fromkeys((*FORMATS, "continues", "after the mask"), "chat only"),
    ),
    (
        {"has_seed": False, "bias_works": False, "shows_end": False}
        | {"sends_bytes": False, "continues": "", "ignores_new_limit": True},
        "no seed, logit_bias, bytes, continues, end of turn listed, "
        "max_completion_tokens",
        {},
    ),
]


@pytest.mark.parametrize(("how", "written", "words"), WAYS)
def test_servers_ways_are_found_out(
    httpserver: HTTPServer, how: Any, written: str, words: dict[str, str]
) -> None:
    found, _ = look(httpserver, **how)
    expected = verdicts(written)
    assert {name: found[name].verdict for name in expected} == expected
    for name, word in words.items():
        assert word in found[name].seen
    protocols = how.get("protocols", ("chat", "completions"))
    usable = [p for p in protocols if p not in how.get("hides_in", ())]
    assert found.protocol == usable[0]
    needs_old = how.get("refuses") == "max_completion_tokens"
    assert found.old_limit == (needs_old or how.get("ignores_new_limit", False))
    if how.get("continues") == "flag":
        flags = {"continue_final_message": True, "add_generation_prompt": False}
        assert found.continue_with == flags
    if "chat" not in protocols:
        assert found.continue_with is None


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
