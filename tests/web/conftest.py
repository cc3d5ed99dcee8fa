"""Pages in the browser of a module."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.web.inbox_process import OpenPage

WAITS_FOR_SCRIPTS = """
const untouchable = new CSSStyleSheet();
untouchable.replaceSync("* { pointer-events: none !important }");
document.adoptedStyleSheets = [untouchable];
addEventListener("DOMContentLoaded", () => { document.adoptedStyleSheets = []; });
"""
"""Playwright is quicker than a person: without this it presses buttons of a page whose scripts do not run yet."""


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens a page in a context of its own, with these options. The test fails if a script of the page failed or the
    content security policy broke something of ours."""
    pages: list[Page] = []
    problems: list[str] = []  # a handler that raises would end the connection to the browser

    def open_one(**options: Any) -> Page:
        page = chromium.new_context(**options).new_page()
        page.set_default_timeout(30_000)
        page.add_init_script(WAITS_FOR_SCRIPTS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        page.context.close()
    assert problems == []
