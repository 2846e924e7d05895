"""The command that runs an interpreter in a sandbox: bubblewrap or Landlock, and seccomp.

Knows the programs of this folder and their arguments; `places.py` decides what is seen.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..fork import VENV_PROGRAM
from . import seccomp
from .bubblewrap import DEVICES, Kind, bubblewrap
from .interpreters import changeable
from .places import changeable_folders, places_of

if TYPE_CHECKING:
    from .policy import Policy, Sandbox

HERE = Path(__file__).parent
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_FSIZE": 10 << 30,  # max bytes of one file
    "RLIMIT_NOFILE": 4096,
}
PROCESSES = 1024  # max processes and threads
DEVICE_FILES = [f"/dev/{name}" for name in DEVICES]
OOM_SCORE = 500  # -1000 to 1000: when memory runs out, the system kills the highest


def command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """Return what to put in front of a command that begins with this interpreter.

    The last program moves kernels into their user's environment: see `Sandbox.venv`.

    Raises:
        OSError: the interpreter can't be run.
        KernelStartError: a path to hide does not exist.
    """
    folders = [*changeable_folders(sandbox.policy), sandbox.policy.projects]
    if interpreter != sys.executable and changeable(interpreter, folders):
        return new_command(sandbox, interpreter)  # its base Python may be another one by now
    return kept_command(sandbox, interpreter)


@functools.cache
def kept_command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """Return the `command` for an interpreter that stays as it is."""
    return new_command(sandbox, interpreter)


def new_command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """Return the `command` for an interpreter as it is now."""
    policy, places = sandbox.policy, places_of(sandbox, interpreter)
    first: dict[str, Any] = {"oom_score": OOM_SCORE}
    inner = {"given_up": given_up(policy, places)}
    if policy.tier == "bwrap":
        wall = bubblewrap(places, sandbox.folder, policy.network)
        if os.getuid() == 0:  # root owns the devices, which are the host's
            first["read_only"] = DEVICE_FILES
        # The first program runs outside: inside, nothing in /proc is writable.
        outside = (*program("confine.py", first), *wall)
        return (*outside, *program("confine.py", inner), *isolated(VENV_PROGRAM))
    broker = program("broker.py", handed_over(places, sandbox.folder / "x"))
    return (*program("confine.py", first | inner), *broker, *isolated(VENV_PROGRAM))


def tool_command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """Return the `command` for a program that never opens a socket where kernels may not, either.

    What it builds may run code of a package, which a kernel's last filter does not confine.
    """
    before = command(sandbox, interpreter)
    if not (last := last_filter(sandbox.policy)):
        return before
    rights: dict[str, Any] = {"limits": {}, "filter": last, "landlock": None}
    return (*before, *program("confine.py", {"given_up": rights}))


def program(name: str, given: dict[str, Any]) -> tuple[str, ...]:
    """Return the command that runs one of our programs; append the command for it to run."""
    return (*isolated(HERE / name), json.dumps(given))


def isolated(file: Path) -> tuple[str, ...]:
    """Return the command that runs a file with the standard library alone."""
    return (sys.executable, "-I", "-S", str(file))


def given_up(policy: Policy, places: dict[Path, Kind]) -> dict[str, Any]:
    """Return the rights that `confine.py` gives up, in the form it reads."""
    from .confine import TRUNCATION_HANDLED, landlock_version  # needs Linux's libc

    landlock = policy.tier == "landlock"
    rules = seccomp.REACHING_OUT
    if landlock:
        rules += seccomp.SHARED_HOST
        if landlock_version() < TRUNCATION_HANDLED:
            rules += seccomp.TRUNCATING
    read = [str(path) for path, kind in places.items() if kind == "ro"]
    write = [str(path) for path, kind in places.items() if kind == "rw"]
    files = {
        "read": [*read, "/proc"],
        "write": [*write, *DEVICE_FILES],
        "network": policy.network,
    }
    return {
        # RLIMIT_NPROC counts all processes of the user unless we have our own user namespace.
        "limits": LIMITS if landlock else LIMITS | {"RLIMIT_NPROC": PROCESSES},
        "filter": seccomp.program(rules).hex() if seccomp.knows_system_calls() else "",
        "landlock": files if landlock else None,
    }


def handed_over(places: dict[Path, Kind], unlisted: Path) -> dict[str, Any]:
    """Return the calls `broker.py` makes for kernels, and where, in the form it reads."""
    return {
        "filter": seccomp.program(seccomp.HANDED_OVER).hex(),
        "calls": seccomp.named(seccomp.HANDED_OVER),
        # The unlisted folder is protected by its mode, so only its contents may be changed.
        "write": [
            f"{path}/" if path == unlisted else str(path)
            for path, kind in places.items()
            if kind == "rw"
        ],
    }


def last_filter(policy: Policy) -> str:
    """Return the seccomp program that forked kernels apply once their own sockets are open."""
    if policy.tier == "landlock" and not policy.network:
        return seccomp.program(seccomp.NEW_SOCKETS).hex()
    return ""
