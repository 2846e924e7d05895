"""Config files of hosts: read with care, written by `json` in their own style, after a backup.

A file with comments is only read, since writing it would lose them. Knows no host and no entry.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

Config = dict[str, Any]
Part = TypeVar("Part", Config, list[Any])

MAX_SIZE = 50_000_000  # bytes; a config of 1 MB is a large one
O_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would change line ends otherwise
SPACES = " \t\r\n"
STRING = r'"(?:\\.|[^"\\])*"?'  # also one without its end: `json` then says where that is missing
COMMENTS = re.compile(rf"{STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
TRAILING_COMMAS = re.compile(rf"{STRING}|[\[{{:,][{SPACES}]*,|,(?=[{SPACES}]*[\]}}])", re.DOTALL)
FIRST_INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)
SURROGATES = re.compile("[\ud800-\udfff]")


class UnusableFile(Exception):
    """A file can't be read or written; the text is one line that names it and says why."""


@dataclass(frozen=True)
class ConfigFile:
    """A config as it was read.

    Attributes:
        path: where it is, there or not.
        text: all of it, or None if it is not there.
        config: what is in it.
        has_comments: whether it has comments or trailing commas, so that it can't be written.
    """

    path: Path
    text: str | None
    config: Config
    has_comments: bool = False

    def part(self, key: str, kind: type[Part]) -> Part:
        """The object or list under a key, an empty one if there is none.

        Raises:
            UnusableFile: there is something else.
        """
        part = self.config.get(key, kind())
        if not isinstance(part, kind):
            what = "an object, in { }" if kind is dict else "a list, in [ ]"
            raise UnusableFile(f'{self.path} is broken: "{key}" should be {what}.')
        return part

    def text_with(self, config: Config) -> str:
        """Another config in this file's style: its indentation, line ends and BOM.

        Raises:
            UnusableFile: it is nested too deeply.
        """
        before = self.text or ""
        indent = FIRST_INDENT.search(before)
        try:
            after = json.dumps(config, ensure_ascii=False, indent=indent[1] if indent else 2)
        except RecursionError:
            raise UnusableFile(f"{self.path} has too many brackets inside each other.") from None
        # A lone surrogate is valid JSON as an escape, and can't be written otherwise.
        after = SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", after)
        after += before[len(before.rstrip(SPACES)) :] if self.config else "\n"
        if "\r\n" in before:
            after = after.replace("\r\n", "\n").replace("\n", "\r\n")
        return f"\ufeff{after}" if before.startswith("\ufeff") else after


def read(path: Path, comments: bool = False) -> ConfigFile:
    """A config file, whether there or not.

    Args:
        path: where it is.
        comments: whether its host accepts comments and trailing commas.

    Raises:
        UnusableFile: it can't be read, or is not a JSON object.
    """
    if (data := read_bytes(path)) is None:
        return ConfigFile(path, None, {})
    try:
        text = data.decode()
        plain = text.removeprefix("\ufeff")
        try:
            return ConfigFile(path, text, parse(plain))
        except json.JSONDecodeError:
            if not comments:
                raise
            return ConfigFile(path, text, parse(without_comments(plain)), has_comments=True)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        why = f"it is not UTF-8 (line {line})"
    except json.JSONDecodeError as error:
        why = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        why = "there are too many brackets inside each other"
    except ValueError as error:
        why = str(error)
    raise UnusableFile(f"{path} is broken: {why}.")


def parse(text: str) -> Config:
    """A JSON object whose every value would survive being written again; {} for an empty text.

    Raises:
        ValueError: it is something else.
    """
    if not text.strip(SPACES):
        return {}
    config = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    if not isinstance(config, dict):
        raise ValueError("the whole file should be an object, in { }")
    return config


def unique(pairs: list[tuple[str, Any]]) -> Config:
    """An object, of which one of two equal keys would get lost.

    Raises:
        ValueError: it has two.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'"{twice}" is there twice in one object')
    return found


def finite(number: str) -> float:
    """A number that JSON has.

    Raises:
        ValueError: it is infinite, or none.
    """
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number} is not a number that can be kept")
    return found


def without_comments(text: str) -> str:
    """JSON with spaces for its comments and trailing commas, so that all else keeps its place."""
    for pattern in (COMMENTS, TRAILING_COMMAS):
        text = pattern.sub(blank, text)
    return text


def blank(found: re.Match[str]) -> str:
    """Spaces and line breaks for a comment, a space for a comma; anything else as it is."""
    if found[0] == "," or found[0].startswith("/"):
        return re.sub(r"[^\r\n]", " ", found[0])
    return found[0]


def read_bytes(path: Path) -> bytes | None:
    """All of a file, or None if there is none.

    Raises:
        UnusableFile: it is something else, too large, or can't be read.
    """
    try:
        # O_NONBLOCK: a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | O_BINARY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFile(f"{path} is not a file. Move it away, or name another.")
            if status.st_size > MAX_SIZE:
                raise UnusableFile(
                    f"{path} has {status.st_size:,} bytes, and at most {MAX_SIZE:,} are read."
                    " Is it the right file?"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableFile(f"{path} can't be read: {reason(error)}.") from None


def write(file: ConfigFile, text: str) -> Path | None:
    """Replace a file if it is still as it was read; its backup, or None if there was none.

    A link stays and its target is written. Mode and owner stay; a new file is its owner's
    alone, since it may hold a token.

    Raises:
        UnusableFile: it can't be written, or another program has changed it meanwhile.
    """
    path, real = file.path, Path(os.path.realpath(file.path))
    before = None if file.text is None else file.text.encode()
    backup = written = None
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        like = os.stat(real if before is not None else real.parent)
        mode = 0o600 if before is None else stat.S_IMODE(like.st_mode)
        if before is not None:
            if not os.access(real, os.W_OK):
                raise PermissionError(13, "it is read-only")
            backup = new_backup(path)
            fill(backup, before, mode, like)
        descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        os.close(descriptor)
        written = Path(name)
        fill(written, text.encode(), mode, like)
        if read_bytes(path) != before:
            raise UnusableFile(
                f"{path} has just been changed by another program. Quit that, and try again."
            )
        os.replace(written, real)
        return backup
    except (OSError, UnusableFile) as error:
        for left in (backup, written):
            if left is not None:
                with contextlib.suppress(OSError):
                    left.unlink()
        if isinstance(error, UnusableFile):
            raise
        raise UnusableFile(f"{path} can't be written: {reason(error)}.") from None


def new_backup(path: Path) -> Path:
    """A new empty file beside another, with the time in its name."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        backup = path.with_name(f"{path.name}.bak-{stamp}{f'-{number}' if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            return backup
    raise FileExistsError(17, f"there are too many backups of {stamp}")


def fill(path: Path, data: bytes, mode: int, like: os.stat_result) -> None:
    """Write all of a file of ours down to the disk, with a mode, and the owner of another file."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if sys.platform != "win32":
        if os.geteuid() == 0:  # by sudo, perhaps: the file is still that user's
            os.chown(path, like.st_uid, like.st_gid)
        os.chmod(path, mode)


def reason(error: OSError) -> str:
    """Why, in the system's words."""
    return error.strerror or str(error)
