"""Spares the server's start the slowest part of its imports: a parser that it never uses.

nbformat imports jsonschema, and jsonschema imports rfc3987_syntax where that is installed, as
jupyter_server installs it: the parser that it generates at import costs 1 to 4 s of CPU. It checks
IRIs, and notebooks have none.
"""

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
