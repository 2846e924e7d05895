"""The folder that a file or module is to run in, by the name that a caller gives."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import PathNotAllowedError, RootError
from . import safe_open
from .names import format_name, root_is_gone
from .project_files import locate
from .projects import Projects

PROJECT = "project"  # asks for the nearest folder upwards that has one of these
MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".venv", "pytest.ini", "tox.ini")


def run_folder(projects: Projects, name: str, file: Path | None = None) -> Path:
    """The real path of a folder of a caller's.

    Args:
        projects: the folders that the caller may use.
        name: as of a file in them; or `PROJECT`.
        file: where the search for a project begins; None is the first projects folder.

    Raises:
        PathNotAllowedError: the folder is outside, missing, or not a folder.
    """
    if name == PROJECT:
        return projects.roots[0] if file is None else project_of(projects, file)
    root, within = projects.place(name)
    path = locate(root, within)
    try:
        with safe_open.folder(root, path.relative_to(root).parts):
            return path
    except RootError as error:
        raise root_is_gone(root, str(error)) from None
    except OSError as error:
        raise PathNotAllowedError(
            f"Error: Can't run in the folder {format_name(name)}: {error.strerror}. cwd is a folder"
            f" relative to {projects.roots[0]}, or {PROJECT!r}."
        ) from None


def project_of(projects: Projects, file: Path) -> Path:
    """The nearest folder from a file up that looks like a project; else the projects folder."""
    root = next(each for each in projects.folders if file.is_relative_to(each))
    folder = file.parent
    while folder != root:
        for marker in MARKERS:
            with contextlib.suppress(OSError, RootError):
                safe_open.status(root, folder / marker)
                return folder
        folder = folder.parent
    return root
