"""What stands before MCP on HTTP: names, origins, sizes, rates, and patience with nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from mcp import MCPError
from rmi_agent.server import load
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.middleware import BODY_LIMIT
from rmi_agent.server.middleware.limits import AT_ONCE, Allowance

from tests.server.conftest import fill
from tests.server.served import (
    ALICE,
    BOB,
    USERS,
    Served,
    bearer,
    request,
    served,
    spoken,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.security]
PING = '{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
# Seconds, not minutes; what is short about them is all that differs.
IMPATIENT = (
    "from rmi_agent.server.middleware import connections, limits as guard\n"
    "connections.HEAD_SECONDS = 1.5\nguard.BODY_SECONDS = 1.5\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("g"))
    settings = {"RMI_AGENT_TOKENS": USERS, "RMI_AGENT_ALLOWED_HOSTS": "*.ngrok.app"}
    with served(projects, before=IMPATIENT, **settings) as running:
        yield running


def asked(server: Served, *headers: str, method: str = "POST", path: str = "/mcp") -> bytes:
    """What is answered to a caller with a token."""
    known = (f"Authorization: Bearer {ALICE}", "Content-Type: application/json")
    body = PING if method == "POST" else ""
    return spoken(server.port, request(*headers, *known, method=method, path=path, body=body))


# -- names and origins


# FastMCP reads the names; which ones are known is ours.
@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/", "/nothing-here"])
@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1.evil.com", 421),
        ("0.0.0.0", 421),
        ("", 421),
        ("x.ngrok.app.evil.com", 421),
        ("localhost", 0),
        ("[::1]:8000", 0),
        ("X.NGROK.APP:443", 0),
    ],
)
def test_only_known_host_names_are_answered(
    server: Served, host: str, answer: int, path: str
) -> None:
    method = "GET" if path == "/nothing-here" else "POST"
    found = status(asked(server, f"Host: {host}", method=method, path=path))
    assert found == answer if answer else found not in (401, 403, 421)


def test_a_request_without_a_host_or_with_two_is_refused(server: Served) -> None:
    assert status(asked(server)) == 400
    assert status(asked(server, "Host: localhost", "Host: evil.com")) == 400
    old = f"GET /mcp HTTP/1.0\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode()
    assert status(spoken(server.port, old)) == 421


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://evil.com", 403),
        ("http://localhost.evil.com", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost:3000", 0),
        ("http://[::1]:5173", 0),
    ],
)
def test_only_known_origins_are_answered(server: Served, origin: str, answer: int) -> None:
    found = status(asked(server, "Host: localhost", f"Origin: {origin}"))
    assert found == answer if answer else found not in (401, 403, 421)


def test_a_page_can_not_reach_a_tunnel_from_elsewhere(server: Served) -> None:
    for origin in ("https://evil.com", "http://localhost:3000", "https://y.ngrok.app"):
        found = status(asked(server, "Host: x.ngrok.app", f"Origin: {origin}"))
        assert found == 403, origin


def test_a_server_on_all_addresses_is_not_called_by_that_name(tmp_path: Path) -> None:
    with served(fill(tmp_path), "--host", "0.0.0.0", RMI_AGENT_TOKENS=USERS) as server:
        assert server.url.startswith("http://127.0.0.1:")  # as it can be called
        for host, answer in (("0.0.0.0", 421), ("evil.com", 421), ("127.0.0.1", 404)):
            assert status(asked(server, f"Host: {host}", method="GET", path="/x")) == answer


# -- CORS


def test_no_page_elsewhere_may_read_anything_unless_configured(server: Served) -> None:
    answers = [
        asked(server, "Host: localhost", "Origin: http://localhost:3000"),
        asked(server, "Host: localhost", "Origin: http://evil.com"),
        asked(
            server,
            "Host: localhost",
            "Origin: http://localhost:3000",
            "Access-Control-Request-Method: POST",
            method="OPTIONS",
        ),
    ]
    for answer in answers:
        assert b"access-control" not in answer.lower()


async def test_origins_that_are_named_may_read_and_no_others(tmp_path: Path) -> None:
    page = "https://page.example"
    settings = {
        "RMI_AGENT_TOKENS": USERS,
        "RMI_AGENT_CORS_ORIGINS": f"{page}, http://localhost:5173",
    }
    ask = {"Access-Control-Request-Method": "POST"}
    with served(fill(tmp_path), **settings) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:

            async def preflight(origin: str, headers: str) -> httpx2.Response:
                given = {"Origin": origin, "Access-Control-Request-Headers": headers, **ask}
                return await http.options("/mcp", headers=given)

            good = await preflight(page, "authorization, content-type, mcp-protocol-version")
            assert good.status_code == 200  # a browser sends no token with it
            assert good.headers["Access-Control-Allow-Origin"] == page
            assert "POST" in good.headers["Access-Control-Allow-Methods"]
            assert "authorization" in good.headers["Access-Control-Allow-Headers"]
            bad = await preflight("https://evil.example", "authorization")
            assert bad.status_code == 403
            assert "Access-Control-Allow-Origin" not in bad.headers
            for token, code in (("no-such-token-at-all", 401), (ALICE, 404)):
                answer = await http.get("/x", headers={"Origin": page, **bearer(token)})
                assert answer.status_code == code
                assert answer.headers["Access-Control-Allow-Origin"] == page
            loopback = await http.get(
                "/x", headers={"Origin": "http://localhost:1", **bearer(ALICE)}
            )
            assert "Access-Control-Allow-Origin" not in loopback.headers


@pytest.mark.parametrize(
    "value", ["*", "https://*.example", "page.example", "https://a.b/c", "null"]
)
def test_an_origin_is_named_whole(value: str) -> None:
    with pytest.raises(BadSettings, match="^RMI_AGENT_CORS_ORIGINS: .* is not an origin"):
        load(cors_origins=value)


# -- sizes


async def test_the_largest_file_can_be_written_over_both_transports(server: Served) -> None:
    content = "#\n" * 5_000_000  # whose line ends double in JSON
    for path, mode in (("mcp", "auto"), ("mcp", "legacy"), ("sse", "legacy")):
        async with Client(f"{server.url}/{path}", auth=ALICE, mode=mode) as client:
            arguments = {"file_name": f"large_{path}_{mode}.py", "content": content}
            async with asyncio.timeout(60):  # a client of legacy SSE hears nothing of a refusal
                result = await client.call_tool_mcp("write_python_file", arguments)
            assert "(10,000,000 characters)" in result.content[0].text  # type: ignore[union-attr]


async def test_a_larger_body_is_refused_whether_it_says_so_or_not(server: Served) -> None:
    async def endless() -> Any:
        for _ in range(BODY_LIMIT // 1_000_000 + 5):
            yield b" " * 1_000_000

    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        for path, most in (("/mcp", 25), ("/messages/?session_id=" + "0" * 32, 16)):
            for content in (b" " * (most * 1_000_000 + 1), endless()):
                answer = await http.post(path, content=content, headers=bearer(ALICE))
                assert answer.status_code == 413
                assert f"at most {most} MB" in answer.json()["error"]["message"]
    head = request("Host: localhost", f"Authorization: Bearer {ALICE}").replace(
        b"Content-Length: 0", b"Content-Length: 99999999999"
    )
    assert status(spoken(server.port, head)) == 413


# -- rates


def test_an_allowance_is_saved_up_for_a_minute_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("rmi_agent.server.middleware.limits.time.monotonic", lambda: now)
    allowance = Allowance(60)
    for _ in range(60):
        assert allowance.wait() == 0
        allowance.take()
    assert allowance.wait() == pytest.approx(1)
    now += 0.5
    assert allowance.wait() == pytest.approx(0.5)
    now += 0.5
    assert allowance.wait() == 0
    now += 10_000
    for _ in range(60):
        assert allowance.wait() == 0
        allowance.take()
    assert allowance.wait() > 0


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that gives each user one request a second, once a minute's are used up."""
    settings = {"RMI_AGENT_TOKENS": USERS, "RMI_AGENT_RATE_LIMIT": "60"}
    with served(fill(tmp_path_factory.mktemp("r")), **settings) as running:
        yield running


