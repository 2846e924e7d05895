"""Terminal output and error exits of commands."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import textwrap
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, TextIO

from .errors import BadSettings

OF_CLIENT = {"rmi-agent", "prune", "records"}  # and the modules that it starts for a command


def speak_plainly() -> None:
    """Show only our own output: silence libraries' logs and replace unencodable characters."""
    logging.disable(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # Windows consoles may lack ✓


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text at once, on stdout by default; a terminal's lines are broken between words."""
    stream = stream or sys.stdout
    if stream.isatty():
        width = max(20, shutil.get_terminal_size().columns)
        text = "\n".join(broken(line, width) for line in text.splitlines())
    print(text, file=stream, flush=True)


def broken(line: str, width: int) -> str:
    """A line in as many as it needs, the further ones indented as its text is."""
    mark = re.match(r"\s*(?:[✓✗-] )?", line)
    indent = " " * (mark.end() if mark is not None else 0)
    wrap = textwrap.TextWrapper(width, subsequent_indent=indent, drop_whitespace=True)
    wrap.break_long_words = wrap.break_on_hyphens = False
    return "\n".join(wrap.wrap(line))


def program() -> str:
    """The program that was typed; messages begin with its name."""
    return "rmi-agent" if Path(sys.argv[0]).stem in OF_CLIENT else "rmi-agent-mcp-server"


def die(error: BadSettings) -> NoReturn:
    """Print the error in one line and exit with 2, the usual code for bad usage."""
    say(f"{program()}: {error}", sys.stderr)
    raise SystemExit(2)
