"""A client that cancels, drops its connection or ends: its run stops, the session stays."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.server.conftest import fill, http_server, server_env, token

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
            Client(f"{url}/mcp", auth=token()),
            Client(f"{url}/mcp", auth=token(), mode="legacy"),
            Client(f"{url}/sse", auth=token(), mode="legacy"),
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
    with http_server(fill(tmp_path), RMI_AGENT_RESPONSE_DEADLINE="1") as (url, _):
        async with Client(f"{url}/mcp", auth=token()) as client:
            code = "import time; time.sleep(4); 'finished'"
            given = await call(client, "run_cell", code=code)
            assert given["status"] == "running"
            key = {"session_id": given["session_id"], "cell": given["cell"]}
            following = asyncio.create_task(call(client, "read_output", **key, wait=30))
            await asyncio.sleep(0.3)
            following.cancel()
            await asyncio.wait({following})
        async with Client(
            f"{url}/sse", auth=token(), mode="legacy"
        ) as another:  # the first one has gone
            while (last := await call(another, "read_output", **key, wait=5))[
                "status"
            ] == "running":
                pass
            assert last["text"].startswith("'finished'")


async def test_a_client_that_vanishes_leaves_its_sessions_usable(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        async with Client(f"{url}/mcp", auth=token()) as first:
            session = (await call(first, "run_cell", code="x = 5"))["session_id"]
            running = asyncio.create_task(call(first, "run_cell", code=SLEEP, session_id=session))
            await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        async with Client(f"{url}/mcp", auth=token()) as second:
            rows = (await second.call_tool_mcp("list_sessions", {})).structured_content
            assert session in [row["session_id"] for row in rows["sessions"]]  # type: ignore[index]
            cut = await call(second, "read_output", session_id=session, cell=2, wait=3)
            assert cut["status"] == "interrupted"
            after = await call(second, "run_cell", code="x", session_id=session)
            assert after["text"].startswith("5\n")


def recorded(folder: Path) -> list[str | None]:
    """The statuses of all cells in a folder's notebooks."""
    cells = [
        cell
        for path in folder.glob("*.ipynb")
        for cell in json.loads(path.read_text("utf-8"))["cells"]
    ]
    return [cell["metadata"].get("rmi_agent", {}).get("status") for cell in cells]


async def within(seconds: float, folder: Path, statuses: list[str]) -> None:
    """Wait until a folder's cells have these statuses."""
    async with asyncio.timeout(seconds):
        while recorded(folder) != statuses:
            await asyncio.sleep(0.1)


async def test_a_dropped_legacy_connection_cancels(tmp_path: Path) -> None:
    def message(method: str, number: int | None, **params: Any) -> dict[str, Any]:
        identity = {} if number is None else {"id": number}
        return {"jsonrpc": "2.0", **identity, "method": method, "params": params}

    greeting = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    with http_server(fill(tmp_path)) as (url, _):
        head = {
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {token()}",
        }
        async with httpx2.AsyncClient(base_url=url, headers=head) as http:
            first = await http.post("/mcp", json=message("initialize", 0, **greeting))
            head["Mcp-Session-Id"] = first.headers["Mcp-Session-Id"]
            await http.post("/mcp", headers=head, json=message("notifications/initialized", None))
            call = message("tools/call", 1, name="run_cell", arguments={"code": SLEEP})
            with pytest.raises(httpx2.ReadTimeout):
                await http.post("/mcp", headers=head, json=call, timeout=1.5)
            await within(5, tmp_path / "notebooks", ["interrupted"])
            call = message("tools/call", 2, name="run_cell", arguments={"code": "1 + 1"})
            answer = await http.post("/mcp", headers=head, json=call)
            assert "[session_id: " in answer.text


async def test_a_client_that_ends_leaves_an_interrupted_cell_on_record(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from fastmcp import Client\n"
        "from fastmcp.client.transports import StdioTransport\n"
        "async def main():\n"
        "    transport = StdioTransport(sys.executable, ['-m', 'rmi_agent.server.cli'],"
        " env=dict(__import__('os').environ))\n"
        "    async with Client(transport) as client:\n"
        f"        await client.call_tool('run_cell', {{'code': {SLEEP!r}}})\n"
        "asyncio.run(main())\n"
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=server_env(fill(tmp_path)), stderr=-3
    )
    async with asyncio.timeout(30):
        while recorded(tmp_path / "notebooks") != [None]:  # it runs
            await asyncio.sleep(0.1)
    client.kill()
    await client.wait()
    await within(10, tmp_path / "notebooks", ["interrupted"])
    async with asyncio.timeout(10):  # and its server has ended in order
        while list((tmp_path / "notebooks").glob(".*")):
            await asyncio.sleep(0.1)
