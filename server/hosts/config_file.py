"""Reads hosts' config files defensively, and writes them in their own style after a backup.

Files with comments are only read: `json` would drop the comments. Knows no hosts or entries.
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

from ...kernels import reason, regular_file
from ..errors import UnusableFile

Config = dict[str, Any]
Part = TypeVar("Part", Config, list[Any])

MAX_SIZE = 50_000_000  # bytes; a 1 MB config is already large
SPACES = " \t\r\n"
STRING = r'"(?:\\.|[^"\\])*"?'  # even if unterminated: `json` then reports where
COMMENTS = re.compile(rf"{STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
TRAILING_COMMAS = re.compile(rf"{STRING}|[\[{{:,][{SPACES}]*,|,(?=[{SPACES}]*[\]}}])", re.DOTALL)
FIRST_INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)
SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ConfigFile:
    """A config file as it was read.

    Attributes:
        path: the file, which may not exist.
        text: its whole text, or None if it does not exist.
        config: the parsed text.
        has_comments: whether it has comments or trailing commas and so can't be written.
    """

    path: Path
    text: str | None
    config: Config
    has_comments: bool = False

    def part(self, key: str, kind: type[Part]) -> Part:
        """The object or list under a key; empty if the key is missing.

        Raises:
            UnusableFile: the value is of another type.
        """
        part = self.config.get(key, kind())
        if not isinstance(part, kind):
            what = "an object, in { }" if kind is dict else "a list, in [ ]"
            raise UnusableFile(f'{self.path} is broken: "{key}" should be {what}.')
        return part

    def text_with(self, config: Config) -> str:
        """Format another config in this file's style: its indentation, line ends and BOM.

        Raises:
            UnusableFile: the config is nested too deeply.
        """
        before = self.text or ""
        indent = FIRST_INDENT.search(before)
        try:
            after = json.dumps(config, ensure_ascii=False, indent=indent[1] if indent else 2)
        except RecursionError:
            raise UnusableFile(f"{self.path} is nested too deeply.") from None
        # Lone surrogates are valid JSON only as escapes, and can't be encoded otherwise.
        after = SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", after)
        after += before[len(before.rstrip(SPACES)) :] if self.config else "\n"
        if "\r\n" in before:
            after = after.replace("\r\n", "\n").replace("\n", "\r\n")
        return f"\ufeff{after}" if before.startswith("\ufeff") else after


def read(path: Path, comments: bool = False) -> ConfigFile:
    """Read a config file, which may not exist.

    Args:
        path: the file.
        comments: whether its host accepts comments and trailing commas.

    Raises:
        UnusableFile: the file can't be read, or is not a JSON object.
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
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)
    raise UnusableFile(f"{path} is broken: {why}.")


def parse(text: str) -> Config:
    """Parse a JSON object whose values all survive being rewritten; {} for an empty text.

    Raises:
        ValueError: the text is anything else.
    """
    if not text.strip(SPACES):
        return {}
    config = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    if not isinstance(config, dict):
        raise ValueError("the whole file should be an object, in { }")
    return config


def unique(pairs: list[tuple[str, Any]]) -> Config:
    """Build an object, refusing duplicate keys, of which all but one would get lost.

    Raises:
        ValueError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'"{twice}" occurs twice in one object')
    return found


def finite(number: str) -> float:
    """Parse a number that JSON can represent.

    Raises:
        ValueError: the number is infinite or NaN.
    """
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number} is not a number that JSON can represent")
    return found


def without_comments(text: str) -> str:
    """Replace comments and trailing commas with spaces, so that everything else keeps its place."""
    for pattern in (COMMENTS, TRAILING_COMMAS):
        text = pattern.sub(blank, text)
    return text


def blank(found: re.Match[str]) -> str:
    """Replace a comment or comma with spaces, keeping line breaks; return other matches as is."""
    if found[0] == "," or found[0].startswith("/"):
        return re.sub(r"[^\r\n]", " ", found[0])
    return found[0]


def read_bytes(path: Path) -> bytes | None:
    """Read a whole file, or None if it does not exist.

    Raises:
        UnusableFile: it is not a regular file, is too large, or can't be read.
    """
    try:
        with open(os.path.realpath(path), "rb", opener=regular_file) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_SIZE:
                raise UnusableFile(
                    f"{path} has {size:,} bytes, and at most {MAX_SIZE:,} can be read."
                    " Is it the right file?"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableFile(
            f"{path} can't be read: {reason(error)}. Fix that, or name another file by --config."
        ) from None


def write(file: ConfigFile, text: str) -> Path | None:
    """Replace a file if it is unchanged since it was read; returns its backup, None if it is new.

    A link stays and its target is written. Mode and owner stay; a new file is readable only by
    its owner, since it may hold a token.

    Raises:
        UnusableFile: the file can't be written, or another program has changed it meanwhile.
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
                f"{path} has just been changed by another program. Quit that program and try again."
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
    """Create an empty backup file beside `path`, with the time in its name."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        backup = path.with_name(f"{path.name}.bak-{stamp}{f'-{number}' if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            return backup
    raise FileExistsError(17, f"there are too many backups of {stamp}")


def fill(path: Path, data: bytes, mode: int, like: os.stat_result) -> None:
    """Write one of our own files and sync it; sets `mode`, and as root the owner from `like`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if sys.platform != "win32":
        if os.geteuid() == 0:  # perhaps through sudo: the file stays the user's
            os.chown(path, like.st_uid, like.st_gid)
        os.chmod(path, mode)
