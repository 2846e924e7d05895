"""What a client can read without a tool: notebooks, files, what a kernel knows about a name.

Nothing here runs code or changes anything. `completions.py` completes the arguments.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastmcp import FastMCP

from ...kernels import SessionNotFoundError
from ..files import project_files as paths
from ..opening import Opening
from ..plaintext import plain
from ..refusals import Refusal
from ..settings import Settings
from .caller import failures_as_refusals, principal

NOTEBOOK = "notebook://{session_id}"
FILE = "python-file://{path*}"
VARIABLE = "variable://{session_id}/{name}"


class Resources:
    """The resources of one server."""

    def __init__(self, settings: Settings, opening: Opening) -> None:
        self._settings, self._opening = settings, opening

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the resources on `mcp`."""
        mcp.resource(NOTEBOOK, mime_type="application/x-ipynb+json")(self.notebook)
        mcp.resource(FILE, mime_type="text/x-python")(self.python_file)
        mcp.resource(VARIABLE, mime_type="text/plain")(self.variable)

    async def notebook(self, session_id: str) -> str:
        """The notebook that records a session, in its current state."""
        with failures_as_refusals():
            text = await self._opening.sessions.get(session_id, principal()).recorder.text()
            if text is None:
                raise SessionNotFoundError(
                    f"Session {session_id} has no notebook yet; run a cell first."
                )
        return text

    async def python_file(self, path: str) -> str:
        """A Python file in the projects folder."""
        with failures_as_refusals():
            return await asyncio.to_thread(paths.read_text, self._settings.projects, path)

    async def variable(self, session_id: str, name: str) -> str:
        """What a session's kernel knows about a name: type, value, signature, documentation."""
        with failures_as_refusals():
            text = await self._opening.sessions.get(session_id, principal()).inspect(name)
        if not text:
            raise Refusal(
                f"Session {session_id} has no name {paths.shown(name)}. Check the spelling, and"
                " that the session has defined it."
            )
        return plain(text)
