"""uvicorn's server, as ours changes it."""

from __future__ import annotations

import asyncio
import signal

import pytest
import uvicorn
from rmi_agent.server.middleware import Server, connections

pytestmark = pytest.mark.anyio


async def test_a_server_that_waits_for_a_signal_does_not_look_for_it_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "TICK", 1e6)

    async def nothing() -> None:
        pass

    server = Server(uvicorn.Config("none"), nothing)
    waiting = asyncio.create_task(server.main_loop())
    await asyncio.sleep(0)
    assert not waiting.done()
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(waiting, 10)
