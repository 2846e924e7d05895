"""A person with a kernel, started as JupyterLab starts it, and a client of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import port_names
from jupyter_client.manager import AsyncKernelManager
from rmi_agent.kernels.addresses import PersonsKernel

from tests.conftest import kernel_env
from tests.ports import free_port

SOON = 60.0  # seconds; on a machine with nothing else to do it is one


class Client:
    """What a person sees and does in a client of their own."""

    def __init__(self, client: AsyncKernelClient) -> None:
        self.client = client

    async def value(self, code: str) -> str:
        """What an expression is in their kernel, in their own client."""
        message = await self.reply(self.client.execute("", user_expressions={"it": code}))
        assert message["content"]["status"] == "ok", message
        return str(message["content"]["user_expressions"]["it"]["data"]["text/plain"])

    def cell(self, code: str) -> str:
        return str(self.client.execute(code))

    async def reply(self, request: str) -> dict[str, Any]:
        async with asyncio.timeout(SOON):
            while True:
                message: dict[str, Any] = await self.client.get_shell_msg()
                if message["parent_header"].get("msg_id") == request:
                    return message

    async def seen(self, kind: str, text: str) -> dict[str, Any]:
        """Wait until a message with this text comes to their client on iopub."""
        async with asyncio.timeout(SOON):
            while True:
                message: dict[str, Any] = await self.client.get_iopub_msg()
                if message["msg_type"] == kind and text in json.dumps(message["content"]):
                    return message


class Person(Client):
    """A person with a kernel."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        super().__init__(client)
        self.manager = manager

    @property
    def file(self) -> Path:
        return Path(self.manager.connection_file)

    @property
    def kernel(self) -> PersonsKernel:
        return PersonsKernel(self.file.name, json.loads(self.file.read_text("utf-8")))

    @property
    def pid(self) -> int:
        found = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert isinstance(found, int)
        return found


@asynccontextmanager
async def person(folder: Path) -> AsyncIterator[Person]:
    """Someone who has started a kernel whose connection file is in a folder."""
    ports = {name: free_port() for name in port_names}
    place = str(folder / "kernel-theirs.json")
    manager = AsyncKernelManager(connection_file=place, cache_ports=False, **ports)
    await manager.start_kernel(cwd=str(folder), env=kernel_env())
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=SOON)
        yield Person(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
