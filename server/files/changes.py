"""Which files have changed while a run went on, found without looking at each file.

With inotify, nothing is done for a run that writes nothing. Elsewhere, and for a run that began
before its folders were watched, the folders are searched for new times, within a budget. Knows
folders and times; nothing of kernels.
"""

from __future__ import annotations

import contextlib
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PathNotAllowedError, RootError
from . import safe_open
from .project_files import FileStatus
from .projects import Projects
from .walking import walk
from .watched_tree import Key, Overflow, WatchedTree

KNOWN = 10_000  # max files remembered of one run
DESCRIBED = 200  # max files whose size is given
SEARCH_SECONDS = 0.05  # max seconds of a search for new times
LOOKING_SECONDS = 0.2  # max seconds of looking at the files that events have named
CLOCK = 0.011  # seconds by which a file's time may be earlier than ours


@dataclass(eq=False)
class Watching:
    """One run: what is known of the files that have changed since it began.

    Attributes:
        projects: the folders that count.
        began: when it began, in seconds since 1970.
        exact: whether events name all files; else the folders are searched.
        beside: whether another run went on meanwhile.
        has_events: whether there were any events.
        keys: the files that events have named, without those that are gone again.
    """

    projects: Projects
    began: float
    exact: bool
    beside: bool
    has_events: bool = False
    keys: set[Key] = field(default_factory=set)

    def note(self, key: Key, is_there: bool) -> None:
        """Remember a file that has changed, or forget one that is gone."""
        if not is_there:
            self.keys.discard(key)
        elif len(self.keys) < KNOWN and key[0] in self.projects.folders:
            self.keys.add(key)


@dataclass(frozen=True)
class Changed:
    """The files that a run has changed, by name.

    Attributes:
        files: the files as they are now.
        more: how many others there are, at least.
        beside: whether another run may have changed them.
    """

    files: tuple[FileStatus, ...] = ()
    more: int = 0
    beside: bool = False


NOTHING = Changed()


class Changes:
    """Finds what runs change. Use as `with Changes() as changes`, on the event loop."""

    def __init__(self) -> None:
        self._runs: set[Watching] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._tree: WatchedTree | None = None
        self._watched: set[Path] = set()  # roots whose folders are watched
        self._asked: set[Path] = set()  # roots that will be

    def __enter__(self) -> Changes:
        self._thread = ThreadPoolExecutor(1, "changes")
        with contextlib.suppress(OSError):  # not Linux, or too many users of inotify
            self._tree = WatchedTree()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._thread.shutdown(cancel_futures=True)
        if self._tree is not None:
            self._tree.close()
        self._thread = self._tree = None
        self._watched, self._asked = set(), set()

    def begin(self, projects: Projects) -> Watching | None:
        """Begin to watch for a run; takes microseconds. None if the server is closing."""
        if self._thread is None:
            return None
        self._read()
        missing = [one for one in projects.folders if one not in self._watched]
        if self._tree is not None and (new := [one for one in missing if one not in self._asked]):
            self._asked.update(new)
            self._thread.submit(self._watch, self._tree, new)
        exact = self._tree is not None and not missing
        run = Watching(projects, time.time(), exact, bool(self._runs))
        for other in self._runs:
            other.beside = True
        self._runs.add(run)
        return run

    def end(self, run: Watching) -> Future[Changed] | None:
        """End to watch for a run; returns what it has changed, or None if that is nothing."""
        self._read()
        self._runs.discard(run)
        if self._thread is None or (run.exact and not run.has_events):
            return None
        return self._thread.submit(self._find, run)

    def _read(self) -> None:
        """Take the events up to now, which belong to the runs up to now, for the thread."""
        if self._tree is None or self._thread is None:
            return
        if data := self._tree.notify.waiting():
            for run in self._runs:
                run.has_events = True
            self._thread.submit(self._hand_out, self._tree, data, tuple(self._runs))

    # -- in the thread, one after the other

    def _watch(self, tree: WatchedTree, roots: list[Path]) -> None:
        for root in roots:
            tree.add(root)
            if tree.watches(root):
                self._watched.add(root)
            self._asked.discard(root)

    def _hand_out(self, tree: WatchedTree, data: bytes, runs: tuple[Watching, ...]) -> None:
        try:
            for key, is_there in tree.changed(data):
                for one in runs:
                    one.note(key, is_there)
        except Overflow:
            for one in runs:
                one.exact = False
            for root in self._watched:
                tree.add(root)
        for root in [root for root in self._watched if not tree.watches(root)]:
            self._watched.discard(root)

    def _find(self, run: Watching) -> Changed:
        files, more = described(run) if run.exact else search(run)
        named = sorted(files, key=lambda one: one.name)
        return Changed(tuple(named), more, run.beside) if named else NOTHING


def described(run: Watching) -> tuple[list[FileStatus], int]:
    """The files that events have named as they are now; and how many more."""
    until, files, more = time.monotonic() + LOOKING_SECONDS, list[FileStatus](), 0
    for number, (root, parts) in enumerate(sorted(run.keys)):
        found = status_of(run.projects, root, root.joinpath(*parts))
        if found is not None and len(files) < DESCRIBED:
            files.append(found)
        elif found is not None:
            more += 1
        if time.monotonic() > until:
            return files, more + len(run.keys) - number - 1
    return files, more


def status_of(projects: Projects, root: Path, path: Path) -> FileStatus | None:
    """A changed file as it is now; None if it is none, or nobody's business."""
    try:
        status = safe_open.status(root, path)
        if not stat.S_ISREG(status.st_mode):
            return None
        projects.place(str(path))  # refuses the server's own
    except (OSError, RootError, PathNotAllowedError):
        return None
    return FileStatus(projects.name_of(root, path), path, status.st_size, status.st_mtime)


def search(run: Watching) -> tuple[list[FileStatus], int]:
    """The files that have changed since a run began, by their times; and how many more."""
    until, files, more = time.monotonic() + SEARCH_SECONDS, dict[Path, FileStatus](), 0
    for root in run.projects.folders:
        with contextlib.suppress(PathNotAllowedError):
            for name, status in walk(root, None):
                if status.st_ctime >= run.began - CLOCK:
                    if len(files) >= DESCRIBED:
                        more += 1
                    elif (found := status_of(run.projects, root, root / name)) is not None:
                        files[found.path] = found
                if time.monotonic() > until:
                    break
    return list(files.values()), more
