"""The folder that a file or module is to run in, by the name that a caller gives."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import PathNotAllowedError, RootError
from . import safe_open
from .project_files import locate, root_is_gone, shown

PROJECT = "project"  # asks for the nearest folder upwards that has one of these
MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".venv", "pytest.ini", "tox.ini")


def run_folder(root: Path, name: str, start: Path) -> Path:
    """The real path of a folder beneath the root.

    Args:
        root: the projects folder.
        name: relative to the root, or absolute beneath it; or `PROJECT`.
        start: where the search for a project begins.

    Raises:
        PathNotAllowedError: the folder is outside, missing, or not a folder.
    """
    if name == PROJECT:
        return project_of(root, start)
    path = locate(root, name)
    try:
        with safe_open.folder(root, path.relative_to(root).parts):
            return path
    except RootError as error:
        raise root_is_gone(root, str(error)) from None
    except OSError as error:
        raise PathNotAllowedError(
            f"Error: Can't run in the folder {shown(name)}: {error.strerror}. cwd is a folder"
            f" relative to {root}, or {PROJECT!r}."
        ) from None


def project_of(root: Path, start: Path) -> Path:
    """The nearest folder from `start` up to the root that looks like a project; else the root."""
    while start != root and start.is_relative_to(root):
        for marker in MARKERS:
            with contextlib.suppress(OSError, RootError):
                safe_open.status(root, start / marker)
                return start
        start = start.parent
    return root
