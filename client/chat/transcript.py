"""A conversation as it is shown: the model's words as they come, its calls and their results.

Knows terminals and pipes; nothing of models or servers. Through a pipe the answer alone goes
to stdout, and all else to stderr.
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
from ..results import Picture
from ..terminal import colour, show_picture, write

SOURCES = ("code", "content")  # arguments that are Python
SOURCE_LINES = 20  # of a source that are shown
RESULT_LINES = 10  # of a result that are shown
ARGUMENT = 60  # characters of any other argument


class Transcript:
    """What is shown of a conversation, on stdout if that is a terminal."""

    def __init__(self) -> None:
        self._console = Console()
        self.on_terminal = self._console.is_terminal
        self._text = ""
        self._live: Live | None = None

    def thinking(self) -> None:
        """The model has been asked; nothing has come yet."""
        if self.on_terminal and not self._console.is_dumb_terminal and self._live is None:
            self._live = Live(
                Text("…", "dim"), console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def words(self, text: str) -> None:
        """More of what the model says."""
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
        """The model has said its say for now; `last`: it is the answer."""
        self.pause()
        text, self._text = self._text, ""
        if not text.strip():
            return
        if self.on_terminal:
            self._console.print(Markdown(text))
        else:
            write("stdout" if last else "stderr", text.rstrip("\n") + "\n")

    def call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """The model calls a tool."""
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
        """A tool has answered."""
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
        """Something about the conversation."""
        self.pause()
        write("stderr", line.rstrip("\n") + "\n")

    def _say(self, text: Text, indent: int = 0) -> None:
        if self.on_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent), expand=False))
        else:
            write("stderr", textwrap.indent(text.plain, " " * indent) + "\n")

    def pause(self) -> None:
        """Stop redrawing, for somebody else to write."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def settled(text: str) -> tuple[str, str]:
    """What of a growing Markdown text can't look different any more, and the rest of it."""
    end = text.rfind("\n\n")
    while end > 0 and text[:end].count("```") % 2:  # inside of a block of code
        end = text.rfind("\n\n", 0, end)
    return (text[: end + 2], text[end + 2 :]) if end > 0 else ("", text)


def first_lines(text: str, most: int) -> str:
    """The beginning of a text, with how much is left out."""
    lines = text.splitlines()
    if len(lines) <= most:
        return "\n".join(clipped(line, 500) for line in lines)
    more = f"… {len(lines) - most} more lines"
    return "\n".join([clipped(line, 500) for line in lines[:most]] + [more])


def clipped(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
