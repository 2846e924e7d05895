"""What a client can read without a tool: notebooks, files, what a kernel knows about a name.

Nothing here runs code or changes anything. `completions.py` completes the arguments.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastmcp import FastMCP
from fastmcp.resources import ResourceContent, ResourceResult, ResourceSecurity

from ...kernels import SessionNotFoundError
from ..errors import PathNotAllowedError
from ..files import Projects, project_files, text_page
from ..opening import Opening
from ..plaintext import plain
from ..plurals import counted
from ..refusals import Refusal
from ..settings import Settings
from .caller import failures_as_refusals, principal
from .caller_files import CallerFiles
from .notebook_pages import pages, whole_or_cut
from .results import AROUND

NOTEBOOK = "notebook://{session_id}"
PAGE = "notebook://{session_id}/{page}"
FILE = "file://{path*}"
PYTHON_FILE = "python-file://{path*}"
VARIABLE = "variable://{session_id}/{name}"
CONNECTION_FILE = "connection-file://{session_id}"


class Resources:
    """The resources of one server."""

    def __init__(self, settings: Settings, opening: Opening, files: CallerFiles) -> None:
        self._settings, self._opening, self._files = settings, opening, files

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the resources on `mcp`."""
        mcp.resource(NOTEBOOK, mime_type="application/x-ipynb+json")(self.notebook)
        mcp.resource(PAGE, mime_type="text/plain")(self.notebook_page)
        # Absolute paths are looked up as names are: inside the projects, or not at all.
        mcp.resource(
            FILE,
            mime_type=project_files.UNKNOWN_TYPE,
            security=ResourceSecurity(reject_absolute_paths=False),
        )(self.file)
        mcp.resource(PYTHON_FILE, mime_type="text/x-python")(self.python_file)
        mcp.resource(VARIABLE, mime_type="text/plain")(self.variable)
        mcp.resource(CONNECTION_FILE, mime_type="text/plain")(self.connection_file)

    async def notebook(self, session_id: str) -> str:
        """The notebook that records a session, in its current state.

        If it is too large for a result, its largest outputs are replaced by a line that says where
        they are, and its metadata has the number of `pages` that contain all of it.
        """
        with failures_as_refusals():
            text = await self._text(session_id)
            return await asyncio.to_thread(whole_or_cut, text, self._room, session_id)

    async def notebook_page(self, session_id: str, page: int) -> str:
        """One page, from 1, of the text of a notebook that is too large for a result."""
        with failures_as_refusals():
            text = await self._text(session_id)
            pieces = await asyncio.to_thread(pages, text, self._room)
            if not 1 <= page <= len(pieces):
                raise Refusal(
                    f"The notebook of session {session_id} has {counted(len(pieces), 'page')}."
                )
            return pieces[page - 1]

    @property
    def _room(self) -> int:
        return self._settings.result_size - AROUND

    async def _text(self, session_id: str) -> str:
        text = await self._opening.sessions.get(session_id, principal()).recorder.text()
        if text is None:
            raise SessionNotFoundError(
                f"Session {session_id} has no notebook yet; run a cell first."
            )
        return text

    async def file(self, path: str) -> ResourceResult:
        """A file of the projects, with its own MIME type: text if it is text, else its bytes."""
        files = self._files.of_caller()
        with failures_as_refusals():
            return ResourceResult([await asyncio.to_thread(whole_file, files, path)])

    async def python_file(self, path: str) -> str:
        """A Python file in the projects folder."""
        with failures_as_refusals():
            return await asyncio.to_thread(self._files.of_caller().read_text, path)

    async def variable(self, session_id: str, name: str) -> str:
        """What a session's kernel knows about a name: type, value, signature, documentation."""
        with failures_as_refusals():
            text = await self._opening.sessions.get(session_id, principal()).inspect(name)
        if not text:
            shown = project_files.format_name(name)
            raise Refusal(
                f"Session {session_id} has no name {shown}. Check the spelling, and"
                " that the session has defined it."
            )
        return plain(text)

    async def connection_file(self, session_id: str) -> str:
        """The path of a file with which Jupyter clients on the server's machine join a session.

        A person joins by `jupyter console --existing PATH`. What they run is not recorded.
        """
        from ..auth import ONE_USER  # lazy: servers on stdio start without it

        who = principal()
        with failures_as_refusals():
            session = self._opening.sessions.get(session_id, who)
            # Kernels of several users are reached through this server alone.
            if who not in ONE_USER:
                raise Refusal("Only the user of the server's machine can join sessions there.")
            return str(await session.connection_file())


def whole_file(files: Projects, path: str) -> ResourceContent:
    """A file's content with its MIME type.

    Raises:
        PathNotAllowedError: it can't be read, or is too large.
    """
    with files.opened(path) as (file, status):
        if status.size > project_files.MOST:
            raise PathNotAllowedError(
                f"Error: File is too large: {project_files.format_name(status.name)} has"
                f" {status.size:,} bytes; at most {project_files.MOST:,} are read whole. read_file"
                " reads pages of it."
            )
        kind = project_files.mime_type(status.name)
        page = text_page(file, 0, status.size, is_python=status.path.suffix == ".py")
        if page is None or "\ufffd" in page.text:  # only its beginning is text
            return ResourceContent(file.read(0, status.size), kind)
        is_known = kind != project_files.UNKNOWN_TYPE
        return ResourceContent(page.text, kind if is_known else "text/plain")
