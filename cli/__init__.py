"""The command line: one table of all commands of `rmi-agent`, those of the client and the server.

Knows their names, texts and examples; each is imported when it is called, since it needs libraries
that the others do not.
"""

from .entry import app, main, server_main

__all__ = ["app", "main", "server_main"]
