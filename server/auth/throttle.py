"""Wrong tokens on sign-in pages: how long each one takes, and when they close the page.

Counts per address, and more generously for all callers together, so that a stranger closes the
page for themselves before they close it for its owner. Does not know what is signed in to.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.requests import Request

WINDOW = 600.0  # seconds during which failures count
MAX_FAILURES = 30  # within the window from one address, and then nobody there can sign in
MAX_FAILURES_OF_ALL = 300  # within the window, and then nobody can
FAILURE_DELAY = 1.0  # seconds until a wrong token is answered
WRONG_TOKEN = "That is not a token of this server."


class LoginThrottle:
    """Recent failures to sign in, and where they came from."""

    def __init__(self) -> None:
        self._failures: deque[tuple[float, str]] = deque(maxlen=MAX_FAILURES_OF_ALL)

    async def failed(self, address: str) -> None:
        """Count a failure, then wait as its caller has to."""
        self._failures.append((time.monotonic(), address))
        await asyncio.sleep(FAILURE_DELAY)

    def retry_after(self, address: str) -> float:
        """Seconds until a token from an address is looked at again; 0 means now."""
        now = time.monotonic()
        while self._failures and self._failures[0][0] + WINDOW <= now:
            self._failures.popleft()
        everybodys = [when for when, _ in self._failures]
        its_own = [when for when, who in self._failures if who == address]
        return max(
            times[-most] + WINDOW - now if len(times) >= most else 0.0
            for times, most in ((everybodys, MAX_FAILURES_OF_ALL), (its_own, MAX_FAILURES))
        )


def client_address(request: Request) -> str:
    """Where a request comes from; an IPv6 /64 counts as one address, since one caller has it all.

    uvicorn accepts a forwarded address only from proxies that it trusts: this machine's, or those
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


def closed_message(seconds: float) -> str:
    """What the page says while it is closed, for `seconds` more."""
    minutes = math.ceil(seconds / 60)
    return (
        "Too many wrong tokens were given, from your address or by many callers. Sign in again in"
        f" {minutes} {'minute' if minutes == 1 else 'minutes'}."
    )
