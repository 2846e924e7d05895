"""Finds the file that a caller meant by a name that does not exist. Knows only names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import PurePosixPath

ALIKE = 0.75  # min similarity of two names, from 0 to 1


def most_similar(wanted: str, names: Iterable[str]) -> str | None:
    """The name that differs least: in case, suffix, folder or a few letters; None if none does."""
    wanted = _plain(wanted)
    by_name = {_plain(name): name for name in sorted(names, reverse=True)}  # the first one counts
    if wanted in by_name:
        return by_name[wanted]
    elsewhere = [plain for plain in by_name if PurePosixPath(plain).name == wanted.split("/")[-1]]
    close = difflib.get_close_matches(wanted, by_name, n=1, cutoff=ALIKE)
    found = elsewhere if len(elsewhere) == 1 else close
    return by_name[found[0]] if found else None


def _plain(name: str) -> str:
    """A name without what callers get wrong: case, suffix, and blanks or quotes around it."""
    name = name.strip(" \t\n\"'`").casefold()
    return name.removesuffix(PurePosixPath(name).suffix)
