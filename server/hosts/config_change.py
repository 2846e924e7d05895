"""Shows or writes a change to a host's config, or tells the user how to make it by hand.

Prints what was done to stdout. Does not know how the new config was made.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..console import say
from ..errors import UneditableFile
from . import config_file
from .catalog import Host
from .config_file import Config, ConfigFile

TOKEN = re.compile(r'(Bearer )(?!\$\{)(\\.|[^"\\\s])+')


def show_change(host: Host, name: str, file: ConfigFile, after: Config) -> bool:
    """Print what writing a config would change, without tokens; returns whether anything would."""
    if after == file.config:
        return say_unchanged(host, name, after)
    try:
        print("".join(difference(file, file.text_with(after))), end="")
    except UneditableFile:
        print(by_hand(host, name, file, after))
    return True


def write_change(host: Host, name: str, file: ConfigFile, after: Config) -> bool:
    """Write a config and print what was done; returns whether anything changed.

    Raises:
        UnusableFile: the file can't be written.
    """
    if after == file.config:
        return say_unchanged(host, name, after)
    try:
        text = file.text_with(after)
    except UneditableFile:
        print(by_hand(host, name, file, after))
        raise
    backup = config_file.write(file, text)
    entry = after[host.section].get(name)
    done = "removed" if entry is None else "written"
    say(f'{host.title}, {file.path}: "{name}" is {done}.')
    if backup is not None:
        say(f"The old file is backed up as {backup}")
    if entry is not None and TOKEN.search(json.dumps(entry, default=str)) and is_open(file.path):
        say(f"Note: other users can read the token in it. Run: chmod 600 '{file.path}'")
    return True


def say_unchanged(host: Host, name: str, config: Config) -> bool:
    """Print that there is nothing to change; returns False."""
    how = "is up to date" if name in (config.get(host.section) or {}) else "is not there"
    say(f'{host.title}, {host.config}: "{name}" {how}. Nothing was changed.')
    return False


def by_hand(host: Host, name: str, file: ConfigFile, after: Config) -> str:
    """Tell the user what to change by hand in a file that can't be changed in place."""
    entry = after[host.section].get(name)
    if entry is None:
        return f'Remove "{name}" from "{host.section}" in {file.path}.'
    fragment: Config = {host.section: {name: entry}}
    if after.get("inputs") != file.config.get("inputs"):
        fragment["inputs"] = after["inputs"][-1:]
    shown = hide_tokens(config_file.snippet(fragment, file.format)).rstrip()
    todo = " Replace ******** with the token." if "********" in shown else ""
    return f"Add this to {file.path}.{todo}\n{shown}"


def difference(file: ConfigFile, after: str) -> Iterator[str]:
    """The diff between a file and its new text, without tokens."""
    before, named = file.text or "", str(file.path)
    for line in difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), named, named, n=2
    ):
        shown = hide_tokens(line)
        yield shown if shown.endswith("\n") else f"{shown}\n"


def hide_tokens(text: str) -> str:
    """Mask the tokens in a text; references to tokens stay."""
    return TOKEN.sub(r"\1********", text)


def is_open(path: Path) -> bool:
    """Whether other users of this machine may read a file."""
    return sys.platform != "win32" and bool(path.stat().st_mode & 0o077)
