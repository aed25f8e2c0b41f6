"""Bounds of label probabilities from a list of tokens."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from helpers.bounds import (
    ListedToken,
    label_bounds,
    rounding_bounds,
    rounding_step,
    spelling_texts,
)
from helpers.datasets import load_published_tables

# What a reply of a vision model said of an injury's body part (test_vectors §5.2).
NEISS = {
    "88": -0.0009117019944824278,
    "76": -7.219661712646484,
    "80": -10.270442962646484,
    "30": -10.481380462646484,
    "75": -10.715755462646484,
}


def tokens(logprobs: dict[str, Any]) -> list[ListedToken]:
    return [ListedToken(text, logprob) for text, logprob in logprobs.items()]


def listing(**chances: float) -> list[ListedToken]:
    return tokens({text: math.log(p) for text, p in chances.items()})


def check_contains(found: Any, true: np.ndarray) -> None:
    """The truth lies between the limits, of the masses and of the shares."""
    assert (found.lower <= true + 1e-9).all() and (true <= found.upper + 1e-9).all()
    if true.sum() > 0:
        share = true / true.sum()
        assert (found.lower_share <= share + 1e-9).all()
        assert (share <= found.upper_share + 1e-9).all()
    total = found.lower.sum() + found.off_list + found.unlisted
    assert total == pytest.approx(1)


def check_open(found: Any) -> None:
    """Nothing is known."""
    assert found.lower.tolist() == found.lower_share.tolist() == [0] * len(found.labels)
    assert found.upper.tolist() == found.upper_share.tolist() == [1] * len(found.labels)
    assert (found.decided, found.prediction) == (False, None)


def limits(found: Any, label: str) -> tuple[float, float]:
    at = found.labels.index(label)
    return found.lower[at], found.upper[at]


# Published records -----------------------------------------------------------------


def test_published_table_leaves_two_thousandths_open():
    table = load_published_tables()
    rows = table[(table["text"] == "Best worst thing ever") & (table.probability > 0)]
    listed = [
        ListedToken(token, math.log(p))
        for token, p in zip(rows["token"], rows["probability"], strict=True)
    ]
    texts = spelling_texts(["yes", "no"], "case")
    found = label_bounds(listed, texts, ranked=False)
    assert found.unlisted == pytest.approx(0.0020, abs=1e-9)
    assert limits(found, "yes") == pytest.approx((0.5211, 0.5231))
    assert limits(found, "no") == pytest.approx((0.4763, 0.4783))
    assert found.off_list == pytest.approx(0.0006)
    assert (found.decided, found.prediction) == (True, "yes")
    # Were these the most probable tokens, three more spellings of "yes" and four of
    # "no" could have no more than the last of them each.
    ranked = label_bounds(listed, texts)
    assert ranked.upper - ranked.lower == pytest.approx([3e-4, 4e-4])


@pytest.mark.parametrize(
    ("logprobs", "labels", "expected", "unlisted"),
    [
        (NEISS, [*NEISS, "33"], {"88": (0.999088713,) * 2, "33": (0, 2.2193e-5)}, 9e-5),
        (
            {"Art": -0.028133942, "Sports": -4.278134},
            ["Art", "Sports"],  # which could be twice as probable as its listed token
            {"Art": (0.97226, 0.98613), "Sports": (0.01387, 0.02774)},
            0.0138735,
        ),
        (
            {"Technology": 0.0, " Technology": -18.75},
            ["Technology", "Art"],
            {"Technology": (1, 1), "Art": (0, 0)},
            0,
        ),
        (
            {"pink": -0.15612991, "spark": -2.6561298, "rain": -3.2811298}
            | {"purple": -3.5311298, "blue": -5.28113, "mag": -6.15613}
            | {"gl": -9.40613, "vio": -10.15613, " pink": -10.40613, "past": -10.53113},
            ["pink", "blue"],
            {"pink": (0.855448 + 0.000030, 0.8555681)},
            1 - 0.9999102239,
        ),
    ],
)
def test_published_records(logprobs, labels, expected, unlisted):
    family = "exact" if "88" in labels else "case"
    found = label_bounds(tokens(logprobs), spelling_texts(labels, family))
    for label, ends in expected.items():
        assert limits(found, label) == pytest.approx(ends, rel=1e-4, abs=1e-5)
    assert found.unlisted == pytest.approx(unlisted, abs=1e-5)
    assert found.off_list + found.lower.sum() == pytest.approx(1 - found.unlisted)
    assert found.decided and found.prediction == labels[0]


# Against distributions that are written down ---------------------------------------

VOCABULARY = ["a", "A", " a", "b", "B", "c", "x", "y", "z"]
LABELS = {"a": ["a", "A", " a"], "b": ["b", "B"], "c": ["c"]}


@st.composite
def positions(draw: Any, texts: list[str]) -> tuple[list[str], np.ndarray, int, int]:
    n = len(texts)
    weights = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    weights[draw(st.integers(0, n - 1))] += 1
    k = draw(st.integers(0, n))
    chosen = draw(st.sampled_from(np.flatnonzero(weights).tolist()))
    return texts, np.array(weights) / sum(weights), k, chosen


def listed_of(
    texts: list[str], truth: np.ndarray, k: int, at: int
) -> tuple[list[ListedToken], ListedToken]:
    """The k most probable tokens, hopeless ones with a sentinel, and the chosen one."""
    every = [
        ListedToken(text, math.log(p) if p else -9999.0)
        for text, p in zip(texts, truth, strict=True)
    ]
    return [every[i] for i in np.argsort(-truth, kind="stable")[:k]], every[at]


@given(positions(VOCABULARY), st.booleans())
def test_truth_lies_inside_for_every_length_of_list(case, first):
    texts, truth, k, at = case
    listed, chosen = listed_of(texts, truth, k, at)
    if first and chosen not in listed:  # some servers list it out of rank
        listed = [chosen, *listed]
    of = dict(zip(texts, truth, strict=True))
    true = np.array([sum(of[text] for text in LABELS[label]) for label in LABELS])
    for ranked in (True, False):
        found = label_bounds(listed, LABELS, chosen=chosen, ranked=ranked)
        assert found.problem is None
        check_contains(found, true)
        if found.decided:
            assert found.prediction == list(LABELS)[int(true.argmax())]


@given(positions(["a", "a", "b", "x", "x"]))
def test_texts_that_come_twice_count_twice(case):
    texts, truth, k, at = case
    listed, chosen = listed_of(texts, truth, k, at)
    found = label_bounds(listed, ["a", "b"], chosen=chosen, ranked=False)
    check_contains(found, np.array([truth[:2].sum(), truth[2]]))


@given(positions(VOCABULARY), st.booleans())
def test_no_limit_of_a_share_could_be_closer(case, ranked):
    texts, truth, k, _ = case
    listed, _ = listed_of(texts, truth, max(k, 1), 0)
    found = label_bounds(listed, LABELS, ranked=ranked)
    caps = found.upper - found.lower
    shares = []
    # The extremes of a ratio lie at corners: each label in turn takes all it can.
    for n in range(4):
        for order in permutations(range(3), n):
            gained, left = np.zeros(3), found.unlisted
            for label in order:
                gained[label] = min(caps[label], left)
                left -= gained[label]
            total = (found.lower + gained).sum()
            if total > 1e-12:
                shares.append((found.lower + gained) / total)
    if not shares:
        assert found.lower_share.tolist() == [0, 0, 0]
        assert found.upper_share.tolist() == [1, 1, 1]
    else:
        assert found.lower_share == pytest.approx(np.min(shares, axis=0), abs=1e-6)
        assert found.upper_share == pytest.approx(np.max(shares, axis=0), abs=1e-6)


# The chosen token, what is missing, and what is no list of the top k ----------------


def test_a_chosen_token_out_of_rank_does_not_lower_the_limit():
    # The third most probable token may well have .2, though the answer's own has .01.
    listed, (chosen,) = listing(a=0.4, x=0.3), listing(y=0.01)
    for given_list in (listed, [chosen, *listed]):
        found = label_bounds(given_list, ["a", "b"], chosen=chosen)
        assert found.unlisted == pytest.approx(0.29)
        assert limits(found, "b") == pytest.approx((0, 0.29))
        assert limits(found, "a") == pytest.approx((0.4, 0.4))
        assert found.off_list == pytest.approx(0.31)


@pytest.mark.parametrize(
    ("chosen", "total"),
    [
        (ListedToken("a", math.log(0.6)), 0.8),
        (ListedToken("a", math.log(0.6), b"a"), 0.8),
        (ListedToken("a", math.log(0.05)), 0.85),  # another id of the same text
        (ListedToken("a", math.log(0.65)), 0.85),  # no room: one of the two is rounded
        (ListedToken("a", None), 0.8),
    ],
)
def test_the_chosen_token_is_counted_once(chosen, total):
    listed = listing(a=0.6, b=0.2)
    found = label_bounds(listed, ["a", "b"], chosen=chosen, ranked=False)
    assert 1 - found.unlisted == pytest.approx(total)


@pytest.mark.parametrize("nothing", [-9999.0, None, -math.inf, -1000.5])
def test_a_sentinel_is_missing_and_no_zero(nothing):
    with_sentinel = [*listing(a=0.6, x=0.1), ListedToken("b", nothing)]
    found = label_bounds(with_sentinel, ["a", "b"])
    assert limits(found, "b") == pytest.approx((0, 0.1))
    assert found.unlisted == pytest.approx(0.3)
    check_open(label_bounds([ListedToken("a", nothing)], ["a", "b"]))


def test_close_labels_are_not_decided():
    listed = listing(a=0.4, b=0.3)
    found = label_bounds(listed, ["a", "b"], ranked=False)
    assert (found.decided, found.prediction) == (False, "a")
    assert label_bounds(listed, ["a", "b"]).decided  # both spellings are listed
    assert found.table()["label"].tolist() == ["a", "b"]
    assert found.table()["upper"].tolist() == pytest.approx([0.7, 0.6])
    # "a" can have as much as "b" has, but for 1e-16: rounding decides nothing.
    listed = listing(**{" a": 40 / 108, "B": 39 / 108, "b": 15 / 108})
    (chosen,) = listing(a=4 / 108)
    assert not label_bounds(listed, LABELS, chosen=chosen).decided


@pytest.mark.parametrize(
    ("listed", "chosen", "word"),
    [
        # Of 1 only 1.5e-8 is listed; 1e11 tokens below the last would have to follow.
        ({"7": -18.1, "9": -23.3, "8": -25.4}, ("8", -25.4), "cannot make it up"),
        ({"7": -18.1, "9": -23.3}, None, "cannot make it up"),
        ({"7": -3.0, "9": -1.0}, None, "falling order"),
        ({"7": -1.0, "x": -4.0, "9": -2.0}, ("7", -1.0), "falling order"),
        ({"9": -2.0, "x": -3.0}, ("7", -1.0), "lacks '7'"),
        ({"8": -20.0}, ("8", -20.0), "cannot make it up"),
    ],
)
def test_what_is_no_top_k_list_bounds_nothing(listed, chosen, word):
    written = chosen and ListedToken(*chosen)
    found = label_bounds(tokens(listed), ["7", "8", "9"], chosen=written)
    assert word in str(found.problem)
    check_open(found)
    # What was printed for chosen words makes no such claim.
    assert label_bounds(tokens(listed), ["7", "8"], ranked=False).problem is None


def test_a_token_is_listed_once():
    twice = tokens({"a": -1.0}) * 2
    assert "twice" in str(label_bounds(twice, ["a", "b"]).problem)
    # Special tokens have no text, and parts of characters the same one.
    for text in ("", "\ufffd"):
        listed = [*tokens({"a": -1.0}), *[ListedToken(text, -2.0)] * 2]
        assert label_bounds(listed, ["a", "b"]).problem is None


def test_no_label_can_have_anything():
    found = label_bounds([ListedToken("x", 0.0)], ["a", "b"])
    assert found.upper.tolist() == [0, 0] and found.prediction is None
    assert found.upper_share.tolist() == [1, 1]


# Tokens and bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "before", "expected"),
    [
        (" Yes", "", b" Yes"),
        ("😀", "", b"\xf0\x9f\x98\x80"),
        (r"bytes:\xe2\x80", "", b"\xe2\x80"),
        (r"bytes: \xF0\x9f", "", b" \xf0\x9f"),
        ("bytes: none", "", b"bytes: none"),
        ("\udcf0\udc9f", "", b"\xf0\x9f"),
        ("\ud83d", "", b"\xed\xa0\xbd"),
        ("\ud83d\ude00", "", b"\xed\xa0\xbd\xed\xb8\x80"),
        ("\udca9", "", b"\xa9"),
        ("\udca9", "x\ud83d", b"\xed\xb2\xa9"),  # the other half of a character
        ("", "", b""),
    ],
)
def test_bytes_of_a_token(text, before, expected):
    assert ListedToken(text, None).encode(before) == expected
    assert ListedToken("?", None, b"own").encode(before) == b"own"


@pytest.mark.parametrize(
    ("listed", "labels", "message"),
    [
        ({"a": 0.5}, ["a", "b"], "logprob must be at most 0, not 0.5.*'a'"),
        ({"a": math.nan}, ["a", "b"], "logprob must be at most 0, not nan"),
        ({}, ["a", "b"], "listed must hold at least one token"),
        ({"a": -0.1, "b": -0.5}, ["a", "b"], "sum to at most one, not 1.5114"),
        (NEISS, ["a"], "labels must be at least two"),
        (NEISS, "ab", "labels must be several strings"),
        (NEISS, {"a": ["x"], "b": ["y", "x"]}, "'a' and 'b' share the spelling"),
        (NEISS, {"a": "x", "b": ["y"]}, "of 'a' must be several .* not 'x'"),
        (NEISS, {"a": [""], "b": ["y"]}, "of 'a' must be .* not empty"),
    ],
)
def test_bad_input_is_named(listed, labels, message):
    with pytest.raises(ValueError, match=message):
        label_bounds(tokens(listed), labels)


@pytest.mark.parametrize(
    ("labels", "family", "message"),
    [(["us", "US"], "case", "'us' and 'US' share"), (["a"], "any", "family must be")],
)
def test_bad_spellings_are_named(labels, family, message):
    with pytest.raises(ValueError, match=message):
        spelling_texts(labels, family)


# Rounded probabilities ---------------------------------------------------------------

ROUNDED = st.tuples(
    st.lists(st.floats(0.001, 10.0), min_size=2, max_size=6),
    st.sampled_from([0.1, 0.05, 0.025, 0.01, 0.001, 1 / 255]),
)


@given(ROUNDED)
def test_rounded_bounds_hold_the_truth_and_are_as_tight_as_they_can_be(case):
    weights, step = case
    exact = np.array(weights) / np.sum(weights)
    sent = np.round(exact / step) * step
    ends = rounding_bounds([sent], step)[0]
    assert (ends[:, 0] <= exact + 1e-9).all() and (exact <= ends[:, 1] + 1e-9).all()
    # The least and the most of each over all distributions within half a step.
    box = [(max(v - step / 2, 0), min(v + step / 2, 1)) for v in sent]
    for at in range(len(sent)):
        for side, sign in ((0, 1.0), (1, -1.0)):
            aim = sign * (np.arange(len(sent)) == at)
            found = linprog(aim, A_eq=[np.ones(len(sent))], b_eq=[1], bounds=box)
            assert found.success and ends[at, side] == pytest.approx(
                sign * found.fun, abs=1e-6
            )


@given(ROUNDED, st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_step_that_is_found_is_never_too_small(case, places):
    _, step = case
    sent = [round(place % (1 / step)) * step for place in places]
    found = rounding_step(sent)
    assert found is not None and found >= step * (1 - 1e-9)
    single = np.array(sent, dtype=np.float32)
    assert rounding_step(single) == found


def test_step_is_found_or_there_is_none():
    assert rounding_step([[0.37, 0.63], [np.nan, np.nan]]) == 0.01
    assert rounding_step([0.37, 0.625]) == 0.005
    assert rounding_step([0.0, 1.0]) == 0.1  # no coarser one is taken for granted
    assert rounding_step(np.random.default_rng(0).dirichlet([1, 1, 1], 20)) is None
    assert rounding_step([]) is None and rounding_step([np.nan]) is None


def test_sums_that_no_rounding_gives_have_no_bounds():
    rows = [[0.49, 0.49], [0.5, 0.51], [0.6, 0.6], [np.nan, 0.5], [0.0, 0.0]]
    found = rounding_bounds(rows, 0.01)
    assert np.isnan(found[:, 0, 0]).tolist() == [True, False, True, True, True]
    assert found[1].round(4).tolist() == [[0.495, 0.495], [0.505, 0.505]]
    # Many small ones can be hidden altogether.
    hidden = rounding_bounds([[0.0] * 250], 0.01)[0]
    assert hidden.tolist() == [[0.0, 0.005]] * 250
    assert rounding_bounds([[0.25, 0.75]], 0.0).tolist() == [[[0.25] * 2, [0.75] * 2]]


@pytest.mark.parametrize("step", [-0.1, 1.5, np.nan, "0.01", True])
def test_senseless_step_is_refused(step):
    with pytest.raises(ValueError, match="step must lie"):
        rounding_bounds([[0.5, 0.5]], step)
    with pytest.raises(ValueError, match="must be rows"):
        rounding_bounds([0.5, 0.5], 0.1)
