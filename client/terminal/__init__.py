"""What a person sees: results with colours and pictures, and questions from the code.

Knows results and terminals; nothing about connections.
"""

from .input_text import (
    INDENT,
    Incomplete,
    asked_about,
    indentation,
    replaced_from,
    shown_to_completion,
    wants_a_line,
)
from .pictures import show_picture
from .questions import Questions, ask
from .screen import Screen, exit_code, recorded, show
from .terminal import can_edit, colour, is_terminal, write

__all__ = [
    "INDENT",
    "Incomplete",
    "Questions",
    "Screen",
    "ask",
    "asked_about",
    "can_edit",
    "colour",
    "exit_code",
    "indentation",
    "is_terminal",
    "recorded",
    "replaced_from",
    "show",
    "show_picture",
    "shown_to_completion",
    "wants_a_line",
    "write",
]
