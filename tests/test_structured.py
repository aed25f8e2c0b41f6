"""One field of a JSON answer: its bytes, its tokens, its values' probabilities."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.structured import field_distribution

Token = dict[str, Any]


def token(text: str | bytes, p: float = 1.0, **others: float) -> Token:
    """A token with its probability and those of alternatives, as servers write them."""
    data = text.encode() if isinstance(text, str) else text
    return _entry(data, p) | {
        "top_logprobs": [
            _entry(data, p),
            *(_entry(other.encode(), q) for other, q in others.items()),
        ]
    }


def _entry(data: bytes, p: float) -> Token:
    return {
        "token": data.decode("utf-8", "replace"),
        "bytes": list(data),
        "logprob": math.log(p) if p else -9999.0,
    }


def beside(own: bytes, other: bytes) -> Token:
    """What is written, with a probability of a half, and another token of a quarter."""
    return _entry(own, 0.5) | {"top_logprobs": [_entry(own, 0.5), _entry(other, 0.25)]}


def limits(found: Any, value: Any) -> tuple[float, float]:
    at = [repr(choice) for choice in found.choices].index(repr(value))
    return found.lower[at], found.upper[at]


# --- fields whose numbers are known --------------------------------------------------


def test_pineapple_is_a_coin_toss():
    # Seed 003; a colon stands where its listing has lost one.
    half = math.exp(-0.6931498)
    head = [token(text) for text in ('{"', "contains", "Pineapple", '":')]
    texts = [',"', "reason", '":"', "Often", " pineapple", ", true", '."}']
    value = {**token("true", half, false=half), "logprob": -0.6931498}
    tail = [{"token": text, "logprob": -0.3} for text in texts]
    found = field_distribution([*head, value, *tail], "containsPineapple")
    assert (found.value, found.tokens) == (True, (4,))
    assert found.logprob == -0.6931498
    assert found.lower == pytest.approx([0.4999986903] * 2)
    assert found.upper == pytest.approx([0.5000013097] * 2)
    assert not found.decided and found.prediction is None
    assert found.flags == () and found.before == ()


def test_neiss_code_in_a_json_answer():
    logprobs = {
        "88": -0.0009117019944824278,
        "76": -7.219661712646484,
        "80": -10.270442962646484,
        "30": -10.481380462646484,
        "75": -10.715755462646484,
    }
    # test_vectors §5.2: o200k cuts it so.
    tokens = [token(text) for text in ('{"', "body", "_part", '":"')]
    listed = {code: math.exp(logprob) for code, logprob in logprobs.items()}
    tokens += [token("88", listed.pop("88"), **listed), token('"}')]
    codes = [*logprobs, "33"]
    found = field_distribution(tokens, "body_part", choices=codes, constrained=True)
    assert limits(found, "88") == pytest.approx((0.999088713, 0.9991830610))
    assert limits(found, "33") == pytest.approx((0, 9.43480e-5), rel=1e-4)
    assert found.decided and found.prediction == "88"
    # Without the schema "76" could become "761" for all we know.
    free = field_distribution(tokens, "body_part", choices=codes)
    assert limits(free, "88")[0] == pytest.approx(0.999088713)
    assert limits(free, "76") == pytest.approx((0, 7.3205e-4 + 9.4348e-5), rel=1e-4)
    assert free.decided


LIMITS = [
    # What other packages get wrong: peers.md §2.3, one after the other.
    ('{"spam":¦true=.5¦}', "spam", "true .5 1 / false 0 .5"),
    ('{"type¦":"=.6¦v=.9¦w=.99¦"}', "type", '"vw" .891 1 / "ab" 0 .1'),
    ('"¦pos=.8¦"', "", '"pos" .8 1 / "neg" 0 .2'),
    (
        '{"a":"¦negative=.5/positive=.2/n=.2/ =.1¦"}',
        *("!a", '"positive" .2 .2 / "negative" .5 .7 / "neutral" 0 .2'),
    ),
    (
        '{"a":"¦pos=.9/neg=.1¦itive=.6666666667/"}=.3333333333¦"}',
        *("!a", '"pos" .3 .3 / "positive" .6 .6 / "negative" .1 .1'),
    ),
    ('{"a":"¦spam=.6/not=.4¦"}', "!a", '"spam" .6 .6 / "not spam" .4 .4'),
    ('{"a":"¦sp=.3¦am=0¦"}', "a", '"spam" 0 1 / "ham" 0 .7'),
    # The same text, or another colon, stands before the field.
    ('{"b":"is ¦true=.9¦?","a":¦true=.6/false=.4¦}', "a", "true .6 .6 / false .4 .4"),
    ('{"a":¦ true=.6/ false=.4¦}', "a", "true .6 .6 / false .4 .4"),
    ('{"b":"¦red: ripe=.2¦","a":"¦x=.7/y=.3¦"}', "!a", '"x" .7 .7 / "y" .3 .3'),
    ('{"a":"¦v=.6/fr=.4¦w¦","b":"¦x=.5¦y=.5¦"}', "!a", '"vw" .6 .6 / "fr" .4 .4'),
    # "b" is "be" or "by", for sure: "a" cannot have more than .4 of the choices.
    ('{"a":"¦a=.4/b=.6¦"}', "!a", '"a" .4 .4 / "be" 0 .6 / "by" 0 .6'),
    # Null or a text starts at the quote; of texts alone, it is given.
    ('{"a":¦"=.7/null=.3¦x=.5¦"}', "a", '"x" .35 .7 / null .3 .3'),
    ('{"a":¦"=.7/null=.3¦x=.5¦"}', "a", '"x" .5 1 / "y" 0 .5'),
    ('{"a":¦1.0=.7/2=.2¦}', "a", "1 .7 .8 / 2 0 .3"),
    ('{"a":"¦\ud83d=.9¦\ude00=.9¦"}', "a", '"😀" .81 1 / "😁" 0 .19'),
    # Part of a character that the server lost may be any.
    ('{"a":"¦x=.5/�=.3/w�=.1/w=.1¦"}', "a", '"x" .5 .8 / "é" 0 .3 / "è" 0 .3'),
    ('{"a":"¦x=.5/�=.3/w�=.1/w=.1¦"}', "!a", '"x" .5 .8 / "é" 0 .3 / "è" 0 .3'),
    # A sentinel of an alternative, and of what is written.
    ('{"spam":¦true=.5/false=0¦}', "spam", "true .5 1 / false 0 .5"),
    ('{"spam":¦true=0¦}', "spam", "true 0 1 / false 0 1"),
]


@pytest.mark.parametrize(("written", "path", "expected"), LIMITS)
def test_limits_of_a_field(written, path, expected):
    tokens = []
    for place in written.split("¦"):
        pairs = [entry.rpartition("=") for entry in place.split("/")]
        chances = {text or p: float(p) if text else 1.0 for text, _, p in pairs}
        listed = [
            {"token": text, "logprob": math.log(p) if p else -9999.0}
            for text, p in chances.items()
        ]
        tokens.append(listed[0] | {"top_logprobs": listed})
    lines = [line.rsplit(" ", 2) for line in expected.split(" / ")]
    choices = [json.loads(value) for value, *_ in lines]
    way, constrained = path.removeprefix("!"), "!" in path
    found = field_distribution(tokens, way, choices=choices, constrained=constrained)
    assert found.lower == pytest.approx([float(low) for _, low, _ in lines])
    assert found.upper == pytest.approx([float(high) for *_, high in lines])
    total = found.lower.sum() + found.off_list + found.unlisted + found.unresolved
    assert total == pytest.approx(1)


def test_shares_of_a_field():
    tokens = [token('{"x":"'), token("a", 0.4, b=0.6), token('"}')]
    for constrained, high in ((True, [0.4, 0.6, 0.6]), (False, [1.0, 0.6, 0.6])):
        options = {"choices": ["a", "be", "by"], "constrained": constrained}
        found = field_distribution(tokens, "x", **options)
        assert found.lower_share == pytest.approx([0.4, 0, 0])
        assert found.upper_share == pytest.approx(high)
    # What is not listed may lead nowhere.
    tokens = [token('{"x":"'), token("p", 0.5, **{'neg"': 0.5}), token("os", 0.4)]
    found = field_distribution(
        [*tokens, token('"}')], "x", choices=["pos", "pot", "neg"]
    )
    assert found.unlisted == pytest.approx(0.3)
    assert found.upper_share == pytest.approx([0.5, 0.3, 0.5 / 0.7])
    assert found.lower_share == pytest.approx([0.2 / 1.0, 0, 0.5])


# --- spans ---------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from('ab"\\/:,{}[]é€😀\n\u2028 \t'), min_size=0, max_size=5)
SCALARS = (
    TEXTS
    | st.booleans()
    | st.none()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)


def ways(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all scalars but empty strings."""
    if isinstance(value, dict):
        return [w for key in value for w in ways(value[key], (*way, key))]
    if isinstance(value, list):
        return [w for at in range(len(value)) for w in ways(value[at], (*way, at))]
    return [] if value == "" else [way]


