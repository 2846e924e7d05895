"""A client that cancels, drops its connection or ends: its run stops, the session stays."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.server.conftest import fill, http_server, server_env

pytestmark = [pytest.mark.anyio, pytest.mark.hostile]
SLEEP = "import time; print('go', flush=True); time.sleep(60)"


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool_mcp(tool, arguments)
    assert result.structured_content is not None
    return {**result.structured_content, "text": result.content[0].text}


async def cancelled_run_leaves_a_usable_session(client: Client[Any]) -> None:
    session = (await call(client, "run_cell", code="x = 5"))["session_id"]
    running = asyncio.create_task(call(client, "run_cell", code=SLEEP, session_id=session))
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.wait({running})
    after = await call(client, "run_cell", code="x", session_id=session)
    assert after["text"].startswith("5\n")
    cut = await call(client, "read_output", session_id=session, cell=2)
    assert (cut["status"], cut["state"]) == ("interrupted", "kept")


async def test_cancelling_works_on_every_transport_and_era(tmp_path: Path) -> None:
    projects = fill(tmp_path)
    with http_server(projects) as (url, _):
        for client in (
            Client(f"{url}/mcp"),
            Client(f"{url}/mcp", mode="legacy"),
            Client(f"{url}/sse", mode="legacy"),
        ):
            async with client:
                await cancelled_run_leaves_a_usable_session(client)
    for mode in ("auto", "legacy"):
        command = [sys.executable, "-m", "rmi_agent.server.cli"]
        transport = StdioTransport(
            command[0], command[1:], env=server_env(projects), keep_alive=False
        )
        async with Client(transport, mode=mode) as client:
            await cancelled_run_leaves_a_usable_session(client)


async def test_a_run_that_was_handed_over_is_not_cancelled_with_its_follower(
    tmp_path: Path,
) -> None:
    with http_server(fill(tmp_path), RESPONSE_DEADLINE="1") as (url, _):
        async with Client(f"{url}/mcp") as client:
            code = "import time; time.sleep(4); 'finished'"
            given = await call(client, "run_cell", code=code)
            assert given["status"] == "running"
            key = {"session_id": given["session_id"], "cell": given["cell"]}
            following = asyncio.create_task(call(client, "read_output", **key, wait=30))
            await asyncio.sleep(0.3)
            following.cancel()
            await asyncio.wait({following})
        async with Client(f"{url}/sse", mode="legacy") as another:  # the first one has gone
            while (last := await call(another, "read_output", **key, wait=5))[
                "status"
            ] == "running":
                pass
            assert last["text"].startswith("'finished'")


async def test_a_client_that_vanishes_leaves_its_sessions_usable(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        async with Client(f"{url}/mcp") as first:
            session = (await call(first, "run_cell", code="x = 5"))["session_id"]
            running = asyncio.create_task(call(first, "run_cell", code=SLEEP, session_id=session))
            await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        async with Client(f"{url}/mcp") as second:
            rows = (await second.call_tool_mcp("list_sessions", {})).structured_content
            assert session in [row["session_id"] for row in rows["sessions"]]  # type: ignore[index]
            cut = await call(second, "read_output", session_id=session, cell=2, wait=3)
            assert cut["status"] == "interrupted"
            after = await call(second, "run_cell", code="x", session_id=session)
            assert after["text"].startswith("5\n")
