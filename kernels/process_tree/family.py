"""A kernel's process and all that it has started: finding it, and ending it.

Who once was of a family stays of it, also when its parent ends and the system gives it another;
so do the segments of shared memory that it made. Knows processes; nothing of kernels or of how
much memory they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from .reaper import marked
from .shared_memory import Segment, segments

LINUX = sys.platform == "linux"
ROUNDS = 5  # of killing: a process may start another one meanwhile
BETWEEN = 0.02  # seconds
CLOCK = 2.0  # seconds by which two ways to tell a time may differ


@dataclass(frozen=True)
class Tree:
    """All processes of the machine at one moment: their parents, and when they began.

    On Linux with the segments of shared memory that there are.
    """

    parents: dict[int, int]
    began: dict[int, float]
    children: dict[int, list[int]]
    segments: list[Segment]


def tree() -> Tree:
    """One look at every process; zombies are left out."""
    parents: dict[int, int] = {}
    began: dict[int, float] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent, start in _linux() if LINUX else _elsewhere():
        parents[pid], began[pid] = parent, start
        children[parent].append(pid)
    return Tree(parents, began, children, segments() if LINUX else [])


def _linux() -> list[tuple[int, int, float]]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [(pid, *found) for pid in pids if (found := parent_and_start(pid))]


def parent_and_start(pid: int) -> tuple[int, float] | None:
    """Of one process, on Linux; None if it is gone or a zombie."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        # What comes before may be any name: "7 (a) b) S 1 …".
        fields = file.read().rpartition(b")")[2].split()
        if fields[0] not in (b"Z", b"X"):
            return int(fields[1]), float(fields[19])
    return None


def _elsewhere() -> list[tuple[int, int, float]]:
    return [
        (process.pid, process.info["ppid"] or 0, process.info["create_time"] or 0.0)
        for process in psutil.process_iter(["ppid", "create_time", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    ]


class Family:
    """A process, its descendants, and those that were some.

    Args:
        root: the process's id.

    Attributes:
        pids: of all that lived when it was looked at last.
        segments: shared memory that members have made, by number, also those that have ended.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.segments: dict[int, Segment] = {}
        self._root_began: float | None = None  # so that nobody who gets its number is taken for it
        self._began: dict[int, float] = {}
        if LINUX and (found := parent_and_start(root)):
            self._root_began = self._began[root] = found[1]
        self._latest: dict[int, float] = {}  # those who lived at this look or the one before

    @property
    def pids(self) -> list[int]:
        """The members that lived at the last look."""
        return list(self._began)

    def look(self, now: Tree) -> None:
        """Find who has come and who is gone."""
        if self._root_began is None and self.root in now.began:
            self._root_began = self._began[self.root] = now.began[self.root]
        living = {pid: start for pid, start in self._began.items() if now.began.get(pid) == start}
        found = list(living)
        for pid in found:
            for child in now.children.get(pid, ()):
                if child not in living:
                    living[child] = now.began[child]
                    found.append(child)
        self._latest = {**self._began, **living}
        self._began = living
        self._note(now.segments)

    def _note(self, now: list[Segment]) -> None:
        """Remember which segments are the family's, for when their creators have ended.

        Process numbers are used again: what is older than the member is another process's.
        """
        noted = {}
        for segment in now:
            known = self.segments.get(segment.number)
            start = self._latest.get(segment.creator)
            if (known is not None and segment.is_still(known)) or (
                start is not None and segment.made >= at(start) - CLOCK
            ):
                noted[segment.number] = segment
        self.segments = noted

    def look_again(self) -> None:
        """The same without a look at every process, where there is nobody but the root."""
        if not LINUX or set(self._began) - {self.root} or has_children(self.root):
            self.look(tree())
        else:
            found = parent_and_start(self.root)
            began = {self.root: found[1]} if found else {}
            self.look(Tree({}, began, {}, segments()))

    def adopt(self, pid: int, now: Tree) -> None:
        """Count one in that was found in another way."""
        if pid in now.began:
            self._began[pid] = self._latest[pid] = now.began[pid]
            self._note(now.segments)

    def end(self, mark: str) -> list[str]:
        """Kill all members, and what has the mark; returns who could not be, in words."""
        denied: dict[int, str] = {}
        for _ in range(ROUNDS):
            self.look_again()
            strays = marked(mark)
            if not strays and not self.pids:
                break
            now = tree()
            self.look(now)
            for process in strays:
                self.adopt(process.pid, now)
            left = [pid for pid in self.pids if pid not in denied]
            if not left:
                break
            for pid in left:
                try:
                    psutil.Process(pid).kill()
                except psutil.AccessDenied:
                    denied[pid] = name_of(pid)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(BETWEEN)
        if hasattr(os, "killpg") and self.root:  # those of a leader that was gone before
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.root, signal.SIGKILL)
        return [
            f"Process {pid} ({name}) that it has started could not be ended: it belongs to another"
            f" user. End it yourself: sudo kill -9 {pid}."
            for pid, name in denied.items()
        ]


def at(start: float) -> float:
    """When a process began, in seconds since 1970, from the clock ticks that Linux counts."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + start / os.sysconf("SC_CLK_TCK")


def has_children(pid: int) -> bool:
    """Whether a process has started any, on Linux; others are asked for all processes."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return any((task / "children").read_bytes() for task in tasks)
    except OSError:  # it is gone
        return False


def name_of(pid: int) -> str:
    """A process's name."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "unknown"
