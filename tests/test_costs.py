"""Costs and thresholds: by hand, against a plain search, and over drawn samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from helpers.decisions import Costs, best_threshold, break_even, cost_curve
from helpers.metrics.resampling import drawn_groups

PLAIN = Costs(10, 2)


@pytest.mark.parametrize(
    ("costs", "reviewed", "even"),
    [
        (PLAIN, 2, 0.8),
        (Costs(10, 2, delay=1), 3, 0.7),
        (Costs(10, 2, right=-10), -8, 0.9),  # an error loses the earnings, too
        (Costs(10, 2, right=1, review_error=0.25), 2 + 2.5 + 0.75, 4.75 / 9),
        (Costs(10, 0), 0, 1.0),
        (Costs(10, 12), 12, 0.0),  # not -0.2
    ],
)
def test_review_and_break_even_by_hand(costs, reviewed, even):
    assert costs.reviewed == reviewed and break_even(costs) == pytest.approx(even)


prices = st.builds(
    Costs,
    st.floats(5, 100),
    st.floats(0, 20),
    delay=st.floats(0, 5),
    right=st.floats(-4, 4),
    review_error=st.floats(0, 1),
)


def test_curve_by_hand():
    costs = Costs(8, 1, right=-0.5, delay=0.5)
    found = cost_curve([0.6, 0.8, 0.9, 0.8], [0, 1, 1, 0], costs)
    # Reviewed rows cost 1, wrong ones 8, right ones −0.5.
    assert found["threshold"].tolist() == [math.inf, 0.9, 0.8, 0.6]
    assert found["coverage"].tolist() == [0, 0.25, 0.75, 1]
    assert found["risk"].to_numpy() == pytest.approx(
        [np.nan, 0, 1 / 3, 1 / 2], nan_ok=1
    )
    assert (4 * found["cost"]).tolist() == [4, 2.5, 8, 15]


rows = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


@given(rows, prices)
def test_choice_is_that_of_a_plain_search(drawn, costs):
    scores, correct = (np.array(column) for column in zip(*drawn, strict=True))
    found = best_threshold(scores, correct, costs, n_resamples=5)
    at = cost_curve(scores, correct, costs)
    every = [
        np.where(
            scores >= cut, np.where(correct, costs.right, costs.error), costs.reviewed
        ).mean()
        for cut in at["threshold"]
    ]
    assert at["cost"].to_numpy() == pytest.approx(np.array(every))
    assert found.apparent == pytest.approx(min(every))
    assert found.review_all == pytest.approx(every[0])
    assert found.automate_all == pytest.approx(every[-1])
    own = at[at["threshold"] == found.threshold].iloc[0]
    assert own["cost"] == pytest.approx(found.apparent)
    assert own["coverage"] == found.coverage
    assert own["risk"] == pytest.approx(found.risk, nan_ok=True)
    assert found.cost.value == pytest.approx(found.apparent + found.optimism)
    assert found.cost.low <= found.apparent + 1e-9


def sample(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(3, 1, n)
    return scores, rng.random(n) < scores


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_a_plain_loop(grouped):
    seed = int(grouped)
    n, costs = 60, Costs(10, 3, right=-1, delay=0.5)
    scores, correct = sample(seed, n)
    order = np.argsort(-scores)
    scores, correct = scores[order], correct[order]
    codes = np.arange(n) % 20 if grouped else np.arange(n)
    rule = {"n_resamples": 40, "rng": seed, "level": 0.8}
    rule["groups"] = [f"Page {at}" for at in codes] if grouped else None
    found = best_threshold(scores, correct, costs, **rule)

    def cost(rows, threshold):
        at = cost_curve(scores[rows], correct[rows], costs, thresholds=[threshold])
        return float(at["cost"][0])

    everything = np.arange(n)
    loss, unseen = [], []
    for counts in next(drawn_groups(codes, 40, np.random.default_rng(seed))):
        rows = np.repeat(everything, counts)
        curve = cost_curve(scores[rows], correct[rows], costs)
        picked = curve["threshold"][curve["cost"].argmin()]
        loss.append(cost(everything, picked) - cost(rows, picked))
        unseen.append(cost(everything[counts == 0], picked))
    optimism = np.mean(unseen) - found.apparent
    assert found.optimism == pytest.approx(optimism)
    more = max(optimism - np.mean(loss), 0)
    # What Clopper and Pearson allow for the rows that are automated.
    part = scores >= found.threshold
    wrong, m = np.sum(~correct[part]), part.sum()
    ends = np.array(proportion_confint(wrong, m, alpha=0.2, method="beta"))
    least, most = m / n * 11 * (ends - wrong / m)
    low, high = np.quantile(loss, [0.1, 0.9])
    limits = [min(low, least), max(high + more, most)]
    assert found.cost[1:] == pytest.approx(found.apparent + np.array(limits))


def test_scores_may_be_on_any_scale_and_rows_in_any_order():
    scores, correct = sample(0)
    found = best_threshold(scores, correct, PLAIN, n_resamples=50)
    moved = best_threshold(100 * scores - 400, correct, PLAIN, n_resamples=50)
    assert moved.threshold == pytest.approx(100 * found.threshold - 400)
    assert moved.cost == found.cost
    turned = np.random.default_rng(1).permutation(len(scores))
    again = best_threshold(scores[turned], correct[turned], PLAIN, n_resamples=50)
    assert again == found


def test_of_equal_costs_the_choice_automates_least():
    found = best_threshold([0.9, 0.5], [1, 0], Costs(1, 1, right=0), n_resamples=5)
    assert found.threshold == 0.9  # to automate the wrong one, too, costs as much
    none = best_threshold([0.9, 0.5], [0, 0], Costs(1, 1), n_resamples=5)
    assert none.threshold == math.inf and none.coverage == 0 and math.isnan(none.risk)
    assert none.apparent == none.review_all == 1


def test_rows_without_an_error_are_no_proof():
    """No resample of them has an error, yet one in five may be wrong."""
    few = best_threshold([0.9] * 12, [1] * 12, PLAIN, n_resamples=20)
    assert few.cost.value == few.apparent == few.optimism == 0
    upper = proportion_confint(0, 12, method="beta")[1]
    assert few.cost.high == pytest.approx(10 * upper) and upper > 0.2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"error": math.inf}, "error must lie between -inf and inf, not inf"),
        ({"error": "2"}, "error must lie between -inf and inf, not '2'"),
        ({"error": 1, "right": 1}, r"error must be above right, .* \(1\), not 1"),
        ({"review": -1}, "review must be 0 or more, not -1"),
        ({"delay": math.nan}, "delay must be 0 or more, not nan"),
        ({"review_error": 5}, "review_error must lie between 0 and 1, not 5"),
    ],
)
def test_bad_prices(change, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        Costs(**{"error": 10, "review": 1} | change)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"scores": []}, ValueError, "scores must be one column with at least one row"),
        ({"correct": [1, 2]}, ValueError, "correct must be 0 or 1; row 1 is 2"),
        ({"level": 95}, ValueError, "level must lie between 0 and 1, not 95"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be a whole number of 1"),
        ({"rng": "chance"}, TypeError, "rng must be a Generator"),
        ({"thresholds": [0.5, np.nan]}, ValueError, "thresholds must not be missing"),
        ({"thresholds": []}, ValueError, "thresholds must be one column"),
    ],
)
def test_bad_data_and_rules(change, error, says):
    data = {"scores": [0.5, 0.7], "correct": [1, 0], "costs": PLAIN} | change
    (name,) = change
    if name != "thresholds":
        with pytest.raises(error, match=f"^{says}"):
            best_threshold(**data)
    if name in ("scores", "correct", "thresholds"):
        with pytest.raises(error, match=f"^{says}"):
            cost_curve(**data)
