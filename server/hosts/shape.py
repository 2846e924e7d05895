"""How hosts write an entry: which keys they use for its command, its URL and the rest.

Everything else in this package sees entries under the usual keys: `command`, `args`, `env`, `url`
and `headers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Entry = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """The keys of a host's entries.

    Attributes:
        command: the key of the program that an entry starts.
        env: the key of its environment.
        url: the key of the URL of a server on streamable HTTP.
        sse_url: the key of the URL of one on legacy SSE; None if the host doesn't speak it.
        headers: the key of the headers that are sent to a URL.
        types: the entry's `type` for stdio, streamable HTTP and SSE; empty if it has none.
        named: whether an entry repeats its name under `name`.
        defaults: what else an entry needs; a person may change it.
    """

    command: str = "command"
    env: str = "env"
    url: str = "url"
    sse_url: str | None = "url"
    headers: str = "headers"
    types: tuple[str, ...] = ()
    named: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def written(self) -> set[str]:
        """The keys that an entry of ours may have, besides the defaults."""
        keys = {self.command, "args", self.env, self.url, self.sse_url or self.url, self.headers}
        return keys | {"type", "name"}

    def write(self, name: str, entry: Entry) -> Entry:
        """An entry under the host's keys, without the defaults."""
        url = entry.get("url")
        is_sse = url is not None and url.endswith("/sse")
        keys = {
            "command": self.command,
            "env": self.env,
            "url": self.sse_url if is_sse else self.url,
            "headers": self.headers,
        }
        written: Entry = {}
        if self.types:
            written["type"] = self.types[0 if url is None else 2 if is_sse else 1]
        if self.named:
            written["name"] = name
        return written | {keys.get(key) or key: value for key, value in entry.items()}

    def read(self, entry: Any) -> Any:
        """An entry under the usual keys; what is no object stays as it is."""
        if not isinstance(entry, dict):
            return entry
        usual = {
            self.command: "command",
            self.env: "env",
            self.headers: "headers",
            self.url: "url",
        }
        return {usual.get(key, key): value for key, value in entry.items()}
