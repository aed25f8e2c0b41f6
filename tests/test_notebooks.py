"""The form of the chapters: what CONTRIBUTING.md promises to a reader."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NOTEBOOKS = sorted(Path(__file__).resolve().parents[1].glob("notebooks/*.ipynb"))
FOLDED = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
DRAWS = re.compile(
    r"\bplots\.(?!\w*style)\w+\(|\bplt\.(show|subplots|figure)\(|\bsns\."
)
HEADINGS = ("Summary", "Further reading")
LONGEST = 20
QUIZZES = 3


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def tree(cell: Any) -> ast.Module:
    lines = [re.sub(r"^\s*[%!].*", "pass", line) for line in cell.source.splitlines()]
    return ast.parse("\n".join(lines))


def parameter_problems(cells: list[Any]) -> Iterator[str]:
    found = [cell for cell in cells if "parameters" in tags(cell)]
    if len(found) != 1:
        yield f"{len(found)} parameters cells"
        return
    names = set()
    for node in tree(found[0]).body:
        try:
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value
            ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            yield f"parameters: not a literal assignment: {ast.unparse(node)}"
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names |= {ast.unparse(target) for target in targets}
    for name in {"seed", "fast", "model"} - names:
        yield f"parameters: no {name}"


def flag_problems(code: list[Any]) -> Iterator[str]:
    """Whether the switch is read strictly before it decides anything.

    ``papermill -p fast false`` sets it to a text, and every text is true.
    """
    asked = "fast = read_flag(fast)"
    for cell in code:
        for node in tree(cell).body:
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if "fast" in names and "parameters" not in tags(cell):
                if ast.unparse(node) != asked:
                    yield f"uses fast before {asked!r}: {ast.unparse(node)!r}"
                return
    yield f"no {asked!r}"


def figure_problems(cell: Any) -> Iterator[str]:
    if not DRAWS.search(cell.source) or "remove-cell" in tags(cell):
        return
    mystnb = cell.metadata.get("mystnb", {})
    for part, name in (("figure", "caption"), ("figure", "name"), ("image", "alt")):
        if not str(mystnb.get(part, {}).get(name, "")).strip():
            yield f"figure without {name}: {cell.source.splitlines()[-1]!r}"


def recorded(cells: list[Any]) -> Iterator[str]:
    """Patterns of the keys that the cells record."""
    for cell in cells:
        for node in ast.walk(tree(cell)):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            if ast.unparse(node.func).split(".")[-1] != "record":
                continue
            key = node.args[0]
            if isinstance(key, ast.Constant):
                yield re.escape(str(key.value))
            elif isinstance(key, ast.JoinedStr):
                yield "".join(
                    re.escape(str(part.value))
                    if isinstance(part, ast.Constant)
                    else ".+"
                    for part in key.values
                )


def exercise_problems(cells: list[Any]) -> Iterator[str]:
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    if not re.search(r"\{exercise(-start)?\}", text):
        yield "no exercise"
    solved, inside = 0, False
    for cell in cells:
        if cell.cell_type == "code":
            solved += inside
            continue
        for mark in re.findall(r"\{solution-(start|end)\}", cell.source):
            inside = mark == "start"
        if "{solution-start}" in cell.source and ":class: dropdown" not in cell.source:
            yield "a solution is not folded"
    if not solved:
        yield "no solution with executed code"


def quiz_problems(cells: list[Any]) -> Iterator[str]:
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    quizzes = re.findall(r"(?ms)^:::\{[^\n]+\n:class: quiz$(.*?)^:::$", text)
    if len(quizzes) < QUIZZES:
        yield f"only {len(quizzes)} quizzes"
    for quiz in quizzes:
        question, *options = re.split(r"^```\{dropdown\} ", quiz, flags=re.M)
        about = question.strip().splitlines()[0]
        answers = [option.split("\n")[1] for option in options]
        right = sum(answer.startswith("**Yes.** ") for answer in answers)
        wrong = sum(answer.startswith("**No.** ") for answer in answers)
        if right != 1:
            yield f"quiz with {right} right answers: {about!r}"
        if right + wrong < len(options):
            yield f"quiz with an answer that is neither Yes nor No: {about!r}"
        if not 2 <= len(options) <= 4:
            yield f"quiz with {len(options)} options: {about!r}"
        if any(re.search(r"[{`*$]", option.split("\n")[0]) for option in options):
            yield f"quiz with markup in an option's title: {about!r}"


def defined(cell: Any) -> Iterator[str]:
    for node in ast.walk(tree(cell)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            yield str(node.name)
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]


def name_problems(code: list[Any]) -> Iterator[str]:
    """Names that a reader of the page meets and cannot look up on it."""
    removed = [cell for cell in code if tags(cell) & {"remove-cell", "remove-input"}]
    shown = [cell for cell in code if cell not in removed]
    seen = {name for cell in shown for name in defined(cell)}
    lost = {name for cell in removed for name in defined(cell)} - seen
    for cell in shown:
        used = {node.id for node in ast.walk(tree(cell)) if isinstance(node, ast.Name)}
        for name in sorted(used & lost):
            yield f"defined in a removed cell only: {name}"


def problems(notebook: Any) -> Iterator[str]:
    """Every breach of the form, in words."""
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    languages = (
        notebook.metadata.get("kernelspec", {}).get("language"),
        notebook.metadata.get("language_info", {}).get("name"),
    )
    if "python" not in languages:  # papermill cannot do without
        yield "no language: kernelspec.language or language_info.name is missing"
    if not (cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")):
        yield "the first cell is not the title"
    if not re.search(r"\{admonition\} .*objectives|:class:.*objectives", text, re.I):
        yield "no objectives"
    for heading in HEADINGS:
        if not re.search(rf"^#+ {heading}", text, re.M):
            yield f"no heading {heading!r}"
    yield from parameter_problems(code)
    yield from flag_problems(code)
    yield from name_problems(code)
    yield from exercise_problems(cells)
    yield from quiz_problems(cells)
    for cell in code:
        first = cell.source.splitlines()[0] if cell.source else "(empty)"
        if cell.outputs or cell.execution_count is not None:
            yield f"stored output: {first!r}"
        if len(cell.source.splitlines()) > LONGEST and not tags(cell) & FOLDED:
            yield f"over {LONGEST} lines and not folded: {first!r}"
        if re.search(r"\bsys\.path\b", cell.source):
            yield f"touches sys.path: {first!r}"
        if re.search(r"https?://", cell.source):
            yield f"reads from the network: {first!r}"
        yield from figure_problems(cell)
    known = list(recorded(code))
    for key in re.findall(r"\{glue:text\}`([^`:]+)(?::[^`]*)?`", text):
        if not any(re.fullmatch(pattern, key) for pattern in known):
            yield f"quoted but not recorded: {key}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_has_the_form(path):
    assert re.fullmatch(r"[A0-9][0-9]_[a-z_]+", path.stem)
    assert list(problems(nbformat.read(path, as_version=4))) == []


def test_names_of_exercises_and_figures_are_unique_in_the_book():
    names = []
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            names += re.findall(r"^:label: (\S+)$", cell.source, re.M)
            names.append(cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))
    named = [name for name in names if name]
    assert sorted(set(named)) == sorted(named)


QUIZ = """:::{admonition} Predict first
:class: quiz

