"""Chooses the kind of kernel process for a launch."""

from __future__ import annotations

import zmq.asyncio

from ..process import KernelProcess, Launch, LocalProcess, is_here
from ..remote import RemoteProcess


def process_for(launch: Launch, context: zmq.asyncio.Context | None) -> KernelProcess:
    """Make the process that a launch asks for, without starting it."""
    if launch.servers or launch.attach:
        from ..jupyter_server import ServerKernel  # here, since its websockets are slow to import

        return ServerKernel(launch)
    kind = LocalProcess if is_here(launch.kernel_name) else RemoteProcess
    return kind(launch, context or zmq.asyncio.Context.instance())
