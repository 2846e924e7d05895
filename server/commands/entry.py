"""The entry point: with arguments the parser is imported, without them the server alone."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Serve on stdio, or do what the command line says."""
    if len(sys.argv) > 1:
        from .serve import app

        app()
    else:
        from .run_server import run_server

        try:
            run_server()
        except KeyboardInterrupt:  # before it listens to signals
            sys.exit(128 + signal.SIGINT)
