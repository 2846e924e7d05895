"""Running cells on a kernel that a person shares with us: in turn, and without harm to theirs.

Knows requests and the kernel's traffic; nothing of how the kernel is reached.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from queue import Empty
from typing import Any

from ..joined import JoinedKernel
from ..protocol import Message, Outputs
from .exchange import Exchange
from .run_end import Stop

ASK_INTERVAL = 0.5  # seconds between questions while a kernel that is joined does not answer
NOT_RUN = "None of it ran: another client's cell was running in the kernel."
QUEUED = (
    "It was sent already and waits in the kernel's queue, behind another client's cell: it will be"
    " interrupted as soon as it begins."
)
GOES_ON = (
    "It ignored the interrupts and goes on, unrecorded: the kernel belongs to a person, so it is"
    " not killed. Whoever owns it can restart it there."
)


async def get_joined(exchange: Exchange, process: JoinedKernel) -> dict[str, Any]:
    """Wait for a kernel's first answer, even while a cell of another client runs.

    Kernels that answer on the control channel meanwhile do so from a thread. Nothing is set up.
    Returns the content of its `kernel_info_reply`.
    """
    client, traffic = exchange.client, process.traffic
    request = client.kernel_info()
    traffic.ask(request)
    reply = asyncio.ensure_future(exchange.reply_to(request))
    try:
        while True:
            client.control_channel.send(client.session.msg("kernel_info_request", {}))
            on_control = asyncio.ensure_future(control_reply(exchange))
            try:
                await asyncio.wait(
                    {reply, on_control}, timeout=ASK_INTERVAL, return_when="FIRST_COMPLETED"
                )
                answered = [each for each in (reply, on_control) if each.done()]
            finally:
                on_control.cancel()
            if answered and await heard(traffic.heard):
                return dict(answered[0].result()["content"])
    finally:
        reply.cancel()


async def control_reply(exchange: Exchange) -> Message:
    """The next answer to a question of ours on the control channel."""
    while True:
        with contextlib.suppress(Empty):
            message: Message = await exchange.client.get_control_msg()
            if message["header"]["msg_type"] == "kernel_info_reply":
                return message


async def heard(event: asyncio.Event) -> bool:
    """Whether something has come on iopub: a subscription takes a moment."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ASK_INTERVAL):
            await event.wait()
    return event.is_set()


async def run_in_turn(
    exchange: Exchange,
    process: JoinedKernel,
    code: str,
    outputs: Outputs,
    stop: asyncio.Future[Any],
    on_begin: Callable[[], None],
) -> Message:
    """Run code once nobody's cell runs; returns the reply, as `Exchange.run`.

    Args:
        exchange: of the kernel.
        process: the kernel.
        code: what to run.
        outputs: receives the run's outputs.
        stop: done once the run is being stopped.
        on_begin: called when the kernel begins to run it.
    """
    traffic = process.traffic
    await traffic.turn(exchange.client.kernel_info)
    traffic.on_begin = on_begin
    try:
        return await exchange.run(code, {}, outputs, stop)
    finally:
        traffic.on_begin = lambda: None


async def stop_in_turn(
    stop: Stop,
    exchange: Exchange,
    process: JoinedKernel,
    ending: asyncio.Task[Message],
    death: asyncio.Future[int | None],
) -> tuple[list[str], str]:
    """Withdraw our cell if it has not begun; interrupt it if it runs; never kill.

    Returns why and what was done, in words, and what to say of a cell that has not ended.
    """
    traffic, actions = process.traffic, [stop.wanted.result()[1]]
    if traffic.waits:
        await process.interrupt()  # an earlier cell of ours may be what this one waits for
        return actions, NOT_RUN
    if traffic.pending:
        traffic.unwanted.add(traffic.pending)
        exchange.give_up_on(traffic.pending)
        return actions, QUEUED
    for words in ("interrupted", "interrupted again"):
        actions.append(words)
        await process.interrupt(again=words == "interrupted again")
        exchange.client.kernel_info()  # see `stop_run`
        await stop.grace(ending, death)
        if ending.done() or death.done():
            return actions, ""
    exchange.give_up_on(traffic.running)
    return actions, GOES_ON
