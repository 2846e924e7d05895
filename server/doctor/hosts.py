"""Checks the entries for this server in the configs of hosts.

Starts what an entry starts. Knows nothing about this process's own settings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ..errors import ProbeFailed, ProbeSkipped, UnusableFile
from ..hosts import (
    Entry,
    Host,
    address,
    config_file,
    env_of,
    is_ours,
    kind,
    tools_of,
)
from ..resident import is_held
from .result import CheckResult


async def of_host(host: Host) -> AsyncIterator[CheckResult]:
    """Check that a host's entries for this server work."""
    try:
        entries = config_file.read(host.config, host.comments).part(host.section, dict)
    except UnusableFile as error:
        yield CheckResult(
            host.title, False, str(error), f"Fix the file: {host.title} can't read it either."
        )
        return
    ours = {name: entry for name, entry in entries.items() if is_ours(name, entry)}
    if not ours:
        why = "no entry" if host.is_here else "not found on this machine"
        more = f"; rmi-agent-mcp-server install {host.name} adds one" if host.is_here else ""
        yield CheckResult(host.title, None, why + more)
    for name, entry in ours.items():
        yield await of_entry(host, name, entry)


async def of_entry(host: Host, name: str, entry: Entry) -> CheckResult:
    """Check that an entry works."""
    what = f'{host.title}, "{name}"'
    alone = env_of(entry).get("RMI_AGENT_ATTACH") == "always" and not is_held()
    if alone:  # or the check would leave a resident server behind
        entry = {**entry, "env": {**env_of(entry), "RMI_AGENT_ATTACH": "never"}}
    if kind(entry) == "url" and not host.speaks_http:
        why = f"{host.title} supports only commands, and this is a URL"
        again = f"rmi-agent-mcp-server connect {host.name} {entry['url']} --name {name}"
        return CheckResult(what, False, why, f"Run: {again}")
    try:
        tools = await tools_of(entry)
    except ProbeSkipped as error:
        return CheckResult(what, None, f"not tried: {error}")
    except ProbeFailed as error:
        there = address(entry)
        again = f"Run: rmi-agent-mcp-server install {host.name} --name {name}"
        todo = f"See: rmi-agent-mcp-server doctor --url {there}" if there else again
        return CheckResult(what, False, str(error), todo)
    more = "; its resident server is started when the host first needs it" if alone else ""
    return CheckResult(what, True, f"starts and lists {len(tools)} tools{more}")
