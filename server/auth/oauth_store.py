"""Stores OAuth clients and sign-ins in one SQLite database that all servers of this user share.

Stores digests, never a token; knows neither HTTP nor OAuth's messages. Each call reopens the file
and may wait for another process that is writing, so call it from a thread.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Literal

from ..errors import BadSettings
from ..state_dir import private_folder, private_text, token_file
from . import tokens

log = logging.getLogger(__name__)

ACCESS_SECONDS = 3600
SIGN_IN_SECONDS = 30 * 86400  # then the person has to sign in again
UNUSED_SECONDS = 86400  # TTL of clients that nobody ever signed in with
CLIENTS, SIGN_INS = 500, 200  # max rows; the least recently used are deleted first
USED_EVERY = 60  # min seconds between updates of a sign-in's last use
LOCK_SECONDS = 10.0  # max wait for other processes' locks
START_ANEW = "Move it away: clients then sign in again."

Kind = Literal["code", "access", "refresh"]  # kinds of secret
VERSION = 1  # schema version
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS clients (
    id TEXT PRIMARY KEY, name TEXT, redirect_uris TEXT, registered INTEGER, used INTEGER);
CREATE TABLE IF NOT EXISTS sign_ins (
    principal TEXT, mark TEXT, client_id TEXT, client_name TEXT, resource TEXT, scopes TEXT,
    id TEXT PRIMARY KEY, code TEXT UNIQUE, family TEXT UNIQUE, refresh TEXT, access TEXT UNIQUE,
    access_until INTEGER, since INTEGER, used INTEGER, until INTEGER);
PRAGMA user_version = {VERSION};
COMMIT;
"""
# Anybody may register a client: a flood of them displaces only clients that nobody ever used.
PRUNE = (
    "DELETE FROM sign_ins WHERE until <= :now OR id NOT IN"
    " (SELECT id FROM sign_ins ORDER BY used DESC, rowid DESC LIMIT :sign_ins)",
    "DELETE FROM clients WHERE id NOT IN (SELECT id FROM"
    " (SELECT *, rowid AS age, id IN (SELECT client_id FROM sign_ins) AS needed FROM clients)"
    " WHERE needed OR used OR registered > :now - :unused"
    " ORDER BY needed DESC, used DESC, registered DESC, age DESC LIMIT :clients)",
)


@dataclass(frozen=True)
class Client:
    """A self-registered client; `used` is when somebody last signed in with it, or 0."""

    id: str
    name: str
    redirect_uris: str  # space-separated; URIs have no spaces
    registered: int
    used: int = 0


@dataclass(frozen=True)
class Consent:
    """What a person agreed to; `mark` identifies the token that they entered."""

    principal: str
    mark: str
    client_id: str
    client_name: str
    resource: str
    scopes: str  # space-separated, as in OAuth


@dataclass(frozen=True)
class SignIn(Consent):
    """A consent and the digests of its tokens.

    All refresh tokens of a sign-in share their first part, the `family`. A token of the family
    that is not the newest has been used before, so somebody else has it too.
    """

    id: str
    code: str
    family: str
    refresh: str
    access: str
    access_until: int
    since: int
    used: int
    until: int

    @property
    def is_stale(self) -> bool:
        """Whether the stored time of last use is due for an update."""
        return time.time() - self.used >= USED_EVERY


@dataclass(frozen=True)
class Minted:
    """The tokens that a client receives; only their digests are stored."""

    access: str
    refresh: str


