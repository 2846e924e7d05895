"""Writes a file in one step, so that it never has half of its content."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: str, mode: int = 0o600) -> None:
    """Write a file: it has its old content or the new one, whatever happens meanwhile.

    Args:
        path: its folder must exist.
        content: lone surrogates are written as JSON escapes them.
        mode: its permissions.

    Raises:
        OSError: it can't be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
