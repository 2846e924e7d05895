"""Sessions: one kernel and one notebook each, with queued runs and a pool of warm kernels.

`Sessions` holds all open sessions and makes room for new ones.
"""

from .directory import Elsewhere, Peers
from .runs import Execution
from .pool import Pool
from .quotas import LOCAL
from .registry import ClosedSession, Sessions
from .rerun import Again, Resume
from .session import Config, Handover, Session

__all__ = [
    "LOCAL",
    "Again",
    "ClosedSession",
    "Config",
    "Elsewhere",
    "Execution",
    "Handover",
    "Peers",
    "Pool",
    "Resume",
    "Session",
    "Sessions",
]
