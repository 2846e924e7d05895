"""The terminal or pipe in front of us: what it can show, and writing to it.

Knows streams and their escape sequences; nothing of runs, servers or keyboards.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import IO, Literal

from rich.console import Console
from rich.text import Text

from ..plaintext import plain

TRACEBACK = re.compile(r"^(?:Traceback \(most recent call last\):|-{70,})$", re.MULTILINE)


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether somebody looks at a stream, or types into it; None is one closed from the start."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def is_dumb(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal understands nothing but text."""
    default = "" if os.name == "posix" else "windows"
    return environ.get("TERM", default) in ("", "dumb", "unknown")


def can_edit() -> bool:
    """Whether somebody sits at a terminal that can move its cursor."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout) and not is_dumb()


def write(name: str, text: str) -> None:
    """Write to stdout or stderr, whatever it can encode, and nothing that a terminal obeys.

    Through a pipe, too: what reads it may be a terminal in the end, or a model. What servers send
    is plain, so nothing is lost; a cell or a server that means ill can't set the clipboard.
    """
    stream = sys.stderr if name == "stderr" else sys.stdout
    text = plain(text)
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
    stream.flush()


def write_traceback(text: str) -> None:
    """Write to stderr, with a traceback in it coloured where there are colours."""
    found = TRACEBACK.search(text)
    console = Console(stderr=True)
    if found is None or not console.is_terminal or console.color_system is None:
        write("stderr", text)
        return
    write("stderr", text[: found.start()])
    rest = plain(text[found.start() :])
    try:
        console.print(
            colour(rest, "ipython" if rest[0] == "-" else "python"), end="", soft_wrap=True
        )
    except UnicodeEncodeError:
        write("stderr", rest)


def colour(text: str, traceback: Literal["ipython", "python"] | None = None) -> Text:
    """Source, or a traceback as IPython or Python has it, in the terminal's own colours."""
    from ipython_pygments_lexers import IPython3Lexer, IPythonTracebackLexer
    from pygments.lexers import PythonTracebackLexer
    from rich.syntax import Syntax  # these only where they are needed

    lexers = {"ipython": IPythonTracebackLexer, "python": PythonTracebackLexer, None: IPython3Lexer}
    lexer = lexers[traceback](stripnl=False)
    coloured = Syntax("", lexer, theme="ansi_dark").highlight(text)
    coloured.rstrip()  # the highlighter may end with a newline of its own
    return coloured.append(text[len(text.rstrip()) :])
