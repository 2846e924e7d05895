"""Entries in hosts' configs: the command or URL by which a host reaches this server.

Plain objects under the usual keys. Knows no config files or settings, and no host.
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

from ..state_dir import PACKAGE
from .shape import Entry

LOCAL_NAME, REMOTE_NAME = "python", "python-remote"
REMOTE_NAMES = {REMOTE_NAME, "python-executor-remote"}  # the second from earlier instructions
HEADER = "Authorization:${AUTH}"  # some hosts split arguments at spaces (mcp-remote's README)
ON_PATH = {"/bin", "/usr/bin", "/usr/local/bin"}  # on every host's PATH
OURS = re.compile(rf"({PACKAGE}(\.exe)?|rmi_agent\.server(\.cli)?)$")
LAUNCHERS = ("mcp_server.py", "run_http_server.py")  # ours only if both are in one folder

Kind = Literal["local", "bridge", "url", "other"]


@dataclass(frozen=True)
class Command:
    """How to start the server; `doubt` says why the command may stop working one day."""

    words: tuple[str, ...]
    doubt: str = ""


def start_command() -> Command:
    """The command that starts this installation, with its absolute path.

    Environments of `uvx` and `pipx run` are in a cache that may be emptied; for those, the
    command is `uvx` if available, which recreates the environment.
    """
    script = installed_script()
    words = (str(script),) if script else (sys.executable, "-m", "rmi_agent.server.cli")
    if not is_cached(Path(sys.prefix)):
        return Command(words)
    if uvx := lasting_uvx():
        source = install_source()
        return Command((uvx, *(("--from", source) if source else ()), PACKAGE))
    return Command(
        words,
        f"{sys.prefix} is in a cache, which may be emptied. For a lasting entry, install the server"
        " with pip or uv tool install, and run this command again from there.",
    )


def lasting_uvx() -> str | None:
    """The user's `uvx`; not the one that came with this package into a cached environment."""
    folders = os.get_exec_path()
    kept = [folder for folder in folders if folder and not is_cached(Path(folder))]
    return shutil.which("uvx", path=os.pathsep.join(kept)) if kept else None


def installed_script() -> Path | None:
    """The console script, where the installer put it."""
    for installed in distributions(name=PACKAGE):  # a checkout's has no files
        for file in installed.files or ():
            if file.stem == PACKAGE and file.parent.name in ("bin", "Scripts"):
                path = Path(os.path.normpath(str(file.locate())))
                if path.is_file():
                    return path
    return None


def is_cached(folder: Path) -> bool:
    """Whether a folder is, or is in, one tagged as a cache (bford.info/cachedir)."""
    return any((above / "CACHEDIR.TAG").is_file() for above in (folder, *folder.parents))


def install_source() -> str | None:
    """The URL that this package was installed from, or None if by name alone (PEP 610)."""
    for installed in distributions(name=PACKAGE):
        if text := installed.read_text("direct_url.json"):
            direct = loads(text)
            url, vcs = direct["url"], direct.get("vcs_info")
            return f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else str(url)
    return None


def local_entry(words: tuple[str, ...], env: dict[str, str]) -> Entry:
    """An entry that starts this server on stdio."""
    entry: Entry = {"command": words[0]}
    if len(words) > 1:
        entry["args"] = list(words[1:])
    return {**entry, "env": env}


def bridge_entry(url: str, token: str | None, env: dict[str, str]) -> Entry:
    """An entry for a server elsewhere, through `mcp-remote`, with the token in its environment."""
    npx, folder = find_npx()
    args = ["-y", "mcp-remote", url]
    path = {"PATH": os.pathsep.join((folder, *sorted(ON_PATH)))} if folder else {}
    auth = {}
    if token is not None:
        args += ["--header", HEADER]
        auth = {"AUTH": f"Bearer {token}"}
    env = path | auth | env
    entry: Entry = {"command": npx, "args": args}
    return {**entry, "env": env} if env else entry


def url_entry(url: str, token: str | None) -> Entry:
    """An entry for a server elsewhere; `token` may be a reference that the host resolves."""
    entry: Entry = {"url": url}
    return {**entry, "headers": {"Authorization": f"Bearer {token}"}} if token else entry


def find_npx() -> tuple[str, str | None]:
    """The command for `npx`, and its folder if the entry's PATH has to include that."""
    found = shutil.which("npx")
    if found is None or sys.platform == "win32":  # hosts on Windows split paths at spaces
        return "npx", None
    folder = str(Path(found).parent)
    return found, None if folder in ON_PATH else folder


def kind(entry: Any) -> Kind:
    """Classify an entry: local, bridge, url or other."""
    if not isinstance(entry, dict):
        return "other"
    if isinstance(entry.get("url"), str):
        return "url"
    words = words_of(entry)
    if any(PurePath(word).name.startswith("mcp-remote") for word in words):
        return "bridge"
    return "local" if starts_us(words) else "other"


def starts_us(words: list[str]) -> bool:
    """Whether a command line starts this server, from any installation."""
    return any(
        OURS.search(word) or all(Path(word).with_name(name).is_file() for name in LAUNCHERS)
        for word in words
        if OURS.search(word) or PurePath(word).name in LAUNCHERS
    )


def is_ours(name: str, entry: Any) -> bool:
    """Whether an entry is for this server, as far as can be told.

    A URL can be anybody's; an entry with a URL is ours if it has our name or our header.
    """
    entry_kind = kind(entry)
    return entry_kind == "local" or (
        entry_kind in ("bridge", "url") and (name in REMOTE_NAMES or HEADER in words_of(entry))
    )


def words_of(entry: Entry) -> list[str]:
    """The words of an entry's command line."""
    args = entry.get("args")
    words = [entry.get("command"), *(args if isinstance(args, list) else ())]
    return [word for word in words if isinstance(word, str)]


def env_of(entry: Entry) -> dict[str, str]:
    """The environment that an entry sets."""
    env = entry.get("env")
    return {str(name): str(value) for name, value in env.items()} if isinstance(env, dict) else {}


def headers_of(entry: Entry) -> dict[str, str]:
    """The headers that an entry sends."""
    headers = entry.get("headers")
    return {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}


def address(entry: Entry) -> str | None:
    """The URL that an entry connects to, or None."""
    entry_kind = kind(entry)
    if entry_kind == "url":
        return str(entry["url"])
    urls = [word for word in words_of(entry) if re.match("https?://", word)]
    return urls[0] if entry_kind == "bridge" and urls else None


def describe(entry: Any) -> str:
    """What an entry starts or connects to, in one line; omits arguments, which may be secret."""
    if not isinstance(entry, dict):
        return "not an object"
    return address(entry) or " ".join(words_of(entry)[:1]) or "nothing"
