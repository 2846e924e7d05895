"""`resume_session`: reruns a recorded notebook so that its session can continue from there.

Finds a notebook that the caller may read, and reports which outputs differ from the record.
Knows files and texts; `kernels/session/rerun.py` runs and compares the cells.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from mcp_types import TextContent
from pydantic import Field

from ...kernels import SessionNotFoundError, encodable
from ..files import safe_open
from ..middleware import has_more_values
from ..opening import Opening
from ..plaintext import plain
from ..plurals import counted
from ..refusals import Refusal
from ..settings import Settings
from .arguments import CHANGES, NotebookText
from .caller import failures_as_refusals, may_read, principal
from .environment_choice import EnvironmentChoice
from .following import Follower
from .own_lines import SESSION

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ...kernels import Again, Resume, Run

MOST = 200_000_000  # max bytes of a notebook
MOST_SHOWN = 20  # max cells whose differences are shown
MOST_VALUES = 1_000_000  # max JSON values of a notebook in a call: parsing blocks others for 0.3 s


class ResumeTool:
    """The `resume_session` tool of one server."""

    def __init__(
        self,
        settings: Settings,
        opening: Opening,
        follower: Follower,
        environments: EnvironmentChoice,
    ) -> None:
        self._settings, self._opening, self._follower = settings, opening, follower
        self._environments = environments

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tool on `mcp`."""
        mcp.tool(self.resume_session, annotations=CHANGES)

    async def resume_session(
        self,
        ctx: Context,
        notebook: Annotated[
            str,
            Field(
                description="A recorded notebook: its file name or path from a result, or the"
                " session_id of a closed session. The session_id of a session that is still being"
                " resumed waits for the rest."
            ),
        ],
        until: Annotated[
            int | None, Field(ge=1, description="The last cell to run; all cells if omitted.")
        ] = None,
        skip_failed: Annotated[
            bool, Field(description="Skip cells that failed or timed out in the record.")
        ] = False,
        timeout: Annotated[
            float, Field(gt=0, le=604_800, description="Max seconds for all cells together.")
        ] = 600.0,
        content: NotebookText = "",
    ) -> ToolResult:
        """Restore a closed session: rerun a recorded notebook's cells in a fresh session.

        Use it when a session has ended (the server restarted, or it idled too long) and you need
        its variables again, or to check whether a record still gives the same outputs. The code's
        side effects happen again. Reports which outputs differ from the record; the new session
        can be used like any other.
        """
        with failures_as_refusals():
            answered = self._follower.answered_run(ctx)
            resume = self._resume_of(answered.session_id if answered is not None else notebook)
            if resume is None:
                resume = await self._begin(ctx, notebook, content, until, skip_failed, timeout)
            deadline = self._settings.response_deadline
            question = await self._follower.follow_series(resume, ctx, deadline, owns=True)
            if question is not None:
                return question
            if resume.task.done():
                resume.task.result()  # our own errors must not go unseen
        return report(resume)

    def _resume_of(self, session_id: str) -> Resume | None:
        """An open session's resume, running or completed; None if there is none."""
        from ...kernels import Resume  # lazy: imported after `initialize` is answered

        for session in self._opening.sessions.all(principal()):
            if session.id == session_id and isinstance(session.series, Resume):
                return session.series
        return None

    async def _begin(
        self,
        ctx: Context,
        named: str,
        content: str,
        until: int | None,
        skip_failed: bool,
        timeout: float,
    ) -> Resume:
        if content:
            name, text = Path(named).name or "notebook", content
            await asyncio.to_thread(check_values, text, name)
        else:
            path = self._path(named)
            name, text = path.name, await asyncio.to_thread(self._text, path)
        metadata, cells, undone = await asyncio.to_thread(parse_notebook, text, name)
        if not content and not may_read(metadata):
            raise unknown(named)
        if until is not None:
            cells = [one for one in cells if one.number <= until]
            undone = [number for number in undone if number <= until]
        if not cells:
            raise Refusal(f"{name} has no code cells to run.")
        from ...kernels import Resume  # lazy: imported after `initialize` is answered

        environment = await self._environments.recorded(ctx, metadata, cells)
        session = await self._opening.sessions.open(principal(), name, environment)
        for run in cells:
            put_in_place(run, self._settings.projects)
        return Resume(session, cells, undone, skip_failed=skip_failed, timeout=timeout)

    def _path(self, named: str) -> Path:
        """The path of the notebook that a name or session id refers to; it may not exist.

        Raises:
            Refusal: the name can't be a notebook's, or nothing ran in the session.
        """
        try:
            recorded_in = self._opening.sessions.known(named, principal()).notebook
        except SessionNotFoundError:
            name = Path(named).name
            if not name or "\0" in name or name != encodable(name):
                raise unknown(named) from None
            return self._settings.notebooks / (name if name.endswith(".ipynb") else f"{name}.ipynb")
        if recorded_in is None:
            raise Refusal(f"No code ran in session {named}, so there is nothing to resume.")
        return recorded_in

    def _text(self, path: Path) -> str:
        try:
            root = Path(os.path.realpath(self._settings.notebooks))
            with os.fdopen(safe_open.open_file(root, root / path.name), "rb") as file:
                data = file.read(MOST + 1)
        except OSError:
            raise unknown(path.name) from None
        if len(data) > MOST:
            raise Refusal(f"{path.name} is larger than {MOST:,} bytes, the limit for resuming.")
        return data.decode("utf-8", "replace")


