"""`RmiMcpClient`: the server's tools as typed methods.

Speaks MCP through FastMCP's client and nothing else; it works against a server of any
place: in this process, a child of it, or behind a URL.
"""

from __future__ import annotations

import base64
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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

from .local_token import is_loopback, local_token

if TYPE_CHECKING:
    from fastmcp import FastMCP  # half a second to import, and most clients need none

OnOutput = Callable[[str, str], None]  # (stream name, text)
OnQuestion = Callable[[str, bool], Awaitable[str | None]]  # (question, secret) → answer

HTTP = StreamableHttpTransport | SSETransport
EMBEDDED = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "warning"]
NO_TOKEN = (
    "it asks for a token, and knows none that was sent. Set RMI_AGENT_TOKEN to its token"
    " (or unset it, if the server on this machine has made its own)."
)
HEADING = "--- stderr ---\n"  # what the server puts over stderr, also in live output
PAGE = 200_000  # characters of one read_output
WAIT = 40.0  # seconds of one read_output; clients give up on a call after 60


@dataclass(frozen=True)
class Picture:
    """A picture that came with a result."""

    mime_type: str
    data: bytes


@dataclass(frozen=True)
class RunResult:
    """What came of a run; `str()` of it is the text that a model reads.

    Attributes:
        text: stdout, stderr, value or traceback, exit code, notes; cut if it is long.
        stdout, stderr, value: those parts alone, whole.
        notes: what the server says besides, one bracketed line each.
        status: ok, error, timeout, interrupted, running or dead.
        exit_code: of a file: as `subprocess` has it (negative: by that signal).
        state: `lost` when variables from before are gone.
        elapsed: seconds.
        notebook: the file that records the session, on the server's machine.
    """

    text: str
    stdout: str
    stderr: str
    value: str
    notes: str
    pictures: tuple[Picture, ...]
    session_id: str
    cell: int
    execution_count: int | None
    status: str
    exit_code: int | None
    error_name: str | None
    timed_out: bool
    state: str
    elapsed: float
    truncated: bool
    notebook: str | None

    def __str__(self) -> str:
        return self.text


