"""Which TCP port a family of processes listens on. Knows /proc; elsewhere the answer is none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from .family import Family

LISTENS = "0A"  # a socket's state in /proc/net/tcp


def port_held(family: Family, ports: Sequence[int]) -> int | None:
    """Which of these ports a process of the family listens on; None if none is, or off Linux."""
    family.refresh()
    by_socket: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{family.root}/net/{table}") as lines:
            for line in list(lines)[1:]:
                words = line.split()
                port = int(words[1].rpartition(":")[2], 16)
                if words[3] == LISTENS and port in ports:
                    by_socket[f"socket:[{words[9]}]"] = port
    for pid in family.pids if by_socket else ():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link in by_socket:
                        return by_socket[link]
    return None
