"""How a client that is not on this machine gets a file's bytes: addresses for results.

Knows the caller's request and links; serves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from urllib.parse import quote

from fastmcp import Context
from starlette.requests import Request

from ..files import FileStatus
from ..settings import Settings
from ..transfer import DOWNLOAD, FILES, Links
from .caller import principal

LINKED = 3  # max files in a result that have a link for a person


class RemoteFiles:
    """The addresses of one server's files.

    Args:
        settings: may say at which address clients reach the server.
        links: makes links for a person; None if clients are on this machine.
    """

    def __init__(self, settings: Settings, links: Links | None) -> None:
        self._public, self._links = (settings.public_url or "").rstrip("/"), links

    def base(self, ctx: Context) -> str:
        """The server's address as the caller knows it; empty if the caller is on this machine."""
        request = ctx.request_context.request if ctx.request_context is not None else None
        if self._links is None or not isinstance(request, Request):
            return ""
        return self._public or str(request.base_url).rstrip("/")

    def line(self, ctx: Context, files: Sequence[FileStatus]) -> str:
        """Where the caller and a person can download these files; empty if they have them."""
        base = self.base(ctx)
        if not base or self._links is None:
            return ""
        example = quote(files[0].name) if len(files) == 1 else "NAME"
        names = [file.name for file in files[:LINKED]]
        links = [
            f"{base}{DOWNLOAD}{self._links.make(principal(), name)}/{quote(PurePath(name).name)}"
            for name in names
        ]
        return (
            f"Download by HTTP with your token: GET {base}{FILES}{example}. For a person, each once"
            f" within an hour: {' '.join(links)}"
        )

    def about(self, ctx: Context) -> str:
        """How files are transferred in general; empty if the caller is on this machine."""
        base = self.base(ctx)
        return f"HTTP with your token: GET or PUT {base}{FILES}NAME" if base else ""
