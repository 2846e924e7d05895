"""`read_output`, as a model sees it: pages of a run's text, its pictures, and the wait for its end.

Knows runs in memory and on record; starts none.
"""

from __future__ import annotations

from typing import Annotated

from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .arguments import CellNumber, OpenSession
from .background import about
from .caller import failures_as_refusals, principal
from .following import Follower, finished
from .notebook_tool import NotebookTool
from .results import PAGE, Budget, page_of_run, picture_result, running_page


class OutputTool:
    """The tool that reads the output of runs."""

    def __init__(
        self, settings: Settings, opening: Opening, follower: Follower, notebooks: NotebookTool
    ) -> None:
        self._settings, self._opening, self._follower = settings, opening, follower
        self._notebooks = notebooks

    async def read_output(
        self,
        ctx: Context,
        session_id: OpenSession,
        cell: CellNumber = -1,
        offset: Annotated[int, Field(ge=0, description="Characters to skip.")] = 0,
        limit: Annotated[
            int, Field(gt=0, le=200_000, description="Max characters to return.")
        ] = PAGE,
        wait: Annotated[
            float,
            Field(
                ge=0,
                description="Max seconds to wait for an unfinished run; 0 returns at once.",
            ),
        ] = 0,
        picture: Annotated[
            int | None,
            Field(
                ge=1, le=1_000_000, description="Number of a picture in the cell: returns it alone."
            ),
        ] = None,
    ) -> ToolResult:
        """Read a run's full text output in pages, a picture, or wait for an unfinished run.

        Use it when a result was truncated (it gives the offset) and you need what is marked as
        left out, when pictures were left out, or when its status was `running`: returns the
        current status, and the output from `offset` on.
        """
        budget = Budget(limit, self._settings.result_size)
        with failures_as_refusals():
            self._follower.answered_run(ctx)
            if cell == -1 and not offset and picture is None:
                notebook = await self._notebooks.read_report(ctx, session_id, wait, budget)
                if notebook is not None:
                    return notebook
            execution = self._opening.sessions.execution(session_id, cell, principal())
            if execution is None:
                run = await self._opening.sessions.on_record(session_id, cell, principal())
                if run is None:
                    raise Refusal(
                        f"Session {session_id} has no cell {cell}. Cells are numbered from 1, and"
                        " -1 is the last one; list_sessions shows how many there are."
                    )
                if picture is not None:
                    return await picture_result(run, picture, budget, self._follower.texts)
                return await page_of_run(run, offset, budget, self._follower.texts)
            seconds = min(wait, self._settings.response_deadline)
            if wait and (question := await self._follower.wait(execution, ctx, seconds)):
                return question
            if not execution.task.done():
                more = []
                if execution.in_background:
                    session = self._opening.sessions.get(session_id, principal())
                    more = about(execution, session, await session.listeners())
                return await running_page(execution, offset, budget, self._follower.texts, more)
            finished(execution)
            run = execution.task.result()
            if picture is not None:
                return await picture_result(run, picture, budget, self._follower.texts)
            written = await self._follower.written.of(execution, ctx)
            texts = self._follower.texts
            return await page_of_run(run, offset, budget, texts, execution, written)
