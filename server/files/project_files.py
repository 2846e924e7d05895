"""Resolves the file names that callers give in the projects folder, and words the errors.

`safe_open.py` opens files without leaving the folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from ...kernels import decoded, encodable, encoded
from ..errors import NotAFileError, PathNotAllowedError, RootError
from . import safe_open
from .similar import most_similar

MOST = 10_000_000  # max bytes of a file
MOST_OF_NOTEBOOK = 50_000_000  # the same of a notebook: its outputs may have pictures
LONGEST = 1_000  # max characters of a name; no system takes much longer paths
PYTHON = frozenset({".py"})
NOTEBOOKS = frozenset({".ipynb"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})
DATA = frozenset(
    f".{kind}"
    for kinds in (
        "csv tsv txt log json jsonl ndjson geojson xml yaml html xlsx xls ods dta sav",
        "parquet feather arrow orc db sqlite sqlite3 duckdb h5 hdf5 nc npy npz",
        "gz bz2 zst zip png jpg wav",
    )
    for kind in kinds.split()
)
SEARCHED = 2_000  # max files among which one with a similar name is searched
SKIPPED = {"__pycache__", "node_modules", "site-packages"}
LIST_HINT = "list_python_files lists the files."


@dataclass(frozen=True)
class PythonFile:
    """A file that was read: its real path, its name relative to the root, its bytes."""

    path: Path
    name: str
    source: bytes


def shown(name: str) -> str:
    """A name as messages show it: escaped if it could forge a line or can't be sent."""
    name = shortened(name)
    return name if name.isprintable() else repr(name)


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
            f"Error: File name too long: {shown(file_name)} has {len(file_name):,} characters;"
            f" at most {LONGEST:,} are allowed. {LIST_HINT}"
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


def read(root: Path, file_name: str) -> PythonFile:
    """Open a Python file beneath the root once, check the open file, and read it.

    Raises:
        PathNotAllowedError: the file is outside, missing, not regular, not `.py`, or too large.
    """
    return _read(root, file_name, PYTHON)


def read_picture(root: Path, file_name: str) -> bytes:
    """Read a picture beneath the root, by its suffix; the bytes may be anything.

    Raises:
        PathNotAllowedError: as for `read`, if it has none of the suffixes `PICTURES`.
    """
    return _read(root, file_name, PICTURES).source


def read_notebook(root: Path, file_name: str) -> PythonFile:
    """Read a notebook beneath the root, by its suffix; the bytes may be anything.

    Raises:
        PathNotAllowedError: as for `read`, if it is not `.ipynb`.
    """
    return _read(root, file_name, NOTEBOOKS)


