"""Checks the entries for this server in the configs of hosts.

Starts what an entry starts. Knows nothing about this process's own settings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from ..errors import ProbeFailed, ProbeSkipped, UnusableFile
from ..hosts import (
    FOLDERS,
    Entry,
    Host,
    address,
    config_file,
    downloads,
    env_of,
    is_ours,
    kind,
    tools_of,
)
from ..plurals import counted
from ..resident import is_held
from ..settings import misspelled_in
from .result import CheckResult


async def of_host(host: Host, scratch: dict[str, str]) -> AsyncIterator[CheckResult]:
    """Check that a host's entries for this server work.

    Args:
        host: the host.
        scratch: variables that lead a server to temporary places for what it would create.
    """
    try:
        entries = config_file.read(host.config, host.format).part(host.section, dict)
    except UnusableFile as error:
        yield CheckResult(
            host.title, False, str(error), f"Fix the file: {host.title} can't read it either."
        )
        return
    usual = {name: host.shape.read(entry) for name, entry in entries.items()}
    ours = {name: entry for name, entry in usual.items() if is_ours(name, entry)}
    if not ours:
        why = f"no entry; rmi-agent install {host.name} adds one"
        yield CheckResult(host.title, None, why)
    for name, entry in ours.items():
        for line in misspelled_in(env_of(entry)):
            yield CheckResult(f'{host.title}, "{name}"', None, line)
        yield await of_entry(host, name, entry, scratch)


async def of_entry(host: Host, name: str, entry: Entry, scratch: dict[str, str]) -> CheckResult:
    """Check that an entry works."""
    what = f'{host.title}, "{name}"'
    env = env_of(entry)
    alone = env.get("RMI_AGENT_ATTACH") == "always" and not is_held()
    if alone:  # or the check would leave a background server behind
        env["RMI_AGENT_ATTACH"] = "never"
    if kind(entry) == "local" and not downloads(entry):  # what downloads has folders of its own
        entry = {**entry, "env": {**scratch, **kept(env)}}
    elif alone:
        entry = {**entry, "env": env}
    if kind(entry) == "url" and not host.speaks_http:
        why = f"{host.title} supports only commands, and this is a URL"
        again = f"rmi-agent connect {host.name} {entry['url']} --name {name}"
        return CheckResult(what, False, why, f"Run: {again}")
    try:
        tools = await tools_of(entry)
    except ProbeSkipped as error:
        return CheckResult(what, None, f"not tried: {error}")
    except ProbeFailed as error:
        there = address(entry)
        again = f"Run: rmi-agent install {host.name} --name {name}"
        todo = f"See: rmi-agent doctor --url {there}" if there else again
        return CheckResult(what, False, str(error), todo)
    more = "; its background server is started when the host first needs it" if alone else ""
    return CheckResult(what, True, f"starts and lists {counted(len(tools), 'tool')}{more}")


def kept(env: dict[str, str]) -> dict[str, str]:
    """An entry's variables, without folders that its server would create."""
    return {
        name: value
        for name, value in env.items()
        if name not in FOLDERS or all(Path(one).exists() for one in value.split(","))
    }
