"""Chooses the kind of kernel process for a launch."""

from __future__ import annotations

import functools
import logging
import sys

import zmq.asyncio

from ..addresses import PersonsKernel
from ..joined import FileKernel
from ..process import BranchProcess, KernelProcess, Launch, LocalProcess, SocketProcess, is_here
from ..remote import RemoteProcess

log = logging.getLogger(__name__)


def process_for(launch: Launch, context: zmq.asyncio.Context | None) -> KernelProcess:
    """Make the process that a launch asks for, without starting it."""
    if launch.branch_of is not None:
        return BranchProcess(launch, launch.branch_of)
    if launch.join is not None:
        return joined(launch, launch.join)
    if launch.servers or launch.attach:
        from ..jupyter_server import ServerKernel  # here, since its websockets are slow to import

        return ServerKernel(launch)
    if not is_here(launch.kernel_name):
        return RemoteProcess(launch, context or zmq.asyncio.Context.instance())
    environment = launch.environment
    if sys.platform == "win32" or (environment is not None and not environment.can_form):
        return LocalProcess(launch, context or zmq.asyncio.Context.instance())
    return SocketProcess(launch)


def joined(launch: Launch, kernel: PersonsKernel) -> KernelProcess:
    """Make the connection to a person's kernel."""
    if kernel.server is None:
        return FileKernel(launch)
    from ..joined import JoinedServerKernel  # here, since its websockets are slow to import

    return JoinedServerKernel(launch)


def ordinary_process(
    launch: Launch, context: zmq.asyncio.Context | None, why: str
) -> KernelProcess:
    """Make a process on this machine for a kernel that can't be formed before it is forked."""
    log_once(launch.kernel_name, why)
    return LocalProcess(launch, context or zmq.asyncio.Context.instance())


@functools.cache
def log_once(kernel_name: str, why: str) -> None:
    """Log why kernels open ZMQ sockets, once for each reason."""
    log.info("Kernels of %s open ZMQ sockets: %s", kernel_name, why)
