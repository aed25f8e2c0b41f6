"""Rules of helpers.hosted.client: nothing lost, nothing asked twice, nothing hangs."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from hosted_server import Reply, StubServer, chat_answer, running
from openai import AsyncOpenAI
from pytest_httpserver import HTTPServer
from werkzeug import Response

from helpers.hosted import (
    AccessDenied,
    Answer,
    BudgetExceeded,
    Failure,
    Journal,
    Request,
    ask,
    build_request,
    run,
)
from helpers.hosted.requests import open_client

KEY = "sk-test-0123456789abcdef"
PRICES = {"m": (1.0, 100.0)}


def question(text: str = "q", **options: Any) -> Request:
    return build_request("chat", "m", text, **{"max_tokens": 1, **options})


def make_client(base_url: str, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=base_url)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.hosted.client._FIRST_PAUSE", 0.01)


def stored(journal: Journal) -> int:
    with sqlite3.connect(journal.path) as file:
        return file.execute("SELECT COUNT(*) FROM calls").fetchone()[0]


# What comes back -----------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests_and_once(journal: Journal) -> None:
    # The first questions take longest, so that answers come out of order.
    server = StubServer(lambda text, nth: Reply(delay=0.2 / (1 + int(text[1:]))))
    asked = [f"q{at % 20}" for at in range(30)]
    with running(server) as url:
        client = make_client(url)
        found = ask([question(q) for q in asked], client, journal, concurrency=7)
        assert [answer.text for answer in found] == asked
        assert set(server.asked.values()) == {1} and len(server.asked) == 20
        assert server.most_in_flight == 7
        again = ask([question(q) for q in asked], client, journal)
        assert again == found
        assert server.asked.total() == 20
    assert all(isinstance(a, Answer) and a.problem is None for a in found)
    assert found[3].usage.prompt == 10 and found[3].model == "stub-2026"


def test_draws_of_one_question_are_asked_each(journal: Journal) -> None:
    server = StubServer()
    with running(server) as url:
        found = ask([question(draw=at) for at in range(3)], make_client(url), journal)
    assert server.asked == {"q": 3} and len(found) == 3


TROUBLE = {
    "429": Reply({"error": {"message": "slow down"}}, 429),
    "500": Reply("boom", 500),
    "502": Reply("<html>Bad gateway</html>", 502, {"content-type": "text/html"}),
    "503": Reply("", 503),
    "reset": Reply(how="reset"),
    "short": Reply(how="short"),
}


@pytest.mark.usefixtures("quick_retries")
def test_passing_trouble_is_retried(journal: Journal) -> None:
    server = StubServer(lambda text, nth: TROUBLE[text] if nth < 3 else Reply())
    with running(server) as url:
        asked = [question(text) for text in TROUBLE]
        found = ask(asked, make_client(url), journal, retries=2)
    assert [answer.text for answer in found] == list(TROUBLE)
    assert server.asked == dict.fromkeys(TROUBLE, 3)
    assert stored(journal) == len(TROUBLE)


@pytest.mark.usefixtures("quick_retries")
def test_lasting_trouble_is_written_down_and_asked_again_on_request(
    journal: Journal,
) -> None:
    server = StubServer(lambda text, nth: TROUBLE[text])
    asked = [question(text) for text in TROUBLE]
    with running(server) as url:
        client = make_client(url)
        found = ask(asked, client, journal, retries=1)
        says = dict(zip(TROUBLE, found, strict=True))
        assert all(isinstance(failure, Failure) for failure in found)
        assert says["429"].kind == "RateLimitError" and says["429"].status == 429
        assert "slow down" in says["429"].message
        assert "lower concurrency" in says["429"].message
        assert "'boom'" in says["500"].message and "later" in says["500"].message
        assert "Bad gateway" in says["502"].message
        assert says["503"].kind == "InternalServerError"
        for text in ("reset", "short"):
            assert says[text].kind == "APIConnectionError"
            assert "Check base_url" in says[text].message
        assert all("retry_failed=True" in failure.message for failure in found)
        assert server.asked == dict.fromkeys(TROUBLE, 2)
        # Kept as they are, until somebody wants to try again.
        assert ask(asked, client, journal) == found
        assert server.asked == dict.fromkeys(TROUBLE, 2)
        server.behave = lambda text, nth: Reply()
        good = ask(asked, client, journal, retry_failed=True)
    assert [answer.text for answer in good] == list(TROUBLE)
    assert len(journal.failures()) == len(TROUBLE)
    assert journal.usage()["answers"].tolist() == [len(TROUBLE)]


@pytest.mark.parametrize(
    ("headers", "least"),
    [({"retry-after": "1"}, 1.0), ({"retry-after-ms": "150"}, 0.15), ({}, 0.3)],
)
def test_the_server_says_how_long_to_wait(
    journal: Journal, headers: dict[str, str], least: float
) -> None:
    busy = Reply({"error": {"message": "busy"}}, 429, headers)
    server = StubServer(lambda text, nth: busy if nth == 1 else Reply())
    with running(server) as url:
        (answer,) = ask([question()], make_client(url), journal)
    assert isinstance(answer, Answer)
    assert server.times[1] - server.times[0] >= least


def in_a_while(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("retry-after", "121", 429),
        ("retry-after", "1e999", 503),
        ("retry-after-ms", "130000", 529),
        ("retry-after", "in an hour", 429),
    ],
)
def test_a_long_wait_ends_the_run_and_loses_nothing(
    journal: Journal, header: str, value: str, status: int
) -> None:
    value = in_a_while(3600) if value == "in an hour" else value
    busy = Reply({"error": {"message": "busy"}}, status, {header: value})
    server = StubServer(lambda text, nth: Reply() if text < "q3" else busy)
    asked = [question(f"q{at}") for at in range(9)]
    with running(server) as url:
        client = make_client(url)
        found = ask(asked, client, journal, concurrency=2)
        assert server.asked.total() <= 5
        assert [isinstance(result, Answer) for result in found] == [True] * 3 + [
            False
        ] * 6
        assert re.search(
            r"asks to wait .* until 2\d\d\d-\d\d-\d\d \d\d:", found[-1].message
        )
        assert journal.failures().empty
        # Nothing was written down, so that the next run asks them without being told.
        server.behave = lambda text, nth: Reply()
        assert [a.text for a in ask(asked, client, journal)] == [
            f"q{at}" for at in range(9)
        ]


def test_while_one_is_asked_to_wait_all_others_hold(journal: Journal) -> None:
    busy = Reply({"error": {"message": "busy"}}, 429, {"retry-after-ms": "600"})
    server = StubServer(
        lambda text, nth: busy if text == "q0" and nth == 1 else Reply(delay=0.02)
    )
    with running(server) as url:
        found = ask([question(f"q{at}") for at in range(40)], make_client(url), journal)
    assert all(isinstance(result, Answer) for result in found)
    gaps = np.diff(sorted(server.times))
    # What was in flight arrives; then the server has its peace.
    assert gaps.max() > 0.45 and int(gaps.argmax()) < 15


def test_silence_and_dripping_end(journal: Journal) -> None:
    server = StubServer(lambda text, nth: Reply(how=text))
    with running(server) as url:
        started = time.monotonic()
        silent, dripped = ask(
            [question("silent"), question("drip")],
            make_client(url),
            journal,
            retries=0,
            timeout=1.0,
            deadline=2.5,
        )
        assert time.monotonic() - started < 10
    assert silent.kind == "APITimeoutError" and "silent for 1 s" in silent.message
    assert dripped.kind == "TimeoutError" and "within 2.5 s" in dripped.message
    assert "longer deadline" in dripped.message
    # Each byte came in time; all of them did not.
    assert server.asked == {"silent": 1, "drip": 1}


UNREADABLE = {
    '{"id": "x", "choices": [{"mess': "broken JSON at character 25 of 30",
    "<!doctype html><html>Log in</html>": "web page.*base_url.*/v1",
    '["no", "object"]': "no object",
    '{"choices": []}': "no choices.*protocol",
    '{"error": {"message": "overloaded"}}': "'overloaded'",
    "": "broken JSON",
    "[" * 100_000: "broken JSON",
}


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_no_answer_is_a_failure(
    body: str, journal: Journal, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/v1/chat/completions").respond_with_response(
        Response(body, headers={"x-request-id": "req-7"}, content_type="text/plain")
    )
    client = make_client(httpserver.url_for("/v1"))
    (failure,) = ask([question()], client, journal)
    assert failure.kind == "UnreadableAnswer" and failure.request_id == "req-7"
    assert re.search(UNREADABLE[body], failure.message)
    assert journal.get([question().key(str(client.base_url))]) == {
        question().key(str(client.base_url)): failure
    }


USAGE = {"prompt_tokens": 7, "completion_tokens": 2}
NESTED = '{"choices": ' + '[{"message": {"content": ' * 300
HOSTILE: dict[str, Any] = {
    "types": chat_answer("a") | {"choices": [7], "usage": USAGE},
    "deep": chat_answer("a") | {"choices": [], "x": json.loads("[" * 900 + "]" * 900)},
    "very deep": NESTED + "1" + "}}]" * 300 + "}",
    "numbers": chat_answer("a") | {"usage": {"prompt_tokens": 10**400}},
    "digits": '{"choices": [], "usage": {"prompt_tokens": ' + "9" * 5000 + "}}",
    "long": "x" * 5000,
}


@pytest.mark.parametrize("charset", ["utf-8", "zlib", "utf-7", "unicode_escape"])
def test_a_hostile_answer_concerns_itself_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, charset: str
) -> None:
    monkeypatch.setattr("helpers.hosted.requests._MOST_BYTES", 4500)
    kind = {"content-type": f"application/json; charset={charset}"}
    server = StubServer(
        lambda text, nth: Reply(HOSTILE.get(text), 500 if nth > 9 else 200, kind)
    )
    asked = [question(text) for text in (*HOSTILE, "good")]
    with running(server) as url:
        client = make_client(url)
        found = dict(zip((*HOSTILE, "good"), ask(asked, client, journal), strict=True))
        again = ask(asked, client, journal)
    assert isinstance(found["good"], Answer) and found["good"].text == "good"
    assert "longer than 4,500 bytes" in found["long"].message
    assert again == list(found.values()) and set(server.asked.values()) == {1}
    assert journal.usage(PRICES)["prompt_tokens"].item() >= 17  # what was billed stays


ODD = {
    "length": ({"finish_reason": "length"}, "raise max_tokens"),
    "content_filter": ({"finish_reason": "content_filter"}, "content filter"),
    "refusal": (
        {"message": {"content": None, "refusal": "I can't."}},
        'refused: "I can\'t."',
    ),
    "no logprobs": ({"logprobs": None}, "no log-probabilities"),
    "empty": ({"logprobs": {"content": []}}, "no log-probabilities"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_are_answers_that_say_what_is_odd(
    name: str, journal: Journal, httpserver: HTTPServer
) -> None:
    changes, says = ODD[name]
    httpserver.expect_request("/v1/chat/completions").respond_with_json(
        chat_answer("yes", **changes)
    )
    (answer,) = ask([question()], make_client(httpserver.url_for("/v1")), journal)
    assert isinstance(answer, Answer) and says in answer.problem
    assert answer.usage.completion == 1


def test_a_refused_request_says_why(journal: Journal, httpserver: HTTPServer) -> None:
    for status in (400, 404):
        httpserver.expect_ordered_request("/v1/chat/completions").respond_with_json(
            {"error": {"message": "logprobs are not supported"}}, status=status
        )
    client = make_client(httpserver.url_for("/v1"))
    found = ask([question("a"), question("b")], client, journal, concurrency=1)
    for failure, says in zip(
        found, ("Correct the arguments", "check model"), strict=True
    ):
        assert "logprobs are not supported" in failure.message
        assert says in failure.message


@pytest.mark.parametrize("protocol", ["chat", "responses", "completions"])
def test_the_body_is_sent_as_it_is(
    protocol: str, journal: Journal, httpserver: HTTPServer
) -> None:
    asked = build_request(protocol, "m", "Hi", max_tokens=16, top_logprobs=5, odd={})
    seen = []

    def take(request: Any) -> Response:
        seen.append((request.path, request.get_json()))
        return Response("{}", content_type="application/json")

    httpserver.expect_request("/v1/", method="POST").respond_with_handler(take)
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/completions"):
        httpserver.expect_request(path).respond_with_handler(take)
    ask([asked], make_client(httpserver.url_for("/v1")), journal)
    path = {"chat": "chat/completions"}.get(protocol, protocol)
    assert seen == [(f"/v1/{path}", asked.arguments)]


# Money ---------------------------------------------------------------------------


def test_the_budget_is_never_passed(journal: Journal) -> None:
    # 10 tokens read and 1 written: 0.00011 each, and up to 0.0004 before it is known.
    server = StubServer(lambda text, nth: Reply(delay=0.01))
    asked = [question(f"q{at}") for at in range(40)]
    with running(server) as url:
        client = make_client(url)
        with pytest.raises(BudgetExceeded, match="of 40 requests are done") as stop:
            ask(asked, client, journal, budget=0.002, prices=PRICES)
        done = [result for result in stop.value.results if result is not None]
        assert len(done) == len(server.asked) == stored(journal)
        assert stop.value.cost == pytest.approx(0.00011 * len(done))
        assert 0.0015 < stop.value.cost <= 0.002
        assert len(stop.value.results) == 40
        # The budget holds over runs, and more money goes on where it ended.
        with pytest.raises(BudgetExceeded):
            ask(asked, client, journal, budget=0.002, prices=PRICES)
        assert len(server.asked) == len(done)
        ask(asked, client, journal, budget=0.1, prices=PRICES)
    assert set(server.asked.values()) == {1}
    assert journal.usage(PRICES)["cost"].tolist() == [pytest.approx(0.00011 * 40)]


def test_failures_without_a_bill_count_in_full(journal: Journal) -> None:
    server = StubServer(lambda text, nth: Reply(how="reset"))
    asked = [question(f"q{at}") for at in range(9)]
    with running(server) as url:
        with pytest.raises(BudgetExceeded) as stop:
            ask(
                asked, make_client(url), journal, budget=0.001, prices=PRICES, retries=0
            )
    assert 0 < len(server.asked) < 9
    assert 0 < stop.value.cost <= 0.001


def test_a_budget_counts_what_failed_before(journal: Journal) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    server = StubServer(lambda text, nth: Reply({"choices": [], "usage": usage}))
    options = {"budget": 3.0, "prices": PRICES, "concurrency": 1, "retry_failed": True}
    first, second = [[question(f"{n}{at}") for at in range(2)] for n in "ab"]
    with running(server) as url:
        client = make_client(url)
        ask(first, client, journal, **options)
        with pytest.raises(BudgetExceeded, match="3 is spent"):
            ask(second, client, journal, counted=first, **options)
        for requests in (first + second, second + first):
            with pytest.raises(BudgetExceeded) as stop:
                ask(requests, client, journal, **options)
            assert stop.value.cost == 3
        assert server.asked.total() == 3
        # Others have a budget of their own.
        ask([question("c")], client, journal, **options)


@pytest.mark.usefixtures("quick_retries")
def test_a_budget_counts_attempts_that_may_be_billed(journal: Journal) -> None:
    server = StubServer(lambda text, nth: Reply(how="reset"))
    most = 0.00035  # about what the request may cost
    with running(server) as url:
        with pytest.raises(BudgetExceeded) as stop:
            ask(
                [question()],
                make_client(url),
                journal,
                budget=3 * most,
                prices=PRICES,
                retries=9,
            )
    assert 1 < server.asked.total() < 5 and stop.value.cost <= 3 * most


def test_two_runs_share_the_work_and_the_budget(journal: Journal) -> None:
    server = StubServer(lambda text, nth: Reply(delay=0.01 * (1 + hash(text) % 3)))
    asked = [question(f"q{at}") for at in range(60)]
    found: list[Any] = []

    def go(url: str, budget: float) -> None:
        with Journal(journal.path) as own:
            found.append(
                ask(asked, make_client(url), own, budget=budget, prices=PRICES)
            )

    with running(server) as url:
        runs = [
            threading.Thread(target=go, args=(url, 60 * 0.00011 + 0.002))
            for _ in range(2)
        ]
        for thread in runs:
            thread.start()
        for thread in runs:
            thread.join()
    assert set(server.asked.values()) == {1} and len(server.asked) == 60
    assert found[0] == found[1] and len(found[0]) == 60
    with sqlite3.connect(journal.path) as file:
        assert file.execute("SELECT COUNT(*) FROM claims").fetchone() == (0,)


def test_what_a_dead_process_had_claimed_is_asked(journal: Journal) -> None:
    with running(StubServer()) as url:
        client = make_client(url)
        key, until = question().key(str(client.base_url)), time.time() + 600
        gone = subprocess.Popen(["true"])
        gone.wait()
        with sqlite3.connect(journal.path) as file:
            row = (key, f"{gone.pid} x", 1.0, until)
            file.execute("INSERT INTO claims VALUES (?, ?, ?, ?)", row)
        (answer,) = ask([question()], client, journal, budget=1, prices=PRICES)
    assert isinstance(answer, Answer)


def test_a_budget_needs_prices_and_limits(journal: Journal) -> None:
    client = make_client("http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="budget needs prices"):
        ask([question()], client, journal, budget=1.0)
    with pytest.raises(ValueError, match="prices must hold 'm'"):
        ask([question()], client, journal, prices={"other": (1, 1)})
    open_end = Request("chat", {"model": "m", "messages": []})
    with pytest.raises(ValueError, match="limit their answers"):
        ask([open_end], client, journal, budget=1.0, prices=PRICES)
    for name, value in (("concurrency", 0), ("retries", -1), ("timeout", 0)):
        with pytest.raises(ValueError, match=name):
            ask([question()], client, journal, **{name: value})
    with pytest.raises(TypeError, match="must be an openai.AsyncOpenAI, not OpenAI"):
        ask([question()], openai.OpenAI(api_key=KEY), journal)
    with pytest.raises(TypeError, match="number 0 is a dict"):
        ask([{"model": "m"}], client, journal)
    assert stored(journal) == 0


# Keys ----------------------------------------------------------------------------


def test_a_key_is_in_nothing_that_stays(
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = {
        "error": Reply({"error": {"message": f"bad Authorization: Bearer {KEY}"}}, 400),
        "page": Reply(f"<html>{KEY}</html>"),
        "echo": Reply(chat_answer(f"your key is {KEY}")),
    }
    server = StubServer(lambda text, nth: replies[text])
    with running(server) as url:
        client = make_client(url)
        found = ask([question(text) for text in replies], client, journal)
        denied = Reply({"error": {"message": f"Incorrect API key: {KEY}."}}, 401)
        server.behave = lambda text, nth: denied
        with pytest.raises(AccessDenied, match=r"key: \[key\]") as stop:
            ask([question("new")], client, journal)
        # What the HTTP library would log or quote is not sent at all.
        in_url = make_client(url.replace("//", f"//user:{KEY}@"))
        with pytest.raises(ValueError, match="password in its base_url") as first:
            ask([question("new")], in_url, journal)
        with pytest.raises(ValueError, match="line break") as second:
            ask([question("new")], make_client(url, KEY + "\n"), journal)
    journal.close()
    shown = [repr(found), str(first.value), str(second.value), repr(journal)]
    shown += [repr(stop.value), str(stop.value), repr(stop.value.results)]
    shown += [caplog.text, *capfd.readouterr()]
    cause: BaseException | None = stop.value
    while cause := cause.__cause__ or cause.__context__:
        shown.append(repr(cause))
    lines = [line for text in shown for line in text.splitlines()]
    assert not [line for line in lines if KEY in line]
    for path in journal.path.parent.glob("answers.sqlite*"):
        assert KEY.encode() not in path.read_bytes()
    assert found[2].text == "your key is [key]"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_server_gets_neither_texts_nor_keys(
    journal: Journal, status: int
) -> None:
    other = StubServer()
    with running(other) as there:
        for place in (there, there.replace("http", "https"), there.replace("1:", "2:")):
            goal = {"location": f"{place}/chat/completions?k={KEY}"}
            sends_on = StubServer(lambda text, nth, goal=goal: Reply("", status, goal))
            with running(sends_on) as url:
                client = AsyncOpenAI(
                    api_key="-", base_url=url, default_headers={"x-gate": KEY}
                )
                (failure,) = ask([question(place)], client, journal)
            assert failure.status == status and KEY not in failure.message
            assert f"on to {place}/chat/completions, which got none" in failure.message
    assert not other.asked


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_the_same_server_is_followed(
    journal: Journal, httpserver: HTTPServer, status: int
) -> None:
    goal = {"location": "/v2/chat/completions/"}
    httpserver.expect_request("/v1/chat/completions").respond_with_response(
        Response("", status, goal)
    )
    httpserver.expect_request(
        "/v2/chat/completions/", method="POST", json=question().arguments
    ).respond_with_json(chat_answer("there"))
    httpserver.expect_request("/v1/loop/chat/completions").respond_with_response(
        Response("", status, {"location": "/v1/loop/chat/completions"})
    )
    (answer,) = ask([question()], make_client(httpserver.url_for("/v1")), journal)
    assert answer.text == "there"
    (failure,) = ask([question()], make_client(httpserver.url_for("/v1/loop")), journal)
    assert failure.status == status


ADDRESSES = {
    "https://api.openai.com/v1": "key",
    "https://API.OpenAI.com:443/v1": "key",
    "https://eu.api.openai.com./v1": "key",
    "https://api.openai.com:8443/v1": "none",
    "https://api.openai.com.evil.example/v1": "none",
    "https://evil-api.openai.com.example/v1": "none",
    "https://myapi.openai.com/v1": "none",
    "https://evil.example/api.openai.com/v1": "none",
    "https://openrouter.ai/api/v1": "none",
    "http://localhost:8000/v1": "none",
    "http://LOCALHOST.:8000/v1": "none",
    "http://127.0.0.2/v1": "none",
    "http://[::1]:8000/v1": "none",
    "http://api.openai.com/v1": "refused",
    "http://localhost.evil.example/v1": "refused",
    "http://127.0.0.1.evil.example/v1": "refused",
    "http://192.168.1.5:8000/v1": "refused",
    "http://[2001:db8::1]/v1": "refused",
    "ftp://localhost/v1": "refused",
    "localhost:8000/v1": "refused",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_key_of_the_environment_goes_to_openai_only(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", f"org-{KEY}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"x-gate: {KEY}\nAuthorization: {KEY}")
    if ADDRESSES[address] == "refused":
        with pytest.raises(ValueError, match="client must be an address with https"):
            open_client(address)
        return
    client = open_client(address)
    sent = client.auth_headers | client.default_headers
    assert (KEY in str(sent)) == (ADDRESSES[address] == "key")
    assert open_client(address, "own-key").api_key == "own-key"


def test_no_key_comes_back_by_a_name_or_a_header_of_ones_own(journal: Journal) -> None:
    own, query = "abc-123-def", "a+12345/6="  # which an address has as …
    written = "a%2B12345%2F6%3D"
    body = chat_answer(f"is it {own}?") | {"id": own}
    replies = {
        "answer": Reply(body, headers={"x-request-id": KEY}),
        "error": Reply({"error": {"message": own}}, 400, {"x-request-id": own}),
        "address": Reply({"error": {"message": f"?k={written}&x"}}, 400),
        "page": Reply("<p>" + "x" * 70 + KEY, 403),
        "huge": Reply({"error": {"message": "x" * 10**6 + KEY}}, 400),
    }
    with running(StubServer(lambda text, nth: replies[text])) as url:
        client = AsyncOpenAI(api_key=KEY, base_url=url, default_headers={"x-gate": own})
        client = client.with_options(default_query={"k": query})
        found = ask([question(text) for text in replies], client, journal)
    raw = b"".join(path.read_bytes() for path in journal.path.parent.iterdir())
    assert found[0].text == "is it [key]?" and found[0].request_id == "[key]"
    assert len(found[4].message) < 3000 and "Correct the arguments" in found[4].message
    for secret in (own, KEY, KEY[:9], query, written):
        assert secret not in repr(found) and secret.encode() not in raw


def test_a_server_that_wants_a_key_is_told_apart_from_openai(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    denied = Reply({"error": {"message": "no key"}}, 401)
    with running(StubServer(lambda text, nth: denied)) as url:
        with pytest.raises(AccessDenied, match="OPENAI_API_KEY is OpenAI's: give an"):
            ask([question()], open_client(url), journal)


def test_a_refused_key_stops_the_run_and_blames_no_request(journal: Journal) -> None:
    denied = Reply({"error": {"message": "wrong key"}}, 401)
    server = StubServer(lambda text, nth: denied if text > "q2" else Reply())
    asked = [question(f"q{at}") for at in range(9)]
    with running(server) as url:
        client = make_client(url)
        with pytest.raises(AccessDenied, match="wrong key.* 3 of 9 requests") as stop:
            ask(asked, client, journal, concurrency=1)
        assert server.asked.total() == 4
        assert [bool(result) for result in stop.value.results] == [True] * 3 + 6 * [
            False
        ]
        assert journal.failures().empty
        server.behave = lambda text, nth: Reply()
        assert len(ask(asked, client, journal)) == 9


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(("status", "code"), [(402, None), (429, "insufficient_quota")])
def test_an_empty_account_stops_the_run(
    journal: Journal, status: int, code: str | None
) -> None:
    empty = Reply({"error": {"message": "no credit", "code": code}}, status)
    with running(StubServer(lambda text, nth: empty)) as url:
        with pytest.raises(AccessDenied, match="no credit.* account. 0 of 1 requests"):
            ask([question()], make_client(url), journal, retries=1)
    assert stored(journal) == 0


def test_nothing_to_ask_needs_no_server(journal: Journal) -> None:
    assert ask([], make_client("http://127.0.0.1:9/v1"), journal) == []


# Loops, threads and interrupts ---------------------------------------------------


def test_both_faces_work_where_a_loop_runs(journal: Journal) -> None:
    async def cell(url: str) -> list[Any]:
        first = await run([question("a")], make_client(url), journal)
        return [*first, *ask([question("b")], make_client(url), journal)]

    with running(StubServer()) as url:
        found = asyncio.run(cell(url))
    assert [answer.text for answer in found] == ["a", "b"]


def test_one_client_serves_several_calls(journal: Journal) -> None:
    with running(StubServer()) as url:
        client = make_client(url)
        for at in range(3):
            (answer,) = ask([question(f"q{at}")], client, journal)
            assert isinstance(answer, Answer)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As at a terminal: a shell lets what it starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_has_come(journal: Journal) -> None:
    server = StubServer(
        lambda text, nth: Reply(how="whole" if text < "q5" else "silent")
    )
    asked = [question(f"q{at}") for at in range(9)]

    def interrupt() -> None:
        wait_for(lambda: stored(journal) == 5 and server.asked["q8"] == 1)
        main = threading.main_thread().ident
        signal.pthread_kill(main, signal.SIGINT)  # a lock waits on without a real one

    with running(server) as url:
        client = make_client(url)
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            ask(asked, client, journal)
        other.join()
        assert stored(journal) == 5
        server.behave = lambda text, nth: Reply()
        assert [a.text for a in ask(asked, client, journal)] == [
            f"q{at}" for at in range(9)
        ]
    assert all(server.asked[f"q{at}"] == 1 for at in range(5))


def test_a_full_disk_stops_the_run(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(calls: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal, "add", full)
    server = StubServer()
    with running(server) as url:
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            ask(
                [question(f"q{at}") for at in range(99)],
                make_client(url),
                journal,
                concurrency=2,
            )
    assert server.asked.total() <= 4


def test_no_answer_frees_its_worker_before_it_is_on_disk(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, server = journal.add, StubServer()

    def checked(calls: Any) -> None:
        before = stored(journal)
        time.sleep(0.02)
        # Nothing more is asked than what is written and what two workers hold.
        assert server.asked.total() <= before + 2
        write(calls)

    monkeypatch.setattr(journal, "add", checked)
    with running(server) as url:
        asked = [question(f"q{at}") for at in range(12)]
        ask(asked, make_client(url), journal, concurrency=2)
    assert stored(journal) == 12
