"""Rerunning a recorded notebook in a fresh session, which then continues from there.

Runs what `notebook/runs_on_record.py` reads. Knows sessions, but not where notebooks are
stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ..notebook import Difference, Run, differences
from ..protocol import new_cell
from .runs import Execution, NotebookCell
from .series import Series
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


class Resume(Series):
    """Reruns a record in the background, starting at once.

    Args:
        session: a fresh session.
        cells: the runs to repeat, in order.
        undone: numbers of the runs that are undone in the record.
        skip_failed: whether to skip runs that failed.
        timeout: seconds for all runs together.

    Attributes:
        repeated: the runs repeated so far.
        undone: the numbers of those that are left out, since they are undone.
        skipped: the runs that were skipped.
        in_background: the runs that were skipped since they had run in the background.
    """

    def __init__(
        self,
        session: Session,
        cells: Sequence[Run],
        undone: Sequence[int],
        *,
        skip_failed: bool,
        timeout: float,
    ) -> None:
        self.undone = undone
        self.cells: list[Run] = []
        self.skipped: list[Run] = []
        self.in_background: list[Run] = []
        for one in cells:
            if one.in_background:  # it may never end
                self.in_background.append(one)
            elif skip_failed and one.status != "ok":
                self.skipped.append(one)
            else:
                self.cells.append(one)
        self.repeated: list[Again] = []
        super().__init__(session, timeout, "being resumed")

    @property
    def done(self) -> int:
        """Number of runs repeated so far."""
        return len(self.repeated)

    @property
    def total(self) -> int:
        """Number of runs to repeat."""
        return len(self.cells)

    @property
    def different(self) -> list[Again]:
        """Repeated runs whose results differ from the record."""
        return [again for again in self.repeated if again.differences]

    async def _work(self) -> None:
        for before in self.cells:
            run = await self._one(lambda left, before=before: self._submit(before, left))  # type: ignore[misc]
            if run is None or self.current is None:
                return
            found = await asyncio.to_thread(differences, before, run)
            self.repeated.append(Again(before, self.current, tuple(found)))

    def _submit(self, before: Run, left: float) -> Execution:
        limit = min(left, self._limit(before))
        if (program := before.program) is not None:
            return self.session.submit_program(program, limit)
        source, of = before.cell.source, None
        if (folder := before.folder) is not None:
            of = NotebookCell(new_cell(source), source, folder)
        return self.session.submit_cell(source, limit, of)

    def _limit(self, before: Run) -> float:
        """Time limit of one run in seconds: the default, or more if the recorded run took long."""
        if before.status == "timeout":
            return max(before.elapsed, 1.0)
        return max(self.session.config.timeout, 2 * before.elapsed)
