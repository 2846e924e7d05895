"""The wall around kernels: what a principal's processes may see, change and reach.

Turns a `Policy` into a command that a kernel's interpreter is run by: bubblewrap where it
works, else Landlock. Knows processes and files; nothing of Jupyter's messages.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import KernelStartError
from ..fork import PROGRAMS
from ..process import Launch, clear_after_dead, ipython_folder
from . import seccomp
from .bubblewrap import DEVICES, Kind, bubblewrap, inner_id
from .interpreters import base_of, changeable, where

Tier = Literal["bwrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bwrap", "landlock")  # the best first

HERE = Path(__file__).parent
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_FSIZE": 10 << 30,  # bytes of one file
    "RLIMIT_NOFILE": 4096,
}
PROCESSES = 1024  # and threads
DEVICE_FILES = [f"/dev/{name}" for name in DEVICES]
OOM_SCORE = 500  # of -1000 to 1000: when memory runs out, the system ends the highest
# What programs need of a system, besides their interpreter and its packages.
SYSTEM = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/lsb-release",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/redhat-release",
    "/etc/services",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
]
NETWORK = ["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf"]
# Variables that name folders which the sandbox has not.
HOMES = {
    *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("JUPYTER_PATH", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"),
}
# Lies in what is the home folder of templates, so that matplotlib looks for no other.
MATPLOTLIBRC = "matplotlibrc"
UNLISTED = 0o300  # a folder's mode: files can be made there, and found by those who know a name


@dataclass(frozen=True)
class Policy:
    """What holds for the kernels of every principal.

    Attributes:
        tier: what holds the wall.
        projects: the folder with the user's files.
        homes: where each principal has a private folder, which lasts.
        read_only: whether kernels may only read `projects`.
        network: whether they have the host's network.
        read: more folders and files to read.
        write: more folders to change.
        hide: what must not be seen even where it lies in one of those.
        fixed: what may be seen there, but not changed.
    """

    tier: Tier
    projects: Path
    homes: Path
    read_only: bool = False
    network: bool = False
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hide: tuple[Path, ...] = ()
    fixed: tuple[Path, ...] = ()

    def sandbox(self, principal: str, runtime: Path) -> Sandbox:
        """The principal's sandbox, its folders made; `runtime` is private to the server."""
        home = self.homes / folder_name(principal)
        folder = runtime / f"p{sum(1 for _ in runtime.glob('p*'))}"
        # Not in the home: what kernels may change could be links when it is cleared.
        clear_after_dead(self.homes / "tmp")
        tmp = self.homes / "tmp" / runtime.name / folder.name
        parts = [folder / part for part in "csietx"]
        for made in (self.homes, home, home / "packages", tmp, *parts):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "x").chmod(UNLISTED)
        number = inner_id()
        (folder / "e" / MATPLOTLIBRC).touch()
        (folder / "passwd").write_text(f"user:x:{number}:{number}::{home}:/bin/sh\n")
        (folder / "group").write_text(f"user:x:{number}:\n")
        return Sandbox(self, home, tmp, folder, runtime)


