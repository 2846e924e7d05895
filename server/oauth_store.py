"""Who is signed in: known clients and their sign-ins, in one private file of this user.

Digests only, never a token; knows neither HTTP nor OAuth's messages. All servers of a user
share the file, as does the command that revokes: each change is made under a lock, and waits
for the disk, so none is made on an event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from . import auth, kept
from .settings import BadSettings

log = logging.getLogger(__name__)

ACCESS_SECONDS = 3600
SIGN_IN_SECONDS = 30 * 86400  # then the person is asked again
UNUSED_SECONDS = 86400  # until a client is forgotten that nobody has signed in with
CLIENTS, SIGN_INS = 500, 200  # kept at most; what was used longest ago goes first
USED_EVERY = 60  # the file is not written for each request
LOCK_SECONDS = 10.0  # for others to finish their change
FILE_LIMIT = 10_000_000  # bytes; 500 clients at their largest are 2 MB


@dataclass(frozen=True)
class Client:
    """A client that has registered itself; `used` is when somebody signed in with it, or 0."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]
    registered: int
    used: int = 0


@dataclass(frozen=True)
class Consent:
    """What a person has agreed to; `mark` tells which token of theirs they showed."""

    principal: str
    mark: str
    client_id: str
    client_name: str
    resource: str
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class SignIn:
    """A consent with its tokens, all as digests.

    `family` is the part that a sign-in's refresh tokens have in common: one that has it and
    is not the newest was used before, by whoever else has it.
    """

    id: str
    consent: Consent
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
        """Whether its last use is to be noted again."""
        return time.time() - self.used >= USED_EVERY


@dataclass(frozen=True)
class Minted:
    """What a client gets, and nobody keeps."""

    access: str
    refresh: str


@dataclass
class State:
    """What the file has, by ids."""

    version: int = 1
    clients: dict[str, Client] = field(default_factory=dict)
    sign_ins: dict[str, SignIn] = field(default_factory=dict)

    def live(self) -> list[SignIn]:
        """Sign-ins that have not expired."""
        now = time.time()
        return [one for one in self.sign_ins.values() if one.until > now]

    def prune(self) -> None:
        """Forget what has expired, and what is too much."""
        now = time.time()
        newest = sorted(self.live(), key=lambda one: one.used, reverse=True)[:SIGN_INS]
        self.sign_ins = {one.id: one for one in newest}
        needed = {one.consent.client_id for one in newest}
        # Registering is open to all: a flood forgets those of the flood first.
        ranked = sorted(
            (
                client
                for client in reversed(self.clients.values())
                if client.id in needed or client.used or client.registered > now - UNUSED_SECONDS
            ),
            key=lambda client: (client.id in needed, client.used, client.registered),
            reverse=True,
        )
        kept = {client.id for client in ranked[:CLIENTS]}
        self.clients = {key: client for key, client in self.clients.items() if key in kept}


FORMAT = TypeAdapter(State)


