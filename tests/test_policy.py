"""A policy applies to tables, is stored as text, and knows what it is for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from helpers.calibration import (
    HistogramBinningCalibrator,
    IsotonicRegressionCalibrator,
    MulticlassTemperatureScaling,
    PlattScalingCalibrator,
    ProbabilityCalibrator,
    TopLabelCalibrator,
    TopVersusAll,
    VectorScaling,
)
from helpers.decisions import (
    REVIEW_BUCKETS,
    TRUST_BUCKETS,
    Buckets,
    Policy,
    choose_threshold,
    choose_thresholds_per_class,
    verify,
)

GOLDEN = ["262e98256cc4", "2632628cfabb", "82ee52c742ab", "c5ad38c85a67"]
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


def test_actions_and_reasons():
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
    nothing = Policy(TRUST_BUCKETS).apply(TABLE[:0])
    assert len(nothing) == 0 and {"action", "reason"} <= set(nothing)
    close = TABLE[:2].assign(confidence=[0.8999999, 0.9])
    assert Policy.from_threshold(0.9).apply(close)["reason"].tolist() == [
        "confidence 0.8999999 is < 0.9",
        "confidence 0.9 is ≥ 0.9",
    ]


def test_certified_threshold_becomes_a_policy():
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1)
    policy = Policy.from_certified(certified)
    assert policy.apply(TABLE)["action"].tolist() == [*["accept"] * 2, *["review"] * 2]
    assert policy.note == str(certified)
    assert Policy.from_certified(certified, note="mine").note == "mine"
    none = choose_threshold([0.9] * 6, [1] * 6, 0.1)
    policy = Policy.from_certified(none, accept="go", otherwise="look")
    found = policy.apply(TABLE.assign(confidence=1.0))
    assert {*found["action"], *found["reason"]} == {"look", "nothing is accepted"}


def test_only_certified_labels_are_accepted():
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
    assert "if the prediction is 'b':\n    accept: nothing\n" in policy.card()


def test_actions_that_no_confidence_gets():
    last = "no confidence known: review"
    for threshold, lines in (
        (0, ["anything: accept"]),
        (1, ["confidence ≥ 1: accept", "confidence < 1: review"]),
        (math.inf, ["accept: nothing", "anything: review"]),
    ):
        policy = Policy.from_threshold(threshold)
        part = policy.card().split("What is done\n")[1].split("\n\n")[0]
        assert [line.strip() for line in part.splitlines()] == [*lines, last]
    reasons = Policy.from_threshold(0).apply(TABLE)["reason"].tolist()
    assert reasons == [*["everything is accepted"] * 3, "no confidence is known"]


def test_names_of_actions_cannot_change_places():
    named = Policy.from_threshold(0.9, otherwise="look", accept="go")
    assert named.apply(TABLE)["action"].tolist() == ["go", "go", "look", "look"]
    certified = choose_threshold([0.9] * 60, [1] * 60, 0.1)
    makers = [(Policy.from_threshold, 0.9), (Policy.from_certified, certified)]
    for make, what in makers:
        for accept in ("review", ("review", "accept")):
            with pytest.raises(ValueError, match="^names must be 2 different words"):
                make(what, accept=accept)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
            Policy.from_threshold(bad)


def test_rows_that_say_too_little_are_looked_at():
    plain = Policy(TRUST_BUCKETS).apply(TABLE)["action"]
    for missing in (None, np.nan, pd.NA):
        table = pd.DataFrame({"prediction": ["a", missing], "confidence": 0.95})
        found = Policy(TRUST_BUCKETS).apply(table)
        assert found["action"].tolist() == ["trust", "ask"]
        assert found["reason"].iloc[1] == "no prediction is known"
    words = TABLE.assign(confidence=["0.95", "0.9", "0.4", None])  # as from a file
    nullable = TABLE.assign(confidence=TABLE["confidence"].astype("Float64"))
    for table in (words, nullable):
        assert Policy(TRUST_BUCKETS).apply(table)["action"].equals(plain)
    with pytest.raises(TypeError, match="^source must be Mapping .* not 'gpt'"):
        Policy(TRUST_BUCKETS).apply(TABLE, source="gpt")
    with pytest.raises(ValueError, match="^table must have at least one row"):
        Policy(TRUST_BUCKETS).verify(TABLE.assign(correct=1)[:0], 0.1)
    # Nothing acts on a text without an answer, which is neither right nor wrong.
    lost = TABLE.assign(correct=[1, 1, 0, None])
    for action, errors in (("trust", 0), ("ask", 1)):
        found = Policy(TRUST_BUCKETS).verify(lost, 0.1, action=action).verified[0]
        assert (found.n_labels, found.n_accepted, found.n_errors) == (4, 1, errors)


def test_labels_that_are_numbers_keep_their_ranges():
    strict = Buckets([0.97, 0.99], ["ask", "warn", "trust"])
    policy = Policy(TRUST_BUCKETS, by_label={71: strict})
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    table = pd.DataFrame({"prediction": [71, 72], "confidence": 0.95})
    for one in (policy, again):
        assert one.apply(table)["action"].tolist() == ["ask", "trust"]
        with pytest.raises(ValueError, match="of the type of by_label's"):
            one.apply(table.astype({"prediction": str}))


@pytest.mark.parametrize(
    "calibrator",
    [
        None,
        HistogramBinningCalibrator(n_bins=10, strategy="uniform"),
        IsotonicRegressionCalibrator(),
        PlattScalingCalibrator(),
    ],
    ids=repr,
)
def test_a_table_is_decided_alike_in_whatever_precision_it_was_stored(calibrator):
    """Shares of ten votes, of which many lie on edges and thresholds."""
    rng = np.random.default_rng(0)
    values = shares = rng.integers(3, 11, 600) / 10
    table = pd.DataFrame({"prediction": "a", "confidence": shares})
    if calibrator is not None:
        calibrator = clone(calibrator).fit(shares, rng.random(600) < shares**0.3)
        values = np.asarray(calibrator.predict(shares))
    policies = [
        Policy(buckets, calibrator) for buckets in (TRUST_BUCKETS, REVIEW_BUCKETS)
    ]
    for threshold in np.unique(values):
        policy = Policy.from_threshold(float(threshold), calibrator=calibrator)
        accepted = policy.apply(table)["action"] == "accept"
        assert accepted.sum() == (values >= threshold).sum()
        policies.append(policy)
    for stored in (np.float32(shares), np.float32(shares).astype(float)):
        again = table.assign(confidence=stored)
        for policy in policies:
            assert policy.apply(again)["action"].equals(policy.apply(table)["action"])


def test_scores_of_another_model_are_refused(whole):
    def from_(source):
        table = TABLE.copy()
        table.attrs["source"] = source
        return table

    assert len(whole.apply(from_(SOURCE))) == len(whole.apply(TABLE, source=SOURCE))
    # What says nothing of its source could be anything.
    joined = pd.concat([from_(SOURCE), from_({"a": "b"})])
    for unsaid in (TABLE, joined, from_({"model": "m"})):
        with pytest.raises(ValueError, match="must say what its confidences come from"):
            whole.apply(unsaid)
    for key in SOURCE:
        with pytest.raises(ValueError, match=f"source differs.*of {key} .*'another'"):
            whole.apply(from_(SOURCE | {key: "another"}))
    with pytest.raises(ValueError, match="the calibrator was fitted on"):
        Policy(TRUST_BUCKETS, whole.calibrator, source=SOURCE | {"model": "x"})
    with pytest.raises(ValueError, match="this policy is for"):
        Policy(TRUST_BUCKETS, source={"model": "m"}).apply(from_({"model": "x"}))


def test_stored_and_read_back_it_is_the_same(whole, tmp_path):
    path = tmp_path / "policy.json"
    whole.save(path)
    again = Policy.load(path)
    assert again.card() == whole.card() and again.to_dict() == whole.to_dict()
    found = again.apply(TABLE, source=SOURCE)
    assert found.equals(whole.apply(TABLE, source=SOURCE))
    assert math.isnan(again.verified[1].risk)
    assert "Für alle Fälle." in path.read_text("utf-8")
    plain = Policy(TRUST_BUCKETS)
    assert Policy.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain


def test_rules_have_the_names_that_files_know_them_by():
    strict = Buckets([0.6, 0.97], ["ask", "warn", "trust"])
    steps = HistogramBinningCalibrator(n_bins=2, strategy="uniform")
    steps.fit([0.1, 0.2, 0.7, 0.9], [0, 1, 1, 0], source=SOURCE)
    assert [
        policy.rule
        for policy in (
            Policy(TRUST_BUCKETS),
            Policy.from_threshold(0.9, name="any", note="more"),
            Policy(TRUST_BUCKETS, by_label={"b": strict, 7: strict}, source=SOURCE),
            Policy(TRUST_BUCKETS, steps),
        )
    ] == GOLDEN


def test_card_says_what_one_has_to_know(whole):
    card = str(whole)
    for words in (
        *("confidence > 0.9: trust", "no confidence known: ask", "model: m"),
        *("if the prediction is 'b'", "confidence ≥ 0.97: trust"),
        *("PlattScalingCalibrator", "400 labels", "100 of 120 labelled items"),
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


STRANGE = Buckets([0.5], ["no", "yes"])
OTHERS = verify(0.9, [0.95], [1], 0.05)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"buckets": [0.5]}, TypeError, r"buckets must be Buckets, not \[0.5\]"),
        ({"by_label": [TRUST_BUCKETS]}, TypeError, "by_label must be Mapping, not"),
        ({"by_label": {"a": 0.9}}, TypeError, r"by_label\['a'\] must be Buckets, not"),
        ({"source": "gpt"}, TypeError, "source must be Mapping .* not 'gpt'"),
        ({"verified": 0.9}, TypeError, "verified must be Sequence, not 0.9"),
        ({"verified": [0.9]}, TypeError, "each of verified must be Verification, not"),
        ({"calibrator": "platt"}, TypeError, "calibrator must be Calibrator or .*plat"),
        ({"by_label": {0.5: STRANGE}}, TypeError, "a label of by_label must be str or"),
        ({"by_label": {"a": STRANGE}}, ValueError, "by_label must have the actions"),
        ({"verified": [OTHERS]}, ValueError, "verified must be what this policy's ver"),
    ],
)
def test_bad_policies(change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Policy(**{"buckets": TRUST_BUCKETS, **change})
    with pytest.raises(TypeError, match="^certified.* must be CertifiedThreshold"):
        Policy.from_certified({"a": 0.9})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (TABLE[["prediction"]], ValueError, "table must have the column 'confidence'"),
        (TABLE[["confidence"]], ValueError, "table must have the column 'prediction'"),
        (TABLE.assign(confidence=1.5), ValueError, "confidence must lie in"),
        (TABLE.assign(confidence="high"), ValueError, "confidence must be numbers; "),
    ],
)
def test_bad_tables(change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Policy(TRUST_BUCKETS).apply(change)
    with pytest.raises(error, match=f"^{message}"):
        Policy(TRUST_BUCKETS).verify(change.assign(correct=1), 0.1)


RANGES = {"edges": [0.5], "names": ["no", "yes"], "edge_belongs_to": "upper"}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("format", "helpers.decisions/9", "format is 'helpers.decisions/9'"),
        ("more", 1, "must not have the field 'more'"),
        ("note", None, "note is None"),
        ("source", {"model": 3}, "source.model is 3"),
        ("by_label", [1], "by_label.0 is 1"),
        ("by_label", [["a", {}]], "must have the field 'by_label.0.1.edges'"),
        ("by_label", [["a", RANGES], ["a", RANGES]], "must name each label once"),
        ("by_label", [["a", {**RANGES, "edges": ["0.5"]}]], "edges.0 is '0.5'"),
        ("by_label", [[True, RANGES]], "by_label.0.0.* is True"),
        ("buckets", 3, "buckets is 3"),
        ("buckets", {**RANGES, "edges": ["0.5"]}, "buckets.edges.0 is '0.5'"),
        ("verified.max_risk", "0.5", "max_risk"),
        ("calibrator", {"format": "x"}, "format"),
        ("verified.max_risk", 2, "max_risk"),
        ("verified.n_errors", -1, "n_errors"),
        ("verified.n_errors", 10**6, "must rise"),
        ("verified.n_labels", 4.5, "n_labels"),
        ("verified.rule", "0f3a", "one is of the rule 0f3a"),
        ("verified.verdict", "holds", "verdict"),
    ],
)
def test_a_policy_file_with_wrong_parts_is_named(whole, tmp_path, place, value, says):
    path, stored = tmp_path / "policy.json", whole.to_dict()
    *inside, name = place.split(".")
    part = stored["verified"][0] if inside else stored
    part[name] = value
    path.write_text(json.dumps(stored), "utf-8")
    with pytest.raises(ValueError, match=rf"policy.json: [\s\S]*{says}"):
        Policy.load(path)
    del part[name]
    if name not in ("more", "verdict", "rule"):
        with pytest.raises(ValueError, match=name):
            Policy.from_dict(stored)


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


def test_what_was_verified_is_the_action_that_the_policy_takes():
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
    more = {"groups": np.repeat(range(20), 20), "rng": 0}
    assert policy.verify(table, 0.3, **more).verified[0].n_labels == 20


def test_segments_hold_together_and_the_worst_is_named(tmp_path):
    table = labelled(600)
    table["site"] = np.resize(["a", "b", "b"], 600)
    policy = Policy(TRUST_BUCKETS)
    whole, *parts = policy.verify(table, 0.3, by="site").verified
    assert whole == policy.verify(table, 0.3).verified[0]
    for one, site in zip(parts, ("a", "b"), strict=True):
        own = policy.verify(table[table["site"] == site], 0.3, 0.025).verified[0]
        assert one == replace(own, by="site", segment=site)
    worst = max(parts, key=lambda one: one.high)
    verified = policy.verify(table, 0.3, by="site")
    card = str(verified)
    assert "  2 values of site (2 not enough data); the worst:" in card
    assert f"trust where site is {worst.segment}: " in card
    assert card.count("where site is") == 1
    verified.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json").verified == verified.verified
    with pytest.raises(ValueError, match="must have the column 'place'"):
        policy.verify(table, 0.3, by="place")


def test_a_verification_belongs_to_one_rule():
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


def test_the_same_rule_fitted_another_day_is_the_same_rule():
    table = labelled(300)
    rules = set()
    for day in ("2026-01-01", "2026-01-02"):
        maps = TopVersusAll(PlattScalingCalibrator())
        maps.fit(table[["p_a", "p_b", "p_c"]], table["truth"])
        maps.fitted_at_ = maps.calibrator_.fitted_at_ = day
        rules.add(Policy.from_threshold(0.6, calibrator=maps).rule)
    assert len(rules) == 1


def test_rows_that_the_calibrator_was_fitted_on_verify_nothing():
    table = labelled(300)
    platt = PlattScalingCalibrator().fit(
        table["confidence"][:200], table["correct"][:200]
    )
    policy = Policy.from_threshold(0.6, calibrator=platt)
    says = "that no calibrator was fitted on and no prompt shows; 200 of these 300"
    with pytest.raises(ValueError, match=says):
        policy.verify(table, 0.3)
    assert policy.verify(table[200:], 0.3).verified[0].n_labels == 100


@pytest.mark.parametrize(
    "calibrator",
    [
        PlattScalingCalibrator(),
        TopLabelCalibrator(PlattScalingCalibrator()),
        VectorScaling(),
        ProbabilityCalibrator(),
    ],
    ids=lambda calibrator: type(calibrator).__name__,
)
def test_calibrated_confidence_decides(calibrator):
    columns = ["p_a", "p_b", "p_c"]
    outcome = "truth"
    if isinstance(calibrator, PlattScalingCalibrator):
        columns, outcome = "confidence", "correct"
    known, table = labelled(600), labelled(100, seed=1)
    calibrator.fit(known[columns], known[outcome], source=SOURCE)
    table.loc[7, columns] = np.nan
    policy = Policy(TRUST_BUCKETS, calibrator)
    acted = policy.apply(table, source=SOURCE)
    assert acted.loc[7, "action"] == "ask"
    whole, rest = table.drop(index=7), acted.drop(index=7)
    expected = np.asarray(calibrator.predict(whole[columns]))
    if expected.ndim == 2:
        at = whole["prediction"].map({"a": 0, "b": 1, "c": 2})
        expected = expected[np.arange(len(at)), at]
    assert np.array_equal(rest["decided_on"], expected)
    assert rest["action"].tolist() == TRUST_BUCKETS.assign(expected).tolist()
    assert rest["reason"].str.startswith("calibrated confidence").all()
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again.apply(table, source=SOURCE).equals(acted) and again.rule == policy.rule
    for column in np.atleast_1d(columns):
        with pytest.raises(ValueError, match=f"table must have the column '{column}'"):
            policy.apply(table.drop(columns=column), source=SOURCE)
        with pytest.raises(ValueError, match=f"^{column} must be numbers; row 0 is 'm"):
            policy.apply(table.assign(**{column: "much"}), source=SOURCE)


def test_a_map_of_confidences_needs_no_label_probabilities():
    known, table = labelled(600), labelled(100, seed=1)
    made = ProbabilityCalibrator().fit(known["confidence"], known["correct"])
    acted = Policy(TRUST_BUCKETS, made).apply(table)
    assert np.array_equal(acted["decided_on"], made.predict(table["confidence"]))


def test_confidence_of_a_label_that_is_not_the_most_probable():
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
