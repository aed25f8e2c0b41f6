"""Rules of helpers.decision_server: what it is asked, by whom, and what it answers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient
from scipy.special import logsumexp

from helpers import decision_server
from helpers.classifier import LLMClassifier
from helpers.decision_server import decision_app, serve
from helpers.models import LanguageModel
from helpers.own_data import deciding
from helpers.own_data.candidates import WORDS
from helpers.own_data.cli import main
from helpers.own_data.stored import OwnPolicy
from helpers.own_data.table import read_table

TEXTS = ["a warm and funny film", "no way, the plot is a bore", "maybe"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LABELS = {
    "2 of one token": ["yes", "no"],
    "2 that begin alike": ["no", "not a dull one"],
    "26": [f"{letter} film" if letter < "n" else letter for letter in ALPHABET[::-1]],
    "77": [f"film {at}" for at in range(77)],
}


@pytest.fixture(scope="session")
def model(make_tiny: Callable[..., LanguageModel]) -> LanguageModel:
    """A random network that reads more than the others."""
    return make_tiny("llama", max_position_embeddings=2048)


@contextmanager
def asking(*given: Any, **options: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's client, to a server in this process."""
    with TestClient(decision_app(*given, **options)) as http:
        yield openai.OpenAI(
            api_key="mine",
            base_url="http://testserver/v1",
            http_client=http,
            max_retries=0,
        )


@pytest.fixture
def client(model: LanguageModel) -> Iterator[TestClient]:
    with TestClient(decision_app(model)) as client:
        yield client


def choice(labels: list[Any], instructions: str = "Which?", **more: Any) -> Any:
    options = [{"value": label} for label in labels]
    return {"type": "choice", "instructions": instructions, "choices": options, **more}


def body(*questions: Any, text: Any = "a film", **more: Any) -> dict[str, Any]:
    asked = questions or ({"type": "predicate", "instructions": "Is it funny?"},)
    return {"model": "tiny llama", "input": text, "questions": asked, **more}


def shares_of(answer: Any) -> dict[Any, float]:
    return {one.value: one.probability for one in answer.probabilities}


def expected(model: LanguageModel, labels: list[str], text: str, **how: Any) -> dict:
    """What the classifier gives, and the probability of all its labels."""
    classifier = LLMClassifier(model, labels, cache=False, **how)
    found = dict(
        zip(classifier.classes_, classifier.predict_proba([text])[0], strict=True)
    )
    mass = float(np.exp(logsumexp(classifier.raw_log_proba([text]))))
    return {**found, "mass": mass}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("whole", [False, True])
def test_probabilities_are_those_of_the_classifier(
    model: LanguageModel, labels: list[str], whole: bool
) -> None:
    how: dict[str, Any] = {"prompt": "Review: {text}\nSentiment:"}
    instructions = how["prompt"]
    if not whole:
        instructions = "What is it?"
        how = {"instruction": "\n- ".join([instructions, *labels])}
    with asking(model) as client:
        for text in TEXTS:
            answers = client.decisions.create(
                model=model.name, input=text, questions=[choice(labels, instructions)]
            ).answers
            right = expected(model, labels, text, **how)
            assert answers[0].type == "choice"
            assert answers[0].label_mass == pytest.approx(right.pop("mass"), rel=1e-6)
            assert shares_of(answers[0]) == pytest.approx(right, abs=1e-6)
            assert list(shares_of(answers[0])) == labels  # in the order of the question
            assert answers[0].choice == max(right, key=right.__getitem__)
            assert answers[0].confidence == pytest.approx(max(right.values()), abs=1e-6)


