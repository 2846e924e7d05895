"""The entry point of `rmi-agent`, and its app with lazy commands."""

from __future__ import annotations

import gc
import sys
from importlib import metadata

import cyclopts

from .table import CLIENT, COMMANDS, EXAMPLES, epilogue
from .words import misplaced, refuse, separated

PROGRAM = "rmi-agent"
SERVES = ("--transport", "--host", "--port", "--tunnel", "--insecure-no-auth", "--attach")

app = cyclopts.App(
    name=PROGRAM,
    help="Run Python files and cells on Jupyter kernels, and the MCP server that does it.",
    help_format="plaintext",
    help_epilogue=epilogue(EXAMPLES),
    version=lambda: metadata.version("rmi-agent-mcp-server"),
    version_flags=["--version", "-V"],
)
titles = dict.fromkeys(command.group for command in COMMANDS.values())
groups = {title: cyclopts.Group(title, sort_key=n) for n, title in enumerate(titles)}
for number, (name, command) in enumerate(COMMANDS.items()):
    app.command(
        command.path,
        name=name,
        help=command.does,
        group=groups[command.group],
        sort_key=number,
        **({} if command.is_app else {"help_epilogue": epilogue(command.examples)}),
        **({} if command.usage is None else {"usage": f"Usage: rmi-agent {name} {command.usage}"}),
    )
others = cyclopts.Group("Other", sort_key=len(groups))
for flag in ("--help", "--version"):
    app[flag].group = others
app.command(
    "rmi_agent.cli.completion:install",
    name="--install-completion",
    group=others,
    help="Let Tab complete commands, options, files and sessions in your shell.",
)


def main(words: list[str] | None = None) -> None:
    """The entry point of `rmi-agent`; `words` default to the command line's."""
    words = sys.argv[1:] if words is None else words
    first = words[0] if words else ""
    if (why := misplaced(words, PROGRAM, COMMANDS, COMMANDS)) is not None:
        refuse(why)
    if first.partition("=")[0] in SERVES:
        refuse(
            f"{first} is an option of a command. Did you mean: rmi-agent serve {' '.join(words)}"
        )
    if first in COMMANDS and COMMANDS[first].path.startswith(CLIENT):
        gc.disable()  # while modules are imported, a sixth of the time; the client turns it on
    app(separated(words))
