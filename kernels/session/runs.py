"""A session's runs: each is one cell on its way through a kernel, and one runs at a time.

The caller may wait for a run, look at its output so far, or stop it. Knows cells and the kernel
that runs them; the session provides the kernel and records the results.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbformat import NotebookNode

from ..errors import KernelError, reason
from ..kernel import Kernel
from ..notebook import Recorder, Run
from ..protocol import Displays, Outputs, Program, Question, Reply, new_cell
from ..supervision import Supervisor

log = logging.getLogger(__name__)

QUEUE_MOST = 100  # max runs queued in one session
KEEP = 100  # max runs per session whose outputs stay in memory for `read_output`
STDIN_KEPT = 100_000  # max characters of a script's stdin recorded in the notebook, for reruns
NOT_RUN = "None of it ran."
KEEP_SIZE = 12_000_000  # max total bytes of outputs of the runs kept in memory


@dataclass(frozen=True)
class NotebookCell:
    """A cell of an existing notebook, to be run.

    Attributes:
        cell: the cell, whose id and metadata the record keeps.
        title: the notebook's name.
        folder: the working folder to change to before; None to stay in the current one.
    """

    cell: NotebookNode
    title: str
    folder: Path | None = None


class Execution:
    """An accepted run: queued, running, or over (`task` is done).

    Args:
        session_id: the id of its session.
        number: its place in the session, from 1.
        source: its code; ignored if `cell` is given.
        recorder: records it.
        displays: the session's outputs that can still be updated.
        output_limit: bytes of output after which the run is interrupted; 0 means no limit.
        program: the file or module to run; None for a snippet.
        cell: the existing cell, if another instance of the server started the run.
        of: the cell of an existing notebook that it runs, if any.
        background: whether it goes on beyond `output_limit`, without keeping more.

    Attributes:
        asked: the number of questions so far.
        on_start: called when it starts; it may have been queued before.
        handed_over: whether the run continues in another instance of the server.
        title: names the notebook, if this run is the first in it.
        task: gives the finished run.
        until: deadline in seconds since 1970; 0 means none.
    """

    def __init__(
        self,
        session_id: str,
        number: int,
        source: str,
        recorder: Recorder,
        *,
        displays: Displays,
        output_limit: int,
        program: Program | None = None,
        cell: NotebookNode | None = None,
        of: NotebookCell | None = None,
        background: bool = False,
    ) -> None:
        self.session_id = session_id
        self.number = number
        self.title = source if program is None else program.title
        self._folder: Path | None = None
        if of is not None:
            cell, self.title, self._folder = of.cell, of.title, of.folder
        self.cell = new_cell(source) if cell is None else cell
        if self._folder is not None:  # for reruns
            self.cell.metadata["rmi_agent"] = NotebookNode(folder=str(self._folder))
        self.started: float | None = None
        self.finished: float | None = None
        self.until = 0.0
        self.program = program
        self.handed_over = False
        on_limit = None if background else self._over_limit
        self.outputs = Outputs(self.cell, displays, output_limit, on_limit)
        self.task: asyncio.Future[Run]
        self._recorder, self._output_limit = recorder, output_limit
        self.asked = 0
        self._question: Question | None = None
        self._asking: asyncio.Future[None] | None = None  # ends a wait at a question
        self._kernel: Kernel | None = None
        self._enters = False  # whether its kernel is entering its folder, and runs nothing yet
        self._unwanted = ""  # why it was stopped meanwhile
        self.on_start: Callable[[], None] = lambda: None
        if program is not None:
            self.cell.metadata["rmi_agent"] = facts = NotebookNode(program.facts)
            if program.stdin:
                facts.stdin = program.stdin[:STDIN_KEPT]
            if background:
                facts.background = True

    @property
    def notebook(self) -> Path | None:
        """Where the run is recorded; None until the session has a notebook."""
        return self._recorder.path

    @property
    def in_background(self) -> bool:
        """Whether it is a program that is to go on, such as a server."""
        return bool(self.cell.metadata.get("rmi_agent", {}).get("background"))

    @property
    def question(self) -> Question | None:
        """The open question to the user that the run waits for, if any."""
        asked = self._question
        return asked if asked is not None and asked.open else None

    @property
    def status(self) -> Literal["queued", "running", "over"]:
        """Whether the run is queued, running or over."""
        if self.task.done():
            return "over"
        return "queued" if self.started is None else "running"

    @property
    def elapsed(self) -> float:
        """Running time so far in seconds; 0 while queued."""
        if self.started is None:
            return 0.0
        return (self.finished or time.monotonic()) - self.started

    @property
    def waits_for_others(self) -> bool:
        """Whether it waits for other clients' cells in a person's kernel."""
        return self._kernel is not None and self._kernel.waits_for_others

    def begin(self) -> None:
        """Note that the run starts."""
        self.started = time.monotonic()
        self.on_start()

    def interrupt(self, why: str = "interrupted", *, patient: bool = False) -> bool:
        """Stop the run with the interrupt ladder, or dequeue it; False if it is over or ending.

        A `patient` caller sends one interrupt, and gives the code as long as it takes.
        """
        if self.task.done() or self.finished is not None:  # over, or being recorded
            return False
        if self._kernel is None:
            return self.task.cancel()
        if self._enters:
            is_news, self._unwanted = not self._unwanted, self._unwanted or why
            return is_news
        stops = self._kernel.interrupt(why, patient=patient)
        if stops and self._question is not None:
            self._question.withdraw()
        return stops

    async def kill(self, why: str) -> None:
        """End the run by ending its kernel, or dequeue it."""
        if self._kernel is not None:
            await self._kernel.kill(why)
        elif self.finished is None:  # not being recorded
            self.task.cancel()

    async def wait(self, timeout: float | None, *, or_question: bool = False) -> bool:
        """Wait at most `timeout` seconds for the run to end; returns whether it is over.

        With `or_question`, a question that it asks meanwhile ends the wait, too.
        """
        events: set[asyncio.Future[Any]] = {self.task}
        if or_question and not self.task.done():
            self._asking = asyncio.get_running_loop().create_future()
            events.add(self._asking)
        await asyncio.wait(events, timeout=timeout, return_when="FIRST_COMPLETED")
        return self.task.done()

    def _over_limit(self) -> None:
        self.interrupt(f"printed more than RMI_AGENT_OUTPUT_LIMIT ({self._output_limit:,})")

    def _ask(self, question: Question) -> None:
        self.asked += 1
        self._question = question
        if self._asking is not None and not self._asking.done():
            self._asking.set_result(None)

    async def run(self, kernel: Kernel, timeout: float | None) -> Reply:
        """Execute on the kernel that the session provides."""
        self._kernel = kernel
        try:
            if self._folder is not None:
                self._enters = True
                await kernel.enter(self._folder)
                self._enters = False
            if self._unwanted:
                return Reply("interrupted", actions=(self._unwanted,), notices=(NOT_RUN,))
            if self.program is None:
                source = self.cell.source
                return await kernel.run_cell(source, self.outputs, timeout, self._ask)
            asked = self._ask if self.program.asks else Question.nobody
            return await kernel.run_program(self.program, self.outputs, timeout, asked)
        finally:
            self._kernel = self._question = None
            self._enters = False


class RunQueue:
    """The runs of one session, in the order of their acceptance.

    Args:
        supervisor: owns the runs' tasks.
        on_over: called whenever a run is over.
        lose_track: called if the server failed while a run's code may still be running.

    Attributes:
        executions: the runs in memory, the oldest first.
        displays: the session's outputs that can still be updated.
        turn: held by the current run, and by whatever else needs the kernel to itself.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        on_over: Callable[[], None],
        lose_track: Callable[[], None],
    ) -> None:
        self.executions: list[Execution] = []
        self.displays = Displays()
        self.turn = asyncio.Lock()
        self._supervisor, self._on_over, self._lose_track = supervisor, on_over, lose_track
        self._unfinished: dict[int, Execution] = {}  # by number
        self._size = 0  # bytes of output of the finished runs in memory

    @property
    def unfinished(self) -> list[Execution]:
        """The current run and the queued ones, in order."""
        return list(self._unfinished.values())

    def add(self, execution: Execution, work: Callable[[], Awaitable[Run]]) -> None:
        """Queue a run: `work` starts once all earlier runs have ended.

        Raises:
            KernelError: the queue is full.
        """
        if len(self._unfinished) > QUEUE_MOST:
            raise KernelError(
                f"Nothing was run: {QUEUE_MOST} runs wait in session {execution.session_id}"
                " already. Try again when one has ended (read_output with wait tells when), or"
                " call restart_session to drop them all."
            )
        self.executions.append(execution)
        self._unfinished[execution.number] = execution
        execution.task = self._supervisor.start(
            self._in_turn(execution, work), f"cell {execution.number}", KernelError
        )
        execution.task.add_done_callback(lambda _: self._over(execution))
        self._forget_old()

    async def _in_turn(self, execution: Execution, work: Callable[[], Awaitable[Run]]) -> Run:
        """Run `work` once all earlier runs have ended.

        Raises:
            KernelError: no kernel was available, or the server itself failed.
        """
        try:
            async with self.turn:
                return await work()
        except KernelError:
            raise
        except Exception as error:
            log.exception("Cell %d failed inside the server", execution.number)
            if execution.finished is not None:
                raise KernelError(
                    f"Cell {execution.number} ran to its end, but the server could not process its"
                    f" result ({reason(error)}). Its variables are kept: print what you need."
                ) from error
            if execution.started is not None:
                self._lose_track()
            raise KernelError(
                f"Cell {execution.number} failed inside the server ({reason(error)}). Run it again,"
                " after those that it needs: the session may have a fresh kernel now."
            ) from error

    def _over(self, execution: Execution) -> None:
        del self._unfinished[execution.number]
        execution.task = outcome(execution.task)
        self._size += execution.outputs.size
        self._on_over()

    async def stop_all(self, stop: Callable[[Execution], object]) -> None:
        """Stop every run and wait until all are over."""
        stopped = self.unfinished
        for execution in reversed(stopped):  # queued runs first, so that none starts meanwhile
            stop(execution)
        if stopped:
            await asyncio.wait({execution.task for execution in stopped})

    @property
    def folder(self) -> Path | None:
        """Where the file or module is that ran last; None if none of the runs in memory ran one."""
        programs = (execution.program for execution in reversed(self.executions))
        return next((each.folder for each in programs if each is not None), None)

    def mention(self, name: str) -> bool:
        """Whether the code of a run in memory contains a name."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        return any(word.search(execution.cell.source) for execution in self.executions)

    def _forget_old(self) -> None:
        """Drop the oldest runs from memory; the notebook keeps them."""
        while len(self.executions) > 1 and self.executions[0].number not in self._unfinished:
            if len(self.executions) <= KEEP and self._size <= KEEP_SIZE:
                break
            oldest = self.executions.pop(0)
            self._size -= oldest.outputs.size
            gone = {id(output) for output in oldest.cell.outputs}
            self.displays.widgets.forget(gone)
            for name, shown in list(self.displays.items()):
                if left := [output for output in shown if id(output) not in gone]:
                    self.displays[name] = left
                else:
                    del self.displays[name]


def outcome(task: asyncio.Future[Run]) -> asyncio.Future[Run]:
    """A future with the result of a finished task, which can then be freed.

    A task keeps the context that it was started in: the whole request, over HTTP some 30 kB.
    """
    found: asyncio.Future[Run] = task.get_loop().create_future()
    if task.cancelled():
        found.cancel()
    elif (error := task.exception()) is not None:
        found.set_exception(error)
        found.exception()  # or asyncio logs it as never retrieved
    else:
        found.set_result(task.result())
    return found
