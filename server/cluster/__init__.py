"""Several servers that share sessions: whether the settings allow it, and taking sessions over.

Where a session is, is for `kernels` to say.
"""

from .setup import homes
from .takeover import TakeoverMiddleware

__all__ = [
    "TakeoverMiddleware",
    "homes",
]
