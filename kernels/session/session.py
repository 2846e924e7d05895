"""A session: one kernel and one notebook; every run adds one cell to both.

Runs are queued in order and proceed in the background: the caller that submitted a run may wait
for it, look at its output so far, or come back later. Knows kernels and notebooks, but nothing
of MCP or of other sessions.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode

from ..addresses import RemoteKernel
from ..errors import KernelError, reason
from ..kernel import Kernel
from ..notebook import Recorder, Run, decoded
from ..protocol import Displays, Reply, Script, State, now
from ..supervision import Supervisor
from ..telemetry import short, traced
from .runs import Execution

if TYPE_CHECKING:
    from ..process import KernelProcess

log = logging.getLogger(__name__)

QUEUE_MOST = 100  # max runs queued in one session
KEEP = 100  # max runs per session whose outputs stay in memory for `read_output`
STDIN_KEPT = 100_000  # max characters of a script's stdin recorded in the notebook, for reruns
KEEP_SIZE = 12_000_000  # max total bytes of outputs of the runs kept in memory


@dataclass(frozen=True)
class Config:
    """Settings shared by all sessions.

    Attributes:
        notebooks: the folder where notebooks are recorded.
        timeout: default time limit of a run, in seconds.
        output_limit: bytes that a cell may output before it is interrupted; 0 means no limit.
        idle: seconds after which an idle session is closed; 0 means never.
        memory_limit: max total resident bytes of a session's processes; 0 means no limit.
        hints: notes to add when code fails, by the name of the exception.
        copy: the name of this copy of the server, if several share the notebooks.
    """

    notebooks: Path
    timeout: float = 30.0
    output_limit: int = 10_000_000
    idle: float = 1800.0
    memory_limit: int = 0
    hints: dict[str, str] = field(default_factory=dict)
    copy: str = ""


@dataclass(frozen=True)
class Handover:
    """A session as another copy of the server left it.

    Attributes:
        turn: how many times the session has been taken over.
        count: the number of its last cell.
        recorder: continues its notebook; None if it has no notebook.
        news: a note about the takeover, for the next result.
        lost: why its variables are gone; empty if they are still there.
    """

    turn: int
    count: int = 0
    recorder: Recorder | None = None
    news: str = ""
    lost: str = ""


class Session:
    """One kernel and one notebook.

    Args:
        lease: provides a fresh kernel; called again when the kernel has died.
        retire: takes a kernel back and ends it.
        became_idle: called whenever the last queued or running run is over.
        supervisor: owns the tasks of the session's runs.
        begun: the session's state, if it is taken over from another copy of the server.
        changed: called with the session whenever a run starts or ends.
    """

    def __init__(
        self,
        session_id: str,
        principal: str,
        config: Config,
        kernel: Kernel | None,
        lease: Callable[[], Awaitable[Kernel]],
        retire: Callable[[Kernel], None],
        became_idle: Callable[[], None] = lambda: None,
        *,
        supervisor: Supervisor,
        begun: Handover | None = None,
        changed: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.config = config
        self.turn = 0 if begun is None else begun.turn
        self.displays: Displays = {}
        self.executions: list[Execution] = []
        self.last_used = time.monotonic()
        self.count = 0 if begun is None else begun.count
        self.closed = False
        self.kernel: Kernel | None = kernel  # None once it has died
        self.supervisor = supervisor
        self._unfinished: dict[int, Execution] = {}  # queued or running, by number
        self._fresh = begun is None
        self._changed = changed
        self._lease, self._retire, self._became_idle = lease, retire, became_idle
        self._queue = asyncio.Lock()
        self._lost = (
            "" if begun is None else begun.lost
        )  # why variables are gone, until a reply has said so
        self._news = "" if begun is None else begun.news  # a note for the next result
        self.recorder = (
            begun.recorder
            if begun is not None and begun.recorder is not None
            else Recorder(
                config.notebooks, notebook_metadata(session_id, principal, kernel), config.copy
            )
        )
        self._signing: asyncio.TimerHandle | None = None

    # -- state

    @property
    def busy(self) -> bool:
        """Whether a run or a restart is in progress or queued."""
        return self.running or self._queue.locked()

    @property
    def running(self) -> bool:
        """Whether a run is in progress or queued."""
        return bool(self._unfinished)

    @property
    def unfinished(self) -> list[Execution]:
        """The current run and the queued ones, in order."""
        return list(self._unfinished.values())

    @property
    def only_files(self) -> bool:
        """Whether only files ran here; such sessions are evicted first."""
        return all(execution.script is not None for execution in self.executions)

    @property
    def is_python(self) -> bool:
        """Whether its kernel can run Python files."""
        return self.kernel is None or self.kernel.is_python

    @property
    def forked(self) -> bool:
        """Whether its kernel was forked from a template."""
        return self.kernel is not None and self.kernel.process.forked

    @property
    def remote(self) -> RemoteKernel | None:
        """The session's kernel on a Jupyter Server; None if its kernel is not on one."""
        return self.kernel.process.remote if self.kernel is not None else None

    @property
    def is_here(self) -> bool:
        """Whether its kernel runs on this machine."""
        return self.kernel is None or self.kernel.process.is_here

    @property
    def idle_for(self) -> float:
        """Seconds since the session was last used; 0 while busy."""
        return 0.0 if self.busy else time.monotonic() - self.last_used

    def memory(self) -> int:
        """Memory of the session's processes in bytes, as counted by `KernelProcess.memory`."""
        return self.kernel.process.memory() if self.kernel is not None else 0

    async def end_kernel(self, process: KernelProcess, why: str) -> None:
        """End the kernel if this is still its process; the current run's result says why."""
        kernel = self.kernel
        if kernel is not None and kernel.process is process and not kernel.killed_since:
            await kernel.kill(why)

    def execution(self, cell: int) -> Execution | None:
        """A run in memory by its number; negative numbers count from the last run."""
        number = cell if cell > 0 else self.count + 1 + cell
        return next((e for e in reversed(self.executions) if e.number == number), None)

    # -- running

    def submit_cell(self, code: str, timeout: float | None = None) -> Execution:
        """Queue a snippet; returns at once. `timeout` is in seconds."""
        return self._submit(code, code, None, timeout)

    def submit_script(self, script: Script, timeout: float | None = None) -> Execution:
        """Queue a file to be run as `__main__`; returns at once."""
        # Lines in a notebook end with \n; those of the file may not.
        source = decoded(script.source).replace("\r\n", "\n").replace("\r", "\n")
        return self._submit(source, script.path.name, script, timeout)

    def _submit(
        self, source: str, title: str, script: Script | None, timeout: float | None
    ) -> Execution:
        if self.closed:
            raise KernelError(f"Session {self.id} is closed.")
        if len(self._unfinished) > QUEUE_MOST:
            raise KernelError(
                f"Nothing was run: {QUEUE_MOST} runs wait in session {self.id} already. Try again"
                " when one has ended (read_output with wait tells when), or call"
                " restart_session to drop them all."
            )
        self.count += 1
        execution = Execution(
            self.id,
            self.count,
            source,
            title,
            displays=self.displays,
            output_limit=self.config.output_limit,
        )
        execution.notebook = self.recorder.path
        execution.script = script
        if script is not None:
            execution.cell.metadata["rmi_agent"] = NotebookNode(
                path=str(script.path),
                sha256=hashlib.sha256(script.source).hexdigest(),
                args=list(script.args),
            )
            if script.stdin:
                execution.cell.metadata["rmi_agent"].stdin = script.stdin[:STDIN_KEPT]
        limit = self.config.timeout if timeout is None else timeout
        self._accept(execution, functools.partial(self._run, execution, limit))
        self._forget_old()
        return execution

    def _accept(self, execution: Execution, work: Callable[[], Awaitable[Run]]) -> None:
        self.executions.append(execution)
        self._unfinished[execution.number] = execution
        execution.task = self.supervisor.start(
            self._in_turn(execution, work), f"cell {execution.number}", KernelError
        )
        execution.task.add_done_callback(lambda _: self._over(execution))

    async def _in_turn(self, execution: Execution, work: Callable[[], Awaitable[Run]]) -> Run:
        """Run `work` once all earlier runs have ended.

        Raises:
            KernelError: no kernel was available, or the server itself failed.
        """
        try:
            async with self._queue:
                return await work()
        except KernelError:
            raise
        except Exception as error:
            log.exception("A run has failed inside the server")
            if execution.finished is not None:
                raise KernelError(
                    f"Cell {execution.number} ran to its end, but the server could not process its"
                    f" result ({reason(error)}). Its variables are kept: print what you need."
                ) from error
            if execution.started is not None:  # the code may still be running on the kernel
                self._lost = "The server had lost track of the kernel."
                self._drop_kernel()
            raise KernelError(
                f"Cell {execution.number} failed inside the server ({reason(error)}). Run it again,"
                " after those that it needs: the session may have a fresh kernel now."
            ) from error

    async def _run(self, execution: Execution, timeout: float) -> Run:
        kernel = await self._living_kernel()
        if execution.script is not None:
            execution.script = replace(execution.script, fresh=self._fresh)
        self._fresh = False
        execution.started = time.monotonic()
        execution.until = time.time() + timeout if timeout else 0.0
        execution.outputs.timing("iopub.execute_input", now())
        self._record_start(execution)
        self._changed(self)
        with traced(self.id, execution.number) as trace:
            reply = await execution.run(kernel, timeout or None)
            execution.finished = time.monotonic()
            run = await self._account(execution, kernel, reply)
            trace.over(
                status=reply.status,
                state=run.state,
                seconds=round(run.elapsed, 3),
                output_bytes=execution.outputs.size,
            )
        return run

    async def _living_kernel(self) -> Kernel:
        kernel = self.kernel
        if kernel is not None and await kernel.alive():
            return kernel
        if kernel is not None:
            why = f"It {kernel.killed_since}." if kernel.killed_since else kernel.process.why_ended
            self._lost = self._lost or f"Its kernel had died since the last run. {why}".rstrip()
            self._drop_kernel()
        return await self._fresh_kernel()

    async def _fresh_kernel(self) -> Kernel:
        kernel = await self._lease()
        if self.closed:  # while waiting for the lease
            self._retire(kernel)
            raise KernelError(f"Session {self.id} is closed.")
        self.kernel = kernel
        return kernel

    def _record_start(self, execution: Execution) -> None:
        self.recorder.start(execution.cell, execution.title)
        for each in self.unfinished:  # the first run creates the notebook
            each.notebook = self.recorder.path

    async def _account(self, execution: Execution, kernel: Kernel | None, reply: Reply) -> Run:
        """Settle the cell, note whether the variables survived, and record it."""
        notes = [self._news] if self._news else []
        self._news = ""
        if self._lost:
            notes.append(
                f"{self._lost} This cell ran in a fresh kernel: earlier variables are gone."
            )
        if reply.steps:
            notes.append(told_steps(reply))
        notes += reply.notes
        if hint := self.config.hints.get(reply.error_name or ""):
            notes.append(hint)
        if reply.state == "lost":
            if reply.status == "dead" and not reply.steps:
                ending = kernel.process.told_end(reply.exit_code) if kernel is not None else ""
                notes.append(f"The kernel died. {ending}".rstrip())
            notes.append("The session goes on with a fresh kernel: all its variables are lost.")
            notes += kernel.process.left_running if kernel is not None else ()
            self._drop_kernel()
        state: State = "lost" if self._lost or reply.state == "lost" else "kept"
        self._lost = ""
        cell = execution.outputs.settle()
        if reply.execution_count is not None:
            cell.execution_count = reply.execution_count
        record = cell.metadata.setdefault("rmi_agent", NotebookNode())
        record.update(
            cell=execution.number,
            status=reply.status,
            state=state,
            elapsed=round(execution.elapsed, 3),
        )
        if reply.error_name:
            record.error_name = reply.error_name
        if execution.script is not None or reply.exit_code is not None:
            record.exit_code = reply.exit_code
        if reply.steps:
            record.steps = list(reply.steps)
        if notes:
            record.notes = notes
        self.recorder.finish(cell, execution.title)
        if changed := {id(output) for output in execution.outputs.elsewhere}:
            await self.recorder.amend(
                earlier.cell
                for earlier in self.executions
                if any(id(output) in changed for output in earlier.cell.outputs)
            )
        problem = self.recorder.problem
        about = (f"This cell was not recorded: {problem}",) if problem else ()
        return Run(cell, self.id, self.recorder.path, about)

    def _over(self, execution: Execution) -> None:
        self._unfinished.pop(execution.number, None)
        self.last_used = time.monotonic()
        if not self.closed:
            self._changed(self)
        if not self.busy and not self.closed:
            self._sign_soon()
            self._became_idle()

    def _forget_old(self) -> None:
        """Drop the oldest runs from memory; the notebook keeps them."""
        size = sum(execution.outputs.size for execution in self.executions)
        while len(self.executions) > 1 and self.executions[0].task.done():
            if len(self.executions) <= KEEP and size <= KEEP_SIZE:
                break
            oldest = self.executions.pop(0)
            size -= oldest.outputs.size
            self._forget(oldest)

    def _forget(self, execution: Execution) -> None:
        gone = {id(output) for output in execution.cell.outputs}
        for name in list(self.displays):
            left = [output for output in self.displays[name] if id(output) not in gone]
            self.displays[name] = left
            if not left:
                del self.displays[name]

    # -- completion and inspection

    async def complete(self, code: str) -> list[str]:
        """Completions of `code`, as from `Kernel.complete`; none while a run is in progress."""
        if self.running or self.kernel is None:
            return []
        async with self._queue:
            self.last_used = time.monotonic()
            return await self.kernel.complete(code) if self.kernel is not None else []

    async def inspect(self, name: str) -> str:
        """What the kernel says about a name, as from `Kernel.inspect`.

        Raises:
            KernelError: a run is in progress, or there is no kernel.
        """
        if self.running:
            raise KernelError(f"Session {self.id} can't be looked into while a run goes on.")
        async with self._queue:
            if self.kernel is None:
                raise KernelError(
                    f"The kernel of session {self.id} has died; run a cell to get a fresh one."
                )
            self.last_used = time.monotonic()
            return await self.kernel.inspect(name)

    # -- interrupt, restart, close

    def interrupt(self, why: str = "interrupted by interrupt_session") -> Execution | None:
        """Stop the current run, or the first queued run if none has started.

        Returns the run; None if there is none, or if it is already ending.
        """
        # The first queued run may not have started yet; the run before it may have just ended.
        not_over = (e for e in self.unfinished if not e.task.done() and e.finished is None)
        execution = next(not_over, None)
        return execution if execution is not None and execution.interrupt(why) else None

    async def restart(self) -> None:
        """Replace the kernel; stops the current run and drops the queued ones.

        Runs submitted from now on use the fresh kernel. Cancelling the caller does not stop the
        restart.

        Raises:
            KernelError: no kernel was available, or the session was closed in the meantime.
        """
        # Queued now, so that it precedes runs submitted while the current run is being stopped.
        restarting = self.supervisor.start(self._restart(), "restarting a session", KernelError)
        await self._stop_all("was stopped, since the session was restarted")
        await asyncio.shield(restarting)

    async def _restart(self) -> None:
        async with self._queue:
            self._drop_kernel()
            await self._fresh_kernel()
            self._fresh, self._lost = False, ""
        self.last_used = time.monotonic()
        self._became_idle()

    async def close(self, why: str = "the session was closed") -> None:
        """End the session and its kernel; the notebook stays."""
        if self.closed:
            return
        self.closed = True
        if self._signing is not None:
            self._signing.cancel()
        try:
            await self._stop_all(f"was stopped, since {why}")
            async with self._queue:  # a completion may still be in progress
                self._drop_kernel()
            await self.recorder.sign()
        finally:
            self._drop_kernel()
            self.recorder.close()

    async def release(self) -> Kernel | None:
        """End the session here; its kernel, returned still running, is left to another copy."""
        self.closed = True
        if self._signing is not None:
            self._signing.cancel()
        open_runs = self.unfinished
        for execution in reversed(open_runs):
            execution.handed_over = True
            execution.task.cancel()
        if open_runs:
            await asyncio.wait({execution.task for execution in open_runs})
        kernel, self.kernel = self.kernel, None
        self.recorder.close()
        return kernel

    def adopt(
        self, execution: Execution, end: Callable[[], Awaitable[tuple[Reply, Kernel | None]]]
    ) -> None:
        """Continue a run started in another copy; `end` waits for its reply and its kernel."""
        self._accept(execution, functools.partial(self._see_the_end, execution, end))

    async def _see_the_end(
        self, execution: Execution, end: Callable[[], Awaitable[tuple[Reply, Kernel | None]]]
    ) -> Run:
        execution.started = time.monotonic()
        self._record_start(execution)
        reply, kernel = await end()
        execution.finished = time.monotonic()
        self.kernel = kernel or self.kernel
        return await self._account(execution, self.kernel, reply)

    async def _stop_all(self, why: str) -> None:
        open_runs = self.unfinished
        for execution in reversed(open_runs):  # queued runs first, so that none starts meanwhile
            execution.interrupt(why)
        if open_runs:
            await asyncio.wait({e.task for e in open_runs})

    def _drop_kernel(self) -> None:
        if self.kernel is not None:
            self._retire(self.kernel)
            self.kernel = None

    def _sign_soon(self) -> None:
        """Sign once the session has been quiet for 2 s: signing reads the whole notebook."""
        if self._signing is not None:
            self._signing.cancel()
        self._signing = asyncio.get_running_loop().call_later(2.0, self._sign)

    def _sign(self) -> None:
        self.supervisor.start(self.recorder.sign(), "signing a notebook")


def told_steps(reply: Reply) -> str:
    """The steps taken to stop a run, as a sentence."""
    reason, *acts = reply.steps
    kept = "its variables are kept" if reply.state == "kept" else ""
    return f"The run {reason}: it was {', then '.join(acts)}{'; ' + kept if kept else ''}."


def notebook_metadata(session_id: str, principal: str, kernel: Kernel | None) -> dict[str, Any]:
    """Metadata of a new notebook; has only the id's first part, since the full id grants access."""
    mine = {"rmi_agent": {"session": short(session_id), "principal": principal}}
    if kernel is None:
        return {"language_info": {"name": "python"}, **mine}
    return {
        "kernelspec": kernel.process.spec_metadata(),
        "language_info": kernel.info.get("language_info", {"name": "python"}),
        **mine,
    }