def reach(value: Any, way: tuple[str | int, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


def replaced(value: Any, way: tuple[str | int, ...], by: Any) -> Any:
    if not way:
        return by
    value = copy.deepcopy(value)
    reach(value, way[:-1])[way[-1]] = by
    return value


@st.composite
def documents(draw: Any) -> tuple[str, tuple[str | int, ...], Any]:
    value = draw(VALUES)
    found = ways(value)
    assume(found)
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 1])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])),
    )
    around = st.sampled_from([("", ""), (" \n", "\n\n"), ("```json\n", "\n```")])
    head, tail = draw(around)
    return head + text + tail, draw(st.sampled_from(found)), value


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted({p % (len(data) + 1) for p in places}), len(data)]
    return [data[a:b] for a, b in zip(marks, marks[1:], strict=False)]


def field_of(text: str, path: Any, choices: Any = (0,)) -> tuple[Any, int, int]:
    """Value, start and end of a field, in bytes, without the quotes of a string."""
    parts = [bytes([byte]) for byte in text.encode()]
    found = field_distribution(map_tokens(parts), path, choices=choices)
    return found.value, found.tokens[0], found.tokens[-1] + 1


def map_tokens(parts: list[bytes], form: int = 0) -> list[Token]:
    """Tokens with these bytes, as one of three kinds of servers writes them."""
    return [
        [
            {"token": part.decode("utf-8", "replace"), "bytes": list(part)},
            {"token": part.decode("utf-8", "surrogateescape"), "bytes": None},
            {"token": "bytes:" + "".join(f"\\x{byte:02x}" for byte in part)},
        ][form]
        | {"logprob": -0.25}
        for part in parts
        if part
    ]


