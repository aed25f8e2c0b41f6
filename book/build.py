"""Make the book: execute every chapter, then render what came out.

    notebooks/*.ipynb --papermill--> _build/executed --stage--> _build/src
    _build/src --jupyter-book, execution off, warnings are errors--> _build/html

Chapters run side by side, one thread each, as many as cores and memory allow; those
that measure time run alone. An executed chapter is kept together with a key of all that
it depends on (its cells, the modules they import, the data, the pinned versions, the
parameters); a chapter whose key has not changed is not executed again. The copy gets
its final name only after its last cell has run, so a failed or killed build leaves
nothing behind that could pass for a result. The pages have a key, too.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import resolve_name
from itertools import accumulate, product
from pathlib import Path
from platform import python_version
from typing import Any, NamedTuple

import nbformat
import papermill
import psutil
import yaml
from joblib import cpu_count
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

# Downloads happen here, where they are told, and not inside a chapter.
PREPARE = """
import os
from helpers.checkpoints import fetch_embedded
from helpers.datasets import load_reviews
from helpers.models import MODEL_VARIABLE
if not os.environ.get(MODEL_VARIABLE):
    print("  model   ", fetch_embedded(), flush=True)
print("  reviews ", len(load_reviews()), "snippets", flush=True)
"""
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not the user's
}
RUNS = "<!-- runs -->"  # where a page shows when the chapters were run
NOT_ON_THE_PAGE = {"papermill", "execution", "how_sure"}
MODULE = r"helpers(?:\.\w+)*"
LONGEST = ["12", "04", "11", "05", "14"]  # they start first
MEMORY = 3 << 30  # bytes that a chapter may need


class BuildError(Exception):
    """The book cannot be made; the message is for the person who asked for it."""


def pages(toc: Any) -> Iterator[str]:
    """Every page of a table of contents, in reading order, without suffix."""
    if isinstance(toc, list):
        for entry in toc:
            yield from pages(entry)
    elif isinstance(toc, dict):
        yield from (toc[name] for name in ("root", "file") if name in toc)
        for name in ("parts", "chapters", "sections"):
            yield from pages(toc.get(name))


def chapters(root: Path) -> list[Path]:
    """The notebooks of the book in reading order; an error names one not there."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    found = [root / f"{p}.ipynb" for p in pages(toc) if p.startswith("notebooks/")]
    for path in found:
        if not path.exists():
            raise BuildError(f"_toc.yml lists {path.relative_to(root)}: no such file")
    return found


class Code(NamedTuple):
    """What code says but for comments and layout, what it spells, what it imports."""

    said: str
    words: set[str]
    imports: set[tuple[str, str]]  # a module, and what is wanted of it
    exports: bool  # whether it only hands on what others have


