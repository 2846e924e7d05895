"""What this user's servers keep: one folder that nobody else may look into, and its token.

Knows files and who may read them; nothing of who calls, and no kernel.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from importlib.metadata import version
from pathlib import Path

import platformdirs

from .errors import BadSettings

PACKAGE = "rmi-agent-mcp-server"
VERSION = version(PACKAGE)  # of the code that runs; what is installed may be newer by now
TOKEN = re.compile(r"[!-~]{16,}")  # what a header can carry, and too much to be guessed


def token_file() -> Path:
    """Where the token is kept that local servers make; the client's `token_file` agrees."""
    return platformdirs.user_state_path("rmi-agent", appauthor=False) / "token"


def private_text(path: Path, variable: str, cure: str | None = None, most: int = 1_000_000) -> str:
    """The text of a file that is nobody else's, of `most` bytes; `cure` says what to do if it is.

    Raises:
        BadSettings: it can't be read, or others than its owner may read it.
    """
    if cure is None:
        cure = (
            "Somebody else may know the token in it: delete it, and the next start makes a new one."
            if path == token_file()
            else f"Put new tokens into it, then run: chmod 600 {path}"
        )
    try:
        # Not waiting for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, encoding="utf-8") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadSettings(f"{variable}: {path} is not a file.")
            if sys.platform != "win32":
                if status.st_uid not in (os.getuid(), 0):
                    raise BadSettings(f"{variable}: {path} belongs to another user. {cure}")
                if status.st_mode & 0o077:
                    raise BadSettings(f"{variable}: {path} is open to other users. {cure}")
            return file.read(most)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"{variable}: {path} can't be read: {why}.") from None


def private_folder() -> Path:
    """The folder, made if it is not there, with nobody else let in."""
    folder = token_file().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":  # there, %LOCALAPPDATA% is the user's own
        folder.chmod(0o700)
    return folder


def known_token() -> str | None:
    """The token that an earlier start has made; None if there is none yet.

    Raises:
        BadSettings: others may know it.
    """
    if not token_file().exists():
        return None
    token = private_text(token_file(), "RMI_AGENT_TOKEN").strip()
    return token if TOKEN.fullmatch(token) else None
