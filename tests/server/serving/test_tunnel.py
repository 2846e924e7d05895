"""A public address by `--tunnel ngrok`, with a forwarder on this machine where ngrok would be.

Clients are given the public URL itself; only their connections lead to the forwarder's port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StreamableHttpTransport
from key_value.aio.stores.memory import MemoryStore
from rmi_agent.server import load
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.launch import launch
from rmi_agent.server.serving import http
from rmi_agent.server.serving import tunnel as tunnels
from rmi_agent.server.serving.tunnel import through, tunnel

from tests.server.auth.oauth import Browser, ScriptedOAuth
from tests.server.conftest import HTTP_SERVER, fill, server_env
from tests.server.served import ALICE, Served, served

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
PUBLIC = "https://abc-123.ngrok-free.app"
AUTHTOKEN = "2abcdefghijklmnopqrstuvwxyz_0123456789"


@dataclass
class Edge(httpx2.AsyncBaseTransport):
    """ngrok's edge: leads the public address to the tunnel, and adds the headers that it adds."""

    port: int

    def __post_init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.netloc.decode()
        assert request.headers["Host"] == host
        sent = httpx2.Request(
            request.method,
            request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port),
            headers=[
                *request.headers.raw,
                (b"X-Forwarded-For", b"203.0.113.9"),
                (b"X-Forwarded-Host", host.encode()),
                (b"X-Forwarded-Proto", b"https"),
            ],
            stream=request.stream,
            extensions=request.extensions,
        )
        return await self._inner.handle_async_request(sent)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class Tunnelled:
    server: Served
    asked: Path

    def events(self) -> list[dict[str, Any]]:
        return events(self.asked)

    def edge(self) -> Edge:
        return Edge(self.events()[0]["edge"])

    def client(self, **given: Any) -> httpx2.AsyncClient:
        """An HTTP client with connections of its own, as each program has."""
        options = {"timeout": 30, **given, "transport": self.edge(), "trust_env": False}
        return httpx2.AsyncClient(**options)


def events(asked: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in asked.read_text("utf-8").splitlines()]


def standin(folder: Path) -> dict[str, str]:
    """The settings of a server that finds the stand-in where the SDK would be."""
    return {
        "PYTHONPATH": str(Path(__file__).parent / "standin"),
        "STANDIN_LOG": str(folder / "asked"),
        "NGROK_AUTHTOKEN": AUTHTOKEN,
        "RMI_AGENT_TOKENS": f"alice:{ALICE}",
        "RMI_AGENT_KERNEL_POOL": "0",
    }


@contextlib.contextmanager
def tunnelled(folder: Path, **settings: str) -> Iterator[Tunnelled]:
    given = {**standin(folder), **settings}
    with served(fill(folder), "--tunnel", "ngrok", **given) as server:
        yield Tunnelled(server, folder / "asked")


@pytest.mark.slow
async def test_both_transports_work_through_the_tunnel_and_it_closes_at_the_end(
    tmp_path: Path,
) -> None:
    with tunnelled(tmp_path) as through_it:
        [asked] = through_it.events()
        assert asked["address"] == through_it.server.url.removeprefix("http://")
        assert (asked["authtoken"], asked["domain"]) == (AUTHTOKEN, None)
        told = through_it.server.log.read_text("utf-8")
        assert f"rmi-agent check --server {PUBLIC}/mcp\n" in told
        assert f'["-y", "mcp-remote", "{PUBLIC}/mcp",' in told
        assert "RMI_AGENT_AUTH=token+oauth" in told
        clients = [
            Client(kind(f"{PUBLIC}/{path}", auth=ALICE, httpx_client_factory=through_it.client))
            for kind, path in ((StreamableHttpTransport, "mcp"), (SSETransport, "sse"))
        ]
        for client in clients:
            async with client:
                assert "42" in str(await client.call_tool("run_cell", {"code": "6 * 7"}))
        async with through_it.client() as outside:
            # Nobody without the token, and nobody by another name.
            assert (await outside.post(f"{PUBLIC}/mcp")).status_code == 401
            assert (await outside.get(f"{PUBLIC}/sse")).status_code == 401
            key = {"Authorization": f"Bearer {ALICE}"}
            for other in ("https://evil.example", "https://xabc-123.ngrok-free.app"):
                assert (await outside.post(f"{other}/mcp", headers=key)).status_code == 421
    told = through_it.server.log.read_text("utf-8")
    for secret in (ALICE, AUTHTOKEN):
        assert secret not in told
    assert [event["event"] for event in through_it.events()] == ["forward", "close"]


