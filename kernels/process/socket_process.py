"""The process of a kernel that was formed in a template and forked: it speaks over two sockets.

There is no connection file, no manager and no request to set it up: the template has done that.
Knows jupyter_client's provisioner and sockets; nothing of what runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel

from ..errors import CannotFork, DeadKernelError, KernelError, KernelStartError
from ..fork import ForkedProcess, ForkserverProvisioner
from ..process_tree import MARK, Family
from .here import ProcessHere
from .kernel_process import describe_exit
from .launch import Launch, no_such, spec_of
from .provisioner import environment_of, forking_config, interpreter
from .socket_client import SocketClient, connected

if TYPE_CHECKING:
    from .outside_clients import OutsideClients

log = logging.getLogger(__name__)

GRACE = 2.0  # max seconds for a kernel's exit handlers
KILL_TIMEOUT = 5.0  # max seconds until a killed kernel's exit code is known
POLL_INTERVAL = 0.1  # seconds between checks of a kernel whose template has ended

Pairs = tuple[tuple[socket.socket, socket.socket], tuple[socket.socket, socket.socket]]


class SocketProcess(ProcessHere):
    """The process behind a forked kernel: see `KernelProcess`."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self._provisioner: ForkserverProvisioner | None = None
        self._process: ForkedProcess | None = None
        self._client: SocketClient | None = None
        self._exit_code: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._check: asyncio.TimerHandle | None = None
        self._outside: OutsideClients | None = None
        self._closing = False
        self._why_ended = ""

    async def start(self) -> AsyncKernelClient:
        """Fork the kernel; returns a client for its sockets.

        Raises:
            CannotFork: it can't be formed and forked.
            KernelStartError: it can't run in the sandbox.
        """
        try:
            self.spec = spec = spec_of(self.launch, forked=True)
        except NoSuchKernel as error:
            raise KernelStartError(no_such(self.launch.kernel_name)) from error
        if (config := forking_config(spec, self.launch)) is None or not config["fork"]:
            raise CannotFork("its kernelspec has a provisioner of its own")
        key = secrets.token_hex(32)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            pairs, pipes = self._open(ours, theirs)
            provisioner = ForkserverProvisioner(kernel_id=self.mark, kernel_spec=spec, **config)
            provisioner.sockets = [other.fileno() for _, other in pairs]
            provisioner.signing_key, provisioner.output_limit = key, self.launch.output_limit
            launched = await provisioner.pre_launch(
                env={**self.launch.env, **environment_of(spec, self.launch), MARK: self.mark},
                cwd=str(self.launch.cwd),
                # Never the server's own streams: MCP messages go there.
                stdin=subprocess.DEVNULL,
                stdout=pipes[0],
                stderr=pipes[1],
            )
            launched["cmd"] = [interpreter(spec), *launched["cmd"][1:]]
            await provisioner.launch_kernel(**launched)
            client = await self._connect(provisioner, pairs, key)
            ours.pop_all()
        return client

    def _open(
        self, ours: contextlib.ExitStack, theirs: contextlib.ExitStack
    ) -> tuple[Pairs, tuple[int, int]]:
        """Open the kernel's sockets and pipes; `ours` and `theirs` close each side's ends.

        Returns the pairs of sockets, for messages and for control, and the pipes' ends for it.
        """
        pairs = (socket.socketpair(), socket.socketpair())
        for one, other in pairs:
            ours.callback(one.close)
            theirs.callback(other.close)
        pipes = self.raw.open()
        ours.callback(self.raw.close)
        for pipe in pipes:
            theirs.callback(os.close, pipe)
        return pairs, pipes

    async def _connect(
        self, provisioner: ForkserverProvisioner, pairs: Pairs, key: str, session_id: str = ""
    ) -> SocketClient:
        """Take charge of a process that has just been forked, and connect to it."""
        self._provisioner, self._process = provisioner, provisioner.process
        self.pid = provisioner.pid
        assert self._process is not None
        assert self.pid is not None
        # Now, while it is certainly alive.
        self.family = Family(self.pid, parent_adopts=True)
        self.kernel_info, self.is_set_up = self._process.kernel_info, True
        self._process.when_reported(self._exit_reported)
        one, two = (pair[0] for pair in pairs)
        for end in (one, two):
            end.setblocking(False)
        limit = self.launch.output_limit
        self._client = client = await connected((one, two), key.encode(), limit, session_id)
        client.control.announce = self._announce_control
        client.messages.closed.add_done_callback(self._connection_lost)
        self.raw.in_order = client.iopub_channel.when_read
        return client

    # -- its life

    @property
    def client(self) -> SocketClient:
        """Our client of it, once it has started."""
        assert self._client is not None
        return self._client

    @property
    def forked_process(self) -> ForkedProcess:
        """What was forked, once it has started."""
        assert self._process is not None
        return self._process

    @property
    def forked(self) -> bool:
        """Return True."""
        return True

    @property
    def outdated(self) -> bool | None:
        """Whether a fresh one would have more modules; None if it has all of its template's."""
        if self._process is None or self._process.template_is_ready is None:
            return None
        return self._process.template_is_ready()

    async def alive(self) -> bool:
        """Whether it is still running."""
        if self._process is not None and self._process.ended:
            await self.until_dead()  # its template is about to report the exit code
        return not self._exit_code.done()

    def until_dead(self) -> asyncio.Future[int | None]:
        """Wait for its end; returns the exit code as `subprocess` gives it, None if unknown."""
        return asyncio.shield(self._exit_code)

    def _exit_reported(self) -> None:
        """Note the exit code, or look again later if the template has ended without it."""
        assert self._process is not None
        if self._exit_code.done():
            return
        if (code := self._process.poll()) is not None:
            self._exit_code.set_result(None if self._process.exit_code_lost else code)
        else:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(POLL_INTERVAL, self._exit_reported)

    def _announce_control(self) -> None:
        """Let the kernel read its control socket, though a cell may be running."""
        if self.pid is not None and not self._exit_code.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGURG)

    def _connection_lost(self, closed: asyncio.Future[str]) -> None:
        """End a kernel that has closed its socket, or sent what is no message.

        One that has become another program (`os.execv`) goes on to that program's end.
        """
        if not self._exit_code.done() and not self._closing and self.pid is not None:
            if not closed.result() and runs_another_program(self.pid):
                return
            self._why_ended = closed.result() and f"It had sent {closed.result()}."
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def why_ended(self) -> str:
        """What is known about its end besides the exit code."""
        return self._why_ended

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """A connection file for other clients; see `KernelProcess.connection_file`."""
        if self._outside is None:
            if self._client is None or self._exit_code.done():
                raise DeadKernelError(describe_exit(None))
            from .outside_clients import OutsideClients  # ZMQ, which is slow to import

            # A folder that no kernel can reach.
            folder = self.launch.socket_store or self.launch.runtime
            try:
                place = folder / f"k{secrets.token_hex(6)}"
                self._outside = OutsideClients(self._client, place, was_used)
            except OSError as error:
                raise KernelError(f"Other clients can't connect: {error}.") from error
        return self._outside.file

    async def interrupt(self, *, again: bool = False) -> None:
        """Send SIGINT to its process group; the same if called `again`."""
        if self._provisioner is not None and not self._exit_code.done():
            await self._provisioner.send_signal(signal.SIGINT)

    def interrupt_alone(self) -> None:
        """Send SIGINT to the kernel, but to nothing that it has started."""
        if self.pid is not None and not self._exit_code.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGINT)

    async def kill(self) -> None:
        """Kill it and everything it started, at once."""
        await self._refresh_family()
        try:
            if self._provisioner is not None and not self._exit_code.done():
                await self._provisioner.kill()
        finally:
            await self._sweep()

    async def close(self, *, graceful: bool = True) -> None:
        """End it and everything it started. Idempotent.

        A graceful end gives the kernel at most two seconds to run its exit handlers.
        """
        self._closing = True
        await self._refresh_family()
        try:
            if self._provisioner is not None and not self._exit_code.done():
                if graceful and self._client is not None:
                    self._client.messages.discard()
                    self._client.messages.end_requests()
                    await asyncio.wait({self._exit_code}, timeout=GRACE)
                if not self._exit_code.done():
                    await self._provisioner.kill()
                    await asyncio.wait({self._exit_code}, timeout=KILL_TIMEOUT)
        finally:
            try:
                await self._sweep()
            finally:
                await self._let_go()

    async def _let_go(self) -> None:
        if self._outside is not None:
            await self._outside.close()
        if self._client is not None:
            links = (self._client.messages, self._client.control)
            for link in links:
                link.close()
            await asyncio.wait({link.closed for link in links})
        if self._check is not None:
            self._check.cancel()
        if self._process is not None:
            self._process.close()
        if not self._exit_code.done():  # nobody will report it any more
            self._exit_code.set_result(None)
        self.raw.close()


def runs_another_program(pid: int) -> bool:
    """Whether a forked kernel has replaced its program, which else is its template's."""
    try:
        process = psutil.Process(pid)
        template = process.parent()
        return template is not None and process.cmdline() != template.cmdline()
    except psutil.Error:
        return False
