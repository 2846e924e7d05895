"""The write-ahead journal of a notebook being recorded, and recovery after a crash.

A recorder overwrites the end of its file in place. It first writes the same bytes to the journal,
so that an interrupted write can be redone. The journal exists exactly as long as the notebook is
being recorded. Knows files; nothing of sessions.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat import NotebookNode

log = logging.getLogger(__name__)

JOURNAL_SUFFIX = ".open"


class Journal:
    """One notebook's journal: which process records the notebook, and its last write."""

    def __init__(self, notebook: Path, copy: str = "") -> None:
        self.path = notebook.with_name(f".{notebook.name}{JOURNAL_SUFFIX}")
        self._copy = copy  # of the server; its process may be on another machine

    def note(self, offset: int, data: bytes) -> None:
        """Record that `data` is about to be written at `offset`."""
        header = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "copy": self._copy,
            "offset": offset,
            "length": len(data),
            "crc": zlib.crc32(data),
        }
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            left = memoryview(json.dumps(header).encode() + b"\n" + data)
            while left:
                left = left[file.write(left) :]

    def remove(self) -> None:
        """Remove the journal, once the notebook is complete."""
        self.path.unlink(missing_ok=True)


def is_recorded(notebook: Path) -> bool:
    """Whether any running process is recording a notebook."""
    try:
        with Journal(notebook).path.open("rb") as file:
            note = parsed(file.readline(1_000))
        return bool(note) and alive(note)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def recover(folder: Path, copies: Container[str] = (), spared: Container[str] = ()) -> list[Path]:
    """Repair every notebook in a folder whose recorder crashed; returns the repaired ones.

    Notebooks that a running process is recording are left alone.

    Args:
        folder: the folder of the notebooks.
        copies: the living copies of the server, on any machine, if several share the folder.
        spared: names of further notebooks to leave alone, since another copy takes care of them.
    """
    mended = []
    for journal in folder.glob(f".*.ipynb{JOURNAL_SUFFIX}"):
        notebook = journal.with_name(journal.name[1 : -len(JOURNAL_SUFFIX)])
        try:
            with journal.open("rb") as file:
                note = parsed(file.readline(1_000))
            recorded = note.get("copy") in copies or (note and alive(note))
            if recorded or notebook.name in spared:
                continue
            if redone(notebook):
                close_cells(notebook)
                mended.append(notebook)
            journal.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            log.warning("%s could not be put right after a crash: %s", notebook, error)
    return mended


def redone(notebook: Path) -> bool:
    """Redo a crashed recorder's last write if needed; returns whether there is a notebook.

    Raises:
        OSError: the notebook can't be read or written.
        ValueError: the notebook can't be repaired.
    """
    try:
        header, _, data = Journal(notebook).path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return notebook.exists()
    notebook.with_name(f".{notebook.name}.tmp").unlink(missing_ok=True)
    if not notebook.exists():
        return False
    redo(notebook, parsed(header), data)
    return True


def parsed(header: bytes) -> dict[str, Any]:
    """Parse a journal's header; empty if the crash came while it was being written."""
    try:
        note = json.loads(header)
    except ValueError:
        return {}
    return note if isinstance(note, dict) and "pid" in note else {}


def alive(note: dict[str, Any]) -> bool:
    """Whether the process that wrote the journal is still running."""
    try:
        started: float = psutil.Process(note["pid"]).create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return abs(started - float(note["started"])) < 1  # the PID may have been reused


def redo(notebook: Path, note: dict[str, Any], data: bytes) -> None:
    """Redo the last write if it was interrupted, i.e. if the file is not valid JSON."""
    try:
        json.loads(notebook.read_bytes())
    except ValueError:
        data = data[: note.get("length", 0)]
        if not note or zlib.crc32(data) != note["crc"]:
            raise ValueError("its end is broken, and so is its journal") from None
        with notebook.open("r+b") as file:
            file.seek(note["offset"])
            file.write(data)
            file.truncate()


def is_open(cell: NotebookNode) -> bool:
    """Whether a recorded cell was started but did not finish."""
    return not cell.metadata.get("rmi_agent", {}).get("status")


def close_cells(notebook: Path) -> None:
    """Mark cells that were running at the crash as interrupted."""
    content = nbformat.read(notebook, as_version=4)
    running = [cell for cell in content.cells if is_open(cell)]
    for cell in running:
        record = cell.metadata.setdefault("rmi_agent", NotebookNode())
        record.update(status="interrupted", notes=["The server ended while this cell ran."])
    if running:
        temporary = notebook.with_name(f".{notebook.name}.tmp")
        temporary.write_text(nbformat.writes(content), "utf-8")
        temporary.chmod(0o600)
        temporary.replace(notebook)
