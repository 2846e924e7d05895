"""What a model reads of a notebook that was run: how far it came, its first error, its pictures.

Knows series of cells and results; nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fastmcp.tools import ToolResult
from pydantic import Field

from ..plurals import counted
from ..views import Worker
from .results import Budget, asks, tool_result, within
from .run_facts import RunFacts, Status, one_line, written_facts
from .run_pictures import bundles_of
from .run_text import Layout, TextCache
from .written import Written

if TYPE_CHECKING:
    from ...kernels import NotebookRun, Run

NAMED = 20  # max cells with pictures that a report names


class NotebookFacts(RunFacts):
    """Facts about a notebook that was run, for programs: those of a run, and its own."""

    path: str = Field(description="The notebook's file.")
    ran: int = Field(description="Number of cells that have run.")
    total: int = Field(description="Number of cells to run.")
    first_cell: int = Field(description="The first cell's number in its session.")
    failed_cell: int | None = Field(
        description="The place in the file, from 1, of the cell it stopped at (0: the parameters)."
    )
    pictures: dict[str, int] = Field(description="Number of pictures, by cell of the session.")


NOTEBOOK_SCHEMA = NotebookFacts.model_json_schema()


class Pictures:
    """Counts the pictures of cells when they end; later, a cell may no longer be in memory."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._of: WeakKeyDictionary[object, dict[int, int]] = WeakKeyDictionary()

    async def count(self, series: NotebookRun, run: Run) -> None:
        """Count those of a cell."""
        if found := await bundles_of(run.cell.outputs, self._worker):
            self._of.setdefault(series, {})[run.number] = len(found)

    def of(self, series: NotebookRun) -> dict[int, int]:
        """The numbers of pictures by cell, of the cells that have any."""
        return self._of.get(series, {})


async def report(
    series: NotebookRun, budget: Budget, texts: TextCache, pictures: Pictures, written: Written
) -> ToolResult:
    """The report on a notebook, while it runs and when it is over."""
    whole, text, truncated = Layout(), "", False
    if (failed := series.failed) is not None:
        whole = await texts.whole(failed.run, failed.execution)
        text, truncated = await within(budget, whole, failed.run.session_id, failed.run.number)
    shown = pictures.of(series)
    notes = [
        *described(series),
        *picture_notes(shown),
        *written.notes,
        *series.steps.notes,
        *advice(series),
    ]
    if failed is not None:
        notes = [*failed.run.notices, *notes]
    about = facts(series, truncated, shown)
    about.written = written_facts(written)
    return tool_result(about, text, notes, [*written.links], whole)


def described(series: NotebookRun) -> list[str]:
    """How far a notebook has come, and how to go on, as sentences."""
    key = f"session_id={series.session.id!r}"
    so_far = f"{series.done} of {series.total} code cells ran in {series.elapsed:.1f} s"
    if not series.task.done():
        where = f"cell {series.number} of the file" if series.number else "its parameters"
        lines = [f"{series.name} is running, {where}: {so_far}."]
        if series.current is not None:
            lines += asks(series.current)
        return [
            *lines,
            f"It continues on its own: read_output({key}, wait=40) waits for its end,"
            " interrupt_session stops it.",
        ]
    if (failed := series.failed) is not None:
        where = f"its cell {failed.number}" if failed.number else "the cell with its parameters"
        return [
            f"{series.name} stopped at {where}, which is cell {failed.run.number} here: {so_far}."
        ]
    if series.stopped:
        return [f"{series.name} stopped early: {series.stopped}. {so_far}."]
    return [f"{series.name} ran to its end: {so_far}."]


def advice(series: NotebookRun) -> list[str]:
    """How to see more of a notebook that is over, and to go on, in a note."""
    if not series.task.done() or not series.done:
        return []
    key, last = f"session_id={series.session.id!r}", series.first + series.done - 1
    kept = series.failed is not None and series.failed.run.state == "kept"
    goes_on = f" run_cell({key}) goes on with its variables." if kept else ""
    return [
        f"read_output({key}, cell=N) returns a cell's output and pictures, N from {series.first} to"
        f" {last}.{goes_on}"
    ]


def picture_notes(shown: dict[int, int]) -> list[str]:
    """Where the pictures are, in a sentence; empty if there are none."""
    if not shown:
        return []
    count = sum(shown.values())
    cells = [f"{cell} ({n})" if n > 1 else str(cell) for cell, n in list(shown.items())[:NAMED]]
    more = " …" if len(shown) > NAMED else ""
    where = f"cell{'s' * (len(shown) > 1)} {', '.join(cells)}{more}"
    return [f"{counted(count, 'picture')}, in {where}."]


def status_of(series: NotebookRun) -> Status:
    """The status of a notebook as a whole."""
    if not series.task.done():
        return "running"
    if series.failed is not None:
        return series.failed.run.status
    if series.exited or not series.stopped:
        return "ok"
    return "timeout" if series.timed_out else "interrupted"


def facts(series: NotebookRun, truncated: bool, shown: dict[int, int]) -> NotebookFacts:
    """The facts about a notebook, finished or not."""
    failed, current = series.failed, series.current
    run = failed.run if failed is not None else None
    status = status_of(series)
    path = series.session.notebook
    return NotebookFacts(
        session_id=series.session.id,
        cell=current.number if current is not None else series.first,
        execution_count=current.cell.execution_count if current is not None else None,
        status=status,
        exit_code=run.exit_code if run is not None else None,
        error_name=one_line(run.error_name) if run is not None else None,
        timed_out=status == "timeout",
        state=series.state,
        elapsed=round(series.elapsed, 3),
        truncated=truncated,
        notebook=str(path) if path else None,
        path=series.name,
        ran=series.done,
        total=series.total,
        first_cell=series.first,
        failed_cell=failed.number if failed is not None else None,
        pictures={str(cell): count for cell, count in shown.items()},
    )
