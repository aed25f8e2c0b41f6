"""Three protocols, one form: what is asked and what is read."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import pytest
from hosted_server import chat_answer
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from helpers.answers import read_tokens
from helpers.hosted import (
    Answer,
    AnswerToken,
    Request,
    TokenUsage,
    UnreadableAnswer,
    build_request,
    read_answer,
)
from helpers.hosted.requests import attempt, plain_url

TOP = (("yes", -0.1, b"yes"), ("no", -2.5, b"no"))
LISTED = [{"token": t, "logprob": p, "bytes": list(b)} for t, p, b in TOP]
ENTRY = {**LISTED[0], "top_logprobs": LISTED}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
DETAILS = {"reasoning_tokens": 1}
HEAD = {"id": "a", "model": "m-1"}
LISTS = {
    "tokens": ["yes"],
    "token_logprobs": [-0.1],
    "top_logprobs": [{"yes": -0.1, "no": -2.5}],
    "text_offset": [0],
}
SPOKEN = {"type": "output_text", "text": "yes", "logprobs": [ENTRY]}
SAID: dict[str, dict[str, Any]] = {
    "chat": HEAD
    | {
        "choices": [
            {
                "finish_reason": "stop",
                "message": {"content": "yes", "refusal": None},
                "logprobs": {"content": [ENTRY], "refusal": None},
            }
        ],
        "usage": {**USAGE, "completion_tokens_details": DETAILS},
    },
    "responses": HEAD
    | {
        "status": "completed",
        "error": None,
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [SPOKEN]},
        ],
        "usage": {"input_tokens": 9, "output_tokens": 2}
        | {"output_tokens_details": DETAILS},
    },
    "completions": HEAD
    | {
        "choices": [{"text": "yes", "finish_reason": "stop", "logprobs": LISTS}],
        "usage": {**USAGE, "completion_tokens_details": DETAILS},
    },
}


def said(protocol: str) -> dict[str, Any]:
    return json.loads(json.dumps(SAID[protocol]))


@pytest.mark.parametrize("protocol", SAID)
def test_three_protocols_give_one_answer(protocol: str) -> None:
    answer = read_answer(protocol, said(protocol), "req-1")
    with_bytes = protocol != "completions"
    top = TOP if with_bytes else tuple((text, p, None) for text, p, _ in TOP)
    token = AnswerToken("yes", -0.1, b"yes" if with_bytes else None, top)
    usage = TokenUsage(9, 2, 1)
    assert answer == Answer("yes", (token,), "stop", None, usage, "m-1", "req-1")
    assert answer.problem is None
    assert read_answer(protocol, said(protocol)).request_id == "a"


def test_the_clients_objects_are_read_like_json() -> None:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    from openai.types.responses import Response

    kinds = {"chat": ChatCompletion, "responses": Response, "completions": Completion}
    for protocol, kind in kinds.items():
        made = kind.model_construct(**json.loads(json.dumps(SAID[protocol])))
        assert read_answer(protocol, made) == read_answer(protocol, said(protocol))


def chat_tokens(entries: Any) -> tuple[AnswerToken, ...]:
    return read_answer("chat", chat_answer("x", logprobs=entries)).tokens


def test_what_is_missing_is_none_or_left_out() -> None:
    tops = [
        {"token": "a", "logprob": -9999.0},
        {"token": "b", "logprob": None},
        {"token": "d", "logprob": -math.inf},
        {"token": "e", "logprob": -3, "bytes": "no list", "odd": 1},
        {"token": "f", "logprob": 0.0, "bytes": [256]},
    ]
    entry = {"token": "a", "logprob": -9999.0, "top_logprobs": tops}
    (token,) = chat_tokens({"content": [entry]})
    assert token.logprob is None and token.bytes is None
    assert token.top == (("e", -3.0, None), ("f", 0.0, None))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30, 10**400])
def test_nonsense_is_not_missing(wrong: float) -> None:
    """It stays, so that nobody adds up without it."""
    (token,) = chat_tokens({"content": [{"token": "a", "logprob": wrong}]})
    assert token.logprob is not None and math.isnan(token.logprob)


@pytest.mark.parametrize("nothing", [None, [], {}, {"content": None}, "odd", 7])
def test_no_tokens(nothing: Any) -> None:
    assert chat_tokens(nothing) == ()


def test_each_protocol_may_have_the_tokens_of_another() -> None:
    assert chat_tokens({"content": [{}, None]}) == (AnswerToken("", None),) * 2
    # Older servers answer a chat with the lists of old completions, and new ones of
    # llama.cpp an old completion with those of a chat.
    assert [token.text for token in chat_tokens(LISTS)] == ["yes"]
    new = said("completions")
    new["choices"][0]["logprobs"] = {"content": [ENTRY]}
    assert read_answer("completions", new).tokens[0].bytes == b"yes"


def test_a_scored_prompt_has_no_value_for_its_first_token() -> None:
    echoed = said("completions")
    echoed["choices"][0]["logprobs"] = {
        "tokens": ["A", " b", " c"],
        "token_logprobs": [None, -1.5],
        "top_logprobs": [None, {" x": -2.5, " b": -1.5}],
    }
    tokens = read_answer("completions", echoed).tokens
    assert [token.logprob for token in tokens] == [None, -1.5, None]
    assert [entry.text for entry in tokens[1].top] == [" b", " x"]  # in falling order
    assert tokens[0].top == tokens[2].top == ()


@pytest.mark.parametrize(
    ("changes", "finish", "refusal"),
    [
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "length", None),
        ({"incomplete_details": {"reason": "content_filter"}}, "content_filter", None),
        ({"status": "completed"}, "stop", "No."),
    ],
)
def test_the_responses_api_ends_in_the_same_words(
    changes: dict[str, Any], finish: str, refusal: str | None
) -> None:
    response = {**said("responses"), "status": "incomplete", **changes}
    if refusal:
        response["output"][1]["content"] = [{"type": "refusal", "refusal": refusal}]
    answer = read_answer("responses", response)
    assert (answer.finish_reason, answer.refusal) == (finish, refusal)
    assert answer.problem


@pytest.mark.parametrize(
    ("protocol", "response", "says"),
    [
        ("responses", {"status": "failed", "error": {"message": "Ouch"}}, "'Ouch'"),
        ("responses", {"status": "cancelled", "output": []}, "'cancelled'"),
        ("chat", {"error": "Ouch"}, "'Ouch'"),
        ("responses", said("chat"), "no output.*'responses'"),
        ("chat", said("responses"), "no choices.*'chat'"),
        ("chat", {"choices": []}, "no choices"),
    ],
)
def test_without_an_answer_is_an_error(protocol: str, response: Any, says: str) -> None:
    with pytest.raises(UnreadableAnswer, match=says):
        read_answer(protocol, response)


def spam(**choice: Any) -> dict[str, Any]:
    """A chat completion of three tokens, whose choice has been changed."""
    content = [{"token": t, "logprob": -0.1} for t in ('{"spam":', "true", "}")]
    return chat_answer("x", logprobs={"content": content}, **choice)


def part(**content: Any) -> dict[str, Any]:
    message = {"type": "message", "content": [content]}
    return {**said("responses"), "output": [message]}


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (spam(message={"refusal": "I can't."}), 'The model refused: "I can\'t."'),
        (spam(finish_reason="length"), "must be complete. .* cut at the limit"),
        (spam(finish_reason="content_filter"), "A content filter"),
        (spam(finish_reason="tool_calls"), "model called a tool"),
        (chat_answer("x", logprobs=None), "no log-probabilities"),
        ([], "no log-probabilities"),
        (part(type="output_text"), "no log-probabilities"),
        (part(type="refusal", refusal="No."), "hold an answer .* refused: 'No.'"),
        ({**said("responses"), "status": "in_progress"}, "is not finished"),
        ({**said("responses"), "output": []}, "index must be below 0, the number of t"),
        ("text", "response must be a completion, a response or a list of tokens"),
        ([{"logprob": -1.0}], "response must have a text for each token"),
    ],
)
def test_an_answer_without_probabilities_says_why(response: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tokens(response)


@pytest.mark.parametrize("protocol", SAID)
def test_tokens_of_any_answer_have_bytes(protocol: str) -> None:
    (token,) = read_tokens(said(protocol))
    assert token == AnswerToken("yes", -0.1, b"yes", TOP)
    assert read_tokens(read_answer(protocol, said(protocol))) == (token,)


def test_halves_of_a_character_in_two_tokens() -> None:
    found = read_tokens([{"token": half, "logprob": 0} for half in "\ud83d\udca9"])
    assert [token.bytes for token in found] == [b"\xed\xa0\xbd", b"\xed\xb2\xa9"]


def test_one_of_several_answers() -> None:
    tokens = [{"token": "no", "logprob": 0}]
    response = said("chat")
    response["choices"].append({"logprobs": {"content": tokens}})
    assert read_tokens(response, index=1)[0].text == "no"
    with pytest.raises(ValueError, match="index must be below 2, the number of choi"):
        read_tokens(response, index=2)
    response = said("responses")
    response["output"][1]["content"].append({"text": "no", "logprobs": tokens})
    assert read_tokens(response, index=1)[0].text == "no"
    assert read_answer("responses", response).text == "yesno"


NAMES = (
    "choices message content logprobs tokens token logprob bytes text top_logprobs "
    "token_logprobs output usage prompt_tokens refusal finish_reason type status error "
    "id model"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(list(SAID)),
    st.dictionaries(st.sampled_from(["choices", "output", "usage", "id"]), JSON),
    JSON,
)
def test_no_json_breaks_it(protocol: str, fields: dict[str, Any], choice: Any) -> None:
    for response in (fields, {**fields, "choices": [choice], "output": [choice]}):
        try:
            answer = read_answer(protocol, response)
        except UnreadableAnswer:
            continue
        assert isinstance(answer.text, str) and isinstance(answer.tokens, tuple)
        assert min(answer.usage.prompt, answer.usage.completion) >= 0
        for token in answer.tokens:
            assert token.logprob is None or math.isfinite(token.logprob)
            assert all(math.isfinite(entry.logprob or 0.0) for entry in token.top)


# Requests ------------------------------------------------------------------------


def test_each_protocol_spells_a_request_its_own_way() -> None:
    chat = build_request("chat", "m", "Hi", max_tokens=3, seed=1).arguments
    assert chat == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 3,
        "logprobs": True,
        "top_logprobs": 20,
        "temperature": 0.0,
        "seed": 1,
    }
    old = build_request("chat", "m", "Hi", max_tokens=3, old_limit=True).arguments
    assert old["max_tokens"] == 3 and "max_completion_tokens" not in old
    new = build_request("responses", "m", "Hi", max_tokens=16, temperature=None)
    assert new.arguments == {
        "model": "m",
        "input": [{"role": "user", "content": "Hi"}],
        "max_output_tokens": 16,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 20,
        "store": False,
    }
    options = {"max_tokens": 0, "top_logprobs": 5, "echo": True}
    scored = build_request("completions", "m", [1, 2], **options)
    assert scored.arguments["prompt"] == [1, 2] and scored.arguments["logprobs"] == 5
    assert scored.limit == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "grpc"}, "protocol must be one of"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of 1 or more"),
        ({"top_logprobs": 21}, "top_logprobs must lie between 0 and 20, not 21"),
        ({"temperature": 3}, "temperature must lie between 0 and 2, not 3"),
        ({"prompt": ""}, "prompt must be a text or a list, not ''"),
        ({"stream": True}, "stream must be false or left out"),
        ({"n": 2}, "n must be 1 or left out, not 2"),
        ({"odd": {1, 2}}, "what JSON holds"),
        ({"odd": math.nan}, "what JSON holds"),
        ({"prompt": "cut \ud83d"}, "what JSON holds"),
        ({"draw": -1}, "draw must be"),
    ],
)
def test_bad_requests_are_refused(changes: dict[str, Any], says: str) -> None:
    good = {"protocol": "chat", "model": "m", "prompt": "Hi", "max_tokens": 1}
    with pytest.raises(ValueError, match=says):
        build_request(**{**good, **changes})


def test_the_key_knows_all_that_is_sent_and_no_secret() -> None:
    def asked(prompt: str = "Hi", protocol: str = "chat", **changes: Any) -> Request:
        changes = {"model": "m", "max_tokens": 1, **changes}
        return build_request(protocol, prompt=prompt, **changes)

    url = "https://api.example.com/v1"
    others = [asked(protocol="completions"), asked("Ho"), asked(model="n")]
    others += [asked(max_tokens=2), asked(seed=0), asked(draw=1)]
    others += [asked(logit_bias={7: 1, 1000: n}) for n in (5, 6)]
    keys = {request.key(url) for request in [asked(), *others]}
    assert len(keys) == 9 and {len(key) for key in keys} == {64}
    key = asked().key(url)
    assert key != asked().key("https://api.example.com/v2")
    assert key == asked().key("https://me:sk-1@api.example.com/v1/?key=2")
    assert key == Request("chat", dict(reversed(asked().arguments.items()))).key(url)
    # Names count as they are sent: as texts, "1000" is before "7".
    texts = asked(logit_bias={"1000": 5, "7": 1})
    assert texts.key(url) == others[-2].key(url)
    assert plain_url("http://localhost:8000/v1/") == "http://localhost:8000/v1"


def test_the_key_of_a_request_is_what_recordings_are_found_by() -> None:
    url, messages = "http://127.0.0.1:8000/v1", [{"role": "user", "content": "x"}]
    raw = {"top_logprobs": 5, "temperature": None, "logit_bias": {7: 1, 1000: 5}}
    keys = [
        build_request("chat", "m", "Hi é", max_tokens=1).key(url),
        build_request("responses", "m", messages, max_tokens=16, seed=3).key(f"{url}/"),
        build_request("completions", "m", "raw", max_tokens=2, **raw).key(
            "https://me:pw@x.org/v1?k=1"
        ),
        Request("chat", {"model": "m", "messages": []}, draw=2).key(url),
    ]
    assert " ".join(key[:16] for key in keys) == (
        "1a750d2541f18cc1 cdb61c8d1b1c75f3 d85d9c2afd5a944c 2721f431cb7ab70f"
    )


# Keys ----------------------------------------------------------------------------


def said_back(key: str, text: str, status: int = 200) -> str:
    """What is left of a text in an answer, or in an error."""
    body = chat_answer(text) if status == 200 else {"error": {"message": text}}
    back = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    http = httpx.AsyncClient(transport=back)
    client = AsyncOpenAI(api_key=key, base_url="http://x/v1", http_client=http)
    asked = build_request("chat", "m", "Hi", max_tokens=1)
    work = attempt(client, asked, silence=1, total=1, end=math.inf)
    result, *_ = asyncio.run(work)
    return result.text if isinstance(result, Answer) else result.message


@settings(max_examples=20)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_secret_passes(before: str, after: str) -> None:
    secret = "sk-0123456789"
    assert secret not in said_back(secret, before + secret + after)
    assert secret not in said_back("-", f"{before}Authorization: Bearer {secret}", 400)


def test_short_keys_leave_words_alone() -> None:
    assert said_back("EMPTY", "EMPTY") == "EMPTY"
    said = "no Bearer of bad news; api_key must be set"
    assert said in said_back("no", said, 400)
    for text in ("api-key: abc", "'Authorization': 'Basic abc'", '"api_key"="abc"'):
        assert "abc" not in said_back("-", text, 400)
