"""Sessions open in the background: what waits for them, and what happens if they can't."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from rmi_agent.kernels import Sessions
from rmi_agent.server import App, load, opening

from tests.server.conftest import fill, server_env
from tests.server.served import INITIALIZE

pytestmark = pytest.mark.anyio

BROKEN = """
import rmi_agent.kernels as kernels
async def broken(self): raise OSError("no room for sockets")
kernels.Sessions.__aenter__ = broken
from rmi_agent.server.cli import main
main()
"""
CALL = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "run_cell", "arguments": {"code": "1"}},
}


def app(folder: Path) -> App:
    return App(load(python_projects_dir=fill(folder), kernel_pool=0), in_background=True)


async def test_only_calls_that_need_kernels_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = threading.Event()
    monkeypatch.setattr(opening, "import_kernels", lambda: imported.wait(60))
    async with Client(app(tmp_path).mcp) as client:
        cell = asyncio.create_task(client.call_tool("run_cell", {"code": "6 * 7"}))
        assert await client.list_tools()
        files = await client.call_tool("list_python_files", {})
        assert "hello_world.py" in str(files.content)
        assert not cell.done()
        imported.set()
        assert "42" in str((await cell).content)


async def test_a_server_that_answers_nothing_opens_nothing(tmp_path: Path) -> None:
    server = app(tmp_path)
    async with server.opening as it:
        assert it._task is None


async def test_a_server_that_ends_while_it_opens_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def never(_: Sessions) -> None:
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Sessions, "__aenter__", never)
    async with app(tmp_path).opening as it:
        it.begin()
        await entered.wait()
    assert it._task is not None and it._task.cancelled()


async def test_a_call_says_that_the_kernels_could_not_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Sessions) -> None:
        raise OSError("no room for sockets")

    monkeypatch.setattr(Sessions, "__aenter__", broken)
    server = app(tmp_path)
    async with Client(server.mcp) as client:
        for _ in range(2):
            with pytest.raises(ToolError, match="could not start its kernels, so nothing was run"):
                await client.call_tool("run_cell", {"code": "1"})
    assert server.opening.failed.is_set()


@pytest.mark.slow
def test_a_server_whose_kernels_can_not_be_started_answers_and_ends_with_1(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BROKEN],
        env=server_env(fill(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    with process:
        process.stdin.write(json.dumps(INITIALIZE) + "\n" + json.dumps(CALL) + "\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert "could not start its kernels" in answers[1]["result"]["content"][0]["text"]
        assert "no room for sockets" in process.stderr.read()
    assert process.returncode == 1
