"""What a person sees: results with colours and pictures, and questions from the code.

Knows results and terminals; nothing about connections.
"""

import importlib
from typing import TYPE_CHECKING

from .input_text import (
    INDENT,
    Incomplete,
    completion_context,
    help_request,
    indentation,
    needs_more_lines,
    replacement_start,
)
from .keyboard import read_line, read_piece
from .pictures import show_picture
from .questions import Questions, ask
from .screen import Screen, exit_code, show
from .terminal import (
    can_edit,
    colour,
    erase_starting,
    is_terminal,
    is_unicode,
    show_starting,
    write,
    write_message,
    write_text,
    write_traceback,
)

if TYPE_CHECKING:
    from .notebook import parse_notebook, show_recorded
    from .table import Column, megabytes, show_table, span

# Each with its module: only a few commands need these, and the rich that they import.
_HOMES = {
    "parse_notebook": "notebook",
    "show_recorded": "notebook",
    "Column": "table",
    "megabytes": "table",
    "show_table": "table",
    "span": "table",
}

__all__ = [
    "INDENT",
    "Column",
    "Incomplete",
    "Questions",
    "Screen",
    "ask",
    "can_edit",
    "colour",
    "completion_context",
    "erase_starting",
    "exit_code",
    "help_request",
    "indentation",
    "is_terminal",
    "is_unicode",
    "megabytes",
    "needs_more_lines",
    "parse_notebook",
    "read_line",
    "read_piece",
    "replacement_start",
    "show",
    "show_picture",
    "show_recorded",
    "show_starting",
    "show_table",
    "span",
    "write",
    "write_message",
    "write_text",
    "write_traceback",
]


def __getattr__(name: str) -> object:
    """Import what most commands don't need on first access."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found  # later accesses skip this function
    return found
