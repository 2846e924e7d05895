"""Names the recorded sessions for `rmi-agent sessions`, `show` and `open`.

The client knows no settings, so it does not know where sessions are recorded; it starts this
module and reads its lines.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import quick_imports
from ..console import die
from ..errors import BadSettings
from ..settings import load

if TYPE_CHECKING:
    from ..review import Entry

SESSION = re.compile(rb'"session"\s*:\s*"([\w-]+)"')  # in the notebook's metadata
HEAD = 4096  # bytes at the beginning of a file, where a recorder writes the metadata


def records(last: int | None, find: str) -> None:
    """Print the recorded sessions, newest first, as one JSON object per line.

    The first line has the folder, and how many sessions there are in it.

    Args:
        last: how many to print; None for all.
        find: how their id or file name begins.
    """
    try:
        folder = load().notebooks
    except BadSettings as error:
        die(error)
    quick_imports.import_jsonschema()
    from ..review import Index  # lazy: needs the quick import before

    print_json({"folder": str(folder), "count": sum(1 for _ in folder.glob("[!.]*.ipynb"))})
    for entry in Index(folder).newest(last, lambda path: is_named(path, find)):
        print_json(facts(entry))


def facts(entry: Entry) -> dict[str, Any]:
    """What the client shows of a session; `started` is in seconds since 1970."""
    return {
        "session_id": session_of(entry.path),
        "notebook": str(entry.path),
        "title": entry.title,
        "started": entry.started,
        "counts": dict(entry.counts),
        "problem": entry.problem,
        "cells": entry.cells,
        "is_open": entry.live,
    }


def is_named(path: Path, beginning: str) -> bool:
    """Whether a notebook's name or its session's id begins so; the id on record is cut short."""
    if path.name.startswith(beginning):
        return True
    session = session_of(path)
    return bool(session) and (session.startswith(beginning) or beginning.startswith(session))


def session_of(path: Path) -> str:
    """The beginning of the id of the session that a notebook records; empty if it has none."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if b'"rmi_agent"' not in head:  # another program has written it, with metadata last
                head = file.read()
    except OSError:
        return ""
    found = SESSION.search(head, head.find(b'"rmi_agent"'))
    return found[1].decode() if found else ""


def print_json(value: dict[str, Any]) -> None:
    """Print one line; characters beyond ASCII are escaped, so that any locale can print it."""
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    records(int(sys.argv[1]) if sys.argv[1] else None, sys.argv[2])
