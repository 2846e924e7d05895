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
from collections.abc import Collection, Iterator, Sequence
from os import fstat, listdir, readlink  # cells may replace those of the module
from typing import Any

LISTED = 50  # max descriptors that are listed
OPENED_AGAIN = (  # flags of an open file that are kept
    os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_DSYNC
)
PATH_ONLY = getattr(os, "O_PATH", 0)
open_file = open  # cells may replace it
PTMX, PTS = 5 * 256 + 2, range(136, 144)  # device of a terminal's master, major numbers of slaves


def user_descriptors(own: Collection[int]) -> list[int]:
    """The open descriptors that are not among our `own`, nor standard streams."""
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        numbers = map(int, listdir(folder))
        return sorted(n for n in numbers if n > 2 and n != folder and n not in own)
    finally:
        os.close(folder)


def lost_connections(own: Collection[int]) -> Iterator[str]:
    """The sockets, pipes and terminals of the user's, which a fork lacks; with peers if known.

    Also timers, counters and watches that are descriptors.
    """
    for number in user_descriptors(own):
        with contextlib.suppress(OSError):
            status = fstat(number)
            if stat.S_ISFIFO(status.st_mode):
                yield f"pipe {number}"
            elif stat.S_ISSOCK(status.st_mode):
                yield f"socket {number}{peer_of(number)}"
            elif is_terminal(status):
                yield f"terminal {number}"
            elif not stat.S_ISREG(status.st_mode) and not is_of_path(status):
                kind = readlink(f"/proc/self/fd/{number}").rpartition(":")[2].strip("[]")
                if kind != "eventpoll" or awaits_something(number):
                    yield f"{kind} {number}"


def awaits_something(number: int) -> bool:
    """Whether an event queue has been told of descriptors."""
    with open_file(f"/proc/self/fdinfo/{number}") as info:
        return any(line.startswith("tfd:") for line in info)


def open_files(own: Collection[int]) -> Iterator[str]:
    """The paths of the user's open files that can be written to, which a fork shares."""
    for number in user_descriptors(own)[:LISTED]:
        with contextlib.suppress(OSError):
            writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if writable and stat.S_ISREG(fstat(number).st_mode):
                yield readlink(f"/proc/self/fd/{number}")


def positions_unlike(own: Collection[int]) -> Iterator[str]:
    """The files whose position a fork would not have as it is here.

    Those that can't be opened again, and those of which two descriptors share the position.
    """
    seen: dict[tuple[int, int, int], list[int]] = {}
    for number in user_descriptors(own):
        with contextlib.suppress(OSError):
            status = fstat(number)
            if not stat.S_ISREG(status.st_mode):
                continue
            try:
                os.close(open_again(number))
            except OSError:
                yield f"{readlink(f'/proc/self/fd/{number}')}, which can't be opened again"
                continue
            key = (status.st_dev, status.st_ino, os.lseek(number, 0, os.SEEK_CUR))
            if any(move_together(number, other) for other in seen.setdefault(key, [])):
                yield f"two descriptors with one position in {readlink(f'/proc/self/fd/{number}')}"
            seen[key].append(number)


def move_together(one: int, other: int) -> bool:
    """Whether two descriptors of a file, at the same position, share it."""
    position = os.lseek(one, 0, os.SEEK_CUR)
    os.lseek(one, position + 1, os.SEEK_SET)
    try:
        return os.lseek(other, 0, os.SEEK_CUR) != position
    finally:
        os.lseek(one, position, os.SEEK_SET)


def redirected(pipes: Sequence[int]) -> Iterator[str]:
    """The standard descriptors that are not as the kernel began; `pipes` are those of 1 and 2."""
    for number in range(3):
        try:
            status = fstat(number)
            if number == 0:
                same = stat.S_ISCHR(status.st_mode)
            else:
                same = not pipes or os.path.samestat(status, fstat(pipes[number - 1]))
        except OSError:
            same = False
        if not same:
            yield f"descriptor {number} redirected"


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
                status, target = fstat(number), readlink(f"/proc/self/fd/{number}")
                if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
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
    if fcntl.fcntl(number, fcntl.F_GETFL) & PATH_ONLY:  # it has no offset
        return True
    try:
        fresh = open_again(number)
    except OSError:
        return False
    try:
        os.lseek(fresh, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        take_number(fresh, number)
    finally:
        os.close(fresh)
    return True


def open_again(number: int) -> int:
    """Another descriptor of an open file, whose offset is apart.

    Raises:
        OSError: it can't be opened.
    """
    flags = fcntl.fcntl(number, fcntl.F_GETFL) & (OPENED_AGAIN | PATH_ONLY)
    return os.open(f"/proc/self/fd/{number}", flags | os.O_CLOEXEC)


def take_number(descriptor: int, number: int) -> None:
    """Duplicate a descriptor to the number of another one, which keeps its inheritance."""
    os.dup2(descriptor, number, inheritable=os.get_inheritable(number))
