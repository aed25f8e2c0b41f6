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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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
    Journal,
    Request,
    ask,
    build_request,
    run,
)
from helpers.hosted.requests import open_client

KEY = "sk-test-0123456789abcdef"
PRICES = {"m": (1.0, 100.0)}
UNLIMITED = Request("chat", {"model": "m", "messages": []})


def question(text: str = "q", **options: Any) -> Request:
    return build_request("chat", "m", text, **{"max_tokens": 1, **options})


def make_client(base_url: str, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=base_url)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.hosted.client._FIRST_PAUSE", 0.01)


@contextmanager
def asking(
    behave: Callable[[str, int], Reply] | None = None, **settings: Any
) -> Iterator[tuple[StubServer, AsyncOpenAI]]:
    """A server and a client for it."""
    server = StubServer(behave)
    with running(server) as url:
        yield server, AsyncOpenAI(**{"api_key": KEY, "base_url": url, **settings})


def questions(n: int) -> list[Request]:
    return [question(f"q{at}") for at in range(n)]


def stored(journal: Journal, table: str = "calls") -> int:
    with sqlite3.connect(journal.path) as file:
        return file.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]


# What comes back -----------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests_and_once(journal: Journal) -> None:
    # The first questions take longest, so that answers come out of order.
    asked = [f"q{at % 20}" for at in range(30)]
    with asking(lambda q, _: Reply(delay=0.2 / (1 + int(q[1:])))) as (server, client):
        found = ask([question(q) for q in asked], client, journal, concurrency=7)
        assert [answer.text for answer in found] == asked
        assert set(server.asked.values()) == {1} and len(server.asked) == 20
        assert server.most_in_flight == 7
        assert ask([question(q) for q in asked], client, journal) == found
        assert server.asked.total() == 20
        draws = ask([question("q99", draw=at) for at in range(3)], client, journal)
        assert server.asked["q99"] == 3 == len(draws)
    assert all(isinstance(a, Answer) and a.problem is None for a in found)
    assert found[3].usage.prompt == 10 and found[3].model == "stub-2026"
    assert ask([], make_client("http://127.0.0.1:9/v1"), journal) == []


TROUBLE = {
    "429": Reply({"error": {"message": "slow down"}}, 429),
    "500": Reply("boom", 500),
    "502": Reply("<html>Bad gateway</html>", 502, {"content-type": "text/html"}),
    "503": Reply("", 503),
    "reset": Reply(how="reset"),
    "short": Reply(how="short"),
}
SAYS = ("slow down.*lower concurrency", "'boom'.*later", "Bad gateway", "later")
SAYS += ("Check base_url",) * 2


def test_passing_trouble_is_retried(journal: Journal) -> None:
    with asking(lambda q, nth: TROUBLE[q] if nth < 3 else Reply()) as (server, client):
        found = ask([question(q) for q in TROUBLE], client, journal, retries=2)
    assert [answer.text for answer in found] == list(TROUBLE)
    assert server.asked == dict.fromkeys(TROUBLE, 3)
    assert stored(journal) == len(TROUBLE)


def test_lasting_trouble_is_asked_again_on_request(journal: Journal) -> None:
    asked = [question(text) for text in TROUBLE]
    with asking(lambda q, _: TROUBLE[q]) as (server, client):
        found = ask(asked, client, journal, retries=1)
        for failure, words in zip(found, SAYS, strict=True):
            assert "retry_failed=True" in failure.message
            assert re.search(words, failure.message)
        assert (found[0].kind, found[0].status) == ("RateLimitError", 429)
        # Kept as they are, until somebody wants to try again.
        assert ask(asked, client, journal) == found
        assert server.asked == dict.fromkeys(TROUBLE, 2)
        server.behave = lambda *_: Reply()
        good = ask(asked, client, journal, retry_failed=True)
    assert [answer.text for answer in good] == list(TROUBLE)
    assert len(journal.failures()) == len(TROUBLE)
    assert journal.usage()["answers"].tolist() == [len(TROUBLE)]


