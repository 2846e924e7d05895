"""Sessions: one kernel and one notebook each, their runs in order, their pool of warm kernels.

`Sessions` holds all that are open, and makes room for new ones.
"""

from .directory import Elsewhere, Known
from .execution import Execution
from .pool import Pool
from .quotas import LOCAL
from .registry import Ended, Sessions
from .rerun import Again, Resume
from .session import Begun, Config, Session

__all__ = [
    "LOCAL",
    "Again",
    "Begun",
    "Config",
    "Elsewhere",
    "Ended",
    "Execution",
    "Known",
    "Pool",
    "Resume",
    "Session",
    "Sessions",
]
