"""What doctor finds, each thing as it is when it is well, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rmi_agent.server import load
from rmi_agent.server.auth.tokens import token_file
from rmi_agent.server.commands.doctor import report
from rmi_agent.server.doctor import CheckResult
from rmi_agent.server.doctor.checks import of_folder, of_port, of_resident, of_token
from rmi_agent.server.doctor.hosts import of_host
from rmi_agent.server.doctor.stdio import conversation
from rmi_agent.server.doctor.url import examine_url, unreached
from rmi_agent.server.errors import StdoutPolluted
from rmi_agent.server.hosts import Host, host_of
from rmi_agent.server.resident import record as resident

from tests.server.conftest import fill, http_server, server_env, token

pytestmark = pytest.mark.anyio
TOKEN = "a-token-that-nobody-else-has"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="scripts with #! and modes")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder))
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    return folder


# The way to a URL.


@contextlib.asynccontextmanager
async def answering(*answers: str) -> AsyncIterator[str]:
    """A server that gives these answers, one to each connection, and the last to all after."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
        await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
        text = left.pop(0) if len(left) > 1 else left[0]
        if text:
            head, _, body = text.partition("\n\n")
            lines = [f"HTTP/1.1 {head}".replace("\n", "\r\n")]
            lines += [f"Content-Length: {len(body)}", "Connection: close", "", body]
            writer.write("\r\n".join(lines).encode())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def way(url: str) -> list[CheckResult]:
    return [result async for result in examine_url(load(), url)]


WELL = "401 x"
NOBODY = "http://127.0.0.1:9"  # no port that anything listens on
WAYS: dict[str, tuple[tuple[str, ...] | str, str, str]] = {
    "no tunnel": (("404 x\nNgrok-Error-Code: ERR_NGROK_3200",), "tunnel is not open", "ngrok http"),
    "no server behind ngrok": (
        ("502 x\n\n<p>ERR_NGROK_8012",),
        "no server behind it",
        "Start it: ",
    ),
    "ngrok's warning": (
        ("200 x\n\nERR_NGROK_6024",),
        "its warning page",
        "ngrok-skip-browser-warning",
    ),
    "another code of ngrok's": (
        ("400 x\n\nERR_NGROK_1",),
        "says ERR_NGROK_1",
        "errors/err_ngrok_1",
    ),
    "no server behind a proxy": (("502 x",), "finds no server", "Start it: "),
    "a redirect": (("308 x\nLocation: https://b.example",), "https://b.example (308)", "Use that"),
    "another path": (("404 x",), "there is no MCP at", "Leave out"),
    "a web page": (("200 x\nContent-Type: text/html",), "a web page answers", "another program"),
    "a login before it": (("403 x",), "answers 403", "refuses it"),
    "a hang-up": (("",), "hangs up", "Start it: "),
    "another host name": (("421 x",), "does not answer to", "RMI_AGENT_ALLOWED_HOSTS=127.0.0.1"),
    "any host name": ((WELL,), "answers to rebinding.invalid", "DNS rebinding"),
    "too many requests": (("429 x", "421 x"), "too many requests", "RMI_AGENT_RATE_LIMIT"),
    "no token needed": (("200 x", "421 x"), "it answers without one", "--insecure-no-auth"),
    "another token": ((WELL, "421 x", WELL), "has another one (401)", "Set RMI_AGENT_TOKEN"),
    "another server": ((WELL, "421 x", "200 x", "404 x"), "/mcp", ""),
    "a closed port": (NOBODY, "refuses the connection", "Start it: "),
    "no such name": (
        "https://nowhere.invalid",
        "the name nowhere.invalid is not known",
        "spelling",
    ),
    "no name at all": ("https://a..b", "the name a..b is not known", "spelling"),
    "plain HTTP": ("http://far.example", "everybody on the way could read the token", ""),
    "no scheme": ("127.0.0.1:9", "refuses the connection", "Start it: "),
    "no address": ("nonsense", "is no address", ""),
    "half an address": ("https://[::1", "is no address", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "told", "todo"), WAYS.values(), ids=WAYS)
