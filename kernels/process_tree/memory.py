"""How much memory a kernel's processes use, and which kernels exceed the limit.

Runs in its own thread, since it looks at every process of the machine. Memory that several
processes share is counted once, even if none of them has it mapped. Knows processes and files of
/proc; the session decides what happens to a kernel that uses too much.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

import psutil

from .family import LINUX, Family, Tree, tree
from .reaper import MARK, number_in, number_of

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between looks at all processes while a kernel is busy
LOOK_IDLE = 10.0  # the same while no kernel is busy
SHARE = 0.05  # max fraction of the time spent looking
OWN = ("/tmp", "/dev/shm")  # kept in memory in a sandbox, and shared by its sessions
INODE = 1024  # approximate bytes that a file takes besides its content
# A line of /proc/PID/maps or /proc/PID/smaps: addresses, device, inode, name.
MAPPING = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$")

MARKED = re.compile(rb"(?:^|\0)%s=([^\0]*)" % MARK.encode())  # in an environment
# Nameless shared memory in /proc/PID/maps; the second pattern is memory mapped without a file.
NAMELESS = re.compile(rb" (?:/memfd:|/dev/zero \(deleted\)$)", re.MULTILINE)

Object = tuple[int, int]  # a device and an inode


class Process(Protocol):
    """The part of a kernel's process that the watch needs."""

    mark: str

    @property
    def family(self) -> Family | None:
        """All its processes; None if they are not on this machine."""

    @property
    def is_walled(self) -> bool:
        """Whether it may have a /tmp of its own."""


P = TypeVar("P", bound=Process)


@dataclass
class Account:
    """What is known about one kernel's memory.

    Attributes:
        held: paths in /proc to the shared memory that its processes hold.
        segments: bytes of its System V segments by number.
        devices: devices of its sandbox's own /tmp and /dev/shm; empty if it has none.
        charged: bytes by which its sandbox's /tmp and /dev/shm grew while it was busy.
        exact_at: when it may next be measured exactly, by `time.monotonic`.
    """

    held: dict[Object, str] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    devices: tuple[int, ...] = ()
    charged: float = 0.0
    exact_at: float = 0.0


