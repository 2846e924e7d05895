"""Clients that speak only OAuth, against a server's own process: sign in, restart, revoke."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastmcp import Client
from key_value.aio.stores.memory import MemoryStore

from tests.security.conftest import ALICE, BOB, USERS, Served, served
from tests.security.oauth import ScriptedOAuth, free_port
from tests.server.conftest import fill

pytestmark = [pytest.mark.anyio, pytest.mark.security]


@contextlib.contextmanager
def signing(folder: Path, port: int, **settings: str) -> Iterator[Served]:
    projects = folder / "python_projects"
    if not projects.exists():
        fill(folder)
    given = {
        "RMI_AGENT_TOKENS": USERS,
        "AUTH": "token+oauth",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "XDG_STATE_HOME": str(folder / "state"),
        "WIN_PD_OVERRIDE_LOCAL_APPDATA": str(folder / "state"),
        **settings,
    }
    with served(projects, "--log-level", "debug", port=port, **given) as running:
        yield running


def oauth(url: str, storage: MemoryStore, token: str = ALICE) -> ScriptedOAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that tokens in memory are lost
        made = ScriptedOAuth(url, token_storage=storage)
    made.token = token
    return made


async def test_fastmcps_client_signs_in_once_and_is_known_after_a_restart(tmp_path: Path) -> None:
    port, storage = free_port(), MemoryStore()
    with signing(tmp_path, port) as server:
        url = f"{server.url}/mcp"
        first = oauth(url, storage)
        async with Client(url, auth=first) as client:
            result = await client.call_tool("run_cell", {"code": "x = 20; x + 1"})
            assert "21" in result.content[0].text
        assert first.asked == 1
        # Alice by her token and Alice by OAuth are one: the session is there for both.
        session_id = result.structured_content["session_id"]
        async with Client(url, auth=ALICE) as client:
            again = await client.call_tool("run_cell", {"code": "x", "session_id": session_id})
            assert "20" in again.content[0].text
        async with Client(url, auth=BOB) as client:
            sessions = await client.call_tool("list_sessions", {})
            assert session_id not in str(sessions)
    with signing(tmp_path, port):
        second = oauth(url, storage)
        async with Client(url, auth=second) as client:
            assert "21" in str(await client.call_tool("run_cell", {"code": "20 + 1"}))
        assert second.asked == 0
