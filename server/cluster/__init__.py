"""Server instances that share sessions: checks their settings, and takes sessions over.

Knows settings and MCP calls; nothing about leases or the store, which are in `kernels/cluster`.
"""

from .setup import shared_instances
from .takeover import TakeoverMiddleware

__all__ = [
    "TakeoverMiddleware",
    "shared_instances",
]
