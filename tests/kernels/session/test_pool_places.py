"""The pool's places under every order of events, with kernels that have no process.

The loop is stepped by hand: events fall between a wake-up and what it wakes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rmi_agent.kernels import KernelError, KernelStartError, Launch, Pool
from rmi_agent.kernels.session import place as place_module

MOST = 4  # so that one session makes room for a warm kernel
OWNERS = st.sampled_from("abc")
ANY = st.integers(0, 1000)


class Fake:
    """A kernel that starts, ends and dies when the test says so."""

    all: list[Fake]  # of this run
    outdated: bool | None = None

    def __init__(self, launch: Launch, _: object) -> None:
        self.launch = launch
        self.dead = self.gone = False
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ending: asyncio.Future[None] | None = None
        Fake.all.append(self)

    async def start(self) -> None:
        try:
            await self.began
        except BaseException:
            self.gone = True
            raise

    async def close(self, *, graceful: bool = True) -> None:
        self.ending = asyncio.get_running_loop().create_future()
        try:
            await self.ending
        finally:
            self.gone = True

    release = close

    async def alive(self) -> bool:
        await asyncio.sleep(0)
        return not self.dead


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time goes on when the test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def steps(self, number: int = 1) -> None:
        for _ in range(number):
            self.call_soon(self.stop)
            self.run_forever()


class Places(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        Fake.all = []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(place_module, "Kernel", Fake)
        self.loop = Clock()
        self.leases: list[asyncio.Task[Any]] = []
        self.idle: list[Any] = []  # kernels of sessions that may be evicted
        self.busy: list[Any] = []
        self.promises: list[tuple[Any, asyncio.Task[None]]] = []
        self.forgotten: list[Launch] = []
        self.pool = self.loop.run_until_complete(self.opened())

    async def opened(self) -> Pool:
        def launch(owner: str) -> Launch:
            return Launch(Path(owner), Path("/"))

        return await Pool(launch, 1, MOST, 50, self.evict, "a", self.forgotten.append).__aenter__()

    def evict(self, _: str, ahead: bool) -> bool:
        """Close an idle session: its kernel is retired a moment later."""
        if not self.idle:
            return False
        kernel = self.idle.pop()

        async def close() -> None:
            await asyncio.sleep(5)

        closing = asyncio.create_task(close())
        self.promises.append((kernel, closing))
        self.pool.reserve(kernel, closing)
        return True

    def take_in(self) -> None:
        for lease in [lease for lease in self.leases if lease.done()]:
            self.leases.remove(lease)
            if not lease.cancelled() and lease.exception() is None:
                self.busy.append(lease.result())
            elif not lease.cancelled():
                assert isinstance(lease.exception(), KernelError), lease.exception()

    # -- what may happen

    @rule(owner=OWNERS)
    def lease(self, owner: str) -> None:
        async def lease() -> Any:
            return await self.pool.lease(owner)

        self.leases.append(self.loop.create_task(lease()))

    @precondition(lambda self: self.leases)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        self.leases[which % len(self.leases)].cancel()

    @rule(which=ANY, how=st.sampled_from(["fine", "fine", "fine", "kernel", "system"]))
    def start_ends(self, which: int, how: str) -> None:
        starting = [kernel for kernel in Fake.all if not kernel.began.done()]
        if starting:
            began = starting[which % len(starting)].began
            if how == "fine":
                began.set_result(None)
            else:
                error = KernelStartError("no") if how == "kernel" else OSError(24, "too many")
                began.set_exception(error)

    @rule(which=ANY, fails=st.booleans())
    def end_ends(self, which: int, fails: bool) -> None:
        ending = [k.ending for k in Fake.all if k.ending is not None and not k.ending.done()]
        if ending:
            end = ending[which % len(ending)]
            end.set_exception(OSError("no")) if fails else end.set_result(None)

    @precondition(lambda self: self.busy)
    @rule(which=ANY)
    def become_idle(self, which: int) -> None:
        self.idle.append(self.busy.pop(which % len(self.busy)))
        self.loop.call_soon(self.pool.notify)

    @precondition(lambda self: self.busy)
    @rule(which=ANY, way=st.sampled_from(["retire", "detach"]))
    def give_back(self, which: int, way: str) -> None:
        kernel = self.busy.pop(which % len(self.busy))
        self.loop.call_soon(getattr(self.pool, way), kernel)

    @rule(which=ANY)
    def die(self, which: int) -> None:
        if Fake.all:
            Fake.all[which % len(Fake.all)].dead = True

    @rule(seconds=st.sampled_from([0.5, 6.0, 70.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds

    @rule(number=st.integers(1, 4))
    def step(self, number: int) -> None:
        self.loop.steps(number)
        self.take_in()

    @rule()
    def all_starts_end(self) -> None:
        for kernel in Fake.all:
            if not kernel.began.done():
                kernel.began.set_result(None)
        self.nobody_waits_in_vain()

    # -- what must hold

    @invariant()
    def the_bound_holds(self) -> None:
        assert sum(not kernel.gone for kernel in Fake.all) <= MOST
        assert self.pool.count <= MOST

    @rule()
    def nobody_waits_in_vain(self) -> None:
        self.loop.steps(60)
        self.take_in()
        assert self.pool.count == sum(not kernel.gone for kernel in Fake.all)
        closing = sum(not closing.done() for _, closing in self.promises)
        assert self.pool.leased == len(self.busy) + len(self.idle) + closing
        if self.pool.waiting:
            assert self.pool.count == MOST
            coming = sum(kernel.ending is not None and not kernel.gone for kernel in Fake.all)
            if coming + closing < len(self.pool.waiting):
                assert not self.pool.warm
                assert not self.idle

    def teardown(self) -> None:
        closing = self.loop.create_task(self.pool.__aexit__())
        for _ in range(2000):
            self.loop.steps()
            for kernel in Fake.all:
                if kernel.ending is not None and not kernel.ending.done():
                    kernel.ending.set_result(None)
            if closing.done():
                break
        closing.result()
        self.loop.steps(20)
        self.take_in()
        assert not self.leases
        assert all(kernel.gone for kernel in Fake.all)
        assert self.pool.count == 0
        for _, session in self.promises:
            session.cancel()
        self.loop.steps(5)
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()
        self.patch.undo()


TestPlaces = pytest.mark.slow(Places.TestCase)
TestPlaces.settings = settings(
    max_examples=80,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
