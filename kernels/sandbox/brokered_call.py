"""Answers one system call that was handed over to the broker: checks its target, then makes it.

Allowed targets are files in writable places and processes of the same sandbox. Loaded by
`broker.py`, so it imports only the standard library and its neighbour.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .confine import checked, libc
else:
    from confine import checked, libc

STILL_WAITS = 0x40082102  # ioctl(2) request
AT_FDCWD, NO_FOLLOW, EMPTY_PATH = -100, 0x100, 0x1000
WORD = 0xFFFFFFFF
PATH_MAX = 4096
# Calls that target a process: indexes of its id and of a pointer, and the size pointed to.
PROCESSES: dict[str, tuple[int, int | None, int]] = {
    "sched_setaffinity": (0, 2, 0),
    "sched_setattr": (0, 1, 0),
    "sched_setparam": (0, 1, 4),
    "sched_setscheduler": (0, 2, 4),
    "setpriority": (1, None, 0),
    "ioprio_set": (1, None, 0),
}
TIMES = {"utime": "qq", "utimes": "4q", "futimesat": "4q", "utimensat": "4q"}
# Indexes of each call's folder, path and flags arguments; None if it has none.
PLACES: dict[str, tuple[int | None, int | None, int | None]] = {
    "chmod": (None, 0, None),
    "fchmod": (0, None, None),
    "fchmodat": (0, 1, None),
    "fchmodat2": (0, 1, 3),
    "chown": (None, 0, None),
    "lchown": (None, 0, None),
    "fchown": (0, None, None),
    "fchownat": (0, 1, 4),
    "utime": (None, 0, None),
    "utimes": (None, 0, None),
    "futimesat": (0, 1, None),
    "utimensat": (0, 1, 3),
}

# Paths that mean something else for each process.
SELF = re.compile(rb"/+proc/+(?:thread-)?self(/.*)$", re.DOTALL)
STANDARD = re.compile(rb"/+dev/+(fd|stdin|stdout|stderr)((?:/.*)?)$", re.DOTALL)
DESCRIPTORS = {b"fd": b"", b"stdin": b"/0", b"stdout": b"/1", b"stderr": b"/2"}


@dataclass(frozen=True)
class Call:
    """A system call waiting for its result: `struct seccomp_notif`."""

    id: int
    thread: int
    number: int
    name: str
    arguments: tuple[int, ...]


def nameless() -> set[int]:
    """Return the devices of unnamed pipes, sockets and memory, which nobody else can open.

    Excludes that of `eventfd` and similar, which share one inode across the whole machine.
    """
    made = [*os.pipe(), *(each.detach() for each in socket.socketpair()), os.memfd_create("it")]
    devices = {os.fstat(each).st_dev for each in made}
    for each in made:
        os.close(each)
    return devices


def answer(call: Call, listener: int, write: list[str], free: set[int]) -> int:
    """Make the call; return 0 or its errno."""

    def still_waits() -> None:
        # Otherwise the thread id may have been reused, and we read another process's memory.
        fcntl.ioctl(listener, STILL_WAITS, struct.pack("=Q", call.id))

    try:
        if call.name in PROCESSES:
            arguments = copied(call)
            still_waits()
            if not is_inside(call):
                return errno.EPERM
            checked(libc.syscall(call.number, *arguments), call.name)
            return 0
        opened = open_place(call)
        try:
            still_waits()
            named = os.fstat(opened).st_dev not in free
            if named and not within(os.readlink(f"/proc/self/fd/{opened}"), write):
                return errno.EPERM
            change(call, opened)
        finally:
            os.close(opened)
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


def is_inside(call: Call) -> bool:
    """Return whether the process or thread that a call targets belongs to this sandbox."""
    about = call.arguments[PROCESSES[call.name][0]] & WORD
    if os.path.exists(f"/proc/{call.thread}/task/{about}"):
        return True
    try:
        os.readlink(f"/proc/{about}/exe")
    except PermissionError:  # Landlock's answer for processes outside the sandbox
        return False
    except FileNotFoundError as error:
        raise OSError(errno.ESRCH, "no such process") from error
    return True


def copied(call: Call) -> list[Any]:
    """Return the arguments of a call that targets a process, with a copy of the data pointed to."""
    _, pointer, size = PROCESSES[call.name]
    arguments: list[Any] = [ctypes.c_long(signed(each)) for each in call.arguments]
    if pointer is not None:
        address = call.arguments[pointer]
        if call.name == "sched_setaffinity":
            size = call.arguments[1] & WORD
        elif call.name == "sched_setattr":
            (size,) = struct.unpack("=I", read_memory(call.thread, address, 4))
        if size > PATH_MAX:
            raise OSError(errno.E2BIG, "too long")
        # Maximum size: the length in the data may have changed in between.
        copy = read_memory(call.thread, address, size)
        arguments[pointer] = ctypes.create_string_buffer(copy, PATH_MAX)
    return arguments


def within(path: str, places: list[str]) -> bool:
    """Return whether a path is one of these places or inside one."""
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def open_place(call: Call) -> int:
    """Open the file that a call targets, as an O_PATH descriptor.

    Raises:
        OSError: there is no such file, or the caller is gone.
    """
    folder, path, flags = PLACES[call.name]
    flag = call.arguments[flags] & WORD if flags is not None else 0
    follow = not flag & NO_FOLLOW and call.name != "lchown"
    number = signed(call.arguments[folder]) if folder is not None else AT_FDCWD
    pointer = call.arguments[path] if path is not None else 0
    name = read_text(call.thread, pointer) if pointer else b""
    if not name:
        # NULL means the descriptor itself for utimensat only; an empty path needs AT_EMPTY_PATH.
        itself = path is None or flag & EMPTY_PATH
        if not itself and (pointer or call.name != "utimensat" or number == AT_FDCWD):
            raise OSError(errno.ENOENT if pointer else errno.EFAULT, "no path")
        return os.open(place_of(call.thread, number), os.O_PATH | os.O_CLOEXEC)
    name = as_the_caller(call.thread, name)
    from_ = os.open(place_of(call.thread, number), os.O_PATH | os.O_CLOEXEC)
    try:
        way = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        return os.open(name, way, dir_fd=from_)
    finally:
        os.close(from_)


def as_the_caller(thread: int, name: bytes) -> bytes:
    """Rewrite a thread's path so that `/proc/self` in it means that thread, not this process."""
    if found := STANDARD.match(name):
        name = b"/proc/self/fd%s%s" % (DESCRIPTORS[found[1]], found[2])
    if found := SELF.match(name):
        return b"/proc/%d%s" % (thread, found[1])
    return name


