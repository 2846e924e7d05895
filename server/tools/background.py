"""Programs that run in the background, such as servers: how many, when one counts as started.

Knows runs and the ports that they listen on; not how a program is chosen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
from fastmcp import Context
from fastmcp.tools import ToolResult

from ...kernels import LOCAL
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .caller import principal
from .following import Follower, abandon, finished, has_disconnected
from .results import (
    Budget,
    asks,
    facts_so_far,
    open_line,
    run_result,
    stderr_so_far,
    tool_result,
    within,
)

if TYPE_CHECKING:
    from ...kernels import Execution, Listener, Session

FIRST_SIGN = 20.0  # max seconds until a program has printed something or listens
SETTLE = 2.0  # seconds after its first output in which it may still open a port
INTERVAL = 0.1  # seconds between looks at its ports
NAMED = 5  # max ports that a note names


class Background:
    """Starts and follows programs in the background."""

    def __init__(self, settings: Settings, opening: Opening, follower: Follower) -> None:
        self._settings, self._opening, self._follower = settings, opening, follower

    def check_number(self) -> None:
        """Check that the caller may start another program.

        Raises:
            Refusal: there are too many.
        """
        sessions = self._opening.sessions
        open_ones = [one for one in sessions.by_id.values() if one.background is not None]
        mine = [one for one in open_ones if one.principal == principal()]
        most = max(1, self._settings.kernel_max // 2)
        most_mine = most if principal() == LOCAL else max(1, self._settings.most_sessions // 2)
        if len(mine) >= most_mine or len(open_ones) >= most:
            ids = ", ".join(one.id for one in mine)
            how = f"close_session ends one: {ids}." if mine else "Try again later."
            raise Refusal(
                f"Error: {len(open_ones)} programs run in the background, {len(mine)} of them"
                " yours. Half of the kernels is kept for other runs (RMI_AGENT_KERNEL_MAX,"
                f" RMI_AGENT_SESSIONS_PER_USER), so nothing was started. {how}"
            )

    async def before(self, session: Session) -> list[Listener]:
        """The ports that the session listens on before a program starts in it.

        Raises:
            Refusal: something else is running in it.
        """
        if session.running:
            raise Refusal(
                f"Error: Cell {session.runs.unfinished[0].number} of session {session.id} is"
                " running, and a program in the background needs a session for itself. Omit"
                " session_id for a fresh one."
            )
        return await session.listeners() if session.count else []

    async def follow(
        self, execution: Execution, session: Session, ctx: Context, before: Sequence[Listener]
    ) -> ToolResult:
        """Wait until a program has started, or has ended; reports what is known of it.

        It has started when it listens on a port that was not open `before`, or has printed
        something and then opens none.
        """
        try:
            await self._started(execution, session, ctx, before)
        except asyncio.CancelledError:
            # anyio raises again at each await of a cancelled request, hence the shield.
            with anyio.CancelScope(shield=True):
                await abandon(execution)
            raise
        if not execution.task.done() and await has_disconnected(ctx):
            await abandon(execution)
        budget = Budget(self._settings.output_chars, self._settings.result_size)
        if execution.task.done():
            finished(execution)
            written = await self._follower.written.of(execution, ctx)
            return await run_result(execution, budget, self._follower.texts, written)
        texts = self._follower.texts
        whole = await texts.so_far(execution)
        text, truncated = await within(budget, whole, execution.session_id, execution.number)
        heard = await session.listeners()
        notes = [
            *open_line(execution),
            *stderr_so_far(execution),
            *asks(execution),
            *about(execution, session, heard),
            f"read_output(session_id={execution.session_id!r}, cell={execution.number},"
            f" offset={len(whole)}) shows its next output, interrupt_session stops it. It has"
            f" {'its' if execution.until else 'no'} timeout, and ends when its session is closed.",
        ]
        facts = facts_so_far(execution, truncated)
        result = tool_result(facts, text, notes, [], whole)
        return with_ports(result, heard)

    async def _started(
        self, execution: Execution, session: Session, ctx: Context, before: Sequence[Listener]
    ) -> None:
        seconds = min(FIRST_SIGN, self._settings.response_deadline)
        ends = time.monotonic() + seconds
        printed = False
        while not execution.task.done() and (left := ends - time.monotonic()) > 0:
            if execution.started is not None and set(await session.listeners()) - set(before):
                await execution.wait(INTERVAL)  # for what it prints of that
                return
            if not printed and execution.outputs.cell.outputs:
                printed, ends = True, min(ends, time.monotonic() + SETTLE)
            await self._follower.wait(execution, ctx, min(INTERVAL, left))


def about(execution: Execution, session: Session, heard: list[Listener]) -> list[str]:
    """Notes on a program that runs in the background: where it listens, and who can reach that."""
    listens = f"and listens on {named(heard)}" if heard else "and listens on no port yet"
    if session.kernel is not None and not session.kernel.process.is_here:
        listens = "on another machine, so whether it listens is not known here"
    notes = [f"{execution.title} runs in the background {listens}."]
    if any(each.isolated for each in heard):
        notes.append(
            "The sandbox has no network: only code of your own sessions can connect to it there"
            " (run_cell), no browser and no other program."
        )
    if left_out := execution.outputs.left_out:
        notes.append(left_out)
    return notes


def named(heard: list[Listener]) -> str:
    """Ports as a note names them."""
    more = f" and {len(heard) - NAMED} more" if len(heard) > NAMED else ""
    return ", ".join(map(str, heard[:NAMED])) + more


def with_ports(result: ToolResult, heard: list[Listener]) -> ToolResult:
    """A result with the ports among its facts."""
    ports = sorted({each.port for each in heard})
    result.structured_content = {**(result.structured_content or {}), "ports": ports}
    return result
