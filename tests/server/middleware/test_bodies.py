"""Bodies of callers with a token: how many bytes of them are held, and what parsing them costs."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastmcp import Client
from mcp import MCPError
from rmi_agent.server import App, load
from rmi_agent.server.middleware import BODY_LIMIT, Guard, flaw, has_more_values
from rmi_agent.server.middleware import json_messages as messages
from rmi_agent.server.middleware.json_messages import LARGE, MOST_VALUES
from rmi_agent.server.middleware.limits import HELD, SMALL

from tests.server.conftest import fill
from tests.server.served import ALICE, BOB, USERS, Served, bearer, served

pytestmark = [pytest.mark.anyio, pytest.mark.security]
SIZE = 24_000_000
SLOWEST = 1.5  # seconds; tests of others run at the same time, and the worst was 9
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
ERAS: dict[str, dict[str, str]] = {
    "today": {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "x"},
    "older": {},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("b"))
    with served(projects, RMI_AGENT_TOKENS=USERS) as running:
        yield running


def listed(unit: bytes) -> bytes:
    return b"[" + b",".join([unit] * (SIZE // (len(unit) + 1))) + b"]"


def call(arguments: bytes) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":'
        + json.dumps(ENVELOPE).encode()
        + b',"name":"run_cell","arguments":'
        + arguments
        + b"}}"
    )


BODIES = {
    "objects": lambda: listed(b"{}"),
    "arrays": lambda: listed(b"[]"),
    "numbers": lambda: listed(b"1"),
    "texts": lambda: listed(b'""'),
    "nested objects": lambda: b'{"a":' * (SIZE // 5),
    "nested arrays": lambda: b"[" * SIZE,
    "digits": lambda: b'{"jsonrpc":"2.0","id":' + b"1" * SIZE + b"}",
    "a key": lambda: b'{"' + b"k" * SIZE + b'":1}',
    "a method": lambda: b'{"jsonrpc":"2.0","id":1,"method":"' + b"m" * SIZE + b'"}',
    "an id": lambda: b'{"jsonrpc":"2.0","method":"ping","id":"' + b"m" * SIZE + b'"}',
    "a text": lambda: b'"' + b"a" * SIZE + b'"',
    "spaces": lambda: b" " * SIZE,
    "keys": lambda: call(b"{" + b",".join(b'"k%d":1' % n for n in range(1_500_000)) + b"}"),
    "the same key": lambda: call(b"{" + b",".join([b'"k":1'] * 3_000_000) + b"}"),
    "an argument's objects": lambda: call(b'{"code":' + listed(b"{}") + b"}"),
    "an argument's name": lambda: call(b'{"' + b"k" * SIZE + b'":1}'),
    "lone surrogates": lambda: call(b'{"session_id":"' + b"\\ud800" * (SIZE // 6) + b'"}'),
    "backslashes": lambda: call(b'{"session_id":"' + b"\\\\" * (SIZE // 2) + b'"}'),
}


TEXT = b'"' + b"a" * SIZE + b'"'
BODIES |= {
    "a session's id": lambda: call(b'{"code":"1","session_id":' + TEXT + b"}"),
    "an unknown argument": lambda: call(b'{"code":"1","other":' + TEXT + b"}"),
    "a cell": lambda: call(b'{"code":' + TEXT + b"}"),
    "a cell of escapes": lambda: call(b'{"code":"' + b"\\u00e9" * (SIZE // 6) + b'"}'),
    "a text in arrays": lambda: call(b'{"code":' + b"[" * 100 + TEXT + b"]" * 100 + b"}"),
    "arrays in arrays": lambda: call(b'{"code":' + b"[" * 9_000 + TEXT + b"]" * 9_000 + b"}"),
    "long integers": lambda: call(b'{"code":[' + b",".join([b"1" * 4_000] * 5_900) + b"]}"),
    "a long float": lambda: call(b'{"code":1.' + b"1" * SIZE + b"}"),
    "a key twice": lambda: call(b'{"session_id":' + TEXT + b',"session_id":"x","code":"1"}'),
    "params": lambda: b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + TEXT + b"}",
    "an answer": lambda: b'{"jsonrpc":"2.0","id":1,"result":{"content":' + TEXT + b"}}",
    "half of a message": lambda: call(b'{"code":' + TEXT),
    # In UTF-16, this letter has a byte like a quotation mark.
    "numbers in UTF-16": lambda: ('{"\u0122":[' + "1," * (SIZE // 4) + "1]}").encode("utf-16"),
}


class Probe(threading.Thread):
    """Asks over and over whether the server is there; `worst` is the slowest answer in seconds."""

    def __init__(self, server: Served) -> None:
        super().__init__()
        self._url, self._over = f"{server.url}/healthz", threading.Event()
        self.worst = 0.0

    def run(self) -> None:
        with httpx2.Client(trust_env=False, timeout=60) as http:
            while not self._over.wait(0.01):
                began = time.monotonic()
                assert http.get(self._url).status_code == 200
                self.worst = max(self.worst, time.monotonic() - began)

    def __enter__(self) -> Probe:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


# They are looked at before it matters which era they are of.
IN_BOTH = ("objects", "nested arrays", "a cell", "a session's id", "long integers")


@pytest.mark.parametrize(
    ("name", "era"),
    [*((name, "today") for name in BODIES), *((name, "older") for name in IN_BOTH)],
)
async def test_no_body_keeps_others_waiting(server: Served, name: str, era: str) -> None:
    body = BODIES[name]()
    headers = {
        **bearer(ALICE),
        **ERAS[era],
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        with Probe(server) as probe:
            answer = await http.post(f"{server.url}/mcp", content=body, headers=headers)
            await asyncio.sleep(0.1)
    assert answer.status_code == 400 or "error" in answer.json() or answer.json()["result"]
    assert len(answer.content) < 10_000
    assert probe.worst < SLOWEST


async def test_a_batch_is_refused_with_what_to_do_instead(server: Served) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with httpx2.AsyncClient(trust_env=False) as http:
        for path in ("/mcp", "/messages/?session_id=" + "0" * 32):
            answer = await http.post(server.url + path, json=[ping, ping], headers=bearer(ALICE))
            assert answer.status_code == 400
            assert "Send each message in its own request" in answer.json()["error"]["message"]


def unfinished(server: Served, stack: ExitStack, token: str, size: int) -> socket.socket:
    """A connection with a call that lacks the end."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
    connection.settimeout(10)
    head = (
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {size}\r\n\r\n"
    )
    with suppress(OSError):  # it may be refused before all of it was sent
        connection.sendall(head.encode() + b" " * (size - 1))
    return connection


