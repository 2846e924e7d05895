"""Warm kernels, and a limit on the number of kernels.

Every kernel is handed out once, to a single session, and only to the owner of the sandbox it is
in. Knows kernels and counts; `evict` decides which session must make room.

Each process holds one of `most` places of a semaphore. The place is acquired before the process
starts and released after it ends, whichever callers are cancelled in the meantime.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import zmq.asyncio

from ..addresses import RemoteKernel
from ..errors import KernelError, start_error
from ..kernel import Kernel
from ..process import Launch
from ..supervision import Supervisor

log = logging.getLogger(__name__)

Starting = asyncio.Task[Kernel]

ATTACHING = 7 * 86400.0  # max seconds to wait for the running cell when attaching to a kernel
LATELY = 60.0  # seconds; the demand in this period is expected to recur
ABSENT = 600.0  # seconds after which an owner without sessions loses its warm kernels


@dataclass(eq=False)
class OwnerPool:
    """One owner's warm kernels.

    Attributes:
        launch: how its kernels are started.
        warm: kernels that are ready or starting.
        leases: times of recent requests for a kernel, by the loop's clock.
        used: when a kernel was last requested or returned.
        askers: number of calls waiting for a kernel.
    """

    launch: Launch
    used: float
    warm: deque[Starting] = field(default_factory=deque)
    leases: deque[float] = field(default_factory=deque)
    askers: int = 0

    @property
    def ready(self) -> list[Starting]:
        """The warm kernels that have started."""
        return [starting for starting in self.warm if has_started(starting)]

    @contextlib.contextmanager
    def asked(self, now: float) -> Iterator[None]:
        """Count a request for one of these kernels while the context lasts."""
        self.leases.append(now)
        self.used = now
        self.askers += 1
        try:
            yield
        finally:
            self.askers -= 1


class Pool:
    """Starts kernels ahead of demand. Use as `async with Pool(...) as pool`.

    Args:
        launch: returns how an owner's kernels are started.
        warm: min number of kernels kept ready per owner, temporarily more after a burst;
            0 means none.
        most: max number of processes, including warm and starting ones.
        patience: max seconds that a lease waits for a free place.
        evict: called when a place is needed, with the owner who needs it ("" for the pool itself);
            returns whether it has announced one by `reserve` or `retire`.
        expected: owners whose kernels are warmed from the start and kept warm.
        forget: called when the last kernel of owners absent for `ABSENT` seconds is given up.
    """

    def __init__(
        self,
        launch: Callable[[str], Launch],
        warm: int,
        most: int,
        patience: float = 30.0,
        evict: Callable[[str], bool] = lambda _: False,
        expected: Iterable[str] = ("",),
        forget: Callable[[Launch], None] = lambda _: None,
    ) -> None:
        self.most = most
        self._launch, self._expected, self._forget = launch, tuple(expected), forget
        self._least = min(warm, most)
        self._patience, self._evict = patience, evict
        self._shelves: dict[str, OwnerPool] = {}
        self._places = asyncio.Semaphore(most)
        self._waiting: list[str] = []  # owners waiting for a place, in order
        self._starting: set[Starting] = set()
        self._living: dict[Kernel, OwnerPool] = {}  # started and not yet retired
        self._promised: set[Kernel] = set()  # the living kernels that are about to be retired
        self._ending: set[Kernel] = set()
        self._tasks = Supervisor("kernels")
        self._warming: asyncio.Task[None] | None = None
        self._context = zmq.asyncio.Context()
        self._closed = False

    async def __aenter__(self) -> Pool:
        try:
            for owner in self._expected:
                self._shelf(owner)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._refill()
        self._tidying = self._tasks.watch(self._tidy_up, "giving up warm kernels")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._tidying.cancel()
        self._places.release()  # waiting callers learn one by one that it is closed
        for starting in self._starting:
            starting.cancel()
        while self._tasks.tasks:
            for kernel in list(self._living):
                self.retire(kernel)
            await asyncio.wait(self._tasks.tasks)
        self._context.destroy(linger=0)

    @property
    def warm(self) -> int:
        """Number of kernels that are ready."""
        return sum(len(shelf.ready) for shelf in self._distinct())

    @property
    def leased(self) -> int:
        """Number of kernels that sessions have."""
        return len(self._living) - self.warm

    @property
    def count(self) -> int:
        """Number of processes, whether warm, starting, leased or ending."""
        starting = sum(not starting.done() for starting in self._starting)
        return starting + len(self._living) + len(self._ending)

    @property
    def waiting(self) -> int:
        """Number of calls waiting for a place."""
        return len(self._waiting)

    # -- handing out

    async def lease(self, owner: str = "", attach: RemoteKernel | None = None) -> Kernel:
        """Hand out a fresh kernel: a warm one, or one started as soon as there is a place.

        Args:
            owner: whose kernel it will be.
            attach: an existing kernel to attach to instead; waits until its current run has ended.

        Raises:
            KernelError: no place came free in time.
            KernelStartError: the kernel could not be started.
        """
        try:
            shelf = self._shelf(owner)
        except OSError as error:  # from creating the sandbox's folders
            raise start_error(error) from error
        with shelf.asked(self._now()):
            while shelf.warm and attach is None:
                starting = shelf.warm.popleft()
                self._refill()
                kernel = await self._handed_out(starting)
                if await self._lives(kernel):
                    return kernel
                self.retire(kernel)
            await self._take_place(owner)
            return await self._handed_out(self._start(shelf, attach), attach is not None)

    def retire(self, kernel: Kernel) -> None:
        """End a kernel in the background; its place is released once the process is gone."""
        self._take_back(kernel, graceful=True)

    def detach(self, kernel: Kernel) -> None:
        """Disconnect from a kernel on a Jupyter Server, leaving it running for others."""
        self._take_back(kernel, graceful=False)

    def reserve(self, kernel: Kernel, closing: asyncio.Task[None]) -> None:
        """Announce that a kernel will be retired, at the latest when `closing` is done.

        Its place counts as coming free, so no other session is evicted for it.
        """
        if kernel in self._living:
            self._promised.add(kernel)
        closing.add_done_callback(lambda _: self.retire(kernel))

    def notify(self) -> None:
        """Retry `evict` for waiting callers, since a session has become idle."""
        # Deferred, so that a caller that just got a place no longer counts as waiting.
        asyncio.get_running_loop().call_soon(self._make_room)

    async def _handed_out(self, starting: Starting, attached: bool = False) -> Kernel:
        """Wait for a kernel to start; if the caller is cancelled, the kernel is taken back."""
        take_back = self.detach if attached else self.retire

        def unwanted(_: Starting) -> None:
            if has_started(starting):
                take_back(starting.result())

        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError:
            # In a callback, since anyio also cancels every await in a cancelled caller's cleanup.
            starting.add_done_callback(unwanted)
            if attached:
                starting.cancel()
            raise
        if starting.cancelled():
            raise closed()
        kernel = starting.result()
        if self._closed:
            take_back(kernel)
            raise closed()
        return kernel

    async def _lives(self, kernel: Kernel) -> bool:
        """Whether a warm kernel is still alive."""
        try:
            return await kernel.alive()
        except OSError as error:
            log.warning("A warm kernel can't be asked whether it lives: %s", error)
            return False
        except BaseException:  # the caller was cancelled
            self.retire(kernel)
            raise

    # -- places

    async def _take_place(self, owner: str) -> None:
        self._waiting.append(owner)
        try:
            if self._places.locked():
                self.notify()
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError:
            raise KernelError(
                f"All {self.most} kernels are busy, and none came free within {self._patience:g} s."
                " Wait for a run to end, interrupt one or close a session (list_sessions shows"
                " them), or raise RMI_AGENT_KERNEL_MAX."
            ) from None
        finally:
            self._waiting.remove(owner)
        if self._closed:
            self._places.release()  # to the next waiting caller
            raise closed()

    def _make_room(self) -> None:
        """Free a place for each waiting caller, as far as possible."""
        while len(self._waiting) > (coming := self._coming):
            if shelf := self._least_wanted():
                self._give_up_warm(shelf)
            elif not self._evict(self._waiting[coming]):
                return
            if self._coming == coming:
                return

    @property
    def _coming(self) -> int:
        """Number of places about to come free."""
        return len(self._promised) + len(self._ending)

    def _start(self, shelf: OwnerPool, attach: RemoteKernel | None = None) -> Starting:
        """Start a kernel or attach to one; the caller has acquired a place for it."""
        launch = shelf.launch
        if attach is not None:
            launch = replace(launch, attach=attach, start_timeout=ATTACHING)
        starting = self._tasks.start(self._started(shelf, launch), "start", KernelError)
        self._starting.add(starting)

        def over(_: Starting) -> None:
            self._starting.discard(starting)
            if not has_started(starting):
                self._places.release()

        starting.add_done_callback(over)
        return starting

    async def _started(self, shelf: OwnerPool, launch: Launch) -> Kernel:
        try:
            kernel = Kernel(launch, self._context)
            await kernel.start()
        except KernelError:
            raise
        except Exception as error:  # from the system: no descriptors, no space, no threads
            log.exception("A kernel could not be started")
            raise start_error(error) from error
        self._living[kernel] = shelf
        return kernel

    def _take_back(self, kernel: Kernel, graceful: bool) -> None:
        shelf = self._living.pop(kernel, None)
        if shelf is None:  # taken back before
            return
        shelf.used = self._now()
        self._promised.discard(kernel)
        self._ending.add(kernel)

        def over(_: asyncio.Task[None]) -> None:
            self._ending.discard(kernel)
            self._places.release()
            self._refill()

        ending = self._tasks.start(kernel.close() if graceful else kernel.release(), "end")
        ending.add_done_callback(over)

    # -- warm kernels

    def _shelf(self, owner: str) -> OwnerPool:
        """The owner's shelf; owners with the same launch share one."""
        if owner not in self._shelves:
            launch = self._launch(owner)
            shared = [shelf for shelf in self._distinct() if shelf.launch is launch]
            self._shelves[owner] = shared[0] if shared else OwnerPool(launch, self._now())
        return self._shelves[owner]

    def _distinct(self) -> list[OwnerPool]:
        return list({id(shelf): shelf for shelf in self._shelves.values()}.values())

    def _least_wanted(self) -> OwnerPool | None:
        """Of the shelves with ready kernels, the one not asked for the longest time."""
        ready = [shelf for shelf in self._distinct() if shelf.ready]
        return min(ready, key=lambda shelf: shelf.leases[-1] if shelf.leases else 0, default=None)

    def _give_up_warm(self, shelf: OwnerPool) -> None:
        starting = shelf.ready[-1]
        shelf.warm.remove(starting)
        self.retire(starting.result())

    def _target(self, shelf: OwnerPool) -> int:
        """Desired number of warm kernels: as many as recently requested, at least `_least`."""
        while shelf.leases and shelf.leases[0] < self._now() - LATELY:
            shelf.leases.popleft()
        return max(self._least, len(shelf.leases)) if self._least else 0

    def _neediest(self) -> OwnerPool | None:
        """The shelf with the most kernels missing; None if none are missing."""
        lacking = [(self._target(shelf) - len(shelf.warm), shelf) for shelf in self._distinct()]
        number, shelf = max(lacking, key=lambda pair: pair[0], default=(0, None))
        return shelf if number > 0 else None

    def _refill(self) -> None:
        warming = self._warming is not None and not self._warming.done()
        if not self._closed and not warming and self._neediest():
            self._warming = self._tasks.start(self._warm_up(), "warm-up")

    async def _warm_up(self) -> None:
        """Start warm kernels one at a time: calls that wait for a kernel take precedence."""
        while not self._closed and (shelf := self._neediest()) and self._has_room(shelf):
            await self._places.acquire()  # a place is free, so this does not wait
            starting = self._start(shelf)
            shelf.warm.append(starting)
            await asyncio.wait({starting})
            if not has_started(starting):
                # No retry from here: the next call starts its own and reports the reason.
                if starting in shelf.warm and not starting.cancelled():
                    why = starting.exception()
                    log.error("A kernel could not be started ahead of demand: %s", why)
                with contextlib.suppress(ValueError):  # a call has taken it and reports the error
                    shelf.warm.remove(starting)
                return
            self.notify()

    def _has_room(self, shelf: OwnerPool) -> bool:
        """Whether a warm kernel may be started; requests an eviction if too few are warm."""
        if not self._places.locked():
            return True
        worth_a_session = min(self._least, self.most // 4)
        if len(shelf.warm) < worth_a_session and not self._coming:
            self._evict("")
        return False

    async def _tidy_up(self) -> None:
        """End warm kernels that are no longer likely to be requested."""
        while True:
            await asyncio.sleep(LATELY + 1)
            for shelf in self._distinct():
                while len(shelf.ready) > self._target(shelf):
                    self._give_up_warm(shelf)
            self._forget_absent()

    def _forget_absent(self) -> None:
        """Drop the shelves of owners without a session and without a request for `ABSENT` s."""
        kept = {id(self._shelves[owner]) for owner in self._expected}
        for owner in self._shelves.keys() - set(self._expected):
            shelf = self._shelves[owner]
            if self._is_used(shelf):
                continue
            del self._shelves[owner]
            if id(shelf) not in kept and shelf not in self._shelves.values():
                while shelf.ready:
                    self._give_up_warm(shelf)
                self._forget(shelf.launch)

    def _is_used(self, shelf: OwnerPool) -> bool:
        recent = self._now() < shelf.used + ABSENT
        coming = len(shelf.ready) < len(shelf.warm)
        leased = len(shelf.ready) < sum(each is shelf for each in self._living.values())
        return bool(recent or shelf.askers or coming or leased)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def has_started(starting: Starting) -> bool:
    """Whether a kernel has started successfully."""
    return starting.done() and not starting.cancelled() and starting.exception() is None


def closed() -> KernelError:
    """The error for callers that still wait for a kernel when the pool closes."""
    return KernelError("The server is shutting down.")
