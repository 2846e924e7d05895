"""A session: one kernel and one notebook; every run adds one cell to both.

Runs are queued in order and proceed in the background: the caller that submitted a run may wait
for it, look at its output so far, or come back later. Knows nothing of MCP or of other sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..addresses import PersonsKernel, RemoteKernel
from ..environments import Environment
from ..errors import KernelError
from ..kernel import Kernel
from ..notebook import Recorder, Run, Signer, set_title
from ..process_tree import Listener
from ..protocol import Program, Reply, now
from ..supervision import Supervisor
from ..telemetry import traced
from .checkpoints import Checkpoints, Wish
from .config import Config, Failed, Handover
from .crash_recovery import AFTER_LAST_RUN, FRESH, CrashRecovery
from .pool import Pool
from .port_notices import PortNotices
from .record import Record, notebook_metadata
from .runs import Execution, NotebookCell, RunQueue
from .sleeping_copy import end_soon

if TYPE_CHECKING:
    from .series import Series

log = logging.getLogger(__name__)


class Session:
    """One kernel and one notebook.

    Args:
        pool: provides a fresh kernel when the session's has died, and takes kernels back.
        supervisor: owns the tasks of the session's runs.
        signer: signs its notebook.
        became_busy: called whenever a run is accepted.
        became_idle: called with the principal whenever the last accepted run is over.
        handover: the session's state, if it is taken over from another instance of the server, or
            begins as a copy of another session.
        environment: what its kernels run in; None is the default one.
        joined: the person's kernel that it is on; None if its kernels are its own.

    Attributes:
        kernel: its kernel; None once that has died.
        runs: its runs that are queued, running or still in memory.
        count: the number of its last run.
        checkpoints: the copies of its kernel to which it can step back.
        recovery: goes on with a copy when the kernel has died, if that is wanted.
        series: the cells that run, or ran last, one after the other; None if none did.
        on_change: called with the session whenever a run starts or ends.
    """

    def __init__(
        self,
        session_id: str,
        principal: str,
        kernel: Kernel | None,
        config: Config,
        pool: Pool,
        supervisor: Supervisor,
        signer: Signer,
        became_busy: Callable[[], None],
        became_idle: Callable[[str], None],
        handover: Handover | None = None,
        environment: Environment | None = None,
        joined: PersonsKernel | None = None,
    ) -> None:
        self.joined = joined
        self.id, self.principal, self.config = session_id, principal, config
        self.kernel, self.supervisor, self.environment = kernel, supervisor, environment
        self.runs = RunQueue(supervisor, self._over, self._lose_track)
        self.on_change: Callable[[Session], None] = lambda _: None
        self.checkpoints = Checkpoints(pool.tasks)
        self.recovery = CrashRecovery(self, pool.tasks)
        self.series: Series | None = None
        self._ports = PortNotices()
        self.last_used = time.monotonic()
        self.closed = False
        self._pool, self._became_busy, self._became_idle = pool, became_busy, became_idle
        before = handover or Handover(fresh=True)
        self._fresh = before.fresh
        self.turn, self.count = before.turn, before.count
        self.recorder = before.recorder or Recorder(
            config.notebooks,
            notebook_metadata(session_id, principal, kernel, environment),
            config.instance,
        )
        self._record = Record(self.recorder, signer)
        self._record.lost, self._record.note = before.lost, before.note
        self._has_new_title = False

    @property
    def running(self) -> bool:
        """Whether a run is in progress or queued."""
        return bool(self.runs.unfinished)

    @property
    def busy(self) -> bool:
        """Whether a run, a restart or a series of runs is in progress or queued."""
        return self.running or self.runs.turn.locked() or self.in_series

    @property
    def in_series(self) -> bool:
        """Whether a series of cells is in progress."""
        return self.series is not None and not self.series.task.done()

    @property
    def background(self) -> Execution | None:
        """The program that runs in the background, if there is one."""
        return next((each for each in self.runs.unfinished if each.in_background), None)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has run on its first kernel."""
        return self._fresh

    @property
    def idle_for(self) -> float:
        """Seconds since the session was last used; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self.last_used

    @property
    def notebook(self) -> Path | None:
        """Where the session is recorded; None until something has run."""
        return self.recorder.path

    @property
    def remote(self) -> RemoteKernel | None:
        """The session's kernel on a Jupyter Server; None if its kernel is not on one."""
        return self.kernel.process.remote if self.kernel is not None else None

    # -- running

    def submit_cell(
        self,
        code: str,
        timeout: float | None = None,
        of: NotebookCell | None = None,
        *,
        checkpoint: Wish = "",
    ) -> Execution:
        """Queue a snippet, maybe `of` an existing notebook; returns at once.

        `timeout` is in seconds. If a `checkpoint` is needed and can't be kept, it does not run.
        """
        return self._submit(code, None, timeout, of, checkpoint=checkpoint)

    def submit_program(
        self, program: Program, timeout: float | None = None, *, background: bool = False
    ) -> Execution:
        """Queue a file or module to be run as `__main__`; returns at once.

        In the `background` it goes on whatever it outputs; a `timeout` of 0 means no limit.
        """
        if self.joined is not None:
            raise KernelError(
                f"Nothing was run: session {self.id} is on a kernel that a person has open, where"
                " no program is set up to run files. Use run_cell with %run PATH there (its"
                " variables stay in that kernel), or omit session_id for a session of your own."
            )
        return self._submit(program.code, program, timeout, background=background)

    def _submit(
        self,
        source: str,
        program: Program | None,
        timeout: float | None,
        of: NotebookCell | None = None,
        background: bool = False,
        checkpoint: Wish = "",
    ) -> Execution:
        if self.closed:
            raise KernelError(f"Session {self.id} is closed.")
        execution = Execution(
            self.id,
            self.count + 1,
            source,
            self.recorder,
            displays=self.runs.displays,
            output_limit=self.config.output_limit,
            program=program,
            of=of,
            background=background,
        )
        limit = self.config.timeout if timeout is None else timeout
        self.runs.add(execution, functools.partial(self._run, execution, limit, checkpoint))
        self.count += 1
        self._became_busy()
        return execution

    def adopt(
        self, execution: Execution, end: Callable[[], Awaitable[tuple[Reply, Kernel | None]]]
    ) -> None:
        """Continue a run started in another instance.

        Args:
            execution: the run.
            end: waits for the run's end; returns its reply, and its kernel if that is alive.
        """

        async def follow() -> Run:
            execution.started = time.monotonic()
            self.recorder.start(execution.cell, execution.title)
            reply, kernel = await end()
            self.kernel = kernel or self.kernel
            return await self._account(execution, reply)

        self.runs.add(execution, follow)
        self._became_busy()

    async def _run(self, execution: Execution, timeout: float, checkpoint: Wish) -> Run:
        kernel = await self._living_kernel()
        await self.checkpoints.keep_if(checkpoint, kernel, execution.number)
        if execution.program is not None:
            execution.program = replace(execution.program, fresh=self._fresh)
        self._fresh = False
        execution.begin()
        execution.until = time.time() + timeout if timeout else 0.0
        execution.outputs.timing("iopub.execute_input", now())
        self.recorder.start(execution.cell, execution.title)
        self.on_change(self)
        with traced(self.id, execution.number) as trace:
            reply = await execution.run(kernel, timeout or None)
            run = await self._account(execution, reply)
            trace.over(
                status=reply.status,
                state=run.state,
                seconds=round(run.elapsed, 3),
                output_bytes=execution.outputs.size,
            )
        return run

    async def _account(self, execution: Execution, reply: Reply) -> Run:
        execution.finished = time.monotonic()
        process = self.kernel.process if self.kernel is not None else None
        timed_out = reply.status == "timeout"
        ports = await self._ports.notice(execution, self.kernel, timed_out=timed_out)
        reply = replace(reply, notices=(*reply.notices, *ports))
        if reply.state == "kept":
            self.recovery.run_ended()
        elif (reply := await self.recovery.after_death(execution, reply)).state == "lost":
            self._drop_kernel()
            reply = replace(reply, notices=(*reply.notices, *self.checkpoints.offered()))
        if reply.status == "error" and reply.failures:
            program = execution.program
            failed = Failed(
                self.id,
                self.principal,
                program is not None,
                reply.failures,
                self.environment,
                self.runs.folder if program is None else program.folder,
            )
            reply = replace(reply, notices=(*reply.notices, *await self._hint(failed)))
        return await self._record.finish(execution, reply, process, self.runs.executions)

    async def _hint(self, failed: Failed) -> list[str]:
        try:
            hint = await self.config.hint(failed)
        except Exception:  # the result must not be lost for a hint
            log.exception("Finding a hint failed")
            return []
        return [hint] if hint else []

    def _over(self) -> None:
        self._used()
        if self.closed:
            return
        self.on_change(self)
        if not self.busy:
            self.recovery.copy_soon()
            self._record.sign_soon()
            self._became_idle(self.principal)

    def tell_idle(self) -> None:
        """Note that it has been used, and that whatever else had held it is over."""
        self._used()
        if not self.busy and not self.closed:
            self._record.sign_soon()
            self._became_idle(self.principal)

    def series_over(self) -> None:
        """Note that a series has ended, so that the session may be idle."""
        if not self.running:
            self._over()

    # -- its kernel

    def _lose_track(self) -> None:
        self._record.lost = "The server had lost track of the kernel."
        self._drop_kernel()

    async def _living_kernel(self) -> Kernel:
        kernel = self.kernel
        if kernel is not None and await kernel.alive():
            return kernel
        if kernel is not None:
            why = f"It {kernel.killed_since}." if kernel.killed_since else kernel.process.why_ended
            why = f"Its kernel had died since the last run. {why}".rstrip()
            if (copy := await self.recovery.take_over()) is not None:
                self._record.note = f"{why} {AFTER_LAST_RUN}"
                return copy
            self._record.lost = self._record.lost or why
            self._drop_kernel()
        return await self._fresh_kernel()

    async def take_kernel(self, kernel: Kernel) -> None:
        """Go on with another kernel, in place of the session's, which ends without exit handlers.

        Raises:
            KernelError: the session has been closed.
        """
        old = self.kernel
        if self.closed or old is None or not self._pool.replace(old, kernel):
            end_soon(kernel, self._pool.tasks)
            raise KernelError(f"Session {self.id} is closed.")
        self.kernel, self._record.lost, self._fresh = kernel, "", False
        self.recovery.copy_soon()  # a copy from before is of another kernel
        await old.close(graceful=False)

    async def ensure_kernel(self) -> None:
        """Get a fresh kernel if there is none.

        Raises:
            KernelError: no kernel was available, or the session has been closed.
        """
        if self.kernel is None:
            await self._fresh_kernel()

    async def _fresh_kernel(self) -> Kernel:
        if self.joined is not None:
            why = self._record.lost or "Its kernel is gone."
            raise KernelError(
                f"Nothing was run: session {self.id} was on a kernel that a person had open"
                f" ({self.joined}). {why} attach_session joins it again if it still runs."
            )
        kernel = await self._pool.lease(self.principal, environment=self.environment)
        if self.closed:  # while waiting for the lease
            self._pool.retire(kernel)
            raise KernelError(f"Session {self.id} is closed.")
        self.recovery.forget(FRESH)
        self.kernel = kernel
        return kernel

    async def listeners(self) -> list[Listener]:
        """The ports that processes of the session listen on, as far as is known."""
        return await self.kernel.listeners() if self.kernel is not None else []

    def _drop_kernel(self) -> None:
        if self.kernel is not None:
            self._pool.retire(self.kernel)
            self.kernel = None

    async def complete(self, code: str) -> list[str]:
        """Completions of `code`, as from `Kernel.complete`; none while a run is in progress."""
        if self.running or self.kernel is None:
            return []
        async with self._looked_into():
            return await self.kernel.complete(code) if self.kernel is not None else []

    async def inspect(self, name: str) -> str:
        """What the kernel says about a name, as from `Kernel.inspect`.

        Raises:
            KernelError: a run is in progress, or there is no kernel.
        """
        if self.running:
            raise KernelError(
                f"Session {self.id} can't be inspected while a run is in progress; wait for its"
                " end, or call interrupt_session."
            )
        async with self._looked_into():
            if self.kernel is None:
                raise KernelError(
                    f"The kernel of session {self.id} has died; run a cell to get a fresh one."
                )
            return await self.kernel.inspect(name)

    @contextlib.asynccontextmanager
    async def _looked_into(self) -> AsyncIterator[None]:
        """Keep runs from starting; a copy from before is dropped, since a look may run code."""
        async with self.runs.turn:
            self._used()
            self.recovery.run_ended()
            yield
        self.recovery.copy_soon()

    async def connection_file(self) -> Path:
        """A Jupyter connection file with which other clients join the session's kernel.

        Raises:
            KernelError: there is no kernel, or others can't connect to it.
        """
        if self.kernel is None or not await self.kernel.alive():
            raise KernelError(
                f"The kernel of session {self.id} has died; run a cell to get a fresh one."
            )
        return await self.kernel.process.connection_file(self._used_by_others)

    def _used_by_others(self) -> None:
        self._used()
        self.recovery.forget("Another client of Jupyter has used the kernel since.")

    def _used(self) -> None:
        self.last_used = time.monotonic()

    @property
    def copies(self) -> list[Kernel]:
        """The sleeping copies of its kernel, the newest last."""
        last = self.recovery.copy
        return [*self.checkpoints.kernels, *([] if last is None else [last])]

    def drop_copies(self, but: int = 0) -> None:
        """End the sleeping copies `but` the newest ones, and so free their memory."""
        self.checkpoints.drop(max(0, but - (self.recovery.copy is not None)))
        if not but:
            self.recovery.forget("It was dropped to free memory.")

    # -- its title

    @property
    def title(self) -> str:
        """What the session was named; may be empty."""
        return str(self.recorder.metadata.get("rmi_agent", {}).get("title", ""))

    def set_title(self, title: str) -> None:
        """Name the session in the metadata of its notebook; written when it closes or is asked to.

        An empty title is removed.
        """
        set_title(self.recorder.metadata, title)
        self._has_new_title = True

    async def write_title(self) -> None:
        """Write the title once no cell runs."""
        async with self.runs.turn:
            await self._write_title()

    async def _write_title(self) -> None:
        if self._has_new_title:
            self._has_new_title = False
            await self.recorder.amend((), head=True)

    # -- interrupt, restart, close

    def _stop_series(self, why: str) -> None:
        if self.series is not None:
            self.series.stop(why)

    def interrupt(self, why: str = "interrupted by interrupt_session") -> Execution | None:
        """Stop the current run, or the first queued run if none has started.

        Returns the run; None if there is none, or if it is already ending.
        """
        self._stop_series("interrupt_session was called")
        # The first queued run may not have started yet; the run before it may have just ended.
        not_over = (e for e in self.runs.unfinished if not e.task.done() and e.finished is None)
        execution = next(not_over, None)
        return execution if execution is not None and execution.interrupt(why) else None

    async def restart(self) -> None:
        """Replace the kernel; stops the current run and drops the queued ones.

        Runs submitted from now on use the fresh kernel. Cancelling the caller does not stop the
        restart.

        Raises:
            KernelError: no kernel was available, or the session was closed in the meantime.
        """
        if self.joined is not None:
            raise KernelError(
                f"Session {self.id} is on a kernel that a person has open, so only that person can"
                " restart it, where it was opened. close_session leaves it as it is; omit"
                " session_id for a session of your own."
            )

        async def replace_kernel() -> None:
            async with self.runs.turn:
                self.drop_copies()
                self._drop_kernel()
                await self._fresh_kernel()
                self._fresh, self._record.lost = False, ""
            self._used()
            self._became_idle(self.principal)

        self._stop_series("the session was restarted")
        # Queued now, so that it precedes runs submitted while the current run is being stopped.
        restarting = self.supervisor.start(replace_kernel(), "restarting a session", KernelError)
        await self.runs.stop_all(
            lambda run: run.interrupt("was stopped, since the session was restarted")
        )
        await asyncio.shield(restarting)

    async def close(self, why: str = "the session was closed") -> None:
        """End the session and its kernel; the notebook stays."""
        if self.closed:
            return
        self.closed = True
        self._stop_series(why)
        self.drop_copies()
        try:
            await self.runs.stop_all(lambda run: run.interrupt(f"was stopped, since {why}"))
            async with self.runs.turn:  # a completion may still be in progress
                self._drop_kernel()
                await self._write_title()
            self._record.sign()
        finally:
            self._drop_kernel()
            self.drop_copies()  # that it got while it waited for its turn
            self.recorder.close()

    async def release(self) -> Kernel | None:
        """End the session here; its kernel, still running, is returned for another instance."""

        def hand_over(execution: Execution) -> None:
            execution.handed_over = True
            execution.task.cancel()

        self.closed = True
        self._stop_series("the session moved to another server")
        self.drop_copies()
        self._record.cancel_signing()
        await self.runs.stop_all(hand_over)
        kernel, self.kernel = self.kernel, None
        self.recorder.close()
        return kernel
