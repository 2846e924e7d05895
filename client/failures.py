"""Why a server at a URL can't be used, in words for the person who named it.

Asks once more as a client does, and looks at what answers, or does not. Sends the token to nobody
but that URL.
"""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from .causes import chain, one_line
from .errors import NO_TOKEN
from .local_token import is_loopback, local_token
from .plaintext import plain

SECONDS = 10.0  # max seconds until an answer
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "rmi-agent", "version": "0"},
    },
}


async def explain(url: str, token: str | None, error: BaseException) -> str:
    """Why a server can't be used, and the next step.

    Args:
        url: of its endpoint.
        token: what the caller has given as its token; None to look for it.
        error: what connecting to it raised.
    """
    token = token or os.environ.get("RMI_AGENT_TOKEN") or local_token(url)
    headers = {"Accept": "application/json, text/event-stream"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            httpx2.AsyncClient(timeout=SECONDS, trust_env=not is_loopback(url)) as client,
            client.stream("POST", url, json=HELLO, headers=headers) as answer,
        ):
            found = answered(url, answer)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError, ValueError) as why:
        found = unanswered(url, why)
    return found or one_line(error)


def answered(url: str, answer: httpx2.Response) -> str | None:
    """What an answer means; None if it is one of a server that works."""
    code, parts = answer.status_code, urlsplit(url)
    if code == 401:
        return NO_TOKEN
    if code == 421:
        return (
            f"it does not answer to the name {parts.netloc} (421). Start it with"
            f" RMI_AGENT_ALLOWED_HOSTS={parts.hostname}"
        )
    if code == 407:
        return f"the proxy {proxy_of(url)} asks for a name and a password (407)."
    if code in (301, 302, 303, 307, 308):
        return (
            f"it redirects to {plain(answer.headers.get('location', 'another address'))} ({code})."
        )
    if code in (404, 405):
        return f"something answers there, but no MCP server at {parts.path} ({code})."
    if code == 429:
        return "it has had too many requests (429). Try again in a minute."
    if code in (502, 503, 504, 530):
        return f"a proxy answers that no server is behind it ({code}). Is the server running?"
    if code != 200:
        return f"it answers {code}. Something before the server may refuse the request."
    if "text/html" in answer.headers.get("content-type", ""):
        return "a web page answers. Is another program on that port?"
    return None


def unanswered(url: str, error: Exception) -> str:
    """Why there is no answer."""
    parts = urlsplit(url)
    host, causes = parts.hostname or parts.netloc, [*chain(error)]
    proxy = proxy_of(url)
    words = one_line(error)
    if isinstance(error, httpx2.ProxyError) or (
        proxy and isinstance(error, httpx2.ConnectError) and not has_tls(causes)
    ):
        return (
            f"the proxy {proxy} does not lead there ({words}). To go without it, set"
            f" NO_PROXY={host}"
        )
    if any(isinstance(each, socket.gaierror | UnicodeError) for each in causes):
        return f"the name {host} is not known. Check its spelling."
    if any("CERTIFICATE_VERIFY" in str(each) for each in causes):
        return (
            f"its certificate is not trusted ({words}). If your company has its own, set"
            " SSL_CERT_FILE to it."
        )
    if has_tls(causes):
        return f"it does not speak TLS ({words}). Is it an http:// address?"
    if isinstance(error, httpx2.TimeoutException):
        return f"it does not answer within {SECONDS:.0f} s. Is it off, or behind a firewall?"
    if isinstance(error, httpx2.ConnectError):
        start = f" Start one: rmi-agent serve --transport http --port {parts.port or 80}"
        return f"no server listens there.{start if is_loopback(url) else ''}"
    if isinstance(error, httpx2.RemoteProtocolError):
        return f"it hangs up without an answer ({words}). Is it an https:// address?"
    return words


def has_tls(causes: list[BaseException]) -> bool:
    """Whether TLS failed."""
    return any(isinstance(each, ssl.SSLError) for each in causes)


def proxy_of(url: str) -> str | None:
    """The proxy that requests to a URL go through, without its password; None if there is none."""
    wanted = urlsplit(url)
    if is_loopback(url) or proxy_bypass(wanted.hostname or ""):
        return None
    found = getproxies()
    proxy = found.get(wanted.scheme) or found.get("all")
    if not proxy:
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
