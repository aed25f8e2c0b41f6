"""Rules of helpers.finetune: splits, near duplicates, and models side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact

from helpers.finetune import (
    accuracy_above_table,
    compare,
    error_rate_difference,
    grouped_split,
    joined_groups,
    near_duplicates,
)
from helpers.metrics import (
    Binning,
    auroc,
    brier_score,
    debiased_calibration_error,
    expected_calibration_error,
    log_loss,
    noise_floor,
    paired_difference,
)

PARTS = ("train", "calibration", "test")


def test_rows_are_joined_by_any_column_and_by_chains():
    table = pd.DataFrame(
        {
            "family": ["a", " A ", "b", "c", "d", "e", "e"],
            "entity": ["Ann", "", "ann", None, float("nan"), "c", "  "],
        }
    )
    # "c" as a family and "c" as an entity are different things.
    assert joined_groups(table).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert joined_groups(table.to_numpy()).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert joined_groups([3, 1, 3, 2]).tolist() == [0, 1, 0, 2]
    assert joined_groups(["", "", None]).tolist() == [0, 1, 2]
    chain = [[n, n // 2 + 100] for n in (1, 2, 3, 4, 5)] + [[1, 102], [3, 102]]
    assert joined_groups(chain).tolist() == [0, 0, 0, 0, 0, 0, 0]
    assert joined_groups(chain[:5]).tolist() == [0, 1, 1, 2, 2]


def naive_components(table: list[tuple[Any, ...]]) -> list[int]:
    """Rows joined one by one, until nothing changes."""
    names = list(range(len(table)))
    for _ in table:
        for a, first in enumerate(table):
            for b, second in enumerate(table):
                if any(x == y and x for x, y in zip(first, second, strict=True)):
                    names[a] = names[b] = min(names[a], names[b])
    return names


tables = st.lists(
    st.tuples(st.sampled_from(["", *"abcdefgh"]), st.sampled_from(["", *"uvwxyz"])),
    min_size=9,
    max_size=16,
)


@given(tables, st.integers(0, 5))
def test_no_component_is_in_two_parts(table, seed):
    frame = pd.DataFrame(table, columns=["family", "entity"])
    names = naive_components(table)
    n = len(set(names))
    assert len(set(zip(names, joined_groups(frame).tolist(), strict=True))) == n
    try:
        parts = grouped_split(frame, stratify=[n % 2 for n in names], seed=seed)
    except ValueError as error:
        assert "groups must" in str(error)
        largest = max(map(names.count, names))
        assert n < 3 or largest > 0.2 * len(names)
        return
    assert set(parts) == set(PARTS)
    assert len(set(zip(names, parts, strict=True))) == n


def a_data_set(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for kind, label, n in (("sports", "positive", 190), ("news", "negative", 190)):
        family = np.repeat(np.arange(60), rng.integers(2, 9, 60))[:n]
        rows += [(kind, label, f"{kind} {f}", f"{kind} {f // 2}") for f in family]
    family = np.repeat(np.arange(60), rng.integers(1, 7, 60))[:120]
    sides = rng.choice(["positive", "negative"], 120)
    rows += [
        ("both", side, f"both {f}", "") for f, side in zip(family, sides, strict=True)
    ]
    return pd.DataFrame(rows, columns=["kind", "label", "family", "entity"])


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (0.5, 0.25, 0.25), (0.8, 0, 0.2)])
def test_sizes_and_strata_are_as_wanted(shares):
    table = a_data_set()
    parts = grouped_split(
        table[["family", "entity"]], shares=shares, stratify=table[["kind", "label"]]
    )
    for part, share in zip(PARTS, shares, strict=True):
        assert (parts == part).mean() == pytest.approx(share, abs=0.02)
        for _, rows in table.groupby(["kind", "label"]):
            assert (parts[rows.index] == part).mean() == pytest.approx(share, abs=0.05)
    # Without strata they may fall as they like, and sizes still fit.
    plain = grouped_split(table[["family", "entity"]], shares=shares)
    assert (plain == "test").mean() == pytest.approx(shares[2], abs=0.005)


def test_equal_components_fill_parts_exactly_and_by_seed():
    # Families of one label each: every part has its share of both.
    labels, families = np.repeat(["a", "b"], 50), np.repeat(np.arange(10), 10)
    first, again, other = (
        grouped_split(families, stratify=labels, seed=seed) for seed in (1, 1, 2)
    )
    table = pd.crosstab(first, labels)
    assert table.loc[list(PARTS), "a"].tolist() == [30, 10, 10]
    assert np.array_equal(again, first) and (other != first).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shares": (0.6, 0.2, 0.1)}, "shares must .* sum to 1; not"),
        ({"shares": (1.2, -0.1, -0.1)}, "shares must be one number of 0 or more"),
        ({"groups": ["a"] * 9 + ["b"]}, r"rows than .*, 6 of 10; .* row 0 are 9"),
        ({"groups": ["a"] * 6 + ["b"] * 4, "shares": (0.6, 0.39, 0.01)}, "leave '.*'"),
        ({"groups": ["a"] * 5 + ["b"] * 5}, "2 components of at most 5 of 10 rows"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_splits(change, says):
    arguments = {"groups": list(range(10))} | change
    with pytest.raises(ValueError, match=says):
        grouped_split(**arguments)


SUBJECTS = [
    "The referee looked at the screen for four minutes",
    "Our paper prints the council's budget on page nine",
    "Rain moved the second half to a Tuesday evening",
    "A columnist asked both mayors the same question",
    "Swimmers will share the lanes with the school",
    "The bulletin had an interview about parking fees",
    "Nobody in the stand knew which rule applied",
    "Editors moved the crossword to the back cover",
]
PLANTED = [
    ("THE REFEREE LOOKED AT THE SCREEN FOR FOUR MINUTES", 0, 1.0),
    ("Our paper prints -- the councils budget, on page nine!", 1, 1.0),
    ("To a Tuesday evening rain moved the second half.", 2, 1.0),
    ("A columnist asked both mayors the same questions", 3, 0.8),
    ("Swimmers will share the lanes with a school", 4, 0.8),
    ("The bulletin had an interview about library fees", 5, 0.6),
    ("Nobody in the stànd  knew\twhich rule applied", 6, 1.0),
]


def test_planted_copies_are_found_and_nothing_else():
    texts = SUBJECTS + [text for text, _, _ in PLANTED]
    found = near_duplicates(texts)
    assert list(found.columns) == ["row_a", "row_b", "similarity", "text_a", "text_b"]
    pairs = {(a, b): s for a, b, s in found.iloc[:, :3].itertuples(index=False)}
    expected = {(of, 8 + at): least for at, (_, of, least) in enumerate(PLANTED)}
    assert set(pairs) == set(expected)
    for pair, least in expected.items():
        assert pairs[pair] == 1 if least == 1 else least <= pairs[pair] < 1
    assert found["similarity"].is_monotonic_decreasing
    for row in found.itertuples():
        assert (row.text_a, row.text_b) == (texts[row.row_a], texts[row.row_b])
    none = near_duplicates(SUBJECTS)
    assert none.empty and list(none.columns) == list(found.columns)


def test_pairs_of_one_group_are_left_out():
    texts = ["Same words here", "same words here", "same words, here"]
    found = near_duplicates(texts, groups=["a", " A", "b"])
    assert found[["row_a", "row_b"]].to_numpy().tolist() == [[0, 2], [1, 2]]
    assert near_duplicates(texts, groups=[1, 1, 1]).empty


@settings(max_examples=15)
@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8), st.data()
)
def test_exact_copies_are_always_found(texts, data):
    row = data.draw(st.integers(0, len(texts) - 1))
    found = near_duplicates([*texts, texts[row]], threshold=1.0)
    pairs = set(zip(found["row_a"], found["row_b"], strict=True))
    assert (row, len(texts)) in pairs
    assert (found["similarity"] == 1).all()


def test_blocks_change_nothing(monkeypatch):
    texts = SUBJECTS + [text for text, _, _ in PLANTED]
    whole = near_duplicates(texts, threshold=0.05)
    monkeypatch.setattr("helpers.finetune.splits.BLOCK", 60)  # 4 rows a block
    pd.testing.assert_frame_equal(near_duplicates(texts, threshold=0.05), whole)
    assert len(whole) > 10 and whole["similarity"].min() >= 0.05


@pytest.mark.parametrize(
    ("threshold", "says"), [(0, "above 0"), (60, "lie between 0 and 1, not 60")]
)
def test_bad_thresholds_of_similarity(threshold, says):
    with pytest.raises(ValueError, match=f"threshold must .*{says}"):
        near_duplicates(["a"], threshold=threshold)


LABELS = ["a", "b", "c"]


def tidy(rows: Any, labels: Any = LABELS, index: Any = None) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[f"p_{label}" for label in labels], index=index)
    values = table.to_numpy()
    table["off_label"] = 0.25
    table["prediction"] = np.array(labels)[values.argmax(axis=1)]
    table["confidence"] = values.max(axis=1)
    return table


def two_tables(n: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    pull = np.eye(3)[truth]
    shared = rng.normal(size=(n, 3))
    made = []
    for strength in (1.0, 2.0):
        odds = strength * pull + shared + 0.5 * rng.normal(size=(n, 3))
        rows = np.exp(2 * odds)
        made.append(tidy(rows / rows.sum(axis=1, keepdims=True)))
    return made[0], made[1], np.array(LABELS)[truth]


def one_side(table: pd.DataFrame, truth: np.ndarray) -> dict[str, float]:
    """The measures of one model, by the public functions."""
    p, y = table["confidence"].to_numpy(), (table["prediction"] == truth).to_numpy()
    rows = table[[f"p_{label}" for label in LABELS]]
    rule: dict[str, Any] = {"binning": Binning(10)}
    floor = noise_floor(p, **rule, n_simulations=300, rng=0)
    return {
        "accuracy": y.mean(),
        "mean confidence": p.mean(),
        "confidence − accuracy": p.mean() - y.mean(),
        "ECE": expected_calibration_error(p, y, **rule),
        "noise floor, mean": floor.mean,
        "noise floor, 95 %": floor.upper,
        "debiased squared error": debiased_calibration_error(p, y, **rule),
        "MCE": expected_calibration_error(p, y, **rule, norm="max"),
        "Brier score": brier_score(p, y),
        "Brier score of labels": brier_score(rows, truth),
        "log loss": log_loss(p, y),
        "log loss of labels": log_loss(rows, truth),
        "AUROC": auroc(p, y),
        "rows above": (p >= 0.9).sum(),
        "accuracy above": y[p >= 0.9].mean(),
    }


def test_values_are_those_of_the_measures():
    base, tuned, truth = two_tables(300)
    found = compare(base, tuned, truth, n_bins=10, n_resamples=50)
    assert (found.n, found.n_groups) == (300, 300)
    for column, table in (("base", base), ("tuned", tuned)):
        expected = one_side(table, truth)
        assert list(found.table.index) == list(expected)
        for name, value in expected.items():
            by_chance = 0.01 if "floor" in name else 1e-9
            got = found.table.loc[name, column]
            assert got == pytest.approx(value, abs=by_chance), name
    change = found.table["tuned"] - found.table["base"]
    floors = found.table.index.str.startswith("noise floor")
    got = found.table["difference"]
    assert got[~floors].to_numpy() == pytest.approx(change[~floors].to_numpy())
    assert found.table.loc[floors, ["difference", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_a_plain_paired_bootstrap(grouped):
    base, tuned, truth = two_tables(120, 1)
    groups = np.arange(120) % 40 if grouped else np.arange(120)
    n_groups, n = groups.max() + 1, 60
    names = [f"g{g}" for g in groups] if grouped else None
    rule = {"threshold": 0.8, "n_resamples": n, "rng": 4}
    found = compare(base, tuned, truth, groups=names, **rule)
    seed = int(np.random.default_rng(4).integers(2**32))
    draws = np.random.default_rng(seed).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), n
    )

    def measures(table, rows):
        part, true = table.iloc[rows], truth[rows]
        right = (part["prediction"] == true).to_numpy()
        above = (part["confidence"] >= 0.8).to_numpy()
        labels = part[[f"p_{label}" for label in LABELS]]
        return {
            "accuracy": right.mean(),
            "Brier score": brier_score(part["confidence"], right),
            "Brier score of labels": brier_score(labels, true),
            "log loss of labels": log_loss(labels, true),
            "rows above": 120 * above.mean(),
            "accuracy above": right[above].mean(),
        }

    drawn = [np.repeat(np.arange(120), draw[groups]) for draw in draws]
    before, after = (
        pd.DataFrame([measures(table, rows) for rows in drawn])
        for table in (base, tuned)
    )
    for name, low, high in (after - before).quantile([0.025, 0.975]).T.itertuples():
        got = found.table.loc[name, ["low", "high"]].to_numpy(dtype=float)
        assert got == pytest.approx([low, high], abs=1e-9), name
    pairs = [(t["confidence"], t["prediction"] == truth) for t in (base, tuned)]
    ece = paired_difference(*pairs, "ece", groups=groups, n_resamples=n, rng=seed)
    got = found.table.loc["ECE", ["difference", "low", "high"]].to_numpy(dtype=float)
    assert got == pytest.approx(tuple(ece), abs=1e-12)


def test_mcnemar_by_hand():
    sure = {"a": [1, 0, 0], "b": [0, 1, 0]}
    # Both right 2, only base 1, only tuned 5, both wrong 2.
    base = tidy([sure[x] for x in "aaabbbbbbb"])
    tuned = tidy([sure[x] for x in "aabaaaaabb"])
    found = compare(base, tuned, ["a"] * 10, n_resamples=50)
    # 2 · (1 + 6) / 2⁶
    assert found.mcnemar == pytest.approx((1, 5, 14 / 64))
    assert "only base was right in 1 rows, only tuned in 5; p = 0.219" in found.verdict
    itself = compare(base, base, ["a"] * 10, n_resamples=50)
    assert itself.mcnemar == (0, 0, 1)
    changes = itself.table[["difference", "low", "high"]].dropna()
    assert (changes == 0).all(axis=None)


def test_columns_and_rows_may_come_in_another_order():
    base, tuned, truth = two_tables(50, 4)
    one = compare(base, tuned, truth, n_resamples=50).table
    turned = tuned[["confidence", "p_c", "prediction", "p_a", "p_b"]][::-1]
    series = pd.Series(truth)[::-1]
    other = compare(base, turned, series, n_resamples=50).table
    pd.testing.assert_frame_equal(other, one)


def test_nothing_above_the_threshold():
    base, tuned, truth = two_tables(60, 5)
    base["confidence"] = 0.5
    table = compare(base, tuned, truth, n_resamples=50).table
    assert table.loc["rows above", "base"] == 0
    assert table.loc["accuracy above"][:5].isna().tolist() == [1, 0, 1, 1, 1]
    # One row at the threshold, often not drawn: such resamples are left out.
    base.loc[0, "confidence"] = 0.9
    right = tuned["prediction"] == truth
    table = compare(base, tuned, truth, n_resamples=200).table
    assert table.loc["rows above", "base"] == 1
    row = table.loc["accuracy above"]
    expected = right[tuned["confidence"] >= 0.9].mean() - (
        base.loc[0, "prediction"] == truth[0]
    )
    assert row["difference"] == pytest.approx(expected)
    assert row["low"] <= expected <= row["high"]


def test_certain_and_wrong():
    base, tuned, truth = two_tables(40, 6)
    wrong = (LABELS.index(truth[0]) + 1) % 3
    tuned.loc[0, ["p_a", "p_b", "p_c"]] = np.eye(3)[wrong]
    tuned.loc[0, ["prediction", "confidence"]] = [LABELS[wrong], 1.0]
    found = compare(base, tuned, truth, n_resamples=50)
    for name in ("log loss", "log loss of labels"):
        assert found.table.loc[name, "difference"] == np.inf
        assert np.isnan(found.table.loc[name, "low"])
    assert "inf" in repr(found)


def test_what_is_shown():
    base, tuned, truth = two_tables(60, 7)
    found = compare(base, tuned, truth, groups=np.arange(60) // 2, n_resamples=50)
    text, html = repr(found), found._repr_html_()
    assert text.startswith("Comparison of two models on 60 rows in 30 groups\n")
    assert found.verdict in text
    assert all(name in text and name in html for name in found.table.index)
    accuracy = found.table.loc["accuracy"]
    line = next(line for line in text.splitlines() if line.startswith("accuracy "))
    assert f"{accuracy['base']:.4f}" in line and f"{accuracy['high']:.4f}" in line
    assert "<0.0" not in html  # escaped


@pytest.mark.parametrize(
    ("columns", "more", "says"),
    [
        ({"confidence": None}, {}, "tuned must have the column 'confidence'"),
        ({"p_c": None}, {}, "tuned must have the labels of base"),
        ({"prediction": "z"}, {}, "prediction of tuned must .* row 0 is 'z'"),
        ({"confidence": 1.5}, {}, r"confidence of tuned must lie .* row 0 is 1.5"),
        ({"p_a": 1.0, "p_b": 1.0}, {}, "probabilities of tuned must sum to one"),
        ({}, {"truth": list("abcz")}, "truth must be one of .* row 3 is 'z'"),
        ({}, {"threshold": 90}, "threshold must lie between 0 and 1, not 90"),
        ({}, {"n_bins": 0}, "n_bins must be"),
        ({}, {"n_resamples": 0}, "n_resamples must be"),
    ],
)
def test_bad_comparisons(columns, more, says):
    base, tuned, _ = two_tables(4)
    gone = [name for name, value in columns.items() if value is None]
    tuned = tuned.assign(**columns).drop(columns=gone)
    with pytest.raises(ValueError, match=f"^{says}"):
        compare(base, tuned, **({"truth": list("abca")} | more))


def test_the_published_table_recomputed():
    """285 answers above, 47 of them wrong, against 92 and 10, on 300 texts."""
    confidence = {"base": [0.95] * 285 + [0.5] * 15, "tuned": [0.95] * 92 + [0.5] * 208}
    correct = {"base": [1] * 238 + [0] * 62, "tuned": [1] * 82 + [0] * 218}
    found = accuracy_above_table(pd.DataFrame(confidence), pd.DataFrame(correct))
    columns = ["above", "right", "errors", "accuracy", "error_rate"]
    assert found[columns].round(3).to_numpy().tolist() == [
        [285, 238, 47, 0.835, 0.165],
        [92, 82, 10, 0.891, 0.109],
    ]
    base, tuned = found.to_dict("records")
    assert base["errors_per_1000"] == pytest.approx(47 / 0.3)
    assert np.isnan(base["difference"]) and np.isnan(base["p_value"])
    assert tuned["difference"] == pytest.approx(10 / 92 - 47 / 285)
    assert tuned["p_value"] == pytest.approx(0.2414, abs=5e-5)
    for row in (base, tuned):
        exact = binomtest(row["right"], row["above"]).proportion_ci(method="exact")
        assert (row["low"], row["high"]) == pytest.approx(tuple(exact))


def test_rates_from_counts_alone():
    found = error_rate_difference([47, 10], [285, 92])
    assert found[:3] == pytest.approx((47 / 285, 10 / 92, 10 / 92 - 47 / 285))
    assert found.p_value == pytest.approx(fisher_exact([[47, 238], [10, 82]]).pvalue)
    # Tea tasted, by hand: 1 and 3 of 4; p = (16 + 1 + 16 + 1) / 70.
    assert error_rate_difference([1, 3], [4, 4]).p_value == pytest.approx(34 / 70)
    empty = error_rate_difference([0, 1], [0, 4])
    assert np.isnan(empty.first) and empty.second == 0.25 and np.isnan(empty.p_value)
    for counts, says in (
        (([1], [4, 4]), "errors must be two counts"),
        (([1, 2], [4]), "answered must be two counts"),
        (([1, 5], [4, 4]), "errors must be at most answered, 4, not 5"),
        (([-1, 2], [4, 4]), "errors must be a whole number of 0 or more, not -1"),
    ):
        with pytest.raises(ValueError, match=says):
            error_rate_difference(*counts)


def test_thresholds_by_hand():
    table = accuracy_above_table([0.5, 0.9, 0.95, 0.3], [0, 1, 0, 1], (0.9, 0.96, 0.0))
    assert table["model"].tolist() == ["model"] * 3
    assert table["threshold"].tolist() == [0.9, 0.96, 0.0]
    assert table["above"].tolist() == [2, 0, 4]  # 0.9 itself is above
    assert table["right"].tolist() == [1, 0, 2]
    assert table["errors_per_1000"].tolist() == [250, 0, 500]
    for name in ("accuracy", "low", "high", "error_rate"):
        assert table[name].isna().tolist() == [False, True, False]
    # Clopper and Pearson, one of two: 1 − √0.975 to √0.975.
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(
        [1 - 0.975**0.5, 0.975**0.5]
    )
    # One column of outcomes serves all models.
    confidence = {"raw": [0.9, 0.9, 0.2], "calibrated": [0.9, 0.6, 0.2]}
    both = accuracy_above_table(confidence, [1, 0, 1], (0.9, 0.5))
    assert both["model"].tolist() == ["raw", "calibrated"] * 2
    assert both["errors"].tolist() == [1, 0, 1, 1]
    assert both["difference"].isna().tolist() == [True, False] * 2
    assert both.loc[3, "difference"] == 0 and both.loc[3, "p_value"] == 1
    sure = accuracy_above_table([1.0] * 3, [1, 1, 1], level=0.9).loc[0]
    assert (sure["low"], sure["high"]) == pytest.approx((0.05 ** (1 / 3), 1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"thresholds": 0.9}, "thresholds must be one or more numbers, not 0.9"),
        ({"thresholds": (90,)}, "thresholds must lie between 0 and 1, not 90"),
        ({"level": 1}, "level must lie"),
        ({"confidence": {}}, "models of confidence, one or more"),
        ({"correct": {"a": [1], "c": [1]}}, r"one or more, \['a', 'b'\], not"),
        ({"confidence": {"a": [2.0], "b": [1.0]}}, "confidence of 'a' must lie"),
    ],
)
def test_bad_answers_above(change, says):
    models = {"a": [0.9], "b": [0.8]}
    arguments = {"confidence": models, "correct": [1]} | change
    with pytest.raises(ValueError, match=says):
        accuracy_above_table(**arguments)
