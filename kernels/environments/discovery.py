"""Finds environments and Pythons without running any of them.

The Pythons are those that this machine's user has installed: code that runs here can't add one.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ..regular_file import regular_file
from .environment import CONFIG, OLDEST, Environment, normalized

VENV = ".venv"
SKIPPED = {"node_modules", "__pycache__", "site-packages"}
MOST_BYTES = 1_000_000  # max bytes of a pyproject.toml
MOST_LOCK = 10_000_000  # max bytes of a lock file that are read
LOCKED = re.compile(rb'^\[\[package\]\]\s+name = "([^"]+)"', re.MULTILINE)
DEEPEST = 3  # folders below the root that are searched for environments
MOST_FOLDERS = 2_000  # max folders that are searched


def nearest(folder: Path, root: Path) -> Path | None:
    """The project's folder that a file belongs to: the nearest one with an environment or a lock.

    Args:
        folder: the file's folder, at or beneath `root`.
        root: the folder that is searched last.
    """
    if not folder.is_relative_to(root):
        return None
    for each in (folder, *folder.parents):
        if os.path.lexists(each / VENV) or is_locked_project(each):
            return each
        if each == root:
            return None
    return None


def is_locked_project(folder: Path) -> bool:
    """Whether `uv sync` could make a folder's environment."""
    return (folder / "uv.lock").is_file() and (folder / "pyproject.toml").is_file()


def locked_packages(project: Path) -> set[str]:
    """The normalized names of the packages in a project's `uv.lock`; none if it can't be read."""
    try:
        with open(project / "uv.lock", "rb", opener=regular_file) as file:
            text = file.read(MOST_LOCK)
    except OSError:
        return set()
    return {normalized(name.decode("utf-8", "replace")) for name in LOCKED.findall(text)}


def unsynced(
    folder: Path, root: Path, environment: Environment | None, package: str
) -> Path | None:
    """The project of a folder whose lock waits to be installed; None if none does.

    Args:
        folder: what ran is in it.
        root: the folder that is searched last.
        environment: what it ran in; None is the default environment.
        package: what it lacks; if the project has an environment, its lock must name that.
    """
    project = nearest(folder, root)
    if project is None or not is_locked_project(project):
        return None
    if not os.path.lexists(project / VENV):
        return project if environment is None else None
    if environment is None or str(environment.prefix) != os.path.realpath(project / VENV):
        return None
    return project if normalized(package) in locked_packages(project) else None


def requires_python(project: Path) -> SpecifierSet:
    """The Pythons that a project says it runs on; any, if it does not say."""
    try:
        with open(project / "pyproject.toml", "rb", opener=regular_file) as file:
            given = tomllib.loads(file.read(MOST_BYTES).decode("utf-8", "replace"))
        return SpecifierSet(given["project"]["requires-python"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return SpecifierSet()  # uv will say what is wrong


def projects_beneath(root: Path) -> list[Path]:
    """The folders with an environment or a lock, in the upper folders of a tree.

    An environment that is not called `.venv` stands for itself.
    """
    found: list[Path] = []
    level, seen = [root], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > MOST_FOLDERS:
                return found
            if os.path.lexists(folder / VENV) or is_locked_project(folder):
                found.append(folder)
            for each in folders_in(folder):
                if each.name == VENV or each.is_symlink():  # which may lead anywhere
                    continue
                if (each / CONFIG).is_file():
                    found.append(each)
                elif not each.name.startswith(".") and each.name not in SKIPPED:
                    below.append(each)
        level = below
    return found


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(each.path) for each in entries if each.is_dir())
    except OSError:
        return []


@dataclass(frozen=True)
class Python:
    """A Python of this machine.

    Attributes:
        path: its interpreter, which is in no virtual environment.
        version: as precisely as its place tells: "3.12.1" or "3.12".
    """

    path: str
    version: str

    @property
    def prefix(self) -> Path:
        """Its folder."""
        return Path(self.path).parent.parent

    def fits(self, wanted: SpecifierSet) -> bool:
        """Whether it may be one of the wanted versions; uv knows those with three parts."""
        if self.version.count(".") > 1:
            return wanted.contains(self.version, prereleases=True)
        later = (f"{self.version}.{patch}" for patch in (99, *range(30)))
        return any(wanted.contains(version) for version in later)


@functools.cache
def pythons() -> tuple[Python, ...]:
    """The Pythons that environments can be made with: the server's own, then the latest first."""
    own = getattr(sys, "_base_executable", "") or sys.executable
    version = ".".join(map(str, sys.version_info[:3]))
    found = {os.path.realpath(own): Python(os.path.realpath(own), version)}
    if sys.platform == "win32":
        return tuple(found.values())
    others = sorted(
        (each for folder in folders_of_pythons() for each in pythons_in(folder)),
        key=lambda each: Version(each.version),
        reverse=True,
    )
    for each in others:
        found.setdefault(each.path, each)
    return tuple(found.values())


def folders_of_pythons() -> Iterator[Path]:
    """The folders that this machine's user has interpreters in."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    yield from (Path(folder) for folder in path if os.path.isabs(folder))
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    roots = [Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python")]
    roots += [Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"]
    for root in roots:
        yield from (each / "bin" for each in folders_in(root))


def pythons_in(folder: Path) -> Iterator[Python]:
    """The Pythons in a folder, under their real paths; none of a virtual environment."""
    if (folder.parent / CONFIG).exists():
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if (found := re.fullmatch(r"python(3\.(\d+)t?)", name)) and int(found[2]) >= OLDEST[1]:
            path = os.path.realpath(folder / name)
            prefix = Path(path).parent.parent
            if not is_program(path) or (prefix / CONFIG).exists() or is_private(prefix):
                continue
            series = found[1].removesuffix("t")
            exact = re.search(rf"\b{re.escape(series)}\.\d+\b", prefix.name)
            yield Python(path, exact[0] if exact else series)


def is_private(prefix: Path) -> bool:
    """Whether a Python's folder has the user's own files: sandboxes would show them with it."""
    home = Path(os.path.realpath(Path.home()))
    return home.is_relative_to(prefix) or prefix == home / ".local"


def is_program(path: str) -> bool:
    """Whether a file can be run, and is no script that looks for a Python, such as pyenv's."""
    try:
        with open(path, "rb") as file:
            return os.access(path, os.X_OK) and file.read(2) != b"#!"
    except OSError:
        return False
