"""The descriptors of a forked kernel: what it would share with its parent becomes its own, or dead.

Executed in a template, like `setup.py`; knows Linux's descriptors, nothing of who uses them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Collection, Iterator
from typing import Any

LISTED = 50  # max descriptors that are listed
OPENED_AGAIN = (  # flags of an open file that are kept
    os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_DSYNC
)
PATH_ONLY = getattr(os, "O_PATH", 0)
PTMX, PTS = 5 * 256 + 2, range(136, 144)  # device of a terminal's master, major numbers of slaves


def user_descriptors(own: Collection[int]) -> list[int]:
    """The open descriptors that are not among our `own`, nor standard streams."""
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        numbers = map(int, os.listdir(folder))
        return sorted(n for n in numbers if n > 2 and n != folder and n not in own)
    finally:
        os.close(folder)


def lost_connections(own: Collection[int]) -> Iterator[str]:
    """The sockets, pipes and terminals of the user's, which a fork lacks; with peers if known."""
    for number in user_descriptors(own)[:LISTED]:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            kind = target.partition(":")[0]
            if kind == "pipe":
                yield f"pipe {number}"
            elif kind == "socket":
                yield f"socket {number}{peer_of(number)}"
            elif is_terminal(os.fstat(number)):
                yield f"terminal {number}"


def open_files(own: Collection[int]) -> Iterator[str]:
    """The paths of the user's open files that can be written to, which a fork shares."""
    for number in user_descriptors(own)[:LISTED]:
        with contextlib.suppress(OSError):
            writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if writable and stat.S_ISREG(os.fstat(number).st_mode):
                yield os.readlink(f"/proc/self/fd/{number}")


def peer_of(number: int) -> str:
    """Whom a socket is connected to, in words that follow its name; empty if nobody is known."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as end:
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f" that listens on {address_text(end.getsockname())}"
        peer = address_text(end.getpeername())
        return f" to {peer}" if peer else ""
    return ""


def address_text(address: Any) -> str:
    """A socket's address as people write it; empty if it has no name."""
    if isinstance(address, tuple):
        return ":".join(map(str, address[:2]))
    return address.decode("utf-8", "replace") if isinstance(address, bytes) else str(address)


def is_terminal(status: os.stat_result) -> bool:
    """Whether a descriptor is one end of a pseudo-terminal."""
    if not stat.S_ISCHR(status.st_mode):
        return False
    return os.major(status.st_rdev) in PTS or status.st_rdev == PTMX


def replace_shared(own: Collection[int]) -> list[str]:
    """Replace what a forked process shares with its parent, but for its `own` descriptors.

    Files are opened again at the same place, event queues are new and empty, and what had a peer
    reads as ended. Returns the paths of the files that stay shared, since they can't be opened.
    """
    dead, other = socket.socketpair()
    other.close()
    shared = []
    with dead:
        for number in user_descriptors({*own, dead.fileno()}):
            with contextlib.suppress(OSError):
                status, target = os.fstat(number), os.readlink(f"/proc/self/fd/{number}")
                if stat.S_ISREG(status.st_mode):
                    if not opened_again(number):
                        shared.append(target)
                elif target == "anon_inode:[eventpoll]":
                    with select.epoll() as fresh:
                        take_number(fresh.fileno(), number)
                elif is_terminal(status) or not is_of_path(status):
                    take_number(dead.fileno(), number)
    return shared


def is_of_path(status: os.stat_result) -> bool:
    """Whether a descriptor is of something without a peer: a folder or a device."""
    mode = status.st_mode
    return stat.S_ISDIR(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISLNK(mode)


def opened_again(number: int) -> bool:
    """Open a file again in place of a descriptor, so that its offset is this process's own."""
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    if flags & PATH_ONLY:  # it has no offset
        return True
    try:
        fresh = os.open(f"/proc/self/fd/{number}", flags & OPENED_AGAIN | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.lseek(fresh, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        take_number(fresh, number)
    finally:
        os.close(fresh)
    return True


def take_number(descriptor: int, number: int) -> None:
    """Duplicate a descriptor to the number of another one, which keeps its inheritance."""
    os.dup2(descriptor, number, inheritable=os.get_inheritable(number))
