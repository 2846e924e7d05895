"""Nothing that goes on in the background is left behind, or ends unseen."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rmi_agent.kernels import Config, Launch, Sessions
from rmi_agent.kernels.errors import KernelError
from rmi_agent.kernels.heartbeat import Heartbeat
from rmi_agent.kernels.homes import Copy, Homes, Record
from rmi_agent.kernels.sessions import LOCAL
from rmi_agent.kernels.stores import opened
from rmi_agent.server import passing

pytestmark = pytest.mark.anyio


def homes(folder: Path) -> Homes:
    return Homes(opened(str(folder / "store")), "http://127.0.0.1:1", beat=0.05, alive=5.0)


async def test_calls_for_a_copy_out_of_reach_leave_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passing, "LOOK_EVERY", 0.01)
    copy = Copy("other", "http://192.0.2.1:1", "")

    async def copies() -> dict[str, Copy]:
        return {copy.name: copy}

    shared: Any = SimpleNamespace(homes=SimpleNamespace(copies=copies))
    nothing: Any = None
    front = passing.Passing(nothing, nothing, shared)
    before = asyncio.all_tasks()
    for _ in range(8):
        await front._bury(copy, OSError("No route to host"))
    assert asyncio.all_tasks() <= before


async def test_sessions_that_can_not_be_taken_over_leave_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, launch = Config(tmp_path / "notebooks"), Launch(cwd=tmp_path, runtime=tmp_path)
    async with Sessions(config, launch, warm=0, homes=homes(tmp_path)) as sessions:
        shared = sessions.shared
        assert shared is not None
        unknown = Record("a" * 20, LOCAL, home="gone", turn=1, server="http://127.0.0.1:1")
        for number in range(3):
            await shared.homes.write(replace(unknown, id=f"{number}" * 20))
        records = await shared.homes.all()
        assert len(records) == 3

        async def fails(mine: Record) -> None:
            await asyncio.sleep(0.01)
            raise KernelError("out of reach")

        monkeypatch.setattr(shared, "_bring_here", fails)
        asking = [shared.place(record.id, LOCAL) for record in records for _ in range(4)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, KernelError) for one in found)
        del found
        assert not shared._taking


async def test_signs_of_life_go_on_when_one_fails_in_a_way_that_nobody_thought_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with homes(tmp_path) as mine:
        beat, failures = mine.beat, iter([ValueError("nobody thought of it")])
        again = asyncio.Event()

        async def failing() -> None:
            if (error := next(failures, None)) is not None:
                raise error
            await beat()
            again.set()

        monkeypatch.setattr(mine, "beat", failing)
        async with asyncio.timeout(20):
            await again.wait()
    assert "giving signs of life failed and is restarted" in caplog.text


async def test_a_heartbeat_that_can_not_be_followed_ends_what_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def connect_hb(self) -> Any:
            return self

        def setsockopt(self, *_: object) -> None: ...

        def close(self, linger: int) -> None: ...

        async def send(self, _: bytes) -> None:
            raise RuntimeError("nobody thought of it")

    async def lives() -> bool:
        return True

    client: Any = Broken()
    heartbeat = Heartbeat(client, 60.0, lives)
    heartbeat.start()
    async with asyncio.timeout(10):
        await heartbeat.ended.wait()
    assert "nobody thought of it" in heartbeat.why
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    await heartbeat.stop()


async def test_who_stops_waiting_for_a_heartbeat_leaves_no_task() -> None:
    async def lives() -> bool:
        return True

    client: Any = None
    heartbeat = Heartbeat(client, 60.0, lives)
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(heartbeat.beats())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
