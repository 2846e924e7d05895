"""Makes the cells of a record; knows nbformat only."""

from __future__ import annotations

import secrets

from nbformat import NotebookNode


def new_cell(source: str = "") -> NotebookNode:
    """Make a code cell, as nbformat's `new_code_cell`, which takes 0.5 ms to validate it."""
    return NotebookNode(
        id=secrets.token_hex(4),
        cell_type="code",
        metadata=NotebookNode(),
        execution_count=None,
        source=source,
        outputs=[],
    )
