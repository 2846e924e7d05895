"""A server in a child process, which a command speaks to over the child's stdin and stdout.

Carries one line of JSON for each message; knows nothing about what they say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import IO

from .direct import Json, as_json

GRACE = 2.0  # max seconds for the server to exit once its stdin is closed, and once it is told to
LINE = 1 << 30  # max bytes of a message


class ChildServer:
    """The server of a command line; it inherits this environment, and so its settings.

    Args:
        command: the command line.
        log: takes its stderr; None leaves it this process's.
    """

    def __init__(self, command: Sequence[str], log: IO[str] | None = None) -> None:
        self._command, self._log = command, log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        # By the request's number; None says that nothing more comes.
        self._waiting: dict[int, asyncio.Queue[Json | None]] = {}

    async def open(self) -> None:
        """Start it.

        Raises:
            OSError: there is no such program.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            limit=LINE,
            start_new_session=True,  # so that Ctrl-C is for the command alone
        )
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """End it, at first by asking."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        for force in (False, True):
            if await self._has_ended():
                break
            self._signal(force)
        await self._has_ended()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _has_ended(self) -> bool:
        """Wait for its end, but not for long."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, force: bool) -> None:
        """End it and what it has started, by force or by asking."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL if force else signal.SIGTERM)

    async def exchange(self, request: Json) -> AsyncGenerator[Json]:
        """Send a request; what the server sends until its answer, which is the last."""
        number, arrived = request["id"], asyncio.Queue[Json | None]()
        assert self._reading is not None
        assert self._process is not None and self._process.stdin is not None
        if self._reading.done():
            return
        self._waiting[number] = arrived
        answered = False
        try:
            self._write(request)
            await self._process.stdin.drain()
            while (message := await arrived.get()) is not None:
                answered = "id" in message
                yield message
            answered = True
        finally:
            del self._waiting[number]
            if not answered:  # not waited for: it may be stuck and read nothing
                self._write(cancelled(number))

    def _write(self, message: Json) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(as_json(message) + b"\n")

    async def _read(self) -> None:
        """Hand each message to the request that waits for it, until the server's stdout ends."""
        assert self._process is not None and self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                message: Json = json.loads(line)
                number = message.get("id", message.get("params", {}).get("progressToken"))
                if (waiting := self._waiting.get(number)) is not None:
                    waiting.put_nowait(message)
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # what is no message, as an end is
        finally:
            for waiting in self._waiting.values():
                waiting.put_nowait(None)


def cancelled(number: int) -> Json:
    """The message that a request is not waited for any more."""
    params = {"requestId": number, "reason": "cancelled"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
