"""`run_notebook`: runs an existing notebook of the projects folder, cell by cell, in a session.

Finds and reads the file, and reports how far it came. Knows files and results;
`kernels/session/notebook_run.py` runs the cells.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from pydantic import BeforeValidator, Field

from ...kernels import language_of
from ..files import Projects
from ..middleware import has_more_values
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .arguments import CHANGES, SessionId, json_object
from .caller import failures_as_refusals, principal
from .caller_files import CallerFiles
from .environment_choice import AUTO, DEFAULT, EnvironmentChoice, EnvironmentName
from .following import Follower
from .notebook_report import NOTEBOOK_SCHEMA, Pictures, report
from .results import Budget

if TYPE_CHECKING:
    from ...kernels import Environment, NotebookRun, Session, Steps

MOST = 50_000_000  # max bytes of a notebook: its outputs may have pictures
MOST_VALUES = 1_000_000  # max JSON values of a notebook: parsing them blocks others for 0.3 s


class NotebookTool:
    """The tool that runs notebooks.

    Args:
        settings: the server's settings.
        opening: gives the sessions.
        files: gives the caller's files.
        follower: follows the cells.
        session: gives the session for another run, as `RunTools.session`.
        environments: chooses the environment of a fresh session.
    """

    def __init__(
        self,
        settings: Settings,
        opening: Opening,
        files: CallerFiles,
        follower: Follower,
        session: Callable[..., AbstractAsyncContextManager[Session]],
        environments: EnvironmentChoice,
    ) -> None:
        self._settings, self._opening, self._files = settings, opening, files
        self._follower = follower
        self._session, self._environments = session, environments
        self._pictures = Pictures(follower.texts.worker)

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tool on `mcp`."""
        mcp.tool(self.run_notebook, output_schema=NOTEBOOK_SCHEMA, annotations=CHANGES)

    async def run_notebook(
        self,
        ctx: Context,
        path: Annotated[
            str, Field(description="An .ipynb file, relative to the projects folder: 'a/b.ipynb'.")
        ],
        session_id: SessionId = None,
        parameters: Annotated[
            dict[str, Any],
            BeforeValidator(json_object),
            Field(
                description="Variables to set, by name, after the cell tagged `parameters`, or"
                " before the first cell if there is none (papermill's convention)."
            ),
        ] = {},  # noqa: B006 (pydantic copies it; the schema shows an object)
        until: Annotated[
            int | None,
            Field(
                ge=1,
                description="The last cell to run, counted from 1 over all cells of the file,"
                " Markdown too. All cells if omitted.",
            ),
        ] = None,
        timeout: Annotated[
            float, Field(gt=0, le=604_800, description="Max seconds for all cells together.")
        ] = 600.0,
        environment: EnvironmentName = None,
    ) -> ToolResult:
        """Run a notebook (.ipynb) of the projects folder, cell by cell, in its own folder.

        Returns a short report: how many cells ran, the first error, which cells have pictures.
        read_output with a cell's number returns its output; run_cell with the session_id goes on
        with the notebook's variables, also after an error. It stops at the first error, except in
        cells tagged `raises-exception`; cells tagged `skip-execution` do not run. The file stays
        as it is: the executed notebook is the session's.
        """
        with failures_as_refusals():
            run = self._follower.answered_run(ctx)
            if run is not None and (series := self._of(run.session_id)) is not None:
                return await self._followed(series, ctx)
            source = await asyncio.to_thread(read_notebook, self._files.of_caller(), path)
            keep_ids = session_id is None  # else its record may have them
            steps = await asyncio.to_thread(read_steps, source, parameters, until, keep_ids)
            kernel = self._kernel_name(session_id, environment)
            await asyncio.to_thread(check_language, steps, source.name, kernel)
            choose = self._environment(environment, ctx, source)
            async with self._session(session_id, environment, choose) as session:
                started = self._start(session, source, steps, parameters, timeout)
            return await self._followed(started, ctx)

    async def read_report(
        self, ctx: Context, session_id: str, wait: float, budget: Budget
    ) -> ToolResult | None:
        """The report on the notebook that is running, or was the last to run, in a session.

        None if there is none, or something else has run there since. Waits up to `wait` seconds
        for the notebook's end.
        """
        series = self._of(session_id)
        if series is None or not series.is_latest:
            return None
        return await self._followed(series, ctx, wait, budget)

    def _start(
        self,
        session: Session,
        source: NotebookFile,
        steps: Steps,
        parameters: dict[str, Any],
        timeout: float,
    ) -> NotebookRun:
        from ...kernels import NotebookRun  # lazy: imported after `initialize` is answered

        series = NotebookRun(
            session,
            source.name,
            source.path.parent,
            steps,
            parameters,
            timeout,
            self._pictures.count,
        )
        self._follower.written.watch_series(series)
        return series

    def _environment(
        self, wanted: str | None, ctx: Context, source: NotebookFile
    ) -> Callable[[], Awaitable[Environment | None]]:
        """Chooses the environment of a fresh session, as for a module that runs in the folder."""
        from ...kernels import Module  # lazy: imported after `initialize` is answered

        like = Module(source.name, source.path.parent)
        return functools.partial(self._environments.choose, wanted, ctx, like)

    def _kernel_name(self, session_id: str | None, environment: str | None) -> str:
        """The kernelspec that a notebook would run on, or the environment with a Python."""
        if session_id:
            chosen = self._opening.sessions.get(session_id, principal()).environment
            environment = chosen.name if chosen is not None else None
        if environment and environment not in (AUTO, DEFAULT):
            return environment
        return self._settings.kernel_name

    def _of(self, session_id: str) -> NotebookRun | None:
        """The notebook that runs in an open session of the caller, or was the last to run."""
        from ...kernels import NotebookRun

        session = self._opening.sessions.by_id.get(session_id)
        if session is None or session.principal != principal():
            return None
        return session.series if isinstance(session.series, NotebookRun) else None

    async def _followed(
        self,
        series: NotebookRun,
        ctx: Context,
        wait: float | None = None,
        budget: Budget | None = None,
    ) -> ToolResult:
        """Wait for a notebook, and report on it.

        Args:
            series: the notebook.
            ctx: of the call.
            wait: max seconds; None if the call has started the notebook, and so may cancel it.
            budget: what the result may have.
        """
        settings = self._settings
        seconds = min(
            settings.response_deadline if wait is None else wait, settings.response_deadline
        )
        if question := await self._follower.follow_series(series, ctx, seconds, owns=wait is None):
            return question
        if series.task.done():
            series.task.result()  # our own errors must not go unseen
        budget = budget or Budget(settings.output_chars, settings.result_size)
        written = await self._follower.written.of(series, ctx)
        return await report(series, budget, self._follower.texts, self._pictures, written)


