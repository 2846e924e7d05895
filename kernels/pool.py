"""Warm kernels, and a bound on how many there are.

Every kernel is handed out once and never to a second session, and only to the owner whose
sandbox it is in. Knows kernels and counts; which session must make room is told by `evict`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import zmq.asyncio

from .address import RemoteKernel
from .errors import KernelError, PoolExhaustedError
from .kernel import Kernel
from .process import Launch

log = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTACHING = 7 * 86400.0  # seconds that what runs on a kernel may go on, to which one attaches
LATELY = 60.0  # seconds; the demand in these is expected again


@dataclass(frozen=True)
class Shelf:
    """One owner's warm kernels.

    Attributes:
        launch: how each is started.
        warm: those that are ready.
        leases: when kernels were asked for, lately.
    """

    launch: Launch
    warm: deque[Kernel] = field(default_factory=deque)
    leases: deque[float] = field(default_factory=deque)


class Pool:
    """Starts kernels ahead of demand. Use as `async with Pool(...) as pool`.

    Args:
        launch: how an owner's kernels are started.
        warm: kernels kept ready for an owner at least; after a burst it is more for a while.
            0 is none.
        most: processes at the same time, warm and starting ones included.
        patience: seconds that a lease waits for a kernel to come free.
        evict: asked for room when there is none, with who needs it ("" is the pool itself);
            returns whether some is on its way.
        expected: owners for whom kernels are warm from the beginning.
    """

    def __init__(
        self,
        launch: Callable[[str], Launch],
        warm: int,
        most: int,
        patience: float = 30.0,
        evict: Callable[[str], bool] = lambda _: False,
        expected: Iterable[str] = ("",),
    ) -> None:
        self.most = most
        self._launch, self._expected = launch, expected
        self._least = min(warm, most)
        self._shelves: dict[str, Shelf] = {}
        self._patience = patience
        self._evict = evict
        self._living: set[Kernel] = set()  # started and not yet retired
        self._count = 0  # processes: warm, starting, leased or ending
        self._coming = 0  # places: kernels that end, or are about to be retired
        self._promised = 0  # of them: those about to be retired
        self._refilling = False
        self._making_room = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = zmq.asyncio.Context()
        self._closed = False
        self._failures = 0

    async def __aenter__(self) -> Pool:
        for owner in self._expected:
            self._shelf(owner)
        self._refill()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for task in [task for task in self._tasks if task.get_name() == "start"]:
            task.cancel()
        while self._waiting:
            self.room_may_come()
        while self._tasks or self._living:
            for kernel in list(self._living):
                self.retire(kernel)
            await asyncio.wait(self._tasks)
        self._context.destroy(linger=0)

    @property
    def warm(self) -> int:
        """Kernels that are ready now."""
        return sum(len(shelf.warm) for shelf in self._distinct())

    @property
    def leased(self) -> int:
        """Kernels that sessions have now."""
        return len(self._living) - self.warm

    @property
    def count(self) -> int:
        """Processes now: warm, starting, leased or ending."""
        return self._count

    def _shelf(self, owner: str) -> Shelf:
        """The owner's; those whose kernels start in the same way have one together."""
        if owner not in self._shelves:
            launch = self._launch(owner)
            shared = [shelf for shelf in self._distinct() if shelf.launch is launch]
            self._shelves[owner] = shared[0] if shared else Shelf(launch)
        return self._shelves[owner]

    def _distinct(self) -> list[Shelf]:
        return list({id(shelf): shelf for shelf in self._shelves.values()}.values())

    async def lease(self, owner: str = "", attach: RemoteKernel | None = None) -> Kernel:
        """A fresh kernel: a warm one, or one started for this call, or one that came free.

        Args:
            owner: whose it will be.
            attach: the kernel, where it is not to be a fresh one; while something runs there,
                this waits for its end.

        Raises:
            PoolExhaustedError: none came free in time.
            KernelStartError: it could not be started.
        """
        shelf = self._shelf(owner)
        shelf.leases.append(time.monotonic())
        asyncio.get_running_loop().call_later(LATELY + 1, self._shrink)
        try:
            async with asyncio.timeout(self._patience):
                while not self._closed:
                    if shelf.warm and attach is None:
                        kernel = shelf.warm.popleft()
                        self._refill()
                        try:
                            alive = await kernel.alive()
                        except BaseException:  # the asker was cancelled
                            self.retire(kernel)
                            raise
                        if alive:
                            return kernel
                        self.retire(kernel)
                    elif self._count < self.most:
                        self._count += 1
                        break
                    else:
                        await self._wait_for_room(owner)
                else:
                    raise PoolExhaustedError("The server is shutting down.")
        except TimeoutError:
            raise PoolExhaustedError(
                f"All {self.most} kernels are busy, and none came free within"
                f" {self._patience:g} s. Wait for a run to end, interrupt one or close a session"
                " (list_sessions shows them), or raise KERNEL_MAX."
            ) from None
        # In a task of its own: a caller that is cancelled can't clear up after a half start,
        # since anyio cancels each await of its clearing up as well.
        starting = self._spawn(self._start(shelf, attach), "start")
        try:
            kernel = await asyncio.shield(starting)
        except asyncio.CancelledError:
            if attach is not None:  # it stays where it is
                starting.add_done_callback(self._not_mine)
                starting.cancel()
            else:
                starting.add_done_callback(self._unwanted)
            raise
        if self._closed:
            self.retire(kernel)
            raise PoolExhaustedError("The server is shutting down.")
        return kernel

    def _unwanted(self, starting: asyncio.Task[Kernel]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self.retire(starting.result())

    def _not_mine(self, starting: asyncio.Task[Kernel]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self.let_go(starting.result())

    def retire(self, kernel: Kernel) -> None:
        """End a kernel in the background; its place is free once the process is gone."""
        if kernel in self._living:
            self._living.remove(kernel)
            if self._promised:
                self._promised -= 1
            else:
                self._coming += 1
            self._spawn(self._end(kernel), "end")

    def let_go(self, kernel: Kernel) -> None:
        """Leave a kernel to its server, for others to go on with."""
        if kernel in self._living:
            self._living.remove(kernel)
            self._spawn(self._release(kernel), "end")

    def expect_room(self) -> None:
        """A kernel will be retired in a moment: nobody else has to make room for its place."""
        self._promised += 1
        self._coming += 1

    def room_may_come(self) -> None:
        """Wake whoever waits: a session has become idle, so `evict` may now find one."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _wait_for_room(self, owner: str) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if len(self._waiting) > self._coming:
            if self.warm:
                self.retire(self._least_wanted().warm.pop())
            else:
                self._evict(owner)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _least_wanted(self) -> Shelf:
        """The shelf with warm kernels that was asked least lately; others now go short."""
        full = [shelf for shelf in self._distinct() if shelf.warm]
        return min(full, key=lambda shelf: shelf.leases[-1] if shelf.leases else 0.0)

    async def _start(self, shelf: Shelf, attach: RemoteKernel | None = None) -> Kernel:
        """Start a kernel, or attach to one, for which a place was counted already."""
        launch = shelf.launch
        if attach is not None:
            launch = replace(launch, attach=attach, start_timeout=ATTACHING)
        kernel = Kernel(launch, self._context)
        try:
            await kernel.start()
        except BaseException:
            self._freed()
            raise
        self._living.add(kernel)
        return kernel

    def _target(self, shelf: Shelf) -> int:
        """How many are to be warm: as many as were asked for lately, and never too few."""
        while shelf.leases and shelf.leases[0] < time.monotonic() - LATELY:
            shelf.leases.popleft()
        return max(self._least, len(shelf.leases)) if self._least else 0

    def _neediest(self) -> Shelf | None:
        """The shelf that lacks most, if one does."""
        lacking = [(self._target(shelf) - len(shelf.warm), shelf) for shelf in self._distinct()]
        number, shelf = max(lacking, key=lambda pair: pair[0], default=(0, None))
        return shelf if number > 0 else None

    def _refill(self) -> None:
        if not self._closed and not self._refilling and self._neediest():
            self._refilling = True
            self._spawn(self._warm_up(), "start")

    async def _warm_up(self) -> None:
        """Start kernels one after the other: those who wait for their own go before."""
        try:
            while (shelf := self._neediest()) and self._has_room(shelf) and not self._closed:
                self._count += 1
                kernel = await self._start(shelf)
                if self._closed:
                    self.retire(kernel)
                else:
                    shelf.warm.append(kernel)
                    self.room_may_come()
        except KernelError as error:
            # No retry from here: the next call starts its own and reports the reason.
            log.error("A kernel could not be started ahead of demand: %s", error)
        finally:
            self._refilling = False

    def _has_room(self, shelf: Shelf) -> bool:
        """Whether one more may be started; asks for room when too few are warm."""
        if self._count < self.most:
            return True
        worth_a_session = min(self._least, self.most // 4)
        if len(shelf.warm) < worth_a_session and not self._making_room:
            self._making_room = self._evict("")
        return False

    def _shrink(self) -> None:
        """End those that nobody is likely to ask for any more."""
        for shelf in self._distinct():
            while not self._closed and len(shelf.warm) > self._target(shelf):
                self.retire(shelf.warm.pop())

    async def _end(self, kernel: Kernel) -> None:
        try:
            await kernel.close()
        finally:
            self._making_room = False
            self._coming -= 1
            self._freed()
            self._refill()

    async def _release(self, kernel: Kernel) -> None:
        try:
            await kernel.release()
        finally:
            self._freed()

    def _freed(self) -> None:
        self._count -= 1
        self.room_may_come()

    def _spawn(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
