"""The metadata that a script declares about itself: its dependencies and its Python (PEP 723).

Reads a file's text; makes nothing of it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ..encoding import decoded
from ..errors import EnvironmentFailed

# Source: https://packaging.python.org/en/latest/specifications/inline-script-metadata/
BEGIN, END = re.compile(r"# /// ([a-zA-Z0-9-]+)"), "# ///"
MARKER = b"# /// script"  # no block without it
MOST_TEXT = 25_000  # max characters of a block


@dataclass(frozen=True)
class InlineMetadata:
    """What a script declares.

    Attributes:
        text: the block as JSON, in one form whatever its layout: equal texts, equal environments.
        python: the Pythons that it runs on.
        block: a block that says the same, if that is no more than dependencies and Pythons.
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
    if given.keys() - {"dependencies", "requires-python"}:
        return InlineMetadata(text, wanted)
    lines = (f"# {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
    return InlineMetadata(text, wanted, "\n".join(("# /// script", *lines, END, "")))


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