def is_picture(file_name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePath(file_name).suffix.lower() in PICTURES


def _read(root: Path, file_name: str, suffixes: frozenset[str]) -> PythonFile:
    path = locate(root, file_name)
    with (
        translated_errors(root, file_name, "found" if suffixes == NOTEBOOKS else "read"),
        os.fdopen(safe_open.open_file(root, path), "rb") as file,
    ):
        if suffixes == PYTHON:
            must_be_python(path, file_name)
        elif suffixes == NOTEBOOKS:
            must_be_notebook(path, file_name)
        elif not is_picture(path.name):  # a link to something else
            raise PathNotAllowedError(f"Error: {shown(file_name)} is no picture.")
        most = MOST_OF_NOTEBOOK if suffixes == NOTEBOOKS else MOST
        size = os.fstat(file.fileno()).st_size
        source = file.read(most + 1) if size <= most else b""
        if (size := max(size, len(source))) > most:  # it may have grown meanwhile
            raise PathNotAllowedError(
                f"Error: File is too large: {shown(file_name)} has {size:,} bytes; at most"
                f" {most:,} are read. Use run_cell to open it and read part of it."
            )
        return PythonFile(path, path.relative_to(root).as_posix(), source)


def read_text(root: Path, file_name: str) -> str:
    """Read a Python file and decode its text.

    Raises:
        PathNotAllowedError: as for `read`.
    """
    return decoded(read(root, file_name).source)


def existing(root: Path, file_name: str) -> str:
    """The root-relative name of an existing path; an absolute path elsewhere is returned as is.

    Paths elsewhere are not checked: kernels may see other files than the server does.

    Raises:
        PathNotAllowedError: a relative name leads outside, or the file does not exist.
    """
    if Path(file_name).is_absolute() and not Path(file_name).is_relative_to(root):
        return file_name
    path = locate(root, file_name)
    with translated_errors(root, file_name, "found"):
        safe_open.status(root, path)
    return path.relative_to(root).as_posix()


def write(root: Path, file_name: str, content: str) -> tuple[str, bool]:
    """Write a Python file beneath the root atomically.

    A link to a file inside is followed, as editors do: the link stays and its target is
    replaced. A link that leads outside is refused, whether or not its target exists. A link
    created after that check is never written through: the write fails, or replaces the link.

    Returns the file's name relative to the root, and whether the file is new.

    Raises:
        PathNotAllowedError: the file is outside, a folder or special file, not `.py`, too large,
            or can't be encoded as its coding line says.
    """
    path = locate(root, file_name)
    must_be_python(path, file_name)
    try:
        data = encoded(content)
    except UnicodeEncodeError as error:
        raise PathNotAllowedError(
            f"Error: Content can't be encoded as {error.encoding}, which lacks"
            f" {content[error.start]!r}. Remove that character, or the coding line if it is not"
            " UTF-8."
        ) from None
    if len(data) > MOST:
        raise PathNotAllowedError(
            f"Error: Content is too large: {len(data):,} bytes; at most {MOST:,} are written."
            " Split it into several files."
        )
    with translated_errors(root, file_name, "written"):
        new = safe_open.replace_file(root, path, data)
    return path.relative_to(root).as_posix(), new


def must_be_python(path: Path, file_name: str) -> None:
    """Refuse a file that is not `.py`.

    Raises:
        PathNotAllowedError: the file is not `.py`.
    """
    if path.suffix != ".py":
        raise PathNotAllowedError(f"Error: File must have .py extension: {shown(file_name)}")


def must_be_notebook(path: Path, file_name: str) -> None:
    """Refuse a file that is not `.ipynb`.

    Raises:
        PathNotAllowedError: the file is not `.ipynb`.
    """
    if path.suffix not in NOTEBOOKS:
        raise PathNotAllowedError(
            f"Error: Notebook must have .ipynb extension: {shown(file_name)}. Use run_python for"
            " Python files."
        )


@contextlib.contextmanager
def translated_errors(root: Path, file_name: str, done: str) -> Iterator[None]:
    """Translate the system's errors into the original project's messages.

    Raises:
        PathNotAllowedError: for any OSError or RootError in the body.
    """
    name = shown(file_name)
    try:
        yield
    except RootError as error:
        raise root_is_gone(root, str(error)) from None
    except NotAFileError:
        raise PathNotAllowedError(f"Error: Path is not a file: {name}. {LIST_HINT}") from None
    except FileNotFoundError:
        advice = LIST_HINT
        if done in ("read", "found") and (meant := meant_by(root, file_name, done)):
            advice = f"Did you mean {shown(meant)}?"
        raise PathNotAllowedError(f"Error: File not found: {name}. {advice}") from None
    except OSError as error:
        raise PathNotAllowedError(
            f"Error: File can't be {done}: {name}: {error.strerror}. {LIST_HINT}"
        ) from None


def meant_by(root: Path, file_name: str, done: str) -> str | None:
    """The file that a name that does not exist may mean; None if none is similar."""
    name = file_name.replace("\\", "/").removeprefix(f"{root.as_posix()}/")
    name = name.removeprefix("./").removeprefix(f"{root.name}/")
    files = walk(root, PYTHON if done == "read" else DATA | NOTEBOOKS)
    return most_similar(name, (each for each, _ in islice(files, SEARCHED)))


def root_is_gone(root: Path, reason: str) -> PathNotAllowedError:
    """The error for a root that existed when the server started and no longer does."""
    return PathNotAllowedError(
        f"Error: The projects folder {root} can't be opened: {reason}. Restore it, or set"
        " PYTHON_PROJECTS_DIR to another folder and restart the server."
    )


def walk(root: Path, suffixes: frozenset[str] = PYTHON) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the user's own files with these suffixes beneath the root, sorted by name.

    Links to folders are not followed; links to files are listed if `read` would follow them.
    Names that are not Unicode are skipped: no client could ask for them.

    Raises:
        PathNotAllowedError: the root no longer exists.
    """
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        with translated_errors(root, "/".join(parts) or str(root), "listed"):
            try:
                files, folders = list_folder(root, parts, suffixes)
            except OSError:
                if not parts:
                    raise
                continue
        for name, status in files:
            yield "/".join((*parts, name)), status
        inner = [(*parts, name) for name in reversed(folders)]
        # A tree may be deeper than the longest name that can be read.
        waiting.extend(parts for parts in inner if len("/".join(parts)) < LONGEST)


def list_folder(
    root: Path, parts: tuple[str, ...], suffixes: frozenset[str]
) -> tuple[list[tuple[str, os.stat_result]], list[str]]:
    """A folder's files with these suffixes, and the subfolders to visit, sorted by name.

    Raises:
        OSError: the folder can't be opened.
    """
    files: list[tuple[str, os.stat_result]] = []
    with safe_open.folder(root, parts) as here:
        # Bytes that are no UTF-8 appear as lone surrogates.
        entries = sorted(each for each in here.entries() if each[0] == encodable(each[0]))
        if parts and ("pyvenv.cfg", False) in entries:  # a virtual environment
            return [], []
        for name, is_folder in entries:
            if is_folder or PurePath(name).suffix not in suffixes:
                continue
            with contextlib.suppress(OSError, PathNotAllowedError):
                status = here.status(name)
                if stat.S_ISLNK(status.st_mode):
                    target = locate(root, str(here.path / name))
                    if target.suffix not in suffixes:
                        continue
                    status = safe_open.status(root, target)
                if stat.S_ISREG(status.st_mode):
                    files.append((name, status))
    return files, [
        name
        for name, is_folder in entries
        if is_folder and not name.startswith(".") and name not in SKIPPED
    ]
