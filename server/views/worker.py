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
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from ...kernels import without_rights
from ..errors import WorkerError

PROGRAM = Path(__file__).with_name("worker_main.py")
TIMEOUT = 15.0  # max seconds of one request
ALLOWANCE = 20.0  # max seconds for all outputs of a run, since a call must return
REPLY_MOST = 50_000_000  # max bytes of a reply
MEMORY = 1_500_000_000  # max bytes of memory
THREADS = 4  # max requests that wait at the same time
KEPT = ("SYSTEMROOT", "TEMP", "TMP")  # what Python needs on Windows
P = ParamSpec("P")
T = TypeVar("T")


class Reader(Protocol):
    """Has something read: a worker, or what limits its use."""

    def ask(self, what: str, request: dict[str, Any], data: bytes = b"") -> bytes:
        """See `Worker.ask`."""


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

    def ask(
        self, what: str, request: dict[str, Any], data: bytes = b"", seconds: float = TIMEOUT
    ) -> bytes:
        """Have something done, see `worker_main.py`; blocks, so call it by `in_thread`.

        Args:
            what: the task.
            request: its arguments.
            data: what it is about.
            seconds: max time, including that of requests before it.

        Raises:
            WorkerError: it can't be done, or took too long.
        """
        head = json.dumps({"what": what, **request}).encode()
        until = time.monotonic() + seconds
        if not self._lock.acquire(timeout=max(0.0, seconds)):
            raise WorkerError("too many others are being read")
        try:
            for attempt in (1, 2):  # it may have ended since the last request
                left = min(self.timeout, until - time.monotonic())
                try:
                    return self._exchange(head, data, left)
                except TimeoutError as error:
                    raise WorkerError(f"reading it took more than {left:.1f} s") from error
                except (OSError, EOFError, struct.error) as error:
                    if attempt == 2:
                        raise WorkerError("reading it failed") from error
        finally:
            self._lock.release()
        raise AssertionError("unreachable")

    def _exchange(self, head: bytes, data: bytes, seconds: float) -> bytes:
        if self._closed:
            raise WorkerError("the server is shutting down")
        process = self._process or self._start()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            send(process, head, data)
            return receive(process)
        except (OSError, EOFError, struct.error) as error:
            self._drop()
            if expired.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()

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


class Allowance:
    """A worker for one run's outputs, however many: all requests together have a time limit."""

    def __init__(self, worker: Worker, seconds: float = ALLOWANCE) -> None:
        self._worker, self._left = worker, seconds

    def ask(self, what: str, request: dict[str, Any], data: bytes = b"") -> bytes:
        """Ask the worker.

        Raises:
            WorkerError: as for the worker's, or the time is used up.
        """
        began = time.monotonic()
        try:
            return self._worker.ask(what, request, data, self._left)
        finally:
            self._left -= time.monotonic() - began


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
