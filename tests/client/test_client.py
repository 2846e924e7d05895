"""`RmiMcpClient` against every kind of target."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from mcp import MCPError
from rmi_agent.client import RmiMcpClient, RunResult
from rmi_agent.client.attendance import Attendance
from rmi_agent.client.commands.check import run_steps
from rmi_agent.server import App, load

from tests.client import completing
from tests.server.conftest import fill, http_server

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Servers started by a client take their settings from this environment."""
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(fill(tmp_path)))
    monkeypatch.setenv("RMI_AGENT_RESPONSE_DEADLINE", "1")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    yield tmp_path


SLOW = [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("text path", "list", "path", "command", "embedded")
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["object", *SLOW])
async def test_a_server_of_any_kind_is_a_target(kind: str) -> None:
    script = ROOT / "server" / "mcp_server.py"
    target = {
        "object": App(load()).mcp,
        "path": script,
        "text path": str(script),
        "command": f"{sys.executable} -m rmi_agent.server.cli",
        "list": [sys.executable, "-m", "rmi_agent.server.cli"],
        "embedded": None,
    }[kind]
    async with RmiMcpClient(target) as client:
        result = await client.run_python("hello_world.py")
    assert result.stdout == "Hello, World!\nThis is a test Python script.\n"
    assert str(result).startswith(result.stdout)
    assert (result.status, result.exit_code) == ("ok", 0)


