"""What a person sees: results with colours and pictures, and questions from the code.

Knows results and terminals; nothing about connections.
"""

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
from .terminal import can_edit, colour, erase_starting, is_terminal, show_starting, write

__all__ = [
    "INDENT",
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
    "needs_more_lines",
    "read_line",
    "read_piece",
    "replacement_start",
    "show",
    "show_picture",
    "show_starting",
    "write",
]
