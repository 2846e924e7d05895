"""Sessions of a server instance that has stopped, in the hands of another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rmi_agent.kernels import (
    LOCAL,
    Config,
    Instances,
    KernelError,
    Launch,
    Session,
    Sessions,
    StoreError,
    Takeover,
)
from rmi_agent.kernels.cluster.handover import QUIET, requests
from rmi_agent.kernels.cluster.leases import Lease
from rmi_agent.kernels.cluster.stores import open_store

from tests.conftest import cell, value
from tests.kernels.jupyter_server.jupyter import Jupyter

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.jupyter_server,
    pytest.mark.xdist_group(__name__),
]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("j"))
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def instance(
    folder: Path, jupyter: Jupyter | None, idle: float = 0, name: str = "a"
) -> AsyncIterator[Sessions]:
    """One instance of a server, with a store that it shares with the others of this folder."""
    instances = Instances(open_store(str(folder / "store")), f"{name}:1")
    launch = Launch(cwd=folder, runtime=folder, servers=(jupyter.server,) if jupyter else ())
    config = Config(folder / "notebooks", idle=idle)
    async with Sessions(config, launch, warm=0, directory=Takeover(instances)) as sessions:
        yield sessions


async def test_sessions_that_nobody_asks_for_any_more_are_ended_by_another_instance(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with instance(tmp_path, jupyter) as gone:
        session = await gone.open()
        await cell(session, "x = 1")
        assert isinstance(gone.directory, Takeover)
        await gone.directory.release_all()
    assert len(jupyter.kernels()) == 1
    async with instance(tmp_path, jupyter, 1.0, "b") as other, asyncio.timeout(60):
        assert isinstance(other.directory, Takeover)
        while (lease := await other.directory.leases.find(session.id)) and not lease.ended:
            await asyncio.sleep(0.1)
        assert lease is not None and "RMI_AGENT_SESSION_IDLE" in lease.ended
        while await asyncio.to_thread(jupyter.kernels):
            await asyncio.sleep(0.1)


async def test_a_run_that_was_left_over_is_interrupted_by_whoever_has_its_session_now(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with instance(tmp_path, jupyter) as gone, instance(tmp_path, jupyter, name="b") as other:
        session = await gone.open()
        await cell(session, "import time; x = 41")
        mark = tmp_path / "begun"
        session.submit_cell(f"open({str(mark)!r}, 'w').close()\ntime.sleep(60)", 120)
        async with asyncio.timeout(60):
            while not mark.exists():
                await asyncio.sleep(0.02)
        assert isinstance(gone.directory, Takeover) and isinstance(other.directory, Takeover)
        await gone.directory.release_all()
        await other.directory.open_here(session.id, LOCAL)
        mine = other.get(session.id)
        left = other.execution(mine.id, 2)
        assert left is not None and mine.busy
        left.interrupt("stopped by the test")
        async with asyncio.timeout(20):
            await asyncio.wait({left.task})
        run = await cell(mine, "x + 1")
        assert (value(run), run.number, run.state) == ("42", 3, "kept")
        await other.close(mine)


async def moved(to: Sessions, session: Session) -> Session:
    """A session in another instance, once it was idle for long enough."""
    directory = shared(to)
    async with asyncio.timeout(60):
        while session.id not in to.by_id:
            with contextlib.suppress(KernelError):
                await directory.open_here(session.id, LOCAL)
    return to.get(session.id)


def shared(sessions: Sessions) -> Takeover:
    assert isinstance(sessions.directory, Takeover)
    return sessions.directory


async def test_an_idle_session_moves_to_the_instance_that_is_called_and_back(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with instance(tmp_path, jupyter) as a, instance(tmp_path, jupyter, name="b") as b:
        first = await a.open()
        await cell(first, "x = 41")
        second = await moved(b, first)
        run = await cell(second, "x + 1")
        assert (value(run), run.number, run.state, run.notices) == ("42", 2, "kept", ())
        assert first.closed and first.id not in a.by_id
        third = await moved(a, second)
        run = await cell(third, "x + 2")
        assert (value(run), run.number) == ("43", 3)
        assert third.recorder.path == first.recorder.path
        for one in (shared(a).instances, shared(b).instances):
            assert await requests(one, one.name) == {}
        await a.close(third)


async def test_many_calls_at_once_move_a_session_once(jupyter: Jupyter, tmp_path: Path) -> None:
    async with instance(tmp_path, jupyter) as a, instance(tmp_path, jupyter, name="b") as b:
        first = await a.open()
        await cell(first, "x = 41")
        async with asyncio.timeout(60):
            while first.idle_for < QUIET:
                await asyncio.sleep(0.1)
        await asyncio.gather(*(shared(b).open_here(first.id, LOCAL) for _ in range(8)))
        second = b.get(first.id)
        assert (await cell(second, "x")).number == 2 and second.turn == 1
        await b.close(second)


async def test_a_session_in_use_stays_and_a_call_elsewhere_names_where(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with instance(tmp_path, jupyter) as a, instance(tmp_path, jupyter, name="b") as b:
        session = await a.open()
        run = session.submit_cell("import time; time.sleep(600)", 700)
        with pytest.raises(KernelError, match=r"\(a:1\), which keeps it: cell 1 is running"):
            await shared(b).open_here(session.id, LOCAL)
        await shared(b).open_here(session.id, "somebody else")
        assert session.id not in b.by_id and session.running
        session.interrupt()
        await run.task
        await a.close(session)


async def test_a_session_with_a_kernel_of_its_own_instance_stays_there(tmp_path: Path) -> None:
    async with instance(tmp_path, None) as a, instance(tmp_path, None, name="b") as b:
        session = await a.open()
        with pytest.raises(KernelError, match="not on a Jupyter Server"):
            await shared(b).open_here(session.id, LOCAL)
        assert session.id in a.by_id


async def test_a_session_is_free_although_its_release_could_not_be_written_at_once(
    jupyter: Jupyter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with instance(tmp_path, jupyter) as a, instance(tmp_path, jupyter, name="b") as b:
        session = await a.open()
        await cell(session, "x = 41")
        write, failed = shared(a).leases.write, asyncio.Event()

        async def fails(lease: Lease) -> bool:
            if lease.home or failed.is_set():
                return await write(lease)
            failed.set()
            raise StoreError("silent")

        monkeypatch.setattr(shared(a).leases, "write", fails)
        assert value(await cell(await moved(b, session), "x + 1")) == "42"
        assert failed.is_set()
        await b.close(b.get(session.id))
