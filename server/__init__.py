"""The MCP side: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those belong to `kernels`.
"""

from typing import TYPE_CHECKING

from .settings import Settings, load

if TYPE_CHECKING:
    from .app import App

__all__ = ["App", "Settings", "load"]


def __getattr__(name: str) -> object:
    """Import `App` on first access: a process attached to another server needs no kernels."""
    if name != "App":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .app import App

    globals()[name] = App  # later accesses skip this function
    return App
