"""Shows a conversation: the model's words as they arrive, its tool calls and their results.

Knows terminals and pipes; nothing about models or servers. In a pipe, only the answer goes to
stdout, and everything else to stderr.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from ..plaintext import plain
from ..plurals import counted
from ..results import Picture
from ..terminal import colour, erase_starting, show_picture, write

SOURCES = ("code", "content")  # arguments that are Python source
SOURCE_LINES = 20  # max lines shown of a source
RESULT_LINES = 10  # max lines shown of a result
ARGUMENT = 60  # max characters shown of any other argument


class Transcript:
    """Shows a conversation; on stdout if that is a terminal."""

    def __init__(self) -> None:
        self._console = Console()
        self.on_terminal = self._console.is_terminal
        self._text = ""
        self._live: Live | None = None

    def thinking(self) -> None:
        """Show that the model has been asked and has not answered yet."""
        erase_starting()
        if self.on_terminal and not self._console.is_dumb_terminal and self._live is None:
            self._live = Live(
                Text("…", "dim"), console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def words(self, text: str) -> None:
        """Show more of the model's text."""
        self._text += plain(text)
        if self.on_terminal:
            done, self._text = settled(self._text)
            if done.strip():
                self.pause()
                self._console.print(Markdown(done))
            self.thinking()
            if self._live is not None:
                self._live.update(Markdown(self._text))

    def end_of_words(self, last: bool) -> None:
        """Finish the model's current text; `last` means that it is the answer."""
        self.pause()
        text, self._text = self._text, ""
        if not text.strip():
            return
        if self.on_terminal:
            self._console.print(Markdown(text))
        else:
            write("stdout" if last else "stderr", text.rstrip("\n") + "\n")

    def call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Show a tool call by the model."""
        self.end_of_words(last=False)
        short = ", ".join(
            f"{name}={clipped(repr(value), ARGUMENT)}"
            for name, value in arguments.items()
            if name not in SOURCES or not isinstance(value, str)
        )
        self._say(Text.assemble((f"> {plain(tool)}", "bold"), f"({plain(short)})"))
        for name in SOURCES:
            if isinstance(source := arguments.get(name), str):
                shown = first_lines(plain(source), SOURCE_LINES)
                self._say(colour(shown), indent=4)

    def result(
        self, tool: str, text: str, facts: Mapping[str, Any], pictures: list[Picture]
    ) -> None:
        """Show a tool's result."""
        self.pause()
        status = facts.get("status")
        took = f", {facts['elapsed']:.1f} s" if facts.get("elapsed") is not None else ""
        style = "green" if status in (None, "ok", "running") else "red"
        self._say(Text(plain(f"< {tool}: {status or 'done'}{took}"), style))
        lines = [line for line in text.splitlines() if not line.startswith("[session_id:")]
        if shown := first_lines(plain("\n".join(lines)).strip("\n"), RESULT_LINES):
            self._say(Text(shown, "dim"), indent=4)
        for picture in pictures:
            show_picture(picture)

    def say(self, line: str) -> None:
        """Print a line about the conversation on stderr."""
        self.pause()
        write("stderr", line.rstrip("\n") + "\n")

    def _say(self, text: Text, indent: int = 0) -> None:
        if self.on_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent), expand=False))
        else:
            write("stderr", textwrap.indent(text.plain, " " * indent) + "\n")

    def pause(self) -> None:
        """Stop redrawing, so that something else can be written."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def settled(text: str) -> tuple[str, str]:
    """Split a growing Markdown text into the part whose rendering is final, and the rest."""
    end = text.rfind("\n\n")
    while end > 0 and text[:end].count("```") % 2:  # inside a code block
        end = text.rfind("\n\n", 0, end)
    return (text[: end + 2], text[end + 2 :]) if end > 0 else ("", text)


def first_lines(text: str, most: int) -> str:
    """The first `most` lines of a text, and how many more there are."""
    lines = text.splitlines()
    if len(lines) <= most:
        return "\n".join(clipped(line, 500) for line in lines)
    more = f"… {counted(len(lines) - most, 'more line')}"
    return "\n".join([clipped(line, 500) for line in lines[:most]] + [more])


def clipped(text: str, most: int) -> str:
    """Truncate a text to at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
