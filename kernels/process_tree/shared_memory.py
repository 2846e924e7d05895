"""System V shared memory segments: lists them, and removes those that were left behind.

A segment outlives the processes that map it; sandboxes forbid segments. Knows what Linux lists;
`family.py` knows which family a segment belongs to.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterable
from dataclasses import dataclass

SHM = "/proc/sysvipc/shm"
IPC_RMID = 0
ROUNDS, BETWEEN = 10, 0.05  # max attempts to remove segments, and seconds between them


@dataclass(frozen=True)
class Segment:
    """A segment as Linux lists it.

    Attributes:
        number: its id, which may be reused once the segment is removed.
        creator: pid of the process that created it.
        made: when it was created or its owner or mode last changed, in seconds since 1970.
        attached: how many mappings processes have of it.
        resident: bytes in memory and in swap.
    """

    number: int
    creator: int
    made: int
    attached: int
    resident: int

    def is_still(self, earlier: Segment) -> bool:
        """Whether this is a segment seen earlier; its owner and mode may have changed since."""
        same = (self.number, self.creator) == (earlier.number, earlier.creator)
        return same and self.made >= earlier.made


def segments() -> list[Segment]:
    """All segments of the machine; empty on systems other than Linux."""
    found = []
    with contextlib.suppress(OSError), open(SHM) as file:
        names = file.readline().split()
        for line in file:
            of = {name: int(word) for name, word in zip(names, line.split(), strict=False)}
            took = of["rss"] + of["swap"]
            found.append(Segment(of["shmid"], of["cpid"], of["ctime"], of["nattch"], took))
    return found


def remove(left: Iterable[Segment]) -> None:
    """Remove those of these segments that still exist and that no process has mapped.

    Retries, as a process that was killed a moment ago may still have one mapped.
    """
    libc, wanted = ctypes.CDLL(None), {segment.number: segment for segment in left}
    for _ in range(ROUNDS):
        there = [s for s in segments() if s.number in wanted and s.is_still(wanted[s.number])]
        for segment in there:
            if not segment.attached:
                libc.shmctl(segment.number, IPC_RMID, None)
        if not any(segment.attached for segment in there):
            break
        time.sleep(BETWEEN)
