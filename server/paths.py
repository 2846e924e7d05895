"""Files under the projects folder: finding, reading and writing them, and nothing outside.

A file is opened once and checked by its handle, so what was checked is what is read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST = 10_000_000  # bytes of one file
SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class PathNotAllowedError(Exception):
    """The path can't be used; the text is the seed's message, and says what to do."""


@dataclass(frozen=True)
class PythonFile:
    """A file as it was read: where it lies, its name beneath the root, its bytes."""

    path: Path
    name: str
    source: bytes


def locate(root: Path, file_name: str) -> Path:
    """The real path that a name means. Relative names are relative to the root.

    A leading folder named like the root is accepted, and an absolute path inside it.

    Raises:
        PathNotAllowedError: it lies outside, whether or not anything is there.
    """
    denied = PathNotAllowedError(
        f"Error: Access denied: File must be within {root} (given: {file_name!r})."
        " Use a path relative to that folder; list_python_files shows what is there."
    )
    if not file_name or "\0" in file_name:
        raise denied
    path = root / file_name
    parts = Path(file_name).parts
    if len(parts) > 1 and parts[0] == root.name and not os.path.lexists(path):
        path = root.joinpath(*parts[1:])
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError):
        raise denied from None
    if real != root and not real.is_relative_to(root):
        raise denied
    return real


def read(root: Path, file_name: str) -> PythonFile:
    """Open a Python file beneath the root and read it.

    Raises:
        PathNotAllowedError: outside, missing, not a regular file, not `.py`, or too large.
    """
    path = locate(root, file_name)
    handle = open_beneath(root, path, file_name)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(handle).st_size
        source = file.read(MOST + 1) if size <= MOST else b""
    if size > MOST or len(source) > MOST:
        raise PathNotAllowedError(
            f"Error: File is too large: {file_name} has {size:,} bytes; at most {MOST:,} are read."
        )
    return PythonFile(path, path.relative_to(root).as_posix(), source)


def open_beneath(root: Path, path: Path, file_name: str) -> int:
    """Open for reading without waiting, and check what the handle is.

    Raises:
        PathNotAllowedError: as the handle shows.
    """
    try:
        # Not blocking: a FIFO without a writer would wait for one.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise PathNotAllowedError(
            f"Error: File not found: {file_name}. list_python_files shows what is there."
        ) from None
    except OSError as error:
        if os.path.exists(path) and not os.path.isfile(path):
            raise not_a_file(file_name) from None
        raise PathNotAllowedError(
            f"Error: File can't be read: {file_name}: {error.strerror}."
        ) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise not_a_file(file_name)
        if sys.platform == "linux":
            # A folder on the way may have been swapped for a link meanwhile.
            opened = Path(os.readlink(f"/proc/self/fd/{handle}"))
            if not opened.is_relative_to(root):
                raise PathNotAllowedError(f"Error: Access denied: File must be within {root}.")
        if path.suffix != ".py":
            raise PathNotAllowedError(f"Error: File must have .py extension: {file_name}")
    except BaseException:
        os.close(handle)
        raise
    return handle


def not_a_file(file_name: str) -> PathNotAllowedError:
    """The seed's words for folders, FIFOs, devices and sockets."""
    return PathNotAllowedError(
        f"Error: Path is not a file: {file_name}. list_python_files shows what is there."
    )


def write(root: Path, file_name: str, content: str) -> tuple[str, bool]:
    """Write a Python file beneath the root, all of it or nothing.

    Returns its name beneath the root, and whether it is new.

    Raises:
        PathNotAllowedError: outside, a folder or special file, not `.py`, or too large.
    """
    path = locate(root, file_name)
    data = content.encode("utf-8", "surrogatepass")
    if path.suffix != ".py":
        raise PathNotAllowedError(f"Error: File must have .py extension: {file_name}")
    if len(data) > MOST:
        raise PathNotAllowedError(
            f"Error: Content is too large: {len(data):,} bytes; at most {MOST:,} are written."
        )
    new = not os.path.exists(path)
    if not new and not os.path.isfile(path):
        raise not_a_file(file_name)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o644 if new else stat.S_IMODE(path.stat().st_mode)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise PathNotAllowedError(
            f"Error: File can't be written: {file_name}: {error.strerror}."
        ) from None
    finally:
        with contextlib.suppress(OSError):  # most often it was moved into place
            temporary.unlink()
    return path.relative_to(root).as_posix(), new


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every `.py` file beneath the root that a person would call theirs, by name."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and f not in SKIPPED and not is_environment(Path(folder, f))
        )
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".py"):
                try:
                    status = path.stat()
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield path.relative_to(root).as_posix(), status


def is_environment(folder: Path) -> bool:
    """Whether a folder is a virtual environment."""
    return (folder / "pyvenv.cfg").exists()