@dataclass(frozen=True)
class Sandbox:
    """One principal's sandbox.

    Attributes:
        home: its folder, which lasts.
        tmp: for temporary files, where it can't have a /tmp of its own.
        folder: what the server and its kernels share: `c` for connection files, which
            kernels only read, `s` for their sockets, `i` for IPython's configuration, `e` as
            the home folder of templates; and `t`, the server's alone, for sockets that it uses.
        runtime: the server's own folder, of which kernels see nothing else.
    """

    policy: Policy
    home: Path
    tmp: Path
    folder: Path
    runtime: Path

    def launch(self, launch: Launch) -> Launch:
        """How kernels are started in here."""
        env = {name: value for name, value in launch.env.items() if name not in HOMES}
        packages = str(self.home / "packages")
        env |= {
            "HOME": str(self.home),
            "USER": "user",
            "LOGNAME": "user",
            "IPYTHONDIR": str(ipython_folder(self.folder / "i")),
            "TMPDIR": "/tmp" if self.policy.tier == "bwrap" else str(self.tmp),
            # The environment's own folder can't be changed.
            "PIP_TARGET": packages,
            # Git ends where there is a file of the system's that it may not read.
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONPATH": joined(env.get("PYTHONPATH"), packages),
            "PATH": joined(env.get("PATH", os.defpath), f"{packages}/bin"),
        }
        return replace(
            launch,
            runtime=self.folder / "c",
            sockets=self.folder / "s",
            socket_store=self.folder / "t",
            env=env,
            wrap=self.command,
            last_filter=self.last_filter(),
            template_overrides=self.template_overrides(env),
        )

    def template_overrides(self, env: dict[str, str]) -> dict[str, str | None]:
        """The variables that lead to what kernels can write, without that: for templates."""
        places = self.places(sys.executable)

        def can_change(path: str) -> bool:
            real = Path(os.path.realpath(path))
            kinds = (places[each] for each in (real, *real.parents) if each in places)
            return os.path.isabs(path) and next(kinds, "hidden") in ("rw", "tmp")

        changed: dict[str, str | None] = {}
        for name, value in env.items():
            parts = value.split(os.pathsep)
            kept = [part for part in parts if not can_change(part)]
            if kept != parts:
                changed[name] = os.pathsep.join(kept) if any(kept) else None
        changed.pop("IPYTHONDIR", None)  # its profile, which alone is read, can't be changed
        home = self.folder / "e"
        changed |= {"HOME": str(home), "MATPLOTLIBRC": str(home / MATPLOTLIBRC)}
        # What it imports may need one. In bubblewrap each template has a /tmp of its own; with
        # Landlock kernels could change what it makes, if they knew its name.
        folder = "/tmp" if self.policy.tier == "bwrap" else str(self.folder / "x")
        return changed | {"TMPDIR": folder}

    def command(self, interpreter: str) -> list[str]:
        """What has to stand before a command that begins with this interpreter.

        Raises:
            OSError: the interpreter can't be run.
        """
        return [*command(self, interpreter)]

    def places(self, interpreter: str) -> dict[Path, Kind]:
        """Folders and files that kernels see, by both their names and where those lead.

        Raises:
            OSError: the interpreter can't be run.
            KernelStartError: what is to be hidden is not there.
        """
        policy, places = self.policy, dict[Path, Kind]()

        def put(kind: Kind, *paths: Path | str) -> None:
            for path in paths:
                for each in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
                    places[each] = kind

        put("tmp", "/tmp", "/dev/shm")
        put("hidden", policy.homes, self.runtime, *others(self.runtime))
        put("ro", *SYSTEM, *(NETWORK if policy.network else ()), *policy.read)
        put("rw", *policy.write)
        put("ro" if policy.read_only else "rw", policy.projects)
        put("ro", *self.shown_of(interpreter), *where(sys.executable), *policy.fixed)
        put("hidden", *policy.hide)
        put("ro", HERE / "confine.py", HERE / "broker.py", *PROGRAMS)
        ipython = self.folder / "i"
        profile = ipython / "profile_default"
        put("ro", self.folder / "c", self.folder / "e", profile)
        # IPython takes a temporary folder instead where it can't write. With Landlock it can't,
        # and sees no sign of that; there what may be written to has nothing read only in it.
        put("rw" if policy.tier == "bwrap" else "ro", ipython)
        put("rw", self.home, self.folder / "s", profile / "db")
        if policy.tier == "landlock":
            put("rw", self.tmp, self.folder / "x")
        there = {path: kind for path, kind in places.items() if path.exists()}
        shown = {path for path, kind in there.items() if kind in ("ro", "rw")}
        for path in policy.hide:
            if not path.exists() and shown.intersection(path.parents):
                raise KernelStartError(  # once it is there again it would be seen
                    f"No kernel can be started: {path} has to be hidden from code and is gone."
                    " Put it back, or restart the server, which then has to do without it."
                )
        return there | dict.fromkeys(on_the_way(there), "rw")

    def shown_of(self, interpreter: str) -> Iterable[str]:
        """The folders that an interpreter needs.

        Raises:
            OSError: it can't be run.
        """
        policy = self.policy
        folders = [policy.homes, *policy.write]
        if not policy.read_only:
            folders.append(policy.projects)
        if interpreter == sys.executable or not changeable(interpreter, folders):
            return where(interpreter)
        return base_of(interpreter, folders, (*SYSTEM, sys.prefix, sys.base_prefix, *policy.read))

    def given_up(self, places: dict[Path, Kind]) -> dict[str, Any]:
        """What `confine.py` takes away from itself, as it reads that."""
        from .confine import TRUNCATION_HANDLED, landlock_version  # it needs Linux's libc

        landlock = self.policy.tier == "landlock"
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
            "network": self.policy.network,
        }
        return {
            # Without a user namespace of one's own it counts all of the user's processes.
            "limits": LIMITS if landlock else LIMITS | {"RLIMIT_NPROC": PROCESSES},
            "filter": seccomp.program(rules).hex() if seccomp.knows_system_calls() else "",
            "landlock": files if landlock else None,
        }

    def handed_over(self, places: dict[Path, Kind]) -> dict[str, Any]:
        """Which calls `broker.py` makes for the kernels, and where, as it reads that."""
        return {
            "filter": seccomp.program(seccomp.HANDED_OVER).hex(),
            "calls": seccomp.named(seccomp.HANDED_OVER),
            # The mode of the unlisted one is its lock, so only what lies in it may be changed.
            "write": [
                f"{path}/" if path == self.folder / "x" else str(path)
                for path, kind in places.items()
                if kind == "rw"
            ],
        }

    def last_filter(self) -> str:
        """A program for seccomp, for forked kernels, whose own sockets are there by then."""
        if self.policy.tier == "landlock" and not self.policy.network:
            return seccomp.program(seccomp.NEW_SOCKETS).hex()
        return ""


