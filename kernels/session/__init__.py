"""Sessions: one kernel and one notebook each, with queued runs and a pool of warm kernels.

`Sessions` holds all open sessions and makes room for new ones.
"""

from ..principals import LOCAL
from .closed_sessions import ClosedSession
from .config import Config, Failed, Handover, no_hint
from .directory import Directory, Elsewhere, Peers
from .environment_list import EnvironmentSummary
from .notebook_run import NotebookRun
from .pool import Pool
from .registry import Sessions
from .rerun import Again, Resume
from .runs import Execution
from .series import Series
from .session import Session
from .stepping_back import Restored

__all__ = [
    "LOCAL",
    "Again",
    "ClosedSession",
    "Config",
    "Directory",
    "Elsewhere",
    "EnvironmentSummary",
    "Execution",
    "Failed",
    "Handover",
    "NotebookRun",
    "Peers",
    "Pool",
    "Restored",
    "Resume",
    "Series",
    "Session",
    "Sessions",
    "no_hint",
]
