"""MCP hosts such as Claude Desktop: their config files, and this server's entry in them.

Other entries stay unchanged, and no file is written without being read first.
"""

from . import config_file
from .catalog import Host, HostName, any_host, host_of, hosts
from .config_change import hide_tokens, show_change, write_change
from .config_file import ConfigFile, snippet
from .entry import (
    LOCAL_NAME,
    REMOTE_NAME,
    address,
    bridge_entry,
    describe,
    env_of,
    find_npx,
    is_ours,
    kind,
    local_entry,
    start_command,
    starts_us,
    url_entry,
)
from .environment import FOLDERS, carried_over, environment, parse_env
from .merge import reference, with_entry, without_entry
from .probe import downloads, over_http, tools_of
from .remote_url import checked_url, token_for
from .shape import Entry

__all__ = [
    "FOLDERS",
    "LOCAL_NAME",
    "REMOTE_NAME",
    "ConfigFile",
    "Entry",
    "Host",
    "HostName",
    "address",
    "any_host",
    "bridge_entry",
    "carried_over",
    "checked_url",
    "config_file",
    "describe",
    "downloads",
    "env_of",
    "environment",
    "find_npx",
    "hide_tokens",
    "host_of",
    "hosts",
    "is_ours",
    "kind",
    "local_entry",
    "over_http",
    "parse_env",
    "reference",
    "show_change",
    "snippet",
    "start_command",
    "starts_us",
    "token_for",
    "tools_of",
    "url_entry",
    "with_entry",
    "without_entry",
    "write_change",
]