def unknown(named: str) -> Refusal:
    """The same refusal for a notebook that does not exist and for somebody else's."""
    return Refusal(
        f"No notebook {Path(named).name!r} is recorded here. Use the file name of a notebook that a"
        " result gave."
    )


def check_values(text: str, name: str) -> None:
    """Limit a notebook's JSON values: other calls wait while they are parsed.

    Raises:
        Refusal: the text has too many.
    """
    if has_more_values(text.encode("utf-8", "replace"), MOST_VALUES):
        raise Refusal(
            f"{name} has more than {MOST_VALUES:,} JSON values, too many for one call."
            " Clear its outputs, or put it into the notebooks folder and pass its name instead."
        )


def parse_notebook(text: str, name: str) -> tuple[NotebookNode, list[Run], list[int]]:
    """A notebook's metadata, its runs, and the numbers of those that are undone.

    Raises:
        Refusal: the text is not a notebook.
    """
    import nbformat  # lazy: imported after `initialize` is answered

    from ...kernels import recorded, undone_in

    try:
        notebook: NotebookNode = nbformat.reads(text, as_version=4)
        return notebook.metadata, list(recorded(notebook)), undone_in(notebook)
    except (
        nbformat.ValidationError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Refusal(f"{name} can't be read as a notebook: {str(error)[:200]}") from None


def put_in_place(run: Run, projects: Path) -> None:
    """Move a program to `projects` if its folder does not exist, as in another machine's record."""
    from ...kernels import Script  # lazy: imported after `initialize` is answered

    program, record = run.program, run.cell.metadata.get("rmi_agent", {})
    if isinstance(program, Script) and not program.path.parent.is_dir():
        record.path = str(projects / program.path.name)
    if program is not None and program.cwd is not None and not program.cwd.is_dir():
        record.cwd = str(projects)


def report(resume: Resume) -> ToolResult:
    """The outcome of a resume, as text and as structured facts."""
    session, ran, total = resume.session, resume.done, resume.total
    different = resume.different
    goes_on = not resume.task.done()
    parent = session.recorder.metadata["rmi_agent"]["parent"]
    lines = [
        f"Session {session.id} resumes {parent}: {ran} of {total} cells were rerun,"
        f" {ran - len(different)} of them with the recorded outputs."
    ]
    for again in different[:MOST_SHOWN]:
        lines += described(again)
    if len(different) > MOST_SHOWN:
        lines.append(f"Also different: {counted(len(different) - MOST_SHOWN, 'more cell')}.")
    left_out = {
        "Skipped because they had failed": [one.number for one in resume.skipped],
        "Skipped because they had run in the background": [
            one.number for one in resume.in_background
        ],
        "Left out because they are undone": resume.undone,
    }
    for why, numbers in left_out.items():
        if numbers:
            lines.append(f"{why}: {', '.join(map(str, numbers))}.")
    if resume.stopped:
        lines.append(
            f"It stopped early: {resume.stopped}. The session has the state reached by then."
        )
    if goes_on:
        lines.append(f"Still running: resume_session(notebook={session.id!r}) waits for the rest.")
    said = [*map(plain, lines), f"{SESSION}{session.id}, cells: {session.count}]"]
    state = "running" if goes_on else "stopped" if resume.stopped else "ended"
    facts: dict[str, Any] = {
        "session_id": session.id,
        "status": state,
        "parent": parent,
        "notebook": str(session.recorder.path) if session.recorder.path else None,
        "ran": ran,
        "total": total,
        "skipped": [number for numbers in left_out.values() for number in numbers],
        "different": [
            {"cell": again.before.number, "what": [found.what for found in again.differences]}
            for again in different
        ],
    }
    return ToolResult(
        content=[TextContent(type="text", text="\n".join(said))], structured_content=facts
    )


def described(again: Again) -> list[str]:
    """A cell's differences: recorded lines with -, new lines with +."""
    lines = [f"Cell {again.before.number} differs; recorded lines have -, new lines +:"]
    for found in again.differences:
        lines += [f"  {found.what}:", *(f"    {line}" for line in found.lines)]
    return lines
