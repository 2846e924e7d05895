"""A server of our own on stdio, spoken to by hand: nothing but the protocol may come out of it.

Libraries pass by what is not JSON-RPC, and hosts break on it. Knows no kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

LONGEST = 2**24  # bytes of a line
# What reaches file descriptor 1 of a kernel past Python, and from a child.
NOISE = "import os, sys; os.write(1, b'descriptor '); os.system('echo child'); print('print')"
VERSION = "2025-06-18"  # which every host speaks
HELLO: dict[str, Any] = {  # of `initialize`
    "protocolVersion": VERSION,
    "capabilities": {},
    "clientInfo": {"name": "doctor", "version": "1"},
}


class Impure(Exception):
    """Something else came out, or nothing; the text says what."""


async def conversation(options: list[str], seconds: float) -> int:
    """Start a server, list its tools, run a noisy cell and end it; how many messages came out.

    Args:
        options: of the server's command line; it has this process's environment and folder.
        seconds: for all of it.

    Raises:
        Impure: a line was no JSON-RPC, the noise was lost, or the server did not answer.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rmi_agent.server.cli", *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        limit=LONGEST,
    )
    try:
        async with asyncio.timeout(seconds):
            return await talk(process)
    except TimeoutError:
        raise Impure(f"no answer in {seconds:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def talk(process: Process) -> int:
    """All that is said, to the server's end."""
    count, _ = await ask(process, "initialize", **HELLO)
    send(process, {"method": "notifications/initialized"})
    more, _ = await ask(process, "tools/list")
    count += more
    more, ran = await ask(process, "tools/call", name="run_cell", arguments={"code": NOISE})
    count += more
    said = "".join(str(part.get("text", "")) for part in ran.get("content", ())) or str(ran)
    if ran.get("isError", True):
        raise Impure(f"it does not run a cell: {said[:300]}")
    if missing := [word for word in ("descriptor", "child", "print") if word not in said]:
        raise Impure(f"a cell's output came back without {', '.join(missing)}: {said[:300]}")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    async for line in process.stdout:
        message(line)
        count += 1
    await process.wait()
    if process.returncode:
        raise Impure(f"at the end of its input it left with {process.returncode}")
    return count


async def ask(process: Process, method: str, **params: Any) -> tuple[int, dict[str, Any]]:
    """Send a request and wait for its result; with how many messages came up to it."""
    send(process, {"id": method, "method": method, "params": params})
    assert process.stdout is not None
    count = 0
    async for line in process.stdout:
        found = message(line)
        count += 1
        if found.get("id") == method:
            return count, dict(found.get("result") or {"error": found.get("error")})
    raise Impure("it ended instead of answering; start it by hand to see why")


def send(process: Process, said: dict[str, Any]) -> None:
    """Write one message."""
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n")


def message(line: bytes) -> dict[str, Any]:
    """One line as a message.

    Raises:
        Impure: it is none.
    """
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
        raise Impure(f"on stdout there was {line[:200]!r}, which is no message")
    return found
