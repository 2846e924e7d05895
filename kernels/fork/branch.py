"""A kernel that was forked from another kernel: how its pid arrives, and its template adopts it.

Knows processes and sockets; nothing of Jupyter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from ..errors import CannotFork
from .forked_process import ForkedProcess
from .own_sockets import socket_pair
from .template import PASSES_PIDS, pids_of_sender


def report_of_branch() -> tuple[socket.socket, socket.socket]:
    """A connection on which a branch reports its pid, and the end that the branch is given."""
    ours, theirs = socket_pair()
    ours.setblocking(False)
    if PASSES_PIDS:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


async def adopted_branch(origin: ForkedProcess, report: socket.socket) -> ForkedProcess:
    """Wait for a branch's report, and let the template of its origin take charge of it.

    Raises:
        CannotFork: there is no branch, or it was killed since it could not be adopted.
    """
    pid, inner = await pids_of_sender(report)
    if pid <= 0 or inner <= 0 or origin.adopt is None:
        raise CannotFork("its process can't be seen from here")
    try:
        return await origin.adopt(pid, inner)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        raise
