"""A policy applies to tables, is stored as text, and knows what it is for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from helpers.calibration import (
    BetaCalibrator,
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    TopLabelCalibrator,
    PlattScalingCalibrator,
    TopVersusAll,
    VectorScaling,
    VennAbersCalibrator,
)
from helpers.decisions import (
    REVIEW_BUCKETS,
    TRUST_BUCKETS,
    Buckets,
    Costs,
    Policy,
    best_threshold,
    choose_threshold,
    choose_thresholds_per_class,
    review_queue,
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
    policy = Policy(
        Buckets([0.5, 0.9], ["ask", "warn", "trust"], ["upper", "lower"]),
        platt,
        {"b": Buckets([0.6, 0.97], ["ask", "warn", "trust"])},
        name="Film reviews",
        note="Für alle Fälle.",
    )
    scores = [0.99] * 100 + [0.6] * 20
    labelled = pd.DataFrame({"prediction": "a", "confidence": scores})
    labelled["correct"] = [1] * 99 + [0] * 21
    once = policy.verify(labelled, 0.05, source=SOURCE)
    return once.verify(labelled[100:], 0.01, action="trust", source=SOURCE)


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
    found = Policy.from_certified(none, accept="go", otherwise="look").apply(whole)
    assert set(found["action"]) == {"look"}
    assert set(found["reason"]) == {"nothing is accepted"}


def test_only_certified_labels_are_accepted() -> None:
    labels = ["a"] * 60 + ["b"] * 6
    found = choose_thresholds_per_class([0.9] * 66, [1] * 66, labels, 0.1)
    policy = Policy.from_certified(found)
    table = pd.DataFrame({"prediction": ["a", "b", "c"], "confidence": 1.0})
    acted = policy.apply(table)
    assert acted["action"].tolist() == ["accept", "review", "review"]
    assert acted["reason"].tolist() == [
        "confidence 1 is ≥ 0.9 for 'a'",
        "nothing is accepted for 'b'",
        "nothing is accepted",
    ]
    assert (
        policy.card()
        .split("What is done\n")[1]
        .startswith(
            "  accept: nothing\n"
            "  anything: review\n"
            "  if the prediction is 'a':\n"
            "    confidence ≥ 0.9: accept\n"
            "    confidence < 0.9: review\n"
            "  if the prediction is 'b':\n"
            "    accept: nothing\n"
            "    anything: review\n"
            "  no confidence known: review\n"
        )
    )


def test_actions_that_no_confidence_gets() -> None:
    def done(policy: Policy) -> list[str]:
        part = policy.card().split("What is done\n")[1].split("\n\n")[0]
        return [line.strip() for line in part.splitlines()]

    last = "no confidence known: review"
    everything = Policy.from_threshold(0)
    assert done(everything) == ["anything: accept", last]
    reasons = everything.apply(TABLE)["reason"].tolist()
    assert reasons == [*["everything is accepted"] * 3, "no confidence is known"]
    assert done(Policy.from_threshold(math.inf)) == [
        "accept: nothing",
        "anything: review",
        last,
    ]
    # One is enough for something else, and ranges are still needed.
    policy = Policy(Buckets([0.5, 1], ["review", "warn", "trust"], ["upper", "lower"]))
    assert done(policy) == [
        "trust: nothing",
        "confidence 0.5 to 1: warn",
        "confidence < 0.5: review",
        last,
    ]
    assert policy.apply(TABLE)["reason"].iloc[0] == "confidence 0.95 is 0.5 to 1"
    # At 1 itself something is accepted.
    assert "confidence ≥ 1: accept" in done(Policy.from_threshold(1))


def test_names_of_actions_cannot_change_places() -> None:
    named = Policy.from_threshold(0.9, otherwise="look", accept="go")
    assert named.apply(TABLE)["action"].tolist() == ["go", "go", "look", "look"]
    checked = named.verify(TABLE.assign(correct=1), 0.5).verified[-1]
    assert (checked.action, checked.n_accepted) == ("go", 2)
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1)
    makers = [(Policy.from_threshold, 0.9), (Policy.from_certified, certified)]
    for make, what in makers:
        with pytest.raises(
            ValueError, match="^accept and otherwise must be .*'review'"
        ):
            make(what, accept="review")
        with pytest.raises(TypeError, match="^accept must be the name of an action"):
            make(what, accept=("review", "accept"))
        with pytest.raises(TypeError, match="^otherwise must be .* not None"):
            make(what, otherwise=None)


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


@pytest.mark.parametrize("store", [np.float32, lambda p: np.float32(p).astype(float)])
@pytest.mark.parametrize(
    "calibrator",
    [
        None,
        HistogramBinningCalibrator(n_bins=10, strategy="uniform"),
        HistogramBinningCalibrator(n_bins=7),
        IsotonicRegressionCalibrator(),
        IsotonicRegressionCalibrator(rule="step"),
        VennAbersCalibrator(),
        PlattScalingCalibrator(),
    ],
    ids=repr,
)
def test_a_table_is_decided_alike_in_whatever_precision_it_was_stored(
    calibrator: Any, store: Any
) -> None:
    """Shares of ten votes, of which many lie on edges and thresholds."""
    rng = np.random.default_rng(0)
    shares = rng.integers(3, 11, 600) / 10
    table = pd.DataFrame({"prediction": "a", "confidence": shares})
    correct = rng.random(600) < shares**0.3
    stored = table.assign(confidence=store(shares))
    values = shares
    if calibrator is not None:
        calibrator = clone(calibrator).fit(shares[:300], correct[:300])
        values = np.asarray(calibrator.predict(shares))
        again = np.asarray(calibrator.predict(stored["confidence"]))
        np.testing.assert_allclose(again, values, atol=1e-6)
    for threshold in np.unique(values):
        policy = Policy.from_threshold(float(threshold), calibrator=calibrator)
        actions = policy.apply(table)["action"]
        assert (policy.apply(stored)["action"] == actions).all()
        assert (actions == "accept").sum() == (values >= threshold).sum()
    for buckets in (TRUST_BUCKETS, REVIEW_BUCKETS):
        acted = [
            Policy(buckets, calibrator).apply(t)["action"] for t in (table, stored)
        ]
        assert (acted[0] == acted[1]).all()


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
        "100 of 120 labelled items",
        "None of 20 labelled items is accepted",
    ):
        assert words in card
    # The rule stands there once, and each verification begins with its action.
    assert card.startswith(f"Film reviews\n============\nrule {whole.rule}\nFür alle")
    assert card.count(whole.rule) == 1
    first, second = card.split("What it was verified on\n")[1].splitlines()
    assert first.startswith("  trust: a risk of at most 0.05 holds at 0.95 confidence.")
    assert first.endswith(
        "1 wrong (1.00%; at most 4.66%, and at least 0.05%, each at 0.95 confidence)."
    )
    assert second.startswith("  trust: not enough data on a risk of at most 0.01")
    bare = Policy(TRUST_BUCKETS).card()
    assert "nothing says that it is true" in bare and bare.endswith("nothing")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"buckets": [0.5]}, TypeError, r"buckets must be Buckets, not \[0.5\]"),
        (
            {"by_label": [TRUST_BUCKETS]},
            TypeError,
            r"by_label must be a mapping of labels to Buckets, not \[Buckets",
        ),
        (
            {"by_label": {"a": 0.9}},
            TypeError,
            r"by_label\['a'\] must be Buckets, not 0.9",
        ),
        ({"source": "gpt"}, TypeError, "source must be a mapping .* not 'gpt'"),
        ({"verified": 0.9}, TypeError, "verified must be a sequence .* not 0.9"),
        (
            {"by_label": {"a": Buckets([0.5], ["no", "yes"])}},
            ValueError,
            "by_label must have the actions",
        ),
        ({"calibrator": "platt"}, TypeError, "calibrator must be"),
        ({"verified": [0.9]}, TypeError, "verified must hold Verifications, not float"),
        (
            {"verified": [verify(0.9, [0.95], [1], 0.05)]},
            ValueError,
            "verified must be what this policy's verify gave",
        ),
    ],
)
def test_bad_policies(change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Policy(**{"buckets": TRUST_BUCKETS, **change})


@pytest.mark.parametrize(
    ("certified", "message"),
    [
        (0.9, "certified must be a CertifiedThreshold or a mapping .* not 0.9"),
        ([0.9], r"certified must be a CertifiedThreshold or .* not \[0.9\]"),
        ({"a": 0.9}, r"certified\['a'\] must be a CertifiedThreshold, not 0.9"),
    ],
)
def test_certificates_of_another_kind(certified: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        Policy.from_certified(certified)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", [[1, 2], TABLE["confidence"], {"confidence": [1]}])
def test_tables_of_another_kind(table: object) -> None:
    message = f"^table must be a DataFrame, not {type(table).__name__}"
    with pytest.raises(TypeError, match=message):
        Policy(TRUST_BUCKETS).apply(table)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        Policy(TRUST_BUCKETS).verify(table, 0.1)  # type: ignore[arg-type]


def test_source_of_another_kind() -> None:
    with pytest.raises(TypeError, match="^source must be a mapping .* not 'gpt'"):
        Policy(TRUST_BUCKETS).apply(TABLE, source="gpt")  # type: ignore[arg-type]


def test_nothing_verifies_nothing() -> None:
    table = TABLE.assign(correct=1)[:0]
    with pytest.raises(ValueError, match="^table must have at least one row"):
        Policy(TRUST_BUCKETS).verify(table, 0.1)


@pytest.mark.parametrize("column", ["prediction", "confidence"])
def test_table_without_a_column(column: str) -> None:
    with pytest.raises(ValueError, match=f"must have the column '{column}'"):
        Policy(TRUST_BUCKETS).apply(TABLE.drop(columns=column))


def test_confidence_out_of_range() -> None:
    with pytest.raises(ValueError, match="confidence must lie in"):
        Policy(TRUST_BUCKETS).apply(TABLE.assign(confidence=1.5))


def test_confidence_in_words() -> None:
    table = TABLE.astype({"confidence": object})
    table.iloc[2, 1] = "high"
    with pytest.raises(
        ValueError, match="^confidence must be numbers; row 2 is 'high'"
    ):
        Policy(TRUST_BUCKETS).apply(table)
    table.iloc[2, 1] = "0.4"  # as a table from a file may have it
    found, plain = (Policy(TRUST_BUCKETS).apply(each) for each in (table, TABLE))
    assert found["action"].equals(plain["action"])


def test_files_that_hold_no_policy(whole: Policy, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{", "utf-8")
    with pytest.raises(ValueError, match="is no JSON"):
        Policy.load(path)
    path.write_text('{"format": "helpers.decisions/9"}', "utf-8")
    with pytest.raises(ValueError, match="format is 'helpers.decisions/9'"):
        Policy.load(path)
    for name in set(whole.to_dict()) - {"format"}:
        stored = whole.to_dict()
        del stored[name]
        with pytest.raises(ValueError, match=f"must have the field {name!r}"):
            Policy.from_dict(stored)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"risk": 1.5}, "verified.0.risk is 1.5"),
        ({"risk": math.nan}, "verified.0.risk is nan"),
        ({"n_errors": -1}, "verified.0.n_errors is -1"),
        ({"n_errors": 10**6}, "must rise"),
        ({"n_labels": 4.5}, "verified.0.n_labels is 4.5"),
        ({"verdict": "surely"}, "verified.0.verdict is 'surely'"),
        ({"low": 1.0}, "within their limits"),
        ({"more": 1}, "must not have the field 'verified.0.more'"),
    ],
)
def test_what_a_stored_policy_says_was_verified_is_checked(
    change: dict[str, Any], says: str
) -> None:
    stored = Policy(TRUST_BUCKETS).verify(labelled(400), 0.3).to_dict()
    assert Policy.from_dict(stored).to_dict() == stored
    stored["verified"][0] |= change
    with pytest.raises(ValueError, match=says):
        Policy.from_dict(stored)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"more": 1}, "must not have the field 'more'"),
        ({"note": None}, "note is None"),
        ({"source": {"model": 3}}, "source.model is 3"),
        ({"by_label": [["a"]]}, "by_label.0 is"),
        ({"by_label": [["a", {}], 1]}, "by_label.1 is 1"),
        ({"buckets": 3}, "buckets is 3"),
        ({"calibrator": {"format": "x"}}, "format"),
    ],
)
def test_a_policy_file_with_wrong_parts_is_named(
    whole: Policy, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(whole.to_dict() | change), "utf-8")
    with pytest.raises(ValueError, match=f"policy.json: .*{says}"):
        Policy.load(path)


# What other labels say --------------------------------------------------------------


def labelled(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([2, 1, 1], n)
    table = pd.DataFrame(p, columns=["p_a", "p_b", "p_c"])
    table["prediction"] = np.array(list("abc"))[p.argmax(axis=1)]
    table["confidence"] = p.max(axis=1)
    draws = (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    table["truth"] = np.array(list("abc"))[np.minimum(draws, 2)]
    table["correct"] = table["prediction"] == table["truth"]
    return table


def test_what_was_verified_is_the_action_that_the_policy_takes() -> None:
    table = labelled(400)
    strict = Buckets([0.5, 0.95], ["ask", "warn", "trust"], "upper")
    policy = Policy(TRUST_BUCKETS, by_label={"b": strict})
    acted = policy.apply(table)
    for action in TRUST_BUCKETS.names:
        (found,) = policy.verify(table, 0.3, action=action).verified
        own = acted["action"] == action
        assert found.n_accepted == own.sum() and found.action == action
        assert found.n_errors == (~table["correct"])[own].sum()
        assert found.threshold is None and found.rule == policy.rule
    (default,) = policy.verify(table, 0.3).verified
    assert default.action == "trust"
    with pytest.raises(ValueError, match="action must be"):
        policy.verify(table, 0.3, action="accept")
    with pytest.raises(ValueError, match="must have the column 'correct'"):
        policy.verify(table.drop(columns="correct"), 0.3)


def test_rows_of_a_group_count_once() -> None:
    table = labelled(400)
    checked = Policy.from_threshold(0.5).verify(
        table, 0.3, groups=np.repeat(range(20), 20), rng=0
    )
    assert checked.verified[0].n_labels == 20


def test_a_verification_belongs_to_one_rule() -> None:
    table = labelled(300)
    checked = Policy.from_threshold(0.6, name="x", note="y").verify(table, 0.3)
    kept = Policy.from_threshold(0.6, verified=checked.verified)
    assert kept.rule == checked.rule and len(kept.verified) == 1
    for other in (
        {"buckets": Buckets([0.6], ("no", "yes"))},
        {"buckets": Buckets([0.61], ("review", "accept"))},
        {"buckets": Buckets([0.6], ("review", "accept"), "lower")},
        {"buckets": kept.buckets, "by_label": {"a": kept.buckets}},
        {"buckets": kept.buckets, "source": SOURCE},
    ):
        with pytest.raises(ValueError, match="one is of the rule"):
            Policy(**other, verified=checked.verified)


def test_the_same_rule_fitted_another_day_is_the_same_rule() -> None:
    table = labelled(300)
    rules = set()
    for day in ("2026-01-01", "2026-01-02"):
        maps = TopVersusAll(PlattScalingCalibrator())
        maps.fit(table[["p_a", "p_b", "p_c"]], table["truth"])
        maps.fitted_at_ = maps.calibrator_.fitted_at_ = day
        rules.add(Policy.from_threshold(0.6, calibrator=maps).rule)
    assert len(rules) == 1


def test_rows_that_the_calibrator_was_fitted_on_verify_nothing() -> None:
    table = labelled(300)
    platt = PlattScalingCalibrator().fit(
        table["confidence"][:200], table["correct"][:200]
    )
    policy = Policy.from_threshold(0.6, calibrator=platt)
    with pytest.raises(ValueError, match="fitted on 200 of these 300"):
        policy.verify(table, 0.3)
    assert policy.verify(table[200:], 0.3).verified[0].n_labels == 100
    names = table.set_axis([f"row {at}" for at in range(300)])
    by_name = PlattScalingCalibrator().fit(
        names["confidence"][:9], names["correct"][:9]
    )
    with pytest.raises(ValueError, match="fitted on 1 of these 292"):
        Policy.from_threshold(0.6, calibrator=by_name).verify(names[8:], 0.3)


@pytest.mark.parametrize(
    "calibrator",
    [
        TopLabelCalibrator(PlattScalingCalibrator()),
        TopVersusAll(BetaCalibrator()),
        MulticlassTemperatureScaling(),
        VectorScaling(),
    ],
    ids=lambda calibrator: type(calibrator).__name__,
)
def test_calibrators_of_label_probabilities_decide(calibrator) -> None:
    columns = ["p_a", "p_b", "p_c"]
    known, table = labelled(600), labelled(100, seed=1)
    calibrator.fit(known[columns], known["truth"], source=SOURCE)
    table.loc[7, ["p_a", "p_b", "p_c", "confidence"]] = np.nan
    policy = Policy(TRUST_BUCKETS, calibrator)
    acted = policy.apply(table, source=SOURCE)
    whole = table.drop(index=7)
    expected = np.asarray(calibrator.predict(whole[columns]))
    if expected.ndim == 2:
        at = whole["prediction"].map({"a": 0, "b": 1, "c": 2})
        expected = expected[np.arange(len(at)), at]
    assert np.array_equal(acted["decided_on"].drop(index=7), expected)
    assert acted["action"].drop(index=7).tolist() == [*TRUST_BUCKETS.assign(expected)]
    assert acted.loc[7, "action"] == "ask"
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again.apply(table, source=SOURCE).equals(acted) and again.rule == policy.rule
    with pytest.raises(ValueError, match="table must have the column 'p_b'; it has"):
        policy.apply(table.drop(columns="p_b"), source=SOURCE)
    with pytest.raises(ValueError, match="must not have the column 'p_b' twice"):
        policy.apply(pd.concat([table, table["p_b"]], axis=1), source=SOURCE)
    with pytest.raises(ValueError, match="^p_a must be numbers; row 0 is 'much'"):
        policy.apply(table.assign(p_a="much"), source=SOURCE)


def test_confidence_of_a_label_that_is_not_the_most_probable() -> None:
    known, table = labelled(600), labelled(3, seed=1)
    columns = ["p_a", "p_b", "p_c"]
    table["prediction"] = [c[2:] for c in table[columns].idxmin(axis=1)]
    all_of_them = MulticlassTemperatureScaling().fit(known[columns], known["truth"])
    found = Policy(TRUST_BUCKETS, all_of_them).apply(table)
    assert (found["decided_on"] < 0.34).all()
    top_only = TopVersusAll(PlattScalingCalibrator())
    top_only.fit(known[columns], known["truth"])
    with pytest.raises(ValueError, match="prediction must be the most probable label"):
        Policy(TRUST_BUCKETS, top_only).apply(table)


def test_cheapest_threshold_becomes_a_policy() -> None:
    dear = best_threshold([0.9, 0.8], [0, 0], Costs(error=9, review=1), n_resamples=9)
    assert dear.threshold == math.inf
    nothing = Policy.from_threshold(dear.threshold).apply(TABLE.assign(confidence=1.0))
    assert set(nothing["action"]) == {"review"}
    everything = Policy.from_threshold(0.0).apply(TABLE[:3])
    assert set(everything["action"]) == {"accept"}
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="threshold must"):
            Policy.from_threshold(bad)


def test_reasons_never_contradict_themselves() -> None:
    table = pd.DataFrame({"prediction": "a", "confidence": [0.8999999, 0.9]})
    reasons = Policy.from_threshold(0.9).apply(table)["reason"].tolist()
    assert reasons == ["confidence 0.8999999 is < 0.9", "confidence 0.9 is ≥ 0.9"]


def test_what_was_applied_can_be_queued() -> None:
    acted = Policy(TRUST_BUCKETS).apply(TABLE)
    queue = review_queue(acted[:3], budget=2)
    assert queue.index.tolist() == [5, 3] and "action" in queue


def test_column_that_is_there_twice() -> None:
    twice = pd.concat([TABLE, TABLE["confidence"]], axis=1)
    with pytest.raises(ValueError, match="the column 'confidence' twice"):
        Policy(TRUST_BUCKETS).apply(twice)


def test_certificate_is_the_note() -> None:
    found = choose_threshold([0.9] * 60, [1] * 60, 0.1)
    assert Policy.from_certified(found).note == str(found)
    assert Policy.from_certified(found, note="mine").note == "mine"
    each = choose_thresholds_per_class([0.9] * 6, [1] * 6, ["a"] * 3 + ["b"] * 3, 0.1)
    assert Policy.from_certified(each).note.startswith("a: No threshold")
