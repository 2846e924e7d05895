"""Where settings are read from: this process's environment and folder, or another process's.

The background server reads those of a command that asks whether it would do as that command is set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Another process's environment, as far as it has settings, and its current folder."""

    folder: Path
    environ: Mapping[str, str]


_OTHER: ContextVar[Place | None] = ContextVar("place of settings", default=None)


@contextlib.contextmanager
def reading_elsewhere(place: Place) -> Iterator[None]:
    """Read settings as another process of this user would."""
    token = _OTHER.set(place)
    try:
        yield
    finally:
        _OTHER.reset(token)


_ignored: list[Path] = []  # folders whose `.env` this process does not read


def ignore_dotenv_in(folders: Iterable[Path]) -> None:
    """Read no settings from a `.env` in these folders: code that this process runs may write it."""
    _ignored.extend(folder.resolve() for folder in folders)


def is_ignored(path: Path) -> bool:
    """Whether a `.env` is one that this process does not read."""
    return path.parent.resolve() in _ignored


def is_elsewhere() -> bool:
    """Whether the settings being read are another process's."""
    return _OTHER.get() is not None


def current_folder() -> Path:
    """The folder that relative paths start from."""
    place = _OTHER.get()
    return Path.cwd() if place is None else place.folder


def environ() -> Mapping[str, str]:
    """The environment that has the settings."""
    place = _OTHER.get()
    return os.environ if place is None else place.environ
