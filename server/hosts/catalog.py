"""The programs that start MCP servers: where each keeps its config and what it accepts there.

Taken from their documentation. Reads no file and knows nothing about this server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from platformdirs.unix import Unix

from ..settings import claude_code_folder, codex_folder
from .config_file import Format
from .shape import Shape

HostName = Literal[
    "claude-desktop",
    "claude-code",
    "codex",
    "cursor",
    "gemini",
    "goose",
    "vscode",
    "windsurf",
    "zed",
]
USUAL = Shape()
TYPED = Shape(types=("stdio", "http", "sse"))
# Codex waits ten seconds for a server, in which a package is not always downloaded.
CODEX = Shape(headers="http_headers", sse_url=None, defaults={"startup_timeout_sec": 60})
GEMINI = Shape(url="httpUrl")
WINDSURF = Shape(url="serverUrl", sse_url="serverUrl")
GOOSE = Shape(
    command="cmd",
    env="envs",
    url="uri",
    sse_url=None,
    types=("stdio", "streamable_http"),
    named=True,
    defaults={"description": "Runs Python on Jupyter kernels", "enabled": True, "timeout": 300},
)


@dataclass(frozen=True)
class Host:
    """A program that starts MCP servers.

    Attributes:
        name: its name on our command line.
        title: its name for people.
        config: its config file, which may not exist.
        folder: the folder it creates at startup, which shows that it is installed.
        section: the key of the object that holds the entries.
        format: the language of its config; `jsonc` has comments and trailing commas.
        speaks_http: whether an entry may be a URL rather than only a command.
        shape: the keys of its entries.
        asks: whether it prompts for secrets through `inputs` and keeps them out of the file.
        then: tells the user how to make it reload its config.
    """

    name: str
    title: str
    config: Path
    folder: Path
    section: str = "mcpServers"
    format: Format = "json"
    speaks_http: bool = True
    shape: Shape = USUAL
    asks: bool = False
    then: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the host seems to be installed."""
        return self.folder.is_dir() or self.config.exists()


def hosts() -> tuple[Host, ...]:
    """All hosts, with the locations of this user's configs on this system."""
    home, desktop, code = Path.home(), claude_desktop_folder(), config_folder("Code") / "User"
    cli, codex = claude_code_folder(), codex_folder() or home / ".codex"
    windsurf = home / ".codeium" / "windsurf"
    zed, goose = dot_config("zed", "Zed"), dot_config("goose", "Block", "goose", "config")
    return (
        Host(
            "claude-desktop",
            "Claude Desktop",
            desktop / "claude_desktop_config.json",
            desktop,
            speaks_http=False,
            then="Quit Claude Desktop completely and start it again.",
        ),
        Host(
            "claude-code",
            "Claude Code",
            (cli or home) / ".claude.json",
            cli or home / ".claude",
            shape=TYPED,
            then="Start claude again; /mcp shows its servers there.",
        ),
        Host(
            "codex",
            "Codex",
            codex / "config.toml",
            codex,
            section="mcp_servers",
            format="toml",
            shape=CODEX,
            then="Start codex again; /mcp shows its servers there.",
        ),
        Host(
            "cursor",
            "Cursor",
            home / ".cursor" / "mcp.json",
            home / ".cursor",
            format="jsonc",
            then="Switch it on in Cursor's settings, under MCP.",
        ),
        Host(
            "gemini",
            "Gemini CLI",
            home / ".gemini" / "settings.json",
            home / ".gemini",
            format="jsonc",
            shape=GEMINI,
            then="Start gemini again; /mcp shows its servers there.",
        ),
        Host(
            "goose",
            "Goose",
            goose / "config.yaml",
            goose,
            section="extensions",
            format="yaml",
            shape=GOOSE,
            then="Start a new Goose session.",
        ),
        Host(
            "vscode",
            "VS Code",
            code / "mcp.json",
            code,
            section="servers",
            format="jsonc",
            shape=TYPED,
            asks=True,
            then="In VS Code, start it with the command MCP: List Servers.",
        ),
        Host(
            "windsurf",
            "Windsurf",
            windsurf / "mcp_config.json",
            windsurf,
            format="jsonc",
            shape=WINDSURF,
            then="In Windsurf, refresh the servers in Cascade's settings.",
        ),
        Host(
            "zed",
            "Zed",
            zed / "settings.json",
            zed,
            section="context_servers",
            format="jsonc",
            then="In Zed, the settings of the Agent Panel show it with a green dot.",
        ),
    )


def any_host() -> Host:
    """A host that is not known, as most document their config."""
    return Host("", "Any other host", Path("mcp.json"), Path())


def host_of(name: HostName) -> Host:
    """The host with the given name."""
    return next(host for host in hosts() if host.name == name)


def config_folder(program: str) -> Path:
    """Where a program's config is stored on this system; the roaming folder on Windows."""
    return platformdirs.user_config_path(program, appauthor=False, roaming=True)


def dot_config(unix: str, *windows: str) -> Path:
    """The config folder of a program that uses ~/.config on macOS, too.

    Args:
        unix: the folder's name there.
        windows: the names of the folders below the roaming folder on Windows.
    """
    if is_windows():
        return config_folder(windows[0]).joinpath(*windows[1:])
    return Path(Unix(unix, appauthor=False).user_config_dir)


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
