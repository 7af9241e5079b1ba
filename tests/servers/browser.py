"""A real browser for the pages: the installed Chromium, without a window.

A test that needs it is skipped where Chromium is missing. All requests of its pages are noted, so a
test sees a request to another host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.wait import until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHIN_MS = 90_000
# The browser looks up no name and contacts none of its maker's services.
ALONE = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def running() -> Iterator[Any]:
    """Yields a Playwright browser."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed (Debian and Ubuntu: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    arguments = [*ALONE, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """A page of the browser, with its requests, errors and warnings."""

    page: Any
    url: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true.

        Playwright's own wait would evaluate a text in the page, which the page's policy forbids.
        """
        until(lambda: self.page.evaluate(condition))

    def outside(self) -> list[str]:
        """Returns the requested addresses on other hosts."""
        own = (f"{self.url}/", "data:", "blob:")
        return [address for address in self.asked if not address.startswith(own)]


@contextmanager
def window(browser: Any, url: str, key: str | None = None, **options: Any) -> Iterator[Window]:
    """Yields a page, logged in if there is a key."""
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | options
    )
    context.set_default_timeout(WITHIN_MS)
    found = Window(context.new_page(), url)
    context.on("request", lambda request: found.asked.append(request.url))
    context.on("console", lambda message: _note(found, message))
    context.on("weberror", lambda error: found.complaints.append(str(error.error)))
    try:
        if key is not None:
            found.go("/login")
            found.page.fill("#key", key)
            found.page.click("button.main")
            found.page.wait_for_url(f"{url}/")
        yield found
    finally:
        context.close()


def _note(found: Window, message: Any) -> None:
    if message.type in {"error", "warning"}:
        found.complaints.append(message.text)