@pytest.mark.slow
async def test_claudes_way_in_works_through_the_tunnel(tmp_path: Path) -> None:
    """OAuth by the public URL alone, which nobody has set: registration, page, token, call."""
    with tunnelled(tmp_path, RMI_AGENT_AUTH="token+oauth") as through_it:
        told = through_it.server.log.read_text("utf-8")
        assert f"ChatGPT:\n\n    {PUBLIC}/mcp\n" in told
        async with through_it.client() as outside:
            refused = await outside.post(f"{PUBLIC}/mcp")
            described = f"{PUBLIC}/.well-known/oauth-protected-resource/mcp"
            assert described in refused.headers["WWW-Authenticate"]
            assert (await outside.get(described)).json()["resource"] == f"{PUBLIC}/mcp"
            about = await outside.get(f"{PUBLIC}/.well-known/oauth-authorization-server")
            assert about.json()["authorization_endpoint"] == f"{PUBLIC}/authorize"

        class Person(ScriptedOAuth):
            async def redirect_handler(self, authorization_url: str) -> None:
                async with Browser(through_it.edge()) as browser:
                    self.leads_to = await browser.sign_in(authorization_url, ALICE)

        factory = through_it.client
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that tokens in memory are lost
            auth = Person(
                f"{PUBLIC}/mcp", token_storage=MemoryStore(), httpx_client_factory=factory
            )
        transport = StreamableHttpTransport(
            f"{PUBLIC}/mcp", auth=auth, httpx_client_factory=factory
        )
        async with Client(transport) as client:
            assert "42" in str(await client.call_tool("run_cell", {"code": "6 * 7"}))


