"""Template processes, seen from the program that has kernels forked from them.

One template for each interpreter, environment and list of modules to preload; its own
program is `zygote.py`. Knows processes, sockets and requests; nothing of Jupyter.
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

from ..process_tree import MARK, number_of, put_number

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("zygote.py")
PROGRAMS = (PROGRAM, PROGRAM.with_name("afterfork.py"))  # all that a template reads of ours
FORK, RETIRE = b"f", b"r"  # what is said to a template
LENGTH = struct.Struct("!i")
ANSWER = struct.Struct("!ci")  # b"p" and a pid, b"e" and an exit code, b"m" and one of:
MEETS_PRELOAD, MEETS_ALL = 1, 2  # the user has other versions of modules of the template
PASSES_PIDS = sys.platform == "linux"
CREDENTIALS = struct.Struct("iII")  # `struct ucred`: a process's pid, uid and gid
PATIENCE = 10.0  # seconds until whoever asks for a kernel is told that it does not come
SHORT = 0.5  # seconds, where the template has not answered anybody in that time
HANG = 20.0  # seconds that the import of a module may take
FAILURES = 2  # ends of a template's process before its first kernel; then it is given up
MOST_TOLD = 1_000_000  # bytes of a template's reports that are read at once
MOST = 8  # templates that may serve at the same time; the one longest unused makes room
LOOK = 0.5  # seconds between closer looks at a process of which its template says nothing
LAST_WORD = 0.2  # seconds in which the exit code of a kernel that has ended is to come
CLOSING = 2.0  # seconds in which templates are to end by themselves, all together
UNKNOWN = 255  # exit code of a kernel whose template has ended before it
# Starts the templates and keeps their books; nothing in it waits for one of them. bubblewrap is
# to end with its parent, and for Linux that is the thread that has started it: this one stays.
SPAWNER = ThreadPoolExecutor(1, "templates")
# Variables that differ from kernel to kernel and that no library looks at when it is imported.
OWN = ("JPY_PARENT_PID", "JPY_SESSION_NAME", "RMI_AGENT_KERNEL", "KERNEL_ID", "PWD", "OLDPWD")


Result = TypeVar("Result")


class CannotFork(Exception):
    """Why a kernel has to be started in the ordinary way."""


class MeetsPreload(CannotFork):
    """The user has other versions of modules that are preloaded."""


@dataclass(frozen=True)
class Request:
    """The kernel that is asked for.

    Attributes:
        python: the interpreter and its options.
        arguments: behind `-m ipykernel_launcher`.
        env: all its environment.
        cwd: its folder.
        umask: its file mode mask.
        streams: the descriptors that become its 0, 1 and 2.
        preload: modules that it is to have imported already, where they are installed.
        template_overrides: variables that its template has otherwise, since they lead to what
            kernels can write; None is none.
        apart: whether it is kept from the memory of its template and of other kernels.
        last_filter: a program for seccomp, in hexadecimal, for when it has its sockets.
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
        """What it has in common with the other kernels of its template."""
        common = {name: value for name, value in self.env.items() if name not in OWN}
        return self.python, self.preload, tuple(sorted(common.items()))

    def template_env(self) -> dict[str, str]:
        """Its environment as its template gets it; a mark keeps its length."""
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
        """What its kernel and all that this will start are found by; empty is nothing."""
        return self.env.get(MARK, "")

    def wire(self) -> bytes:
        """As it is sent."""
        names = ("arguments", "env", "cwd", "umask", "apart", "last_filter")
        told = {name: getattr(self, name) for name in names}
        told["number"] = number_of(self.mark) if sys.platform == "linux" and self.mark else None
        data = json.dumps(told).encode()
        return LENGTH.pack(len(data)) + data


Key = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]


