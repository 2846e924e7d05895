"""Serving over HTTP: the port, the layers in front of the app, the tunnel and the metrics.

Knows nothing about tools.
"""

from .serve import http, resident
from .tunnel import left_at_once

__all__ = [
    "http",
    "left_at_once",
    "resident",
]
