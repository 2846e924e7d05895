"""Finds recorded sessions on this machine: which there are, and the notebook of one.

Asks the server's command: only the server knows its settings, and what its notebooks say.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..terminal import span, write, write_message
from .options import server_module

MOST = 10  # max sessions named in a message


@dataclass(frozen=True)
class Record:
    """A recorded session.

    Attributes:
        session_id: the beginning of the session's id; empty for a notebook of another program.
        title: what ran.
        started: seconds since 1970.
        counts: how many cells have ended in each way, in the record's words.
        problem: why its notebook can't be read; empty if it can.
        cells: how many there are.
        is_open: whether a server is recording it.
    """

    session_id: str
    notebook: Path
    title: str
    started: float
    counts: dict[str, int]
    problem: str
    cells: int
    is_open: bool

    @property
    def name(self) -> str:
        """What `show` and `open` take: the beginning of the id, or the file's name."""
        return self.session_id or self.notebook.name


@dataclass(frozen=True)
class Records:
    """Recorded sessions, newest first.

    Attributes:
        folder: where sessions are recorded.
        count: how many there are in it.
        found: those that were asked for.
    """

    folder: Path
    count: int
    found: list[Record]


def read_records(last: int | None = None, find: str = "") -> Records:
    """The newest `last` sessions whose id or file name begins with `find`.

    Raises:
        SystemExit: the server's command failed, and has said why.
    """
    command = server_module("records", "" if last is None else str(last), find)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    head, *lines = map(json.loads, done.stdout.splitlines())
    return Records(Path(head["folder"]), head["count"], [record(line) for line in lines])


def record(line: dict[str, Any]) -> Record:
    """A session as the server's command prints it."""
    return Record(**{**line, "notebook": Path(line["notebook"])})


def find_notebook(session: str | None) -> Path:
    """The notebook of a session: by the beginning of its id or file name, or the file itself.

    Args:
        session: None for the newest session.

    Raises:
        SystemExit: there is none, or more than one; says which.
    """
    if session is not None and Path(session).is_file():
        return Path(session)
    records = read_records(1) if session is None else read_records(find=Path(session).name)
    if len(records.found) == 1:
        return records.found[0].notebook
    if not records.found:
        wanted = "No session" if session is None else f"No session {session!r}"
        hint = "" if session is None else " `rmi-agent sessions` lists them."
        write_message(f"{wanted} is recorded in {records.folder}.{hint}")
        sys.exit(1)
    lines = [
        f"  {one.name}  {one.title} ({span(time.time() - one.started)} ago, {one.notebook.name})"
        for one in records.found[:MOST]
    ]
    if len(records.found) > MOST:
        lines.append(f"  and {len(records.found) - MOST} more")
    write_message(f"{session!r} stands for several sessions:")
    write("stderr", "\n".join([*lines, ""]))
    sys.exit(1)
