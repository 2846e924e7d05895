"""How a recorder lays out a notebook: the cells come last, one after the other.

Each begins with a brace at the start of a line, as no line within a cell does: JSON strings
contain no line breaks, and all else is indented. Knows bytes; nothing of what is in a cell.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CELL = b"\n{"  # how a cell begins
TAIL = b"\n ]\n}\n"  # what follows the last cell
SEPARATOR = b",\n"  # what is between two cells
BLOCK = 1_048_576  # bytes read at a time when searching for cells


def head_json(head: Mapping[str, Any]) -> bytes:
    """What is before the first cell of a notebook: all but its cells, then how these begin."""
    text = json.dumps({**head, "cells": []}, indent=1)
    return (text[: text.rindex("[]")] + "[\n").encode()


def read_head(file: BinaryIO, size: int) -> dict[str, Any]:
    """What is before the first cell of a notebook: all but its cells.

    Args:
        file: the notebook, opened at its beginning.
        size: the byte offset where the cells begin.

    Raises:
        OSError: it can't be read.
        ValueError: it is not laid out as by a recorder.
        RecursionError: it is nested too deeply.
    """
    head = json.loads(file.read(size) + b"]}")
    if not isinstance(head, dict) or head.pop("cells", None) != []:
        raise ValueError("the notebook is not laid out as by a recorder")
    return head


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


def cells_in(notebook: Path, start: int = 0) -> Generator[Place, None, None]:
    """The cells that a recorder wrote, with what separates each from the next.

    Args:
        notebook: the file.
        start: byte offset of the beginning of the search, outside of any cell.
    """
    with notebook.open("rb") as file:
        file.seek(start)
        begin, cell = -1, bytearray()  # of the current cell; -1 before the first
        at, block = start, file.read(BLOCK)
        while block:
            while block.endswith(b"\n") and (more := file.read(1)):  # the brace may follow
                block += more
            done = 0
            while (found := block.find(CELL, done)) >= 0:
                if begin >= 0:
                    yield Place(begin, bytes(cell + block[done : found + 1]))
                cell.clear()
                begin, done = at + found + 1, found + 1
            if begin >= 0:
                cell += block[done:]
            at += len(block)
            block = file.read(BLOCK)
        if begin >= 0:
            yield Place(begin, bytes(cell))