@settings(max_examples=100)
@given(documents(), st.lists(st.integers(0, 10**6), max_size=30), st.integers(0, 2))
def test_the_span_is_the_value_s_and_the_tokens_are_those_that_hold_it(
    document, places, form
):
    text, way, whole = document
    expected, data = reach(whole, way), text.encode()
    value, start, end = field_of(text, way)
    assert value == expected and type(value) is type(expected)
    # Another value in its place changes this field and nothing else.
    other = b"#" if isinstance(expected, str) else b'"#"'
    inner = (data[:start] + other + data[end:]).decode().strip()
    inner = inner.removeprefix("```json").removesuffix("```")
    assert json.loads(inner) == replaced(whole, way, "#")

    parts = [part for part in cut(data, places) if part]
    found = field_distribution(map_tokens(parts, form), way, choices=[expected])
    assert found.value == expected and type(found.value) is type(expected)
    ends = np.cumsum([len(part) for part in parts])
    starts = ends - [len(part) for part in parts]
    assert found.tokens == tuple(np.flatnonzero((starts < end) & (ends > start)))
    assert found.logprob == pytest.approx(-0.25 * len(found.tokens))
    first, last = found.tokens[0], found.tokens[-1]
    assert ("straddles" in found.flags) == (starts[first] < start or ends[last] > end)
    assert "other_value" not in found.flags


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ('{"items":[{"type":"a"},{"type":"b"}]}', "items[1].type", "b"),
        ('{"items":[{"type":"a"},{"type":"b"}]}', ["items", 1, "type"], "b"),
        ('{"person":{"role":"c"}}', "person.role", "c"),
        ('{"x.y":{"":3}}', ["x.y", ""], 3),
        ("[[5, 6]]", "[0][1]", 6),
        (" true ", "", True),
        ('{"a": 1}<|im_end|>\n', "a", 1),
        ('{"a":{"b":1},"a":{"b":2}}', "a.b", 2),  # the last of equal keys counts
    ],
)
def test_paths(text, path, value):
    found, start, end = field_of(text, path)
    assert found == value
    last = str(value).lower() if isinstance(value, bool) else str(value)
    assert start == text.rindex(last) and end == start + len(last)


