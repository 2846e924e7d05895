"""Warm kernels, and a bound on how many there are.

Every kernel is handed out once and never to a second session, and only to the owner whose
sandbox it is in. Knows kernels and counts; `evict` decides which session must make room.

Each process has one of `most` places: a semaphore's, taken before its start and given back
after its end, whichever caller is cancelled meanwhile.
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
from ..errors import KernelError, PoolExhaustedError, start_error
from ..kernel import Kernel
from ..process import Launch
from ..supervision import Supervisor

log = logging.getLogger(__name__)

Starting = asyncio.Task[Kernel]

ATTACHING = 7 * 86400.0  # seconds that what runs on a kernel may go on, to which one attaches
LATELY = 60.0  # seconds; the demand in these is expected again
ABSENT = 600.0  # seconds after which an owner without sessions has no warm kernels any more


@dataclass(eq=False)
class OwnerPool:
    """One owner's warm kernels.

    Attributes:
        launch: how each is started.
        warm: those that are ready or will be in a moment.
        leases: when kernels were asked for, lately, by the loop's clock.
        used: when one was asked for or came back last.
        askers: calls that wait for a kernel now.
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
        """While somebody asks for one of these kernels."""
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
        launch: how an owner's kernels are started.
        warm: kernels kept ready for an owner at least; after a burst it is more for a while.
            0 is none.
        most: processes at the same time, warm and starting ones included.
        patience: seconds that a lease waits for a kernel to come free.
        evict: asked for room when there is none, with who needs it ("" is the pool itself);
            returns whether some is on its way, which it has said by `reserve` or `retire`.
        expected: owners for whom kernels are warm from the beginning, and stay so.
        forget: called when no kernel is left of owners who have been absent for long.
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
        self._waiting: list[str] = []  # owners who wait for a place, in order
        self._starting: set[Starting] = set()
        self._living: dict[Kernel, OwnerPool] = {}  # started, and not yet retired
        self._promised: set[Kernel] = set()  # of them: those about to be retired
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
        self._places.release()  # callers that wait learn that it is closed, one by one
        for starting in self._starting:
            starting.cancel()
        while self._tasks.tasks:
            for kernel in list(self._living):
                self.retire(kernel)
            await asyncio.wait(self._tasks.tasks)
        self._context.destroy(linger=0)

    @property
    def warm(self) -> int:
        """Kernels that are ready now."""
        return sum(len(shelf.ready) for shelf in self._distinct())

    @property
    def leased(self) -> int:
        """Kernels that sessions have now."""
        return len(self._living) - self.warm

    @property
    def count(self) -> int:
        """Processes now: warm, starting, leased or ending."""
        starting = sum(not starting.done() for starting in self._starting)
        return starting + len(self._living) + len(self._ending)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place now."""
        return len(self._waiting)

    # -- handing out

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
        try:
            shelf = self._shelf(owner)
        except OSError as error:  # of its sandbox's folders
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
        """End a kernel in the background; its place is free once the process is gone."""
        self._take_back(kernel, graceful=True)

    def detach(self, kernel: Kernel) -> None:
        """Leave a kernel to its server, for others to go on with."""
        self._take_back(kernel, graceful=False)

    def reserve(self, kernel: Kernel, closing: asyncio.Task[None]) -> None:
        """A kernel will be retired, once `closing` is done at the latest.

        Nobody else has to make room for its place meanwhile.
        """
        if kernel in self._living:
            self._promised.add(kernel)
        closing.add_done_callback(lambda _: self.retire(kernel))

    def notify(self) -> None:
        """A session has become idle, so `evict` may now find one for a caller that waits."""
        # Not at once: the caller that has just got a place is to be waiting no more by then.
        asyncio.get_running_loop().call_soon(self._make_room)

    async def _handed_out(self, starting: Starting, attached: bool = False) -> Kernel:
        """The kernel that a start gives; it is taken back from a caller who is cancelled."""
        take_back = self.detach if attached else self.retire

        def unwanted(_: Starting) -> None:
            if has_started(starting):
                take_back(starting.result())

        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError:
            # Elsewhere: anyio cancels each await of a cancelled caller's clearing up as well.
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
        """Whether a kernel that was warm has not died since."""
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
            raise PoolExhaustedError(
                f"All {self.most} kernels are busy, and none came free within {self._patience:g} s."
                " Wait for a run to end, interrupt one or close a session (list_sessions shows"
                " them), or raise RMI_AGENT_KERNEL_MAX."
            ) from None
        finally:
            self._waiting.remove(owner)
        if self._closed:
            self._places.release()  # to the next who waits
            raise closed()

    def _make_room(self) -> None:
        """See to it that a place is about to come free for each who waits, if that can be."""
        while len(self._waiting) > (coming := self._coming):
            if shelf := self._least_wanted():
                self._give_up_warm(shelf)
            elif not self._evict(self._waiting[coming]):
                return
            if self._coming == coming:
                return

    @property
    def _coming(self) -> int:
        """Places that will be free in a moment."""
        return len(self._promised) + len(self._ending)

    def _start(self, shelf: OwnerPool, attach: RemoteKernel | None = None) -> Starting:
        """Start a kernel, or attach to one, for which a place was taken already."""
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
        except Exception as error:  # the system's: no descriptors, no space, no threads
            log.exception("A kernel could not be started")
            raise start_error(error) from error
        self._living[kernel] = shelf
        return kernel

    def _take_back(self, kernel: Kernel, graceful: bool) -> None:
        shelf = self._living.pop(kernel, None)
        if shelf is None:  # it was before
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
        """The owner's; those whose kernels start in the same way have one together."""
        if owner not in self._shelves:
            launch = self._launch(owner)
            shared = [shelf for shelf in self._distinct() if shelf.launch is launch]
            self._shelves[owner] = shared[0] if shared else OwnerPool(launch, self._now())
        return self._shelves[owner]

    def _distinct(self) -> list[OwnerPool]:
        return list({id(shelf): shelf for shelf in self._shelves.values()}.values())

    def _least_wanted(self) -> OwnerPool | None:
        """The shelf with warm kernels that was asked least lately; others now go short."""
        ready = [shelf for shelf in self._distinct() if shelf.ready]
        return min(ready, key=lambda shelf: shelf.leases[-1] if shelf.leases else 0, default=None)

    def _give_up_warm(self, shelf: OwnerPool) -> None:
        starting = shelf.ready[-1]
        shelf.warm.remove(starting)
        self.retire(starting.result())

    def _target(self, shelf: OwnerPool) -> int:
        """How many are to be warm: as many as were asked for lately, and never too few."""
        while shelf.leases and shelf.leases[0] < self._now() - LATELY:
            shelf.leases.popleft()
        return max(self._least, len(shelf.leases)) if self._least else 0

    def _neediest(self) -> OwnerPool | None:
        """The shelf that lacks most, if one does."""
        lacking = [(self._target(shelf) - len(shelf.warm), shelf) for shelf in self._distinct()]
        number, shelf = max(lacking, key=lambda pair: pair[0], default=(0, None))
        return shelf if number > 0 else None

    def _refill(self) -> None:
        warming = self._warming is not None and not self._warming.done()
        if not self._closed and not warming and self._neediest():
            self._warming = self._tasks.start(self._warm_up(), "warm-up")

    async def _warm_up(self) -> None:
        """Start kernels one after the other: those who wait for their own go before."""
        while not self._closed and (shelf := self._neediest()) and self._has_room(shelf):
            await self._places.acquire()  # there is one, so this does not wait
            starting = self._start(shelf)
            shelf.warm.append(starting)
            await asyncio.wait({starting})
            if not has_started(starting):
                # No retry from here: the next call starts its own and reports the reason.
                if starting in shelf.warm and not starting.cancelled():
                    why = starting.exception()
                    log.error("A kernel could not be started ahead of demand: %s", why)
                with contextlib.suppress(ValueError):  # a call has taken it, and reports
                    shelf.warm.remove(starting)
                return
            self.notify()

    def _has_room(self, shelf: OwnerPool) -> bool:
        """Whether one more may be started; asks for room when too few are warm."""
        if not self._places.locked():
            return True
        worth_a_session = min(self._least, self.most // 4)
        if len(shelf.warm) < worth_a_session and not self._coming:
            self._evict("")
        return False

    async def _tidy_up(self) -> None:
        """End those that nobody is likely to ask for any more."""
        while True:
            await asyncio.sleep(LATELY + 1)
            for shelf in self._distinct():
                while len(shelf.ready) > self._target(shelf):
                    self._give_up_warm(shelf)
            self._forget_absent()

    def _forget_absent(self) -> None:
        """Keep nothing for owners who have no session and have not asked for long."""
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
    """Whether a start has given a kernel."""
    return starting.done() and not starting.cancelled() and starting.exception() is None


def closed() -> PoolExhaustedError:
    """What a caller that waited for a kernel in vain reads."""
    return PoolExhaustedError("The server is shutting down.")
