"""Warm kernels, the bound on their number, and making room."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import (
    Config,
    Kernel,
    KernelError,
    KernelStartError,
    Launch,
    Pool,
    SessionNotFoundError,
    Sessions,
)
from rmi_agent.kernels.protocol import Outputs
from rmi_agent.kernels.session.introspection import looked_into

from tests.conftest import cell, kernel_env, launch, policy, value
from tests.kernels.fork.plain import is_forked
from tests.processes import has_ended

pytestmark = pytest.mark.anyio


class StandIn(Kernel):
    """A kernel without a process, for the counting alone."""

    starts = 0
    ends = 0
    fails = False

    async def start(self) -> None:
        await asyncio.sleep(0)
        if StandIn.fails:
            raise KernelStartError("no")
        StandIn.starts += 1

    async def close(self, *, graceful: bool = True) -> None:
        await asyncio.sleep(0)
        StandIn.ends += 1

    async def alive(self) -> bool:
        return True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr("rmi_agent.kernels.session.place.Kernel", StandIn)
    StandIn.starts = StandIn.ends = 0
    StandIn.fails = False
    return StandIn


def pool(tmp_path: Path, warm: int, most: int, room_timeout: float = 5, **more: object) -> Pool:
    return Pool(lambda _: launch(tmp_path), warm, most, room_timeout, **more)  # type: ignore[arg-type]


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_kernels_are_ready_before_the_first_call_and_refilled_after(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with pool(tmp_path, 2, 8) as warm:
        await until(lambda: warm.warm == 2)
        first, second = await warm.lease(), await warm.lease()
        assert first is not second
        await until(lambda: warm.warm == 2)
        assert stand_in.starts == 4
    assert stand_in.ends == 4


async def test_a_warm_kernel_is_replaced_once_a_fresh_one_would_have_more_modules(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.renewal.INTERVAL", 0.001)
    early: dict[Kernel, bool] = {}
    monkeypatch.setattr(StandIn, "outdated", property(early.get))
    async with pool(tmp_path, 2, 8) as warm:
        (owners_pool,) = warm.owners
        await until(lambda: warm.warm == 2)
        before = [place.kernel.result() for place in owners_pool.ready]
        early.update(dict.fromkeys(before, False))
        assert await warm.lease() is before[0]  # whose template still imports
        await until(lambda: warm.warm == 2)
        early.update(dict.fromkeys(before, True))
        await until(lambda: before[1] not in [p.kernel.result() for p in owners_pool.ready])
        await until(lambda: warm.warm == 2)
        assert (stand_in.starts, stand_in.ends) == (4, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork")
async def test_kernels_that_waited_for_no_import_are_replaced_by_those_that_have_all(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)")
    env = {**kernel_env(), "PYTHONPATH": str(tmp_path)}
    made = replace(launch(tmp_path), env=env, preload=("json", "slow_to_import"))
    async with Pool(lambda _: made, 1, 4) as warm:
        await until(lambda: warm.warm == 1)
        (owners_pool,) = warm.owners
        first = owners_pool.ready[0].kernel.result()
        assert first.outdated is False
        await until(
            lambda: warm.warm == 1 and owners_pool.ready[0].kernel.result().outdated is None
        )
        kernel = await warm.lease()
        assert kernel is not first
        outputs = Outputs(new_code_cell())
        await kernel.run_cell("import sys\nprint('slow_to_import' in sys.modules)", outputs, 30)
        assert outputs.settle().outputs[0].text.endswith("True\n")


async def test_a_call_is_served_before_the_kernel_that_replaces_its_own_is_started(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.pool.REFILL_DELAY", 5)
    async with pool(tmp_path, 1, 8) as warm:
        await until(lambda: warm.warm == 1)
        await turns(20)  # what has started it is over
        await warm.lease()
        await turns(20)
        assert stand_in.starts == 1
        await warm.lease()  # nobody waits for the delay
        assert stand_in.starts == 2


async def test_no_kernel_is_started_ahead_while_calls_wait_for_theirs(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.pool.REFILL_DELAY", 0)
    goes_on, order = asyncio.Event(), []

    async def start(self: StandIn) -> None:
        order.append(asyncio.current_task())
        await goes_on.wait()
        StandIn.starts += 1

    async with pool(tmp_path, 1, 20) as warm:
        await until(lambda: warm.warm == 1)
        monkeypatch.setattr(StandIn, "start", start)
        calls = asyncio.gather(*(warm.lease() for _ in range(5)))
        await asyncio.sleep(0.05)
        assert len(order) == 4
        goes_on.set()
        await calls
        await until(lambda: warm.warm == 5)


async def test_the_bound_counts_warm_kernels_too(tmp_path: Path, stand_in: type[StandIn]) -> None:
    async with pool(tmp_path, 5, 3, room_timeout=0.1) as full:
        await until(lambda: full.warm == 3)
        for _ in range(3):
            await full.lease()
        with pytest.raises(KernelError, match="All 3 kernels are busy"):
            await full.lease()
        assert stand_in.starts == 3


@pytest.mark.slow
async def test_after_a_burst_as_many_are_warm_as_were_asked_for(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.owner_pools.DEMAND_WINDOW", 0.5)
    async with pool(tmp_path, 1, 20) as adapting:
        for _ in range(5):
            await adapting.lease()
        await until(lambda: adapting.warm == 5)
        await until(lambda: adapting.warm == 1)
        await until(lambda: stand_in.ends == 4)


async def test_a_pool_that_is_to_have_no_warm_kernels_has_none(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with pool(tmp_path, 0, 20) as cold:
        for _ in range(5):
            await cold.lease()
        await asyncio.sleep(0.05)
        assert cold.warm == 0
        assert stand_in.starts == 5


async def test_room_for_a_warm_kernel_is_made_before_it_is_asked_for(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    leased: list[Kernel] = []

    def evict(_: str, ahead: bool) -> bool:
        if leased:
            full.retire(leased.pop(0))
            return True
        return False

    async with pool(tmp_path, 1, 4, evict=evict) as full:
        for _ in range(4):
            leased.append(await full.lease())
        await until(lambda: full.warm == 1)
        assert len(leased) == 3
        assert stand_in.starts - stand_in.ends <= 4


async def test_a_full_pool_makes_room_for_as_many_as_were_asked_for_lately_up_to_a_quarter(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    leased: list[Kernel] = []

    def evict(asker: str, ahead: bool) -> bool:
        assert asker == "a"
        if leased:
            full.retire(leased.pop(0))
        return bool(leased)

    async with pool(tmp_path, 1, 16, evict=evict) as full:
        for count in range(1, 40):
            leased.append(await full.lease("a"))
            assert full.count <= 16, count
        await until(lambda: full.warm == 4)
        await asyncio.sleep(0.05)
        assert (full.warm, len(leased)) == (4, 12)


async def test_no_session_ends_for_a_warm_kernel_of_somebody_who_has_more(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=1, most=8, expected=("alice",)
    ) as opened:
        others = [await opened.open("bob"), await opened.open("carol")]
        async with contextlib.AsyncExitStack() as busy:
            for _ in range(6):
                session = await opened.open("alice")
                await busy.enter_async_context(session.runs.turn)
            await asyncio.sleep(0.05)
            assert opened.all("bob") + opened.all("carol") == others
            assert opened.pool.warm == 0
        opened.pool.notify()  # as a session does that becomes idle
        await until(lambda: opened.pool.warm == 2)
        assert opened.all("bob") + opened.all("carol") == others
        assert len(opened.all("alice")) == 4


async def test_in_a_small_pool_no_session_ends_for_a_warm_kernel(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    def evict(_: str, ahead: bool) -> bool:
        raise AssertionError("nobody has asked for room")

    async with pool(tmp_path, 2, 2, evict=evict) as small:
        await small.lease()
        await small.lease()
        await asyncio.sleep(0.05)
        assert small.warm == 0


async def test_a_waiting_call_gets_the_kernel_that_comes_free(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with pool(tmp_path, 0, 1) as single:
        first = await single.lease()
        waiting = asyncio.create_task(single.lease())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        single.retire(first)
        assert await waiting is not first


async def test_a_start_that_fails_gives_its_place_back(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    stand_in.fails = True
    async with pool(tmp_path, 1, 1) as broken:
        for _ in range(3):
            with pytest.raises(KernelStartError):
                await broken.lease()
        stand_in.fails = False
        assert await broken.lease()


async def test_a_caller_that_gives_up_waiting_takes_no_place(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with pool(tmp_path, 0, 1) as single:
        first = await single.lease()
        waiting = asyncio.create_task(single.lease())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        single.retire(first)
        assert await single.lease()


async def test_a_woken_caller_that_is_cancelled_passes_its_place_on(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    async with pool(tmp_path, 0, 1) as single:
        first = await single.lease()
        woken = asyncio.create_task(single.lease())
        behind = asyncio.create_task(single.lease())
        await asyncio.sleep(0.01)
        single.retire(first)
        while single.count:
            await asyncio.sleep(0)
        woken.cancel()
        async with asyncio.timeout(2):  # of the 5 that it would wait
            assert await behind


async def test_no_session_is_evicted_for_a_caller_who_has_just_got_a_place(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    evicted: list[str] = []

    def evict(asker: str, ahead: bool) -> bool:
        evicted.append(asker)
        return False

    async with pool(tmp_path, 0, 1, evict=evict) as single:
        first = await single.lease()
        waiting = asyncio.create_task(single.lease("a"))
        await until(lambda: evicted == ["a"])
        single.retire(first)
        while single.count:
            await asyncio.sleep(0)
        single.notify()
        await waiting
        assert evicted == ["a"]


@pytest.mark.slow
async def test_an_owner_who_stays_away_keeps_no_warm_kernel_and_no_entry(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.owner_pools.DEMAND_WINDOW", 0.05)
    monkeypatch.setattr("rmi_agent.kernels.session.owner_pools.ABSENCE_TIMEOUT", 0.1)
    forgotten: list[Launch] = []
    async with pool(tmp_path, 1, 20, forget=forgotten.append) as adapting:
        kept = await adapting.lease("stays")
        adapting.retire(await adapting.lease("leaves"))
        await until(lambda: adapting.warm == 3)
        await until(lambda: adapting.warm == 2)
        assert len(forgotten) == 1
        adapting.retire(kept)
        await until(lambda: adapting.warm == 1)
        assert len(forgotten) == 2


async def test_what_the_system_refuses_a_kernel_is_said_with_a_next_step(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(_: StandIn) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(StandIn, "start", start)
    async with pool(tmp_path, 0, 1) as full:
        for _ in range(2):  # the first gave its place back
            with pytest.raises(KernelStartError, match=r"Too many open files.*ulimit -n"):
                await full.lease()


async def test_an_unknown_kernel_is_named(tmp_path: Path) -> None:
    unknown = Launch(cwd=tmp_path, runtime=tmp_path, kernel_name="cobol", env=kernel_env())
    with pytest.raises(KernelStartError, match="no kernel named 'cobol'"):
        async with Kernel(unknown):
            pass


async def test_a_kernel_that_dies_at_its_start_leaves_its_last_words(tmp_path: Path) -> None:
    env = {**kernel_env(), "PYTHONPATH": str(tmp_path)}
    (tmp_path / "ipykernel.py").write_text("raise SystemExit('broken on purpose')")
    started = time.monotonic()
    with pytest.raises(KernelStartError, match="broken on purpose"):
        async with Kernel(Launch(cwd=tmp_path, runtime=tmp_path, env=env)):
            pass
    assert time.monotonic() - started < 10


def kernels() -> list[psutil.Process]:
    """The kernel processes of this one; the reaper is none, and neither is a template."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ipykernel_launcher" in process.cmdline() or is_forked(process):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("calls", [12, pytest.param(50, marks=pytest.mark.slow)])
