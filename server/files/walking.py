"""Finds the user's own files beneath a folder, without hidden folders and installed packages."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Set
from pathlib import Path, PurePath

from ..errors import PathNotAllowedError, RootError
from . import safe_open
from .names import LIST_HINT, LONGEST, format_name, is_unicode, locate, root_is_gone
from .safe_open import Identity, identity_of

SKIPPED = {"__pycache__", "node_modules", "site-packages"}


def walk(
    root: Path,
    suffixes: frozenset[str] | None,
    start: tuple[str, ...] = (),
    hidden: Set[Identity] = frozenset(),
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the user's own files beneath the root, sorted by name.

    Links to folders are not followed; links to files are listed if they could be read.
    Names that are not Unicode are skipped: no client could ask for them.

    Args:
        root: the folder; names are relative to it.
        suffixes: of the files to find; None finds all that are not hidden.
        start: the folder beneath the root to begin in.
        hidden: the files and folders to leave out.

    Raises:
        PathNotAllowedError: the root no longer exists, or `start` can't be listed.
    """
    waiting = [start]
    while waiting:
        parts = waiting.pop()
        try:
            files, folders = list_folder(root, parts, suffixes, hidden)
        except RootError as error:
            raise root_is_gone(root, str(error)) from None
        except OSError as error:
            if parts != start:
                continue
            name = format_name("/".join(parts) or str(root))
            raise PathNotAllowedError(
                f"Error: Folder can't be listed: {name}: {error.strerror}. {LIST_HINT}"
            ) from None
        for name, status in files:
            yield "/".join((*parts, name)), status
        inner = [(*parts, name) for name in reversed(folders)]
        # A tree may be deeper than the longest name that can be read.
        waiting.extend(parts for parts in inner if len("/".join(parts)) < LONGEST)


def list_folder(
    root: Path,
    parts: tuple[str, ...],
    suffixes: frozenset[str] | None,
    hidden: Set[Identity],
) -> tuple[list[tuple[str, os.stat_result]], list[str]]:
    """A folder's files with these suffixes, and the subfolders to visit, sorted by name.

    Raises:
        RootError: the root can't be opened.
        OSError: the folder can't be opened.
    """
    files: list[tuple[str, os.stat_result]] = []
    with safe_open.folder(root, parts, hidden=hidden) as here:
        entries = sorted(each for each in here.entries() if is_unicode(each[0]))
        if parts and ("pyvenv.cfg", False) in entries:  # a virtual environment
            return [], []
        for name, is_folder in entries:
            if is_folder or not is_wanted(name, suffixes):
                continue
            with contextlib.suppress(OSError, PathNotAllowedError):
                status = here.status(name)
                if stat.S_ISLNK(status.st_mode):
                    target = locate(root, str(here.path / name))
                    if suffixes is not None and target.suffix not in suffixes:
                        continue
                    status = safe_open.status(root, target)
                if stat.S_ISREG(status.st_mode) and identity_of(status) not in hidden:
                    files.append((name, status))
    return files, [name for name, is_folder in entries if is_folder and is_visited(name)]


def is_wanted(name: str, suffixes: frozenset[str] | None) -> bool:
    """Whether a file is listed, by its name."""
    return not name.startswith(".") if suffixes is None else PurePath(name).suffix in suffixes


def is_visited(name: str) -> bool:
    """Whether a folder's files are the user's own, by its name."""
    return not name.startswith(".") and name not in SKIPPED
