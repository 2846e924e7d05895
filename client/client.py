"""`RmiMcpClient`: the server's tools as typed methods.

Speaks only MCP, so the server may be anywhere: in this process, in a child process, or behind a
URL.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from .connection import OnOutput, ServerConnection
from .results import (
    NotebookResult,
    ResumeResult,
    RunResult,
    notebook_result,
    run_result,
    sections,
    texts,
)

PAGE = 200_000  # max characters per read_output call
WAIT = 40.0  # max seconds per read_output call; clients give up on a call after 60
VARIABLE = "variable://{session_id}/{name}"  # resource: the kernel's help on a name


class RmiMcpClient(ServerConnection):
    """A client of one server; use as `async with RmiMcpClient(target) as client`.

    Args:
        target: a URL (`…/mcp`, or `…/sse` for legacy SSE), the path of a server script, a
            command line (a string or a list), a FastMCP server object, or None to start a
            server in a child process.
        token: the bearer token for a URL; defaults to `RMI_AGENT_TOKEN` or, for a server on
            this machine, to the token that it generated.
        mode: FastMCP's `auto` or `legacy`, or a protocol version.
        on_question: called when a cell calls `input()`, or `getpass()` (then secret); returns
            the answer, or None to decline. Without it such a cell gets an EOFError.
    """

    # -- running

    async def run_python(
        self,
        file_name: str | None = None,
        args: list[str] | None = None,
        stdin: str = "",
        session_id: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
        *,
        module: str | None = None,
        cwd: str | None = None,
    ) -> RunResult:
        """Run a file in the server's projects folder, or a module, and wait until it ends.

        Args:
            file_name: relative to the projects folder; None for a module.
            args: `sys.argv[1:]`.
            stdin: what `input()` reads.
            session_id: an open session to run in; a fresh one if omitted.
            timeout: seconds until the run is interrupted.
            on_output: called during the run with `stdout` or `stderr` and the new text.
            module: the module to run, as by `python -m`; None for a file.
            cwd: the folder to run in, relative to the projects folder; `project` is the nearest
                one upwards that looks like a project. By default the file's own, or the projects
                folder.

        Raises:
            ToolError: the server could not run it; the text says why and what to do.
        """
        arguments: dict[str, Any] = {"args": args or [], "stdin": stdin}
        given = {"file_name": file_name, "module": module, "cwd": cwd}
        arguments |= {name: value for name, value in given.items() if value is not None}
        return await self._run("run_python", arguments, session_id, timeout, on_output)

    async def run_cell(
        self,
        code: str,
        session_id: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
        *,
        checkpoint: bool | Literal["if possible"] = False,
    ) -> RunResult:
        """Run a snippet and wait until it ends; arguments and errors as for `run_python`.

        With a `checkpoint`, `restore_session` can go back to before it. Where none can be kept, it
        does not run, unless one is wanted only `if possible`.
        """
        given: dict[str, Any] = {"code": code}
        if checkpoint is True:
            given["checkpoint"] = True
        more = {"checkpoint": checkpoint} if checkpoint == "if possible" else None
        return await self._run("run_cell", given, session_id, timeout, on_output, more)

    async def run_notebook(
        self,
        path: str,
        parameters: dict[str, Any] | None = None,
        session_id: str | None = None,
        until: int | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> NotebookResult:
        """Run a notebook of the server's projects folder and wait until it ends.

        Args:
            path: relative to the projects folder.
            parameters: variables to set, by name.
            session_id: an open session to run in; a fresh one if omitted.
            until: the last cell to run, counted from 1 over all cells; None runs all of them.
            timeout: seconds for all cells together.
            on_output: called with `stdout` or `stderr` and new text: the cells' output, their
                values and tracebacks.

        Raises:
            ToolError: the server could not run it; the text says why and what to do.
        """
        given = {"path": path, "parameters": parameters or {}, "until": until}
        arguments = {**given, "session_id": session_id, "timeout": timeout}
        raw = await self.call_tool("run_notebook", arguments, on_output)
        while (facts := raw.structured_content or {})["status"] == "running":
            following = {"session_id": facts["session_id"], "wait": WAIT}
            raw = await self.call_tool("read_output", following, on_output)
        return notebook_result(raw)

    async def read_output(
        self,
        session_id: str,
        cell: int = -1,
        offset: int = 0,
        limit: int = 20_000,
        wait: float = 0,
        on_output: OnOutput | None = None,
        picture: int | None = None,
    ) -> RunResult:
        """Read a page of a run's text: at most `limit` characters from `offset`.

        With `picture`, reads that picture of the cell instead, counted from 1.

        Waits up to `wait` seconds for a run to end; `status` may still be `running` after that.
        """
        arguments = {
            "session_id": session_id,
            "cell": cell,
            "offset": offset,
            "limit": limit,
            "wait": wait,
            "picture": picture,
        }
        return run_result(await self.call_tool("read_output", arguments, on_output))

    async def _run(
        self,
        tool: str,
        arguments: dict[str, Any],
        session_id: str | None,
        timeout: float | None,
        on_output: OnOutput | None,
        more: dict[str, Any] | None = None,
    ) -> RunResult:
        arguments = {**arguments, "session_id": session_id, "timeout": timeout}
        wishes = {**(self.attended.wishes if self.attended is not None else {}), **(more or {})}
        result = run_result(await self.call_tool(tool, arguments, on_output, wishes))
        if self.attended is not None and result.status == "running":
            self.attended.known(result.session_id, result.cell)
        if result.status == "running" or result.truncated:
            result = await self._whole(result, on_output)
        return result

    async def _whole(self, first: RunResult, on_output: OnOutput | None) -> RunResult:
        """Wait until a run ends, then read the whole text that its result truncated."""
        meta: dict[str, Any]
        last = first
        while last.status == "running":
            last = await self.read_output(first.session_id, first.cell, 10**9, 1, WAIT, on_output)
        text, meta = "", {"length": 1, "sections": {}}
        while len(text) < meta["length"]:
            arguments = {
                "session_id": first.session_id,
                "cell": first.cell,
                "offset": len(text),
                "limit": PAGE,
            }
            raw = await self.call_tool("read_output", arguments, None)
            meta = (raw.meta or {})["rmi_agent"]
            page = texts(raw)[: meta["shown"]]
            if not page:
                break
            text += page
            last = run_result(raw)
        return replace(last, text=text, **sections(text, meta))

    # -- sessions

    async def interrupt_session(self, session_id: str) -> str:
        """Interrupt the session's run; its variables are kept."""
        return await self._text("interrupt_session", session_id=session_id)

    async def stop_run(self, *, kill: bool) -> None:
        """Interrupt the run that a person attends, once, or end it with its kernel."""
        assert self.attended is not None
        wishes = self.attended.stopping(kill=kill)
        session = {"session_id": self.attended.session_id}
        await self.call_tool("interrupt_session", session, wishes=wishes)

    async def restart_session(self, session_id: str) -> str:
        """Give the session a fresh kernel; its variables are lost."""
        return await self._text("restart_session", session_id=session_id)

    async def fork_session(self, session_id: str) -> str:
        """Copy the session with its variables; returns the id of the new session."""
        raw = await self.call_tool("fork_session", {"session_id": session_id})
        return str((raw.structured_content or {})["session_id"])

    async def attach_session(
        self,
        connection_file: str | None = None,
        server: str | None = None,
        kernel_id: str | None = None,
    ) -> str:
        """Join a kernel that a person has open, if that is allowed; returns the session's id.

        Args:
            connection_file: the name or path of its connection file.
            server: or the URL of its Jupyter Server.
            kernel_id: and its id there.
        """
        given = {"connection_file": connection_file, "server": server, "kernel_id": kernel_id}
        raw = await self.call_tool("attach_session", {k: v for k, v in given.items() if v})
        return str((raw.structured_content or {})["session_id"])

    async def restore_session(self, session_id: str, cell: int) -> str:
        """Take the session back to before a cell that ran with a checkpoint; says what is not."""
        return await self._text("restore_session", session_id=session_id, cell=cell)

    async def close_session(self, session_id: str, title: str | None = None) -> str:
        """Close the session; its notebook stays, with a title if one is given."""
        named = {} if title is None else {"title": title}  # older servers have none
        return await self._text("close_session", session_id=session_id, **named)

    async def resume_session(
        self,
        notebook: str,
        until: int | None = None,
        skip_failed: bool = False,
        timeout: float = 600.0,
        content: str = "",
    ) -> ResumeResult:
        """Rerun a recorded notebook in a fresh session and wait until it ends.

        Args:
            notebook: its name on the server, or the id of a closed session.
            until: the last cell to run; None runs all of them.
            skip_failed: skip cells that failed when recorded.
            timeout: seconds for all cells together.
            content: the notebook's text, if it is not on the server.
        """
        given = {"until": until, "skip_failed": skip_failed, "timeout": timeout, "content": content}
        raw = await self.call_tool("resume_session", {"notebook": notebook, **given})
        while (facts := raw.structured_content or {})["status"] == "running":
            raw = await self.call_tool("resume_session", {"notebook": facts["session_id"]})
        return ResumeResult(texts(raw), **facts)

    async def list_sessions(self) -> list[dict[str, Any]]:
        """The open sessions: session_id, state, cells, idle_seconds, memory_bytes, notebook."""
        return list((await self.call_tool("list_sessions", {})).structured_content["sessions"])

    # -- files and the rest

    async def list_python_files(self) -> list[dict[str, Any]]:
        """The files that can be run: file_name, bytes, modified."""
        return list((await self.call_tool("list_python_files", {})).structured_content["files"])

    async def read_python_file(self, file_name: str) -> str:
        """Read the text of a file in the projects folder."""
        return await self._text("read_python_file", file_name=file_name)

    async def write_python_file(self, file_name: str, content: str) -> str:
        """Write a file in the projects folder, replacing it if it exists."""
        return await self._text("write_python_file", file_name=file_name, content=content)

    async def complete(self, session_id: str, code: str) -> list[str]:
        """Completions of `code` by the session's kernel, each a full replacement for it.

        Raises:
            MCPError: the server does not support completion.
        """
        from mcp_types import ResourceTemplateReference  # lazy: takes long, and few complete

        found = await self.mcp.complete(
            ResourceTemplateReference(type="ref/resource", uri=VARIABLE),
            {"name": "name", "value": code},
            {"session_id": session_id},
        )
        return list(found.values)

    async def inspect(self, session_id: str, name: str) -> str:
        """The kernel's help on a name (Jupyter's `?name`), as plain text.

        Raises:
            MCPError: the name is unknown, or the server can't inspect it.
        """
        uri = VARIABLE.format(session_id=session_id, name=quote(name, safe=""))
        return await self._resource(uri)

    async def read_notebook(self, session_id: str) -> str:
        """The session's notebook as JSON text; a large one is fetched in pages."""
        text = await self._resource(uri := f"notebook://{session_id}")
        count = json.loads(text)["metadata"].get("rmi_agent", {}).get("pages", 0)
        if not count:
            return text
        return "".join([await self._resource(f"{uri}/{page}") for page in range(1, count + 1)])

    async def connection_file(self, session_id: str) -> str:
        """The path of a Jupyter connection file of the session, on the server's machine.

        Raises:
            MCPError: there is no such session, or others can't connect to its kernel.
        """
        return await self._resource(f"connection-file://{session_id}")

    async def _resource(self, uri: str) -> str:
        contents = await self.mcp.read_resource(uri)
        return "".join(part.text for part in contents if hasattr(part, "text"))

    async def _text(self, tool: str, **arguments: Any) -> str:
        return texts(await self.call_tool(tool, arguments))
