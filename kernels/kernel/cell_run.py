"""A cell on its way through a kernel: started, stopped at its time limit or on request, and over.

Knows the kernel's process and the exchange of messages with it; nothing of how the kernel started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from ..plurals import counted
from ..process_tree import Listener
from ..protocol import Message, OnQuestion, Outputs, Reply, Status, ends_kernel, reply_of
from .joining import run_in_turn, stop_in_turn
from .project_files import ProjectFiles
from .run_end import Stop, last_output, stop_run

if TYPE_CHECKING:
    from .kernel import Kernel

QUESTIONS_DELAY = 0.02  # seconds until questions are listened for: most runs are over by then


class CellRun:
    """One cell that runs on a kernel.

    Args:
        kernel: the kernel, on which nothing else runs.
        files: the copies of the projects folder, if the kernel is on another machine.
        outputs: receives the cell's outputs.
        timeout: seconds until the cell is interrupted; None means no limit.
        on_question: called when the cell asks for input; the cell waits for the answer.

    Attributes:
        listened: the ports that the kernel's processes listened on when the cell was to be stopped.
    """

    def __init__(
        self,
        kernel: Kernel,
        files: ProjectFiles | None,
        outputs: Outputs,
        timeout: float | None,
        on_question: OnQuestion,
    ) -> None:
        self._kernel, self._files, self._outputs = kernel, files, outputs
        self._timeout, self._on_question = timeout, on_question
        self.listened: Sequence[Listener] = ()
        self._stop = Stop()
        self._timers: list[asyncio.TimerHandle] = []
        self._notices: list[str] = []

    def interrupt(self, why: str, status: Status = "interrupted", *, patient: bool = False) -> bool:
        """Stop it, as a timeout does; False if it is being stopped already, as urgently."""
        return self._stop.want(why, status, patient=patient)

    async def run(self, code: str, request: dict[str, Any]) -> Reply:
        """Run it to its end.

        Args:
            code: its source.
            request: what the kernel should know of it besides.
        """
        kernel, loop = self._kernel, asyncio.get_running_loop()
        if kernel.joined is None:
            self._limit()
        if dropped := kernel.process.raw.attach(self._outputs.stream):
            self._notices.append(
                f"Left out: {counted(dropped, 'character')} that came while nothing ran."
            )
        ending = loop.create_task(self._work(code, request))
        death = asyncio.ensure_future(kernel.process.until_dead())
        relaying: list[asyncio.Task[None]] = []

        def relay() -> None:
            shown = None if request else self._outputs
            questions = kernel.exchange.relay_questions(self._on_question, shown)
            relaying.append(loop.create_task(questions))

        asking = loop.call_later(QUESTIONS_DELAY, relay)
        try:
            events: list[asyncio.Future[Any]] = [ending, death, self._stop.wanted]
            await asyncio.wait(events, return_when="FIRST_COMPLETED")
            return await self._reply(ending, death)
        finally:
            asking.cancel()
            for timer in self._timers:
                timer.cancel()
            begun: list[asyncio.Future[Any]] = [ending, death, *relaying]
            for task in begun:
                task.cancel()
            if left := [task for task in begun if not task.done()]:
                await asyncio.wait(left)
            kernel.process.raw.detach()

    def _limit(self) -> None:
        """Let its time begin."""
        if self._timeout:
            loop, why = asyncio.get_running_loop(), f"timed out after {self._timeout:g} s"
            self._timers.append(loop.call_later(self._timeout, self.interrupt, why, "timeout"))

    def _work(self, code: str, request: dict[str, Any]) -> Coroutine[Any, Any, Message]:
        kernel, exchange, stop = self._kernel, self._kernel.exchange, self._stop.wanted
        if kernel.joined is not None:  # its time begins when the kernel begins it
            joined, limit = kernel.joined, self._limit
            return run_in_turn(exchange, joined, code, self._outputs, stop, limit)
        if self._files is None:
            return exchange.run(code, request, self._outputs, stop)
        return self._files.run(code, request, self._outputs, stop, self._notices)

    async def _reply(
        self, ending: asyncio.Task[Message], death: asyncio.Future[int | None]
    ) -> Reply:
        """Stop it if it is neither over nor dead, and make its reply."""
        kernel = self._kernel
        actions: list[str] = []
        if not ending.done() and not death.done():
            self.listened = await kernel.listeners()
            if kernel.joined is not None:
                actions, unended = await stop_in_turn(
                    self._stop, kernel.exchange, kernel.joined, ending, death
                )
                if unended:
                    self._notices.append(unended)
                    status, notices = self._stop.wanted.result()[0], self._all_notices()
                    return Reply(status, actions=tuple(actions), notices=notices)
            else:
                actions = await stop_run(self._stop, kernel.process, kernel.client, ending, death)
        stopped = self._stop.wanted.result()[0] if actions else None
        if not ending.done():
            return await self._dead(ending, death, stopped, actions)
        reply = ending.result()
        kernel.process.raw.drain()
        if ends_kernel(reply):
            await asyncio.wait({death}, timeout=5)
            return await self._dead(ending, death, stopped, actions)
        return reply_of(reply, stopped, actions, self._all_notices())

    async def _dead(
        self,
        ending: asyncio.Task[Message],
        death: asyncio.Future[int | None],
        status: Status | None,
        actions: list[str],
    ) -> Reply:
        """Make the reply of a process that ended, after folding the output it still sent."""
        await last_output(ending, self._outputs)
        self._kernel.process.raw.drain()
        code = death.result() if death.done() and not death.cancelled() else None
        if self._kernel.killed_since:
            actions = [self._kernel.killed_since, "killed"]
        how, why = tuple(actions), self._all_notices()
        return Reply(status or "dead", exit_code=code, state="lost", actions=how, notices=why)

    def _all_notices(self) -> tuple[str, ...]:
        left_out = [self._outputs.left_out] if self._outputs.left_out else []
        return (*self._notices, *self._kernel.process.connection_messages(), *left_out)
