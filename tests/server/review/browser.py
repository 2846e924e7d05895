"""A real browser, and a place elsewhere on the net that counts who comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")
QUIET = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """A browser with a fresh profile, as root without its own sandbox."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        own = {"HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=QUIET, env={**os.environ, **own}
        )
        try:
            yield browser
        finally:
            browser.close()


def signed_in(context: BrowserContext, url: str, token: str) -> Page:
    """A page at an address that asks for a token first."""
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(url)
    return page


def idle(page: Page) -> None:
    """Wait until a page has done what it had to do; one that nobody draws may not tell."""
    page.evaluate("() => new Promise(done => requestIdleCallback(done, {timeout: 1000}))")


def until(page: Page | Frame, condition: str) -> None:
    """Wait for a condition in JavaScript; the pages' policy forbids Playwright's own way."""
    page.evaluate(
        "() => new Promise((done, failed) => { const ends = Date.now() + 10000;"
        f" const look = () => ({condition}) ? done() : Date.now() > ends"
        " ? failed(new Error('too late')) : setTimeout(look, 20); look() })"
    )


class Elsewhere:
    """A server that answers nothing, and counts connections and what they ask for."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def url(self) -> str:
        """Another site than 127.0.0.1 for a browser."""
        return f"http://localhost:{self._listening.getsockname()[1]}"

    def _listen(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listening.accept()
                connection.settimeout(0.3)
                with connection, contextlib.suppress(OSError):
                    self.heard.append(b"connected")
                    self.heard[-1] = connection.recv(1000).split(b"\r\n")[0] or b"connected"

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._listening.close()
