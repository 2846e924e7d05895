"""Server instances that share sessions: checks their settings, and takes sessions over.

`kernels` knows where a session is.
"""

from .setup import session_leases
from .takeover import TakeoverMiddleware

__all__ = [
    "TakeoverMiddleware",
    "session_leases",
]
