"""Records a session as a notebook, cell by cell, at a constant cost per cell.

The `cells` array comes last in the file, so a cell is added by one write over the closing
brackets. Between two writes the file is always a valid notebook. Knows nbformat and files;
nothing of kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import nbformat
from nbformat import NotebookNode

from .cell_json import cell_json, fields_json
from .layout import SEPARATOR, TAIL, head_json
from .recovery import is_open, pid_file, repair, replacement, write_pid_file
from .signing import Draft, FileState, Hashed, Signer
from .undone import is_undone, mark_undone

log = logging.getLogger(__name__)

BINARY = getattr(os, "O_BINARY", 0)  # on Windows, else line ends would be translated
COPIED = 1_048_576  # bytes copied at a time
READS = 5  # attempts to read the notebook without a write in between
PLACES_KEPT = 1_000  # max cells that can still be amended; far more than a session keeps in memory
BACKLOG_CAP = 50_000_000  # max bytes kept in memory while the disk can't be written


class Recorder:
    """The notebook of one session.

    Attributes:
        path: the file; None until the first cell is recorded.
        problem: why the last cell could not be written, or None.
    """

    def __init__(self, folder: Path, metadata: dict[str, Any], instance: str = "") -> None:
        self.folder = folder
        self.metadata = metadata
        self._instance = instance  # of the server, where several share the folder
        self.path: Path | None = None
        self.problem: str | None = None
        self._begin = 0  # byte offset of the first cell
        self._end = 0  # byte offset of the end of the last finished cell
        self._places: dict[str, tuple[int, int]] = {}  # id of a finished cell → its byte range
        self._backlog: list[tuple[str, bytes]] = []  # ids and JSON of unwritten finished cells
        self._rewriting = asyncio.Lock()  # held to move finished cells or to keep them in place
        self._seen: FileState | None = None  # as we left it
        self._hashed = Hashed()  # for its signature

    @classmethod
    def going_on(cls, path: Path, instance: str) -> tuple[Recorder, list[NotebookNode]]:
        """Continue a notebook whose recorder is gone; also returns the notebook's cells.

        Cells that did not finish come last and are removed from the file; `start` and `finish`
        write them again.

        Raises:
            OSError: the file can't be read or written.
            ValueError: the file is not a notebook and can't be repaired.
        """
        repair(path)
        notebook = nbformat.read(path, as_version=4)
        recorder = cls(path.parent, dict(notebook.metadata), instance)
        recorder.path = path
        write_pid_file(path, instance)
        over = [cell for cell in notebook.cells if not is_open(cell)]
        recorder._replace(over)
        return recorder, [*over, *(cell for cell in notebook.cells if is_open(cell))]

    async def copied(self, metadata: dict[str, Any], instance: str = "") -> Recorder:
        """A recorder whose notebook begins with the finished cells of this one.

        No cell may be started or finished in the meantime. There is no such notebook yet if this
        recorder has none, or if another program has changed it; `problem` says so then.

        Args:
            metadata: that of the new notebook.
            instance: of the server, where several share the folder.
        """
        other = Recorder(self.folder, metadata, instance)
        async with self._rewriting:
            if self.path is None:
                return other
            if self._touched_by_others():
                other.problem = f"{self.path.name} was changed by another program"
                return other
            other.path = new_path(self.folder, words_of(self.path))
            try:
                await asyncio.to_thread(other._copy_cells, self)
            except OSError as error:
                other.problem = f"{error.strerror or error} ({other.path})"
                other.close()
                other.path = None
        return other

    def _copy_cells(self, other: Recorder) -> None:
        assert self.path is not None
        assert other.path is not None
        head = self._head()
        write_pid_file(self.path, self._instance)
        with other.path.open("rb") as old, self._anew() as file:
            file.write(head)
            old.seek(other._begin)
            transfer(old, file, other._end - other._begin)
            file.write(TAIL)
        longer = len(head) - other._begin
        self._begin, self._end = len(head), other._end + longer
        places = other._places.items()
        self._places = {one: (begin + longer, end + longer) for one, (begin, end) in places}

    def start(self, cell: NotebookNode, title: str) -> None:
        """Write a cell to disk before it runs; `title` is used to name a new file."""
        self._write(cell, title, finished=False)

    def finish(self, cell: NotebookNode, title: str) -> None:
        """Replace the started cell with the finished one."""
        self._write(cell, title, finished=True)

    def copy(self, cell_id: str, text: bytes, title: str) -> None:
        """Add a cell that does not run, as its JSON from `cell_json`."""
        self._write_text(cell_id, text, title, finished=True)

    async def amend(self, cells: Iterable[NotebookNode], *, head: bool = False) -> None:
        """Replace finished cells, matched by id; the other cells are copied.

        The file is written once, in a thread. No cell may be started or finished in the meantime.

        Args:
            cells: the cells.
            head: whether the notebook's metadata has changed, too.
        """
        async with self._rewriting:
            texts = {cell.id: cell_json(cell) for cell in cells if cell.id in self._places}
            if (texts or head) and self.path is not None and not self._touched_by_others():
                await self._rewritten(lambda: texts)

    async def undo(self, since: int) -> list[int]:
        """Mark the finished cells from a number on as undone; returns their numbers.

        No cell may be started or finished in the meantime. `problem` says why it was not possible.
        """
        found: list[int] = []
        async with self._rewriting:
            for number, (cell_id, text) in enumerate(self._backlog):
                self._backlog[number] = (cell_id, undone(text, since, found) or text)
            if self.path is not None and self._touched_by_others():
                self.problem = f"{self.path.name} was changed by another program"
            elif self.path is not None:
                await self._rewritten(lambda: self._undone(since, found))
        return sorted(found)

    def _undone(self, since: int, found: list[int]) -> dict[str, bytes]:
        """The cells from a number on, marked as undone; adds their numbers to those `found`."""
        assert self.path is not None
        texts: dict[str, bytes] = {}
        with self.path.open("rb") as file:
            for cell_id, (begin, end) in reversed(self._places.items()):
                file.seek(begin)
                if (text := undone(file.read(end - begin), since, found)) is None:
                    break
                if text:
                    texts[cell_id] = text
        return texts

    async def _rewritten(self, texts: Callable[[], dict[str, bytes]]) -> None:
        """Rewrite the file with other `texts` of some cells, which are made in the thread."""
        # Not a task: it can't be cancelled, so nobody else writes while the thread does.
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, lambda: self._rewrite(texts()))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise
        except OSError as error:
            self.problem = str(error)
        finally:
            if work.done() and not work.cancelled() and work.exception() is None:
                self._places, self._end = work.result()

    def _rewrite(self, texts: dict[str, bytes]) -> tuple[dict[str, tuple[int, int]], int]:
        """Rewrite the file with these cells; returns all cells' places and the last one's end.

        Raises:
            OSError: the file can't be written and is unchanged.
        """
        assert self.path is not None
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
        return places, self._end + longer

    async def text(self) -> str | None:
        """Read the whole notebook in a thread; None if there is none.

        Writes happen on the event loop, so a read without a write in between is consistent.
        """
        with contextlib.suppress(FileNotFoundError):
            for _ in range(READS):
                if (path := self.path) is None:
                    return None
                seen = self._seen
                read = await asyncio.to_thread(path.read_bytes)
                if (path, seen) == (self.path, self._seen):
                    return read.decode()
            async with self._rewriting:  # constant writes: read only the finished cells
                if (path := self.path) is not None:
                    finished = await asyncio.to_thread(beginning, path, self._end)
                    return (finished + TAIL).decode()
        return None

    def sign(self, signer: Signer) -> None:
        """Have the notebook marked as trusted, as Jupyter does for notebooks that it ran itself."""
        if self.path is not None and self._seen is not None:
            signer.submit(Draft(self.path, self._seen, self._end, self._hashed))

    def close(self) -> None:
        """Stop recording in this file and remove its pid file."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                pid_file(self.path).unlink()

    # -- the file

    def _write(self, cell: NotebookNode, title: str, *, finished: bool) -> None:
        self._write_text(cell.id, cell_json(cell), title, finished=finished)

    def _write_text(self, cell_id: str, text: bytes, title: str, *, finished: bool) -> None:
        if finished:
            self._backlog.append((cell_id, text))
        try:
            if self.path is not None and self._touched_by_others():
                log.warning(
                    "%s was changed by another program; recording continues in a new file.",
                    self.path,
                )
                self.close()
                self.path = None
            if self.path is None:
                self._create(title)
            while self._backlog:
                self._append(*self._backlog[0])
                self._backlog.pop(0)
            if not finished:
                self._append(cell_id, text, keep=False)
            self.problem = None
        except OSError as error:
            self.problem = f"{error.strerror or error} ({self.path or self.folder})"
            log.warning("A cell could not be recorded: %s", self.problem)
            while sum(len(waiting) for _, waiting in self._backlog) > BACKLOG_CAP:
                self._backlog.pop(0)

    def _append(self, cell_id: str, text: bytes, *, keep: bool = True) -> None:
        """Write a cell over the closing brackets of the file, which is as we left it."""
        assert self.path is not None
        assert self._seen is not None
        _, size, _ = self._seen
        between = SEPARATOR if self._places else b""
        body = between + text
        # Never shorter than before, so one write leaves no remainder after the last bracket.
        padding = b" " * max(0, size - self._end - len(body) - len(TAIL))
        descriptor = os.open(self.path, os.O_RDWR | BINARY)
        try:
            write_at(descriptor, body + padding + TAIL, self._end)
        except OSError:  # disk full: restore the previous, valid end
            write_at(descriptor, TAIL, self._end)
            os.ftruncate(descriptor, self._end + len(TAIL))
            raise
        finally:
            self._remember(descriptor)
            os.close(descriptor)
        if keep:
            self._places[cell_id] = (self._end + len(between), self._end + len(body))
            self._end += len(body)
            if len(self._places) > PLACES_KEPT:
                del self._places[next(iter(self._places))]

    def _create(self, title: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = new_path(self.folder, slug(title))
        try:
            write_pid_file(self.path, self._instance)
            self._replace([])
        except OSError:
            self.close()
            self.path = None
            raise

    def _replace(self, cells: list[NotebookNode]) -> None:
        """Write the file anew with only these cells."""
        body = bytearray(self._head())
        self._begin = len(body)
        places: dict[str, tuple[int, int]] = {}
        for cell in cells:
            body += SEPARATOR if places else b""
            begin = len(body)
            body += cell_json(cell)
            places[cell.id] = (begin, len(body))
        with self._anew() as file:
            file.write(body)
            file.write(TAIL)
        self._end, self._places = len(body), places

    def _head(self) -> bytes:
        """What is before the first cell."""
        return head_json({"metadata": self.metadata, "nbformat": 4, "nbformat_minor": 5})

    @contextlib.contextmanager
    def _anew(self) -> Iterator[BinaryIO]:
        """Open a new file that replaces the old one once it is completely written."""
        assert self.path is not None
        self._hashed = Hashed()
        with replacement(self.path) as file:
            yield file
            file.flush()
            self._remember(file.fileno())

    def _remember(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._seen = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _touched_by_others(self) -> bool:
        try:
            status = os.stat(self.path)  # type: ignore[arg-type]
        except FileNotFoundError:
            return True
        return (status.st_ino, status.st_size, status.st_mtime_ns) != self._seen


def undone(text: bytes, since: int, found: list[int]) -> bytes | None:
    """A cell's JSON, marked as undone; None if its number is below `since`.

    Empty if it has no number, or is marked already.

    Adds its number to those `found`.
    """
    cell = json.loads(text)
    number = cell["metadata"].get("rmi_agent", {}).get("cell")
    if not isinstance(number, int):  # it did not run
        return b""
    if number < since:
        return None
    if is_undone(cell):
        return b""
    found.append(number)
    mark_undone(cell, before=since)
    return fields_json(cell)


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


def new_path(folder: Path, words: str) -> Path:
    """The path of a new notebook."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return folder / f"{stamp}-{words}-{secrets.token_hex(3)}.ipynb"


def words_of(path: Path) -> str:
    """The words in the name of a notebook that `new_path` has named."""
    return path.stem.split("-", 2)[-1].rpartition("-")[0] or "cell"


def slug(title: str) -> str:
    """The first words of a title, made safe for a file name."""
    first = next((line for line in title.splitlines() if line.strip()), "")
    words = re.sub(r"[^\w]+", "-", first).strip("-_")
    return words[:40].rstrip("-_") or "cell"
