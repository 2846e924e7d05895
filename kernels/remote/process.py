"""A kernel's process on another machine, started there by its kernelspec's provisioner.

No file or pid gives access to it, only the provisioner's methods, Jupyter's channels, and what we
set up in the kernel itself (`inside/file_receiver.py`). Each step has a timeout, since the machine
may be gone. Knows nothing about what runs in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import subprocess
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from .. import process_tree
from ..errors import KernelError, KernelStartError
from ..process import Launch, LocalProcess, SetUp
from ..process_tree import MARK, marked
from .heartbeat import Heartbeat
from .provisioner_loop import run, submit

log = logging.getLogger(__name__)
# The provisioners' logger. They log each failed start several times, with tracebacks.
provisioner_log = logging.getLogger(f"{__name__}.provisioner")

REAPER = ("reaper.py", "remote_reaper.py")
STEP = 0.7  # timeout in seconds for a provisioner to send a signal or poll
GRACE = 1.5  # max seconds for a kernel's exit handlers
KILL = 1.5  # timeout in seconds for a provisioner to kill what it started
STARTING = 20.0  # max seconds to wait on close for a kernel that is still starting


def is_unreported(record: logging.LogRecord) -> bool:
    """Filter out errors, since `KernelStartError` reports them, unless debug logging is on."""
    return record.levelno != logging.ERROR or log.isEnabledFor(logging.DEBUG)


class RemoteProcess(LocalProcess):
    """The process of a kernel on another machine; `pid` is None and memory 0: unknown."""

    is_here = False

    def __init__(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        super().__init__(launch, context)
        # Its own context: another thread uses the socket, and a hung provisioner may leave it open.
        provisioner_log.addFilter(is_unreported)
        self._manager.log = provisioner_log
        self._own = self._manager.context = zmq.asyncio.Context()
        self._starting: asyncio.Future[None] | None = None
        self._heart: Heartbeat | None = None
        self._killed = False

    # -- starting

    async def start(self) -> AsyncKernelClient:
        """Start the kernel through its provisioner; returns a client for its channels.

        Raises:
            KernelStartError: the provisioner failed, or the sandbox can't hold the kernel.
        """
        self._refuse_sandbox()
        env = {
            **self._quiet(),
            **self.launch.env,
            **self.launch.remote_options.env,
            MARK: self.mark,
        }
        work = self._manager.start_kernel(cwd=str(self.launch.cwd), env=env)
        self._starting = asyncio.wrap_future(submit(work))
        # The start goes on even if we are cancelled: nobody could end a half-started kernel.
        await asyncio.wait({self._starting}, timeout=self.launch.start_timeout)
        if not self._starting.done():
            raise KernelStartError(
                f"{self._named} was not started by its provisioner within"
                f" {self.launch.start_timeout:g} s. Check that its host is up."
            )
        if (error := self._starting.exception()) is not None:  # third-party code may raise anything
            raise KernelStartError(
                f"{self._named} could not be started by its provisioner:"
                f" {type(error).__name__}: {error}"
            ) from error
        self._refuse_this_machine()
        client = self._new_client()
        self._heart = Heartbeat(client, self.launch.remote_options.silence, self._is_known)
        self._heart.start()
        return client

    def more_to_set_up(self) -> SetUp:
        """Return what to set up in the kernel: the file receiver and the reaper."""
        # Longer than our own give-up time, so the kernel never disappears while we still wait.
        timeout = 2 * self.launch.remote_options.silence + 3
        reaper = [MARK, self.mark, reaper_texts(), timeout]
        return SetUp(("file_receiver.py",), {"reaper": reaper})

    @property
    def _named(self) -> str:
        return f"The kernel {self.launch.kernel_name!r}"

    def _refuse_sandbox(self) -> None:
        if self.launch.wrap is not None:
            raise KernelStartError(
                f"{self._named} can't be started in the sandbox: its kernelspec's own provisioner"
                " starts it elsewhere. Choose another RMI_AGENT_KERNEL_NAME, or set"
                " RMI_AGENT_SANDBOX=auto (the machine that it runs on then confines it) or"
                " RMI_AGENT_SANDBOX=off."
            )

    def _refuse_this_machine(self) -> None:
        """Refuse a kernel on this machine: the ssh provisioner skips ssh if the host is local."""
        local, pid = self._local(), getattr(self._manager.provisioner, "pid", None)
        if self.launch.remote_options.confined and local is not None and local.pid == pid:
            raise KernelStartError(
                f"{self._named} was put on this machine by its provisioner, where nothing confines"
                " it. Name another host in its kernelspec, choose another RMI_AGENT_KERNEL_NAME, or"
                " let it do all that this user may do with RMI_AGENT_SANDBOX=off."
            )

    def _local(self) -> subprocess.Popen[bytes] | None:
        """Return the local process by which the provisioner starts the kernel, if still running."""
        local = getattr(self._manager.provisioner, "local_proc", None)
        return local if local is not None and local.poll() is None else None

    # -- while it runs

    async def _is_known(self) -> bool:
        """Return whether the provisioner says that the kernel runs, or says nothing in time."""
        provisioner = self._manager.provisioner
        with contextlib.suppress(TimeoutError):
            return provisioner is not None and await run(provisioner.poll(), STEP) is None
        return True

    async def alive(self) -> bool:
        """Return whether the kernel answers its heartbeat."""
        return self._heart is not None and await self._heart.beats()

    async def until_dead(self) -> int | None:
        """Wait until the kernel has ended; its exit code is unknown here."""
        assert self._heart is not None
        await self._heart.ended.wait()
        return None

    @property
    def why_ended(self) -> str:
        """How we know that the kernel ended; empty before that."""
        return self._heart.why if self._heart is not None else ""

    def describe_end(self, code: int | None) -> str:
        """Describe the kernel's end; there is no exit code."""
        return self.why_ended or "It was never started."

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """Refuse; see `KernelProcess.connection_file`."""
        raise KernelError(
            "The session's kernel is on another machine, where only this server connects to it."
        )

    async def interrupt(self, *, again: bool = False) -> None:
        """Send SIGINT through the provisioner; with `again`, also to the whole process group.

        `os.system` ignores a signal sent to the kernel's process alone. Jupyter's message makes the
        kernel signal its group, but C code that holds the GIL, such as `re`, never sees that.
        """
        await self._try(self._manager.interrupt_kernel(), STEP, "interrupted")
        if again:
            self._send_control("interrupt_request", {})

    # -- ending

    async def kill(self) -> None:
        """Kill the kernel immediately; the reaper set up in it then ends its child processes."""
        self._killed = True
        await self._signal(signal.SIGKILL)
        if self._heart is not None and not await self._heart.ends_within(STEP):
            await self._end_by_provisioner()
            self._heart.declare("It was killed.")

    async def close(self, *, graceful: bool = True) -> None:
        """End the kernel and all its processes, here and remote, within five seconds. Idempotent.

        Takes longer while the kernel is still starting: only a started one can be ended.
        """
        await self._wait_until_started()
        if self._manager.has_kernel:
            await self._end(graceful)
        if self._heart is not None:
            await self._heart.stop()
        await self._end_by_provisioner()
        await self._try(self._manager.cleanup_resources(), STEP, "cleaned up")
        await self._reap()
        await self._try(self._disconnect(), STEP, "disconnected")

    async def _end(self, graceful: bool) -> None:
        """End the kernel by a shutdown request, then by a signal."""
        if self._heart is None or not self.is_set_up:
            # On a shutdown request it would wait 15 seconds for its launcher's listener, with
            # signal forwarding already stopped; only our set-up keeps the two apart.
            return await self._signal(signal.SIGKILL)
        if self._heart.ended.is_set():
            if self._heart.silent:  # it may still be alive
                await self._signal(signal.SIGKILL)
            return
        if graceful and not self._killed:
            await self.interrupt()
            self._send_control("shutdown_request", {"restart": False})
            if await self._heart.ends_within(GRACE):
                return
        await self._signal(signal.SIGKILL)
        await self._heart.ends_within(STEP)

    async def _disconnect(self) -> None:
        self._own.destroy(linger=0)

    async def _wait_until_started(self) -> None:
        """Wait for a start in progress; until it is done nobody could end the kernel."""
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=STARTING)
            if self._starting.cancel():
                log.warning("%s may still come up: it was not started in time", self._named)
            elif not self._starting.cancelled():
                self._starting.exception()  # reported already, or nobody is left to read it
            self._starting = None

    async def _end_by_provisioner(self) -> None:
        """Let the provisioner clean up the kernel's resources: a listener, a container, a job."""
        provisioner = self._manager.provisioner
        if provisioner is None or not provisioner.has_process:
            return
        await self._try(provisioner.shutdown_requested(), STEP, "ended")
        if await self._is_known():
            await self._try(provisioner.kill(), KILL, "killed")

    async def _reap(self) -> None:
        """Kill and reap what the provisioner has started on this machine."""
        local = getattr(self._manager.provisioner, "local_proc", None)
        for pid in await asyncio.to_thread(marked, self.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        if local is not None:
            local.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(local.wait, STEP)

    async def _signal(self, number: int) -> None:
        provisioner = self._manager.provisioner
        if provisioner is not None and provisioner.has_process:
            await self._try(provisioner.send_signal(number), STEP, f"sent signal {number}")

    def _send_control(self, message: str, content: dict[str, Any]) -> None:
        """Send a message on the control channel without waiting for a reply."""
        control = self._manager.connect_control()
        try:
            session = self._manager.session
            session.send(control, session.msg(message, content))
        finally:
            control.close(linger=1000)

    async def _try(self, work: Awaitable[Any], seconds: float, what: str) -> None:
        try:
            await run(work, seconds)
        except TimeoutError:
            log.warning("%s could not be %s within %g s", self._named, what, seconds)
        except Exception as error:  # a third-party provisioner may raise anything
            log.warning("%s could not be %s: %r", self._named, what, error)


@functools.cache
def reaper_texts() -> list[str]:
    """Return the source of the reaper, which cleans up after a kernel on another machine."""
    here = resources.files(process_tree)
    return [here.joinpath(name).read_text("utf-8") for name in REAPER]
