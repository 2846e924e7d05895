"""A recorded notebook run again in a fresh session, which then goes on from there.

Runs what `replay.py` reads and lets it compare. Knows sessions; nothing of where notebooks lie.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import KernelError, reason
from ..notebook import Difference, Recorded, differences
from .execution import Execution
from .session import Session


@dataclass(frozen=True)
class Again:
    """One recorded run that ran again.

    Attributes:
        before: the record.
        execution: the run in the new session.
        differences: what it gave otherwise.
    """

    before: Recorded
    execution: Execution
    differences: tuple[Difference, ...]


class Resume:
    """The way through a record; it begins at once, and goes on by itself.

    Args:
        session: a fresh one, for nothing else until this is over.
        cells: what is to run, in order.
        skip_failed: leave out those that had failed.
        timeout: seconds for all of them together.

    Attributes:
        done: those that have run.
        skipped: those that were left out.
        stopped: why it did not come to its end; empty if it did, or still goes on.
        task: is done when it is over.
    """

    def __init__(
        self, session: Session, cells: Sequence[Recorded], *, skip_failed: bool, timeout: float
    ) -> None:
        self.session = session
        self.cells: list[Recorded] = []
        self.skipped: list[Recorded] = []
        for one in cells:
            left_out = skip_failed and one.status != "ok"
            (self.skipped if left_out else self.cells).append(one)
        self.done: list[Again] = []
        self.stopped = ""
        self._ends, self._timeout = time.monotonic() + timeout, timeout
        self.task = session.supervisor.start(self._run(), "resuming a session")

    @property
    def different(self) -> list[Again]:
        """Those that gave something else than the record has."""
        return [again for again in self.done if again.differences]

    def stop(self, why: str) -> None:
        """Run no more of it; what runs now is left to its end, unless it is interrupted, too."""
        if not self.task.done():
            self.stopped = self.stopped or why

    async def _run(self) -> None:
        for before in self.cells:
            left = self._ends - time.monotonic()
            if left <= 0 and not self.stopped:
                self.stopped = f"the {self._timeout:g} s for all of it were over"
            if self.stopped:
                return
            try:
                execution = self._submit(before, min(left, self._limit(before)))
                run = await asyncio.shield(execution.task)
            except (KernelError, asyncio.CancelledError) as error:
                self.stopped = self.stopped or str(error) or "its run was taken out of the queue"
                return
            except Exception as error:
                self.stopped = self.stopped or f"the server failed: {reason(error)}"
                raise
            found = await asyncio.to_thread(
                differences, before.cell, run.cell, before.status, run.status
            )
            self.done.append(Again(before, execution, tuple(found)))

    def _submit(self, before: Recorded, limit: float) -> Execution:
        if before.script is not None:
            return self.session.submit_script(before.script, limit)
        return self.session.submit_cell(before.cell.source, limit)

    def _limit(self, before: Recorded) -> float:
        """Seconds for one run: those of any, or more where the record says that it took more."""
        if before.status == "timeout":
            return max(before.elapsed, 1.0)
        return max(self.session.config.timeout, 2 * before.elapsed)
