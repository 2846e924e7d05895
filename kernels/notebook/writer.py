"""Records a session as a notebook, cell by cell.

Knows which cells have run and which could not be written yet; how they get into the file is known
in `notebook_file.py`. Knows nothing of kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from .cell_json import cell_json
from .file_names import new_path, slug, words_of
from .layout import TAIL
from .notebook_file import NotebookFile, beginning
from .recovery import is_open, repair
from .signing import Signer
from .undone import undone

log = logging.getLogger(__name__)

READS = 5  # attempts to read the notebook without a write in between
BACKLOG_CAP = 50_000_000  # max bytes kept in memory while the disk can't be written


class Recorder:
    """The notebook of one session.

    Attributes:
        problem: why the last cell could not be written, or None.
    """

    def __init__(self, folder: Path, metadata: dict[str, Any], instance: str = "") -> None:
        self.folder = folder
        self.metadata = metadata
        self._instance = instance  # of the server, where several share the folder
        self.problem: str | None = None
        self._file: NotebookFile | None = None  # None until the first cell is recorded
        self._backlog: list[tuple[str, bytes]] = []  # ids and JSON of unwritten finished cells
        self._rewriting = asyncio.Lock()  # held to move finished cells or to keep them in place

    @property
    def path(self) -> Path | None:
        """The file; None until the first cell is recorded."""
        return self._file.path if self._file is not None else None

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
        recorder._file = file = NotebookFile(path, recorder.metadata, instance)
        file.claim()
        over = [cell for cell in notebook.cells if not is_open(cell)]
        file.write((cell.id, cell_json(cell)) for cell in over)
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
            if self._file is None:
                return other
            if self._file.touched_by_others():
                other.problem = f"{self._file.path.name} was changed by another program"
                return other
            path = new_path(self.folder, words_of(self._file.path))
            file = NotebookFile(path, metadata, instance)
            try:
                await asyncio.to_thread(begin_with, file, self._file)
                other._file = file
            except OSError as error:
                other.problem = f"{error.strerror or error} ({path})"
                file.release()
        return other

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
            if (file := self._file) is None:
                return
            texts = {cell.id: cell_json(cell) for cell in cells if cell.id in file}
            if (texts or head) and not file.touched_by_others():
                with self._noting_problems():
                    await file.rewrite(lambda: texts)

    async def undo(self, since: int) -> list[int]:
        """Mark the finished cells from a number on as undone; returns their numbers.

        No cell may be started or finished in the meantime. `problem` says why it was not possible.
        """
        found: list[int] = []
        async with self._rewriting:
            for number, (cell_id, text) in enumerate(self._backlog):
                self._backlog[number] = (cell_id, undone(text, since, found) or text)
            if (file := self._file) is not None and file.touched_by_others():
                self.problem = f"{file.path.name} was changed by another program"
            elif file is not None:
                with self._noting_problems():
                    await file.rewrite(lambda: undone_cells(file, since, found))
        return sorted(found)

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = str(error)

    async def text(self) -> str | None:
        """Read the whole notebook in a thread; None if there is none.

        Writes happen on the event loop, so a read without a write in between is consistent.
        """
        with contextlib.suppress(FileNotFoundError):
            for _ in range(READS):
                if (file := self._file) is None:
                    return None
                seen = file.seen
                read = await asyncio.to_thread(file.path.read_bytes)
                if (file, seen) == (self._file, file.seen):
                    return read.decode()
            async with self._rewriting:  # constant writes: read only the finished cells
                if (file := self._file) is not None:
                    finished = await asyncio.to_thread(beginning, file.path, file.end)
                    return (finished + TAIL).decode()
        return None

    def sign(self, signer: Signer) -> None:
        """Have the notebook marked as trusted, as Jupyter does for notebooks that it ran itself."""
        if self._file is not None and (draft := self._file.draft()) is not None:
            signer.submit(draft)

    def close(self) -> None:
        """Stop recording in this file and remove its pid file."""
        if self._file is not None:
            self._file.release()

    def _write(self, cell: NotebookNode, title: str, *, finished: bool) -> None:
        self._write_text(cell.id, cell_json(cell), title, finished=finished)

    def _write_text(self, cell_id: str, text: bytes, title: str, *, finished: bool) -> None:
        if finished:
            self._backlog.append((cell_id, text))
        try:
            if self._file is not None and self._file.touched_by_others():
                log.warning(
                    "%s was changed by another program; recording continues in a new file.",
                    self._file.path,
                )
                self.close()
                self._file = None
            if self._file is None:
                self._file = self._new_file(title)
            while self._backlog:
                self._file.append(*self._backlog[0])
                self._backlog.pop(0)
            if not finished:
                self._file.append(cell_id, text, keep=False)
            self.problem = None
        except OSError as error:
            self.problem = f"{error.strerror or error} ({self.path or self.folder})"
            log.warning("A cell could not be recorded: %s", self.problem)
            while sum(len(waiting) for _, waiting in self._backlog) > BACKLOG_CAP:
                self._backlog.pop(0)

    def _new_file(self, title: str) -> NotebookFile:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = NotebookFile(new_path(self.folder, slug(title)), self.metadata, self._instance)
        try:
            file.claim()
            file.write(())
        except OSError:
            file.release()
            raise
        return file


def begin_with(file: NotebookFile, other: NotebookFile) -> None:
    """Begin a new file with the finished cells of another one.

    Raises:
        OSError: the other one can't be read, or the new one can't be written.
    """
    file.claim()
    file.write_copy_of(other)


def undone_cells(file: NotebookFile, since: int, found: list[int]) -> dict[str, bytes]:
    """The cells from a number on, marked as undone; adds their numbers to those `found`."""
    texts: dict[str, bytes] = {}
    for cell_id, before in file.newest_first():
        if (text := undone(before, since, found)) is None:
            break
        if text:
            texts[cell_id] = text
    return texts
