"""The command line: what each command of `rmi-agent-mcp-server` does.

Each is imported when it is called, since servers have no use for the others.
"""

from .serve import app, main

__all__ = [
    "app",
    "main",
]
