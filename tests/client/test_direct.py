"""The client for a command's own server: requests, questions, and what carries them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.client.child import ChildServer
from rmi_agent.client.direct import DirectClient, Json
from rmi_agent.client.errors import Refused, RequestError
from rmi_agent.client.resident import Resident, events, header_value
from rmi_agent.client.resident_record import ResidentRecord
from rmi_agent.client.unix_http import post

pytestmark = pytest.mark.anyio
DONE = {"content": [{"type": "text", "text": "done"}], "structuredContent": {"a": 1}}
PROGRESS = {"method": "notifications/progress", "params": {"progress": 1, "message": "half"}}


class Scripted:
    """Carries requests to nobody: each gets the next messages."""

    def __init__(self, *answers: list[Json]) -> None:
        self.answers, self.requests = list(answers), list[Json]()

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def exchange(self, request: Json) -> AsyncGenerator[Json]:
        self.requests.append(request)
        for answer in self.answers.pop(0):
            yield answer


def asks(**asked: Any) -> list[Json]:
    return [{"result": {"resultType": "input_required", "requestState": "sealed", **asked}}]


def question(schema: Json) -> Json:
    params = {"message": "Name?", "requestedSchema": {"properties": {"value": schema}}}
    return {"answer": {"method": "elicitation/create", "params": params}}


@pytest.mark.parametrize(
    ("schema", "answer", "sent"),
    [
        ({"type": "string"}, "Ada", {"action": "accept", "content": {"value": "Ada"}}),
        ({"writeOnly": True}, "", {"action": "accept", "content": {"value": ""}}),
        ({}, None, {"action": "decline"}),
    ],
)
async def test_a_question_is_answered_by_the_same_call_with_its_state(
    schema: Json, answer: str | None, sent: Json
) -> None:
    asked = []

    async def person(text: str, secret: bool) -> str | None:
        asked.append((text, secret))
        return answer

    server = Scripted(asks(inputRequests=question(schema)), asks(), [{"result": DONE}])
    result = await DirectClient(server, person).call_tool_mcp(name="t", arguments={"x": 1})
    assert asked == [("Name?", bool(schema.get("writeOnly")))]
    first, second, third = (request["params"] for request in server.requests)
    assert "requestState" not in first
    assert (second["requestState"], second["inputResponses"]) == ("sealed", {"answer": sent})
    assert third["requestState"] == "sealed" and "inputResponses" not in third
    assert {request["id"] for request in server.requests} == {1, 2, 3}
    assert (result.content[0].text, result.structured_content) == ("done", {"a": 1})


async def test_progress_is_heard_and_an_error_or_an_end_is_raised() -> None:
    heard = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, total, message))

    failed = {"error": {"code": -32002, "message": "There is no such session."}}
    client = DirectClient(Scripted([PROGRESS, {"result": DONE}], [failed], [PROGRESS]), None)
    result = await client.call_tool_mcp(name="t", arguments={}, progress_handler=progress)
    assert (heard, result.is_error) == ([(1, None, "half")], False)
    with pytest.raises(RequestError, match="no such session"):
        await client.read_resource("notebook://x")
    with pytest.raises(ConnectionError, match="has ended"):
        await client.list_tools()


CHILD = """
import json, os, signal, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "stay":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if asked["method"] == "end":
        os._exit(3)
    if asked["method"] in ("nonsense", "[]", '{"id": []}'):
        print(asked["method"], flush=True)
        time.sleep(60)
    if asked["method"] == "notifications/cancelled":
        print("cancelled", asked["params"]["requestId"], file=sys.stderr, flush=True)
    if asked["method"] == "tools/call":
        params = asked["params"]
        token = params["_meta"].get("progressToken")
        if params["name"] == "slow":
            continue
        text = params["arguments"]["text"]
        told = {"progressToken": token, "progress": 0, "message": "p" + text[:5]}
        print(json.dumps({"method": "notifications/progress", "params": told}))
        answer = {"content": [{"type": "text", "text": text}], "isError": False}
        print(json.dumps({"id": asked["id"], "result": answer}), flush=True)
