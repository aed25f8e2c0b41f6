"""From a table to decisions: choice, certificate, policy file, and the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest

from helpers.logistic import grouped_folds
from helpers.models import LanguageModel
from helpers.own_data import deciding
from helpers.own_data.candidates import (
    ANSWER,
    PROBE,
    WORDS,
    Candidate,
    ModelAnswer,
    WordCounts,
    draw_examples,
)
from helpers.own_data.cli import main
from helpers.own_data.deciding import Decision
from helpers.own_data.on_request import from_dict
from helpers.own_data.stored import OwnPolicy
from helpers.own_data.table import OwnTable, Rows, read_table

WORD = {"fruit": "apple pear plum fig".split(), "tool": "saw drill axe file".split()}


def texts_of(n: int, seed: int = 0, noise: float = 0.1) -> pd.DataFrame:
    """Texts of two words of a label, a few of the other; different by a number."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(WORD), n)
    kinds = [
        {"fruit": "tool", "tool": "fruit"}[x] if rng.random() < noise else x
        for x in labels
    ]
    texts = [
        f"{' '.join(rng.choice(WORD[x], 2))} {seed}x{at}" for at, x in enumerate(kinds)
    ]
    return pd.DataFrame({"id": range(n), "text": texts, "label": labels})


def write_mine(folder: Path) -> Path:
    """A CSV of 200 labelled texts, 30 others and one empty one."""
    rows = texts_of(231, noise=0.02)
    rows.loc[200:, "label"] = ""
    rows.loc[230, "text"] = " "
    path = folder / "mine.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return write_mine(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the command writes of it, by counting words."""
    path = write_mine(tmp_path_factory.mktemp("written"))
    with pytest.raises(SystemExit):
        main(["decide", str(path), "--use", "words"])
    return path.parent


@pytest.fixture
def policy(mine: Path, written: Path) -> Path:
    shutil.copytree(written, mine.parent, dirs_exist_ok=True)
    return mine.with_name("mine.policy.json")


def decided(path: Path, **settings: Any) -> tuple[Decision, OwnTable]:
    table = read_table(path, text="text", label="label")
    made = deciding.plan(table, candidates=[WORDS], **settings)
    return deciding.decide(made), table


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


class Given(Candidate):
    """Probabilities that a column of numbers in the texts states."""

    def __init__(self, name: str, at: int) -> None:
        self.name, self.at = name, at
        self.labels = ["a", "b"]

    def fit(self, rows: Rows) -> Self:
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        p = np.array([float(text.split()[self.at]) for text in texts])
        return np.column_stack([1 - p, p])

    def source(self) -> dict[str, str]:
        return {"model": self.name}


def certified(seed: int, *, risk: float = 0.2) -> bool:
    """Whether a threshold is certified that cannot be: all are wrong too often.

    Three candidates are right with a probability just below 1 - risk, apart from each
    other and whatever their confidence.
    """
    rng = np.random.default_rng(seed)
    truth = rng.random(160) < 0.5
    right = rng.random((160, 3)) < 1 - risk - 1e-9
    sure = rng.uniform(0.6, 0.99, size=(160, 3))
    p = np.where(right == truth[:, None], sure, 1 - sure)
    texts = [" ".join(f"{x:.6f}" for x in row) for row in p]
    rows = pd.DataFrame({"text": texts, "label": np.where(truth, "b", "a")})
    table = OwnTable("s", rows, "text", "label", None, (), "")
    made = deciding.plan(table, risk=risk, seed=seed, candidates=[WORDS])
    ways = [Given(f"way {at}", at) for at in range(3)]
    return deciding.decide(replace(made, candidates=ways)).policy is not None


def test_certificate_holds_after_a_choice_among_equally_bad_candidates() -> None:
    # Of 5, each false with a probability of at most 0.05: three are, once in 800.
    assert sum(certified(seed) for seed in range(5)) < 3


