"""One kernel process: starting it, running code on it, stopping what runs, ending it.

Speaks Jupyter's messages through jupyter_client and folds what comes back into an
`Outputs`. Knows nothing of sessions, notebooks or MCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from queue import Empty
from typing import Any, Literal, Self

import psutil
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from .errors import DeadKernelError, KernelStartError
from .outputs import Message, Outputs
from .rawoutput import RawOutput

log = logging.getLogger(__name__)

GRACE = 2.0  # seconds between one interrupt and the next, and from the last to the kill
POLL = 0.1  # seconds between looks at whether the process lives
# Variables that ipykernel changes and a script is to find as they were (see inkernel.py).
IPYKERNELS = ("TERM", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PAGER", "GIT_PAGER")
RUN_SCRIPT = "__import__('IPython').get_ipython()._rmi_agent_script()"

Status = Literal["ok", "error", "timeout", "interrupted", "dead"]
State = Literal["kept", "lost"]


@dataclass(frozen=True)
class Launch:
    """How a kernel is started.

    Attributes:
        cwd: the folder that it starts in.
        runtime: a private folder for connection files and sockets; its path is short,
            since a socket's may have 107 bytes.
        kernel_name: the kernelspec.
        env: all the environment that the process gets.
        start_timeout: seconds until the first answer.
    """

    cwd: Path
    runtime: Path
    kernel_name: str = "python3"
    env: dict[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0


@dataclass(frozen=True)
class Script:
    """A file to run as `__main__`: where it lies, what it says, what it is given."""

    path: Path
    source: bytes
    args: tuple[str, ...] = ()
    stdin: str = ""
    fresh: bool = True  # the kernel is this file's own: it moves to the file's folder for good


@dataclass(frozen=True)
class Reply:
    """How a run ended.

    Attributes:
        status: `timeout` and `interrupted` name our own act, whatever the code made of it.
        state: `lost` when the process was killed or died.
        exit_code: of a script, or of a process that ended (negative: by that signal).
        steps: what was done to stop the run, in order, in words.
    """

    status: Status
    execution_count: int | None = None
    error_name: str | None = None
    exit_code: int | None = None
    state: State = "kept"
    steps: tuple[str, ...] = ()

    @property
    def timed_out(self) -> bool:
        """Whether the run's own time limit ended it."""
        return self.status == "timeout"


