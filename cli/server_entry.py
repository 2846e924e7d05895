"""The entry point of `rmi-agent-mcp-server`, which hosts start without arguments.

Its own commands are in the server.
"""

from __future__ import annotations

import importlib
import sys


def server_main() -> None:
    """Serve on stdio, or do what the command line says."""
    from .table import COMMANDS, SERVER

    server = importlib.import_module(SERVER.rstrip("."))  # as the table does: by name
    if words := sys.argv[1:]:
        from .words import misplaced, refuse

        why = misplaced(words, "rmi-agent-mcp-server", [*server.app], COMMANDS)
        if why is not None:
            refuse(why)
    server.main()