async def test_many_first_calls_at_once_all_get_an_answer_within_the_bound(
    tmp_path: Path, calls: int
) -> None:
    most = 4
    seen = 0

    async def one(number: int) -> str:
        nonlocal seen
        session = await opened.open()
        run = await cell(session, f"{number} + 1")
        seen = max(seen, len(kernels()))
        return value(run)

    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=2, most=most, room_timeout=60
    ) as opened:
        answers = await asyncio.gather(*(one(number) for number in range(calls)))
    assert answers == [str(number + 1) for number in range(calls)]
    assert 1 <= seen <= most


@pytest.mark.slow
async def test_busy_sessions_are_never_evicted(tmp_path: Path) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=1, room_timeout=0.5
    ) as opened:
        session = await opened.open()
        running = session.submit_cell("import time; time.sleep(2); 'done'")
        with pytest.raises(KernelError, match="RMI_AGENT_KERNEL_MAX"):
            await opened.open()
        assert value(await running.task) == "'done'"


async def test_the_idle_session_that_is_missed_least_makes_room(tmp_path: Path) -> None:
    from tests.kernels.session.test_session import script

    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=3, room_timeout=20
    ) as opened:
        oldest, file_run, newest = [await opened.open() for _ in range(3)]
        await cell(oldest, "1")
        await file_run.submit_program(script(tmp_path, "print(1)")).task
        await cell(newest, "1")
        await opened.open()
        with pytest.raises(SessionNotFoundError, match="RMI_AGENT_KERNEL_MAX"):
            opened.get(file_run.id)
        await opened.open()
        with pytest.raises(SessionNotFoundError, match="has ended"):
            opened.get(oldest.id)
        assert opened.get(newest.id) is newest


