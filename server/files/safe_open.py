"""Files beneath a folder, reached by handles, so that no link is followed on the way.

Takes real paths as they were found and says `OSError`; which path a name means, and what to
tell the user, it does not know.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Windows has no handles of folders in Python: there paths are used, and files checked once open.
BY_HANDLE = os.open in os.supports_dir_fd
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# O_PATH: a folder that may be entered but not listed can be walked through, as by any path.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | NOFOLLOW
# Not blocking: a FIFO without a writer would wait for one. No terminal becomes the server's own.
READ = os.O_RDONLY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
BINARY = getattr(os, "O_BINARY", 0)


class RootError(Exception):
    """The folder beneath which everything lies is gone, or is no folder any more; says why."""


class NotAFileError(OSError):
    """A folder, FIFO, socket or device."""


@dataclass(frozen=True)
class Folder:
    """An open folder. Names in it are single parts of a path, and links are not followed."""

    path: Path
    handle: int | None  # None where the system has none

    def at(self, name: str) -> str:
        """A name as the calls below take it."""
        return name if self.handle is not None else str(self.path / name)

    def open(self, name: str, flags: int, mode: int = 0) -> int:
        """Open a file in it."""
        return os.open(self.at(name), flags | BINARY, mode, dir_fd=self.handle)

    def status(self, name: str) -> os.stat_result:
        """What a name is, itself."""
        return os.stat(self.at(name), dir_fd=self.handle, follow_symlinks=False)

    def make(self, name: str) -> bool:
        """Make a folder in it; returns whether it is new."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.at(name), dir_fd=self.handle)
            return True
        return False

    def replace(self, old: str, new: str) -> None:
        """Give a file another's name, in one step. A link of that name goes, not its target."""
        os.replace(self.at(old), self.at(new), src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def entries(self) -> list[tuple[str, bool]]:
        """The names in it, and of each whether it is a folder."""
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
def folder(root: Path, parts: Sequence[str], make: bool = False) -> Iterator[Folder]:
    """Open a folder beneath the root, going down one part at a time from a handle of the root.

    Whatever has become a link since the path was found makes it fail. A folder that is moved away
    meanwhile stays the one that was found here. With `make`, missing folders are made, and
    removed again when the body fails.

    Raises:
        RootError: the root can't be opened.
        OSError: a part can't.
    """
    made: list[Sequence[str]] = []
    here = open_root(root)
    try:
        for depth, part in enumerate(parts):
            if make and here.make(part):
                made.append(parts[: depth + 1])
            outer, here = here, enter(here, part)
            leave(outer)  # one at a time: a deep tree must not use up the descriptors
        yield here
    except BaseException:
        for *outside, part in reversed(made):
            with contextlib.suppress(OSError), folder(root, outside) as outer:
                os.rmdir(outer.at(part), dir_fd=outer.handle)
        raise
    finally:
        leave(here)


def open_root(root: Path) -> Folder:
    """Open the root, which is a real path: where it has become a link, it was replaced."""
    if not BY_HANDLE:
        if os.path.isdir(root):
            return Folder(root, None)
        raise RootError(os.strerror(errno.ENOENT))
    try:
        return Folder(root, os.open(root, FOLDER))
    except OSError as error:
        raise RootError(error.strerror) from None


def enter(outer: Folder, part: str) -> Folder:
    """Open a folder in a folder."""
    path = outer.path / part
    return Folder(path, None if outer.handle is None else outer.open(part, FOLDER))


def leave(here: Folder) -> None:
    """Close a folder."""
    if here.handle is not None:
        os.close(here.handle)


def status(root: Path, path: Path) -> os.stat_result:
    """What lies at a real path, itself.

    Raises:
        OSError: it can't be reached.
    """
    *parts, name = inside(root, path)
    with folder(root, parts) as here:
        return here.status(name)


def open_file(root: Path, path: Path) -> int:
    """Open a regular file for reading; returns its handle, which is what was checked.

    Hard links are files like any other: a file doesn't tell which of its names came first, and
    uv, git and backups make many, so refusing them would refuse what is the user's. Linux lets
    only who may read and write a file give it another name (`fs.protected_hardlinks`), and from
    one mount into another, as out of a sandbox, nobody can.

    Raises:
        NotAFileError: it is something else.
        OSError: it can't be opened.
    """
    *parts, name = inside(root, path)
    with folder(root, parts) as here:
        try:
            handle = here.open(name, READ)
        except OSError:  # each system has its own word for folders and sockets
            if stat.S_IFMT(here.status(name).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
                raise NotAFileError from None
            raise
    try:
        check(handle, root)
    except BaseException:
        os.close(handle)
        raise
    return handle


def replace_file(root: Path, path: Path, data: bytes) -> bool:
    """Give a file new contents, all of them or nothing; returns whether it is new.

    Made beside its place under a name of its own and then moved there: who has the old file open
    keeps it whole, other hard links of it keep its contents, and its mode goes on to the new one.

    Raises:
        NotAFileError: what is there is something else.
        OSError: it can't be written.
    """
    *parts, name = inside(root, path)
    with folder(root, parts, make=True) as here:
        mode = mode_of(here, name)
        temporary = f".{secrets.token_hex(8)}.tmp"
        # Nobody else's until its mode is known: what it replaces may be private.
        handle = here.open(temporary, CREATE, 0o644 if mode is None else 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                check(handle, root)
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(handle, mode)
                file.write(data)
                file.flush()
                os.fsync(handle)  # or a power cut could leave the new name with no contents
            here.replace(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(here.at(temporary), dir_fd=here.handle)
            raise
    return mode is None


def mode_of(here: Folder, name: str) -> int | None:
    """The mode of a file that is to be replaced, or None where nothing is.

    Raises:
        NotAFileError: a folder or special file.
        OSError: a link. The path was found without any, so it came meanwhile, or leads nowhere.
    """
    try:
        mode = here.status(name).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(mode):
        raise NotAFileError
    return mode & 0o777


def inside(root: Path, path: Path) -> tuple[str, ...]:
    """The parts of a real path beneath the root.

    Raises:
        NotAFileError: it is the root, or no real path.
    """
    parts = path.relative_to(root).parts
    if not parts or ".." in parts:
        raise NotAFileError
    return parts


def check(handle: int, root: Path) -> None:
    """Check what was opened: a regular file, and on Windows where it really lies.

    Raises:
        NotAFileError: it is something else.
        OSError: it lies outside.
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
