"""book/build.py on a book of two very small chapters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

TOC = """\
format: jb-book
root: book/index
parts:
  - caption: Chapters
    chapters:
      - file: notebooks/01_one
      - file: notebooks/02_two
"""
PARAMETERS = "seed = 0\nfast = False\nmodel = None"


def write_chapter(path: Path, code: str) -> None:
    cells = [
        new_markdown_cell(f"# {path.stem}"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(code),
    ]
    nbformat.write(new_notebook(cells=cells), path)


def write_book(root: Path) -> Path:
    for folder in ("book", "helpers", "data", "notebooks"):
        (root / folder).mkdir()
    (root / "_toc.yml").write_text(TOC)
    (root / "_config.yml").write_text("title: Small\nonly_build_toc_files: true\n")
    (root / "constraints.txt").write_text("numpy==2.4.6\n")
    (root / "book" / "index.md").write_text("# Start\n")
    (root / "helpers" / "a.py").write_text("A = 1\n")
    (root / "data" / "a.csv").write_text("1\n")
    write_chapter(root / "notebooks" / "01_one.ipynb", "print('one', fast)")
    write_chapter(root / "notebooks" / "02_two.ipynb", "print('two', fast)")
    return root


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return write_book(tmp_path)


@pytest.fixture(scope="module")
def quiet(build: ModuleType) -> Iterator[ModuleType]:
    """The module, without downloads, and with the environment put back afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "PREPARE", "print('prepared')")
        patch.setattr(build, "cpu_count", lambda: 2)
        patch.setattr(build, "MEMORY", 1)
        patch.setattr(os, "environ", os.environ.copy())
        yield build


