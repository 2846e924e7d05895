"""Ports for the programs that tests start."""

from __future__ import annotations

import atexit
import contextlib

from rmi_agent.kernels.fork.reserved_ports import CAN_RESERVE, reserved_port

_kept = contextlib.ExitStack()
atexit.register(_kept.close)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on; kept for this test's program."""
    reserving = reserved_port(host)
    port: int = reserving.getsockname()[1]
    if CAN_RESERVE:
        _kept.enter_context(reserving)
    else:
        reserving.close()
    return port
