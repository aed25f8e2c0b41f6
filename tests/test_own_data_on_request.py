"""Candidates on request: a hosted model that is asked, an adapter that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hosted_model import ModelServer
from pytest_httpserver import HTTPServer
from safetensors.torch import load_file, save_file

from helpers.hosted import HostedClassifier, RequestSettings
from helpers.logistic import grouped_folds
from helpers.models import LanguageModel
from helpers.own_data import deciding
from helpers.own_data.candidates import HOSTED, TUNED, WORDS
from helpers.own_data.cli import main
from helpers.own_data.on_request import HostedAnswer, TunedModel, from_dict
from helpers.own_data.table import OwnTable, Rows

FRUIT = ("apple", "pear")
HERE = ("--model", "m", "--url", "http://127.0.0.1:9")


def knows(prompt: str, written: str) -> dict[str, float]:
    """A model that knows fruit, is surer of apples, and never heard of a text."""
    text = json.loads(prompt)[-1]["content"]
    if "riddle" in text:
        return {"x": 1.0}
    p = 0.9 if "apple" in text else 0.8 if "pear" in text else 0.05
    return {"fruit": p, "tool": 0.98 - p, "x": 0.02}


@pytest.fixture
def rows() -> pd.DataFrame:
    """80 labelled texts and 10 others, of which counting words learns nothing."""
    rng = np.random.default_rng(0)
    words = rng.choice(["apple", "pear", "saw", "drill"], 90)
    labels = np.where(np.isin(words, FRUIT), "fruit", "tool").astype(object)
    labels[80:] = ""
    texts = [f"{word}{at}" for at, word in enumerate(words)]
    return pd.DataFrame({"text": texts, "label": labels})


@pytest.fixture
def mine(rows: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.fixture
def door(httpserver: HTTPServer) -> tuple[ModelServer, str]:
    server = ModelServer(knows, names=["m-2026-11-01"])
    return server, server.serve(httpserver)


def texts_of(server: ModelServer) -> list[str]:
    """What was asked about."""
    said = [body["messages"][-1]["content"] for body in server.asked]
    return [text.split("Text: ")[1].split("\n")[0] for text in said]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def test_a_hosted_model_is_chosen_and_asked_once_about_each_text(
    mine: Path, door: tuple[ModelServer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = door
    asked = ("decide", mine, "--use", "words", "--url", url, "--model", "m")
    asked = (*asked, "--risk", 0.2, "--json")
    code, out, err = run(capsys, *asked, "--dry-run", "--prices", "1,2")
    assert code == 0 and not server.asked
    costs = json.loads(out)["payments"]
    assert len(costs) == 1 and "is asked about 32 texts, and about 50 more" in costs[0]
    assert "dollars" in costs[0] and "leave this machine" in err
    code, out, _ = run(capsys, *asked)
    found = json.loads(out)
    assert code == 0 and found["chosen"] == HOSTED
    assert found["candidates"][HOSTED]["accuracy"] == 1
    assert found["to_come_accepted"] == 10
    texts = pd.read_csv(mine)["text"]
    shown = {turn["content"] for turn in server.asked[0]["messages"][:-1]}
    is_shown = texts.map(lambda text: any(f"Text: {text}\n" in one for one in shown))
    assert is_shown.sum() == 8
    assert sorted(texts_of(server)) == sorted(texts[~is_shown])
    assert run(capsys, *asked)[0] == 0
    assert len(server.asked) == 82  # all is known by now


@pytest.mark.parametrize("first", ["m", "m-2026-11-01"])
def test_a_policy_asks_the_same_door_and_no_other_model(
    mine: Path,
    door: tuple[ModelServer, str],
    first: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, url = door
    server.names = [first]
    asked = ("decide", mine, "--use", "words", "--url", url, "--model", "m")
    assert run(capsys, *asked, "--risk", 0.2)[0] == 0
    policy, new = mine.with_name("mine.policy.json"), mine.with_name("new.csv")
    rows = pd.DataFrame({"text": ["pear one", "saw two", "riddle three"]})
    rows.to_csv(new, index=False)
    before = len(server.asked)
    assert run(capsys, "apply", policy, new)[0] == 0
    assert sorted(texts_of(server)[before:]) == ["pear one", "riddle three", "saw two"]
    decided = pd.read_csv(mine.with_name("new.decisions.csv"))
    assert decided["prediction"].tolist()[:2] == ["fruit", "tool"]
    assert decided["action"].tolist() == ["accept", "accept", "review"]
    assert decided["confidence"].isna().tolist() == [False, False, True]
    server.names = ["m-2027-01-01"]
    rows.assign(text=rows["text"] + " more").to_csv(new, index=False)
    code, _, err = run(capsys, "apply", policy, new)
    assert code == 2 and f"answered_by '{first}'" in err and "'m-2027-01-01'" in err


def test_what_has_no_answer_judges_nothing_and_is_left_to_a_person(
    rows: pd.DataFrame, door: tuple[ModelServer, str]
) -> None:
    server, url = door
    server.names = ["m"]
    rows.loc[::9, "text"] = [f"riddle {at}" for at in range(10)]
    table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    made = deciding.plan(
        table, risk=0.2, candidates=[WORDS], hosted=HostedClassifier(url, "m")
    )
    decision = deciding.decide(made)
    assert decision.chosen == HOSTED and decision.to_come is not None
    riddles = rows.index[rows["text"].str.startswith("riddle")]
    of = {name: len(riddles.intersection(part)) for name, part in vars(made).items()
          if isinstance(part, pd.Index)}  # fmt: skip
    assert of["chosen_on"] and of["certified_on"]
    counts = decision.counts
    assert counts["chosen_on"] - counts["compared_on"] == of["chosen_on"]
    assert len(decision.judged) == len(made.certified_on) - of["certified_on"]
    assert not riddles.isin(decision.judged.index).any()
    assert any("have no answer that can be read" in note for note in decision.notes)
    lost = decision.to_come.loc[riddles.intersection(decision.to_come.index)]
    assert len(lost) and (lost["action"] == "review").all()
    assert lost["confidence"].isna().all()


def test_two_models_behind_one_door_are_left_out(
    rows: pd.DataFrame, door: tuple[ModelServer, str]
) -> None:
    server, url = door
    server.names = ["one", "two"]
    table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    made = deciding.plan(
        table, risk=0.2, candidates=[WORDS], hosted=HostedClassifier(url, "m")
    )
    decision = deciding.decide(made)
    assert decision.chosen == WORDS
    assert any("one and two answered" in note for note in decision.notes)


def test_a_budget_covers_all_that_is_asked(
    mine: Path, door: tuple[ModelServer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = door
    server.names = ["m"]
    asked = ("decide", mine, "--use", "words", "--url", url, "--model", "m")
    # A dollar for each token that is written; the stub writes as many as it may.
    asked = (*asked, "--risk", 0.2, "--prices", "0,1000000", "--budget")
    answered = []
    for budget in (40, 120):
        code, out, err = run(capsys, *asked, budget)
        assert code == 2 and f"the budget of {budget}" in err and not out
        assert not mine.with_name("mine.decisions.csv").exists()
        answered.append(len(server.asked))
        assert answered[-1] == budget // server.asked[0]["max_completion_tokens"]
    assert answered[0] < 32 < answered[1] < 82  # to choose by 32, the others afterwards
    assert len(set(texts_of(server))) == len(server.asked)
    assert run(capsys, *asked, 1e6)[0] == 0
    assert len(server.asked) == 82


def test_a_hosted_model_is_stored_as_it_is_asked(door: tuple[ModelServer, str]) -> None:
    asked = HostedClassifier(
        door[1],
        "m",
        prompt="{text} is a",
        family="exact",
        settings=RequestSettings(options={"seed": 1}),
    )
    made = HostedAnswer(["tool", "fruit"], [("apple", "fruit")], asked)
    stored = json.loads(json.dumps(made.to_dict()))
    again = from_dict(stored)
    assert isinstance(again, HostedAnswer)
    assert (
        again.source() == made.source()
        and json.loads(json.dumps(again.to_dict())) == stored
    )
    texts = ["apple 1", "saw 2"]
    np.testing.assert_array_equal(again.predict_proba(texts), made.predict_proba(texts))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://127.0.0.1:9/v1"], "--url needs --model"),
        (["--budget", 1], "--prices and --budget are for a hosted model"),
        ([*HERE, "--prices", "1"], "--prices must be two numbers"),
        ([*HERE, "--budget", 1], "budget needs prices"),
        (["--model", "m", "--url", "http://example.org"], "an address with https"),
    ],
)
def test_senseless_requests_are_named(
    mine: Path, capsys: pytest.CaptureFixture[str], arguments: list[Any], said: str
) -> None:
    code, out, err = run(capsys, "decide", mine, "--use", "words", *arguments)
    assert code == 2 and said in err and not out
    assert [path.name for path in mine.parent.iterdir()] == ["mine.csv"]


# Fine-tuned ---------------------------------------------------------------------------


@pytest.fixture
def network(tiny_gpt2: LanguageModel, tmp_path: Path) -> Path:
    """A folder with a tiny network that has learned nothing."""
    folder = tmp_path / "network"
    tiny_gpt2.network.save_pretrained(folder)
    tiny_gpt2.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def yes_or_no(tmp_path: Path) -> Path:
    """200 labelled texts and 10 others, in pieces of words that counting cannot see."""
    kinds = np.random.default_rng(0).choice(["yes", "no"], 210)
    texts = [f"{kind}{at}" for at, kind in enumerate(kinds)]
    labels = np.where(kinds == "yes", "fruit", "tool").astype(object)
    labels[200:] = ""
    path = tmp_path / "mine.csv"
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


def test_an_adapter_goes_with_its_policy_and_no_other_is_taken(
    yes_or_no: Path, network: Path, own_scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = yes_or_no
    asked = ("decide", mine, "--use", "words", "--tune", "--model", network, "--json")
    code, out, err = run(capsys, *asked, "--dry-run")
    assert code == 0 and json.loads(out)["seconds"][TUNED]["compared"] > 0
    assert f"{TUNED}: about" in err and not (own_scores / "adapters").exists()
    code, out, err = run(capsys, *asked)
    found = json.loads(out)
    assert code == 0 and found["chosen"] == TUNED
    assert found["counts"]["chosen_on"] == 100
    assert found["counts"]["compared_on"] == 35
    [note] = [note for note in found["notes"] if note.startswith(TUNED)]
    assert "trained on 50 rows" in note and "by 15 others, and the 35 left" in note
    rows = pd.read_csv(mine.with_name("mine.decisions.csv"), keep_default_na=False)
    assert note in mine.with_name("mine.decisions.html").read_text()

    policy, adapter = (
        mine.with_name("mine.policy.json"),
        mine.with_name("mine.policy.adapter"),
    )
    new = mine.with_name("new.csv")
    rows[200:][["text"]].to_csv(new, index=False)
    assert run(capsys, "apply", policy, new)[0] == 0
    again = pd.read_csv(mine.with_name("new.decisions.csv"))
    assert again["action"].tolist() == rows["action"][200:].tolist()
    expected = rows["confidence"][200:].astype(float)
    np.testing.assert_allclose(again["confidence"], expected, atol=1e-5)

    weights = adapter / "adapter_model.safetensors"
    kept = load_file(weights)
    save_file({name: 2 * weight for name, weight in kept.items()}, weights)
    code, _, err = run(capsys, "apply", policy, new)
    assert code == 2 and "The policy is for the adapter" in err
    adapter.rename(adapter.with_name("elsewhere"))
    code, _, err = run(capsys, "apply", policy, new)
    assert code == 2 and "folder must hold a finished training" in err


def test_an_adapter_is_judged_on_rows_that_it_was_not_trained_on(
    yes_or_no: Path, tiny_gpt2: LanguageModel
) -> None:
    rows = pd.read_csv(yes_or_no)[:60]
    truth = rows["label"].to_numpy(str)
    groups = np.arange(60) // 2
    folds = grouped_folds(truth, groups, 5)
    made = TunedModel(["fruit", "tool"], tiny_gpt2)
    texts = rows["text"].tolist()
    given = Rows(texts, truth, groups)
    found = made.held_out_proba(given, made.labels, folds)
    judged = np.isfinite(found).all(axis=1)
    assert np.isnan(found[~judged]).all() and 15 < judged.sum() < 27
    assert set(groups[judged]).isdisjoint(groups[~judged])
    made.fit(given)  # it stays as it was calibrated
    np.testing.assert_array_equal(made.predict_proba(texts)[judged], found[judged])