def test_fields_before():
    # What stands between two equal keys came before the one that counts.
    text = '{"n":1,"a":1,"why":["x"," "],"a":2,"b":"y"}'
    found = field_distribution([token(text)], "a", choices=[1, 2])
    assert found.before == ("why",)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ('{"a":1}', "b", r"'the whole' has \['a'\], not 'b'"),
        ('{"a":{"b":1}}', "a.c", r"'a' has \['b'\], not 'c'"),
        ('{"a":[1]}', "a[1]", r"'a' has \[0\], not 1"),
        ('{"a":[1]}', "a.b", r"'a' is no object: \[1\]"),
        ('{"a":1}', "a.b", "'a' is no object: 1"),
        ('{"a":1}', "[0]", "'the whole' is no array"),
        *[('{"a":1}', path, 'like "person.role"') for path in (".a", "a..b", "a[x]")],
        ('{"a":1}', ["a", -1], "one is -1"),
        ('{"a":1}', ["a", True], "one is True"),
        ('{"a":1', "a", "response must be JSON; Expecting"),
        ("It is a fruit.", "a", "response must be JSON; Expecting value"),
        ('{"a":1} I think', "a", "response must be JSON alone; behind it: ' I think'"),
        ('{"a":""}', "a", "'a' is an empty string"),
        ('{"a":{}}', "a", "'a' is an object"),
        ('{"a":[1]}', "a", "'a' is an array"),
    ],
)
def test_a_field_that_is_not_there(text, path, message):
    with pytest.raises(ValueError, match=message):
        field_distribution([token(text)], path, choices=["x"])


# --- which bytes lead to which value -------------------------------------------------

# Choices, and for bytes behind '{"a": ' which of them they lead to: in full, if alone.
MATCHES: list[tuple[list[Any], dict[bytes, str]]] = [
    (
        ["é", "z"],
        {b'"\\u00E9"': "é", b'"\\u00e': "é?", b'"\xc3': "é?", b'"\\U00e9': ""},
    ),
    (["a/b", "z"], {b'"a\\/b"}': "a/b"}),
    (['a"', "z"], {b'"a\\""': 'a"', b'"a"': ""}),
    (["a\n", "z"], {b'"a\\n"': "a\n", b'"a\n"': ""}),  # no legal JSON
    (["😀", "z"], {b'"\\ud83d\\uDE00" ,': "😀"}),
    (["p", "pq"], {b'"p': "p?pq?", b'"p"': "p", b'"p" :': "", b' \n"pq': "pq?"}),
    ([True, False, None], {b" true": "True", b"nul": "None?", b"truely": ""}),
    ([3, 30], {b"3": "3?30?", b"3}": "3", b"30\n": "30", b"300": ""}),
    ([1, True], {b"1,": "1"}),
    (["3x", 3], {b'"3x"': "3x", b"3]": "", b"3,": "3"}),
]


@pytest.mark.parametrize(("choices", "expected"), MATCHES)
def test_match(choices, expected):
    for data, leads in expected.items():
        own = json.dumps(choices[1]).encode() + b"}"
        tokens = [token('{"a":'), beside(own, data)]
        found = field_distribution(tokens, "a", choices=choices)
        whole = found.lower - [0, 0.5, 0][: len(choices)]
        begun = found.upper - found.lower - 0.25  # what is not listed
        names = [
            f"{choice}?" if part > 0.2 else f"{choice}" if full > 0.2 else ""
            for choice, part, full in zip(choices, begun, whole, strict=True)
        ]
        assert "".join(names) == leads, data


@pytest.mark.parametrize(
    ("other", "lower", "unresolved"),
    [
        (b'b":"x"', 0.75, 0),
        (b'b" \n :\t "x"', 0.75, 0),
        (b'b"', 0.5, 0.25),
        (b' b":"x"', 0.5, 0),
        (b'c":', 0.5, 0),
    ],
)
def test_match_behind_a_colon_in_the_same_token(other, lower, unresolved):
    tokens = [token('{"a:'), beside(b'b" : "x"}', other)]
    found = field_distribution(tokens, "a:b", choices=["x", None])
    assert (found.lower[0], found.unresolved) == pytest.approx((lower, unresolved))


