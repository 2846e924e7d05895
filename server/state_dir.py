"""This user's private state folder, shared by all their servers, and the token in it.

Knows files and their permissions; nothing about callers or kernels.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import platformdirs

from .errors import BadSettings

PACKAGE = "rmi-agent-mcp-server"
VERSION = version(PACKAGE)  # of the running code; the installed version may be newer by now
TOKEN = re.compile(r"[!-~]{16,}")  # valid in a header, too long to guess


def token_file() -> Path:
    """Where local servers store their token; must match the client's `token_file`."""
    return platformdirs.user_state_path("rmi-agent", appauthor=False) / "token"


def record_file() -> Path:
    """The record of this user's background server; must match the client's `read_record`."""
    return token_file().with_name("resident.json")


def private_text(path: Path, variable: str, cure: str | None = None, most: int = 1_000_000) -> str:
    """Read at most `most` characters of a private file; `cure` says how to fix one that is not.

    Raises:
        BadSettings: it can't be read, or users other than its owner may read it.
    """
    if cure is None:
        cure = (
            "Others may have read the token in it: delete it, and the next start creates a new one."
            if path == token_file()
            else f"Replace the tokens in it, then run: chmod 600 {path}"
        )
    try:
        # Opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, encoding="utf-8") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadSettings(f"{variable}: {path} is not a regular file.")
            if sys.platform != "win32":
                if status.st_uid not in (os.getuid(), 0):
                    raise BadSettings(f"{variable}: {path} belongs to another user. {cure}")
                if status.st_mode & 0o077:
                    raise BadSettings(f"{variable}: {path} is accessible to other users. {cure}")
            return file.read(most)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"{variable}: {path} can't be read: {why}.") from None


def private_folder(folder: Path | None = None) -> Path:
    """The state folder or another one, created if missing, with access for this user only."""
    folder = folder or token_file().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":  # %LOCALAPPDATA% is private already
        folder.chmod(0o700)
    return folder


def create_private(path: Path, text: str) -> bool:
    """Create a file that only this user can read, in one step; False if there is one already.

    Raises:
        OSError: it can't be created.
    """
    descriptor, written = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            os.link(written, path)  # unlike a rename, never overwrites an existing file
        except FileExistsError:
            return False
        except OSError:  # file system without hard links
            os.replace(written, path)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)