Is it?

```{dropdown} It is
**Yes.** See above.
```
```{dropdown} It is not
**No.** It is.
```
:::"""


@pytest.fixture
def good() -> Any:
    """A chapter in the smallest form that keeps every rule."""
    figure = {
        "figure": {"caption": "A line.", "name": "fig-line"},
        "image": {"alt": "A line that rises."},
    }
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title\n\n```{admonition} Objectives\nSee.\n```"),
            new_code_cell(
                "seed = 0\nfast = False\nmodel = None",
                metadata={"tags": ["parameters"]},
            ),
            new_code_cell(
                'fast = read_flag(fast)\nrecord("a", 1)\nrecord(f"b_{n}", 2)'
            ),
            new_markdown_cell("{glue:text}`a` and {glue:text}`b_3:.2f`"),
            new_code_cell("plots.bars(table)", metadata={"mystnb": figure}),
            new_markdown_cell("```{exercise-start}\n```\n```{exercise-end}\n```"),
            new_markdown_cell("```{solution-start} x\n:class: dropdown\n```"),
            new_code_cell("1 + 1"),
            new_markdown_cell("```{solution-end}\n```\n## Summary\n## Further reading"),
            *[new_markdown_cell(QUIZ) for _ in range(QUIZZES)],
        ]
    )
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return notebook


def test_good_form_passes(good):
    assert list(problems(good)) == []


def replace(index: int, source: str) -> Callable[[Any], None]:
    def change(notebook: Any) -> None:
        notebook.cells[index].source = source

    return change


def hide_definition(notebook: Any) -> None:
    hidden = new_code_cell("table = 1", metadata={"tags": ["remove-cell"]})
    notebook.cells.insert(2, hidden)


BREACHES: list[tuple[str, Callable[[Any], None]]] = [
    ("kernel", lambda n: n.metadata.kernelspec.update(name="venv")),
    ("no language", lambda n: n.metadata.kernelspec.pop("language")),
    ("title", replace(0, "Title {admonition} Objectives")),
    ("no objectives", replace(0, "# Title")),
    ("Summary", replace(8, "```{solution-end}\n```\n## Further reading")),
    ("Further reading", replace(8, "```{solution-end}\n```\n## Summary")),
    ("0 parameters", lambda n: n.cells[1].metadata.pop("tags")),
    ("2 parameters", lambda n: n.cells.insert(1, copy.deepcopy(n.cells[1]))),
    ("not a literal", replace(1, "seed = f()\nfast = False\nmodel = None")),
    ("no fast", replace(1, "seed = 0\nmodel = None")),
    ("no model", replace(1, "seed = 0\nfast = False")),
    ("uses fast before", replace(2, "n = 1 if fast else 2\nfast = read_flag(fast)")),
    ("no 'fast = read_flag", replace(2, "record('a', 1)\nrecord(f'b_{n}', 2)")),
    ("no exercise", replace(5, "")),
    ("not folded", replace(6, "```{solution-start} x\n```")),
    ("executed code", lambda n: n.cells.pop(7)),
    ("stored", lambda n: n.cells[7].outputs.append(new_output("stream", text="2"))),
    ("stored", lambda n: n.cells[7].update(execution_count=1)),
    ("over 20", replace(7, "1\n" * 21)),
    ("sys.path", replace(7, "import sys\nsys.path.append('..')")),
    ("network", replace(7, "pd.read_csv('https://example.org/a.csv')")),
    ("without alt", lambda n: n.cells[4].metadata.mystnb.pop("image")),
    ("without caption", lambda n: n.cells[4].metadata.mystnb.figure.pop("caption")),
    ("without name", lambda n: n.cells[4].metadata.mystnb.figure.pop("name")),
    ("removed cell only: table", hide_definition),
    ("recorded: c", replace(3, "{glue:text}`c:.2f`")),
    ("only 2 quizzes", lambda n: n.cells.pop()),
    ("0 right answers", replace(9, QUIZ.replace("**Yes.**", "**No.**"))),
    ("2 right answers", replace(9, QUIZ.replace("**No.**", "**Yes.**"))),
    ("neither Yes nor No", replace(9, QUIZ.replace("**No.**", "No."))),
    ("1 options", replace(9, re.sub("(?s)```{dropdown} It is not.*?```", "", QUIZ))),
    ("markup in an option", replace(9, QUIZ.replace("It is not", "It is *not*"))),
]


@pytest.mark.parametrize(("expected", "change"), BREACHES, ids=[b[0] for b in BREACHES])
def test_breach_is_found(good, expected, change):
    change(good)
    assert any(expected in problem for problem in problems(good))
