"""A policy applies to tables, is stored as text, and knows what it is for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.calibration import PerPredictedClass, PlattScalingCalibrator
from helpers.decisions import (
    TRUST_BUCKETS,
    Buckets,
    Policy,
    choose_threshold,
    choose_thresholds_per_class,
    verify,
)

SOURCE = {"model": "m", "prompt": "p", "labels": "l"}
TABLE = pd.DataFrame(
    {"prediction": ["a", "b", "b", "a"], "confidence": [0.95, 0.9, 0.4, np.nan]},
    index=[7, 3, 5, 1],
)


@pytest.fixture
def platt() -> PlattScalingCalibrator:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1, 400)
    correct = rng.uniform(size=400) < scores**2
    return PlattScalingCalibrator().fit(scores, correct, source=SOURCE)


@pytest.fixture
def whole(platt: PlattScalingCalibrator) -> Policy:
    checked = verify(0.9, [0.95] * 100 + [0.5] * 20, [1] * 99 + [0] * 21, 0.05)
    nothing = verify(0.99, [0.5], [1], 0.05)
    return Policy(
        Buckets([0.5, 0.9], ["ask", "warn", "trust"], ["upper", "lower"]),
        platt,
        {"b": Buckets([0.6, 0.97], ["ask", "warn", "trust"])},
        verified=[checked, nothing],
        name="Film reviews",
        note="Für alle Fälle.",
    )


def test_actions_and_reasons() -> None:
    found = Policy(TRUST_BUCKETS).apply(TABLE)
    assert found["action"].tolist() == ["trust", "warn", "ask", "ask"]
    assert found.index.tolist() == [7, 3, 5, 1]
    assert found["reason"].tolist() == [
        "confidence 0.95 is > 0.9",
        "confidence 0.9 is 0.5 to 0.9",
        "confidence 0.4 is < 0.5",
        "no confidence is known",
    ]
    assert "action" not in TABLE  # the table given is let be
    assert math.isnan(found["decided_on"].iloc[3])


def test_labels_have_ranges_of_their_own() -> None:
    strict = Buckets([0.92, 0.99], ["ask", "warn", "trust"])
    found = Policy(TRUST_BUCKETS, by_label={"b": strict}).apply(TABLE)
    assert found["action"].tolist() == ["trust", "ask", "ask", "ask"]
    assert found["reason"].iloc[1] == "confidence 0.9 is < 0.92 for 'b'"


def test_calibrated_confidence_decides(platt: PlattScalingCalibrator) -> None:
    found = Policy(TRUST_BUCKETS, platt).apply(TABLE.iloc[:3], source=SOURCE)
    expected = np.asarray(platt.predict(TABLE["confidence"].iloc[:3].to_numpy()))
    assert found["decided_on"].tolist() == expected.tolist()
    assert found["action"].tolist() == TRUST_BUCKETS.assign(expected).tolist()
    assert found["reason"].str.startswith("calibrated confidence").all()


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows: int) -> None:
    found = Policy(TRUST_BUCKETS).apply(TABLE.iloc[:rows])
    assert len(found) == rows and {"action", "reason"} <= set(found)


def test_certified_threshold_becomes_a_policy() -> None:
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1)
    policy = Policy.from_certified(certified)
    assert policy.apply(TABLE)["action"].tolist() == [*["accept"] * 2, *["review"] * 2]
    none = choose_threshold([0.9] * 6, [1] * 6, 0.1)
    whole = TABLE.assign(confidence=1.0)
    found = Policy.from_certified(none, actions=("look", "go")).apply(whole)
    assert set(found["action"]) == {"look"}


def test_only_certified_labels_are_accepted() -> None:
    labels = ["a"] * 60 + ["b"] * 6
    found = choose_thresholds_per_class([0.9] * 66, [1] * 66, labels, 0.1)
    policy = Policy.from_certified(found)
    table = pd.DataFrame({"prediction": ["a", "b", "c"], "confidence": 1.0})
    assert policy.apply(table)["action"].tolist() == ["accept", "review", "review"]


def test_rows_without_a_prediction_are_looked_at() -> None:
    for missing in (None, np.nan, pd.NA):
        table = pd.DataFrame({"prediction": ["a", missing], "confidence": 0.95})
        found = Policy(TRUST_BUCKETS).apply(table)
        assert found["action"].tolist() == ["trust", "ask"]
        assert found["reason"].iloc[1] == "no prediction is known"
    nullable = TABLE.assign(confidence=TABLE["confidence"].astype("Float64"))
    plain = Policy(TRUST_BUCKETS).apply(TABLE)
    assert Policy(TRUST_BUCKETS).apply(nullable)["action"].equals(plain["action"])


def test_labels_that_are_numbers_keep_their_ranges() -> None:
    strict = Buckets([0.97, 0.99], ["ask", "warn", "trust"])
    policy = Policy(TRUST_BUCKETS, by_label={71: strict})
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    table = pd.DataFrame({"prediction": [71, 72], "confidence": 0.95})
    for one in (policy, again):
        assert one.apply(table)["action"].tolist() == ["ask", "trust"]
        with pytest.raises(ValueError, match="of the type of by_label's"):
            one.apply(table.astype({"prediction": str}))
    with pytest.raises(TypeError, match="by_label must name labels"):
        Policy(TRUST_BUCKETS, by_label={0.5: strict})


def test_single_precision_is_decided_as_it_was_certified() -> None:
    scores = np.float32([0.9] * 60 + [0.5] * 60)
    certified = choose_threshold(scores, [1] * 60 + [0] * 60, 0.1, grid=[0.9])
    table = pd.DataFrame({"prediction": "a", "confidence": scores})
    found = Policy.from_certified(certified).apply(table)
    assert (found["action"] == "accept").sum() == certified.n_accepted == 60


def test_scores_of_another_model_are_refused(whole: Policy) -> None:
    table = TABLE.copy()
    table.attrs["source"] = SOURCE
    assert len(whole.apply(table)) == len(whole.apply(TABLE, source=SOURCE)) == 4
    # What says nothing of its source could be anything.
    for unsaid in (TABLE, pd.concat([table, with_source(TABLE.copy(), {"a": "b"})])):
        with pytest.raises(ValueError, match="must say what its confidences come from"):
            whole.apply(unsaid)
    with pytest.raises(ValueError, match="must say what its confidences come from"):
        whole.apply(TABLE, source={"model": "m"})
    for key in SOURCE:
        table.attrs["source"] = SOURCE | {key: "another"}
        with pytest.raises(ValueError, match=f"source differs.*of {key} .*'another'"):
            whole.apply(table)
    with pytest.raises(ValueError, match="the calibrator was fitted on"):
        Policy(TRUST_BUCKETS, whole.calibrator, source=SOURCE | {"model": "x"})
    own = Policy(TRUST_BUCKETS, source={"model": "m"})
    with pytest.raises(ValueError, match="this policy is for"):
        own.apply(table.assign().pipe(with_source, {"model": "x"}))


def with_source(table: pd.DataFrame, source: dict[str, str]) -> pd.DataFrame:
    table.attrs["source"] = source
    return table


def test_stored_and_read_back_it_is_the_same(whole: Policy, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    whole.save(path)
    again = Policy.load(path)
    assert again.card() == whole.card() and again.to_dict() == whole.to_dict()
    found = again.apply(TABLE, source=SOURCE)
    assert found.equals(whole.apply(TABLE, source=SOURCE))
    assert math.isnan(again.verified[1].risk)
    assert "Für alle Fälle." in path.read_text("utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.json"]
    plain = Policy(TRUST_BUCKETS)
    assert Policy.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain


def test_card_says_what_one_has_to_know(whole: Policy) -> None:
    card = str(whole)
    for words in (
        "Film reviews",
        "confidence > 0.9: trust",
        "if the prediction is 'b'",
        "confidence ≥ 0.97: trust",
        "no confidence known: ask",
        "PlattScalingCalibrator",
        "400 labels",
        "model: m",
        "at 0.9: a risk of at most 0.05 holds; 1 of 100 accepted",
        "at 0.99: a risk of at most 0.05 not enough data; 0 of 0 accepted",
    ):
        assert words in card
    bare = Policy(TRUST_BUCKETS).card()
    assert "nothing says that it is true" in bare and bare.endswith("nothing")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"buckets": [0.5]}, TypeError, "buckets must be Buckets, not list"),
        (
            {"by_label": {"a": Buckets([0.5], ["no", "yes"])}},
            ValueError,
            "by_label must have the actions",
        ),
        ({"calibrator": "platt"}, TypeError, "calibrator must be"),
        (
            {"calibrator": PerPredictedClass(PlattScalingCalibrator())},
            TypeError,
            "not PerPredictedClass",
        ),
    ],
)
def test_bad_policies(change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Policy(**{"buckets": TRUST_BUCKETS, **change})


@pytest.mark.parametrize("column", ["prediction", "confidence"])
def test_table_without_a_column(column: str) -> None:
    with pytest.raises(ValueError, match=f"must have the column '{column}'"):
        Policy(TRUST_BUCKETS).apply(TABLE.drop(columns=column))


def test_confidence_out_of_range() -> None:
    with pytest.raises(ValueError, match="confidence must lie in"):
        Policy(TRUST_BUCKETS).apply(TABLE.assign(confidence=1.5))


def test_files_that_hold_no_policy(whole: Policy, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{", "utf-8")
    with pytest.raises(ValueError, match="is no JSON"):
        Policy.load(path)
    path.write_text('{"format": "helpers.decisions/9"}', "utf-8")
    with pytest.raises(ValueError, match="must have the format"):
        Policy.load(path)
    for name in set(whole.to_dict()) - {"format"}:
        stored = whole.to_dict()
        del stored[name]
        with pytest.raises(ValueError, match="not whole"):
            Policy.from_dict(stored)