@dataclass(frozen=True)
class NotebookFile:
    """A notebook's file that was read: its real path, its name for the caller, its bytes."""

    path: Path
    name: str
    source: bytes


def read_notebook(projects: Projects, name: str) -> NotebookFile:
    """Read a notebook's file; the bytes may be anything.

    Raises:
        PathNotAllowedError: it can't be read.
        Refusal: it is not `.ipynb`, or too large.
    """
    with projects.opened(name) as (file, status):
        called = plain_name(status.name)
        if status.path.suffix != ".ipynb":
            raise Refusal(
                f"Error: Notebook must have .ipynb extension: {called}. Use run_python for Python"
                " files."
            )
        source = file.read(0, MOST + 1) if status.size <= MOST else b""
        if (size := max(status.size, len(source))) > MOST:
            raise Refusal(
                f"Error: Notebook is too large: {called} has {size:,} bytes; at most {MOST:,} are"
                " read. Clear its outputs first (jupyter nbconvert --clear-output)."
            )
        return NotebookFile(status.path, called, source)


def check_language(steps: Steps, name: str, kernel: str) -> None:
    """Check that a kernel runs the language of a notebook.

    Raises:
        Refusal: it does not.
    """
    ours = language_of(kernel)
    if steps.language and steps.language != ours:
        raise Refusal(
            f"Error: {name} is a notebook in {steps.language}, and the kernels run"
            f" {ours} (RMI_AGENT_KERNEL_NAME). Nothing was run; environment names another"
            " kernelspec."
        )


def plain_name(name: str) -> str:
    """A file's name that can't forge a line."""
    return name if name.isprintable() else repr(name)


def read_steps(
    source: NotebookFile, parameters: dict[str, Any], until: int | None, keep_ids: bool
) -> Steps:
    """Read what is to be run of a notebook.

    Raises:
        Refusal: it can't be run like this.
    """
    from ...kernels import steps_of

    name = source.name
    if has_more_values(source.source, MOST_VALUES):
        raise Refusal(
            f"Error: {name} has more than {MOST_VALUES:,} JSON values, too many to run here. Clear"
            " its outputs first (jupyter nbconvert --clear-output)."
        )
    try:
        steps = steps_of(
            source.source.decode("utf-8-sig", "replace"), parameters, until, keep_ids=keep_ids
        )
    except ValueError as error:
        raise Refusal(f"Error: {name} can't be run: {error}. Nothing was run.") from None
    if not steps.to_run:
        where = f" up to its cell {until}" if until is not None else ""
        raise Refusal(f"Error: {name} has no code cells to run{where}.")
    return steps
