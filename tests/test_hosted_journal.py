"""Rules of helpers.hosted.journal and batch: what was paid for is never lost."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosted_server import (
    Reply,
    StubServer,
    ask_in_process,
    chat_answer,
    fill_in_process,
    processes,
    running,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hosted import (
    Answer,
    Call,
    Failure,
    Journal,
    ask,
    build_request,
    read_answer,
    read_batch,
    write_batch,
)

URL = "http://127.0.0.1:9/v1"
PRICES = {"m": (1.0, 100.0)}
ASKED = build_request("chat", "m", "q", max_tokens=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "answers.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


def answered(key: str, text: str = "yes", **changes: Any) -> Call:
    body = chat_answer(text)
    call = Call(key, ASKED, read_answer("chat", body), json.dumps(body))
    return replace(call, **changes)


def failed(key: str, message: str = "ouch") -> Call:
    failure = Failure("APIError", message, 500, "r")
    return Call(key, ASKED, failure, None)


def rows(path: Path, query: str = "SELECT key, status FROM calls ORDER BY id") -> list:
    with sqlite3.connect(path) as file:
        return file.execute(query).fetchall()


def test_what_is_written_others_read_later(path: Path, journal: Journal) -> None:
    journal.add(answered(str(at)) for at in range(1200))
    assert len(journal.get([str(at) for at in range(2000)])) == 1200
    journal.add([answered("a"), failed("b")])
    expected = {"a": answered("a").result, "b": failed("b").result}
    assert isinstance(expected["a"], Answer)
    with Journal(path) as other:
        assert other.get(["a", "b", "c"]) == expected
    # What the server sent can be read word for word.
    assert journal.responses(["a", "b", "c"]) == {"a": json.dumps(chat_answer("yes"))}
    assert journal.responses([]) == {}
    journal.close()
    with Journal(path) as later:
        assert later.get(["c", "b", "a"]) == expected


def test_first_answer_stays_every_bill_counts(path: Path, journal: Journal) -> None:
    journal.add([failed("a", "first"), failed("a", "second")])
    assert journal.get(["a"])["a"] == failed("a", "second").result
    journal.add([answered("a", "yes")])
    journal.add([answered("a", "no"), failed("a", "third")])
    assert journal.get(["a"])["a"].text == "yes"
    assert " ".join(status for _, status in rows(path)) == "error error ok repeat error"
    usage = journal.usage(PRICES).loc[("m", "direct")]
    assert usage["answers"] == 1 and usage["errors"] == 3
    assert usage["prompt_tokens"] == 20 and usage["completion_tokens"] == 2
    assert usage["cost"] == pytest.approx(20 * 1e-6 + 2 * 1e-4)
    assert journal.failures()["error_message"].tolist() == ["first", "second", "third"]


def test_usage_needs_a_price_for_every_model(journal: Journal) -> None:
    assert journal.usage({}).empty
    journal.add([answered("a"), answered("b", source="batch")])
    with pytest.raises(ValueError, match="prices must hold 'm'"):
        journal.usage({"other": (1, 1)})
    with pytest.raises(ValueError, match=r"prices\['m'\] must be 0 or more, not -1"):
        journal.usage({"m": (-1, 1)})
    whole = journal.usage(PRICES)["cost"]
    half = journal.usage(PRICES, batch_share=0.5)["cost"]
    assert (half / whole).tolist() == [0.5, 1.0]  # batch, direct
    assert "cost" not in journal.usage()


def test_a_group_is_written_whole_or_not_at_all(path: Path, journal: Journal) -> None:
    broken = answered("b", source=None)
    with pytest.raises(sqlite3.IntegrityError):
        journal.add([answered("a"), broken])
    journal.add([answered("c")])
    assert rows(path) == [("c", "ok")]


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database, but long enough to look like one" * 30)
    with pytest.raises(ValueError, match="is no journal"):
        Journal(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (x)")
    with pytest.raises(ValueError, match="no journal of version 1"):
        Journal(other)
    assert rows(other, "SELECT COUNT(*) FROM mine") == [(0,)]


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_is_never_an_answer(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite"
        with Journal(path) as journal:
            journal.add([answered("a", "yes"), answered("b", "yes")])
        ((said,),) = rows(path, "SELECT response FROM calls WHERE key = 'a'")
        flipped = bytearray(said.encode())
        flipped[at % len(flipped)] ^= 1 << bit
        with closing(sqlite3.connect(path)) as file, file:
            change = "UPDATE calls SET response = CAST(? AS TEXT) WHERE key = 'a'"
            file.execute(change, (bytes(flipped),))
        with Journal(path) as journal:
            found = journal.get(["a", "b"])
            assert isinstance(found["a"], Failure) and found["b"].text == "yes"
            assert "is damaged" in found["a"].message
            assert "a" not in journal.responses(["a", "b"])
            assert journal.failures()["error_kind"].tolist() == ["DamagedRow"]
            # It can be asked again, and both were paid for.
            journal.add([answered("a", "no")])
            assert journal.get(["a"])["a"].text == "no"
            assert journal.usage()["prompt_tokens"].tolist() == [30]


def test_a_commit_reaches_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, files = sqlite3.connect, []

    def kept(*args: Any, **options: Any) -> sqlite3.Connection:
        files.append(connect(*args, **options))
        return files[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    with Journal(path):  # another connection would have settings of its own
        ((mode,),) = files[-1].execute("PRAGMA journal_mode")
        ((synchronous,),) = files[-1].execute("PRAGMA synchronous")
    assert (mode, synchronous) == ("wal", 2)


# Processes -----------------------------------------------------------------------


def test_processes_share_a_journal(path: Path) -> None:
    context = processes()
    work = [context.Process(target=fill_in_process, args=(path, at)) for at in range(3)]
    for process in work:
        process.start()
    for process in work:
        process.join(60)
        assert process.exitcode == 0
    counts = dict(rows(path, "SELECT status, COUNT(*) FROM calls GROUP BY status"))
    assert counts == {"ok": 3 * 20 + 20, "repeat": 2 * 20}


def test_a_killed_run_goes_on_where_it_was(path: Path) -> None:
    # HOW_SURE_KILLS=20 makes a longer trial of it.
    kills = int(os.environ.get("HOW_SURE_KILLS", "2"))
    n, concurrency, rng = 50 * (kills + 1), 8, random.Random()
    server = StubServer(lambda text, nth: Reply(delay=0.002))
    context = processes()
    requests = [build_request("chat", "m", f"q{at}", max_tokens=1) for at in range(n)]
    finished: set[str] = set()
    with running(server) as url:
        text_of = {q.key(url): f"q{at}" for at, q in enumerate(requests)}
        for kill in range(kills + 1):
            before = server.asked.copy()
            process = context.Process(
                target=ask_in_process, args=(url, path, requests, concurrency)
            )
            process.start()
            share = before.total() + rng.randint(1, n // (kills + 1))
            until = time.monotonic() + 120
            while kill < kills and process.is_alive():
                assert time.monotonic() < until
                time.sleep(0.001)
                if server.asked.total() >= share:
                    time.sleep(rng.uniform(0, 0.02))
                    process.kill()
                    break
            process.join(120)
            # What was on disk before this run was not asked again in it.
            texts = map(text_of.get, finished)
            assert all(server.asked[text] == before[text] for text in texts)
            found = [key for key, status in rows(path) if status == "ok"]
            assert len(found) == len(set(found)) and finished <= set(found)
            finished = set(found)
        assert process.exitcode == 0 and finished == set(text_of)
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        # Lost is only what was in flight.
        assert n <= server.asked.total() <= n + kills * concurrency
        with Journal(path) as journal:
            texts = [answer.text for answer in ask(requests, url, journal)]
    assert texts == [f"q{at}" for at in range(n)]


# Batches -------------------------------------------------------------------------


def result_line(key: str, **changes: Any) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": f"r-{key[:4]}"}
    response["body"] = chat_answer("yes")
    return {"id": "x", "custom_id": key, "response": response, "error": None} | changes


def test_a_batch_fills_the_same_journal(journal: Journal, tmp_path: Path) -> None:
    requests = [build_request("chat", "m", f"q{at} é", max_tokens=1) for at in range(4)]
    keys = [request.key(URL) for request in requests]
    journal.add([answered(keys[0])])
    file, output = tmp_path / "batch.jsonl", tmp_path / "output.jsonl"
    assert write_batch([*requests, requests[1]], file, journal, base_url=URL + "/") == 3
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == keys[1:]
    assert lines[0] == {
        "custom_id": keys[1],
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": requests[1].arguments,
    }
    refused = {"status_code": 400, "body": {"error": {"message": "too long"}}}
    expired = {"code": "batch_expired", "message": "not in time"}
    results = [
        result_line(keys[1]),
        result_line(keys[2], response=refused),
        result_line(keys[3], response=None, error=expired),
        result_line("stranger"),
    ]
    broken = '{"custom_id": "bro\n'
    output.write_text("\n".join([*map(json.dumps, results), broken]))
    for _ in range(2):  # reading it again changes nothing
        read = read_batch(output, requests, journal, base_url=URL)
        assert tuple(read) == (1, 2, ("stranger", broken))
        usage = journal.usage(PRICES, batch_share=0.5).loc[("m", "batch")]
        assert usage["answers"] == 1 and usage["errors"] == 2
        assert usage["cost"] == pytest.approx((10 * 1e-6 + 1e-4) / 2)
    found = journal.get(keys)
    assert found[keys[1]].text == "yes"
    assert found[keys[1]].request_id == f"r-{keys[1][:4]}"
    assert found[keys[2]].status == 400 and "too long" in found[keys[2]].message
    assert "not in time" in found[keys[3]].message
    # All of them are known now; the failed ones only on request.
    assert write_batch(requests, file, journal, base_url=URL) == 0
    assert not file.exists()
    again = write_batch(requests, file, journal, base_url=URL, retry_failed=True)
    assert again == 2
    # Direct runs find them as well: nobody answers at this address.
    assert ask(requests, URL, journal, retries=0) == [found[key] for key in keys]


def test_a_row_that_failed_is_no_answer_whatever_its_body_says(
    journal: Journal, tmp_path: Path
) -> None:
    request = build_request("chat", "m", "q", max_tokens=1)
    row = {"status_code": 500, "request_id": "r", "body": chat_answer("yes")}
    line = result_line(request.key(URL), response=row)
    (tmp_path / "output.jsonl").write_text(json.dumps(line))
    read = read_batch(tmp_path / "output.jsonl", [request], journal, base_url=URL)
    assert tuple(read) == (0, 1, ())
    (found,) = journal.get([request.key(URL)]).values()
    assert isinstance(found, Failure) and found.status == 500


def test_a_batch_read_again_after_other_answers_costs_nothing(
    journal: Journal, tmp_path: Path
) -> None:
    requests = [build_request("chat", "m", f"q{at}", max_tokens=1) for at in range(2)]
    lost, late = (request.key(URL) for request in requests)
    billed = {"status_code": 500, "body": chat_answer("yes")}
    output = tmp_path / "output.jsonl"
    lines = [result_line(lost, response=billed), result_line(late)]
    output.write_text("\n".join(map(json.dumps, lines)))
    journal.add([answered(late)])  # before the batch was read
    read = read_batch(output, requests, journal, base_url=URL)
    paid = journal.usage(PRICES)
    assert paid.loc[("m", "batch"), "prompt_tokens"] == 20
    journal.add([answered(lost)])  # and one after it
    assert read_batch(output, requests, journal, base_url=URL) == read == (1, 1, ())
    again = journal.usage(PRICES).loc[("m", "batch")]
    assert again.to_dict() == paid.loc[("m", "batch")].to_dict()
    # Another batch with the same outcome was paid, too.
    lines[1]["response"]["request_id"] = "another"
    output.write_text("\n".join(map(json.dumps, lines)))
    read_batch(output, requests, journal, base_url=URL)
    assert journal.usage(PRICES).loc[("m", "batch"), "prompt_tokens"] == 30


def test_a_batch_is_of_one_kind_and_size(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (
        build_request("chat", model, prompt, max_tokens=1)
        for model, prompt in (("m", "q"), ("n", "q"), ("m", "r"))
    )
    file = tmp_path / "batch.jsonl"
    with pytest.raises(ValueError, match="must share protocol and model"):
        write_batch([one, two], file, journal, base_url=URL)
    monkeypatch.setattr("helpers.hosted.batch._MOST_REQUESTS", 1)
    with pytest.raises(ValueError, match="at most 1 in one batch,.*not 2 of"):
        write_batch([one, three], file, journal, base_url=URL)
    monkeypatch.setattr("helpers.hosted.batch._MOST_BYTES", 10)
    with pytest.raises(ValueError, match="of at most 10 bytes together, not 1 of"):
        write_batch([one], file, journal, base_url=URL)
    assert not file.exists()
