"""Which values of a config change: the edits that turn one into another, as small as they can be.

Plain objects only. Knows no files and none of their formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Edit:
    """One change: a value is set, added or removed.

    Attributes:
        path: the keys of objects and the indexes in lists that lead to the value.
        value: the new value.
        removes: whether the value is removed instead.
    """

    path: tuple[str | int, ...]
    value: Any = None
    removes: bool = False


def edits(before: Any, after: Any, path: tuple[str | int, ...] = ()) -> Iterator[Edit]:
    """The edits that turn one value into another, to be applied in this order."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() - after.keys():
            yield Edit((*path, key), removes=True)
        for key, value in after.items():
            if key not in before:
                yield Edit((*path, key), value)
            else:
                yield from edits(before[key], value, (*path, key))
    elif of_objects(before) and of_objects(after):
        kept = [one for one in before if one in after]
        if after[: len(kept)] != kept:
            yield Edit(path, after)
            return
        for index in reversed(range(len(before))):
            if before[index] not in after:
                yield Edit((*path, index), removes=True)
        for index, one in enumerate(after[len(kept) :], len(kept)):
            yield Edit((*path, index), one)
    else:
        yield Edit(path, after)


def of_objects(value: Any) -> bool:
    """Whether a value is a list of objects, which change one by one."""
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
