"""Sessions shared by several servers: which server has which session, and who takes over.

A store holds the records; the rest of `kernels` knows only a `Directory` of sessions.
"""

from .leases import SessionLeases
from .takeover import Takeover

__all__ = [
    "SessionLeases",
    "Takeover",
]
