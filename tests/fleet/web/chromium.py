"""A browser without a screen, for the tests that look at the page as people do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.fleet.web import fleet

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

CHROMIUM: Final = "/usr/bin/chromium"
ARGS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW_MS: Final = 30_000  # this may run beside much else
MARKS: Final = [
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="no chromium: apt install chromium"),
    pytest.mark.slow,
]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Give a browser."""
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def signing_in(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Give what opens a page, signed in; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_(name: str = "ada", **more: Any) -> Any:
        context = browser.new_context(base_url=url, **more)
        contexts.append(context)
        context.set_default_timeout(SLOW_MS)
        page = context.new_page()
        page.on("pageerror", lambda err: complaints.append(str(err)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text)
                if said.type == "error" and "status of 4" not in said.text
                else None
            ),
        )
        page.goto("/login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(fleet.PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Fleet")).to_be_visible(timeout=SLOW_MS)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