class MemoryWatch(Generic[P]):
    """Finds the kernels that use more than `limit` bytes. Call `tick` ten times a second."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._accounts: dict[P, Account] = {}
        # Bytes at the last look, by devices; None once a kernel that shared them has ended, since
        # it is unknown how much that kernel added at the end.
        self._used: dict[tuple[int, ...], int | None] = {}
        self._known: dict[int, float] = {}  # processes already searched for a mark
        self._failed: WeakSet[P] = WeakSet()
        self._looked = 0.0
        self._took = 0.0
        self._ticks = 0

    @property
    def kernels(self) -> Collection[P]:
        """The kernels of the last tick."""
        return self._accounts.keys()

    def tick(self, kernels: Collection[P], busy: Collection[P]) -> list[tuple[P, str]]:
        """Measure kernels; returns those over the limit, each with a message.

        Args:
            kernels: all kernels.
            busy: kernels that are or were just running code; others are measured occasionally.
        """
        self._forget(self._accounts.keys() - set(kernels))
        if not kernels:
            return []
        began = time.monotonic()
        if began >= self._looked + max(LOOK if busy else LOOK_IDLE, self._took / SHARE):
            self._look(kernels)
            self._looked, self._took = began, time.monotonic() - began
        for kernel in set(kernels) - self._accounts.keys():
            self._accounts[kernel] = Account(devices=sandbox_devices(kernel))
        self._charge(kernels, busy)
        self._ticks += 1
        found = []
        for number, kernel in enumerate(kernels):
            due = kernel in busy or (self._ticks + number) % 10 == 0  # never all at once
            try:
                if due and (words := self._too_much(kernel)):
                    found.append((kernel, words))
            except Exception:  # still measure the other kernels
                if kernel not in self._failed:
                    log.exception("A kernel's memory can't be measured")
                self._failed.add(kernel)
        return found

    def _too_much(self, kernel: P) -> str:
        account, family = self._accounts.get(kernel), kernel.family
        if account is None or family is None:  # added after the last look
            return ""
        shared = sizes(account.held)
        most = sum(map(resident, family.pids)) + sum(shared.values())
        most += sum(account.segments.values())
        if most + account.charged <= self.limit:
            return ""
        began = time.monotonic()
        if began < account.exact_at:
            return ""
        used = exact(family.pids, shared, account)
        account.exact_at = began + min(1.0, (time.monotonic() - began) / SHARE)
        if used <= self.limit:
            return ""
        apart = f", {account.charged / 1e6:,.0f} of them in its /tmp and /dev/shm"
        return (
            f"used more than RMI_AGENT_MEMORY_LIMIT ({self.limit / 1e6:,.0f} MB"
            f"{apart if account.charged > self.limit / 10 else ''})"
        )

    def _forget(self, ended: Collection[P]) -> None:
        for kernel in ended:
            if devices := self._accounts.pop(kernel).devices:
                self._used[devices] = None

    def _look(self, kernels: Collection[P]) -> None:
        now = tree()
        accounts = {kernel: self._accounts.get(kernel, Account()) for kernel in kernels}
        self._accounts = accounts
        families = {k.mark: k.family for k in kernels if k.family is not None}
        for family in families.values():
            family.look(now)
        self._adopt_strays(now, families)
        for kernel, account in accounts.items():
            if LINUX and (members := kernel.family) is not None:
                account.held = held(members.pids)
                account.segments = taken(members)
                account.devices = sandbox_devices(kernel)

    def _adopt_strays(self, now: Tree, families: dict[str, Family]) -> None:
        """Adopt daemons, which left their family before they were seen but carry its mark."""
        if not LINUX:
            return
        inside = {pid for family in families.values() for pid in family.pids}
        numbered = {number_of(mark): family for mark, family in families.items()}
        for pid, start in now.began.items():
            if pid in inside or self._known.get(pid) == start:
                continue
            with contextlib.suppress(OSError):
                if (family := numbered.get(number_in(pid))) is None:
                    with open(f"/proc/{pid}/environ", "rb") as environ:
                        mark = MARKED.search(environ.read())
                    family = families.get(mark[1].decode("latin-1")) if mark else None
                if family is not None:
                    family.adopt(pid, now)
        self._known = now.began

    def _charge(self, kernels: Collection[P], busy: Collection[P]) -> None:
        """Charge the growth of a sandbox's /tmp and /dev/shm to the kernels that were busy.

        All sessions of a principal share them, and no file tells which session wrote it. Files
        left there by ended sessions are charged to nobody.
        """
        for devices in {account.devices for account in self._accounts.values()} - {()}:
            sharing = [k for k in kernels if k in self._accounts]
            sharing = [k for k in sharing if self._accounts[k].devices == devices]
            at_work = [k for k in sharing if k in busy]
            before = self._used.get(devices, 0)
            if not at_work and before is not None:
                continue
            if (used := in_use(at_work or sharing)) is None:
                continue
            grown = used - before if before is not None else 0
            self._used[devices] = used
            charged = sum(self._accounts[kernel].charged for kernel in sharing)
            for kernel in at_work if grown > 0 else ():
                self._accounts[kernel].charged += grown / len(at_work)
            if charged > used:
                for kernel in sharing:
                    self._accounts[kernel].charged *= used / charged


def measured(family: Family) -> int:
    """Bytes that a family uses now, as exactly as possible."""
    family.look(tree())
    if not LINUX:
        return sum(map(resident, family.pids))
    account = Account(segments=taken(family))
    return round(exact(family.pids, sizes(held(family.pids)), account))


def taken(family: Family) -> dict[int, int]:
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
            return numbers(status, b"RssAnon:", b"RssShmem:", b"VmSwap:")
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
                total += numbers(rollup, b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
            if again:
                total -= counted_already(pid, shared, account)
        except PermissionError:  # another user's process
            total += resident(pid)
        except OSError:  # the process is gone
            continue
    return total


def numbers(lines: Iterable[bytes], *names: bytes) -> int:
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


def sandbox_devices(kernel: Process) -> tuple[int, ...]:
    """The devices of a kernel's own /tmp and /dev/shm; empty if it has none."""
    if not LINUX or not kernel.is_walled or kernel.family is None:
        return ()
    return own_devices(kernel.family.root)


def own_devices(pid: int) -> tuple[int, ...]:
    """The devices of a process's /tmp and /dev/shm if they are its sandbox's own, else empty."""
    with contextlib.suppress(OSError):
        theirs = [os.stat(f"/proc/{pid}/root{path}").st_dev for path in OWN]
        ours = [os.stat(path).st_dev for path in (*OWN, "/")]
        return tuple(theirs) if not set(theirs) & set(ours) else ()
    return ()


def in_use(kernels: Iterable[Process]) -> int | None:
    """Bytes used in the /tmp and /dev/shm that kernels share; None if all kernels are gone."""
    for kernel in kernels:
        with contextlib.suppress(OSError):
            assert kernel.family is not None
            root = f"/proc/{kernel.family.root}/root"
            tmps = [os.statvfs(root + path) for path in OWN]
            files = sum(tmp.f_files - tmp.f_ffree for tmp in tmps) * INODE
            return files + sum((tmp.f_blocks - tmp.f_bfree) * tmp.f_frsize for tmp in tmps)
    return None
