"""Where a program is that a person names: in the current folder, or in the projects folder.

Knows names and folders of this machine; the server decides what may be run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROJECT = "project"  # as `cwd`, the server's word for the nearest folder that looks like a project


@dataclass(frozen=True)
class Place:
    """A program, as a server on this machine finds it.

    Attributes:
        file: its path if it is in the current folder, else its name; None for a module.
        cwd: the folder to run it in; None is the server's choice.
        folders: folders of the person's that it needs; empty if it is in the projects folder.
    """

    file: str | None
    cwd: str | None
    folders: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """What the server must have."""
        return [path for path in (self.file, self.cwd) if path and path != PROJECT]


def find(file: str | None, cwd: str | None) -> Place:
    """Look for a file in the current folder, where `python FILE` runs it, too.

    A module runs in the current folder. A folder that has the home folder is none to run in, as
    code in the sandbox may not have all of it.
    """
    try:
        here: str | None = os.getcwd()
    except OSError:  # it was deleted
        here = None
    if here is not None and contains_home(here):
        here = None
    if cwd is not None and Path(cwd).is_dir():
        cwd = os.path.abspath(cwd)
    if file is None:
        chosen = cwd or here
        return Place(None, chosen, absolute(chosen))
    if not Path(file).is_file():
        return Place(file, cwd)
    path = os.path.abspath(file)
    chosen = cwd or here
    return Place(path, chosen, outermost(*absolute(chosen), os.path.dirname(path)))


def absolute(folder: str | None) -> tuple[str, ...]:
    """A folder of this machine; empty if it is none, or a name on the server."""
    return (folder,) if folder and os.path.isabs(folder) else ()


def outermost(*folders: str) -> tuple[str, ...]:
    """The folders that are in none of the others."""
    return tuple(
        folder
        for folder in dict.fromkeys(folders)
        if not any(folder != one and Path(folder).is_relative_to(one) for one in folders)
    )


def contains_home(folder: str) -> bool:
    """Whether a folder is the home folder, or has it."""
    try:
        return Path.home().resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError):  # there is no home folder
        return False