async def use_up(http: httpx2.AsyncClient, token: str) -> httpx2.Response:
    while (answer := await http.get("/x", headers=bearer(token))).status_code == 404:
        pass
    assert answer.status_code == 429
    return answer


async def test_too_many_requests_are_told_when_to_retry_and_others_are_served(
    slow: Served,
) -> None:
    async with (
        httpx2.AsyncClient(base_url=slow.url, trust_env=False) as http,
        Client(f"{slow.url}/mcp", auth=ALICE, mode="2026-07-28") as client,
    ):
        await client.list_tools()  # or it asks for them when it gets its first result
        seconds = int((await use_up(http, ALICE)).headers["Retry-After"])
        assert seconds == 1
        calls = [client.call_tool_mcp("list_sessions", {}) for _ in range(3)]
        *_, refused = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(refused, MCPError)  # the first may come a second later
        assert re.search(r"Nothing was done; try again in \d s\.", str(refused))
        assert (await http.get("/x", headers=bearer(BOB))).status_code == 404
        assert (await http.get("/x", headers=bearer("wrong"))).status_code == 401
        await asyncio.sleep(seconds + 0.1)
        assert (await client.call_tool_mcp("list_sessions", {})).is_error is False


async def test_a_client_of_legacy_sse_waits_instead_since_it_breaks_off_at_an_error(
    slow: Served,
) -> None:
    async with (
        httpx2.AsyncClient(base_url=slow.url, trust_env=False) as http,
        Client(f"{slow.url}/sse", auth=BOB, mode="legacy") as client,
    ):
        await use_up(http, BOB)
        started = time.monotonic()
        calls = [client.call_tool_mcp("list_sessions", {}) for _ in range(3)]
        results = await asyncio.gather(*calls)
        assert not [result for result in results if result.is_error]
        assert time.monotonic() - started > 1


