"""How many warm kernels each owner has and should have, by how many were requested lately.

Knows places and times; starts no kernels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..environments import Environment
from ..kernel import Kernel
from ..process import Launch, launch_in
from .place import Place

DEMAND_WINDOW = 60.0  # seconds; the demand in this period is expected to recur
ABSENCE_TIMEOUT = 600.0  # seconds after which an owner without sessions loses its warm kernels


@dataclass(eq=False)
class OwnerPool:
    """One owner's kernels in one environment.

    Attributes:
        launch: how they are started.
        least: min number of warm ones; 0 means that none is kept warm.
        used: when a kernel was last requested or returned, by the loop's clock.
        asker: the owner who requested one last, since owners may share a pool.
        warm: the places of those that are ready, or starting, and not handed out yet.
        leases: times of recent requests.
        environment: what they run in; None is the default one.
        other: the pool of the environment beside the default one that was used last.
    """

    launch: Launch
    least: int
    used: float
    asker: str
    warm: deque[Place] = field(default_factory=deque)
    leases: deque[float] = field(default_factory=deque)
    environment: Environment | None = None
    other: OwnerPool | None = None

    @property
    def ready(self) -> list[Place]:
        """The places of warm kernels that have started."""
        return [place for place in self.warm if place.is_in_use]

    @property
    def target(self) -> int:
        """How many should be warm: as many as recently requested, and at least `least`.

        In another environment than the default one it is one kernel, for a while.
        """
        if self.environment is not None:
            return min(self.least, 1) if now() < self.used + ABSENCE_TIMEOUT else 0
        while self.leases and self.leases[0] < now() - DEMAND_WINDOW:
            self.leases.popleft()
        return max(self.least, len(self.leases)) if self.least else 0

    def note_request(self, owner: str) -> None:
        """Count a request for one of these kernels."""
        self.used, self.asker = now(), owner
        self.leases.append(self.used)

    def give_up(self, place: Place) -> None:
        """End one of the warm kernels."""
        self.warm.remove(place)
        place.give_up()

    def give_up_last(self) -> None:
        """End the warm kernel that started last."""
        self.give_up(self.ready[-1])

    def of(self, environment: Environment | None) -> OwnerPool | None:
        """The pool of an environment; None if it has none."""
        if environment is None:
            return self
        return self.other if self.other and self.other.environment == environment else None

    def note_use(self, environment: Environment, owner: str) -> None:
        """Keep a kernel of an environment warm from now on, instead of one of another."""
        pool = self.of(environment)
        if pool is None:
            self.give_up_other()
            launch = launch_in(self.launch, environment)
            pool = OwnerPool(launch, self.least, 0.0, owner, environment=environment)
            self.other = pool
        for each in (self, pool):
            each.used, each.asker = now(), owner

    def give_up_other(self) -> None:
        """End the warm kernel of another environment, even if it is still starting."""
        other, self.other = self.other, None
        for place in other.warm if other else ():
            place.give_up()


class OwnerPools:
    """The pools of all owners; owners with the same launch share one.

    Args:
        launch: returns how an owner's kernels are started.
        least: min number of warm kernels per owner; 0 means none.
        expected: owners whose pools are never dropped.
        forget: called with the launch of a pool that was dropped.

    Attributes:
        by_owner: the pool of each owner.
        places: the places of all kernels, each with its owner's pool, whatever its environment.
    """

    def __init__(
        self,
        launch: Callable[[str], Launch],
        least: int,
        expected: Iterable[str],
        forget: Callable[[Launch], None],
    ) -> None:
        self.by_owner: dict[str, OwnerPool] = {}
        self.places: dict[Place, OwnerPool] = {}
        self.expected = tuple(expected)
        self._launch, self._least, self._forget = launch, least, forget

    def __iter__(self) -> Iterator[OwnerPool]:
        for pool in {id(pool): pool for pool in self.by_owner.values()}.values():
            yield pool
            if pool.other is not None:
                yield pool.other

    def of(self, owner: str) -> OwnerPool:
        """The pool of an owner."""
        if owner not in self.by_owner:
            launch = self._launch(owner)
            shared = [pool for pool in self if pool.launch is launch]
            fresh = OwnerPool(launch, self._least, now(), owner)
            self.by_owner[owner] = shared[0] if shared else fresh
        return self.by_owner[owner]

    def neediest(self) -> OwnerPool | None:
        """The pool with the most warm kernels missing; None if none are missing."""
        lacking = [(pool.target - len(pool.warm), pool) for pool in self]
        number, pool = max(lacking, key=lambda pair: pair[0], default=(0, None))
        return pool if number > 0 else None

    def least_wanted(self) -> OwnerPool | None:
        """Of the pools with ready kernels, the one not asked for the longest time."""
        ready = [pool for pool in self if pool.ready]
        return min(ready, key=lambda pool: pool.leases[-1] if pool.leases else 0, default=None)

    def awaited(self) -> list[asyncio.Future[Kernel]]:
        """The kernels that are starting for calls."""
        ahead = {place for pool in self for place in pool.warm}
        return [each.kernel for each in self.places if each not in ahead and not each.kernel.done()]

    async def tidy_up(self) -> None:
        """End warm kernels that are not likely to be requested; drop pools of absent owners."""
        while True:
            await asyncio.sleep(DEMAND_WINDOW + 1)
            for pool in self:
                while len(pool.ready) > pool.target:
                    pool.give_up_last()
            absent = [owner for owner, pool in self.by_owner.items() if self._is_absent(pool)]
            for owner in set(absent) - set(self.expected):
                pool = self.by_owner.pop(owner)
                if pool not in self.by_owner.values():
                    pool.give_up_other()
                    while pool.ready:
                        pool.give_up_last()
                    self._forget(pool.launch)

    def _is_absent(self, pool: OwnerPool) -> bool:
        """Whether its owners have had no kernel and no request for `ABSENCE_TIMEOUT` seconds."""
        ready = len(pool.ready) + (len(pool.other.ready) if pool.other else 0)
        others = sum(owner is pool for owner in self.places.values()) - ready
        return not others and now() >= pool.used + ABSENCE_TIMEOUT


def now() -> float:
    """The time by the loop's clock, in seconds."""
    return asyncio.get_running_loop().time()
