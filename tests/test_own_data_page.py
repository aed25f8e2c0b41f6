"""The page of a decision: what it says, and that it is safe to open."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from helpers.calibration import ProbabilityCalibrator
from helpers.datasets import load_evidence, load_neiss_predictions, load_review_scores
from helpers.decisions import Costs, Policy, choose_threshold, review_queue
from helpers.metrics import calibration_metrics
from helpers.own_data.by_label import label_bounds
from helpers.own_data.deciding import Decision
from helpers.own_data.likeness import Likeness
from helpers.own_data.page import CHAPTERS, page
from helpers.own_data.prices import PolicyCost

LABEL = "<img src=x onerror=alert(4)>"
NASTY = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\"'><svg onload=alert(3)> & {{ 7 * 7 }} {% raw %} </style></title>",
    "Donaudampfschifffahrtsgesellschaftskapitän" * 20,
    "👩‍👩‍👧‍👦🏳️‍🌈 fine \u202ereversed\u202c \x00\x07 nul",
    "شكرا جزيلا، هذا المنتج رائع جدا ولكن التوصيل تأخر",
    "see https://example.org/track.js or http://example.org",
    "line one\r\nline two\n\n$x^2$ \\frac",
    "",
    "long " * 1000,
]


def made(
    scored: pd.DataFrame,
    *,
    n: int = 400,
    risk: float = 0.1,
    new: int = 300,
    texts: list[str] | None = None,
    name: str = "mine.csv",
    **more: Any,
) -> Decision:
    """A decision about stored label probabilities, half of the rows for each part."""
    rows = scored.sample(n + new, random_state=0).reset_index(drop=True)
    texts = texts or [
        f"Text {at}, of average length and little interest." for at in range(9)
    ]
    rows["text"] = [texts[at % len(texts)] for at in range(len(rows))]
    columns = list(rows.filter(regex="^p_"))
    first, second = rows[: n // 2], rows[n // 2 : n]
    truth = first["truth"].astype(str)
    calibrator = ProbabilityCalibrator().fit(first[columns], truth)

    def told(part: pd.DataFrame) -> pd.DataFrame:
        p = np.asarray(calibrator.predict(part[columns]))
        of_labels = pd.DataFrame(p, part.index, columns)
        labels = of_labels.idxmax(axis=1).str.removeprefix("p_")
        known = {"text": part["text"], "truth": part["truth"].astype(str)}
        known |= {"prediction": labels, "confidence": p.max(axis=1)}
        return pd.DataFrame(known).join(of_labels)

    judged = told(second)
    correct = judged["truth"] == judged["prediction"]
    held_out = calibrator.predict(second[columns]).max(axis=1)
    certificate = choose_threshold(judged["confidence"], correct, risk)
    policy, to_come = None, None
    if certificate.threshold is not None:
        policy = Policy.from_certified(certificate)
    if new:
        rest = told(rows[n:]).drop(columns="truth")
        to_come = rest.assign(action="review", reason="nothing is certified")
        to_come = to_come if policy is None else policy.apply(rest)
    names = ["counting words", "the model's answer", "linear probe"]
    candidates = pd.DataFrame(
        {
            "accuracy": [0.64, 0.72, 0.78],
            "brier": [0.21, 0.19, 0.16],
            "auroc": [0.62, 0.7, 0.81],
            "coverage": [0.05, 0.21, 0.44],
            "seconds": [0.4, 92.7, 41.2],
        },
        index=names,
    )
    differences = pd.DataFrame(
        {"value": [-0.14, -0.06], "low": [-0.2, -0.12], "high": [-0.08, 0.003]},
        index=names[:2],
    )
    return Decision(
        name=name,
        **{"text": "narrative", "label": "body_part", **more},
        risk=risk,
        delta=0.05,
        seed=0,
        labels=rows["truth"][:n].astype(str).value_counts(),
        counts={
            "rows": n + new,
            "labelled": n,
            "unlabelled": new,
            "copies": 12,
            "set_apart": 0,
            "chosen_on": n // 2,
            "compared_on": n // 2,
            "certified_on": n - n // 2,
        },
        candidates=candidates,
        differences=differences,
        chosen="linear probe",
        judged=judged,
        report=calibration_metrics(held_out, correct, evaluation="held-out"),
        certificate=certificate,
        by_label=label_bounds(judged, certificate.threshold),
        to_come=to_come,
        to_label=review_queue(judged if to_come is None else to_come, budget=10),
        versions={"how-sure": "0.1.0", "numpy": "2.0", "file": "ab" * 32},
        policy=policy,
        likeness=Likeness.of(judged, judged.index.to_numpy()),
    )


PARTS = ["void", "true", "much", "who", "labels", "wrong", "next", "how"]


def reviews(**more: Any) -> Decision:
    return made(load_review_scores("test"), **{"n": 800, **more})


def nasty() -> Decision:
    scored = load_review_scores("test").rename(columns={"p_negative": f"p_{LABEL}"})
    scored["truth"] = scored["truth"].astype(str).replace("negative", LABEL)
    names = {"name": "<b>&.csv", "text": "<i>text", "label": "'\">", "group": "$g"}
    found = made(scored, n=800, texts=NASTY, **names)
    return replace(found, notes=("A <blink>note</blink>.",))


def many_labels() -> Decision:
    scored = load_neiss_predictions("fine-tuned", "test")
    longer = {
        old[2:]: f"{old[2:]} [code/{at:03}] and neighbouring parts, not elsewhere"
        for at, old in enumerate(scored.filter(regex="^p_"))
    }
    columns = {f"p_{old}": f"p_{new}" for old, new in longer.items()}
    scored["truth"] = scored["truth"].map(longer)
    return made(scored.rename(columns=columns), n=700, risk=0.2)


CASES = {
    "certified": reviews,
    "nothing to come": lambda: reviews(new=0),
    "few labels": lambda: reviews(n=60),
    "hardly any labels": lambda: reviews(n=30),
    "no ranking": lambda: made(load_evidence()["tweets"]),
    "many errors": lambda: made(load_evidence()["newsgroups"]),
    "many labels": many_labels,
    "nasty texts": nasty,
}


@cache
def decided(case: str) -> Decision:
    return CASES[case]()


@cache
def shown(case: str) -> str:
    return page(decided(case))


def words(found: Any) -> str:
    """The text of a page or of a part of it, as it is read."""
    return re.sub(r" ([.,:])", r"\1", " ".join(found.get_text(" ").split()))


def soup(case: str) -> BeautifulSoup:
    return BeautifulSoup(shown(case), "html.parser")


@pytest.mark.parametrize("case", CASES)
def test_it_is_whole_and_small_and_asks_for_nothing(case: str) -> None:
    html, found = shown(case), soup(case)
    assert len(html.encode()) < 300_000
    assert html.startswith("<!doctype html>")
    assert [one["id"] for one in found("h2")] == [
        *(["why"] if decided(case).certificate.threshold is None else []),
        *PARTS,
    ]
    assert len(found("h1")) == 1 and found.html["lang"] == "en"
    ids = [one["id"] for one in found(id=True)]
    assert len(ids) == len(set(ids))
    used = [one["href"].removeprefix("#") for one in found("a")]
    used += [one["xlink:href"].removeprefix("#") for one in found("use")]
    used += re.findall(r"url\(#([^)]*)\)", html)
    used += " ".join(one["aria-labelledby"] for one in found("svg")).split()
    assert set(used) <= set(ids)
    assert not found(["script", "link", "img", "iframe", "object", "form", "image"])
    assert not found(src=True) and "@import" not in html
    for one in found(["blockquote", "bdi"]):  # a user's words, which are only read
        one.extract()
    assert "http" not in str(found)
    assert not [name for one in found(True) for name in one.attrs if name[:2] == "on"]


@pytest.mark.parametrize("case", CASES)
def test_figures_are_described_and_tables_have_heads(case: str) -> None:
    figures = soup(case)("svg")
    assert len(figures) == 2
    for figure in figures:
        assert figure["role"] == "img"
        about = [figure.find(id=one) for one in figure["aria-labelledby"].split()]
        assert [one.name for one in about] == ["title", "desc"]
        assert all(words(one) for one in about)
        # Colours follow the page, in the dark too.
        assert not re.search(r"(fill|stroke): #", str(figure))
    for table in soup(case)("table"):
        assert all(row.th["scope"] == "row" for row in table.tbody("tr"))
        assert table.parent["tabindex"] == "0" and table.parent["aria-label"]


def test_a_certificate_is_told_in_the_first_sentences() -> None:
    decision, found = decided("certified"), soup("certified")
    certificate, coming = decision.certificate, decision.to_come
    passing = (coming["confidence"] >= certificate.threshold).sum()
    assert words(found.h1) == f"{passing} of the 300 new texts can pass without a look"
    lead = words(found.find(class_="lead"))
    assert lead.startswith("In the long run at most 10 % of the labels that pass are")
    assert (
        f"{certificate.n_accepted} of them passed, and {certificate.n_errors}" in lead
    )
    assert f"The other {300 - passing} new texts go to a person." in lead
    tested = certificate.tested.set_index("threshold")
    upper = tested.loc[certificate.threshold, "upper"]
    assert f"at most {100 * upper:.1f} %" in words(found.find(class_="facts"))
    chosen = found.find("tr", class_="chosen")
    assert words(chosen).split()[-1] == "passed"


def test_without_new_texts_the_checked_ones_are_told_of() -> None:
    share = f"{100 * decided('nothing to come').certificate.coverage:.1f}"
    heading = words(soup("nothing to come").h1)
    assert heading == f"{share.removesuffix('.0')} % of texts like these can pass " + (
        "without a look"
    )


@pytest.mark.parametrize(
    ("case", "why", "first"),
    [
        ("few labels", "Too few labels", "Label about "),
        ("hardly any labels", "Too few labels", "Label about "),
        ("no ranking", "It does not know when it is wrong", "Label the texts under"),
        ("many errors", "Wrong even where it is surest", "Label the texts under"),
    ],
)
def test_where_nothing_is_certified_it_says_why_and_what_may_help(
    case: str, why: str, first: str
) -> None:
    found, decision = soup(case), decided(case)
    assert words(found.h1) == "No text should pass without a look yet"
    assert "All 300 new texts go to a person." in words(found.find(class_="lead"))
    assert words(found.find(class_="facts").dd) == why
    steps = [words(one.b) for one in found.find(class_="steps")("li")]
    assert steps[0].startswith(first)
    ranks, section = decision.certificate.auroc, words(found.find(id="why").parent)
    if ranks is not None:
        ends = f"{ranks.low:.3f} to {ranks.high:.3f}"
        assert f"AUROC {ranks.value:.3f} (95 % interval {ends})" in section
    tested = decision.certificate.tested
    if len(tested):
        best = f"at most {100 * tested['upper'].min():.1f}".removesuffix(".0")
        assert f"The best that can be promised: {best} % wrong" in section


def test_how_many_labels_it_takes_counts_those_that_do_not_certify() -> None:
    decision = decided("certified")
    table = decision.judged.head(100)
    right = table["prediction"] == table["truth"]
    certificate = choose_threshold([0.9] * 100, [True] * 88 + [False] * 12, 0.1)
    certificate = replace(certificate, labels_needed=500, auroc=None)
    few = replace(decision, certificate=certificate)
    few = replace(few, judged=table, report=calibration_metrics([0.9] * 100, right))
    found = BeautifulSoup(page(few), "html.parser")
    step = words(found.find(class_="steps").li)
    # 500 to check on of 800 / 100 times as many in all, less the 800 there are.
    assert step.startswith("Label about 3,200 more texts, drawn at random.")
    assert "With about 500 to check on instead of 100" in step


def test_two_labels_that_are_confused_are_tried_as_one() -> None:
    """Labels a and b are told apart by chance, c is always right."""
    rows = pd.DataFrame(
        {
            "text": "t",
            "truth": ["a", "b"] * 50 + ["c"] * 50,
            "prediction": ["b"] * 100 + ["c"] * 50,
            "confidence": [0.5] * 100 + [0.9] * 50,
            "p_a": [0.1] * 100 + [0.05] * 50,
            "p_b": [0.5] * 100 + [0.05] * 50,
            "p_c": [0.4] * 100 + [0.9] * 50,
        }
    )
    right = rows["truth"] == rows["prediction"]
    by_label = {"n": [100, 50], "accepted": 0, "errors": 0, "upper": np.nan}
    decision = replace(
        decided("no ranking"),
        labels=rows["truth"].value_counts(),
        judged=rows,
        report=calibration_metrics(rows["confidence"], right),
        certificate=replace(
            choose_threshold([0.9] * 150, [False] * 150, 0.1), labels_needed=None
        ),
        by_label=pd.DataFrame(by_label, index=["b", "c"]),
    )
    step = BeautifulSoup(page(decision), "html.parser").find(class_="steps").li
    assert words(step).startswith("Make one label of “a” and “b”.")
    told = "in 50 of the 50 errors. As one label, 100 % of the checked texts would be"
    assert f"{told} right, not 66.7 %, and 100 % of them would pass" in words(step)


def test_texts_of_the_user_are_words_and_no_more() -> None:
    html, found = shown("nasty texts"), soup("nasty texts")
    quoted = [one.get_text() for one in found("blockquote")]
    assert any("<script>alert(1)</script>" in one for one in quoted)
    assert any("{{ 7 * 7 }}" in one for one in quoted)
    assert "(no text)" in quoted
    long = [one for one in quoted if one.startswith("long long")]
    assert long and all(len(one) < 500 for one in long)
    assert "5,000 characters" in html
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    told = [one.get_text() for one in found("bdi")]
    for name in ("<b>&.csv", "<i>text", "'\">", "$g", LABEL):
        assert name in told
    assert "A <blink>note</blink>." in told
    assert not found(["blink", "i"]) and not found("b", string="&.csv")


def test_rows_that_were_sure_and_wrong_and_those_to_label_are_listed() -> None:
    decision, found = decided("certified"), soup("certified")
    judged = decision.judged
    wrong = judged[judged["truth"] != judged["prediction"]]
    listed, queued = found(class_="texts")
    assert len(listed("li")) == len(queued("li")) == 10
    surest = wrong.loc[wrong["confidence"].idxmax()]
    first = words(listed.li)
    assert first.startswith(surest["text"])
    sure = f"{100 * surest['confidence']:.1f}".removesuffix(".0")
    assert f"Called {surest['prediction']}, {sure} % sure" in first
    assert first.endswith(f"labelled {surest['truth']}")
    assert words(queued.li).startswith(decision.to_label["text"].iloc[0])


def test_the_worst_label_is_named_with_its_bound() -> None:
    decision, found = decided("certified"), soup("certified")
    told, table = words(found.find(id="labels").parent), decision.by_label
    least = table["upper"].idxmax()
    row = table.loc[least]
    assert "Of this label the least can be promised, too" in told
    assert f"up to {100 * row['upper']:.1f}".removesuffix(".0") in told
    heads = [words(row.th) for row in found.find(id="labels").parent.tbody("tr")]
    assert heads == table["upper"].sort_values(ascending=False).index.tolist()


def test_more_errors_weigh_more_than_a_larger_share_of_few() -> None:
    columns = {"n": 100, "accepted": [2, 60], "errors": [1, 20], "upper": [0.99, 0.5]}
    table = pd.DataFrame(columns, index=["negative", "positive"])
    html = page(replace(decided("certified"), by_label=table))
    told = words(BeautifulSoup(html, "html.parser").find(id="labels").parent)
    # Wilson's interval of 20 of 60.
    assert (
        "The label with the most errors among those that passed: positive. 20 of 60 "
        "were wrong, 33.3 % (95 % interval 22.7 % to 45.9 %)"
    ) in told
    assert "The least can be promised of negative: 1 of 2 was wrong" in told


def test_candidates_stand_with_their_intervals_the_chosen_one_first() -> None:
    rows = soup("certified").find(id="who").parent.tbody("tr")
    assert words(rows[0].th) == "linear probe (chosen)"
    assert [words(one) for one in rows[1]("td")][2] == "−6.0 −12.0 to 0.3"
    given = replace(
        decided("certified"), candidates=pd.DataFrame(), differences=pd.DataFrame()
    )
    assert 'id="who"' not in page(given)


@pytest.mark.parametrize("look", [4, 40])
def test_costs_stand_in_a_table_where_prices_are_known(look: float) -> None:
    decision = decided("certified")
    assert 'id="cost"' not in shown("certified")
    judged, certificate = decision.judged, decision.certificate
    right = (judged["truth"] == judged["prediction"]).to_numpy()
    cost = PolicyCost.of(
        Costs(80, look), judged["confidence"], right, certificate, is_calibrated=True
    )
    found = BeautifulSoup(page(replace(decision, cost=cost)), "html.parser")
    section = found.find(id="cost").parent
    promised, looked, passed, least = section.tbody("tr")
    n, accepted, wrong = len(judged), certificate.n_accepted, certificate.n_errors
    value = 1000 * (80 * wrong + look * (n - accepted)) / n
    assert words(promised.td).startswith(f"{value:,.0f} ")
    assert words(looked.td) == f"{1000 * look:,.0f}"
    assert words(passed.td).startswith(f"{80_000 * (1 - right.mean()):,.0f} ")
    assert words(least.th) == f"from {1 - look / 80:.3f} on a label passes: " + (
        "the least, as expected"
    )
    assert ("kept at a loss" in words(section)) is (value > 1000 * look)
    assert [one["href"] for one in found.nav("a")].index("#cost") == 3


def test_a_row_without_a_prediction_is_shown_too() -> None:
    decision = decided("certified")
    queue = decision.to_label.assign(prediction=None, confidence=np.nan)
    found = BeautifulSoup(page(replace(decision, to_label=queue)), "html.parser")
    assert words(found(class_="texts")[1].p) == "Would be called nothing, – sure"


def test_it_is_the_same_each_time() -> None:
    assert page(decided("certified")) == shown("certified")


def test_chapters_have_these_titles(root: Path) -> None:
    for number, title in CHAPTERS.items():
        (path,) = (root / "notebooks").glob(f"{number:02}_*.ipynb")
        heading = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        assert heading == f"# {title}"
