"""Resolves the names that callers give for files beneath a folder, and shows names in messages.

Reads links, but opens no file: `safe_open.py` does that, and leaves the folder by no link.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ...kernels import encodable
from ..errors import PathNotAllowedError

LONGEST = 1_000  # max characters of a name; no system takes much longer paths
LIST_HINT = "list_files lists the files."


def format_name(name: str) -> str:
    """A name as messages show it: escaped if it could forge a line or can't be sent."""
    name = shortened(name)
    return name if name.isprintable() else repr(name)


def is_unicode(name: str) -> bool:
    """Whether clients could send a name: bytes that are no UTF-8 appear as lone surrogates."""
    return name == encodable(name)


def shortened(name: str) -> str:
    """Truncate a name that is too long for a message, keeping its head and tail."""
    return name if len(name) <= 200 else f"{name[:120]}…{name[-60:]}"


def locate(root: Path, file_name: str) -> Path:
    """Resolve a name, relative to the root or absolute, to a real path beneath the root.

    Accepts a leading folder named like the root, an absolute path inside the root, Windows's
    separator, and links that stay inside it. No other character is special: `~`, `$HOME` and `%2e`
    are plain names.

    Raises:
        PathNotAllowedError: the path is outside, whether or not it exists; or the name is invalid.
    """
    if len(file_name) > LONGEST:
        raise PathNotAllowedError(
            f"Error: File name too long: {format_name(file_name)} has {len(file_name):,}"
            f" characters; at most {LONGEST:,} are allowed. {LIST_HINT}"
        )
    try:
        # A NUL would end the path, and clients can't send names that are not Unicode.
        if not file_name or b"\0" in file_name.encode():
            raise ValueError(file_name)
        name = with_slashes(root, file_name)
        path = root / name
        parts = Path(name).parts
        if len(parts) > 1 and parts[0] == root.name and not os.path.lexists(path):
            path = root.joinpath(*parts[1:])
        real = Path(os.path.realpath(path))
        below = real.relative_to(root).parts
        # On Windows a colon names a file's stream, or a drive.
        if sys.platform == "win32" and any(":" in part for part in below):
            raise ValueError(file_name)
    except (OSError, ValueError, RecursionError):  # RecursionError: a chain of a thousand links
        if os.path.realpath(root) != str(root):
            raise root_is_gone(root, "it now leads elsewhere") from None
        raise PathNotAllowedError(
            f"Error: Access denied: File must be within {root} (given: {shortened(file_name)!r})."
            f" Use a path relative to that folder; {LIST_HINT}"
        ) from None
    if not is_unicode("/".join(below)):
        raise PathNotAllowedError(
            f"Error: {format_name(file_name)} is a link to a name that is not Unicode, which no"
            " client and no notebook can have. Rename that."
        )
    return real


def with_slashes(root: Path, file_name: str) -> str:
    """A name whose folders are separated as on Windows, as a path of this system.

    A file that really has backslashes in its name keeps it.

    Raises:
        ValueError: the path begins with a drive, and this is not Windows.
    """
    if sys.platform == "win32" or "\\" not in file_name or os.path.lexists(root / file_name):
        return file_name
    if file_name[1:3] == ":\\" and file_name[0].isalpha():
        raise ValueError(file_name)
    return file_name.replace("\\", "/")


def root_is_gone(root: Path, reason: str) -> PathNotAllowedError:
    """The error for a root that existed when the server started and no longer does."""
    return PathNotAllowedError(
        f"Error: The projects folder {root} can't be opened: {reason}. Restore it, or set"
        " PYTHON_PROJECTS_DIR to another folder and restart the server."
    )
