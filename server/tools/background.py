"""Programs that run in the background, such as servers: how many, when one counts as started.

Knows runs and the ports that they listen on; not how a program is chosen.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastmcp import Context
from fastmcp.tools import ToolResult

from ...kernels import LOCAL
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .caller import principal
from .following import Follower, abandon, stopped_if_abandoned
from .results import (
    Budget,
    asks,
    open_line,
    stderr_so_far,
    tool_result,
    within,
)
from .run_facts import facts_so_far

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
        self._starting: Counter[str] = Counter()  # by principal: programs without a session yet

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for another program of the caller's, until that is queued.

        Raises:
            Refusal: there are too many.
        """
        who, sessions = principal(), self._opening.sessions
        open_ones = [one for one in sessions.by_id.values() if one.background is not None]
        mine = [one for one in open_ones if one.principal == who]
        count, count_mine = len(open_ones) + self._starting.total(), len(mine) + self._starting[who]
        most = max(1, self._settings.kernel_max // 2)
        most_mine = most if who == LOCAL else max(1, self._settings.most_sessions // 2)
        if count_mine >= most_mine or count >= most:
            ids = ", ".join(one.id for one in mine)
            how = f"close_session ends one: {ids}." if mine else "Try again later."
            raise Refusal(
                f"Error: {count} programs run in the background, {count_mine} of them"
                " yours. Half of the kernels is kept for other runs (RMI_AGENT_KERNEL_MAX,"
                f" RMI_AGENT_SESSIONS_PER_USER), so nothing was started. {how}"
            )
        self._starting[who] += 1
        try:
            yield
        finally:
            self._starting[who] -= 1

    async def before(self, session: Session) -> list[Listener]:
        """The ports that the session listens on before a program starts in it.

        Raises:
            Refusal: something else is running in it.
        """
        listened = await session.listeners() if session.count else []
        if session.busy:  # checked last: nothing else begins before the caller's next await
            doing = f"Session {session.id} is busy"
            if session.running:
                cell = session.runs.unfinished[0].number
                doing = f"Cell {cell} of session {session.id} is running"
            raise Refusal(
                f"Error: {doing}, and a program in the background needs a session for itself. Omit"
                " session_id for a fresh one."
            )
        return listened

    async def follow(
        self, execution: Execution, session: Session, ctx: Context, before: Sequence[Listener]
    ) -> ToolResult:
        """Wait until a program has started, or has ended; reports what is known of it.

        It has started when it listens on a port that was not open `before`, or has printed
        something and then opens none.
        """
        async with stopped_if_abandoned(execution.task, ctx, partial(abandon, execution)):
            await self._started(execution, session, ctx, before)
        heard = await session.listeners()
        if execution.task.done():
            left = [each for each in heard if each not in before]
            return await self._follower.result(execution, ctx, left_open(left))
        budget = Budget(self._settings.output_chars, self._settings.result_size)
        texts = self._follower.texts
        whole = await texts.so_far(execution)
        text, truncated = await within(budget, whole, execution.session_id, execution.number)
        notes = [
            *open_line(execution),
            *stderr_so_far(execution),
            *asks(execution),
            *about(execution, session, heard),
            f"read_output(session_id={execution.session_id!r}, cell={execution.number},"
            f" offset={len(whole)}) shows its next output, interrupt_session stops it. It ends when"
            f" its session is closed{', or after its timeout' * bool(execution.until)}.",
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


def left_open(ports: list[Listener]) -> list[str]:
    """A note on what processes that a program has left behind listen on."""
    if not ports:
        return []
    return [
        f"The program has ended, and what it started listens on {named(ports)}: close_session ends"
        " that."
    ]


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
