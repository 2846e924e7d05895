"""Watches the folders of several trees with inotify, and names the files that have changed.

Used by one thread at a time. Knows folders and names; nothing of who has changed a file.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ..errors import RootError
from . import safe_open
from .inotify import DELETE, IGNORED, IS_FOLDER, MOVED_FROM, OVERFLOW, Inotify, events
from .names import is_unicode
from .walking import is_visited

log = logging.getLogger(__name__)

MOST_WATCHES = 8_192  # folders, of all trees together; those nearest to the roots come first

Parts = tuple[str, ...]
Key = tuple[Path, Parts]  # a folder or file: its root, and its parts below it


class Overflow(Exception):
    """More has happened than the system has kept."""


class WatchedTree:
    """The watches of one server.

    Attributes:
        partial: the roots that have more folders than can be watched.
    """

    def __init__(self) -> None:
        self.notify = Inotify()
        self.partial: set[Path] = set()
        self._folders: dict[int, Key] = {}
        self._watches: dict[Key, int] = {}

    def close(self) -> None:
        """End all watches."""
        self.notify.close()

    def watches(self, root: Path) -> bool:
        """Whether a root is watched."""
        return (root, ()) in self._watches

    def add(self, root: Path) -> None:
        """Watch a tree, or watch again what was missed of it."""
        for _ in self._explore((root, ()), False):
            pass

    def _explore(self, start: Key, list_files: bool) -> Iterator[Key]:
        """Watch a folder and those below it; yields the files in them if asked to."""
        root, _ = start
        waiting = deque([start])
        while waiting:
            key = waiting.popleft()
            parts = key[1]
            try:
                with safe_open.folder(root, parts) as here:
                    if here.handle is None or not self._watch(key, here.handle):
                        return
                    entries = here.entries()
            except (OSError, RootError):  # it is gone
                continue
            if parts and ("pyvenv.cfg", False) in entries:
                self._forget(key)
                continue
            for name, is_folder in entries:
                if is_folder and is_visited(name):
                    waiting.append((root, (*parts, name)))
                elif not is_folder and list_files:
                    yield (root, (*parts, name))

    def _watch(self, key: Key, handle: int) -> bool:
        if key not in self._watches and len(self._watches) >= MOST_WATCHES:
            self.partial.add(key[0])
            return False
        try:
            number = self.notify.watch(handle)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.partial.add(key[0])
            return False
        # A folder that was moved keeps its number.
        if (before := self._folders.get(number)) is not None and before != key:
            self._watches.pop(before, None)
        self._folders[number], self._watches[key] = key, number
        return True

    def _below(self, start: Key) -> list[Key]:
        """The watched folders in a folder, and itself."""
        root, parts = start
        return [key for key in self._watches if key[0] == root and key[1][: len(parts)] == parts]

    def _forget(self, start: Key) -> None:
        """Watch a folder and those below it no more."""
        for key in self._below(start):
            number = self._watches.pop(key)
            if self._folders.get(number) == key:
                del self._folders[number]
                self.notify.forget(number)

    def _move(self, old: Key, new: Key) -> None:
        """Note that a folder has moved: its watches go on."""
        for key in self._below(old):
            number, moved = self._watches.pop(key), (new[0], (*new[1], *key[1][len(old[1]) :]))
            self._folders[number], self._watches[moved] = moved, number

    def changed(self, data: bytes) -> Iterator[tuple[Key, bool]]:
        """The files that events name, each with whether it is there; new folders are watched.

        Raises:
            Overflow: not everything is known.
        """
        leaving: dict[int, Key] = {}
        for event in events(data):
            if event.mask & OVERFLOW:
                raise Overflow
            if event.mask & IGNORED:
                gone = self._folders.pop(event.watch, None)
                if gone is not None and self._watches.get(gone) == event.watch:
                    del self._watches[gone]
                continue
            folder = self._folders.get(event.watch)
            if folder is None or not is_unicode(event.name):
                continue
            key = (folder[0], (*folder[1], event.name))
            if not event.mask & IS_FOLDER:
                if not event.name.startswith("."):
                    yield key, not event.mask & (MOVED_FROM | DELETE)
            elif event.mask & MOVED_FROM:
                leaving[event.cookie] = key
            elif is_visited(event.name) and not event.mask & DELETE:
                if (before := leaving.pop(event.cookie, None)) is not None:
                    self._move(before, key)
                # Its files have new names, or were made before it was watched.
                for file in self._explore(key, True):
                    yield file, True
        for key in leaving.values():
            self._forget(key)
