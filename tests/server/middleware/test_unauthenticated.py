"""Whoever has no token keeps nobody waiting who has one, however many connections they hold."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from fastmcp import Client
from rmi_agent.server.errors import RequestRefused
from rmi_agent.server.middleware import unauthenticated as strangers
from rmi_agent.server.middleware.connections import KNOWN_IDLE, STRANGERS
from rmi_agent.server.middleware.request_body import whole_body

from tests.server.conftest import fill
from tests.server.served import ALICE, BOB, USERS, Served, request, served

pytestmark = [pytest.mark.anyio, pytest.mark.security]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
KNOWN = (
    f"GET /nothing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode()
)
CROWD = STRANGERS + 30
IMPATIENT = (
    "from rmi_agent.server.middleware import connections, unauthenticated as strangers\n"
    "connections.REST_SECONDS = 1.5\nconnections.WRITE_SECONDS = 1.5\nstrangers.SECONDS = 1.5\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("s"))
    with served(projects, RMI_AGENT_TOKENS=USERS) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("i"))
    with served(projects, before=IMPATIENT, RMI_AGENT_TOKENS=USERS) as running:
        yield running


@pytest.fixture
def connected(server: Served) -> Iterator[Callable[[bytes], socket.socket]]:
    """Makes connections that stay, on each of which some bytes were sent."""
    with contextlib.ExitStack() as stack:

        def connect(first: bytes) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            stack.enter_context(connection)
            connection.sendall(first)
            return connection

        yield connect


def head(path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def answered(connection: socket.socket) -> int:
    """The status of the answer on a connection, all of which is read; 0 if it was closed."""
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0
    return answer.status


def is_open(connection: socket.socket) -> bool:
    """Whether the server still has a connection that has nothing left to say."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(20)


FIRST = {
    "silent": b"",
    "half a head": b"POST /mcp HTTP/1.1\r\nHost: ",
    "asked once": HEALTH,
    "a slow form": head("/review/sign-in", 1000) + b"a",
    "a slow form for a page": head("/", 1000) + b"a",
    "a slow call": head("/mcp", 1000) + b"a",
    "a slow health check": head("/healthz", 1000) + b"a",
    "waits to go on": head("/mcp", 1000).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    "chunks": head("/", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"5\r\na",
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
def test_a_crowd_of_strangers_closes_no_connection_but_its_own(
    connected: Callable[[bytes], socket.socket], first: bytes
) -> None:
    mine = connected(KNOWN)
    assert answered(mine) == 404
    crowd = [connected(first) for _ in range(CROWD)]
    if first == HEALTH:
        assert [answered(connection) for connection in crowd[-50:]] == [200] * 50
    for ask, answer in ((HEALTH, 200), (KNOWN, 404)):
        for _ in range(5):
            assert answered(connected(ask)) == answer
    mine.sendall(KNOWN)
    assert answered(mine) == 404


def test_three_crowds_of_slow_forms_lock_nobody_out(
    connected: Callable[[bytes], socket.socket],
) -> None:
    for _ in range(150):
        for path in ("/review/sign-in", "/", "/mcp"):
            connected(head(path, 1000) + b"a")
    for _ in range(60):
        connected(b"")
    for ask, answer in ((HEALTH, 200), (KNOWN, 404)):
        assert answered(connected(ask)) == answer


async def test_a_call_goes_on_while_strangers_come_in_crowds(
    server: Served, connected: Callable[[bytes], socket.socket]
) -> None:
    async with Client(f"{server.url}/mcp", auth=ALICE) as client:
        arguments = {"code": "import time; time.sleep(3); 'done'"}
        call = asyncio.create_task(client.call_tool_mcp("run_cell", arguments))
        await asyncio.sleep(0.5)
        for number in range(2 * CROWD):
            await asyncio.to_thread(connected, list(FIRST.values())[number % len(FIRST)])
        assert "'done'" in repr(await call)
        async with Client(f"{server.url}/sse", auth=BOB, mode="legacy") as bob:
            assert not (await bob.call_tool_mcp("list_sessions", {})).is_error


def test_the_oldest_stranger_makes_room(connected: Callable[[bytes], socket.socket]) -> None:
    crowd = [connected(HEALTH) for _ in range(CROWD)]
    for connection in crowd[-STRANGERS // 2 :]:
        assert answered(connection) == 200
        assert is_open(connection)
    for connection in crowd[:10]:
        answered(connection)
        assert not is_open(connection)


def test_of_known_connections_the_oldest_idle_one_of_the_largest_crowd_makes_room(
    connected: Callable[[bytes], socket.socket],
) -> None:
    bob = connected(KNOWN.replace(ALICE.encode(), BOB.encode()))
    assert answered(bob) == 404
    crowd = [connected(KNOWN) for _ in range(KNOWN_IDLE + 20)]
    assert [answered(connection) for connection in crowd] == [404] * len(crowd)
    assert not is_open(crowd[0])
    assert is_open(crowd[-1])
    assert is_open(bob)


async def test_pages_keep_their_style_while_strangers_ask_for_it_too_often(tmp_path: Path) -> None:
    with served(fill(tmp_path), RMI_AGENT_TOKENS=USERS) as server:
        async with (
            httpx2.AsyncClient(base_url=server.url, trust_env=False) as stranger,
            httpx2.AsyncClient(base_url=server.url, trust_env=False) as viewer,
        ):
            signed = {"data": {"token": ALICE}, "headers": {"Origin": server.url}}
            answer = await viewer.post("/review/sign-in", **signed)  # type: ignore[arg-type]
            assert answer.status_code == 303
            style = "/review/static/review.css"
            for _ in range(10):
                while (await stranger.get(style)).status_code != 429:
                    pass
                assert (await viewer.get(style)).status_code == 200


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/nothing", "/", "/sessions/x", "/metrics"])
def test_a_stranger_is_answered_before_their_body_is_read(
    connected: Callable[[bytes], socket.socket], path: str
) -> None:
    assert answered(connected(head(path, 20_000_000) + b"a")) in (200, 401)


def test_what_a_stranger_sends_after_the_answer_is_taken_for_a_while(impatient: Served) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as connection:
        connection.sendall(head("/mcp", 3_000_000))
        connection.sendall(b"a" * 3_000_000)  # with no reset, which could take the answer along
        assert answered(connection) == 401
        time.sleep(2)  # longer than the rest of a body may take: it has come
        connection.sendall(HEALTH)
        assert answered(connection) == 200
        connection.sendall(head("/mcp", 3_000_000) + b"a")
        assert answered(connection) == 401
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""  # the rest never comes


def test_an_answer_that_nobody_takes_ends(impatient: Served) -> None:
    asked = b"GET /review/static/review.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", impatient.port))
        sending = time.monotonic()
        with contextlib.suppress(ConnectionError):  # closed while it still sends
            connection.sendall(asked)
        time.sleep(4)
        heard = 0
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 20):
                heard += len(part)
        assert time.monotonic() - sending < 15
        assert heard < 400 * 9_000  # it was broken off


