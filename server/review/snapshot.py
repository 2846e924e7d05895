"""A session as it is now: its notebook, and what the open session has not written yet.

Also says what is new since an earlier snapshot. Knows notebooks and sessions; nothing about HTML.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nbformat import NotebookNode

from ...kernels import Sessions
from .index import Entry
from .model import Cell, Notebook, fingerprint
from .notebook_file import parse_cell


@dataclass(frozen=True)
class Snapshot:
    """A session at one moment; if it is `live`, more may come."""

    entry: Entry
    notebook: Notebook
    live: bool

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells of the notebook."""
        return self.notebook.cells

    @property
    def status(self) -> str:
        """The status of the last cell that ran or is running."""
        return self.notebook.last.status if self.notebook.last else ""

    @cached_property
    def settled(self) -> int:
        """The number of leading cells that have ended, and normally won't change."""
        return next((i for i, cell in enumerate(self.cells) if not cell.over), len(self.cells))

    @cached_property
    def seen(self) -> str:
        """A token for a reader who has all of this; `since` uses it to return only what is new."""
        return ".".join(
            (
                str(self.settled),
                fingerprint(*(cell.version for cell in self.cells[: self.settled])),
                fingerprint(repr(self.live), *(cell.version for cell in self.cells)),
            )
        )

    def since(self, seen: str) -> Sequence[Cell] | None:
        """The cells to send to a reader with the token `seen`; None if nothing is new."""
        if seen == self.seen:
            return None
        number, _, rest = seen.partition(".")
        count = int(number) if number.isdecimal() and len(number) < 9 else 0
        known = fingerprint(*(cell.version for cell in self.cells[:count]))
        return self.cells[count:] if known == rest.partition(".")[0] else self.cells


async def pending_cells(sessions: Sessions | None, notebook: Path) -> tuple[Cell, ...] | None:
    """The pending cells of the session recorded in `notebook`; None if it is not open here."""
    session = None if sessions is None else sessions.recording(notebook)
    if session is None:
        return None
    begun = []
    for execution in session.runs.unfinished:
        status = "waiting" if execution.status == "queued" else "running"
        script = execution.program.title if execution.program is not None else ""
        begun.append((execution.outputs.settled(), status, script))
    return await asyncio.to_thread(parse_pending, begun)


def parse_pending(begun: list[tuple[NotebookNode, str, str]]) -> tuple[Cell, ...]:
    """Unfinished cells, each with its status and its file's name."""
    cells = []
    for node, status, script in begun:
        cell = parse_cell(0, node, live=True)
        cells.append(replace(cell, status=status, script=script, seconds=None))
        for output in cell.outputs:
            _ = output.version  # reads all of the text, and is cached
    return tuple(cells)


def combine(entry: Entry, notebook: Notebook, pending: tuple[Cell, ...] | None) -> Snapshot:
    """Notebook and pending cells, matched by id; a cell that is finished in the file is finished.

    `pending` is None if the session is not open here.
    """
    cells = list(notebook.cells)
    places = {cell.id: place for place, cell in enumerate(cells) if cell.id}
    for cell in pending or ():
        place = places.get(cell.id)
        if place is None:
            cells.append(replace(cell, number=len(cells) + 1))
        elif not cells[place].over:
            cells[place] = replace(cell, number=place + 1)
    live = entry.live or pending is not None
    return Snapshot(entry, replace(notebook, cells=tuple(cells)), live)