@pytest.mark.slow
async def test_an_idle_session_is_closed_and_its_notebook_stays(tmp_path: Path) -> None:
    async with Sessions(Config(tmp_path / "n", idle=0.4), launch(tmp_path), warm=1) as opened:
        session = await opened.open()
        await cell(session, "import time; time.sleep(0.8)")  # busy is not idle
        assert opened.get(session.id) is session
        await until(lambda: session.closed)
        with pytest.raises(SessionNotFoundError, match="RMI_AGENT_SESSION_IDLE") as error:
            opened.get(session.id)
        assert str(session.recorder.path) in str(error.value)


async def test_a_session_belongs_to_its_principal(sessions: Sessions) -> None:
    session = await sessions.open("alice")
    assert session.id not in [s.id for s in sessions.all("bob")]
    with pytest.raises(SessionNotFoundError, match="There is no session"):
        sessions.get(session.id, "bob")
    await sessions.close(session)
    with pytest.raises(SessionNotFoundError, match="There is no session"):
        sessions.get(session.id, "bob")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")
async def test_closing_leaves_no_process_not_even_one_that_ran_away(tmp_path: Path) -> None:
    async with Sessions(Config(tmp_path / "n"), launch(tmp_path), warm=1) as opened:
        session = await opened.open()
        run = await cell(
            session,
            "import subprocess\n"
            "p = subprocess.Popen(['sleep', '600'], start_new_session=True)\np.pid",
        )
        runaway = psutil.Process(int(value(run)))
    assert has_ended(runaway)