async def test_an_answer_that_is_taken_slowly_is_not_broken_off(impatient: Served) -> None:
    """Megabytes, for longer than a client may take nothing at all."""
    content = "#" * 9_000_000
    async with Client(f"{impatient.url}/mcp", auth=ALICE) as client:
        arguments = {"file_name": "long.py", "content": content}
        assert not (await client.call_tool_mcp("write_python_file", arguments)).is_error
    body = (
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params":'
        ' {"name": "read_python_file", "arguments": {"file_name": "long.py"}}}'
    )
    accept = "Accept: application/json, text/event-stream"
    session = opened_session(impatient)
    asked = request(
        "Host: localhost",
        f"Authorization: Bearer {ALICE}",
        "Content-Type: application/json",
        f"Mcp-Session-Id: {session}",
        accept,
        body=body,
    )

    def taken() -> int:
        heard = 0
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", impatient.port))
            connection.sendall(asked)
            began = time.monotonic()
            while part := connection.recv(65536):
                heard += len(part)
                if time.monotonic() - began < 5:
                    time.sleep(0.02)
        return heard

    assert await asyncio.to_thread(taken) > len(content)


def opened_session(server: Served) -> str:
    """The id of a transport's session that an older client has begun."""
    body = (
        '{"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion":'
        ' "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}}'
    )
    known = (f"Authorization: Bearer {ALICE}", "Content-Type: application/json")
    accept = "Accept: application/json, text/event-stream"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request("Host: localhost", *known, accept, body=body))
        heard = b""
        while part := connection.recv(65536):
            heard += part
    return heard.lower().split(b"mcp-session-id: ")[1].split(b"\r\n")[0].decode()


# -- bodies of strangers, in this process


async def dawdled(waiting: strangers.Waiting, entered: asyncio.Event) -> None:
    async with waiting.arriving():
        entered.set()
        await asyncio.sleep(3600)


async def test_the_oldest_body_is_given_up_for_one_more() -> None:
    waiting = strangers.Waiting(most=3)
    tasks = []
    for _ in range(5):
        entered = asyncio.Event()
        tasks.append(asyncio.create_task(dawdled(waiting, entered)))
        await entered.wait()
    done, pending = await asyncio.wait(tasks, timeout=0.5)
    assert done == set(tasks[:2])
    assert all(isinstance(task.exception(), TimeoutError) for task in done)
    async with waiting.arriving():  # one that is whole takes the place of another for a moment
        pass
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    assert not waiting.number


async def test_a_body_that_is_whole_comes_through_however_many_dawdle() -> None:
    waiting = strangers.Waiting(most=2)
    crowd = [asyncio.create_task(dawdled(waiting, asyncio.Event())) for _ in range(50)]
    await asyncio.sleep(0)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"token=x", "more_body": False}

    for _ in range(10):
        async with waiting.arriving():
            assert await whole_body(scope, receive, 1000, None) == b"token=x"  # type: ignore[arg-type]
    with pytest.raises(RequestRefused, match="too large"):
        await whole_body(scope, receive, 5, None)  # type: ignore[arg-type]
    for task in crowd:
        task.cancel()
    await asyncio.wait(crowd)


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_strangers_hold_few_descriptors(
    server: Served, connected: Callable[[bytes], socket.socket]
) -> None:
    folder = Path(f"/proc/{server.process.pid}/fd")
    for number in range(3 * STRANGERS):
        connected(list(FIRST.values())[number % len(FIRST)])
    assert answered(connected(HEALTH)) == 200
    assert len(list(folder.iterdir())) < STRANGERS + 150
