"""The bearer tokens of HTTP callers, each with the name of its principal.

Tokens come from the settings; otherwise one is created for all local servers of this user.
Remembers only digests, and knows nothing about transports.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastmcp.server.auth import AccessToken, TokenVerifier
from pydantic import SecretStr

from ...kernels import LOCAL
from ..errors import BadSettings
from ..settings import Settings
from ..state_dir import TOKEN, create_private, private_folder, private_text, token_file

DEFAULT_NAME = "token"  # the principal of RMI_AGENT_TOKEN and of the generated token
ONE_USER = (None, LOCAL, DEFAULT_NAME)  # this machine's user, however the server is reached
NAME = re.compile(r"[A-Za-z0-9_.@-]+")
TOKEN_RULE = "a token has at least 16 characters, without spaces and accented letters"


class Tokens(TokenVerifier):
    """Named tokens, compared in constant time by their digests.

    Args:
        tokens: each principal's token, by the principal's name.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        super().__init__()
        self._digests = [(name, digest(token)) for name, token in tokens.items()]

    def add(self, name: str, token: str) -> None:
        """Accept one more token for a principal."""
        self._digests.append((name, digest(token)))

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal of a token, or None."""
        given, found = digest(token), None
        for name, own in self._digests:  # no early exit: timing must not tell which matched
            if hmac.compare_digest(given, own):
                found = name
        if found is None:
            return None
        # Omit the token: requests carry this object, which may end up in a log.
        return AccessToken(token="", client_id=found, scopes=[])

    def key(self, principal: str, purpose: str) -> bytes | None:
        """A key for one purpose; it changes when the principal's token does."""
        own = next((own for name, own in self._digests if name == principal), None)
        return None if own is None else hmac.digest(own, purpose.encode(), "sha256")

    def common_key(self, purpose: str) -> bytes:
        """A key for one purpose, the same on all servers with the same tokens."""
        whole = b"".join(sorted(own for _, own in self._digests))
        return hmac.digest(whole, purpose.encode(), "sha256")

    @property
    def principals(self) -> tuple[str, ...]:
        """The names of all principals that have a token."""
        return tuple(dict.fromkeys(name for name, _ in self._digests))

    def mark(self, principal: str) -> str | None:
        """Identifies a principal's current token without revealing it; changes with the token."""
        # Only part of the digest, so that whoever finds it can't verify guesses with certainty.
        return next((own.hex()[:12] for name, own in self._digests if name == principal), None)


def digest(token: str) -> bytes:
    """The digest that is remembered for a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def same_secret(given: str, own: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), own.encode())


@dataclass(frozen=True)
class LocalToken:
    """The generated token; `new` is true if this start generated it."""

    path: Path
    token: SecretStr
    new: bool

    def announcement(self, url: str) -> str:
        """The message printed at startup; shows the token itself only when it is new."""
        if not self.new:
            return f"The token that clients need is in {self.path}; rmi-agent finds it there."
        token = self.token.get_secret_value()
        return f"""\
Clients need a token. This one was generated for you, and is shown only now:

    {token}

It is stored in {self.path}, for all servers that you start on this machine.
rmi-agent finds it there:

    rmi-agent check --server {url}/mcp

Claude Desktop, in its config file under "mcpServers":

{bridge(url, token)}

Anything else sends it as a header:

    curl {url}/mcp -H "Authorization: Bearer $(cat '{self.path}')" \\
      -H "Accept: application/json, text/event-stream" -H "Content-Type: application/json" \\
      -d '{{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {{"protocolVersion":
      "2025-06-18", "capabilities": {{}}, "clientInfo": {{"name": "curl", "version": "1"}}}}}}'
"""


def bridge(url: str, token: str) -> str:
    """The Claude Desktop config entry for a server elsewhere."""
    return f"""\
    "python-remote": {{"command": "npx", "args": ["-y", "mcp-remote", "{url}/mcp",
      "--header", "Authorization:${{AUTH}}"], "env": {{"AUTH": "Bearer {token}"}}}}"""


def may_see(who: str, owner: str | None) -> bool:
    """Whether `who` may see what `owner` recorded; None counts as this machine's user."""
    return who == owner or (who in ONE_USER and owner in ONE_USER)