@POSIX
@pytest.mark.slow
def test_ctrl_c_closes_the_tunnel(tmp_path: Path) -> None:
    with tunnelled(tmp_path) as through_it:
        through_it.server.process.send_signal(signal.SIGINT)
        through_it.server.process.wait(20)
    assert [event["event"] for event in through_it.events()] == ["forward", "close"]
    assert "Traceback" not in through_it.server.log.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings", "words", "asked"),
    [
        ((), {"NGROK_AUTHTOKEN": "refused"}, "NGROK_AUTHTOKEN: ngrok does not accept it", []),
        # After the tunnel is there, so that it has to be closed again.
        (
            (),
            {"RMI_AGENT_AUTH": "token+oauth", "RMI_AGENT_PUBLIC_URL": "https://other.example"},
            f"RMI_AGENT_PUBLIC_URL: it is https://other.example, but the tunnel's address is {PUBLIC}.",
            ["forward", "close"],
        ),
        (("--transport", "stdio"), {}, "--tunnel: a tunnel needs HTTP", []),
    ],
)
def test_a_start_that_fails_is_one_line_and_leaves_no_tunnel(
    tmp_path: Path,
    options: tuple[str, ...],
    settings: dict[str, str],
    words: str,
    asked: list[str],
) -> None:
    (tmp_path / "asked").touch()
    command = [word for word in HTTP_SERVER if word not in ("--transport", "http")]
    done = subprocess.run(
        [*command, "--port", "0", "--tunnel", "ngrok", *options],
        env=server_env(fill(tmp_path), **{**standin(tmp_path), **settings}),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [event["event"] for event in events(tmp_path / "asked")] == asked


async def test_a_tunnel_without_a_token_is_refused() -> None:
    with pytest.raises(BadSettings, match="--insecure-no-auth: --tunnel makes the server public"):
        await http(load(port=0), insecure=True, tunnelled=True)


class Sdk(types.ModuleType):
    """An SDK whose `forward` ends as it is told to."""

    def __init__(self, ends: Any) -> None:
        super().__init__("ngrok")
        self._ends = ends

    async def forward(self, address: str, **options: Any) -> Any:
        if isinstance(self._ends, Exception):
            raise self._ends
        return await self._ends()


BAD = f"authentication failed: improper.\nYour authtoken: {AUTHTOKEN}\r\n\r\nERR_NGROK_105\r\n"
LIMIT = "authentication failed: limited to 1 session.\n\nERR_NGROK_108"
SESSION, LISTENER = "failed to connect session", "failed to start listener"
OWN = {"ngrok_domain": "own.example"}
REFUSALS: dict[str, tuple[Any, dict[str, str], str]] = {
    "a wrong authtoken": (ValueError(SESSION, BAD), {}, "NGROK_AUTHTOKEN: ngrok does not"),
    "an unnamed refusal": (ValueError(SESSION, "authentication failure"), {}, "NGROK_AUTHTOKEN"),
    "no network": (ValueError(SESSION, "no tcp connection"), {}, "ngrok: its service can't be"),
    "no answer": (asyncio.Event().wait, {}, "its service can't be reached (no answer within 0 s"),
    "another limit": (ValueError(SESSION, LIMIT), {}, "--tunnel ngrok: ngrok opened no tunnel"),
    "another's domain": (
        ValueError(LISTENER, "not reserved", "ERR_NGROK_320"),
        OWN,
        "RMI_AGENT_NGROK_DOMAIN: ngrok refuses own.example",
    ),
    "a thread of the SDK": (RuntimeError(), {}, "RuntimeError"),
    "no SDK": (None, {}, "pip install 'rmi-agent-mcp-server[ngrok]'"),
    "no authtoken": (RuntimeError(), {"ngrok_authtoken": ""}, "dashboard.ngrok.com"),
    "an example": (RuntimeError(), {"ngrok_authtoken": "YOUR TOKEN"}, "invalid characters"),
    "quotes": (RuntimeError(), {"ngrok_authtoken": "“quoted”"}, "invalid characters"),
}


@pytest.mark.parametrize(("ends", "settings", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_why_there_is_no_tunnel_is_one_line_without_the_authtoken(
    monkeypatch: pytest.MonkeyPatch,
    ends: Any,
    settings: dict[str, str],
    words: str,
) -> None:
    monkeypatch.setattr(tunnels, "OPEN_TIMEOUT", 0.05)
    monkeypatch.setitem(sys.modules, "ngrok", ends and Sdk(ends))
    with pytest.raises(BadSettings) as caught:
        async with tunnel(load(**{"ngrok_authtoken": AUTHTOKEN, **settings}), "127.0.0.1:1"):
            pass
    line = str(caught.value)
    assert words in line
    assert len(line.splitlines()) == 1
    assert AUTHTOKEN not in line


REAL = """
import asyncio, functools, os, sys, ngrok
from rmi_agent.server import load
from rmi_agent.server.serving import tunnel
from rmi_agent.server.errors import BadSettings

async def ask(address):
    ngrok.forward = functools.partial(forward, server_addr=address)
    try:
        async with tunnel.tunnel(load(ngrok_authtoken="secret-secret"), "127.0.0.1:1"):
            pass
    except BadSettings as error:
        print(error, flush=True)

async def main():
    kept, addresses = [], ["127.0.0.1:1"]
    for service in (lambda _, writer: writer.close(), lambda *both: kept.append(both)):
        server = await asyncio.start_server(service, "127.0.0.1", 0)
        addresses.append("127.0.0.1:%d" % server.sockets[0].getsockname()[1])
    for address in addresses:
        await ask(address)
    sys.exit(7)

forward, tunnel.OPEN_TIMEOUT = ngrok.forward, 3.0
with tunnel.left_at_once():
    asyncio.run(main())
"""


@pytest.mark.slow
def test_the_sdk_itself_fails_in_time_and_with_words_that_are_known() -> None:
    """ngrok's own code, with services on this machine that refuse, hang up, and never answer."""
    pytest.importorskip("ngrok")
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
    lines = done.stdout.splitlines()
    assert [line.count("its service can't be reached") for line in lines] == [1, 1, 1]
    assert "no answer within 3 seconds" in lines[2]
    assert "secret-secret" not in done.stdout


@pytest.mark.parametrize("closes", ["fails", "hangs"])
async def test_a_tunnel_that_does_not_close_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closes: str
) -> None:
    class Listener:
        def url(self) -> str:
            return f"{PUBLIC}/"

        async def close(self) -> None:
            if closes == "fails":
                raise ValueError("gone", f"it had {AUTHTOKEN}")
            await asyncio.Event().wait()

    async def opened() -> Listener:
        return Listener()

    monkeypatch.setitem(sys.modules, "ngrok", Sdk(opened))
    monkeypatch.setattr(tunnels, "CLOSE_TIMEOUT", 0.05)
    async with tunnel(load(ngrok_authtoken=AUTHTOKEN), "127.0.0.1:1") as public:
        assert public == PUBLIC
    [record] = caplog.records
    assert "did not confirm" in record.getMessage()
    assert AUTHTOKEN not in record.getMessage()


async def test_the_sdks_own_log_does_not_repeat_the_authtoken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tunnels.keep_out_of_logs(AUTHTOKEN)
    logging.getLogger("ngrok.session").warning("auth of %s failed", AUTHTOKEN)
    [record] = caplog.records
    assert record.getMessage() == "auth of … failed"


def test_the_tunnels_host_is_allowed_and_no_other() -> None:
    before = load(allowed_hosts="own.example", auth="token+oauth")
    after = through(before, PUBLIC)
    assert after.allowed_hosts == ("own.example", "abc-123.ngrok-free.app")
    assert after.public_url == PUBLIC
    assert before.public_url is None
    # A RMI_AGENT_PUBLIC_URL that nobody is told does not stand in the way.
    through(load(public_url="https://other.example"), PUBLIC)
    through(load(public_url=f"{PUBLIC}/", auth="token+oauth"), PUBLIC)


@pytest.mark.parametrize(
    "domain", ["https://own.example", "own.example/", "own", "*.example", "a b.c"]
)
def test_a_domain_is_a_bare_host_name(domain: str) -> None:
    with pytest.raises(BadSettings, match="RMI_AGENT_NGROK_DOMAIN: "):
        load(ngrok_domain=domain)
    assert load(ngrok_domain="").ngrok_domain is None


def test_kernels_never_get_the_authtoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGROK_AUTHTOKEN", AUTHTOKEN)
    settings = load(kernel_env="NGROK_AUTHTOKEN,ngrok_authtoken")
    assert AUTHTOKEN not in str(launch(settings).env)
    assert AUTHTOKEN not in repr(settings)
