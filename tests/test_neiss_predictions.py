"""What was recorded for NEISS, and the classifiers that it was recorded from."""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd
import pytest

from helpers import EMBEDDED, calibration, datasets, metrics

SAMPLE = os.environ.get("HOW_SURE_NEISS")
NAMES = datasets.body_parts()["name"]
COLUMNS = [f"p_{name}" for name in NAMES]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return {
        how: datasets.load_neiss_predictions(how) for how in datasets.NEISS_CLASSIFIERS
    }


def test_recorded_tables_are_tidy(tables):
    for how, table in tables.items():
        assert table.index.is_unique
        assert np.allclose(table[COLUMNS].sum(axis=1), 1)
        assert table["off_label"].between(0, 1).all()
        best = table[COLUMNS].idxmax(axis=1).str.removeprefix("p_")
        assert (table["prediction"] == best).all()
        assert np.allclose(table["confidence"], table[COLUMNS].max(axis=1))
        assert (table["correct"] == (table["prediction"] == table["truth"])).all()
        assert (table["truth"] == table["body_part"].map(NAMES)).all()
        assert (how == "few-shot") == (table["split"] == "train").any()
        part = datasets.load_neiss_predictions(how, "test")
        pd.testing.assert_frame_equal(part, table[table["split"] == "test"])
        assert set(table.attrs["source"]) >= {"model"}


def test_off_label_mass_is_what_the_labels_lack(tables, root):
    stored = pd.read_parquet(root / "data" / "neiss_predictions.parquet")
    for how, table in tables.items():
        raw = stored.loc[table.index, [f"{how}:{code}" for code in NAMES.index]]
        mass = np.exp(raw.to_numpy(dtype=float)).sum(axis=1)
        assert np.allclose(table["off_label"], 1 - mass, atol=1e-3)
    # Untrained, the model goes on in words of its own; trained, hardly ever.
    assert tables["fine-tuned"]["off_label"].mean() < 0.02
    assert tables["few-shot"]["off_label"].mean() > 0.3


def test_there_are_the_cases_that_the_card_says(tables, root):
    counts = tables["few-shot"]["split"].value_counts()
    card = (root / "data" / "neiss_predictions.md").read_text("utf-8")
    said = re.search(r"([\d,]+), ([\d,]+) and ([\d,]+) cases", card)
    assert said is not None
    numbers = [int(part.replace(",", "")) for part in said.groups()]
    assert counts[list(datasets.SPLITS)].tolist() == numbers
    assert counts.sum() == 7725
    same = tables["few-shot"].query("split != 'train'").index
    assert same.equals(tables["tf-idf"].index)
    assert same.equals(tables["fine-tuned"].index)


def test_no_narrative_is_stored(root):
    for name in ("neiss_predictions", "neiss_prompts", "neiss_probe"):
        stored = pd.read_parquet(root / "data" / f"{name}.parquet")
        for column in stored.select_dtypes(["object", "string"]):
            assert stored[column].nunique() <= 26, f"{column} might hold texts"
            assert stored[column].str.len().max() <= 20
    folder = root / "data" / "neiss_adapter"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    kept = "README.md adapter_config.json adapter_model.safetensors training.json"
    assert {path.name for path in folder.iterdir()} == set(kept.split())
    assert not re.search(r"\b\d+ ?yo[mf]\b", (folder / "README.md").read_text(), re.I)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"how must be one of .*'few-shot'.*'best'"):
        datasets.load_neiss_predictions("best")
    with pytest.raises(ValueError, match=r"split must be one of .*'all'"):
        datasets.load_neiss_predictions("tf-idf", "all")
    with pytest.raises(ValueError, match=r"how must be one of .*'tf-idf'"):
        datasets.neiss_classifier("tf-idf")
    with pytest.raises(ValueError, match=r"model must be None .* not 'gpt2'"):
        datasets.neiss_classifier("fine-tuned", model="gpt2")


@pytest.mark.parametrize("how", datasets.NEISS_CLASSIFIERS)
def test_top_versus_all_is_calibrated_on_other_cases(how):
    fit = datasets.load_neiss_predictions(how, "calibration")
    test = datasets.load_neiss_predictions(how, "test")
    top = calibration.TopVersusAll(calibration.IsotonicRegressionCalibrator())
    top.fit(fit[COLUMNS], fit["truth"])
    said = top.predict(test[COLUMNS])
    assert said.evaluation == "held-out"
    ece = metrics.expected_calibration_error(said, test["correct"])
    floor = metrics.noise_floor(said)
    assert ece <= (floor.upper if how == "few-shot" else max(0.02, floor.upper))
    raw = metrics.expected_calibration_error(test["confidence"], test["correct"])
    if how == "few-shot":
        assert raw > 2 * floor.upper, "there was something to calibrate"
    if how == "fine-tuned":
        assert test["correct"].mean() >= 0.87