def test_predicates_scores_and_meanings(model: LanguageModel) -> None:
    levels = [
        {"label": "low"},
        {"label": "fair", "description": "so so"},
        {"label": "a"},
    ]
    questions: Any = [
        {"type": "predicate", "name": "p", "instructions": "It is funny."},
        {"type": "score", "name": "s", "instructions": "How good?", "levels": levels},
        choice([True, "no way", False], name="c"),
    ]
    text = "a warm film"
    with asking(model) as client:
        found = client.decisions.create(
            model=model.name, input=text, questions=questions
        )
    assert [one.name for one in found.answers] == ["p", "s", "c"]
    predicate, score, chosen = found.answers
    right = expected(
        model, ["yes", "no"], text, instruction="It is funny.\n- yes\n- no"
    )
    assert predicate.probability == pytest.approx(right["yes"], abs=1e-6)
    assert predicate.label_mass == pytest.approx(right["mass"], rel=1e-6)
    asked = "How good?\n- low\n- fair: so so\n- a"
    right = expected(model, ["low", "fair", "a"], text, instruction=asked)
    rows = [(one.label, one.value, one.probability) for one in score.probabilities]
    names = ["low", "fair", "a"]
    assert rows == [
        (name, at, pytest.approx(right[name], abs=1e-6))
        for at, name in enumerate(names)
    ]
    assert score.score == pytest.approx(right["fair"] + 2 * right["a"], abs=1e-6)
    assert score.confidence == pytest.approx(max(p for _, _, p in rows))
    asked = "Which?\n- true\n- no way\n- false"
    right = expected(model, ["true", "no way", "false"], text, instruction=asked)
    assert [type(value) for value in shares_of(chosen)] == [bool, str, bool]
    assert shares_of(chosen)[True] == pytest.approx(right["true"], abs=1e-6)
    assert shares_of(chosen)[False] == pytest.approx(right["false"], abs=1e-6)
    assert found.usage.input_tokens > 3 * len(model.encode(text))


