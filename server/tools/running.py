"""The tools that run code, as a model sees them: what each is for, and what it needs.

Turns arguments into calls on sessions, and runs into results. An error in the user's code is
a normal result; a failure of ours is a `ToolError` that says what to do next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ...kernels import LOCAL
from ..files import Projects, run_folder
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from ..views import Worker
from .arguments import CHANGES, READS, Cwd, FileToRun, Module, SessionId, Timeout
from .at_terminal import at_terminal
from .background import Background
from .caller import failures_as_refusals, in_time, principal
from .caller_files import CallerFiles
from .environment_choice import EnvironmentChoice, EnvironmentName, default_environment
from .following import Follower
from .notebook_tool import NotebookTool
from .output_tool import OutputTool
from .run_facts import RUN_SCHEMA
from .written import WrittenFiles

if TYPE_CHECKING:
    from ...kernels import Environment, Execution, Listener, Program, Series, Session

RUNS_PER_USER = 32  # max running and queued runs per user over HTTP


class RunTools:
    """The tools that run code and read its output."""

    def __init__(
        self,
        settings: Settings,
        opening: Opening,
        worker: Worker,
        files: CallerFiles,
        environments: EnvironmentChoice,
        written: WrittenFiles,
    ) -> None:
        self.settings, self.opening, self.files = settings, opening, files
        self._environments = environments
        # Callbacks for each accepted run.
        self.on_run: list[Callable[[Execution], None]] = [written.watch]
        self._starting: Counter[str] = Counter()  # by principal: runs without a session yet
        self.follower = Follower(settings, opening, worker, written)
        self._background = Background(settings, opening, self.follower)
        self._notebooks = NotebookTool(
            settings, opening, files, self.follower, self.session, environments
        )
        self._output = OutputTool(settings, opening, self.follower, self._notebooks)

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.run_python, output_schema=RUN_SCHEMA, annotations=CHANGES)
        mcp.tool(self.run_cell, output_schema=RUN_SCHEMA, annotations=CHANGES)
        self._notebooks.add_to(mcp)
        mcp.tool(self._output.read_output, output_schema=RUN_SCHEMA, annotations=READS)

    # -- running

    async def run_python(
        self,
        ctx: Context,
        file_name: FileToRun = None,
        args: Annotated[list[str], Field(description="Command-line arguments: sys.argv[1:].")] = [],  # noqa: B006 (pydantic copies it; the schema shows a list)
        stdin: Annotated[
            str, Field(description="Text that input() and sys.stdin read: 'Ada\\n42\\n'.")
        ] = "",
        session_id: SessionId = None,
        timeout: Timeout = None,
        module: Module = None,
        cwd: Cwd = None,
        environment: EnvironmentName = None,
        background: Annotated[
            bool,
            Field(
                description="For a server or another program that goes on: returns when it listens"
                " or has printed something, with its ports. It ends with its session."
            ),
        ] = False,
    ) -> ToolResult:
        """Run a Python file from the projects folder, like `python FILE ARGS` in its own folder,
        or a module, like `python -m MODULE ARGS`: module='pytest' runs a project's tests.

        Returns stdout, stderr, the exit code and plots. Use it for files that exist there
        (list_python_files lists them, write_python_file creates one); use run_cell for code that
        is not in a file. Each call runs in a fresh session unless session_id is given. The
        session stays open afterwards, even if the file failed: run_cell with the returned
        session_id can inspect its globals and, through sys.last_traceback, the locals of the
        failing frames (with pytest, of the last failing test). A backslash before a line that
        looks like one of the server's own (`--- stderr ---`, `[Process exited …]`,
        `[rmi-agent: …]`) means that the code printed it.
        """
        with failures_as_refusals():
            if (run := self.follower.answered_run(ctx)) is not None:
                return await self.follower.follow(run, ctx)
            place = self._background.place() if background else contextlib.nullcontext()
            before: list[Listener] = []
            person = at_terminal(ctx)
            with place:
                program = await asyncio.to_thread(
                    program_of, self.files.of_caller(), file_name, module, cwd, args, stdin
                )
                program = replace(program, asks=person.stdin)
                choose = functools.partial(self._environments.choose, environment, ctx, program)
                async with self.session(session_id, environment, choose) as session:
                    if session.kernel is not None and not session.kernel.is_python:
                        raise Refusal(
                            "Error: run_python needs a Python kernel (ipykernel), and this"
                            f" server's kernel is {self.settings.kernel_name!r}. Use run_cell."
                        )
                    if background:
                        before = await self._background.before(session)
                        timeout = timeout or 0  # no limit
                    limit = person.limit(timeout)
                    execution = session.submit_program(program, limit, background=background)
            self._announced(execution)
            if background:
                return await self._background.follow(execution, session, ctx, before)
            return await self.follower.follow(execution, ctx)

    async def run_cell(
        self,
        ctx: Context,
        code: Annotated[str, Field(description="Python code, one or more lines, as in a cell.")],
        session_id: SessionId = None,
        timeout: Timeout = None,
        environment: EnvironmentName = None,
        checkpoint: Annotated[
            bool,
            Field(
                description="Keeps the state from before this cell: restore_session with its number"
                " goes back. The last 3 are kept."
            ),
        ] = False,
    ) -> ToolResult:
        """Run a snippet in a Jupyter session; variables and imports persist between calls.

        Pass the session_id of an earlier result to continue there; omit it to start fresh. The
        last expression's value is returned without print, matplotlib figures are returned as
        images, and `await`, %magics and !shell commands work; %pip install is for all sessions.
        If it times out, it is interrupted and the session keeps its variables. A backslash before
        a line that looks like one of the server's own (`--- stderr ---`, `[session_id: …`,
        `[rmi-agent: …]`) means that the code printed it.
        """
        with failures_as_refusals():
            if (run := self.follower.answered_run(ctx)) is not None:
                return await self.follower.follow(run, ctx)
            choose = functools.partial(self._environments.choose, environment, ctx)
            async with self.session(session_id, environment, choose) as session:
                person = at_terminal(ctx)
                execution = session.submit_cell(
                    code,
                    person.limit(timeout),
                    checkpoint="needed" if checkpoint else person.checkpoint,
                )
            return await self.follower.follow(self._announced(execution), ctx)

    @contextlib.asynccontextmanager
    async def session(
        self,
        session_id: str | None,
        environment: str | None = None,
        choose: Callable[[], Awaitable[Environment | None]] = default_environment,
    ) -> AsyncIterator[Session]:
        """The session for another run, if its owner may start one.

        Args:
            session_id: the session; if None, a fresh one is opened.
            environment: what the caller names.
            choose: chooses the environment of a fresh session.

        Raises:
            Refusal: the owner has too many runs, the session is occupied by others, or no kernel
                is ready in time.
            SessionNotFoundError: there is no such session that the caller may see.
            KernelError: there is no kernel for a new session.
        """
        who = principal()
        runs = self._starting[who] + len(self.opening.sessions.unfinished(who))
        if who != LOCAL and runs >= RUNS_PER_USER:
            raise Refusal(
                f"Error: {RUNS_PER_USER} of your runs are running or queued, which is the limit, so"
                " nothing was run. Try again when one has ended: read_output with wait waits for"
                " it, interrupt_session stops it."
            )
        self._starting[who] += 1
        try:
            if session_id:
                session = self.opening.sessions.get(session_id, who)
                refuse_if_occupied(session)
                self._environments.check(session, environment)
                yield session
            else:
                chosen = await choose()
                step = "Nothing was run; call again."
                if chosen is not None:
                    step += f" If that fails, too, {chosen.name} needs to be corrected."
                async with in_time(self.settings, "No kernel was ready", step):
                    session = await self.opening.sessions.open(who, environment=chosen)
                yield session
        finally:
            self._starting[who] -= 1

    def _announced(self, execution: Execution) -> Execution:
        for callback in self.on_run:
            callback(execution)
        return execution


def refuse_if_occupied(session: Session) -> None:
    """Refuse another run in a session with a program or the cells of a notebook.

    Raises:
        Refusal: says which, and how to wait for it or stop it.
    """
    if (program := session.background) is not None:
        raise Refusal(
            f"Session {session.id} runs {program.title} in the background: nothing else can run in"
            " it meanwhile. Omit session_id for another session; interrupt_session stops the"
            " program."
        )
    if (series := session.series) is not None and session.in_series:
        raise Refusal(
            f"Session {session.id} is still {series.doing}: nothing else can run in it meanwhile."
            f" {waits_for(series)} waits for it, interrupt_session stops it."
        )


def waits_for(series: Series) -> str:
    """The call that waits for a series of cells."""
    from ...kernels import Resume

    if isinstance(series, Resume):
        return f"resume_session(notebook={series.session.id!r})"
    return f"read_output(session_id={series.session.id!r}, wait=40)"


def program_of(
    projects: Projects,
    file_name: str | None,
    module: str | None,
    cwd: str | None,
    args: list[str],
    stdin: str,
) -> Program:
    """What `run_python` is to run, by its arguments.

    Raises:
        Refusal: there is not exactly one of file and module, or an argument is invalid.
        PathNotAllowedError: the file or the folder can't be used.
    """
    from ...kernels import Module, Script  # lazy: imported after `initialize` is answered

    if bool(file_name) == bool(module):
        raise Refusal("Error: Give either file_name or module: exactly one of them is run.")
    if any("\0" in text for text in (module or "", *args)):
        raise Refusal("Error: An argument contains a NUL character; remove it.")
    if module:
        return Module(module, run_folder(projects, cwd or "."), tuple(args), stdin)
    file = projects.read_python(str(file_name))
    folder = run_folder(projects, cwd, file.path) if cwd else None
    return Script(file.path, file.source, tuple(args), stdin, cwd=folder)
