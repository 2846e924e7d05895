"""`rmi-agent-mcp-server install`: the right entry in a host's own config, and nothing else there.

Puts together what is known of hosts, entries and files. The server itself needs none of this.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from . import hostfile
from .attempt import Failed, NotTried, tools_of
from .entry import (
    LOCAL_NAME,
    REMOTE_NAME,
    Entry,
    bridge_entry,
    command,
    env_of,
    is_ours,
    kind,
    local_entry,
    node,
    shown,
    url_entry,
)
from .finding import speak_plainly
from .hostenv import FOLDERS, environment, given
from .hosts import Host, HostName, host_of
from .jsonedit import Text
from .jsontext import Malformed
from .remote import checked_url, token_for
from .settings import Attach, BadSettings, current_name, die, load

WRITTEN = ("type", "command", "args", "env", "url", "headers")  # what an entry of ours may have
SECRET = re.compile(r'(Bearer )(?!\$\{)(\\.|[^"\\])+')


def install(
    host: HostName,
    /,
    *,
    name: Annotated[
        str | None,
        Parameter(help=f'The entry\'s name; "{LOCAL_NAME}", or "{REMOTE_NAME}" with --url.'),
    ] = None,
    projects_dir: Annotated[Path | None, Parameter(help="PYTHON_PROJECTS_DIR.")] = None,
    notebooks_dir: Annotated[Path | None, Parameter(help="RMI_AGENT_NOTEBOOKS_DIR.")] = None,
    env: Annotated[
        tuple[str, ...],
        Parameter(help="NAME=VALUE for the command; may come several times.", negative=()),
    ] = (),
    attach: Annotated[
        Attach | None,
        Parameter(
            help="RMI_AGENT_ATTACH: whether it hands all to the resident server; auto unless set."
        ),
    ] = None,
    url: Annotated[
        str | None, Parameter(help="A server that runs elsewhere, with RMI_AGENT_TOKEN.")
    ] = None,
    bridge: Annotated[
        bool, Parameter(help="With --url: mcp-remote also for hosts with HTTP.", negative=())
    ] = False,
    oauth: Annotated[
        bool, Parameter(help="With --url: no token, the host signs in.", negative=())
    ] = False,
    config: Annotated[Path | None, Parameter(help="Another config file of this host.")] = None,
    dry_run: Annotated[bool, Parameter(help="Only show what would change.", negative=())] = False,
    remove: Annotated[bool, Parameter(help="Take the entry out again.", negative=())] = False,
    force: Annotated[
        bool, Parameter(help="Also where the entry is another server's.", negative=())
    ] = False,
    check: Annotated[bool, Parameter(help="Start what was written, and list its tools.")] = True,
) -> None:
    """Put this server into the config of claude-desktop, claude-code, cursor or vscode.

    Other entries and the file's formatting stay, and a backup is made. The command is written by
    its absolute path, with the folders and what is set in the environment.
    """
    speak_plainly()
    try:
        chosen = host_of(host)
        if config is not None:
            path = Path(os.path.abspath(config.expanduser()))
            chosen = replace(chosen, config=path, folder=path.parent)
        name = name or (REMOTE_NAME if url else LOCAL_NAME)
        if url is None and (bridge or oauth):
            raise BadSettings("install: --bridge and --oauth go with --url.")
        bridged = bridge or not chosen.speaks_http
        if url is not None and (projects_dir or notebooks_dir or attach or (env and not bridged)):
            raise BadSettings(
                "install: with --url, folders, --attach and --env are settings of the server"
                " elsewhere."
            )
        if attach is not None:
            env = (*env, f"RMI_AGENT_ATTACH={attach}")
        data = hostfile.read(chosen.config)
        before = hostfile.text_of(chosen.config, data, chosen.comments)
        before.part(chosen.section, name)  # both are objects, or that is what is wrong
        old = before.value(chosen.section, name)
        if old is not None and not force and not is_ours(name, old) and shown(old) != url:
            raise hostfile.UnusableFile(
                f'{chosen.config} has a "{name}" already, which is another server: {shown(old)}.'
                " Choose another --name, or say --force."
            )
        if remove:
            after, entry = removed(chosen, before, name), None
        elif url is not None:
            more = given(env) if bridged else None
            after, entry = remote(chosen, before, name, checked_url(url), more, oauth)
        else:
            folders = {"python_projects_dir": projects_dir, "notebooks_dir": notebooks_dir}
            after, entry = local(chosen, before, name, folders, env)
        was_here = chosen.is_here
        finish(chosen, name, data, before, after, dry_run)
    except BadSettings as error:
        die(error)
    except Malformed as error:
        refuse(f"{chosen.config} is broken: {error}. Mend that and try again; nothing was changed.")
    except hostfile.UnusableFile as error:
        refuse(f"{error} Nothing was changed.")
    if entry is None or dry_run:
        return
    entry = after.value(chosen.section, name)
    works = not check or try_out(entry)
    if not was_here:
        print(f"{chosen.title} seems not to be installed here; the entry waits for it.")
    if works and after is not before:
        print(f"{chosen.then} Then ask: {what_to_ask(entry)}")
    raise SystemExit(0 if works else 1)


def local(
    host: Host, text: Text, name: str, folders: dict[str, Path | None], env: tuple[str, ...]
) -> tuple[Text, Entry]:
    """With an entry that starts this server.

    Raises:
        BadSettings: a setting can't be used.
    """
    old = text.value(host.section, name)
    before = env_of(old) if kind(old) == "local" else {}
    start = command()
    entry = local_entry(host, start.words, environment(folders, given(env), before))
    if start.doubt:
        print(f"Note: {start.doubt}", file=sys.stderr)
    return merged(text, entry, host.section, name), entry


def remote(
    host: Host, text: Text, name: str, url: str, bridge: dict[str, str] | None, oauth: bool
) -> tuple[Text, Entry]:
    """With an entry that leads to a server elsewhere; `bridge` is its environment, if it has one.

    Raises:
        BadSettings: there is no token for it.
    """
    found = None if oauth else token_for(load(), url)
    if bridge is not None:
        if found is None and not oauth:
            raise no_token(url)
        if node()[0] == "npx" and sys.platform != "win32":
            print("Note: npx is not found here; install Node.js (nodejs.org).", file=sys.stderr)
        entry = bridge_entry(host, url, found[0] if found else None, bridge)
    elif host.asks and not oauth:
        # VS Code sends this file to wherever its settings are synchronised.
        asked = f"{name}-token"
        entry = url_entry(host, url, f"${{input:{asked}}}")
        question = {"type": "promptString", "id": asked, "password": True}
        question["description"] = f"The token of {name}"
        inputs = text.value("inputs") or []
        if not any(isinstance(one, dict) and one.get("id") == asked for one in inputs):
            text = text.append(question, "inputs")
    else:
        if found is None and not oauth:
            raise no_token(url)
        entry = url_entry(host, url, found[0] if found else None)
    return merged(text, entry, host.section, name), entry


def no_token(url: str) -> BadSettings:
    """What to do about a token that is not known."""
    return BadSettings(
        f"RMI_AGENT_TOKEN: set it to the token of {url}; or say --oauth, if that server has"
        " RMI_AGENT_AUTH=token+oauth and the host shall sign in."
    )


def merged(text: Text, entry: Entry, *path: str) -> Text:
    """With an entry in place of ours from before, whose other members stay."""
    old = text.value(*path)
    if not is_ours(path[-1], old):
        return text.put(entry, *path)
    same = kind(old) == kind(entry)
    for key in WRITTEN:
        if key not in entry or (key == "env" and not same):
            text = text.without(*path, key)
    for key, value in entry.items():
        if key == "env" and same and isinstance(old.get("env"), dict):
            if "AUTH" not in value:  # once there was a token
                text = text.without(*path, "env", "AUTH")
            for variable in old["env"]:
                if current_name(variable) in value.keys() - {variable}:  # by its former name
                    text = text.without(*path, "env", variable)
            for variable, setting in value.items():
                text = text.put(setting, *path, "env", variable)
        else:
            text = text.put(value, *path, key)
    return text


def removed(host: Host, text: Text, name: str) -> Text:
    """Without the entry, and without the question for its token."""
    text = text.without(host.section, name)
    inputs = text.part("inputs")
    for one in inputs.members if inputs and host.asks else ():
        question = text.plain(one)
        if isinstance(question, dict) and question.get("id") == f"{name}-token" and inputs:
            text = text.cut(inputs, one)
    return text


def finish(
    host: Host, name: str, data: bytes | None, before: Text, after: Text, dry_run: bool
) -> None:
    """Write what has changed, or show it, and say so."""
    there = f"{host.title}, {host.config}"
    is_in = after.value(host.section, name) is not None
    if after.text == before.text:
        how = "is there already, as it should be" if is_in else "is not there"
        print(f'{there}: "{name}" {how}. Nothing was changed.')
    elif dry_run:
        print("".join(difference(host.config, before.text, after.text)), end="")
    else:
        backup = hostfile.replace(host.config, data, after.text.encode())
        print(f'{there}: "{name}" is {"written" if is_in else "taken out"}.')
        if backup is not None:
            print(f"As it was before: {backup}")
        part = after.part(host.section, name)
        if part and SECRET.search(after.text, part.start, part.end) and is_open(host.config):
            print(f"Note: other users can read it, with the token: chmod 600 '{host.config}'")


def is_open(path: Path) -> bool:
    """Whether other users of this machine may read a file."""
    return sys.platform != "win32" and bool(path.stat().st_mode & 0o077)


def difference(path: Path, before: str, after: str) -> Iterator[str]:
    """What would change, without tokens."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path), n=2
    )
    for line in lines:
        shown = SECRET.sub(r"\1********", line)
        yield shown if shown.endswith("\n") else f"{shown}\n"


def try_out(entry: Any) -> bool:
    """Try what was written, and say how that went; False if it does not work."""
    try:
        tools = asyncio.run(tools_of(entry))
    except NotTried as error:
        print(f"- not tried: {error}")
        return True
    except Failed as error:
        print(f"✗ {error}")
        print("  The entry stays; doctor tells more.")
        return False
    print(f"✓ it starts and lists {len(tools)} tools.")
    return True


def what_to_ask(entry: Any) -> str:
    """The first thing to ask a model for."""
    folder = env_of(entry).get(FOLDERS[0])
    if folder is not None and not Path(folder, "hello_world.py").is_file():
        return f"Write hello.py and run it. (Files are in {folder}.)"
    return "Run hello_world.py."


def refuse(why: str) -> NoReturn:
    """Say why nothing was done, and leave with 1."""
    print(f"rmi-agent-mcp-server: {why}", file=sys.stderr)
    raise SystemExit(1)
