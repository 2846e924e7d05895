"""`rmi-agent install | connect | uninstall`: this server's entry in a host's config.

Has the options, the order of the work and its messages; hosts, entries and files have their own
modules. The server itself needs none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..attach_modes import Attach
from ..console import die, program, say, speak_plainly
from ..errors import BadSettings, ProbeFailed, ProbeSkipped, UnusableFile
from ..hosts import (
    FOLDERS,
    LOCAL_NAME,
    REMOTE_NAME,
    ConfigFile,
    Entry,
    Host,
    HostName,
    any_host,
    bridge_entry,
    carried_over,
    checked_url,
    config_file,
    describe,
    env_of,
    environment,
    find_npx,
    hide_tokens,
    host_of,
    hosts,
    is_ours,
    kind,
    local_entry,
    parse_env,
    reference,
    show_change,
    snippet,
    start_command,
    token_for,
    tools_of,
    url_entry,
    with_entry,
    without_entry,
    write_change,
)
from ..plurals import counted
from ..resident import check_supported
from ..settings import load, shown_variables
from .options import NotebooksDir, ProjectsDir


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Which entry of which file to change, and how carefully."""

    name: Annotated[
        str | None,
        Parameter(help=f'Name of the entry ("{LOCAL_NAME}", or "{REMOTE_NAME}" with connect).'),
    ] = None
    config: Annotated[
        Path | None, Parameter(help="Another config file of this host, such as a project's.")
    ] = None
    dry_run: Annotated[
        bool, Parameter(help="Show what would change without changing it.", negative=())
    ] = False
    force: Annotated[
        bool, Parameter(help="Change an entry of this name even if it is not ours.", negative=())
    ] = False


ToConfigure = Annotated[HostName, Parameter(help="Application to configure.")]
ToPrintFor = Annotated[
    HostName | None, Parameter(help="Application to configure; any other with --print.")
]
Env = Annotated[
    tuple[str, ...],
    Parameter(
        help="NAME=VALUE, a variable in the entry; can be repeated.",
        negative=(),
        show_default=False,
        completer=lambda _: [f"{name}=" for name in shown_variables()],
    ),
]
Print = Annotated[
    bool,
    Parameter(name="--print", help="Print the entry, to add it to a config by hand.", negative=()),
]
Check = Annotated[bool, Parameter(help="Start the new entry and list its tools.")]


def install(
    host: ToPrintFor = None,
    /,
    *,
    projects_dir: ProjectsDir = None,
    notebooks_dir: NotebooksDir = None,
    attach: Annotated[
        Attach | None,
        Parameter(
            help="Whether to use the background server: auto, always or never (RMI_AGENT_ATTACH)."
        ),
    ] = None,
    env: Env = (),
    options: Options = Options(),
    show: Print = False,
    check: Check = True,
) -> None:
    """Add this server to the config of an application such as Claude Desktop.

    Other entries and comments are kept, and the old file is backed up. The entry has the command's
    absolute path, the folders, and the settings of this environment. --print shows it instead.
    """
    with refusals():
        if attach == "always":
            check_supported()
        name = options.name or LOCAL_NAME
        if host is None and not show:
            names = ", ".join(one.name for one in hosts())
            raise BadSettings(f"name one of {names}; or --print the entry for another application.")
        chosen = any_host() if host is None else chosen_host(host, options)
        file = empty(chosen) if show else opened(chosen, name, options)
        old = chosen.shape.read(file.part(chosen.section, dict).get(name))
        variables = parse_env(env) | ({} if attach is None else {"RMI_AGENT_ATTACH": attach})
        folders = {"python_projects_dir": projects_dir, "notebooks_dir": notebooks_dir}
        variables = environment(folders, variables, env_of(old) if kind(old) == "local" else {})
        start = start_command()
        if start.doubt:
            say(f"Note: {start.doubt}", sys.stderr)
        if carried := ", ".join(carried_over(variables)):
            say(f"Taken over from here, without passwords: {carried}.", sys.stderr)
        entry = local_entry(start.words, variables)
        if show:
            print_entry(chosen, with_entry(file, chosen, name, entry))
        else:
            add(chosen, file, name, entry, options, check)