async def test_too_many_open_requests_of_one_user_leave_others_room(server: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx2.Limits(max_connections=None)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60, trust_env=False)
        )
        for _ in range(AT_ONCE):
            stream = http.stream("GET", "/sse", headers=bearer(ALICE))
            assert (await stack.enter_async_context(stream)).status_code == 200
        answer = await http.get("/x", headers=bearer(ALICE))
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
        assert "Nothing was done; try again in 5 s" in answer.json()["error"]["message"]
        async with Client(f"{server.url}/mcp", auth=BOB) as bob:
            assert not (await bob.call_tool_mcp("list_sessions", {})).is_error
    async with asyncio.timeout(20), httpx2.AsyncClient(trust_env=False) as http:
        while (await http.get(f"{server.url}/x", headers=bearer(ALICE))).status_code == 429:
            await asyncio.sleep(0.05)


# -- those who dawdle


def until_closed(connection: socket.socket, drip: bytes = b"") -> tuple[bytes, float]:
    """What a server says before it closes, and after how many seconds; `drip` is sent meanwhile."""
    started, heard = time.monotonic(), b""
    connection.settimeout(0.2)
    while time.monotonic() < started + 30:
        try:
            if drip:
                connection.sendall(drip)
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return heard, time.monotonic() - started
        if not part:
            return heard, time.monotonic() - started
        heard += part
    raise AssertionError(f"it was not closed; it said {heard!r}")


@pytest.mark.parametrize(
    ("beginning", "drip"),
    [
        (b"", b""),
        (b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n", b""),
        (b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n"),
        (b"\r\n", b"\r\n"),
        (b"G", b""),
    ],
    ids=["silent", "half a head", "a dripping head", "dripping line ends", "a letter"],
)
def test_a_connection_without_a_request_is_closed(
    server: Served, beginning: bytes, drip: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(beginning)
        heard, seconds = until_closed(connection, drip)
    assert seconds < 10
    assert seconds > 1 or status(heard) == 400  # what is no HTTP at all is refused at once
    assert b" 200 " not in heard


def test_a_body_that_drips_is_given_up(server: Served) -> None:
    head = request(
        "Host: localhost", f"Authorization: Bearer {ALICE}", "Content-Type: application/json"
    ).replace(b"Content-Length: 0", b"Content-Length: 1000")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head)
        heard, seconds = until_closed(connection, b" ")
    assert 1 < seconds < 10
    assert status(heard) == 408


def test_a_body_that_drips_on_after_the_answer_holds_no_connection(server: Served) -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head)
        heard, seconds = until_closed(connection, b" ")
    assert status(heard) == 401
    assert seconds < 10


async def test_a_request_that_takes_long_is_no_dawdler(server: Served) -> None:
    async with Client(f"{server.url}/mcp", auth=ALICE) as client:
        arguments = {"code": "import time; time.sleep(4); 'done'"}
        result = await client.call_tool_mcp("run_cell", arguments)
        assert "'done'" in repr(result)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such number of descriptors")
async def test_a_crowd_of_idle_connections_starves_nobody(tmp_path: Path) -> None:
    import resource

    descriptors = 256

    low = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors},) * 2)\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    crowd: list[socket.socket] = []
    try:
        with served(fill(tmp_path), before=low, RMI_AGENT_TOKENS=USERS) as server:
            async with Client(f"{server.url}/mcp", auth=ALICE) as client:
                server.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
                for number in range(600):
                    crowd.append(socket.create_connection(("127.0.0.1", server.port)))
                    if number % 2:
                        crowd[-1].sendall(b"POST /mcp HTTP/1.1\r\nHost: ")
                server.process.send_signal(signal.SIGCONT)
                started = time.monotonic()
                result = await client.call_tool_mcp("run_cell", {"code": "6 * 7"})
                assert "42" in repr(result)
                async with Client(f"{server.url}/sse", auth=BOB, mode="legacy") as bob:
                    result = await bob.call_tool_mcp("run_cell", {"code": "6 * 7"})
                    assert "42" in repr(result)
                assert time.monotonic() - started < 15
                assert "out of system resource" not in server.log.read_text()
                if sys.platform == "linux":
                    held = len(os.listdir(f"/proc/{server.process.pid}/fd"))
                    assert held < descriptors - 50
    finally:
        for connection in crowd:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
