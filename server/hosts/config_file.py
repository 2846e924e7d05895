"""Reads hosts' config files defensively, and changes values in them after a backup.

What does not change keeps its bytes: comments, order, indentation, line ends and BOM. Knows no
hosts or entries.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...kernels import reason, regular_file
from ..errors import UneditableFile, UnusableFile
from . import json_text, toml_text, yaml_text
from .edits import Edit, edits

Config = dict[str, Any]
Part = TypeVar("Part", Config, list[Any])
Format = Literal["json", "jsonc", "toml", "yaml"]

MAX_SIZE = 50_000_000  # bytes; a 1 MB config is already large
BOM = "\ufeff"


@dataclass(frozen=True)
class Language:
    """How files of a format are read and changed.

    Attributes:
        parse: the text's config; raises ValueError if it is broken.
        edited: the text with one value changed; may raise for layouts that it can't edit.
        mapping: what the format calls an object.
        sequence: what it calls a list.
    """

    parse: Callable[[str], Config]
    edited: Callable[[str, Edit], str]
    mapping: str = "an object, in { }"
    sequence: str = "a list, in [ ]"


LANGUAGES: dict[Format, Language] = {
    "json": Language(json_text.parse, json_text.edited),
    "jsonc": Language(json_text.parse_commented, json_text.edited),
    "toml": Language(toml_text.parse, toml_text.edited, "a table", "an array"),
    "yaml": Language(yaml_text.parse, yaml_text.edited, "a mapping", "a sequence"),
}


@dataclass(frozen=True)
class ConfigFile:
    """A config file as it was read.

    Attributes:
        path: the file, which may not exist.
        text: its whole text, or None if it does not exist.
        config: the parsed text.
        format: the language it is written in.
    """

    path: Path
    text: str | None
    config: Config
    format: Format = "json"

    def part(self, key: str, kind: type[Part]) -> Part:
        """The object or list under a key; empty if the key is missing or has no value.

        Raises:
            UnusableFile: the value is of another type.
        """
        part = self.config.get(key)
        if part is None:
            return kind()
        if not isinstance(part, kind):
            language = LANGUAGES[self.format]
            what = language.mapping if kind is dict else language.sequence
            raise UnusableFile(f'{self.path} is broken: "{key}" should be {what}.')
        return part

    def text_with(self, config: Config) -> str:
        """This file's text, changed to another config.

        Raises:
            UnusableFile: the config is nested too deeply.
            UneditableFile: the text is laid out in a way that can't be changed in place.
        """
        text = before = (self.text or "").removeprefix(BOM)
        language = LANGUAGES[self.format]
        # Of mixed line ends, each stays as it is.
        lines = 0 < before.count("\r\n") == before.count("\n")
        lines = lines and self.format in ("toml", "yaml")
        if lines:
            text = text.replace("\r\n", "\n")
        try:
            for edit in edits(self.config, config):
                text = language.edited(text, edit)
            good = filled(language.parse(text)) == filled(config)
        except RecursionError:
            raise UnusableFile(f"{self.path} is nested too deeply.") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            good = False
        if not good:
            raise UneditableFile(f"{self.path} is laid out in a way that can't be changed here.")
        if lines:
            text = text.replace("\n", "\r\n")
        return f"{BOM}{text}" if (self.text or "").startswith(BOM) else text


def filled(config: Config) -> Config:
    """A config without empty sections, which TOML leaves out."""
    return {key: value for key, value in config.items() if value != {}}


def snippet(config: Config, language: Format) -> str:
    """A config as a whole text of its own."""
    return ConfigFile(Path(), None, {}, language).text_with(config)


def read(path: Path, language: Format = "json") -> ConfigFile:
    """Read a config file, which may not exist.

    Raises:
        UnusableFile: the file can't be read, or is not in that language.
    """
    if (data := read_bytes(path)) is None:
        return ConfigFile(path, None, {}, language)
    try:
        text = data.decode()
        config = LANGUAGES[language].parse(text.removeprefix(BOM))
        return ConfigFile(path, text, config, language)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        why = f"it is not UTF-8 (line {line})"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = placed(error)
    raise UnusableFile(f"{path} is broken: {why}.")


def placed(error: ValueError) -> str:
    """A parser's error, with its line and column first where it has them."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    return str(error)


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
