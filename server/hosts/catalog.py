"""The programs that start MCP servers: where each keeps its config and what it accepts there.

Taken from their documentation. Reads no file and knows nothing about this server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from ..settings import claude_code_folder

HostName = Literal["claude-desktop", "claude-code", "cursor", "vscode"]


@dataclass(frozen=True)
class Host:
    """A program that starts MCP servers.

    Attributes:
        name: its name on our command line.
        title: its name for people.
        config: its config file, which may not exist.
        folder: the folder it creates at startup, which shows that it is installed.
        section: the key of the object that holds the entries.
        comments: whether its config may have comments and trailing commas.
        speaks_http: whether an entry may be a URL rather than only a command.
        typed: whether its entries have a `type`.
        asks: whether it prompts for secrets through `inputs` and keeps them out of the file.
        then: tells the user how to make it reload its config.
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
        """Whether the host seems to be installed."""
        return self.folder.is_dir() or self.config.exists()


def hosts() -> tuple[Host, ...]:
    """All hosts, with the locations of this user's configs on this system."""
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
            then="Quit Claude Desktop completely and start it again.",
        ),
        Host(
            "claude-code",
            "Claude Code",
            (cli or Path.home()) / ".claude.json",
            cli or Path.home() / ".claude",
            then="Start claude again; /mcp shows its servers there.",
        ),
        Host(
            "cursor",
            "Cursor",
            cursor / "mcp.json",
            cursor,
            comments=True,
            typed=False,
            then="Switch it on in Cursor's settings, under MCP.",
        ),
        Host(
            "vscode",
            "VS Code",
            code / "mcp.json",
            code,
            section="servers",
            comments=True,
            asks=True,
            then="In VS Code, start it with the command MCP: List Servers.",
        ),
    )


def host_of(name: HostName) -> Host:
    """The host with the given name."""
    return next(host for host in hosts() if host.name == name)


def config_folder(program: str) -> Path:
    """Where a program's config is stored on this system; the roaming folder on Windows."""
    return platformdirs.user_config_path(program, appauthor=False, roaming=True)


def claude_desktop_folder() -> Path:
    """Claude Desktop's config folder.

    The MSIX package, common on Windows since 2026, sees its own folder instead of %APPDATA%
    (anthropics/claude-code#26073).
    """
    if is_windows():
        packages = platformdirs.user_data_path(appauthor=False) / "Packages"
        for package in sorted(packages.glob("Claude_*")):
            return package / "LocalCache" / "Roaming" / "Claude"
    return config_folder("Claude")


def is_windows() -> bool:
    """Whether we run on Windows; a function so that tests can replace it."""
    return sys.platform == "win32"