class Forked:
    """A forked kernel's process, with what `LocalProvisioner` uses of a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.pid = pid
        self.returncode: int | None = None
        self.exit_code_lost = False  # nobody is left who knows how it ended
        self._connection = connection
        self._looked = time.monotonic()
        self._ended = 0.0  # when it was seen to have ended without a word
        self._process = psutil.Process(pid)

    def close(self) -> None:
        """Forget it: nobody will ask for its exit code any more. Idempotent."""
        self._connection.close()

    def poll(self) -> int | None:
        """The exit code, as `subprocess` counts, or None while it runs. Never waits."""
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
        """Whether it runs no more, as seen now; how it ended may not be known yet."""
        self._looked = 0.0
        return self.returncode is not None or not self._runs()

    def _last_word(self) -> bytes | None:
        """What its template says of its end; less than that if it died first, None if it waits."""
        try:
            return self._connection.recv(ANSWER.size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _is_silent(self) -> bool:
        """Whether the template has had the time to say how the process ended."""
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
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends is not None and time.monotonic() > ends:
                raise subprocess.TimeoutExpired("ipykernel", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Signal the process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


async def pid_of_sender(connection: socket.socket) -> int:
    """The pid of a forked kernel, from its first message.

    Linux tells it as it is here; in a sandbox the kernel knows only its number there.

    Raises:
        CannotFork: there is no kernel.
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
    """Wait until there is something to read, or the end."""
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
    """Do something where the templates' books are kept."""
    return await asyncio.get_running_loop().run_in_executor(SPAWNER, work, *arguments)


class Template:
    """One template process and the line to it. Made and looked at on `SPAWNER`.

    Args:
        first: the request that it is started for.
        preload: modules to import ahead.

    Raises:
        OSError: it can't be started.
    """

    def __init__(self, first: Request, preload: list[str]) -> None:
        self.unfit: set[str] = set()  # modules to do without
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
        """Whether it can fork; reads what it has reported."""
        try:
            self._told += self.line.recv(MOST_TOLD)
        except (BlockingIOError, ConnectionError):
            pass
        except OSError:  # it was closed while somebody waited for its answer
            return False
        *lines, self._told = self._told.split(b"\n")
        try:
            for line in lines:
                self._take({**json.loads(line)})
        # Where there is no wall, its kernels could have changed it.
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
        """Ask for a kernel.

        Raises:
            CannotFork: it did not come.
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
            if isinstance(error, (OSError, psutil.Error)):  # of which TimeoutError is one
                raise CannotFork(f"its template did not answer: {error!r}") from None
            raise
        self.forked += 1
        return forked

    def retire(self) -> None:
        """Let it end with its last kernel."""
        with contextlib.suppress(OSError):
            self.line.send(RETIRE)

    def over(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def hang_up(self) -> None:
        """Let it end, with the kernels that it still has."""
        self.line.close()

    def end(self, patience: float) -> None:
        """Wait for its end, at most so many seconds; then kill it."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class History:
    """What was learnt of a key's templates.

    Attributes:
        unfit: modules that can't be preloaded.
        failures: templates in a row that ended before they had forked.
    """

    unfit: set[str] = field(default_factory=set)
    failures: int = 0


class Templates:
    """The templates of this process."""

    def __init__(self) -> None:
        self._living: OrderedDict[Key, Template] = OrderedDict()  # the longest unused first
        self._retired: list[Template] = []
        self._history: dict[Key, History] = {}

    def close(self, **env: str) -> None:
        """End those with these variables in their environment, and their kernels; else all.

        Waits in the caller's thread: one that is stopped keeps nobody else from a kernel.
        """
        closing = SPAWNER.submit(self._take_out, env).result()
        until = time.monotonic() + CLOSING
        for template in closing:
            template.end(max(0.0, until - time.monotonic()))

    def _take_out(self, env: dict[str, str]) -> list[Template]:
        """Forget those with these variables, and let them end."""
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
        """A kernel from the template that fits, which is started or renewed first if need be.

        Where the user has other versions of what is preloaded, from one that preloads nothing.

        Raises:
            CannotFork: not from any.
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
