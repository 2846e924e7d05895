"""The record of this user's background server, by which commands and shell completion find it.

A record or socket that another user could have put there counts as none. Knows files; sends
nothing, and imports nothing slow.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .local_token import token_file


@dataclass(frozen=True)
class ResidentRecord:
    """A background server: its process, its Unix socket, and its token for this user.

    Attributes:
        variables: those with settings that it needs to know.
    """

    pid: int
    socket: str
    key: str = field(repr=False)
    variables: tuple[str, ...]

    @property
    def credentials(self) -> dict[str, str]:
        """The header of requests to it."""
        return {"Authorization": f"Bearer {self.key}"}


def read_record() -> ResidentRecord | None:
    """The record, which may be that of a server that has crashed; None if there is no valid one."""
    if sys.platform == "win32":
        return None
    try:
        found = json.loads(private_text(token_file().with_name("resident.json")))
        record = ResidentRecord(
            int(found["pid"]), str(found["socket"]), str(found["key"]), tuple(found["variables"])
        )
        return record if is_ours(Path(record.socket)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def private_text(path: Path) -> str:
    """The text of a file that only this user can read or write.

    Raises:
        OSError: it can't be read, or others could have written it.
    """
    with path.open(encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{path} is accessible to others")
        return file.read()


def is_ours(socket: Path) -> bool:
    """Whether no other user can have put a socket where it is."""
    folder, entry = socket.parent.stat(), socket.lstat()
    return {folder.st_uid, entry.st_uid} == {os.getuid()} and not folder.st_mode & 0o022
