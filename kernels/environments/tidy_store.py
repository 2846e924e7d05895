"""Removes what was made for a user and is not used, inside the sandbox of that user.

Its stdin is JSON: the `store` that environments are in, the folders that are `in_use`, and `uv`,
which clears its cache once that is too large; without it, that cache is left alone. Uses the
standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator

KEPT = {"scripts": 30, "ipykernel": 10}  # folders of each kind that are kept at least
UNUSED = 86_400.0  # seconds without use, after which others are removed
MOST_BYTES = 10_000_000_000  # of all folders of a kind: then those go that are unused for an hour
HOUR = 3_600.0
MOST_CACHE = 5_000_000_000  # bytes of uv's cache that no environment shares


def main() -> None:
    """Remove what is not used."""
    given = json.load(sys.stdin)
    with contextlib.suppress(OSError):
        os.nice(19)
    for kind, number in KEPT.items():
        remove_unused(os.path.join(given["store"], kind), number, given["in_use"])
    if given["uv"]:
        clear_cache(given["uv"])


def remove_unused(
    above: str, number: int, in_use: Collection[str], most_bytes: int = MOST_BYTES
) -> None:
    """Remove the folders that were used least recently, and what unfinished builds have left."""
    try:
        paths = [entry.path for entry in os.scandir(above)]
    except OSError:
        return
    ages: list[tuple[float, str]] = []
    for path in paths:
        with contextlib.suppress(OSError):
            ages.append((os.stat(path, follow_symlinks=False).st_mtime, path))
    ages.sort(reverse=True)
    now, total, counted, finished = time.time(), 0, set[tuple[int, int]](), 0
    for used, path in ages:
        if ".new" in os.path.basename(path):
            if used < now - UNUSED:
                remove(path)
            continue
        for status in files_in(path):
            if (key := (status.st_dev, status.st_ino)) not in counted:
                counted.add(key)
                total += status.st_blocks * 512
        finished += 1
        allowed = UNUSED if total <= most_bytes else HOUR
        is_excess = finished > number or total > most_bytes
        if is_excess and used < now - allowed and path not in in_use:
            remove(path)


def files_in(folder: str) -> Iterator[os.stat_result]:
    """The status of each file in a tree; links are not followed."""
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(place, name))


def remove(path: str) -> None:
    """Remove a folder or a file."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.remove(path)


def clear_cache(uv: str, most: int = MOST_CACHE) -> None:
    """Clear uv's cache if it is too large: first of what it does not need itself, then wholly."""
    asked = subprocess.run([uv, "cache", "dir"], stdout=subprocess.PIPE, text=True, check=False)
    folder = asked.stdout.strip()
    for way in ("prune", "clean"):
        # What an environment shares would still be there.
        own = sum(each.st_blocks * 512 for each in files_in(folder) if each.st_nlink == 1)
        if not folder or own <= most:
            return
        subprocess.run([uv, "--no-config", "cache", way], check=False)


if __name__ == "__main__":
    main()
