"""Starts a server on stdio and checks that its raw output is only the protocol.

Client libraries skip lines that are not JSON-RPC, but hosts break on them. Knows no kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

from ..errors import StdoutPolluted

LONGEST = 2**24  # max bytes of a line
CELL_TIMEOUT = 60  # max seconds for the cell
WAIT = 10  # seconds that a call waits for the rest of its output
# Writes to a kernel's file descriptor 1 directly, from a child process, and from Python.
NOISE = "import os, sys; os.write(1, b'descriptor '); os.system('echo child'); print('print')"
VERSION = "2025-06-18"  # a version that every host speaks
HELLO: dict[str, Any] = {  # params of `initialize`
    "protocolVersion": VERSION,
    "capabilities": {},
    "clientInfo": {"name": "doctor", "version": "1"},
}


async def conversation(options: list[str], seconds: float) -> int:
    """Start a server, list its tools, run a noisy cell and end it; returns the message count.

    Args:
        options: the server's command-line options; it inherits our environment and folder.
        seconds: timeout for the whole conversation.

    Raises:
        StdoutPolluted: a line was not JSON-RPC, the noise was lost, or the server did not answer.
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
        raise StdoutPolluted(f"no answer in {seconds:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def talk(process: Process) -> int:
    """Talk to the server until it exits; returns the number of messages received."""
    count, _ = await ask(process, "initialize", **HELLO)
    send(process, {"method": "notifications/initialized"})
    more, _ = await ask(process, "tools/list")
    count += more
    more, ran = await call(process, "run_cell", code=NOISE, timeout=CELL_TIMEOUT)
    count += more
    facts = ran.get("structuredContent") or {}
    while facts.get("status") == "running":  # on a busy machine; its output follows
        which = {"session_id": facts["session_id"], "cell": facts["cell"], "wait": WAIT}
        more, ran = await call(process, "read_output", **which)
        count += more
        facts = ran.get("structuredContent") or {}
    said = text_of(ran)
    if missing := [word for word in ("descriptor", "child", "print") if word not in said]:
        raise StdoutPolluted(
            f"a cell's output came back without {', '.join(missing)}: {said[:300]}"
        )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    async for line in process.stdout:
        message(line)
        count += 1
    await process.wait()
    if process.returncode:
        raise StdoutPolluted(f"it exited with {process.returncode} at the end of its input")
    return count


async def call(process: Process, tool: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
    """Call a tool; returns the number of messages up to its result, and the result.

    Raises:
        StdoutPolluted: the call failed.
    """
    count, result = await ask(process, "tools/call", name=tool, arguments=arguments)
    if result.get("isError", True):
        raise StdoutPolluted(f"it does not run a cell: {text_of(result)[:300]}")
    return count, result


def text_of(result: dict[str, Any]) -> str:
    """The text of a tool's result, or all of a result without one."""
    return "".join(str(part.get("text", "")) for part in result.get("content", ())) or str(result)


async def ask(process: Process, method: str, **params: Any) -> tuple[int, dict[str, Any]]:
    """Send a request; returns the number of messages up to its result, and the result."""
    send(process, {"id": method, "method": method, "params": params})
    assert process.stdout is not None
    count = 0
    async for line in process.stdout:
        found = message(line)
        count += 1
        if found.get("id") == method:
            return count, dict(found.get("result") or {"error": found.get("error")})
    raise StdoutPolluted("it exited instead of answering; run it by hand to see why")


def send(process: Process, said: dict[str, Any]) -> None:
    """Write one JSON-RPC message to the server."""
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n")


def message(line: bytes) -> dict[str, Any]:
    """Parse one line of output as a JSON-RPC message.

    Raises:
        StdoutPolluted: the line is not a message.
    """
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
        raise StdoutPolluted(f"it wrote {line[:200]!r} to stdout, which is not a message")
    return found