def test_a_reader_can_run_the_tuned_classifier():
    texts = {
        "12yof stubbed toe on door frame dx: toe fracture": "toe",
        "40yom lac to left eyebrow, hit by a cabinet door": "face",
        "3yof put a bead in ear dx: foreign body ear": "ear",
    }
    asked = datasets.neiss_classifier("fine-tuned")
    assert asked.predict(list(texts)).tolist() == list(texts.values())
    assert asked.source() == _source("fine-tuned")


def test_source_is_that_of_the_classifier():
    asked = datasets.neiss_classifier("few-shot", model=EMBEDDED)
    assert asked.source() == _source("few-shot")


def _source(how: str) -> dict[str, str]:
    source = datasets.load_neiss_predictions(how, "test").attrs["source"]
    return {str(key): str(value) for key, value in source.items()}


def invented(n: int) -> pd.DataFrame:
    words = {75: "hit head dx: concussion", 37: "rolled ankle dx: sprain"}
    codes = [75, 37] * n
    return pd.DataFrame(
        {
            "text": [f"{at}yom {words[code]}" for at, code in enumerate(codes)],
            "body_part": codes,
            "label": NAMES[codes].to_numpy(),
            "year": 2020,
            "treatment_date": pd.Timestamp("2020-02-03"),
            "age_years": 20.0,
            "sex": "M",
            "psu": 1,
            "stratum": "S",
            "weight": 10.0,
            "split": "test",
        },
        index=pd.RangeIndex(2 * n, name="case_number"),
    )


def test_the_baseline_learns_from_the_cases_it_is_given(tables):
    cases = invented(20)
    train, rest = cases[:30], cases[30:]
    table = datasets.measure_neiss(rest, "tf-idf", train=train)
    assert table["correct"].all()
    assert table.columns.tolist() == tables["tf-idf"].columns.tolist()
    assert np.allclose(table[COLUMNS].sum(axis=1), 1)
    assert (table["p_elbow"] == 0).all(), "it has never seen one"
    assert (table["off_label"] < 1e-9).all()
    with pytest.raises(ValueError, match=r"train must hold other cases .* 1 are in"):
        datasets.measure_neiss(rest, "tf-idf", train=cases[:31])
    for nothing in (None, cases[:0]):
        with pytest.raises(ValueError, match="train must hold cases"):
            datasets.measure_neiss(rest, "tf-idf", train=nothing)


def test_prompts_and_reports_are_of_recorded_cases(tables):
    prompts = datasets.load_neiss_prompts()
    eight = prompts[prompts["prompt"] == "eight examples"].set_index("case_number")
    recorded = tables["few-shot"].loc[eight.index]
    assert (recorded["split"] == "calibration").all()
    assert (eight["truth"] == recorded["truth"]).all()
    assert np.allclose(eight["confidence"], recorded["confidence"], atol=1e-3)
    assert prompts.groupby("prompt")["case_number"].agg(set).map(len).eq(500).all()
    reports = datasets.load_neiss_reports()
    assert (tables["few-shot"].loc[reports.index, "split"] == "test").all()
    stated = reports.loc[reports["status"] == "ok", "report"]
    assert stated.between(0, 1).all()
    assert reports.loc[reports["status"] != "ok", "report"].isna().all()


def test_hidden_states_and_words_are_of_the_same_test_cases(tables):
    table = datasets.load_neiss_probe()
    by = table.groupby(["classifier", "n_labels"])["case_number"].agg(set)
    assert len(by) == 6 and all(cases == by.iloc[0] for cases in by)
    assert len(by.iloc[0]) == 500
    recorded = tables["few-shot"].loc[table["case_number"]]
    assert (recorded["split"] == "test").all()
    assert (recorded["truth"].to_numpy() == table["truth"].to_numpy()).all()
    assert table["confidence"].between(0, 1).all()


@pytest.mark.skipif(SAMPLE is None, reason="no file of real cases is named")
@pytest.mark.parametrize("how", ["few-shot", "fine-tuned"])
def test_recorded_numbers_can_be_measured_again(how):
    recorded = datasets.load_neiss_predictions(how)
    cases = datasets.load_neiss(SAMPLE)
    cases = cases[cases.index.isin(recorded.index)]
    if cases.empty:
        pytest.skip("the file holds none of the recorded cases")
    cases = cases.sample(min(24, len(cases)), random_state=5)
    again = datasets.measure_neiss(cases, how)
    recorded = recorded.loc[cases.index]
    assert (again["split"] == recorded["split"]).all()
    gap = np.abs(again[COLUMNS].to_numpy() - recorded[COLUMNS].to_numpy())
    assert gap.max() < 1e-3
    assert np.abs(again["off_label"] - recorded["off_label"]).max() < 1e-3