async def test_the_way_to_a_url_is_reported_by_the_step_at_which_it_ends(
    answers: tuple[str, ...] | str, told: str, todo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    if isinstance(answers, str):
        results = await way(answers)
    else:
        async with answering(*answers) as url:
            results = await way(url)
    wrong = [result for result in results if not result.ok]
    assert told in wrong[0].detail and todo in wrong[0].todo
    assert TOKEN not in str(results)


ERRORS: dict[str, tuple[Exception, Exception | None, str]] = {
    "a certificate": (
        httpx2.ConnectError("x"),
        ssl.SSLError("CERTIFICATE_VERIFY_FAILED"),
        "trusted: x",
    ),
    "no TLS": (httpx2.ConnectError("x"), ssl.SSLError("WRONG_VERSION_NUMBER"), "not speak TLS"),
    "a firewall": (httpx2.ConnectTimeout(""), None, "does not answer within 20 s"),
    "a cut": (httpx2.ReadError(""), None, "hangs up without an answer (ReadError)"),
}


@pytest.mark.parametrize(("error", "cause", "told"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_reported_by_its_cause(
    error: Exception, cause: Exception | None, told: str
) -> None:
    error.__cause__ = cause
    said, todo = unreached(error, "https://a.example")
    assert said.startswith("a.example") and told in said and todo


@pytest.mark.parametrize("error", [None, "407 x", "503 x"])
async def test_a_proxy_that_is_in_the_way_is_named(
    error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with answering(error or WELL) as proxy:
        address = proxy if error else NOBODY
        monkeypatch.setenv("HTTP_PROXY", address.replace("://", "://me:secret@"))
        found = (await way("http://127.0.0.1:9"))[-1]
    assert f"the proxy {address.removeprefix('http://')} (HTTP_PROXY)" in found.detail
    assert "NO_PROXY=127.0.0.1" in found.todo and "secret" not in str(found)


async def test_no_token_is_sent_where_none_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")
    async with answering(WELL, "421 x", "500 x") as url:
        last = (await way(url))[-1]
    assert last.what == "URL with our token" and "none is known" in last.detail


@contextlib.asynccontextmanager
async def tunnel(url: str, host: str) -> AsyncIterator[str]:
    """A TCP forwarder to a server, which gets requests as from a tunnel of that host name."""
    target, busy = int(url.rsplit(":", 1)[1]), set[asyncio.Task[None]]()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter, own: bytes) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data.replace(own, b"Host: " + host.encode()))
                await sink.drain()
        sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = b"Host: 127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        there, back = await asyncio.open_connection("127.0.0.1", target)
        try:
            await asyncio.gather(pipe(reader, back, own), pipe(there, writer, own))
        finally:
            for sink in (back, writer):
                sink.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(forward(reader, writer))
        busy.add(task)
        task.add_done_callback(busy.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.mark.slow
async def test_through_a_tunnel_all_is_well_once_its_host_is_allowed(tmp_path: Path) -> None:
    with http_server(fill(tmp_path / "a"), RMI_AGENT_ALLOWED_HOSTS="*.tunnel.example") as (
        url,
        process,
    ):
        port = of_port(load(port=int(url.rsplit(":", 1)[1])))
        assert port.ok and f"this server listens (process {process.pid})" in port.detail
        async with tunnel(url, "me.tunnel.example") as outside:
            found = await way(outside)
            assert all(result.ok for result in found), found
            assert [result.what.removeprefix("URL ") for result in found] == [
                *("reachable", "host name", "without a token", "with our token", "/mcp", "/sse")
            ]
        async with tunnel(url, "me.other.example") as outside:
            last = (await way(outside))[-1]
            assert last.what == "URL host name" and "RMI_AGENT_ALLOWED_HOSTS" in last.todo
        assert token() not in str(found)


# What hosts have.


def configured(name: str, text: str) -> Host:
    host = host_of(name)  # type: ignore[arg-type]
    host.config.parent.mkdir(parents=True, exist_ok=True)
    host.config.write_text(text)
    return host


async def at_host(host: Host) -> list[CheckResult]:
    return [result async for result in of_host(host, {})]


async def test_a_host_without_an_entry_is_no_failure(home: Path) -> None:
    host = host_of("cursor")
    host.folder.mkdir()
    assert "install cursor adds one" in (await at_host(host))[0].detail
    configured("cursor", '{"mcpServers": {"git": {"command": "uvx", "args": ["git"]}, "x": 1}}')
    assert [one.ok for one in await at_host(host)] == [None]


@pytest.mark.parametrize("text", ['{"mcpServers": {},}', "[]", '{"mcpServers": 1}', "\udcff"])
async def test_a_broken_config_is_found(text: str) -> None:
    host = configured("claude-desktop", "")
    host.config.write_bytes(text.encode("utf-8", "surrogateescape"))
    (result,) = await at_host(host)
    assert result.ok is False and str(host.config) in result.detail and result.todo


async def test_the_block_of_old_that_claude_desktop_does_not_take_is_found() -> None:
    entry = {"url": "https://x.ngrok.io/sse", "transport": "sse"}
    host = configured(
        "claude-desktop", json.dumps({"mcpServers": {"python-executor-remote": entry}})
    )
    (result,) = await at_host(host)
    assert result.ok is False and "supports only commands" in result.detail
    assert (
        "connect claude-desktop https://x.ngrok.io/sse --name python-executor-remote" in result.todo
    )


async def test_a_command_that_is_gone_is_found(home: Path) -> None:
    gone = str(home / "gone" / "rmi-agent-mcp-server")
    host = configured("cursor", json.dumps({"mcpServers": {"p": {"command": gone}}}))
    (result,) = await at_host(host)
    assert result.ok is False and "there is no program" in result.detail
    assert result.todo == "Run: rmi-agent install cursor --name p"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


@POSIX
async def test_what_a_command_said_last_is_why_it_does_not_work(home: Path) -> None:
    said = "import sys; sys.exit('PYTHON_TIMEOUT: it is no number')"
    command = script(home / "rmi-agent-mcp-server", said)
    entry = {"command": command, "args": ["--from", "file:///src"]}
    host = configured("cursor", json.dumps({"mcpServers": {"p": entry}}))
    (result,) = await at_host(host)
    assert result.ok is False and "PYTHON_TIMEOUT: it is no number" in result.detail
    assert result.todo == "Run: rmi-agent install cursor --name p"


async def test_a_bridge_that_would_open_a_browser_is_not_started() -> None:
    bridge = {"command": "npx", "args": ["-y", "mcp-remote", "https://t.example/mcp"]}
    host = configured("cursor", json.dumps({"mcpServers": {"python-remote": bridge}}))
    (result,) = await at_host(host)
    assert result.ok is None and "browser" in result.detail


# stdout, the port, folders, the token.


@POSIX
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("print('Starting...')", "b'Starting...\\n' to stdout, which is not a message"),
        ("print('[1]')", "which is not a message"),
        ("", "it exited instead of answering"),
        ("import time; time.sleep(60)", "no answer in 0 s"),
    ],
)
async def test_whatever_is_no_message_on_stdout_is_found(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", text))
    with pytest.raises(StdoutPolluted, match=".") as caught:
        await conversation([], 0.3 if "sleep" in text else 30)
    assert told in str(caught.value)


SLOW_SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    name = asked.get("params", {}).get("name")
    facts, text = {"status": "ok"}, "descriptor child print"
    if name == "run_cell":
        facts, text = {"status": "running", "session_id": "s", "cell": 1}, "descriptor"
    result = {"structuredContent": facts, "content": [{"text": text}], "isError": False}
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


@POSIX
async def test_output_that_comes_late_on_a_busy_machine_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", SLOW_SERVER))
    assert await conversation([], 30) == 4


async def test_who_has_the_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = of_port(load(port=port))
        assert result.ok is False
        assert f"127.0.0.1:{port} is taken by" in result.detail
        assert f"process {os.getpid()}" in result.detail
    assert of_port(load(port=port)).detail == f"127.0.0.1:{port} is free"


async def test_the_token_is_told_by_its_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(tmp_path / "s"))
    assert of_token(load()).ok is None
    path = token_file()
    path.parent.mkdir(parents=True)
    path.write_text(TOKEN)
    path.chmod(0o600)
    result = of_token(load())
    assert result.ok and str(path) in result.detail and TOKEN not in str(result)
    path.write_text("short")
    assert of_token(load()).ok is False
    if sys.platform != "win32":
        path.chmod(0o644)
        assert "accessible to other users" in of_token(load()).detail
    named = load(rmi_agent_token=TOKEN, rmi_agent_tokens=f"alice:{TOKEN}2")
    assert of_token(named).detail == "RMI_AGENT_TOKEN and RMI_AGENT_TOKENS for alice"
    assert of_token(load(rmi_agent_token="short")).ok is False


@POSIX
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may all")
async def test_a_folder_that_can_not_be_written_to_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert of_folder("projects", tmp_path, "PYTHON_PROJECTS_DIR").ok is False
    assert "can't be created" in of_folder("projects", tmp_path / "a" / "b", "X").detail
    tmp_path.chmod(0o700)
    assert of_folder("projects", tmp_path, "PYTHON_PROJECTS_DIR").ok


async def test_a_folder_that_is_new_or_empty_is_reported_as_such(tmp_path: Path) -> None:
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    new = tmp_path / "a" / "b"
    assert of_folder("projects", new, "X").detail == f"{new} (X): new, empty"
    assert list(tmp_path.iterdir()) == []
    assert of_folder("projects", tmp_path, "X").detail == f"{tmp_path} (X): empty"
    (tmp_path / "a").write_text("")
    assert of_folder("projects", tmp_path, "X").detail == f"{tmp_path} (X)"
    assert of_folder("projects", new, "X").ok is False  # a file is in the way


async def test_a_misspelled_setting_in_an_entry_is_named(home: Path) -> None:
    gone = str(home / "gone" / "rmi-agent-mcp-server")
    entry = {"command": gone, "env": {"RMI_AGENT_TIMEOUT": "9"}}
    host = configured("cursor", json.dumps({"mcpServers": {"p": entry}}))
    found = [one.detail for one in await at_host(host)]
    assert "Did you mean PYTHON_TIMEOUT?" in found[0]


# All of it.

CLI = [sys.executable, "-m", "rmi_agent.server.cli"]


async def test_a_resident_server_is_told_of_and_one_of_another_version_is_amiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nobody = await of_resident(load())
    assert (nobody.ok, nobody.detail) == (None, "none; rmi-agent start starts one")
    born = resident.born(os.getpid()) or 0.0
    with resident.lease():
        resident.publish(resident.Record(os.getpid(), born, "0.0.9", "http://127.0.0.1:9", None))
        other = await of_resident(load())
    assert other.ok is False
    assert "is version 0.0.9" in other.detail and "Restart the background server" in other.detail
    resident.publish(resident.Record(os.getpid(), born, "0.0.9", "http://127.0.0.1:9", None))
    crashed = await of_resident(load())
    assert crashed.ok is None and "crashed or was killed" in crashed.detail


@pytest.mark.slow
async def test_trying_an_entry_that_starts_a_resident_server_on_demand_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    env = {
        "PYTHON_PROJECTS_DIR": str(fill(tmp_path)),
        "RMI_AGENT_ATTACH": "always",
        "RMI_AGENT_SANDBOX": "off",
    }
    entry = {"command": CLI[0], "args": CLI[1:], "env": {**env, "RMI_AGENT_KERNEL_POOL": "0"}}
    host = configured("claude-code", json.dumps({"mcpServers": {"python": entry}}))
    (result,) = await at_host(host)
    assert result.ok is True and "started when the host first needs it" in result.detail
    assert resident.found() is None and not resident.record_file().exists()


# A new user's folders are below their home folder.
OWN_FOLDERS = {
    *("XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "IPYTHONDIR"),
}


@pytest.mark.slow
async def test_a_well_machine_is_one_screen_of_ticks(tmp_path: Path, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = str(other.getsockname()[1])
    new = tmp_path / "new"
    env = server_env(new / "python_projects", RMI_AGENT_PORT=free, RMI_AGENT_KERNEL_PRELOAD="")
    env = {name: value for name, value in env.items() if name not in OWN_FOLDERS}
    install = [*CLI, "install", "claude-code", "--no-check"]
    subprocess.run(install, env=env, check=True, capture_output=True, timeout=60)
    before = sorted(tmp_path.rglob("*"))
    words = [*CLI, "doctor"]
    with tempfile.TemporaryDirectory() as temporary:  # a short path: sockets are made below it
        env["TMPDIR"] = temporary
        done = subprocess.run(words, env=env, cwd=home, capture_output=True, text=True, timeout=180)
        assert os.listdir(temporary) == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(tmp_path.rglob("*")) == before  # nothing is created
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and "✗" not in done.stdout and done.stderr == ""
    for words in (
        *("✓ Python: 3.", "✓ packages: rmi-agent-mcp-server "),
        f"✓ projects: {new / 'python_projects'} (PYTHON_PROJECTS_DIR): new, empty",
        f"✓ notebooks: {new / 'notebooks'} (RMI_AGENT_NOTEBOOKS_DIR): new, empty",
        *("✓ sandbox over HTTP: ", "✓ kernel: a cell took ", "✓ interrupt: ", "✓ fork server: "),
        *("✓ stdout on stdio: 3 messages", f"✓ port: 127.0.0.1:{free} is free", " token: "),
        '✓ Claude Code, "python": starts and lists 20 tools',
        "- hosts: not found on this machine: Claude Desktop, Codex, Cursor, ",
    ):
        assert words in done.stdout, done.stdout
    assert env["TMPDIR"] not in done.stdout


@pytest.mark.slow
async def test_for_programs_it_is_one_list_with_everything_that_is_amiss(
    tmp_path: Path, home: Path
) -> None:
    configured("cursor", "{")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        env = server_env(fill(tmp_path), RMI_AGENT_PORT=port, RMI_AGENT_KERNEL_NAME="no-such")
        words = [*CLI, "doctor", "--json", "--url", "https://nowhere.invalid"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert all(list(one) == ["what", "ok", "detail", "todo"] for one in found)
    wrong = {one["what"] for one in found if one["ok"] is False}
    assert wrong == {"kernel", "stdout on stdio", "port", "Cursor", "URL reachable"}
    assert all(one["todo"] for one in found if one["ok"] is False)


async def test_settings_that_can_not_be_used_are_the_last_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHON_TIMEOUT", "soon")
    last = (await report(None, show=True))[-1]
    assert last.ok is False
    assert capsys.readouterr().out.splitlines()[-1] == str(last)
    assert str(last).startswith("✗ settings: PYTHON_TIMEOUT: ")