def test_choice_takes_the_better_candidate_and_says_by_how_much() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.5
    good = np.where(truth, 0.9, 0.1) + rng.normal(0, 0.05, 300)
    good = np.where(rng.random(300) < 0.1, 1 - good, good).clip(0.01, 0.99)
    texts = [f"{x:.4f} {y:.4f}" for x, y in zip(rng.random(300), good, strict=True)]
    choice = deciding.choose(
        [Given("bad", 0), Given("good", 1)],
        Rows(texts, np.where(truth, "b", "a"), np.arange(300)),
        names=["a", "b"],
        risk=0.15,
    )
    assert choice.candidate.name == "good"
    table = choice.candidates
    assert table.loc["good", "accuracy"] > 0.85 > table.loc["bad", "accuracy"]
    assert table.loc["good", "coverage"] > table.loc["bad", "coverage"]
    value, low, high = choice.differences.loc["bad"]
    assert low < value < high < 0
    assert value == pytest.approx(table["accuracy"]["bad"] - table["accuracy"]["good"])


def test_rows_that_certify_have_no_say(mine: Path) -> None:
    decision, table = decided(mine)
    judged = decision.judged.index
    # Whatever the labels of these rows are, the same is learned and predicted.
    table.rows.loc[judged, "label"] = table.rows.loc[judged[::-1], "label"].to_numpy()
    table.rows.to_csv(mine, index=False)
    other = read_table(mine, text="text", label="label")
    assert (other.labels != table.labels).sum() > 10
    made = deciding.plan(other, candidates=[WORDS])
    pd.testing.assert_index_equal(made.certified_on, judged)
    again = deciding.decide(made)
    for column in ("prediction", "confidence"):
        pd.testing.assert_series_equal(again.judged[column], decision.judged[column])
    assert decision.report.evaluation == "held-out"
    assert set(made.chosen_on).isdisjoint(judged)
    assert set(table.labelled) == {*made.chosen_on, *made.shown, *judged}


def test_decision_counts_its_rows(mine: Path) -> None:
    decision, _ = decided(mine)
    assert decision.counts == {
        "rows": 231,
        "labelled": 200,
        "unlabelled": 30,
        "copies": 0,
        "set_apart": 0,
        "shown": 0,
        "chosen_on": 100,
        "compared_on": 100,
        "certified_on": 100,
    }
    assert decision.certificate.threshold is not None
    coming = decision.to_come
    assert coming is not None and (coming["action"] == "accept").mean() > 0.3
    by_label = decision.by_label
    assert by_label["n"].sum() == 100
    assert by_label["accepted"].sum() == decision.certificate.n_accepted
    assert by_label["errors"].sum() == decision.certificate.n_errors
    some = by_label[by_label["accepted"] > 0]
    assert len(some) and (some["upper"] > some["errors"] / some["accepted"]).all()
    assert by_label["upper"].isna().sum() == len(by_label) - len(some)
    least = coming["confidence"].nsmallest(10)
    assert sorted(decision.to_label.index) == sorted(least.index)


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    rows = pd.concat(
        [texts_of(60), texts_of(60).assign(text=lambda t: t["text"].str.upper())]
    )
    path = tmp_path / "twice.csv"
    rows.to_csv(path, index=False)
    decision, table = decided(path, risk=0.3)
    sides = table.groups[table.labelled].groupby(
        table.labelled.isin(decision.judged.index)
    )
    first, second = (set(groups) for _, groups in sides)
    assert first.isdisjoint(second)
    assert decision.certificate.n_labels == len(second) == 30


def rows_of(table: pd.DataFrame) -> Rows:
    labels = table["label"].to_numpy(str)
    return Rows(table["text"].tolist(), labels, np.arange(len(table)))


def test_words_learn_and_are_stored_as_numbers() -> None:
    train, test = texts_of(80), texts_of(40, seed=1, noise=0)
    made = WordCounts().fit(rows_of(train))
    shares = made.predict_proba(test["text"].tolist())
    assert np.allclose(shares.sum(axis=1), 1)
    told = np.array(made.labels)[shares.argmax(axis=1)]
    assert (told == test["label"]).all()
    again = from_dict(json.loads(json.dumps(made.to_dict())))
    np.testing.assert_array_equal(again.predict_proba(test["text"].tolist()), shares)
    assert again.source() == made.source()
    stored = made.to_dict()
    with pytest.raises(ValueError, match="coef and intercept do not fit together"):
        from_dict({**stored, "coef": stored["intercept"]})
    with pytest.raises(ValueError, match="numbers in base64"):
        from_dict({**stored, "coef": stored["coef"][:-4]})
    with pytest.raises(ValueError, match="kind must be one of"):
        from_dict({"kind": "magic"})


