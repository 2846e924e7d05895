"""The MCP side: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those belong to `kernels`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import App
    from .settings import Settings, load

__all__ = ["App", "Settings", "load"]


def __getattr__(name: str) -> object:
    """Import what is offered on first access: --help needs no settings, and few need `App`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(".app" if name == "App" else ".settings", __name__)
    found: object = getattr(module, name)
    globals()[name] = found  # later accesses skip this function
    return found
