"""What Tab offers for files and sessions; it has to be there at once, so nothing slow is imported.

Files are those of the current folder and of the projects folder, sessions those of the background
server.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..resident_record import read_record

SUFFIXES = (".py", ".ipynb")
MOST = 500  # max files of a folder
ANSWER_TIMEOUT = 1.0  # max seconds until the background server answers


def programs(context: Any) -> list[str]:
    """Files and notebooks that `run` takes."""
    word = context.incomplete
    folder, begin = os.path.split(os.path.expanduser(word))
    found = [*beneath(Path(folder or "."), begin, os.path.dirname(word))]
    if not os.path.isabs(word):
        for root in projects():
            found += beneath(root / folder, begin, os.path.dirname(word))
    return list(dict.fromkeys(found))


def beneath(folder: Path, begin: str, before: str) -> Iterator[str]:
    """The names of a folder's programs and folders, as the person would type them."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries[:MOST]:
        if entry.name.startswith(begin) and not entry.name.startswith((".", "__")):
            if entry.name.endswith(SUFFIXES):
                yield os.path.join(before, entry.name)
            elif entry.is_dir():
                yield os.path.join(before, entry.name, "")


def projects() -> list[Path]:
    """The projects folders, as far as they are known without the server's settings."""
    named = os.environ.get("PYTHON_PROJECTS_DIR") or facts().get("projects") or "python_projects"
    return [Path(each).expanduser() for each in str(named).split(",") if each]


def open_sessions(_: Any) -> list[str]:
    """The ids of the background server's sessions."""
    found = facts().get("sessions")
    return [str(each) for each in found] if isinstance(found, list) else []


def facts() -> dict[str, Any]:
    """What the background server says of itself; empty if none runs."""
    if (record := read_record()) is None:
        return {}
    try:
        connection = http.client.HTTPConnection("localhost", timeout=ANSWER_TIMEOUT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER_TIMEOUT)
        connection.sock.connect(record.socket)
        connection.request("GET", "/resident", headers=record.credentials)
        found = json.loads(connection.getresponse().read())
        connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    return found if isinstance(found, dict) else {}
