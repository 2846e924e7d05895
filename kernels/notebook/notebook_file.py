"""The file that a recorder writes: a notebook that grows cell by cell, at a constant cost per cell.

The `cells` array comes last in the file, so a cell is added by one write over the closing
brackets. Between two writes the file is always a valid notebook. Knows files, and the cells' JSON
as bytes; not when a cell is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .layout import SEPARATOR, TAIL, head_json
from .recovery import pid_file, replacement, write_pid_file
from .signing import Draft, FileState, Hashed

BINARY = getattr(os, "O_BINARY", 0)  # on Windows, else line ends would be translated
COPIED = 1_048_576  # bytes copied at a time
PLACES_KEPT = 1_000  # max cells that can still be amended; far more than a session keeps in memory


class NotebookFile:
    """A notebook on disk, and where its finished cells are in it.

    Args:
        path: the file.
        metadata: the notebook's, which is written whenever the file is written as a whole.
        instance: of the server, where several share the folder.

    Attributes:
        end: byte offset of the end of the last finished cell.
        seen: the file as we left it; None before the first write.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], instance: str) -> None:
        self.path = path
        self.end = 0
        self.seen: FileState | None = None
        self._metadata, self._instance = metadata, instance
        self._begin = 0  # byte offset of the first cell
        self._places: dict[str, tuple[int, int]] = {}  # id of a finished cell → its byte range
        self._hashed = Hashed()  # for its signature

    def __contains__(self, cell_id: str) -> bool:
        """Whether a finished cell can still be replaced."""
        return cell_id in self._places

    def touched_by_others(self) -> bool:
        """Whether another program has changed or deleted the file."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (status.st_ino, status.st_size, status.st_mtime_ns) != self.seen

    def newest_first(self) -> Iterator[tuple[str, bytes]]:
        """The ids and the JSON of the finished cells, the last one first.

        Raises:
            OSError: the file can't be read.
        """
        with self.path.open("rb") as file:
            for cell_id, (begin, end) in reversed(self._places.items()):
                file.seek(begin)
                yield cell_id, file.read(end - begin)

    def draft(self) -> Draft | None:
        """The notebook as it is to be signed; None before the first write."""
        return Draft(self.path, self.seen, self.end, self._hashed) if self.seen else None

    # -- writing

    def claim(self) -> None:
        """Write the pid file, which says that this process records the notebook.

        Raises:
            OSError: it can't be written.
        """
        write_pid_file(self.path, self._instance)

    def release(self) -> None:
        """Remove the pid file."""
        with contextlib.suppress(OSError):
            pid_file(self.path).unlink()

    def append(self, cell_id: str, text: bytes, *, keep: bool = True) -> None:
        """Write a cell over the closing brackets of the file, which is as we left it.

        Args:
            cell_id: the cell's id.
            text: its JSON.
            keep: whether it is finished; else the next cell is written over it.

        Raises:
            OSError: it can't be written, and the file ends as before.
        """
        assert self.seen is not None
        _, size, _ = self.seen
        between = SEPARATOR if self._places else b""
        body = between + text
        # Never shorter than before, so one write leaves no remainder after the last bracket.
        padding = b" " * max(0, size - self.end - len(body) - len(TAIL))
        descriptor = os.open(self.path, os.O_RDWR | BINARY)
        try:
            write_at(descriptor, body + padding + TAIL, self.end)
        except OSError:  # disk full: restore the previous, valid end
            write_at(descriptor, TAIL, self.end)
            os.ftruncate(descriptor, self.end + len(TAIL))
            raise
        finally:
            self._remember(descriptor)
            os.close(descriptor)
        if keep:
            self._places[cell_id] = (self.end + len(between), self.end + len(body))
            self.end += len(body)
            if len(self._places) > PLACES_KEPT:
                del self._places[next(iter(self._places))]

    def write(self, cells: Iterable[tuple[str, bytes]]) -> None:
        """Write the file as a whole, with only these cells: the id and the JSON of each.

        Raises:
            OSError: it can't be written, and is unchanged.
        """
        body = bytearray(self._head())
        self._begin = len(body)
        places: dict[str, tuple[int, int]] = {}
        for cell_id, text in cells:
            body += SEPARATOR if places else b""
            begin = len(body)
            body += text
            places[cell_id] = (begin, len(body))
        with self._anew() as file:
            file.write(body)
            file.write(TAIL)
        self.end, self._places = len(body), places

    def write_copy_of(self, other: NotebookFile) -> None:
        """Write the file as a whole, with the finished cells of another one.

        Raises:
            OSError: the other one can't be read, or this one can't be written.
        """
        head = self._head()
        with other.path.open("rb") as old, self._anew() as file:
            file.write(head)
            old.seek(other._begin)
            transfer(old, file, other.end - other._begin)
            file.write(TAIL)
        longer = len(head) - other._begin
        self._begin, self.end = len(head), other.end + longer
        places = other._places.items()
        self._places = {one: (begin + longer, end + longer) for one, (begin, end) in places}

    async def rewrite(self, texts: Callable[[], Mapping[str, bytes]]) -> None:
        """Write the file as a whole in a thread, with other JSON for some of the finished cells.

        Nothing else may write meanwhile. If the caller is cancelled, the thread still ends first.

        Args:
            texts: returns the JSON, by the cells' ids; is called in the thread.

        Raises:
            OSError: the file can't be written, and is unchanged.
        """
        # Not a task: it can't be cancelled, so nobody else writes while the thread does.
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, lambda: self._rewrite(texts()))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise
        finally:
            if work.done() and not work.cancelled() and work.exception() is None:
                self._places, self.end = work.result()

    def _rewrite(self, texts: Mapping[str, bytes]) -> tuple[dict[str, tuple[int, int]], int]:
        """Rewrite the file with these cells; returns all cells' places and the last one's end."""
        head = self._head()
        places, copied, longer = {}, self._begin, len(head) - self._begin
        with self.path.open("rb") as old, self._anew() as file:
            file.write(head)
            old.seek(self._begin)
            for cell_id, (begin, end) in self._places.items():
                first = begin + longer
                if (text := texts.get(cell_id)) is not None:
                    transfer(old, file, begin - copied)
                    file.write(text)
                    old.seek(end)
                    copied, longer = end, longer + len(text) - (end - begin)
                places[cell_id] = (first, end + longer)
            transfer(old, file)
        self._begin = len(head)
        return places, self.end + longer

    def _head(self) -> bytes:
        """What is before the first cell."""
        return head_json({"metadata": self._metadata, "nbformat": 4, "nbformat_minor": 5})

    @contextlib.contextmanager
    def _anew(self) -> Iterator[BinaryIO]:
        """Open a new file that replaces the old one once it is completely written."""
        self._hashed = Hashed()
        with replacement(self.path) as file:
            yield file
            file.flush()
            self._remember(file.fileno())

    def _remember(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.seen = (status.st_ino, status.st_size, status.st_mtime_ns)


def write_at(descriptor: int, data: bytes, place: int) -> None:
    """Write all of `data` at a place of a file.

    Raises:
        OSError: not all of it could be written.
    """
    os.lseek(descriptor, place, os.SEEK_SET)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def beginning(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def transfer(old: BinaryIO, new: BinaryIO, size: int = sys.maxsize) -> None:
    """Copy `size` bytes, or all that are left."""
    while size > 0 and (piece := old.read(min(size, COPIED))):
        new.write(piece)
        size -= len(piece)
