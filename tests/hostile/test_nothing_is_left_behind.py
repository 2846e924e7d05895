"""However the server ends, nothing that it or its users' code started outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from fastmcp import Client

from tests.processes import still_running
from tests.server.conftest import fill, http_server, token
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and daemons"),
]
SOON = 5.0  # seconds

# A child, one in a session of its own that hears no signal, and one that has daemonised.
BROOD = """
import os, subprocess, sys, time
deaf = "trap '' INT TERM HUP; while true; do sleep 1; done"
pids = [
    subprocess.Popen(["sleep", "600"]).pid,
    subprocess.Popen(["sh", "-c", deaf], start_new_session=True).pid,
]
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writing, str(os.getpid()).encode())
        os.closerange(0, 100)
        time.sleep(600)
    os._exit(0)
pids.append(int(os.read(reading, 20)))
print(*pids)
"""

# Daemons without the mark: another environment, and parents that were gone before anybody looked.
BARE = """
import os, subprocess, time
subprocess.run(["setsid", "-f", "sh", "-c", "echo $$ > one; exec sleep 600"], env={})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        os.execve("/bin/sh", ["sh", "-c", "echo $$ > two; exec sleep 600"], {})
    os._exit(0)
os.wait()
while not all(os.path.exists(each) and os.path.getsize(each) for each in ("one", "two")):
    time.sleep(0.01)
print(open("one").read(), open("two").read())
"""
# 10 is RLIMIT_LOCKS, which limits nothing; Python has no name for it.
CHANGED = """
import resource
try:
    resource.setrlimit(10, (0, 0))
except (ValueError, OSError):
    print("refused")
"""


def started(pids: str) -> list[psutil.Process]:
    found = [psutil.Process(int(pid)) for pid in pids.split()]
    assert len(found) == 3
    assert found[2].ppid() not in [process.pid for process in found]
    return found


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], since: float) -> None:
    assert not still_running(processes, since + SOON - time.monotonic())
    while files := [p for p in Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/*")]:
        assert time.monotonic() < since + SOON, files
        time.sleep(0.05)


@pytest.mark.parametrize("ending", ["EOF", "SIGINT", "SIGTERM", "SIGKILL"])
def test_a_stdio_server_leaves_nothing_behind(tmp_path: Path, ending: str) -> None:
    wire = Wire(fill(tmp_path))
    result = wire.call("run_cell", code=BROOD)
    processes = started(result["content"][0]["text"].splitlines()[0])
    processes += family(wire.process.pid)
    assert len(processes) >= 6
    since = time.monotonic()
    if ending == "EOF":
        assert wire.process.stdin is not None
        wire.process.stdin.close()
    else:
        wire.process.send_signal(getattr(signal, ending))
    wire.process.wait(20)
    assert_gone(processes, since)
    wire.close()


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGKILL"])
async def test_an_http_server_leaves_nothing_behind(tmp_path: Path, ending: str) -> None:
    with http_server(fill(tmp_path)) as (url, process):
        client = Client(f"{url}/mcp", auth=token())
        await client.__aenter__()
        with contextlib.suppress(httpx2.TransportError):  # the client is told that it has ended
            result = await client.call_tool_mcp("run_cell", {"code": BROOD})
            processes = started(result.content[0].text.splitlines()[0])  # type: ignore[union-attr]
            call = asyncio.create_task(
                client.call_tool_mcp("run_cell", {"code": "import time; time.sleep(600)"})
            )
            await asyncio.sleep(1)
            processes += family(process.pid)
            since = time.monotonic()
            process.send_signal(getattr(signal, ending))
            await asyncio.to_thread(process.wait, 20)
            call.cancel()
            await asyncio.wait({call})
            await client.__aexit__(None, None, None)
        assert_gone(processes, since)


def test_a_closed_session_leaves_nothing_behind(tmp_path: Path) -> None:
    wire = Wire(fill(tmp_path))
    result = wire.call("run_cell", code=BROOD)
    processes = started(result["content"][0]["text"].splitlines()[0])
    since = time.monotonic()
    wire.call("close_session", session_id=result["structuredContent"]["session_id"])
    assert not still_running(processes, since + SOON - time.monotonic())
    assert wire.process.stdin is not None
    wire.process.stdin.close()
    wire.process.wait(20)
    wire.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
@pytest.mark.parametrize("ending", ["close_session", "EOF", "SIGKILL"])
@pytest.mark.parametrize("sandbox", ["off", "landlock"])  # with bwrap, a namespace ends them
def test_a_daemon_with_an_environment_of_its_own_is_not_left_behind(
    tmp_path: Path, sandbox: str, ending: str
) -> None:
    wire = Wire(fill(tmp_path), RMI_AGENT_SANDBOX=sandbox)
    result = wire.call("run_cell", code=BARE)
    processes = [psutil.Process(int(pid)) for pid in result["content"][0]["text"].split()[:2]]
    assert {process.name() for process in processes} == {"sleep"}
    since = time.monotonic()
    if ending == "close_session":
        wire.call(ending, session_id=result["structuredContent"]["session_id"])
    elif ending == "SIGKILL":
        wire.process.kill()
    else:
        assert wire.process.stdin is not None
        wire.process.stdin.close()
    assert not still_running(processes, since + SOON - time.monotonic())
    wire.close()


EARLY = """
import os, sys
template = any("fork/zygote" in word for word in sys.orig_argv)
kernel = any("ipykernel_launcher" in word for word in sys.orig_argv)
if template and not {forks}:
    os._exit(1)
if (template or kernel) and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open({told!r}, "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        os.closerange(0, 100)
        os.execve("/bin/sleep", ["sleep", "600"], {{}})
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
@pytest.mark.parametrize("forks", [True, False])
def test_a_daemon_of_an_interpreters_start_is_not_left_behind(tmp_path: Path, forks: bool) -> None:
    (tmp_path / "site").mkdir()
    told = tmp_path / "told"
    (tmp_path / "site" / "sitecustomize.py").write_text(EARLY.format(told=str(told), forks=forks))
    wire = Wire(fill(tmp_path), RMI_AGENT_SANDBOX="off", PYTHONPATH=str(tmp_path / "site"))
    for _ in range(2):
        wire.call("run_cell", code="1")
    began = [psutil.Process(int(pid)) for pid in told.read_text().split()]
    daemons = [process for process in began if process.name() == "sleep"]
    assert len(daemons) >= (1 if forks else 2)
    since = time.monotonic()
    assert wire.process.stdin is not None
    wire.process.stdin.close()
    assert not still_running(daemons, since + SOON - time.monotonic())
    wire.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
@pytest.mark.parametrize("sandbox", ["bwrap", "landlock"])
def test_code_in_a_sandbox_cannot_change_what_its_processes_are_found_by(
    tmp_path: Path, sandbox: str
) -> None:
    wire = Wire(fill(tmp_path), RMI_AGENT_SANDBOX=sandbox)
    assert "refused" in wire.call("run_cell", code=CHANGED)["content"][0]["text"]
    wire.close()
