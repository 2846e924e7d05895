"""The process of a kernel that opens ZMQ sockets: starts, signals and ends it.

Goes through jupyter_client's manager and so through whatever provisioner the kernelspec
names. Knows processes, pipes and files; nothing of what runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from ..errors import CannotFork, KernelStartError
from ..fork import ForkedProcess
from ..kernelspecs import language_of
from ..process_tree import MARK, Family, mark_process
from ..protocol import weighed
from .here import ProcessHere
from .launch import Launch, OneSpec, no_such, shown
from .provisioner import choose_provisioner, environment_of
from .sockets import move_sockets, socket_paths

log = logging.getLogger(__name__)

RECONNECT_INTERVAL = 5  # milliseconds between attempts to connect to a starting kernel
RECONNECT_INTERVAL_REMOTE = 50
POLL_INTERVAL = 0.1  # seconds between checks whether the process is alive
END_INTERVAL = 0.005  # the same once it has been asked to end


class LocalProcess(ProcessHere):
    """The process behind a kernel that opens ZMQ sockets: see `KernelProcess`."""

    def __init__(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        super().__init__(launch)
        self._sockets: list[Path] = []  # where they were before the move
        self._context = context
        # We connect while the kernel is still creating its sockets; retry quickly.
        interval = RECONNECT_INTERVAL if self.is_here else RECONNECT_INTERVAL_REMOTE
        context.setsockopt(zmq.RECONNECT_IVL, interval)
        chosen = {"kernel_spec_manager": OneSpec(launch)} if launch.environment else {}
        name = f"k{secrets.token_hex(6)}"
        self._manager = AsyncKernelManager(
            kernel_name=launch.kernel_name,
            connection_file=str(launch.runtime / f"{name}.json"),
            transport_encryption="auto",
            context=context,
            autorestart=False,
            shutdown_wait_time=2.0,
            **chosen,
        )
        if self.is_here and sys.platform != "win32":
            # Any local user could listen on a TCP kernel's iopub; a socket file is private.
            self._manager.transport, self._manager.transport_encryption = "ipc", "disabled"
            self._manager.ip = str((launch.sockets or launch.runtime) / name)

    async def start(self) -> AsyncKernelClient:
        """Start the process; returns a client for its channels.

        Raises:
            KernelStartError: there is no such kernelspec, or it can't run in the sandbox.
            DeadKernelError: the process ended before it had created its sockets.
            TimeoutError: it did not create them in time.
        """
        choose_provisioner(self._manager, self.launch)
        programs: dict[str, str] = {}
        with contextlib.suppress(NoSuchKernel):  # starting it will raise the error
            if (spec := self._manager.kernel_spec) is not None:
                self.spec = spec
                programs = environment_of(spec, self.launch)
        pipes = self.raw.open() if sys.platform != "win32" else ()
        out, err = pipes or (subprocess.DEVNULL, subprocess.DEVNULL)
        try:
            await self._manager.start_kernel(
                cwd=str(self.launch.cwd),
                env={**self._quiet(), **self.launch.env, **programs, MARK: self.mark},
                # Never the server's own streams: ipykernel echoes captured output there.
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        except NoSuchKernel as error:
            raise KernelStartError(no_such(self.launch.kernel_name)) from error
        except CannotFork as error:
            if isinstance(error.__cause__, OSError):  # out of descriptors, for example
                raise error.__cause__ from None
            why = str(error)
            if self.launch.environment is not None:
                why = "that takes Python 3.11 or later with ipykernel 7.4 or later, or with none"
            raise KernelStartError(
                f"{shown(self.launch)} was not started: it can't be forked"
                f" ({why}), and without a network Landlock confines no others. Try again;"
                " if that fails, too, install bubblewrap or set RMI_AGENT_SANDBOX_NETWORK=1."
            ) from error
        finally:
            for fd in pipes:
                os.close(fd)
        self.pid = getattr(self._manager.provisioner, "pid", None)
        if self.pid is not None:
            mark_process(self.pid, self.mark)  # in case another provisioner started it
            # Now, while it is certainly alive.
            self.family = Family(self.pid, parent_adopts=self.forked)
        if self.launch.socket_store is not None:
            self._sockets = socket_paths(self._manager)
            async with asyncio.timeout(self.launch.start_timeout):
                await move_sockets(self._manager, self._sockets, self.launch.socket_store)
            self._manager.write_connection_file()  # which names their new places
        return self._new_client()

    def _new_client(self) -> AsyncKernelClient:
        """A client for its channels that limits the memory of one message."""
        client = self._manager.client(context=self._context)
        python = language_of(self.launch.kernel_name) == "python"
        weighed(client, self.launch.output_limit, waits=python)
        return client

    def _quiet(self) -> dict[str, str]:
        """Variables for kernels of other languages that are built on ipykernel, such as bash's.

        ipykernel's debugger warns about them at the first request, inside a cell's output.
        """
        python = language_of(self.launch.kernel_name) == "python"
        return {} if python else {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    @property
    def forked(self) -> bool:
        """Whether it was forked from a template rather than started."""
        return isinstance(getattr(self._manager.provisioner, "process", None), ForkedProcess)

    async def alive(self) -> bool:
        """Whether it is still running."""
        process = getattr(self._manager.provisioner, "process", None)
        if isinstance(process, ForkedProcess) and process.ended:
            await self.until_dead()  # its template is about to report the exit code
        return bool(await self._manager.is_alive())

    async def until_dead(self) -> int | None:
        """Wait for its end; returns the exit code as `subprocess` gives it, None if unknown."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        # Provisioners offer no event for this, only `poll`.
        while (code := await provisioner.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL)
        process = getattr(provisioner, "process", None)
        return None if isinstance(process, ForkedProcess) and process.exit_code_lost else code

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """Its connection file; see `KernelProcess.connection_file`."""
        return Path(self._manager.connection_file)

    async def interrupt(self, *, again: bool = False) -> None:
        """Send SIGINT to its process group, or do what its kernelspec says instead.

        Does the same if called `again` because the first time did not help.
        """
        await self._manager.interrupt_kernel()

    async def kill(self) -> None:
        """Kill it and everything it started, at once."""
        await self._refresh_family()
        provisioner = self._manager.provisioner
        try:
            if provisioner is not None and provisioner.has_process:
                await provisioner.kill()
        finally:
            await self._sweep()

    async def close(self, *, graceful: bool = True) -> None:
        """End it and everything it started; remove its files. Idempotent.

        A graceful end gives the kernel at most two seconds to run its exit handlers.
        """
        await self._refresh_family()
        try:
            if self._manager.has_kernel and graceful:
                await self._shut_down()
            elif self._manager.has_kernel:
                await self._manager.shutdown_kernel(now=True)
            else:
                await self._manager.cleanup_resources()
        except (OSError, RuntimeError, TimeoutError) as error:
            log.warning("The kernel process %s did not shut down cleanly: %s", self.pid, error)
        finally:
            await self._sweep()
            for place in self._sockets:  # sockets created late or again
                with contextlib.suppress(OSError):
                    place.unlink()
            self.raw.close()

    async def _shut_down(self) -> None:
        """Do what the manager's `shutdown_kernel` does, which looks only every 0.1 s.

        Its own control socket may still try to connect to where the kernel's was before the move.
        """
        manager = self._manager
        await manager.interrupt_kernel()
        control = manager.connect_control()
        try:
            request = manager.session.msg("shutdown_request", {"restart": False})
            manager.session.send(control, request)
            await manager.finish_shutdown(pollinterval=END_INTERVAL)
        finally:
            control.close(linger=0)
            await manager.cleanup_resources()