def test_chat_and_parts_of_the_input(tiny_llama: LanguageModel) -> None:
    said: Any = [
        {"role": "user", "content": "a film"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "input_json", "data": {"é": 1}}]},
    ]
    asked: Any = {
        "type": "predicate",
        "instructions": [{"type": "input_text", "text": "Q"}],
    }
    with asking(tiny_llama, chat=True) as client:

        def told(text: Any) -> float:
            answer = client.decisions.create(
                model=tiny_llama.name, input=text, questions=[asked]
            ).answers[0]
            return answer.probability

        one, several = told(said[2:]), told(said)
    how = {"instruction": "Q\n- yes\n- no", "chat": True}
    right = expected(tiny_llama, ["yes", "no"], '{"é": 1}', **how)
    assert one == pytest.approx(right["yes"], abs=1e-6)
    text = 'user: a film\n\nassistant: yes\n\nuser: {"é": 1}'
    right = expected(tiny_llama, ["yes", "no"], text, **how)
    assert several == pytest.approx(right["yes"], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" \n", "must not be empty"),
        ("a film " * 2000, "has room for"),
        ("\ufdd0", "U\\+FDD0"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(
    client: TestClient, text: str, why: str
) -> None:
    found = client.post("/v1/decisions", json=body(text=text)).json()
    (answer,) = found["answers"]
    assert answer["type"] == "refusal" and answer["name"] is None
    assert re.search(why, answer["reason"])
    assert "probability" not in answer and found["usage"]["total_tokens"] == 0


def test_other_questions_are_answered_beside_a_refusal(client: TestClient) -> None:
    asked = body(choice(["a", "a "], name="alike"), choice(["a", "b"], name="fine"))
    alike, fine = client.post("/v1/decisions", json=asked).json()["answers"]
    assert (alike["type"], alike["name"]) == ("refusal", "alike")
    assert "share the tokens" in alike["reason"]
    assert (fine["type"], fine["name"]) == ("choice", "fine")


def test_system_one(client: TestClient, model: LanguageModel) -> None:
    questions = {
        "c": {
            "type": "choice",
            "instructions": "Which?",
            "criteria": {"a": "x", "b": None},
        },
        "n": {"type": "noul", "instructions": "Is it?", "criteria": {"true": "it is"}},
        "s": {"type": "score", "criteria": ["low", "mid", "high"]},
    }
    asked = {"state": {"é": [1]}, "instructions": "Read.", "questions": questions}
    found = client.post("/v1/systemone", json=asked).json()
    assert found["object"] == "structured_decision" and found["model"] == model.name
    assert list(found["answers"]) == list(found["diagnostics"]) == ["c", "n", "s"]
    rendered = {
        "c": (["a", "b"], "Read.\n\nWhich?\n- a: x\n- b"),
        "n": (["yes", "no"], "Read.\n\nIs it?\n- yes: it is\n- no"),
        "s": (["low", "mid", "high"], "Read.\n- low\n- mid\n- high"),
    }
    for name, (labels, instruction) in rendered.items():
        right = expected(model, labels, '{"é": [1]}', instruction=instruction)
        mass = right.pop("mass")
        answer, more = found["answers"][name], found["diagnostics"][name]
        shares = [right[label] for label in labels]
        assert answer["type"] == questions[name]["type"]
        assert [*answer["probabilities"].values()] == pytest.approx(shares, abs=1e-6)
        assert more["label_mass"] == pytest.approx(mass, rel=1e-6)
        assert answer["confidence"] == pytest.approx(max(shares) * mass, rel=1e-5)
        # Unless a label has more than all the rest, it takes another look to know.
        sure = max(shares) * mass >= 1 - mass
        assert more["argmax_is_label"] is (True if sure else None)
        if name == "c":
            assert answer["choice"] == max(right, key=right.__getitem__)
        if name == "n":
            assert answer["noul"] == answer["probabilities"]["yes"]
        if name == "s":
            assert answer["score"] == pytest.approx(shares[1] + 2 * shares[2], abs=1e-6)
            assert answer["legend"] == {"0": "low", "1": "mid", "2": "high"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-6-luna"}, 404, "model"),
        ({"questions": []}, 400, "questions"),
        ({"questions": [choice(["a", "b"])] * 401}, 400, "questions"),
        ({"questions": [choice(["a"])]}, 400, "questions.0.choice.choices"),
        (
            {"questions": [choice([str(at) for at in range(256)])]},
            400,
            "questions.0.choice.choices",
        ),
        (
            {"questions": [choice(["a", "b"]), choice(["true", True])]},
            400,
            "questions.1",
        ),
        ({"questions": [choice(["a", " "])]}, 400, "questions.0"),
        (
            {"questions": [choice(["a", 1])]},
            400,
            "questions.0.choice.choices.1.value.str",
        ),
        ({"questions": [choice(["a", "b"], "{text} {text}")]}, 400, "questions.0"),
        ({"questions": [choice(["a", "b"], "x" * 70_000)]}, 400, "questions.0"),
        ({"questions": [{"type": "free", "instructions": ""}]}, 400, "questions.0"),
        ({"questions": [choice(["a", "b"], top=1)]}, 400, "questions.0.choice.top"),
        ({"temperature": 0}, 400, "temperature"),
        ({"input": 3}, 400, "input.str"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            400,
            "input.list[_Message].0.content.list[_Part].0.type",
        ),
    ],
)
def test_requests_that_are_wrong(
    client: TestClient, change: dict[str, Any], status: int, param: str
) -> None:
    answer = client.post("/v1/decisions", json=body() | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error" and error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"type": "choice", "criteria": ["a", "b"]}, "criteria"),
        ({"type": "noul", "criteria": {"maybe": "x"}}, "maybe"),
        ({"type": "score", "criteria": {"a": None}}, "criteria"),
        ({"type": "free"}, "noul"),
        ({"type": "choice", "criteria": {"a": None, "a ": None}}, "share the tokens"),
    ],
)
def test_system_one_refuses_the_whole_request(
    client: TestClient, question: dict[str, Any], says: str
) -> None:
    asked = {"state": "x", "questions": {"q": question}}
    answer = client.post("/v1/systemone", json=asked)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_errors_that_come_before_any_question(client: TestClient) -> None:
    def status(answer: Any) -> int:
        assert answer.json()["error"]["message"]
        return int(answer.status_code)

    as_json = {"content-type": "application/json"}
    assert status(client.get("/nothing")) == 404
    assert status(client.get("/v1/decisions")) == 405
    assert status(client.post("/v1/decisions", content=b"{", headers=as_json)) == 400
    # As a page of another site would send it, without asking whether it may.
    assert status(client.post("/v1/decisions", content=b"{}")) == 400
    assert status(client.post("/v1/decisions", json=body(text="x" * 2**20))) == 413
    assert status(client.post("/v1/decisions", content=iter([b"{}"]))) == 411