def test_words_of_three_labels_are_stored(tmp_path: Path) -> None:
    rows = texts_of(90)
    rows.loc[60:, ["text", "label"]] = ["red blue green", "colour"]
    made = WordCounts().fit(rows_of(rows))
    assert made.labels == ["colour", "fruit", "tool"]
    again = from_dict(made.to_dict())
    texts = rows["text"].tolist()
    np.testing.assert_array_equal(again.predict_proba(texts), made.predict_proba(texts))


def test_groups_do_not_choose_the_penalty_of_words() -> None:
    """Labels of groups at random: their other texts would tell them."""
    who = np.repeat(np.arange(30), 3)
    texts = [f"a{n} b{n} c{n} {at}" for at, n in enumerate(who)]
    truth = np.random.default_rng(0).choice(["x", "y"], 30)[who]
    alone, grouped = (
        WordCounts().fit(Rows(texts, truth, groups)).predict_proba(texts)
        for groups in (np.arange(90), who)
    )
    assert grouped.max() < alone.max() - 0.1


def test_a_label_that_a_fold_has_not_seen_gets_laplaces_share() -> None:
    truth = np.array(["a", "b"] * 10 + ["c"])
    texts = [f"{x} {at}" for at, x in enumerate(truth)]
    rows = np.arange(21)
    folds = grouped_folds(truth, rows, 5)
    labels = ["a", "b", "c"]
    shares = WordCounts().held_out_proba(Rows(texts, truth, rows), labels, folds)
    assert np.allclose(shares.sum(axis=1), 1)
    fit, judge = next((fit, judge) for fit, judge in folds if 20 in judge)
    share = 1 / (len(fit) + 3)
    assert shares[20, 2] == pytest.approx(share / (1 + share))


def test_examples_take_labels_in_turn_and_are_not_long() -> None:
    texts = ["x" * 5000, *["short"] * 30]
    truth = np.array(["b", *["a"] * 20, *["b"] * 10])
    rows = Rows(texts, truth, np.arange(31))
    places = draw_examples(rows, 20, 0)
    assert [truth[at] for at in places] == ["a", "b"] * 4
    assert 0 not in places
    assert len(draw_examples(rows, 3, 0)) == 3
    assert draw_examples(Rows(["x" * 5000] * 20, truth[:20], rows.groups), 8, 0) == []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    rows = texts_of(48, noise=0)
    rows.loc[40:, "label"] = ""
    path = tmp_path / "small.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("way", ["answer", "probe"])
