"""The MCP side: settings, transports, tools, and runs as MCP content.

Knows no ZMQ and no notebook files; those belong to `kernels`.
"""

from typing import TYPE_CHECKING

from . import lazy

if TYPE_CHECKING:
    from .app import App
    from .settings import Settings, load

__all__ = ["App", "Settings", "load"]

# --help needs no settings, and few programs need `App`.
__getattr__ = lazy.imports(__name__, {"app": ("App",), "settings": ("Settings", "load")})
