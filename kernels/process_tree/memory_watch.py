"""Which kernels use more memory than their limit.

Runs in its own thread, since it scans every process of the machine. Knows processes; the session
decides what happens to a kernel that uses too much.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .family import LINUX, Family, Tree, adopt_strays, tree
from .memory import Account, exact, held, private, resident, segment_sizes, sizes

log = logging.getLogger(__name__)

SCAN_INTERVAL = 1.0  # seconds between scans of all processes while a kernel is busy
IDLE_SCAN_INTERVAL = 10.0  # the same while no kernel is busy
MAX_SHARE = 0.05  # max fraction of the time spent scanning
OWN = ("/tmp", "/dev/shm")  # kept in memory in a sandbox, and shared by its sessions
INODE = 1024  # approximate bytes that a file takes besides its content

# By how much of the limit a kernel's copies may exceed it. A copy is needed most when its kernel
# exceeds the limit by itself, so it must not be dropped for its few MB just before that.
COPIES_SHARE = 0.1


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


@dataclass(frozen=True)
class Excess(Generic[P]):
    """A kernel that uses too much.

    Attributes:
        kernel: its process.
        words: what it does, as the end of a sentence about it.
        by_copies: whether it would not without its sleeping copies.
    """

    kernel: P
    words: str
    by_copies: bool


class MemoryWatch(Generic[P]):
    """Finds the kernels that use more than `limit` bytes.

    Call `tick` ten times a second while a kernel is busy, and once a second while one is idle.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._accounts: dict[P, Account] = {}
        # Bytes at the last scan, by devices; None once a kernel that shared them has ended, since
        # it is unknown how much that kernel added at the end.
        self._used: dict[tuple[int, ...], int | None] = {}
        self._searched: dict[int, float] = {}  # processes already searched for a mark
        self._updated = 0.0
        self._took = 0.0
        self._ticks = 0

    @property
    def kernels(self) -> Collection[P]:
        """The kernels of the last tick."""
        return self._accounts.keys()

    def tick(
        self, kernels: Collection[P], busy: Collection[P], copies: Mapping[P, Sequence[int]]
    ) -> list[Excess[P]]:
        """Measure kernels; returns those over the limit.

        Args:
            kernels: all kernels.
            busy: kernels that are or were just running code; others are measured occasionally.
            copies: the pids of sleeping copies of kernels, whose memory counts as theirs.
        """
        for ended in self._accounts.keys() - set(kernels):
            if devices := self._accounts.pop(ended).devices:
                self._used[devices] = None
        if not kernels:
            return []
        began = time.monotonic()
        for kernel in set(kernels) - self._accounts.keys():
            self._accounts[kernel] = Account(devices=sandbox_devices(kernel))
        interval = SCAN_INTERVAL if busy else IDLE_SCAN_INTERVAL
        if began >= self._updated + max(interval, self._took / MAX_SHARE):
            self._update(tree())
            self._updated, self._took = began, time.monotonic() - began
        self._charge(busy)
        self._ticks += 1
        found: list[Excess[P]] = []
        for number, kernel in enumerate(kernels):
            # With busy ones, the idle ones are not all measured at once.
            due = not busy or kernel in busy or (self._ticks + number) % 10 == 0
            account = self._accounts[kernel]
            try:
                if due and (excess := self._excess(kernel, account, copies.get(kernel, ()))):
                    found.append(excess)
            except Exception:  # still measure the other kernels
                if not account.failed:
                    log.exception("A kernel's memory can't be measured")
                account.failed = True
        return found

    def _excess(self, kernel: P, account: Account, copies: Sequence[int]) -> Excess[P] | None:
        """How a kernel exceeds the limit; None if it does not."""
        if (family := kernel.family) is None:
            return None
        pids, shared = [*family.pids, *copies], sizes(account.held)
        most = sum(map(resident, pids)) + sum(shared.values())
        most += sum(account.segments.values())
        began = time.monotonic()
        if most + account.charged <= self.limit or began < account.exact_at:
            return None
        used = alone = exact(pids, shared, account)
        if used > self.limit:  # what only several copies share can't be told from the kernel's
            alone -= sum(map(private, copies))
        account.exact_at = began + min(1.0, (time.monotonic() - began) / MAX_SHARE)
        allowed = self.limit * (1 + COPIES_SHARE) if copies else self.limit
        if alone <= self.limit and used <= allowed:
            return None
        own = f", {account.charged / 1e6:,.0f} of them in its /tmp and /dev/shm"
        words = (
            f"used more than RMI_AGENT_MEMORY_LIMIT ({self.limit / 1e6:,.0f} MB"
            f"{own if account.charged > self.limit / 10 else ''})"
        )
        return Excess(kernel, words, by_copies=len(copies) > 1 or alone <= self.limit)

    def _update(self, now: Tree) -> None:
        families = {k.mark: k.family for k in self._accounts if k.family is not None}
        for family in families.values():
            family.update(now)
        if not LINUX:
            return
        adopt_strays(now, families, self._searched)
        self._searched = now.began
        for kernel, account in self._accounts.items():
            if (members := kernel.family) is not None:
                account.held = held(members.pids)
                account.segments = segment_sizes(members)
                account.devices = sandbox_devices(kernel)

    def _charge(self, busy: Collection[P]) -> None:
        """Charge the growth of a sandbox's /tmp and /dev/shm to the kernels that were busy.

        All sessions of a principal share them, and no file tells which session wrote it. Files
        left there by ended sessions are charged to nobody.
        """
        for devices in {account.devices for account in self._accounts.values()} - {()}:
            sharing = {k: a for k, a in self._accounts.items() if a.devices == devices}
            working = [kernel for kernel in sharing if kernel in busy]
            before = self._used.get(devices, 0)
            if not working and before is not None:
                continue
            if (used := in_use(working or sharing)) is None:
                continue
            grown = used - before if before is not None else 0
            self._used[devices] = used
            charged = sum(account.charged for account in sharing.values())
            for kernel in working if grown > 0 else ():
                sharing[kernel].charged += grown / len(working)
            if charged > used:
                for account in sharing.values():
                    account.charged *= used / charged


def sandbox_devices(kernel: Process) -> tuple[int, ...]:
    """The devices of a kernel's own /tmp and /dev/shm; empty if it has none."""
    if LINUX and kernel.is_walled and kernel.family is not None:
        with contextlib.suppress(OSError):
            own = [os.stat(f"/proc/{kernel.family.root}/root{path}").st_dev for path in OWN]
            host = [os.stat(path).st_dev for path in (*OWN, "/")]
            return tuple(own) if not set(own) & set(host) else ()
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
