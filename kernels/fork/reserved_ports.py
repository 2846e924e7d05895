"""Ports that nobody else gets until a kernel listens on them.

jupyter_client looks for free ports and closes them again; until the kernel binds them, any program
may be given the same ones. Knows sockets; nothing of kernels.
"""

from __future__ import annotations

import socket
import sys

from .own_sockets import closed_after_fork

CAN_RESERVE = sys.platform == "linux"  # elsewhere, two sockets can't be bound to one port so


def reserved_port(ip: str) -> socket.socket:
    """A socket that is bound to a free TCP port and never listens: only to be closed.

    Linux lets another socket bind the same port if both have SO_REUSEADDR, as ZMQ's have, and none
    listens yet; it gives such a port to nobody who asks for any.

    Raises:
        OSError: there is no free port, or no such address.
    """
    reserving = closed_after_fork(socket.socket())
    try:
        reserving.bind((ip, 0))  # with the option, it might be given a port that is in use
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        reserving.close()
        raise
    return reserving
