"""Turns a target into a connection: a URL, a script, a command, or a server of our own.

Knows transports and what they may send where; nothing about tools or results.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from fastmcp.client.transports import (
    ClientTransport,
    SSETransport,
    StdioTransport,
    StreamableHttpTransport,
    infer_transport,
)

if TYPE_CHECKING:
    from fastmcp import FastMCP  # takes half a second to import, and most clients don't need it

HTTP = StreamableHttpTransport | SSETransport
EMBEDDED = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "warning"]


def is_url(target: object) -> bool:
    """Whether a target is a URL."""
    return isinstance(target, str) and target.startswith(("http://", "https://"))


def transport_for(
    target: str | Path | list[str] | FastMCP[Any] | ClientTransport | None,
) -> ClientTransport:
    """FastMCP's transport for a target of any kind."""
    if target is None:
        return child(EMBEDDED)
    if isinstance(target, list):
        return child(target)
    if isinstance(target, Path) or (isinstance(target, str) and target.endswith(".py")):
        return child([sys.executable, str(target)])
    if isinstance(target, str) and not is_url(target):
        words = shlex.split(target, posix=sys.platform != "win32")
        if not words:
            raise ValueError("The server's command is empty; give a URL, a script or a command.")
        return child(words)
    return infer_transport(target)


def child(command: list[str]) -> StdioTransport:
    """A server in a child process, which inherits this environment and so its settings."""
    return StdioTransport(command[0], command[1:], env=dict(os.environ), keep_alive=False)


def http_clients(direct: bool, on_refusal: Callable[[], None]) -> Callable[..., httpx2.AsyncClient]:
    """A factory of HTTP clients for a transport.

    Args:
        direct: bypass proxies, so that none sees the token.
        on_refusal: called when the server refuses us for lack of a valid token (401).
    """

    async def look(response: httpx2.Response) -> None:
        if response.status_code == 401:
            on_refusal()

    def make(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,  # redirects are decided per request
    ) -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(
            headers=headers,
            auth=auth,
            timeout=timeout or httpx2.Timeout(30.0, read=300.0),  # as in MCP's own clients
            trust_env=not direct,
        )
        client.event_hooks = {"response": [look]}
        return client

    return make
