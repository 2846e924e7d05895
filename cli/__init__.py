"""The command line: one table of all commands of `rmi-agent`, those of the client and the server.

Knows their names, texts and examples; each is imported when it is called, since it needs libraries
that the others do not. So is the parser, which a server that a host starts does not need.
"""

from typing import TYPE_CHECKING

from .server_entry import server_main

if TYPE_CHECKING:
    from .entry import app, main

__all__ = ["app", "main", "server_main"]


def __getattr__(name: str) -> object:
    """Import what `rmi-agent` is on first access."""
    if name not in ("app", "main"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import entry

    return getattr(entry, name)
