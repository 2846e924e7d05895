"""stdio, streamable HTTP and SSE: the same server, a clean wire, and an end without remains."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.server.conftest import fill, http_server, server_env, token
from tests.server.wire import SERVER, Wire

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


async def talk(client: Client[Any]) -> str:
    """A small conversation that needs state; the text of its last result."""
    async with client:
        first = await client.call_tool_mcp("run_cell", {"code": "x = 40"})
        session = first.structured_content["session_id"]  # type: ignore[index]
        second = await client.call_tool_mcp("run_cell", {"code": "x + 2", "session_id": session})
        await client.call_tool_mcp("run_python", {"file_name": "hello_world.py"})
        return second.content[0].text.splitlines()[0]


@pytest.mark.slow
async def test_both_http_transports_serve_every_kind_of_client_side_by_side(
    tmp_path: Path,
) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        clients = [
            Client(f"{url}/mcp", auth=token()),
            Client(f"{url}/mcp", auth=token(), mode="legacy"),
            Client(f"{url}/sse", auth=token(), mode="legacy"),
        ]
        assert await asyncio.gather(*(talk(client) for client in clients)) == ["42"] * 3


@pytest.mark.parametrize("mode", ["auto", pytest.param("legacy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", [pytest.param("module", marks=pytest.mark.slow), "script"])
async def test_stdio_serves_both_eras(tmp_path: Path, mode: str, command: str) -> None:
    script = Path(__file__).parents[3] / "server" / "mcp_server.py"
    words = SERVER if command == "module" else [sys.executable, str(script)]
    transport = StdioTransport(
        words[0], words[1:], env=server_env(fill(tmp_path)), keep_alive=False
    )
    assert await talk(Client(transport, mode=mode)) == "42"


@pytest.mark.slow
async def test_the_http_launcher_of_the_seed_works(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "server" / "run_http_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), "--port", "0"],
        env=server_env(fill(tmp_path)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "MCP at" in line:
                break
        url = lines[-1].split("MCP at ")[1].split("/mcp")[0]
        assert await talk(Client(f"{url}/mcp", auth=token())) == "42"
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


NOISE = """
import os, subprocess, sys
os.write(1, b'fd 1'); os.system('echo system'); subprocess.run(['echo', 'child'])
sys.__stdout__.write('dunder'); sys.__stdout__.flush(); print('print')
"""


@pytest.mark.slow
@POSIX
def test_stdout_carries_nothing_but_json_rpc(tmp_path: Path) -> None:
    wire = Wire(fill(tmp_path))
    result = wire.call("run_cell", code=NOISE)
    for word in ("fd 1", "system", "child", "print"):
        assert word in result["content"][0]["text"]
    wire.call("write_python_file", file_name="noise.py", content=NOISE)
    result = wire.call("run_python", file_name="noise.py")
    for word in ("fd 1", "system", "child", "dunder", "print"):
        assert word in result["content"][0]["text"]
    crashed = wire.call("run_cell", code="import ctypes; ctypes.string_at(0)")
    assert crashed["structuredContent"]["status"] == "dead"
    assert wire.call("run_cell", code="1")["structuredContent"]["status"] == "ok"
    assert wire.process.stdin is not None
    wire.process.stdin.close()
    assert wire.process.wait(20) == 0
    assert wire.process.stdout is not None
    assert wire.process.stdout.read() == ""
    wire.close()


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"PYTHON_TIMEOUT": "soon"}, "PYTHON_TIMEOUT: "),
        pytest.param(
            ["--transport", "http", "--host", "0.0.0.0", "--insecure-no-auth"],
            {},
            "--insecure-no-auth: RMI_AGENT_HOST",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--transport", "http", "--host", "203.0.113.7"],
            {},
            "can't listen",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [],
            {"PYTHON_PROJECTS_DIR": "/dev/null/x"},
            "PYTHON_PROJECTS_DIR: can't use",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_bad_start_is_one_clear_line(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    env = {**server_env(fill(tmp_path)), **settings}
    done = subprocess.run(
        [*SERVER, *arguments],
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        port = url.rsplit(":", 1)[1]
        done = subprocess.run(
            [*SERVER, "--transport", "http", "--port", port],
            env=server_env(tmp_path / "python_projects"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.slow
def test_the_start_up_log_names_both_folders(tmp_path: Path) -> None:
    projects = fill(tmp_path)
    done = subprocess.run(
        [*SERVER, "--log-level", "info"],
        env=server_env(projects),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0
    assert str(projects) in done.stderr
    assert str(tmp_path / "notebooks") in done.stderr


@pytest.mark.slow
@POSIX
async def test_a_stopped_server_answers_the_call_whose_run_it_stops(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, process):
        async with Client(f"{url}/mcp", auth=token()) as client:
            await client.list_tools()
            begun = tmp_path / "begun"
            code = f"import time; print('began'); open({str(begun)!r}, 'w').close(); time.sleep(60)"
            call = asyncio.create_task(client.call_tool_mcp("run_cell", {"code": code}))
            async with asyncio.timeout(30):
                while not begun.exists():
                    await asyncio.sleep(0.02)
            process.terminate()
            result = await asyncio.wait_for(call, 20)

    assert result.content[0].text.startswith("began\n")
    assert "since the server was stopped" in result.content[0].text
