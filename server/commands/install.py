"""`rmi-agent-mcp-server install`: adds this server to a host's config, or removes it.

Has the options, the order of the steps and their messages; hosts, entries and files have their
own modules. The server itself needs none of this.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from ..console import die, speak_plainly
from ..errors import BadSettings, ProbeFailed, ProbeSkipped, UnusableFile
from ..hosts import (
    FOLDERS,
    LOCAL_NAME,
    REMOTE_NAME,
    ConfigFile,
    Entry,
    Host,
    HostName,
    bridge_entry,
    checked_url,
    describe,
    env_of,
    environment,
    find_npx,
    host_of,
    is_ours,
    kind,
    local_entry,
    parse_env,
    reference,
    show_change,
    start_command,
    token_for,
    tools_of,
    url_entry,
    with_entry,
    without_entry,
    write_change,
)
from ..hosts import config_file as hostfile
from ..resident import check_supported
from ..settings import Attach, load


@Parameter(name="*")
@dataclass(frozen=True)
class LocalServer:
    """A server that the host starts itself."""

    projects_dir: Annotated[
        Path | None,
        Parameter(help="Folder with your Python files (PYTHON_PROJECTS_DIR)."),
    ] = None
    notebooks_dir: Annotated[
        Path | None,
        Parameter(help="Folder in which sessions are recorded (RMI_AGENT_NOTEBOOKS_DIR)."),
    ] = None
    attach: Annotated[
        Attach | None,
        Parameter(
            help="Use the resident server (RMI_AGENT_ATTACH): auto unless set, always or never."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class RemoteServer:
    """A server that runs elsewhere."""

    url: Annotated[
        str | None,
        Parameter(help="Address of a server that runs elsewhere; its token is RMI_AGENT_TOKEN."),
    ] = None
    bridge: Annotated[
        bool,
        Parameter(help="With --url: use mcp-remote even if the host speaks HTTP.", negative=()),
    ] = False
    oauth: Annotated[
        bool,
        Parameter(help="With --url: write no token, since the host signs in.", negative=()),
    ] = False


def install(
    host: HostName,
    /,
    *,
    local: LocalServer = LocalServer(),
    remote: RemoteServer = RemoteServer(),
    env: Annotated[
        tuple[str, ...],
        Parameter(
            help="NAME=VALUE, a setting for the entry; can be given several times.", negative=()
        ),
    ] = (),
    name: Annotated[
        str | None,
        Parameter(help=f'Name of the entry: "{LOCAL_NAME}", or "{REMOTE_NAME}" with --url.'),
    ] = None,
    config: Annotated[
        Path | None, Parameter(help="Another config file of this host, such as a project's.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Show what would change, and change nothing.", negative=())
    ] = False,
    remove: Annotated[bool, Parameter(help="Take the entry out.", negative=())] = False,
    force: Annotated[
        bool, Parameter(help="Replace an entry of this name that is another server's.", negative=())
    ] = False,
    check: Annotated[bool, Parameter(help="Start what was written and list its tools.")] = True,
) -> None:
    """Put this server into the config of claude-desktop, claude-code, cursor or vscode.

    Other entries stay and a backup is made. The command is written with its absolute path, the
    folders and the settings of this environment. A file with comments is not changed: what to
    put into it is shown instead.
    """
    speak_plainly()
    chosen = host_of(host)
    if config is not None:
        path = Path(os.path.abspath(config.expanduser()))
        chosen = replace(chosen, config=path, folder=path.parent)
    name = name or (REMOTE_NAME if remote.url else LOCAL_NAME)
    was_here = chosen.is_here
    try:
        check_options(chosen, local, remote, env)
        file = hostfile.read(chosen.config, chosen.comments)
        old = file.part(chosen.section, dict).get(name)
        if old is not None and not force:
            check_owner(file, name, old, remote.url)
        if remove:
            after = without_entry(file, chosen, name)
        else:
            entry = (
                local_server(chosen, local, parse_env(env), old)
                if remote.url is None
                else remote_server(chosen, name, remote, parse_env(env))
            )
            after = with_entry(file, chosen, name, entry)
        changed = (show_change if dry_run else write_change)(chosen, name, file, after)
    except BadSettings as error:
        die(error)
    except UnusableFile as error:
        refuse(f"{error} Nothing was changed.")
    if remove or dry_run:
        return
    if not was_here:
        print(f"{chosen.title} does not seem to be installed here; the entry waits for it.")
    entry = after[chosen.section][name]
    works = not check or try_out(entry)
    if works and changed:
        print(f"{chosen.then} Then ask: {first_question(entry)}")
    raise SystemExit(0 if works else 1)


def check_options(
    host: Host, local: LocalServer, remote: RemoteServer, env: tuple[str, ...]
) -> None:
    """Refuse options that contradict each other.

    Raises:
        BadSettings: they do.
    """
    if remote.url is None:
        if remote.bridge or remote.oauth:
            raise BadSettings("install: --bridge and --oauth go with --url.")
        if local.attach == "always":
            check_supported()
        return
    takes_env = remote.bridge or not host.speaks_http
    if local.projects_dir or local.notebooks_dir or local.attach or (env and not takes_env):
        raise BadSettings(
            "install: folders, --attach and --env are settings of a server that the host starts."
            " With --url, set them where that server runs."
        )


def check_owner(file: ConfigFile, name: str, old: Any, url: str | None) -> None:
    """Refuse to change an entry that belongs to another server.

    Raises:
        UnusableFile: the entry belongs to another server.
    """
    if not is_ours(name, old) and describe(old) != url:
        raise UnusableFile(
            f'{file.path} has a "{name}" for another server: {describe(old)}.'
            " Choose another --name, or replace that one with --force."
        )


def local_server(host: Host, options: LocalServer, env: dict[str, str], old: Any) -> Entry:
    """An entry that starts this server and keeps what an earlier entry has set.

    Raises:
        BadSettings: a setting can't be used.
    """
    attach = {} if options.attach is None else {"RMI_AGENT_ATTACH": options.attach}
    folders = {
        "python_projects_dir": options.projects_dir,
        "notebooks_dir": options.notebooks_dir,
    }
    before = env_of(old) if kind(old) == "local" else {}
    env = environment(folders, {**env, **attach}, before)
    start = start_command()
    if start.doubt:
        print(f"Note: {start.doubt}", file=sys.stderr)
    return local_entry(host, start.words, env)


def remote_server(host: Host, name: str, options: RemoteServer, env: dict[str, str]) -> Entry:
    """An entry for a server elsewhere; `env` is for the bridge, if the entry has one.

    Raises:
        BadSettings: the URL can't be used, or there is no token for it.
    """
    url = checked_url(options.url or "")
    bridged = options.bridge or not host.speaks_http
    if options.oauth:
        token = None
    elif host.asks and not bridged:
        token = reference(name)  # VS Code syncs its config to other machines
    elif found := token_for(load(), url):
        token = found[0]
    else:
        raise BadSettings(
            f"RMI_AGENT_TOKEN: set it to the token of {url}. Or use --oauth, if that server runs"
            " with RMI_AGENT_AUTH=token+oauth and the host is to sign in."
        )
    if not bridged:
        return url_entry(host, url, token)
    if find_npx()[0] == "npx" and sys.platform != "win32":
        print("Note: npx is not found here; install Node.js (nodejs.org).", file=sys.stderr)
    return bridge_entry(host, url, token, env)


def try_out(entry: Entry) -> bool:
    """Start the entry's server and print the result; False if it does not work."""
    try:
        tools = asyncio.run(tools_of(entry))
    except ProbeSkipped as error:
        print(f"- not tried: {error}")
        return True
    except ProbeFailed as error:
        print(f"✗ {error}")
        print("  The entry stays. Run: rmi-agent-mcp-server doctor")
        return False
    print(f"✓ it starts and lists {len(tools)} tools.")
    return True


def first_question(entry: Entry) -> str:
    """Suggest the first thing to ask a model."""
    folder = env_of(entry).get(FOLDERS[0])
    if folder is not None and not Path(folder, "hello_world.py").is_file():
        return f"Write hello.py and run it. (Files are in {folder}.)"
    return "Run hello_world.py."


def refuse(why: str) -> NoReturn:
    """Print why nothing was done, and exit with 1."""
    print(f"rmi-agent-mcp-server: {why}", file=sys.stderr)
    raise SystemExit(1)
