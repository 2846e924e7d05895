"""A run that was accepted: one cell on its way through a kernel.

The caller may wait for the run, look at its output so far, or stop it. Knows a cell and the
kernel that runs it; the session decides when it runs.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Literal

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from ..kernel import Kernel
from ..notebook import Run
from ..protocol import Displays, Outputs, Question, Reply, Script


class Execution:
    """An accepted run: queued, running, or over (`task` is done).

    Args:
        session_id: the id of its session.
        number: its place in the session, from 1.
        source: its code; ignored if `cell` is given.
        title: names the notebook, if this run is the first in it.
        displays: the session's outputs that can still be updated.
        output_limit: bytes of output after which the run is interrupted; 0 means no limit.
        cell: the existing cell, if another copy of the server started the run.

    Attributes:
        notebook: where the run is recorded; None until the session has a notebook.
        handed_over: whether the run was dequeued here to continue in another copy of the server.
    """

    def __init__(
        self,
        session_id: str,
        number: int,
        source: str,
        title: str,
        *,
        displays: Displays,
        output_limit: int,
        cell: NotebookNode | None = None,
    ) -> None:
        self.session_id = session_id
        self.number = number
        self.title = title
        self.cell = new_code_cell(source) if cell is None else cell
        self.started: float | None = None
        self.finished: float | None = None
        self.until = 0.0  # deadline in seconds since 1970; 0 means none
        self.script: Script | None = None
        self.notebook: Path | None = None
        self.handed_over = False
        self.outputs = Outputs(self.cell, displays, output_limit, self._over_limit)
        self.task: asyncio.Task[Run]
        self._output_limit = output_limit
        self.asked = 0  # number of questions so far
        self._question: Question | None = None
        self._kernel: Kernel | None = None

    @property
    def question(self) -> Question | None:
        """The open question to the user that the run waits for, if any."""
        asked = self._question
        return asked if asked is not None and asked.open else None

    @property
    def status(self) -> Literal["queued", "running", "over"]:
        """Whether the run is queued, running or over."""
        if self.task.done():
            return "over"
        return "queued" if self.started is None else "running"

    @property
    def elapsed(self) -> float:
        """Running time so far in seconds; 0 while queued."""
        if self.started is None:
            return 0.0
        return (self.finished or time.monotonic()) - self.started

    def interrupt(self, why: str = "interrupted") -> bool:
        """Stop the run with the interrupt ladder, or dequeue it; False if it is over or ending."""
        if self.task.done() or self.finished is not None:  # over, or being recorded
            return False
        if self._kernel is not None:
            return self._kernel.interrupt(why)
        return self.task.cancel()

    async def wait(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds for the run to end; returns whether it is over."""
        done, _ = await asyncio.wait({self.task}, timeout=timeout)
        return bool(done)

    def _over_limit(self) -> None:
        self.interrupt(f"printed more than RMI_AGENT_OUTPUT_LIMIT ({self._output_limit:,})")

    def _ask(self, question: Question) -> None:
        self.asked += 1
        self._question = question

    async def run(self, kernel: Kernel, timeout: float | None) -> Reply:
        """Execute on the kernel that the session provides."""
        self._kernel = kernel
        try:
            if self.script is None:
                source = self.cell.source
                return await kernel.run_cell(source, self.outputs, timeout, self._ask)
            return await kernel.run_script(self.script, self.outputs, timeout)
        finally:
            self._kernel = self._question = None
