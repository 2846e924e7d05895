"""Authorization codes that a person has agreed to and a client has not exchanged yet.

Kept in memory, by digest, for two minutes. Knows nothing about tokens or pages.
"""

from __future__ import annotations

import secrets
import time

from mcp.server.auth.provider import AuthorizationCode

from .oauth_store import digest
from .sign_in import PendingSignIn

CODE_SECONDS = 120.0
CODES = 1_000  # max unexchanged codes; each took a person's token


class Code(AuthorizationCode):
    """An unexchanged code; `mark` identifies the token that the person entered."""

    mark: str


class AuthorizationCodes:
    """All unexchanged codes of this server."""

    def __init__(self) -> None:
        self._codes: dict[str, Code] = {}  # by digest

    def issue(self, pending: PendingSignIn, principal: str, mark: str) -> str:
        """A new code for what a principal agreed to."""
        now = time.time()
        self._codes = {key: one for key, one in self._codes.items() if one.expires_at > now}
        while len(self._codes) >= CODES:
            self._codes.pop(next(iter(self._codes)))
        code, params = secrets.token_urlsafe(32), pending.params
        self._codes[digest(code)] = Code(
            code="",  # only digests are kept
            scopes=params.scopes or [],
            expires_at=now + CODE_SECONDS,
            client_id=pending.client.id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject=principal,
            mark=mark,
        )
        return code

    def find(self, code: str) -> Code | None:
        """What is known about a code; None if it was never issued or was taken."""
        found = self._codes.get(digest(code))
        return found and found.model_copy(update={"code": code})

    def take(self, code: str) -> Code | None:
        """The same, and the code can't be used again."""
        return self._codes.pop(digest(code), None)