def test_spelling_families():
    tokens = [token('{"a":"'), token("Fruit", 0.6, fruit=0.3, FRUIT=0.05), token('"}')]
    options = {"choices": ["fruit", "herb"], "constrained": True}
    exact = field_distribution(tokens, "a", **options)
    assert limits(exact, "fruit")[0] == pytest.approx(0.3)
    assert "other_value" in exact.flags and exact.off_list == pytest.approx(0.65)
    cased = field_distribution(tokens, "a", family="case", **options)
    assert limits(cased, "fruit")[0] == pytest.approx(0.95)
    assert cased.flags == () and cased.value == "Fruit"


def test_a_table_and_a_list_of_keys():
    tokens = [token('{"a.b":'), token("false", 0.5, true=0.25), token("}")]
    found = field_distribution(tokens, ["a.b"])
    assert found.path == '["a.b"]'
    table = found.table()
    assert table["value"].tolist() == [True, False]
    assert table["lower"].tolist() == pytest.approx([0.25, 0.5])
    assert table["upper_share"].tolist() == pytest.approx([0.5, 0.75])


def test_flags():
    why = [token('{"why":"It is'), token(" long", 0.2), token('","n":1,"a":"')]
    tokens = [*why, token("x", 0.5, y=0.5), token('"}')]
    found = field_distribution(tokens, "a", choices=["x", "y"])
    assert found.flags == ("masked", "reasoning_before")
    assert found.before == ("why",)
    for entry in (tokens[3], *tokens[3]["top_logprobs"]):
        entry["logprob"] = -0.69
    found = field_distribution(tokens, "a", choices=["x", "y"])
    assert "low_precision" in found.flags
    tokens[3]["top_logprobs"].append(_entry(b'"', 1e-9))
    found = field_distribution(tokens, "a", choices=["x", "y"])
    assert "masked" not in found.flags


# --- a small language model whose every answer can be written down -------------------

CHOICES: list[list[Any]] = [
    ["pos", "positive", "neg"],
    ["é", "e", '"'],
    [True, False],
    [3, 30, 4],
    ["a", None, 1],
]
OTHERS = [["posh", "", "nega"], ["è", "éé"], [None, 7], [300, 5], [True, "ab", 12]]


class Model:
    """Answers with weights, cut into tokens; a tree of all that it can say."""

    def __init__(self, answers: list[tuple[list[bytes], int]]) -> None:
        self.answers = answers

    def after(self, said: list[bytes]) -> list[tuple[list[bytes], int]]:
        n = len(said)
        return [(parts, w) for parts, w in self.answers if parts[:n] == said]

    def position(self, said: list[bytes], k: int) -> Token:
        """The next token of what is said last, and the k most probable ones."""
        *before, chosen = said
        weights: dict[bytes, int] = {}
        for parts, weight in self.after(before):
            part = parts[len(before)] if len(parts) > len(before) else b""
            weights[part] = weights.get(part, 0) + weight
        total = sum(weights.values())
        ranked = sorted(weights, key=lambda part: -weights[part])[:k]
        own = _entry(chosen, weights[chosen] / total)
        listed = [_entry(part, weights[part] / total) for part in ranked]
        return own | {"top_logprobs": listed}


@st.composite
def models(draw: Any, *, only_choices: bool) -> tuple[list[Any], Model, list[bytes]]:
    case = draw(st.integers(0, len(CHOICES) - 1))
    choices = CHOICES[case]
    values = choices if only_choices else choices + OTHERS[case]
    answers: dict[tuple[bytes, ...], int] = {}
    for _ in range(draw(st.integers(2, 8))):
        value = draw(st.sampled_from(values))
        written = json.dumps(value, ensure_ascii=draw(st.booleans()))
        space = draw(st.sampled_from(["", " "]))
        tail = draw(st.sampled_from(["}", ' ,"z":2}', "\n}"]))
        text = f'{{"k":"v","label":{space}{written}{tail}'.encode()
        places = draw(st.lists(st.integers(12, len(text) - 1), max_size=6))
        parts = tuple(part for part in cut(text, places) if part)
        answers[parts] = answers.get(parts, 0) + draw(st.integers(1, 20))
    model = Model([(list(parts), weight) for parts, weight in answers.items()])
    return choices, model, draw(st.sampled_from([parts for parts, _ in model.answers]))


