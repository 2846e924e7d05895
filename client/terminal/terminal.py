"""The terminal or pipe that we write to, and what it can show.

Knows streams and their escape sequences; nothing about runs, servers or keyboards.
"""

from __future__ import annotations

import os
import re
import sys
from typing import IO, TYPE_CHECKING, Literal

from ..plaintext import plain

if TYPE_CHECKING:
    from rich.text import Text

TRACEBACK = re.compile(r"^(?:Traceback \(most recent call last\):|-{70,})$", re.MULTILINE)

_shows_starting = False


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal; None stands for a stream that was closed at startup."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # the stream is closed
        return False


def is_dumb() -> bool:
    """Whether the terminal understands only plain text."""
    default = "" if os.name == "posix" else "windows"
    return os.environ.get("TERM", default) in ("", "dumb", "unknown")


def can_edit() -> bool:
    """Whether stdin and stdout are a terminal that can move its cursor."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout) and not is_dumb()


def show_starting() -> None:
    """Show `starting…` on a terminal until anything else is written: a start takes a second."""
    global _shows_starting
    if is_terminal(sys.stderr) and not is_dumb():
        is_unicode = (sys.stderr.encoding or "")[:3] == "utf"
        sys.stderr.write("starting…" if is_unicode else "starting...")
        sys.stderr.flush()
        _shows_starting = True


def erase_starting() -> None:
    """Erase `starting…` if it is shown."""
    global _shows_starting
    if _shows_starting:
        _shows_starting = False
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def write(name: str, text: str) -> None:
    """Write text to stdout or stderr, replacing unencodable characters, without escape sequences.

    Pipes are cleaned too, since they may end in a terminal or a model. Servers send plain text, so
    nothing is lost; a malicious cell or server can't set the clipboard.
    """
    if text:
        erase_starting()
    stream = sys.stderr if name == "stderr" else sys.stdout
    text = plain(text)
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
    stream.flush()


def write_traceback(text: str) -> None:
    """Write to stderr, colouring a traceback if the terminal has colours."""
    found = TRACEBACK.search(text)
    if found is None:
        write("stderr", text)
        return
    from rich.console import Console  # lazy: most runs need none

    console = Console(stderr=True)
    if not console.is_terminal or console.color_system is None:
        write("stderr", text)
        return
    erase_starting()
    write("stderr", text[: found.start()])
    rest = plain(text[found.start() :])
    try:
        console.print(
            colour(rest, "ipython" if rest[0] == "-" else "python"), end="", soft_wrap=True
        )
    except UnicodeEncodeError:
        write("stderr", rest)


def colour(text: str, traceback: Literal["ipython", "python"] | None = None) -> Text:
    """Highlight source, or an IPython or Python traceback, in the terminal's own colours."""
    from ipython_pygments_lexers import IPython3Lexer, IPythonTracebackLexer
    from pygments.lexers import PythonTracebackLexer
    from rich.syntax import Syntax  # lazy: only needed here

    lexers = {"ipython": IPythonTracebackLexer, "python": PythonTracebackLexer, None: IPython3Lexer}
    lexer = lexers[traceback](stripnl=False)
    coloured = Syntax("", lexer, theme="ansi_dark").highlight(text)
    coloured.rstrip()  # the highlighter may end with a newline of its own
    return coloured.append(text[len(text.rstrip()) :])
