"""A change of a host's config: shown, written, or explained where a person has to make it.

Says on stdout what was done. Knows nothing of how the new config came about.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from . import config_file as hostfile
from .catalog import Host
from .config_file import Config, ConfigFile, UnusableFile

TOKEN = re.compile(r'(Bearer )(?!\$\{)(\\.|[^"\\])+')


def show_change(host: Host, name: str, file: ConfigFile, after: Config) -> bool:
    """Show what writing a config would change, without tokens; whether that is anything."""
    if after == file.config:
        return say_unchanged(host, name, after)
    if file.has_comments:
        print(by_hand(host, name, file, after))
    else:
        print("".join(difference(file, file.text_with(after))), end="")
    return True


def write_change(host: Host, name: str, file: ConfigFile, after: Config) -> bool:
    """Write a config and say so; whether that has changed anything.

    Raises:
        UnusableFile: it can't be written.
    """
    if after == file.config:
        return say_unchanged(host, name, after)
    if file.has_comments:
        print(by_hand(host, name, file, after))
        raise UnusableFile(f"{file.path} has comments or trailing commas, which would get lost.")
    text = file.text_with(after)
    backup = hostfile.write(file, text)
    entry = after[host.section].get(name)
    done = "removed" if entry is None else "written"
    print(f'{host.title}, {file.path}: "{name}" is {done}.')
    if backup is not None:
        print(f"The file as it was before: {backup}")
    if entry is not None and TOKEN.search(json.dumps(entry)) and is_open(file.path):
        print(f"Note: other users can read the token in it. Run: chmod 600 '{file.path}'")
    return True


def say_unchanged(host: Host, name: str, config: Config) -> bool:
    """Say that there is nothing to do; False."""
    how = "is up to date" if name in config.get(host.section, {}) else "is not there"
    print(f'{host.title}, {host.config}: "{name}" {how}. Nothing was changed.')
    return False


def by_hand(host: Host, name: str, file: ConfigFile, after: Config) -> str:
    """What a person has to change in a file with comments."""
    entry = after[host.section].get(name)
    if entry is None:
        return f'Remove "{name}" from "{host.section}" in {file.path}.'
    fragment: Config = {host.section: {name: entry}}
    if after.get("inputs") != file.config.get("inputs"):
        fragment["inputs"] = after["inputs"][-1:]
    shown = hide_tokens(json.dumps(fragment, ensure_ascii=False, indent=2))
    todo = " Put the token in place of ********." if "********" in shown else ""
    return f"Put this into {file.path}.{todo}\n{shown}"


def difference(file: ConfigFile, after: str) -> Iterator[str]:
    """What would change in a file, without tokens."""
    before, named = file.text or "", str(file.path)
    for line in difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), named, named, n=2
    ):
        shown = hide_tokens(line)
        yield shown if shown.endswith("\n") else f"{shown}\n"


def hide_tokens(text: str) -> str:
    """A text without the tokens in it; references to one stay."""
    return TOKEN.sub(r"\1********", text)


def is_open(path: Path) -> bool:
    """Whether other users of this machine may read a file."""
    return sys.platform != "win32" and bool(path.stat().st_mode & 0o077)
