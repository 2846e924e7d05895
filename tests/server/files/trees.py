"""What a folder holds, to see that nothing of it has changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def snapshot(folder: Path, without: Path | None = None) -> dict[str, tuple[object, ...]]:
    """Each name beneath a folder with its inode, mode, time of change, and contents or target.

    Folders are there by name, inode and mode: what is made and removed in one changes its time.
    Hard links of files elsewhere may be made and go: the number of links doesn't count.
    """
    found: dict[str, tuple[object, ...]] = {}
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if without is not None and entry.path == str(without):
                    continue
                status = entry.stat(follow_symlinks=False)
                known: tuple[object, ...] = (status.st_ino, status.st_mode)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(Path(entry.path))
                elif stat.S_ISLNK(status.st_mode):
                    known += (os.readlink(entry.path),)
                elif stat.S_ISREG(status.st_mode):
                    known += (status.st_mtime_ns, Path(entry.path).read_bytes())
                found[entry.path] = known
    return found