@functools.cache
def command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """`Sandbox.command`, worked out once."""
    places = sandbox.places(interpreter)
    first: dict[str, Any] = {"oom_score": OOM_SCORE}
    given_up = {"given_up": sandbox.given_up(places)}
    if sandbox.policy.tier == "bwrap":
        wall = bubblewrap(places, sandbox.folder, sandbox.policy.network)
        if os.getuid() == 0:  # it owns the devices, which are the host's
            first["read_only"] = DEVICE_FILES
        # In there nothing of /proc can be written to.
        return (*program("confine.py", first), *wall, *program("confine.py", given_up))
    broker = program("broker.py", sandbox.handed_over(places))
    return (*program("confine.py", first | given_up), *broker)


def program(name: str, given: dict[str, Any]) -> tuple[str, ...]:
    """What runs one of our programs, before the command that it runs in turn."""
    return (sys.executable, "-I", "-S", str(HERE / name), json.dumps(given))


def on_the_way(places: dict[Path, Kind]) -> Iterator[Path]:
    """Folders between what may be changed and what lies in it and may not be.

    What is mounted can't be renamed, nor can what lies on its way if that is mounted too.
    """
    for kept in [path for path, kind in places.items() if kind in ("ro", "hidden")]:
        for path in kept.parents:
            if path in places:
                break
            if any(places.get(above) == "rw" for above in path.parents):
                yield path


def others(runtime: Path) -> list[Path]:
    """The folder with the runtime folders of this user's other servers."""
    return [runtime.parent] if runtime.parent.name.startswith("rmi-agent") else []


def folder_name(principal: str) -> str:
    """A name for a principal's folder that no other has."""
    digest = hashlib.sha256(principal.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', principal)[:40]}-{digest}"


def joined(*folders: str | None) -> str:
    """A search path of those that there are."""
    return os.pathsep.join(folder for folder in folders if folder)
