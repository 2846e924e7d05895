"""Serving over HTTP: the port, the layers in front of the app, the tunnel, the figures.

Knows nothing of tools.
"""

from .serve import http, resident
from .tunnel import left_at_once

__all__ = [
    "http",
    "left_at_once",
    "resident",
]
