"""Make some system calls for processes that may not make them by themselves.

Landlock does not ask who changes the mode, owner and times of a file or the priority of a
process, and no filter of system calls sees which file or process that is. So the filter of this
program's child hands each such call over to this process, which looks at what it is about, and
makes it for files in places that may be changed and for processes of the same sandbox.

Run as a program by `sandbox.py`, behind `confine.py`: all that holds for the child holds here,
but for that one filter. Uses nothing but the standard library. Its arguments: JSON, with the
`filter` (hexadecimal), the `write`able places and the `calls` (number: name); and the command.

Sources: seccomp_unotify(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

SECCOMP = {"x86_64": 317, "aarch64": 277}  # the call's number
SET_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 1 << 3, 1 << 5
RECEIVE, ANSWER, STILL_WAITS = 0xC0502100, 0xC0182101, 0x40082102  # requests for ioctl(2)
NOTICE, REPLY = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
DEATH_SIGNAL, SUBREAPER = 1, 36  # of prctl(2)
AT_FDCWD, NO_FOLLOW, EMPTY_PATH = -100, 0x100, 0x1000
WORD = 0xFFFFFFFF
PATH_MAX = 4096
# Where each call that is about a process has its number, and what it points to, how long.
PROCESSES: dict[str, tuple[int, int | None, int]] = {
    "sched_setaffinity": (0, 2, 0),
    "sched_setattr": (0, 1, 0),
    "sched_setparam": (0, 1, 4),
    "sched_setscheduler": (0, 2, 4),
    "setpriority": (1, None, 0),
    "ioprio_set": (1, None, 0),
}
TIMES = {"utime": "qq", "utimes": "4q", "futimesat": "4q", "utimensat": "4q"}
# Where each call has its folder, path and flags; None is none.
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

# Names of what is each process's own.
SELF = re.compile(rb"/+proc/+(?:thread-)?self(/.*)$", re.DOTALL)
STANDARD = re.compile(rb"/+dev/+(fd|stdin|stdout|stderr)((?:/.*)?)$", re.DOTALL)
DESCRIPTORS = {b"fd": b"", b"stdin": b"/0", b"stdout": b"/1", b"stderr": b"/2"}

libc = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@dataclass(frozen=True)
class Call:
    """A system call that waits for its answer: `struct seccomp_notif`."""

    id: int
    thread: int
    number: int
    name: str
    arguments: tuple[int, ...]


def checked(result: int) -> int:
    """The result of a call of libc.

    Raises:
        OSError: it failed.
    """
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def hand_over(program: bytes) -> int:
    """Apply a filter to this process, for ever; a descriptor that its calls come from.

    Raises:
        OSError: the system won't.
    """
    given = Filter(len(program) // 8, program)
    number = SECCOMP[os.uname().machine]
    # So that a signal does not interrupt calls that have been taken; since Linux 5.19.
    flags = NEW_LISTENER | WAIT_KILLABLE
    listener = libc.syscall(number, SET_FILTER, flags, ctypes.byref(given))
    if listener < 0 and ctypes.get_errno() == errno.EINVAL:
        listener = libc.syscall(number, SET_FILTER, NEW_LISTENER, ctypes.byref(given))
    return checked(listener)


def nameless() -> set[int]:
    """The devices of pipes, sockets and memory without a name, which nobody else can open.

    Not that of `eventfd` and its like, which share one inode with the whole machine.
    """
    made = [*os.pipe(), *(each.detach() for each in socket.socketpair()), os.memfd_create("it")]
    devices = {os.fstat(each).st_dev for each in made}
    for each in made:
        os.close(each)
    return devices


def answer(call: Call, listener: int, write: list[str], free: set[int]) -> int:
    """Make the call; 0, or what is wrong with it."""

    def still_waits() -> None:
        # Else the thread's number may be another's by now, and so what was read.
        fcntl.ioctl(listener, STILL_WAITS, struct.pack("=Q", call.id))

    try:
        if call.name in PROCESSES:
            arguments = copied(call)
            still_waits()
            if not is_inside(call):
                return errno.EPERM
            checked(libc.syscall(call.number, *arguments))
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
    """Whether the process or thread that a call is about is of this sandbox."""
    about = call.arguments[PROCESSES[call.name][0]] & WORD
    if os.path.exists(f"/proc/{call.thread}/task/{about}"):
        return True
    try:
        os.readlink(f"/proc/{about}/exe")
    except PermissionError:  # which is how Landlock answers about all others
        return False
    except FileNotFoundError as error:
        raise OSError(errno.ESRCH, "no such process") from error
    return True


def copied(call: Call) -> list[Any]:
    """The arguments of a call about a process, and in them a copy of what they point to."""
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
        # As long as can be: what tells the length may have changed in between.
        copy = read_memory(call.thread, address, size)
        arguments[pointer] = ctypes.create_string_buffer(copy, PATH_MAX)
    return arguments


def within(path: str, places: list[str]) -> bool:
    """Whether it is one of these places or lies in one."""
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def open_place(call: Call) -> int:
    """A descriptor of the file that a call is about, which can do no more than name it.

    Raises:
        OSError: there is none, or the caller is gone.
    """
    folder, path, flags = PLACES[call.name]
    flag = call.arguments[flags] & WORD if flags is not None else 0
    follow = not flag & NO_FOLLOW and call.name != "lchown"
    number = signed(call.arguments[folder]) if folder is not None else AT_FDCWD
    pointer = call.arguments[path] if path is not None else 0
    name = read_text(call.thread, pointer) if pointer else b""
    if not name:
        # A path of NULL is the descriptor itself, for utimensat alone; an empty one needs a flag.
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
    """A path that leads from here to where it leads a thread, by its own `/proc/self`."""
    if found := STANDARD.match(name):
        name = b"/proc/self/fd%s%s" % (DESCRIPTORS[found[1]], found[2])
    if found := SELF.match(name):
        return b"/proc/%d%s" % (thread, found[1])
    return name


def place_of(thread: int, number: int) -> str:
    """The link to what a descriptor of a thread's leads to, or to its folder."""
    return f"/proc/{thread}/cwd" if number == AT_FDCWD else f"/proc/{thread}/fd/{number}"


