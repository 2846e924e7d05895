"""The terminal or pipe that we write to, and what it can show.

Knows streams and their escape sequences; nothing about runs, servers or keyboards.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import IO, TYPE_CHECKING, Literal, TextIO

from ..plaintext import plain

if TYPE_CHECKING:
    from rich.text import Text

TRACEBACK = re.compile(r"^(?:Traceback \(most recent call last\):|-{70,})$", re.MULTILINE)
BROKEN_PIPE = 141  # exit code of a program that SIGPIPE has ended

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
        sys.stderr.write("starting…" if is_unicode(sys.stderr) else "starting...")
        sys.stderr.flush()
        _shows_starting = True


def erase_starting() -> None:
    """Erase `starting…` if it is shown."""
    global _shows_starting
    if _shows_starting:
        _shows_starting = False
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can show any character."""
    return (stream.encoding or "").lower().startswith("utf")


def encodable(text: str, stream: TextIO) -> str:
    """The text with what the stream can't encode replaced by question marks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def write(name: str, text: str) -> None:
    """Write text to stdout or stderr, replacing unencodable characters, without escape sequences.

    Pipes are cleaned too, since they may end in a terminal or a model. Servers send plain text, so
    nothing is lost; a malicious cell or server can't set the clipboard.
    """
    if text:
        erase_starting()
    put(sys.stderr if name == "stderr" else sys.stdout, plain(text))


def put(stream: TextIO, text: str) -> None:
    """Write text to a stream at once, or end this process if it can't be written."""
    try:
        stream.write(encodable(text, stream))
        stream.flush()
    except OSError as error:
        # At once, since what calls us may be a task of a library, and Python would try to write
        # the rest at its exit. A server of our own ends when its stdin does.
        if not isinstance(error, BrokenPipeError):
            os.write(2, f"The output can't be written: {error.strerror}.\n".encode())
        os._exit(BROKEN_PIPE if isinstance(error, BrokenPipeError) else 1)


def write_message(text: str, name: str = "stderr") -> None:
    """Write lines of ours on stderr or stdout, broken between words if that is a terminal."""
    if is_terminal(sys.stderr if name == "stderr" else sys.stdout):
        width = max(20, shutil.get_terminal_size().columns)
        lines = [
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
            for line in text.splitlines()
        ]
        text = "\n".join(part for parts in lines for part in parts)
    write(name, f"{text}\n")


def write_text(text: Text, name: str = "stdout", end: str = "\n", *, wraps: bool = False) -> None:
    """Write styled text to stdout or stderr, without its style in a pipe.

    Args:
        text: without escape sequences: `plain` has to remove them before.
        name: `stdout` or `stderr`.
        end: what follows it.
        wraps: whether a terminal's lines are broken between words.
    """
    from rich.console import Console  # lazy: most runs need none

    console = Console(stderr=name == "stderr")
    if not console.is_terminal or console.is_dumb_terminal:
        write(name, text.plain + end)
        return
    erase_starting()
    with console.capture() as captured:
        console.print(text, end=end, soft_wrap=not wraps, highlight=False)
    put(sys.stderr if name == "stderr" else sys.stdout, captured.get())


def write_traceback(text: str, name: str = "stderr") -> None:
    """Write to stderr or stdout, colouring a traceback if the terminal has colours."""
    found = TRACEBACK.search(text)
    if found is None:
        write(name, text)
        return
    from rich.console import Console  # lazy: most runs need none

    console = Console(stderr=name == "stderr")
    if not console.is_terminal or console.color_system is None:
        write(name, text)
        return
    write(name, text[: found.start()])
    rest = plain(text[found.start() :])
    write_text(colour(rest, "ipython" if rest[0] == "-" else "python"), name, end="")


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
