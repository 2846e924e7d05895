"""The tools that run code, as a model sees them: what each is for, and what it needs.

Turns arguments into calls on sessions, and runs into results. An error in the user's code is
a normal result; a failure of ours is a `ToolError` that says what to do next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

import anyio
from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field
from starlette.requests import Request

from ...kernels import LOCAL, SessionNotFoundError
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from ..views import Worker
from .arguments import CHANGES, READS, CellNumber, FileName, OpenSession, SessionId, Timeout
from .caller import failures_as_refusals, in_time, principal
from .caller_files import CallerFiles
from .elicitation import ask, elicitation_state, is_out_of_questions, take_answer
from .own_lines import STDERR
from .progress import Live
from .results import (
    PAGE,
    RUN_SCHEMA,
    Budget,
    page_of_run,
    picture_result,
    run_result,
    running_page,
)
from .resume import ResumeTool
from .run_text import TextCache

if TYPE_CHECKING:
    from ...kernels import Execution, Session

LIVE_DELAY = 0.1  # seconds before live output is sent: most runs are over by then
LIVE_INTERVAL = 0.25  # seconds between pieces of live output
RUNS_PER_USER = 32  # max running and queued runs per user over HTTP


class RunTools:
    """The tools that run code and read its output."""

    def __init__(
        self,
        settings: Settings,
        opening: Opening,
        resuming: ResumeTool,
        worker: Worker,
        files: CallerFiles,
    ) -> None:
        self.settings, self.opening, self.resuming = settings, opening, resuming
        self.files = files
        self.on_run: list[Callable[[Execution], None]] = []  # callbacks for each accepted run
        self._starting: Counter[str] = Counter()  # by principal: runs without a session yet
        self._texts = TextCache(worker)
        self._live: WeakKeyDictionary[Execution, Live] = WeakKeyDictionary()

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.run_python, output_schema=RUN_SCHEMA, annotations=CHANGES)
        mcp.tool(self.run_cell, output_schema=RUN_SCHEMA, annotations=CHANGES)
        mcp.tool(self.read_output, output_schema=RUN_SCHEMA, annotations=READS)

    # -- running

    async def run_python(
        self,
        ctx: Context,
        file_name: FileName,
        args: Annotated[list[str], Field(description="Command-line arguments: sys.argv[1:].")] = [],  # noqa: B006 (pydantic copies it; the schema shows a list)
        stdin: Annotated[
            str, Field(description="Text that input() and sys.stdin read: 'Ada\\n42\\n'.")
        ] = "",
        session_id: SessionId = None,
        timeout: Timeout = None,
    ) -> ToolResult:
        """Run a Python file from the projects folder, like `python FILE ARGS` in its own folder.

        Returns stdout, stderr, the exit code and plots. Use it for files that exist there
        (list_python_files lists them, write_python_file creates one); use run_cell for code that
        is not in a file. Each call runs in a fresh session unless session_id is given. The
        session stays open afterwards, even if the file failed: run_cell with the returned
        session_id can inspect its globals and, through sys.last_traceback, the locals of the
        failing frames. A backslash before a line that looks like one of the server's own
        (`--- stderr ---`, `[Process exited …]`, `[rmi-agent: …]`) means that the code printed it.
        """
        from ...kernels import Script  # lazy: imported after `initialize` is answered

        with failures_as_refusals():
            if (run := self._answered_run(ctx)) is not None:
                return await self._follow(run, ctx)
            file = await asyncio.to_thread(self.files.of_caller().read, file_name)
            if any("\0" in arg for arg in args):
                raise Refusal("Error: An argument contains a NUL character; remove it.")
            async with self._session(session_id) as session:
                if session.kernel is not None and not session.kernel.is_python:
                    raise Refusal(
                        "Error: run_python needs a Python kernel (ipykernel), and this server's"
                        f" kernel is {self.settings.kernel_name!r}. Use run_cell."
                    )
                script = Script(file.path, file.source, tuple(args), stdin)
                execution = session.submit_script(script, timeout)
            return await self._follow(self._announced(execution), ctx)

    async def run_cell(
        self,
        ctx: Context,
        code: Annotated[str, Field(description="Python code, one or more lines, as in a cell.")],
        session_id: SessionId = None,
        timeout: Timeout = None,
    ) -> ToolResult:
        """Run a snippet in a Jupyter session; variables and imports persist between calls.

        Pass the session_id of an earlier result to continue there; omit it to start fresh. The
        last expression's value is returned without print, matplotlib figures are returned as
        images, and `await`, %magics and !shell commands work; %pip install is for all sessions.
        If it times out, it is interrupted and the session keeps its variables. A backslash before
        a line that looks like one of the server's own (`--- stderr ---`, `[session_id: …`,
        `[rmi-agent: …]`) means that the code printed it.
        """
        with failures_as_refusals():
            if (run := self._answered_run(ctx)) is not None:
                return await self._follow(run, ctx)
            async with self._session(session_id) as session:
                execution = session.submit_cell(code, timeout)
            return await self._follow(self._announced(execution), ctx)

    async def read_output(
        self,
        ctx: Context,
        session_id: OpenSession,
        cell: CellNumber = -1,
        offset: Annotated[int, Field(ge=0, description="Characters to skip.")] = 0,
        limit: Annotated[
            int, Field(gt=0, le=200_000, description="Max characters to return.")
        ] = PAGE,
        wait: Annotated[
            float,
            Field(
                ge=0,
                description="Max seconds to wait for an unfinished run; 0 returns at once.",
            ),
        ] = 0,
        picture: Annotated[
            int | None,
            Field(
                ge=1, le=1_000_000, description="Number of a picture in the cell: returns it alone."
            ),
        ] = None,
    ) -> ToolResult:
        """Read a run's full text output in pages, a picture, or wait for an unfinished run.

        Use it when a result was truncated (it gives the offset) and you need what is marked as
        left out, when pictures were left out, or when its status was `running`: returns the
        current status, and the output from `offset` on.
        """
        budget = Budget(limit, self.settings.result_size)
        with failures_as_refusals():
            self._answered_run(ctx)
            execution = self.opening.sessions.execution(session_id, cell, principal())
            if execution is None:
                run = await self.opening.sessions.on_record(session_id, cell, principal())
                if run is None:
                    raise Refusal(
                        f"Session {session_id} has no cell {cell}. Cells are numbered from 1, and"
                        " -1 is the last one; list_sessions shows how many there are."
                    )
                if picture is not None:
                    return await picture_result(run, picture, budget, self._texts)
                return await page_of_run(run, offset, budget, self._texts)
            seconds = min(wait, self.settings.response_deadline)
            if wait and (question := await self._wait(execution, ctx, seconds)):
                return question
            if not execution.task.done():
                return await running_page(execution, offset, budget, self._texts)
            finished(execution)
            run = execution.task.result()
            if picture is not None:
                return await picture_result(run, picture, budget, self._texts)
            return await page_of_run(run, offset, budget, self._texts, execution)

    @contextlib.asynccontextmanager
    async def _session(self, session_id: str | None) -> AsyncIterator[Session]:
        """The session for another run, if its owner may start one.

        Raises:
            Refusal: the owner has too many runs, the session is being resumed, or no kernel is
                ready in time.
            SessionNotFoundError: there is no such session that the caller may see.
            KernelError: there is no kernel for a new session.
        """
        who = principal()
        runs = self._starting[who] + len(self.opening.sessions.unfinished(who))
        if who != LOCAL and runs >= RUNS_PER_USER:
            raise Refusal(
                f"Error: {RUNS_PER_USER} of your runs are running or queued, which is the limit, so"
                " nothing was run. Try again when one has ended: read_output with wait waits for"
                " it, interrupt_session stops it."
            )
        self._starting[who] += 1
        try:
            if session_id:
                session = self.opening.sessions.get(session_id, who)
                resume = self.resuming.by_session.get(session_id)
                if resume is not None and not resume.task.done():
                    raise Refusal(
                        f"Session {session_id} is still being resumed; resume_session(notebook="
                        f"{session_id!r}) waits for it, interrupt_session stops it."
                    )
                yield session
            else:
                async with in_time(
                    self.settings, "No kernel was ready", "Nothing was run; call again."
                ):
                    session = await self.opening.sessions.open(who)
                yield session
        finally:
            self._starting[who] -= 1

    def _announced(self, execution: Execution) -> Execution:
        for callback in self.on_run:
            callback(execution)
        return execution

    def _answered_run(self, ctx: Context) -> Execution | None:
        """Deliver the answer that this call brings, if any; returns the run that asked."""
        before = elicitation_state(ctx)
        if before is None:
            return None
        execution = self.opening.sessions.execution(before.session_id, before.cell, principal())
        if execution is None:
            raise SessionNotFoundError(
                f"Session {before.session_id} ended while cell {before.cell} was waiting for an"
                " answer. Omit session_id to open a new session."
            )
        take_answer(execution, before, ctx)
        return execution

    async def _follow(self, execution: Execution, ctx: Context) -> ToolResult:
        """Wait for a run while sending its output; past the deadline, report it as running."""
        try:
            question = await self._wait(execution, ctx, self.settings.response_deadline)
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
        budget = Budget(self.settings.output_chars, self.settings.result_size)
        return await run_result(execution, budget, self._texts)

    async def _wait(self, execution: Execution, ctx: Context, seconds: float) -> ToolResult | None:
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
