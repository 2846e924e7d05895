"""Reads runs that are no longer in memory back from their session's notebook.

Parses only one cell of the file, and caches the last few runs. Knows how a recorder lays out a
notebook; nothing of sessions.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat.v4
from nbformat import NotebookNode

from .run import Run, is_run

BLOCK = 1_048_576  # bytes read at a time when searching for cells
KEPT = 4  # max cached runs
KEPT_SIZE = 40_000_000  # max total bytes of their cells; the last run is cached at any size


@dataclass(frozen=True)
class Place:
    """A cell's JSON in a notebook, and its byte offset."""

    begin: int
    text: bytes

    def is_still_in(self, notebook: Path) -> bool:
        """Whether the notebook still has the same bytes there."""
        with notebook.open("rb") as file:
            file.seek(self.begin)
            return file.read(len(self.text)) == self.text


class RunsOnRecord:
    """Cache of runs read from notebooks: paging through a run parses its cell only once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str, int], tuple[Place, Run]] = OrderedDict()

    async def run(self, notebook: Path, session_id: str, number: int) -> Run | None:
        """A run by its number; None if the notebook has no such finished run.

        Returns the same object as before as long as the cell in the notebook is unchanged.

        Raises:
            OSError: the notebook can't be read.
            ValueError: the file is not a notebook.
        """
        key = (notebook, session_id, number)
        kept = self._kept.pop(key, None)
        if kept is None or not await asyncio.to_thread(kept[0].is_still_in, notebook):
            kept = await asyncio.to_thread(read, *key)
        if kept is None:
            return None
        self._kept[key] = kept
        while len(self._kept) > 1 and (len(self._kept) > KEPT or self._size() > KEPT_SIZE):
            self._kept.popitem(last=False)
        return kept[1]

    def _size(self) -> int:
        return sum(len(place.text) for place, _ in self._kept.values())


def read(notebook: Path, session_id: str, number: int) -> tuple[Place, Run] | None:
    """Read a run and its place from the notebook; None if it has no such finished run."""
    name = b'"cell": %d' % number
    for place in cells_in(notebook):
        if name in place.text and (run := run_of(place.text, notebook, session_id, number)):
            return place, run
    if not laid_out_by_others(notebook):
        return None
    # Saved by Jupyter or repaired after a crash: the whole file is parsed.
    whole = Place(0, notebook.read_bytes())
    for cell in nbformat.v4.reads(whole.text.decode()).cells:
        if run := recorded(cell, notebook, session_id, number):
            return whole, run
    return None


def cells_in(notebook: Path) -> Iterator[Place]:
    """The cells that a recorder wrote: each begins with a brace at the start of a line.

    No line within a cell does: JSON strings contain no line breaks, and all else is indented.
    """
    with notebook.open("rb") as file:
        begin, cell = -1, bytearray()  # of the current cell; -1 before the first
        at, block = 0, file.read(BLOCK)
        while block:
            while block.endswith(b"\n") and (more := file.read(1)):  # the brace may follow
                block += more
            start = 0
            while (found := block.find(b"\n{", start)) >= 0:
                if begin >= 0:
                    yield Place(begin, bytes(cell + block[start : found + 1]))
                cell.clear()
                begin, start = at + found + 1, found + 1
            if begin >= 0:
                cell += block[start:]
            at += len(block)
            block = file.read(BLOCK)
        if begin >= 0:
            yield Place(begin, bytes(cell))


def laid_out_by_others(notebook: Path) -> bool:
    """Whether no cell begins the way a recorder writes it."""
    return next(cells_in(notebook), None) is None


def run_of(text: bytes, notebook: Path, session_id: str, number: int) -> Run | None:
    """The run recorded in a cell's JSON, if it has this number and is finished."""
    text = text.rstrip()
    if text.endswith(b"\n ]\n}"):  # the last cell, followed by the notebook's end
        text = text[:-5].rstrip()
    cells = b'{"metadata": {}, "nbformat": 4, "nbformat_minor": 5, "cells": [%s]}'
    try:
        (cell,) = nbformat.v4.reads((cells % text.rstrip(b",")).decode()).cells
    except ValueError:  # the cell is being written
        return None
    return recorded(cell, notebook, session_id, number)


def recorded(cell: NotebookNode, notebook: Path, session_id: str, number: int) -> Run | None:
    """The run recorded in a cell, if it has this number and is finished."""
    record = cell.metadata.get("rmi_agent")
    if not isinstance(record, dict) or not is_run(record, number):
        return None
    return Run(cell, session_id, notebook, ("From the session's notebook.",))