@pytest.mark.parametrize("header", [("retry-after", "0.3"), ("retry-after-ms", "300")])
def test_the_server_says_how_long_to_wait(journal: Journal, header: Any) -> None:
    busy = Reply({"error": {"message": "busy"}}, 429, dict([header]))
    with asking(lambda _, nth: busy if nth == 1 else Reply()) as (server, client):
        (answer,) = ask([question()], client, journal)
    assert isinstance(answer, Answer)
    assert server.times[1] - server.times[0] >= 0.3


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("retry-after", "121", 429),
        ("retry-after", "1e999", 503),
        ("retry-after-ms", "130000", 529),
        ("retry-after", email.utils.formatdate(time.time() + 9999, usegmt=True), 429),
    ],
    ids=["seconds", "endless", "milliseconds", "date"],
)
def test_a_long_wait_ends_the_run_and_loses_nothing(
    journal: Journal, header: str, value: str, status: int
) -> None:
    busy = Reply({"error": {"message": "busy"}}, status, {header: value})
    with asking(lambda q, _: Reply() if q < "q3" else busy) as (server, client):
        found = ask(questions(9), client, journal, concurrency=1)
        assert server.asked.total() <= 5
        assert [isinstance(r, Answer) for r in found] == [True] * 3 + [False] * 6
        assert re.search(r"asks to wait .* until 2\d\d\d-\d\d-\d\d ", found[-1].message)
        # Nothing was written down, so that the next run asks them without being told.
        assert journal.failures().empty
        server.behave = lambda *_: Reply()
        found = ask(questions(9), client, journal)
    assert [answer.text for answer in found] == [f"q{at}" for at in range(9)]


def test_while_one_is_asked_to_wait_all_others_hold(journal: Journal) -> None:
    busy = Reply({"error": {"message": "busy"}}, 429, {"retry-after-ms": "400"})
    with asking(
        lambda q, nth: busy if q == "q0" and nth == 1 else Reply(delay=0.02)
    ) as (server, client):
        found = ask(questions(25), client, journal)
    assert all(isinstance(result, Answer) for result in found)
    gaps = np.diff(sorted(server.times))
    # What was in flight arrives; then the server has its peace.
    assert gaps.max() > 0.3 and int(gaps.argmax()) < 15


def test_silence_and_dripping_end(journal: Journal) -> None:
    how = {"retries": 0, "timeout": 0.3, "deadline": 0.7}
    with asking(lambda q, _: Reply(how=q)) as (server, client):
        asked = [question("silent"), question("drip")]
        silent, dripped = ask(asked, client, journal, **how)
    assert silent.kind == "APITimeoutError" and "silent for 0.3 s" in silent.message
    # Each byte came in time; all of them did not.
    assert dripped.kind == "TimeoutError" and "within 0.7 s" in dripped.message
    assert server.asked == {"silent": 1, "drip": 1}


NESTED = '{"choices": ' + '[{"message": {"content": ' * 300
BILLED = {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}
# What is sent in place of an answer, and words of the failure, where it must be one.
BAD: dict[str, tuple[Any, str]] = {
    "cut": ('{"id": "x", "choices": [{"mess', "broken JSON at character 25 of 30"),
    "page": ("<!doctype html><html>Log in</html>", "web page.*base_url.*/v1"),
    "list": ('["no", "object"]', "no object"),
    "none": ({"choices": []}, "no choices.*protocol"),
    "error": ({"error": {"message": "overloaded"}}, "'overloaded'"),
    "empty": ("", "broken JSON"),
    "open": ("[" * 5000, "broken JSON"),
    "types": (chat_answer("a") | {"choices": [7]} | BILLED, ""),
    "deep": ({"choices": [], "x": json.loads("[" * 900 + "]" * 900)} | BILLED, "no c"),
    "very deep": (NESTED + "1" + "}}]" * 300 + "}", ""),
    "numbers": (chat_answer("a") | {"usage": {"prompt_tokens": 10**400}}, ""),
    "digits": ('{"choices": [], "usage": {"prompt_tokens": ' + "9" * 5000 + "}}", ""),
    "long": ("x" * 20_000, "longer than 19,000 bytes"),
}


