"""Reads settings from the environment and `.env` files, by current, former and misspelled names.

Does not validate values. A `.env` file is never loaded into the process's environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from pydantic.fields import FieldInfo

from .setting_place import current_folder, environ
from .setting_types import Contested, HttpOnly, Name, Secret, Unshown

PREFIX = "RMI_AGENT_"
# Not server settings: those of `rmi-agent chat`, and what our kernels' processes have.
NO_SETTINGS = {
    "RMI_AGENT_MODEL",
    "RMI_AGENT_CHAT_HISTORY",
    "RMI_AGENT_KERNEL",
    "RMI_AGENT_OFFLINE",
}
ALIKE = 0.85  # minimum difflib ratio for a name to count as a misspelling of another

T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """The environment variable of a setting.

    Attributes:
        field: the setting's name in `Settings`.
        name: the variable's current name.
        former: the name without the prefix, which is still read.
        contested: which values of the former name are meant for this server.
        http_only: whether only HTTP uses it.
        secret: whether to keep it from kernels and hosts' configs.
        unshown: whether messages must not repeat its value.
    """

    field: str
    name: str
    former: str | None
    contested: Contested | None
    http_only: bool
    secret: bool
    unshown: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the variable is read."""
        return (self.name,) if self.former is None else (self.name, self.former)


@dataclass(frozen=True)
class Notice:
    """A one-line message to the user about a variable.

    Attributes:
        text: the message.
        field: the setting concerned; empty if none.
        http_only: whether only HTTP uses the setting.
    """

    text: str
    field: str = ""
    http_only: bool = False


@dataclass(frozen=True)
class Given:
    """The settings that were found.

    Attributes:
        values: raw values, keyed by field.
        names: the variable name to use in messages about a value, keyed by field.
        notices: messages for the user.
    """

    values: dict[str, str]
    names: dict[str, str]
    notices: tuple[Notice, ...]


def marks(field: FieldInfo, kind: type[T]) -> T | None:
    """A field's metadata of the given type, or None."""
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def variables(fields: Mapping[str, FieldInfo]) -> dict[str, Variable]:
    """The variables of all settings, keyed by field."""
    return {name: variable(name, field) for name, field in fields.items()}


def variable(name: str, field: FieldInfo) -> Variable:
    """Derive a setting's variable from its field."""
    bare = name.upper()
    own = marks(field, Name)
    prefixed = bare if bare.startswith(PREFIX) else PREFIX + bare
    return Variable(
        field=name,
        name=own.text if own else prefixed,
        former=None if own or bare == prefixed else bare,
        contested=marks(field, Contested),
        http_only=marks(field, HttpOnly) is not None,
        secret=marks(field, Secret) is not None,
        unshown=marks(field, Secret) is not None or marks(field, Unshown) is not None,
    )


def checkout() -> Path | None:
    """The root of the checkout that this code runs from, or None if it is installed."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def home() -> Path:
    """Where the default folders are created: the checkout, or the current directory."""
    return checkout() or current_folder()


def environment() -> dict[str, str]:
    """The process's environment, with names in upper case."""
    return upper(environ())


def dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file, with names in upper case; empty if there is no file.

    Raises:
        OSError: the file can't be read.
        UnicodeError: the file is not UTF-8.
    """
    if not path.is_file():
        return {}
    found = dotenv_values(path, encoding="utf-8")
    return upper({name: value for name, value in found.items() if value is not None})


def upper(values: Mapping[str, str]) -> dict[str, str]:
    """Convert names to upper case; of two that differ only in case, the upper-case one wins."""
    return {name.upper(): values[name] for name in sorted(values, key=str.isupper)}


def read(
    settings: Iterable[Variable], sources: list[dict[str, str]], retired: Mapping[str, str]
) -> Given:
    """Read all settings, under current and former names.

    A setting's current name takes precedence over its former one, whatever their sources.

    Args:
        settings: the variables of all settings.
        sources: the environment and files, highest priority first.
        retired: retired settings, each with the rule that replaced it.
    """
    settings = list(settings)
    merged = {name: value for source in reversed(sources) for name, value in source.items()}
    values, names, notices = {}, {}, []
    for one in settings:
        if one.name in merged:
            values[one.field], names[one.field] = merged[one.name], one.name
        elif one.former in merged:
            given = [source[one.former] for source in sources if one.former in source]
            ours = [value for value in given if is_ours(one, value, merged)]
            if ours:
                values[one.field] = ours[0]
                names[one.field] = f"{one.former} (now {one.name})"
            notices.append(Notice(former(one, given[0], bool(ours)), one.field, one.http_only))
    notices += [
        Notice(f"{name} is no longer a setting and is ignored: {now}. Remove it.")
        for name, now in retired.items()
        if name in merged
    ]
    notices += map(Notice, misspelled(settings, merged))
    return Given(values, names, tuple(notices))


def is_ours(one: Variable, value: str, merged: Mapping[str, str]) -> bool:
    """Whether the value of a former name is meant for this server."""
    contested = one.contested
    if contested is None:
        return True
    beside = contested.beside
    return bool(re.fullmatch(contested.ours, value)) and (
        not beside or beside in merged or PREFIX + beside in merged
    )


def former(one: Variable, value: str, is_read: bool) -> str:
    """The notice about a former name that is set."""
    shown = one.former if one.unshown else f"{one.former}={value}"
    if is_read:
        return (
            f"{shown} was read as {one.name}, the setting's current name. Rename it, or set"
            f" {one.name}, which takes precedence, if {one.former} belongs to another program."
        )
    return f"{shown} seems to be another program's and was ignored. Set {one.name} for this server."


def misspelled(settings: list[Variable], merged: Mapping[str, str]) -> Iterator[str]:
    """Notices about variables that look like settings but are not.

    Variables with our prefix can't belong to anyone else. Others count only if they nearly match
    the name of an unprefixed setting that is itself not set.
    """
    known = {one.name for one in settings} | NO_SETTINGS
    without_prefix = {one.name.removeprefix(PREFIX): one.name for one in settings}
    taken = known | {one.former for one in settings if one.former}
    bare = [one.name for one in settings if not one.former and not one.name.startswith(PREFIX)]
    unset = [name for name in bare if name not in merged]
    for name in sorted(merged.keys() - taken):
        if name.startswith(PREFIX):
            bare_name = name.removeprefix(PREFIX)
            close = get_close_matches(bare_name, without_prefix, 1, 0.7)
            close = close or sharing_words(bare_name, without_prefix)
            meant = [without_prefix[one] for one in close]
        elif name.startswith("RMI"):
            meant = get_close_matches(name, known, 1, ALIKE)
        else:
            meant = get_close_matches(name, unset, 1, ALIKE)
        if meant:
            yield f"{name} is not a setting and is ignored. Did you mean {' or '.join(meant)}?"
        elif name.startswith(PREFIX):
            yield f"{name} is not a setting and is ignored. See docs/settings.md."


def sharing_words(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that have all words of a name, the shortest first."""
    words = set(name.split("_"))
    return sorted((one for one in known if words <= set(one.split("_"))), key=len)[:3]
