"""All files that one caller may use: those of the projects folders, and of their own home folder.

Chooses the folder that a name is in; `project_files.py` reads and writes beneath one folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

from ..errors import PathNotAllowedError
from . import project_files
from .names import LONGEST, format_name, shortened, with_slashes
from .project_files import FileStatus, OpenFile, PythonFile
from .safe_open import Identity, identity_of
from .walking import walk

T = TypeVar("T", str, bytes)
Write = Callable[[Path, str, T, frozenset[Identity]], tuple[str, bool]]


@dataclass(frozen=True)
class Projects:
    """The folders that a caller may use.

    A relative name begins in the first folder, or with the name of another one, unless the first
    has an entry of that name. An absolute name may be in any of them.

    Attributes:
        roots: the real paths of the projects folders.
        home: the real path of the caller's own home folder, for absolute names only; None if the
            code has no home folder of its own.
        hidden: files and folders that nobody may use, wherever they are: the server's own.
        known: what some of them were at the server's start: code may rename the folders above.
    """

    roots: tuple[Path, ...]
    home: Path | None = None
    hidden: tuple[Path, ...] = ()
    known: frozenset[Identity] = frozenset()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, the home folder last."""
        return self.roots if self.home is None else (*self.roots, self.home)

    def place(self, name: str) -> tuple[Path, str]:
        """The folder that a name is in, and the name to look up there.

        Raises:
            PathNotAllowedError: the name is outside of all, or one of the server's own files.
        """
        root, within = self._choose(name)
        self._must_be_visible(project_files.locate(root, within), name, root)
        return root, within

    def own(self) -> frozenset[Identity]:
        """What the hidden files and folders are now: safe_open compares what it has opened."""
        return self.known | identities(self.hidden)

    def _choose(self, name: str) -> tuple[Path, str]:
        first, *others = self.roots
        if len(name) > LONGEST or "\0" in name:
            return first, name  # refused there, in its words
        with contextlib.suppress(ValueError):
            name = with_slashes(first, name)
        if PurePath(name).is_absolute():
            for root in self.folders:
                with contextlib.suppress(PathNotAllowedError):
                    project_files.locate(root, name)
                    return root, name
            if len(self.roots) > 1:
                places = ", ".join(map(str, self.roots))
                raise PathNotAllowedError(
                    f"Error: Access denied: File must be within one of {places} (given:"
                    f" {shortened(name)!r})."
                )
            return first, name
        begin, _, rest = name.partition("/")
        for root in others:
            if root.name == begin and not os.path.lexists(first / begin):
                return root, rest.lstrip("/") or "."
        return first, name

    def _must_be_visible(self, path: Path, name: str, root: Path) -> None:
        """Refuse the server's own files, by whatever name they are reached.

        Raises:
            PathNotAllowedError: the path is one of them, or inside one.
        """
        if not self.hidden:
            return
        own = self.own()
        for each in (path, *path.parents):
            if each == root:
                return
            if not own.isdisjoint(identities([each])):
                raise PathNotAllowedError(
                    f"Error: Access denied: {format_name(name)} belongs to the server itself."
                )

    def name_of(self, root: Path, path: Path) -> str:
        """A file's name as this caller may use it, with slashes."""
        within = path.relative_to(root).as_posix()
        if root == self.roots[0]:
            return within
        name = f"{root.name}/{within}"
        alike = [each for each in self.roots[1:] if each.name == root.name]
        usable = root in self.roots and len(alike) == 1
        if usable and not os.path.lexists(self.roots[0] / root.name):
            return name
        return path.as_posix()

    # -- files

    def read_python(self, name: str) -> PythonFile:
        """A Python file: see `project_files.read_python`.

        Raises:
            PathNotAllowedError: it can't be read.
        """
        root, within = self.place(name)
        file = project_files.read_python(root, within, self.own())
        return replace(file, name=self.name_of(root, file.path))

    def read_picture(self, name: str) -> bytes:
        """A picture's bytes.

        Raises:
            PathNotAllowedError: it can't be read.
        """
        return project_files.read_picture(*self.place(name), self.own())

    def read_text(self, name: str) -> str:
        """A Python file's text.

        Raises:
            PathNotAllowedError: it can't be read.
        """
        return project_files.read_text(*self.place(name), self.own())

    def existing(self, name: str) -> str:
        """An existing file's name; that of an absolute path elsewhere is returned as it is.

        Raises:
            PathNotAllowedError: a relative name leads outside, or the file does not exist.
        """
        root, within = self._choose_existing(name)
        found = project_files.existing(root, within, self.own())
        return found if PurePath(found).is_absolute() else self.name_of(root, root / found)

    def _choose_existing(self, name: str) -> tuple[Path, str]:
        if PurePath(name).is_absolute():
            inside = [root for root in self.roots if Path(name).is_relative_to(root)]
            return (inside[0], name) if inside else (self.roots[0], name)
        return self.place(name)

    def must_exist(self, name: str) -> None:
        """Check that a name leads to a file or folder that the caller may use.

        Raises:
            PathNotAllowedError: it does not.
        """
        path = project_files.locate(*self.place(name))
        if not path.exists():
            raise PathNotAllowedError(f"Error: File not found: {format_name(name)}.")

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[OpenFile, FileStatus]]:
        """Open any regular file.

        Raises:
            PathNotAllowedError: it can't be read.
        """
        root, within = self.place(name)
        with project_files.opened(root, within, self.own()) as file:
            status, known_as = file.status, self.name_of(root, file.path)
            yield file, FileStatus(known_as, file.path, status.st_size, status.st_mtime)

    def status(self, name: str) -> FileStatus:
        """The status of a regular file.

        Raises:
            PathNotAllowedError: it can't be read.
        """
        with self.opened(name) as (_, status):
            return status

    def write(self, name: str, content: str) -> tuple[str, bool]:
        """Write a Python file: see `project_files.write`.

        Raises:
            PathNotAllowedError: it can't be written.
        """
        return self._write(project_files.write, name, content)

    def write_bytes(self, name: str, data: bytes) -> tuple[str, bool]:
        """Write any file; returns its name, and whether it is new.

        Raises:
            PathNotAllowedError: it can't be written.
        """
        return self._write(project_files.write_bytes, name, data)

    def _write(self, write: Write[T], name: str, content: T) -> tuple[str, bool]:
        root, within = self.place(name)
        written, new = write(root, within, content, self.own())
        return self.name_of(root, root / written), new

    @contextlib.contextmanager
    def replacing(
        self, name: str, only_new: bool = False
    ) -> Iterator[tuple[BinaryIO, FileStatus, bool]]:
        """Replace any file with what the body writes: see `project_files.replacing`.

        Raises:
            PathNotAllowedError: it can't be written.
        """
        root, within = self.place(name)
        with project_files.replacing(root, within, self.own(), only_new) as (file, written, new):
            path = root / written
            yield file, FileStatus(self.name_of(root, path), path, 0, 0.0), new

    def walk(
        self, suffixes: frozenset[str] | None, folder: str = ""
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the user's own files with these suffixes, or all that are not hidden.

        Args:
            suffixes: of the files to find; None finds all.
            folder: only what is in it; empty means all projects folders.

        Raises:
            PathNotAllowedError: a folder can't be listed.
        """
        for root, path, status in self._walk(suffixes, folder):
            yield self.name_of(root, path), status

    def paths(self) -> Iterator[Path]:
        """Yield the paths of the user's own files.

        Raises:
            PathNotAllowedError: a folder can't be listed.
        """
        for _, path, _ in self._walk(None, ""):
            yield path

    def _walk(
        self, suffixes: frozenset[str] | None, folder: str
    ) -> Iterator[tuple[Path, Path, os.stat_result]]:
        if folder:
            root, within = self.place(folder)
            start = project_files.locate(root, within).relative_to(root).parts
            starts = [(root, start)]
        else:
            starts = [(root, ()) for root in self.roots]
        own = self.own()
        for root, start in starts:
            for name, status in walk(root, suffixes, start, own):
                yield root, root / name, status


def identities(paths: Iterable[Path]) -> frozenset[Identity]:
    """What paths lead to, whatever their names; nothing for those where nothing is."""
    found: set[Identity] = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found.add(identity_of(os.stat(path)))
    return frozenset(found)
