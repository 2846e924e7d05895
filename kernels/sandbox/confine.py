"""Confine a command: resource limits, capabilities, files (Landlock), system calls (seccomp).

`command.py` runs this file as a program, inside the sandbox too, so it imports nothing but the
standard library. All restrictions also apply to the command's child processes.

Arguments: JSON (see `given_up` in `command.py`), then the command.
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

# System call numbers, and flags from linux/landlock.h; the same on all architectures.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # makes CREATE_RULESET return the newest version it supports
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = 1 << 6 | 1 << 11  # creating character and block devices
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
# By Landlock version: how many file access rights it can restrict (bits 0 to 12, then more).
HANDLED = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
CONNECT_TCP = 2
SCOPED = 3  # confine abstract sockets and signals to our own processes
TRUNCATION_HANDLED = 3  # first version that restricts truncation (Linux 6.2)
SIGNALS_SCOPED = 6  # first version that confines signals (Linux 6.12)
NO_NEW_PRIVS, DROP_FROM_BOUNDING_SET, SET_SECCOMP, SECCOMP_FILTER = 38, 24, 22, 2  # for prctl(2)
NEW_MOUNTS = 0x20000  # for unshare(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, SLAVE = 1, 32, 4096, 1 << 14, 1 << 19  # for mount(2)
KEPT = 2 | 4 | 8  # flags that statvfs(3) and mount(2) share: nosuid, nodev, noexec
CAPABILITIES = 64  # upper bound on capability numbers
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
    """Return a libc call's result.

    Raises:
        OSError: the call failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def landlock_version() -> int:
    """Return the newest Landlock version this kernel supports; 0 if none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)))


def landlock(read: Iterable[str], write: Iterable[str], network: bool) -> None:
    """Restrict this process to these folders and files, irrevocably.

    Raises:
        OSError: the system refused.
    """
    version = landlock_version()
    handled = (1 << HANDLED.get(version, 16)) - 1
    rules = Ruleset(handled, 0, 0)
    if version >= 4 and not network:
        rules.net = CONNECT_TCP  # not BIND_TCP: kernels listen on ports of their own
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
    """Add a rule for a path; skip paths that do not exist."""
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
    """Apply a seccomp program to this process, irrevocably.

    Raises:
        OSError: the system refused.
    """
    given = Filter(len(program) // 8, program)
    filtered = libc.prctl(SET_SECCOMP, SECCOMP_FILTER, ctypes.byref(given), 0, 0)
    checked(filtered, "seccomp")


def drop_capabilities() -> None:
    """Drop all capabilities irrevocably, so that even root is an ordinary user.

    Raises:
        OSError: the system refused.
    """
    for number in range(CAPABILITIES):  # fails for unknown ones and those we lack
        libc.prctl(DROP_FROM_BOUNDING_SET, number, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    checked(libc.capset(head, (ctypes.c_uint32 * 6)()), "capset")
    checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, named as in `resource`, but never above the current hard limits."""
    for name, most in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (value, value))


def end_sooner(oom_score: int) -> None:
    """Make the OOM killer prefer this process over others."""
    with open("/proc/self/oom_score_adj") as score:
        if int(score.read()) >= oom_score:
            return
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write(str(oom_score))


def show_read_only(paths: Iterable[str]) -> None:
    """Mount some system files read-only, for this process and its children alone.

    Devices remain writable, but root can no longer change their modes. Does nothing where root may
    not mount, as in a container (see `keeps_devices`).
    """
    with contextlib.suppress(OSError):
        checked(libc.unshare(NEW_MOUNTS), "mounts of one's own")
        # Mounting without this would also change the host's mounts.
        checked(libc.mount(None, b"/", None, RECURSIVE | SLAVE, None), "mounts of one's own")
        for path in map(os.fsencode, filter(os.path.exists, paths)):
            checked(libc.mount(path, path, None, BIND, None), os.fsdecode(path))
            locked = os.statvfs(path).f_flag & KEPT  # a container's root may not clear these
            flags = BIND | REMOUNT | READ_ONLY | locked
            checked(libc.mount(None, path, None, flags, None), os.fsdecode(path))


def give_up(given: dict[str, Any]) -> None:
    """Give up the rights that `given` lists (see `command.py`)."""
    limit(given["limits"])
    drop_capabilities()
    if files := given["landlock"]:
        landlock(files["read"], files["write"], files["network"])
    if given["filter"]:
        filter_calls(bytes.fromhex(given["filter"]))


def main() -> None:
    """Apply the restrictions in the first argument, then exec the command."""
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
