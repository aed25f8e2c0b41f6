"""The rendered book, as a reader gets it. Needs `make book` to have run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup

from helpers.record import recorded

LOADING_LINKS = {
    *("stylesheet", "icon", "preload", "prefetch", "modulepreload"),
    *("preconnect", "dns-prefetch", "manifest", "apple-touch-icon"),
}
FOREIGN = re.compile(r"^\s*(?:https?:)?//", re.I)
CSS_FOREIGN = re.compile(
    r"(?:@import\s+(?:url\()?|url\()\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.I
)
FILE_NAME = re.compile(r"[\w./-]+\.(png|svg|jpe?g|gif)", re.I)


@pytest.fixture(scope="module")
def html(root: Path) -> Path:
    """Folder of the rendered book; skips, or fails where it is required."""
    folder = root / "_build" / "html"
    if not (folder / "index.html").exists():
        if os.environ.get("HOW_SURE_REQUIRE_BOOK") == "1":
            pytest.fail("there is no rendered book; run `make book` first")
        pytest.skip("there is no rendered book; `make book` makes one")
    return folder


@pytest.fixture(scope="module")
def soups(html: Path) -> dict[str, BeautifulSoup]:
    return {
        str(path.relative_to(html)): BeautifulSoup(
            path.read_text("utf-8"), "html.parser"
        )
        for path in sorted(html.rglob("*.html"))
        if "_static" not in path.parts
    }


def foreign_loads(soup: BeautifulSoup) -> Iterator[str]:
    """Addresses on other hosts that a browser would fetch by showing the page."""
    for tag in soup.find_all(True):
        if tag.name == "a":
            continue
        for name in ("src", "srcset", "poster", "data"):
            if FOREIGN.match(str(tag.get(name, ""))):
                yield f"<{tag.name} {name}={tag[name]}>"
        if tag.name == "link" and LOADING_LINKS & set(tag.get("rel") or []):
            if FOREIGN.match(str(tag.get("href", ""))):
                yield f"<link href={tag['href']}>"
        css = str(tag.get("style", "")) + (tag.text if tag.name == "style" else "")
        yield from CSS_FOREIGN.findall(css)


def alt_problems(soup: BeautifulSoup) -> Iterator[str]:
    """Pictures in the text that a screen reader could not tell."""
    for image in soup.select("article img"):
        alt = str(image.get("alt", "")).strip()
        if len(alt) < 15 or FILE_NAME.fullmatch(alt):
            yield f"{image.get('src')}: alt={alt!r}"


def test_every_page_is_there(root, html, build):
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    missing = [p for p in build.pages(toc) if not (html / f"{p}.html").exists()]
    assert missing == []


def test_every_run_is_told(root: Path, soups: dict, build: ModuleType) -> None:
    rows = soups["book/how_we_know.html"].select("article tbody tr")
    days = [row.select("td")[1].text for row in rows]
    assert len(days) == len(build.chapters(root))
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", day) for day in days)


def test_no_page_and_no_style_sheet_asks_another_site(soups, html):
    found = {name: list(foreign_loads(soup)) for name, soup in soups.items()}
    for path in html.rglob("*.css"):
        found[path.name] = CSS_FOREIGN.findall(path.read_text("utf-8"))
    assert {name: loads for name, loads in found.items() if loads} == {}


def test_mathematics_is_served_by_the_book(soups, html):
    scripts = {
        (html / name).parent / str(script["src"]).split("?")[0]
        for name, soup in soups.items()
        for script in soup.select('script[src*="mathjax"]')
    }
    assert scripts
    assert all(path.resolve().exists() for path in scripts)


def test_every_picture_has_an_alternative_text_and_a_caption(soups):
    found = {name: list(alt_problems(soup)) for name, soup in soups.items()}
    assert {name: images for name, images in found.items() if images} == {}
    for name, soup in soups.items():
        if name.startswith("notebooks"):
            for image in soup.select("article img"):
                figure = image.find_parent("figure")
                assert figure and figure.figcaption, f"{name}: {image.get('src')}"


def test_no_output_is_an_error(soups):
    for name, soup in soups.items():
        assert not soup.select("div.output.traceback"), name
        assert not soup.select("div.output.stderr"), name
        assert not soup.select(".problematic, .system-message"), name


def test_chapters_show_their_outputs(soups):
    chapters = {n: s for n, s in soups.items() if n.startswith("notebooks")}
    assert chapters
    for name, soup in chapters.items():
        assert soup.select("div.cell_output"), name
        assert "# Parameters" not in soup.get_text(), f"{name}: injected cell"


def test_every_page_has_language_and_title(soups):
    for name, soup in soups.items():
        if soup.select_one('meta[http-equiv="Refresh"]'):
            continue  # only sends the reader to the first page
        assert soup.html and soup.html.get("lang") == "en", name
        assert soup.title and soup.title.text.strip(), name


FOREIGN_AND_HARMLESS = [
    (True, '<script src="https://cdn.example.org/a.js"></script>'),
    (True, '<script async src="//cdn.example.org/a.js"></script>'),
    (True, '<link rel="stylesheet" href="https://fonts.example.org/a.css">'),
    (True, '<link rel="preconnect" href="https://fonts.example.org">'),
    (True, '<img src="http://example.org/a.png">'),
    (True, "<style>@import url('https://example.org/a.css');</style>"),
    (True, '<p style="background: url(//example.org/a.png)"></p>'),
    (False, '<a href="https://example.org">elsewhere</a>'),
    (False, '<link rel="canonical" href="https://example.org/book.html">'),
    (False, '<img src="../_images/a.png">'),
    (False, '<script src="../_static/a.js"></script>'),
]


@pytest.mark.parametrize(("foreign", "text"), FOREIGN_AND_HARMLESS)
def test_foreign_loads_are_told_from_harmless_tags(foreign, text):
    assert bool(list(foreign_loads(BeautifulSoup(text, "html.parser")))) is foreign


@pytest.mark.parametrize("alt", ["", "../_images/3f2a.png", "fig.png", "a line"])
def test_poor_alternative_text_is_found(alt):
    soup = BeautifulSoup(f'<article><img alt="{alt}"></article>', "html.parser")
    assert list(alt_problems(soup))


def test_no_markup_is_left_over(soups):
    """A role that MyST did not recognise stays in the text as it was typed."""
    role = re.compile(r"\{(glue:text|numref|cite(:[tp])?|term|eq|doc)\}")
    left = {
        f"{name}: {text.strip()[:60]}"
        for name, soup in soups.items()
        if name != "book/api.html"  # explains a role, in a docstring
        for article in soup.select("article")
        for text in article.find_all(string=role)
        if not text.find_parent("pre")
    }
    assert left == set()


def recorded_by(root: Path, chapter: str) -> dict[str, Any]:
    """What a chapter recorded when the book was made on all data; else skips."""
    executed = root / "_build" / "executed" / "full" / f"{chapter}.ipynb"
    if not executed.exists():
        if os.environ.get("HOW_SURE_REQUIRE_BOOK") == "1":
            pytest.fail(f"{chapter} was not executed; run `make book` first")
        pytest.skip(f"{chapter} was not executed; `make book` does it")
    return recorded(executed)


def test_sampled_answers_cover_the_label_probability(root):
    found = recorded_by(root, "04_consistency")
    assert found["n_reviews"] >= 200
    assert 0.92 <= found["covered"] <= 0.98


def test_the_gain_of_learned_weights_is_on_the_page(root, soups):
    found = recorded_by(root, "06_combining_signals")
    page = soups["notebooks/06_combining_signals.html"].text
    for measure, digits in (("brier", 4), ("auroc", 3)):
        for end in ("", "_low", "_high"):
            assert f"{found[f'gain_{measure}{end}']:.{digits}f}" in page


def test_fine_tuning_pays_beyond_chance_on_families_it_has_not_seen(root):
    found = recorded_by(root, "11_finetuning")
    assert found["acc_low"] > 0  # tuned − base
    assert found["brier_high"] < 0
    assert 0.4 < found["base_biased"] < 0.65
    assert found["biased_tuned"] >= 0.9
    assert found["max_parts"] == 1
