"""What was recorded is what was answered, and nobody is asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hosted_model import ModelServer, random_model
from hosted_server import Reply, StubServer, chat_answer, running
from openai import AsyncOpenAI

from helpers import EMBEDDED
from helpers.checkpoints import EMBEDDED_WHEEL
from helpers.datasets import RECORDED_DOORS, RECORDED_SERVERS
from helpers.hosted import (
    Answer,
    Call,
    Failure,
    Journal,
    Request,
    ask,
    build_request,
    play_recording,
    probe,
    read_answer,
    save_recording,
)

RECORDED = RECORDED_SERVERS | RECORDED_DOORS
KEY = "sk-secret-0123456789abcdef"
URL = "http://127.0.0.1:9/v1"
UNICODE = "naïve \ud83d 😀 \x00"


def completion(text: str) -> dict[str, Any]:
    logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [None]}
    choice = {"text": text, "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    return {"id": "cmpl", "choices": [choice], "usage": usage}


def response(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "logprobs": []}
    usage = {"input_tokens": 5, "output_tokens": 7}
    usage["output_tokens_details"] = {"reasoning_tokens": 6}
    output = [{"type": "message", "content": [part]}]
    return {"id": "resp", "status": "completed", "output": output, "usage": usage}


def behave(prompt: str, nth: int) -> Reply:
    """Every kind of answer and failure, by what is asked."""
    usage = {"prompt_tokens": 4, "completion_tokens": 2}
    replies = {
        "drawn": Reply(chat_answer(f"draw {nth}")),
        "unicode": Reply(chat_answer(UNICODE) | {"id": "r"}),
        "raw": Reply(completion("a"), headers={"x-request-id": "header"}),
        "input": Reply(response("b")),
        "refused": Reply({"error": {"message": "too löng"}}, 400),
        "broken": Reply('{"choices": ['),
        "empty": Reply({"choices": [], "usage": usage}),  # and paid for all the same
        "reset": Reply(how="reset"),
    }
    return replies.get(prompt, Reply())


def chat(prompt: str, **options: Any) -> Request:
    return build_request("chat", "m", prompt, max_tokens=1, **options)


ALL = [
    chat("plain"),
    chat("reset"),
    chat("drawn", draw=1),
    build_request("responses", "other", "input", max_tokens=16),
    chat("refused"),
    chat("drawn"),
    chat("unicode"),
    build_request("completions", "m", "raw", max_tokens=1),
    chat("broken"),
    chat("drawn", draw=2),
    chat("empty"),
    chat("biased", logit_bias={50256: -100, 7: 1, 1000: 5}),
]


@pytest.fixture
def server() -> Iterator[tuple[StubServer, AsyncOpenAI]]:
    stub = StubServer(behave)
    with running(stub) as url:
        yield stub, AsyncOpenAI(api_key=KEY, base_url=url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.parquet"


def inquire(
    requests: list[Request], client: AsyncOpenAI, journal: Journal, **options: Any
) -> list[Answer | Failure]:
    settings = {"retries": 0, "progress": False, "concurrency": 1} | options
    return ask(requests, client, journal, **settings)


def keeping() -> Journal:
    return Journal(":memory:", keep_requests=True)


def answered(request: Request, text: str = "yes", **changes: Any) -> Call:
    body = chat_answer(text)
    call = Call(request.key(URL), request, read_answer("chat", body), json.dumps(body))
    return replace(call, **changes)


def failed(request: Request, message: str = "ouch") -> Call:
    failure = Failure("APIError", message, 500, "r")
    return answered(request, result=failure, response=None)


def small(file: Path) -> pd.DataFrame:
    """A recording of two answers and a failure, without a server."""
    with keeping() as journal:
        journal.add([answered(chat("a")), failed(chat("b")), answered(chat("c"))])
        return save_recording(journal, file, base_url=URL)


# There and back -------------------------------------------------------------------


def test_a_recording_answers_as_the_server_did(server, file):
    stub, client = server
    address = str(client.base_url)
    with keeping() as journal, keeping() as played, Journal(":memory:") as plain:
        there = inquire(ALL, client, journal)
        # What is compared below is of every kind.
        kinds = [r.kind if isinstance(r, Failure) else r.text for r in there]
        assert kinds == [
            *("plain", "APIConnectionError", "draw 1", "b", "BadRequestError"),
            *("draw 2", UNICODE, "a", "UnreadableAnswer", "draw 3"),
            *("UnreadableAnswer", "biased"),
        ]
        assert there[7].request_id == "header" and there[3].usage.reasoning == 6
        asked = stub.asked.copy()
        about = {"server": "stub", "date": "today"}
        written = save_recording(journal, file, base_url=address, **about)
        found = play_recording(file, played)
        assert found == {"base_url": address.rstrip("/"), **about}
        assert inquire(ALL, client, played) == there
        # Also at once and in another order, and where requests are not kept.
        play_recording(str(file), plain)
        assert inquire(ALL[::-1], client, plain, concurrency=8) == there[::-1]
        assert stub.asked == asked

        assert written["key"].tolist() == [request.key(address) for request in ALL]
        # All of it came along, with the time, and can be recorded once more.
        for same in (played.recorded(), pd.read_parquet(file)):
            pd.testing.assert_frame_equal(same, written, check_exact=True)
        assert written["http_status"].dtype == "Int64"
        keys = written["key"].tolist()
        assert plain.responses(keys) == journal.responses(keys)
        direct, recorded = journal.usage(), played.usage()
        assert set(direct.index.get_level_values("source")) == {"direct"}
        assert recorded.index.tolist() == [("m", "recorded"), ("other", "recorded")]
        assert recorded.to_numpy().tolist() == direct.to_numpy().tolist()
        assert recorded["answers"].tolist() == [7, 1]
        assert recorded["errors"].tolist() == [4, 0]
        assert recorded.loc[("other", "recorded"), "reasoning_tokens"] == 6

        # What the recording lacks goes to the server.
        inquire([chat("new")], client, played)
        assert stub.asked - asked == {"new": 1}


def test_no_key_is_in_a_recording(file):
    with keeping() as journal:
        journal.add([answered(chat("a"))])
        address = URL.replace("//", f"//me:{KEY}@") + f"?token={KEY}"
        table = save_recording(journal, file, base_url=address)
    assert table.attrs["base_url"] == URL and KEY.encode() not in file.read_bytes()


def test_playing_twice_adds_nothing(file, tmp_path):
    small(file)
    for _ in range(2):
        with Journal(tmp_path / "a.sqlite", keep_requests=True) as journal:
            for _ in range(2):
                play_recording(file, journal)
            usage = journal.usage().loc[("m", "recorded")]
            assert (usage["answers"], usage["errors"]) == (2, 1)
            assert usage["prompt_tokens"] == 20 and len(journal.recorded()) == 3


def test_what_a_journal_knows_stays(file):
    small(file)  # of "a", the failure "b" and "c"
    a, b, c, d = map(chat, "abcd")
    keys = [request.key(URL) for request in (a, b, c)]
    with Journal(":memory:") as journal:
        journal.add([answered(a, "no"), answered(b, "well"), failed(c)])
        play_recording(file, journal)
        found = journal.get(keys)
        # An answer for a failure is news; a failure for an answer is not.
        assert [found[key].text for key in keys] == ["no", "well", "yes"]
        usage = journal.usage()
        assert usage["answers"].tolist() == [2, 1]
        assert usage["errors"].tolist() == [1, 0]
        assert usage.index.tolist() == [("m", "direct"), ("m", "recorded")]
    with Journal(":memory:") as journal:
        journal.add([failed(b, "mine")])
        play_recording(file, journal)
        assert journal.get(keys)[keys[1]].message == "mine"
        assert journal.usage().loc[("m", "recorded"), "errors"] == 0


def test_an_answer_wins_over_failures_before_and_after(file):
    a, b, c = chat("a"), chat("b"), chat("c")
    with keeping() as journal, Journal(":memory:") as played:
        journal.add([failed(a, "first"), failed(b, "first"), answered(c)])
        journal.add([failed(b, "second"), answered(a), failed(a, "later")])
        journal.add([answered(a, "repeat")])
        table = save_recording(journal, file, base_url=URL)
        # One row each, in the order in which what stays had come.
        assert table["key"].tolist() == [q.key(URL) for q in (c, b, a)]
        assert table["status"].tolist() == ["ok", "error", "ok"]
        play_recording(file, played)
        found = played.get([a.key(URL), b.key(URL)])
    assert found[a.key(URL)].text == "yes"
    assert found[b.key(URL)].message == "second"


def test_half_characters_of_a_server_do_not_stop_the_journal(file):
    asked, other = chat("a"), chat("b")
    body = chat_answer("yes") | {"id": "id-\ud83d"}
    with keeping() as journal, Journal(":memory:") as played:
        journal.add([answered(asked, result=read_answer("chat", body))])
        journal.add([failed(other, "cut \ud83d")])
        save_recording(journal, file, base_url=URL)
        play_recording(file, played)
        keys = [asked.key(URL), other.key(URL)]
        found = played.get(keys)
        assert found == journal.get(keys)
    assert found[keys[0]].request_id == r"id-\ud83d"
    assert found[keys[1]].message == r"cut \ud83d"


# The journal that keeps requests ----------------------------------------------------


def test_requests_are_kept_only_where_one_says_so(tmp_path, file):
    path, wal = tmp_path / "a.sqlite", tmp_path / "a.sqlite-wal"
    prompts = [f"a private text, {at}" for at in range(3)]
    first, second, third = map(chat, prompts)

    def kept(*calls, keep):
        with Journal(path, keep_requests=keep) as journal:
            journal.add(calls)
            if not keep:
                assert prompts[0].encode() not in wal.read_bytes()
                with pytest.raises(ValueError, match="open it with keep_requests=True"):
                    save_recording(journal, file, base_url=URL)
            return journal.recorded().get("arguments", pd.Series()).tolist()

    assert kept(answered(first), keep=False) == []
    assert kept(keep=True) == []  # an older file gets the table
    (arguments,) = kept(answered(second), answered(second, "no"), keep=True)
    assert json.loads(arguments)["messages"][0]["content"] == prompts[1]
    assert kept(answered(third), keep=False) == []
    assert kept(keep=True) == [arguments] and not file.exists()
    with Journal(path) as journal:
        assert len(journal.get([q.key(URL) for q in (first, second, third)])) == 3


def test_memory_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = chat("a").key(URL)
    with Journal(":memory:") as journal, Journal(":memory:") as other:
        journal.add([answered(chat("a"))])
        assert journal.get([key])[key].text == "yes"
        assert other.get([key]) == {}
    assert list(tmp_path.iterdir()) == []


# What is refused --------------------------------------------------------------------


def test_a_recording_is_of_one_server(file):
    with keeping() as journal:
        journal.add([answered(chat("a"))])
        with pytest.raises(ValueError, match=r"http://127.0.0.1:8/v1 was not asked: "):
            save_recording(journal, file, base_url="http://127.0.0.1:8/v1")
    assert not file.exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("arguments", json.dumps(dict(chat("another").arguments))),
        *[("arguments", value) for value in ("no JSON", "[]", "5", None)],
        *[("draw", 1), ("draw", -1)],
        *[("protocol", "responses"), ("protocol", "telepathy")],
        *[("key", "0" * 64), ("base_url", "http://127.0.0.1:8/v1")],
        ("response", '{"choices": ['),
    ],
)
def test_a_changed_recording_is_refused(file, column, value):
    table = small(file)
    if column == "base_url":
        table.attrs[column] = value
    else:
        table.loc[2, column] = value
    table.to_parquet(file, index=False)
    said = f"{file} has .* {re.escape(table.attrs['base_url'])} was not asked"
    with Journal(":memory:") as journal:
        said = "broken JSON" if column == "response" else said
        with pytest.raises(ValueError, match=said):
            play_recording(file, journal)
        assert journal.usage().empty
        journal.add([answered(chat("a"))])  # and it goes on


@pytest.mark.parametrize("what", ["text", "empty", "no attrs", "arguments", "time"])
def test_a_file_that_is_no_recording(file, what):
    table = small(file)
    if what == "no attrs":
        table.attrs.clear()
    table.drop(columns=[what], errors="ignore").to_parquet(file, index=False)
    if what in ("text", "empty"):
        file.write_text("" if what == "empty" else "key,arguments\n" * 30)
    with Journal(":memory:") as journal:
        with pytest.raises(ValueError, match=f"must be a recording; {file} is none"):
            play_recording(file, journal)
        assert journal.usage().empty
        with pytest.raises(FileNotFoundError, match=r"there\.parquet"):
            play_recording(file.with_name("there.parquet"), journal)


# probe --------------------------------------------------------------------------------


def test_a_probe_is_played_back(httpserver, file):
    server = ModelServer(random_model(3), sentinel=True, refuses="seed", most=5)
    client = AsyncOpenAI(api_key=KEY, base_url=server.serve(httpserver))
    with keeping() as journal:
        found = probe(client, "m", retries=0, journal=journal)
        assert len(journal.recorded()) == found.requests
        # What a journal holds is not asked, and the journal stays open.
        n = len(httpserver.log)
        assert n == found.requests
        assert probe(client, "m", retries=0, journal=journal) == found
        save_recording(journal, file, base_url=str(client.base_url))
    with Journal(":memory:") as played:
        play_recording(file, played)
        again = probe(client, "m", retries=0, journal=played)
    assert again == found and len(httpserver.log) == n
    # There was something to lose: answers, failures, and what only the text shows.
    assert found["sentinel"].verdict == "yes" and found["responses"].verdict == "no"
    assert found.prompt_tokens > 0 and again.table().equals(found.table())
    # Without a journal, all is asked anew.
    probe(client, "m", retries=0)
    assert len(httpserver.log) > n


# The book's own -----------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_the_books_recordings_play_and_say_their_origin(root, name):
    files = sorted((root / "data" / "recorded" / name).glob("*.parquet"))
    assert len(files) >= 4
    for path in files:
        with Journal(":memory:") as journal:
            about = play_recording(path, journal)
            assert {*journal.usage().reset_index()["source"]} == {"recorded"}
        assert about["base_url"] == RECORDED[name]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", about["date"])
        assert re.search(r"\d+\.\d+", about["server"]) and EMBEDDED in about["model"]
        assert about["model_sha256"] == EMBEDDED_WHEEL.member_sha256
