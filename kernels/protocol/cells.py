"""Makes the cells of a record; knows nbformat only."""

from __future__ import annotations

from nbformat import NotebookNode
from nbformat.corpus.words import generate_corpus_id


def new_cell(source: str = "") -> NotebookNode:
    """Make a code cell, as nbformat's `new_code_cell`, which takes 0.5 ms to validate it."""
    return NotebookNode(
        id=generate_corpus_id(),
        cell_type="code",
        metadata=NotebookNode(),
        execution_count=None,
        source=source,
        outputs=[],
    )
