"""Tokens: asked for everywhere, told to nobody, and one's own for everybody."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastmcp import Client
from rmi_agent.client import RmiMcpClient, local_token
from rmi_agent.server import load
from rmi_agent.server.auth import tokens as auth
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.launch import launch

from tests.server.conftest import HTTP_SERVER, fill, server_env
from tests.server.served import (
    ALICE,
    BOB,
    INITIALIZE,
    TEXT,
    USERS,
    Served,
    bearer,
    request,
    served,
    spoken,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.security]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
GOOD = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("t"))
    with served(projects, RMI_AGENT_TOKENS=USERS) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for the token that is made."""
    for name in ("XDG_STATE_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "state"))
    return auth.token_file()


# -- every route


@pytest.mark.parametrize("headers", [{}, bearer("wrong-wrong-wrong-wrong")], ids=["none", "wrong"])
@pytest.mark.parametrize(
    "path",
    [
        "/mcp",
        "/mcp/",
        "/MCP",
        "/%6dcp",
        "//mcp",
        "/sse",
        "/messages",
        "/messages/",
        "/messages/?session_id=00000000000000000000000000000000",
        "/",
        "/sessions/1",
        "/nothing-here",
        "/.well-known/oauth-protected-resource",
    ],
)
async def test_no_path_says_anything_without_a_token(
    server: Served, path: str, headers: dict[str, str]
) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 401, method
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert ALICE not in answer.text


async def test_a_path_that_does_not_exist_is_told_to_callers_that_are_known(server: Served) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert (await http.get("/nothing-here", headers=bearer(ALICE))).status_code == 404


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ([], False),
        (["Authorization:"], False),
        (["Authorization: Bearer"], False),
        (["Authorization: Bearer "], False),
        (["Authorization: Basic YWxpY2U6eA=="], False),
        ([f"Authorization: Basic {ALICE}"], False),
        ([f"Authorization: {ALICE}"], False),
        ([f"Authorization: Bearer {ALICE}x"], False),
        ([f"Authorization: Bearer {ALICE[:-1]}"], False),
        ([f"Authorization: Bearer {ALICE.upper()}"], False),
        ([f"Authorization: Bearer {ALICE},{BOB}"], False),
        ([f"Authorization: Bearer {USERS}"], False),
        ([f"Authorization: Bearer alice:{ALICE}"], False),
        ([f"Authorization: Bearer  {ALICE}"], False),
        (["Authorization: Bearer \xe4\xf6\xfc\xff\x80" * 4], False),
        (["Authorization: Bearer " + "x" * 10_000], False),
        ([f"X-Authorization: Bearer {ALICE}"], False),
        (["Authorization: Bearer wrong", f"Authorization: Bearer {ALICE}"], False),
        ([f"Cookie: Authorization=Bearer {ALICE}"], False),
        ([f"authorization: bearer {ALICE}"], True),
        ([f"AUTHORIZATION: BEARER {ALICE}"], True),
        ([f"Authorization: Bearer {BOB}"], True),
    ],
)
def test_only_one_form_of_the_header_is_a_token(
    server: Served, lines: list[str], known: bool
) -> None:
    answer = spoken(server.port, request("Host: localhost", *lines, method="GET", path="/x"))
    assert status(answer) == (404 if known else 401)


def test_a_token_in_the_url_is_none(server: Served) -> None:
    for query in (f"?token={ALICE}", f"?access_token={ALICE}", f"?authorization=Bearer+{ALICE}"):
        answer = spoken(server.port, request("Host: localhost", method="GET", path=f"/x{query}"))
        assert status(answer) == 401


def test_a_header_of_100_kb_is_refused_and_harms_nobody(server: Served) -> None:
    line = "Authorization: Bearer " + "x" * 100_000
    answer = spoken(server.port, request("Host: localhost", line, method="GET", path="/x"))
    assert status(answer) in (400, 401)  # as it comes in pieces or at once
    good = request("Host: localhost", f"Authorization: Bearer {BOB}", method="GET", path="/x")
    assert status(spoken(server.port, good)) == 404