class Store:
    """The database; each call sees what other processes have written.

    Args:
        path: the database file, created with its folder if missing.

    Raises:
        BadSettings: the file can't be used, or other users may change it. All methods raise this.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._creating = threading.Lock()
        self._create()
        # Before any connection: closing the file would drop SQLite's locks on it in this process
        # (sqlite.org/howtocorrupt.html, 2.2).
        private_text(path, "RMI_AGENT_AUTH", START_ANEW, 0)
        with self._opened():  # so that an unusable database fails at startup
            pass

    def client(self, client_id: str) -> Client | None:
        """The registered client with this id, or None."""
        with self._opened() as database:
            row = database.execute("SELECT * FROM clients WHERE id = ?", (client_id,)).fetchone()
        return row and Client(*row)

    def find(self, kind: Kind, secret: str) -> SignIn | None:
        """The sign-in that a code or a token belongs to, unless it has expired."""
        with self._opened() as database:
            return find(database, kind, secret)

    def sign_ins(self) -> list[SignIn]:
        """All sign-ins that have not expired."""
        with self._opened() as database:
            rows = database.execute("SELECT * FROM sign_ins WHERE until > ?", (int(time.time()),))
            return [SignIn(*row) for row in rows]

    def register(self, client: Client) -> None:
        """Store a client."""
        with self._changed() as database:
            insert(database, "clients", client)

    def sign_in(self, consent: Consent, code: str) -> Minted:
        """Store a consent that was given with `code`; returns its first tokens."""
        now, family = int(time.time()), secrets.token_urlsafe(16)
        minted = new_tokens(family)
        one = SignIn(
            **asdict(consent),
            id=secrets.token_hex(4),
            code=digest(code),
            family=digest(family),
            refresh=digest(minted.refresh),
            access=digest(minted.access),
            access_until=now + ACCESS_SECONDS,
            since=now,
            used=now,
            until=now + SIGN_IN_SECONDS,
        )
        with self._changed() as database:
            insert(database, "sign_ins", one)
            database.execute("UPDATE clients SET used = ? WHERE id = ?", (now, consent.client_id))
        return minted

    def rotate(self, refresh: str) -> Minted | None:
        """New tokens for a refresh token; if that was used before, None, and its sign-in ends."""
        now, minted = int(time.time()), new_tokens(refresh.partition(".")[0])
        with self._changed() as database:
            one = find(database, "refresh", refresh)
            if one is None:
                return None
            if one.refresh != digest(refresh):
                log.warning("A refresh token was used twice; sign-in %s has ended.", one.id)
                database.execute("DELETE FROM sign_ins WHERE id = ?", (one.id,))
                return None
            until = min(now + ACCESS_SECONDS, one.until)
            database.execute(
                "UPDATE sign_ins SET refresh = ?, access = ?, access_until = ?, used = ?"
                " WHERE id = ?",
                (digest(minted.refresh), digest(minted.access), until, now, one.id),
            )
        return minted

    def note_use(self, one: SignIn) -> None:
        """Record that a sign-in was used, at most once a minute."""
        if one.is_stale:
            with self._changed() as database:
                now = int(time.time())
                database.execute("UPDATE sign_ins SET used = ? WHERE id = ?", (now, one.id))

    def end(self, *sign_ins: SignIn) -> None:
        """End sign-ins: their tokens are refused from now on."""
        with self._changed() as database:
            ids = [(one.id,) for one in sign_ins]
            database.executemany("DELETE FROM sign_ins WHERE id = ?", ids)

    @contextlib.contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        """Open the database in a transaction: all of the body's changes are written, or none."""
        with self._opened() as database:
            # If a power cut undid a commit, the refresh token would look used twice.
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("BEGIN IMMEDIATE")
            yield database
            bounds = {"sign_ins": SIGN_INS, "clients": CLIENTS, "unused": UNUSED_SECONDS}
            for statement in PRUNE:
                database.execute(statement, {"now": int(time.time()), **bounds})
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self._create()
            connection = sqlite3.connect(self._path, timeout=LOCK_SECONDS, isolation_level=None)
            with contextlib.closing(connection):  # rolls back uncommitted changes
                if not (version := connection.execute("PRAGMA user_version").fetchone()[0]):
                    connection.executescript(SCHEMA)
                elif version != VERSION:
                    raise BadSettings(
                        f"RMI_AGENT_AUTH: {self._path} is from another version of this server."
                        f" {START_ANEW}"
                    )
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise BadSettings(f"RMI_AGENT_AUTH: {self._path} {reason(error)}") from None

    def _create(self) -> None:
        with self._creating:
            if not self._path.exists():
                private_folder(self._path.parent)
                self._path.touch(mode=0o600)  # SQLite's journal gets the same mode


def insert(database: sqlite3.Connection, table: str, row: Client | SignIn) -> None:
    """Insert a row, unless one with its key exists."""
    values = astuple(row)
    places = ", ".join("?" * len(values))
    database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", values)


def find(database: sqlite3.Connection, kind: Kind, secret: str) -> SignIn | None:
    """The sign-in that a secret belongs to; any refresh token of its family matches."""
    column, text = ("family", secret.partition(".")[0]) if kind == "refresh" else (kind, secret)
    query = f"SELECT * FROM sign_ins WHERE {column} = ? AND until > ?"
    row = database.execute(query, (digest(text), int(time.time()))).fetchone()
    return row and SignIn(*row)


def reason(error: sqlite3.Error | OSError) -> str:
    """Say why the database can't be used, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # primary code, without extended bits
    if code == sqlite3.SQLITE_BUSY:
        return "is locked by another process. Nothing was changed; try again later."
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return f"is damaged ({error}). {START_ANEW}"
    return f"can't be used: {error}. Check its disk and its permissions."


def store_file() -> Path:
    """Where sign-ins are stored: beside the token of this user's servers."""
    return token_file().with_name("sign-ins.sqlite")


def digest(secret: str) -> str:
    """The digest that is stored for a code or token."""
    return tokens.digest(secret).hex()


def new_tokens(family: str) -> Minted:
    """Generate an access token and a refresh token of a family."""
    return Minted(secrets.token_urlsafe(32), f"{family}.{secrets.token_urlsafe(32)}")
