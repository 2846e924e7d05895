"""Terminal output and error exits of commands."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from typing import NoReturn

from .errors import BadSettings


def speak_plainly() -> None:
    """Show only our own output: silence libraries' logs and replace unencodable characters."""
    logging.disable(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # Windows consoles may lack ✓


def die(error: BadSettings) -> NoReturn:
    """Print the error in one line and exit with 2, the usual code for bad usage."""
    print(f"rmi-agent-mcp-server: {error}", file=sys.stderr)
    raise SystemExit(2)
