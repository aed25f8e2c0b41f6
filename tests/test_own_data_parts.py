"""What a decision says beside its certificate: labels, prices, and likeness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from helpers.decisions import Costs, best_threshold, choose_threshold
from helpers.own_data.by_label import label_bounds
from helpers.own_data.likeness import BEYOND, Likeness
from helpers.own_data.prices import PolicyCost


def judged(sure: np.ndarray, right: np.ndarray, label: object = "a") -> pd.DataFrame:
    labels = np.broadcast_to(np.asarray(label, dtype=object), len(sure))
    truth = np.where(right, labels, "another")
    return pd.DataFrame({"truth": truth, "prediction": labels, "confidence": sure})


def test_a_label_is_bounded_by_the_best_of_its_larger_parts() -> None:
    sure = np.linspace(0.99, 0.6, 40)
    rows = judged(sure, np.arange(40) < 20)
    found = label_bounds(rows, 0.705).loc["a"]
    assert found[["n", "accepted", "errors"]].tolist() == [40, 29, 9]
    # Parts of 40, 20 and 10 rows; the threshold accepts 29, and so 40 speak for it.
    assert found["upper"] == pytest.approx(beta.isf(0.05 / 3, 21, 20))
    found = label_bounds(rows, sure[11]).loc["a"]
    assert found["accepted"] == 12 and found["errors"] == 0
    assert found["upper"] == pytest.approx(1 - (0.05 / 3) ** (1 / 20))
    two = pd.concat([rows, judged(sure, np.ones(40, bool), "b")], ignore_index=True)
    found = label_bounds(two, 0.0, delta=0.1)
    assert found.loc["b", "upper"] == pytest.approx(1 - (0.1 / 6) ** (1 / 40))
    assert label_bounds(rows, None)["upper"].isna().all()


def test_a_label_is_not_bounded_below_what_was_seen() -> None:
    sure = np.linspace(0.99, 0.5, 100)
    right = ~np.isin(np.arange(100), [0, 1, 2])
    assert label_bounds(judged(sure, right), sure[5]).loc["a", "upper"] == 0.5


def test_rows_of_one_confidence_are_in_one_part() -> None:
    rows = judged(np.repeat([0.9, 0.6], [30, 10]), np.ones(40, bool))
    # Half of the rows would be 20 of the 30 that are alike.
    found = label_bounds(rows, 0.9).loc["a", "upper"]
    assert found == pytest.approx(1 - (0.05 / 2) ** (1 / 40))


def test_bounds_of_labels_hold_whatever_threshold_is_chosen() -> None:
    """Two labels that are wrong at the same rate everywhere, and the worst threshold.

    Of 20 draws each fails with a probability of at most 0.05: five do, once in 390.
    """
    risks, failed = {"a": 0.1, "b": 0.3}, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.choice(list(risks), 120)
        right = rng.random(120) >= [risks[label] for label in labels]
        sure = rng.random(120)
        rows = judged(sure, right, labels)
        bounds = [label_bounds(rows, at)["upper"] for at in np.sort(sure)[::8]]
        failed += any((one[[*risks]] < [*risks.values()]).any() for one in bounds)
    assert failed < 5


def test_one_row_of_each_group_counts_for_a_label_too() -> None:
    rows = judged(np.full(80, 0.9), np.ones(80, bool))
    found = label_bounds(rows, 0.5, groups=np.arange(80) // 2)
    assert found.loc["a", ["n", "accepted"]].tolist() == [40, 40]


COSTS = Costs(80, 4)
SURE = np.array([0.9] * 6 + [0.4] * 4)
RIGHT = np.array([True] * 5 + [False] + [True] * 2 + [False] * 2)


def priced(sure: np.ndarray, right: np.ndarray, **settings: object) -> PolicyCost:
    certificate = choose_threshold(sure, right, 0.1)
    return PolicyCost.of(
        COSTS, sure, right, certificate, **{"is_calibrated": True, **settings}
    )


def test_costs_are_counted_by_hand() -> None:
    certificate = choose_threshold([0.9] * 40 + [0.4], [True] * 40 + [False], 0.1)
    assert certificate.threshold == 0.9
    cost = PolicyCost.of(COSTS, SURE, RIGHT, certificate, is_calibrated=True)
    # One error among six that pass, and four looks; three errors if all pass.
    assert cost.policy.value == pytest.approx(1000 * (80 + 4 * 4) / 10)
    assert cost.accept_all.value == pytest.approx(1000 * 3 * 80 / 10)
    assert cost.look_at_all == 4000
    assert cost.cheapest == 0.95  # where 20 errors less are worth a look: 1 - 4 / 80
    assert cost.at_cheapest == pytest.approx((4000, 4000, 4000))
    assert cost.policy.low < cost.policy.value < cost.policy.high


def test_nothing_certified_costs_a_look_at_everything() -> None:
    cost = priced(SURE, RIGHT)
    assert cost.policy == pytest.approx((4000, 4000, 4000)) and not cost.is_certified
    assert "10" not in str(cost).split("cost")[0]


def test_without_an_error_one_may_come_yet() -> None:
    sure = np.full(50, 0.99)
    cost = priced(sure, np.ones(50, bool))
    # Clopper and Pearson's limit of 0 of 50.
    most = 1000 * 80 * beta.isf(0.025, 1, 50)
    assert cost.policy == pytest.approx((0, 0, most))


def test_the_cheapest_threshold_is_searched_where_nothing_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 300)
    right = rng.random(300) < sure
    cost = priced(sure, right, is_calibrated=False)
    found = best_threshold(sure, right, COSTS)
    assert cost.cheapest == found.threshold
    assert cost.at_cheapest == pytest.approx([1000 * one for one in found.cost])


@pytest.mark.parametrize(("n_sure", "is_certified"), [(60, True), (10, False)])
def test_a_cheaper_threshold_is_certified_if_it_passed_too(
    n_sure: int, is_certified: bool
) -> None:
    # Ten rows are too few to pass a test by themselves.
    sure = np.repeat([0.97, 0.9], [n_sure, 100])
    cost = priced(sure, np.ones(len(sure), bool))
    assert cost.is_certified is is_certified
    told = "the promise holds there, too" if is_certified else "does not reach so far"
    assert told in str(cost)


def test_costs_cover_the_truth() -> None:
    """Intervals of a threshold that was certified on the same rows, 40 times.

    Where none is, everything is looked at, which costs what it costs. At 95 % of
    coverage, seven or more are missed once in 200.
    """
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sure = rng.uniform(0.5, 1, 150)
        right = rng.random(150) < 0.6 + 0.4 * sure
        certificate = choose_threshold(sure, right, 0.1)
        cost = PolicyCost.of(COSTS, sure, right, certificate, is_calibrated=True)
        cut = 1 if certificate.threshold is None else certificate.threshold
        wrong = 0.4 * (1 - cut) ** 2 / 2 / 0.5  # the integral of 0.4 (1 - s) from cut
        truth = 80 * wrong + 4 * (cut - 0.5) / 0.5
        missed += not cost.policy.low - 1e-6 <= 1000 * truth <= cost.policy.high + 1e-6
    assert missed < 7


def rows_like(
    n: int, seed: int, words: str = "apple pear plum fig kiwi"
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    texts = [
        " ".join([*rng.choice(words.split(), 3), f"n{seed}x{at}"]) for at in range(n)
    ]
    return pd.DataFrame(
        {
            "text": texts,
            "confidence": rng.uniform(0.5, 1, n),
            "off_label": rng.uniform(0, 0.5, n),
            "reason": "",
        }
    )


@pytest.fixture
def likeness() -> Likeness:
    rows = rows_like(200, 1)
    return Likeness.of(rows, np.arange(200), rows_like(200, 2)["text"])


def test_words_that_were_never_seen_are_counted() -> None:
    rows = rows_like(3, 0).assign(text=["Apple, PEAR", "apple saw saw drill", "?!"])
    found = Likeness.of(rows, np.array([0, 1, 2]), ["an apple", "a pear"])
    assert found.unseen.tolist() == [0, 0.75, 1]
    copies = Likeness.of(rows, np.array([0, 1, 1]), ["an apple", "a pear"])
    assert copies.unseen.tolist() == [0, 0.75]
    assert len(Likeness.of(rows, np.arange(3)).unseen) == 0


def test_each_difference_is_told_and_no_other(likeness: Likeness) -> None:
    new = rows_like(100, 3)
    assert likeness.warnings(new) == []
    for change, said in (
        ({"text": rows_like(100, 3, "saw drill axe file")["text"]}, "words"),
        ({"confidence": new["confidence"] ** 3}, "confidences"),
        ({"off_label": new["off_label"] + 0.3}, "no label"),
    ):
        (told,) = likeness.warnings(new.assign(**change))
        assert told.startswith("These rows are unlike") and said in told
    assert likeness.warnings(new[:1]) == []


def test_copies_are_no_evidence(likeness: Likeness) -> None:
    odd = rows_like(1, 3, "saw drill axe file")
    rows = [rows_like(20, 4), *[odd] * 50]
    assert likeness.warnings(pd.concat(rows, ignore_index=True)) == []


def test_rows_beyond_all_off_label_mass_are_counted(likeness: Likeness) -> None:
    most = likeness.off_label.max()
    masses = pd.Series([0, most, most + 1e-6, most + 0.01])
    assert likeness.is_beyond(masses).tolist() == [False, False, False, True]
    new = rows_like(201, 3)
    new.loc[:2, "reason"] = BEYOND
    (told,) = likeness.warnings(new)
    assert told.startswith("3 rows go to review") and "up to 1.0 would be" in told


def test_likeness_is_stored(likeness: Likeness) -> None:
    again = Likeness.from_dict(likeness.to_dict())
    for name in ("confidences", "words", "unseen", "off_label"):
        np.testing.assert_array_equal(getattr(again, name), getattr(likeness, name))
    with pytest.raises(ValueError, match="words is"):
        Likeness.from_dict({**likeness.to_dict(), "words": "?"})


def test_the_wheel_has_what_the_demo_needs(root: Path, tmp_path: Path) -> None:
    command = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", *map(str, command)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    made = tmp_path / "helpers" / "data" / "review_scores.parquet"
    assert made.read_bytes() == (root / "data" / made.name).read_bytes()
    assert (tmp_path / "helpers" / "own_data" / "page.html").exists()
