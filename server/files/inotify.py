"""inotify by ctypes: which files of watched folders were written, created, moved or deleted.

Knows descriptors and events; nothing of the folders' names. Linux only.

Sources: inotify(7), linux/inotify.h.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

if sys.platform != "win32":
    import fcntl
    import termios

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
OVERFLOW, IGNORED, IS_FOLDER = 0x4000, 0x8000, 0x4000_0000
ONLY_FOLDERS, NO_UNLINKED = 0x0100_0000, 0x0400_0000
WATCHED = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | ONLY_FOLDERS | NO_UNLINKED
EVENT = struct.Struct("iIII")


@dataclass(frozen=True)
class Event:
    """Something that happened in a watched folder.

    Attributes:
        watch: the folder's number.
        mask: what happened.
        cookie: the same for both ends of a move.
        name: of the file or folder.
    """

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One inotify instance.

    Raises:
        OSError: there is none on this system, or the user has too many.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def close(self) -> None:
        """Close it; its watches end."""
        os.close(self.handle)

    def watch(self, folder: int) -> int:
        """Watch a folder, given by its handle; returns the number that its events have.

        Raises:
            OSError: it can't be watched, or there are too many watches.
        """
        path = f"/proc/self/fd/{folder}".encode()  # by handle: whatever its name leads to by now
        return self._checked(self._libc.inotify_add_watch(self.handle, path, WATCHED))

    def forget(self, watch: int) -> None:
        """Watch a folder no more."""
        self._libc.inotify_rm_watch(self.handle, watch)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def waiting(self) -> bytes:
        """The events that have happened since the last call, for `events`; does not wait.

        Takes a microsecond if there are none, and a millisecond for as many as the system keeps.
        """
        size = array.array("i", [0])
        fcntl.ioctl(self.handle, termios.FIONREAD, size)
        parts: list[bytes] = []
        if not size[0]:
            return b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.handle, 1 << 20):
                parts.append(part)
        return b"".join(parts)


def events(data: bytes) -> Iterator[Event]:
    """The events that the bytes from inotify describe."""
    at = 0
    while at < len(data):
        watch, mask, cookie, length = EVENT.unpack_from(data, at)
        at += EVENT.size
        yield Event(watch, mask, cookie, os.fsdecode(data[at : at + length].rstrip(b"\0")))
        at += length