def connect(
    host: ToConfigure,
    url: Annotated[
        str, Parameter(help="Address of the server; its token is read from RMI_AGENT_TOKEN.")
    ],
    /,
    *,
    bridge: Annotated[
        bool, Parameter(help="Use mcp-remote even if the host speaks HTTP.", negative=())
    ] = False,
    oauth: Annotated[
        bool, Parameter(help="Write no token; the host signs in.", negative=())
    ] = False,
    env: Env = (),
    options: Options = Options(),
    show: Print = False,
    check: Check = True,
) -> None:
    """Connect a host to a server that runs elsewhere.

    Claude Desktop takes only commands, so its entry starts mcp-remote, which needs Node.js.
    """
    with refusals():
        name = options.name or REMOTE_NAME
        chosen = chosen_host(host, options)
        file = empty(chosen) if show else opened(chosen, name, options, url)
        bridged = bridge or not chosen.speaks_http
        if env and not bridged:
            raise BadSettings(
                "--env: only mcp-remote has an environment. Set the server's variables where it"
                " runs, or add --bridge."
            )
        address = checked_url(url)
        if address.endswith("/sse") and chosen.shape.sse_url is None and not bridged:
            raise BadSettings(
                f"URL: {chosen.title} does not speak legacy SSE. Write {address[:-4]}/mcp, or add"
                " --bridge."
            )
        token = None if oauth else token_of(chosen, name, address, bridged)
        if not bridged:
            entry = url_entry(address, token)
        else:
            if find_npx()[0] == "npx" and sys.platform != "win32":
                say("Note: npx was not found; install Node.js (nodejs.org).", sys.stderr)
            entry = bridge_entry(address, token, parse_env(env))
        if show:
            print_entry(chosen, with_entry(file, chosen, name, entry))
            return
        add(chosen, file, name, entry, options, check)


def uninstall(host: ToConfigure, /, *, options: Options = Options()) -> None:
    """Remove an entry of this server from a host's config; other entries are kept."""
    with refusals():
        name = options.name or LOCAL_NAME
        chosen = chosen_host(host, options)
        file = opened(chosen, name, options)
        change = show_change if options.dry_run else write_change
        change(chosen, name, file, without_entry(file, chosen, name))


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Print why nothing was changed, and exit: with 2 after wrong options, 1 after a bad file."""
    speak_plainly()
    try:
        yield
    except BadSettings as error:
        die(error)
    except UnusableFile as error:
        say(f"{program()}: {error} Nothing was changed.", sys.stderr)
        raise SystemExit(1) from None


def chosen_host(name: HostName, options: Options) -> Host:
    """The host to configure, with the config file that the options name."""
    host = host_of(name)
    if options.config is not None:
        path = Path(os.path.abspath(options.config.expanduser()))
        host = replace(host, config=path, folder=path.parent)
    return host


def opened(host: Host, name: str, options: Options, url: str | None = None) -> ConfigFile:
    """A host's config; an entry for `url` is taken for ours, whatever its name.

    Raises:
        UnusableFile: the config can't be read, or its entry belongs to another server.
    """
    file = config_file.read(host.config, host.format)
    old = host.shape.read(file.part(host.section, dict).get(name))
    if old is None or options.force or is_ours(name, old) or describe(old) == url:
        return file
    raise UnusableFile(
        f'{file.path} has an entry "{name}" for another server: {describe(old)}.'
        " Choose another --name, or replace it with --force."
    )


def empty(host: Host) -> ConfigFile:
    """A config without entries, for one that is only printed."""
    return ConfigFile(host.config, None, {}, host.format)


def print_entry(host: Host, config: dict[str, Any]) -> None:
    """Print a config with one entry, without its token."""
    shown = hide_tokens(snippet(config, host.format))
    print(shown, end="")
    if "********" in shown:
        print("Replace ******** with the token.", file=sys.stderr)


def token_of(host: Host, name: str, url: str, bridged: bool) -> str:
    """The token of a server elsewhere, or a reference by which the host asks for it.

    Raises:
        BadSettings: no token is known.
    """
    if host.asks and not bridged:
        return reference(name)  # VS Code syncs its config to other machines
    if found := token_for(load(), url):
        return found[0]
    raise BadSettings(
        f"RMI_AGENT_TOKEN: set it to the token of {url}. Or use --oauth, so that the host signs"
        " in, if that server runs with RMI_AGENT_AUTH=token+oauth."
    )


def add(
    host: Host, file: ConfigFile, name: str, entry: Entry, options: Options, check: bool
) -> None:
    """Write an entry, try it, and say what to do next; exits with 1 if it does not work.

    Raises:
        UnusableFile: the config can't be written.
    """
    was_here, after = host.is_here, with_entry(file, host, name, entry)
    if options.dry_run:
        show_change(host, name, file, after)
        return
    changed = write_change(host, name, file, after)
    if not was_here:
        say(f"{host.title} does not seem to be installed; the entry is ready for it.")
    entry = host.shape.read(after[host.section][name])
    works = not check or try_out(entry)
    if works and changed:
        say(f"{host.then} Then ask: {first_question(entry)}")
    raise SystemExit(0 if works else 1)


def try_out(entry: Entry) -> bool:
    """Start the entry's server and print the result; False if it does not work."""
    try:
        tools = asyncio.run(tools_of(entry))
    except ProbeSkipped as error:
        say(f"- not checked: {error}")
        return True
    except ProbeFailed as error:
        say(f"✗ {error}")
        say("  The entry was kept. To find the cause, run: rmi-agent doctor")
        return False
    say(f"✓ The server starts and lists {counted(len(tools), 'tool')}.")
    return True


def first_question(entry: Entry) -> str:
    """Suggest the first thing to ask a model."""
    folder = env_of(entry).get(FOLDERS[0])
    if folder is not None and not Path(folder, "hello_world.py").is_file():
        return f"Write hello.py and run it. (Files are in {folder}.)"
    return "Run hello_world.py."
