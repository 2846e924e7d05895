"""Template processes, from the side of the program that has kernels forked from them.

There is one template for each interpreter, environment and list of modules to preload; it runs
`zygote.py`. Knows processes, sockets and requests; nothing of Jupyter.
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
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ..errors import CannotFork
from ..process_tree import MARK, number_of, put_number
from .zygote import ANSWER, FORK, LENGTH, MEETS_PRELOAD, RETIRE

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("zygote.py")
PROGRAMS = (PROGRAM, PROGRAM.with_name("afterfork.py"))  # all our files that a template reads
PASSES_PIDS = sys.platform == "linux"
CREDENTIALS = struct.Struct("iII")  # `struct ucred`: a process's pid, uid and gid
PATIENCE = 10.0  # timeout of a request for a kernel, in seconds
SHORT = 0.5  # the same, if the template is older than PATIENCE and has never answered
HANG = 20.0  # max seconds for the import of one module
FAILURES = 2  # times in a row a template may exit before its first kernel; then we give up
MOST_TOLD = 1_000_000  # max bytes of a template's reports to read at once
MOST = 8  # max templates serving at the same time; the least recently used makes room
LOOK = 0.5  # seconds between full checks of a process while its template says nothing
LAST_WORD = 0.2  # max seconds between a kernel's end and its exit code
CLOSING = 2.0  # max seconds for all templates together to exit by themselves
UNKNOWN = 255  # exit code of a kernel whose template ended first
# Starts the templates and tracks them; nothing in it waits for a template. bubblewrap is set to
# end with its parent, which to Linux is the thread that started it: this thread stays.
SPAWNER = ThreadPoolExecutor(1, "templates")
# Variables that differ from kernel to kernel and that no library reads on import.
OWN = ("JPY_PARENT_PID", "JPY_SESSION_NAME", MARK, "KERNEL_ID", "PWD", "OLDPWD")


Result = TypeVar("Result")


class MeetsPreload(CannotFork):
    """The user has other versions of preloaded modules."""


@dataclass(frozen=True)
class Request:
    """A request for a kernel.

    Attributes:
        python: the interpreter and its options.
        arguments: those after `-m ipykernel_launcher`.
        env: the kernel's complete environment.
        cwd: its working directory.
        umask: its file mode mask.
        streams: the descriptors that become its 0, 1 and 2.
        preload: modules to have imported already, if they are installed.
        template_overrides: variables with other values in the template, since they lead to
            what kernels can write; None unsets one.
        apart: whether to isolate it from the memory of its template and of other kernels.
        last_filter: a seccomp program in hexadecimal, applied once the kernel has its sockets.
    """

    python: tuple[str, ...]
    arguments: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    umask: int
    streams: tuple[int, ...]
    preload: tuple[str, ...]
    template_overrides: Mapping[str, str | None] = field(default_factory=dict)
    apart: bool = False
    last_filter: str = ""

    @property
    def key(self) -> Key:
        """What all kernels of one template have in common."""
        common = {name: value for name, value in self.env.items() if name not in OWN}
        return self.python, self.preload, tuple(sorted(common.items()))

    def template_env(self) -> dict[str, str]:
        """The environment for the template; the kernel's part of the mark becomes zeros."""
        common = {
            name: value
            for name, value in {**self.env, **self.template_overrides}.items()
            if value is not None and name not in OWN
        }
        common["JPY_PARENT_PID"] = self.env["JPY_PARENT_PID"]  # ipykernel's import reads it
        if self.mark:
            server, dot, kernel = self.mark.partition(".")
            common[MARK] = server + dot + "0" * len(kernel)
        return common

    @property
    def mark(self) -> str:
        """The mark that identifies the kernel and everything it starts; empty if none."""
        return self.env.get(MARK, "")

    def wire(self) -> bytes:
        """The request as bytes for the connection: length and JSON."""
        names = ("arguments", "env", "cwd", "umask", "apart", "last_filter")
        told = {name: getattr(self, name) for name in names}
        told["number"] = number_of(self.mark) if sys.platform == "linux" and self.mark else None
        data = json.dumps(told).encode()
        return LENGTH.pack(len(data)) + data


Key = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]


