"""Ctrl-C and signals while a person waits for a run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import pytest
from rmi_agent.client.attendance import Attendance
from rmi_agent.client.commands.interrupts import Interrupts

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]


class Client:
    """One that notes how runs were stopped."""

    def __init__(self) -> None:
        self.stopped: list[bool] = []
        self.asked = asyncio.Event()

    async def stop_run(self, *, kill: bool) -> None:
        self.stopped.append(kill)
        self.asked.set()


@pytest.mark.parametrize(("number", "kills"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
async def test_a_signal_that_comes_before_the_run_is_known_stops_it(
    number: int, kills: bool
) -> None:
    attended, client = Attendance(), Client()
    work: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(60))
    with Interrupts(attended, lambda: None).during(work, client):  # type: ignore[arg-type]
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.1)
        assert client.stopped == []
        attended.known("s", 1)
        async with asyncio.timeout(5):
            await client.asked.wait()
    assert client.stopped == [kills]
    work.cancel()