@pytest.mark.skipif(sys.platform == "win32", reason="memory is counted otherwise")
def test_what_is_unfinished_holds_a_bounded_part_of_memory(server: Served) -> None:
    memory = psutil.Process(server.process.pid).memory_info
    before = memory().rss
    with ExitStack() as stack:
        for _ in range(40):
            unfinished(server, stack, ALICE, BODY_LIMIT)
        assert memory().rss - before < HELD + 80_000_000
        with httpx2.Client(base_url=server.url, trust_env=False) as http:
            answer = http.post("/mcp", content=b" " * 1_000_000, headers=bearer(ALICE))
            assert answer.status_code == 429
            assert "Nothing was done; try again in 5 s" in answer.json()["error"]["message"]
            for content in (b"", b" " * SMALL):  # a run can still be stopped
                answer = http.post("/mcp", content=content, headers=bearer(ALICE))
                assert answer.status_code not in (413, 429)
            answer = http.post("/mcp", content=b" " * 1_000_000, headers=bearer(BOB))
            assert answer.status_code not in (413, 429)
    with httpx2.Client(base_url=server.url, trust_env=False) as http:
        until = time.monotonic() + 20
        while http.post("/mcp", content=b" " * 1_000_000, headers=bearer(ALICE)).status_code == 429:
            assert time.monotonic() < until
            time.sleep(0.1)


# -- what a principal has taken, in this process


async def asked(guard: Guard, body: bytes = b"", path: str = "/mcp") -> int:
    """The status that a request is answered with."""
    found: list[int] = []
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    await guard(scope, receive, send)
    return found[0]


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def test_nothing_is_kept_of_a_principal_who_has_taken_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, who = 1000.0, ""
    monkeypatch.setattr("rmi_agent.server.middleware.limits.time.monotonic", lambda: now)
    monkeypatch.setattr("rmi_agent.server.middleware.limits.principal_of", lambda scope: who)
    unlimited, limited = Guard(answering, 0), Guard(answering, 60)
    for number in range(100):
        who = f"user {number}"
        assert await asked(unlimited) == await asked(limited) == 204
    assert unlimited.known == 0
    assert limited.known == 100
    now += 2
    who = "somebody else"
    assert await asked(limited) == 204
    assert limited.known == 1


