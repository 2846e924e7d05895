"""One template process, which forks kernels: its start, its reports, and requests to it.

It runs `zygote.py`. Knows processes, sockets and requests; nothing of Jupyter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from ..errors import CannotFork, PreloadConflict
from ..inside import FORMED
from ..process_tree import mark_process, marking, memory_alike
from .forked_process import ForkedProcess
from .own_sockets import socket_pair
from .request import Request
from .zygote import ADOPT, ANSWER, FORK, LENGTH, PRELOAD_CONFLICT, RETIRE

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("zygote.py")
VENV_PROGRAM = PROGRAM.with_name("user_venv.py")  # starts a kernel that is not forked
PASSES_PIDS = sys.platform == "linux"
CREDENTIALS = struct.Struct("iII")  # `struct ucred`: a process's pid, uid and gid
REQUEST_TIMEOUT = 10.0  # of a request for a kernel, in seconds
START_TIMEOUT = 0.5  # the same, if the template is older than that and has never answered
IMPORT_TIMEOUT = 20.0  # max seconds for the import of one module
MAX_REPORTS = 1_000_000  # max bytes of a template's reports to read at once


class Template:
    """One template process and the line to it. Created and inspected by the pool, under its lock.

    Args:
        first: the request that the template is started for.
        preload: modules to import ahead.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(self, first: Request, preload: list[str]) -> None:
        self.unfit: set[str] = set()  # modules not to preload
        self.stale = False  # it must not fork any more
        self.unable = ""  # why it can form no kernels before it forks them
        self.ready = False  # it has imported everything
        self.forked = 0  # number of kernels
        self.env = first.template_env()
        self.is_extra = first.is_extra
        self.hung = False  # it forked once, and then did not answer in time
        self.kernel_info: dict[str, Any] | None = None  # of all its kernels, if it forms them
        self._born = self.used = time.monotonic()
        self._importing: tuple[str, float] | None = None
        self._unread = b""
        self.line, other_end = socket_pair()
        mark = first.mark.partition(".")[0]  # the server's
        forms: dict[str, Any] = {}
        if first.sockets:
            forms = {"programs": list(map(str, FORMED)), "output_limit": first.output_limit}
            forms["lent"] = first.lent
        arguments = [str(PROGRAM), str(other_end.fileno()), json.dumps(forms), *preload]
        with other_end, contextlib.ExitStack() as undo:
            undo.callback(self.line.close)
            self.line.setblocking(False)
            self.process = subprocess.Popen(
                [*marking(mark), *first.python, *arguments],
                env=self.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(other_end.fileno(),),
                start_new_session=True,
            )
            undo.pop_all()
        mark_process(self.process.pid, mark)

    def is_usable(self) -> bool:
        """Whether it can fork; first reads its reports."""
        try:
            self._unread += self.line.recv(MAX_REPORTS)
        except (BlockingIOError, ConnectionError):
            pass
        except OSError:  # the line was closed while a caller waited for an answer
            return False
        *lines, self._unread = self._unread.split(b"\n")
        try:
            for line in lines:
                self._handle({**json.loads(line)})
        # Without walls, its kernels could have tampered with it.
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._abandon(f"its report is invalid: {error!r}")
        if len(self._unread) > MAX_REPORTS:
            self._abandon("its reports are too long")
        if self._importing and time.monotonic() > self._importing[1] + IMPORT_TIMEOUT:
            self._skip(self._importing[0], f"its import takes more than {IMPORT_TIMEOUT:g} s")
            self.process.kill()
        if self.hung and not self._importing and not self.stale:
            log.warning("The process that forks kernels does not answer and is replaced")
            self.stale = True  # not killed: in a sandbox, its kernels would end with it
        return not (self.unfit or self.stale or self.unable or self.ended)

    def _abandon(self, why: str) -> None:
        log.warning("The process that forks kernels is killed: %s", why)
        self.stale = True
        self.process.kill()

    def _handle(self, report: dict[str, Any]) -> None:
        self._importing = None
        if "importing" in report:
            self._importing = (str(report["importing"]), time.monotonic())
        if "unfit" in report:
            self._skip(str(report["unfit"]), str(report.get("why")))
        if "refused" in report:
            log.warning("A kernel was not forked: %s", report["refused"])
        if "failed" in report:
            log.warning("The process that forks kernels has failed: %s", report["failed"])
        if "unable" in report:
            self.unable = str(report["unable"])
            log.debug("Kernels can't be formed ahead: %s", report.get("trace"))
        if "unformed" in report:
            log.info("Kernels form their shells after the fork: %s", report["unformed"])
        if "ready" in report:
            self.ready = True
            log.info(
                "Kernels are forked; preloaded: %s",
                ", ".join(map(str, report["ready"])) or "nothing",
            )
        if "formed" in report:
            self.kernel_info = dict(report["formed"])
        self.stale = self.stale or "stale" in report

    def _skip(self, module: str, why: str) -> None:
        log.warning("%s is not preloaded (RMI_AGENT_KERNEL_PRELOAD): %s", module, why)
        self.unfit.add(module)

    async def fork(self, request: Request) -> ForkedProcess:
        """Ask the template for a kernel.

        Raises:
            CannotFork: no kernel was forked.
        """
        timeout = REQUEST_TIMEOUT
        if not self.forked:
            timeout = max(START_TIMEOUT, timeout - (time.monotonic() - self._born))
        try:
            connection, other_end = socket_pair()
        except OSError as error:
            raise CannotFork(f"its template can't be asked: {error}") from error
        try:
            connection.setblocking(False)
            if PASSES_PIDS:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with other_end:
                passed = [other_end.fileno(), *request.streams, *request.sockets]
                socket.send_fds(self.line, [FORK], passed)
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(connection, request.wire())
                pid, _ = await pids_of_sender(connection)
                forked = ForkedProcess(pid, connection)
                forked.adopt = self.adopt
        except BaseException as error:
            connection.close()
            self.hung = self.hung or (isinstance(error, TimeoutError) and self.forked > 0)
            if isinstance(error, (OSError, psutil.Error)):  # includes TimeoutError
                raise CannotFork(f"its template did not answer: {error!r}") from None
            raise
        self.forked += 1
        return forked

    async def adopt(self, pid: int, inner: int) -> ForkedProcess:
        """Let the template take charge of a kernel that one of its kernels has forked.

        Args:
            pid: the process.
            inner: the same, as the template sees it.

        Raises:
            CannotFork: it did not.
        """
        data = json.dumps({"pid": inner}).encode()
        connection, other_end = socket_pair()
        try:
            connection.setblocking(False)
            with other_end:
                socket.send_fds(self.line, [ADOPT], [other_end.fileno()])
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await loop.sock_sendall(connection, LENGTH.pack(len(data)) + data)
                answer = await loop.sock_recv(connection, ANSWER.size)
            if answer != ANSWER.pack(b"p", inner):
                raise CannotFork("its template did not adopt it")
            forked = ForkedProcess(pid, connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, (OSError, psutil.Error)):  # includes TimeoutError
                raise CannotFork(f"its template did not adopt it: {error!r}") from None
            raise
        forked.adopt, forked.kernel_info = self.adopt, self.kernel_info or {}
        return forked

    def memory(self) -> int:
        """Bytes that it takes, without its kernels; what these share with it counts in part."""
        return memory_alike(self.process.pid)

    def retire(self) -> None:
        """Tell it to exit once its last kernel has ended."""
        with contextlib.suppress(OSError):
            self.line.send(RETIRE)

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def end(self, timeout: float) -> None:
        """Wait for it to exit, as it does once its line is closed.

        After `timeout` s, kill it and the kernels that it would have killed.
        """
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGSTOP)  # it forks no more, and reaps none of these
            with contextlib.suppress(psutil.Error):
                for kernel in psutil.Process(self.process.pid).children():
                    for kill in (os.killpg, os.kill):
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            kill(kernel.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()


async def pids_of_sender(connection: socket.socket) -> tuple[int, int]:
    """The pid of a forked kernel, from its first message, as seen from here and as seen by itself.

    Linux adds the first; a sandboxed kernel only knows its pid in there.

    Raises:
        CannotFork: no kernel was forked.
    """
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, readable.set)
    room = socket.CMSG_SPACE(CREDENTIALS.size)
    try:
        while True:
            await readable.wait()
            try:
                answer, ancillary, _, _ = connection.recvmsg(ANSWER.size, room)
                break
            except BlockingIOError:  # the loop was forked, and this was for another process
                readable.clear()
    finally:
        loop.remove_reader(connection)
    kind, number = ANSWER.unpack(answer) if len(answer) == ANSWER.size else (b"", 0)
    if kind == b"m":
        conflict = "the user has other versions of modules that"
        if number == PRELOAD_CONFLICT:
            raise PreloadConflict(f"{conflict} are preloaded")
        raise CannotFork(f"{conflict} kernels are made of")
    if kind == b"x":
        raise CannotFork(f"the system refused ({os.strerror(number)})")
    if kind != b"p":
        raise CannotFork("no process was forked")
    for level, what, data in ancillary:
        if PASSES_PIDS and (level, what) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]), int(number)
    return int(number), int(number)
