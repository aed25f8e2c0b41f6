"""Rules of helpers.verbalizer: which tokens count as which label, each once."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.models import LanguageModel
from helpers.prompts import seam
from helpers.scoring import label_logprobs
from helpers.verbalizer import LabelTokens, LabelTrie, Verbalizer


def texts_of(
    model: LanguageModel, verbalizer: Verbalizer, after: str
) -> dict[str, list[str]]:
    """For each label, the texts that its token sequences read as."""
    found = verbalizer.tokens(model, after=after)
    by_label: dict[str, list[str]] = {label: [] for label in found.labels}
    for owner, sequence in zip(found.owners, found.sequences, strict=True):
        by_label[found.labels[owner]].append(model.tokenizer.decode(sequence))
    return by_label


sequences = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(sequences)
def test_trie_has_one_node_for_each_beginning(found):
    trie = LabelTrie.build(found)
    for sequence, leaf in zip(found, trie.leaves, strict=True):
        path, node = [], leaf
        while node:
            path.append(trie.tokens[node])
            assert trie.parents[node] < node  # parents stand before their children
            node = trie.parents[node]
        assert tuple(reversed(path)) == sequence
        assert trie.depths[leaf] == len(sequence)
    beginnings = {s[:n] for s in found for n in range(1, len(s) + 1)}
    assert len(trie.tokens) == len(trie.parents) == 1 + len(beginnings)


@pytest.mark.parametrize(
    ("label", "family", "expected"),
    [
        ("yes", "exact", "yes"),
        ("yes", "case", "yes Yes YES"),
        ("yes", "wide", "yes Yes YES \"yes\" \"Yes\" \"YES\" 'yes' 'Yes' 'YES'"),
        ("McDonald", "case", "McDonald mcdonald Mcdonald MCDONALD"),
    ],
)
def test_family_says_what_is_allowed(label, family, expected):
    found = Verbalizer([label, "no"], family=family).texts(label)
    assert " ".join(found) == expected
    spelled = Verbalizer([label, "no"], spellings={label: [" good "]})
    assert spelled.texts(label) == ("good",) and spelled.texts("no") == ("no",)


def test_exact_label_follows_a_space_if_need_be(embedded):
    ends = {"Answer:": " ", "A": " ", "A:\n": "", "<|im_start|>": "", "": ""}
    for after, space in ends.items():
        found = texts_of(embedded, Verbalizer(["yes", "no"]), after)
        assert found == {"yes": [f"{space}yes"], "no": [f"{space}no"]}


# Two spaces or a line break stand between them.
ENDS = """Sentiment:  Sentiment: (  Sentiment: [  Sentiment (  {"sentiment": "
{"id": "", "sentiment":"  {'sentiment': '  sentiment="  sentiment('  Sentiment: `
Sentiment: **  Sentiment: *  **Sentiment:**  *Sentiment:*  Sentiment: _
Sentiment: “  Sentiment: ‘  Sentiment: «  Sentiment: „  Sentiment:"
The sentiment of "this film"  It is 'good' or 'bad'  `x` and `  the reviewers'
sentiment =  sentiment=  sentiment==  sentiment :=  sentiment/  reviews/labels/
sentiment_  my_label_  Sentiment: #  Tags: @  <label class="sentiment">  <b>
Sentiment >  -  *  •  1.  (A)  Sentiment →  Sentiment ->  | sentiment |
Sentiment -  Sentiment-  Sentiment –  Sentiment—  Is it good or bad?  The review is
It is 100%  [Sentiment]:  [INST] Classify. [/INST]  Sentiment,  \\textbf{"""


def test_the_space_is_where_the_model_sees_it(embedded):
    answers = ("positive", "negative", "Positive", "Negative")
    ends = re.split(r"  |\n", ENDS)
    prompts = [f"Review: The plot is thin.\n{end}" for end in ends]
    tokens = [
        tuple(embedded.tokenizer(f"{lead}{answer}").input_ids)
        for lead in ("", " ")
        for answer in answers
    ]
    labels = LabelTokens(tuple(map(str, range(8))), tuple(tokens), tuple(range(8)))
    encoded = [embedded.encode(prompt) for prompt in prompts]
    mass = np.exp(label_logprobs(embedded, encoded, labels))
    none, space = mass[:, :4].sum(1), mass[:, 4:].sum(1)
    clear = np.maximum(none, space) > 5 * np.minimum(none, space)
    assert clear.sum() > 50
    for at in np.flatnonzero(clear):
        expected = "" if none[at] > space[at] else " "
        assert seam(prompts[at], answers[0]) == expected, prompts[at]


@pytest.mark.parametrize(
    ("before", "answer", "expected"),
    [
        ("", "yes", ""),
        ("A:\n", "yes", ""),
        ("A:\u3000", "是", ""),
        ("答え：", "yes", ""),
        ("답：", "예", ""),
        ("ตอบ", "ใช่", ""),
        ("ตอบ:", "ใช่", " "),
        ("Face 😀", "yes", " "),
        ("<answer>", "yes", ""),
        ("Answer: <", "yes", ""),
        ("Respuesta: ¿", "sí", ""),
        ("»Gut« heißt »", "ja", ""),
        ("« Un film »", "oui", " "),
        ("Svar: ”", "ja", ""),
        ("”Ja.”", "ja", " "),
        ("a < b >", "yes", " "),
        ("„Ja“", "ja", " "),
        ("He said: 'No.'", "yes", " "),
        ('It is 12"', "yes", " "),
        ("```", "yes", ""),
        ("## ##", "yes", " "),
        ("[/ASK]", "yes", " "),
    ],
)
def test_the_space_before_a_label(before, answer, expected):
    assert seam(before, answer) == expected
    assert seam(f"{before}[/ASK]", answer, ("[/ASK]",)) == ""


def test_a_label_that_spells_a_control_token_is_text(embedded):
    verbalizer = Verbalizer(["<|im_end|>", "no"], family="case")
    (end,) = embedded.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    found = verbalizer.tokens(embedded, after="A:")
    assert not any(end in sequence for sequence in found.sequences)
    text = embedded.text_ids(" <|im_end|>")
    assert tuple(text) in found.sequences


def test_case_takes_in_all_tokens_that_read_so(embedded):
    found = texts_of(embedded, Verbalizer(["yes", "no"], family="case"), "A:")
    singles = {
        text for text in embedded.vocabulary if text.strip(" ").casefold() == "yes"
    }
    assert {" yes", "yes", " Yes", "Yes"} <= singles <= set(found["yes"])
    found = texts_of(embedded, Verbalizer(["yes", "no"], family="wide"), "A:")
    assert {"\nyes", ' "Yes"', "'no'"} <= set(found["yes"] + found["no"])


@pytest.mark.parametrize("family", ["exact", "case", "wide"])
def test_no_token_sequence_is_there_twice(embedded, family):
    spellings = {"positive": ["positive", "Positive", " positive", "good"]}
    verbalizer = Verbalizer(["positive", "negative"], family, spellings)
    found = verbalizer.tokens(embedded, after="Sentiment:")
    assert len(set(found.sequences)) == len(found.sequences) == len(found.owners)
    assert set(found.owners) == {0, 1}


def test_label_of_several_tokens_is_whole(embedded):
    labels = ["lower trunk", "upper trunk", "vegetable", "hypothesis testing"]
    found = Verbalizer(labels).tokens(embedded, after="Body part:")
    for label, sequence in zip(labels, found.sequences, strict=True):
        whole = embedded.encode(f"Body part: {label}")
        assert list(sequence) == whole[len(embedded.encode("Body part:")) :]
    assert max(map(len, found.sequences)) > 1


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        (["yes", " yes"], {}, "share the tokens"),
        (["Yes", "yes"], {"family": "case"}, "share the tokens"),
        (["yes", '"yes"'], {"family": "wide"}, "share the tokens"),
        (["a", "b"], {"spellings": {"a": ["x"], "b": ["y", "x"]}}, "'a' and 'b' share"),
        # "no\nway" begins with "no" and its terminator: it happens only if "no" does.
        (["no", "no\nway"], {"terminator": "\n"}, "is a prefix"),
        (["yes", "no"], {"terminator": ["\n", ""]}, "terminator must not be empty"),
        (["yes", "no"], {"terminator": "⁂⁂⁂"}, "begins no token"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_told_apart_are_refused(embedded, labels, settings, said):
    with pytest.raises(ValueError, match=said):
        Verbalizer(labels, **settings).tokens(embedded, after="A:")
    with pytest.raises(ValueError, match="after must not end in a space"):
        Verbalizer(["yes", "no"]).tokens(embedded, after="Answer: ")


@pytest.mark.parametrize(
    ("short", "long"), [("no", "no way"), ("lower", "lower trunk"), ("not", "not sure")]
)
def test_label_that_begins_another_needs_a_terminator(embedded, short, long):
    for labels in ([long, short], [short, long]):
        with pytest.raises(ValueError, match=f"'{short}' is a prefix of .* '{long}'"):
            Verbalizer(labels).tokens(embedded, after="A:")
    verbalizer = Verbalizer([short, long], terminator="\n")
    found = verbalizer.tokens(embedded, after="A:")
    first, second = found.sequences
    assert second[: len(first)] == first
    assert second[len(first)] not in found.stop_ids
    # " pos" and " positive" are one token each: neither begins the other.
    Verbalizer(["pos", "positive"]).tokens(embedded, after="A:")


def test_longer_spelling_is_not_counted_twice(embedded):
    both = {"spellings": {"no": ["no", "no way"]}}
    found = Verbalizer(["yes", "no"], **both).tokens(embedded, after="A:")
    assert found.describe(embedded) == [("yes", ["␣yes"]), ("no", ["␣no"])]
    ended = Verbalizer(["yes", "no"], terminator="\n", **both)
    # With a terminator they are different events.
    assert len(ended.tokens(embedded, after="A:").sequences) == 3


def test_every_token_that_begins_so_ends_it(embedded):
    verbalizer = Verbalizer(["yes", "no"], terminator=("\n", "."))
    found = verbalizer.tokens(embedded, after="A:")
    texts = set(embedded.token_texts(found.stop_ids))
    assert {"\n", "\n\n", ".", "..."} <= texts
    assert all(text.startswith(("\n", ".")) for text in texts)


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        ("yes", {}, "labels must be several strings"),
        (["yes", ""], {}, "visible characters, not ''"),
        ([1, 2], {}, "visible characters, not 1"),
        (["yes", "no", "yes"], {}, "must all be different; repeated: \\['yes'\\]"),
        (["yes"], {}, "labels must be at least two"),
        (["yes", "no"], {"family": "loose"}, "family must be one of"),
        (["yes", "no"], {"spellings": {"maybe": ["so"]}}, "not there: \\['maybe'\\]"),
        (["yes", "no"], {"spellings": {"yes": "yeah"}}, "several strings, not 'yeah'"),
        (["yes", "no"], {"spellings": {"yes": []}}, "must be several strings"),
        (["yes", "no"], {"spellings": {"yes": ["y", " "]}}, "characters, not ' '"),
    ],
    ids=str,
)
def test_senseless_ones_are_refused(labels, settings, said):
    with pytest.raises(ValueError, match=said):
        Verbalizer(labels, **settings)


def test_a_verbalizer_is_spelled_once_for_a_model(embedded, tiny_llama):
    def tokens(model=embedded, after="A:", **more):
        return Verbalizer(["yes", "no"], **more).tokens(model, after=after)

    assert tokens() is tokens()
    changes = [
        {"model": tiny_llama},
        {"after": "A:\n"},
        {"family": "case"},
        {"terminator": "\n"},
        {"spellings": {"yes": ["yeah"]}},
    ]
    assert all(tokens(**change) != tokens() for change in changes)
