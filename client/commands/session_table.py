"""The table of `rmi-agent sessions`: those of a server, and those on record here.

Knows what is shown of a session; nothing about how a server is reached.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from ..terminal import Column, is_terminal, megabytes, show_table, span, write, write_message
from .records import Record, Records

COLUMNS = (
    Column("SESSION"),
    Column("WHAT RAN", shortened=True),
    Column("CELLS", least_width=60, right=True),
    Column("STATE"),
    Column("AGE", least_width=50, right=True),
    Column("MEMORY", least_width=80, right=True),
    Column("NOTEBOOK", least_width=150),
)
STYLES = {"busy": "yellow", "idle": "green", "open": "green", "ok": ""}
# How cells end, in the record's words and for people.
ENDS = {"error": "error", "timeout": "timed out", "dead": "kernel died"}


@dataclass(frozen=True)
class Row:
    """A session, open or closed; `age` is in seconds, and None if unknown, as is `memory`."""

    session_id: str
    title: str
    cells: int
    state: str
    age: float | None
    memory: int | None
    notebook: str

    def cells_of_table(self) -> list[str | Text]:
        """What the table has of it, in the order of `COLUMNS`."""
        style = STYLES.get(self.state.partition(" ")[0], "red")
        return [
            self.session_id,
            self.title,
            str(self.cells),
            Text(self.state, style),
            "" if self.age is None else span(self.age),
            "" if self.memory is None else megabytes(self.memory),
            self.notebook,
        ]


def open_row(row: dict[str, Any], record: Record | None) -> Row:
    """A session that is open in a server, from the server's list and its record here, if any."""
    notebook = row["notebook"] or ""
    state = "busy" if row["state"] == "busy" else f"idle {span(row['idle_seconds'])}"
    if (program := row.get("background")) is not None:
        state = "busy"
        ports = ", ".join(map(str, program["ports"]))
        state += f" on port {ports}" if ports else ""
    return Row(
        session_id=row["session_id"],
        title=row.get("title") or (record.title if record else file_name(notebook)),
        cells=row["cells"],
        state=state,
        age=time.time() - record.started if record else row.get("age_seconds"),
        memory=row["memory_bytes"],
        notebook=file_name(notebook),
    )


def outcome(record: Record) -> str:
    """How a session's cells ended: `ok`, or how many did not end well, and how."""
    if record.problem:
        return "unreadable"
    bad = [(ENDS.get(s, s), count) for s, count in record.counts.items() if s != "ok"]
    if record.cells == 1 and bad:
        return bad[0][0]
    return ", ".join(f"{count} {how}" for how, count in bad) or "ok"


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def recorded_row(record: Record) -> Row:
    """A session that is closed, or open in a server that we don't ask."""
    return Row(
        session_id=record.name,
        title=record.title,
        cells=record.cells,
        state="open" if record.is_open else outcome(record),
        age=time.time() - record.started,
        memory=None,
        notebook=record.notebook.name,
    )


def show_sessions(rows: list[dict[str, Any]], records: Records | None) -> None:
    """Print the table: the open sessions first, then the recorded ones.

    Args:
        rows: of `list_sessions`.
        records: None if the server is not on this machine.
    """
    found = {} if records is None else {str(one.notebook): one for one in records.found}
    open_here = [open_row(row, found.pop(row["notebook"] or "", None)) for row in rows]
    shown = [*open_here, *map(recorded_row, found.values())]
    if not shown:
        where = "" if records is None else f", and none is recorded in {records.folder}"
        write("stdout", f"No session is open{where}.\n")
        return
    show_table(COLUMNS, [row.cells_of_table() for row in shown])
    if records is not None and is_terminal(sys.stdout):
        left = records.count - len(records.found)
        more = f" ({left:,} more: --all)" if left > 0 else ""
        write_message(f"\nRecorded in {records.folder}{more}")
        write_message("`rmi-agent show SESSION` prints one.")
