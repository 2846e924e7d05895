"""One caller's connections of the older era are bounded, and none of another ends for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from rmi_agent.server.middleware import BoundedSessions
from rmi_agent.server.middleware.transport_sessions import FORGOTTEN

from tests.server.conftest import fill
from tests.server.served import ALICE, BOB, INITIALIZE, TEXT, USERS, Served, bearer, served

pytestmark = [pytest.mark.anyio, pytest.mark.security]
FEW = "from rmi_agent.server.middleware import transport_sessions\ntransport_sessions.MOST = 5\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("t"))
    with served(projects, before=FEW, RMI_AGENT_TOKENS=USERS, RMI_AGENT_RATE_LIMIT="0") as running:
        yield running


async def test_whoever_begins_too_many_loses_the_one_used_longest_ago(server: Served) -> None:
    async with (
        httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http,
        Client(f"{server.url}/mcp", auth=BOB, mode="legacy") as bob,
    ):

        async def begun(token: str) -> str:
            answer = await http.post("/mcp", json=INITIALIZE, headers={**TEXT, **bearer(token)})
            assert answer.status_code == 200
            return str(answer.headers["mcp-session-id"])

        async def status(session: str) -> int:
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            headers = {**TEXT, **bearer(ALICE), "mcp-session-id": session}
            return (await http.post("/mcp", json=ping, headers=headers)).status_code

        first = [await begun(ALICE) for _ in range(5)]
        assert [await status(one) for one in first] == [200] * 5
        assert await status(first[0]) == 200  # and so the one used last
        more = [await begun(ALICE) for _ in range(3)]
        assert [await status(one) for one in first] == [200, 404, 404, 404, 200]
        assert [await status(one) for one in more] == [200] * 3
        assert not (await bob.call_tool_mcp("list_sessions", {})).is_error


async def test_a_session_in_use_does_not_end_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rmi_agent.server.middleware.transport_sessions.MOST", 2)
    alive: list[str] = []
    over = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope["headers"]).get(b"mcp-session-id", b"").decode()
        headers = []
        if scope["method"] == "DELETE":
            alive.remove(given)
        elif scope["method"] == "GET":
            await over.wait()
        elif not given:
            alive.append(str(len(alive) + 1))
            headers = [(b"mcp-session-id", alive[-1].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"served"})

    bounded = BoundedSessions(app)

    async def ask(method: str = "POST", session: str = "") -> list[Any]:
        headers = [(b"mcp-session-id", session.encode())] if session else []
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": method, "path": "/", "headers": headers}
        await bounded(scope, receive, send)
        return sent

    await ask()
    streams = [asyncio.create_task(ask("GET", "1"))]
    await asyncio.sleep(0)
    await ask()
    await ask("POST", "2")  # used after the stream was opened, and idle now
    await ask()
    assert alive == ["1", "3"]
    streams.append(asyncio.create_task(ask("GET", "3")))
    await asyncio.sleep(0)
    start, body = await ask()
    assert (start["status"], b"2, and all are in use" in body["body"]) == (429, True)
    assert alive == ["1", "3"]
    over.set()
    await asyncio.gather(*streams)


async def test_nothing_is_kept_of_sessions_that_have_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, number = 1000.0, 0
    monkeypatch.setattr(
        "rmi_agent.server.middleware.transport_sessions.time.monotonic", lambda: now
    )
    monkeypatch.setattr(
        "rmi_agent.server.middleware.transport_sessions.caller", lambda scope: scope["path"]
    )

    async def begins(scope: Any, receive: Any, send: Any) -> None:
        nonlocal number
        number += 1
        made = [(b"mcp-session-id", str(number).encode())] if scope["method"] == "POST" else []
        await send({"type": "http.response.start", "status": 200, "headers": made})
        await send({"type": "http.response.body"})

    bounded = BoundedSessions(begins)

    async def ask(who: str, method: str = "POST", session: str = "") -> None:
        headers = [(b"mcp-session-id", session.encode())] if session else []
        scope = {"type": "http", "method": method, "path": who, "headers": headers}

        async def unused(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        await bounded(scope, unused, unused)

    for name in "abc":
        await ask(name)
    assert bounded.callers == 3
    await ask("a", "DELETE", "1")
    assert bounded.callers == 2
    now += FORGOTTEN + 1
    await ask("d")
    assert bounded.callers == 1