def test_tokens_are_compared_all_and_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("rmi_agent.server.auth.tokens.hmac.compare_digest", counting)
    tokens = auth.Tokens({"alice": ALICE, "bob": BOB, "carol": GOOD})
    for given, name in (
        (ALICE, "alice"),
        (GOOD, "carol"),
        ("no", None),
        ("", None),
        ("\udc80", None),
    ):
        compared.clear()
        found = asyncio.run(tokens.verify_token(given))
        assert (found.client_id if found else None) == name
        assert len(compared) == 3
        assert {len(part) for pair in compared for part in pair} == {32}
        assert found is None or given not in repr(found)


# -- settings


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("alice:short", "the token of 'alice'"),
        ("alice:with a space in it, bob:x", "the token of 'alice'"),
        (f"al ice:{GOOD}", "names have letters"),
        (f"älice:{GOOD}", "names have letters"),
        (f":{GOOD}", "names have letters"),
        (f"alice:{GOOD},alice:{GOOD}2", "repeats a name or a token"),
        (f"alice:{GOOD},bob:{GOOD}", "repeats a name or a token"),
        (f"local:{GOOD}", "without tokens"),
        (",", "neither name:token"),
        (GOOD, "neither name:token"),
        (f"alice={GOOD}", "neither name:token"),
        (GOOD * 300, "neither name:token"),
        ("/no/such/file-of-tokens", "can't be read"),
        ("/", "can't be read"),
    ],
)
def test_tokens_that_cannot_be_used_are_one_line_without_them(value: str, words: str) -> None:
    with pytest.raises(BadSettings) as error:
        auth.access(load(rmi_agent_tokens=value))
    text = str(error.value)
    assert text.startswith("RMI_AGENT_TOKENS: ")
    assert words in text
    assert "\n" not in text
    assert GOOD not in text


@pytest.mark.parametrize("value", ["short", "fifteen-letters", "with a space in it", "ümläut" * 5])
def test_a_token_that_can_be_guessed_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(BadSettings) as error:
        auth.access(load(rmi_agent_token=value))
    assert str(error.value).startswith("RMI_AGENT_TOKEN: a token has at least 16 characters")
    assert value not in str(error.value)


def test_settings_never_show_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(rmi_agent_token=GOOD, rmi_agent_tokens=USERS)
    shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
    assert not [token for token in (GOOD, ALICE, BOB) if token in shown]
    with pytest.raises(BadSettings) as error:
        load(rmi_agent_token=[GOOD])
    assert GOOD not in str(error.value)


async def test_one_token_and_named_ones_go_together() -> None:
    found = auth.access(load(rmi_agent_token=GOOD, rmi_agent_tokens=USERS)).tokens
    assert found is not None
    names = [(await found.verify_token(token)) for token in (GOOD, ALICE, BOB)]
    assert [name.client_id if name else None for name in names] == ["token", "alice", "bob"]
    with pytest.raises(BadSettings, match="^RMI_AGENT_TOKEN: RMI_AGENT_TOKENS has this token"):
        auth.access(load(rmi_agent_token=ALICE, rmi_agent_tokens=USERS))
    with pytest.raises(BadSettings, match="^RMI_AGENT_TOKEN: RMI_AGENT_TOKENS has this token"):
        auth.access(load(rmi_agent_token=GOOD, rmi_agent_tokens=f"token:{ALICE}"))


