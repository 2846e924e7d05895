"""What commands say in a terminal, and how they end."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from typing import NoReturn

from .errors import BadSettings


def speak_plainly() -> None:
    """Silence libraries' logs and encode what a console lacks, so that only our words show."""
    logging.disable(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # consoles of Windows may have no ✓


def die(error: BadSettings) -> NoReturn:
    """Say the one line and exit with 2, as command lines do for bad usage."""
    print(f"rmi-agent-mcp-server: {error}", file=sys.stderr)
    raise SystemExit(2)
