"""The kernels that could be joined: those that answer, of connection files and Jupyter Servers.

Knows where to look; nothing of who may join what.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from ..addresses import JupyterServer, PersonsKernel
from ..errors import KernelStartError, ServerError
from ..jupyter_server import URL, Api
from .connection_files import kernel_of, newest

ECHO = 0.5  # max seconds for a kernel's heartbeat
LIST = 5.0  # max seconds for a server's list of kernels


@dataclass(frozen=True)
class Joinable:
    """A kernel that could be joined.

    Attributes:
        kernel: the kernel.
        kernelspec: the name of its kernelspec; empty if unknown.
        notebook: the notebook or console that is open with it, as its server names it, or empty.
        state: `busy`, `idle` or empty.
    """

    kernel: PersonsKernel
    kernelspec: str = ""
    notebook: str = ""
    state: str = ""


async def on_server(server: JupyterServer) -> list[Joinable]:
    """The kernels of a Jupyter Server.

    Raises:
        KernelStartError: it refuses or can't be reached.
    """
    api = Api(server)
    try:
        kernels, sessions = await api.kernels(), await api.sessions()
    except ServerError as error:
        raise KernelStartError(worded(error)) from error
    finally:
        await api.close()
    names = {
        str(one["kernel"].get("id")): str(one.get("path") or one.get("name") or "")
        for one in sessions
        if isinstance(one.get("kernel"), dict)
    }
    return [
        Joinable(
            PersonsKernel(str(one["id"]), server=server),
            str(one.get("name") or ""),
            names.get(str(one["id"]), ""),
            str(one.get("execution_state") or ""),
        )
        for one in kernels
        if "id" in one
    ]


def worded(error: ServerError) -> str:
    """Why a server failed, without the name of a setting: it may be found without one."""
    return str(error).removeprefix(f"{URL}: ")


async def find_joinable(servers: Iterable[JupyterServer], files: Sequence[Path]) -> list[Joinable]:
    """What can be joined on some servers, and by some connection files.

    A kernel that is on one of the servers is listed once.
    """
    found: list[Joinable] = []
    for answer in await asyncio.gather(*map(listed, servers)):
        found += answer
    there = {f"kernel-{one.kernel.name}.json" for one in found}
    kernels: list[PersonsKernel] = []
    for path in files:
        with contextlib.suppress(KernelStartError):
            if path.name not in there:
                kernels.append(await asyncio.to_thread(kernel_of, path))
    echoes = await asyncio.gather(*map(echoes_of, kernels))
    alive = [kernel for kernel, echo in zip(kernels, echoes, strict=True) if echo]
    return [*found, *(Joinable(one, kernelspec_of(one)) for one in alive)]


def recent_files() -> list[Path]:
    """The connection files in Jupyter's own folder, the newest first."""
    return newest("kernel*.json")


def kernelspec_of(kernel: PersonsKernel) -> str:
    """The name of a kernelspec, as the kernel's connection file has it."""
    return str((kernel.connection or {}).get("kernel_name") or "")


async def listed(server: JupyterServer) -> list[Joinable]:
    """The kernels of a server; none if it does not answer."""
    try:
        async with asyncio.timeout(LIST):
            return await on_server(server)
    except (KernelStartError, TimeoutError):
        return []


async def echoes_of(kernel: PersonsKernel) -> bool:
    """Whether a kernel's heartbeat answers."""
    connection: Mapping[str, Any] = kernel.connection or {}
    with zmq.asyncio.Context() as context:
        client = AsyncKernelClient(context=context)
        try:
            client.load_connection_info(cast(Any, dict(connection)))
            ping = cast(zmq.asyncio.Socket, client.connect_hb())
        except (zmq.ZMQError, ValueError, TypeError):
            return False
        try:
            await ping.send(b"ping")
            return bool(await ping.poll(round(ECHO * 1000)))
        finally:
            ping.close(linger=0)
