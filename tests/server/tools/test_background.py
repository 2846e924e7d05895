"""Programs that run in the background, as a client sees them: when they count as started, what
they listen on, and how they end."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from rmi_agent.server import App, load
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.tools import background

from tests.conftest import SANDBOX
from tests.server.conftest import fill

pytestmark = pytest.mark.anyio

SERVER = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"here")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("serving", flush=True)
server.serve_forever()
"""
CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, 'serve.py'])"
TALKS = "import time\nfor n in range(1000):\n    print('tick', n, flush=True); time.sleep(0.2)"
FORKS = """\
import os, socket, time
server = socket.create_server(("::1", 0), family=socket.AF_INET6)
print("port", server.getsockname()[1], flush=True)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
"""
FILES = {
    "serve.py": SERVER,
    "child.py": CHILD,
    "talks.py": TALKS,
    "ends.py": "print('done')",
    "fails.py": "1/0",
    "forks.py": FORKS,
    "floods.py": "import time\nprint('x' * 300_000)\ntime.sleep(60)",
}


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    projects = fill(tmp_path_factory.mktemp("b"))
    for name, code in FILES.items():
        (projects / name).write_text(code)
    settings = {"python_timeout": 2.0, "kernel_max": 6, "output_limit": 100_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "SETTLE", 0.3)
        yield App(load(python_projects_dir=projects, kernel_pool=1, **settings))


@pytest.fixture(scope="module")
async def connected(app: App) -> AsyncIterator[Client[Any]]:
    async with Client(app.mcp) as client:
        yield client


@pytest.fixture
async def client(connected: Client[Any], app: App) -> AsyncIterator[Client[Any]]:
    yield connected
    for session in app.sessions.all():
        await app.sessions.close(session)


async def call(client: Client[Any], tool: str, **given: Any) -> tuple[str, dict[str, Any]]:
    result = await client.call_tool(tool, given)
    return result.content[0].text, result.structured_content or {}


async def start(client: Client[Any], name: str, **given: Any) -> tuple[str, dict[str, Any]]:
    return await call(client, "run_python", file_name=name, background=True, **given)


def get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return bytes(answer.read())


async def ended(client: Client[Any], key: str) -> tuple[str, dict[str, Any]]:
    return await call(client, "read_output", session_id=key, cell=1, wait=20)


@pytest.mark.parametrize("name", ["serve.py", pytest.param("child.py", marks=pytest.mark.slow)])
async def test_a_server_is_started_found_and_stopped(
    client: Client[Any], app: App, name: str
) -> None:
    told, facts = await start(client, name)
    key, (port,) = facts["session_id"], facts["ports"]
    assert facts["status"] == "running" and told.startswith("serving\n"), told
    assert f"{name} runs in the background and listens on 127.0.0.1:{port}." in told
    if SANDBOX == "off":
        assert await asyncio.to_thread(get, port) == b"here"
    told, listed = await call(client, "list_sessions")
    assert f"runs {name} in the background, port {port}" in told
    assert listed["sessions"][0]["background"] == {"program": name, "ports": [port]}
    with pytest.raises(ToolError, match=f"runs {name} in the background: nothing else"):
        await client.call_tool("run_cell", {"code": "1", "session_id": key})
    told, facts = await call(client, "read_output", session_id=key)
    assert facts["status"] == "running" and f"listens on 127.0.0.1:{port}" in told
    session = app.sessions.get(key)
    assert session.busy and session.idle_for == 0
    assert session.background is not None and session.background.until == 0  # no timeout
    await client.call_tool("interrupt_session", {"session_id": key})
    _, facts = await ended(client, key)
    assert facts["status"] == "interrupted"
    told, facts = await call(client, "run_cell", code="__name__", session_id=key)
    assert told.startswith("'__main__'\n")
    await client.call_tool("close_session", {"session_id": key})
    record = nbformat.read(facts["notebook"], as_version=4)
    assert record.cells[0].metadata.rmi_agent.background is True


async def test_its_port_is_free_when_its_session_is_closed(client: Client[Any]) -> None:
    _, facts = await start(client, "serve.py")
    (port,) = facts["ports"]
    await client.call_tool("close_session", {"session_id": facts["session_id"]})
    with pytest.raises(OSError):
        await asyncio.to_thread(get, port)


@pytest.mark.slow
async def test_a_program_that_only_prints_has_started_then(client: Client[Any]) -> None:
    told, facts = await start(client, "talks.py")
    assert told.startswith("tick 0\n") and "listens on no port yet" in told
    assert (facts["status"], facts["ports"]) == ("running", [])
    offset = re.findall(r"offset=(\d+)", told)[0]
    told, _ = await call(
        client, "read_output", session_id=facts["session_id"], offset=int(offset), wait=1
    )
    assert told.startswith("tick ")


@pytest.mark.parametrize(("name", "status"), [("ends.py", "ok"), ("fails.py", "error")])
async def test_a_program_that_ends_gives_its_result(
    client: Client[Any], name: str, status: str
) -> None:
    told, facts = await start(client, name)
    assert facts["status"] == status and "[Process exited with code" in told