def change(call: Call, opened: int) -> None:
    """Make the call, with the file that was opened for it.

    Raises:
        OSError: what the system says to it.
    """
    itself, arguments = f"/proc/self/fd/{opened}".encode(), call.arguments
    if "chmod" in call.name:
        if stat.S_ISLNK(os.fstat(opened).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a link has no mode")
        mode = arguments[2 if "at" in call.name else 1] & 0o7777
        checked(libc.chmod(itself, mode))
    elif "chown" in call.name:
        first = 2 if call.name == "fchownat" else 1
        owner, group = (ctypes.c_uint32(arguments[each]) for each in (first, first + 1))
        checked(libc.fchownat(opened, b"", owner, group, EMPTY_PATH))
    else:
        at = arguments[1 if call.name in ("utime", "utimes") else 2]
        times = read_times(call, at) if at else None
        checked(libc.utimensat(opened, b"", times, EMPTY_PATH))


def read_times(call: Call, pointer: int) -> ctypes.Array[ctypes.c_int64]:
    """Two `struct timespec`, from what the call has of times."""
    form = struct.Struct("=" + TIMES[call.name])
    read = form.unpack(read_memory(call.thread, pointer, form.size))
    if call.name == "utime":
        read = (read[0], 0, read[1], 0)
    elif call.name != "utimensat":  # they count microseconds
        read = (read[0], read[1] * 1000, read[2], read[3] * 1000)
    return (ctypes.c_int64 * 4)(*read)


def read_text(thread: int, pointer: int) -> bytes:
    """A path in a thread's memory.

    Raises:
        OSError: there is none.
    """
    read = b""
    while b"\0" not in read and len(read) < PATH_MAX:
        page = PATH_MAX - pointer % PATH_MAX  # the next one may not be there
        read += read_memory(thread, pointer, page)
        pointer += page
    text, end, _ = read.partition(b"\0")
    if not end or len(text) >= PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, "the path is too long")
    return text


def read_memory(thread: int, pointer: int, size: int) -> bytes:
    """Some bytes of a thread's memory.

    Raises:
        OSError: it has none there.
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
    """An argument that is an `int`."""
    return ctypes.c_int32(argument & WORD).value


def serve(listener: int, child: int, given: dict[str, Any]) -> NoReturn:
    """Answer calls until the child ends, then end as it did."""
    names = {int(number): name for number, name in given["calls"].items()}
    ended, free = os.pidfd_open(child), nameless()
    signal.signal(signal.SIGCHLD, lambda *_: reap_orphans(child))
    reap_orphans(child)  # those that ended before
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(ended, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if ended in ready:
            leave(os.waitpid(child, 0)[1])
        if ready.get(listener, 0) & select.POLLIN:
            serve_one(listener, names, given["write"], free)


def serve_one(listener: int, names: dict[int, str], write: list[str], free: set[int]) -> None:
    """Take one call and answer it; whose process has ended meanwhile needs no answer."""
    notice = bytearray(NOTICE.size)
    try:
        fcntl.ioctl(listener, RECEIVE, notice)
        id_, thread, _, number, _, _, *arguments = NOTICE.unpack(notice)
        call = Call(id_, thread, number, names[number], tuple(arguments))
        fcntl.ioctl(listener, ANSWER, REPLY.pack(id_, 0, -answer(call, listener, write, free), 0))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINTR):
            raise


def reap_orphans(child: int) -> None:
    """Take the exit codes of processes that have lost their parents."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == child:
            return
        os.waitpid(found.si_pid, 0)


def leave(status: int) -> NoReturn:
    """End as another process did, by its exit code or its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main() -> None:
    """Start the command with its calls handed over, and answer them."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        checked(libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != parent:
            os._exit(1)
        socket.send_fds(theirs, [b"0"], [hand_over(bytes.fromhex(given["filter"]))])
        theirs.close()
        os.execvp(command[0], command)
    theirs.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the rest of the process group
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    # Debugging one's descendants is allowed everywhere, so orphans have to stay some.
    checked(libc.prctl(SUBREAPER, 1, 0, 0, 0))
    _, received, _, _ = socket.recv_fds(ours, 1, 1)
    if not received:
        leave(os.waitpid(child, 0)[1])
    (listener,) = received
    for first, last in ((0, 2), (3, listener), (listener + 1, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(first, last)  # who is at their other ends waits for the child's end
    serve(listener, child, given)


if __name__ == "__main__":
    main()
