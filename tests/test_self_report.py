"""Rules of helpers.self_report: what a model says of itself, read without loss."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.scoring import label_logprobs
from helpers.self_report import (
    STATUSES,
    p_true,
    read_report,
    report_distribution,
    self_report,
)
from helpers.verbalizer import Verbalizer


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (" 90\n", 0.9),
        ("85%", 0.85),
        ("85 %.", 0.85),
        ("72.5 percent", 0.725),
        ("72.5 per cent", 0.725),
        ("0.8", 0.8),
        ("0.8.", 0.8),
        ("0.8%", 0.008),
        ("1", 0.01),
        ("0", 0.0),
        ("100.", 1.0),
        ("8/10", 0.8),
        ("9 out of 10", 0.9),
        ("80/100", 0.8),
        ("Confidence: 80", 0.8),
        ("**85%**", 0.85),
        ('"85"', 0.85),
        ('{"label": "positive", "confidence": 0.85}', 0.85),
        ('{"Confidence": "85%"}', 0.85),
        ('```json\n{"confidence": 85}\n```', 0.85),
    ],
)
def test_a_stated_confidence_is_read(answer, value):
    report = read_report(answer)
    assert report.status == "ok"
    assert report.value == pytest.approx(value)


UNREADABLE = """
50/50 | 50-50 | 80/20 | 3/4 | 8/0 | 80 out of 1000 | 8/10/10
85-90% | 80–90 | 70 or 80 | 0.8 or 0.9 | 80 90 | 70 to 80 percent
not 80 | no, 80 | I'm not 100% sure. | It isn't 100% clear | 20% unsure
<80% | >80 | ~80% | ≥ 80% | 80%? | 80+ | 80% negative | 80% (rather 60%) | Answer 2: 80%
1e2 | 0x50 | 080 | .8 | 80,5 % | 1,0 | 1.2.3 | 80 ‰ | ８０％ | ٨٠ | 80 Prozent | 80%%
ninety percent | eight/10 | very sure | positive | 80 on a scale from 0-100
1.0 | 0. | 1. | Confidence: 8. | "80 | 80* | Probability: 80 | Error: 80
{"confidence": 0.8 | {"probability": 0.8} | {"conf": 80} | {"confidence": null}
{"confidence": true} | {"confidence": [80]} | {"confidence": "80-90"}
{"confidence": 0.8, "confidence": 0.9} | {"confidence": 0.8, "probability": 0.9}
{"confidence": 80, "doubt": "20%"} | {"confidence": 80, "a": {"confidence": 1e-9}}
{"confidence": NaN} | Sure! {"confidence": 80} | {"a": {"confidence": 80}} | [80]
"""


@pytest.mark.parametrize(
    "answer",
    [one for line in UNREADABLE.split("\n") for one in line.split(" | ") if one],
)
def test_what_has_no_one_value_is_not_read(answer):
    report = read_report(answer)
    assert math.isnan(report.value) and report.status == "unreadable"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("110 %", "out of range"),
        ("-5%", "out of range"),
        ("9" * 400, "out of range"),
        ("12/10", "out of range"),
        ("I cannot say.", "refused"),
        ("I can’t tell", "refused"),
        ("Sorry, as an AI I have no feelings", "refused"),
        ("80\n90", "unreadable"),
        ("80\n%", "unreadable"),
        ('{"a":' * 100_000, "unreadable"),
    ],
)
def test_what_cannot_be_read_has_a_name(answer, status):
    report = read_report(answer)
    assert math.isnan(report.value)
    assert report.status == status


def test_a_number_means_what_was_asked_for():
    assert read_report("1", scale="probability").value == 1.0
    assert read_report("1.0", scale="probability").value == 1.0
    assert read_report("0.25", scale="probability").value == 0.25
    assert read_report("25", scale="probability").status == "out of range"
    assert read_report("25%", scale="probability").value == 0.25
    stated = '{"p (true)": 80}'
    assert read_report(stated, key="p (true)").value == 0.8
    assert read_report("p (true) = 80", key="p (true)").value == 0.8
    assert read_report('{"confidence": 80}', key="p (true)").status == "unreadable"


@given(st.integers(0, 100))
def test_whole_percentages_survive_in_every_notation(percent):
    for way in ("#", "#%", "# percent.", "#/100", '{"confidence": "#%"}'):
        value = read_report(way.replace("#", str(percent))).value
        assert value == pytest.approx(percent / 100)


@given(
    st.integers(0, 100),
    st.text(st.sampled_from("0123456789.,-–/%<~? abnot"), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_value_is_read_only_where_it_is_the_whole_answer(percent, more, behind):
    answer = f"{percent}%{more}" if behind else f"{more}{percent}%"
    report = read_report(answer)
    number = answer.strip().removesuffix(".").removesuffix("%").rstrip(" ")
    if report.status == "ok":
        assert report.value == pytest.approx(float(number) / 100)


@given(st.text(max_size=40))
def test_any_text_has_a_status(text):
    report = read_report(text)
    assert report.status in STATUSES
    assert (report.status == "ok") == (0 <= report.value <= 1)


def test_senseless_requests_are_refused(tiny_llama):
    answers = [None, 80, ["80"]]
    for answer in answers:
        with pytest.raises(TypeError, match="answer must be a string"):
            read_report(answer)
    wrong = "stars"
    with pytest.raises(ValueError, match="scale must be one of"):
        read_report("3", scale=wrong)
    with pytest.raises(ValueError, match="scale must be one of"):
        self_report(tiny_llama, ["A:"], scale=wrong)
    prompts = ["", "True or False? ", None]
    for prompt in prompts:
        with pytest.raises(ValueError, match="^prompts must"):
            p_true(tiny_llama, ["fine?", prompt])
    with pytest.raises(ValueError, match="^prompts must"):
        report_distribution(tiny_llama, ["How sure? "])


def test_reports_are_what_the_model_writes(embedded):
    shown = "Review: A joy.\nSentiment: positive\nHow sure, from 0 to 100: 95\n\n"
    asked = pd.Series(
        [
            f"{shown}Review: {text}\nSentiment: positive\nHow sure, from 0 to 100:"
            for text in ("A delight.", "It has its moments.")
        ],
        index=[5, 2],
    )
    found = self_report(embedded, asked, max_new_tokens=4)
    assert list(found.index) == [5, 2]
    assert (found["status"] == "ok").all()
    for prompt, row in zip(asked, found.itertuples(), strict=True):
        written = embedded.generate(prompt, temperature=0, max_new_tokens=4)[0]
        assert row.answer == written
        assert row.report == pytest.approx(int(written.split("\n")[0]) / 100)
    cut = self_report(embedded, asked, max_new_tokens=2)
    assert (cut["status"] == "unreadable").all() and cut["report"].isna().all()
    assert (found.attrs["unread"], cut.attrs["unread"]) == (0, 1)


def test_p_true_is_the_exact_share_of_true(tiny_llama):
    asked = pd.Series(
        ["no way\nTrue or False?", "a bore\nTrue or False?"], index=[7, 3]
    )
    found = p_true(tiny_llama, asked)
    tokens = Verbalizer(("True", "False"), family="case").tokens(
        tiny_llama, after=asked[7]
    )
    exact = np.exp(
        label_logprobs(tiny_llama, [tiny_llama.encode(p) for p in asked], tokens)
    )
    assert list(found.index) == [7, 3]
    assert found["p_true"].to_numpy() == pytest.approx(exact[:, 0] / exact.sum(axis=1))
    assert found["off_label"].to_numpy() == pytest.approx(1 - exact.sum(axis=1))
    assert p_true(tiny_llama, []).shape == (0, 2)
    assert report_distribution(tiny_llama, []).shape == (0, 103)


def test_the_distribution_of_reports_is_exact(embedded):
    question = "How sure, from 0 to 100:"
    asked = f"Review: A joy.\n{question} 95\n\nReview: Fine.\n{question}"
    found = report_distribution(embedded, pd.Series([asked], index=[6]))
    assert list(found.index) == [6]
    shares = found.loc[6, "0":"100"].astype(float)
    assert shares.sum() == pytest.approx(1)
    assert found.loc[6, "expected"] == pytest.approx(shares @ np.arange(101) / 100)
    (greedy,) = embedded.generate(asked, temperature=0, max_new_tokens=3)
    assert shares.idxmax() == greedy.split("\n")[0].strip()
    # Digit by digit: " 8" and "5" and the end of the line.
    ends = ("\n", *filter(None, embedded.token_texts(embedded.stop_ids)))
    tokens = Verbalizer(["85", "85%"], terminator=ends).tokens(embedded, after=asked)
    exact = np.exp(label_logprobs(embedded, [embedded.encode(asked)], tokens)).sum()
    whole = 1 - found.loc[6, "off_label"]
    assert shares["85"] * whole == pytest.approx(exact, rel=1e-4)


def test_a_percent_sign_is_part_of_the_number(embedded):
    question = "How sure, in percent:"
    shown = [f"Review: {text}\n{question} 90%" for text in ("A joy.", "A bore.")]
    asked = "\n\n".join([*shown, f"Review: Fine.\n{question}"])
    (written,) = embedded.generate(asked, temperature=0, max_new_tokens=4)
    assert "%" in written.split("\n")[0]
    assert report_distribution(embedded, [asked])["off_label"].item() < 0.3
