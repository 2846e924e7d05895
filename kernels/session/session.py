"""A session: one kernel and one notebook; every run adds one cell to both.

Runs are queued in order and proceed in the background: the caller that submitted a run may wait
for it, look at its output so far, or come back later. Knows nothing of MCP or of other sessions;
what happens when a run's turn has come is known in `runner.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..addresses import PersonsKernel, RemoteKernel
from ..environments import Environment
from ..errors import KernelError
from ..kernel import Kernel
from ..notebook import Recorder, Signer
from ..process_tree import Listener
from ..protocol import Program, Reply
from ..supervision import Supervisor
from . import introspection
from .checkpoints import Checkpoints, Wish
from .config import Config, Handover
from .crash_recovery import CrashRecovery
from .pool import Pool
from .record import Record, notebook_metadata
from .runner import Runner
from .runs import Execution, NotebookCell, RunQueue
from .session_kernel import SessionKernel

if TYPE_CHECKING:
    from .series import Series


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
        runs: its runs that are queued, running or still in memory.
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
        self.id, self.principal, self.config = session_id, principal, config
        self.supervisor, self.environment, self.joined = supervisor, environment, joined
        self.on_change: Callable[[Session], None] = lambda _: None
        self.series: Series | None = None
        self.last_used = time.monotonic()
        self.closed = False
        self._became_idle = became_idle
        before = handover or Handover(fresh=True)
        self.turn = before.turn
        self.recorder = before.recorder or Recorder(
            config.notebooks,
            notebook_metadata(session_id, principal, kernel, environment),
            config.instance,
        )
        self._record = Record(self.recorder, signer)
        self._record.lost, self._record.note = before.lost, before.note
        self._kernel = SessionKernel(self, pool, self._record, kernel, is_fresh=before.fresh)
        self.checkpoints = Checkpoints(pool.tasks)
        self.recovery = CrashRecovery(self, pool.tasks)
        self.runs = RunQueue(supervisor, self._over, self._kernel.lose_track)
        self._runner = Runner(self, self._kernel, self._record, before.count, became_busy)

    @property
    def kernel(self) -> Kernel | None:
        """Its kernel; None once that has died."""
        return self._kernel.current

    @property
    def count(self) -> int:
        """The number of its last run."""
        return self._runner.count

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
        return self._kernel.is_fresh

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
        return self._runner.submit(code, None, timeout, of, checkpoint=checkpoint)

    def submit_program(
        self, program: Program, timeout: float | None = None, *, background: bool = False
    ) -> Execution:
        """Queue a file or module to be run as `__main__`; returns at once.

        In the `background` it goes on whatever it outputs; a `timeout` of 0 means no limit.
        """
        return self._runner.submit(program.code, program, timeout, background=background)

    def adopt(
        self, execution: Execution, end: Callable[[], Awaitable[tuple[Reply, Kernel | None]]]
    ) -> None:
        """Continue a run started in another instance.

        Args:
            execution: the run.
            end: waits for the run's end; returns its reply, and its kernel if that is alive.
        """
        self._runner.adopt(execution, end)

    def _over(self) -> None:
        self.note_use()
        if self.closed:
            return
        self.on_change(self)
        if not self.busy:
            self.recovery.copy_soon()
            self._record.sign_soon()
            self._became_idle(self.principal)

    def tell_idle(self) -> None:
        """Note that it has been used, and that whatever else had held it is over."""
        self.note_use()
        if not self.busy and not self.closed:
            self._record.sign_soon()
            self._became_idle(self.principal)

    def series_over(self) -> None:
        """Note that a series has ended, so that the session may be idle."""
        if not self.running:
            self._over()

    def note_use(self) -> None:
        """Note that it has been used."""
        self.last_used = time.monotonic()

    # -- its kernel

    async def take_kernel(self, kernel: Kernel) -> None:
        """Go on with another kernel, as `SessionKernel.take` does."""
        await self._kernel.take(kernel)

    async def ensure_kernel(self) -> None:
        """Get a fresh kernel if there is none, as `SessionKernel.ensure` does."""
        await self._kernel.ensure()

    async def listeners(self) -> list[Listener]:
        """The ports that processes of the session listen on, as far as is known."""
        return await self.kernel.listeners() if self.kernel is not None else []

    async def complete(self, code: str) -> list[str]:
        """Completions of `code`, as from `Kernel.complete`; none while a run is in progress."""
        return await introspection.complete(self, code)

    async def inspect(self, name: str) -> str:
        """What the kernel says about a name; errors are those of `introspection.inspect`."""
        return await introspection.inspect(self, name)

    async def connection_file(self) -> Path:
        """A file with which other clients join its kernel; see `SessionKernel.connection_file`."""
        return await self._kernel.connection_file()

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
        return self._record.title

    def set_title(self, title: str) -> None:
        """Name the session, as `Record.set_title` does."""
        self._record.set_title(title)

    async def write_title(self) -> None:
        """Write the title once no cell runs."""
        async with self.runs.turn:
            await self._record.write_title()
        if self.recovery.copy is None:
            self.recovery.copy_soon()
        self.tell_idle()  # a run that ended meanwhile found the session busy

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
                await self._kernel.renew()
            self.note_use()
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
                self._kernel.drop()
                await self._record.write_title()
            self._record.sign()
        finally:
            self._kernel.drop()
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
        kernel = self._kernel.hand_over()
        self.recorder.close()
        return kernel
