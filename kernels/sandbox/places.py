"""Which folders and files a principal's kernels see, and which of them they may change.

Knows paths; `command.py` knows how that is enforced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..environments import pythons, where_uv_is
from ..errors import KernelStartError
from .bubblewrap import Kind
from .interpreters import base_of, changeable, where

if TYPE_CHECKING:
    from .policy import Policy, Sandbox

HERE = Path(__file__).parent
PROGRAMS = ("confine.py", "broker.py", "brokered_call.py")  # that run inside
# The folders with what templates run. By path: a server probes the sandbox before it imports them.
TEMPLATES = [HERE.parent / "fork", HERE.parent / "inside", HERE.parent / "environments"]
# System files that programs need besides their interpreter and its packages.
SYSTEM = [
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/crypto-policies", "/etc/debian_version"),
    *("/etc/fonts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/etc/magic", "/etc/lsb-release", "/etc/mime.types", "/etc/os-release", "/etc/protocols"),
    *("/etc/pki/ca-trust", "/etc/pki/tls/cert.pem", "/etc/pki/tls/certs"),
    *("/etc/pki/tls/openssl.cnf", "/etc/redhat-release", "/etc/services", "/etc/timezone"),
    *("/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
]
NETWORK = ["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf"]


def places_of(sandbox: Sandbox, interpreter: str) -> dict[Path, Kind]:
    """Return the folders and files kernels see, under their own and their resolved paths.

    Raises:
        OSError: the interpreter can't be run.
        KernelStartError: a path to hide does not exist.
    """
    policy, places = sandbox.policy, dict[Path, Kind]()

    def put(kind: Kind, *paths: Path | str) -> None:
        for path in paths:
            for each in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
                places[each] = kind

    put("tmp", "/tmp", "/dev/shm")
    put("hidden", policy.homes, sandbox.runtime)
    if sandbox.runtime.parent.name.startswith("rmi-agent"):
        put("hidden", sandbox.runtime.parent)  # has those of this user's other servers
    put("ro", *SYSTEM, *(NETWORK if policy.network else ()))
    put("ro", *policy.read, *policy.package_files, *where_uv_is())
    put("rw", *policy.write)
    put("ro" if policy.read_only else "rw", policy.projects)
    put("ro", *shown_of(policy, interpreter), *where(sys.executable), *policy.fixed)
    put("hidden", *policy.hide)
    put("ro", *map(HERE.joinpath, PROGRAMS), *(p for f in TEMPLATES for p in f.glob("*.py")))
    ipython = sandbox.folder / "i"
    profile = ipython / "profile_default"
    put("ro", sandbox.folder / "c", sandbox.folder / "e", profile)
    put("ro", sandbox.runtime / "lent", sandbox.runtime / "tools")
    # IPython uses a temporary folder if it sees that this one is not writable. With Landlock it
    # is not (a writable folder can't have read-only parts there), but IPython can't see that.
    put("rw" if policy.tier == "bwrap" else "ro", ipython)
    put("rw", sandbox.home, sandbox.folder / "s", profile / "db")
    if policy.tier == "landlock":
        put("rw", sandbox.tmp, sandbox.folder / "x")
        if policy.network:
            put("ro", "/etc/resolv.conf")  # which bubblewrap shows in its own way
    there = {path: kind for path, kind in places.items() if path.exists()}
    shown = {path for path, kind in there.items() if kind in ("ro", "rw")}
    for path in policy.hide:
        if not path.exists() and shown.intersection(path.parents):
            raise KernelStartError(  # kernels would see it once it is back
                f"No kernel can be started: {path} must be hidden from code, but does not exist."
                " Put it back, or restart the server."
            )
    return there | dict.fromkeys(on_the_way(there), "rw")


def shown_of(policy: Policy, interpreter: str) -> Iterable[str]:
    """Return the folders that an interpreter needs.

    Raises:
        OSError: the interpreter can't be run.
    """
    # Whoever may write in the projects folder while kernels may not is not the server either.
    folders = [*changeable_folders(policy), policy.projects]
    if interpreter == sys.executable or not changeable(interpreter, folders):
        return where(interpreter)
    installed = (each.prefix for each in pythons())
    known: list[Path | str] = [*SYSTEM, sys.prefix, sys.base_prefix, *policy.read, *installed]
    return base_of(interpreter, folders, known)


def changeable_folders(policy: Policy) -> list[Path]:
    """Return the folders that kernels may write to, beside temporary ones."""
    folders = [policy.homes, *policy.write]
    return folders if policy.read_only else [*folders, policy.projects]


def on_the_way(places: dict[Path, Kind]) -> Iterator[Path]:
    """Yield the folders between a writable folder and a protected path inside it.

    A mount point can't be renamed, so mounting these as well keeps the protected path in place.
    """
    for protected in [path for path, kind in places.items() if kind in ("ro", "hidden")]:
        for path in protected.parents:
            if path in places:
                break
            if any(places.get(above) == "rw" for above in path.parents):
                yield path