async def test_many_principals_share_what_can_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    who, end = "", asyncio.Event()
    monkeypatch.setattr("rmi_agent.server.middleware.limits.principal_of", lambda scope: who)

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await end.wait()
        await answering(scope, receive, send)

    guard = Guard(waiting, 0)
    open_ones: dict[str, list[asyncio.Task[int]]] = {}
    for name in "abcdefgh":
        who = name
        open_ones[name] = []
        for _ in range(220):
            task = asyncio.create_task(asked(guard))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not task.done():
                open_ones[name].append(task)
    numbers = [len(tasks) for tasks in open_ones.values()]
    assert numbers[0] == 200
    assert min(numbers) >= 300 // len(numbers)
    assert sum(numbers) < 800
    end.set()
    for tasks in open_ones.values():
        assert set(await asyncio.gather(*tasks)) == {204}
    assert guard.known == 0


# -- what is counted in a message


def value(depth: int = 0) -> Any:
    kind = random.random()
    if depth > 4 or kind < 0.4:
        return "".join(random.choice('ab\\",:[]{}\n é\x00') for _ in range(random.randrange(6)))
    if kind < 0.6:
        return {str(value(9)): value(depth + 1) for _ in range(random.randrange(4))}
    if kind < 0.8:
        return [value(depth + 1) for _ in range(random.randrange(4))]
    return random.choice([1, -1.5e300, None, True])


def marks(made: Any) -> int:
    """Commas, colons and opening brackets that JSON needs for a value."""
    if isinstance(made, dict):
        own = 1 + len(made) + max(0, len(made) - 1)
        return own + sum(marks(one) for one in made.values())
    if isinstance(made, list):
        return 1 + max(0, len(made) - 1) + sum(marks(one) for one in made)
    return 0


def test_punctuation_in_texts_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(20)
    for _ in range(5_000):
        made = value()
        text = json.dumps(made, ensure_ascii=random.random() < 0.5).encode()
        monkeypatch.setattr(messages, "PART", random.choice([2, 3, 5, 7, 1000]))
        number = marks(made)
        assert not has_more_values(text, number), text
        assert not number or has_more_values(text, number - 1), text


@pytest.mark.parametrize(
    "content", ["x = f(a, [b], {c: d})\n" * 400_000, '"\\"' * 2_000_000, "\\" * 5_000_000, "é,\0"]
)
def test_a_files_content_is_one_value(content: str) -> None:
    for ascii_only in (True, False):
        arguments = {"file_name": "a.py", "content": content}
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"arguments": arguments},
        }
        assert flaw(json.dumps(message, ensure_ascii=ascii_only).encode()) is None


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"a":"', b'"\\', b"\xff\xfe", b"{}]"])
def test_what_is_no_message_is_left_to_who_parses_it(body: bytes) -> None:
    assert flaw(body) is None


@pytest.mark.parametrize("body", [b"[]", b" \r\n\t[{}]", b"[", b"[" * 10, b"\xef\xbb\xbf[1]"])
def test_an_array_is_a_batch(body: bytes) -> None:
    assert "no batches" in (flaw(body) or "")


def test_many_values_are_refused_however_they_are_spaced() -> None:
    for unit in (b"{},", b"{} ,\n", b'"\\\\" ,', b"[[]],"):
        body = b'{"params":[' + unit * (MOST_VALUES + 1) + b"0]}"
        assert "more than 10,000 values" in (flaw(body) or "")


# -- what is long in a message

LONGER = (
    "Only the arguments code, content and stdin (each a text) and args (a list of texts)"
    " may be longer."
)


