"""Cells that run one after the other in a session, in the background.

A recorded notebook that is rerun, or a notebook that is run: what they have in common. Knows
sessions and their runs, not where the cells come from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..errors import KernelError, reason
from ..notebook import Run
from .runs import Execution
from .session import Session


class Series:
    """Runs cells in order, starting at once; `_work` of a subclass says which.

    The session counts as busy until the series is over.

    Args:
        session: where the cells run; it should run nothing else in the meantime.
        timeout: seconds for all cells together.
        doing: what the series is, for messages and the log: "resuming x.ipynb".

    Attributes:
        first: the number in the session of its first cell.
        current: the cell that runs, or the last one that did.
        stopped: why the series ended early; empty if it completed or is still in progress.
        timed_out: whether that was for the time limit.
        task: done when the series is over.
    """

    def __init__(self, session: Session, timeout: float, doing: str) -> None:
        self.session, self.doing = session, doing
        self.first = session.count + 1
        self.current: Execution | None = None
        self.stopped, self.timed_out = "", False
        self._began, self._timeout = time.monotonic(), timeout
        self._ended: float | None = None
        session.series = self
        self.task = session.supervisor.start(self._whole(), doing)
        self.task.add_done_callback(self._over)

    @property
    def done(self) -> int:
        """Number of cells that have run."""
        raise NotImplementedError

    @property
    def total(self) -> int:
        """Number of cells to run."""
        raise NotImplementedError

    @property
    def elapsed(self) -> float:
        """Seconds since it began, until its end."""
        return (self._ended or time.monotonic()) - self._began

    def _over(self, _: asyncio.Task[None]) -> None:
        self._ended = time.monotonic()
        self.session.series_over()

    def stop(self, why: str) -> None:
        """Start no further cells; the current cell finishes unless it is interrupted separately."""
        if not self.task.done():
            self.stopped = self.stopped or why

    async def _work(self) -> None:
        """Run the cells by `_one`, until it returns None."""
        raise NotImplementedError

    async def _whole(self) -> None:
        try:
            await self._work()
        except KernelError as error:
            self.stop(str(error))
        except Exception as error:
            self.stopped = self.stopped or f"the server failed: {reason(error)}"
            raise

    async def _one(self, submit: Callable[[float], Execution]) -> Run | None:
        """Run one cell to its end; None if it was not run, since the series is to end.

        Args:
            submit: queues the cell, given the seconds that are left for it.
        """
        left = self._began + self._timeout - time.monotonic()
        if left <= 0:
            self.timed_out = not self.stopped
            self.stop(f"the time limit of {self._timeout:g} s for all cells was reached")
        if self.stopped:
            return None
        try:
            self.current = submit(left)
            return await asyncio.shield(self.current.task)
        except (KernelError, asyncio.CancelledError) as error:
            self.stop(str(error) or "its run was removed from the queue")
            return None
