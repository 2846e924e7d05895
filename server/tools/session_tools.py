"""The tools for whole sessions: Jupyter's buttons, and a list of what is open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult

from ..opening import Opening
from ..plaintext import plain
from ..plurals import counted
from ..settings import Settings
from .arguments import CHANGES, READS, OpenSession, Title
from .at_terminal import at_terminal
from .caller import failures_as_refusals, in_time, principal
from .results import listing

if TYPE_CHECKING:
    from ...kernels import Session


class SessionTools:
    """The tools that stop, restart, close and list sessions."""

    def __init__(self, settings: Settings, opening: Opening) -> None:
        self.settings, self.opening = settings, opening

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.interrupt_session, annotations=CHANGES)
        mcp.tool(self.restart_session, annotations=CHANGES)
        mcp.tool(self.close_session, annotations=CHANGES)
        mcp.tool(self.list_sessions, annotations=READS)

    async def interrupt_session(self, ctx: Context, session_id: OpenSession) -> str:
        """Interrupt a session's running cell, like Jupyter's stop button; variables are kept."""
        with failures_as_refusals():
            session = self.opening.sessions.get(session_id, principal())
            person = at_terminal(ctx)
            if person.stop and person.cell is not None:
                return await self._stop(session, person.cell, kill=person.stop == "kill")
            running = session.interrupt()
            if running is None:
                if not session.running:
                    return f"Nothing is running in session {session_id}."
                return (
                    f"Cell {session.runs.unfinished[0].number} of session {session_id} is already"
                    " ending. Call interrupt_session again if it has not ended in a few seconds."
                )
            await running.wait(10)
            state = "it has ended" if running.task.done() else "it has not ended yet"
            return (
                f"Cell {running.number} of session {session_id} was interrupted; {state}."
                f" read_output(session_id={session_id!r}, cell={running.number}) shows its output."
            )

    async def _stop(self, session: Session, cell: int, *, kill: bool) -> str:
        """Stop one run as its person asks: by one interrupt, or by ending its kernel."""
        execution = self.opening.sessions.execution(session.id, cell, session.principal)
        if execution is None or execution.task.done():
            return f"Cell {cell} of session {session.id} has ended."
        if kill:
            await execution.kill("was killed by its user")
        else:
            execution.interrupt("was interrupted by its user", patient=True)
        return f"Cell {cell} of session {session.id} was {'killed' if kill else 'interrupted'}."

    async def restart_session(self, session_id: OpenSession) -> str:
        """Give a session a fresh kernel, like Jupyter's restart button; variables are lost.

        It keeps its id and its notebook.
        """
        with failures_as_refusals():
            session = self.opening.sessions.get(session_id, principal())
            async with in_time(
                self.settings,
                f"Session {session_id} had no fresh kernel",
                "The restart continues; list_sessions shows when it is done.",
            ):
                await session.restart()
            return f"Session {session_id} has a fresh kernel; variables lost."

    async def close_session(self, session_id: OpenSession, title: Title = None) -> str:
        """Close a session that is no longer needed and free its memory; its notebook is kept."""
        with failures_as_refusals():
            session = self.opening.sessions.get(session_id, principal())
            if title is not None:
                session.set_title(title)
            await self.opening.sessions.close(session)
            path = session.recorder.path
            return f"Session {session_id} is closed." + (
                f" Its notebook is {path}." if path else ""
            )

    async def list_sessions(self) -> ToolResult:
        """List the open sessions: id, state, cells run, idle seconds, memory, notebook."""
        with failures_as_refusals():
            elsewhere = await self.opening.sessions.directory.elsewhere(principal())
        rows = [await open_here(session) for session in self.opening.sessions.all(principal())]
        rows += [
            row(one.id, one.busy, one.cells, one.idle_for, None, one.notebook) for one in elsewhere
        ]
        lines = [
            f"{r['session_id']}  {r['state']}, {counted(r['cells'], 'cell')},"
            f" idle {r['idle_seconds']:g} s, {megabytes(r['memory_bytes'])},"
            f" {r['notebook'] or 'nothing recorded yet'}{checkpoints(r)}{in_background(r)}"
            f"{on_kernel_of(r)}"
            for r in rows
        ]
        return listing(lines or ["No sessions are open."], {"sessions": rows})


async def open_here(session: Session) -> dict[str, Any]:
    """The row of a session that is open in this server."""
    kernel = session.kernel
    if kernel is None:
        memory: int | None = 0
    elif kernel.process.is_here:
        memory = await asyncio.to_thread(kernel.process.memory)
    else:  # on another machine, so it can't be measured from here
        memory = None
    if memory is not None:
        memory += await asyncio.to_thread(memory_of_copies, session)
    path = session.recorder.path
    found = row(session.id, session.busy, session.count, session.idle_for, memory, path)
    if session.joined is not None:
        found["attached"] = session.joined.record
    if session.checkpoints.cells:
        found["checkpoints"] = session.checkpoints.cells
    if (program := session.background) is not None:
        ports = sorted({each.port for each in await session.listeners()})
        found["background"] = {"program": program.title, "ports": ports}
    return found


def on_kernel_of(row: dict[str, Any]) -> str:
    """The person's kernel that a session is on, for people; empty if its kernel is its own."""
    return f"; attached to {plain(' '.join(row['attached'].values()))}" if "attached" in row else ""


def memory_of_copies(session: Session) -> int:
    """Bytes that the sleeping copies of a session's kernel hold, shared pages in part."""
    return sum(copy.process.memory() for copy in session.copies)


def checkpoints(row: dict[str, Any]) -> str:
    """The checkpoints of a session, for people; empty if it has none."""
    if (cells := row.get("checkpoints")) is None:
        return ""
    return f"; can step back to before cell {', '.join(map(str, cells))}"


def in_background(row: dict[str, Any]) -> str:
    """What a session runs in the background, for people; empty if nothing."""
    if (what := row.get("background")) is None:
        return ""
    ports = ", ".join(map(str, what["ports"]))
    listens = f", port {ports}" if ports else ""
    return f"; runs {plain(what['program'])} in the background{listens}"


def row(
    session_id: str, busy: bool, cells: int, idle: float, memory: int | None, notebook: Path | None
) -> dict[str, Any]:
    """One session in the list."""
    return {
        "session_id": session_id,
        "state": "busy" if busy else "idle",
        "cells": cells,
        "idle_seconds": round(idle, 1),
        "memory_bytes": memory,
        "notebook": str(notebook) if notebook else None,
    }


def megabytes(count: int | None) -> str:
    """A number of bytes in MB, for people."""
    return "memory unknown" if count is None else f"{count / 1e6:.0f} MB"
