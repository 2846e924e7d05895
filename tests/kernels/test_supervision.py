"""Background tasks: a failure is logged, a watcher goes on, and nothing outlives its owner."""

from __future__ import annotations

import asyncio
import logging

import pytest
from rmi_agent.kernels import supervision
from rmi_agent.kernels.supervision import Supervisor

pytestmark = pytest.mark.anyio


async def test_a_watcher_that_fails_is_logged_and_restarted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.001)
    starts, fourth = 0, asyncio.Event()

    async def watcher() -> None:
        nonlocal starts
        starts += 1
        if starts < 4:
            raise PermissionError("not yours")
        fourth.set()
        await asyncio.Event().wait()

    async with Supervisor("sessions") as supervisor:
        supervisor.watch(watcher, "memory")
        await asyncio.wait_for(fourth.wait(), 5)
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 3
    assert "sessions: memory failed" in failures[0].getMessage()
    assert failures[0].exc_info is not None


async def test_a_job_that_fails_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def job() -> None:
        raise ValueError("no")

    async with Supervisor("pool") as supervisor:
        await asyncio.wait({supervisor.start(job(), "start a kernel")})
    assert "pool: start a kernel failed" in caplog.text


async def test_leaving_cancels_what_still_runs_and_waits_for_it() -> None:
    ended = False

    async def job() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended = True

    async with Supervisor("pool") as supervisor:
        supervisor.start(job(), "wait")
        await asyncio.sleep(0)
    assert ended and not supervisor.tasks


async def test_a_watcher_whose_work_swallows_a_cancellation_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "CANCEL_AGAIN", 0.01)
    swallowed = 0

    async def watcher() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed == 3:
                    raise
                swallowed += 1

    async with Supervisor("instances") as supervisor:
        supervisor.watch(watcher, "sending heartbeats")
        await asyncio.sleep(0)
    assert swallowed == 3 and not supervisor.tasks


async def test_what_a_job_does_at_its_end_is_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "CANCEL_AGAIN", 0.01)
    cleaned = False

    async def job() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            cleaned = True

    async with Supervisor("pool") as supervisor:
        supervisor.watch(asyncio.Event().wait, "nothing")  # type: ignore[arg-type]
        supervisor.start(job(), "end a kernel")
        await asyncio.sleep(0)
    assert cleaned


async def test_a_watcher_that_returns_is_not_restarted() -> None:
    starts = 0

    async def watcher() -> None:
        nonlocal starts
        starts += 1

    async with Supervisor("sessions") as supervisor:
        await supervisor.watch(watcher, "nothing to do")
    assert starts == 1
