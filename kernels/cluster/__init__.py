"""Sessions shared by several servers: which server has which session, and who takes over.

A store holds the leases; the rest of `kernels` knows only a `Directory` of sessions.
"""

from .instances import Instances
from .takeover import Takeover

__all__ = [
    "Instances",
    "Takeover",
]
