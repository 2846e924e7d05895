"""Follows a run for the call that waits for it: sends its output, asks its questions.

Knows runs and the caller's connection; not what started a run.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio
from fastmcp import Context
from fastmcp.tools import ToolResult
from starlette.requests import Request

from ...kernels import SessionNotFoundError
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from ..views import Worker
from .caller import principal
from .elicitation import ask, elicitation_state, is_out_of_questions, take_answer
from .own_lines import STDERR
from .progress import Live
from .results import Budget, run_result
from .run_text import TextCache

if TYPE_CHECKING:
    from ...kernels import Execution

LIVE_DELAY = 0.1  # seconds before live output is sent: most runs are over by then
LIVE_INTERVAL = 0.25  # seconds between pieces of live output


class Follower:
    """Follows runs.

    Attributes:
        texts: the texts of runs, as results show them.
    """

    def __init__(self, settings: Settings, opening: Opening, worker: Worker) -> None:
        self._settings, self._opening = settings, opening
        self.texts = TextCache(worker)
        self._live: WeakKeyDictionary[Execution, Live] = WeakKeyDictionary()

    def answered_run(self, ctx: Context) -> Execution | None:
        """Deliver the answer that this call brings, if any; returns the run that asked."""
        before = elicitation_state(ctx)
        if before is None:
            return None
        execution = self._opening.sessions.execution(before.session_id, before.cell, principal())
        if execution is None:
            raise SessionNotFoundError(
                f"Session {before.session_id} ended while cell {before.cell} was waiting for an"
                " answer. Omit session_id to open a new session."
            )
        take_answer(execution, before, ctx)
        return execution

    async def follow(self, execution: Execution, ctx: Context) -> ToolResult:
        """Wait for a run while sending its output; past the deadline, report it as running."""
        try:
            question = await self.wait(execution, ctx, self._settings.response_deadline)
        except asyncio.CancelledError:
            # anyio raises again at each await of a cancelled request, hence the shield.
            with anyio.CancelScope(shield=True):
                await abandon(execution)
            raise
        if not execution.task.done() and await has_disconnected(ctx):
            await abandon(execution)
        if question is not None:
            return question
        if execution.task.done():
            finished(execution)
        budget = Budget(self._settings.output_chars, self._settings.result_size)
        return await run_result(execution, budget, self.texts)

    async def wait(self, execution: Execution, ctx: Context, seconds: float) -> ToolResult | None:
        """Wait up to `seconds` for the end; returns a question if the client must ask one first."""
        ends = time.monotonic() + seconds
        if await execution.wait(min(LIVE_DELAY, seconds)):
            return None
        while (left := ends - time.monotonic()) > 0 and not execution.task.done():
            await send_output(execution, self._live.setdefault(execution, Live()), ctx)
            if execution.question is not None and is_out_of_questions(ctx):
                return None
            if (question := await ask(execution, ctx, left)) is not None:
                return question
            await execution.wait(min(LIVE_INTERVAL, left))
            if await has_disconnected(ctx):
                break
        return None


def finished(execution: Execution) -> None:
    """Raise the error, if any, that leaves a run without a result here.

    Raises:
        Refusal: the run was removed from the queue, or continues on another instance.
        KernelError: there was no kernel for it.
    """
    if execution.task.cancelled() and execution.handed_over:
        raise Refusal(
            f"The server instance that ran cell {execution.number} is shutting down. The run"
            f" continues: read_output(session_id={execution.session_id!r}, cell={execution.number},"
            " wait=40) follows it."
        )
    if execution.task.cancelled():
        raise Refusal(
            f"Cell {execution.number} was removed from the queue before it started, so none of it"
            " ran. Call again to run it."
        )
    if error := execution.task.exception():
        raise error


async def abandon(execution: Execution) -> None:
    """Stop a run that nobody waits for any more."""
    execution.interrupt("was cancelled by the client")
    await execution.wait(10)


async def has_disconnected(ctx: Context) -> bool:
    """Whether the connection was dropped; if a client leaves in any other way, the SDK cancels."""
    request = ctx.request_context.request if ctx.request_context is not None else None
    if ctx.transport != "streamable-http" or not isinstance(request, Request):
        return False
    return await request.is_disconnected()


async def send_output(execution: Execution, live: Live, ctx: Context) -> None:
    """Send new output as progress messages, stderr under the layout's heading."""
    heading = f"{STDERR}\n"
    for name, new in live.new(execution):
        messages = [heading + new] if name == "stderr" else [new]
        if name != "stderr" and new.startswith(heading):  # ends a line, but no reader can tell
            messages = [new[:1], new[1:]]
        for message in messages:
            await ctx.report_progress(round(execution.elapsed, 3), message=message)
