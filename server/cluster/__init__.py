"""Server instances that share sessions: checks their settings, and takes sessions over.

`kernels` knows where a session is.
"""

from .setup import shared_instances
from .takeover import TakeoverMiddleware

__all__ = [
    "TakeoverMiddleware",
    "shared_instances",
]