def test_what_a_model_reads_is_applied_alike_and_not_by_another_model(
    small: Path,
    embedded: LanguageModel,  # so that it is loaded once
    way: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = run(capsys, "decide", small, "--use", way, "--risk", 0.3, "--json")
    assert code == 0, err
    assert json.loads(out)["chosen"] == {"answer": ANSWER, "probe": PROBE}[way]
    assert "for what it is chosen on" in err
    policy = small.with_name("small.policy.json")
    rows = pd.read_csv(small.with_name("small.decisions.csv"), keep_default_na=False)
    new = small.with_name("new.csv")
    rows[40:][["id", "text"]].to_csv(new, index=False)
    assert run(capsys, "apply", policy, new)[0] == 0
    again = pd.read_csv(small.with_name("new.decisions.csv"))
    assert again["action"].tolist() == rows["action"][40:].tolist()
    expected = rows["confidence"][40:].astype(float)
    np.testing.assert_allclose(again["confidence"], expected, atol=1e-4)
    stored = json.loads(policy.read_text())
    place = stored["candidate"].get("probe", stored["candidate"])
    place["fingerprint"] = "0" * 64
    policy.write_text(json.dumps(stored))
    code, _, err = run(capsys, "apply", policy, new)
    assert code == 2 and "000000000000" in err


def test_examples_of_the_prompt_are_not_judged(small: Path) -> None:
    table = read_table(small, text="text", label="label")
    made = deciding.plan(table)
    answer = next(one for one in made.candidates if isinstance(one, ModelAnswer))
    shown = {text for text, _ in answer.settings["examples"]}
    assert shown == set(table.texts[made.shown]) and len(shown) == 4
    assert not shown & set(table.texts[made.chosen_on.union(made.certified_on)])


def test_a_model_reads_the_beginning_of_a_long_text(
    small: Path, make_tiny: Callable[..., LanguageModel]
) -> None:
    rows = pd.read_csv(small)
    rows.loc[3, "text"] = "apple " * 20_000
    rows.to_csv(small, index=False)
    table = read_table(small, text="text", label="label")
    tiny = make_tiny("llama", max_position_embeddings=4096)
    made = deciding.plan(table, model=tiny, candidates=[ANSWER])
    assert any(
        "1 texts are longer than 2,000 characters" in one for one in made.table.notes
    )
    [answer] = made.candidates
    long = table.texts[3]
    # Not to the digit: batches differ.
    alike = answer.predict_proba([long, long[:2000], long[:1000]])
    assert alike[0] == pytest.approx(alike[1], abs=1e-6)
    assert abs(alike[0, 0] - alike[2, 0]) > 1e-5


def test_decide_writes_rows_page_and_policy(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "decide", mine, "--use", "words")
    assert code == 0
    assert "The labels are taken to be in the column 'label'" in err
    assert "231 rows, 200 with a label, 30 without" in err
    assert "Accept from" in out
    rows = pd.read_csv(mine.with_name("mine.decisions.csv"), keep_default_na=False)
    assert rows.columns.tolist() == [
        *("id", "text", "label", "prediction", "confidence", "action", "reason"),
        "proposed",
    ]
    pd.testing.assert_frame_equal(
        rows[["id", "text", "label"]], pd.read_csv(mine, keep_default_na=False)
    )
    assert (rows["action"][:200] == "labelled").all()
    assert rows["confidence"].str.fullmatch(r"(0\.\d{1,6}|1)?").all()
    assert set(rows["action"][200:230]) <= {"accept", "review"}
    assert rows["action"][230] == "review" and rows["reason"][230] == "there is no text"
    assert "<html" in mine.with_name("mine.decisions.html").read_text()
    kept = OwnPolicy.load(mine.with_name("mine.policy.json"))
    table = read_table(mine, text="text", label="label")
    again, warned = kept.apply(table)
    assert again["action"][200:].tolist() == rows["action"][200:].tolist()
    assert warned == []


def test_nothing_is_certified_of_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noise.csv"
    texts_of(120, noise=0.5).to_csv(path, index=False)
    code, out, _ = run(capsys, "decide", path, "--use", "words", "--json")
    found = json.loads(out)
    assert code == 1 and found["threshold"] is None
    assert sorted(found["files"]) == ["decisions", "page"]
    assert not path.with_name("noise.policy.json").exists()


def test_dry_run_writes_nothing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "decide", mine, "--use", "words", "--dry-run")
    assert code == 0 and "In all about" in err
    assert [path.name for path in mine.parent.iterdir()] == ["mine.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "nope"], "no column 'nope'"),
        (["--risk", 1.5], "risk must lie between 0 and 1"),
        (["--use", "magic"], "--use takes some of"),
        (["--seed", -1], "seed must be"),
    ],
)
def test_errors_are_a_sentence_and_write_nothing(
    mine: Path, capsys: pytest.CaptureFixture[str], arguments: list[Any], said: str
) -> None:
    code, out, err = run(capsys, "decide", mine, *arguments)
    assert code == 2 and said in err and not out
    assert "Traceback" not in err and err.startswith("how-sure: ")
    assert [path.name for path in mine.parent.iterdir()] == ["mine.csv"]


def test_columns_that_would_be_added_must_be_free(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "decide", mine, "--out", mine)[0] == 2  # before any work
    rows = pd.read_csv(mine).assign(reason="none")
    rows.to_csv(mine, index=False)
    code, _, err = run(capsys, "decide", mine, "--text", "text", "--use", "words")
    assert code == 2 and "has the column 'reason' already" in err


def test_check_counts_new_accepted_rows_once_and_breaks(
    mine: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = mine.with_name("good.csv")
    texts_of(40, seed=2, noise=0).to_csv(good, index=False)
    both = mine.with_name("both.csv")
    rows = pd.concat([texts_of(231, noise=0.02)[:200], pd.read_csv(good)])
    rows.to_csv(both, index=False)
    code, out, _ = run(capsys, "check", policy, good, "--json")
    first = json.loads(out)
    assert code == 0 and first["verdict"] == "not refuted"
    assert first["accepted"] == first["right"] == first["n"] > 10
    code, out, _ = run(capsys, "check", policy, both, "--json")
    second = json.loads(out)
    assert (second["certified_with"], second["seen_before"]) == (200, 40)
    assert second["accepted"] == 0 and second["n"] == first["n"]
    bad = mine.with_name("bad.csv")
    rows = texts_of(60, seed=3, noise=0)
    rows["label"] = np.where(rows["label"] == "fruit", "tool", "fruit")
    rows.to_csv(bad, index=False)
    code, out, _ = run(capsys, "check", policy, bad)
    assert code == 1 and "the promise is broken, since the accepted row" in out
    state = mine.with_name("mine.monitor.json")
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({**kept, "rule": "another"}))
    code, _, err = run(capsys, "check", policy, bad)
    assert code == 2 and "is of another policy" in err


