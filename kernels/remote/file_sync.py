"""Copies the project's files to a kernel that can't access them in place.

Asks the kernel which files it has and sends the ones that differ, in ordinary execute requests;
`inside/file_receiver.py` is the kernel's side. Knows files and how to ask; nothing about
provisioners or channels.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import zlib
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..process import RemoteOptions
from ..regular_file import regular_file

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

PIECE = 2_000_000  # bytes of file data per request; Jupyter servers accept messages of 10 MB
SKIPPED = ("__pycache__", "node_modules")
VENV = "pyvenv.cfg"  # marks a folder as a virtual environment, which is useless on another machine
MOST_FILES = 5_000
NAMED = 5  # max left-out files named in a note
# The digests of files that have not changed: by path, with their inode, size and mtime.
DIGESTS: dict[Path, tuple[tuple[int, int, int], str]] = {}


class Shipment:
    """One kernel's copy of a project.

    Args:
        root: the project's folder on this machine.
        options: those of kernels on other machines.
        ask: executes a request in the kernel and returns its answer; raises `NotSent`.
    """

    def __init__(self, root: Path, options: RemoteOptions, ask: Ask) -> None:
        self.root, self.options, self._ask = root, options, ask
        self.there: str | None = None  # the copy's folder on the kernel's machine, if any yet
        self._reported: list[str] = []  # what was left out
        self._shared = False

    async def send(self, folder: Path | None = None, *, enter: bool = False) -> list[str]:
        """Bring the copy up to date; returns what to report.

        Args:
            folder: of what will run; what is in it is sent first. None, or one outside of the
                project's, means the project's, where kernels on this machine start.
            enter: whether the kernel changes into the copy of the folder.
        """
        near = folder if folder and folder.is_relative_to(self.root) else self.root
        digests: dict[str, str] = {}
        left_out: list[str] = []
        if self.options.files != "shared" and not self._shared:
            digests, left_out = await asyncio.to_thread(search, self.root, near, self.options)
        answer = await self._ask(
            {
                "do": "compare",
                "root": str(self.root),
                "files": digests,
                "way": self.options.files,
                "near": near.relative_to(self.root).as_posix(),
                "enter": enter,
            }
        )
        self.there, self._shared = str(answer["folder"]), bool(answer["shared"])
        # Don't trust the list of missing files: code in the kernel may have tampered with it.
        requested = set(answer["missing"])
        missing = [name for name in digests if name in requested]
        for pieces in parts(self.root, missing):
            await self._ask({"do": "put", "pieces": pieces})
        return [] if self._shared else self._left_out(left_out)

    def has(self, folder: Path) -> bool:
        """Whether a folder of this machine may be on the kernel's, too."""
        return self._shared or folder.is_relative_to(self.root)

    def path(self, path: Path) -> str:
        """Return a path on the kernel's machine; files from outside are put in the copy."""
        assert self.there is not None
        if self._shared:
            return str(path)
        inside = path.is_relative_to(self.root)
        name = path.relative_to(self.root).as_posix() if inside else path.name
        return str(PurePosixPath(self.there, name))

    async def written(self) -> list[str]:
        """Report, as sentences, what code has written into the copy since the last call."""
        if self.there is None or self._shared:
            return []
        answer = await self._ask({"do": "written"})
        if not answer["count"]:
            return []
        names = listed(answer["names"], answer["count"])
        return [f"Written on the kernel's machine, deleted when the session ends: {names}."]

    def _left_out(self, names: list[str]) -> list[str]:
        if not names or names == self._reported:
            return []
        self._reported = names
        which = listed(names[:NAMED], len(names))
        return [
            f"The kernel's machine did not get all files of the project: {which} would exceed"
            f" RMI_AGENT_REMOTE_FILES_LIMIT ({self.options.max_bytes / 1e6:,.0f} MB in all)."
        ]


def listed(names: Sequence[str], count: int) -> str:
    """List the names, and how many of all `count` are missing."""
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def search(root: Path, near: Path, options: RemoteOptions) -> tuple[dict[str, str], list[str]]:
    """Choose the files to send: those in the script's folder first, then the smallest.

    Returns their SHA-256 by name, with slashes, and the names of what is too large, largest first.
    """
    sized = sorted(
        (not (root / name).is_relative_to(near), size, name) for name, size in files(root, options)
    )
    digests: dict[str, str] = {}
    left_out: list[tuple[int, str]] = []
    room = options.max_bytes
    for _, size, name in sized:
        if size > room or len(digests) == MOST_FILES:
            left_out.append((size, name))
        elif digest := digest_of(root / name):
            room -= size
            digests[name] = digest
    return digests, [name for _, name in sorted(left_out, reverse=True)]


def files(root: Path, options: RemoteOptions) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of files to send; skips hidden files and symlinks."""
    private = {os.path.realpath(folder) for folder in options.private}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".")
            and each not in SKIPPED
            and os.path.realpath(os.path.join(folder, each)) not in private
            and not os.path.exists(os.path.join(folder, each, VENV))
        )
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:  # deleted meanwhile
                continue
            if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                yield Path(path).relative_to(root).as_posix(), status.st_size


def parts(root: Path, names: list[str]) -> Iterator[list[list[Any]]]:
    """Yield the contents of files in batches of about 2 MB, one per request."""
    batch: list[list[Any]] = []
    size = 0
    for name in names:
        start = 0
        for piece in pieces_of(root / name):
            batch.append([name, start, b64encode(zlib.compress(piece, 1)).decode()])
            start, size = start + len(piece), size + len(piece)
            if size >= PIECE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces: one empty piece if it is empty, none if it is gone."""
    try:
        with open(path, "rb", opener=regular_file) as file:
            yield file.read(PIECE)
            while piece := file.read(PIECE):
                yield piece
    except OSError:
        return


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; empty if it can't be read."""
    try:
        with open(path, "rb", opener=regular_file) as file:
            status = os.fstat(file.fileno())
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = DIGESTS.get(path)
            if known is None or known[0] != state:
                known = DIGESTS[path] = state, hashlib.file_digest(file, "sha256").hexdigest()
            return known[1]
    except OSError:
        return ""
