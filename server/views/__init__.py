"""A mimebundle as a model can read it: the best text, a chart in words, a picture that fits.

Knows MIME types; nothing of runs, sessions or MCP. Whatever parses somebody's HTML or pictures runs
in a process of its own (`worker.py`).
"""

from .best_text import best_text, is_simple
from .pictures import PICTURE_TYPES
from .worker import Worker

__all__ = [
    "PICTURE_TYPES",
    "Worker",
    "best_text",
    "is_simple",
]
