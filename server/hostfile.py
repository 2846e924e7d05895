"""Files of others, changed so that nothing is lost: a backup first, then all at once.

Knows nothing of what is in them but that it is JSON.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from .jsonedit import Text

MOST = 50_000_000  # bytes; a config of 1 MB is a large one
O_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would change line ends otherwise


class UnusableFile(Exception):
    """A file can't be read or written; the text is one line that names it and says what to do."""


def read(path: Path) -> bytes | None:
    """All of a file, or None if there is none.

    Raises:
        UnusableFile: it is something else, too large, or not to be read.
    """
    try:
        # Not waiting for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | O_BINARY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFile(f"{path} is not a file. Move it away, or name another.")
            if status.st_size > MOST:
                raise UnusableFile(
                    f"{path} has {status.st_size:,} bytes; at most {MOST:,} are read."
                    " Is it the right file?"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableFile(f"{path} can't be read: {reason(error)}.") from None


def text_of(path: Path, data: bytes | None, comments: bool) -> Text:
    """What `read` has given, as JSON.

    Raises:
        Malformed: it is none.
        UnusableFile: it is no UTF-8.
    """
    try:
        return Text((data or b"").decode(), comments)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UnusableFile(
            f"{path} is not UTF-8 (line {line}). Save it as UTF-8 with a text editor."
        ) from None


def replace(path: Path, before: bytes | None, after: bytes) -> Path | None:
    """Write a file anew, if it is still as it was; its backup, or None if there was nothing.

    A link stays and its target is written. Mode and owner stay; a new file is its owner's
    alone, since it may hold a token.

    Raises:
        UnusableFile: it can't be written, or another program has changed it meanwhile.
    """
    real = Path(os.path.realpath(path))
    backup = written = None
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        like = os.stat(real if before is not None else real.parent)
        mode = 0o600 if before is None else stat.S_IMODE(like.st_mode)
        if before is not None:
            if not os.access(real, os.W_OK):
                raise PermissionError(13, "it is read only")
            backup = new_backup(path)
            fill(backup, before, mode, like)
        descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        os.close(descriptor)
        written = Path(name)
        fill(written, after, mode, like)
        if read(path) != before:
            raise UnusableFile(
                f"{path} has just been changed by another program. Quit that, and try again."
            )
        os.replace(written, real)
        return backup
    except (OSError, UnusableFile) as error:
        for left in (backup, written):
            if left is not None:
                with contextlib.suppress(OSError):
                    left.unlink()
        if isinstance(error, UnusableFile):
            raise
        raise UnusableFile(f"{path} can't be written: {reason(error)}.") from None


def new_backup(path: Path) -> Path:
    """An empty file beside another, named by the time; never one that is there."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        backup = path.with_name(f"{path.name}.bak-{stamp}{f'-{number}' if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            return backup
    raise FileExistsError(17, f"there are too many backups of {stamp}")


def fill(path: Path, data: bytes, mode: int, like: os.stat_result) -> None:
    """Write all of a file that is ours, down to the disk, with a mode and another's owner."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if sys.platform != "win32":
        if os.geteuid() == 0:  # by sudo, perhaps: the file is still that user's
            os.chown(path, like.st_uid, like.st_gid)
        os.chmod(path, mode)


def reason(error: OSError) -> str:
    """Why, in the system's words."""
    return error.strerror or str(error)
