"""Other Jupyter clients that join a session's kernel, as `jupyter console --existing FILE` does."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import Kernel, KernelError, Launch, Reply
from rmi_agent.kernels.process import LocalProcess
from rmi_agent.kernels.protocol import Outputs

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork"),
]
WAIT = 30  # seconds


@pytest.fixture
async def kernel(launch: Launch) -> AsyncIterator[Kernel]:
    async with Kernel(launch) as kernel:
        yield kernel


async def joined(file: Path) -> AsyncKernelClient:
    client = AsyncKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    await client.wait_for_ready(timeout=WAIT)
    return client


async def cell(kernel: Kernel, code: str) -> tuple[Reply, str]:
    outputs = Outputs(new_code_cell())
    reply = await kernel.run_cell(code, outputs, WAIT)
    found = outputs.settle().outputs
    return reply, "".join(each.get("text") or each["data"]["text/plain"] for each in found)


async def theirs(client: AsyncKernelClient, code: str, answer: str = "") -> str:
    """What another client sees of a cell that it executes."""
    seen: list[str] = []

    def fold(message: dict[str, Any]) -> None:
        content = message["content"]
        seen.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    async def ask(message: dict[str, Any]) -> None:
        client.input(answer)

    await client.execute_interactive(
        code, output_hook=fold, stdin_hook=ask, allow_stdin=bool(answer), timeout=WAIT
    )
    return "".join(seen)


@pytest.mark.slow
async def test_others_share_the_variables_and_each_sees_its_own_output(kernel: Kernel) -> None:
    used = []
    await cell(kernel, "x = 20")
    file = await kernel.process.connection_file(lambda: used.append(1))
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    client = await joined(file)
    try:
        assert await client.is_alive()
        assert await theirs(client, "y = x + 1; print(x); y") == "20\n21"
        assert used
        reply, text = await cell(kernel, "print(y)")
        assert (reply.status, text) == ("ok", "21\n")
    finally:
        client.stop_channels()


async def test_their_questions_and_completions_are_answered_to_them(kernel: Kernel) -> None:
    client = await joined(await kernel.process.connection_file(lambda: None))
    try:
        assert await theirs(client, "input('name? ') * 2", answer="ab") == "'abab'"
        found = await client.complete("prin", reply=True, timeout=WAIT)
        assert "print" in found["content"]["matches"]
    finally:
        client.stop_channels()


async def test_they_see_what_our_cells_print(kernel: Kernel) -> None:
    client = await joined(await kernel.process.connection_file(lambda: None))
    try:
        await cell(kernel, "print('from here')")
        while True:
            message = await client.get_iopub_msg(timeout=WAIT)
            if message["msg_type"] == "stream":
                break
        assert message["content"]["text"] == "from here\n"
    finally:
        client.stop_channels()


@pytest.mark.slow
async def test_more_output_than_we_would_keep_reaches_them(kernel: Kernel) -> None:
    """Nobody reads it here, which must not stop the kernel."""
    client = await joined(await kernel.process.connection_file(lambda: None))
    try:
        code = "for _ in range(200): print('x' * 100_000)"
        assert len(await theirs(client, code)) == 200 * 100_001
        _, text = await cell(kernel, "1 + 1")
        assert text == "2"
    finally:
        client.stop_channels()


async def test_several_join_at_once_and_interrupt(kernel: Kernel) -> None:
    file = await kernel.process.connection_file(lambda: None)
    assert await kernel.process.connection_file(lambda: None) == file
    one, two = await joined(file), await joined(file)
    try:
        sleeping = asyncio.create_task(theirs(one, "print('on'); import time; time.sleep(60)"))
        while (await two.get_iopub_msg(timeout=WAIT))["msg_type"] != "stream":
            pass
        two.control_channel.send(two.session.msg("interrupt_request", {}))
        await asyncio.wait_for(sleeping, WAIT)
        assert await theirs(two, "1 + 1") == "2"
    finally:
        one.stop_channels()
        two.stop_channels()


async def test_nothing_is_left_and_dead_kernels_cannot_be_joined(launch: Launch) -> None:
    async with Kernel(launch) as kernel:
        file = await kernel.process.connection_file(lambda: None)
        assert len(list(file.parent.glob(f"{file.stem}*"))) == 6
    assert not list(file.parent.glob(f"{file.stem}*"))
    async with Kernel(launch) as kernel:
        await cell(kernel, "import os; os._exit(3)")
        with pytest.raises(KernelError, match="gone"):
            await kernel.process.connection_file(lambda: None)


@pytest.mark.slow
async def test_what_is_no_message_ends_neither_side(kernel: Kernel) -> None:
    import zmq.asyncio

    file = await kernel.process.connection_file(lambda: None)
    client = await joined(file)
    context = zmq.asyncio.Context()
    try:
        for port in (1, 3, 4, 5):
            with context.socket(zmq.DEALER) as socket:
                socket.connect(f"ipc://{file.with_suffix('')}-{port}")
                for parts in ([b""], [b"a", b"b"], [b"<IDS|MSG>", b"", b"{", b"}", b"", b""]):
                    await socket.send_multipart(parts)
        assert await theirs(client, "1 + 1") == "2"
        _, text = await cell(kernel, "2 + 2")
        assert text == "4"
        assert await theirs(client, "3 + 3") == "6"
    finally:
        client.stop_channels()
        context.destroy(linger=0)


@pytest.mark.slow
async def test_kernels_with_sockets_of_their_own_are_joined_there(launch: Launch) -> None:
    import zmq.asyncio

    kernel = Kernel(launch)
    kernel.process = LocalProcess(launch, zmq.asyncio.Context.instance())
    async with kernel:
        client = await joined(await kernel.process.connection_file(lambda: None))
        try:
            assert await theirs(client, "x = 1; print('theirs')") == "theirs\n"
            _, text = await cell(kernel, "x + 1")
            assert text == "2"
        finally:
            client.stop_channels()