@pytest.fixture(scope="module")
def executed(quiet: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book whose chapters have run."""
    root = write_book(tmp_path_factory.mktemp("book"))
    ready = quiet.execute_all(root, [], {})
    assert [path.name for path in ready] == ["01_one.ipynb", "02_two.ipynb"]
    return root


@pytest.fixture
def ran(executed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(executed, tmp_path / "ran"))


def no_pages(root: Path, staged: list[str], strict: bool) -> Path:
    """In place of jupyter-book, which takes seconds: what it was asked for."""
    (root / "_build" / "asked").write_text(f"{','.join(staged)} strict={strict}")
    return root / "_build" / "html" / "index.html"


def output(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.text for c in cells for o in c.get("outputs", []))


def test_pages_in_reading_order(build):
    toc = {
        "root": "book/index",
        "parts": [
            {"caption": "A", "chapters": [{"file": "a", "sections": [{"file": "b"}]}]},
            {"chapters": [{"file": "c"}]},
        ],
    }
    assert list(build.pages(toc)) == ["book/index", "a", "b", "c"]


FILES = {
    "helpers/__init__.py": "",
    "helpers/direct.py": (
        "import_module('helpers.quoted')\n"
        "def f():\n    from .late import g\n    return g()\n"
    ),
    "helpers/late.py": "def g():\n    return (DATA / 'used.csv').read_text()\n",
    "helpers/quoted.py": "Q = 1\n",
    "helpers/script.py": "S = 1\n",
    "helpers/family/__init__.py": (
        "from .wanted import wanted\nfrom .other import other\n"
        "__all__ = ['wanted', 'other']\n"
    ),
    "helpers/family/wanted.py": '"""See helpers.unused."""\nfrom . import _inner\n',
    "helpers/family/_inner.py": "FOLDER = DATA / 'folder'\nPAGE = 'page.html'\n",
    "helpers/family/other.py": "",
    "helpers/family/page.html": "<p>",
    "helpers/unused.py": "",
    "data/used.csv": "1\n",
    "data/folder/deep/one.parquet": "1\n",
    "data/unused.csv": "1\n",
}
CELLS = """
import helpers.direct as direct
from helpers import family
run([python, "-c", "from helpers import script"])
family.wanted()
"""
UNUSED = "helpers/unused.py helpers/family/other.py data/unused.csv".split()
USED = [*(FILES.keys() - UNUSED), "data/folder/new.parquet", "constraints.txt"]


@pytest.fixture
def chapter(book: Path) -> Path:
    """A chapter that uses some of the files of a package."""
    for name, text in FILES.items():
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text(text)
    notebook = book / "notebooks" / "01_one.ipynb"
    write_chapter(notebook, CELLS)
    return notebook


@pytest.mark.parametrize("name", sorted(USED))
def test_key_follows_every_input(build, book, chapter, name):
    before = build.input_key(book, chapter, {})
    assert build.input_key(book, chapter, {}) == before
    (book / name).write_text(FILES.get(name, "") + "changed = True\n")
    assert build.input_key(book, chapter, {}) != before


def test_key_leaves_out_comments_and_what_is_not_used(build, book, chapter):
    before = build.input_key(book, chapter, {})
    for name in UNUSED:
        (book / name).write_text("changed = True\n")
    late = book / "helpers" / "late.py"
    late.write_text("# A comment.\n\n" + late.read_text().replace("'", '"'))
    assert build.input_key(book, chapter, {}) == before


def test_code_that_cannot_be_read_is_named(build, book, chapter):
    (book / "helpers" / "late.py").write_text("def\n")
    with pytest.raises(build.BuildError, match=r"01_one.ipynb.*SyntaxError"):
        build.input_key(book, chapter, {})


def test_key_follows_cells_parameters_and_model(build, book, monkeypatch):
    notebook = book / "notebooks" / "01_one.ipynb"
    keys = {build.input_key(book, notebook, {})}
    keys.add(build.input_key(book, notebook, {"fast": True}))
    monkeypatch.setenv("HOW_SURE_MODEL", "another")
    keys.add(build.input_key(book, notebook, {}))
    write_chapter(notebook, "print('changed')")
    last = build.input_key(book, notebook, {})
    assert len({*keys, last}) == 4
    node = nbformat.read(notebook, as_version=4)  # stored outputs do not count
    node.cells[2].outputs = [nbformat.v4.new_output("stream", text="one")]
    nbformat.write(node, notebook)
    assert build.input_key(book, notebook, {}) == last


def test_chapters_run_once_until_something_changes(quiet, ran, capsys):
    full = ran / "_build" / "executed" / "full"
    assert output(full / "01_one.ipynb") == "one False\n"
    quiet.execute_all(ran, [], {})
    assert capsys.readouterr().out.count("unchanged") == 2
    write_chapter(ran / "notebooks" / "02_two.ipynb", "print('new')")
    quiet.execute_all(ran, [], {})
    said = capsys.readouterr().out
    assert "unchanged" in said and said.count("done in") == 1
    assert output(full / "02_two.ipynb") == "new\n"


def test_failed_chapter_stops_the_build(quiet, book, capsys):
    first = book / "notebooks" / "01_one.ipynb"
    executed = book / "_build" / "executed" / "full"
    executed.mkdir(parents=True)
    stale = nbformat.read(first, as_version=4)
    stale.metadata["how_sure"] = "key of an earlier run"
    nbformat.write(stale, executed / "01_one.ipynb")
    started = book / "started"
    write_chapter(
        book / "notebooks" / "02_two.ipynb",
        f"import os, pathlib, time\nfile = pathlib.Path({str(started)!r})\n"
        "file.with_suffix('.new').write_text(str(os.getpid()))\n"
        "file.with_suffix('.new').rename(file)\ntime.sleep(600)",
    )
    write_chapter(
        first,
        f"import pathlib, time\nwhile not pathlib.Path({str(started)!r}).exists():\n"
        "    time.sleep(0.01)\nwrong = {}['missing key']",
    )
    assert quiet.main(["--root", str(book)]) == 1
    said = capsys.readouterr().err
    assert "01_one.ipynb failed in cell 3" in said
    assert "KeyError: 'missing key'" in said and "wrong = {}" in said
    failed = book / "_build" / "failed" / "01_one.ipynb"
    assert "missing key" in failed.read_text()
    assert list(executed.iterdir()) == []  # no stale copy, and none of 02
    assert not psutil.pid_exists(int(started.read_text()))
    assert not (book / "_build" / "html").exists()
    write_chapter(first, "import os\nos._exit(1)")
    assert quiet.main(["--root", str(book), "--only", "01"]) == 1
    assert "the kernel died" in capsys.readouterr().err


def test_chapters_that_measure_time_run_alone(quiet, book, capsys):
    os.environ.pop("OMP_NUM_THREADS", None)
    threads = "import os, time\nprint(os.environ['OMP_NUM_THREADS'])"
    toc = TOC + "      - file: notebooks/03_three\n"
    (book / "_toc.yml").write_text(toc)
    write_chapter(
        book / "notebooks" / "01_one.ipynb", f"{threads}\nt = time.perf_counter()"
    )
    for name in ("02_two", "03_three"):
        write_chapter(book / "notebooks" / f"{name}.ipynb", threads)
    ready = quiet.execute_all(book, [], {})
    assert [output(path) for path in ready] == ["2\n", "1\n", "1\n"]
    *others, last, end = capsys.readouterr().out.splitlines()
    assert "01_one" in last and "running" in last and "done" in end
    assert {line.split()[0] for line in others} == {"02_two", "03_three"}


@pytest.mark.parametrize("wreck", ["", "{", "[]"])
def test_wrecked_copy_is_not_used(build, book, wreck):
    path = book / "wreck.ipynb"
    path.write_text(wreck)
    assert build.stored_key(path) is None


def test_only_runs_one_and_uses_what_is_there(quiet, book, monkeypatch, capsys):
    monkeypatch.setattr(quiet, "render", no_pages)
    asked = book / "_build" / "asked"
    assert quiet.main(["--root", str(book), "--only", "02", "--fast"]) == 0
    assert asked.read_text() == "book/index,notebooks/02_two strict=False"
    assert "left out" in capsys.readouterr().out
    staged = book / "_build/src/notebooks/02_two.ipynb"
    assert output(staged) == "two True\n"
    # It shows no machinery.
    node = nbformat.read(staged, as_version=4)
    assert [cell.cell_type for cell in node.cells] == ["markdown", "code", "code"]
    for part in [node, *node.cells]:
        assert not {"papermill", "execution", "how_sure"} & set(part.metadata)
    assert node.metadata.kernelspec.name == "python3"
    assert quiet.main(["--root", str(book), "--only", "01", "--fast"]) == 0
    assert asked.read_text().endswith("notebooks/01_one,notebooks/02_two strict=True")
    assert "from an earlier run" in capsys.readouterr().out


def test_what_is_not_there_is_told(quiet, book, capsys):
    assert quiet.main(["--root", str(book), "--only", "77"]) == 1
    assert "no chapter '77'; there are: 01, 02" in capsys.readouterr().err
    (book / "notebooks" / "02_two.ipynb").unlink()
    assert quiet.main(["--root", str(book)]) == 1
    assert "notebooks/02_two.ipynb: no such file" in capsys.readouterr().err


def test_pages_are_rendered_afresh_and_warnings_are_errors(quiet, ran, capfd):
    index = ran / "_build" / "html" / "index.html"
    index.parent.mkdir()
    index.write_text("an earlier build")
    (ran / "book" / "index.md").write_text("# Start\n\n{doc}`nowhere`\n")
    assert quiet.main(["--root", str(ran)]) == 1
    assert "nowhere" in capfd.readouterr().err
    made = ran / "_build" / "site" / "_build" / "html"
    assert (made / "notebooks" / "02_two.html").exists()
    assert not index.exists()  # no page of an earlier build passes for this one


def test_pages_are_rendered_again_only_if_something_changed(quiet, book, monkeypatch):
    def jupyter_book(command, **options):
        made = book / "_build" / "site" / "_build" / "html"
        (made / "book").mkdir(parents=True)
        (made / "index.html").write_text("a page")
        (made / "book" / "index.html").write_text("a page")
        return SimpleNamespace(returncode=codes.pop())

    monkeypatch.setattr(quiet.subprocess, "run", jupyter_book)
    source = book / "_build" / "src" / "book" / "index.md"
    source.parent.mkdir(parents=True)
    source.write_text("# Start\n")
    pages = ["book/index"]

    def rendered(strict=True):
        codes[:] = [0]
        assert quiet.render(book, pages, strict).read_text() == "a page"
        return not codes

    deep = book / "helpers" / "family" / "deep.py"
    deep.parent.mkdir()
    deep.write_text("from ..a import A\n")
    codes = []
    assert rendered() and not rendered()
    assert rendered(strict=False) and rendered(strict=True)
    (book / "helpers" / "a.py").write_text("# A comment.\nA = 1\n")
    assert not rendered()
    (book / "helpers" / "a.py").write_text('"""The page of the package shows it."""')
    assert rendered()
    source.write_text("# Another\n")
    codes[:] = [1]
    with pytest.raises(quiet.BuildError, match="could not be rendered"):
        quiet.render(book, pages, True)
    assert not (book / "_build" / "html").exists()  # what failed is not skipped
    assert rendered() and not rendered()


def test_figure_cell_that_draws_nothing_stops_the_build(quiet, book, capsys):
    path = book / "notebooks" / "01_one.ipynb"
    node = nbformat.read(path, as_version=4)
    node.cells[-1].metadata["mystnb"] = {"figure": {"name": "fig-lost"}}
    nbformat.write(node, path)
    assert quiet.main(["--root", str(book), "--only", "01"]) == 1
    assert "01_one.ipynb: the cell of fig-lost drew nothing" in capsys.readouterr().err
