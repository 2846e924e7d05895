"""Which process records a notebook, and the repair of notebooks whose process crashed.

A pid file lies beside a notebook for exactly as long as the notebook is being recorded. Knows
files; nothing of sessions.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nbformat
import psutil
from nbformat import NotebookNode

from .cell_json import cell_json
from .layout import CELL, SEPARATOR, TAIL, head_json

log = logging.getLogger(__name__)

PID_FILE_SUFFIX = ".open"
KEYS = {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}  # of a code cell


def pid_file(notebook: Path) -> Path:
    """Where a notebook's pid file is."""
    return notebook.with_name(f".{notebook.name}{PID_FILE_SUFFIX}")


def write_pid_file(notebook: Path, instance: str = "") -> None:
    """Say that this process records a notebook.

    Args:
        notebook: the notebook.
        instance: the instance of the server, if several on several machines share the folder.
    """
    # "copy" is the instance, as files of running servers have it.
    owner = {"pid": os.getpid(), "started": started(os.getpid()), "copy": instance}
    descriptor = os.open(pid_file(notebook), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(json.dumps(owner).encode())


@functools.cache
def started(own_pid: int) -> float:
    """When this process was started, in seconds since 1970."""
    return psutil.Process(own_pid).create_time()


def is_recorded(notebook: Path) -> bool:
    """Whether any running process is recording a notebook."""
    try:
        return is_alive(owner_of(notebook))
    except OSError:
        return False


def is_claimed(notebook: Path) -> bool:
    """Whether a process here is recording a notebook, or one that may be on another machine."""
    try:
        owner = owner_of(notebook)
    except OSError:
        return False
    return bool(owner.get("copy")) or is_alive(owner)


def recover(
    folder: Path, instances: Container[str] = (), others: Container[str] = ()
) -> list[Path]:
    """Repair every notebook in a folder whose recorder crashed; returns the repaired ones.

    Notebooks that a running process is recording are left alone.

    Args:
        folder: the folder of the notebooks.
        instances: the live instances of the server, on any machine, if several share the folder.
        others: names of further notebooks to leave alone, since another instance repairs them.
    """
    repaired = []
    for path in folder.glob(f".*.ipynb{PID_FILE_SUFFIX}"):
        notebook = path.with_name(path.name[1 : -len(PID_FILE_SUFFIX)])
        try:
            owner = owner_of(notebook)
            if owner.get("copy") in instances or notebook.name in others or is_alive(owner):
                continue
            with contextlib.suppress(FileNotFoundError):  # the crash came before the first write
                repair(notebook)
                close_cells(notebook)
                repaired.append(notebook)
            path.unlink(missing_ok=True)
        except Exception as error:  # one broken file stops no server
            log.warning("%s could not be repaired after a crash: %s", notebook, error)
    return repaired


def owner_of(notebook: Path) -> dict[str, Any]:
    """What a notebook's pid file says; empty if it is incomplete."""
    with pid_file(notebook).open("rb") as file:
        try:
            owner = json.loads(file.readline(1_000))
        except ValueError:
            return {}
    return owner if isinstance(owner, dict) else {}


def is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote a pid file is still running."""
    try:
        started = psutil.Process(owner["pid"]).create_time()
        return abs(started - float(owner["started"])) < 1  # the PID may have been reused
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def repair(notebook: Path) -> None:
    """Repair the last cell if writing it was interrupted: its id and source are still there.

    A write that stops anywhere leaves the beginning of the new cell and the rest of the same cell
    as it was before it ran. Together they may even be valid JSON.

    Raises:
        OSError: the notebook can't be read or written, or there is none.
        ValueError: the notebook is broken elsewhere.
    """
    unfinished(notebook).unlink(missing_ok=True)
    content = notebook.read_bytes()
    with contextlib.suppress(ValueError, LookupError, TypeError):
        if all(map(is_whole, json.loads(content)["cells"][-1:])):
            return
    begin = content.rfind(CELL) + 1
    last = content[begin:].decode("utf-8", "surrogateescape")
    try:
        cell, end = json.JSONDecoder().raw_decode(last)
        last = last[:end] if is_whole(cell) else as_started(last)
    except ValueError:
        last = as_started(last)
    before = content[:begin] if last else content[:begin].rstrip(b",\n")
    whole = before + last.encode("utf-8", "surrogateescape") + TAIL
    json.loads(whole)
    with replacement(notebook) as file:
        file.write(whole)


def is_whole(cell: Any) -> bool:
    """Whether a cell has all its keys and no others; only code cells are ever torn."""
    if not isinstance(cell, dict):
        return False
    return cell.get("cell_type") in ("markdown", "raw") or cell.keys() == KEYS


def as_started(torn: str) -> str:
    """A torn cell as it was before it ran; empty if there is too little of it."""
    source, found, _ = torn.partition('"execution_count"')
    return source + '"execution_count": null, "outputs": [], "metadata": {}}' if found else ""


def is_open(cell: NotebookNode) -> bool:
    """Whether a recorded cell was started but did not finish."""
    return cell.cell_type == "code" and not cell.metadata.get("rmi_agent", {}).get("status")


def close_cells(notebook: Path) -> None:
    """Mark cells that were running at the crash as interrupted."""
    content = nbformat.read(notebook, as_version=4)
    running = [cell for cell in content.cells if is_open(cell)]
    for cell in running:
        record = cell.metadata.setdefault("rmi_agent", NotebookNode())
        record.update(status="interrupted", notes=["The server ended while this cell ran."])
    if running:
        # As a recorder lays it out: that tells records from what another program has saved.
        head = {name: content[name] for name in content if name != "cells"}
        with replacement(notebook) as file:
            file.write(head_json(head) + SEPARATOR.join(map(cell_json, content.cells)) + TAIL)


def unfinished(notebook: Path) -> Path:
    """Where a notebook is written that replaces another one."""
    return notebook.with_name(f".{notebook.name}.tmp")


@contextlib.contextmanager
def replacement(notebook: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces the notebook once it is completely written."""
    temporary = unfinished(notebook)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            yield file
        temporary.replace(notebook)
    finally:
        temporary.unlink(missing_ok=True)