def place_of(thread: int, number: int) -> str:
    """Return the /proc link to a thread's open descriptor or to its working directory."""
    return f"/proc/{thread}/cwd" if number == AT_FDCWD else f"/proc/{thread}/fd/{number}"


def change(call: Call, opened: int) -> None:
    """Make the call on the file that was opened for it.

    Raises:
        OSError: the call failed.
    """
    itself, arguments = f"/proc/self/fd/{opened}".encode(), call.arguments
    if "chmod" in call.name:
        if stat.S_ISLNK(os.fstat(opened).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a link has no mode")
        mode = arguments[2 if "at" in call.name else 1] & 0o7777
        checked(libc.chmod(itself, mode), call.name)
    elif "chown" in call.name:
        first = 2 if call.name == "fchownat" else 1
        owner, group = (ctypes.c_uint32(arguments[each]) for each in (first, first + 1))
        checked(libc.fchownat(opened, b"", owner, group, EMPTY_PATH), call.name)
    else:
        at = arguments[1 if call.name in ("utime", "utimes") else 2]
        times = read_times(call, at) if at else None
        checked(libc.utimensat(opened, b"", times, EMPTY_PATH), call.name)


def read_times(call: Call, pointer: int) -> ctypes.Array[ctypes.c_int64]:
    """Convert the times a call points to into two `struct timespec`."""
    form = struct.Struct("=" + TIMES[call.name])
    read = form.unpack(read_memory(call.thread, pointer, form.size))
    if call.name == "utime":
        read = (read[0], 0, read[1], 0)
    elif call.name != "utimensat":  # those count microseconds
        read = (read[0], read[1] * 1000, read[2], read[3] * 1000)
    return (ctypes.c_int64 * 4)(*read)


def read_text(thread: int, pointer: int) -> bytes:
    """Read a path from a thread's memory.

    Raises:
        OSError: the address is bad, or the path too long.
    """
    read = b""
    while b"\0" not in read and len(read) < PATH_MAX:
        page = PATH_MAX - pointer % PATH_MAX  # the next page may not be mapped
        read += read_memory(thread, pointer, page)
        pointer += page
    text, end, _ = read.partition(b"\0")
    if not end or len(text) >= PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, "the path is too long")
    return text


def read_memory(thread: int, pointer: int, size: int) -> bytes:
    """Read `size` bytes of a thread's memory.

    Raises:
        OSError: nothing is mapped there.
    """
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = os.pread(memory, size, pointer)
    except (OverflowError, OSError) as error:
        raise OSError(errno.EFAULT, "bad address") from error
    finally:
        os.close(memory)
    if len(read) < size:
        raise OSError(errno.EFAULT, "bad address")
    return read


def signed(argument: int) -> int:
    """Interpret an argument as a C `int`."""
    return ctypes.c_int32(argument & WORD).value
