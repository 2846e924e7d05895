"""Running an existing notebook in a session: its cells in order, until one fails.

The session's record gets all cells up to there, those that do not run as well. Knows sessions and
what `notebook/steps.py` reads; not where the notebook is from.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import KernelError
from ..notebook import Run, Step, Steps
from ..protocol import State, clean
from .runs import Execution, NotebookCell
from .series import Series
from .session import Session


@dataclass(frozen=True)
class Stop:
    """The cell at which a notebook stopped.

    Attributes:
        number: its place in the notebook, from 1; 0 for the cell with the parameters.
        execution: its run.
        run: how that ended.
    """

    number: int
    execution: Execution
    run: Run


class NotebookRun(Series):
    """Runs a notebook's cells in the background, starting at once.

    Args:
        session: where they run.
        name: the notebook's name, for messages.
        folder: where the notebook is, which becomes the session's working folder.
        steps: what to run.
        parameters: the values that it was given, for the record.
        timeout: seconds for all cells together.

    Attributes:
        ended: number of cells that have run.
        number: the place in the notebook of the cell that runs, or ran last.
        failed: the cell that it stopped at; None if it did not, or has not yet.
        state: `lost` if variables from before one of the cells are gone.
        on_run: called with each run once it is over.
        exited: whether it ended early since a cell called `sys.exit()`.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        folder: Path,
        steps: Steps,
        parameters: Mapping[str, Any],
        timeout: float,
        on_run: Callable[[NotebookRun, Run], Awaitable[None]],
    ) -> None:
        self.name, self.steps, self.on_run = name, steps, on_run
        self._folder: Path | None = folder
        self._parameters = parameters
        self.ended = self.number = 0
        self.failed: Stop | None = None
        self.state: State = "kept"
        self.exited = False
        super().__init__(session, timeout, f"running {name}")

    @property
    def done(self) -> int:
        """Number of cells that have run."""
        return self.ended

    @property
    def total(self) -> int:
        """Number of cells to run."""
        return self.steps.to_run

    @property
    def is_latest(self) -> bool:
        """Whether nothing has run in the session since."""
        last = self.current.number if self.current is not None else self.first - 1
        return self.session.count == last

    async def _work(self) -> None:
        about = {
            "input_path": self.name,
            "parameters": clean(copy.deepcopy(dict(self._parameters))),
        }
        await self._record((), {"papermill": about})
        waiting: list[tuple[str, bytes]] = []
        for step in self.steps.steps:
            if step.copied is not None:
                waiting.append((step.cell.id, step.copied))
                continue
            await self._record(waiting)
            waiting.clear()
            self.number = step.number
            run = await self._one(lambda left, step=step: self._submit(step, left))  # type: ignore[misc]
            if run is None or not await self._goes_on(step, run):
                return
        await self._record(waiting)

    async def _record(
        self, cells: Sequence[tuple[str, bytes]], about: dict[str, Any] | None = None
    ) -> None:
        """Add cells that do not run to the record, after all earlier runs.

        Args:
            cells: the id and the JSON of each.
            about: metadata to set in the notebook before.

        Raises:
            KernelError: the session was closed.
        """
        session, title = self.session, Path(self.name).name
        async with session.runs.turn:
            if about is not None:
                session.recorder.metadata.update(about)
                await session.recorder.amend((), head=True)
            for cell_id, text in cells:
                if session.closed:
                    raise KernelError(f"Session {session.id} is closed.")
                session.recorder.copy(cell_id, text, title)
                await asyncio.sleep(0)

    def _submit(self, step: Step, left: float) -> Execution:
        folder, self._folder = self._folder, None
        cell = NotebookCell(step.cell, Path(self.name).name, folder)
        return self.session.submit_cell(step.cell.source, left, cell)

    async def _goes_on(self, step: Step, run: Run) -> bool:
        """Count a run that is over; returns whether the next one is to start."""
        assert self.current is not None
        self.ended += 1
        await self.on_run(self, run)
        if run.state == "lost":
            self.state = "lost"
        if run.status == "error" and exits_cleanly(run) and not step.may_fail:
            self.exited = True
            self.stop(f"its cell {step.number} called sys.exit()")
            return False
        if run.status == "ok" or (run.status == "error" and step.may_fail):
            return True
        self.failed = Stop(step.number, self.current, run)
        return False


def exits_cleanly(run: Run) -> bool:
    """Whether a cell called `sys.exit` without an error; papermill ends a notebook there, too."""
    errors = [output for output in run.cell.outputs if output.output_type == "error"]
    return run.error_name == "SystemExit" and all(
        each.evalue in ("", "0", "None") for each in errors
    )
