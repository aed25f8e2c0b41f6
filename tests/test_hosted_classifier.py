"""Rules of HostedClassifier, against servers of models that are written down."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hosted_model import (
    END,
    Model,
    ModelServer,
    changed,
    hosted,
    random_model,
    true_probability,
    written_model,
)
from openai import AsyncOpenAI
from pytest_httpserver import HTTPServer
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from statsmodels.stats.proportion import proportion_confint
from werkzeug import Response

from helpers.classifier import LLMClassifier, OffLabelWarning
from helpers.decisions import Policy
from helpers.hosted import BudgetExceeded, HostedClassifier, Journal, RunStopped
from helpers.models import LanguageModel

KEY = "sk-test-0123456789abcdef"
LABELS = ["positive", "negative", "negligible"]
TEXTS = ["A joy.", "A bore.", "A film."]
# "neg" is shared; the answer itself goes by "positive", in two tokens.
SHARED = written_model(
    {
        "": {"pos": 0.5, "neg": 0.3, "x": 0.2},
        "pos": {"itive": 0.9, "e": 0.1},
        "neg": {"ative": 0.6, "ligible": 0.3, "!": 0.1},
    }
)
YES_NO = written_model({"": {"yes": 0.7, "no": 0.2, "x": 0.1}})

Make = Callable[..., tuple[HostedClassifier, ModelServer]]
Answering = Callable[..., HostedClassifier]


@pytest.fixture
def make(httpserver: HTTPServer, tmp_path: Path) -> Make:
    """A classifier of a model behind a server."""

    def made(model: Model, how: dict[str, Any] | None = None, **options: Any) -> Any:
        server = ModelServer(model, **(how or {}))
        client = AsyncOpenAI(api_key=KEY, base_url=server.serve(httpserver))
        settings = {"labels": ["yes", "no"] if model is YES_NO else LABELS}
        settings |= {"journal": tmp_path / "answers.sqlite", "family": "exact"}
        settings |= {"retries": 0, "tolerance": 0.0, **options}
        return hosted(client, "m", **settings), server

    return made


@pytest.fixture
def answering(httpserver: HTTPServer, tmp_path: Path) -> Answering:
    """A classifier of a server that answers a text with what ``say`` makes of it."""

    def made(say: Callable[[str], dict[str, Any]], **options: Any) -> Any:
        def handler(request: Any) -> Response:
            said = say(json.loads(request.data)["messages"][-1]["content"])
            return Response(json.dumps(said), said.get("status", 200))

        httpserver.expect_request("/v1/chat/completions").respond_with_handler(handler)
        settings = {"labels": ["yes", "no"], "prompt": "{text}", "family": "exact"}
        settings |= {"failed": "open", "journal": tmp_path / "j.sqlite", **options}
        return hosted(httpserver.url_for("/v1"), **settings)

    return made


def truth_of(
    found: HostedClassifier, model: Model, text: str, ends: tuple[str, ...] = ()
) -> np.ndarray:
    """Probabilities of the labels in all spellings of the family "case"."""
    asked = found.render(text)
    prompt = asked if isinstance(asked, str) else json.dumps(asked)
    forms = {c: (c, c.capitalize(), c.upper()) for c in found.classes_}
    texts = {c: [lead + f for lead in ("", " ") for f in forms[c]] for c in forms}
    return np.array([true_probability(model, prompt, texts[c], ends) for c in texts])


# Probabilities -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have no confidence")
@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("terminator", [None, "auto"])
def test_truth_lies_in_the_interval(make: Make, k: int, terminator: Any) -> None:
    model = random_model(k)
    options = {"top_logprobs": k, "terminator": terminator, "max_calls_per_text": 30}
    found, _ = make(model, protocol="completions", family="case", **options)
    table = found.score_table(TEXTS)
    interval = found.predict_interval(TEXTS)
    ends = ("\n", END) if terminator else ()
    for row, text in enumerate(TEXTS):
        truth = truth_of(found, model, text, ends)
        share = truth / truth.sum()
        assert (interval[row, :, 0] <= share + 1e-9).all()
        assert (share <= interval[row, :, 1] + 1e-9).all()
    shares = found.predict_proba(TEXTS)
    known = ~np.isnan(shares).any(axis=1)
    assert known.tolist() == table["problem"].isna().tolist()
    assert shares[known].sum(axis=1) == pytest.approx(1)
    assert (interval[known, :, 0] <= shares[known]).all()
    assert (shares[known] <= interval[known, :, 1]).all()
    parts = table[["off_list", "unlisted", "unresolved"]].sum(axis=1)
    assert table["off_label"].to_numpy() == pytest.approx(parts.to_numpy())


@pytest.mark.parametrize(
    "flags", [{}, {"continue_final_message": True, "add_generation_prompt": False}]
)
def test_shared_beginnings_by_hand(make: Make, flags: dict[str, bool]) -> None:
    how = {"continues": "flag"} if flags else {}
    found, server = make(SHARED, how, continue_with=flags)
    row = found.score_table(["A film."]).iloc[0]
    assert found.classes_.tolist() == ["negative", "negligible", "positive"]
    shares = row[["p_negative", "p_negligible", "p_positive"]].tolist()
    assert shares == pytest.approx([0.18 / 0.72, 0.09 / 0.72, 0.45 / 0.72])
    assert row["off_list"] == pytest.approx(0.2 + 0.05 + 0.03)
    assert (row["prediction"], row["decided"], row["calls"]) == ("positive", True, 2)
    # The answer told of "pos"; only "neg" had to be asked about.
    first, second = server.asked
    assert first["messages"][-1]["role"] == "user" and not flags.keys() & first.keys()
    assert second["messages"][-1] == {"role": "assistant", "content": "neg"}
    assert flags.items() <= second.items()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"continue_with": {}, "max_calls_per_text": 1},
        {"continue_with": {}, "tolerance": 0.31},
    ],
)
def test_branch_that_nobody_follows_stays_open(make: Make, options: Any) -> None:
    found, server = make(SHARED, **options)
    table = found.score_table(["A film."])
    low, high = found.predict_interval(["A film."])[0].T
    assert low == pytest.approx([0, 0, 0.45 / 0.75])
    assert high == pytest.approx([0.3 / 0.75, 0.3 / 0.75, 1])
    assert table.loc[0, "unresolved"] == pytest.approx(0.3)
    assert found.decided(["A film."]).tolist() == [True]
    assert len(server.asked) == 1


def test_what_only_begins_is_no_prediction(make: Make) -> None:
    model = written_model({"": {"pos": 0.4, "neg": 0.6}, "neg": {"ligible": 1.0}})
    found, _ = make(model, max_calls_per_text=1, labels=["positive", "negative"])
    with pytest.warns(UserWarning, match="1 of 1 texts have no confidence.*is a label"):
        table = found.score_table(["A film."], truth=["positive"])
    assert pd.isna(table.loc[0, "prediction"]) and not table.loc[0, "decided"]
    assert table.loc[0, ["p_negative", "p_positive", "confidence"]].isna().all()
    assert table.loc[0, ["lower_positive", "upper_positive"]].tolist() == [0, 1]
    assert table["correct"].isna().all()


def test_labels_of_one_token_take_one_call_for_one_token(make: Make) -> None:
    found, server = make(YES_NO, continue_with={})
    shares = found.predict_proba([*TEXTS, "A joy."])
    assert shares == pytest.approx(np.tile([0.2 / 0.9, 0.7 / 0.9], (4, 1)))
    assert len(server.asked) == 3
    assert {body["max_completion_tokens"] for body in server.asked} == {1}
    assert found.predict_proba([]).shape == (0, 2)
    assert found.predict_interval([]).shape == (0, 2, 2)
    assert found.score_table([]).shape[0] == 0 and len(server.asked) == 3
    # What is not listed is impossible, as far as the point goes.
    changed(found, labels=["yes", "maybe"])
    assert found.predict_log_proba(["A film."]).tolist() == [[-math.inf, 0.0]]


def test_terminator_of_the_answer_given_costs_nothing(make: Make) -> None:
    first = {" yes": 0.7, " no": 0.2, " not": 0.1}
    after_yes = {"\n": 0.5, END: 0.3, "!": 0.2}
    model = written_model({"": first, " yes": after_yes, " no": {"\n\n": 1.0}})
    found, server = make(model, protocol="completions", labels=["yes", "no"])
    table = found.score_table(["A film."])
    assert table.loc[0, "p_yes"] == pytest.approx(0.56 / 0.76)
    assert table.loc[0, "off_label"] == pytest.approx(0.24)
    assert [body["prompt"][-5:] for body in server.asked] == ["abel:", "l: no"]
    assert [body["max_tokens"] for body in server.asked] == [2, 1]


def test_values_after_temperature_are_noticed(make: Make) -> None:
    texts = [f"film {n}" for n in range(5)]
    found, _ = make(YES_NO, {"after_temperature": True})
    with pytest.warns(UserWarning, match="temperature=1"):
        found.predict(texts)
    changed(found, temperature=1.0)
    assert found.predict_proba(texts)[0] == pytest.approx([0.2 / 0.9, 0.7 / 0.9])


def test_same_model_hosted_and_here(make: Make, embedded: LanguageModel) -> None:
    def model(prompt: str, written: str) -> dict[str, float]:
        chances = np.exp(embedded.next_logprobs(prompt + written))
        best = np.argsort(-chances)[:100].tolist()
        texts = embedded.token_texts(best)
        return dict(zip(texts, chances[best].tolist(), strict=True))

    labels = ["positive", "negative", "neither of them"]
    options: dict[str, Any] = {"labels": labels, "prompt": "Review: {text}\nSentiment:"}
    options["examples"] = list(zip(TEXTS, labels, strict=True))
    texts = ["Dull and far too long."]
    here = LLMClassifier(embedded, **options)
    there, server = make(model, protocol="completions", tolerance=1e-4, **options)
    assert there.render("A film.") == here.render("A film.")
    assert there.classes_.tolist() == here.classes_.tolist()
    raw, table = np.exp(here.raw_log_proba(texts)), there.score_table(texts)
    known = there.predict_proba(texts) * (1 - table[["off_label"]].to_numpy())
    assert known == pytest.approx(raw, abs=2e-3)
    interval, shares = there.predict_interval(texts), here.predict_proba(texts)
    assert (interval[..., 0] <= shares + 1e-4).all()
    assert (shares <= interval[..., 1] + 1e-4).all()
    # So small a model leaves a tenth to line breaks and ends that are not listed.
    assert np.ptp(interval, axis=2).max() < 0.15 and table["decided"].all()
    assert len(server.asked) <= 8


def test_responses_demand_sixteen_tokens(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    top = [{"token": t, "logprob": math.log(p)} for t, p in (("yes", 0.7), ("no", 0.2))]
    logprobs = [{**top[0], "top_logprobs": top}]
    content = {"type": "output_text", "text": "yes", "logprobs": logprobs}
    output = [{"type": "message", "content": [content]}]
    httpserver.expect_request("/v1/responses").respond_with_json(
        {"status": "completed", "output": output}
    )
    options = {"protocol": "responses", "family": "exact", "labels": ["yes", "no"]}
    url, path = httpserver.url_for("/v1"), tmp_path / "j.sqlite"
    table = hosted(url, journal=path, **options).score_table(["A film."])
    assert table.loc[0, "p_yes"] == pytest.approx(7 / 9)
    assert table.loc[0, "unlisted"] == pytest.approx(0.1)
    sent = json.loads(httpserver.log[0][0].data)
    assert sent["max_output_tokens"] == 16
    assert [turn["role"] for turn in sent["input"]] == ["system", "user"]


# The prompt --------------------------------------------------------------------------


def test_plain_prompt_is_that_of_the_local_classifier(tiny_llama: Any) -> None:
    options: dict[str, Any] = {"labels": ["good", "bad"], "instruction": "Be brief."}
    options["prompt"] = "Review: {text}\nSentiment: "
    options["examples"] = [("A joy.", "good"), ("A bore.", "bad")]
    there = hosted("http://x/v1", "m", protocol="completions", **options)
    here = LLMClassifier(tiny_llama, **options)
    assert there.render("A film.") == here.render("A film.")


def test_chat_prompt_has_examples_as_turns() -> None:
    examples = [("A joy.", "good")]
    found = hosted("http://x/v1", "m", ["good", "bad"], "Review: {text}", examples)
    assert [turn["content"] for turn in found.render("A film.")] == [
        *("Review: A joy.", "good", "Review: A film.")
    ]
    first = hosted("http://x/v1", "m", ["good", "bad"]).render("A film.")[0]
    assert first["content"] == "Classify the text as one of: bad, good."
    assert first["role"] == "system"


# The journal and money ---------------------------------------------------------------


def test_what_is_in_the_journal_is_not_asked(make: Make) -> None:
    found, server = make(SHARED, continue_with={})
    found.predict(TEXTS[:1])
    assert len(server.asked) == 2
    first = found.score_table(TEXTS)
    assert len(server.asked) == 6
    pd.testing.assert_frame_equal(clone(found).score_table(TEXTS), first)
    assert found.predict(TEXTS[::-1]).tolist() == ["positive"] * 3
    assert len(server.asked) == 6


def test_journal_open_or_in_cache(make: Make, tmp_path: Path, own_scores: Path) -> None:
    with Journal(tmp_path / "mine.sqlite") as journal:
        found, server = make(YES_NO, journal=journal)
        found.predict(TEXTS)
        clone(found).predict(TEXTS)
        assert journal.usage()["answers"].tolist() == [3] and len(server.asked) == 3
    changed(found, journal=None).predict(TEXTS)
    assert (own_scores / "hosted.sqlite").exists()


def test_budget_holds_over_all_rounds(make: Make) -> None:
    # All first calls cost 400 and may cost some hundred more; the second as much.
    options = {"prices": {"m": (1e6, 0.0)}, "budget": 860.0, "concurrency": 1}
    found, server = make(SHARED, continue_with={}, **options)
    texts = [f"film {n}" for n in range(40)]
    with pytest.raises(BudgetExceeded):
        found.predict(texts)
    assert 40 < (n := len(server.asked)) < 76
    with pytest.raises(BudgetExceeded):
        found.predict(texts)
    assert len(server.asked) == n


@pytest.mark.filterwarnings("ignore:.*have no confidence")
def test_budget_counts_later_rounds_of_earlier_calls(answering: Answering) -> None:
    # Of 3,000, a film takes 600 in two rounds, a lost one 300 each time it is asked.
    usage = {"usage": {"prompt_tokens": 300, "completion_tokens": 0}}
    asked = []

    def say(text: str) -> dict[str, Any]:
        asked.append(text)
        if "lost" in text:
            return {"choices": [], **usage}
        if text == "ye":
            return listing("s", s=-0.01) | usage
        return listing("ye", ye=math.log(0.6), no=math.log(0.39)) | usage

    options = {"prices": {"m": (1e6, 0.0)}, "budget": 3000.0, "continue_with": {}}
    for _ in range(4):
        found = answering(say, concurrency=1, retries=0, **options)
        with suppress(BudgetExceeded):
            found.predict_proba([*TEXTS, "lost 1", "lost 2"])
    assert 6 < len(asked) <= 10


def test_most_probability_on_no_label_is_said(make: Make) -> None:
    loose = written_model({"": {"yes": 0.2, "no": 0.1, "well": 0.7}})
    found, _ = make(loose, labels=["yes", "no"], prompt="{text}\nIs it good (yes/no)?")
    says = r"in 3 of 3 texts.*good \(yes/no\).*begins with 'well'"
    with pytest.warns(OffLabelWarning, match=says) as said:
        found.predict(TEXTS)
    assert said[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        found.predict(TEXTS)  # said once a fit
    found.set_params(examples=[(TEXTS[0], "yes")])
    with pytest.warns(UserWarning, match="1 of 3 texts are examples"):
        p = found.predict_proba(TEXTS)
    assert p.fitted_on.tolist() == [True, False, False]


# What goes wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("hides", ["silently", "loudly"])
def test_hidden_log_probabilities_are_an_error(make: Make, hides: str) -> None:
    found, server = make(YES_NO, {"hides": hides})
    with pytest.raises(ValueError, match="'sampling'.*'self-report'"):
        found.predict(TEXTS)
    assert len(server.asked) == 1


@pytest.mark.parametrize("hides", ["silently", "loudly"])
def test_sampling_counts_answers(make: Make, hides: str) -> None:
    found, server = make(YES_NO, {"hides": hides}, fallback="sampling", draws=20)
    table = found.score_table(TEXTS)
    assert len(server.asked) == 1 + 3 * 20
    drawn = server.asked[1:]
    assert all(body["temperature"] == 1 and "logprobs" not in body for body in drawn)
    assert table["calls"].tolist() == [20] * 3
    n = 20 * (1 - table["off_label"])
    assert np.allclose(n * table["p_yes"], np.round(n * table["p_yes"]))
    assert table["p_yes"].between(0.4, 0.99).all() and table["off_label"].any()
    assert (table["lower_yes"] < table["p_yes"]).all()
    assert (table["p_yes"] < table["upper_yes"]).all()
    sent = len(server.asked)
    assert found.decided(TEXTS).dtype == bool
    # A server that refuses is asked again whether it still does.
    assert len(server.asked) - sent == (hides == "loudly")


@pytest.mark.parametrize("samples", [True, False])
def test_answers_all_the_same_are_no_agreement(make: Make, samples: bool) -> None:
    how = {"hides": "silently", "samples": samples}
    asked = {"fallback": "sampling", "draws": 6, "options": {"seed": 3}}
    found, server = make(YES_NO, how, **asked)
    texts = [f"Film {at}." for at in range(5)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sure = found.predict_proba(texts).max(axis=1) == 1
    assert any("ignores temp" in str(w.message) for w in said) == (not samples)
    assert sure.all() == (not samples)
    # Draws do not share a seed.
    seeds = [body["seed"] for body in server.asked[1:]]
    assert sorted(seeds) == sorted([*range(3, 9)] * 5)


def test_self_report_asks_for_label_and_confidence(make: Make) -> None:
    def model(prompt: str, written: str) -> dict[str, float]:
        if written:
            return {END: 1.0}
        if "How sure" not in prompt:
            return {"maybe" if "bore" in prompt else "yes": 1.0}
        return {"80": 1.0} if "joy" in prompt else {"a fish": 1.0}

    asked = {"labels": ["yes", "no", "unsure"], "fallback": "self-report"}
    found, _ = make(model, {"hides": "silently"}, **asked)
    with pytest.warns(UserWarning, match="2 of 3 texts have no confidence"):
        table = found.score_table(TEXTS)
    for label, p in (("yes", 0.8), ("no", 0.1), ("unsure", 0.1)):  # it shares the rest
        expected = pytest.approx([p, np.nan, np.nan], nan_ok=True)
        assert table[f"p_{label}"].tolist() == expected
    assert table["prediction"].fillna("none").tolist() == ["yes", "none", "yes"]
    assert table["confidence"].isna().tolist() == [False, True, True]
    assert table["lower_yes"].tolist() == [0] * 3
    assert table["upper_yes"].tolist() == [1] * 3
    assert table["calls"].tolist() == [2, 1, 2] and not table["decided"].any()
    good, no_label, no_number = table["problem"]
    assert good is None
    assert "no label: 'maybe'" in no_label and "unreadable" in no_number


@pytest.mark.parametrize(("options", "limit"), [(None, 8), ({"max_tokens": 30}, 30)])
def test_self_report_keeps_the_users_limit(
    make: Make, options: dict[str, Any] | None, limit: int
) -> None:
    asked = {"fallback": "self-report", "options": options}
    found, server = make(YES_NO, {"hides": "silently"}, **asked)
    with suppress(ValueError), warnings.catch_warnings(action="ignore"):
        found.predict(TEXTS)
    limits = [
        body["max_completion_tokens"]
        for body in server.asked
        if "How sure" in json.dumps(body["messages"])
    ]
    assert limits == [limit] * 3


def listing(chosen: str, finish: str = "stop", **logprobs: float) -> dict[str, Any]:
    listed = [{"token": text, "logprob": value} for text, value in logprobs.items()]
    entry = {"token": chosen, "logprob": logprobs[chosen], "top_logprobs": listed}
    choice = {"message": {"content": chosen}, "logprobs": {"content": [entry]}}
    return {"choices": [{**choice, "finish_reason": finish}]}


GOOD = listing("yes", yes=math.log(0.7), no=math.log(0.2))
LOST = {
    "failed": {"status": 400, "error": {"message": "no"}},
    "refused": {"choices": [{"message": {"content": None, "refusal": "rather not"}}]},
    "filtered": listing("yes", "content_filter", yes=math.log(0.7)),
    "percent": listing("yes", yes=0.9, no=0.08),
    "ten": listing("yes", yes=math.log10(0.6), no=math.log10(0.4)),
    "nan": listing("yes", yes=math.nan, no=math.nan),
    "hardly": listing("yes", maybe=-18.0, no=-23.0, yes=-25.0),
    "elsewhere": listing("maybe", maybe=math.log(0.9)),
}


@pytest.mark.parametrize("how", LOST)
def test_unusable_answers_have_no_confidence(answering: Answering, how: str) -> None:
    found = answering(lambda text: LOST[how] if "bore" in text else GOOD)
    with pytest.warns(UserWarning, match="1 of 3 texts have no confidence"):
        table = found.score_table(TEXTS, truth=["yes", "no", "yes"])
    assert table["problem"].notna().tolist() == [False, True, False]
    assert table["prediction"].fillna("none").tolist() == ["yes", "none", "yes"]
    lost = table.loc[1, ["p_yes", "p_no", "confidence", "correct"]]
    assert lost.isna().all() and not table.loc[1, "decided"]
    assert table.loc[1, ["lower_yes", "upper_yes"]].tolist() == [0, 1]
    with pytest.warns(UserWarning, match="no confidence"):
        assert found.predict(TEXTS).tolist() == ["yes", None, "yes"]
    # Whatever the ranges are: what is not known is not acted on.
    for threshold in (0.0, 0.5):
        policy = Policy.from_threshold(threshold)
        done = policy.apply(table)["action"].tolist()
        assert done == ["accept", "review", "accept"]
    verified = policy.verify(table, max_risk=0.5).verified[-1]
    assert (verified.n_accepted, verified.n_labels) == (2, 3)


@pytest.mark.parametrize("how", ["percent", "ten", "nan"])
def test_nonsense_in_all_texts_is_an_error(answering: Answering, how: str) -> None:
    found = answering(lambda _: LOST[how], failed="error")
    for call in (found.predict, found.predict_proba, found.score_table):
        with pytest.raises(ValueError, match="make no sense.*each of 3 texts"):
            call(TEXTS)
    with pytest.warns(UserWarning, match="3 of 3 texts have no confidence"):
        assert np.isnan(changed(found, failed=None).predict_proba(TEXTS)).all()


def test_draws_that_failed_are_no_answers(answering: Answering) -> None:
    asked = []

    def say(text: str) -> dict[str, Any]:
        asked.append(text)
        if "bore" in text or len(asked) % 4 == 0:
            return LOST["failed"]
        return {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}

    options = {"fallback": "sampling", "draws": 8, "concurrency": 1}
    found = answering(say, family="case", **options)
    with pytest.warns(UserWarning, match="1 of 2 texts have no confidence"):
        table = found.score_table(["A joy.", "A bore."])
    assert table["off_label"].tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert table.loc[0, "problem"].startswith("2 of 8 draws failed")
    low, _ = proportion_confint(6, 6, method="wilson")
    assert table.loc[0, "lower_yes"] == pytest.approx(low)
    assert table.loc[1, ["p_yes", "prediction"]].isna().all()


def test_failed_request_is_an_error_or_leaves_its_text_open(make: Make) -> None:
    found, _ = make(YES_NO, {"protocols": ("completions",)})
    with pytest.raises(RunStopped, match="1 of 1 requests failed.*journal"):
        found.predict(TEXTS)
    with pytest.warns(UserWarning, match="3 of 3 texts have no confidence"):
        table = changed(found, failed="open").score_table(TEXTS)
    assert table["problem"].notna().all() and not table["decided"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "grpc"}, "protocol must be one of"),
        ({"fallback": "guess"}, "fallback must be one of"),
        ({"failed": "skip"}, "failed must be one of"),
        ({"draws": 0}, "draws must be a whole number"),
        ({"max_calls_per_text": 0}, "max_calls_per_text must be"),
        ({"tolerance": 2}, "tolerance must lie"),
        ({"model": ""}, "model must be a name"),
        ({"client": None}, "client must be given"),
        ({"budget": -1}, "budget must be"),
        ({"prompt": "no slot"}, "prompt must contain"),
        ({"labels": ["a"]}, "at least two"),
        ({"spellings": {"yes": "yep"}}, "spellings of 'yes' must be several"),
        ({"labels": ["no", "not"]}, "begins label"),
        ({"top_logprobs": 21}, "top_logprobs must lie"),
        ({"question": " "}, "question must be a text"),
        ({"terminator": ""}, "terminator must not be empty"),
        ({"terminator": [["\n"]]}, "terminator must not be empty, nor"),
        ({"family": ["exact"]}, "family must be one of"),
        ({"spellings": {"yes": [["y"]]}}, "spellings of 'yes' must be strings"),
    ],
)
def test_senseless_parameter_is_refused(
    make: Make, options: dict[str, Any], message: str
) -> None:
    found, server = make(YES_NO)
    with pytest.raises(ValueError, match=message):
        changed(found, **options).predict(TEXTS)
    assert not server.asked


# What scikit-learn asks for ----------------------------------------------------------


def test_clone_and_parameters_share_the_client_and_hide_the_key(make: Make) -> None:
    found, _ = make(YES_NO, spellings={"yes": ["yes", "y"]})
    twin = clone(found)
    assert twin.client is found.client and twin.get_params() == found.get_params()
    assert twin.spellings == found.spellings and twin.spellings is not found.spellings
    assert is_classifier(found)
    found.predict(TEXTS)
    shown = [found, found.get_params(), found.source(), found.score_table(TEXTS).attrs]
    assert all(KEY not in repr(thing) for thing in shown)
    assert KEY.encode() not in Path(found.journal).read_bytes()


def test_address_alone_will_do(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    url = ModelServer(YES_NO).serve(httpserver)
    found = hosted(url, "m", ["yes", "no"], journal=tmp_path / "j.sqlite")
    assert found.predict(["A film."]).tolist() == ["yes"]
    # The key is OpenAI's, and this is another server.
    assert KEY not in str(httpserver.log[0][0].headers)
    assert KEY not in repr(vars(copy.deepcopy(found)))
    assert copy.deepcopy(found).predict(["A film."]).tolist() == ["yes"]


@pytest.mark.parametrize(
    ("names", "answered"),
    [
        (["m"], None),
        (["m-2026-01-02"], "m-2026-01-02"),
        (["/models/M.gguf"], "/models/M.gguf"),
        (["m-mini"], "m-mini"),
        (["m-2026-01-02", "m-2026-03-04"], "m-2026-01-02, m-2026-03-04"),
        ([None], None),
    ],
)
def test_another_model_than_the_one_asked_is_said_once(
    make: Make, names: list[str], answered: str | None
) -> None:
    found, server = make(YES_NO, concurrency=1)
    server.names = names
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            table = found.score_table(TEXTS)
    warns = len(names) > 1 or names == ["m-mini"]
    assert [str(w.message)[:13] for w in said] == ["'m' was asked"] * warns
    assert table["model"].tolist() == [names[at % len(names)] for at in range(3)]
    assert table.attrs["source"].get("answered_by") == answered
    assert "answered_by" not in clone(found).source()


def test_address_with_a_password_is_refused_and_not_shown() -> None:
    url = "http://me:hunter22@x/v1"
    with pytest.raises(ValueError, match="password") as caught:
        hosted(url, "m")
    with pytest.raises(ValueError, match="password"):
        HostedClassifier().set_params(client=url)
    assert "hunter22" not in str(caught.value)


def test_fit_learns_labels_and_draws_examples(make: Make) -> None:
    found, _ = make(YES_NO, labels=None, examples=2)
    with pytest.raises(NotFittedError, match="draws examples or learns its labels"):
        found.predict(TEXTS)
    found.fit(["a", "b", "c"], ["yes", "no", "yes"])
    assert found.classes_.tolist() == ["no", "yes"]
    assert sorted(label for _, label in found.examples_) == ["no", "yes"]
    assert found.predict(["A film."]).tolist() == ["yes"]


def test_source_tells_what_changes_the_probabilities(make: Make) -> None:
    found, _ = make(YES_NO)
    was = found.source()
    for change, parts in (
        ({"model": "n"}, ["model"]),
        ({"instruction": "Think."}, ["prompt"]),
        ({"temperature": 1.0}, ["prompt"]),
        ({"family": "wide"}, ["labels"]),
        ({"top_logprobs": 5}, ["labels"]),
        ({"concurrency": 2}, []),
    ):
        now = changed(clone(found), **change).source()
        assert [name for name in was if now[name] != was[name]] == parts
