"""Clients that speak only OAuth, against a server's own process: sign in, restart, revoke."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastmcp import Client
from key_value.aio.stores.memory import MemoryStore
from rmi_agent.server import load
from rmi_agent.server.auth import public_url
from rmi_agent.server.errors import BadSettings

from tests.ports import free_port
from tests.server.auth.oauth import ScriptedOAuth
from tests.server.conftest import HTTP_SERVER, fill, server_env
from tests.server.served import ALICE, BOB, USERS, Served, served
from tests.server.wire import Wire

pytestmark = [pytest.mark.anyio, pytest.mark.security]


def state(folder: Path) -> dict[str, str]:
    """Where a server keeps sign-ins."""
    names = ("XDG_STATE_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA")
    return dict.fromkeys(names, str(folder / "state"))


@contextlib.contextmanager
def signing(folder: Path, port: int, **settings: str) -> Iterator[Served]:
    projects = folder / "python_projects"
    if not projects.exists():
        fill(folder)
    given = {
        "RMI_AGENT_TOKENS": USERS,
        "RMI_AGENT_AUTH": "token+oauth",
        "RMI_AGENT_PUBLIC_URL": f"http://127.0.0.1:{port}",
        **state(folder),
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
    told = server.log.read_text("utf-8")
    with signing(tmp_path, port) as server:
        second = oauth(url, storage)
        async with Client(url, auth=second) as client:
            assert "21" in str(await client.call_tool("run_cell", {"code": "20 + 1"}))
        assert second.asked == 0
        # Signed out by another process, while the server runs.
        command = [sys.executable, "-m", "rmi_agent.server.cli", "tokens", "revoke", "alice"]
        subprocess.run(command, env=server_env(tmp_path, **state(tmp_path)), check=True)
        third = oauth(url, storage)
        async with Client(url, auth=third) as client:
            await client.list_tools()
        assert third.asked == 1
    told += server.log.read_text("utf-8")
    assert "DEBUG" in told
    minted = third.context.current_tokens
    assert minted is not None
    for secret in (ALICE, BOB, *first.seen, *third.seen, minted.access_token, minted.refresh_token):
        assert secret
        assert secret not in told


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with signing(tmp_path_factory.mktemp("o"), free_port()) as running:
        yield running


async def test_legacy_sse_is_signed_in_to_as_well(server: Served) -> None:
    url = f"{server.url}/sse"
    auth = oauth(url, MemoryStore(), BOB)
    async with Client(url, auth=auth) as client:
        assert "21" in str(await client.call_tool("run_cell", {"code": "20 + 1"}))
    assert auth.asked == 1


async def test_a_page_without_a_sign_in_is_no_way_in(server: Served) -> None:
    auth = oauth(f"{server.url}/mcp", MemoryStore(), "wrong-wrong-wrong-wrong")
    with pytest.raises(Exception, match="leads nowhere"):
        async with Client(f"{server.url}/mcp", auth=auth):
            pass


def test_stdio_knows_nothing_of_it(tmp_path: Path) -> None:
    wire = Wire(
        fill(tmp_path),
        RMI_AGENT_AUTH="token+oidc",
        RMI_AGENT_PUBLIC_URL="nonsense",
        **state(tmp_path),
    )
    try:
        assert "42" in str(wire.call("run_cell", code="6 * 7"))
    finally:
        wire.close()
        wire.process.wait(20)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://python.example", True),
        ("https://python.example/", True),
        ("https://Python.Example:8443", True),
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://python.example", False),
        ("http://10.0.0.1", False),
        ("https://python.example/mcp", False),
        ("https://python.example?x=1", False),
        ("https://python.example#x", False),
        ("https://user@python.example", False),
        ("https://python.example:port", False),
        ("https://python.example:99999", False),
        ("https://", False),
        ("python.example", False),
        ("ftp://python.example", False),
        ("javascript:alert(1)", False),
        ("https://python.example https://evil.com", False),
        ("", False),
    ],
)
def test_a_public_url_is_https_or_loopback_and_bare(url: str, good: bool) -> None:
    settings = load(auth="token+oauth", public_url=url)
    if good:
        assert public_url(settings) == url.rstrip("/").lower()
        return
    with pytest.raises(BadSettings, match="RMI_AGENT_PUBLIC_URL: "):
        public_url(settings)


def test_what_auth_can_be_is_told_without_what_it_is() -> None:
    with pytest.raises(BadSettings) as raised:
        load(auth="Bearer some-token-of-another-program")
    assert "token+oauth" in str(raised.value)
    assert "some-token" not in str(raised.value)


def test_a_server_without_tokens_has_no_sign_in(tmp_path: Path) -> None:
    told = subprocess.run(
        [*HTTP_SERVER, "--port", "0", "--insecure-no-auth"],
        env=server_env(
            fill(tmp_path), RMI_AGENT_AUTH="token+oauth", RMI_AGENT_PUBLIC_URL="https://x.example"
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 2
    assert "--insecure-no-auth: RMI_AGENT_AUTH is token+oauth" in told.stderr
