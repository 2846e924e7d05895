"""The MCP face: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those are `kernels`.
"""

from .app import App
from .settings import Settings, load

__all__ = ["App", "Settings", "load"]
