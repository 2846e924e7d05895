"""Accepts a session's runs, and takes each through the session's kernel to its record.

Knows one session; not how runs wait for their turn, nor where kernels come from.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..kernel import Kernel
from ..notebook import Run
from ..protocol import Program, Reply, now
from ..telemetry import traced
from .checkpoints import Wish
from .config import Failed
from .port_notices import PortNotices
from .record import Record
from .runs import Execution, NotebookCell
from .session_kernel import SessionKernel

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)


class Runner:
    """Runs the cells of one session.

    Args:
        session: the session.
        kernel: its kernel.
        record: gets each finished run.
        count: the number of its last run.
        became_busy: called whenever a run is accepted.

    Attributes:
        count: the number of its last run.
    """

    def __init__(
        self,
        session: Session,
        kernel: SessionKernel,
        record: Record,
        count: int,
        became_busy: Callable[[], None],
    ) -> None:
        self._session, self._kernel, self._record = session, kernel, record
        self.count, self._became_busy = count, became_busy
        self._ports = PortNotices()

    def submit(
        self,
        source: str,
        program: Program | None,
        timeout: float | None,
        of: NotebookCell | None = None,
        *,
        background: bool = False,
        checkpoint: Wish = "",
    ) -> Execution:
        """Queue a run, as `Session.submit_cell` and `Session.submit_program` say.

        Raises:
            KernelError: the session is closed or its queue full, or its kernel runs no programs.
        """
        session = self._session
        if program is not None and session.joined is not None:
            raise KernelError(
                f"Nothing was run: session {session.id} is on a kernel that a person has open,"
                " where no program is set up to run files. Use run_cell with %run PATH there (its"
                " variables stay in that kernel), or omit session_id for a session of your own."
            )
        if session.closed:
            raise KernelError(f"Session {session.id} is closed.")
        execution = Execution(
            session.id,
            self.count + 1,
            source,
            session.recorder,
            displays=session.runs.displays,
            output_limit=session.config.output_limit,
            program=program,
            of=of,
            background=background,
        )
        limit = session.config.timeout if timeout is None else timeout
        session.runs.add(execution, functools.partial(self._run, execution, limit, checkpoint))
        self.count += 1
        self._became_busy()
        return execution

    def adopt(
        self, execution: Execution, end: Callable[[], Awaitable[tuple[Reply, Kernel | None]]]
    ) -> None:
        """Continue a run started in another instance, as `Session.adopt` says."""

        async def follow() -> Run:
            execution.started = time.monotonic()
            self._session.recorder.start(execution.cell, execution.title)
            reply, kernel = await end()
            self._kernel.current = kernel or self._kernel.current
            return await self._finish(execution, reply)

        self._session.runs.add(execution, follow)
        self._became_busy()

    async def _run(self, execution: Execution, timeout: float, checkpoint: Wish) -> Run:
        session = self._session
        kernel = await self._kernel.living()
        await session.checkpoints.keep_if(checkpoint, kernel, execution.number)
        if execution.program is not None:
            execution.program = replace(execution.program, fresh=self._kernel.is_fresh)
        self._kernel.is_fresh = False
        execution.begin()
        execution.until = time.time() + timeout if timeout else 0.0
        execution.outputs.timing("iopub.execute_input", now())
        session.recorder.start(execution.cell, execution.title)
        session.on_change(session)
        with traced(session.id, execution.number) as trace:
            reply = await execution.run(kernel, timeout or None)
            run = await self._finish(execution, reply)
            trace.over(
                status=reply.status,
                state=run.state,
                seconds=round(run.elapsed, 3),
                output_bytes=execution.outputs.size,
            )
        return run

    async def _finish(self, execution: Execution, reply: Reply) -> Run:
        """Record a run that is over, with what the caller should know of its end."""
        session, kernel = self._session, self._kernel.current
        execution.finished = time.monotonic()
        process = kernel.process if kernel is not None else None
        timed_out = reply.status == "timeout"
        ports = await self._ports.notice(execution, kernel, timed_out=timed_out)
        reply = replace(reply, notices=(*reply.notices, *ports))
        if reply.state == "kept":
            session.recovery.run_ended()
        elif (reply := await session.recovery.after_death(execution, reply)).state == "lost":
            self._kernel.drop()
            reply = replace(reply, notices=(*reply.notices, *session.checkpoints.offered()))
        if reply.status == "error" and reply.failures:
            hint = await self._hint(execution, reply)
            reply = replace(reply, notices=(*reply.notices, *hint))
        return await self._record.finish(execution, reply, process, session.runs.executions)

    async def _hint(self, execution: Execution, reply: Reply) -> list[str]:
        """What the caller should know of the cause of a failure, as a sentence or none."""
        session, program = self._session, execution.program
        failed = Failed(
            session.id,
            session.principal,
            program is not None,
            reply.failures,
            session.environment,
            session.runs.folder if program is None else program.folder,
        )
        try:
            hint = await session.config.hint(failed)
        except Exception:  # the result must not be lost for a hint
            log.exception("Finding a hint failed")
            return []
        return [hint] if hint else []
