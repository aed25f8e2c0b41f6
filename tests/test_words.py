"""Sentences of the chapters, with every word that a cell may choose for them.

A chapter records words by what it finds, and only one of them is on the page that
somebody reads. Here each sentence is read with each of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_notebooks import NOTEBOOKS, tree

GLUE = re.compile(r"\{glue:text\}`([^`:]+)(:[^`]*)?`")
UNKNOWN = "§"  # what only a run can tell
MARKUP = [
    (r"\{(?:cite\S*|numref)\}`[^`]*`", "X"),
    (r"(?<=[.!?] )\*(?=\w)", "X"),  # a name that begins a sentence
    (r"\{\w+\}`([^`<]*?)(?: ?<[^`]*>)?`", r"\1"),
    (r"`[^`]*`|\$[^$]*\$", "X"),
    (r"!?\[([^]]*)\]\([^)]*\)", r"\1"),
    (r"\*+", ""),
]
FAULTS = {
    "doubled word": r"\b(?!that\b)([A-Za-z]+) \1\b",
    "double space": r"\S  +\S",
    "space before punctuation": r" [,.;:!?)](?!\.)|\( ",
    "doubled punctuation": r"[,;:.](?<!…)[,;:]|[,;:]\.|\.\.(?!\.)|\(\)|“”|\"\"",
    "article": r"\ba (?!one\b|uni|use|eu)[aeiou]|"
    r"\ban (?!hour|honest|heir|[A-Z]|[fhlmnrsx]\b)[b-df-hj-np-tv-z]",
    "verb left out": r"\b(?:does|do|did) not ?[,.;:)]",
    "noun for a quality": r"\bare (?:a|no) difference\b",
    "double negation": r"\b(?:none|nobody|nothing)\b[^.;:,)]*\b(?:cannot|not|no)\b",
    "one of many": r"(?<![\d.,])1 (?:labels|texts|answers|reviews|rows|cases|words)\b",
    "no capital": r"(?<!e\.g)[.!?]\)? [(\"“]*[a-z]",
}
FOUND = r"(?<!that )(?<!be )\b(?:was|were|had|did|took|went|fell|rose|beat|broke)\b"


class Words:
    """What the cells of a notebook may record, as far as their code tells."""

    def __init__(self, cells: list[Any]) -> None:
        self.values: dict[str, list[ast.expr]] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        self.records: list[tuple[str, list[str]]] = []
        for cell in cells:
            fresh: set[str] = set()  # a cell's values replace those of earlier ones
            nodes = list(ast.walk(tree(cell)))
            for node in nodes:
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = node
                elif isinstance(node, ast.Assign):
                    for target in node.targets:
                        if isinstance(target, ast.Name):
                            if target.id not in fresh:
                                self.values[target.id] = []
                            fresh.add(target.id)
                            self.values[target.id].append(node.value)
                elif isinstance(node, ast.AugAssign):
                    whole = ast.BinOp(node.target, node.op, node.value)
                    self.values.setdefault(ast.unparse(node.target), []).append(whole)
            for node in nodes:
                if isinstance(node, ast.Call) and len(node.args) == 2:
                    if ast.unparse(node.func).split(".")[-1] == "record":
                        self._add(*node.args)

    def _add(self, key: ast.expr, value: ast.expr) -> None:
        for name in self.of(key):
            pattern = re.escape(name).replace(UNKNOWN, ".+")
            self.records.append((pattern, self.of(value)))

    def recorded(self, key: str) -> list[str]:
        """The words of the records that name the key most closely."""
        found = [one for one in self.records if re.fullmatch(one[0], key)]
        closest = max((len(pattern) for pattern, _ in found), default=0)
        near = [said for pattern, said in found if len(pattern) == closest]
        return list(dict.fromkeys(word for said in near for word in said))

    def of(self, node: Any, known: dict[str, list[str]] | None = None) -> list[str]:
        """Every text that an expression may give."""
        known = known or {}
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.IfExp(body=one, orelse=other):
                found = self.of(one, known) + self.of(other, known)
            case ast.JoinedStr(values=parts):
                choices = [self.of(part, known) for part in parts]
                found = ["".join(some) for some in product(*choices)]
            case ast.FormattedValue(value=inner):
                found = self.of(inner, known)
            case ast.BinOp(left=one, op=ast.Add(), right=other):
                both = product(self.of(one, known), self.of(other, known))
                found = [left + right for left, right in both]
            case ast.Name(id=name) if name in known:
                found = known[name]
            case ast.Name(id=name):
                hidden = {**known, name: [UNKNOWN]}  # it may refer to itself
                found = [
                    w for n in self.values.get(name, []) for w in self.of(n, hidden)
                ]
            case ast.Subscript(value=ast.Name(id=name)):
                tables = [
                    n for n in self.values.get(name, []) if isinstance(n, ast.Dict)
                ]
                found = [w for t in tables for v in t.values for w in self.of(v, known)]
            case ast.BoolOp(values=parts) | ast.Subscript(value=ast.Dict(values=parts)):
                found = [word for part in parts for word in self.of(part, known)]
            case ast.Call(
                func=ast.Attribute(value=ast.Dict(values=parts), attr="get"), args=args
            ):
                parts = [*parts, *args[1:]]
                found = [word for part in parts for word in self.of(part, known)]
            case ast.Call(func=ast.Name(id=name)) if name in self.functions:
                found = self._returned(self.functions[name], node, known)
            case _:
                found = []
        return list(dict.fromkeys(found)) or [UNKNOWN]

    def _returned(
        self, function: ast.FunctionDef, call: ast.Call, known: dict[str, list[str]]
    ) -> list[str]:
        names = [argument.arg for argument in function.args.args]
        given = zip(names, call.args, strict=False)
        bound = {name: self.of(value, known) for name, value in given}
        returns = [n for n in ast.walk(function) if isinstance(n, ast.Return)]
        return [word for one in returns for word in self.of(one.value, bound)]


def blocks(text: str) -> Iterator[str]:
    """Paragraphs and list items, without directives and their options."""
    text = re.sub(r"^(?:```|:\w+:|\$\$|    ).*$", "", text, flags=re.M)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. |\|)", text):
        if GLUE.search(paragraph):
            plain = re.sub(r"^(?:- |#+ |\d+\. )", "", " ".join(paragraph.split("\n")))
            yield f"X. {plain}" if GLUE.match(plain) else plain


def rendered(block: str, words: Words) -> Iterator[tuple[str, str]]:
    """The block with each word of each key that it quotes; the others stay."""
    keys = [key for key, _ in GLUE.findall(block)]
    for key in keys:
        for word in words.recorded(key):
            chosen = {k: words.recorded(k)[0] for k in keys if words.recorded(k)}
            chosen[key] = word
            text = GLUE.sub(
                lambda m, c=chosen: "0.5" if m[2] else c.get(m[1], UNKNOWN), block
            )
            for pattern, plain in MARKUP:
                text = re.sub(pattern, plain, text)
            yield word, text.strip()


def problems(notebook: Any) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    words = Words(code)
    for block in (block for source in prose for block in blocks(source)):
        for word, text in rendered(block, words):
            for name, pattern in FAULTS.items():
                if found := re.search(pattern, text):
                    near = text[max(0, found.start() - 40) : found.end() + 40]
                    yield f"{name}, with {word!r}: …{near}…"
        for key in dict.fromkeys(key for key, _ in GLUE.findall(block)):
            said = [
                word for word in words.recorded(key) if word and UNKNOWN not in word
            ]
            if len({word[0].isupper() for word in said if word[0].isalpha()}) > 1:
                yield f"some begin a sentence and some do not: {said}"
            if len({word.endswith((".", "!", "?")) for word in said}) > 1:
                yield f"some end a sentence and some do not: {said}"
    summary = re.search(r"^## Summary$(.*?)(?=^## |\Z)", "\n".join(prose), re.M | re.S)
    for item in re.split(r"\n- |(?<=[.:]) ", summary[1] if summary else ""):
        if re.search(FOUND, item) and not GLUE.search(item):
            yield f"a finding that is typed: {item}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sentences_read_well_with_every_word(path):
    found = problems(nbformat.read(path, as_version=4))
    assert list(dict.fromkeys(found)) == []


W = "{glue:text}`w`"


@pytest.mark.parametrize(
    ("some", "others", "prose", "fault"),
    [
        ("holds", "does not, as happens", f"It {W}.", "verb"),
        ("a", "no", f"It is {W} error.", "article"),
        ("{n} rows", "", f"Of {W} in all.", "double space"),
        ("one", "the", f"It is the {W} end.", "doubled word"),
        ("is right", "is right.", f"It {W}.", "doubled punct"),
        ("better", "none", f"They are {W} of them. {W} won.", "no capital"),
        ("better", "a difference", f"Its weights are {W}.", "noun for a quality"),
        ("x", "none of them", f"By ECE, {W} cannot be told from it.", "double neg"),
        ("{n}", "1", f"It changed {W} labels.", "one of many"),
        ("it", "It", f"{W} is.", "some begin"),
        ("It is.", "It was", f"{W} Then.", "some end"),
        ("", "", "## Summary\n\n- Losses differ. Three were better.", "typed"),
        ("", "", f"## Summary\n\n- It was {W}.\n- One had {W}; it took long.", ""),
    ],
)
def test_fault_is_found_in_any_branch(some, others, prose, fault):
    code = new_code_cell(f"record('w', f{some!r} if n else {others!r})")
    cells = [code, new_markdown_cell(prose)] if some else [new_markdown_cell(prose)]
    found = list(problems(new_notebook(cells=cells)))
    assert any(fault in one for one in found) if fault else not found


def test_words_are_followed_through_names_tables_and_functions():
    words = Words(
        [
            new_code_cell("word = 'old'"),
            new_code_cell(
                "def told(x, more):\n"
                "    if x.low > 0:\n        return more\n"
                "    return f'less, by {x:.1f}'\n"
                "word = 'a' if n else ('b' if m else 'c')\n"
                "table = {'x': 'd', 'y': told(x, 'more')}\n"
                "record('name', word)\n"
                "record('table', table[key])\n"
                "record(f'{key}_word', 'e ' + word)\n"
                "record('exact_word', x or 'none')\n"
                "more = 'It is'\nmore += '.'\nrecord('more', more)\n"
            ),
        ]
    )
    assert words.recorded("name") == ["a", "b", "c"]
    assert sorted(words.recorded("table")) == ["d", f"less, by {UNKNOWN}", "more"]
    assert words.recorded("any_word") == ["e a", "e b", "e c"]
    assert words.recorded("exact_word") == [UNKNOWN, "none"]
    assert words.recorded("more") == ["It is", f"{UNKNOWN}."]
