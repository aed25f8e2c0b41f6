"""The files around the code agree with each other and with the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# Where the distribution has another name, or comes with one that is declared.
DISTRIBUTIONS = {
    "IPython": "ipykernel",
    "markupsafe": "jinja2",
    "nbclient": "papermill",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
    "venn_abers": "venn-abers",
    "yaml": "pyyaml",
}
TARGETS = "setup mine book neiss test test-live lint lab serve bench clean help".split()
# Families of modules: each imports only from those before it.
ORDER = """checks progress record files metrics calibration int8 adapters checkpoints
    models prompts verbalizer packed tree pruned row_cache logistic scoring
    hidden_states prompted classifier linear_probe sampling self_report bounds
    answers shards scale
    local_server decision_forms decision_server structured uncertainty hosted
    decisions finetune datasets plots own_data __main__""".split()
# They need a server, hours, a file of the reader's, or a notebook.
NO_EXAMPLE = """ask cache_dir finetune_ensemble iter_results load_finetuned load_neiss
    load_published_tables local_server measure_neiss measure_review_signals members
    neiss_log_proba order_effect play_recording probe probe_door read_bad_rows
    read_batch read_results record recorded run save_recording serve
    write_batch""".split()
EVERY_RUN = ["book", "test", "lint", "test-live"]


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    return [Requirement(r) for rs in [project["dependencies"], *extras] for r in rs]


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, Version]:
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_environment_installs_this_project_and_nothing_else(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text("utf-8"))
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["-c constraints.txt", "-e .[book,test]"]}
    assert {"book", "test"} <= set(project["optional-dependencies"])
    version = python.removeprefix("python=")
    assert version in Requirement(f"python{project['requires-python']}").specifier


def test_constraints_pin_what_the_book_was_made_with(pins):
    assert str(pins["torch"]) == "2.13.0"
    assert str(pins["jupyter-book"]) == "1.0.4.post1"
    assert not [name for name, version in pins.items() if version.local]


def test_constraints_meet_every_requirement(requirements, pins):
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in constraints.txt"
        assert pins[name] in requirement.specifier, requirement


def test_every_import_is_a_declared_dependency(root, requirements):
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    known = declared | set(sys.stdlib_module_names) | {"helpers"}
    for path in [*root.glob("helpers/**/*.py"), root / "book" / "build.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                package = name.split(".")[0]
                package = DISTRIBUTIONS.get(package, package)
                assert package in known, f"{path.name} imports {package}"


@pytest.fixture(scope="module")
def imports(root: Path) -> dict[str, set[str]]:
    """The modules of this package that each module names, wherever it does."""
    top = root / "helpers"
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in top.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        package = name.split(".")[: -1 if path.stem != "__init__" else None]
        package = [part for part in package if part != "__init__"]
        found = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                for target in (".".join([*base, alias.name]), ".".join(base)):
                    if target in files or f"{target}.__init__" in files:
                        found.add(target)
                        break
        graph[name.removesuffix(".__init__")] = found
    return graph


def test_no_module_imports_itself_round_a_circle(imports):
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_imports_follow_the_order_of_the_families(imports):
    place = {f"helpers.{family}": at for at, family in enumerate(ORDER)}

    def family(module):
        return ".".join(module.split(".")[:2])

    assert {family(module) for module in imports} - {"helpers"} == set(place)
    backwards = [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in targets
        if "helpers" not in (module, target)
        and place[family(module)] < place[family(target)]
    ]
    assert backwards == []


def test_toc_and_files_agree(root, build):
    listed = list(build.pages(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))))
    assert len(listed) == len(set(listed))
    for page in listed:
        sources = [root / f"{page}{suffix}" for suffix in (".md", ".rst", ".ipynb")]
        found = [path.name for path in sources if path.exists()]
        assert len(found) == 1, f"{page}: {found or 'no such file'}"
    for folder, suffix in (("notebooks", ".ipynb"), ("book", ".md"), ("book", ".rst")):
        for path in (root / folder).glob(f"*{suffix}"):
            assert f"{folder}/{path.stem}" in listed, f"{path.name} is not in _toc.yml"


@pytest.fixture(scope="module")
def documented(root: Path) -> dict[str, Any]:
    """Every name on the API page, with what it names."""
    page = (root / "book" / "api.rst").read_text("utf-8")
    found = {}
    for module, names in re.findall(r"automodule:: (\S+)\n   :members:(.*)", page):
        known = importlib.import_module(module)
        listed = re.findall(r"\w+", names) or getattr(known, "__all__", None)
        for name in listed or [
            name
            for name, value in vars(known).items()
            if getattr(value, "__module__", "") == module and not name.startswith("_")
        ]:
            found[f"{module}.{name}"] = getattr(known, name)
    return found


def test_api_page_has_what_chapters_and_readme_import(root, documented):
    pages = [*root.glob("notebooks/*.ipynb"), root / "README.md"]
    text = "\n".join(path.read_text("utf-8") for path in pages)
    named = re.findall(r"from (helpers\.\w+) import ([\w, ]+)", text)
    used = {f"{module}.{name}" for module, names in named for name in names.split(", ")}
    assert len(used) > 10
    assert used - set(documented) == set()


def test_functions_on_the_api_page_have_an_example(documented):
    without = {
        name
        for name, value in documented.items()
        if inspect.isfunction(value) and ">>>" not in (inspect.getdoc(value) or "")
    }
    # Figures are seen in the chapters.
    without = {name.split(".")[2] for name in without if "plots" not in name}
    assert without == set(NO_EXAMPLE)


def test_what_pages_point_to_is_there(root, documented):
    for path in root.glob("book/*.md"):
        names = re.findall(r"\{(?:func|class)\}`~?helpers\.([\w.]+)`", path.read_text())
        assert [name for name in names if f"helpers.{name}" not in documented] == []


def test_every_promise_names_a_test(root):
    page = (root / "book" / "how_we_know.md").read_text("utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 15
    for path, test in named:
        assert f"\ndef {test}(" in (root / path).read_text("utf-8"), f"{path}::{test}"


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_target(root, target):
    text = (root / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:.*##", text, re.M), f"make {target}, with its help"
    assert target in re.search(r"^\.PHONY:(.*)$", text, re.M)[1].split()


def test_continuous_integration_calls_the_readme_commands(root):
    script = root / ".ci" / "run"
    text = script.read_text("utf-8")
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make ([\w-]+)", text, re.M) == EVERY_RUN
    # Where there are cases.
    assert re.findall(r"^ +make (\w+)", text, re.M) == ["neiss"]
    workflow = yaml.safe_load((root / ".github/workflows/book.yml").read_text("utf-8"))
    steps = workflow["jobs"]["book"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == [f"make {target}" for target in EVERY_RUN]


def test_licence_covers_code_and_text(root):
    text = (root / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "CC BY 4.0" in text
    assert "END OF TERMS AND CONDITIONS" in text  # the full text, not a notice
