"""Requests to a kernel, and the messages that answer them.

Every message is processed once, whoever sent it: user code shares the channels. Knows messages
and outputs; neither run timeouts nor how to end a kernel that can't be understood.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..plurals import counted
from ..process import KernelProcess, SocketProcess
from ..protocol import PARTS, Message, OnQuestion, Outputs, Question, in_parts, pages

log = logging.getLogger(__name__)

SILENCE_TIMEOUT = 2.0  # max seconds between a run's reply and its idle status, in either order
# Consecutive messages with a bad signature after which the kernel is given up. A single one can
# result from an interrupt in the middle of a send: the next message is glued to the partial one.
UNVERIFIED = 2
INTERRUPTS = 5  # max interrupts sent to a completion or inspection that exceeds `LOOKUP_TIMEOUT`
LOOKUP_TIMEOUT = 1.0  # max seconds for a completion or inspection
WATCH_DELAY = 0.05  # seconds from a request until its reply is watched for without an idle status
SLICE = 0.01  # max seconds of reading messages without yielding to other tasks
LATE_MOST = 4_000_000  # max characters of output that are kept for the next run
PROMPT_MOST = 10_000  # max characters of a question's prompt
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class Exchange:
    """Requests to one kernel, one run at a time; replies to earlier requests are skipped.

    Args:
        client: the kernel's channels, started.
        process: the kernel's process.
        give_up: ends the kernel, for the given reason, when user code has broken its channels.
    """

    def __init__(
        self,
        client: AsyncKernelClient,
        process: KernelProcess,
        give_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self.client = client
        self._process, self._give_up = process, give_up
        self._yielded = 0.0  # when this exchange last yielded to the other tasks
        self._heard = 0.0  # when the last message arrived on iopub
        # The ids of the latest requests whose messages must not appear in a cell.
        self._unshown = deque[str](maxlen=100)
        self._late: list[Message] = []  # output that came while nothing of the user's ran
        self._late_size = self._left_out = 0  # its characters; number of its messages dropped
        self._unverified = 0  # consecutive messages with a bad signature
        self._dropped = 0  # number of unreadable messages

    # -- requests

    async def greet(self) -> dict[str, Any]:
        """Wait for the kernel_info reply and a first iopub message; returns the reply's content."""
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
        """Request execution of code, with `request` as metadata; returns the request's id.

        A `silent` request is internal: it has no execution count and may not ask for input.
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

    async def ask_to_fork(self, for_death: int) -> dict[str, Any]:
        """Ask the kernel whether it can be forked; only while nothing runs.

        If the fork is kept `for_death`, that is the bytes which the kernel may use at most.
        Returns the content of its `fork_reply`; see `inside/branching.py`.
        """
        message = self.client.session.msg("fork_request", {"for_death": for_death})
        self.client.shell_channel.send(message)
        sent = str(message["header"]["msg_id"])
        async with self._keeping_late(sent):  # no status follows
            return dict((await self.reply_to(sent))["content"])

    async def look_up(self, request: str) -> dict[str, Any]:
        """Wait for the answer to a completion or inspection request; empty if none arrives in time.

        Such a request can run user code, for example a property that loops forever.
        """
        self._unshown.append(request)
        answer = asyncio.create_task(self._answer_to(request))
        try:
            await asyncio.wait({answer}, timeout=LOOKUP_TIMEOUT)
            for _ in range(INTERRUPTS):
                if not answer.done():  # interrupt it to free the kernel
                    await self._interrupt_alone()
                    await asyncio.wait({answer}, timeout=0.2)
            return dict(answer.result()["content"]) if answer.done() else {}
        finally:
            answer.cancel()

    async def _interrupt_alone(self) -> None:
        """Interrupt the kernel; not what earlier cells have started in its group, if possible."""
        if isinstance(self._process, SocketProcess):
            self._process.interrupt_alone()
        else:
            await self._process.interrupt()

    def give_up_on(self, request: str) -> None:
        """Show nothing of what a run still outputs: it goes on, and its result was given."""
        self._unshown.append(request)

    async def _answer_to(self, request: str) -> Message:
        # IPython prints errors of the lookup, which must not appear in a cell.
        async with self._keeping_late(request) as idle:
            reply = await self.reply_to(request)
            await idle
        return reply

    @contextlib.asynccontextmanager
    async def _keeping_late(self, request: str) -> AsyncIterator[asyncio.Task[None]]:
        """Keep for the next run what arrives on iopub, except the request's own, until it is idle.

        A kernel whose output nobody takes would not answer.
        """
        idle = asyncio.create_task(self._keep_late(request))
        try:
            yield idle
        finally:
            idle.cancel()
            await asyncio.wait({idle})
            if not idle.cancelled():
                idle.result()

    async def _keep_late(self, request: str) -> None:
        while True:
            message = await self._receive(self.client.get_iopub_msg)
            parent = message["parent_header"].get("msg_id")
            if parent == request:
                if message["content"].get("execution_state") == "idle":
                    return
            elif parent in self._unshown or self._is_of_others(message):
                continue
            elif message["header"]["msg_type"] != "status":
                self._late_size += size_of(message)
                if self._late_size <= LATE_MOST:
                    self._late.append(message)
                else:
                    self._left_out += 1

    async def _fold_late(self, outputs: Outputs) -> None:
        """Fold what has come since the last run, as if it came now."""
        late, left_out = self._late, self._left_out
        self._late, self._late_size, self._left_out = [], 0, 0
        for message in late:
            await self._fold(message, outputs)
        if left_out:
            words = counted(left_out, "message")
            outputs.stream("stderr", f"[Left out: {words} that came while nothing ran.]\n")

    # -- answers

    async def run(
        self, code: str, request: dict[str, Any], outputs: Outputs, stop: asyncio.Future[Any]
    ) -> Message:
        """Run code; waits for both its reply and its idle status on iopub, and returns the reply.

        Args:
            code: what to run.
            request: metadata of the request.
            outputs: receives the run's outputs.
            stop: done once the run is being stopped.
        """
        self._yielded = time.monotonic()
        sent = self.send(code, request)
        await self._fold_late(outputs)
        replied: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        async with self._watched(sent, replied):
            await self.until_idle(sent, outputs)
        reply = replied.result() if replied.done() else None
        if reply is None:
            reply = await self._reply_when_idle(sent, 0.5 if stop.done() else SILENCE_TIMEOUT)
        if reply is None:
            if not stop.done():
                await self._end_for("left its kernel unable to answer")
            # The interrupt came between the code's end and the kernel's reply, in which case
            # ipykernel drops the reply. It is idle, so nothing is running any more.
            return {"content": {"status": "error", "ename": "KeyboardInterrupt"}}
        outputs.timing("shell.execute_reply", reply["header"].get("date"))
        for page in pages(reply):
            await self._fold(page, outputs)
        return reply

    async def run_ours(
        self, code: str, request: dict[str, Any], outputs: Outputs | None = None
    ) -> Message:
        """Run code that is not the user's, while nothing else runs; returns the reply.

        Args:
            code: what to run.
            request: metadata of the request.
            outputs: receives what arrives meanwhile, but not the code's own errors and status.
        """
        sent = self.send(code, request, silent=True)
        if outputs is None:
            return await self._answer_to(sent)
        reply = await self.reply_to(sent)
        await self.until_idle(sent, outputs, ours=True)
        return reply

    @contextlib.asynccontextmanager
    async def _watched(self, sent: str, replied: asyncio.Future[Message]) -> AsyncIterator[None]:
        """Give up the kernel if a request is answered, but its idle status does not follow.

        Begins when most runs are over: a second task for each would take longer than they do.
        """
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(asyncio.create_task(self._watch(sent, replied)))

        later = asyncio.get_running_loop().call_later(WATCH_DELAY, begin)
        try:
            yield
        finally:
            later.cancel()
            for task in tasks:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.result()

    async def _watch(self, sent: str, replied: asyncio.Future[Message]) -> None:
        replied.set_result(await self.reply_to(sent))
        first = time.monotonic()
        while (left := self._left(max(first, self._heard))) > 0:  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(left)
        await self._end_for("broke its kernel's output channel")

    async def _reply_when_idle(self, sent: str, timeout: float) -> Message | None:
        """The reply to a request whose idle status is there; None if it does not come in time."""
        first = time.monotonic()
        while (left := self._left(first, timeout)) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    return await self.reply_to(sent)
        return None

    def _left(self, since: float, timeout: float = SILENCE_TIMEOUT) -> float:
        """Seconds that are left of a time limit, which begins anew if the connection was cut."""
        return max(since, self._process.cut_until) + timeout - time.monotonic()

    async def _end_for(self, why: str) -> None:
        """Give up the kernel; the caller awaiting the run is notified by the process's death."""
        await self._give_up(why)
        await asyncio.get_running_loop().create_future()

    async def relay_questions(self, on_question: OnQuestion, outputs: Outputs | None) -> None:
        """Relay a run's questions; question and answer become output, as in Jupyter.

        Not those of a program, without `outputs`: it writes its prompts itself.
        """
        while True:
            message = await self._receive(self.client.get_stdin_msg)
            if message["header"]["msg_type"] != "input_request":
                continue
            prompt = str(message["content"].get("prompt") or "")[:PROMPT_MOST]
            secret = bool(message["content"].get("password"))
            self._process.raw.drain()  # what was printed before comes first
            with Question(prompt, secret) as question:
                on_question(question)
                answer = await question.answered()
            if outputs is not None:
                outputs.stream("stdout", question.transcript())
            if answer is not None:
                self.client.input(answer)

    async def until_idle(self, request: str, outputs: Outputs, *, ours: bool = False) -> None:
        """Fold outputs until a request is idle; of `ours`, errors and status are not folded."""
        while True:
            message = await self._receive(self.client.get_iopub_msg)
            self._heard = time.monotonic()
            parent = message["parent_header"].get("msg_id")
            if parent != request and (parent in self._unshown or self._is_of_others(message)):
                continue
            mine = parent == request
            kind = message["header"]["msg_type"]
            if not (ours and mine and kind in ("error", "status", "execute_input")):
                # Late output of an earlier cell also lands here, as in Jupyter; messages printed
                # by its threads even name this request as their parent.
                await self._fold(message, outputs)
            if kind == "status" and mine:
                state = message["content"].get("execution_state")
                if state in ("busy", "idle") and not ours:
                    outputs.timing(f"iopub.status.{state}", message["header"].get("date"))
                if state == "idle":
                    return

    def _is_of_others(self, message: Message) -> bool:
        """Whether another client of a kernel on this machine, such as a console, caused it."""
        session = message["parent_header"].get("session")
        return self._process.is_here and session not in (None, self.client.session.session)

    async def _fold(self, message: Message, outputs: Outputs) -> None:
        try:
            for part in in_parts(message):
                outputs.fold(part)
                await self._yield()
        except UNREADABLE as error:
            self._drop(error)

    async def reply_to(self, request: str) -> Message:
        """Wait for the reply on the shell channel to one of our requests."""
        while True:
            message = await self._receive(self.client.get_shell_msg)
            if message["parent_header"].get("msg_id") == request:
                return message

    async def _receive(self, get: Callable[..., Coroutine[Any, Any, Message]]) -> Message:
        """Wait for the next readable message; forged and malformed ones are skipped."""
        while True:
            await self._yield()
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

    async def _yield(self) -> None:
        """Yield to the other tasks once per `SLICE`: awaiting a message that is there does not."""
        if time.monotonic() >= self._yielded + SLICE:
            await asyncio.sleep(0)
            self._yielded = time.monotonic()

    def _drop(self, error: Exception) -> None:
        """Count an unreadable message; logs at counts that are powers of two."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            log.warning("Unreadable kernel messages dropped: %s; %.200s", self._dropped, error)


def size_of(message: Message) -> int:
    """About how many characters an output message has."""
    content = message["content"]
    data = content.get("data")
    values = [*content.values(), *(data.values() if isinstance(data, dict) else ())]
    return sum(len(value) for value in values if isinstance(value, str))