def test_apply_warns_of_texts_unlike_those_certified(
    mine: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = mine.with_name("new.csv")
    for texts, warned in (
        (texts_of(60, seed=5, noise=0.02)["text"], False),
        ([f"?{at}" for at in range(60)], True),
    ):
        pd.DataFrame({"text": texts}).to_csv(new, index=False)
        code, out, err = run(capsys, "apply", policy, new)
        assert code == 0 and "60 rows" in out
        assert ("distributed otherwise" in err) is warned


def test_rows_that_were_proposed_do_not_certify_later(
    mine: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = mine.with_name("mine.decisions.csv")
    before = pd.read_csv(written, keep_default_na=False)
    proposed = before.index[before["proposed"] == "yes"]
    assert len(proposed) == 10 and (before["label"][proposed] == "").all()
    rows = pd.read_csv(mine, keep_default_na=False)
    rows.loc[proposed, "label"] = "fruit"
    rows.loc[proposed, "text"] = before["text"][proposed].str.upper()
    rows.sample(frac=1, random_state=0).to_csv(mine, index=False)
    code, out, err = run(capsys, "decide", mine, "--use", "words", "--json")
    counts = json.loads(out)["counts"]
    assert counts["set_apart"] == 10 and counts["labelled"] == 210
    assert counts["chosen_on"] + counts["certified_on"] == 200
    assert "10 labelled rows were not drawn at random" in err
    after = pd.read_csv(written, keep_default_na=False).set_index("id").loc[proposed]
    assert (after["proposed"] == "yes").all()
    assert (after["reason"] == "learned from").all()
    # They are remembered from one run to the next, whatever a spreadsheet made of it.
    kept = pd.read_csv(written, dtype=str, keep_default_na=False)
    kept.to_csv(written, index=False, sep=";")
    assert run(capsys, "apply", policy, mine)[0] == 0
    run(capsys, "decide", mine, "--use", "words")
    kept = pd.read_csv(written, keep_default_na=False).set_index("id").loc[proposed]
    assert (kept["proposed"] == "yes").all()
    rows.rename(columns={"text": "words"}).to_csv(mine, index=False)
    code, _, err = run(capsys, "decide", mine, "--text", "words", "--use", "words")
    assert code == 2 and "but has no column 'words' to know them by" in err


def test_rows_that_a_column_marks_are_learned_from_only(tmp_path: Path) -> None:
    rows = texts_of(130).assign(hard="")
    rows.loc[100:, ["text", "hard"]] = "lemon lime", "yes"
    rows["text"] += " " + rows["id"].astype(str)
    rows.loc[:5, "hard"] = ["no", "0", "False", "NA", " ", ""]
    rows.loc[99, "text"] = rows.loc[100, "text"].upper()  # a copy, not marked itself
    path = tmp_path / "mine.csv"
    rows.to_csv(path, index=False)
    table = read_table(path, text="text", label="label", not_random="hard")
    made = deciding.plan(table, candidates=[WORDS], risk=0.3)
    assert made.set_apart.tolist() == [*range(99, 130)]
    judged = made.chosen_on.union(made.certified_on)
    assert judged.tolist() == [*range(99)]
    decision = deciding.decide(made)
    assert isinstance(decision.candidate, WordCounts)
    assert "lemon" in decision.candidate.to_dict()["words"]
    rows.assign(hard="x").to_csv(path, index=False)
    table = read_table(path, text="text", label="label", not_random="hard")
    with pytest.raises(ValueError, match="None of the 130 labelled rows was drawn"):
        deciding.plan(table, candidates=[WORDS])


def test_prices_are_told_and_go_together(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("decide", mine, "--use", "words", "--price-error", 80)
    for more in ([], ["--price-look", 80], ["--price-look", 0]):
        code, _, err = run(capsys, *asked, *more)
        assert code == 2 and "--price-error and --price-look go together" in err
    code, out, _ = run(capsys, *asked, "--price-look", 4)
    assert code == 0 and "1,000 rows cost about" in out
    assert "4,000 if all are looked at" in out
    html = mine.with_name("mine.decisions.html").read_text()
    assert 'id="cost"' in html and "1 − look/error" in html
    code, out, _ = run(capsys, *asked, "--price-look", 4, "--json")
    cost = json.loads(out)["cost"]
    assert cost["look_at_all"] == 4000 and cost["cheapest"] == 0.95
    assert cost["policy"]["low"] < cost["policy"]["value"] < cost["policy"]["high"]


def test_a_row_beyond_all_off_label_mass_goes_to_review() -> None:
    class Asked(Given):
        """Its texts also say how much of the answer is on no label."""

        def score_table(self, texts: pd.Series) -> pd.DataFrame:
            told = [float(text.split()[1]) for text in texts]
            return super().score_table(texts).assign(off_label=told)

    rng = np.random.default_rng(0)
    truth = rng.random(330) < 0.5
    off_label = rng.uniform(0, 0.5, 330)
    off_label[300:303] = 0.9
    p = np.where(truth, 0.95, 0.05) + rng.normal(0, 0.01, 330)
    texts = [f"{x:.6f} {y:.6f}" for x, y in zip(p, off_label, strict=True)]
    rows = pd.DataFrame({"text": texts, "label": np.where(truth, "b", "a")})
    rows.loc[300:, "label"] = ""
    table = OwnTable("s", rows, "text", "label", None, (), "")
    made = deciding.plan(table, candidates=[WORDS])
    decision = deciding.decide(replace(made, candidates=[Asked("asked", 0)]))
    coming = decision.to_come
    assert coming is not None
    assert (coming["action"][:3] == "review").all()
    assert (coming["action"][3:] == "accept").mean() > 0.8
    assert coming["reason"][300].startswith("more of the model's answer is on no label")
    assert any("3 rows go to review, although" in note for note in decision.notes)


def test_ctrl_c_is_a_sentence(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deciding, "decide", stop)
    code, out, err = run(capsys, "decide", mine, "--use", "words")
    assert code == 130 and not out and "Traceback" not in err
    assert err.splitlines()[-1].startswith("how-sure: stopped. What a model has read")
    assert [path.name for path in mine.parent.iterdir()] == ["mine.csv"]


def test_certify_takes_anybodys_confidences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    sure = rng.choice([0.55, 0.95], 300, p=[0.3, 0.7])
    right = rng.random(300) < sure
    rows = pd.DataFrame(
        {"said": "yes", "sure": sure, "truth": np.where(right, "yes", "no")}
    )
    rows.loc[250:, "truth"] = None
    path = tmp_path / "given.csv"
    rows.to_csv(path, index=False)
    asked = ("--prediction", "said", "--confidence", "sure", "--truth", "truth")
    code, out, err = run(capsys, "certify", path, *asked, "--json")
    found = json.loads(out)
    assert code == 0 and found["threshold"] == 0.95
    assert found["certified_on"] == 250 and found["to_come"] == 50
    assert found["accepted"] == (sure[:250] == 0.95).sum()
    assert "rounded to 2 decimals" in err
    new = tmp_path / "later.csv"
    rows[["said", "sure"]][250:].to_csv(new, index=False)
    assert run(capsys, "apply", tmp_path / "given.policy.json", new)[0] == 0
    later = pd.read_csv(tmp_path / "later.decisions.csv")
    assert later.columns.tolist() == ["said", "sure", "action", "reason"]
    assert (
        later["action"] == np.where(later["sure"] == 0.95, "accept", "review")
    ).all()
    rows.assign(sure=100 * sure).to_csv(path, index=False)
    code, _, err = run(capsys, "certify", path, *asked)
    assert code == 2 and "Divide percentages by 100" in err


def test_demo_shows_the_whole_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "demo", "--out", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0 and found["chosen"] == ANSWER and found["threshold"] > 0.5
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"demo.decisions.csv", "demo.decisions.html", "demo.policy.json"}


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from helpers.own_data.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    modules = done.stdout.split()
    assert "decide" in modules and "typer" in modules
    assert {"torch", "pandas", "sklearn"}.isdisjoint(modules)
    shown = subprocess.run(
        [sys.executable, "-m", "helpers", "--help"], capture_output=True, text=True
    )
    assert "how-sure [OPTIONS] COMMAND" in shown.stdout
