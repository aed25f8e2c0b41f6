"""Make the book: execute every chapter, then render what came out.

    notebooks/*.ipynb --papermill--> _build/executed --stage--> _build/src
    _build/src --jupyter-book, execution off, warnings are errors--> _build/html

An executed chapter is kept together with a key of everything it depends on (its cells,
the package, the data, the pinned versions, the parameters); a chapter whose key has not
changed is not executed again. The copy gets its final name only after its last cell has
run, so a failed or killed build leaves nothing behind that could pass for a result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
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
NOT_ON_THE_PAGE = {"papermill", "execution", "how_sure"}


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


def input_key(root: Path, notebook: Path, parameters: dict[str, Any]) -> str:
    """Hash of all that a chapter's outputs depend on."""
    cells = nbformat.read(notebook, as_version=4).cells
    said = [(cell.cell_type, cell.source, cell.metadata) for cell in cells]
    names = ("HOW_SURE_MODEL", "HOW_SURE_BASE_URL", "HOW_SURE_HOSTED_MODEL")
    chosen = [os.environ.get(name) for name in names]
    digest = hashlib.sha256(
        json.dumps([said, parameters, chosen, sys.version_info[:2]]).encode()
    )
    files = [*root.glob("helpers/**/*.py"), *root.glob("data/**/*")]
    for path in sorted([*files, root / "constraints.txt"]):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"\0{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


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
            cwd=str(notebook.parent),
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],
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
            f"{notebook.name}: the kernel died or hung, most often for want of memory "
            f"({error}).\nThe notebook up to there: {running}"
        ) from None
    node = nbformat.read(running, as_version=4)
    for name in figures_without_image(node):
        raise BuildError(f"{notebook.name}: the cell of {name} drew nothing: {running}")
    node.metadata["how_sure"] = key
    nbformat.write(node, running)
    os.replace(running, executed)


def execute_all(root: Path, only: list[str], parameters: dict[str, Any]) -> list[Path]:
    """Bring the executed copies up to date; return those that can be rendered."""
    copies = root / "_build" / "executed" / ("fast" if parameters else "full")
    notebooks = chapters(root)
    for wish in only:
        if not any(path.stem.split("_")[0] == wish for path in notebooks):
            numbers = ", ".join(path.stem.split("_")[0] for path in notebooks)
            raise BuildError(f"there is no chapter {wish!r}; there are: {numbers}")
    prepared, ready = False, []
    for path in notebooks:
        executed = copies / path.name
        wanted = not only or path.stem.split("_")[0] in only
        stored = stored_key(executed)
        current = stored == input_key(root, path, parameters)
        print(f"  {path.stem:<32}", end=" ", flush=True)
        if not wanted:
            print("left out" if stored is None else "from an earlier run")
        elif current:
            print("unchanged")
        else:
            print("running ...", flush=True)
            if not prepared:
                subprocess.run([sys.executable, "-c", PREPARE], cwd=root, check=True)
                prepared = True
            start = time.monotonic()
            execute(root, path, executed, parameters)
            print(f"  {path.stem:<32} done in {time.monotonic() - start:.0f} s")
        if wanted or stored is not None:
            ready.append(executed)
    return ready


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
    staged = {path.stem for path in ready}
    listed = pages(yaml.safe_load((root / "_toc.yml").read_text("utf-8")))
    return [
        p for p in listed if Path(p).parent.name == "book" or Path(p).name in staged
    ]


def render(root: Path, staged: list[str], strict: bool) -> Path:
    """Render the staged source from scratch; return the page to open."""
    build = root / "_build"
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
    shutil.move(made, build / "html")
    shutil.rmtree(build / "site")
    return build / "html" / "index.html"


def make(root: Path, only: list[str], fast: bool) -> Path:
    """Make the book that lies in `root`; return the page to open."""
    os.environ.update(ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)  # the kernel's own, which keeps the figures
    start = time.monotonic()
    print(f"Chapters{' (fast: less data)' if fast else ''}", flush=True)
    ready = execute_all(root, only, {"fast": True} if fast else {})
    complete = len(ready) == len(chapters(root))
    staged = stage(root, ready)
    print("Pages\n  rendering ...", flush=True)
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
