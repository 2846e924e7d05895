"""Kernels as any program of jupyter_client has them: without this package's sessions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import port_names
from jupyter_client.manager import AsyncKernelManager

from tests.conftest import kernel_env
from tests.ports import free_port

STOCK = "local-provisioner"
OURS = "rmi-forkserver"


class Running:
    """A kernel, as any program of jupyter_client has it."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager, self.client = manager, client

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.manager.provisioner.pid)  # type: ignore[union-attr]

    async def value(self, expression: str, first: str = "", timeout: float = 60) -> Any:
        """A JSON value that is computed in the kernel."""
        code = f"{first}\n__import__('json').dumps({expression})"
        said: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "execute_result":
                values.append(content["data"]["text/plain"])
            said.append(str(content.get("text") or content.get("traceback") or ""))

        values: list[str] = []
        await self.client.execute_interactive(
            code, allow_stdin=False, timeout=timeout, output_hook=hook
        )
        assert values, said
        return json.loads(eval(values[0]))


def manager_of(provisioner: str, config: dict[str, Any]) -> AsyncKernelManager:
    """A manager whose kernels this provisioner starts."""
    ports = {name: free_port() for name in port_names} if provisioner == STOCK else {}
    manager = AsyncKernelManager(kernel_name="python3", cache_ports=not ports, **ports)
    spec = manager.kernel_spec
    assert spec is not None
    stanza = {"provisioner_name": provisioner, "config": config}
    spec.metadata = {**spec.metadata, "kernel_provisioner": stanza}
    return manager


@contextlib.asynccontextmanager
async def kernel(
    provisioner: str = OURS, preload: list[str] | None = None, wait: bool = True, **launch: Any
) -> AsyncIterator[Running]:
    config = {} if provisioner == STOCK else {"preload": preload or [], "wait_for_template": wait}
    manager = manager_of(provisioner, config)
    await manager.start_kernel(**{"env": kernel_env(), **launch})
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        yield Running(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def is_forked(process: psutil.Process) -> bool:
    parent = process.parent()
    return parent is not None and "fork/zygote.py" in " ".join(parent.cmdline())


@contextlib.asynccontextmanager
async def preloaded(preload: list[str], **launch: Any) -> AsyncIterator[Running]:
    """A forked kernel that came after the modules were imported; the first do not."""
    while True:
        async with kernel(preload=preload, **launch) as running:
            if await running.value(f"{preload[-1]!r} in sys.modules", "import sys"):
                yield running
                return
