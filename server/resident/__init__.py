"""The user's single background server, which stdio processes attach to over a Unix socket.

Finds it, and forwards all of a stdio process's requests to it.
"""

from typing import TYPE_CHECKING

from .. import lazy
from ..state_dir import record_file
from .discovery import check, check_caller, find_endpoint, resident_endpoint
from .endpoint import FACTS_PATH, RESTART, START, Caller, Facts
from .record import (
    POLL_INTERVAL,
    Record,
    born,
    check_supported,
    found,
    is_held,
    lease,
    local_socket,
    log_file,
    publish,
    recorded,
    withdraw,
)

if TYPE_CHECKING:
    from .proxy import ResidentProxy

__all__ = [
    "FACTS_PATH",
    "POLL_INTERVAL",
    "RESTART",
    "START",
    "Caller",
    "Facts",
    "Record",
    "ResidentProxy",
    "born",
    "check",
    "check_caller",
    "check_supported",
    "find_endpoint",
    "found",
    "is_held",
    "lease",
    "local_socket",
    "log_file",
    "publish",
    "record_file",
    "recorded",
    "resident_endpoint",
    "withdraw",
]

# Nothing else here needs FastMCP.
__getattr__ = lazy.imports(__name__, {"proxy": ("ResidentProxy",)})
