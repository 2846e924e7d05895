"""Reads runs back from notebooks: one that is no longer in memory, or all that a notebook has.

One run costs the parsing of its cell alone, and the last few runs are cached. Knows how a recorder
lays out a notebook; nothing of sessions.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import nbformat.v4
from nbformat import NotebookNode

from ..protocol import State, Status, encodable
from .layout import TAIL, Place, cells_in
from .run import Run
from .steps import SKIPPED, tags_of
from .undone import SKIP, is_undone

CACHED = 4  # max cached runs
CACHED_SIZE = 40_000_000  # max total bytes of their cells; the last run is cached at any size
FROM_NOTEBOOK = ("From the session's notebook.",)


class RunsOnRecord:
    """Cache of runs read from notebooks: paging through a run parses its cell only once."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[Path, str, int], tuple[Place, Run]] = OrderedDict()

    async def run(self, notebook: Path, session_id: str, number: int) -> Run | None:
        """A run by its number; None if the notebook has no such finished run.

        Returns the same object as before as long as the cell in the notebook is unchanged.

        Raises:
            OSError: the notebook can't be read.
            ValueError: the file is not a notebook.
        """
        key = (notebook, session_id, number)
        cached = self._cache.pop(key, None)
        if cached is None or not await asyncio.to_thread(cached[0].is_still_in, notebook):
            cached = await asyncio.to_thread(read, *key)
        if cached is None:
            return None
        self._cache[key] = cached
        while len(self._cache) > 1 and (len(self._cache) > CACHED or self._size() > CACHED_SIZE):
            self._cache.popitem(last=False)
        return cached[1]

    def _size(self) -> int:
        return sum(len(place.text) for place, _ in self._cache.values())


def read(notebook: Path, session_id: str, number: int) -> tuple[Place, Run] | None:
    """Read a run and its place from the notebook; None if it has no such finished run.

    The place has the text that the run was read from: its cell, or the whole notebook.
    """
    name, by_recorder = b'"cell": %d' % number, False
    for place in cells_in(notebook):
        by_recorder = True
        if name in place.text and (run := run_of(place.text, notebook, session_id, number)):
            return place, run
    if by_recorder:
        return None
    # Saved by Jupyter or repaired after a crash: the whole file is parsed.
    whole = Place(0, notebook.read_bytes())
    for cell in nbformat.v4.reads(whole.text.decode()).cells:
        if is_run(cell, number):
            return whole, Run(cell, session_id, notebook, FROM_NOTEBOOK)
    return None


def run_of(text: bytes, notebook: Path, session_id: str, number: int) -> Run | None:
    """The run recorded in a cell's JSON, if it has this number and is finished."""
    text = text.rstrip().removesuffix(TAIL.rstrip()).rstrip().removesuffix(b",")
    cells = b'{"metadata": {}, "nbformat": 4, "nbformat_minor": 5, "cells": [%s]}'
    try:
        (cell,) = nbformat.v4.reads((cells % text).decode()).cells
    except ValueError:  # the cell is being written
        return None
    return Run(cell, session_id, notebook, FROM_NOTEBOOK) if is_run(cell, number) else None


def is_run(cell: NotebookNode, number: int) -> bool:
    """Whether a cell is the finished run with this number, as its metadata says."""
    record = cell.metadata.get("rmi_agent")
    return (
        isinstance(record, dict)
        and record.get("cell") == number
        and record.get("status") in get_args(Status)
        and record.get("state") in get_args(State)
        and isinstance(record.get("elapsed"), int | float)
    )


def is_skipped(cell: NotebookNode) -> bool:
    """Whether a cell did not run when it was recorded or is undone, and should not run now."""
    record = cell.metadata.get("rmi_agent")
    if isinstance(record, dict):
        return record.get("status") == SKIPPED or is_undone(cell)
    return SKIP in tags_of(cell)


def recorded(notebook: NotebookNode) -> Iterator[Run]:
    """The runs of a notebook in order; if it is not one of ours, its code cells.

    Raises:
        ValueError, TypeError, AttributeError: what is recorded of a run is impossible.
    """
    number = 0
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip() or is_skipped(cell):
            continue
        cell.source = encodable(cell.source)
        number += 1
        failed = any(output.output_type == "error" for output in cell.outputs)
        ended = "error" if failed else "interrupted" if "rmi_agent" in cell.metadata else "ok"
        record = cell.metadata.setdefault("rmi_agent", NotebookNode())
        record.update(
            cell=int(record.get("cell", number)),
            status=str(record.get("status") or ended),
            elapsed=float(record.get("elapsed", 0.0)),
        )
        run = Run(cell, session_id="", notebook=None)
        _ = run.program  # raises if it is impossible
        yield run
