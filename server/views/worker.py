"""Has somebody's HTML and pictures parsed in a process that has nothing to lose.

HTML, charts and pictures come from code that nobody has read: they may take forever or all memory,
crash a library, or name files and URLs. The process gets no environment, neither network nor files
to write (where the system can do that), and is ended when it takes too long. It is started by the
first request, and ends with the server or after a minute without requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ...kernels import without_rights
from ..errors import WorkerError

PROGRAM = Path(__file__).with_name("worker_main.py")
TIMEOUT = 15.0  # max seconds of one request
REPLY_MOST = 50_000_000  # max bytes of a reply
MEMORY = 1_500_000_000  # max bytes of memory
THREADS = 4  # max requests that wait at the same time
KEPT = ("SYSTEMROOT", "TEMP", "TMP")  # what Python needs on Windows
P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """One process, one request at a time. Use as `with Worker() as worker`."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False
        # Threads of its own: those of the event loop must not wait for somebody's charts.
        self._threads = ThreadPoolExecutor(THREADS, "views")

    def __enter__(self) -> Self:
        if self._closed:
            self._closed, self._threads = False, ThreadPoolExecutor(THREADS, "views")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; what is being asked fails."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._drop()

    async def in_thread(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Call a function that may `ask`, in one of the threads for that."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **more))

    def ask(self, what: str, request: dict[str, Any], data: bytes = b"") -> bytes:
        """Have something done, see `worker_main.py`; blocks, so call it by `in_thread`.

        Raises:
            WorkerError: it can't be done, or took too long.
        """
        head = json.dumps({"what": what, **request}).encode()
        with self._lock:
            if self._closed:
                raise WorkerError("the server is shutting down")
            for attempt in (1, 2):  # it may have ended since the last request
                process = self._process or self._start()
                timer = threading.Timer(self.timeout, process.kill)
                timer.start()
                try:
                    send(process, head, data)
                    return receive(process)
                except WorkerError:
                    raise
                except (OSError, EOFError, struct.error) as error:
                    expired = timer.finished.is_set()
                    self._drop()
                    if expired or attempt == 2 or self._closed:
                        how = f"took more than {self.timeout:g} s" if expired else "crashed"
                        raise WorkerError(f"reading it {how}") from error
                finally:
                    timer.cancel()
        raise AssertionError("unreachable")

    def _start(self) -> subprocess.Popen[bytes]:
        limits = json.dumps({"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_DATA": MEMORY})
        self._process = subprocess.Popen(
            [*without_rights(str(PROGRAM.parent)), sys.executable, "-I", str(PROGRAM), limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
            cwd=PROGRAM.parent,
        )
        return self._process

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # unsent bytes of a request
                        continue


def send(process: subprocess.Popen[bytes], head: bytes, data: bytes) -> None:
    """Write a request: two lengths, the JSON head, the data."""
    assert process.stdin is not None
    process.stdin.write(struct.pack(">QQ", len(head), len(data)) + head)
    process.stdin.write(data)
    process.stdin.flush()


def receive(process: subprocess.Popen[bytes]) -> bytes:
    """Read a reply: whether it failed, the length, the bytes."""
    assert process.stdout is not None
    failed, size = struct.unpack(">?Q", process.stdout.read(9))
    if size > REPLY_MOST:
        raise EOFError("too long a reply")
    reply = process.stdout.read(size)
    if len(reply) < size:
        raise EOFError("an incomplete reply")
    if failed:
        raise WorkerError(reply.decode("utf-8", "replace")[:500])
    return reply
