"""A connection to a server: at a URL, in a child process, or in this process.

Knows transports, tokens and MCP calls; nothing about which tools the server has.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import httpx2
import mcp_types
from fastmcp import Client
from fastmcp.client.transports import (
    ClientTransport,
    SSETransport,
    StdioTransport,
    StreamableHttpTransport,
    infer_transport,
)
from fastmcp.exceptions import ToolError
from mcp import MCPError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult

from .addresses import url_of
from .attendance import Attendance
from .failures import NO_TOKEN, explain
from .local_token import is_loopback, local_token
from .results import texts

if TYPE_CHECKING:
    from fastmcp import FastMCP  # takes half a second to import, and most clients don't need it

HTTP = StreamableHttpTransport | SSETransport
EMBEDDED = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "warning"]

FEW_RUNS = [*EMBEDDED, "--few-runs"]  # no kernel is made and no module imported ahead

OnOutput = Callable[[str, str], None]  # (stream name, text)
OnQuestion = Callable[[str, bool], Awaitable[str | None]]  # (question, secret) → answer

HEADING = "--- stderr ---\n"  # the server's heading above stderr, also in live output


class ServerConnection:
    """An MCP connection to one server; `RmiMcpClient` documents the arguments.

    Attributes:
        mcp: FastMCP's client.
        attended: set by a command whose person waits for each run.
    """

    attended: Attendance | None = None

    def __init__(
        self,
        target: str | Path | list[str] | FastMCP[Any] | ClientTransport | None = None,
        *,
        token: str | None = None,
        mode: str = "auto",
        on_question: OnQuestion | None = None,
    ) -> None:
        transport, auth = transport_for(target), None
        self._refused = asyncio.Event()  # set if the server refuses us for lack of a valid token
        self._url: str | None = None
        if isinstance(target, str) and isinstance(transport, HTTP):
            self._url = transport.url
            auth = token or os.environ.get("RMI_AGENT_TOKEN") or local_token(transport.url)
            transport.httpx_client_factory = http_clients(
                is_loopback(transport.url), self._refused.set
            )
        self._token = auth
        self.mcp: Client[Any] = Client(
            transport,
            mode=mode,
            auth=auth,
            elicitation_handler=answering(on_question) if on_question is not None else None,
        )

    async def __aenter__(self) -> Self:
        try:
            await self.mcp.__aenter__()
        except (MCPError, httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            if self._refused.is_set():
                raise PermissionError(NO_TOKEN) from None
            if self._url is None:
                raise
            raise ConnectionError(await explain(self._url, self._token, error)) from error
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.mcp.__aexit__(*error)

    @property
    def instructions(self) -> str:
        """The instructions that the server gives every model."""
        return self.mcp.instructions or ""

    async def list_tools(self) -> list[mcp_types.Tool]:
        """The tools that the server offers, with their schemas."""
        return await self.mcp.list_tools()

    async def call_tool(
        self,
        tool: str,
        arguments: dict[str, Any],
        on_output: OnOutput | None = None,
        wishes: dict[str, Any] | None = None,
    ) -> CallToolResult:
        """Call any tool of the server and return the raw result.

        `wishes` is what we ask for beside the arguments; servers that don't know it ignore it.

        Raises:
            ToolError: the server refused; the text says why and what to do.
        """

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            if on_output is not None and message:
                stderr = message.startswith(HEADING)
                on_output("stderr" if stderr else "stdout", message.removeprefix(HEADING))

        raw = await self.mcp.call_tool_mcp(
            name=tool,
            arguments={name: value for name, value in arguments.items() if value is not None},
            progress_handler=heard if on_output is not None else None,
            meta={"rmi_agent": wishes} if wishes else None,
        )
        if raw.is_error:
            raise ToolError(texts(raw))
        return raw


def transport_for(
    target: str | Path | list[str] | FastMCP[Any] | ClientTransport | None,
) -> ClientTransport:
    """FastMCP's transport for a target of any kind."""
    if target is None:
        return child(EMBEDDED)
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
