"""The sandbox around kernels: what a principal's processes may see, change and reach.

Turns a `Policy` into a command that runs a kernel's interpreter: bubblewrap where it works,
otherwise Landlock. Knows processes and files; nothing about Jupyter's messages.
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
TIERS: tuple[Tier, ...] = ("bwrap", "landlock")  # best first

HERE = Path(__file__).parent
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_FSIZE": 10 << 30,  # max bytes of one file
    "RLIMIT_NOFILE": 4096,
}
PROCESSES = 1024  # max processes and threads
DEVICE_FILES = [f"/dev/{name}" for name in DEVICES]
OOM_SCORE = 500  # -1000 to 1000: when memory runs out, the system kills the highest
# System files that programs need besides their interpreter and its packages.
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
# Variables that name folders missing from the sandbox.
HOMES = {
    *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("JUPYTER_PATH", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"),
}
# An empty file in the templates' home folder, so that matplotlib looks for no other.
MATPLOTLIBRC = "matplotlibrc"
UNLISTED = 0o300  # folder mode: anyone inside can create files, but must know a name to open one


@dataclass(frozen=True)
class Policy:
    """The rules for every principal's kernels.

    Attributes:
        tier: the mechanism that enforces the rules.
        projects: the folder with the user's files.
        homes: holds a private, persistent folder for each principal.
        read_only: whether kernels may only read `projects`.
        network: whether kernels share the host's network.
        read: additional readable folders and files.
        write: additional writable folders.
        hide: paths kernels must not see, even inside the folders above.
        fixed: paths inside the folders above that kernels may read but not change.
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
        """Create a principal's sandbox and its folders; `runtime` is private to the server."""
        home = self.homes / folder_name(principal)
        folder = runtime / f"p{sum(1 for _ in runtime.glob('p*'))}"
        # Not in the home, where kernels could plant links that we would follow when clearing it.
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
        home: the principal's persistent folder.
        tmp: folder for temporary files where the sandbox can't have its own /tmp.
        folder: shared by the server and its kernels: `c` for connection files, read-only for
            kernels; `s` for kernels' sockets; `i` for IPython's configuration; `e`, the home folder
            of templates; and `t`, the server's alone, for sockets that it uses.
        runtime: the server's own folder; kernels see nothing else in it.
    """

    policy: Policy
    home: Path
    tmp: Path
    folder: Path
    runtime: Path

    def launch(self, launch: Launch) -> Launch:
        """Return the launch options for kernels in this sandbox."""
        env = {name: value for name, value in launch.env.items() if name not in HOMES}
        packages = str(self.home / "packages")
        env |= {
            "HOME": str(self.home),
            "USER": "user",
            "LOGNAME": "user",
            "IPYTHONDIR": str(ipython_folder(self.folder / "i")),
            "TMPDIR": "/tmp" if self.policy.tier == "bwrap" else str(self.tmp),
            # The environment's own folder is read-only.
            "PIP_TARGET": packages,
            # Git aborts if there is a system config that it may not read.
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
        """Return variables for templates, stripped of paths that kernels can write to."""
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
        changed.pop("IPYTHONDIR", None)  # only its profile is read, and kernels can't change that
        home = self.folder / "e"
        changed |= {"HOME": str(home), "MATPLOTLIBRC": str(home / MATPLOTLIBRC)}
        # A template's imports may need temporary files. With bubblewrap each template has its own
        # /tmp; with Landlock kernels could change those files, if they knew their names.
        folder = "/tmp" if self.policy.tier == "bwrap" else str(self.folder / "x")
        return changed | {"TMPDIR": folder}

    def command(self, interpreter: str) -> list[str]:
        """Return what to put in front of a command that begins with this interpreter.

        Raises:
            OSError: the interpreter can't be run.
        """
        return [*command(self, interpreter)]

    def places(self, interpreter: str) -> dict[Path, Kind]:
        """Return the folders and files kernels see, under their own and their resolved paths.

        Raises:
            OSError: the interpreter can't be run.
            KernelStartError: a path to hide does not exist.
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
        # IPython uses a temporary folder if it sees that this one is not writable. With Landlock it
        # is not (a writable folder can't have read-only parts there), but IPython can't see that.
        put("rw" if policy.tier == "bwrap" else "ro", ipython)
        put("rw", self.home, self.folder / "s", profile / "db")
        if policy.tier == "landlock":
            put("rw", self.tmp, self.folder / "x")
        there = {path: kind for path, kind in places.items() if path.exists()}
        shown = {path for path, kind in there.items() if kind in ("ro", "rw")}
        for path in policy.hide:
            if not path.exists() and shown.intersection(path.parents):
                raise KernelStartError(  # kernels would see it once it is back
                    f"No kernel can be started: {path} has to be hidden from code and is gone."
                    " Put it back, or restart the server, which then has to do without it."
                )
        return there | dict.fromkeys(on_the_way(there), "rw")

    def shown_of(self, interpreter: str) -> Iterable[str]:
        """Return the folders that an interpreter needs.

        Raises:
            OSError: the interpreter can't be run.
        """
        policy = self.policy
        folders = [policy.homes, *policy.write]
        if not policy.read_only:
            folders.append(policy.projects)
        if interpreter == sys.executable or not changeable(interpreter, folders):
            return where(interpreter)
        return base_of(interpreter, folders, (*SYSTEM, sys.prefix, sys.base_prefix, *policy.read))

    def given_up(self, places: dict[Path, Kind]) -> dict[str, Any]:
        """Return the rights that `confine.py` gives up, in the form it reads."""
        from .confine import TRUNCATION_HANDLED, landlock_version  # needs Linux's libc

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
            # RLIMIT_NPROC counts all processes of the user unless we have our own user namespace.
            "limits": LIMITS if landlock else LIMITS | {"RLIMIT_NPROC": PROCESSES},
            "filter": seccomp.program(rules).hex() if seccomp.knows_system_calls() else "",
            "landlock": files if landlock else None,
        }

    def handed_over(self, places: dict[Path, Kind]) -> dict[str, Any]:
        """Return the calls `broker.py` makes for kernels, and where, in the form it reads."""
        return {
            "filter": seccomp.program(seccomp.HANDED_OVER).hex(),
            "calls": seccomp.named(seccomp.HANDED_OVER),
            # The unlisted folder is protected by its mode, so only its contents may be changed.
            "write": [
                f"{path}/" if path == self.folder / "x" else str(path)
                for path, kind in places.items()
                if kind == "rw"
            ],
        }

    def last_filter(self) -> str:
        """Return the seccomp program that forked kernels apply once their own sockets are open."""
        if self.policy.tier == "landlock" and not self.policy.network:
            return seccomp.program(seccomp.NEW_SOCKETS).hex()
        return ""


