"""How much memory processes use: what they have mapped, and what they hold without a mapping.

Memory that several processes share is counted once. Knows processes and files of /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil

from .family import LINUX, Family, children_of, tree
from .reaper import number_on

# A line of /proc/PID/maps or /proc/PID/smaps: addresses, device, inode, name.
MAPPING = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$")

# Nameless shared memory in /proc/PID/maps; the second pattern is memory mapped without a file.
NAMELESS = re.compile(rb" (?:/memfd:|/dev/zero \(deleted\)$)", re.MULTILINE)

Object = tuple[int, int]  # a device and an inode


@dataclass
class Account:
    """What is known about one kernel's memory.

    Attributes:
        held: paths in /proc to the shared memory that its processes hold.
        segments: bytes of its System V segments by number.
        devices: devices of its sandbox's own /tmp and /dev/shm; empty if it has none.
        charged: bytes by which its sandbox's /tmp and /dev/shm grew while it was busy.
        exact_at: when it may next be measured exactly, by `time.monotonic`.
        failed: whether measuring it has failed.
    """

    held: dict[Object, str] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    devices: tuple[int, ...] = ()
    charged: float = 0.0
    exact_at: float = 0.0
    failed: bool = False


def memory_of(family: Family) -> int:
    """Bytes that a family uses now, as exactly as possible."""
    family.update(tree())
    if not LINUX:
        return sum(map(resident, family.pids))
    account = Account(segments=segment_sizes(family))
    return round(exact(family.pids, sizes(held(family.pids)), account))


def memory_alike(root: int) -> int:
    """Bytes of a process and of those below it that carry the same mark by their limit.

    So what it has forked and marked otherwise does not count. 0 if it is gone.
    """
    found = [root]
    with contextlib.suppress(OSError):
        for pid in found if LINUX else ():
            found += (each for each in children_of(pid) if number_on(each) == number_on(root))
    return round(exact(found, {}, Account())) if LINUX else resident(root)


def private(pid: int) -> int:
    """Bytes that would be free if a process ended, as no other one has them."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
        return total_of(rollup, b"Private_Clean:", b"Private_Dirty:")
    return 0


def segment_sizes(family: Family) -> dict[int, int]:
    """Bytes of a family's System V segments, mapped or not, by number."""
    return {number: segment.resident for number, segment in family.segments.items()}


def resident(pid: int) -> int:
    """Bytes of a process, including memory shared with others but not mapped files."""
    if not LINUX:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
        return 0
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            return total_of(status, b"RssAnon:", b"RssShmem:", b"VmSwap:")
    except OSError:
        return 0


def exact(pids: Iterable[int], shared: dict[Object, int], account: Account) -> float:
    """Bytes of processes, with shared pages counted proportionally, and of what they hold.

    Args:
        pids: the processes.
        shared: sizes of the objects they hold; mappings of these are not counted again.
        account: what else counts.
    """
    total = sum(shared.values()) + sum(account.segments.values()) + account.charged
    again = bool(shared or account.segments or account.charged)
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
                total += total_of(rollup, b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
            if again:
                total -= counted_already(pid, shared, account)
        except PermissionError:  # another user's process
            total += resident(pid)
        except OSError:  # the process is gone
            continue
    return total


def total_of(lines: Iterable[bytes], *names: bytes) -> int:
    """The sum, in bytes, of the named lines of a /proc file, such as `Pss: 12 kB`."""
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(names))


def counted_already(pid: int, shared: dict[Object, int], account: Account) -> int:
    """Bytes that a process has mapped of objects already counted in full."""
    total, inside = 0, False
    with open(f"/proc/{pid}/smaps", "rb") as smaps:
        for line in smaps:
            if mapping := MAPPING.match(line):
                device = os.makedev(int(mapping[2], 16), int(mapping[3], 16))
                number = int(mapping[4])  # a segment's number is its inode
                inside = (device, number) in shared
                inside = inside or (mapping[5].startswith(b"/SYSV") and number in account.segments)
                inside = inside or bool(account.charged and device in account.devices)
            elif inside and line.startswith(b"Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def held(pids: Iterable[int]) -> dict[Object, str]:
    """Shared memory that processes have open or mapped, each with a path to it."""
    found: dict[Object, str] = {}
    for pid in pids:
        for path in [*open_files(pid), *mapped_files(pid)]:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.setdefault((status.st_dev, status.st_ino), path)
    return found


def open_files(pid: int) -> list[str]:
    """Paths of a process's descriptors that refer to nameless shared memory."""
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    found.append(path)
    return found


def mapped_files(pid: int) -> list[str]:
    """Paths of nameless shared memory that a process maps, even if closed; only root can use them.

    Pages that a process wrote and then released still exist, but in none of its own counts.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:
        text = maps.read()
        if NAMELESS.search(text):  # rarely true, and there are hundreds of lines to match
            lines = [MAPPING.match(line) for line in text.splitlines() if NAMELESS.search(line)]
            return [f"/proc/{pid}/map_files/{each[1].decode()}" for each in lines if each]
    return []


def sizes(objects: dict[Object, str]) -> dict[Object, int]:
    """Bytes that shared memory objects take now; those that are gone are left out."""
    found = {}
    for one, path in objects.items():
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == one:
                found[one] = status.st_blocks * 512
    return found
