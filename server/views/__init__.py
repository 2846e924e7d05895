"""A mimebundle as a model can read it: the best text, a chart in words, a picture that fits.

Knows MIME types; nothing of runs, sessions or MCP. Whatever parses somebody's HTML or pictures runs
in a process of its own (`worker.py`).
"""

from .best_text import best_text, is_simple
from .pictures import Picture, dimensions, fitted, has_picture, picture_of, type_of
from .worker import Worker

__all__ = [
    "Picture",
    "Worker",
    "best_text",
    "dimensions",
    "fitted",
    "has_picture",
    "is_simple",
    "picture_of",
    "type_of",
]
