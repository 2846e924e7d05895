"""A connection to a server: at a URL, in a child process, or in this process.

Knows how a tool is called; neither transports nor which tools the server has.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import errors, quick_imports
from .addresses import url_of
from .attendance import Attendance
from .child import ChildServer
from .direct import DirectClient, OnQuestion
from .errors import NO_TOKEN
from .resident import Resident
from .results import texts

if TYPE_CHECKING:  # these take long to import, and a command's own server needs neither
    import mcp_types
    from fastmcp import FastMCP
    from fastmcp.client.transports import ClientTransport
    from mcp_types import CallToolResult

EMBEDDED = (sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "warning")
FEW_RUNS = (*EMBEDDED, "--few-runs")  # no kernel is made and no module imported ahead

OnOutput = Callable[[str, str], None]  # (stream name, text)

HEADING = "--- stderr ---\n"  # the server's heading above stderr, also in live output


class ServerConnection:
    """An MCP connection to one server; `RmiMcpClient` documents the arguments.

    Attributes:
        mcp: FastMCP's client; for a command's own server, one with the methods used here.
        attended: set by a command whose person waits for each run.
    """

    attended: Attendance | None = None

    def __init__(
        self,
        target: str
        | Path
        | list[str]
        | FastMCP[Any]
        | ClientTransport
        | ChildServer
        | Resident
        | None = None,
        *,
        token: str | None = None,
        mode: str = "auto",
        on_question: OnQuestion | None = None,
    ) -> None:
        self._refused = asyncio.Event()  # set if the server refuses us for lack of a valid token
        self.mcp: Any
        self._url, self._token = url_of(target) if isinstance(target, str) else None, token
        if isinstance(target, ChildServer | Resident):
            self.mcp = DirectClient(target, on_question)
            return
        quick_imports.import_jsonschema()
        from .fastmcp_client import fastmcp_client

        given = [*EMBEDDED] if target is None else target
        self.mcp = fastmcp_client(given, token, mode, on_question, self._refused.set)

    async def __aenter__(self) -> Self:
        try:
            await self.mcp.__aenter__()
        except Exception as error:
            if self._refused.is_set():
                raise PermissionError(NO_TOKEN) from None
            if self._url is None:
                raise
            from .failures import explain  # lazy: takes long, and most servers answer

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
        tools: list[mcp_types.Tool] = await self.mcp.list_tools()
        return tools

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

        raw: CallToolResult = await self.mcp.call_tool_mcp(
            name=tool,
            arguments={name: value for name, value in arguments.items() if value is not None},
            progress_handler=heard if on_output is not None else None,
            meta={"rmi_agent": wishes} if wishes else None,
        )
        if raw.is_error:
            raise errors.tool_errors()[-1](texts(raw))  # FastMCP's, if this is its client
        return raw
