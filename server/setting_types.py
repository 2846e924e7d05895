"""The building blocks of `Settings` fields: markers that classify a setting, types that parse it.

Knows no individual settings.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, SecretStr, TypeAdapter

from .setting_place import current_folder, is_elsewhere


class Secret:
    """Never shown, never inherited by kernels, never written into a host's config."""


class Unshown:
    """Not repeated in messages: people paste addresses that contain a token."""


class HttpOnly:
    """Not used by a server that a host starts on stdio."""


class NotShared:
    """May differ between a process and the background server that it attaches to."""


@dataclass(frozen=True)
class Name:
    """The variable's full name, if it is not `RMI_AGENT_` plus the field's name.

    Attributes:
        text: the name.
    """

    text: str


@dataclass(frozen=True)
class Default:
    """The default in words, if it depends on other things.

    Attributes:
        text: Markdown for the table of settings.
    """

    text: str


@dataclass(frozen=True)
class Contested:
    """The setting's former name, which other programs also export for their own purposes.

    Attributes:
        ours: regular expression for the values that are meant for us.
        beside: another variable that must also be set.
    """

    ours: str
    beside: str = ""


def split(value: Any) -> Any:
    """Split a comma-separated list of names."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def fill_in(value: Any) -> Any:
    """Expand `${HOME}` and the like, which shells do but programs with config files don't."""
    if is_elsewhere() and "$" in str(value):
        raise ValueError("only the process that has the variable can fill it in")
    filled = os.path.expandvars(value) if isinstance(value, str) else value
    if isinstance(filled, str) and "${" in filled:
        raise ValueError("a variable in ${} is not set here; write the path itself")
    return filled


def absolute(path: Path) -> Path:
    """Make a path absolute, without resolving links."""
    return Path(os.path.abspath(current_folder() / path.expanduser()))


def folders(value: Any) -> Any:
    """Split a comma-separated list of folders; an existing folder with commas in its name is one.

    Raises:
        ValueError: a variable in a path is not set, or one folder is inside another.
    """
    given = (value,) if isinstance(value, str | Path) else value
    if len(given) == 1 and "," in (text := str(fill_in(str(given[0])))):
        given = (text,) if absolute(Path(text)).is_dir() else split(text)
    if not given:
        raise ValueError("write the path of a folder")
    paths = [absolute(Path(fill_in(str(each)))) for each in given]
    for path in paths:
        if any(path != other and path.is_relative_to(other) for other in paths):
            raise ValueError(f"{path} is inside another of these folders; write only the outer one")
    return tuple(dict.fromkeys(paths))


def from_switch(value: Any) -> Any:
    """Accept the true or false that the Claude Desktop extension's switch passes."""
    return {"true": "auto", "false": "off"}.get(str(value).lower(), value)


def jupyter_url(url: str) -> str:
    """A Jupyter Server's base URL, from itself or from the address of one of its pages.

    Raises:
        ValueError: the address is invalid; the text does not repeat it.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            "write it without ?token=… or a user; set RMI_AGENT_JUPYTER_SERVER_TOKEN to the token"
        )
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host or not url.isascii():
        raise ValueError("write http://HOST:PORT or https://HOST, with the base path if it has one")
    path = re.sub(r"/(lab|tree|notebooks|api)?/*$", "", parts.path.rstrip("/") + "/")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


def jupyter_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The base URLs without duplicates."""
    return tuple(dict.fromkeys(jupyter_url(url) for url in urls))


def kernels_to_join(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Check which kernels of a person's may be joined; `off` is none."""
    kinds = tuple(dict.fromkeys(kind.lower() for kind in kinds))
    if kinds == ("off",):
        return ()
    if not set(kinds) <= {"local", "servers"}:
        raise ValueError("write local, servers, local,servers or off")
    return kinds


def domain(name: str) -> str:
    """Check that a text is a bare host name."""
    if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        raise ValueError("write a host name alone, such as python.ngrok.app")
    return name


def local_url(url: str) -> str:
    """The base URL of a server on this machine: http://ADDRESS:PORT."""
    found = re.fullmatch(r"http://(localhost|127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})(/mcp|/)?", url)
    if found is None:
        raise ValueError(
            "write http://127.0.0.1:PORT, the address of a server on this machine;"
            " to connect a host to one elsewhere, use the connect command"
        )
    return f"http://{found[1].replace('localhost', '127.0.0.1')}:{found[2]}"


def origins(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that each text is a web origin: scheme, host and port only."""
    for origin in names:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+", origin):
            raise ValueError(f"{origin} is not an origin; write https://HOST, without * or a path")
    return names


DURATION = re.compile(r"(\d{1,5}) ?(h|d|w)")
UNITS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def duration(text: str) -> float:
    """Seconds in a text such as `12h`, `90d` or `8w`.

    Raises:
        ValueError: it is none, or less than an hour.
    """
    found = DURATION.fullmatch(text.strip().lower())
    if found is None or not int(found[1]):
        raise ValueError("write a whole number and a unit: 12h, 90d or 8w (hours, days, weeks)")
    return int(found[1]) * UNITS[found[2]]


def never_or_duration(value: Any) -> Any:
    """Seconds in a text; 0 for an empty one, `0`, `never` or `forever`."""
    if isinstance(value, str):
        return 0.0 if value.strip().lower() in ("", "0", "never", "forever") else duration(value)
    return value


empty_is_unset = BeforeValidator(lambda value: None if value == "" else value)

Names = Annotated[tuple[str, ...], BeforeValidator(split)]
Bytes = Annotated[int, BeforeValidator(TypeAdapter(ByteSize).validate_python)]
Age = Annotated[float, BeforeValidator(never_or_duration)]
Folder = Annotated[Path, BeforeValidator(fill_in), AfterValidator(absolute)]
Folders = Annotated[tuple[Path, ...], BeforeValidator(folders)]
JupyterUrls = Annotated[Names, AfterValidator(jupyter_urls)]
KernelsToJoin = Annotated[Names, AfterValidator(kernels_to_join)]
Origins = Annotated[Names, AfterValidator(origins)]
Domain = Annotated[Annotated[str, AfterValidator(domain)] | None, empty_is_unset]
LocalUrl = Annotated[Annotated[str, AfterValidator(local_url)] | None, empty_is_unset]
Token = Annotated[SecretStr | None, empty_is_unset]
