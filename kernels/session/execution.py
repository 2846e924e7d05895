"""A run that was accepted: one cell on its way through a kernel.

The caller may wait, look at what it has printed so far, or stop it. Knows a cell and
the kernel that runs it; its session decides when it may run.
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
    """A run that was accepted: queued, going on, or over (`task` is done).

    Args:
        session_id: its session's.
        number: its place there, from 1.
        source: its code, unless it has a cell already.
        title: names the notebook that it is the first of.
        displays: the session's outputs that can be updated.
        output_limit: bytes after which it is interrupted; 0 is no limit.
        cell: the one it is, if another copy of the server has begun it.

    Attributes:
        notebook: where it is recorded; None until its session has a notebook.
        handed_over: taken out of the queue here to go on in another copy of the server.
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
        self.until = 0.0  # when its time limit ends, in seconds since 1970; 0 is never
        self.script: Script | None = None
        self.notebook: Path | None = None
        self.handed_over = False
        self.outputs = Outputs(self.cell, displays, output_limit, self._over_limit)
        self.task: asyncio.Task[Run]
        self._output_limit = output_limit
        self.asked = 0  # questions of this run so far
        self._question: Question | None = None
        self._kernel: Kernel | None = None

    @property
    def question(self) -> Question | None:
        """What it asks the person and waits for, if it does."""
        asked = self._question
        return asked if asked is not None and asked.open else None

    @property
    def status(self) -> Literal["queued", "running", "over"]:
        """Where it is in its life."""
        if self.task.done():
            return "over"
        return "queued" if self.started is None else "running"

    @property
    def elapsed(self) -> float:
        """Seconds that it has run."""
        if self.started is None:
            return 0.0
        return (self.finished or time.monotonic()) - self.started

    def interrupt(self, why: str = "interrupted") -> bool:
        """Stop it by the ladder, or take it out of the queue. False if it is over."""
        if self.task.done() or self.finished is not None:  # it is being recorded
            return False
        if self._kernel is not None:
            return self._kernel.interrupt(why)
        return self.task.cancel()

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the end, at most `timeout` seconds; whether it is over."""
        done, _ = await asyncio.wait({self.task}, timeout=timeout)
        return bool(done)

    def _over_limit(self) -> None:
        self.interrupt(f"printed more than RMI_AGENT_OUTPUT_LIMIT ({self._output_limit:,})")

    def _ask(self, question: Question) -> None:
        self.asked += 1
        self._question = question

    async def run(self, kernel: Kernel, timeout: float | None) -> Reply:
        """Execute on a kernel, which the session has found for it."""
        self._kernel = kernel
        try:
            if self.script is None:
                source = self.cell.source
                return await kernel.run_cell(source, self.outputs, timeout, self._ask)
            return await kernel.run_script(self.script, self.outputs, timeout)
        finally:
            self._kernel = self._question = None
