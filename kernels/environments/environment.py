"""An environment that code can run in, and what its own files say about it.

An environment may be writable for the code that runs in it, so nothing here runs its interpreter:
its files are read as data.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

from ..errors import EnvironmentFailed
from ..regular_file import regular_file

Kind = Literal["kernelspec", "project", "script"]

CONFIG = "pyvenv.cfg"
MOST = 1 << 16  # max bytes of a pyvenv.cfg
# What `inside/socket_kernel.py` works with.
FORMING_PYTHON, FORMING = Version("3.11"), (Version("7.4"), Version("8"))
# Names of files are shown to models and given to uv, so they must not say anything else.
DIST_INFO = re.compile(r"([A-Za-z0-9._]{1,100})-([A-Za-z0-9.!+_]{1,100})\.dist-info")
OLDEST = (3, 9)  # of the Pythons that kernels run on


@dataclass(frozen=True)
class Environment:
    """An environment other than the server's default one.

    Attributes:
        kind: a kernelspec's, a project's virtual environment, or one made for a script's
            dependencies.
        name: how callers name it: the kernelspec, or the folder beneath the projects folder.
        prefix: a virtual environment's folder; None for a kernelspec.
        version: its Python's version, as far as its files tell: "3.12.1"; empty for a kernelspec.
        base_packages: those of the Python that it is based on, if it sees them.
        ipykernel: the version of the one that its kernels run; empty if that is not known.
        lent: a folder with that ipykernel, for an environment that has none.
        tools: a folder with pip and uv, for an environment that has none.
        state: differs once packages have been installed or removed.
    """

    kind: Kind
    name: str
    prefix: Path | None = None
    version: str = ""
    base_packages: Path | None = None
    ipykernel: str = ""
    lent: Path | None = None
    tools: Path | None = None
    state: int = 0

    @property
    def python(self) -> str:
        """A virtual environment's interpreter."""
        assert self.prefix is not None
        return str(python_in(self.prefix))

    @property
    def packages(self) -> Path:
        """The folder with a virtual environment's packages.

        Raises:
            EnvironmentFailed: there is none.
        """
        assert self.prefix is not None
        return packages_in(self.prefix, self.version)

    @property
    def series(self) -> str:
        """Its Python's series: "3.12", or "3.13t" if it is a free-threaded one."""
        return series_of(self.packages, self.version)

    @property
    def can_form(self) -> bool:
        """Whether its kernels may be formed in a template, and then forked."""
        try:
            python, ipykernel = Version(self.version), Version(self.ipykernel)
        except InvalidVersion:  # whoever can write there may claim anything
            return False
        return python >= FORMING_PYTHON and FORMING[0] <= ipykernel < FORMING[1]

    def with_kernel(self, version: str, lent: Path | None = None) -> Environment:
        """The same environment with an ipykernel of its own, or with one from a folder."""
        return replace(self, ipykernel=version, lent=lent)


def at(prefix: Path, kind: Kind, name: str) -> Environment:
    """The virtual environment in a folder.

    Raises:
        EnvironmentFailed: there is none, or it is incomplete.
    """
    config = config_of(prefix)
    if config is None:
        raise EnvironmentFailed(
            f"{name} is no virtual environment: it has no {CONFIG}. Make one there with `uv venv`,"
            " or pass environment='default'."
        )
    version = config.get("version_info") or config.get("version") or ""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?", version)
    # A dangling link has a base Python that is gone, or that belongs to another machine.
    if found is None or not python_in(prefix).exists():
        raise EnvironmentFailed(
            f"The environment {name} has no working Python. Delete that folder and make it again"
            " (`uv sync`, or `uv venv`), or pass environment='default'."
        )
    if (int(found[1]), int(found[2])) < OLDEST:
        raise EnvironmentFailed(
            f"The environment {name} has Python {found[0]}; kernels need"
            f" {'.'.join(map(str, OLDEST))} or later. Make it again with a later one, or pass"
            " environment='default'."
        )
    packages, base = packages_in(prefix, found[0]), None
    # As `site` reads it: without that line, an environment sees the packages.
    if config.get("include-system-site-packages", "true").lower() == "true":
        base = Path(config.get("home", "")).parent / packages.relative_to(prefix)
    state = hash((state_of(packages), state_of(base) if base else ()))
    return Environment(kind, name, prefix, found[0], base, state=state)


def config_of(prefix: Path) -> dict[str, str] | None:
    """What an environment's `pyvenv.cfg` says; None if there is none that can be read."""
    try:
        with open(prefix / CONFIG, "rb", opener=regular_file) as file:
            text = file.read(MOST).decode("utf-8", "replace")
    except OSError:
        return None
    if "\0" in text:  # no path has that
        return None
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}


def python_in(prefix: Path) -> Path:
    """Where a virtual environment has its interpreter."""
    return prefix / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def packages_in(prefix: Path, version: str) -> Path:
    """Where a virtual environment has its packages.

    Raises:
        EnvironmentFailed: nowhere.
    """
    series = ".".join(version.split(".")[:2])
    places = (
        ["Lib/site-packages"]
        if sys.platform == "win32"
        else [f"lib/python{series}{threads}/site-packages" for threads in ("", "t")]
    )
    for place in places:
        if (prefix / place).is_dir():
            return prefix / place
    raise EnvironmentFailed(
        f"The environment {prefix} has no packages folder for Python {series}. Make it again"
        " (`uv sync`, or `uv venv`), or pass environment='default'."
    )


def series_of(packages: Path, version: str) -> str:
    """A Python's series, given an environment's packages folder."""
    threads = "t" if packages.parent.name.endswith("t") else ""
    return ".".join(version.split(".")[:2]) + threads


def own_series() -> str:
    """The series of the Python that the server runs on."""
    threads = "t" if "t" in getattr(sys, "abiflags", "") else ""
    return f"{sys.version_info.major}.{sys.version_info.minor}{threads}"


def is_servers_own(prefix: Path) -> bool:
    """Whether an environment is the one that the server itself runs in."""
    return os.path.realpath(prefix) == os.path.realpath(sys.prefix)


def installed(packages: Path) -> dict[str, str]:
    """The distributions in a packages folder, by normalized name, with their versions.

    Only the names of their folders are read.
    """
    try:
        names = os.listdir(packages)
    except OSError:
        return {}
    matches = (DIST_INFO.fullmatch(name) for name in sorted(names))
    return {normalized(match[1]): match[2] for match in matches if match}


def state_of(packages: Path) -> tuple[tuple[str, int], ...]:
    """What tells that packages have been installed or removed: what describes and links them."""
    found = []
    with contextlib.suppress(OSError), os.scandir(packages) as entries:
        for entry in entries:
            if entry.name.endswith((".dist-info", ".pth")):
                with contextlib.suppress(OSError):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime_ns))
    return tuple(sorted(found))


def all_installed(environment: Environment) -> dict[str, str]:
    """The distributions that an environment sees, as `installed` gives them."""
    base = environment.base_packages
    return {**(installed(base) if base else {}), **installed(environment.packages)}


def normalized(name: str) -> str:
    """A project's name in the form that is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
