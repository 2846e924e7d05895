"""Gets a started kernel ready, as long as its process lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import DeadKernelError
from ..inside import SET_UP, set_up_request
from ..process import KernelProcess, Launch
from ..protocol import Outputs, new_cell
from .exchange import Exchange

# Variables that ipykernel changes, and that inside/script_environment.py restores for scripts.
IPYKERNELS = ("TERM", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PAGER", "GIT_PAGER")

Result = TypeVar("Result")


async def get_ready(exchange: Exchange, process: KernelProcess, launch: Launch) -> dict[str, Any]:
    """Wait for a kernel's first answer, and set it up if it is a Python kernel.

    Returns the content of its `kernel_info_reply`.

    Raises:
        DeadKernelError: the set-up failed in the kernel.
    """
    info = await exchange.greet()
    if not is_ipykernel(info):
        return info
    raw = process.raw.is_open and process.pid is not None
    changed = {name: launch.env.get(name) for name in IPYKERNELS}
    more = process.more_to_set_up()
    request = {
        "arguments": [raw, changed, launch.output_limit],
        **set_up_request(more.programs),
        **more.sent,
    }
    msg_id = exchange.send(SET_UP, request, silent=True)
    reply = (await exchange.reply_to(msg_id))["content"]
    if reply["status"] != "ok":
        raise DeadKernelError("\n".join(reply.get("traceback", [])))
    process.is_set_up = True
    await exchange.until_idle(msg_id, Outputs(new_cell()))
    return info


def is_ipykernel(info: dict[str, Any]) -> bool:
    """Whether a `kernel_info_reply` is of an ipykernel, whatever its kernelspec."""
    return info.get("implementation") == "ipython"


async def unless_dead(process: KernelProcess, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`.

    Raises:
        DeadKernelError: the process ended first.
    """
    task, death = asyncio.create_task(work), asyncio.ensure_future(process.until_dead())
    events: list[asyncio.Future[Any]] = [task, death]
    try:
        await asyncio.wait(events, return_when="FIRST_COMPLETED")
        if not task.done():
            raise DeadKernelError(process.describe_end(death.result()))
        return task.result()
    finally:
        for each in events:
            each.cancel()
