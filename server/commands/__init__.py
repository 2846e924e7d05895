"""The command line: the commands of `rmi-agent-mcp-server`.

Each is imported when it is called, since servers don't need the others.
"""

from .serve import app, main

__all__ = [
    "app",
    "main",
]
