"""A run read back from its session's notebook, for when it is no longer in memory.

Reads one cell of the file and not all of them, and keeps the last few runs. Knows how a
recorder lays out a notebook; nothing of sessions.
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

BLOCK = 1_048_576  # bytes that are looked through at a time
KEPT = 4  # runs that are kept
KEPT_SIZE = 40_000_000  # bytes that the cells of those may have together, but for the last


@dataclass(frozen=True)
class Place:
    """A cell's JSON in a notebook, and where it begins."""

    begin: int
    text: bytes

    def is_still_in(self, notebook: Path) -> bool:
        """Whether the same bytes are there still."""
        with notebook.open("rb") as file:
            file.seek(self.begin)
            return file.read(len(self.text)) == self.text


class RunsOnRecord:
    """Runs as their notebooks have them; a page of one costs its cell, not the notebook."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str, int], tuple[Place, Run]] = OrderedDict()

    async def run(self, notebook: Path, session_id: str, number: int) -> Run | None:
        """A run by its number; None if the notebook has none that is over.

        The same object as before while the notebook has the same cell.

        Raises:
            OSError: the notebook can't be read.
            ValueError: it is not a notebook.
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
    """A run from its notebook, and where it is; None if none there is over."""
    name = b'"cell": %d' % number
    for place in cells_in(notebook):
        if name in place.text and (run := run_of(place.text, notebook, session_id, number)):
            return place, run
    if not laid_out_by_others(notebook):
        return None
    # Saved by Jupyter, or closed after a crash: all of it is one text.
    whole = Place(0, notebook.read_bytes())
    for cell in nbformat.v4.reads(whole.text.decode()).cells:
        if run := recorded(cell, notebook, session_id, number):
            return whole, run
    return None


def cells_in(notebook: Path) -> Iterator[Place]:
    """The cells that a recorder has written: each begins with a brace at a line's start.

    Within a cell no line does, since JSON has no line ends in its texts and others are indented.
    """
    with notebook.open("rb") as file:
        begin, cell = -1, bytearray()  # of the cell that is open
        at, block = 0, file.read(BLOCK)
        while block:
            while block.endswith(b"\n") and (more := file.read(1)):  # the brace may come next
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
    """Whether no cell begins where a recorder would have it begin."""
    return next(cells_in(notebook), None) is None


def run_of(text: bytes, notebook: Path, session_id: str, number: int) -> Run | None:
    """The run that a cell's JSON records, if it has this number and is over."""
    text = text.rstrip()
    if text.endswith(b"\n ]\n}"):  # the last one, with the notebook's end
        text = text[:-5].rstrip()
    cells = b'{"metadata": {}, "nbformat": 4, "nbformat_minor": 5, "cells": [%s]}'
    try:
        (cell,) = nbformat.v4.reads((cells % text.rstrip(b",")).decode()).cells
    except ValueError:  # it is being written
        return None
    return recorded(cell, notebook, session_id, number)


def recorded(cell: NotebookNode, notebook: Path, session_id: str, number: int) -> Run | None:
    """The run that a cell records, if it has this number and is over."""
    record = cell.metadata.get("rmi_agent")
    if not isinstance(record, dict) or not is_run(record, number):
        return None
    return Run(cell, session_id, notebook, ("From the session's notebook.",))
