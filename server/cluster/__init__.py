"""Servers that share sessions: checks that the settings allow it, and takes sessions over.

`kernels` knows where a session is.
"""

from .setup import homes
from .takeover import TakeoverMiddleware

__all__ = [
    "TakeoverMiddleware",
    "homes",
]