@POSIX
def test_a_file_of_tokens_is_read_if_it_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\n alice : {ALICE}\nbob:{BOB}  \n")
    path.chmod(0o600)
    assert auth.configured_tokens(load(rmi_agent_tokens=str(path))) == {"alice": ALICE, "bob": BOB}
    for mode in (0o640, 0o604, 0o660, 0o644):
        path.chmod(mode)
        with pytest.raises(BadSettings, match=f"^RMI_AGENT_TOKENS: .*chmod 600 {path}$") as error:
            auth.access(load(rmi_agent_tokens=str(path)))
        assert ALICE not in str(error.value)
    path.chmod(0o600)
    path.write_text(f"alice:{ALICE}\nnonsense {BOB}\n")
    with pytest.raises(BadSettings, match="line 2 of") as error:
        auth.access(load(rmi_agent_tokens=str(path)))
    assert BOB not in str(error.value)


def test_kernels_never_inherit_a_token_whatever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", GOOD)
    monkeypatch.setenv("RMI_AGENT_TOKENS", USERS)
    monkeypatch.setenv("RMI_AGENT_KERNEL_ENV", "RMI_AGENT_TOKEN,RMI_AGENT_TOKENS,rmi_agent_token")
    assert not [name for name in launch(load()).env if "TOKEN" in name.upper()]


# -- the token that is made


@POSIX
def test_the_token_that_is_made_is_its_users_alone_and_made_once(state: Path) -> None:
    first = auth.access(load()).local
    assert first is not None
    assert first.new
    token = state.read_text().strip()
    assert len(token) == 43  # 256 bits in base64
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700
    assert [path.name for path in state.parent.iterdir()] == ["token"]
    again = auth.access(load()).local
    assert again is not None
    assert not again.new
    assert again.token.get_secret_value() == token
    assert token in first.announcement("http://127.0.0.1:1")
    assert token not in again.announcement("http://127.0.0.1:1")
    assert token not in repr(first)


def test_starts_at_the_same_moment_have_one_token(state: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: auth.local_token(), range(16)))
    assert len({entry.token.get_secret_value() for entry in made}) == 1
    assert sum(entry.new for entry in made) == 1


def test_a_token_that_was_set_leaves_no_file(state: Path) -> None:
    assert auth.access(load(rmi_agent_token=GOOD)).local is None
    assert auth.access(load(rmi_agent_tokens=USERS)).local is None
    assert not state.parent.exists()


def broken_files() -> list[Any]:
    def open_to_others(path: Path) -> None:
        path.write_text(GOOD)
        path.chmod(0o644)

    def anothers(path: Path) -> None:
        path.write_text(GOOD)
        path.chmod(0o600)
        os.chown(path, 12345, 12345)

    root = sys.platform != "win32" and os.getuid() == 0
    return [
        pytest.param(
            open_to_others, "is accessible to other users.*delete it", id="open", marks=POSIX
        ),
        pytest.param(
            anothers,
            "belongs to another user.*delete it",
            id="another's",
            marks=pytest.mark.skipif(not root, reason="only root gives files away"),
        ),
        pytest.param(lambda path: path.touch(0o600), "no token in", id="empty"),
        pytest.param(lambda path: path.mkdir(), "can't be read|is not a regular file", id="folder"),
        pytest.param(
            lambda path: os.mkfifo(path, 0o600), "is not a regular file", id="pipe", marks=POSIX
        ),
    ]


@pytest.mark.parametrize(("make", "words"), broken_files())
def test_a_file_that_others_may_know_is_refused(state: Path, make: Any, words: str) -> None:
    state.parent.mkdir(parents=True)
    make(state)
    with pytest.raises(BadSettings, match=f"^RMI_AGENT_TOKEN: .*({words})") as error:
        auth.access(load())
    assert "\n" not in str(error.value)
    assert GOOD not in str(error.value)


def test_the_first_start_shows_the_token_and_later_ones_where_it_is(
    tmp_path: Path, state: Path
) -> None:
    projects = fill(tmp_path)
    with served(projects) as first:
        told = first.log.read_text()
    token = state.read_text().strip()
    assert f"\n    {token}\n" in told
    assert f"rmi-agent check --server {first.url}/mcp" in told
    assert '"Authorization:${AUTH}"' in told
    assert "curl " in told
    with served(projects) as second:
        told = second.log.read_text()
    assert token not in told
    assert str(state) in told


