"""Which TCP ports a family of processes listens on. Knows /proc; elsewhere the answer is none."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass

from .family import Family

LISTENS = "0A"  # a socket's state in /proc/net/tcp
WORD = 4  # bytes of an address that /proc/net/tcp has as one number


@dataclass(frozen=True, order=True)
class Listener:
    """A TCP port that a process listens on.

    Attributes:
        port: its number.
        address: the address that it is bound to, such as `127.0.0.1`, `0.0.0.0` or `::`.
        isolated: whether it is in a network of its own, which nobody outside can reach.
    """

    port: int
    address: str
    isolated: bool = False

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


def listeners(family: Family) -> list[Listener]:
    """The ports that processes of the family listen on, in order; none if off Linux."""
    by_socket = listening_sockets(family.root)
    if not by_socket:
        return []
    family.refresh()
    found: set[Listener] = set()
    for pid in family.pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link in by_socket:
                        found.add(by_socket[link])
    return sorted(found)


def listening_sockets(pid: int) -> dict[str, Listener]:
    """All listening sockets in the network of a process, by what /proc calls them."""
    found: dict[str, Listener] = {}
    isolated = is_isolated(pid)
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                words = line.split()
                if words[3] == LISTENS:
                    address, _, port = words[1].rpartition(":")
                    text = socket.inet_ntop(family, packed(address))
                    found[f"socket:[{words[9]}]"] = Listener(int(port, 16), text, isolated)
    return found


def packed(address: str) -> bytes:
    """An address as in /proc/net/tcp: numbers of four bytes, in the byte order of the machine."""
    whole = bytes.fromhex(address)
    words = (whole[at : at + WORD] for at in range(0, len(whole), WORD))
    return b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)


def is_isolated(pid: int) -> bool:
    """Whether a process has another network than this one."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False
