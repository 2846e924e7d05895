"""Entries of a host's config: the commands and addresses by which it reaches this server.

Plain objects as the hosts document them. Knows no config and no setting.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from json import loads
from pathlib import Path, PurePath
from typing import Any, Literal

from .hosts import Host

PACKAGE = "rmi-agent-mcp-server"
LOCAL_NAME, REMOTE_NAME = "python", "python-remote"
REMOTE_NAMES = {REMOTE_NAME, "python-executor-remote"}  # the latter in instructions of old
HEADER = "Authorization:${AUTH}"  # without a space, at which some hosts cut (mcp-remote's README)
ON_PATH = {"/bin", "/usr/bin", "/usr/local/bin"}  # what hosts surely have
OURS = re.compile(rf"({PACKAGE}(\.exe)?|rmi_agent\.server(\.cli)?)$")
LAUNCHERS = ("mcp_server.py", "run_http_server.py")  # by path; others have files of these names

Entry = dict[str, Any]
Kind = Literal["local", "bridge", "url", "other"]


@dataclass(frozen=True)
class Command:
    """How the server is started; `doubt` says why that may not last."""

    words: tuple[str, ...]
    doubt: str = ""


def command() -> Command:
    """This very installation's command, by its absolute path.

    An environment of `uvx` or `pipx run` lies in a cache, and goes with it: there, what made it
    is named instead.
    """
    script = installed_script()
    words = (str(script),) if script else (sys.executable, "-m", "rmi_agent.server.cli")
    if not is_cached(Path(sys.prefix)):
        return Command(words)
    if uvx := shutil.which("uvx"):
        source = from_elsewhere()
        return Command((uvx, *(("--from", source) if source else ()), PACKAGE))
    return Command(
        words,
        f"{sys.prefix} is a cache, which may be emptied. For an entry that lasts, install"
        " the server (pip install, uv tool install) and run this again with that.",
    )


def installed_script() -> Path | None:
    """The console script, where the installer has put it."""
    for installed in distributions(name=PACKAGE):  # a checkout has one that says nothing
        for file in installed.files or ():
            if file.stem == PACKAGE and file.parent.name in ("bin", "Scripts"):
                path = Path(os.path.normpath(str(file.locate())))
                if path.is_file():
                    return path
    return None


def is_cached(folder: Path) -> bool:
    """Whether a folder lies in one that says of itself that it is a cache (bford.info/cachedir)."""
    return any((above / "CACHEDIR.TAG").is_file() for above in (folder, *folder.parents))


def from_elsewhere() -> str | None:
    """What was named to the installer, where that was not the package's name alone (PEP 610)."""
    for installed in distributions(name=PACKAGE):
        if text := installed.read_text("direct_url.json"):
            direct = loads(text)
            url, vcs = direct["url"], direct.get("vcs_info")
            return f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else str(url)
    return None


def local_entry(host: Host, words: tuple[str, ...], env: dict[str, str]) -> Entry:
    """The server started by the host, on stdio."""
    entry: Entry = {"type": "stdio"} if host.typed else {}
    entry["command"] = words[0]
    if len(words) > 1:
        entry["args"] = list(words[1:])
    return {**entry, "env": env}


def bridge_entry(host: Host, url: str, token: str | None, more: dict[str, str]) -> Entry:
    """A server elsewhere, by `mcp-remote`, which gets the token by its environment, and `more`."""
    npx, folder = node()
    args = ["-y", "mcp-remote", url]
    env = {"PATH": os.pathsep.join((folder, *sorted(ON_PATH)))} if folder else {}
    if token is not None:
        args += ["--header", HEADER]
        env["AUTH"] = f"Bearer {token}"
    env |= more
    entry: Entry = {"type": "stdio"} if host.typed else {}
    entry |= {"command": npx, "args": args}
    return {**entry, "env": env} if env else entry


def url_entry(host: Host, url: str, token: str | None) -> Entry:
    """A server elsewhere, for a host that speaks HTTP itself; a token may be a reference."""
    entry: Entry = {}
    if host.typed:
        entry["type"] = "sse" if url.endswith("/sse") else "http"
    entry["url"] = url
    return {**entry, "headers": {"Authorization": f"Bearer {token}"}} if token else entry


def node() -> tuple[str, str | None]:
    """`npx`, and the folder that it has to find node in, where hosts may not look."""
    found = shutil.which("npx")
    if found is None or sys.platform == "win32":  # hosts there cut paths at their spaces
        return "npx", None
    folder = str(Path(found).parent)
    return found, None if folder in ON_PATH else folder


def kind(entry: Any) -> Kind:
    """What sort of entry one is."""
    if not isinstance(entry, dict):
        return "other"
    if isinstance(entry.get("url"), str):
        return "url"
    words = words_of(entry)
    if any(PurePath(word).name.startswith("mcp-remote") for word in words):
        return "bridge"
    return "local" if starts_us(words) else "other"


def starts_us(words: list[str]) -> bool:
    """Whether a command line starts this server, of whatever installation."""
    return any(
        OURS.search(word) or all(Path(word).with_name(name).is_file() for name in LAUNCHERS)
        for word in words
        if OURS.search(word) or PurePath(word).name in LAUNCHERS
    )


def is_ours(name: str, entry: Any) -> bool:
    """Whether an entry is for this server, as far as can be seen.

    Addresses are anybody's: those are taken for ours that have our name, or our header.
    """
    sort = kind(entry)
    return sort == "local" or (
        sort in ("bridge", "url") and (name in REMOTE_NAMES or HEADER in words_of(entry))
    )


def words_of(entry: Entry) -> list[str]:
    """The words of an entry's command line."""
    args = entry.get("args")
    words = [entry.get("command"), *(args if isinstance(args, list) else ())]
    return [word for word in words if isinstance(word, str)]


def env_of(entry: Entry) -> dict[str, str]:
    """The environment that an entry names."""
    env = entry.get("env")
    return {str(name): str(value) for name, value in env.items()} if isinstance(env, dict) else {}


def headers_of(entry: Entry) -> dict[str, str]:
    """The headers that an entry names."""
    headers = entry.get("headers")
    return {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}


def address(entry: Entry) -> str | None:
    """The URL that an entry leads to, if it does."""
    sort = kind(entry)
    if sort == "url":
        return str(entry["url"])
    urls = [word for word in words_of(entry) if re.match("https?://", word)]
    return urls[0] if sort == "bridge" and urls else None


def shown(entry: Any) -> str:
    """What an entry starts or reaches, in a line, without what may be secret."""
    if not isinstance(entry, dict):
        return "no object"
    return address(entry) or " ".join(words_of(entry)[:1]) or "nothing"
