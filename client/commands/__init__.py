"""The commands by which a person runs code on a server; `cli/` names and parses them.

Each is imported when it is called, since it needs libraries that the others do not.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connect import call

__all__ = ["call"]


def __getattr__(name: str) -> object:
    """Import `call` on first access: `rmi-agent --help` connects to nothing."""
    if name != "call":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .connect import call

    globals()[name] = call  # later accesses skip this function
    return call