@pytest.mark.slow
async def test_a_given_timeout_applies(client: Client[Any]) -> None:
    _, facts = await start(client, "talks.py", timeout=3)
    _, facts = await ended(client, facts["session_id"])
    assert facts["status"] == "timeout"


@pytest.mark.slow
async def test_it_goes_on_when_it_prints_too_much(client: Client[Any]) -> None:
    told, facts = await start(client, "floods.py")
    assert facts["status"] == "running" and "beyond RMI_AGENT_OUTPUT_LIMIT" in told


@pytest.mark.slow
async def test_half_of_the_kernels_stay_for_other_runs(client: Client[Any]) -> None:
    keys = [(await start(client, "talks.py"))[1]["session_id"] for _ in range(3)]
    with pytest.raises(ToolError, match=f"3 programs run in the background.*{keys[0]}"):
        await start(client, "talks.py")
    runs = [call(client, "run_cell", code="1") for _ in range(8)]
    assert all(told.startswith("1\n") for told, _ in await asyncio.gather(*runs))


@pytest.mark.slow
async def test_many_that_are_started_at_once_take_half_of_the_kernels(client: Client[Any]) -> None:
    calls = [start(client, "talks.py") for _ in range(6)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in results if isinstance(each, ToolError)]
    assert len(refused) == 3 and "Half of the kernels" in str(refused[0])
    assert all(each[1]["status"] == "running" for each in results if isinstance(each, tuple))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ports are known on Linux")
async def test_what_a_program_leaves_behind_that_listens_is_named(client: Client[Any]) -> None:
    text, facts = await start(client, "forks.py")
    assert facts["status"] == "ok"
    (port,) = re.findall(r"what it started listens on \[::1\]:(\d+): close_session ends", text)
    assert f"port {port}\n" in text


@pytest.mark.slow
async def test_it_needs_a_session_for_itself(client: Client[Any]) -> None:
    _, facts = await call(client, "run_cell", code="x = 1")
    key = facts["session_id"]
    work = asyncio.create_task(call(client, "run_python", file_name="talks.py", session_id=key))
    while (await call(client, "list_sessions"))[1]["sessions"][0]["state"] != "busy":
        await asyncio.sleep(0.02)
    with pytest.raises(ToolError, match="Cell 2 of session .* is running"):
        await start(client, "serve.py", session_id=key)
    await work
    _, facts = await start(client, "serve.py", session_id=key)
    assert len(facts["ports"]) == 1


@pytest.mark.slow
async def test_a_cancelled_call_stops_it(client: Client[Any], app: App) -> None:
    work = asyncio.create_task(start(client, "talks.py"))
    while not any(one.background for one in app.sessions.by_id.values()):
        await asyncio.sleep(0.02)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    (session,) = app.sessions.by_id.values()
    async with asyncio.timeout(15):
        while session.background is not None:
            await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("closes", [True, False])
async def test_a_timeout_says_that_the_program_has_served(
    client: Client[Any], app: App, closes: bool
) -> None:
    end = "\nfinally: server.server_close()" if closes else "\nexcept OSError: pass"
    code = SERVER.replace("server.serve", "try: server.serve").rstrip() + end
    await call(client, "write_python_file", file_name="late.py", content=code)
    told, facts = await call(client, "run_python", file_name="late.py")
    assert facts["status"] == "timeout"
    port = r"port \d+ \(127\.0\.0\.1\)"
    if closes:
        assert re.search(rf"It was listening on {port}\.", told), told
    else:
        assert re.search(rf"This session still holds {port}: close_session frees it\.", told), told
    assert "run_python with background=true" in told
    told, _ = await call(
        client, "run_cell", code="import time; time.sleep(60)", session_id=facts["session_id"]
    )
    assert "background=true" not in told


@pytest.mark.slow
async def test_a_record_is_rerun_without_it(client: Client[Any]) -> None:
    _, facts = await start(client, "serve.py")
    await client.call_tool("interrupt_session", {"session_id": facts["session_id"]})
    _, facts = await call(client, "run_cell", code="x = 1", session_id=facts["session_id"])
    await client.call_tool("close_session", {"session_id": facts["session_id"]})
    told, again = await call(client, "resume_session", notebook=facts["notebook"])
    assert "Skipped because they had run in the background: 1." in told
    assert (again["ran"], again["skipped"]) == (1, [1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes of Linux")
@pytest.mark.parametrize("tier", ["bwrap", "landlock"])
async def test_without_a_network_it_is_said_who_can_reach_it(tmp_path: Path, tier: str) -> None:
    projects = fill(tmp_path)
    (projects / "serve.py").write_text(SERVER)
    given = {"sandbox": tier, "sandbox_network": False, "kernel_pool": 0}
    try:
        app = App(load(python_projects_dir=projects, **given))
    except BadSettings as error:
        pytest.skip(str(error))
    async with Client(app.mcp) as client:
        told, facts = await start(client, "serve.py")
        if tier == "landlock":  # no sockets at all
            assert (facts["status"], facts["error_name"]) == ("error", "PermissionError"), told
            return
        (port,) = facts["ports"]
        assert "only code of your own sessions can connect to it" in told
        with pytest.raises(OSError):
            await asyncio.to_thread(get, port)
        code = f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/').read()"
        assert (await call(client, "run_cell", code=code))[0].startswith("b'here'\n")
