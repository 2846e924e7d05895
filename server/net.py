"""Network addresses: detecting loopback, and binding the server's port."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address

from .errors import BadSettings
from .settings import Settings

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard -> local address
QUEUE = 2048  # max connections waiting to be accepted


def is_loopback(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bind(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises:
        BadSettings: the port is taken or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With an explicit protocol asyncio disables Nagle's algorithm, which costs 40 ms per call.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(QUEUE)  # before we log the address: a reader may connect at once
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"RMI_AGENT_PORT: can't listen on {settings.host}:{settings.port}: {error.strerror}."
            " Stop the program that uses the port, or choose another with --port."
        ) from None
    listening.set_inheritable(False)
    return listening
