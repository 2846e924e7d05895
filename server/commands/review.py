"""`rmi-agent-mcp-server review`: shows the review pages without a running server.

Listens on loopback, admits whoever has the link from its terminal, and runs no code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from html import escape
from pathlib import Path

import uvicorn
from fastmcp.server.http import HostOriginGuardMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import BadSettings
from ..middleware import Connection
from ..review import ByFirstLink, Index, ReviewAuth

HOST = "127.0.0.1"


def review(notebooks: Path, port: int, browser: bool) -> int:
    """Serve the pages until a signal; returns the exit code.

    Raises:
        BadSettings: the folder does not exist, or the port is taken.
    """
    if not notebooks.is_dir():
        raise BadSettings(
            f"RMI_AGENT_NOTEBOOKS_DIR: there is no folder {notebooks}. Name one with"
            " --notebooks-dir; it is made when the first session runs."
        )
    listening = bound(port)
    address = f"http://{HOST}:{listening.getsockname()[1]}"
    access = ByFirstLink()
    serving = Announced(
        uvicorn.Config(
            guarded(FirstLinks(ReviewAuth(Index(notebooks), access), access, address)),
            http=Connection,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    serving.says = f"Sessions of {notebooks}:\n{link(access, address)}\nCtrl-C ends this."
    with opened(link(access, address)) if browser else contextlib.nullcontext():
        try:
            asyncio.run(serving.serve(sockets=[listening]))
        except KeyboardInterrupt:  # uvicorn re-raises the signal after a clean shutdown
            return 130
    return 0


class Announced(uvicorn.Server):
    """uvicorn's server, which prints a message once signals shut it down cleanly."""

    says = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, then print the message."""
        await super().startup(sockets)
        print(self.says, flush=True)


def link(access: ByFirstLink, address: str) -> str:
    """The next one-time link that lets a browser in."""
    return f"{address}/review/enter/{access.first}"


def guarded(app: ASGIApp) -> ASGIApp:
    """Accept requests only to this machine's own names, and from no other origin."""
    return HostOriginGuardMiddleware(
        app, allowed_hosts=(HOST, "localhost"), allowed_origins=(), mode="strict"
    )


class FirstLinks:
    """ASGI middleware that prints the next link after one has been used."""

    def __init__(self, app: ASGIApp, access: ByFirstLink, address: str) -> None:
        self._app, self._access, self._address = app, access, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, then print the next link if this one was used."""
        before = self._access.first
        await self._app(scope, receive, send)
        if self._access.first != before:
            print(f"For another browser: {link(self._access, self._address)}", flush=True)


def bound(port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        BadSettings: the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"review: can't listen on {HOST}:{port}: {error.strerror}. Leave --port out."
        ) from None
    return listening


@contextlib.contextmanager
def opened(url: str) -> Iterator[None]:
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
            print("No browser could be opened; open the link above.", flush=True)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
