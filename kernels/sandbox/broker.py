"""Make some system calls on behalf of processes that may not make them directly.

Landlock does not check changes to a file's mode, owner and times or to a process's priority, and a
seccomp filter can't see which file or process is meant. So the filter of this program's child
hands each such call over to this process, which answers it: see `brokered_call.py`.

`command.py` runs this file as a program, started by `confine.py`: every restriction on the child
applies here too, except that one filter. Imports only the standard library and its neighbours.
Arguments: JSON with the `filter` (hexadecimal), the places to `write` and the `calls` (number:
name); then the command.

Sources: seccomp_unotify(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING or __package__:
    from .brokered_call import Call, answer, nameless
    from .confine import Filter, checked, libc
else:  # a program, whose folder is not in `sys.path`, nor can it be listed in the sandbox
    for name in ("confine", "brokered_call"):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    from brokered_call import Call, answer, nameless
    from confine import Filter, checked, libc

SECCOMP = {"x86_64": 317, "aarch64": 277}  # number of seccomp(2)
SET_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 1 << 3, 1 << 5
RECEIVE, ANSWER = 0xC0502100, 0xC0182101  # ioctl(2) requests
NOTICE, REPLY = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
DEATH_SIGNAL, SUBREAPER = 1, 36  # for prctl(2)
WAKINGS = 4096  # signals to take note of at once


def hand_over(program: bytes) -> int:
    """Apply a filter to this process, irrevocably; return the descriptor that delivers its calls.

    Raises:
        OSError: the system refused.
    """
    given = Filter(len(program) // 8, program)
    number = SECCOMP[os.uname().machine]
    # Keeps signals from interrupting calls we have already received; since Linux 5.19.
    flags = NEW_LISTENER | WAIT_KILLABLE
    listener = libc.syscall(number, SET_FILTER, flags, ctypes.byref(given))
    if listener < 0 and ctypes.get_errno() == errno.EINVAL:
        listener = libc.syscall(number, SET_FILTER, NEW_LISTENER, ctypes.byref(given))
    return checked(listener, "seccomp")


def serve(listener: int, child: int, given: dict[str, Any]) -> NoReturn:
    """Answer calls until the child exits, then exit the same way."""
    names = {int(number): name for number, name in given["calls"].items()}
    ended, free = os.pidfd_open(child), nameless()
    # Orphans are reaped below: a handler of SIGCHLD may be interrupted by the next one.
    woken, waking = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reap_orphans(child)  # those that exited before the handler was set
    waiting = select.poll()
    for descriptor in (listener, ended, woken):
        waiting.register(descriptor, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if woken in ready:
            os.read(woken, WAKINGS)
            reap_orphans(child)
        if ended in ready:
            leave(os.waitpid(child, 0)[1])
        if ready.get(listener, 0) & select.POLLIN:
            serve_one(listener, names, given["write"], free)


def serve_one(listener: int, names: dict[int, str], write: list[str], free: set[int]) -> None:
    """Receive and answer one call; ignore it if its process has ended meanwhile."""
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
    """Reap orphaned processes that have exited."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == child:
            return
        os.waitpid(found.si_pid, 0)


def leave(status: int) -> NoReturn:
    """Exit as another process did, with its exit code or by its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main() -> None:
    """Start the command with its calls handed over to us, and answer them."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    parent_end, child_end = socket.socketpair()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        parent_end.close()
        checked(libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "death signal")
        if os.getppid() != parent:
            os._exit(1)
        socket.send_fds(child_end, [b"0"], [hand_over(bytes.fromhex(given["filter"]))])
        child_end.close()
        os.execvp(command[0], command)
    child_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the rest of the process group
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    # Every system lets us trace our descendants, so orphans must remain descendants.
    checked(libc.prctl(SUBREAPER, 1, 0, 0, 0), "subreaper")
    _, received, _, _ = socket.recv_fds(parent_end, 1, 1)
    if not received:
        leave(os.waitpid(child, 0)[1])
    (listener,) = received
    for first, last in ((0, 2), (3, listener), (listener + 1, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(first, last)  # readers at the other ends wait for the child's exit
    serve(listener, child, given)


if __name__ == "__main__":
    main()