@pytest.mark.parametrize("charset", ["utf-8", "zlib", "unicode_escape"])
def test_what_is_no_answer_concerns_itself_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, charset: str
) -> None:
    monkeypatch.setattr("helpers.hosted.requests._MOST_BYTES", 19_000)
    headers = {"content-type": f"application/json; charset={charset}"}
    headers["x-request-id"] = "req-7"
    bodies = {name: body for name, (body, _) in BAD.items()}
    asked = [question(text) for text in (*BAD, "good")]
    with asking(lambda q, _: Reply(bodies.get(q), 200, headers)) as (server, client):
        *found, good = ask(asked, client, journal)
        assert ask(asked, client, journal) == [*found, good]
    assert set(server.asked.values()) == {1} and good.text == "good"
    for result, (name, (_, says)) in zip(found, BAD.items(), strict=True):
        if says:
            assert result.kind == "UnreadableAnswer", name
            assert re.search(says, result.message), name
            assert result.request_id == (None if name == "long" else "req-7")
    assert journal.usage(PRICES)["prompt_tokens"].item() >= 24  # what was billed stays


@pytest.mark.parametrize(("status", "says"), [(400, "Correct the"), (404, "check mo")])
def test_refused_requests_are_asked_once(
    journal: Journal, status: int, says: str
) -> None:
    reply = Reply({"error": {"message": "no logprobs here"}} | BILLED, status)
    with asking(lambda *_: reply) as (server, client):
        (failure,) = ask([question()], client, journal)
    assert re.search(f"no logprobs here.*{says}", failure.message)
    assert server.asked.total() == 1
    assert failure.usage.prompt == journal.usage()["prompt_tokens"].item() == 7


@pytest.mark.parametrize("protocol", ["chat", "responses", "completions"])
def test_body_as_it_is(protocol: str, journal: Journal, httpserver: HTTPServer) -> None:
    asked = build_request(protocol, "m", "Hi", max_tokens=16, top_logprobs=5, odd={})
    path = {"chat": "chat/completions"}.get(protocol, protocol)
    httpserver.expect_oneshot_request(
        f"/v1/{path}", method="POST", json=asked.arguments
    ).respond_with_json(chat_answer("yes"))
    ask([asked], make_client(httpserver.url_for("/v1")), journal)
    httpserver.check_assertions()


# Money ---------------------------------------------------------------------------


def test_the_budget_is_never_passed(journal: Journal) -> None:
    # 10 tokens read and 1 written: 0.00011 each, and up to 0.0004 before it is known.
    options = {"budget": 0.002, "prices": PRICES}
    with asking(lambda *_: Reply(delay=0.05)) as (server, client):
        with pytest.raises(BudgetExceeded, match="of 30 requests are done") as stop:
            ask(questions(30), client, journal, **options)
        done = [result for result in stop.value.results if result is not None]
        assert len(done) == len(server.asked) == stored(journal)
        assert stop.value.cost == pytest.approx(0.00011 * len(done))
        assert 0.0015 < stop.value.cost <= 0.002
        assert len(stop.value.results) == 30
        # The budget holds over runs, and more money goes on where it ended.
        with pytest.raises(BudgetExceeded):
            ask(questions(30), client, journal, **options)
        assert len(server.asked) == len(done)
        ask(questions(30), client, journal, budget=0.1, prices=PRICES)
    assert set(server.asked.values()) == {1}
    assert journal.usage(PRICES)["cost"].tolist() == [pytest.approx(0.00011 * 30)]


@pytest.mark.parametrize(("n", "retries", "budget"), [(9, 0, 0.001), (1, 9, 0.00105)])
def test_unbilled_attempts(
    journal: Journal, n: int, retries: int, budget: float
) -> None:
    options = {"budget": budget, "prices": PRICES, "retries": retries}
    with asking(lambda *_: Reply(how="reset")) as (server, client):
        with pytest.raises(BudgetExceeded) as stop:
            ask(questions(n), client, journal, **options)
    assert 0 < server.asked.total() < 5 and 0 < stop.value.cost <= budget