@pytest.mark.slow
async def test_urls_of_both_transports_are_targets_and_the_token_is_found(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_server(settings / "python_projects", RMI_AGENT_TOKEN="a-token-of-the-test") as (
        url,
        _,
    ):
        monkeypatch.setenv("RMI_AGENT_TOKEN", "a-token-of-the-test")
        for target, mode in (
            (f"{url}/mcp", "auto"),
            (f"{url}/mcp", "legacy"),
            (f"{url}/sse", "legacy"),
        ):
            async with RmiMcpClient(target, mode=mode) as client:
                assert (await client.run_cell("6 * 7")).value == "42\n"


async def test_all_tools_are_methods() -> None:
    async with RmiMcpClient(App(load()).mcp) as client:
        assert "run_python" in [tool.name for tool in await client.list_tools()]
        assert "Created" in await client.write_python_file("x.py", "print(input())")
        assert await client.read_python_file("x.py") == "print(input())"
        assert "x.py" in [entry["file_name"] for entry in await client.list_python_files()]
        result = await client.run_python("x.py", stdin="given\n")
        assert (result.stdout, result.stderr, result.value) == ("given\n", "", "")
        again = await client.run_python(module="x", stdin="more\n", session_id=result.session_id)
        assert (again.stdout, again.exit_code, again.tests) == ("more\n", 0, None)
        rows = await client.list_sessions()
        assert rows[0]["session_id"] == result.session_id
        assert '"cells"' in await client.read_notebook(result.session_id)
        page = await client.read_output(result.session_id, 1, offset=2, limit=3)
        assert page.text.startswith("ven")
        assert "Nothing is running" in await client.interrupt_session(result.session_id)
        assert "fresh kernel" in await client.restart_session(result.session_id)
        assert "closed" in await client.close_session(result.session_id)
        with pytest.raises(ToolError, match="has ended"):
            await client.run_cell("1", result.session_id)


@pytest.mark.slow
async def test_a_picture_comes_as_bytes() -> None:
    async with RmiMcpClient(App(load()).mcp) as client:
        result = await client.run_cell(
            "import matplotlib.pyplot as plt\nplt.plot([1]);", timeout=60
        )
    assert [p.mime_type for p in result.pictures] == ["image/png"]
    assert result.pictures[0].data.startswith(b"\x89PNG")


@pytest.mark.slow
async def test_a_run_longer_than_the_deadline_is_followed_to_its_end() -> None:
    heard: list[tuple[str, str]] = []
    async with RmiMcpClient(App(load()).mcp) as client:
        result = await client.run_cell(
            "import sys, time\nfor i in range(5):\n"
            "    print(i); print('e', file=sys.stderr); time.sleep(0.5)\n'end'",
            on_output=lambda name, text: heard.append((name, text)),
        )
    assert (result.status, result.stdout, result.value) == ("ok", "0\n1\n2\n3\n4\n", "'end'\n")
    assert result.stdout.startswith("".join(text for name, text in heard if name == "stdout"))
    assert len([1 for name, _ in heard if name == "stdout"]) > 2


@pytest.mark.slow
async def test_tests_that_take_longer_than_the_deadline_have_results(settings: Path) -> None:
    source = "import time\ndef test_a(): time.sleep(1.5)\ndef test_b(): assert 0"
    (settings / "python_projects/test_x.py").write_text(source)
    async with RmiMcpClient(App(load()).mcp) as client:
        result = await client.run_python(module="pytest", args=["test_x.py"])
    assert (result.status, result.exit_code) == ("error", 1)
    assert result.tests == {"counts": {"passed": 1, "failed": 1}, "failed": ["test_x.py::test_b"]}


@pytest.mark.slow
async def test_long_output_arrives_whole() -> None:
    async with RmiMcpClient(App(load()).mcp) as client:
        result = await client.run_cell("for i in range(100_000): print(i)")
    assert result.stdout == "".join(f"{i}\n" for i in range(100_000))
    assert not result.truncated


@pytest.mark.slow
async def test_cancelling_a_call_stops_the_run() -> None:
    async with RmiMcpClient(App(load()).mcp) as client:
        session = (await client.run_cell("x = 1")).session_id
        call: asyncio.Task[RunResult] = asyncio.create_task(
            client.run_cell("import time; time.sleep(60)", session)
        )
        await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.wait({call})
        assert (await client.run_cell("x", session)).value == "1\n"


@pytest.mark.slow
async def test_a_person_has_no_time_limit_and_sees_all_output_as_it_comes(settings: Path) -> None:
    code = "import time\nfor _ in range(30): print('x' * 9_999)\ntime.sleep(1)\nprint('end')"
    (settings / "python_projects" / "long.py").write_text(code)
    seen: list[str] = []
    async with RmiMcpClient(App(load(python_timeout=0.5)).mcp) as client:
        limited = await client.run_python("long.py")
        assert limited.status == "timeout"
        client.attended = Attendance()
        result = await client.run_python("long.py", on_output=lambda _, text: seen.append(text))
        assert (result.status, client.attended.cell) == ("ok", result.cell)
        limited = await client.run_python("long.py", timeout=0.5)
        assert limited.status == "timeout"
    assert "".join(seen).removesuffix("end\n") == result.stdout.removesuffix("end\n")
    assert len(result.stdout) == 300_004


async def test_check_passes_whatever_files_there_are_and_leaves_none(settings: Path) -> None:
    projects = settings / "python_projects"
    for file in projects.iterdir():
        file.unlink()
    (projects / "calculator.py").write_text("print('mine')")
    steps: list[tuple[bool, str]] = []
    async with RmiMcpClient(App(load()).mcp) as client:
        assert await run_steps(client, lambda passed, title, _: steps.append((passed, title)))
    assert [passed for passed, _ in steps] == [True] * 7
    assert [file.name for file in projects.iterdir()] == ["calculator.py"]


@pytest.mark.slow
async def test_check_reports_what_is_wrong(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[str, str] = {}
    async with RmiMcpClient(App(load()).mcp) as client:
        run_cell = client.run_cell

        async def run_another(code: str, *more: str) -> RunResult:
            return await run_cell(code.replace("Hello", "Bye").replace("1 / 0", "1"), *more)

        monkeypatch.setattr(client, "run_cell", run_another)
        passed = await run_steps(
            client, lambda good, title, detail: steps.update({} if good else {title: detail})
        )
    assert not passed
    assert len(steps) == 2
    assert "expected 'Hello', got: Bye" in steps["run a cell, and another in its session"]


async def test_code_is_completed_and_names_are_explained_where_the_server_can() -> None:
    async with RmiMcpClient(completing.mcp) as client:
        assert await client.complete("s1", "x = np.lins") == ["x = np.linspace"]
        assert (await client.inspect("s1", "np.linspace")).endswith("\nin s1")
        with pytest.raises(MCPError, match=r"There is no a/b\?"):
            await client.inspect("s1", "a/b?")
    async with RmiMcpClient(FastMCP("can't")) as client:
        assert client.instructions == ""
        with pytest.raises(MCPError):
            await client.complete("s1", "x")
        with pytest.raises(MCPError):
            await client.inspect("s1", "x")


@pytest.mark.parametrize("target", ["", "   "])
def test_an_empty_command_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        RmiMcpClient(target)
