"""Pages of the documentation that show calls of tools, and the calls that must answer the same."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import ImageContent, TextContent

from tests.server.conftest import server_env

DOCS = Path(__file__).parents[2] / "docs"
HOME = "/home/ada/projects"  # what the pages call the projects folder
NO_REGISTRY = re.compile(r"error sending request|Failed to fetch|dns error", re.IGNORECASE)


@dataclass
class Transcript:
    """Calls of tools and what they have answered, as a page shows them."""

    client: Client
    say: Callable[[str], object]

    async def call(self, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """Call a tool; returns the text of its result, and the facts."""
        result = await self.client.call_tool(tool, arguments)
        text = "\n".join(filter(None, map(shown, result.content)))
        given = ", ".join(f"{name}={literal(value)}" for name, value in arguments.items())
        answer = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
        self.say(f"{tool}({given})\n{answer}\n")
        if NO_REGISTRY.search(text):
            pytest.skip("there is no package registry")
        return text, dict(result.structured_content or {})


def shown(block: object) -> str:
    """A block of a result as text; nothing for links, whose files the text names, too."""
    if isinstance(block, TextContent):
        return block.text
    return "[a picture]" if isinstance(block, ImageContent) else ""


def literal(value: object) -> str:
    """A value as Python would write it; with line breaks, if it has any."""
    if isinstance(value, str) and "\n" in value:
        quotes = '"""' if '"""' not in value else "'''"
        return f"{quotes}\\\n{value}{quotes}"
    return repr(value) if isinstance(value, str) and '"' in value else json.dumps(value)


async def transcript_of(
    story: Callable[[Transcript], Awaitable[None]],
    projects: Path,
    tier: str,
    say: Callable[[str], object],
) -> None:
    """Say a transcript, call by call, over stdio with the SDK's own client."""
    env = server_env(projects, RMI_AGENT_SANDBOX=tier)
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "rmi_agent.server.cli"], env=env
    )
    failure: BaseException | None = None
    async with Client(server) as client:
        try:
            await story(Transcript(client, lambda part: say(part.replace(str(projects), HOME))))
        except Exception as error:  # outside of the client it is not part of a group
            failure = error
    if failure is not None:
        raise failure


def masked(text: str) -> str:
    """A transcript without what differs each time: versions, times, sizes and ids."""
    text = re.sub(r"(session_id[:=] ?\"?|[Ss]ession |fork of )[\w-]{16}", r"\1ID", text)
    return re.sub(r"\d+", "0", text)


def not_said(page: Path, parts: list[str]) -> str:
    """The first block of a page that a transcript lacks, if there is one.

    The page has the same words in the same order, shortened only where it has an ellipsis.
    """
    text, at = masked("\n".join(parts)), 0
    for block in re.findall(r"^```\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        pattern = ".*?".join(map(re.escape, masked(block).split("…")))
        if (found := re.compile(pattern, re.DOTALL).search(text, at)) is None:
            return str(block)
        at = found.end()
    return ""


def print_transcript(story: Callable[[Transcript], Awaitable[None]]) -> None:
    """Print the transcript of a story, in the sandbox that is named as an argument."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "projects")
        home.mkdir()
        os.environ.setdefault("RMI_AGENT_KERNEL_PRELOAD", "")
        asyncio.run(transcript_of(story, home, (sys.argv[1:] or ["bwrap"])[0], print))
