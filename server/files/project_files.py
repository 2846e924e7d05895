"""Reads and writes the files of one folder, by the names that callers give.

`safe_open.py` opens files without leaving the folder; `names.py` resolves names.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from ...kernels import decoded, encoded
from ..errors import PathNotAllowedError
from . import safe_open
from .names import format_name, locate, shortened
from .safe_open import Identity
from .walking import walk
from .wording import translated_errors

__all__ = [
    "DATA",
    "MOST",
    "PYTHON",
    "UNKNOWN_TYPE",
    "FileStatus",
    "OpenFile",
    "PythonFile",
    "existing",
    "format_name",
    "is_picture",
    "locate",
    "mime_type",
    "opened",
    "read_picture",
    "read_python",
    "read_text",
    "replacing",
    "shortened",
    "walk",
    "write",
    "write_bytes",
]

MOST = 10_000_000  # max bytes of a file
PYTHON = frozenset({".py"})
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
# Types that systems' tables lack or disagree about.
TYPES = {
    ".py": "text/x-python",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".md": "text/markdown",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".ipynb": "application/x-ipynb+json",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".parquet": "application/vnd.apache.parquet",
    ".feather": "application/vnd.apache.arrow.file",
    ".arrow": "application/vnd.apache.arrow.file",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class PythonFile:
    """A file that was read: its real path, its name relative to the root, its bytes."""

    path: Path
    name: str
    source: bytes


@dataclass(frozen=True)
class FileStatus:
    """A file as it is now: its name for callers, its real path, its bytes, and when it changed."""

    name: str
    path: Path
    size: int
    modified: float


@dataclass(frozen=True)
class OpenFile:
    """A regular file that is open for reading."""

    handle: int
    path: Path
    status: os.stat_result

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        parts: list[bytes] = []
        os.lseek(self.handle, offset, os.SEEK_SET)
        while size > 0 and (part := os.read(self.handle, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def mime_type(name: str) -> str:
    """A file's MIME type by its name."""
    suffix = PurePath(name).suffix.lower()
    kind, coding = mimetypes.guess_type(PurePath(name).name, strict=False)
    return TYPES.get(suffix) or (kind if kind and not coding else UNKNOWN_TYPE)


@contextlib.contextmanager
def opened(root: Path, file_name: str, hidden: Set[Identity] = frozenset()) -> Iterator[OpenFile]:
    """Open any regular file beneath the root once, and check the open file.

    Raises:
        PathNotAllowedError: the file is outside, missing, or not regular.
    """
    path = locate(root, file_name)
    with translated_errors(root, file_name, "read", hidden=hidden):
        handle = safe_open.open_file(root, path, hidden)
    try:
        with translated_errors(root, file_name, "read"):
            yield OpenFile(handle, path, os.fstat(handle))
    finally:
        os.close(handle)


def read_python(root: Path, file_name: str, hidden: Set[Identity] = frozenset()) -> PythonFile:
    """Open a Python file beneath the root once, check the open file, and read it.

    Raises:
        PathNotAllowedError: the file is outside, missing, not regular, not `.py`, or too large.
    """
    path = locate(root, file_name)
    with (
        translated_errors(root, file_name, "read", PYTHON, hidden),
        os.fdopen(safe_open.open_file(root, path, hidden), "rb") as file,
    ):
        must_be_python(path, file_name)
        return PythonFile(path, path.relative_to(root).as_posix(), whole(file, file_name))


def read_picture(root: Path, file_name: str, hidden: Set[Identity] = frozenset()) -> bytes:
    """Read a picture beneath the root, by its suffix; the bytes may be anything.

    Raises:
        PathNotAllowedError: as for `read_python`, if it has none of the suffixes `PICTURES`.
    """
    path = locate(root, file_name)
    with (
        translated_errors(root, file_name, "read", hidden=hidden),
        os.fdopen(safe_open.open_file(root, path, hidden), "rb") as file,
    ):
        if not is_picture(path.name):  # a link to something else
            raise PathNotAllowedError(f"Error: {format_name(file_name)} is no picture.")
        return whole(file, file_name)


def is_picture(file_name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePath(file_name).suffix.lower() in PICTURES


def whole(file: BinaryIO, file_name: str) -> bytes:
    """An open file's bytes.

    Raises:
        PathNotAllowedError: there are too many.
    """
    size = os.fstat(file.fileno()).st_size
    source = file.read(MOST + 1) if size <= MOST else b""
    if (size := max(size, len(source))) > MOST:  # it may have grown meanwhile
        raise PathNotAllowedError(
            f"Error: File is too large: {format_name(file_name)} has {size:,} bytes; at most"
            f" {MOST:,} are read. Use run_cell to open it and read part of it."
        )
    return source


def read_text(root: Path, file_name: str, hidden: Set[Identity] = frozenset()) -> str:
    """Read a Python file and decode its text.

    Raises:
        PathNotAllowedError: as for `read_python`.
    """
    return decoded(read_python(root, file_name, hidden).source)


def existing(root: Path, file_name: str, hidden: Set[Identity] = frozenset()) -> str:
    """The root-relative name of an existing path; an absolute path elsewhere is returned as is.

    Paths elsewhere are not checked: kernels may see other files than the server does.

    Raises:
        PathNotAllowedError: a relative name leads outside, or the file does not exist.
    """
    if Path(file_name).is_absolute() and not Path(file_name).is_relative_to(root):
        return file_name
    path = locate(root, file_name)
    with translated_errors(root, file_name, "found", DATA, hidden):
        safe_open.status(root, path)
    return path.relative_to(root).as_posix()


def write(
    root: Path, file_name: str, content: str, hidden: Set[Identity] = frozenset()
) -> tuple[str, bool]:
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
    return write_bytes(root, file_name, data, hidden)


def write_bytes(
    root: Path, file_name: str, data: bytes, hidden: Set[Identity] = frozenset()
) -> tuple[str, bool]:
    """Write any file beneath the root atomically, as `write` does.

    Raises:
        PathNotAllowedError: the file is outside, a folder or special file, or too large.
    """
    if len(data) > MOST:
        raise PathNotAllowedError(
            f"Error: Content is too large: {len(data):,} bytes; at most {MOST:,} are written."
            " Split it into several files."
        )
    with replacing(root, file_name, hidden) as (file, name, new):
        file.write(data)
    return name, new


@contextlib.contextmanager
def replacing(
    root: Path, file_name: str, hidden: Set[Identity] = frozenset(), only_new: bool = False
) -> Iterator[tuple[BinaryIO, str, bool]]:
    """Replace a file beneath the root with what the body writes; if that fails, nothing changes.

    Yields the open file, its name relative to the root, and whether it is new. With `only_new`
    a file that exists by then is an error, whose `__context__` is a FileExistsError.

    Raises:
        PathNotAllowedError: the file is outside, or a folder or special file.
    """
    path = locate(root, file_name)
    with (
        translated_errors(root, file_name, "written"),
        safe_open.replacement(root, path, hidden, only_new) as (file, new),
    ):
        yield file, path.relative_to(root).as_posix(), new


def must_be_python(path: Path, file_name: str) -> None:
    """Refuse a file that is not `.py`.

    Raises:
        PathNotAllowedError: the file is not `.py`.
    """
    if path.suffix != ".py":
        raise PathNotAllowedError(f"Error: File must have .py extension: {format_name(file_name)}")
