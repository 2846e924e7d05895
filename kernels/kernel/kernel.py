"""One kernel: starting it, having code run on it, forking it, ending it.

Exchanges Jupyter messages through jupyter_client. Knows nothing of sessions, notebooks or MCP; how
a cell runs and is stopped is known in `cell_run.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from ..errors import CannotFork, DeadKernelError, KernelStartError
from ..joined import JoinedKernel
from ..process import BranchProcess, Launch, SocketProcess, next_step
from ..process_tree import Listener, listeners
from ..protocol import OnQuestion, Outputs, Program, Question, Reply, Status
from .branching import check_branch, origin_of
from .cell_run import CellRun
from .exchange import Exchange
from .factory import ordinary_process, process_for
from .joining import get_joined
from .project_files import ProjectFiles
from .set_up import get_ready, is_ipykernel, unless_dead

ENTER = "__import__('os').chdir({folder!r})"
RUN_SCRIPT = "__import__('IPython').get_ipython()._rmi_agent_script()"


class Kernel:
    """A kernel. Use as `async with Kernel(launch) as kernel`.

    Attributes:
        info: the content of its `kernel_info_reply`.
        process: its process, local or remote.
        listened: the ports that its processes listened on when its last run was to be stopped.
        killed_since: why it was killed; empty if it was not.
        lost: what its origin has and it lacks, in a few words each, if it was forked from a kernel.
        shared: the files that both have open.
        not_formed: why it was not formed in a template and then forked; empty if it was, or if
            that was not tried.
    """

    def __init__(self, launch: Launch, context: zmq.asyncio.Context | None = None) -> None:
        self.launch = replace(launch, branch_of=None)  # else it keeps all its ancestors
        self.info: dict[str, Any] = {}
        self._context = context
        self.process = process_for(launch, context)
        self._exchange: Exchange | None = None
        self._run: CellRun | None = None  # the current one
        self._files: ProjectFiles | None = None  # for a kernel on another machine
        self.listened: Sequence[Listener] = ()
        self.killed_since = self.not_formed = ""
        self.lost: tuple[str, ...] = ()
        self.shared: tuple[str, ...] = ()

    # -- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the process and wait for its first answer.

        Raises:
            KernelStartError: there is no such kernelspec, the process ended, or it did not
                answer within `Launch.start_timeout`.
        """
        try:
            try:
                client = await self.process.start()
            except CannotFork as why:
                self.not_formed = str(why)
                self.process = ordinary_process(self.launch, self._context, self.not_formed)
                client = await self.process.start()
            client.start_channels(hb=False)
            self._exchange = Exchange(client, self.process, self.kill)
            async with asyncio.timeout(self.launch.start_timeout):
                if self.process.kernel_info is not None:  # its template has set it up
                    self.info = self.process.kernel_info
                else:
                    ready = (
                        get_joined(self.exchange, self.joined)
                        if self.joined is not None
                        else get_ready(self.exchange, self.process, self.launch)
                    )
                    self.info = await unless_dead(self.process, ready)
            if self.is_python and not self.process.is_here and self.joined is None:
                self._files = ProjectFiles(self.exchange, self.launch)
            self.process.raw.forget()
            if isinstance(self.process, BranchProcess) and not self.process.sleeps:
                await self.wake()
        except TimeoutError:
            await self.close(graceful=False)
            raise KernelStartError(
                f"The kernel did not answer within {self.launch.start_timeout:g} s, and nothing was"
                f" run. {next_step(self.launch)}"
            ) from None
        except DeadKernelError as error:
            words = self.process.last_words()
            await self.close(graceful=False)
            said = f" It had printed: {words[-2000:]}" if words else ""
            raise KernelStartError(
                "The kernel ended before it answered, and nothing was run."
                f" {next_step(self.launch)} {error}{said}"
            ) from error
        except BaseException:
            await self.close(graceful=False)
            raise

    def branch_launch(self, *, sleeps: bool = False, for_death: int = 0) -> Launch:
        """The launch of a kernel that is forked from this one, on which nothing runs until then.

        Args:
            sleeps: whether it does nothing until its `wake` is called.
            for_death: if it is kept for this one's death, max bytes that this one may use.

        Raises:
            CannotBranch: it is not one that can be forked.
        """
        origin = origin_of(self.process, self.exchange, self.not_formed)
        order = replace(origin, sleeps=sleeps, for_death=for_death)
        return replace(self.launch, branch_of=order)

    async def wake(self) -> None:
        """Let a kernel that was forked from another one go on, and check that it does.

        Raises:
            CannotBranch: it does not work as it should.
        """
        assert isinstance(self.process, BranchProcess)
        self.process.wake()
        await check_branch(self.process, self.exchange)
        self.lost, self.shared = self.process.lost, self.process.shared

    async def close(self, *, graceful: bool = True) -> None:
        """Close the channels and end the process; see `KernelProcess.close`."""
        if self._exchange is not None:
            self._exchange.client.stop_channels()
        await self.process.close(graceful=graceful)

    async def release(self) -> None:
        """Disconnect from a kernel on a Jupyter Server, leaving it running there."""
        if self._exchange is not None:
            self._exchange.client.stop_channels()
        if self.process.remote is not None:
            await self.process.release()

    async def alive(self) -> bool:
        """Whether the process is still running."""
        return await self.process.alive()

    @property
    def is_python(self) -> bool:
        """Whether it is an ipykernel, whatever its kernelspec, and so can run Python files."""
        return is_ipykernel(self.info)

    @property
    def joined(self) -> JoinedKernel | None:
        """The process, if it is that of a person's kernel."""
        return self.process if isinstance(self.process, JoinedKernel) else None

    @property
    def waits_for_others(self) -> bool:
        """Whether the run waits for other clients' cells in a person's kernel."""
        return self.joined is not None and self.joined.traffic.waits_for_others

    @property
    def outdated(self) -> bool | None:
        """Whether a fresh one would have more modules; None if it has all of its template's."""
        return self.process.outdated if isinstance(self.process, SocketProcess) else None

    @property
    def client(self) -> AsyncKernelClient:
        """The channels of a started kernel."""
        return self.exchange.client

    @property
    def exchange(self) -> Exchange:
        """The exchange of requests with a started kernel."""
        assert self._exchange is not None, "the kernel was not started"
        return self._exchange

    # -- running

    async def run_cell(
        self,
        code: str,
        outputs: Outputs,
        timeout: float | None = None,
        on_question: OnQuestion = Question.nobody,
    ) -> Reply:
        """Execute a cell.

        Args:
            code: its source.
            outputs: receives the cell's outputs.
            timeout: seconds until the cell is interrupted; None means no limit.
            on_question: called when the cell asks for input; the cell waits for the answer.
        """
        return await self._execute(code, {}, outputs, timeout, on_question)

    async def run_program(
        self,
        program: Program,
        outputs: Outputs,
        timeout: float | None = None,
        on_question: OnQuestion = Question.nobody,
    ) -> Reply:
        """Run a file or module as `python` would, in this kernel's `__main__`.

        `on_question` is called when it reads its input, if it `asks`, and by `getpass`.
        """
        return await self._execute(RUN_SCRIPT, program.request, outputs, timeout, on_question)

    async def enter(self, folder: Path) -> None:
        """Make a folder of this machine the working folder of a Python kernel.

        On another machine, the next cell enters the copy of the folder.

        Raises:
            DeadKernelError: the kernel ended.
            TimeoutError: it did not answer within `Launch.start_timeout`.
        """
        if self._files is not None:
            self._files.enter(folder)
        if not self.is_python or not self.process.is_here:
            return
        entering = self.exchange.run_ours(ENTER.format(folder=str(folder)), {})
        async with asyncio.timeout(self.launch.start_timeout):
            await unless_dead(self.process, entering)

    async def listeners(self) -> list[Listener]:
        """The ports that its processes listen on; none of a kernel on another machine."""
        family = self.process.family
        return await asyncio.to_thread(listeners, family) if family is not None else []

    async def complete(self, code: str) -> list[str]:
        """Completions of `code`, as whole texts, by Jupyter's `complete_request`.

        Only while nothing is running; empty if the kernel does not answer within `LOOKUP_TIMEOUT`.
        """
        found = await self.exchange.look_up(self.client.complete(code))
        start, matches = found.get("cursor_start", len(code)), found.get("matches", ())
        if not isinstance(start, int) or not isinstance(matches, list):  # malformed by user code
            return []
        return [code[:start] + match for match in matches if isinstance(match, str)]

    async def inspect(self, name: str) -> str:
        """What the kernel says about a name, by Jupyter's `inspect_request`, with colours.

        Only while nothing is running; empty if the name is unknown or no answer comes within
        `LOOKUP_TIMEOUT`.
        """
        found = await self.exchange.look_up(self.client.inspect(name))
        data = found.get("data")
        return str(data.get("text/plain", "")) if isinstance(data, dict) else ""

    def interrupt(
        self, why: str = "interrupted", status: Status = "interrupted", *, patient: bool = False
    ) -> bool:
        """Stop the current run, as a timeout does; False if there is none to stop.

        A `patient` caller gives the code as long as it takes to end after one interrupt.
        """
        return self._run is not None and self._run.interrupt(why, status, patient=patient)

    async def kill(self, why: str) -> None:
        """End the process at once; the reply of the current run says `why`."""
        if self.joined is not None:
            return self.joined.let_go(why)
        self.killed_since = why
        await self.process.kill()

    async def _execute(
        self,
        code: str,
        request: dict[str, Any],
        outputs: Outputs,
        timeout: float | None,
        on_question: OnQuestion,
    ) -> Reply:
        self.listened = ()
        self._run = run = CellRun(self, self._files, outputs, timeout, on_question)
        try:
            return await run.run(code, request)
        finally:
            self._run, self.listened = None, run.listened
