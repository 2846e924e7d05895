"""Wrong tokens on pages: how long each takes, and when the page is shut because of them.

Counts by address, and for all callers together more generously, so that a stranger shuts the page
for themselves before they shut it for its owner. Knows nothing of what is signed in to.
"""

from __future__ import annotations

import math
import time
from collections import deque
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.requests import Request

WRONG, WRONG_SECONDS = 30, 600.0  # from one address, and then nobody there can sign in
WRONG_OF_ALL = 300  # in the same time, and then nobody can
SLOW = 1.0  # seconds that a wrong token takes
WRONG_TOKEN = "That is not a token of this server."


class WrongTokens:
    """When wrong tokens were given of late, and from where."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, str]] = deque(maxlen=WRONG_OF_ALL)

    def add(self, address: str) -> None:
        """Count one."""
        self._recent.append((time.monotonic(), address))

    def wait(self, address: str) -> float:
        """Seconds until a token from an address is looked at again; 0 is now."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] + WRONG_SECONDS <= now:
            self._recent.popleft()
        everybodys = [when for when, _ in self._recent]
        its_own = [when for when, who in self._recent if who == address]
        return max(
            times[-most] + WRONG_SECONDS - now if len(times) >= most else 0.0
            for times, most in ((everybodys, WRONG_OF_ALL), (its_own, WRONG))
        )


def address_of(request: Request) -> str:
    """Where a request comes from; one IPv6 network is one place, since it has all its addresses.

    uvicorn takes a forwarded address from proxies that it trusts alone: this machine's, or those
    of FORWARDED_ALLOW_IPS.
    """
    host = request.client.host if request.client is not None else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ip_network((int(address), 64), strict=False))
    return str(address)


def shut(wait: float) -> str:
    """What is said while no token is looked at, for `wait` seconds more."""
    minutes = math.ceil(wait / 60)
    return (
        "Too many wrong tokens were given, from your address or by many callers. Sign in again in"
        f" {minutes} {'minute' if minutes == 1 else 'minutes'}."
    )
