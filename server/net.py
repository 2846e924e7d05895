"""Addresses: which are this machine's own, and the port that a server listens on."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address

from .errors import BadSettings
from .settings import Settings

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # how such a server is called from here
QUEUE = 2048  # connections that wait to be accepted


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bind(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        BadSettings: the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle's delay: 40 ms a call without.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(QUEUE)  # now: a reader of our log may connect at once
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"RMI_AGENT_PORT: can't listen on {settings.host}:{settings.port}: {error.strerror}."
            " Stop the program that has the port, or choose another with --port."
        ) from None
    listening.set_inheritable(False)
    return listening