def test_a_budget_counts_what_failed_before(journal: Journal) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    bill = Reply({"choices": [], "usage": usage})
    options = {"budget": 3.0, "prices": PRICES, "concurrency": 1, "retry_failed": True}
    first, second = [[question(f"{n}{at}") for at in range(2)] for n in "ab"]
    with asking(lambda *_: bill) as (server, client):
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


def test_two_runs_share_the_work_and_the_budget(journal: Journal) -> None:
    options = {"budget": 30 * 0.00011 + 0.002, "prices": PRICES}
    with asking(lambda q, _: Reply(delay=0.01 * (1 + hash(q) % 3))) as (server, client):

        def go(_: int) -> list[Any]:
            with Journal(journal.path) as own:
                return ask(questions(30), client, own, **options)

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(go, range(2))
    assert set(server.asked.values()) == {1} and len(server.asked) == 30
    assert one == other and len(one) == 30
    assert stored(journal, "claims") == 0


def test_what_a_dead_process_had_claimed_is_asked(journal: Journal) -> None:
    with asking() as (_, client):
        key, until = question().key(str(client.base_url)), time.time() + 600
        gone = subprocess.Popen(["true"])
        gone.wait()
        with sqlite3.connect(journal.path) as file:
            row = (key, f"{gone.pid} x", 1.0, until)
            file.execute("INSERT INTO claims VALUES (?, ?, ?, ?)", row)
        (answer,) = ask([question()], client, journal, budget=1, prices=PRICES)
    assert isinstance(answer, Answer)


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (question(), {"budget": 1.0}, "budget needs prices"),
        (question(), {"budget": -1, "prices": PRICES}, "budget must be"),
        (question(), {"prices": {"other": (1, 1)}}, "prices must hold 'm'"),
        (UNLIMITED, {"budget": 1.0, "prices": PRICES}, "limit their answers"),
        (question(), {"concurrency": 0}, "concurrency must be"),
        (question(), {"retries": -1}, "retries must be"),
        (question(), {"timeout": 0}, "timeout must be"),
        ({"model": "m"}, {}, "number 0 is a dict"),
        (question(), {"client": openai.OpenAI(api_key=KEY)}, "AsyncOpenAI, not OpenAI"),
    ],
)
def test_senseless_settings_are_refused(
    journal: Journal, asked: Any, options: dict[str, Any], message: str
) -> None:
    client = options.pop("client", make_client("http://127.0.0.1:9/v1"))
    with pytest.raises((ValueError, TypeError), match=message):
        ask([asked], client, journal, **options)
    assert stored(journal) == 0


# Keys ----------------------------------------------------------------------------


