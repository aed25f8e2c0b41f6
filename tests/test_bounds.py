"""Bounds of label probabilities from a list of tokens."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bounds import (
    ListedToken,
    label_bounds,
    leader,
    share_bounds,
    spelling_texts,
    token_bytes,
    unlisted_mass,
    with_chosen,
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


def tokens(logprobs: dict[str, float]) -> list[ListedToken]:
    return [ListedToken(text, logprob) for text, logprob in logprobs.items()]


def of_label(found: Any, label: str) -> tuple[float, float]:
    at = found.labels.index(label)
    return found.lower[at], found.upper[at]


def test_seed_b_leaves_two_thousandths_open() -> None:
    table = load_published_tables()
    rows = table[(table["text"] == "Best worst thing ever") & (table.probability > 0)]
    listed = [
        ListedToken(token, math.log(p))
        for token, p in zip(rows["token"], rows["probability"], strict=True)
    ]
    texts = spelling_texts(["yes", "no"], "case")
    found = label_bounds(listed, texts, ranked=False)
    assert found.unlisted == pytest.approx(0.0020, abs=1e-9)
    assert of_label(found, "yes") == pytest.approx((0.5211, 0.5231))
    assert of_label(found, "no") == pytest.approx((0.4763, 0.4783))
    assert found.off_list == pytest.approx(0.0006)
    assert (found.decided, found.prediction) == (True, "yes")
    # Were these the most probable tokens, three more spellings of "yes" and four of
    # "no" could have no more than the last of them each.
    ranked = label_bounds(listed, texts)
    assert ranked.upper - ranked.lower == pytest.approx([3e-4, 4e-4])


def test_neiss_record_is_decided() -> None:
    found = label_bounds(tokens(NEISS), [*NEISS, "33"])
    assert 1 - found.unlisted == pytest.approx(0.9999056520, abs=1e-10)
    assert found.unlisted == pytest.approx(9.43480e-5, rel=1e-5)
    assert of_label(found, "88") == pytest.approx((0.999088713, 0.999088713))
    assert of_label(found, "33") == pytest.approx((0, 2.2193e-5), rel=1e-4)
    assert (found.decided, found.prediction) == (True, "88")
    loose = label_bounds(tokens(NEISS), [*NEISS, "33"], ranked=False)
    assert of_label(loose, "33") == pytest.approx((0, 9.43480e-5), rel=1e-5)


def test_cookbook_art_could_be_sports_twice_as_probably() -> None:
    listed = tokens({"Art": -0.028133942, "Sports": -4.278134})
    found = label_bounds(listed, spelling_texts(["Art", "Sports"], "case"))
    assert found.unlisted == pytest.approx(0.0138735, abs=3e-7)
    assert of_label(found, "Sports") == pytest.approx((0.0139, 0.0277), abs=5e-5)
    assert of_label(found, "Art") == pytest.approx((0.9723, 0.9861), abs=5e-5)
    assert found.decided


def test_cookbook_technology_counts_the_space_variant() -> None:
    listed = tokens({"Technology": 0.0, " Technology": -18.75})
    found = label_bounds(listed, spelling_texts(["Technology", "Art"], "case"))
    assert found.unlisted == 0
    assert of_label(found, "Technology") == pytest.approx((1, 1))
    assert of_label(found, "Art") == (0, 0)


def test_jinksi_record_adds_pink_with_a_space() -> None:
    listed = tokens(
        {
            "pink": -0.15612991,
            "spark": -2.6561298,
            "rain": -3.2811298,
            "purple": -3.5311298,
            "blue": -5.28113,
            "mag": -6.15613,
            "gl": -9.40613,
            "vio": -10.15613,
            " pink": -10.40613,
            "past": -10.53113,
        }
    )
    found = label_bounds(listed, spelling_texts(["pink", "blue"], "case"))
    assert of_label(found, "pink")[0] == pytest.approx(0.855448 + 0.000030, abs=1e-6)
    assert 1 - found.unlisted == pytest.approx(0.9999102239, abs=1e-9)
    assert found.off_list + found.lower.sum() == pytest.approx(0.9999102239, abs=1e-9)


VOCABULARY = ["a", "A", " a", "b", "B", "c", "x", "y", "z"]
LABELS = {"a": ["a", "A", " a"], "b": ["b", "B"], "c": ["c"]}


@st.composite
def positions(draw: Any, texts: list[str]) -> tuple[list[str], np.ndarray, int, int]:
    weights = draw(
        st.lists(st.integers(0, 40), min_size=len(texts), max_size=len(texts))
    )
    weights[draw(st.integers(0, len(texts) - 1))] += 1
    k = draw(st.integers(0, len(texts)))
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


@settings(deadline=None)
@given(positions(VOCABULARY))
def test_truth_lies_inside_for_every_length_of_list(case: Any) -> None:
    texts, truth, k, at = case
    listed, chosen = listed_of(texts, truth, k, at)
    of = dict(zip(texts, truth, strict=True))
    true = np.array([sum(of[text] for text in LABELS[label]) for label in LABELS])
    for ranked in (True, False):
        found = label_bounds(listed, LABELS, chosen=chosen, ranked=ranked)
        assert (found.lower <= true + 1e-9).all() and (true <= found.upper + 1e-9).all()
        if true.sum() > 0:
            share = true / true.sum()
            assert (found.lower_share <= share + 1e-9).all()
            assert (share <= found.upper_share + 1e-9).all()
        total = found.lower.sum() + found.off_list + found.unlisted
        assert total == pytest.approx(1)
        if found.decided:
            assert found.prediction == list(LABELS)[int(true.argmax())]


@settings(deadline=None)
@given(positions(["a", "a", "b", "x", "x"]))
def test_texts_that_come_twice_count_twice(case: Any) -> None:
    texts, truth, k, at = case
    listed, chosen = listed_of(texts, truth, k, at)
    found = label_bounds(listed, ["a", "b"], chosen=chosen, ranked=False)
    true = np.array([truth[:2].sum(), truth[2]])
    assert (found.lower <= true + 1e-9).all() and (true <= found.upper + 1e-9).all()


@settings(deadline=None)
@given(positions(VOCABULARY), st.booleans())
def test_no_limit_of_a_share_could_be_closer(case: Any, ranked: bool) -> None:
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


def test_a_chosen_token_out_of_rank_does_not_lower_the_limit() -> None:
    # The third most probable token may well have .2, though the answer's own has .01.
    listed = tokens({"a": math.log(0.4), "x": math.log(0.3)})
    chosen = ListedToken("y", math.log(0.01))
    for given_list in (listed, [chosen, *listed]):
        found = label_bounds(given_list, ["a", "b"], chosen=chosen)
        assert found.unlisted == pytest.approx(0.29)
        assert of_label(found, "b") == pytest.approx((0, 0.29))
        assert of_label(found, "a") == pytest.approx((0.4, 0.4))
        assert found.off_list == pytest.approx(0.31)


def test_the_chosen_token_is_not_counted_twice() -> None:
    listed = tokens({"a": -0.5, "b": -1.5})
    for chosen in (ListedToken("a", -0.5), ListedToken("a", -0.5, b"a")):
        assert label_bounds(listed, ["a", "b"], chosen=chosen).unlisted == (
            pytest.approx(1 - math.exp(-0.5) - math.exp(-1.5))
        )
    # Another id of the same text, by its probability.
    other, at = with_chosen(listed, ListedToken("a", -3.0))
    assert (len(other), at) == (3, 2)
    # No room for another id: the server rounded one of the two.
    same, at = with_chosen(listed, ListedToken("a", -0.4))
    assert (len(same), at) == (2, 0)


@pytest.mark.parametrize("nothing", [-9999.0, None, -math.inf, -1000.5])
def test_a_sentinel_is_missing_and_no_zero(nothing: float | None) -> None:
    listed = [*tokens({"a": math.log(0.6), "x": math.log(0.1)})]
    with_sentinel = [*listed, ListedToken("b", nothing)]
    found = label_bounds(with_sentinel, ["a", "b"])
    assert of_label(found, "b") == pytest.approx((0, 0.1))
    assert found.unlisted == pytest.approx(0.3)
    alone = label_bounds([ListedToken("a", nothing)], ["a", "b"])
    assert alone.lower.tolist() == [0, 0] and alone.upper.tolist() == [1, 1]
    assert alone.lower_share.tolist() == [0, 0]
    assert alone.upper_share.tolist() == [1, 1]
    assert alone.prediction is None and not alone.decided


def test_close_labels_are_not_decided() -> None:
    listed = tokens({"a": math.log(0.4), "b": math.log(0.3)})
    found = label_bounds(listed, ["a", "b"], ranked=False)
    assert (found.decided, found.prediction) == (False, "a")
    assert label_bounds(listed, ["a", "b"]).decided  # both spellings are listed
    assert found.table()["upper"].tolist() == pytest.approx([0.7, 0.6])
    assert found.table()["label"].tolist() == ["a", "b"]
    assert found.lower_share == pytest.approx([0.4, 0.3])
    assert found.upper_share == pytest.approx([0.7, 0.6])


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
def test_what_is_no_top_k_list_bounds_nothing(
    listed: dict[str, float], chosen: tuple[str, float] | None, word: str
) -> None:
    written = chosen and ListedToken(*chosen)
    found = label_bounds(tokens(listed), ["7", "8", "9"], chosen=written)
    assert found.problem is not None and word in found.problem
    assert found.lower.tolist() == [0] * 3 and found.upper.tolist() == [1] * 3
    assert found.lower_share.tolist() == [0] * 3
    assert found.upper_share.tolist() == [1] * 3
    assert (found.decided, found.prediction) == (False, None)
    # What was printed for chosen words makes no such claim.
    assert label_bounds(tokens(listed), ["7", "8"], ranked=False).problem is None


def test_a_token_is_listed_once() -> None:
    twice = tokens({"a": -1.0}) * 2
    assert "twice" in str(label_bounds(twice, ["a", "b"]).problem)
    # Special tokens have no text, and parts of characters the same one.
    for text in ("", "\ufffd"):
        listed = [*tokens({"a": -1.0}), *[ListedToken(text, -2.0)] * 2]
        assert label_bounds(listed, ["a", "b"]).problem is None


@given(positions(VOCABULARY), st.integers(0, 8))
def test_a_true_list_is_never_suspected(case: Any, first: int) -> None:
    texts, truth, k, at = case
    listed, chosen = listed_of(texts, truth, k, at)
    shown = [chosen, *listed] if first == 0 and chosen not in listed else listed
    if shown:
        assert label_bounds(shown, LABELS, chosen=chosen).problem is None


def test_no_label_can_have_anything() -> None:
    found = label_bounds([ListedToken("x", 0.0)], ["a", "b"])
    assert found.upper.tolist() == [0, 0]
    assert found.upper_share.tolist() == [1, 1]
    assert found.prediction is None


def test_share_of_a_label_that_can_have_nothing() -> None:
    low, high = share_bounds(
        np.zeros(2), np.array([0.0, 0.2]), np.array([0.2, 0.0]), np.zeros(2)
    )
    assert low.tolist() == [0, 0] and high.tolist() == [0, 1]
    assert leader(np.array([0.2, 0.2]), np.array([0.3, 0.2])) == (None, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Yes", b" Yes"),
        ("😀", b"\xf0\x9f\x98\x80"),
        (r"bytes:\xe2\x80", b"\xe2\x80"),
        (r"bytes: \xF0\x9f", b" \xf0\x9f"),
        ("bytes: none", b"bytes: none"),
        ("\udcf0\udc9f", b"\xf0\x9f"),
        ("\ud83d", b"\xed\xa0\xbd"),
        ("\ud83d\ude00", b"\xed\xa0\xbd\xed\xb8\x80"),
        ("", b""),
    ],
)
def test_token_bytes(text: str, expected: bytes) -> None:
    assert token_bytes(text) == expected


def test_a_low_surrogate_is_a_half_where_a_high_one_came_before() -> None:
    assert token_bytes("\udca9", before="x\ud83d") == b"\xed\xb2\xa9"
    assert token_bytes("\udca9") == b"\xa9"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ListedToken("a", 0.5), "logprob must be at most 0, not 0.5"),
        (lambda: ListedToken("a", math.nan), "logprob must be at most 0, not nan"),
        (lambda: label_bounds([], ["a", "b"]), "listed must hold at least one token"),
        (lambda: label_bounds(tokens(NEISS), ["a"]), "labels must be at least two"),
        (lambda: label_bounds(tokens(NEISS), "ab"), "labels must be several strings"),
        (
            lambda: label_bounds(tokens(NEISS), {"a": ["x"], "b": ["y", "x"]}),
            "labels 'a' and 'b' share the spelling 'x'",
        ),
        (
            lambda: label_bounds(tokens(NEISS), {"a": "x", "b": ["y"]}),
            "spellings of 'a' must be several strings, not 'x'",
        ),
        (
            lambda: label_bounds(tokens(NEISS), {"a": [""], "b": ["y"]}),
            "spellings of 'a' must be strings that are not empty",
        ),
        (lambda: spelling_texts(["us", "US"], "case"), "'us' and 'US' share the"),
        (lambda: spelling_texts(["a"], "any"), "family must be one of"),
        (
            lambda: unlisted_mass(tokens({"a": -0.1, "b": -0.5})),
            "listed must have probabilities that sum to at most one, not 1.5114",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
