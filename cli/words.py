"""The words of a command line before they are parsed: which belong to a program that is run, and
which were meant for another command.

Knows commands by their names only.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

# Options of `run` without a value.
FLAGS = {"--help", "-h", "--version", "-V", "--quiet", "-q", "--no-sandbox"}
ENDING = {"--help", "-h", "--version", "-V"}  # that leave nothing else to do
PROGRAMS = (".py", ".ipynb")
# What people type for a command that has another name.
MEANT = {
    "console": "repl",
    "exec": "cell",
    "help": "--help",
    "http": "serve",
    "list": "sessions",
    "logs": "status",
    "ls": "sessions",
    "ps": "sessions",
    "python": "run",
    "server": "serve",
    "shell": "repl",
    "test": "check",
}


def separated(words: list[str]) -> list[str]:
    """A command line with `--` before the words that belong to a program that is run."""
    if words[:1] != ["run"]:
        return words
    place = 1
    while place < len(words):
        word = words[place]
        if word == "--" or word in ENDING:
            return words
        if word[:2] == "-m" and word != "-m":
            return [*words[:place], "-m", word[2:], "--", *words[place + 1 :]]
        if word in ("-m", "--module"):
            return [*words[: place + 2], "--", *words[place + 2 :]]
        if word.startswith("--module="):
            return [*words[: place + 1], "--", *words[place + 1 :]]
        if word == "-" or not word.startswith("-"):
            return [*words[:place], "--", *words[place:]]
        has_value = "=" in word or word in FLAGS or (word[1] != "-" and len(word) > 2)
        place += 1 if has_value else 2
    return words


def misplaced(
    words: list[str], program: str, own: Collection[str], commands: Collection[str]
) -> str | None:
    """What to say of a command line that does not begin with a command; None if it does.

    Args:
        words: the command line.
        program: the program that was called.
        own: its commands.
        commands: those of `rmi-agent`.
    """
    word, rest = (words or [""])[0], words[1:]
    if not word or word in own or word == "__complete":
        return None
    if word.startswith("-"):
        return None
    if word in commands:
        return f"{word} is a command of rmi-agent: {line('rmi-agent', *words)}"
    if word.endswith(PROGRAMS) or Path(word).is_file():
        return (
            f"{program} has no command {word!r}. To run the file: {line('rmi-agent run', *words)}"
        )
    if (meant := MEANT.get(word)) is None:
        close = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
        meant = close[0] if close else None
    if meant is None:
        return f"{program} has no command {word!r}. Its commands are in: {program} --help"
    owner = program if meant in own else "rmi-agent"
    return f"{program} has no command {word!r}. Did you mean: {line(owner, meant, *rest)}"


def line(*words: str) -> str:
    """A command line that can be copied; long ones end early."""
    import shlex  # lazy: few need it

    first, *rest = words
    text = " ".join([first, *map(shlex.quote, rest)])
    return text if len(text) <= 200 else f"{text[:200]}…"


def refuse(why: str) -> NoReturn:
    """Print why a command line can't be used, and exit with the usual code for that."""
    print(why, file=sys.stderr)
    raise SystemExit(2)
