"""`doctor --url`: checks each step of the way to a server, through tunnels and proxies.

Reports the step that fails and what to do about it. Runs no code on the server.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from ...kernels import by_cause, reason
from ..errors import BadSettings, ProbeFailed
from ..hosts import checked_url, over_http, token_for
from ..net import is_loopback
from ..plurals import counted
from ..settings import Settings
from .result import CheckResult
from .stdio import HELLO, VERSION

SECONDS = 20.0  # timeout of a request
FOREIGN = "rebinding.invalid"  # Host header of a DNS rebinding attack
REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
START = "Start it: rmi-agent serve --transport http, on the port that the tunnel leads to."

# Why nothing answers: the type of the error or of a cause of it, or a word in it; then the report
# and what to do.
NO_NAME = (socket.gaierror, UnicodeError, httpx2.InvalidURL)
UNTRUSTED = "{host}'s certificate is not trusted: {error}"
TRUST = "Use the name in the certificate, or name your authority's file in SSL_CERT_FILE."
NO_PROXY = "Check the variable, or set NO_PROXY={host} to go around the proxy."
TOO_LATE = f"{{host}} does not answer within {SECONDS:.0f} s"
UNREACHED: tuple[tuple[Any, tuple[str, str]], ...] = (
    (NO_NAME, ("the name {host} is not known", "Check its spelling; is the tunnel open?")),
    ("CERTIFICATE_VERIFY", (UNTRUSTED, TRUST)),
    (ssl.SSLError, ("{host} does not speak TLS there: {error}", "Is it http:// on this machine?")),
    (httpx2.TimeoutException, (TOO_LATE, "Is it off, or does a firewall block the way?")),
    (httpx2.ConnectError, ("{host} refuses the connection", START)),
    (Exception, ("{host} hangs up without an answer ({error})", START)),
)
# Whether a proxy, if there is one, has reached the server.
IS_TLS: tuple[tuple[Any, bool], ...] = ((ssl.SSLError, True), (Exception, False))
# What answers instead of an MCP server: ngrok's error code or HTTP statuses -> report, what to do.
MCP = (200, 401, 421, 429)  # statuses that an MCP server answers with
NGROK_WARNING = "Only browsers get it: have the client send the header ngrok-skip-browser-warning."
ANSWERS = {
    "ERR_NGROK_3200": ("the tunnel is not open", "Run ngrok http PORT, and look at its address."),
    "ERR_NGROK_8012": ("the tunnel is open, but there is no server behind it", START),
    "ERR_NGROK_6024": ("ngrok shows its warning page instead", NGROK_WARNING),
    "ERR_NGROK": ("ngrok says {code}", "See https://ngrok.com/docs/errors/{code}"),
    "502 503 504 530": ("a proxy answers {code}: it finds no server behind it", START),
    "301 302 303 307 308": ("it redirects to {location} ({code})", "Use that, if it is yours."),
    "404 405": ("there is no MCP at {url} ({code})", "Leave out the path after the host name?"),
    "": ("{url} answers {code}", "Something before the server refuses it."),
}
PAGE = ("a web page answers instead of a server", "Is another program on that port?")


async def examine_url(settings: Settings, url: str) -> AsyncIterator[CheckResult]:
    """Check each step of the way once, until one fails that the rest depend on."""
    try:
        base = re.sub(r"/(mcp|sse)$", "", checked_url(url))
        known = token_for(settings, base)
    except BadSettings as error:
        yield CheckResult("URL", False, str(error).removeprefix("URL: "))
        return
    try:
        async with httpx2.AsyncClient(timeout=SECONDS) as client:
            async for result in examine_server(client, base, known):
                yield result
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        yield CheckResult("URL reachable", False, *unreached(error, base))


async def examine_server(
    client: httpx2.AsyncClient, base: str, known: tuple[str, str] | None
) -> AsyncIterator[CheckResult]:
    """Check a server that has a valid URL; passes on the HTTP client's errors."""
    began = time.monotonic()
    answer = await hello(client, base)
    if found := not_from_us(answer):
        yield CheckResult("URL reachable", False, *found)
        return
    took = (time.monotonic() - began) * 1000
    yield CheckResult("URL reachable", True, f"{base} answers in {took:.0f} ms")
    yield await host_check(client, base, answer)
    if answer.status_code == 421:
        return
    refused = asks_for_token(answer)
    yield refused
    if refused.ok:
        ours = await accepts_ours(client, base, known)
        yield ours
        if not ours.ok:
            return
    headers = {"Authorization": f"Bearer {known[0]}"} if known else {}
    for path in ("/mcp", "/sse"):
        yield await lists_tools(base + path, headers)


async def hello(client: httpx2.AsyncClient, base: str, **headers: str) -> httpx2.Response:
    """Send a client's first request; returns the response."""
    headers["Accept"] = "application/json, text/event-stream"
    async with client.stream("POST", f"{base}/mcp", json=REQUEST, headers=headers) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()  # read an error's text; a stream may never end
    if session := answer.headers.get("mcp-session-id"):
        headers |= {"mcp-session-id": session, "mcp-protocol-version": VERSION}
        await client.delete(f"{base}/mcp", headers=headers)
    return answer


