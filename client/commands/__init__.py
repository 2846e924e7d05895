"""The commands by which a person runs code on a server; `cli/` names and parses them.

Each is imported when it is called, since it needs libraries that the others do not.
"""

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from .connect import call

__all__ = ["call"]

# `rmi-agent --help` connects to nothing.
__getattr__ = lazy.imports(__name__, {"connect": ("call",)})
