"""The server's standard streams, read and written by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmi_agent.server.commands.stdio_pipes import Lines, Writer, can_be_watched

from tests.conftest import kernel_env

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="its pipes can't be watched"),
]


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The descriptors of a reading and a writing end."""
    if request.param == "pipe":
        pair = os.pipe()
    else:
        pair = tuple(each.detach() for each in socket.socketpair())
    yield pair
    for end in pair:
        with contextlib.suppress(OSError):
            os.close(end)


async def test_lines_arrive_whole_however_they_were_cut(ends: tuple[int, int]) -> None:
    reading, writing = ends
    sent = "one\n\nünö\r\n".encode() + b"bad \xff\n" + b"x" * 200_000 + b"\nlast"
    found: list[str] = []

    async def read() -> None:
        async for line in Lines(reading):
            found.append(line)

    reader = asyncio.create_task(read())
    for start in range(0, 20):
        os.write(writing, sent[start : start + 1])
        await asyncio.sleep(0)
    await asyncio.to_thread(write_all, writing, sent[20:])
    os.close(writing)
    await reader
    assert "".join(found) == sent.decode("utf-8", "replace")
    assert [line.endswith("\n") for line in found] == [True] * 5 + [False]


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


async def test_a_reader_that_is_slow_does_not_block_the_loop(ends: tuple[int, int]) -> None:
    reading, writing = ends
    text = "ü" * 400_000
    writer = asyncio.create_task(Writer(writing).write(text))
    for _ in range(100):  # the loop goes on, though nobody reads yet
        await asyncio.sleep(0)
    assert not writer.done()
    found = b""
    while len(found) < len(text.encode()):
        found += await asyncio.to_thread(os.read, reading, 65_536)
    assert await writer == len(text)
    assert found.decode() == text


async def test_a_reader_that_has_gone_is_an_error(ends: tuple[int, int]) -> None:
    reading, writing = ends
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await Writer(writing).write("x\n")


async def test_a_cancelled_read_loses_nothing(ends: tuple[int, int]) -> None:
    reading, writing = ends
    lines = Lines(reading)
    os.write(writing, b"half ")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(lines)
    os.write(writing, b"a line\n")
    assert await anext(lines) == "half a line\n"


def test_only_pipes_and_sockets_are_watched(tmp_path: Path, ends: tuple[int, int]) -> None:
    assert all(map(can_be_watched, ends))
    with (tmp_path / "file").open("w") as file:
        assert not can_be_watched(file.fileno())
    assert not can_be_watched(10_000)


HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("stdin", ["pipe", "file"])
def test_a_server_answers_on_pipes_and_files(tmp_path: Path, stdin: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(json.dumps(request).encode() + b"\n")
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "rmi_agent.server.cli", "--attach", "never"],
            stdin=subprocess.PIPE if stdin == "pipe" else file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kernel_env(), "PYTHON_PROJECTS_DIR": str(tmp_path)},
        )
        assert process.stdout is not None
        if process.stdin is not None:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["result"]["serverInfo"]["name"] == "RmiAgentMcpServer"
        if process.stdin is not None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
