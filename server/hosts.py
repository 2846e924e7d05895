"""The programs that start MCP servers: where each keeps its config, and what it takes there.

By their documentation. Knows no file's text, and nothing of this server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from .settings import claude_code_folder

HostName = Literal["claude-desktop", "claude-code", "cursor", "vscode"]


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        name: as the command line has it.
        title: as people know it.
        config: its config file, there or not.
        folder: what it makes when it starts, so that one sees that it is installed.
        section: the key of the object that has a member for each server.
        comments: whether its config may have comments and trailing commas.
        speaks_http: whether it takes URLs, or commands alone.
        typed: whether its entries say what they are, in `type`.
        asks: whether it asks for secrets by itself, by `inputs`, and keeps them out of the file.
        then: what makes it read its config.
    """

    name: HostName
    title: str
    config: Path
    folder: Path
    section: str = "mcpServers"
    comments: bool = False
    speaks_http: bool = True
    typed: bool = True
    asks: bool = False
    then: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it seems to be installed."""
        return self.folder.is_dir() or self.config.exists()


def hosts() -> tuple[Host, ...]:
    """All of them, by where this system and user keep their configs."""
    desktop, code = claude_desktop_folder(), config_folder("Code") / "User"
    cursor, cli = Path.home() / ".cursor", claude_code_folder()
    return (
        Host(
            "claude-desktop",
            "Claude Desktop",
            desktop / "claude_desktop_config.json",
            desktop,
            speaks_http=False,
            typed=False,
            then="Quit Claude Desktop wholly and start it again.",
        ),
        Host(
            "claude-code",
            "Claude Code",
            (cli or Path.home()) / ".claude.json",
            cli or Path.home() / ".claude",
            then="Start claude anew; there, /mcp shows its servers.",
        ),
        Host(
            "cursor",
            "Cursor",
            cursor / "mcp.json",
            cursor,
            comments=True,
            typed=False,
            then="Cursor reads it at once; in its settings, under MCP, switch it on.",
        ),
        Host(
            "vscode",
            "VS Code",
            code / "mcp.json",
            code,
            section="servers",
            comments=True,
            asks=True,
            then="In VS Code, start it by the command MCP: List Servers.",
        ),
    )


def host_of(name: HostName) -> Host:
    """The host of that name."""
    return next(host for host in hosts() if host.name == name)


def config_folder(program: str) -> Path:
    """Where this system keeps a program's config, roaming on Windows."""
    return platformdirs.user_config_path(program, appauthor=False, roaming=True)


def claude_desktop_folder() -> Path:
    """Claude Desktop's own folder.

    Packaged as MSIX, as Windows has it since 2026, it sees a folder of its package in place of
    %APPDATA% (anthropics/claude-code#26073).
    """
    if is_windows():
        packages = platformdirs.user_data_path(appauthor=False) / "Packages"
        for package in sorted(packages.glob("Claude_*")):
            return package / "LocalCache" / "Roaming" / "Claude"
    return config_folder("Claude")


def is_windows() -> bool:
    """Whether this is Windows."""
    return sys.platform == "win32"