class Kernel:
    """A started kernel. Use as `async with Kernel(launch) as kernel`."""

    def __init__(self, launch: Launch, context: zmq.asyncio.Context | None = None) -> None:
        self.launch = launch
        self.info: dict[str, Any] = {}
        self.pid: int | None = None
        self._context = context or zmq.asyncio.Context.instance()
        self._raw: RawOutput | None = None
        self._stop: asyncio.Future[tuple[Status, str]] | None = None
        connection_file = launch.runtime / f"k{secrets.token_hex(6)}.json"
        self._manager = AsyncKernelManager(
            kernel_name=launch.kernel_name,
            connection_file=str(connection_file),
            # Any local user may listen on a TCP kernel's iopub; a socket file is private.
            # jupyter_client puts the sockets beside the connection file.
            transport="tcp" if sys.platform == "win32" else "ipc",
            transport_encryption="auto" if sys.platform == "win32" else "disabled",
            context=self._context,
            autorestart=False,
            shutdown_wait_time=2.0,
        )
        self._client: AsyncKernelClient

    # -- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the process and wait for its first answer.

        Raises:
            KernelStartError: no such kernelspec, the process ended, or it did not answer
                within `Launch.start_timeout`.
        """
        try:
            await self._launch()
            async with asyncio.timeout(self.launch.start_timeout):
                await self._unless_dead(self._wait_until_ready())
        except NoSuchKernel as error:
            raise KernelStartError(
                f"There is no kernel named {self.launch.kernel_name!r}. Set KERNEL_NAME to one"
                " that `jupyter kernelspec list` shows."
            ) from error
        except TimeoutError:
            await self.close(graceful=False)
            raise KernelStartError(
                f"The kernel did not answer within {self.launch.start_timeout:g} s."
            ) from None
        except DeadKernelError as error:
            words = self._last_words()
            await self.close(graceful=False)
            raise KernelStartError(f"The kernel ended before it answered. {error}{words}") from None
        except BaseException:
            await self.close(graceful=False)
            raise

    async def close(self, *, graceful: bool = True) -> None:
        """End the process and everything that it started; remove its files. Idempotent.

        A graceful end lets the kernel run its exit handlers, for two seconds at most.
        """
        family = self._family()
        if getattr(self, "_client", None) is not None:
            self._client.stop_channels()
        try:
            if self._manager.has_kernel:
                await self._manager.shutdown_kernel(now=not graceful)
            else:
                await self._manager.cleanup_resources()
        except (OSError, RuntimeError, TimeoutError) as error:
            log.warning("The kernel %s did not shut down in order: %s", self.pid, error)
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    async def alive(self) -> bool:
        """Whether the process still runs."""
        return bool(await self._manager.is_alive())

    @property
    def is_python(self) -> bool:
        """Whether it can run a Python file: an ipykernel, of whatever name."""
        return self.info.get("implementation") == "ipython"

    def spec_metadata(self) -> dict[str, str]:
        """The kernelspec as a notebook's metadata names it."""
        spec = self._manager.kernel_spec
        return {
            "name": self.launch.kernel_name,
            "display_name": spec.display_name if spec else self.launch.kernel_name,
            "language": spec.language if spec else "",
        }

    def memory(self) -> int:
        """Resident bytes of the process and its descendants; 0 where that can't be read."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    # -- running

    async def run_cell(self, code: str, outputs: Outputs, timeout: float | None = None) -> Reply:
        """Execute a cell. `timeout` is in seconds; what it prints is folded into `outputs`."""
        return await self._execute(code, {}, outputs, timeout)

    async def run_script(
        self, script: Script, outputs: Outputs, timeout: float | None = None
    ) -> Reply:
        """Run a file as `python FILE` would, in this kernel's `__main__`."""
        request = {
            "path": str(script.path),
            "argv": list(script.args),
            "source": b64encode(script.source).decode(),
            "fresh": script.fresh,
            "stdin": b64encode(script.stdin.encode("utf-8", "surrogateescape")).decode(),
        }
        return await self._execute(RUN_SCRIPT, {"rmi_agent": request}, outputs, timeout)

    def interrupt(self, why: str = "interrupted") -> bool:
        """Stop the run that goes on, if one does, by the same steps as a timeout."""
        return self._request_stop("interrupted", why)

    def _request_stop(self, status: Status, why: str) -> bool:
        if self._stop is None or self._stop.done():
            return False
        self._stop.set_result((status, why))
        return True

    async def _execute(
        self, code: str, metadata: dict[str, Any], outputs: Outputs, timeout: float | None
    ) -> Reply:
        loop = asyncio.get_running_loop()
        self._stop = loop.create_future()
        timer = (
            loop.call_later(
                timeout, self._request_stop, "timeout", f"timed out after {timeout:g} s"
            )
            if timeout
            else None
        )
        if self._raw is not None:
            self._raw.attach(outputs.stream)
        ending = loop.create_task(self._until_over(self._send(code, metadata), outputs))
        death = loop.create_task(self._until_dead())
        try:
            events: list[asyncio.Future[Any]] = [ending, death, self._stop]
            await asyncio.wait(events, return_when="FIRST_COMPLETED")
            steps: list[str] = []
            if not ending.done() and not death.done():
                steps = await self._stop_run(ending, death)
            status = self._stop.result()[0] if self._stop.done() and steps else None
            if not ending.done():
                return await self._dead(ending, death, outputs, status, steps)
            reply = ending.result()
            if self._raw is not None:
                self._raw.drain()
            if ends_kernel(reply):
                await asyncio.wait({death}, timeout=5)
                return await self._dead(ending, death, outputs, status, steps)
            return told(reply, status, steps)
        finally:
            if timer is not None:
                timer.cancel()
            for task in (ending, death):
                task.cancel()
            await asyncio.wait({ending, death})
            self._stop = None
            if self._raw is not None:
                self._raw.detach()

    async def _stop_run(
        self, ending: asyncio.Task[Message], death: asyncio.Task[int | None]
    ) -> list[str]:
        """SIGINT, again after the grace period, then SIGKILL; says what it did."""
        assert self._stop is not None
        steps = [self._stop.result()[1]]
        for words in ("interrupted", "interrupted again"):
            steps.append(words)
            await self._manager.interrupt_kernel()
            # ipykernel#881: a top-level await sleeps through SIGINT until the loop wakes.
            self._client.kernel_info()
            await asyncio.wait({ending, death}, timeout=GRACE, return_when="FIRST_COMPLETED")
            if ending.done() or death.done():
                return steps
        steps.append("killed, since it ignored the interrupts")
        await self._kill()
        await asyncio.wait({death}, timeout=GRACE)
        return steps

    async def _dead(
        self,
        ending: asyncio.Task[Message],
        death: asyncio.Task[int | None],
        outputs: Outputs,
        status: Status | None,
        steps: list[str],
    ) -> Reply:
        """The process is gone: take in what it had still sent, then say how it ended."""
        quiet = False
        while not quiet and not ending.done():
            outputs.changed.clear()
            try:
                async with asyncio.timeout(0.05):
                    await outputs.changed.wait()
            except TimeoutError:
                quiet = True
        outputs.changed.set()
        if self._raw is not None:
            self._raw.drain()
        code = death.result() if death.done() and not death.cancelled() else None
        return Reply(status or "dead", exit_code=code, state="lost", steps=tuple(steps))

    # -- messages

    def _send(self, code: str, metadata: dict[str, Any]) -> str:
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        session = self._client.session
        message = session.msg("execute_request", content, metadata=metadata)
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    async def _until_over(self, request: str, outputs: Outputs) -> Message:
        """A run is over at its reply on shell *and* its idle on iopub."""
        idle = asyncio.create_task(self._until_idle(request, outputs))
        try:
            reply = await self._reply_to(request)
            outputs.timing("shell.execute_reply", reply["header"]["date"])
            await idle
        finally:
            idle.cancel()
        return reply

    async def _until_idle(self, request: str, outputs: Outputs) -> None:
        while True:
            message = await receive(self._client.get_iopub_msg)
            mine = message["parent_header"].get("msg_id") == request
            if message["header"]["msg_type"] == "status":
                state = message["content"]["execution_state"]
                if mine and state in ("busy", "idle"):
                    outputs.timing(f"iopub.status.{state}", message["header"]["date"])
                if mine and state == "idle":
                    return
            else:
                # Late output of an earlier cell lands here too, as in Jupyter.
                outputs.fold(message)
                if mine and message["header"]["msg_type"] == "execute_input":
                    outputs.timing("iopub.execute_input", message["header"]["date"])

    async def _reply_to(self, request: str) -> Message:
        while True:
            message = await receive(self._client.get_shell_msg)
            if message["parent_header"].get("msg_id") == request:
                return message

    # -- the process

    async def _launch(self) -> None:
        pipes: tuple[int, ...] = ()
        if sys.platform != "win32":
            self._raw = RawOutput()
            pipes = self._raw.open()
        out, err = pipes or (subprocess.DEVNULL, subprocess.DEVNULL)
        try:
            await self._manager.start_kernel(
                cwd=str(self.launch.cwd),
                env=dict(self.launch.env),
                # Never the server's own: ipykernel repeats captured output there.
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        finally:
            for fd in pipes:
                os.close(fd)
        provisioner = self._manager.provisioner
        self.pid = getattr(provisioner, "pid", None)
        self._client = self._manager.client(context=self._context)
        self._client.start_channels(hb=False, stdin=False)

    async def _wait_until_ready(self) -> None:
        """Wait for kernel_info's reply and for iopub to reach us, then prepare the kernel."""
        while True:
            request = self._client.kernel_info()
            try:
                async with asyncio.timeout(1):
                    self.info = (await self._reply_to(request))["content"]
                await self._client.get_iopub_msg(timeout=0.2)
                break
            except (TimeoutError, Empty):
                continue
        if not self.is_python:
            return
        source = resources.files(__package__).joinpath("inkernel.py").read_text("utf-8")
        raw = self._raw is not None and self.pid is not None
        changed = {name: self.launch.env[name] for name in IPYKERNELS if name in self.launch.env}
        code = (
            f"(lambda names: (exec(compile({source!r}, '<rmi-agent>', 'exec'), names),"
            f" names['install'](get_ipython(), {raw}, {changed!r})))"
            "({'__name__': 'rmi_agent_inkernel'})"
        )
        request = self._client.execute(code, silent=True, allow_stdin=False)
        reply = (await self._reply_to(request))["content"]
        if reply["status"] != "ok":
            raise DeadKernelError("\n".join(reply.get("traceback", [])))
        await self._discard_until_idle(request)

    async def _discard_until_idle(self, request: str) -> None:
        while True:
            message = await receive(self._client.get_iopub_msg)
            if (
                message["header"]["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
                and message["parent_header"].get("msg_id") == request
            ):
                return

    async def _unless_dead(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, or raise `DeadKernelError` when the process ends first."""
        task, death = asyncio.create_task(work), asyncio.create_task(self._until_dead())
        try:
            await asyncio.wait({task, death}, return_when="FIRST_COMPLETED")
            if not task.done():
                raise DeadKernelError(describe_exit(death.result()))
            task.result()
        finally:
            for each in (task, death):
                each.cancel()

    async def _until_dead(self) -> int | None:
        """Wait for the process to end; its exit code as `subprocess` gives it."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        # A provisioner has no event for it; `poll` is its interface.
        while (code := await provisioner.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        return code

    async def _kill(self) -> None:
        family = self._family()
        provisioner = self._manager.provisioner
        if provisioner is not None and provisioner.has_process:
            await provisioner.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _family(self) -> list[psutil.Process]:
        """The process and all its descendants, whatever groups they made for themselves."""
        if self.pid is None:
            return []
        try:
            process = psutil.Process(self.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        """What a process that died at its start said on stderr."""
        said: list[str] = []
        if self._raw is not None:
            self._raw.attach(lambda _, text: said.append(text))
            self._raw.detach()
        text = "".join(said).strip()
        return f" Its last words: {text[-2000:]}" if text else ""


async def receive(get: Callable[..., Coroutine[Any, Any, Message]]) -> Message:
    """The next message that can be read; forged and malformed ones are logged and passed by."""
    while True:
        try:
            return await get()
        except (ValueError, KeyError, RecursionError, json.JSONDecodeError) as error:
            log.warning("An unreadable kernel message was dropped: %s", error)


def told(reply: Message, status: Status | None, steps: list[str]) -> Reply:
    """A `Reply` from the kernel's own words and from what we did meanwhile."""
    content = reply["content"]
    failed = content.get("status") != "ok"
    error, code = (content.get("ename") if failed else None), None
    for payload in content.get("payload", []):
        if payload.get("source") == "rmi_agent.script":
            error, code = payload.get("error_name"), payload.get("exit_code")
            failed = code != 0
    return Reply(
        status or ("error" if failed else "ok"),
        execution_count=content.get("execution_count"),
        error_name=error,
        exit_code=code,
        steps=tuple(steps),
    )


def ends_kernel(reply: Message) -> bool:
    """Whether the cell said `exit()`: the reply is ok, and then the process ends."""
    return any(
        payload.get("source") == "ask_exit" and not payload.get("keepkernel")
        for payload in reply["content"].get("payload", [])
    )


def describe_exit(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "Its process is gone."
    if code < 0:
        try:
            return f"Its process was ended by {signal.Signals(-code).name}."
        except ValueError:
            return f"Its process was ended by signal {-code}."
    return f"Its process ended with exit code {code}."


def now() -> str:
    """This moment as Jupyter's messages write it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
