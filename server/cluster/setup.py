"""RMI_AGENT_SESSION_STORE: the setting that makes several instances of a server act as one.

Checks what all instances must have in common and reports problems in one line. Knows settings
and files; `kernels/cluster` knows where a session is.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ...kernels import StoreError
from ..errors import BadSettings
from ..launch import make_folders
from ..settings import Settings
from ..state_dir import create_private

if TYPE_CHECKING:
    from ...kernels import Instances

log = logging.getLogger(__name__)

MARK = ".rmi-agent-folder"  # file that shows instances whether they record in the same folder


async def shared_instances(settings: Settings, port: int | None = None) -> Instances | None:
    """The session leases that all instances of this server share; None if it runs alone.

    Args:
        settings: the server's settings.
        port: the port it listens on; None over stdio.

    Raises:
        BadSettings: the store can't be used, or another instance records elsewhere.
    """
    where = settings.session_store.get_secret_value()
    if where in ("", "memory"):
        return None
    if settings.auth != "token":
        raise BadSettings(
            f"RMI_AGENT_AUTH: {settings.auth} stores sign-ins in one server, but"
            " RMI_AGENT_SESSION_STORE is for several servers. Use RMI_AGENT_AUTH=token, or remove"
            " RMI_AGENT_SESSION_STORE."
        )
    from ...kernels import Instances  # lazy: most servers have no store

    address = address_of(port)
    make_folders(settings)
    try:
        folder = mark_of(settings.notebooks)
    except OSError as error:
        raise BadSettings(
            f"RMI_AGENT_NOTEBOOKS_DIR: can't write to {settings.notebooks}: {error.strerror}."
        ) from None
    try:
        found = Instances.at(where, address, folder)
        others = await found.all()
    except StoreError as error:
        raise BadSettings(f"RMI_AGENT_SESSION_STORE: {error}.") from None
    for other in others.values():
        if other.folder != folder and other.address != address:
            await found.store.close()
            raise BadSettings(
                f"RMI_AGENT_NOTEBOOKS_DIR: {settings.notebooks} is not the folder where"
                f" {other.address} records. Servers that share a RMI_AGENT_SESSION_STORE must"
                " share the notebooks folder as well."
            )
    log.info(
        "Sessions are shared with other servers through %s (RMI_AGENT_SESSION_STORE)",
        found.store.where,
    )
    if not settings.jupyter_server_url:
        log.warning(
            "RMI_AGENT_SESSION_STORE is set without RMI_AGENT_JUPYTER_SERVER_URL: kernels end with"
            " their server, so sessions that move to another server lose their variables."
        )
    return found


def address_of(port: int | None) -> str:
    """This server's name for people: its host, and its port or process ID."""
    return f"{socket.gethostname()}:{port if port is not None else f'stdio-{os.getpid()}'}"


def mark_of(folder: Path) -> str:
    """A folder's unique ID, the same wherever the folder is mounted.

    Raises:
        OSError: the folder can't be written to.
    """
    path = folder / MARK
    if not path.exists():
        create_private(path, secrets.token_hex(16))
    return path.read_text("utf-8")
