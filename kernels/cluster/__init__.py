"""Sessions that several servers share: which of them has which, and who takes over.

A store holds the records; the rest of `kernels` knows only a `Directory` of sessions.
"""

from .leases import SessionLeases
from .takeover import Takeover

__all__ = [
    "SessionLeases",
    "Takeover",
]
