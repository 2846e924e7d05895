"""The MCP face: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those are `kernels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import Settings, load

if TYPE_CHECKING:
    from .app import App

__all__ = ["App", "Settings", "load"]


def __getattr__(name: str) -> Any:
    """`App` when it is asked for: a process that is attached to another has no use for kernels."""
    if name == "App":
        from .app import App

        return App
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
