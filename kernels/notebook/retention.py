"""Deletes notebooks: one that a person has chosen, or those whose last cell ran long ago.

Age is what a notebook itself records, since copies and backups change a file's times. What is not
certainly a record of ours, untouched by others, stays. Knows files; nothing of sessions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..regular_file import regular_file
from .layout import cells_in, read_head
from .recovery import is_claimed, pid_file, unfinished

log = logging.getLogger(__name__)

# A recorder's file names; a notebook that was renamed is somebody's own.
RECORDED = re.compile(r"(\d{8}-\d{6})-.+-[0-9a-f]{6}\.ipynb", re.S)
ZONES = 2 * 86_400.0  # seconds by which the local time in a file's name may be off
BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
TIMES = ("shell.execute_reply", "iopub.status.idle", "iopub.execute_input")


def delete_notebook(notebook: Path) -> bool:
    """Delete a notebook and what a crash may have left beside it; False if it is being recorded.

    Raises:
        OSError: it can't be deleted.
    """
    if is_claimed(notebook):
        return False
    notebook.unlink(missing_ok=True)
    for beside in (pid_file(notebook), unfinished(notebook)):
        beside.unlink(missing_ok=True)
    return True


def outdated_notebooks(
    folder: Path, seconds: float, stop: threading.Event | None = None
) -> Iterator[Path]:
    """The records in a folder whose last cell ran longer ago than `seconds`, the oldest first.

    Open ones, and those of crashed servers that were not repaired yet, are left out. Setting
    `stop` ends the search.
    """
    before = time.time() - seconds
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if stop is not None and stop.is_set():
            return
        found = RECORDED.fullmatch(name)
        notebook = folder / name
        if found is None or begun(found[1]) > before + ZONES or pid_file(notebook).exists():
            continue
        used = last_use(notebook)
        if used is not None and used < before and not pid_file(notebook).exists():
            yield notebook


def prune(folder: Path, seconds: float, stop: threading.Event | None = None) -> list[Path]:
    """Delete what `outdated_notebooks` finds; returns what was deleted.

    Several processes may do so at once. Blocks while it reads old notebooks: call it in a thread.
    """
    deleted = []
    for notebook in outdated_notebooks(folder, seconds, stop):
        try:
            if delete_notebook(notebook):
                deleted.append(notebook)
        except OSError as error:
            log.warning("%s could not be deleted: %s", notebook, error)
    return deleted


def begun(stamp: str) -> float:
    """The time in a file's name, in seconds since 1970; 0 if there is no such time."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.strptime(stamp, "%Y%m%d-%H%M%S").timestamp()
    return 0.0


def last_use(notebook: Path) -> float | None:
    """When the last cell of a record ended or began, in seconds since 1970.

    None if the notebook does not say so, is not one of ours, was saved by another program, or has
    code that no session ran.
    """
    with contextlib.suppress(*BROKEN):
        times = [0.0]
        for cell in cells_of_ours(notebook):
            own = cell["metadata"].get("rmi_agent")
            if cell["cell_type"] == "code" and not isinstance(own, dict):
                return None
            timing = cell["metadata"].get("execution", {})
            times += [moment(timing[name]) for name in TIMES if name in timing]
        return max(times) or None
    return None


def moment(text: str) -> float:
    """A recorded time, in seconds since 1970.

    Raises:
        ValueError: it is not a time.
    """
    return datetime.fromisoformat(text).timestamp()


def cells_of_ours(notebook: Path) -> Iterator[dict[str, Any]]:
    """The cells of a notebook that one of our recorders wrote, one by one.

    Raises:
        OSError: it can't be read.
        ValueError: it is not ours, or another program has saved it.
    """
    with (
        open(notebook, "rb", opener=regular_file) as file,
        contextlib.closing(cells_in(notebook)) as cells,
    ):
        for number, place in enumerate(cells):
            if number == 0:
                head = read_head(file, place.begin)
                if not isinstance(head["metadata"]["rmi_agent"]["session"], str):
                    raise ValueError("not ours")
            cell, _ = json.JSONDecoder().raw_decode(place.text.decode())
            yield cell
