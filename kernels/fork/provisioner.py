"""`rmi-forkserver`: a jupyter_client kernel provisioner that forks kernels from a template.

A template has imported what a kernel needs and the modules to preload, so a kernel is ready
in a few milliseconds and shares that memory. A kernel that can't be forked as requested, or comes
before its template is ready, is started as `LocalProvisioner` does it. Usable by any program based
on jupyter_client; knows nothing of this package's kernels and sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import weakref
from dataclasses import replace
from typing import Any

import psutil
from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.localinterfaces import is_local_ip
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool, Dict, Int, List, Unicode

from ..errors import CannotFork
from ..process_tree import MARK, mark_process, marking
from .forked_process import ForkedProcess
from .pool import TEMPLATES
from .request import Request, request_for
from .reserved_ports import CAN_RESERVE, reserved_port

log = logging.getLogger(__name__)

PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")
ONLY_CONNECTION_FILE = ("-f", "{connection_file}")  # as in a kernelspec
# Max number of checks whether a killed kernel has ended, and the seconds between them.
KILL_CHECKS, POLL_INTERVAL = 1000, 0.01


class ForkserverProvisioner(LocalProvisioner):
    """Forks kernels from a template; everything but the start is left to `LocalProvisioner`.

    In a kernelspec: `"metadata": {"kernel_provisioner": {"provisioner_name":
    "rmi-forkserver", "config": {"preload": ["numpy"]}}}`.
    """

    process: Any = None  # a `Popen` if the kernel was not forked
    awaited: asyncio.Future[ForkedProcess] | None = None  # the kernel that is being forked
    free_ports: weakref.finalize[..., Any] | None = None  # lets go of its ports
    fork = Bool(True, help="Whether to fork; else all is started.").tag(config=True)
    preload = List(Unicode(), list(PRELOAD), help="Modules to import ahead.").tag(config=True)
    wait_for_template = Bool(
        False, help="Whether to wait for a template that is not ready; else the kernel is started."
    ).tag(config=True)
    # Of any elements: to check those of a sandbox's command one by one takes a millisecond.
    prefix: Any = List(help="A command to run the interpreter by: bubblewrap.").tag(config=True)
    template_overrides: Any = Dict(
        help="Variables that a template has otherwise; None is none. Kernels have them as given."
    ).tag(config=True)

    lent = Unicode(help="A folder whose packages come after all others: an ipykernel.").tag(
        config=True
    )
    is_extra = Bool(
        False, help="Whether its environment is one of many, for few of which there are templates."
    ).tag(config=True)
    sockets: Any = List(
        help="Descriptors of two sockets that the kernel speaks over, instead of ZMQ."
    )
    signing_key = Unicode(help="Signs the messages on them.")
    output_limit = Int(0, help="Max characters of a message's text on them; 0 is no limit.")
    last_filter = Unicode(
        help="A program for seccomp, in hexadecimal, that only forked kernels can apply in time."
    ).tag(config=True)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare the launch as `LocalProvisioner` does, with ports that nobody else can take."""
        if CAN_RESERVE and not self.ports_cached:
            self.reserve_ports()
        return await super().pre_launch(**kwargs)

    def reserve_ports(self) -> None:
        """Choose the manager's ports, if it wants them chosen and can have them."""
        manager = self.parent
        if manager is None or not manager.cache_ports or not is_local_ip(manager.ip):
            return
        reserved = contextlib.ExitStack()  # over restarts as well
        self.free_ports = weakref.finalize(self, reserved.close)
        for name in port_names:
            port = reserved.enter_context(reserved_port(manager.ip))
            setattr(manager, name, port.getsockname()[1])
        self.ports_cached = True  # so `LocalProvisioner` chooses none

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork the kernel that `cmd` describes, or start it if it can't be forked."""
        with contextlib.ExitStack() as opened:
            try:
                if not self.fork:
                    raise CannotFork("their kernelspec forbids it")
                request = request_for(cmd, self._scrub_kwargs(kwargs), opened)
                request = replace(
                    request,
                    python=(*self.prefix, *request.python),
                    preload=tuple(self.preload),
                    template_overrides=self.template_overrides,
                    apart=bool(self.prefix),
                    last_filter=self.last_filter,
                    lent=self.lent,
                    is_extra=self.is_extra,
                    sockets=tuple(self.sockets),
                    signing_key=self.signing_key,
                    output_limit=self.output_limit,
                    wait=self.wait_for_template or bool(self.last_filter or self.sockets),
                )
                if self.sockets and request.arguments != ONLY_CONNECTION_FILE:
                    raise CannotFork("their kernelspec has arguments for ipykernel")
                self.process = await self.forked(request)
            except CannotFork as why:
                if self.last_filter or self.sockets:
                    raise
                log_once(str(why))
                return await self.start_kernel([*self.prefix, *cmd], **kwargs)
        mark_process(self.process.pid, request.mark)
        self.pid = self.pgid = self.process.pid
        self.cwd = request.cwd
        return self.connection_info

    def take(self, process: ForkedProcess) -> None:
        """Take charge of a kernel that was forked from another kernel."""
        self.process, self.pid, self.pgid = process, process.pid, process.pid

    async def forked(self, request: Request) -> ForkedProcess:
        """Fork a kernel; on cancellation, the kernel that still arrives is killed.

        Raises:
            CannotFork: no template can fork it, or not yet.
        """
        forking = asyncio.ensure_future(TEMPLATES.fork(request))
        self.awaited = asyncio.shield(forking)
        try:
            return await self.awaited
        except asyncio.CancelledError:
            with contextlib.suppress(CannotFork):
                unwanted = await forking
                unwanted.kill()
                for _ in range(KILL_CHECKS):
                    if unwanted.poll() is not None:
                        break
                    await asyncio.sleep(POLL_INTERVAL)
            raise
        finally:
            self.awaited = None

    async def cleanup(self, restart: bool = False) -> None:
        """Close the connection to the process, even if its exit code was never asked for.

        If the kernel is still being forked, its launch is cancelled: this is a shutdown.
        """
        if self.awaited is not None:
            self.awaited.cancel()
        if isinstance(self.process, ForkedProcess):
            self.process.close()
        if self.free_ports is not None and not restart:
            self.free_ports()
        await super().cleanup(restart=restart)

    async def start_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start it as `LocalProvisioner` does, and let signals reach it inside its wrapper."""
        if self.prefix:
            # In another PID namespace, a kernel can't watch its parent.
            kwargs["independent"] = True
        mark = (kwargs.get("env") or os.environ).get(MARK, "")
        info = await super().launch_kernel([*marking(mark), *cmd], **kwargs)
        mark_process(self.process.pid, mark)
        if self.prefix and (inner := await inside(self.process.pid)):
            self.pgid = inner
        return info


async def inside(pid: int) -> int | None:
    """The process group inside bubblewrap, if that is what was started.

    A signal ends bubblewrap and everything inside, but not its child, which is PID 1 in there.
    """
    process = psutil.Process(pid)
    for _ in range(100):
        with contextlib.suppress(psutil.Error):
            if process.name() == "bwrap" and (children := process.children()):
                pgid = os.getpgid(children[0].pid)
                if pgid != pid:
                    return pgid
        await asyncio.sleep(0.02)
    return None


@functools.cache
def log_once(why: str) -> None:
    """Log, once per reason, that kernels are started in the ordinary way."""
    log.info("Kernels are started, not forked: %s", why)
