"""What lists of tokens let one know of labels, against models that are written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hosted_model import (
    END,
    VOCABULARY,
    Model,
    random_model,
    reach,
    true_probability,
    written_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bounds import share_bounds
from helpers.hosted import Answer, AnswerToken, TokenUsage
from helpers.hosted.scores import (
    mass_scores,
    read_label,
    report_scores,
    vote_scores,
)
from helpers.hosted.spelling import LabelTexts, ends_turn
from helpers.hosted.tree import LabelMass, LabelTree

LABELS = ["positive", "negative", "negligible"]


def position(model: Model, begun: str, k: int, greedy: bool) -> AnswerToken:
    chances = model("", begun)
    ranked = sorted(chances, key=lambda t: -chances[t])
    top = tuple((t, math.log(chances[t]), t.encode()) for t in ranked[:k])
    # What is drawn need not be listed.
    token = ranked[0] if greedy else ranked[2]
    return AnswerToken(token, math.log(chances[token]), token.encode(), top)


def answer(
    model: Model, begun: str, k: int, length: int, greedy: bool
) -> list[AnswerToken]:
    tokens: list[AnswerToken] = []
    while len(tokens) < length and not (tokens and tokens[-1].text == END):
        tokens.append(position(model, begun, k, greedy))
        begun += tokens[-1].text
    return tokens


def listed(**chances: float) -> tuple[tuple[str, float, None], ...]:
    return tuple((text, math.log(p), None) for text, p in chances.items())


def token(text: str, p: float | None, **others: float) -> AnswerToken:
    top = listed(**({text: p} if p else {}), **others)
    return AnswerToken(text, math.log(p) if p else None, None, top)


def truths(model: Model, texts: LabelTexts) -> np.ndarray:
    ends = (*texts.ends, END) if texts.has_end else ()
    found = np.zeros(len(texts.labels))
    for text, owner in texts.owners.items():
        found[owner] += true_probability(model, "", [text.decode()], ends)
    return found


def check_holds(mass: LabelMass, truth: np.ndarray) -> None:
    """The truth lies between the limits, of the masses and of the shares."""
    slack = 1e-9
    assert (mass.lower <= truth + slack).all()
    assert (truth <= mass.lower + mass.gain + slack).all()
    low, high = share_bounds(mass.lower, mass.gain, mass.others, np.zeros(len(truth)))
    share = truth / truth.sum()
    assert (low <= share + slack).all() and (share <= high + slack).all()
    parts = mass.lower.sum() + mass.off_list + mass.unlisted + mass.unresolved
    assert parts == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 3, 5, 10, 20, len(VOCABULARY)]),
    st.sampled_from(["exact", "case"]),
    st.booleans(),
    st.sampled_from([0.03, 0.2, 1.0]),
    st.booleans(),
)
def test_truth_lies_in_the_bounds_after_every_call(
    seed: int, k: int, family: str, has_end: bool, spread: float, greedy: bool
) -> None:
    model = random_model(seed, spread=spread)
    ends = ("\n",) if has_end else ()
    texts = LabelTexts.build(LABELS, family=family, ends=ends, turn_ends=has_end)
    truth, tree, calls = truths(model, texts), LabelTree(texts), 0
    check_holds(tree.mass(), truth)
    waiting = [b""]
    while waiting:
        begun = waiting[0]
        length = texts.tokens_to_go(begun)
        tree.add(begun, answer(model, begun.decode(), k, length, greedy))
        calls += 1
        mass = tree.mass()
        check_holds(mass, truth)
        waiting = [data for data, _ in mass.branches]
    # Every call was about another beginning of a label.
    beginnings = {text[:end] for text in texts.owners for end in range(len(text) + 1)}
    assert calls <= len(beginnings)
    assert mass.unresolved == 0
    if k == len(VOCABULARY):
        np.testing.assert_allclose(mass.lower, truth, rtol=1e-9, atol=1e-12)
        assert mass.gain == pytest.approx(0, abs=1e-9)


def test_reach_adds_all_ways_to_cut_a_text() -> None:
    model = written_model({"": {"n": 0.5, "no": 0.25, "x": 0.25}, "n": {"o": 0.4}})
    assert reach(model, "", "no") == pytest.approx(0.25 + 0.5 * 0.4)


def test_rest_of_the_answer_given_saves_a_call() -> None:
    texts = LabelTexts.build(["negative", "positive"])
    tree = LabelTree(texts)
    tree.add(
        b"",
        [
            token("neg", 0.6, pos=0.3),
            token("ative", 0.9, ligible=0.1),
            token(".", 0.7),
        ],
    )
    mass = tree.mass()
    assert mass.lower == pytest.approx([0.54, 0])
    assert mass.gain == pytest.approx([0.1, 0.4])
    assert mass.branches == ((b"pos", pytest.approx(0.3)),)
    assert (mass.off_list, mass.unlisted) == (pytest.approx(0.06), pytest.approx(0.1))
    tree.add(b"pos", [token("itive", 1.0)])
    assert tree.mass().lower == pytest.approx([0.54, 0.3])
    assert tree.mass().branches == ()


def test_token_that_is_not_listed_is_bounded_by_the_last_that_is() -> None:
    texts = LabelTexts.build(["ab", "c"])
    tree = LabelTree(texts)
    # "a" and "ab" could each have 0.01, "c" as well; 0.09 is open in all.
    tree.add(b"", [token("x", 0.9, y=0.01)])
    mass = tree.mass()
    assert mass.gain == pytest.approx([0.02, 0.01])
    assert mass.others == pytest.approx([0.01, 0.02])
    # Of two, the first is out of rank: nothing is known of the last but the rest.
    alone = LabelTree(texts)
    alone.add(b"", [token("x", 0.9)])
    assert alone.mass().gain == pytest.approx([0.1, 0.1])


def test_token_that_is_listed_is_not_bounded_as_well() -> None:
    tree = LabelTree(LabelTexts.build(["ab", "c"]))
    # "a" is listed and open; beside it, only "ab" could be more of the label.
    tree.add(b"", [token("x", 0.9, a=0.01)])
    assert tree.mass().gain == pytest.approx([0.02, 0.01])


def test_what_is_not_listed_is_there_once_for_all_others() -> None:
    tree = LabelTree(LabelTexts.build(["a", "b", "c"]))
    tree.add(b"", [token("x", 0.9)])
    assert tree.mass().gain == pytest.approx([0.1] * 3)
    assert tree.mass().others == pytest.approx([0.1] * 3)


def test_drawn_token_may_be_listed_out_of_rank() -> None:
    tree = LabelTree(LabelTexts.build(["a", "b"]))
    tree.add(b"", [token("x", 0.001, y=0.5, z=0.1)])
    assert tree.mass().gain == pytest.approx([0.1, 0.1])


def test_label_in_pieces_that_meet_is_asked_about_once() -> None:
    tree = LabelTree(LabelTexts.build(["negative", "positive"]))
    tree.add(b"", [token("neg", 0.5, ne=0.4)])
    tree.add(b"ne", [token("g", 1.0)])
    assert tree.mass().branches == ((b"neg", pytest.approx(0.9)),)


def test_no_is_not_the_beginning_of_not_sure() -> None:
    texts = LabelTexts.build(["no", "yes"], after="A:", ends=("\n",), turn_ends=True)
    tree = LabelTree(texts)
    tree.add(b"", [token(" no", 0.6, **{" yes": 0.3, " not": 0.1})])
    assert tree.mass().off_list == pytest.approx(0.1)
    tree.add(b" no", [token("\n", 0.5, **{END: 0.2, "t": 0.2})])
    tree.add(b" yes", [token("\n\n", 0.9)])
    mass = tree.mass()
    assert mass.lower == pytest.approx([0.6 * 0.7, 0.3 * 0.9])
    assert mass.gain == pytest.approx([0.06, 0.03])


def test_nobody_knows_how_many_tokens_begin_with_a_line_break() -> None:
    tree = LabelTree(LabelTexts.build(["no", "yes"], ends=("\n",)))
    tree.add(b"", [token("no", 1.0), token("\n", 0.5, t=0.01)])
    mass = tree.mass()
    assert mass.lower == pytest.approx([0.5, 0])
    assert mass.gain == pytest.approx([0.49, 0])


def test_end_that_no_list_shows_stays_open() -> None:
    texts = LabelTexts.build(["no", "yes"], ends=("\n",), turn_ends=True)
    tree = LabelTree(texts)
    tree.add(b"", [token("no", 0.6, yes=0.4)])
    tree.add(b"no", [])
    mass = tree.mass()
    assert mass.lower.tolist() == [0, 0]
    assert mass.branches == ((b"yes", pytest.approx(0.4)),)
    assert mass.unresolved == pytest.approx(1)


@pytest.mark.parametrize("text", ["", END, "</s>", "<eos>", "<|im_end|>"])
def test_end_of_turn_counts_as_end_and_nowhere_else(text: str) -> None:
    assert ends_turn(text)
    tree = LabelTree(LabelTexts.build(["no", "yes"], turn_ends=True))
    tree.add(b"", [token("no", 0.5, **{text: 0.5}), token(text, 0.8)])
    mass = tree.mass()
    assert mass.lower == pytest.approx([0.4, 0])
    assert mass.off_list == pytest.approx(0.5)


def test_parts_of_characters_are_joined_and_never_asked_about() -> None:
    texts = LabelTexts.build(["né", "no"])
    cut = AnswerToken("n\ufffd", math.log(0.6), b"n\xc3", ())
    rest = AnswerToken("\ufffd", math.log(0.9), b"\xa9", ())
    tree = LabelTree(texts)
    tree.add(b"", [cut])
    assert tree.mass().branches == () and tree.mass().unresolved == pytest.approx(0.6)
    tree = LabelTree(texts)
    tree.add(b"", [cut, rest])
    assert tree.mass().lower == pytest.approx([0.54, 0])


def test_character_lost_by_the_server_could_be_any() -> None:
    texts = LabelTexts.build(["né", "no"])
    tree = LabelTree(texts)
    tree.add(b"", [token("n\ufffd", 0.6, **{"\ufffd": 0.2, "x\ufffd": 0.2})])
    mass = tree.mass()
    assert mass.lower.tolist() == [0, 0]
    assert mass.gain == pytest.approx([0.8, 0.8])
    assert mass.off_list == pytest.approx(0.2)
    assert mass.branches == ()


def test_token_without_a_probability_is_not_followed() -> None:
    tree = LabelTree(LabelTexts.build(["ab", "cd"]))
    tree.add(b"", [token("a", None, c=0.5), token("b", 1.0)])
    mass = tree.mass()
    assert mass.lower.tolist() == [0, 0] and mass.unlisted == pytest.approx(0.5)
    assert mass.branches == ((b"c", pytest.approx(0.5)),)


def test_probabilities_that_sum_to_more_than_one_are_refused() -> None:
    tree = LabelTree(LabelTexts.build(["a", "b"]))
    with pytest.raises(ValueError, match="sum to at most one"):
        tree.add(b"", [token("a", 0.9, b=0.9)])


def test_texts_after_a_word_begin_with_a_space() -> None:
    exact = LabelTexts.build(["no", "yes"], after="A:")
    assert list(exact.owners) == [b" no", b" yes"]
    wide = LabelTexts.build(["no", "yes"], family="wide", after="A:")
    assert {b" no", b"no", b"\nNO", b' "No"'} <= set(wide.owners)
    both = LabelTexts.build(["good", "好"], after="Sentiment, 情感:")
    assert list(both.owners) == [b" good", "好".encode()]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["no", "not"], {}, "label 'no' begins label 'not'"),
        (["a", "a\nb"], {"ends": ("\n",)}, "label 'a' begins label"),
        (["no", "NO"], {"family": "case"}, "share the text"),
        (["no", "yes"], {"ends": ("",)}, "terminator must not be empty"),
        (["no"], {}, "at least two"),
    ],
)
def test_labels_that_overlap_are_refused(
    labels: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelTexts.build(labels, **options)


def test_labels_that_begin_alike_need_a_terminator_only() -> None:
    texts = LabelTexts.build(["no", "not"], ends=("\n",))
    tree = LabelTree(texts)
    tree.add(b"", [token("no", 1.0), token("t", 0.6, **{"\n": 0.4}), token("\n", 1.0)])
    assert tree.mass().lower == pytest.approx([0.4, 0.6])


# Scores ---------------------------------------------------------------------------


def mass_of(lower: list[float], gain: list[float]) -> LabelMass:
    others = np.sum(gain) - np.array(gain)
    return LabelMass(
        np.array(lower, float), np.array(gain), others, 0.0, 0.0, 1 - sum(lower), ()
    )


def test_point_is_the_listed_mass_normalised_and_inside() -> None:
    found = mass_scores([mass_of([0.6, 0.2], [0.1, 0.1])], 2, [1], [None])
    assert found.shares[0] == pytest.approx([0.75, 0.25])
    assert found.low[0] == pytest.approx([0.6 / 0.9, 0.2 / 0.9])
    assert found.high[0] == pytest.approx([0.7 / 0.9, 0.3 / 0.9])
    assert found.decided.tolist() == [True]
    assert found.off_label == pytest.approx([0.2])


@pytest.mark.parametrize("gain", [[0.3, 0.1], [0.0, 0.0]])
def test_without_listed_mass_there_is_no_point(gain: list[float]) -> None:
    found = mass_scores([mass_of([0, 0], gain)], 2, [1], [None])
    assert np.isnan(found.shares).all() and found.best.tolist() == [-1]
    assert found.low[0].tolist() == [0, 0] and found.high[0].tolist() == [1, 1]
    assert not found.decided[0] and found.problems[0] is not None


def test_votes_have_wilson_intervals() -> None:
    counts = np.array([[7, 3, 2], [0, 0, 4], [10, 0, 0], [0, 0, 0]])
    problems = [None, None, None, "no answer"]
    found = vote_scores(counts, np.full(4, 12), problems)
    assert found.shares[0] == pytest.approx([0.7, 0.3])
    assert found.low[0, 0] == pytest.approx(0.397, abs=5e-4)
    assert found.high[0, 0] == pytest.approx(0.892, abs=5e-4)
    assert found.decided.tolist() == [False, False, True, False]
    assert found.off_label[:3] == pytest.approx([2 / 12, 1, 0])
    assert np.isnan(found.off_label[3]) and np.isnan(found.shares[[1, 3]]).all()
    assert found.best.tolist() == [0, -1, 0, -1]
    assert found.low[1].tolist() == [0, 0] and found.high[1].tolist() == [1, 1]
    assert found.problems == [None, "No answer is a label.", None, "no answer"]


def test_reports_bound_nothing() -> None:
    found = report_scores([2, None, 0], [0.8, math.nan, math.nan], ["", "", ""], 3)
    assert found.shares[0] == pytest.approx([0.1, 0.1, 0.8])
    assert np.isnan(found.shares[1:]).all()
    assert not found.low.any() and found.high.all() and not found.decided.any()
    assert found.best.tolist() == [2, -1, 0]
    assert found.calls.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("said", "has_end", "label"),
    [
        ("no", False, 0),
        (" No.", False, 0),
        ("not sure", False, None),
        ("note", False, None),
        ("not spam\nbecause", True, 1),
        ("no", True, 0),
        ("no, never", True, None),
        ("", True, None),
        ("**Spam**", False, 1),
        ('"spam."', False, 1),
        ("No? Spam.", False, None),
        ("no/spam", False, None),
        ("no spam", False, None),
        ("spam, I think", False, None),
        ("It is not spam", False, None),
        ("spam\nno", False, None),
        ("spam?", False, None),
    ],
)
def test_label_of_an_answer_in_words(
    said: str, has_end: bool, label: int | None
) -> None:
    names = ["no", "not spam"] if has_end else ["no", "spam"]
    ends = ("\n",) if has_end else ()
    texts = LabelTexts.build(names, family="case", ends=ends, turn_ends=has_end)
    words = Answer(said, (), "stop", None, TokenUsage(), "m", None)
    assert read_label(words, texts) == label
    cut = Answer(said, (), "length", None, TokenUsage(), "m", None)
    if not has_end:  # it could have gone on
        assert read_label(cut, texts) is None


def test_marks_that_are_part_of_a_label_tell_labels_apart() -> None:
    texts = LabelTexts.build(["A", "A*"], family="exact", ends=("\n",), turn_ends=True)
    said = ("A", "A*", "**A**", "`A*`")
    found = [
        read_label(Answer(s, (), "stop", None, TokenUsage(), "m", None), texts)
        for s in said
    ]
    assert found == [0, 1, None, None]