class Forked:
    """A forked kernel's process, with the part of `Popen` that `LocalProvisioner` uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.pid = pid
        self.returncode: int | None = None
        self.exit_code_lost = False  # True if the template ended without reporting it
        self._connection = connection
        self._looked = time.monotonic()
        self._ended = 0.0  # when it was found to have ended without an exit code
        self._process = psutil.Process(pid)

    def close(self) -> None:
        """Close the connection; its exit code can't be read any more. Idempotent."""
        self._connection.close()

    def poll(self) -> int | None:
        """The exit code, as `subprocess` gives it, or None while it runs. Never waits."""
        if self.returncode is None:
            word = self._last_word()
            if word is not None and len(word) == ANSWER.size:
                self.returncode = ANSWER.unpack(word)[1]
            elif not self._runs() and (word is not None or self._is_silent()):
                self.returncode, self.exit_code_lost = UNKNOWN, True
            if self.returncode is not None:
                self.close()
        return self.returncode

    @property
    def ended(self) -> bool:
        """Whether it has ended, checked now; its exit code may not be known yet."""
        self._looked = 0.0
        return self.returncode is not None or not self._runs()

    def _last_word(self) -> bytes | None:
        """The template's exit message: incomplete if the template died, None if not sent yet."""
        try:
            return self._connection.recv(ANSWER.size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _is_silent(self) -> bool:
        """Whether the template has had enough time to report the exit code."""
        self._ended = self._ended or time.monotonic()
        return time.monotonic() > self._ended + LAST_WORD

    def _runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
            if time.monotonic() < self._looked + LOOK:
                return True
            self._looked = time.monotonic()
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.NoSuchProcess):
            return False

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends is not None and time.monotonic() > ends:
                raise subprocess.TimeoutExpired("ipykernel", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process only, not to its group."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.send_signal(signal.SIGKILL)


async def pid_of_sender(connection: socket.socket) -> int:
    """The pid of a forked kernel, from its first message.

    Linux adds the pid as seen from here; a sandboxed kernel only knows its pid in there.

    Raises:
        CannotFork: no kernel was forked.
    """
    await until_readable(connection)
    room = socket.CMSG_SPACE(CREDENTIALS.size)
    answer, told, _, _ = connection.recvmsg(ANSWER.size, room)
    kind, number = ANSWER.unpack(answer) if len(answer) == ANSWER.size else (b"", 0)
    if kind == b"m":
        meets = "the user has other versions of modules that"
        if number == MEETS_PRELOAD:
            raise MeetsPreload(f"{meets} are preloaded")
        raise CannotFork(f"{meets} kernels are made of")
    if kind != b"p":
        raise CannotFork("its template did not fork")
    for level, what, data in told:
        if PASSES_PIDS and (level, what) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(CREDENTIALS.unpack(data[: CREDENTIALS.size])[0])
    return int(number)


async def until_readable(connection: socket.socket) -> None:
    """Wait until there is something to read, or the connection ends."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def come() -> None:
        loop.remove_reader(connection)
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, come)
    try:
        await readable
    finally:
        loop.remove_reader(connection)


async def on_spawner(work: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function on the thread that tracks the templates."""
    return await asyncio.get_running_loop().run_in_executor(SPAWNER, work, *arguments)


class Template:
    """One template process and the line to it. Created and inspected on `SPAWNER`.

    Args:
        first: the request that the template is started for.
        preload: modules to import ahead.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(self, first: Request, preload: list[str]) -> None:
        self.unfit: set[str] = set()  # modules not to preload
        self.stale = False
        self.forked = 0
        self.env = first.template_env()
        self.hung = False  # it forked once, and then did not answer in time
        self._born = time.monotonic()
        self._importing: tuple[str, float] | None = None
        self._told = b""
        self.line, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self.line.close)
            self.line.setblocking(False)
            self.process = subprocess.Popen(
                [*first.python, str(PROGRAM), str(theirs.fileno()), *preload],
                env=self.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            undo.pop_all()
        put_number(self.process.pid, first.mark.partition(".")[0])

    def fit(self) -> bool:
        """Whether it can fork; first reads its reports."""
        try:
            self._told += self.line.recv(MOST_TOLD)
        except (BlockingIOError, ConnectionError):
            pass
        except OSError:  # the line was closed while a caller waited for an answer
            return False
        *lines, self._told = self._told.split(b"\n")
        try:
            for line in lines:
                self._take({**json.loads(line)})
        # Without walls, its kernels could have tampered with it.
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._give_up(f"it makes no sense: {error!r}")
        if len(self._told) > MOST_TOLD:
            self._give_up("it tells too much")
        if self._importing and time.monotonic() > self._importing[1] + HANG:
            self._do_without(self._importing[0], f"its import takes more than {HANG:g} s")
            self.process.kill()
        if self.hung and not self._importing and not self.stale:
            log.warning("The process that forks kernels does not answer; another takes its place")
            self.stale = True  # not killed: in a sandbox, its kernels would end with it
        return not self.unfit and not self.stale and self.process.poll() is None

    def _give_up(self, why: str) -> None:
        log.warning("The process that forks kernels is ended: %s", why)
        self.stale = True
        self.process.kill()

    def _take(self, report: dict[str, Any]) -> None:
        self._importing = None
        if "importing" in report:
            self._importing = (str(report["importing"]), time.monotonic())
        if "unfit" in report:
            self._do_without(str(report["unfit"]), str(report.get("why")))
        if "refused" in report:
            log.warning("A kernel was not forked: %s", report["refused"])
        if "failed" in report:
            log.warning("The process that forks kernels has failed: %s", report["failed"])
        if "ready" in report:
            log.info(
                "Kernels are forked; preloaded: %s",
                ", ".join(map(str, report["ready"])) or "nothing",
            )
        self.stale = self.stale or "stale" in report

    def _do_without(self, module: str, why: str) -> None:
        log.warning("%s is not preloaded (RMI_AGENT_KERNEL_PRELOAD): %s", module, why)
        self.unfit.add(module)

    async def fork(self, request: Request) -> Forked:
        """Ask the template for a kernel.

        Raises:
            CannotFork: no kernel was forked.
        """
        waited = time.monotonic() - self._born
        patience = PATIENCE if self.forked else max(SHORT, PATIENCE - waited)
        try:
            connection, theirs = socket.socketpair()
        except OSError as error:
            raise CannotFork(f"its template can't be asked: {error}") from error
        try:
            connection.setblocking(False)
            if PASSES_PIDS:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs:
                socket.send_fds(self.line, [FORK], [theirs.fileno(), *request.streams])
            async with asyncio.timeout(patience):
                await asyncio.get_running_loop().sock_sendall(connection, request.wire())
                forked = Forked(await pid_of_sender(connection), connection)
        except BaseException as error:
            connection.close()
            self.hung = self.hung or (isinstance(error, TimeoutError) and self.forked > 0)
            if isinstance(error, (OSError, psutil.Error)):  # includes TimeoutError
                raise CannotFork(f"its template did not answer: {error!r}") from None
            raise
        self.forked += 1
        return forked

    def retire(self) -> None:
        """Tell it to exit once its last kernel has ended."""
        with contextlib.suppress(OSError):
            self.line.send(RETIRE)

    def over(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def hang_up(self) -> None:
        """Close the line, upon which it kills its remaining kernels and exits."""
        self.line.close()

    def end(self, patience: float) -> None:
        """Wait at most `patience` seconds for it to exit; then kill it."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class History:
    """What was learned from a key's templates.

    Attributes:
        unfit: modules that can't be preloaded.
        failures: how many templates in a row exited before they had forked.
    """

    unfit: set[str] = field(default_factory=set)
    failures: int = 0


class Templates:
    """The templates of this process."""

    def __init__(self) -> None:
        self._living: OrderedDict[Key, Template] = OrderedDict()  # least recently used first
        self._retired: list[Template] = []
        self._history: dict[Key, History] = {}

    def close(self, **env: str) -> None:
        """End the templates with these variables in their environment (or all) and their kernels.

        Waits in the caller's thread, so that a stopped template blocks no request for a kernel.
        """
        closing = SPAWNER.submit(self._take_out, env).result()
        until = time.monotonic() + CLOSING
        for template in closing:
            template.end(max(0.0, until - time.monotonic()))

    def _take_out(self, env: dict[str, str]) -> list[Template]:
        """Forget the templates with these variables, and close their lines."""
        closing = [key for key, each in self._living.items() if env.items() <= each.env.items()]
        closed = [self._living.pop(key) for key in closing]
        for each in self._retired:
            if each.over() or env.items() <= each.env.items():
                closed.append(each)
        self._retired = [each for each in self._retired if each not in closed]
        for key in [key for key in self._history if env.items() <= dict(key[2]).items()]:
            del self._history[key]
        for each in closed:
            each.hang_up()
        return closed

    async def fork(self, request: Request) -> Forked:
        """Fork a kernel from the matching template, which is started or replaced if necessary.

        If the user has other versions of preloaded modules, uses one that preloads nothing.

        Raises:
            CannotFork: no template can fork it.
        """
        try:
            return await self._fork(request)
        except MeetsPreload:
            return await self._fork(replace(request, preload=()))

    async def _fork(self, request: Request) -> Forked:
        for _ in range(2):
            template = await on_spawner(self._fitting, request)
            try:
                return await template.fork(request)
            except MeetsPreload:
                raise
            except CannotFork:
                if await on_spawner(template.fit):
                    raise
        raise CannotFork("its template has ended")

    def _fitting(self, request: Request) -> Template:
        history = self._history.setdefault(request.key, History())
        template = self._living.pop(request.key, None)
        if template is not None and not template.fit():
            if template.unfit:
                history.unfit |= template.unfit
            elif not template.stale:
                history.failures = 0 if template.forked else history.failures + 1
            self._retire(template)
            template = None
        if history.failures >= FAILURES:
            raise CannotFork("its template does not start")
        while len(self._living) >= MOST:
            self._retire(self._living.popitem(last=False)[1])
        if template is None:
            wanted = [name for name in request.preload if name not in history.unfit]
            try:
                template = Template(request, wanted)
            except OSError as error:
                raise CannotFork(f"its template can't be started: {error}") from error
        self._living[request.key] = template
        return template

    def _retire(self, template: Template) -> None:
        template.retire()
        over = [old for old in (*self._retired, template) if old.over()]
        self._retired = [old for old in (*self._retired, template) if old not in over]
        for old in over:
            old.hang_up()


TEMPLATES = Templates()
