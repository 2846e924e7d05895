"""Cells whose effects on the session are gone: it stepped back, or a copy from before took over.

They stay in the record, and nothing that runs the notebook again runs them: neither this server
nor nbclient and papermill, which skip cells with the tag `skip-execution`. Knows cells as nbformat
has them.
"""

from __future__ import annotations

import json
from typing import Any

from .cell_json import fields_json

SKIP = "skip-execution"


def mark_undone(cell: dict[str, Any], before: int = 0) -> None:
    """Note in a cell's metadata that it is undone.

    Args:
        cell: the cell.
        before: the cell to before which the session went back, if it did: a note says so.
    """
    metadata = cell["metadata"]
    record = metadata.setdefault("rmi_agent", type(metadata)())
    record["undone"] = True
    if before:
        note = f"Undone: the session went back to before cell {before}."
        record["notes"] = [*record.get("notes", ()), note]
    tags = metadata.get("tags")
    if not isinstance(tags, list):
        tags = metadata["tags"] = []
    if SKIP not in tags:
        tags.append(SKIP)


def undone_in(notebook: dict[str, Any]) -> list[int]:
    """The numbers of a notebook's cells that are undone."""
    numbers = [
        cell["metadata"]["rmi_agent"].get("cell") for cell in notebook["cells"] if is_undone(cell)
    ]
    return [number for number in numbers if type(number) is int]


def is_undone(cell: dict[str, Any]) -> bool:
    """Whether a cell of any notebook is marked as undone."""
    metadata = cell.get("metadata")
    record = metadata.get("rmi_agent") if isinstance(metadata, dict) else None
    return isinstance(record, dict) and record.get("undone") is True


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
