"""Survey-weighted means: by hand, against statsmodels, and over drawn samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from helpers.metrics import weighted_mean

# Six rows of four hospitals in two strata.
VALUES = [1, 0, 1, 0, 1, 1]
WEIGHTS = [1, 2, 1, 2, 2, 2]
STRATA = list("aaabbb")
HOSPITALS = [1, 1, 2, 3, 4, 4]


def survey(seed: int, n: int = 60) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    hospitals = rng.integers(0, 12, n)
    return {
        "values": rng.normal(size=n) + 0.3 * hospitals,
        "weights": rng.uniform(1, 50, n),
        "strata": hospitals % 3,
        "clusters": hospitals,
    }


def test_by_hand() -> None:
    # The mean is 6 / 10. Hospitals score −.08 and .04 in stratum a, −.12 and .16 in b:
    # .06 and .14 on each side of their stratum's mean.
    found = weighted_mean(VALUES, WEIGHTS, strata=STRATA, clusters=HOSPITALS)
    error = np.sqrt(2 * 2 * 0.06**2 + 2 * 2 * 0.14**2)
    reach = student.ppf(0.975, 4 - 2) * error
    assert found == pytest.approx((0.6, 0.6 - reach, 0.6 + reach, error, 100 / 18))
    narrow = weighted_mean(
        VALUES, WEIGHTS, strata=STRATA, clusters=HOSPITALS, level=0.5
    )
    assert narrow.high - 0.6 == pytest.approx(student.ppf(0.75, 2) * error)


def test_a_lone_hospital_is_held_against_the_mean_of_all() -> None:
    # Stratum a is hospital 1, whose rows score −.08 and .04 together.
    found = weighted_mean(VALUES, WEIGHTS, strata=STRATA, clusters=[1, 1, 1, 3, 4, 4])
    error = np.sqrt(0.04**2 + 2 * 2 * 0.14**2)
    reach = student.ppf(0.975, 3 - 2) * error
    assert found == pytest.approx((0.6, 0.6 - reach, 0.6 + reach, error, 100 / 18))


@pytest.mark.parametrize("seed", range(5))
def test_one_stratum_is_a_regression_on_a_constant(seed: int) -> None:
    """With clusters, the two agree without any factor."""
    data = survey(seed) | {"strata": None}
    found = weighted_mean(**data, level=0.9)
    model = sm.WLS(data["values"], np.ones(60), weights=data["weights"])
    groups = {"groups": data["clusters"]}
    fitted = model.fit(cov_type="cluster", cov_kwds=groups, use_t=True)
    low, high = fitted.conf_int(0.1)[0]
    assert found[:4] == pytest.approx((fitted.params[0], low, high, fitted.bse[0]))


def test_rows_of_equal_weight_are_a_plain_sample() -> None:
    values = survey(0)["values"]
    found = weighted_mean(values, np.full(60, 7))
    error = values.std(ddof=1) / np.sqrt(60)
    low, high = student.interval(0.95, 59, values.mean(), error)
    assert found == pytest.approx((values.mean(), low, high, error, 60))


def test_strata_take_away_what_lies_between_them() -> None:
    values = np.repeat([0.0, 10.0], 20) + survey(1)["values"][:40]
    strata = np.repeat([0, 1], 20)
    apart = weighted_mean(values, np.ones(40), strata=strata)
    together = weighted_mean(values, np.ones(40))
    assert apart.value == together.value
    assert apart.standard_error < 0.5 * together.standard_error


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-10, 10))
def test_units_order_and_names_do_not_matter(
    seed: int, scale: float, shift: float
) -> None:
    data = survey(seed)
    found = np.array(weighted_mean(**data))
    turned = np.random.default_rng(seed).permutation(60)
    moved = {name: column[turned] for name, column in data.items()}
    moved["weights"] = moved["weights"] * scale
    moved["clusters"] = [f"Hospital {at}" for at in moved["clusters"]]
    assert np.array(weighted_mean(**moved)) == pytest.approx(found)
    moved["values"] = moved["values"] * scale + shift
    again = np.array(weighted_mean(**moved))
    assert again[:3] == pytest.approx(found[:3] * scale + shift)
    assert again[3:] == pytest.approx(found[3:] * [scale, 1])


def test_a_name_in_two_strata_is_two_hospitals() -> None:
    data = survey(2) | {"clusters": survey(2)["clusters"] // 3}
    own = data["clusters"] + 100 * data["strata"]
    assert weighted_mean(**data) == weighted_mean(**data | {"clusters": own})


def test_the_weight_0_leaves_out_rows_but_not_the_design() -> None:
    data = survey(3)
    data["weights"][data["clusters"] == 4] = 0  # one of four in its stratum
    found = weighted_mean(**data)
    some = data["weights"] > 0
    left = weighted_mean(**{name: column[some] for name, column in data.items()})
    assert found.value == pytest.approx(left.value)
    assert found.effective_n == pytest.approx(left.effective_n)
    # What hospitals can add to a total: one of them nothing.
    assert found.standard_error != pytest.approx(left.standard_error, rel=1e-3)
    reach = found.high - found.value
    assert reach / found.standard_error == pytest.approx(student.ppf(0.975, 11 - 3))


def test_without_freedom_there_is_no_interval() -> None:
    for design in ({"clusters": [1, 1, 1]}, {"strata": [1, 2, 3]}):
        found = weighted_mean([1, 0, 1], [1, 1, 2], **design)  # type: ignore[arg-type]
        assert found.value == 0.75 and found.effective_n == pytest.approx(16 / 6)
        assert np.isnan([found.low, found.high, found.standard_error]).all()


def test_intervals_cover_as_often_as_they_say() -> None:
    """Samples of hospitals from three strata of a population of known mean."""
    rng = np.random.default_rng(0)
    level = rng.beta(4, 2, (3, 400))  # of each hospital
    size = np.array([5, 20, 60])  # how many each drawn hospital stands for
    truth = size @ level.mean(axis=1) / size.sum()
    covered = 0
    for _ in range(300):
        drawn = np.stack([rng.choice(stratum, 12) for stratum in level])
        strata, hospitals = np.repeat(np.indices(drawn.shape), 5, axis=2).reshape(2, -1)
        values = rng.random(180) < np.repeat(drawn.ravel(), 5)
        found = weighted_mean(values, size[strata], strata=strata, clusters=hospitals)
        covered += found.low <= truth <= found.high
    assert covered / 300 == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": []}, "values must be one column with at least one row"),
        ({"values": [[1, 0, 1]]}, r"values must be one column .* shape \(1, 3\)"),
        ({"values": [1, np.nan, 0]}, "values must not be missing; 1 of"),
        ({"weights": [1, 2]}, "weights must have one value for each of 3 rows"),
        ({"weights": [1, -2, 1]}, "weights must be 0 or more; row 1 is -2.0"),
        ({"weights": [1, 1, np.inf]}, "weights must be finite; row 2 is inf"),
        ({"weights": [0, 0, 0]}, "weights must not all be 0"),
        ({"strata": [1, 2]}, "strata must have one value for each of 3 rows"),
        ({"strata": [1, None, 2]}, "strata must not be missing; 1 of"),
        ({"clusters": [1]}, "clusters must have one value for each of 3 rows"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_bad_input(change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"values": [1, 0, 1], "weights": [1, 1, 1]} | change
    with pytest.raises(ValueError, match=f"^{says}"):
        weighted_mean(**arguments)


def test_text_is_no_number() -> None:
    with pytest.raises(TypeError, match="^values must be numbers"):
        weighted_mean(["right", "wrong"], [1, 1])
