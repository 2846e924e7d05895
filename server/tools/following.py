"""Follows a run for the call that waits for it: sends its output, asks its questions.

Knows runs and the caller's connection; not what started a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
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
from .at_terminal import at_terminal
from .caller import principal
from .elicitation import ask, elicitation_state, is_out_of_questions, take_answer
from .own_lines import STDERR, note
from .progress import MOST, Live
from .results import OTHERS, Budget, run_result
from .run_text import TextCache
from .written import WrittenFiles

if TYPE_CHECKING:
    from ...kernels import Execution, Series

LIVE_DELAY = 0.1  # seconds before live output is sent: most runs are over by then
LIVE_INTERVAL = 0.25  # seconds between pieces of live output


class Follower:
    """Follows runs.

    Attributes:
        texts: the texts of runs, as results show them.
        written: the files that runs have written.
    """

    def __init__(
        self, settings: Settings, opening: Opening, worker: Worker, written: WrittenFiles
    ) -> None:
        self._settings, self._opening = settings, opening
        self.texts, self.written = TextCache(worker), written
        self._live: WeakKeyDictionary[Execution, Live] = WeakKeyDictionary()
        self._sent: WeakKeyDictionary[Series, int] = WeakKeyDictionary()  # the last cell sent

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
        async with stopped_if_abandoned(execution.task, ctx, partial(abandon, execution)):
            seconds = at_terminal(ctx).within(self._settings.response_deadline)
            question = await self.wait(execution, ctx, seconds)
        return question if question is not None else await self.result(execution, ctx)

    async def result(
        self, execution: Execution, ctx: Context, more: Sequence[str] = ()
    ) -> ToolResult:
        """The result of a run as it is now; `more` notes on it if it is over."""
        if execution.task.done():
            finished(execution)
        budget = Budget(self._settings.output_chars, self._settings.result_size)
        written = await self.written.of(execution, ctx)
        return await run_result(execution, budget, self.texts, written, more)

    async def wait(
        self, execution: Execution, ctx: Context, seconds: float, series: Series | None = None
    ) -> ToolResult | None:
        """Wait up to `seconds` for the end; returns a question if the client must ask one first."""
        ends = time.monotonic() + seconds
        if await execution.wait(min(LIVE_DELAY, seconds)):
            return None
        while (left := ends - time.monotonic()) > 0 and not execution.task.done():
            if (live := self._live.get(execution)) is None:
                live = self._live[execution] = Live(whole=at_terminal(ctx).unlimited)
            await send_output(execution, live, ctx, series)
            # A person who can stop the run has to know it before being asked.
            later = is_out_of_questions(ctx) or at_terminal(ctx).deadline is not None
            if execution.question is not None and later:
                return None
            if (question := await ask(execution, ctx, left)) is not None:
                return question
            await execution.wait(min(LIVE_INTERVAL, left), or_question=True)
            if await has_disconnected(ctx):
                break
        return None

    async def follow_series(
        self, series: Series, ctx: Context, seconds: float, *, owns: bool
    ) -> ToolResult | None:
        """Wait up to `seconds` for the end of cells that follow each other; sends their output.

        Args:
            series: the cells.
            ctx: of the call.
            seconds: how long.
            owns: whether the call has started them, so that they end if it is cancelled.

        Returns:
            A question if the client must ask one first.
        """
        if not owns:
            return await self._wait_for_series(series, ctx, seconds)
        async with stopped_if_abandoned(series.task, ctx, partial(abandon_series, series)):
            return await self._wait_for_series(series, ctx, seconds)

    async def _wait_for_series(
        self, series: Series, ctx: Context, seconds: float
    ) -> ToolResult | None:
        ends, reported = time.monotonic() + seconds, -1
        while True:
            await self._send_finished(series, ctx)
            if series.done > reported:
                reported = series.done
                await ctx.report_progress(reported, series.total)
            left = ends - time.monotonic()
            if series.task.done() or left <= 0 or await has_disconnected(ctx):
                return None
            current = series.current
            if current is None or current.task.done():
                await asyncio.wait({series.task}, timeout=min(LIVE_DELAY, left))
            elif question := await self.wait(current, ctx, min(LIVE_INTERVAL, left), series):
                return question

    async def _send_finished(self, series: Series, ctx: Context) -> None:
        """Send what was not sent yet of the cells that have ended: output, value, traceback."""
        if series.current is None:
            return
        for number in range(
            self._sent.get(series, series.first - 1) + 1, series.current.number + 1
        ):
            execution = self._opening.sessions.execution(
                series.session.id, number, series.session.principal
            )
            if execution is not None and not execution.task.done():
                return
            self._sent[series] = number
            if execution is not None and not execution.task.cancelled():
                live = self._live.setdefault(execution, Live())
                await send_output(execution, live, ctx, series)
                await self._send_value(execution, ctx, series)

    async def _send_value(self, execution: Execution, ctx: Context, series: Series) -> None:
        if execution.task.exception() is not None:
            return
        run = execution.task.result()
        whole = await self.texts.whole(run, execution)
        value = whole[slice(*whole.sections.get("value", (0, 0)))][:MOST]
        if value:
            value += "" if value.endswith("\n") else "\n"
            heading = f"{STDERR}\n" if run.error_name is not None else ""
            await ctx.report_progress(*progress(execution, series), message=f"{heading}{value}")


@contextlib.asynccontextmanager
async def stopped_if_abandoned(
    task: asyncio.Future[Any], ctx: Context, stop: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Stop what the body waits for if the client cancels the call or disconnects."""
    try:
        yield
    except asyncio.CancelledError:
        # anyio raises again at each await of a cancelled request, hence the shield.
        with anyio.CancelScope(shield=True):
            await stop()
        raise
    if not task.done() and await has_disconnected(ctx):
        await stop()


async def abandon_series(series: Series) -> None:
    """Stop cells that nobody waits for any more."""
    series.stop("the client cancelled the call")
    series.session.interrupt("was cancelled by the client")
    await asyncio.wait({series.task}, timeout=10)


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


def progress(execution: Execution, series: Series | None) -> tuple[float, float | None]:
    """How far a run has come, as MCP's progress and total: it has to grow, in each call."""
    elapsed = round(execution.elapsed, 3)
    if series is None:
        return elapsed, None
    return execution.number - series.first + elapsed / (1 + elapsed), series.total


async def send_output(
    execution: Execution, live: Live, ctx: Context, series: Series | None = None
) -> None:
    """Send new output as progress messages, stderr under the layout's heading."""
    heading = f"{STDERR}\n"
    if execution.waits_for_others and not live.said_waits:
        live.said_waits = True
        await ctx.report_progress(*progress(execution, series), message=f"{note(OTHERS)}\n")
    for name, new in live.new(execution):
        messages = [heading + new] if name == "stderr" else [new]
        if name != "stderr" and new.startswith(heading):  # ends a line, but no reader can tell
            messages = [new[:1], new[1:]]
        for message in messages:
            await ctx.report_progress(*progress(execution, series), message=message)