def test_a_start_that_fails_makes_no_token_that_nobody_sees(tmp_path: Path, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [*HTTP_SERVER, "--port", str(taken.getsockname()[1])],
            env=server_env(fill(tmp_path)),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
    assert done.returncode == 2
    assert "can't listen" in done.stderr
    assert not state.exists()


@POSIX
def test_the_shown_curl_line_works(tmp_path: Path, state: Path) -> None:
    with served(fill(tmp_path)) as server:
        told = server.log.read_text()
        line = re.search(r"    (curl .*?\}')\n", told, re.S)
        assert line is not None
        done = subprocess.run(["sh", "-c", line[1]], capture_output=True, text=True, timeout=30)
    assert '"serverInfo"' in done.stdout, done.stderr


# -- the client


async def test_client_and_server_agree_where_the_token_is_and_it_is_found(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_token.token_file() == auth.token_file() == state
    with served(fill(tmp_path)) as server:
        for path, mode in (("mcp", "auto"), ("mcp", "legacy"), ("sse", "legacy")):
            async with RmiMcpClient(f"{server.url}/{path}", mode=mode) as client:
                assert await client.list_sessions() == []
        monkeypatch.setenv("RMI_AGENT_TOKEN", "another-server-has-this")  # it goes before the file
        for path in ("mcp", "sse"):
            with pytest.raises(PermissionError, match="Set RMI_AGENT_TOKEN"):
                async with RmiMcpClient(f"{server.url}/{path}"):
                    pass


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/mcp", True),
        ("http://127.1.2.3/mcp", True),
        ("http://localhost:8000/mcp", True),
        ("http://LOCALHOST/mcp", True),
        ("http://[::1]:8000/mcp", True),
        ("https://localhost/mcp", True),
        ("http://example.com/mcp", False),
        ("http://127.0.0.1.example.com/mcp", False),
        ("http://localhost.example.com/mcp", False),
        ("http://127.0.0.1@example.com/mcp", False),
        ("http://localhost:x@example.com/mcp", False),
        ("http://example.com#@127.0.0.1/", False),
        ("http://example.com?@127.0.0.1/", False),
        ("http://example.com/127.0.0.1", False),
        ("http://10.0.0.1/mcp", False),
        ("http://0.0.0.0/mcp", False),
        ("http://[::]/mcp", False),
        ("http://192.168.1.1/mcp", False),
        ("http://2130706433/mcp", False),
        ("http:///mcp", False),
        ("http://[/mcp", False),
    ],
)
def test_the_local_token_is_for_this_machine_alone(state: Path, url: str, here: bool) -> None:
    state.parent.mkdir(parents=True)
    state.write_text(GOOD)
    assert local_token.local_token(url) == (GOOD if here else None)


class Ear:
    """A listener that answers every request alike and keeps what it heard."""

    def __init__(self, answer: str) -> None:
        self.answer, self.heard = answer.encode(), b""

    async def __aenter__(self) -> Ear:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()


