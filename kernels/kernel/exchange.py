"""Requests to a kernel, and the messages that answer them.

Every message is looked at once, whoever sent it: user code shares the channels. Knows messages
and outputs; neither timeouts nor what is to be done with a kernel that can't be understood.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from nbformat.v4 import new_code_cell

from ..process import KernelProcess
from ..protocol import Message, OnQuestion, Outputs, Question, in_parts
from .fairness import Turns

log = logging.getLogger(__name__)

SILENCE = 2.0  # max seconds between a run's reply and its idle status
# Messages in a row with a bad signature after which nothing more can be understood. One alone
# comes of an interrupt in the middle of a send: the next message is glued to its half.
UNVERIFIED = 2
INTERRUPTS = 5  # for a completion or an inspection that takes longer than the next
LOOK = 1.0  # seconds that a completion or an inspection may take
PROMPT_MOST = 10_000  # characters of a question
PARTS = ("header", "parent_header", "metadata", "content")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class Exchange:
    """Requests to one kernel. One run at a time; what answers earlier requests is passed by.

    Args:
        client: its channels, started.
        process: its process.
        give_up: ends the kernel, whose code has made it impossible to understand; says why.
    """

    def __init__(
        self,
        client: AsyncKernelClient,
        process: KernelProcess,
        give_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self.client = client
        self._process, self._give_up = process, give_up
        self._heard = 0.0  # when the last message on iopub came
        self._looks = deque[str](maxlen=100)  # the latest requests of `look`
        self._unverified = 0  # messages in a row
        self._dropped = 0  # messages that could not be read

    # -- requests

    async def greet(self) -> dict[str, Any]:
        """Wait for kernel_info's reply, which is returned, and for iopub to reach us."""
        while True:
            request = self.client.kernel_info()
            try:
                async with asyncio.timeout(1):
                    info = (await self.reply_to(request))["content"]
                await self.client.get_iopub_msg(timeout=0.2)
                return dict(info)
            except (TimeoutError, Empty):
                continue

    def send(self, code: str, request: dict[str, Any], silent: bool = False) -> str:
        """Ask for code to be executed; `request` goes along as metadata. Returns the request's id.

        What is `silent` is ours: it has no number, and may not ask for input.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": not silent,
            "stop_on_error": False,
        }
        session = self.client.session
        message = session.msg("execute_request", content, metadata={"rmi_agent": request})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    async def look(self, request: str) -> dict[str, Any]:
        """The answer to a question about the kernel's state; empty if it does not come.

        Such a question runs the user's code, too: a property that loops, say.
        """
        self._looks.append(request)
        answer = asyncio.create_task(self._answer_to(request))
        try:
            await asyncio.wait({answer}, timeout=LOOK)
            for _ in range(INTERRUPTS):
                if not answer.done():  # free the kernel again
                    await self._process.interrupt()
                    await asyncio.wait({answer}, timeout=0.2)
            return dict(answer.result()["content"]) if answer.done() else {}
        finally:
            answer.cancel()

    async def _answer_to(self, request: str) -> Message:
        reply = await self.reply_to(request)
        # IPython prints what goes wrong meanwhile; no cell is to show that.
        await self.until_idle(request, Outputs(new_code_cell()))
        return reply

    # -- answers

    async def until_over(
        self, request: str, outputs: Outputs, stop: asyncio.Future[Any] | None
    ) -> Message:
        """The reply to a run, once it is over: at that, *and* at its idle on iopub.

        Args:
            request: the run's id.
            outputs: what it puts out is folded in here.
            stop: is done once the run is being stopped.
        """
        idle = asyncio.create_task(self.until_idle(request, outputs))
        answer = asyncio.create_task(self.reply_to(request))
        try:
            await asyncio.wait({idle, answer}, return_when="FIRST_COMPLETED")
            stopped = stop is not None and stop.done()
            if not await self._follows(answer, 0.5 if stopped else SILENCE):
                if stop is not None and stop.done():
                    # The interrupt came between the code's end and the kernel's reply, and
                    # ipykernel drops the reply then. It is idle, so nothing runs any more.
                    return {"content": {"status": "error", "ename": "KeyboardInterrupt"}}
                await self._end_for("left its kernel unable to answer")
            reply = answer.result()
            outputs.timing("shell.execute_reply", reply["header"].get("date"))
            if not await self._follows(idle):
                await self._end_for("broke its kernel's output channel")
            idle.result()
        finally:
            idle.cancel()
            answer.cancel()
        return reply

    async def _follows(self, second: asyncio.Task[Any], patience: float = SILENCE) -> bool:
        """Whether the second of a run's two ends comes, once the first is there."""
        first = time.monotonic()
        while not second.done():
            latest = max(first, self._heard, self._process.cut_until)
            if (left := latest + patience - time.monotonic()) <= 0:
                break
            await asyncio.wait({second}, timeout=left)
        return second.done()

    async def _end_for(self, why: str) -> None:
        """Give up; the caller that awaits this run learns it from the process's death."""
        await self._give_up(why)
        await asyncio.get_running_loop().create_future()

    async def relay_questions(self, on_question: OnQuestion, outputs: Outputs) -> None:
        """Pass on what the cell asks; question and answer become output, as in Jupyter."""
        while True:
            message = await self._receive(self.client.get_stdin_msg)
            if message["header"]["msg_type"] != "input_request":
                continue
            prompt = str(message["content"].get("prompt") or "")[:PROMPT_MOST]
            secret = bool(message["content"].get("password"))
            with Question(prompt, secret) as question:
                on_question(question)
                answer = await question.answered()
            outputs.stream("stdout", question.transcript())
            self.client.input(answer)

    async def until_idle(self, request: str, outputs: Outputs, *, ours: bool = False) -> None:
        """Fold what comes until a request is over; of `ours`, only what others say meanwhile."""
        others = Turns()
        while True:
            await others.have_theirs()
            message = await self._receive(self.client.get_iopub_msg)
            self._heard = time.monotonic()
            parent = message["parent_header"].get("msg_id")
            if parent != request and parent in self._looks:
                continue  # of one that was given up: no cell is to show that
            mine = parent == request
            kind = message["header"]["msg_type"]
            if not (ours and mine and kind in ("error", "status", "execute_input")):
                # Late output of an earlier cell lands here too, as in Jupyter; what a thread of
                # it prints even names this request.
                try:
                    for part in in_parts(message):
                        outputs.fold(part)
                        await others.have_theirs()
                except UNREADABLE as error:
                    self._drop(error)
            if kind == "status" and mine:
                state = message["content"].get("execution_state")
                if state in ("busy", "idle") and not ours:
                    outputs.timing(f"iopub.status.{state}", message["header"].get("date"))
                if state == "idle":
                    return

    async def reply_to(self, request: str) -> Message:
        """The reply on shell to one of our requests."""
        others = Turns()
        while True:
            await others.have_theirs()
            message = await self._receive(self.client.get_shell_msg)
            if message["parent_header"].get("msg_id") == request:
                return message

    async def _receive(self, get: Callable[..., Coroutine[Any, Any, Message]]) -> Message:
        """The next message that can be read; forged and malformed ones are passed by."""
        others = Turns()
        while True:
            await others.have_theirs()
            try:
                message = await get()
            except UNREADABLE as error:
                self._drop(error)
                self._unverified += "Signature" in str(error)
                if self._unverified == UNVERIFIED:
                    await self._end_for("changed the key that signs its kernel's messages")
            else:
                self._unverified = 0
                if all(isinstance(message.get(part), dict) for part in PARTS):
                    return message

    def _drop(self, error: Exception) -> None:
        """Log a message that is of no use; of many, ever fewer."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            log.warning("Unreadable kernel messages dropped: %s; %.200s", self._dropped, error)