@functools.cache
def command(sandbox: Sandbox, interpreter: str) -> tuple[str, ...]:
    """Compute `Sandbox.command`; cached."""
    places = sandbox.places(interpreter)
    first: dict[str, Any] = {"oom_score": OOM_SCORE}
    given_up = {"given_up": sandbox.given_up(places)}
    if sandbox.policy.tier == "bwrap":
        wall = bubblewrap(places, sandbox.folder, sandbox.policy.network)
        if os.getuid() == 0:  # root owns the devices, which are the host's
            first["read_only"] = DEVICE_FILES
        # The first program runs outside: inside, nothing in /proc is writable.
        return (*program("confine.py", first), *wall, *program("confine.py", given_up))
    broker = program("broker.py", sandbox.handed_over(places))
    return (*program("confine.py", first | given_up), *broker)


def program(name: str, given: dict[str, Any]) -> tuple[str, ...]:
    """Return the command that runs one of our programs; append the command for it to run."""
    return (sys.executable, "-I", "-S", str(HERE / name), json.dumps(given))


def on_the_way(places: dict[Path, Kind]) -> Iterator[Path]:
    """Yield the folders between a writable folder and a protected path inside it.

    A mount point can't be renamed, so mounting these as well keeps the protected path in place.
    """
    for kept in [path for path, kind in places.items() if kind in ("ro", "hidden")]:
        for path in kept.parents:
            if path in places:
                break
            if any(places.get(above) == "rw" for above in path.parents):
                yield path


def others(runtime: Path) -> list[Path]:
    """Return the folder that holds the runtime folders of this user's other servers."""
    return [runtime.parent] if runtime.parent.name.startswith("rmi-agent") else []


def folder_name(principal: str) -> str:
    """Return a unique folder name for a principal."""
    digest = hashlib.sha256(principal.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', principal)[:40]}-{digest}"


def joined(*folders: str | None) -> str:
    """Join the folders that are set into a search path."""
    return os.pathsep.join(folder for folder in folders if folder)
