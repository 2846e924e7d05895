"""Folders that a client has open and this server does not serve, so that a person can add them.

They are named, never used on their own: which folders code may change is the user's setting. MCP
has dropped roots in 2026-07-28; older clients have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastmcp import Context
from mcp import MCPError
from mcp_types import ListRootsRequest, ListRootsResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..files import project_files

SECONDS = 2.0  # max seconds for a client's answer
NAMED = 5  # max folders in a line


async def offered_roots(ctx: Context, served: Iterable[Path]) -> str:
    """A line with the client's other folders; empty if it has none or does not tell."""
    request = ctx.request_context
    if request is None or request.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return ""
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.roots is None:
        return ""
    try:
        async with asyncio.timeout(SECONDS):
            found = await ctx.session.send_request(ListRootsRequest(), ListRootsResult)
    except (MCPError, TimeoutError):
        return ""
    folders = [folder for root in found.roots if (folder := folder_of(str(root.uri)))]
    others = [one for one in folders if not any(one.is_relative_to(each) for each in served)]
    if not others:
        return ""
    names = ", ".join(project_files.format_name(str(one)) for one in others[:NAMED])
    return (
        f"[The client has also opened {names}, which this server does not serve: its setting"
        " PYTHON_PROJECTS_DIR can name several folders]"
    )


def folder_of(uri: str) -> Path | None:
    """The folder that a root's `file://` URI names; None if it names none here."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or "\0" in path:
        return None
    return Path(path) if path.startswith("/") else None