@dataclass(frozen=True)
class Access:
    """How callers are identified: by `tokens`, as `principals`; not at all if `tokens` is None."""

    tokens: Tokens | None
    local: LocalToken | None = None
    principals: tuple[str, ...] = (LOCAL,)


def access(settings: Settings) -> Access:
    """The tokens from the settings, or else the generated one.

    Raises:
        BadSettings: a token can't be used, or other users can read a file with tokens.
    """
    tokens = configured_tokens(settings)
    local = None if tokens else local_token()
    if local is not None:
        tokens = {DEFAULT_NAME: local.token.get_secret_value()}
    return Access(Tokens(tokens), local, tuple(tokens))


def configured_tokens(settings: Settings) -> dict[str, str]:
    """The tokens in RMI_AGENT_TOKEN and RMI_AGENT_TOKENS, keyed by name.

    Raises:
        BadSettings: a token can't be used; the text names the variable but shows no token.
    """
    found: dict[str, str] = {}
    if settings.rmi_agent_tokens is not None:
        found = named_tokens(settings.rmi_agent_tokens.get_secret_value())
    if settings.rmi_agent_token is not None:
        token = settings.rmi_agent_token.get_secret_value()
        if not TOKEN.fullmatch(token):
            raise BadSettings(
                f"RMI_AGENT_TOKEN: {TOKEN_RULE}. This generates one:"
                ' python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if DEFAULT_NAME in found or token in found.values():
            raise BadSettings(
                "RMI_AGENT_TOKEN: RMI_AGENT_TOKENS has this token too, or one named"
                f" {DEFAULT_NAME!r}. Remove it from one of the two."
            )
        found[DEFAULT_NAME] = token
    return found


def named_tokens(value: str) -> dict[str, str]:
    """Parse `name:token,name:token`, or a file with one `name:token` per line.

    Raises:
        BadSettings: the value is neither, or other users can read the file.
    """
    variable = "RMI_AGENT_TOKENS"
    path = Path(value).expanduser()
    if path.is_absolute() or ":" not in value:
        if not path.is_absolute() and not os.path.exists(path):  # it may be a token
            raise BadSettings(
                f"{variable}: it is neither name:token,name:token nor the path of a file."
            )
        lines = [line.strip() for line in private_text(path, variable).splitlines()]
        entries = [
            (f"line {number} of {path}", line)
            for number, line in enumerate(lines, 1)
            if line and not line.startswith("#")
        ]
    else:
        parts = [part.strip() for part in value.split(",")]
        entries = [(f"entry {number}", part) for number, part in enumerate(parts, 1) if part]
    found: dict[str, str] = {}
    for where, entry in entries:
        name, _, token = (part.strip() for part in entry.partition(":"))
        if not NAME.fullmatch(name):
            raise BadSettings(
                f"{variable}: {where} does not begin with a name and a colon; names have"
                " letters, digits and _ - . @ only."
            )
        if name == LOCAL:
            raise BadSettings(f"{variable}: {LOCAL!r} names the user of a server without tokens.")
        if not TOKEN.fullmatch(token):
            raise BadSettings(f"{variable}: the token of {name!r} can't be used: {TOKEN_RULE}.")
        if name in found or token in found.values():
            raise BadSettings(f"{variable}: {where} repeats a name or a token.")
        found[name] = token
    if not found:
        raise BadSettings(f"{variable}: it has no token. Set it to name:token, or unset it.")
    return found


def local_token() -> LocalToken:
    """The token of this user's local servers, generated and stored if there is none.

    Raises:
        BadSettings: others may know the token, or none can be stored.
    """
    path, new = token_file(), False
    try:
        if not path.exists():
            private_folder()
            new = create_private(path, secrets.token_urlsafe(32) + "\n")
        token = private_text(path, "RMI_AGENT_TOKEN").strip()
    except OSError as error:
        raise BadSettings(
            f"RMI_AGENT_TOKEN: it is not set, and {path} can't be created: {error.strerror}."
            " Set it to a long random text."
        ) from None
    if not TOKEN.fullmatch(token):
        raise BadSettings(
            f"RMI_AGENT_TOKEN: there is no token in {path}. Delete it; the next start creates one."
        )
    return LocalToken(path, SecretStr(token), new)
