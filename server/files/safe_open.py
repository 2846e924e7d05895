"""Opens files beneath a folder through handles, so that no link is followed on the way.

Takes resolved paths and raises `OSError`; resolving names and wording errors for the user happen
elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import NotAFileError, RootError

# Python has no folder handles on Windows: there we use paths, and check files once they are open.
BY_HANDLE = os.open in os.supports_dir_fd
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# O_PATH: allows passing through a folder that may be entered but not listed, like any path lookup.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | NOFOLLOW
# O_NONBLOCK: don't wait for a FIFO's writer. O_NOCTTY: don't acquire a controlling terminal.
READ = os.O_RDONLY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
BINARY = getattr(os, "O_BINARY", 0)

Identity = tuple[int, int]  # what a file or folder is, whatever its name: device and inode


@dataclass(frozen=True)
class Folder:
    """An open folder. Names in it are single path components, and links are not followed."""

    path: Path
    handle: int | None  # None on systems without folder handles

    def at(self, name: str) -> str:
        """A name as the os calls below take it: relative to the handle, else a full path."""
        return name if self.handle is not None else str(self.path / name)

    def open(self, name: str, flags: int, mode: int = 0) -> int:
        """Open a file in this folder; returns its descriptor."""
        return os.open(self.at(name), flags | BINARY, mode, dir_fd=self.handle)

    def own_status(self) -> os.stat_result:
        """The status of the folder itself."""
        return os.stat(self.path) if self.handle is None else os.fstat(self.handle)

    def status(self, name: str) -> os.stat_result:
        """The status of an entry, without following a link."""
        return os.stat(self.at(name), dir_fd=self.handle, follow_symlinks=False)

    def make(self, name: str) -> bool:
        """Create a folder in this one; returns whether it is new."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.at(name), dir_fd=self.handle)
            return True
        return False

    def replace(self, old: str, new: str) -> None:
        """Rename a file over another in one step; replaces a link of that name, not its target."""
        os.replace(self.at(old), self.at(new), src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def rename_new(self, old: str, new: str) -> None:
        """Rename a file in one step, if there is none of the new name.

        Raises:
            FileExistsError: there is one.
        """
        os.link(self.at(old), self.at(new), src_dir_fd=self.handle, dst_dir_fd=self.handle)
        os.unlink(self.at(old), dir_fd=self.handle)

    def entries(self) -> list[tuple[str, bool]]:
        """The folder's entries, each with whether it is a folder."""
        if self.handle is None:
            with os.scandir(self.path) as found:
                return [(e.name, e.is_dir(follow_symlinks=False)) for e in found]
        readable = os.open(".", os.O_RDONLY, dir_fd=self.handle)
        try:
            with os.scandir(readable) as found:
                return [(e.name, e.is_dir(follow_symlinks=False)) for e in found]
        finally:
            os.close(readable)


@contextlib.contextmanager
def folder(
    root: Path, parts: Sequence[str], make: bool = False, hidden: Set[Identity] = frozenset()
) -> Iterator[Folder]:
    """Open a folder beneath the root, descending one component at a time from the root's handle.

    Fails if a component has become a link since the path was resolved, or is `hidden`. A folder
    that is moved meanwhile stays the one that was opened. With `make`, missing folders are
    created, and removed again if the body fails.

    Raises:
        RootError: the root can't be opened.
        OSError: a component can't be opened.
    """
    made: list[Sequence[str]] = []
    here = open_root(root)
    try:
        for depth, part in enumerate(parts):
            if make and here.make(part):
                made.append(parts[: depth + 1])
            outer, here = here, enter(here, part)
            leave(outer)  # one at a time: a deep tree must not use up the descriptors
            if hidden:
                refuse_hidden(here.own_status(), hidden)
        yield here
    except BaseException:
        for *outside, part in reversed(made):
            with contextlib.suppress(OSError), folder(root, outside) as outer:
                os.rmdir(outer.at(part), dir_fd=outer.handle)
        raise
    finally:
        leave(here)


def open_root(root: Path) -> Folder:
    """Open the root, given by its real path; fails if it has been replaced by a link."""
    if not BY_HANDLE:
        if os.path.isdir(root):
            return Folder(root, None)
        raise RootError(os.strerror(errno.ENOENT))
    try:
        return Folder(root, os.open(root, FOLDER))
    except OSError as error:
        raise RootError(error.strerror) from None


def enter(outer: Folder, part: str) -> Folder:
    """Open a subfolder of an open folder."""
    path = outer.path / part
    return Folder(path, None if outer.handle is None else outer.open(part, FOLDER))


def leave(here: Folder) -> None:
    """Close a folder's handle."""
    if here.handle is not None:
        os.close(here.handle)


def status(root: Path, path: Path) -> os.stat_result:
    """The status of a resolved path, without following a link.

    Raises:
        OSError: the path can't be reached.
    """
    *parts, name = inside(root, path)
    with folder(root, parts) as here:
        return here.status(name)


def open_file(root: Path, path: Path, hidden: Set[Identity] = frozenset()) -> int:
    """Open a regular file for reading; returns the handle, after checking the open file.

    A file that is `hidden`, or in a folder that is, is not opened, whatever its name is by now.

    Hard links are allowed: a file doesn't tell which of its names came first, and uv, git and
    backups create many, so refusing them would refuse the user's own files. Linux lets only
    those who may read and write a file hard-link it (`fs.protected_hardlinks`), and nobody can
    link across mounts, as out of a sandbox.

    Raises:
        NotAFileError: the path is not a regular file.
        OSError: the file can't be opened.
    """
    *parts, name = inside(root, path)
    with folder(root, parts, hidden=hidden) as here:
        try:
            handle = here.open(name, READ)
        except OSError:  # each system has its own errno for folders and sockets
            if stat.S_IFMT(here.status(name).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
                raise NotAFileError from None
            raise
    try:
        check(handle, root)
        refuse_hidden(os.fstat(handle), hidden)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def replacement(
    root: Path, path: Path, hidden: Set[Identity] = frozenset(), only_new: bool = False
) -> Iterator[tuple[BinaryIO, bool]]:
    """Replace a file's contents atomically with what the body writes; yields whether it is new.

    Writes a temporary file beside the target and renames it: readers of the old file keep it
    whole, its other hard links keep its contents, and the new file gets its mode. If the body
    fails, the old file stays; with `only_new` it stays in any case, and this fails.

    Raises:
        NotAFileError: the path exists and is not a regular file.
        OSError: the file can't be written.
    """
    *parts, name = inside(root, path)
    with folder(root, parts, make=True, hidden=hidden) as here:
        mode = mode_of(here, name, hidden)
        temporary = f".{secrets.token_hex(8)}.tmp"
        # Private until it gets the old file's mode: the file it replaces may be private.
        handle = here.open(temporary, CREATE, 0o644 if mode is None else 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                check(handle, root)
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(handle, mode)
                yield file, mode is None
                file.flush()
                os.fsync(handle)  # or a power cut could leave the new name with no contents
            (here.rename_new if only_new else here.replace)(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(here.at(temporary), dir_fd=here.handle)
            raise


def mode_of(here: Folder, name: str, hidden: Set[Identity]) -> int | None:
    """The mode of the file to replace, or None if it does not exist.

    Raises:
        NotAFileError: it is a folder or special file.
        OSError: it is hidden, or a link; the path was resolved, so the link is new or leads
            nowhere.
    """
    try:
        status = here.status(name)
    except FileNotFoundError:
        return None
    refuse_hidden(status, hidden)
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(mode):
        raise NotAFileError
    return mode & 0o777


def identity_of(status: os.stat_result) -> Identity:
    """What a file or folder is, by its status."""
    return (status.st_dev, status.st_ino)


def refuse_hidden(status: os.stat_result, hidden: Set[Identity]) -> None:
    """Refuse a file or folder that nobody may use.

    Raises:
        OSError: it is one of these.
    """
    if identity_of(status) in hidden:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def inside(root: Path, path: Path) -> tuple[str, ...]:
    """The components of a resolved path, relative to the root.

    Raises:
        NotAFileError: the path is the root, or is not resolved.
    """
    parts = path.relative_to(root).parts
    if not parts or ".." in parts:
        raise NotAFileError
    return parts


def check(handle: int, root: Path) -> None:
    """Check that an open file is regular and, on Windows, that it really is beneath the root.

    Raises:
        NotAFileError: the file is not regular.
        OSError: the file is outside the root.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise NotAFileError
    if sys.platform == "win32" and not final_path(handle).is_relative_to(root):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


if sys.platform == "win32":
    import ctypes
    import msvcrt

    def final_path(handle: int) -> Path:
        """The real path of an open file (GetFinalPathNameByHandle)."""
        buffer = ctypes.create_unicode_buffer(32_768)
        length = ctypes.windll.kernel32.GetFinalPathNameByHandleW(
            ctypes.c_void_p(msvcrt.get_osfhandle(handle)), buffer, len(buffer), 0
        )
        if not 0 < length < len(buffer):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if buffer.value.startswith("\\\\?\\UNC\\"):
            return Path("\\\\" + buffer.value[8:])
        return Path(buffer.value.removeprefix("\\\\?\\"))
