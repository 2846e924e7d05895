"""`rmi-agent`: runs files and cells on a server from the command line.

Without `--server` it starts its own server. A script's stdout and stderr stay as they are, its
exit code becomes ours, and everything about the run itself goes to stderr.
"""

from __future__ import annotations

import sys
from importlib import metadata

import cyclopts

from ..quick_imports import pause_gc

FLAGS = {"--help", "-h", "--version"}  # of `run`: its other options have values

app = cyclopts.App(
    name="rmi-agent",
    help="Run Python files and cells on an RmiAgentMcpServer.",
    help_format="plaintext",
    version=lambda: metadata.version("rmi-agent-mcp-server"),
)
# By name, since --help and the other commands don't need what these import.
for path, does in (
    (
        "run:run",
        "Run a Python file, notebook or module of the projects folder and exit with its exit code."
        "\n\nWhatever follows FILE or -m MODULE is passed to the program; this command's options"
        " come before.",
    ),
    ("run:cell", "Run a snippet of Python; its input() asks at this terminal."),
    (
        "interactive:repl",
        "Open a prompt whose cells run in one session.\n\n"
        "Tab completes, Ctrl-C interrupts the cell, Ctrl-D exits.",
    ),
    (
        "interactive:chat",
        "Chat with a language model that runs Python here; with a pipe as stdin, answer once.",
    ),
    (
        "sessions:sessions",
        "List the sessions: those open in the background server, then those recorded here.\n\n"
        "With --server, lists the sessions that are open there.",
    ),
    (
        "show:show",
        "Print a session as a terminal transcript: code, output, tracebacks and pictures.\n\n"
        "Without --server, any session recorded on this machine; with it, an open one there.",
    ),
    (
        "show:open_",
        "Open a recorded session in Jupyter if it is installed, otherwise as a page in the"
        " browser.\n\nKeeps running until you press Ctrl-C.",
    ),
    (
        "sessions:attach",
        "Join a session with Jupyter's console, sharing its variables with the assistant.",
    ),
    (
        "sessions:replay",
        "Rerun a recorded notebook; exits with 1 if a result differs from the record.",
    ),
    ("sessions:check", "Test the communication with a server in seven steps and report each."),
):
    name = path.partition(":")[2].rstrip("_")
    app.command(f"rmi_agent.client.commands.{path}", name=name, help=does)


def main(words: list[str] | None = None) -> None:
    """The entry point of the console script; `words` default to the command line's."""
    pause_gc()
    app(separated(sys.argv[1:] if words is None else words))


def separated(words: list[str]) -> list[str]:
    """A command line with `--` before the words that belong to a program that is run."""
    if words[:1] != ["run"]:
        return words
    place = 1
    while place < len(words):
        word = words[place]
        if word == "--" or word in FLAGS:
            return words
        if word[:2] == "-m" and word != "-m":
            return [*words[:place], "-m", word[2:], "--", *words[place + 1 :]]
        if word in ("-m", "--module"):
            return [*words[: place + 2], "--", *words[place + 2 :]]
        if word.startswith("--module="):
            return [*words[: place + 1], "--", *words[place + 1 :]]
        if word == "-" or not word.startswith("-"):
            return [*words[:place], "--", *words[place:]]
        place += 1 if "=" in word else 2
    return words
