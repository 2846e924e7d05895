"""A session as it is at this moment: its notebook, and what its open session has not written yet.

Also tells what is new since an earlier look. Knows notebooks and sessions; nothing of HTML.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nbformat import NotebookNode

from ...kernels import Sessions
from .index import Entry
from .model import Cell, Notebook, cell_of, fingerprint


@dataclass(frozen=True)
class Snapshot:
    """One look at a session.

    Attributes:
        live: whether more may come.
        settled: how many cells from the first are over, and so won't change as a rule.
    """

    entry: Entry
    notebook: Notebook
    live: bool

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them."""
        return self.notebook.cells

    @property
    def status(self) -> str:
        """How the last cell went, or goes."""
        return self.notebook.last.status if self.notebook.last else ""

    @property
    def settled(self) -> int:
        """How many cells from the first are over, and won't change as a rule."""
        return next((i for i, cell in enumerate(self.cells) if not cell.over), len(self.cells))

    @property
    def seen(self) -> str:
        """What a reader who has got all of this may show, to be told only what is new."""
        return ".".join(
            (
                str(self.settled),
                fingerprint(*(cell.version for cell in self.cells[: self.settled])),
                fingerprint(repr(self.live), *(cell.version for cell in self.cells)),
            )
        )

    def since(self, seen: str) -> Sequence[Cell] | None:
        """The cells to send to who has shown this; None if nothing is new."""
        if seen == self.seen:
            return None
        number, _, rest = seen.partition(".")
        count = int(number) if number.isdecimal() and len(number) < 9 else 0
        known = fingerprint(*(cell.version for cell in self.cells[:count]))
        return self.cells[count:] if known == rest.partition(".")[0] else self.cells


@dataclass(frozen=True)
class PendingCells:
    """What an open session has in memory: runs that go on or wait, by their cells' ids."""

    cells: tuple[Cell, ...]


async def unwritten(sessions: Sessions | None, notebook: Path) -> PendingCells | None:
    """What the session that is recorded there has in memory; None if none is open here."""
    session = None if sessions is None else sessions.recording(notebook)
    if session is None:
        return None
    begun = []
    for execution in session.executions:
        if not execution.task.done():
            status = "waiting" if execution.status == "queued" else "running"
            script = execution.script.path.name if execution.script is not None else ""
            begun.append((execution.outputs.settled(), status, script))
    return PendingCells(await asyncio.to_thread(laid_out, begun))


def laid_out(begun: list[tuple[NotebookNode, str, str]]) -> tuple[Cell, ...]:
    """Cells that are not over, each with its status and its file's name."""
    cells = []
    for node, status, script in begun:
        cell = cell_of(0, node, live=True)
        cells.append(replace(cell, status=status, script=script, seconds=None))
        for output in cell.outputs:
            _ = output.version  # it reads all of the text, and is kept
    return tuple(cells)


def look(entry: Entry, notebook: Notebook, more: PendingCells | None) -> Snapshot:
    """Both together; a cell that the file has as finished is finished."""
    cells = list(notebook.cells)
    places = {cell.id: place for place, cell in enumerate(cells) if cell.id}
    for cell in more.cells if more is not None else ():
        place = places.get(cell.id)
        if place is None:
            cells.append(replace(cell, number=len(cells) + 1))
        elif not cells[place].over:
            cells[place] = replace(cell, number=place + 1)
    return Snapshot(entry, replace(notebook, cells=tuple(cells)), entry.live or more is not None)
