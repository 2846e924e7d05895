"""The title of a recorded session, which is in its notebook's metadata.

Changes it in a notebook that nobody records any more; a recorder changes its own. Knows files and
nbformat's signatures; nothing of sessions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nbformat

from ..regular_file import regular_file
from .layout import TAIL, cells_in, head_json, read_head
from .notebook_file import transfer
from .recovery import is_claimed, replacement

log = logging.getLogger(__name__)

LONGEST = 120  # max characters of a title
PARSED = 50_000_000  # max bytes of a notebook that is parsed as a whole


def plain_title(title: str) -> str:
    """A title without line breaks and unprintable characters, cut to `LONGEST` characters."""
    shown = "".join(letter if letter.isprintable() else " " for letter in title[: 10 * LONGEST])
    return " ".join(shown.split())[:LONGEST].strip()


def set_title(metadata: dict[str, Any], title: str) -> None:
    """Set the title in a notebook's metadata; an empty one is removed."""
    own = metadata.get("rmi_agent")
    if not isinstance(own, dict):
        own = metadata["rmi_agent"] = {}
    if title := plain_title(title):
        own["title"] = title
    else:
        own.pop("title", None)


def retitle(notebook: Path, title: str) -> None:
    """Set the title of a notebook that nobody records; if it is trusted in Jupyter, it stays so.

    Raises:
        OSError: it can't be read or written, and is unchanged.
        ValueError: it is being recorded, is not a notebook, or is too large to be parsed.
    """
    if is_claimed(notebook):
        raise ValueError("it is being recorded by another process")
    with keeping_trust(notebook), open(notebook, "rb", opener=regular_file) as old:
        status = os.fstat(old.fileno())
        head, begin = split_head(notebook, old, status.st_size)
        if not isinstance(head.get("metadata"), dict):
            raise ValueError("it is not a notebook")
        set_title(head["metadata"], title)
        with replacement(notebook) as new:
            if begin is None:
                new.write((json.dumps(head, indent=1, ensure_ascii=False) + "\n").encode())
            else:
                new.write(head_json(head))
                old.seek(begin)
                transfer(old, new)
            if hasattr(os, "fchmod"):
                os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
            now = os.stat(notebook)
            if (now.st_ino, now.st_mtime_ns) != (status.st_ino, status.st_mtime_ns):
                raise OSError("another program changed it just now")


def split_head(notebook: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int | None]:
    """What is before a notebook's cells, and the offset where these begin.

    If it is not laid out as by a recorder, the whole notebook, and None.

    Raises:
        ValueError: it is not a notebook, or is too large.
    """
    with contextlib.closing(cells_in(notebook)) as cells:
        place = next(cells, None)
    begin = size - len(TAIL) if place is None else place.begin
    with contextlib.suppress(ValueError, RecursionError):
        if 0 < begin < PARSED:
            return read_head(file, begin), begin
    if size > PARSED:
        raise ValueError(f"it has more than {PARSED / 1e6:.0f} MB")
    file.seek(0)
    try:
        whole = json.loads(file.read())
    except RecursionError:
        whole = None
    if not isinstance(whole, dict) or not isinstance(whole.get("cells"), list):
        raise ValueError("it is not a notebook")
    return whole, None


@contextlib.contextmanager
def keeping_trust(notebook: Path) -> Iterator[None]:
    """Sign a notebook again after a change if it was trusted in Jupyter before."""
    import sqlite3  # lazy: slow to import, as the next is

    from nbformat.sign import NotebookNotary

    notary, trusted = NotebookNotary(), False
    try:
        with contextlib.suppress(Exception):  # whatever nbformat makes of it: not trusted
            if notebook.stat().st_size <= PARSED:
                trusted = notary.check_signature(nbformat.read(notebook, as_version=4))
        yield
        if trusted:
            try:
                notary.sign(nbformat.read(notebook, as_version=4))
            except (OSError, ValueError, sqlite3.Error) as error:
                log.warning("%s is no longer marked as trusted in Jupyter: %s", notebook, error)
    finally:
        notary.close()
