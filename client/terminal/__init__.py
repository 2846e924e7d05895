"""What a person sees: results with colours and pictures, and questions from the code.

Knows results and terminals; nothing about connections.
"""

from typing import TYPE_CHECKING

from .. import lazy
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

# Only a few commands need these, and the rich that they import.
__getattr__ = lazy.imports(
    __name__,
    {
        "notebook": ("parse_notebook", "show_recorded"),
        "table": ("Column", "megabytes", "show_table", "span"),
    },
)
