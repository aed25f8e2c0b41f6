"""The rendered book in a real browser. Needs `make book` to have run, and Chromium.

Each page is opened in one of four views, and in all of them where
``HOW_SURE_ALL_VIEWS`` is 1.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = [
    path.relative_to(HTML).as_posix()
    for folder in ("book", "notebooks")
    for path in sorted((HTML / folder).glob("*.html"))
]
VIEWS = [*product(("light", "dark"), (1280, 390))]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
HEAVY = "book/api.html"  # contrast is not computed there, which takes minutes


def views() -> Iterator[tuple[str, str, int]]:
    every = os.environ.get("HOW_SURE_ALL_VIEWS") == "1"
    for at, page in enumerate(["genindex.html", "search.html", *PAGES]):
        for theme, width in VIEWS if every else [VIEWS[at % len(VIEWS)]]:
            yield page, theme, width


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; skips where there is none, or no book, or fails if it is required."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path or not PAGES:
        missing = "a browser: install Chromium" if PAGES else "a book: run `make book`"
        if os.environ.get("HOW_SURE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"there is no {missing}")
        pytest.skip(f"there is no {missing}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


def opened(browser: Browser, name: str, theme: Any = "light", width: int = 1280) -> Any:
    """A page, and what it complained of or asked other sites for."""
    view: Any = {"width": width, "height": 900}
    page = browser.new_page(viewport=view, color_scheme=theme)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: said.append(r.url) if r.url[:4] == "http" else None)
    page.goto(f"{HTML.as_uri()}/{name}")
    return page, said


@pytest.mark.parametrize(("name", "theme", "width"), views())
def test_page_is_accessible_and_asks_nobody(
    browser: Browser, name: str, theme: str, width: int
) -> None:
    page, said = opened(browser, name, theme, width)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    options: dict[str, Any] = {"runOnly": RULES, "resultTypes": ["violations"]}
    options["rules"] = {"color-contrast": {"enabled": name != HEAVY}}
    found = Axe().run(page, options=options).response["violations"]
    page.close()
    assert [(v["id"], n["html"][:120]) for v in found for n in v["nodes"]] == []


@pytest.fixture
def chapter(browser: Browser) -> Iterator[Page]:
    page, said = opened(browser, "notebooks/07_measuring_calibration.html")
    yield page
    page.close()
    assert said == []


def test_theme_can_be_switched(chapter: Page) -> None:
    themes = set()
    for _ in range(3):
        chapter.locator("button.theme-switch-button:visible").first.click()
        themes.add(chapter.locator("html").get_attribute("data-theme"))
    assert themes == {"light", "dark"}


def test_a_button_is_called_what_it_shows(chapter: Page) -> None:
    shown = chapter.locator("button.search-button-field:visible").first
    shown.filter(has_text="Search").wait_for()
    assert shown.get_attribute("aria-label") is None


def test_search_finds_without_a_server(browser: Browser) -> None:
    page, _ = opened(browser, "search.html?q=Brier")  # excerpts need a server
    page.wait_for_selector("#search-results li a")
    assert "Brier" in page.inner_text("#search-results")
    page.close()


def test_a_solution_unfolds_and_code_can_be_copied(chapter: Page) -> None:
    solution = chapter.locator(".solution.dropdown").first
    assert "toggle-hidden" in str(solution.get_attribute("class"))
    solution.locator("button").first.click()
    assert "toggle-hidden" not in str(solution.get_attribute("class"))
    assert chapter.locator("button.copybtn").count() > 10
