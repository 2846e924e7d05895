"""Warm kernels, which are started ahead of demand, and handed out.

Every kernel is handed out once, to a single session, and only to the owner of the sandbox it is
in. Hosts seldom close sessions, so a pool is usually full: idle sessions make room for the next
calls ahead of them. Knows kernels; `room.py` counts them.

Each kernel holds one of the places of a `Room`. The place is taken before its process starts and
given back after it ends, whichever callers are cancelled in the meantime.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

import zmq.asyncio

from ..addresses import PersonsKernel, RemoteKernel
from ..environments import Environment
from ..errors import start_error
from ..kernel import Kernel
from ..process import Launch, launch_in
from ..supervision import Supervisor
from .owner_pools import OwnerPool, OwnerPools, now
from .place import Place
from .renewal import Renewal
from .room import Room, shutting_down

log = logging.getLogger(__name__)

JOIN_TIMEOUT = 15.0  # max seconds for a person's kernel to answer
ATTACH_TIMEOUT = 7 * 86400.0  # max seconds to wait for the running cell when attaching to a kernel
REFILL_DELAY = 0.02  # seconds: most calls are answered by then, and kernels made ahead can wait


class Pool:
    """Starts kernels ahead of demand. Use as `async with Pool(...) as pool`.

    Args:
        launch: returns how an owner's kernels are started.
        warm: min number of kernels kept ready per owner, temporarily more after a burst;
            0 means none.
        most: max number of processes, including warm and starting ones.
        room_timeout: max seconds that a lease waits for a free place.
        evict: called when a place is needed, with the owner who needs it, and whether that is ahead
            of the owner's next call; returns whether it has announced one by `reserve` or `retire`.
        expected: owners whose kernels are warmed from the start and kept warm.
        forget: called when the last kernel of an owner who stays away is given up.

    Attributes:
        owners: the owners' warm kernels.
        tasks: owns the kernels' ends; leaving waits for them.
    """

    def __init__(
        self,
        launch: Callable[[str], Launch],
        warm: int,
        most: int,
        room_timeout: float = 30.0,
        evict: Callable[[str, bool], bool] = lambda _, __: False,
        expected: Iterable[str] = ("",),
        forget: Callable[[Launch], None] = lambda _: None,
    ) -> None:
        self.most = most
        self.owners = OwnerPools(launch, min(warm, most), expected, forget)
        self._spares = most // 4  # max warm kernels that sessions are evicted for
        self._room = Room(self.owners, most, room_timeout, evict)
        self.tasks = Supervisor("kernels")
        self._warming: asyncio.Task[None] | None = None
        self._refilling: asyncio.TimerHandle | None = None
        self._renewal = Renewal(self.owners, self._refill_soon)
        self._context = zmq.asyncio.Context()

    async def __aenter__(self) -> Pool:
        try:
            for owner in self.owners.expected:
                self.owners.of(owner)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._refill()
        self._tidying = self.tasks.watch(self.owners.tidy_up, "giving up warm kernels")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._room.close()
        self._refill()  # cancels its timer
        self._renewal.cancel()
        self._tidying.cancel()
        for place in self.owners.places:
            place.cancel_start()
            place.give_up()
        while self.tasks.tasks:
            await asyncio.wait(self.tasks.tasks)
        self._context.destroy(linger=0)

    @property
    def warm(self) -> int:
        """Number of kernels that are ready."""
        return sum(len(pool.ready) for pool in self.owners)

    @property
    def _all_warm(self) -> int:
        """Number of warm kernels, ready or starting."""
        return sum(len(pool.warm) for pool in self.owners)

    @property
    def waiting(self) -> list[str]:
        """The owners of the calls that wait for a place, in order."""
        return self._room.waiting

    @property
    def leased(self) -> int:
        """Number of kernels that sessions have."""
        return sum(place.is_in_use for place in self.owners.places) - self.warm

    @property
    def count(self) -> int:
        """Number of processes, whether warm, starting, leased or ending."""
        return len(self.owners.places)

    # -- handing out

    async def lease(
        self,
        owner: str = "",
        attach: RemoteKernel | None = None,
        environment: Environment | None = None,
        branch_of: Kernel | None = None,
        join: PersonsKernel | None = None,
    ) -> Kernel:
        """Hand out a fresh kernel: a warm one, or one started as soon as there is a place.

        Args:
            owner: whose kernel it will be.
            attach: an existing kernel to attach to instead; waits until its current run has ended.
            environment: what it runs in; None is the default one.
            branch_of: a kernel of the owner's on which nothing runs, to be forked.
            join: a person's kernel to connect to instead; it is left as it is.

        Raises:
            KernelError: no place came free in time.
            CannotBranch: a kernel can't be forked.
            KernelStartError: the kernel could not be started.
        """
        try:
            owned = self.owners.of(owner)
        except OSError as error:  # from creating the sandbox's folders
            raise start_error(error) from error
        # Else no warm one would have served it.
        if environment is None and branch_of is None and join is None:
            owned.note_request(owner)
        kernel, launch = None, launch_in(owned.launch, environment)
        if branch_of is not None:
            launch = branch_of.branch_launch()
        elif join is not None:
            launch = replace(launch, join=join, start_timeout=JOIN_TIMEOUT)
        elif attach is None:
            kernel = await self._warm_kernel(owned.of(environment))
        if kernel is None:
            if self._room.is_full:
                self.notify()
            await self._room.take(owner)
            kernel = await self._handed_out(self._start(owned, launch, attach))
        if environment is not None:  # its kernels start
            owned.note_use(environment, owner)
            self._refill_soon()
        return kernel

    async def _warm_kernel(self, pool: OwnerPool | None) -> Kernel | None:
        """A warm kernel of a pool that is alive; None if it has none."""
        while pool is not None and pool.warm:
            place = pool.warm.popleft()
            self._refill_soon()
            kernel = await self._handed_out(place)
            if await lives(kernel, place):
                return kernel
        return None

    def retire(self, kernel: Kernel) -> None:
        """End a kernel in the background; its place is released once the process is gone."""
        for place in self._places_of(kernel):
            place.give_up()

    def replace(self, old: Kernel, new: Kernel) -> bool:
        """Let a kernel take the place of another one, which the caller ends.

        Returns whether it has it now: the old one may have been retired before.
        """
        places = self._places_of(old)
        for place in places:
            place.replace(new)
        return bool(places)

    def detach(self, kernel: Kernel) -> None:
        """Disconnect from a kernel on a Jupyter Server, leaving it running for others."""
        for place in self._places_of(kernel):
            place.give_up(leave_running=True)

    def reserve(self, kernel: Kernel, closing: asyncio.Task[None]) -> None:
        """Announce that a kernel will be retired, at the latest when `closing` is done.

        Its place counts as coming free, so no other session is evicted for it.
        """
        for place in self._places_of(kernel):
            place.promised = True
        closing.add_done_callback(lambda _: self.retire(kernel))

    def notify(self) -> None:
        """Retry `evict`, since a session has become idle or a call waits."""
        # Deferred, so that a caller that just got a place no longer counts as waiting.
        asyncio.get_running_loop().call_soon(self._room.make)
        self._refill_soon()

    def _places_of(self, kernel: Kernel) -> list[Place]:
        """The place that a kernel holds; empty if it was taken back before."""
        in_use = [place for place in self.owners.places if place.is_in_use]
        return [place for place in in_use if place.kernel.result() is kernel]

    async def _handed_out(self, place: Place) -> Kernel:
        """Wait for a kernel to start; if the caller is cancelled, the kernel is taken back."""
        try:
            await asyncio.wait({place.kernel})
        except asyncio.CancelledError:
            place.give_up(leave_running=place.attached)
            if place.attached:
                place.cancel_start()
            raise
        if self._room.closed or place.kernel.cancelled():
            raise shutting_down()
        return place.kernel.result()

    def _start(self, owned: OwnerPool, launch: Launch, attach: RemoteKernel | None = None) -> Place:
        """Start a kernel or attach to one; the caller has acquired a place for it."""
        if attach is not None:
            launch = replace(launch, attach=attach, start_timeout=ATTACH_TIMEOUT)
        place = Place(attached=attach is not None)
        self.owners.places[place] = owned
        place.task = self.tasks.start(place.hold(launch, self._context), "ending a kernel")

        def over(_: asyncio.Task[None]) -> None:
            del self.owners.places[place]
            owned.used = now()
            place.kernel.cancel()  # if its start was cancelled
            self._room.give_back()
            if place.has_started:
                self._refill()

        place.task.add_done_callback(over)
        return place

    # -- warm kernels

    def _refill_soon(self) -> None:
        """Refill once the current call has had the processor to itself."""
        if self._refilling is None:
            loop = asyncio.get_running_loop()
            self._refilling = loop.call_later(REFILL_DELAY, self._refill)

    def _refill(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
        warming = self._warming is not None and not self._warming.done()
        if not self._room.closed and not warming and self.owners.neediest():
            self._warming = self.tasks.start(self._warm_up(), "warm-up")

    async def _warm_up(self) -> None:
        """Start warm kernels one at a time, and none while a call waits for one to start."""
        while not self._room.closed and (pool := self.owners.neediest()) and self._has_room(pool):
            if awaited := self.owners.awaited():
                await asyncio.wait(awaited)
                continue
            await self._room.take_free()
            place = self._start(self.owners.of(pool.asker), pool.launch)
            pool.warm.append(place)
            await asyncio.wait({place.kernel})
            if not place.has_started:
                # No retry from here: the next call starts its own and reports the reason.
                if place in pool.warm:  # else a call has taken it and reports the error
                    pool.warm.remove(place)
                    if not place.kernel.cancelled():
                        why = place.kernel.exception()
                        log.error("A kernel could not be started ahead of demand: %s", why)
                return
            self.notify()
            self._renewal.look_later()

    def _has_room(self, pool: OwnerPool) -> bool:
        """Whether a warm kernel may be started; if the pool is full, evicts sessions for spares."""
        if not self._room.is_full:
            return True
        wanted = min(pool.target - len(pool.warm), self._spares - self._all_warm)
        self._room.make_ahead(pool.asker, wanted)
        return False


async def lives(kernel: Kernel, place: Place) -> bool:
    """Whether a warm kernel is still alive; gives it up if not, or if the caller is cancelled."""
    alive = False
    try:
        alive = await kernel.alive()
    except OSError as error:
        log.warning("A warm kernel was replaced, since it could not be checked: %s", error)
    finally:
        if not alive:
            place.give_up()
    return alive
