"""Sessions that several servers share: which of them has which, and who takes over.

A store holds the records; the rest of `kernels` knows only a `Directory` of sessions.
"""

from .leases import Homes
from .takeover import Shared

__all__ = [
    "Homes",
    "Shared",
]