class Store:
    """The file, read again whenever somebody else has changed it.

    Args:
        path: where it is; its folder is made with the first change.

    Raises:
        BadSettings: there is one that can't be read, or that others may have changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pair = threading.Lock()  # what was read belongs to the file that was seen
        self._seen = self._look()
        self._state = self._read()

    @property
    def state(self) -> State:
        """What the file has now; not to be changed.

        A file that was spoilt while the server runs is told of once, and what it had is used.
        """
        with self._pair:
            if (seen := self._look()) != self._seen:
                self._seen = seen
                try:
                    self._state = self._read()
                except BadSettings as error:
                    log.error("%s Until then, those who were signed in still are.", error)
            return self._state

    @contextlib.contextmanager
    def changed(self) -> Iterator[State]:
        """The state, to be changed by the body and then written, while all others wait.

        Raises:
            BadSettings: the file can't be read or written, or others keep it locked; nothing is
                changed.
        """
        try:
            with self._locked():
                state = self._read()
                yield state
                state.prune()
                self._write(state)
                with self._pair:
                    self._seen, self._state = self._look(), state
        except OSError as error:
            raise BadSettings(
                f"RMI_AGENT_AUTH: {self._path} can't be written: {error.strerror}."
            ) from None

    def keep(self, client: Client) -> None:
        """Keep a client that has registered."""
        with self.changed() as state:
            state.clients[client.id] = client

    def sign_in(self, consent: Consent, code: str) -> Minted:
        """Keep a consent that was given with `code`; its first tokens."""
        now = int(time.time())
        tokens, family = new_tokens()
        with self.changed() as state:
            one = SignIn(
                id=secrets.token_hex(4),
                consent=consent,
                code=digest(code),
                family=digest(family),
                refresh=digest(tokens.refresh),
                access=digest(tokens.access),
                access_until=now + ACCESS_SECONDS,
                since=now,
                used=now,
                until=now + SIGN_IN_SECONDS,
            )
            state.sign_ins[one.id] = one
            if client := state.clients.get(consent.client_id):
                state.clients[client.id] = replace(client, used=now)
        return tokens

    def rotate(self, refresh: str) -> Minted | None:
        """New tokens for a refresh token; None, and the end of its sign-in, if it was used."""
        family = refresh.partition(".")[0]
        with self.changed() as state:
            one = find(state, family=digest(family))
            if one is None:
                return None
            if one.refresh != digest(refresh):
                log.warning("A refresh token was used twice; sign-in %s has ended.", one.id)
                del state.sign_ins[one.id]
                return None
            tokens, _ = new_tokens(family)
            now = int(time.time())
            state.sign_ins[one.id] = replace(
                one,
                refresh=digest(tokens.refresh),
                access=digest(tokens.access),
                access_until=min(now + ACCESS_SECONDS, one.until),
                used=now,
            )
        return tokens

    def note_use(self, one: SignIn) -> None:
        """Remember when a sign-in was used, to the minute."""
        if not one.is_stale:
            return
        with self.changed() as state:
            if there := state.sign_ins.get(one.id):
                state.sign_ins[one.id] = replace(there, used=int(time.time()))

    def end(self, one: SignIn) -> None:
        """End a sign-in: its tokens are worth nothing from now on."""
        with self.changed() as state:
            state.sign_ins.pop(one.id, None)

    def _look(self) -> tuple[int, ...]:
        """What differs when the file does."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> State:
        if not self._path.exists():
            return State()
        cure = "Move it away: clients then sign in again."
        text = kept.private_text(self._path, "RMI_AGENT_AUTH", cure, FILE_LIMIT)
        try:
            state = FORMAT.validate_json(text)
        except ValidationError:
            raise BadSettings(
                f"RMI_AGENT_AUTH: {self._path} is not what was written there. {cure}"
            ) from None
        if state.version != State.version:
            raise BadSettings(
                f"RMI_AGENT_AUTH: {self._path} is of another version of this server. {cure}"
            )
        return state

    def _write(self, state: State) -> None:
        descriptor, written = tempfile.mkstemp(dir=self._path.parent)  # it has mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(FORMAT.dump_json(state, indent=1))
                file.flush()
                os.fsync(descriptor)  # a rotated token that is lost reads as one used twice
            os.replace(written, self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform != "win32":
            folder.chmod(0o700)
        # A file of its own: the store's is replaced, and a lock stays with what was.
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        with open(descriptor, "wb"):
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            else:
                until = time.monotonic() + LOCK_SECONDS
                while not locked(descriptor):
                    if time.monotonic() > until:
                        raise BadSettings(
                            f"RMI_AGENT_AUTH: another process keeps {self._path} locked."
                            " Nothing was"
                            " changed; try again in a moment."
                        )
                    time.sleep(0.02)
            yield


def locked(descriptor: int) -> bool:
    """Whether the lock of a file could be taken."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def store_file() -> Path:
    """Where sign-ins are kept: beside the token of this user's servers."""
    return kept.token_file().with_name("sign-ins.json")


def digest(secret: str) -> str:
    """What is kept of a code or token."""
    return auth.digest(secret).hex()


def new_tokens(family: str | None = None) -> tuple[Minted, str]:
    """Tokens, the refresh token of a `family`, and the family."""
    family = family or secrets.token_urlsafe(16)
    return Minted(secrets.token_urlsafe(32), f"{family}.{secrets.token_urlsafe(32)}"), family


def find(state: State, **digests: str) -> SignIn | None:
    """The sign-in that has a code, a family or an access token with this digest."""
    [(name, wanted)] = digests.items()
    return next((one for one in state.live() if getattr(one, name) == wanted), None)
