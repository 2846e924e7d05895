"""Run a command with less: limits, capabilities, files (Landlock), system calls (seccomp).

Run as a program by `sandbox.py`, inside the sandbox and in the kernels' own interpreter, so
it uses nothing but the standard library. Everything holds for all that the command starts.

Its arguments: JSON (see `Sandbox.given_up`) and the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
from collections.abc import Iterable
from typing import Any

# Numbers of system calls and flags from linux/landlock.h; the same on all architectures.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # asks CREATE_RULESET for the newest version that it knows
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = 1 << 6 | 1 << 11  # making those
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
# Everything about files that a version can forbid: bits 0 to 12, then one more with each.
HANDLED = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
CONNECT_TCP = 2
SCOPED = 3  # to one's own: abstract sockets and signals
TRUNCATION_HANDLED = 3  # the first version that does so, of Linux 6.2
SIGNALS_SCOPED = 6  # the first version that does so, of Linux 6.12
NO_NEW_PRIVS, DROP_FROM_BOUNDING_SET, SET_SECCOMP, SECCOMP_FILTER = 38, 24, 22, 2  # of prctl(2)
NEW_MOUNTS = 0x20000  # of unshare(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, SLAVE = 1, 32, 4096, 1 << 14, 1 << 19  # of mount(2)
KEPT = 2 | 4 | 8  # what statvfs(3) and mount(2) have in common: no set-id, devices, programs
CAPABILITIES = 64  # more than there are
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def checked(result: int, what: str) -> int:
    """The result of a call of libc.

    Raises:
        OSError: it failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def landlock_version() -> int:
    """The newest version of Landlock here; 0 where there is none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)))


def landlock(read: Iterable[str], write: Iterable[str], network: bool) -> None:
    """Let this process see and change nothing but these folders and files, for ever.

    Raises:
        OSError: the system won't.
    """
    version = landlock_version()
    handled = (1 << HANDLED.get(version, 16)) - 1
    rules = Ruleset(handled, 0, 0)
    if version >= 4 and not network:
        rules.net = CONNECT_TCP  # kernels listen on a port of their own
    if version >= SIGNALS_SCOPED:
        rules.scoped = SCOPED
    size = ctypes.c_size_t(24 if version >= SIGNALS_SCOPED else 16 if version >= 4 else 8)
    ruleset = checked(libc.syscall(CREATE_RULESET, ctypes.byref(rules), size, 0), "landlock")
    try:
        for paths, allowed in ((read, READ), (write, handled & ~DEVICES)):
            for path in paths:
                allow(ruleset, path, allowed & handled)
        checked(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock")
    finally:
        os.close(ruleset)


def allow(ruleset: int, path: str, allowed: int) -> None:
    """Add a rule; what does not exist needs none."""
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = Beneath(allowed if os.path.isdir(path) else allowed & OF_FILES, parent)
        added = libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        checked(added, f"landlock: {path}")
    finally:
        os.close(parent)


def filter_calls(program: bytes) -> None:
    """Forbid system calls, by a program for seccomp, for ever.

    Raises:
        OSError: the system won't.
    """
    given = Filter(len(program) // 8, program)
    filtered = libc.prctl(SET_SECCOMP, SECCOMP_FILTER, ctypes.byref(given), 0, 0)
    checked(filtered, "seccomp")


def drop_capabilities() -> None:
    """Be no more than an ordinary user, also as root, for ever.

    Raises:
        OSError: the system won't.
    """
    for number in range(CAPABILITIES):  # fails for those that are not there, or not ours
        libc.prctl(DROP_FROM_BOUNDING_SET, number, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    checked(libc.capset(head, (ctypes.c_uint32 * 6)()), "capset")
    checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, by their names in `resource`, never above those that hold."""
    for name, most in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (value, value))


def end_sooner(oom_score: int) -> None:
    """Be ended before others when memory runs out."""
    with open("/proc/self/oom_score_adj") as score:
        if int(score.read()) >= oom_score:
            return
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write(str(oom_score))


def show_read_only(paths: Iterable[str]) -> None:
    """Let this process see some files of the system as on a disk that can only be read.

    Devices can be written to all the same, but root can't change their modes any more. A root
    without the right to mount, as in a container, goes without (see `keeps_devices`).
    """
    with contextlib.suppress(OSError):
        checked(libc.unshare(NEW_MOUNTS), "mounts of one's own")
        # Without this nothing may be mounted: the system would have it, too.
        checked(libc.mount(None, b"/", None, RECURSIVE | SLAVE, None), "mounts of one's own")
        for path in map(os.fsencode, filter(os.path.exists, paths)):
            checked(libc.mount(path, path, None, BIND, None), os.fsdecode(path))
            kept = os.statvfs(path).f_flag & KEPT  # a container's root may not take those away
            flags = BIND | REMOUNT | READ_ONLY | kept
            checked(libc.mount(None, path, None, flags, None), os.fsdecode(path))


def give_up(given: dict[str, Any]) -> None:
    """Give up what these words say."""
    limit(given["limits"])
    drop_capabilities()
    if files := given["landlock"]:
        landlock(files["read"], files["write"], files["network"])
    if given["filter"]:
        filter_calls(bytes.fromhex(given["filter"]))


def main() -> None:
    """Do what the first argument says, then become the command."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    if "oom_score" in given:
        end_sooner(given["oom_score"])
    if "read_only" in given:
        show_read_only(given["read_only"])
    if "given_up" in given:
        give_up(given["given_up"])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