def test_the_key(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(decision_app(model, key="geheim é")) as client:
        for given in ({}, {"authorization": "Bearer geheim"}):
            answer = client.get("/v1/models", headers=given)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/health").json() == {"status": "ok"}
    with asking(model, key="mine") as known:
        assert [one.id for one in known.models.list()] == [model.name]
    monkeypatch.delenv("HOW_SURE_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "example.com"):
        with pytest.raises(ValueError, match=f"not '{host}', unless HOW_SURE_API_KEY"):
            serve(model, host=host)


class Gate:
    """Lets the thread that scores wait, and counts what it scores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.begun = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        score = decision_server.label_logprobs

        def gated(model: Any, prompts: Any, *args: Any, **options: Any) -> np.ndarray:
            self.begun.set()
            assert self.opened.wait(30)
            self.sizes.append(len(prompts))
            return score(model, prompts, *args, **options)

        monkeypatch.setattr(decision_server, "label_logprobs", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_batches_give_the_numbers_that_each_gives_alone(
    client: TestClient, model: LanguageModel, gate: Gate
) -> None:
    texts = [f"{text} {at}" for at in range(10) for text in TEXTS]
    texts[7] = "a film " * 2000  # must not spoil its neighbours

    def ask(text: str) -> dict[str, Any]:
        asked = body(choice(["yes", "no"]), text=text)
        return client.post("/v1/decisions", json=asked).json()["answers"][0]

    with ThreadPoolExecutor(31) as threads:
        first = threads.submit(ask, "first")
        assert gate.begun.wait(30)
        others = [threads.submit(ask, text) for text in texts]
        gate.opened.set()
        first.result(60)
        answers = [one.result(60) for one in others]
    assert sum(gate.sizes) == 30 and len(gate.sizes) < 15
    assert answers.pop(7)["type"] == "refusal"
    del texts[7]
    classifier = LLMClassifier(
        model, ["yes", "no"], instruction="Which?\n- yes\n- no", cache=False
    )
    right = classifier.predict_proba(texts)
    for answer, row in zip(answers, right, strict=True):
        shares = [one["probability"] for one in answer["probabilities"]]
        assert shares == pytest.approx(row[::-1].tolist(), abs=1e-6)


def test_a_question_that_is_being_answered_is_not_computed_again(
    model: LanguageModel, gate: Gate
) -> None:
    with TestClient(decision_app(model, most_waiting=1)) as client:
        with ThreadPoolExecutor(8) as threads:
            same = body(choice(["yes", "no"]), choice(["yes", "no"]))
            asked = [
                threads.submit(client.post, "/v1/decisions", json=same)
                for _ in range(8)
            ]
            assert gate.begun.wait(30)
            # There is room for one question: others have to come again.
            other = client.post("/v1/decisions", json=body(text="another"))
            assert other.status_code == 429 and other.headers["retry-after"] == "1"
            assert other.json()["error"]["code"] == "rate_limit_exceeded"
            gate.opened.set()
            answers = [one.result(60).json()["answers"] for one in asked]
        # Those that came too late for the first are alike, too.
        assert all(answer == answers[0] for answer in answers)
        assert answers[0][0] == answers[0][1]
        assert len(gate.sizes) < 8
        assert client.post("/v1/decisions", json=body(text="another")).is_success


def test_a_network_that_overflows_is_an_error_and_no_number(
    make_tiny: Callable[..., LanguageModel],
) -> None:
    model = make_tiny("llama")
    with torch.no_grad():
        model.network.get_output_embeddings().weight.fill_(torch.nan)
    app = decision_app(model)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/v1/decisions", json=body())
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "NaN" in answer.json()["error"]["message"]
        assert client.get("/health").is_success


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy on words, of texts that name fruit or tools."""
    rng = np.random.default_rng(0)
    words = {
        "fruit": "apple pear plum fig".split(),
        "tool": "saw drill axe file".split(),
    }
    labels = rng.choice(list(words), 200)
    texts = [f"{' '.join(rng.choice(words[x], 2))} {at}" for at, x in enumerate(labels)]
    folder = tmp_path_factory.mktemp("mine")
    rows = pd.DataFrame({"text": texts, "label": labels})
    rows.to_csv(folder / "mine.csv", index=False)
    table = read_table(folder / "mine.csv", text="text", label="label")
    decision = deciding.decide(deciding.plan(table, candidates=[WORDS]))
    OwnPolicy.of(decision, table).save(folder / "mine.policy.json")
    return folder / "mine.policy.json"


def test_a_policy_decides(model: LanguageModel, mine: Path, tmp_path: Path) -> None:
    policy = OwnPolicy.load(mine)
    texts = ["apple pear 1000", "saw", "nothing that is known"]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "new.csv", index=False)
    right, _ = policy.apply(read_table(tmp_path / "new.csv", text="text", needs=()))
    assert set(right["action"]) == {"accept", "review"}
    with asking(model, {"mine": policy}) as client:
        assert [one.id for one in client.models.list()] == ["mine", model.name]
        for text, row in zip(texts, right.to_dict("records"), strict=True):
            asked = choice(["tool", "fruit"], "whatever")
            answer = client.decisions.create(
                model="mine", input=text, questions=[asked]
            ).answers[0]
            assert answer.choice == row["prediction"]
            assert answer.calibrated_confidence == pytest.approx(row["confidence"])
            assert shares_of(answer)[answer.choice] == pytest.approx(row["confidence"])
            assert sum(shares_of(answer).values()) == pytest.approx(1)
            assert (answer.action, answer.policy) == (row["action"], policy.rule)
            assert answer.label_mass is None
        for labels in (["fruit", "tool", "other"], ["yes", "no"]):
            with pytest.raises(openai.BadRequestError, match="labels of mine"):
                client.decisions.create(
                    model="mine", input="x", questions=[choice(labels)]
                )
        empty: Any = client.decisions.create(
            model="mine", input=" ", questions=[choice(["tool", "fruit"])]
        )
        assert empty.answers[0].type == "refusal"
        # Asked as itself, the model knows of no policy.
        plain: Any = client.decisions.create(
            model=model.name, input="saw", questions=[choice(["tool", "fruit"])]
        )
        assert not hasattr(plain.answers[0], "policy")


def test_a_policy_that_reads_no_text_is_not_served(
    model: LanguageModel, mine: Path
) -> None:
    policy = OwnPolicy.load(mine)
    given = OwnPolicy(
        None, policy.policy, "", "", ("p", "c"), policy.certified, (), frozenset()
    )
    with pytest.raises(ValueError, match="'c': it reads no text"):
        decision_app(model, {"given": given})
    with pytest.raises(ValueError, match="must not be named like the model"):
        decision_app(model, {model.name: policy})


def test_the_command(model: LanguageModel, tmp_path: Path) -> None:
    """In a process of its own, as clients come, go away, and stay on the line."""
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-m", "helpers", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOW_SURE_API_KEY": "mine"},
    )
    lines: list[socket.socket] = []
    try:
        assert process.stderr
        told = iter(process.stderr.readline, "")
        running = next(line for line in told if "running on" in line)
        port = int(re.findall(r"127.0.0.1:(\d+)", running)[0])
        for at in range(200):  # they say that they will say something, or nothing
            lines.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            if at % 2:
                lines[-1].sendall(b"POST /v1/decisions HTTP/1.1\r\nHost: x\r\n")
        url = f"http://127.0.0.1:{port}/v1"
        asks = (
            "import openai; c = openai.OpenAI(api_key='mine', base_url=%r); print(1, "
        )
        asks += "flush=True); [c.decisions.create(model=%r, input=str(at), questions="
        asks += "[{'type': 'predicate', 'instructions': 'Q'}]) for at in range(10**6)]"
        other = subprocess.Popen(
            [sys.executable, "-c", asks % (url, str(tmp_path))], stdout=subprocess.PIPE
        )
        assert other.stdout and other.stdout.readline()
        client = openai.OpenAI(api_key="mine", base_url=url, max_retries=0)
        questions: Any = [choice(["yes", "no"])]
        how: Any = {"model": str(tmp_path), "questions": questions, "timeout": 60}
        client.decisions.create(input="a film", **how)
        other.kill()
        other.communicate()
        answer: Any = client.decisions.create(input="a film", **how).answers[0]
        right = expected(
            model, ["yes", "no"], "a film", instruction="Which?\n- yes\n- no"
        )
        assert shares_of(answer)["yes"] == pytest.approx(right["yes"], abs=1e-6)
        for line in lines:
            line.close()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
        assert "Application shutdown complete" in said and "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "helpers.decision_server")
    monkeypatch.delattr("helpers.decision_server")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit) as stopped:
        main(["serve"])
    assert stopped.value.code == 2
    assert "pip install 'how-sure[serve]'" in capsys.readouterr().err
