"""Sessions of a copy of the server that has gone, in the hands of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rmi_agent.kernels import LOCAL, Config, Launch, Sessions, Shared
from rmi_agent.kernels.homes import Homes
from rmi_agent.kernels.stores import opened

from tests.conftest import cell, value
from tests.kernels.jupyter import Jupyter

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("j"))
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def copy(folder: Path, jupyter: Jupyter, idle: float = 0) -> AsyncIterator[Sessions]:
    """One copy of a server, with a store that it shares with the others of this folder."""
    homes = Homes(opened(str(folder / "store")), "http://127.0.0.1:1")
    launch = Launch(cwd=folder, runtime=folder, servers=(jupyter.server,))
    config = Config(folder / "notebooks", idle=idle)
    async with Sessions(config, launch, warm=0, directory=Shared(homes)) as sessions:
        yield sessions


async def test_sessions_that_nobody_asks_for_any_more_are_ended_by_another_copy(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with copy(tmp_path, jupyter) as gone:
        session = await gone.open()
        await cell(session, "x = 1")
        assert isinstance(gone.directory, Shared)
        await gone.directory.release_all()
    assert len(jupyter.kernels()) == 1
    async with copy(tmp_path, jupyter, idle=1.0) as other, asyncio.timeout(60):
        assert isinstance(other.directory, Shared)
        while (record := await other.directory.homes.find(session.id)) and not record.ended:
            await asyncio.sleep(0.1)
        assert record is not None and "RMI_AGENT_SESSION_IDLE" in record.ended
        while await asyncio.to_thread(jupyter.kernels):
            await asyncio.sleep(0.1)


async def test_a_run_that_was_left_over_is_interrupted_by_whoever_has_its_session_now(
    jupyter: Jupyter, tmp_path: Path
) -> None:
    async with copy(tmp_path, jupyter) as gone, copy(tmp_path, jupyter) as other:
        session = await gone.open()
        await cell(session, "import time; x = 41")
        mark = tmp_path / "begun"
        session.submit_cell(f"open({str(mark)!r}, 'w').close()\ntime.sleep(60)", 120)
        async with asyncio.timeout(60):
            while not mark.exists():
                await asyncio.sleep(0.02)
        assert isinstance(gone.directory, Shared) and isinstance(other.directory, Shared)
        await gone.directory.release_all()
        assert await other.directory.place(session.id, LOCAL) is None
        mine = other.get(session.id)
        left = mine.execution(2)
        assert left is not None and mine.busy
        left.interrupt("stopped by the test")
        async with asyncio.timeout(20):
            await asyncio.wait({left.task})
        run = await cell(mine, "x + 1")
        assert (value(run), run.number, run.state) == ("42", 3, "kept")
        await other.close(mine)