"""
COMMAND = [sys.executable, "-c", CHILD]


async def test_a_child_answers_several_calls_at_once_however_long_the_texts() -> None:
    async with DirectClient(ChildServer(COMMAND), None) as client:
        heard: dict[str, list[str | None]] = {}

        async def call(text: str) -> str:
            async def progress(_: float, __: float | None, message: str | None) -> None:
                heard.setdefault(text, []).append(message)

            return (
                (
                    await client.call_tool_mcp(
                        name="echo", arguments={"text": text}, progress_handler=progress
                    )
                )
                .content[0]
                .text
            )

        texts = ["a", "ü\n\u2028x", "b" * 3_000_000, *(f"{number}" for number in range(50))]
        assert await asyncio.gather(*map(call, texts)) == texts
        assert heard == {text: ["p" + text[:5]] for text in texts}


@pytest.mark.parametrize(
    "carrier", [ChildServer(COMMAND), Resident(ResidentRecord(1, "none", "secret", ()))]
)
async def test_what_is_no_text_is_refused_and_not_sent(carrier: ChildServer | Resident) -> None:
    async with DirectClient(carrier, None) as client, asyncio.timeout(30):
        with pytest.raises(Refused, match=r"'\\udcff' can't be sent"):
            await client.call_tool_mcp(name="echo", arguments={"text": "a\udcff"})


async def test_a_cancelled_call_is_cancelled_in_the_child(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with DirectClient(ChildServer(COMMAND), None) as client:
        slow = asyncio.create_task(client.call_tool_mcp(name="slow", arguments={}))
        echo = {"name": "echo", "arguments": {"text": "x"}}
        await client.call_tool_mcp(**echo)
        slow.cancel()
        await asyncio.wait({slow})
        await client.call_tool_mcp(**echo)
    assert capfd.readouterr().err == "cancelled 2\n"  # the other one was sent first


@pytest.mark.parametrize(
    "how",
    [
        "end",
        pytest.param("nonsense", marks=pytest.mark.slow),
        pytest.param("[]", marks=pytest.mark.slow),
        pytest.param('{"id": []}', marks=pytest.mark.slow),
    ],
)
async def test_calls_to_a_child_that_has_ended_or_talks_nonsense_fail(how: str) -> None:
    async with DirectClient(ChildServer(COMMAND), None) as client:
        for _ in range(2):
            with pytest.raises(OSError):
                await client._request(how, {})


@pytest.mark.slow
async def test_a_child_that_stays_is_killed_with_all_it_has_started() -> None:
    child = ChildServer(COMMAND)
    async with DirectClient(child, None) as client:
        staying = asyncio.create_task(client._request("stay", {}))
        await asyncio.sleep(0.5)
        staying.cancel()
        await asyncio.wait({staying})
    assert child._process is not None and child._process.returncode == -9


@pytest.mark.slow
async def test_a_call_to_a_child_that_reads_nothing_can_be_cancelled() -> None:
    stuck = [sys.executable, "-c", "import time; time.sleep(60)"]
    async with DirectClient(ChildServer(stuck), None) as client:
        arguments = {"text": "x" * 3_000_000}  # more than a pipe takes
        call = asyncio.create_task(client.call_tool_mcp(name="echo", arguments=arguments))
        await asyncio.sleep(0.1)
        call.cancel()
        assert (await asyncio.wait({call}, timeout=10))[0]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
EVENTS = [
    b": ping\r\n\r\n",
    b'event: message\r\ndata: {"jsonrpc": "2.0", "method": "x"}\r\n\r\nevent: mess',
    b'age\r\ndata: {"jsonrpc": "2.0", "id": 1, "result": {}}\r\n\r\n',
]
STREAM = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in EVENTS) + b"0\r\n\r\n"
ERROR = b'{"jsonrpc": "2.0", "error": {}}'
PLAIN = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(ERROR), ERROR)


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
@pytest.mark.parametrize("most", [1, 3, 1_000])
async def test_a_response_over_a_unix_socket_is_read_in_whatever_pieces_it_arrives(
    tmp_path: Path, most: int
) -> None:
    for response, expected in (
        (STREAM, [{"method": "x"}, {"id": 1, "result": {}}]),
        (PLAIN, [{"error": {}}]),
        (STREAM[:-20], OSError),
        (STREAM[:30], OSError),
        (PLAIN[:-1], OSError),
        (b"", OSError),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", OSError),
        (CHUNKED + b"nonsense\r\n", OSError),
        (b"nonsense\r\n\r\n", OSError),
        (b"HTTP/1.1 nonsense\r\n\r\n", OSError),
    ):
        received = []

        async def serve(reader: Any, writer: Any, response: bytes = response) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            received.append((head, json.loads(await reader.readexactly(length))))  # noqa: B023
            for begin in range(0, len(response), most):
                writer.write(response[begin : begin + most])
                await writer.drain()
            writer.close()

        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(serve, path)
        params = {"name": "t", "_meta": {}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        resident = Resident(ResidentRecord(1, path, "secret", ()))
        try:
            found = [each async for each in resident.exchange(request)]
            for each in found:
                assert each.pop("jsonrpc") == "2.0"
            assert found == expected
        except OSError:
            assert expected is OSError
        head, body = received[0]
        assert b"Authorization: Bearer secret\r\n" in head and b"Mcp-Name: t\r\n" in head
        assert body == request
        server.close()
        (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(OSError):
        async with post(path, "/", {}, b""):
            pass


@pytest.mark.parametrize("text", ["plain", "ä", "a\r\nEvil: 1", " x", "=?base64?eA==?=", "\x7f"])
def test_any_text_can_be_in_a_header(text: str) -> None:
    from mcp.shared.inbound import decode_header_value

    sent = header_value(text)
    assert sent.isascii() and sent.isprintable() and sent == sent.strip()
    assert decode_header_value(sent) == text


async def test_events_that_are_cut_anywhere_are_whole() -> None:
    whole = b"".join(EVENTS)
    for cut in range(len(whole)):

        async def parts(cut: int = cut) -> AsyncGenerator[bytes]:
            yield whole[:cut]
            yield whole[cut:]

        assert len([each async for each in events(parts())]) == 2
