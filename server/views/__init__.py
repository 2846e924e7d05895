"""A mimebundle as a model can read it: the best text, a chart in words, a picture that fits.

Knows MIME types; nothing of runs, sessions or MCP. Whatever parses somebody's HTML or pictures runs
in a process of its own (`worker.py`).
"""

from .best_text import best_text, is_simple
from .pictures import NO_ROOM, Picture, dimensions, drawn, fitted, is_drawable, picture_of, type_of
from .worker import Allowance, Reader, Worker

__all__ = [
    "NO_ROOM",
    "Allowance",
    "Picture",
    "Reader",
    "Worker",
    "best_text",
    "dimensions",
    "drawn",
    "fitted",
    "is_drawable",
    "is_simple",
    "picture_of",
    "type_of",
]