def test_a_key_is_in_nothing_that_stays(
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    own, query = "abc-123-def", "a+12345/6="  # which an address has as …
    written, said = "a%2B12345%2F6%3D", {"error": {"message": own}}
    replies = {
        "echo": Reply(chat_answer(f"is it {KEY} or {own}?") | {"id": own}),
        "header": Reply(chat_answer("yes"), headers={"x-request-id": KEY}),
        "error": Reply({"error": {"message": f"bad Authorization: Bearer {KEY}"}}, 400),
        "own": Reply(said, 400, {"x-request-id": own}),
        "address": Reply({"error": {"message": f"?k={written}&x"}}, 400),
        "page": Reply(f"<html>{KEY}</html>"),
        "late": Reply("<p>" + "x" * 70 + KEY, 403),
        "huge": Reply({"error": {"message": "x" * 10**6 + KEY}}, 400),
    }
    with asking(lambda q, _: replies[q], default_headers={"x-gate": own}) as (
        server,
        client,
    ):
        client = client.with_options(default_query={"k": query})
        found = ask([question(text) for text in replies], client, journal)
        denied = Reply({"error": {"message": f"Incorrect API key: {KEY}."}}, 401)
        server.behave = lambda *_: denied
        with pytest.raises(AccessDenied, match=r"key: \[key\]") as stop:
            ask([question("new")], client, journal)
        # What the HTTP library would log or quote is not sent at all.
        url = str(client.base_url)
        in_url = make_client(url.replace("//", f"//user:{KEY}@"))
        with pytest.raises(ValueError, match="password in its base_url") as first:
            ask([question("new")], in_url, journal)
        with pytest.raises(ValueError, match="line break") as second:
            ask([question("new")], make_client(url, KEY + "\n"), journal)
    journal.close()
    assert found[0].text == "is it [key] or [key]?" and found[1].request_id == "[key]"
    assert len(found[-1].message) < 3000 and "Correct the arg" in found[-1].message
    shown = [found, first.value, second.value, journal, stop.value, stop.value.results]
    cause: BaseException | None = stop.value
    while cause := cause.__cause__ or cause.__context__:
        shown.append(cause)
    raw = b"".join(path.read_bytes() for path in journal.path.parent.iterdir())
    kept = "".join([*map(repr, shown), *capfd.readouterr(), raw.decode("latin-1")])
    said_back = re.compile("response|request_id")  # by the server, in the clear
    logged = [line for line in caplog.text.splitlines() if not said_back.search(line)]
    assert len(logged) > 20 and KEY not in "".join(logged)
    for secret in (KEY, KEY[:9], own, query, written):
        assert secret not in kept


@pytest.mark.parametrize("status", [301, 303, 307])
def test_another_server_gets_no_texts_or_keys(journal: Journal, status: int) -> None:
    goal = {"location": ""}
    gate = {"api_key": "-", "default_headers": {"x-gate": KEY}}
    with (
        asking() as (other, elsewhere),
        asking(lambda *_: Reply("", status, goal), **gate) as (_, client),
    ):
        there = str(elsewhere.base_url).rstrip("/")
        for place in (there, there.replace("http", "https"), there.replace("1:", "2:")):
            goal["location"] = f"{place}/chat/completions?k={KEY}"
            (failure,) = ask([question(place)], client, journal)
            assert failure.status == status and KEY not in failure.message
            assert f"on to {place}/chat/completions, which got none" in failure.message
    assert not other.asked


@pytest.mark.parametrize("status", [301, 308])
def test_a_redirect_to_the_same_server_is_followed(
    journal: Journal, httpserver: HTTPServer, status: int
) -> None:
    loop, goal = "/v1/loop/chat/completions", "/v2/chat/completions/"
    for start, end in (("/v1/chat/completions", goal), (loop, loop)):
        moved = Response("", status, {"location": end})
        httpserver.expect_request(start).respond_with_response(moved)
    httpserver.expect_request(
        goal, method="POST", json=question().arguments
    ).respond_with_json(chat_answer("there"))
    (answer,) = ask([question()], make_client(httpserver.url_for("/v1")), journal)
    assert answer.text == "there"
    (failure,) = ask([question()], make_client(httpserver.url_for("/v1/loop")), journal)
    assert failure.status == status


ADDRESSES = {
    "key": "https://api.openai.com/v1 https://API.OpenAI.com:443/v1 "
    "https://eu.api.openai.com./v1",
    "none": "https://api.openai.com:8443/v1 https://api.openai.com.evil.example/v1 "
    "https://evil-api.openai.com.example/v1 https://myapi.openai.com/v1 "
    "https://evil.example/api.openai.com/v1 https://openrouter.ai/api/v1 "
    "http://localhost:8000/v1 http://LOCALHOST.:8000/v1 http://127.0.0.2/v1 "
    "http://[::1]:8000/v1",
    "refused": "http://api.openai.com/v1 http://localhost.evil.example/v1 "
    "http://127.0.0.1.evil.example/v1 http://192.168.1.5:8000/v1 "
    "http://[2001:db8::1]/v1 ftp://localhost/v1 localhost:8000/v1",
}


@pytest.mark.parametrize("gets", ADDRESSES)
def test_the_key_of_the_environment_goes_to_openai_only(
    gets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", f"org-{KEY}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"x-gate: {KEY}\nAuthorization: {KEY}")
    for address in ADDRESSES[gets].split():
        if gets == "refused":
            with pytest.raises(ValueError, match="client must be an address with http"):
                open_client(address)
            continue
        client = open_client(address)
        sent = client.auth_headers | client.default_headers
        assert (KEY in str(sent)) == (gets == "key"), address
        assert open_client(address, "own-key").api_key == "own-key"


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, {"message": "wrong key"}, "wrong key.* 3 of 9 requests"),
        (402, {"message": "no credit"}, "no credit.* account"),
        (429, {"message": "no", "code": "insufficient_quota"}, "no.* account"),
    ],
)
def test_a_refused_key_stops_the_run_and_blames_no_request(
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: dict[str, str],
    says: str,
) -> None:
    reply = Reply({"error": error}, status)
    with asking(lambda q, _: reply if q > "q2" else Reply()) as (server, client):
        with pytest.raises(AccessDenied, match=says) as stop:
            ask(questions(9), client, journal, concurrency=1)
        assert server.asked.total() == 4
        assert [bool(r) for r in stop.value.results] == [True] * 3 + [False] * 6
        assert journal.failures().empty
        # A server that wants a key is told apart from OpenAI.
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with pytest.raises(AccessDenied, match="OPENAI_API_KEY is OpenAI's: give an"):
            ask(questions(9), str(client.base_url), journal)
        server.behave = lambda *_: Reply()
        assert len(ask(questions(9), client, journal)) == 9


