"""`rmi-agent review`: shows the review pages without a running server.

Listens on loopback, admits whoever has the link from its terminal, and runs no code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import webbrowser
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import uvicorn
from fastmcp.server.http import HostOriginGuardMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import BadSettings
from ..middleware import Connection
from ..net import bind
from ..review import ByFirstLink, Index, ReviewAuth, address
from ..settings import Settings

HOST = "127.0.0.1"


def review(settings: Settings, browser: bool, session: str | None = None) -> int:
    """Serve the pages on loopback until a signal; returns the exit code.

    Args:
        settings: name the folder and the port.
        browser: whether to open the browser.
        session: the file name of the session to show first; None for the list.

    Raises:
        BadSettings: the folder does not exist, or the port is taken.
    """
    notebooks = settings.notebooks
    if not notebooks.is_dir():
        raise BadSettings(
            f"RMI_AGENT_NOTEBOOKS_DIR: the folder {notebooks} does not exist; the first session"
            " creates it. Use --notebooks-dir to name another."
        )
    listening = bind(settings)
    origin = f"http://{HOST}:{listening.getsockname()[1]}"
    access = ByFirstLink()
    first = link(access, origin)
    if session is not None:
        first += "?next=" + quote(f"/sessions/{quote(address(notebooks / session))}")
    serving = AnnouncingServer(
        uvicorn.Config(
            local_only(NextLink(ReviewAuth(Index(notebooks), access), access, origin)),
            http=Connection,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    serving.announcement = f"Sessions in {notebooks}:\n{first}\nPress Ctrl-C to stop."
    with open_in_browser(first) if browser else contextlib.nullcontext():
        try:
            asyncio.run(serving.serve(sockets=[listening]))
        except KeyboardInterrupt:  # uvicorn re-raises the signal after a clean shutdown
            return 130
    return 0


class AnnouncingServer(uvicorn.Server):
    """uvicorn's server, which prints a message once signals shut it down cleanly."""

    announcement = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, then print the message."""
        await super().startup(sockets)
        print(self.announcement, flush=True)


def link(access: ByFirstLink, origin: str) -> str:
    """The next one-time link that lets a browser in."""
    return f"{origin}/review/enter/{access.first}"


def local_only(app: ASGIApp) -> ASGIApp:
    """Accept requests only to this machine's own names, and from no other origin."""
    return HostOriginGuardMiddleware(
        app, allowed_hosts=(HOST, "localhost"), allowed_origins=(), mode="strict"
    )


class NextLink:
    """ASGI middleware that prints the next link after one has been used."""

    def __init__(self, app: ASGIApp, access: ByFirstLink, origin: str) -> None:
        self._app, self._access, self._origin = app, access, origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, then print the next link if this one was used."""
        before = self._access.first
        await self._app(scope, receive, send)
        if self._access.first != before:
            print(f"Link for another browser: {link(self._access, self._origin)}", flush=True)


@contextlib.contextmanager
def open_in_browser(url: str) -> Iterator[None]:
    """Open a URL in the browser through a private file.

    The URL grants access, and other users can see this machine's command lines.
    """
    descriptor, name = tempfile.mkstemp(".html", "review-")  # with mode 0600
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(url)}">'
            f'<title>Sessions</title><a href="{escape(url)}">Sessions</a>'
        )
    try:
        if not webbrowser.open(Path(name).as_uri()):
            print("No browser could be opened; open this link yourself.", flush=True)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
