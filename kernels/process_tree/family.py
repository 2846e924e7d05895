"""A kernel's process and everything it has started: finds these processes and ends them.

A process stays a member of its family even if its parent ends and the system reparents it; so do
the shared memory segments it created. Knows processes; nothing of kernels or of how much memory
they use.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from .reaper import MARK, mark_number, marked, number_on
from .shared_memory import Segment, segments

LINUX = sys.platform == "linux"
MARKED = re.compile(rb"(?:^|\0)%s=([^\0]*)" % MARK.encode())  # in an environment
ROUNDS = 5  # max rounds of killing: a process may start another one in the meantime
BETWEEN = 0.02  # seconds between rounds
READS = 5  # max reads of a list of children that changes meanwhile
CLOCK = 2.0  # max difference in seconds between two ways to determine a time


@dataclass(frozen=True)
class Tree:
    """A snapshot of all processes of the machine, with their parents and start times.

    On Linux it includes all shared memory segments.
    """

    parents: dict[int, int]
    began: dict[int, float]
    children: dict[int, list[int]]
    segments: list[Segment]


def tree() -> Tree:
    """Take a snapshot of all processes except zombies."""
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
    """A process's parent and start time in clock ticks, on Linux; None if gone or a zombie."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        # The process name before it may contain anything: "7 (a) b) S 1 …".
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
    """A process, its descendants, and its former descendants.

    Args:
        root: the process's id.
        parent_adopts: whether its parent adopts the orphans among its descendants, as a template
            does; then daemons are searched for only there, and not in all of /proc.

    Attributes:
        pids: ids of the members alive at the last update.
        segments: shared memory segments by number, created by members, even ones that have ended.
    """

    def __init__(self, root: int, *, parent_adopts: bool = False) -> None:
        self.root = root
        self._adopter: tuple[int, float] | None = None  # the parent's pid and start time
        self.segments: dict[int, Segment] = {}
        self._root_began: float | None = None  # recognises another process that reuses its pid
        self._began: dict[int, float] = {}
        if LINUX and (found := parent_and_start(root)):
            self._root_began = self._began[root] = found[1]
            if parent_adopts and (parent := parent_and_start(found[0])):
                self._adopter = (found[0], parent[1])
        self._latest: dict[int, float] = {}  # members alive at this update or the one before
        self._apart: dict[int, float] = {}  # start times of processes that are no members

    @property
    def pids(self) -> list[int]:
        """The ids of the members that were alive at the last update."""
        return list(self._began)

    def update(self, now: Tree) -> None:
        """Update the members from a snapshot."""
        if self._root_began is None and self.root in now.began:
            self._root_began = self._began[self.root] = now.began[self.root]
        living = {
            pid: start
            for pid, start in self._began.items()
            if now.began.get(pid) == start and self._apart.get(pid) != start
        }
        found = list(living)
        for pid in found:
            for child in now.children.get(pid, ()):
                if child not in living and self._apart.get(child) != now.began[child]:
                    living[child] = now.began[child]
                    found.append(child)
        self._latest = {**self._began, **living}
        self._began = living
        self._note(now.segments)

    def _note(self, now: list[Segment]) -> None:
        """Remember which segments are the family's, for when their creators have ended.

        Pids are reused: a segment older than the member was created by another process.
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

    def refresh(self) -> None:
        """Update the members as they are now; skips the full snapshot if there is only the root."""
        if not LINUX or set(self._began) - {self.root} or has_children(self.root):
            self.update(tree())
        else:
            found = parent_and_start(self.root)
            began = {self.root: found[1]} if found else {}
            self.update(Tree({}, began, {}, segments()))

    def adopt(self, pid: int, now: Tree) -> None:
        """Add a process that was found in another way, such as by its mark."""
        if pid in now.began and self._apart.get(pid) != now.began[pid]:
            self._began[pid] = self._latest[pid] = now.began[pid]
            self._note(now.segments)

    def let_go(self, pid: int) -> None:
        """Count a process and its descendants as no members any more: it is a kernel of its own."""
        if found := parent_and_start(pid):
            self._apart[pid] = found[1]
        self._apart = {one: start for one, start in self._apart.items() if is_still(one, start)}
        for known in (self._began, self._latest):
            known.pop(pid, None)

    def end(self, mark: str) -> list[str]:
        """Kill all members and marked processes; returns a sentence for each that survived.

        Raises:
            OSError: they can't be looked for; only the root's group was killed.
        """
        try:
            return self._end(mark)
        finally:
            self._end_group()

    def _end_group(self) -> None:
        """Kill the root's group, also if the root ended before; it may be another's by then."""
        found = parent_and_start(self.root) if self.root else None
        if not (hasattr(os, "killpg") and self.root):
            return
        if found is None or found[1] == self._root_began:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.root, signal.SIGKILL)

    def _end(self, mark: str) -> list[str]:
        denied: dict[int, str] = {}
        for _ in range(ROUNDS):
            self.refresh()
            strays = marked(mark, self._orphans())
            if not strays and not self.pids:
                break
            now = tree()
            self.update(now)
            for pid in strays:
                self.adopt(pid, now)
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
        return [
            f"Process {pid} ({name}), which the kernel started, belongs to another user and could"
            f" not be ended. End it with: sudo kill -9 {pid}."
            for pid, name in denied.items()
        ]

    def _orphans(self) -> list[int] | None:
        """The processes among which this family's daemons are; None if they may be anywhere."""
        if self._adopter is None:
            return None
        pid, start = self._adopter
        before = children_of(pid)
        for _ in range(READS):
            found = children_of(pid)
            # A list may lack a child if another one exits while Linux writes the list.
            if found == before:
                alive = parent_and_start(pid)  # else they have a new parent now
                return found if alive and alive[1] == start else None
            before = found
        return None


def adopt_strays(now: Tree, families: dict[str, Family], searched: Mapping[int, float]) -> None:
    """Adopt daemons, which left their family before they were seen but carry its mark.

    Args:
        now: a snapshot, with which the families have been updated.
        families: the families by mark.
        searched: start times of the processes that were searched before, by pid.
    """
    inside = {pid for family in families.values() for pid in family.pids}
    numbered = {mark_number(mark): family for mark, family in families.items()}
    for pid, start in now.began.items():
        if pid in inside or searched.get(pid) == start:
            continue
        with contextlib.suppress(OSError):
            if (family := numbered.get(number_on(pid))) is None:
                with open(f"/proc/{pid}/environ", "rb") as environ:
                    mark = MARKED.search(environ.read())
                family = families.get(mark[1].decode("latin-1")) if mark else None
            if family is not None:
                family.adopt(pid, now)


def at(start: float) -> float:
    """Convert a start time from Linux's clock ticks to seconds since 1970."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + start / os.sysconf("SC_CLK_TCK")


def is_still(pid: int, start: float) -> bool:
    """Whether a process that started then is still running, on Linux."""
    found = parent_and_start(pid)
    return found is not None and found[1] == start


def has_children(pid: int) -> bool:
    """Whether a process has children, on Linux; other systems need the full snapshot."""
    return bool(children_of(pid))


def children_of(pid: int) -> list[int]:
    """A process's children, on Linux, zombies included; empty if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as children:
                found += map(int, children.read().split())
    return found


def name_of(pid: int) -> str:
    """A process's name; "unknown" if it is gone or can't be inspected."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "unknown"
