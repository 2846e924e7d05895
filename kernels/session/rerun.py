"""Rerunning a recorded notebook in a fresh session, which then continues from there.

Runs what `notebook/runs_on_record.py` reads. Knows sessions, but not where notebooks are
stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import KernelError, reason
from ..notebook import Difference, Run, differences
from .runs import Execution
from .session import Session


@dataclass(frozen=True)
class Again:
    """A recorded run that was run again.

    Attributes:
        before: the recorded run.
        execution: the run in the new session.
        differences: where the new result differs from the recorded one.
    """

    before: Run
    execution: Execution
    differences: tuple[Difference, ...]


class Resume:
    """Reruns a record in the background, starting at once.

    Args:
        session: a fresh session, not used for anything else until the rerun is over.
        cells: the runs to repeat, in order.
        skip_failed: whether to skip runs that failed.
        timeout: seconds for all runs together.

    Attributes:
        done: the runs repeated so far.
        skipped: the runs that were skipped.
        stopped: why the rerun ended early; empty if it completed or is still in progress.
        task: done when the rerun is over.
    """

    def __init__(
        self, session: Session, cells: Sequence[Run], *, skip_failed: bool, timeout: float
    ) -> None:
        self.session = session
        self.cells: list[Run] = []
        self.skipped: list[Run] = []
        for one in cells:
            left_out = skip_failed and one.status != "ok"
            (self.skipped if left_out else self.cells).append(one)
        self.done: list[Again] = []
        self.stopped = ""
        self._ends, self._timeout = time.monotonic() + timeout, timeout
        self.task = session.supervisor.start(self._run(), "resuming a session")

    @property
    def different(self) -> list[Again]:
        """Repeated runs whose results differ from the record."""
        return [again for again in self.done if again.differences]

    def stop(self, why: str) -> None:
        """Start no further runs; the current run finishes unless it is interrupted separately."""
        if not self.task.done():
            self.stopped = self.stopped or why

    async def _run(self) -> None:
        for before in self.cells:
            left = self._ends - time.monotonic()
            if left <= 0 and not self.stopped:
                self.stopped = f"the time limit of {self._timeout:g} s for all cells was reached"
            if self.stopped:
                return
            try:
                execution = self._submit(before, min(left, self._limit(before)))
                run = await asyncio.shield(execution.task)
            except (KernelError, asyncio.CancelledError) as error:
                self.stopped = self.stopped or str(error) or "its run was removed from the queue"
                return
            except Exception as error:
                self.stopped = self.stopped or f"the server failed: {reason(error)}"
                raise
            found = await asyncio.to_thread(differences, before, run)
            self.done.append(Again(before, execution, tuple(found)))

    def _submit(self, before: Run, limit: float) -> Execution:
        if (program := before.program) is not None:
            return self.session.submit_program(program, limit)
        return self.session.submit_cell(before.cell.source, limit)

    def _limit(self, before: Run) -> float:
        """Time limit of one run in seconds: the default, or more if the recorded run took long."""
        if before.status == "timeout":
            return max(before.elapsed, 1.0)
        return max(self.session.config.timeout, 2 * before.elapsed)