# Loops, threads and interrupts ---------------------------------------------------


def test_both_faces_work_where_a_loop_runs(journal: Journal) -> None:
    async def cell(url: str) -> list[Any]:
        first = await run([question("a")], make_client(url), journal)
        client = make_client(url)  # which serves several calls
        return [*first, *(ask([question(q)], client, journal)[0] for q in "bc")]

    with running(StubServer()) as url:
        found = asyncio.run(cell(url))
    assert [answer.text for answer in found] == ["a", "b", "c"]


@pytest.mark.parametrize("slow_disk", [False, True])
def test_an_interrupt_keeps_what_has_come(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, slow_disk: bool
) -> None:
    write, go_on = journal.add, threading.Event()

    def slow(calls: Any) -> None:
        go_on.wait(20)
        write(calls)

    if slow_disk:  # all answers wait for it when the interrupt comes
        monkeypatch.setattr(journal, "add", slow)
    main = threading.main_thread().ident
    assert main

    def interrupt(server: StubServer) -> None:
        until = time.monotonic() + 20
        while server.asked["q8"] == 0 or stored(journal) < (0 if slow_disk else 5):
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.1)
        signal.pthread_kill(main, signal.SIGINT)  # a lock waits on without a real one
        time.sleep(0.1)
        go_on.set()

    # As at a terminal: a shell lets what it starts in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with asking(lambda q, _: Reply(how="whole" if q < "q5" else "silent")) as (
        server,
        client,
    ):
        other = threading.Thread(target=interrupt, args=(server,))
        other.start()
        with pytest.raises(KeyboardInterrupt):
            ask(questions(9), client, journal, concurrency=9)
        other.join()
        signal.signal(signal.SIGINT, before)
        assert stored(journal) == 5
        server.behave = lambda *_: Reply()
        found = ask(questions(9), client, journal)
    assert [answer.text for answer in found] == [f"q{at}" for at in range(9)]
    assert all(server.asked[f"q{at}"] == 1 for at in range(5))


def test_a_full_disk_stops_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Mock(side_effect=sqlite3.OperationalError("database or disk is full"))
    monkeypatch.setattr(journal, "add", full)
    with asking() as (server, client):
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            ask(questions(99), client, journal, concurrency=2)
    assert server.asked.total() <= 4


def test_no_answer_frees_its_worker_before_it_is_on_disk(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = journal.add
    with asking() as (server, client):

        def checked(calls: Any) -> None:
            before = stored(journal)
            time.sleep(0.02)
            # Nothing more is asked than what is written and what two workers hold.
            assert server.asked.total() <= before + 2
            write(calls)

        monkeypatch.setattr(journal, "add", checked)
        ask(questions(12), client, journal, concurrency=2)
    assert stored(journal) == 12