@cache
def read_code(text: str, package: str, exports: bool = False) -> Code:
    """Read the cells of a chapter, or a module."""
    tree = ast.parse(text)
    words, prose = set[str](), set[ast.AST]()
    imports = set[tuple[str, str]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            imports.update((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Expr):
            prose.add(node.value)  # a docstring, if it is a string
        elif isinstance(node, ast.Name | ast.Attribute):
            words.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Constant) and not exports and node not in prose:
            value = str(node.value)
            spelled = re.findall(r"\w+", value)
            words.update(spelled)
            # Some modules are imported by a name in quotes, and cells hold scripts.
            if not package or re.fullmatch(MODULE, value):
                modules = re.findall(MODULE, value)
                imports.update(product(modules, spelled))
    if not exports:
        words.update(name for _, name in imports)
    return Code(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest(), words, imports, exports
    )


def code_used(root: Path, cells: str) -> dict[str, Code]:
    """A chapter's cells and the modules that they import, directly or not.

    Of what an ``__init__`` hands on, only that counts which some module or cell spells.
    """
    found = {"": read_code(cells, "")}
    while True:
        spelled = set().union(*(code.words for code in found.values()))
        names = {
            part
            for code in found.values()
            for module, name in code.imports
            if module.startswith("helpers") and (name in spelled or not code.exports)
            for part in accumulate(f"{module}.{name}".split("."), "{}.{}".format)
        }
        new = {}
        for name in names - found.keys():
            package = name.rpartition(".")[0]
            path = root / name.replace(".", "/")
            if (module := path.with_suffix(".py")).is_file():
                new[name] = read_code(module.read_text("utf-8"), package)
            elif (module := path / "__init__.py").is_file():
                new[name] = read_code(module.read_text("utf-8"), name, exports=True)
        if not new:
            return found
        found |= new


def key_of(root: Path, said: Any, files: Iterable[Path]) -> str:
    """Hash of something said, of the Python that runs, its packages and some files."""
    digest = hashlib.sha256(json.dumps([said, sys.version_info[:2]]).encode())
    for path in sorted([*files, root / "constraints.txt"]):
        digest.update(f"\0{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def input_key(root: Path, notebook: Path, parameters: dict[str, Any]) -> str:
    """Hash of all that a chapter's outputs depend on.

    A file counts where the code spells its name, or that of a folder that it is in.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    shown = [(cell.cell_type, cell.source, cell.metadata) for cell in cells]
    variables = "MODEL BASE_URL HOSTED_MODEL NEISS".split()
    chosen = [os.environ.get(f"HOW_SURE_{name}") for name in variables]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    try:
        used = code_used(root, code)
    except SyntaxError as error:
        raise BuildError(f"{notebook.name}, or what it imports: {error!r}") from None
    spelled = set().union(*(code.words for code in used.values()))
    files = [
        path
        for path in [*root.glob("data/**/*"), *root.glob("helpers/**/*")]
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and spelled.intersection(path.relative_to(root).with_suffix("").parts[1:])
    ]
    said = sorted((name, code.said) for name, code in used.items())
    return key_of(root, [shown, parameters, chosen, said], files)


def stored_key(executed: Path) -> str | None:
    """Key that an executed copy carries; None where there is no usable copy."""
    try:
        return nbformat.read(executed, as_version=4).metadata.get("how_sure")
    except (OSError, ValueError, AttributeError):  # not there, or not a notebook
        return None


def without_machinery(node: Any) -> Any:
    """The notebook as a reader should get it: no injected cell, no run timings."""
    node.cells = [
        cell
        for cell in node.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for part in [node, *node.cells]:
        for name in NOT_ON_THE_PAGE & set(part.metadata):
            del part.metadata[name]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    node.metadata["kernelspec"] = kernel
    return node


def figures_without_image(node: Any) -> Iterator[str]:
    """Names of the figures of an executed notebook whose cells show no image."""
    for cell in node.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        if name and not any(kind.startswith("image/") for d in data for kind in d):
            yield name


def execute(
    root: Path, notebook: Path, executed: Path, parameters: dict[str, Any]
) -> None:
    """Run one chapter and keep its copy; raise BuildError where a cell fails."""
    key = input_key(root, notebook, parameters)
    running = root / "_build" / "failed" / notebook.name
    running.parent.mkdir(parents=True, exist_ok=True)
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": str(notebook.parent)}},
        )
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        raise BuildError(
            f"{notebook.name} failed in cell {error.cell_index + 1} "
            f"([{error.exec_count}]): {error.ename}: {error.evalue}\n\n{trace}\n\n"
            f"The notebook up to there: {running}"
        ) from None
    except (DeadKernelError, CellTimeoutError) as error:
        raise BuildError(
            f"{notebook.name}: the kernel died, was stopped or hung, most often for "
            f"want of memory ({error}).\nThe notebook up to there: {running}"
        ) from None
    node = nbformat.read(running, as_version=4)
    for name in figures_without_image(node):
        raise BuildError(f"{notebook.name}: the cell of {name} drew nothing: {running}")
    node.metadata["how_sure"] = key
    nbformat.write(node, running)
    os.replace(running, executed)


def execute_side_by_side(
    paths: list[Path], kernels: int, run: Callable[[Path], None]
) -> None:
    """Run chapters; the first that fails, or an interrupt, stops the others."""
    kernels = max(1, min(kernels, len(paths)))
    os.environ["OMP_NUM_THREADS"] = str(cpu_count() // kernels)
    with ThreadPoolExecutor(kernels) as pool:
        futures = [pool.submit(run, path) for path in paths]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for child in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        child.kill()
                time.sleep(0.1)
            raise


def execute_all(root: Path, only: list[str], parameters: dict[str, Any]) -> list[Path]:
    """Bring the executed copies up to date; return those that can be rendered."""
    copies = root / "_build" / "executed" / ("fast" if parameters else "full")
    notebooks = chapters(root)
    for wish in only:
        if not any(path.stem.split("_")[0] == wish for path in notebooks):
            numbers = ", ".join(path.stem.split("_")[0] for path in notebooks)
            raise BuildError(f"there is no chapter {wish!r}; there are: {numbers}")
    todo, ready = [], []
    for path in notebooks:
        stored = stored_key(copies / path.name)
        if only and path.stem.split("_")[0] not in only:
            words = "left out" if stored is None else "from an earlier run"
            print(f"  {path.stem:<32} {words}")
            ready += [copies / path.name] * (stored is not None)
            continue
        ready.append(copies / path.name)
        if stored == input_key(root, path, parameters):
            print(f"  {path.stem:<32} unchanged")
        else:
            todo.append(path)
    if todo:
        subprocess.run([sys.executable, "-c", PREPARE], cwd=root, check=True)

    def run(path: Path) -> None:
        print(f"  {path.stem:<32} running ...", flush=True)
        start = time.monotonic()
        execute(root, path, copies / path.name, parameters)
        seconds = time.monotonic() - start
        print(f"  {path.stem:<32} done in {seconds:.0f} s", flush=True)

    alone = [path for path in todo if "perf_counter" in path.read_text("utf-8")]
    first = [path for at in LONGEST for path in todo if path.stem.startswith(at)]
    others = [path for path in dict.fromkeys(first + todo) if path not in alone]
    room = psutil.virtual_memory().available // MEMORY
    execute_side_by_side(others, min(cpu_count(), room), run)
    execute_side_by_side(alone, 1, run)
    return ready


def runs(ready: list[Path]) -> str:
    """A table of when each chapter was run, for how long, and with what."""
    used = [f"{name} {version(name)}" for name in ("numpy", "torch", "transformers")]
    rows = [f"Python {python_version()}, {', '.join(used)}.", ""]
    rows += ["| chapter | run on | seconds |", "|---|---|---|"]
    for path in ready:
        ran = nbformat.read(path, as_version=4).metadata.get("papermill", {})
        day, took = str(ran.get("end_time"))[:10], ran.get("duration") or 0
        rows.append(f"| {{doc}}`../notebooks/{path.stem}` | {day} | {took:.0f} |")
    return "\n".join(rows)


def stage(root: Path, ready: list[Path]) -> list[str]:
    """Lay out the source that is rendered; return the pages of it, in order."""
    source = root / "_build" / "src"
    shutil.rmtree(source, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(root / "book", source / "book", ignore=ignore)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, source)
    (source / "notebooks").mkdir()
    for path in ready:
        node = without_machinery(nbformat.read(path, as_version=4))
        nbformat.write(node, source / "notebooks" / path.name)
    for page in (source / "book").glob("*.md"):
        if RUNS in (text := page.read_text("utf-8")):
            page.write_text(text.replace(RUNS, runs(ready)), "utf-8")
    staged = {path.stem for path in ready}
    listed = pages(yaml.safe_load((root / "_toc.yml").read_text("utf-8")))
    return [
        p for p in listed if Path(p).parent.name == "book" or Path(p).name in staged
    ]


def mend(made: Path) -> None:
    """Put right in rendered pages what themes get wrong, and drop what nobody reads.

    Thebe is set up twice, which is an error, though nothing here asks for it; works
    stand in a list without items; a button's name is not its label.
    """
    for path in made.rglob("*.html"):
        text = path.read_text("utf-8")
        text = re.sub(r"<script[^>]*>const THEBE_JS_URL.*?</script>", "", text)
        text = re.sub(r"<script[^>]*sphinx-thebe\.js[^>]*></script>", "", text)
        text = text.replace('role="doc-biblioentry"', 'role="listitem"')
        text = re.sub(r'(search-button-field[^>]*) aria-label="[^"]*"', r"\1", text)
        path.write_text(text, "utf-8")
    for path in made.rglob("*.map"):
        path.unlink()


def render(root: Path, staged: list[str], strict: bool) -> Path:
    """Render the staged source, unless it has been; return the page to open."""
    build = root / "_build"
    page = build / "html" / "index.html"
    source = [path for path in (build / "src").glob("**/*") if path.is_file()]
    # The page on the package shows its docstrings.
    package = [
        read_code(path.read_text("utf-8"), ".".join(path.relative_to(root).parts[:-1]))
        for path in sorted(root.glob("helpers/**/*.py"))
    ]
    said = [strict, *(code.said for code in package)]
    key = key_of(root, said, source)
    mark = build / "html" / ".key"
    if mark.exists() and mark.read_text("utf-8") == key:
        print("  unchanged")
        return page
    print("  rendering ...", flush=True)
    for old in (build / "site", build / "html"):
        shutil.rmtree(old, ignore_errors=True)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(build / "src")]
    command += ["--path-output", str(build / "site"), "-q"]
    command += ["-W", "--keep-going"] if strict else []
    quiet = subprocess.DEVNULL  # warnings and errors come on stderr
    if subprocess.run(command, cwd=root, stdin=quiet, stdout=quiet).returncode:
        raise BuildError("the pages could not be rendered; the reasons stand above")
    made = build / "site" / "_build" / "html"
    missing = [page for page in staged if not (made / f"{page}.html").exists()]
    if missing:
        raise BuildError(f"pages of _toc.yml were not made: {', '.join(missing)}")
    mend(made)
    (made / mark.name).write_text(key, "utf-8")
    shutil.move(made, build / "html")
    shutil.rmtree(build / "site")
    return page


def make(root: Path, only: list[str], fast: bool) -> Path:
    """Make the book that lies in `root`; return the page to open."""
    os.environ.update(ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)  # the kernel's own, which keeps the figures
    start = time.monotonic()
    print(f"Chapters{' (fast: less data)' if fast else ''}", flush=True)
    ready = execute_all(root, only, {"fast": True} if fast else {})
    complete = len(ready) == len(chapters(root))
    staged = stage(root, ready)
    print("Pages", flush=True)
    page = render(root, staged, strict=complete)
    if not complete:
        print("  Some chapters have never run and are left out, so links to them are")
        print("  missing and warnings were not counted as errors. All: make book")
    print(f"  done; all in all {time.monotonic() - start:.0f} s")
    return page


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, make the book, say where it is."""
    parser = argparse.ArgumentParser(description="Make the book.")
    parser.add_argument("--fast", action="store_true", help="every cell, less data")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="chapters")
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=here, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        page = make(options.root.resolve(), options.only, options.fast)
    except BuildError as error:
        print(f"\nThe book was not made: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        print("\nThe book was not made: no model or no reviews.", file=sys.stderr)
        return 1
    print(f"\nOpen {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