async def until_left(opened: Sessions, folder: Path) -> None:
    """Wait until none is there or starts that works in the folder; others' pools are refilled."""
    async with asyncio.timeout(30):
        while opened.pool.count or any(works_in(each, folder) for each in kernels()):
            await asyncio.sleep(0.05)


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except psutil.Error:
        return False


@pytest.mark.slow
async def test_a_session_closed_while_it_restarts_leaves_no_kernel(tmp_path: Path) -> None:
    async with Sessions(Config(tmp_path / "n"), launch(tmp_path), warm=0) as opened:
        session = await opened.open()
        restarting = asyncio.create_task(session.restart())
        async with asyncio.timeout(30):
            while not session.busy:  # so it is not the one to make room
                await asyncio.sleep(0)
        await opened.close(session)
        with pytest.raises(KernelError, match="is closed"):
            await restarting
        await until_left(opened, tmp_path)


@pytest.mark.slow
async def test_openings_that_are_cancelled_leave_no_kernel(tmp_path: Path) -> None:
    async with Sessions(Config(tmp_path / "n"), launch(tmp_path), warm=0, most=4) as opened:
        opening = [asyncio.create_task(opened.open()) for _ in range(8)]
        for number, task in enumerate(opening):
            await asyncio.sleep(0.1 * (number % 3))
            task.cancel()
        await asyncio.wait(opening)
        for task in opening:
            if not task.cancelled():
                await opened.close(task.result())
        await until_left(opened, tmp_path)


@pytest.mark.slow
async def test_callers_in_a_cancelled_scope_leave_no_kernel_and_no_pipe(tmp_path: Path) -> None:
    """anyio, and so the server, cancels each await in such a scope again."""
    descriptors = psutil.Process().num_fds()
    async with Sessions(Config(tmp_path / "n"), launch(tmp_path), warm=0) as opened:
        for seconds in (0.0, 0.05, 0.2):
            with anyio.move_on_after(seconds):
                await opened.open()
        session = await opened.open()
        with anyio.move_on_after(0):
            await opened.close(session)
        await until_left(opened, tmp_path)
    assert psutil.Process().num_fds() <= descriptors


def templates() -> set[psutil.Process]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("fork/zygote" in word for word in process.cmdline()):
                found.add(process)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no templates")
async def test_an_owner_who_stays_away_leaves_no_process_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.owner_pools.DEMAND_WINDOW", 0.1)
    monkeypatch.setattr("rmi_agent.kernels.session.owner_pools.ABSENCE_TIMEOUT", 0.5)
    folder = tmp_path / "projects"
    folder.mkdir()
    known = templates()
    async with Sessions(
        Config(folder / "n"), launch(folder), warm=1, expected=(), policy=policy(folder)
    ) as opened:
        session = await opened.open("alice")
        await cell(session, "1")
        assert session.kernel is not None
        runtime = session.kernel.launch.runtime.parent
        await opened.close(session)
        await until(lambda: not opened.pool.count and not templates() - known)
        if policy(folder):
            await until(lambda: not any(runtime.iterdir()))
        again = await opened.open("alice")
        assert value(await cell(again, "1 + 1")) == "2"


@pytest.mark.slow
@pytest.mark.parametrize("held_by", ["its title", "a look"])
async def test_a_session_that_was_held_when_its_run_ended_makes_room(
    tmp_path: Path, held_by: str
) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=1, room_timeout=20
    ) as sessions:
        session = await sessions.open()
        await cell(session, "import time; x = 1")
        running = session.submit_cell("time.sleep(1)")
        while not session.running:
            await asyncio.sleep(0.01)
        session.set_title("named meanwhile")

        async def look() -> None:
            async with looked_into(session):
                await asyncio.sleep(0.2)

        holding = asyncio.create_task(session.write_title() if held_by == "its title" else look())
        async with asyncio.timeout(10):
            assert (await sessions.open()) is not session
        await asyncio.gather(holding, running.task)
