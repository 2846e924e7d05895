"""Chooses the kind of kernel process for a launch."""

from __future__ import annotations

from collections.abc import Callable

import zmq.asyncio

from ..process import KernelProcess, Launch, LocalProcess, is_here
from ..remote import RemoteProcess

Factory = Callable[[Launch, zmq.asyncio.Context], KernelProcess]


def on_server(launch: Launch, _: zmq.asyncio.Context) -> KernelProcess:
    """A kernel process on a Jupyter Server."""
    from ..jupyter_server import ServerKernel  # here, since its websockets are slow to import

    return ServerKernel(launch)


FACTORIES: dict[str, Factory] = {
    "here": LocalProcess,
    "elsewhere": RemoteProcess,
    "server": on_server,
}


def process_for(launch: Launch, context: zmq.asyncio.Context | None) -> KernelProcess:
    """Make the process that a launch asks for, without starting it."""
    if launch.servers or launch.attach:
        place = "server"
    else:
        place = "here" if is_here(launch.kernel_name) else "elsewhere"
    return FACTORIES[place](launch, context or zmq.asyncio.Context.instance())