def large(method: str = "tools/call", **params: Any) -> str | None:
    """The flaw of a message that is large enough to be looked at value by value."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return flaw(json.dumps(message).encode() + b" " * LARGE)


@pytest.mark.parametrize("key", ["session_id", "file_name", "notebook"])
def test_a_name_has_a_thousand_characters(key: str) -> None:
    assert large(arguments={key: "a" * 1_000}) is None
    assert large(arguments={key: "a" * 1_001}) == (
        f"Nothing was done: {key} has 1,001 characters; it may have at most 1,000. {LONGER}"
    )


@pytest.mark.parametrize(
    "params",
    [
        {"arguments": {"other": "a" * 10_001}},
        {"arguments": {"code": ["a" * 10_001]}},
        {"arguments": {"args": [["a" * 10_001]]}},
        {"arguments": {"args": "a" * 10_001}},
        {"arguments": "a" * 10_001},
        {"arguments": ["a" * 10_001]},
        {"code": "a" * 10_001},
        {"_meta": {"x": [{"y": "a" * 10_001}]}},
        {"name": "a" * 1_001},
        {"inputResponses": {"x": {"content": {"value": "a" * 1_000_001}}}},
    ],
)
def test_a_text_that_is_no_content_is_short(params: dict[str, Any]) -> None:
    assert "Nothing was done: " in (large(**params) or "")
    assert large("prompts/get", **params)


def test_what_is_run_written_or_typed_may_be_long() -> None:
    for arguments in (
        {"code": "a" * 2_000_000},
        {"content": "a" * 20_000_000, "file_name": "a.py"},
        {"stdin": "a" * 20_000_000, "args": ["a" * 1_000_000] * 2},
        {"args": ["a" * 1_000_000, 5, "a" * 1_000_000]},
        {"args": 5, "code": None, "content": 1.5},
    ):
        assert large(arguments=arguments) is None
    answers = {"x": {"action": "accept", "content": {"value": "a" * 1_000_000}}}
    assert large(name="run_cell", inputResponses=answers) is None
    assert "a cell may have at most 2,000,000" in (large(arguments={"code": "a" * 2_000_001}) or "")
    assert "a command line" in (large(arguments={"args": ["a" * 1_000_001] * 2}) or "")
    assert "a command line" in (large(arguments={"args": ["a" * 1_000_001, 5] * 2}) or "")
    assert large("completion/complete", arguments={"code": "a" * 10_001})
    many = {str(number): 1 for number in range(101)}
    assert "the call has 101 arguments" in (large(arguments=many) or "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"args": "a" * 11_000},
        {"args": ["a", ["a" * 11_000]]},
        {"code": ["a" * 11_000]},
        {"x": {"stdin": "a" * 11_000}},
    ],
)
def test_what_is_said_of_a_long_text_of_another_type_is_true(arguments: dict[str, Any]) -> None:
    found = large(arguments=arguments) or ""
    assert found.endswith(f" has 11,000 characters; it may have at most 10,000. {LONGER}")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (b'"k":1,"k":2', "the same key twice"),
        (b'"k":' + b"1" * 401, "401 digits"),
        (b'"k":[-1.' + b"1" * 401 + b"e5]", "digits"),
        (b'"' + b"k" * 1_001 + b'":1', "A key has 1,001 characters"),
        (b'"k":' + b"[" * 5_000 + b"]" * 5_000, "nested too deeply"),
        (b'"k":"\xff"', "not valid JSON"),
        (b'"k":', "not valid JSON"),
        (b'"k\0":1', "not encoded in UTF-8"),
    ],
)
def test_what_readers_stumble_over_is_refused_in_words(part: bytes, said: str) -> None:
    assert said in (flaw(b'{"jsonrpc":"2.0","id":1,' + part + b"}" + b" " * LARGE) or "")


async def test_long_texts_are_refused_without_http_as_well(tmp_path: Path) -> None:
    app = App(load(python_projects_dir=fill(tmp_path)))
    async with Client(app.mcp) as client:
        for tool, key in (
            ("run_cell", "session_id"),
            ("read_python_file", "file_name"),
            ("resume_session", "notebook"),
            ("interrupt_session", "session_id"),
        ):
            given = {"code": "1"} if tool == "run_cell" else {}
            result = await client.call_tool_mcp(tool, {**given, key: "a" * 1_001})
            assert result.is_error
            assert result.content[0].text == (
                f"Error: {key} has 1,001 characters; it may have at most 1,000. {LONGER}"
            )
        result = await client.call_tool_mcp("run_cell", {"code": "#" * 2_000_001})
        assert "Error: the code has 2,000,001 characters" in result.content[0].text
        with pytest.raises(MCPError, match=r"uri has 1,0.* 1,000\. Send a shorter one\.$"):
            await client.read_resource("notebook://" + "a" * 1_000)
        for key, most in (("file_name", "1,000"), ("code", "10,000")):
            with pytest.raises(MCPError, match=rf"{key} has .* {most}\. Send a shorter one\.$"):
                await client.get_prompt("fix_script", {key: "a" * 10_001})
        many = '{"cells":[' + "1," * 1_000_000 + "1]}"
        result = await client.call_tool_mcp("resume_session", {"notebook": "x", "content": many})
        assert "x has more than 1,000,000 JSON values" in result.content[0].text
