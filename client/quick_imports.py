"""Spares the client the slowest part of its imports, a parser, and collections of garbage.

mcp validates results by jsonschema, which imports rfc3987_syntax where that is installed, as
jupyter_server installs it: the parser that it generates at import costs 1 to 4 s of CPU. It checks
IRIs, and results have none. The server, which shares no code with its clients, has the same.
"""

import gc
import importlib
import sys

GRAMMAR = "rfc3987_syntax"


def import_jsonschema() -> None:
    """Import jsonschema without the check of IRIs, in this process only."""
    if GRAMMAR not in sys.modules:
        sys.modules[GRAMMAR] = None  # type: ignore[assignment]  # what makes an import of it fail
        try:
            importlib.import_module("jsonschema")
        finally:
            del sys.modules[GRAMMAR]


def pause_gc() -> None:
    """Collect no garbage while a start imports modules, which makes none: a sixth of its time."""
    gc.disable()


def resume_gc() -> None:
    """Collect garbage from now on, but leave out imported modules, which stay."""
    gc.freeze()
    gc.enable()
