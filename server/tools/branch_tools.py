"""The tools that try things from one state: a second session with it, and the way back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ..opening import Opening
from ..plaintext import plain
from ..plurals import counted
from ..settings import Settings
from .arguments import CHANGES, OpenSession
from .caller import failures_as_refusals, in_time, principal
from .results import listing

if TYPE_CHECKING:
    from ...kernels import Kernel, Restored


class BranchTools:
    """The tools that fork a session, and take one back to an earlier cell."""

    def __init__(self, settings: Settings, opening: Opening) -> None:
        self.settings, self.opening = settings, opening

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.fork_session, annotations=CHANGES)
        mcp.tool(self.restore_session, annotations=CHANGES)

    async def fork_session(self, session_id: OpenSession) -> ToolResult:
        """Copy an idle session with all its variables at once: try two ways from one state.

        Returns the new session's id; from then on they are apart. Threads, child processes and
        connections are not copied, as the result says; files and databases are shared. Close the
        one that you drop.
        """
        with failures_as_refusals():
            session = self.opening.sessions.get(session_id, principal())
            async with in_time(
                self.settings, f"Session {session_id} was not forked", "It goes on; try again."
            ):
                fork = await self.opening.sessions.fork(session)
        lost, shared = lists_of(fork.kernel)
        facts = {
            **{"session_id": fork.id, "forked_from": session_id, "cells": fork.count},
            **{"notebook": str(fork.notebook) if fork.notebook else None},
            **{"lost": lost, "shared_files": shared},
        }
        return listing(report_of_fork(facts), facts)

    async def restore_session(
        self,
        session_id: OpenSession,
        cell: Annotated[
            int,
            Field(
                ge=1,
                le=1_000_000,
                description="A cell that ran with checkpoint=true; its effects and those of all"
                " later cells are undone.",
            ),
        ],
    ) -> ToolResult:
        """Take a session back to before a cell that ran with checkpoint=true.

        Its variables are as they were then; files, databases and whatever was sent are not undone.
        Works again and again, also after the kernel has died.
        """
        with failures_as_refusals():
            session = self.opening.sessions.get(session_id, principal())
            async with in_time(
                self.settings,
                f"Session {session_id} is not back at cell {cell} yet",
                "It goes on; list_sessions shows when it is idle.",
            ):
                restored = await self.opening.sessions.restore(session, cell)
        lost, files = [*map(plain, restored.lost)], [*map(plain, restored.shared)]
        facts = {
            **{"session_id": session_id, "before_cell": cell, "undone": list(restored.undone)},
            **{"notebook": str(session.notebook) if session.notebook else None},
            **{"lost": lost, "open_files": files, "checkpoints": session.checkpoints.cells},
        }
        return listing(report_of_restored(facts, restored), facts)


def lists_of(kernel: Kernel | None) -> tuple[list[str], list[str]]:
    """What a fork lacks, and the files that it shares; user code may have named them."""
    if kernel is None:
        return [], []
    return [plain(one) for one in kernel.lost], [plain(one) for one in kernel.shared]


def report_of_fork(facts: dict[str, Any]) -> list[str]:
    """What became of a fork, for its caller."""
    count, origin = facts["cells"], facts["forked_from"]
    where = f" and its {counted(count, 'cell')} in {facts['notebook']}" if facts["notebook"] else ""
    lines = [f"Session {facts['session_id']} is a fork of {origin}: it has its variables{where}."]
    if facts["lost"]:
        lines.append(f"Not copied: {'; '.join(facts['lost'])}.")
    files = "; ".join(facts["shared_files"])
    opened = f" Open for writing in both: {files}." if files else ""
    return [*lines, f"Files, databases and shared memory are the same in both.{opened}"]


def report_of_restored(facts: dict[str, Any], restored: Restored) -> list[str]:
    """What became of a session that has stepped back, for its caller."""
    lines = [
        f"Session {facts['session_id']} is as before cell {facts['before_cell']}:"
        f" {cells_in_words(facts['undone'])} undone in its variables."
    ]
    files = "; ".join(facts["open_files"])
    opened = f" Open for writing: {files}." if files else ""
    lines.append(
        "Not undone: files, databases, shared memory, and what was sent or printed; child"
        f" processes have ended.{opened}"
    )
    if facts["lost"]:
        lines.append(f"Had before that cell, and gone: {'; '.join(facts['lost'])}.")
    if restored.problem:
        lines.append(f"The notebook does not say so: {restored.problem}.")
    if restored.gone:
        lines.append(f"It can't go back there again. {restored.gone}")
    return lines


def cells_in_words(numbers: list[int]) -> str:
    """Cells and the verb that follows: `cell 3 is`, `cells 3 to 5 are`, `no cell is`."""
    if not numbers:
        return "no cell is"
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"cell {first} is"
    run = last - first == len(numbers) - 1
    return f"cells {f'{first} to {last}' if run else ', '.join(map(str, numbers))} are"
