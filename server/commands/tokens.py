"""`rmi-agent tokens`: lists and revokes sign-ins.

Works only on the database, whether or not a server runs; a running server notices the change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..console import die
from ..errors import BadSettings

if TYPE_CHECKING:
    from ..auth import SignIn

app = cyclopts.App(
    name="tokens",
    help="List and revoke clients' sign-ins (RMI_AGENT_AUTH=token+oauth).",
    help_format="plaintext",
    help_epilogue="Examples:\n  rmi-agent tokens list\n  rmi-agent tokens revoke alice",
)


@app.command(name="list")
def list_() -> None:
    """List who is signed in, with which client, since when and until when."""
    from ..auth import Store, store_file  # lazy: takes a second, which --help can do without

    try:
        signed_in = Store(store_file()).sign_ins()
    except BadSettings as error:
        die(error)
    if not signed_in:
        print("Nobody is signed in.")
        return
    table = Table("id", "user", "client", "server", "since", "last used", "expires", box=None)
    for one in sorted(signed_in, key=lambda one: one.since):
        names = (one.id, one.principal, one.client_name or "(no name)", one.resource)
        table.add_row(*names, day(one.since), day(one.used), day(one.until))
    # Don't wrap lines in a pipe, which has no width.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 500)
    console.print(table)


@app.command
def revoke(
    *names: Annotated[str, Parameter(help="IDs, users or clients, as `tokens list` shows them.")],
    all_: Annotated[
        bool, Parameter(name="--all", help="Revoke all sign-ins.", negative=())
    ] = False,
) -> None:
    """Revoke sign-ins: their tokens are refused from now on, also by a running server."""
    if all_ == bool(names):
        die(BadSettings("tokens revoke: give ids, users or clients, or --all."))
    from ..auth import Store, store_file

    try:
        store = Store(store_file())
        ended = [one for one in store.sign_ins() if all_ or called(one, names)]
        store.end(*ended)
    except BadSettings as error:
        die(error)
    for one in ended:
        print(f"{one.id}: {one.principal} is signed out of {one.client_name or 'a client'}")
    unknown = [name for name in names if not any(called(one, [name]) for one in ended)]
    if unknown:
        die(BadSettings(f"tokens revoke: no sign-in matches {', '.join(unknown)}."))
    if not ended:
        print("Nobody is signed in.")


def called(one: SignIn, names: Iterable[str]) -> bool:
    """Whether one of the names is a sign-in's id, user or client."""
    return not {one.id, one.principal, one.client_name}.isdisjoint(names)


def day(seconds: int) -> str:
    """Format a time in the local time zone, to the minute."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
