"""The metadata that a script declares about itself: its dependencies and its Python (PEP 723).

Reads files' texts; makes nothing of them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ..encoding import decoded
from ..errors import EnvironmentFailed
from ..regular_file import regular_file

# Source: https://packaging.python.org/en/latest/specifications/inline-script-metadata/
BEGIN, END = re.compile(r"# /// ([a-zA-Z0-9-]+)"), "# ///"
MARKER = b"# /// script"  # no block without it
MOST_TEXT = 25_000  # max characters of a block
MOST_LOCK = 10_000_000  # max bytes of a script's lock file
# In a lock: a folder or a file whose path begins where the lock is.
RELATIVE = re.compile(r'\b(?:registry|path|directory|editable|virtual) *= *"(?!/|[\w+.-]+://)')
# uv's settings that may be a path: of a source, of an index, of a folder with wheels.
PLACES = {"path", "url", "find-links", "index-url", "extra-index-url", "cache-dir"}


@dataclass(frozen=True)
class InlineMetadata:
    """What a script declares.

    Attributes:
        text: the block as JSON, in one form whatever its layout: equal texts, equal environments.
        python: the Pythons that it runs on.
        block: a block that says the same; empty if its paths begin at the script's folder.
    """

    text: str
    python: SpecifierSet
    block: str = ""


def inline_metadata(source: bytes) -> InlineMetadata | None:
    """The metadata of a script; None if it declares no dependencies.

    Raises:
        EnvironmentFailed: the block is invalid.
    """
    if MARKER not in source:
        return None
    text = decoded(source).replace("\r\n", "\n")
    blocks = [content for kind, content in blocks_in(text.split("\n")) if kind == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise invalid("there are several of them")
    block = "\n".join(line[2:] for line in blocks[0])
    if len(block) > MOST_TEXT:
        raise invalid(f"it is longer than {MOST_TEXT:,} characters")
    try:
        given = tomllib.loads(block)
        text = json.dumps(given, sort_keys=True, default=str)
    except ValueError as error:
        raise invalid(str(error)) from None
    except RecursionError:
        raise invalid("it is nested too deeply") from None
    dependencies, python = given.get("dependencies", []), given.get("requires-python", "")
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise invalid("dependencies is not a list of texts")
    try:
        wanted = SpecifierSet(python)
    except (InvalidSpecifier, AttributeError, TypeError):
        raise invalid(f"requires-python is {python!r}") from None
    if not dependencies and not python:
        return None
    tool = given.get("tool")
    if isinstance(tool, dict) and has_relative_paths(tool.get("uv")):
        return InlineMetadata(text, wanted)
    lines: Iterable[str] = (f"# {line}" if line else "#" for line in block.split("\n"))
    if not given.keys() - {"dependencies", "requires-python"}:  # in one form, whatever its layout
        lines = (
            f"# {name} = {json.dumps(each, ensure_ascii=False)}" for name, each in given.items()
        )
    return InlineMetadata(text, wanted, "\n".join(("# /// script", *lines, END, "")))


def has_relative_paths(given: object, name: str = "") -> bool:
    """Whether a table of uv's settings names files by paths that are not absolute."""
    if isinstance(given, dict):
        return any(has_relative_paths(value, key) for key, value in given.items())
    if isinstance(given, list):
        return any(has_relative_paths(value, name) for value in given)
    if name == "workspace":
        return True
    is_place = name in PLACES and isinstance(given, str)
    return is_place and "://" not in str(given) and not str(given).startswith("/")


def lock_of(script: Path) -> str:
    """What a script's lock file says; empty if there is none.

    Raises:
        EnvironmentFailed: it is too large.
    """
    path = script.with_name(f"{script.name}.lock")
    try:
        with open(path, "rb", opener=regular_file) as file:
            text = file.read(MOST_LOCK + 1)
    except OSError:
        return ""
    if len(text) > MOST_LOCK:
        raise EnvironmentFailed(f"{path.name} is larger than {MOST_LOCK:,} bytes. Make it again.")
    return text.decode("utf-8", "replace")


def is_relative(lock: str) -> bool:
    """Whether a lock names files by paths that begin where it is."""
    return RELATIVE.search(lock) is not None


def blocks_in(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The blocks of a text, each with its type; in linear time, unlike the pattern of the PEP.

    A block lasts until the last end among the comment lines that follow each other.
    """
    number = 0
    while number < len(lines):
        begin = BEGIN.fullmatch(lines[number])
        number += 1
        if begin is None:
            continue
        last, end = number, None
        while last < len(lines) and (lines[last] == "#" or lines[last].startswith("# ")):
            if lines[last] == END and last > number:
                end = last
            last += 1
        if end is not None:
            yield begin[1], lines[number:end]
            last = end + 1
        number = last


def invalid(why: str) -> EnvironmentFailed:
    """The error for a block that can't be used."""
    return EnvironmentFailed(
        f"The file's `# /// script` block is invalid: {why}. Correct it, or pass"
        " environment='default' to ignore it."
    )
