"""Throttles wrong tokens on sign-in pages: delays each answer, and closes the page after many.

Counts per address, and with a higher limit for all callers together, so that strangers lock out
themselves before they lock out the owner. Does not know what is being signed in to.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.requests import Request

from ..plurals import counted

WINDOW = 600.0  # seconds during which failures count
MAX_FAILURES = 30  # per window from one address; then nobody there can sign in
MAX_FAILURES_OF_ALL = 300  # per window from all addresses; then nobody can
FAILURE_DELAY = 1.0  # seconds before a wrong token is answered
WRONG_TOKEN = "This token is not valid for this server."


class LoginThrottle:
    """Recent failed sign-ins and the addresses they came from."""

    def __init__(self) -> None:
        self._failures: deque[tuple[float, str]] = deque(maxlen=MAX_FAILURES_OF_ALL)

    async def failed(self, address: str) -> None:
        """Count a failure, then delay its caller."""
        self._failures.append((time.monotonic(), address))
        await asyncio.sleep(FAILURE_DELAY)

    def retry_after(self, address: str) -> float:
        """Seconds until a token from an address is checked again; 0 means now."""
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
    """A request's address; an IPv6 /64 counts as one, since a single caller usually owns all of it.

    uvicorn accepts a forwarded address only from trusted proxies: those on this machine, or in
    FORWARDED_ALLOW_IPS.
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
    """The page's message while it stays closed for `seconds` more."""
    minutes = math.ceil(seconds / 60)
    return (
        "Too many wrong tokens came from your address, or from all callers together. Try again in"
        f" {counted(minutes, 'minute')}."
    )