@pytest.mark.parametrize("path", ["mcp", "sse"])
async def test_a_redirect_takes_the_local_token_nowhere(state: Path, path: str) -> None:
    state.parent.mkdir(parents=True)
    state.write_text(GOOD)
    nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with Ear(nothing) as thief:
        away = (
            f"HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:{thief.port}/mcp\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        async with Ear(away) as honest:
            with contextlib.suppress(Exception):  # there is no server; what was sent counts
                async with RmiMcpClient(f"http://127.0.0.1:{honest.port}/{path}"):
                    pass
            assert GOOD.encode() in honest.heard
        assert GOOD.encode() not in thief.heard


async def test_a_proxy_from_the_environment_hears_no_local_token(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with served(fill(tmp_path)) as server:
        async with Ear(answer) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            for path in ("mcp", "sse"):
                async with RmiMcpClient(f"{server.url}/{path}") as client:
                    assert await client.list_sessions() == []
            assert proxy.heard == b""


# -- nowhere to be found

LOOK = """
import os, sys
print(dict(os.environ)); print(sys.argv, open('/proc/self/cmdline').read())
import subprocess; print(subprocess.run('env', capture_output=True, text=True).stdout)
os.environ
"""


@pytest.mark.parametrize("given", ["environment", "dotenv", "file"])
async def test_a_token_is_in_no_log_notebook_result_or_command_line(
    tmp_path: Path, given: str
) -> None:
    projects = fill(tmp_path)
    settings: dict[str, str] = {}
    if given == "environment":
        settings = {"RMI_AGENT_TOKENS": USERS, "RMI_AGENT_TOKEN": GOOD}
    elif given == "dotenv":
        (tmp_path / ".env").write_text(f"RMI_AGENT_TOKENS={USERS}\nRMI_AGENT_TOKEN={GOOD}\n")
    else:
        listed = f"alice:{ALICE}\nbob:{BOB}\ntoken:{GOOD}\n"
        (tmp_path / "tokens").write_text(listed)
        (tmp_path / "tokens").chmod(0o600)
        settings = {"RMI_AGENT_TOKENS": str(tmp_path / "tokens")}
    (projects / "look.py").write_text(LOOK)
    seen = ""
    with served(projects, "--log-level", "debug", cwd=tmp_path, **settings) as server:
        for path, mode, token in (
            ("mcp", "auto", ALICE),
            ("mcp", "legacy", BOB),
            ("sse", "legacy", GOOD),
        ):
            async with Client(f"{server.url}/{path}", auth=token, mode=mode) as client:
                for tool, arguments in (
                    ("run_cell", {"code": LOOK}),
                    ("run_python", {"file_name": "look.py"}),
                    ("run_cell", {"code": "1/0", "session_id": "unknown"}),
                    ("list_sessions", {}),
                ):
                    seen += repr(await client.call_tool_mcp(tool, arguments))
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
            for body in ("{", '{"jsonrpc": "2.0"}', "[" * 5000):
                answer = await http.post("/mcp", content=body, headers={**TEXT, **bearer(ALICE)})
                seen += answer.text
            answer = await http.post("/mcp", json=INITIALIZE, headers=bearer(ALICE + "x"))
            assert answer.status_code == 401
            seen += answer.text
        for process in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seen += repr(process.cmdline())
        seen += repr(psutil.Process(server.process.pid).cmdline())
    log = server.log.read_text()
    assert "DEBUG" in log
    notebooks = "".join(path.read_text() for path in (tmp_path / "notebooks").glob("*.ipynb"))
    assert "environ" in notebooks
    for token in (ALICE, BOB, GOOD):
        assert token not in seen
        assert token not in log
        assert token not in notebooks


# -- without tokens


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--host", "0.0.0.0"], {}),
        (["--host", "::"], {}),
        (["--host", "203.0.113.7"], {}),
        (["--host", "example.com"], {}),
        ([], {"RMI_AGENT_ALLOWED_HOSTS": "*.ngrok.app"}),
    ],
)
def test_no_token_at_all_is_for_loopback_and_no_tunnel(
    tmp_path: Path, options: list[str], settings: dict[str, str]
) -> None:
    done = subprocess.run(
        [*HTTP_SERVER, "--port", "0", "--insecure-no-auth", *options],
        env=server_env(fill(tmp_path), **settings),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 2
    assert "--insecure-no-auth: " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_no_token_at_all_is_said_in_the_log_and_leaves_no_file(
    tmp_path: Path, state: Path
) -> None:
    with served(fill(tmp_path), "--insecure-no-auth") as server:
        async with Client(f"{server.url}/mcp") as client:
            assert (await client.call_tool_mcp("run_cell", {"code": "1"})).is_error is False
    assert "WARNING" in server.log.read_text()
    assert "--insecure-no-auth" in server.log.read_text()
    assert not state.exists()
