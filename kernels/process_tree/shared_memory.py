"""System V's segments of shared memory: which there are, and the end of those that were left.

A segment outlives the processes that have it, and a sandbox refuses them. Knows what Linux lists;
whose a segment is, `family.py` says.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterable
from dataclasses import dataclass

SHM = "/proc/sysvipc/shm"
IPC_RMID = 0
ROUNDS, BETWEEN = 10, 0.05  # seconds


@dataclass(frozen=True)
class Segment:
    """A segment as Linux lists it.

    Attributes:
        number: its id, which another one may have once it is removed.
        creator: the process that made it.
        made: when, or when its owner or mode was changed last, in seconds since 1970.
        attached: how many times processes have it mapped.
        resident: bytes.
    """

    number: int
    creator: int
    made: int
    attached: int
    resident: int

    def is_still(self, earlier: Segment) -> bool:
        """Whether it is one that was seen earlier; its owner and mode may have changed."""
        same = (self.number, self.creator) == (earlier.number, earlier.creator)
        return same and self.made >= earlier.made


def segments() -> list[Segment]:
    """All segments of the machine; none where the system is another."""
    found = []
    with contextlib.suppress(OSError), open(SHM) as file:
        names = file.readline().split()
        for line in file:
            of = {name: int(word) for name, word in zip(names, line.split(), strict=False)}
            took = of["rss"] + of["swap"]
            found.append(Segment(of["shmid"], of["cpid"], of["ctime"], of["nattch"], took))
    return found


def remove(left: Iterable[Segment]) -> None:
    """Remove those of these segments that are still there and that no process has mapped.

    A process that was killed a moment ago may still have one.
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
