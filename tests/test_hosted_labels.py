"""What lists of tokens let one know of labels, against models that are written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hosted_model import END, VOCABULARY, Model, random_model, true_probability
from hypothesis import given
from hypothesis import strategies as st

from helpers.bounds import LabelMass, ListedToken
from helpers.hosted import Answer, AnswerToken, TokenUsage
from helpers.hosted.labels import LabelTexts, LabelTree

LABELS = ("positive", "negative", "negligible")


def position(model: Model, begun: str, k: int, greedy: bool) -> AnswerToken:
    chances = model("", begun)
    ranked = sorted(chances, key=lambda t: -chances[t])
    top = tuple(ListedToken(t, math.log(chances[t]), t.encode()) for t in ranked[:k])
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


def token(text: str, p: float | None, **others: float) -> AnswerToken:
    chances = ({text: p} if p else {}) | others
    top = tuple(ListedToken(t, math.log(q)) for t, q in chances.items())
    return AnswerToken(text, math.log(p) if p else None, None, top)


def mass_after(texts: LabelTexts, answers: dict[str, list[AnswerToken]]) -> LabelMass:
    tree = LabelTree(texts)
    for begun, tokens in answers.items():
        tree.add(begun.encode(), tokens)
    return tree.mass()


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
    ends, share = mass.limits(LABELS), truth / truth.sum()
    low, high = ends["lower_share"], ends["upper_share"]
    assert (low <= share + slack).all() and (share <= high + slack).all()
    parts = mass.lower.sum() + mass.off_list + mass.unlisted + mass.unresolved
    assert parts == pytest.approx(1)


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


LINE = {"ends": ("\n",)}
END_TOO = {"ends": ("\n",), "turn_ends": True}
NONE_LISTED = [AnswerToken("n\ufffd", math.log(0.6), b"n\xc3", ())]
OTHER_HALF = [AnswerToken("\ufffd", math.log(0.9), b"\xa9", ())]
LOST = token("n\ufffd", 0.6, **{"\ufffd": 0.2, "x\ufffd": 0.2})
# Labels, options, answers by what was begun; what is expected of the mass.
MASSES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # "a" and "ab" could each have 0.01, "c" as well; 0.09 is open in all.
    "unlisted": (
        *("ab c", {}, {"": [token("x", 0.9, y=0.01)]}),
        {"gain": [0.02, 0.01], "others": [0.01, 0.02]},
    ),
    # A list of one may have it out of rank: nothing is known but the rest,
    "out of rank": (
        *("ab c", {}, {"": [token("x", 0.9)]}),
        {"gain": [0.1, 0.1], "others": [0.1, 0.1]},
    ),
    # which is there once for all others;
    "once for all": (
        *("a b c", {}, {"": [token("x", 0.9)]}),
        {"gain": [0.1] * 3, "others": [0.1] * 3},
    ),
    # so may be the answer's own token.
    "own token": (
        *("a b", {}, {"": [token("x", 0.001, y=0.5, z=0.1)]}),
        {"gain": [0.1, 0.1], "others": [0.1, 0.1]},
    ),
    # "a" is listed and open; beside it, only "ab" could be more of the label.
    "listed and open": (
        *("ab c", {}, {"": [token("x", 0.9, a=0.01)]}),
        {"gain": [0.02, 0.01], "others": [0.01, 0.02]},
    ),
    "pieces that meet are asked about once": (
        *("negative positive", {}),
        {"": [token("neg", 0.5, ne=0.4)], "ne": [token("g", 1.0)]},
        {"branches": {b"neg": 0.9}},
    ),
    "the rest of the answer saves a call": (
        *("negative positive", {}),
        {
            "": [
                token("neg", 0.6, pos=0.3),
                token("ative", 0.9, ligible=0.1),
                token(".", 0.7),
            ]
        },
        {"lower": [0.54, 0], "gain": [0.1, 0.4], "branches": {b"pos": 0.3}}
        | {"off_list": 0.06, "unlisted": 0.1},
    ),
    "no is not the beginning of not sure": (
        *("no yes", {"after": "A:", **END_TOO}),
        {
            "": [token(" no", 0.6, **{" yes": 0.3, " not": 0.1})],
            " no": [token("\n", 0.5, **{END: 0.2, "t": 0.2})],
            " yes": [token("\n\n", 0.9)],
        },
        {"lower": [0.6 * 0.7, 0.3 * 0.9], "gain": [0.06, 0.03], "branches": {}},
    ),
    "nobody knows how many tokens begin with a line break": (
        *("no yes", LINE, {"": [token("no", 1.0), token("\n", 0.5, t=0.01)]}),
        {"lower": [0.5, 0], "gain": [0.49, 0]},
    ),
    "an end of turn ends nothing where it is not asked for": (
        *("no yes", LINE),
        {"": [token("no", 1.0), token(END, 0.5, **{"\n": 0.25, "x": 0.25})]},
        {"lower": [0.25, 0]},
    ),
    "an end that no list shows stays open": (
        *("no yes", END_TOO, {"": [token("no", 0.6, yes=0.4)], "no": []}),
        {"lower": [0, 0], "branches": {b"yes": 0.4}, "unresolved": 1.0},
    ),
    "labels that begin alike need a terminator only": (
        *("no not", LINE),
        {"": [token("no", 1.0), token("t", 0.6, **{"\n": 0.4}), token("\n", 1.0)]},
        {"lower": [0.4, 0.6]},
    ),
    "part of a character is not asked about": (
        *("né no", {}, {"": NONE_LISTED}),
        {"branches": {}, "unresolved": 0.6},
    ),
    "parts of a character are joined": (
        *("né no", {}, {"": NONE_LISTED + OTHER_HALF}),
        {"lower": [0.54, 0]},
    ),
    "a lost character could be any": (
        *("né no", {}, {"": [LOST, token("x", 1.0)]}),
        {"lower": [0, 0], "gain": [0.8, 0.8], "off_list": 0.2, "branches": {}},
    ),
    "a token without a probability is not followed": (
        *("ab cd", {}, {"": [token("a", None, c=0.5), token("b", 1.0)]}),
        {"lower": [0, 0], "unlisted": 0.5, "branches": {b"c": 0.5}},
    ),
}


@pytest.mark.parametrize("name", MASSES)
def test_mass_of_lists_that_are_written_down(name: str) -> None:
    labels, options, answers, expected = MASSES[name]
    mass = mass_after(LabelTexts.build(tuple(labels.split()), **options), answers)
    for what, value in expected.items():
        found = dict(mass.branches) if what == "branches" else getattr(mass, what)
        assert found == pytest.approx(value), what


@pytest.mark.parametrize("text", ["", END, "</s>", "<eos>", "<|im_end|>"])
def test_end_of_turn_counts_as_end_and_nowhere_else(text: str) -> None:
    answers = {"": [token("no", 0.5, **{text: 0.5}), token(text, 0.8)]}
    mass = mass_after(LabelTexts.build(("no", "yes"), turn_ends=True), answers)
    assert mass.lower == pytest.approx([0.4, 0])
    assert mass.off_list == pytest.approx(0.5)


def test_texts_after_a_word_begin_with_a_space() -> None:
    exact = LabelTexts.build(("no", "yes"), after="A:")
    assert list(exact.owners) == [b" no", b" yes"]
    wide = LabelTexts.build(("no", "yes"), family="wide", after="A:")
    assert {b" no", b"no", b"\nNO", b' "No"'} <= set(wide.owners)
    both = LabelTexts.build(("good", "好"), after="Sentiment, 情感:")
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
def test_overlapping_labels(
    labels: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelTexts.build(tuple(labels), **options)


# Words ----------------------------------------------------------------------------


# What is said, and the label it is read as; behind a "|" with an end.
READ = [
    *[("no", 0), (" No.", 0), ("**Spam**", 1), ('"spam."', 1)],
    *[(said, None) for said in ("not sure", "No? Spam.", "no/spam", "no spam")],
    *[(said, None) for said in ("spam, I think", "It is not spam", "spam\nno")],
    *[("|not spam\nbecause", 1), ("|no", 0), ("|no, never", None), ("|", None)],
]


def words(said: str, finish: str = "stop") -> Answer:
    return Answer(said, (), finish, None, TokenUsage(), "m", None)


@pytest.mark.parametrize(("said", "label"), READ)
def test_label_of_an_answer_in_words(said: str, label: int | None) -> None:
    has_end = said.startswith("|")
    names = ("no", "not spam") if has_end else ("no", "spam")
    ends = ("\n",) if has_end else ()
    texts = LabelTexts.build(names, family="case", ends=ends, turn_ends=has_end)
    said = said.removeprefix("|")
    assert texts.read(words(said)) == label
    if not has_end:  # it could have gone on
        assert texts.read(words(said, "length")) is None


def test_marks_that_are_part_of_a_label_tell_labels_apart() -> None:
    texts = LabelTexts.build(("A", "A*"), family="exact", ends=("\n",), turn_ends=True)
    found = [texts.read(words(said)) for said in ("A", "A*", "**A**", "`A*`")]
    assert found == [0, 1, None, None]