def true_probabilities(
    choices: list[Any], model: Model, said: list[bytes], value_at: int
) -> np.ndarray:
    """Of each value, given what came before the first token that holds the value."""
    ends = np.cumsum([len(part) for part in said])
    first = int(np.argmax(ends > value_at))
    possible = model.after(said[:first])
    weights = np.zeros(len(choices))
    for parts, weight in possible:
        value = json.loads(b"".join(parts))["label"]
        for at, choice in enumerate(choices):
            if type(choice) is type(value) and choice == value:
                weights[at] += weight
    return weights / sum(weight for _, weight in possible)


@pytest.mark.parametrize("constrained", [False, True])
@settings(max_examples=100)
@given(st.data(), st.sampled_from([0, 1, 2, 3, 20]))
def test_truth_lies_inside(constrained, data, k):
    choices, model, said = data.draw(models(only_choices=constrained))
    assume(json.loads(b"".join(said))["label"] != "")
    tokens = [model.position(said[: n + 1], k) for n in range(len(said))]
    mixed = len({isinstance(choice, str) for choice in choices}) > 1
    value, start, _ = field_of(b"".join(said).decode(), "label")
    start -= isinstance(value, str) and mixed  # the quote tells which kind it is
    true = true_probabilities(choices, model, said, start)
    found = field_distribution(
        tokens, "label", choices=choices, constrained=constrained
    )
    assert (found.lower <= true + 1e-9).all(), (true, found)
    assert (true <= found.upper + 1e-9).all(), (true, found)
    if true.sum() > 0:
        share = true / true.sum()
        assert (found.lower_share <= share + 1e-9).all(), (share, found)
        assert (share <= found.upper_share + 1e-9).all(), (share, found)
    if found.decided:
        assert repr(found.prediction) == repr(choices[int(true.argmax())])
    total = found.lower.sum() + found.off_list + found.unlisted + found.unresolved
    assert total == pytest.approx(1)


@pytest.mark.parametrize("other", [0.6, 1e-9])
def test_a_list_that_is_no_top_k_list_leaves_a_field_open(other):
    listed = {"top_logprobs": [{"token": "false", "logprob": math.log(other)}]}
    written = {"token": "true", "logprob": math.log(other / 2), **listed}
    found = field_distribution([token('{"spam":'), written, token("}")], "spam")
    if other > 0.5:  # a list of one, below which what is written may well stand
        assert not found.flags and found.lower[1] == pytest.approx(0.6)
        return
    assert found.flags == ("not_top_k",) and found.unlisted == 1
    assert found.lower.tolist() == [0, 0] and found.upper.tolist() == [1, 1]
    assert (found.decided, found.prediction) == (False, None)


def test_no_alternatives_and_no_probability():
    tokens = [token('{"spam":'), token("true", 0.5), token("}")]
    for empty in ([], None):
        tokens[1]["top_logprobs"] = empty
        found = field_distribution(tokens, "spam")
        assert limits(found, True) == pytest.approx((0.5, 1.0))
        assert limits(found, False) == pytest.approx((0, 0.5))
    tokens[1]["logprob"] = -9999.0
    found = field_distribution(tokens, "spam")
    assert found.lower.tolist() == [0, 0] and found.upper.tolist() == [1, 1]
    assert math.isnan(found.logprob) and found.flags == ("missing_logprob",)


@pytest.mark.parametrize(
    ("text", "choices", "message"),
    [
        ('{"a":"x"}', None, "choices must be given for a field that is no boolean"),
        ('{"a":null}', None, "choices must be given for a field that is no boolean"),
        ('{"a":1}', [], "choices must be several values"),
        ('{"a":1}', "xy", "choices must be several values"),
        ('{"a":1}', [1, 1.0], "choices must all be different; 1.0 is repeated"),
        ('{"a":1}', [math.nan], "choices must be finite numbers"),
        ('{"a":1}', [""], "strings that are not empty"),
        ('{"a":1}', [b"x"], "choices must be strings, numbers, bools or"),
    ],
)
def test_bad_choices_and_fields(text, choices, message):
    with pytest.raises((ValueError, TypeError), match=message):
        field_distribution([token(text)], "a", choices=choices)
    with pytest.raises(ValueError, match="family must be one of"):
        field_distribution([token('{"a":1}')], "a", choices=[1], family="any")
