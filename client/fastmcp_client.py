"""FastMCP's client for a server of any kind: its transport, its token, and who answers questions.

Knows what FastMCP offers; nothing about which tools the server has. Slow to import.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import httpx2
from fastmcp import Client
from fastmcp.client.transports import (
    ClientTransport,
    SSETransport,
    StdioTransport,
    StreamableHttpTransport,
    infer_transport,
)
from mcp_types import ElicitRequestParams, ElicitResult

from .addresses import url_of
from .direct import OnQuestion
from .local_token import is_loopback, local_token

if TYPE_CHECKING:
    from fastmcp import FastMCP  # takes half a second to import, and most clients don't need it

HTTP = StreamableHttpTransport | SSETransport


def fastmcp_client(
    target: str | Path | list[str] | FastMCP[Any] | ClientTransport,
    token: str | None,
    mode: str,
    on_question: OnQuestion | None,
    on_refusal: Callable[[], None],
) -> Client[Any]:
    """FastMCP's client of a target; `RmiMcpClient` documents the arguments.

    `on_refusal` is called when the server refuses us for lack of a valid token.
    """
    transport, auth = transport_for(target), None
    if isinstance(target, str) and isinstance(transport, HTTP):
        auth = token or os.environ.get("RMI_AGENT_TOKEN") or local_token(transport.url)
        transport.httpx_client_factory = http_clients(is_loopback(transport.url), on_refusal)
    return Client(
        transport,
        mode=mode,
        auth=auth,
        elicitation_handler=answering(on_question) if on_question is not None else None,
    )


def transport_for(
    target: str | Path | list[str] | FastMCP[Any] | ClientTransport,
) -> ClientTransport:
    """FastMCP's transport for a target of any kind."""
    if isinstance(target, list):
        return child(target)
    if isinstance(target, Path):
        return child([sys.executable, str(target)])
    if isinstance(target, str):
        if (url := url_of(target)) is not None:
            return infer_transport(url)
        return child(command_words(target))
    return infer_transport(target)


def command_words(target: str) -> list[str]:
    """The words of a command, or those that run a script.

    Raises:
        ValueError: there are none.
    """
    if target.endswith(".py"):
        return [sys.executable, target]
    words = shlex.split(target, posix=sys.platform != "win32")
    if not words:
        raise ValueError("The server's command is empty; give a URL, a script or a command.")
    return words


def child(command: list[str], log: TextIO | None = None) -> StdioTransport:
    """A server in a child process, which inherits this environment and so its settings.

    Args:
        command: starts it.
        log: takes its stderr; None leaves it this process's.
    """
    env = dict(os.environ)
    return StdioTransport(command[0], command[1:], env=env, keep_alive=False, log_file=log)


def http_clients(direct: bool, on_refusal: Callable[[], None]) -> Callable[..., httpx2.AsyncClient]:
    """A factory of HTTP clients for a transport.

    Args:
        direct: bypass proxies, so that none sees the token.
        on_refusal: called when the server refuses us for lack of a valid token (401).
    """

    async def report_refusal(response: httpx2.Response) -> None:
        if response.status_code == 401:
            on_refusal()

    def make(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,  # redirects are decided per request
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=headers,
            auth=auth,
            timeout=timeout or httpx2.Timeout(30.0, read=300.0),  # as in MCP's own clients
            trust_env=not direct,
            event_hooks={"response": [report_refusal]},
        )

    return make


def answering(on_question: OnQuestion) -> Callable[..., Awaitable[ElicitResult]]:
    """A FastMCP elicitation handler that asks `on_question`."""

    async def handle(
        message: str, _: type | None, params: ElicitRequestParams, __: object
    ) -> ElicitResult:
        schema = getattr(params, "requested_schema", {})
        secret = bool(schema.get("properties", {}).get("value", {}).get("writeOnly"))
        answer = await on_question(message, secret)
        if answer is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"value": answer})

    return handle