class RmiMcpClient:
    """A client of one server. Use as `async with RmiMcpClient(target) as client`.

    Args:
        target: a URL (`…/mcp`, or `…/sse` for legacy SSE), the path of a server script, a
            command line (a text or a list), a FastMCP server object, or None for a server
            of one's own in a child process.
        token: the bearer token for a URL; if left out `RMI_AGENT_TOKEN`, or else for a server
            on this machine the token that it has made.
        mode: FastMCP's `auto`, `legacy` or a protocol version.
        on_question: asked when a cell calls `input()` (or, secret, `getpass()`); None is no
            answer. Without it such a cell gets an EOFError.
    """

    def __init__(
        self,
        target: str | Path | list[str] | FastMCP[Any] | ClientTransport | None = None,
        *,
        token: str | None = None,
        mode: str = "auto",
        on_question: OnQuestion | None = None,
    ) -> None:
        transport, auth = transport_for(target), None
        self._unknown = False  # whether the server has refused us for want of a token
        if isinstance(target, str) and isinstance(transport, HTTP):
            auth = token or os.environ.get("RMI_AGENT_TOKEN") or local_token(transport.url)
            transport.httpx_client_factory = partial(self._http, is_loopback(transport.url))
        self._client: Client[Any] = Client(
            transport,
            mode=mode,
            auth=auth,
            elicitation_handler=answering(on_question) if on_question is not None else None,
        )

    def _http(
        self,
        direct: bool,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,  # whether redirects are followed is decided at each request
    ) -> httpx2.AsyncClient:
        """A client for the transport; a `direct` one shows the token to no proxy."""

        async def look(response: httpx2.Response) -> None:
            self._unknown |= response.status_code == 401

        client = httpx2.AsyncClient(
            headers=headers,
            auth=auth,
            timeout=timeout or httpx2.Timeout(30.0, read=300.0),  # as MCP's own clients have it
            trust_env=not direct,
        )
        client.event_hooks = {"response": [look]}
        return client

    async def __aenter__(self) -> Self:
        try:
            await self._client.__aenter__()
        except (MCPError, httpx2.HTTPStatusError):
            if self._unknown:
                raise PermissionError(NO_TOKEN) from None
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    # -- running

    async def run_python(
        self,
        file_name: str,
        args: list[str] | None = None,
        stdin: str = "",
        session_id: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """Run a file of the server's projects folder and wait for its end.

        Args:
            file_name: relative to the projects folder.
            args: `sys.argv[1:]`.
            stdin: what `input()` reads.
            session_id: an open session to run in; a fresh one if left out.
            timeout: seconds until it is interrupted.
            on_output: called with `stdout` or `stderr` and new text while it runs.

        Raises:
            ToolError: the server could not run it; the text says why and what to do.
        """
        arguments = {"file_name": file_name, "args": args or [], "stdin": stdin}
        return await self._run("run_python", arguments, session_id, timeout, on_output)

    async def run_cell(
        self,
        code: str,
        session_id: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """Run a snippet and wait for its end; arguments and errors as in `run_python`."""
        return await self._run("run_cell", {"code": code}, session_id, timeout, on_output)

    async def read_output(
        self,
        session_id: str,
        cell: int = -1,
        offset: int = 0,
        limit: int = 20_000,
        wait: float = 0,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """A page of a run's text: at most `limit` characters from `offset`.

        Waits `wait` seconds for a run that still goes on; then `status` may be `running`.
        """
        arguments = {
            "session_id": session_id,
            "cell": cell,
            "offset": offset,
            "limit": limit,
            "wait": wait,
        }
        return run_result(await self._call("read_output", arguments, on_output))

    async def _run(
        self,
        tool: str,
        arguments: dict[str, Any],
        session_id: str | None,
        timeout: float | None,
        on_output: OnOutput | None,
    ) -> RunResult:
        arguments = {**arguments, "session_id": session_id, "timeout": timeout}
        result = run_result(await self._call(tool, arguments, on_output))
        if result.status == "running" or result.truncated:
            result = await self._whole(result, on_output)
        return result

    async def _whole(self, first: RunResult, on_output: OnOutput | None) -> RunResult:
        """Wait until a run is over, then gather all the text that its result had to cut."""
        last = first
        while last.status == "running":
            last = await self.read_output(first.session_id, first.cell, 10**9, 1, WAIT, on_output)
        text, meta = "", None
        while meta is None or len(text) < meta["length"]:
            arguments = {
                "session_id": first.session_id,
                "cell": first.cell,
                "offset": len(text),
                "limit": PAGE,
            }
            raw = await self._call("read_output", arguments, None)
            meta = (raw.meta or {})["rmi_agent"]
            page = texts(raw)[: meta["shown"]]
            if not page:
                break
            text += page
            last = run_result(raw)
        parts = {name: text[start:end] for name, (start, end) in (meta or {})["sections"].items()}
        return with_parts(last, text, parts)

    # -- sessions

    async def interrupt_session(self, session_id: str) -> str:
        """Stop what runs there; its variables are kept."""
        return await self._text("interrupt_session", session_id=session_id)

    async def restart_session(self, session_id: str) -> str:
        """Give it a fresh kernel; its variables are lost."""
        return await self._text("restart_session", session_id=session_id)

    async def close_session(self, session_id: str) -> str:
        """End it; its notebook stays."""
        return await self._text("close_session", session_id=session_id)

    async def list_sessions(self) -> list[dict[str, Any]]:
        """The open sessions: session_id, state, cells, idle_seconds, memory_bytes, notebook."""
        return list((await self._call("list_sessions", {})).structured_content["sessions"])

    # -- files and the rest

    async def list_python_files(self) -> list[dict[str, Any]]:
        """The files that can be run: file_name, bytes, modified."""
        return list((await self._call("list_python_files", {})).structured_content["files"])

    async def read_python_file(self, file_name: str) -> str:
        """A file's text."""
        return await self._text("read_python_file", file_name=file_name)

    async def write_python_file(self, file_name: str, content: str) -> str:
        """Write a file, replacing it if it exists."""
        return await self._text("write_python_file", file_name=file_name, content=content)

    async def list_tools(self) -> list[mcp_types.Tool]:
        """The tools that the server offers, with their schemas."""
        return await self._client.list_tools()

    async def read_notebook(self, session_id: str) -> str:
        """The session's notebook as JSON text."""
        contents = await self._client.read_resource(f"notebook://{session_id}")
        return "".join(part.text for part in contents if hasattr(part, "text"))

    async def _text(self, tool: str, **arguments: Any) -> str:
        return texts(await self._call(tool, arguments))

    async def _call(
        self, tool: str, arguments: dict[str, Any], on_output: OnOutput | None = None
    ) -> CallToolResult:
        async def heard(progress: float, total: float | None, message: str | None) -> None:
            if on_output is not None and message:
                stderr = message.startswith(HEADING)
                on_output("stderr" if stderr else "stdout", message.removeprefix(HEADING))

        raw = await self._client.call_tool_mcp(
            name=tool,
            arguments={name: value for name, value in arguments.items() if value is not None},
            progress_handler=heard if on_output is not None else None,
        )
        if raw.is_error:
            raise ToolError(texts(raw))
        return raw


def answering(on_question: OnQuestion) -> Callable[..., Awaitable[ElicitResult]]:
    """A handler of FastMCP's that asks `on_question`."""

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
    """A server as a child process. It gets this environment: its settings are there."""
    return StdioTransport(command[0], command[1:], env=dict(os.environ), keep_alive=False)


def texts(raw: CallToolResult) -> str:
    """The text of a result."""
    return "\n".join(block.text for block in raw.content if block.type == "text")


def run_result(raw: CallToolResult) -> RunResult:
    """A typed result from what came over the wire."""
    text = texts(raw)
    meta = (raw.meta or {}).get("rmi_agent", {"sections": {}, "shown": 0})
    parts = {name: text[start:end] for name, (start, end) in meta["sections"].items()}
    pictures = tuple(
        Picture(block.mime_type, base64.b64decode(block.data))
        for block in raw.content
        if block.type == "image"
    )
    return RunResult(
        text=text,
        stdout=parts.get("stdout", ""),
        stderr=parts.get("stderr", ""),
        value=parts.get("value", ""),
        notes=text[meta["shown"] :].strip("\n"),
        pictures=pictures,
        **(raw.structured_content or {}),
    )


def with_parts(result: RunResult, text: str, parts: dict[str, str]) -> RunResult:
    """The result with whole parts, gathered over several pages."""
    return replace(
        result,
        text=text,
        stdout=parts.get("stdout", ""),
        stderr=parts.get("stderr", ""),
        value=parts.get("value", ""),
    )
