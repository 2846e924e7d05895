"""The command line: the commands of `rmi-agent-mcp-server`.

Each is imported when it is called, since servers don't need the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import imports

if TYPE_CHECKING:
    from .entry import main
    from .serve import app

__all__ = [
    "app",
    "main",
]

__getattr__ = imports(__name__, {"entry": ("main",), "serve": ("app",)})
