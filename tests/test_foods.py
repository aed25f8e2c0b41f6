"""Rules of the foods and of the servers that are asked about them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hosted_server import chat_answer
from werkzeug import Response

from helpers import EMBEDDED
from helpers.datasets import (
    FOOD_QUESTIONS,
    RECORDED_DOORS,
    RECORDED_SERVERS,
    AnsweringServer,
    FoodQuestion,
    answering_servers,
    load_foods,
)
from helpers.files import cache_dir
from helpers.hosted import Answer, ask, build_request, save_recording

KEY = "sk-secret-0123456789abcdef"
NAMES = ["llama-cpp-python", "vLLM", "transformers"]
BOTH = sorted(FOOD_QUESTIONS)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("HOW_SURE_BASE_URL", "HOW_SURE_HOSTED_MODEL", "HOW_SURE_API_KEY")
    for name in (*own, "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def orders(question: FoodQuestion) -> list[list[str] | None]:
    return [None, [question.field, "reason"], ["reason", question.field]]


# Foods ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_foods_are_distinct_and_of_every_kind(name):
    table, question = load_foods(name), FOOD_QUESTIONS[name]
    assert table.columns.tolist() == ["food", "truth", "note"]
    assert table.index.tolist() == list(range(len(table)))
    assert table["food"].str.lower().is_unique
    assert (table["food"] == table["food"].str.strip()).all() and all(table["food"])
    assert all(isinstance(note, str) for note in table["note"])
    # As many of each value, so that a model that always says one gains nothing.
    counts = [
        sum(truth is value for truth in table["truth"]) for value in (True, False)
    ]
    if name == "kind":
        counts = [(table["truth"] == value).sum() for value in question.values]
    open_ones = sum(truth is None for truth in table["truth"])
    assert sum(counts) + open_ones == len(table) and open_ones >= 3
    assert min(counts) >= 8 and max(counts) == min(counts)
    assert not set(table["food"]) & {food for food, _, _ in question.examples}
    # One of each value, so that none is the last word more often.
    assert [value for _, value, _ in question.examples] == list(question.values)


@pytest.mark.parametrize("name", BOTH)
def test_schemas_take_the_answers_and_nothing_else(name):
    question = FOOD_QUESTIONS[name]
    for order in orders(question):
        schema = question.schema(order)
        jsonschema.Draft202012Validator.check_schema(schema)
        check = jsonschema.Draft202012Validator(schema)
        said = question.messages("a food", order)
        assert [turn["role"] for turn in said[1:-1:2]] == ["user"] * len(said[1:-1:2])
        for turn, (_, value, _) in zip(said[2::2], question.examples, strict=True):
            answer = json.loads(turn["content"])
            # The order is that in which a model writes.
            assert list(answer) == schema["required"] == list(schema["properties"])
            assert list(answer) == (order or [question.field])
            assert answer[question.field] == value
            assert check.is_valid(answer)
            assert not check.is_valid(answer | {question.field: "meat"})
            assert not check.is_valid(answer | {question.field: None})
            assert not check.is_valid(answer | {"more": 1})
            for left_out in answer:
                rest = {key: answer[key] for key in answer if key != left_out}
                assert not check.is_valid(rest)
    assert question.messages("a food", examples=False) == [
        {"role": "system", "content": question.instruction},
        {"role": "user", "content": "a food"},
    ]


@pytest.mark.parametrize(
    "order", [["reason"], ["type", "colour"], ["type", "reason", "type"], "reason"]
)
def test_order_that_is_none(order):
    question = FOOD_QUESTIONS["kind"]
    for build in (question.schema, lambda order: question.messages("a food", order)):
        with pytest.raises(ValueError, match="order must hold 'type' and no more than"):
            build(order)
    with pytest.raises(ValueError, match="question must be .*'colour'"):
        load_foods("colour")


# Servers --------------------------------------------------------------------------


def test_doors_are_the_recorded_one_and_any_live_one(tmp_path):
    [door] = answering_servers(doors=True)
    assert {door.name: door.base_url} == RECORDED_DOORS and door.model == EMBEDDED
    live, same = answering_servers("http://x/v1", "m", folder=tmp_path, doors=True)
    assert (live.base_url, live.model) == ("http://x/v1", "m")
    assert live.recordings is None and same.recordings == door.recordings


def test_recorded_servers_by_default(own_scores, root):
    servers = answering_servers()
    assert [server.name for server in servers] == NAMES
    assert [server.base_url for server in servers] == list(RECORDED_SERVERS.values())
    assert len({server.base_url for server in servers}) == 3
    for server in servers:
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.model == EMBEDDED and not server.keep_requests
        assert server.recordings == root / "data" / "recorded"
        assert server.folder is None
        with server.journal("no such part") as journal:
            assert journal.path == Path(":memory:") and journal.usage().empty
    assert not (own_scores / "hosted").exists()


@pytest.mark.parametrize("given", [True, False])
def test_a_server_of_ones_own(monkeypatch, own_scores, given):
    address, model = "https://api.example.com/v1/", "big"
    monkeypatch.setenv("HOW_SURE_BASE_URL", "http://other/v1" if given else address)
    monkeypatch.setenv("HOW_SURE_HOSTED_MODEL", "other" if given else model)
    (server,) = answering_servers(address, model) if given else answering_servers()
    assert server.base_url == "https://api.example.com/v1" and server.model == model
    assert server.recordings is None and not server.keep_requests
    # What was paid for lies in the user's cache.
    assert server.folder == cache_dir() / "hosted" == own_scores / "hosted"
    with server.journal("foods") as journal:
        assert journal.path == own_scores / "hosted" / "asked" / "foods.sqlite"
        assert journal.path.exists()
    monkeypatch.delenv("HOW_SURE_HOSTED_MODEL")
    assert answering_servers(address)[0].model == EMBEDDED


def test_folder_of_journals_and_servers_to_be_recorded(tmp_path):
    (asked,) = answering_servers("http://x/v1", folder=tmp_path)
    assert asked.folder == tmp_path
    servers = answering_servers(folder=str(tmp_path), record=True)
    assert [server.name for server in servers] == NAMES
    assert all(s.recordings is None and s.keep_requests for s in servers)
    with servers[1].journal("a") as journal:
        assert journal.path == tmp_path / "vLLM" / "a.sqlite"
    for url, folder in ((None, None), ("http://x/v1", tmp_path)):
        with pytest.raises(ValueError, match="record needs a folder and no base_url"):
            answering_servers(url, folder=folder, record=True)


def test_what_is_recorded_of_a_part_is_played_and_no_key_is_sent(
    httpserver, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOW_SURE_API_KEY", KEY)
    sent = []

    def reply(request):
        sent.append(str(request.headers))
        body = json.dumps(chat_answer(str(len(sent))))
        return Response(body, content_type="application/json")

    httpserver.expect_request("/v1/chat/completions").respond_with_handler(reply)
    url = httpserver.url_for("/v1")
    asked = build_request("chat", "m", "lemon", max_tokens=1)
    live = AnsweringServer("s", url, "m", tmp_path / "live", keep_requests=True)
    with live.journal("foods") as journal:
        (first,) = ask([asked], live.client(), journal, progress=False)
        (tmp_path / "recorded" / "s").mkdir(parents=True)
        file = tmp_path / "recorded" / "s" / "foods.parquet"
        save_recording(journal, file, base_url=url)
    assert KEY in sent[0] and isinstance(first, Answer)
    played = AnsweringServer("s", url, "m", None, tmp_path / "recorded")
    with played.journal("foods") as journal, played.journal("others") as other:
        assert ask([asked], played.client(), journal, progress=False) == [first]
        assert len(sent) == 1
        (second,) = ask([asked], played.client(), other, progress=False)
    # Another part's journal does not know it; who is asked then sees no key.
    assert isinstance(second, Answer) and second.text == "2"
    assert [KEY in headers for headers in sent] == [True, False]