def unreached(error: Exception, base: str) -> tuple[str, str]:
    """Say why nothing answers, and what to do."""
    host = urlsplit(base).hostname or ""
    why, todo = by_cause(error, UNREACHED)
    if (proxy := proxy_for(base)) and not by_cause(error, IS_TLS):
        why, todo = f"no answer through the proxy {proxy}: {{error}}", NO_PROXY.format(host=host)
    return why.format(host=host, error=reason(error)), todo


def proxy_for(base: str) -> str | None:
    """The proxy that requests to a URL take by the environment, with its variable; else None."""
    parts = urlsplit(base)
    proxies = getproxies()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    if scheme not in proxies or proxy_bypass(parts.hostname or ""):
        return None
    return f"{urlsplit(proxies[scheme]).netloc.rpartition('@')[2]} ({scheme.upper()}_PROXY)"


def not_from_us(answer: httpx2.Response) -> tuple[str, str] | None:
    """Say what answered instead of an MCP server, and what to do; None if an MCP server did."""
    text = answer.text if answer.is_stream_consumed else ""
    ngroks = re.search(r"ERR_NGROK_\d+", answer.headers.get("ngrok-error-code") or text)
    if ngroks is None and answer.status_code in MCP:
        return PAGE if "text/html" in answer.headers.get("content-type", "") else None
    code = ngroks.group() if ngroks else str(answer.status_code)
    key = next(key for key in ANSWERS if code in key.split() or code.startswith(key))
    why, todo = ANSWERS[key]
    if proxy := proxy_for(str(answer.url)):
        why += f", through the proxy {proxy}"
        todo = NO_PROXY.format(host=answer.url.host)
    where = answer.headers.get("location", "elsewhere")
    return why.format(code=code, url=answer.url, location=where), todo.format(code=code.lower())


async def host_check(client: httpx2.AsyncClient, base: str, answer: httpx2.Response) -> CheckResult:
    """Check that the server answers to its host name and, on loopback, to no foreign one."""
    what, parts = "URL host name", urlsplit(base)
    if answer.status_code == 421:
        todo = f"Start it with RMI_AGENT_ALLOWED_HOSTS={parts.hostname} (other names after commas)."
        return CheckResult(what, False, f"it does not answer to {parts.netloc} (421)", todo)
    names = f"it answers to {parts.netloc}"
    if is_loopback(parts.hostname or ""):  # tunnels handle foreign names themselves
        foreign = await hello(client, base, Host=FOREIGN)
        if foreign.status_code != 421:
            todo = "Web pages could reach it by DNS rebinding: is it this server?"
            return CheckResult(what, False, f"it answers to {FOREIGN} as well", todo)
        names += ", and to no foreign name"
    return CheckResult(what, True, names)


def asks_for_token(answer: httpx2.Response) -> CheckResult:
    """Check that callers without a token are refused."""
    what = "URL without a token"
    if answer.status_code == 401:
        oauth = "resource_metadata" in answer.headers.get("www-authenticate", "")
        more = ", and lets clients sign in by OAuth" if oauth else ""
        return CheckResult(what, True, f"it answers 401{more}")
    if answer.status_code == 429:
        todo = "Wait a minute, or raise RMI_AGENT_RATE_LIMIT."
        return CheckResult(what, False, "too many requests (429)", todo)
    todo = "Anybody who finds the address can run code as you: start it without --insecure-no-auth."
    return CheckResult(what, False, "it answers without one", todo)


async def accepts_ours(
    client: httpx2.AsyncClient, base: str, known: tuple[str, str] | None
) -> CheckResult:
    """Check that the server accepts our token."""
    what = "URL with our token"
    if known is None:
        todo = "Set RMI_AGENT_TOKEN to that server's token, and run this again."
        return CheckResult(what, False, "none is known here for it", todo)
    answer = await hello(client, base, Authorization=f"Bearer {known[0]}")
    if found := not_from_us(answer):
        return CheckResult(what, False, *found)
    if answer.status_code != 200:
        why = f"{known[1]} has another one ({answer.status_code})"
        todo = "Set RMI_AGENT_TOKEN to the one that the server was started with."
        return CheckResult(what, False, why, todo)
    return CheckResult(what, True, f"the one from {known[1]} is accepted")


async def lists_tools(url: str, headers: dict[str, str]) -> CheckResult:
    """Check that a client can list the tools over one of the transports."""
    path = f"/{url.rpartition('/')[2]}"
    try:
        tools = await over_http(url, headers, SECONDS)
    except ProbeFailed as error:
        todo = "A proxy may hold streams back: turn its buffering off." if path == "/sse" else ""
        return CheckResult(f"URL {path}", False, str(error), todo)
    if "run_cell" not in tools:
        todo = "This is another MCP server."
        return CheckResult(f"URL {path}", False, "it has no run_cell", todo)
    return CheckResult(f"URL {path}", True, counted(len(tools), "tool"))
