"""The MCP face: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those are `kernels`.
"""

from typing import TYPE_CHECKING

from .settings import Settings, load

if TYPE_CHECKING:
    from .app import App

__all__ = ["App", "Settings", "load"]


def __getattr__(name: str) -> object:
    """`App` when it is asked for: a process that is attached to another has no use for kernels."""
    if name != "App":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .app import App

    globals()[name] = App  # from now on it is here
    return App
