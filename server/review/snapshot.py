"""A session as it is now: its notebook, and what the open session has not written yet.

Also says what is new since an earlier snapshot. Knows notebooks and sessions; nothing about HTML.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from weakref import WeakKeyDictionary

from nbformat import NotebookNode

from ...kernels import Execution, Sessions
from .index import Entry
from .model import Cell, Notebook, Output, fingerprint
from .notebook_file import parse_cell

Parsed = tuple[Output | None, ...]
# The outputs of unfinished cells as last parsed, without their streams: what has not changed keeps
# its version, so that large pictures are not read again for every snapshot.
_parsed: WeakKeyDictionary[Execution, Parsed] = WeakKeyDictionary()


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
    begun, unfinished = [], session.runs.unfinished
    for execution in unfinished:
        status = "waiting" if execution.status == "queued" else "running"
        script = execution.program.title if execution.program is not None else ""
        before = _parsed.get(execution, ())
        begun.append((execution.outputs.settled(), status, script, before))
    cells = await asyncio.to_thread(parse_pending, begun)
    for execution, cell in zip(unfinished, cells, strict=True):
        _parsed[execution] = tuple(each if each.kind == "data" else None for each in cell.outputs)
    return cells


def parse_pending(begun: list[tuple[NotebookNode, str, str, Parsed]]) -> tuple[Cell, ...]:
    """Unfinished cells, each with its status, its file's name, and its outputs of before."""
    cells = []
    for node, status, script, before in begun:
        cell = parse_cell(0, node, live=True)
        pairs = zip_longest(cell.outputs, before[: len(cell.outputs)])
        outputs = tuple(old if old == new else new for new, old in pairs)
        for output in outputs:
            _ = output.version  # reads all of the text, and is cached
        cells.append(replace(cell, outputs=outputs, status=status, script=script, seconds=None))
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
