"""`fork_session`, as a client sees it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from rmi_agent.client import RmiMcpClient
from rmi_agent.server import App, load

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client[Any]]:
    app = App(load(python_projects_dir=tmp_path, notebooks_dir=tmp_path / "notebooks"))
    async with Client(app.mcp) as connected:
        yield connected


async def test_a_session_is_forked_and_the_result_says_what_was_not_copied(
    client: Client[Any],
) -> None:
    code = "import threading, time; x = [1]; file = open('a.txt', 'w')\n"
    code += (
        "threading.Thread(target=time.sleep, args=(60,), name='wai\\x1bting', daemon=True).start()"
    )
    first = await client.call_tool("run_cell", {"code": code})
    origin = first.structured_content["session_id"]
    forked = await client.call_tool("fork_session", {"session_id": origin})
    facts, text = forked.structured_content, forked.content[0].text
    assert text.startswith(f"Session {facts['session_id']} is a fork of {origin}: it has its")
    assert "and its 1 cell in " in text and "\nNot copied: thread wai" in text
    assert "\x1b" not in text and "a.txt." in text.splitlines()[-1]
    assert facts["forked_from"] == origin and facts["cells"] == 1 and facts["notebook"]
    calls = [
        await client.call_tool("run_cell", {"code": "x.append(2); x", "session_id": each})
        for each in (origin, facts["session_id"])
    ]
    assert [each.content[0].text.splitlines()[0] for each in calls] == ["[1, 2]", "[1, 2]"]
    assert [each.structured_content["cell"] for each in calls] == [2, 2]
    first_again = await client.call_tool(
        "read_output", {"session_id": facts["session_id"], "cell": 1}
    )
    assert first_again.structured_content["status"] == "ok"
    with pytest.raises(ToolError, match="There is no session"):
        await client.call_tool("fork_session", {"session_id": "none"})


@pytest.mark.slow
async def test_the_python_client_forks(tmp_path: Path) -> None:
    app = App(load(python_projects_dir=tmp_path, notebooks_dir=tmp_path / "notebooks"))
    async with RmiMcpClient(app.mcp) as client:
        first = await client.run_cell("x = 1")
        other = await client.fork_session(first.session_id)
        result = await client.run_cell("x + 1", session_id=other)
        assert result.value.strip() == "2" and result.session_id == other
