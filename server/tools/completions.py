"""Completions for the arguments of prompts and resources while a user types them.

Offers only what the caller may see. Knows where candidates come from, not what they are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Any

from fastmcp import FastMCP
from mcp_types import (
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from ...kernels import SessionNotFoundError, StoreError
from ..errors import PathNotAllowedError
from ..files import project_files as paths
from ..opening import Opening
from .caller import principal
from .caller_files import CallerFiles
from .resources import FILE, NOTEBOOK, PAGE, PYTHON_FILE, VARIABLE

SEARCHED = 20_000  # max files that are looked at
Reference = PromptReference | ResourceTemplateReference
Given = dict[str, str]  # the arguments filled in so far


class Completions:
    """The completion handler of one server."""

    def __init__(self, opening: Opening, files: CallerFiles) -> None:
        self._opening, self._projects = opening, files
        self._of: dict[tuple[str, str], Callable[[str, Given], Awaitable[list[str]]]] = {
            ("fix_script", "file_name"): partial(self._files, paths.PYTHON),
            ("explore_data", "path"): partial(self._files, paths.DATA),
            (FILE, "path"): self._paths,
            (PYTHON_FILE, "path"): partial(self._files, paths.PYTHON),
            (NOTEBOOK, "session_id"): self._session_ids,
            (PAGE, "session_id"): self._session_ids,
            (VARIABLE, "session_id"): self._session_ids,
            (VARIABLE, "name"): self._names,
        }

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the completion handler on `mcp`."""
        mcp.add_completion_handler(self.complete)

    async def complete(
        self, of: Reference, argument: CompletionArgument, context: CompletionContext | None
    ) -> list[str] | None:
        """Candidates for an argument, those that start with the typed text first."""
        name = of.name if isinstance(of, PromptReference) else of.uri
        if (find := self._of.get((name, argument.name))) is None:
            return None
        given = dict(context.arguments or {}) if context is not None else {}
        return await find(argument.value, given)

    async def _session_ids(self, typed: str, _: Given) -> list[str]:
        here = [session.id for session in self._opening.sessions.all(principal())]
        try:
            elsewhere = await self._opening.sessions.directory.elsewhere(principal())
            there = [session.id for session in elsewhere]
        except StoreError:  # completions may be incomplete
            there = []
        return matching(typed, here + there)

    async def _names(self, typed: str, given: Given) -> list[str]:
        try:
            session = self._opening.sessions.get(given.get("session_id", ""), principal())
        except SessionNotFoundError:
            return []
        return await session.complete(typed)

    async def _files(self, suffixes: frozenset[str], typed: str, _: Given) -> list[str]:
        files = self._projects.of_caller()
        try:
            found = await asyncio.to_thread(
                lambda: [name for name, _ in islice(files.walk(suffixes), SEARCHED)]
            )
        except PathNotAllowedError:
            return []
        return matching(typed, found)

    async def _paths(self, typed: str, _: Given) -> list[str]:
        files = self._projects.of_caller()
        try:
            found = await asyncio.to_thread(
                lambda: [path.as_posix() for path in islice(files.paths(), SEARCHED)]
            )
        except PathNotAllowedError:
            return []
        return matching(typed, found)


def matching(typed: str, candidates: list[str]) -> list[str]:
    """The candidates that contain the typed text, prefix matches first."""
    typed = typed.lower()
    found = [candidate for candidate in candidates if typed in candidate.lower()]
    return sorted(found, key=lambda candidate: not candidate.lower().startswith(typed))
