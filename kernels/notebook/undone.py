"""Cells whose effects on the session are gone: it stepped back, or a copy from before took over.

They stay in the record, and nothing that runs the notebook again runs them: neither this server
nor nbclient and papermill, which skip cells with the tag `skip-execution`. Knows cells as nbformat
has them.
"""

from __future__ import annotations

from typing import Any

SKIP = "skip-execution"


def mark_undone(cell: dict[str, Any]) -> None:
    """Note in a recorded cell's metadata that it is undone."""
    metadata = cell["metadata"]
    metadata["rmi_agent"]["undone"] = True
    tags = metadata.get("tags")
    if not isinstance(tags, list):
        tags = metadata["tags"] = []
    if SKIP not in tags:
        tags.append(SKIP)


def is_undone(cell: dict[str, Any]) -> bool:
    """Whether a cell is marked as undone."""
    record = cell["metadata"].get("rmi_agent")
    return isinstance(record, dict) and record.get("undone") is True
