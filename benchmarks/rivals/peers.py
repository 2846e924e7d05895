"""Other MCP servers that run Python in a session: how each is installed, started and called.

Knows their commands and tools; nothing about measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .environments import environment


@dataclass(frozen=True)
class Peer:
    """A server on stdio from a package.

    Attributes:
        package: its name in the registry.
        command: its console script and options.
        tool: the tool that executes `code` in a session that lasts.
    """

    package: str
    command: tuple[str, ...]
    tool: str

    async def install(self, environments: Path) -> list[str]:
        """The command that starts it, in an environment of its own.

        Raises:
            Skipped: it can't be installed.
        """
        folder = environments / self.package
        binaries = await environment(folder, self.package, "mcp<2")
        return [str(binaries / self.command[0]), *self.command[1:]]

    def version(self, environments: Path) -> str:
        """The installed version."""
        metadata = f"lib/python*/site-packages/{self.package}-*.dist-info"
        found = [path.stem for path in (environments / self.package).glob(metadata)]
        return found[0].partition("-")[2] if found else "of an unknown version"


PEERS = (
    Peer("ipybox", ("ipybox", "--log-level", "ERROR"), "execute_ipython_cell"),
    Peer("clikernel", ("clikernel-mcp",), "execute"),
)
