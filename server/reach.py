"""`doctor --url`: the whole way to a server elsewhere, through tunnel and proxies, step by step.

Tells at which step it ends and what to do there. Runs no code on the server.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2

from .attempt import Failed, over_http
from .finding import Finding
from .over_http import is_loopback
from .remote import checked_url, token_for
from .settings import BadSettings, Settings
from .wire import HELLO, VERSION

SECONDS = 20.0
FOREIGN = "rebinding.invalid"  # what a web page of somebody else would have a browser say
REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
START = "Start it: rmi-agent-mcp-server --transport http, on the port that the tunnel leads to."
NGROK = {
    "ERR_NGROK_3200": ("the tunnel is not open", "Run ngrok http PORT, and look at its address."),
    "ERR_NGROK_8012": ("the tunnel is open, but there is no server behind it", START),
    "ERR_NGROK_6024": (
        "ngrok shows its warning page instead",
        "It is for browsers: have the client send the header ngrok-skip-browser-warning.",
    ),
}


async def examine_url(settings: Settings, url: str) -> AsyncIterator[Finding]:
    """Go the way once, telling each step; the first that fails is the last."""
    try:
        base = re.sub(r"/(mcp|sse)$", "", checked_url(url))
        known = token_for(settings, base)
    except BadSettings as error:
        yield Finding("URL", False, str(error))
        return
    try:
        async with httpx2.AsyncClient(timeout=SECONDS) as client:
            async for finding in steps(client, base, known):
                yield finding
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        yield Finding("URL reachable", False, *unreached(error, base))


async def steps(
    client: httpx2.AsyncClient, base: str, known: tuple[str, str] | None
) -> AsyncIterator[Finding]:
    """All steps; an error of HTTP is for the caller."""
    began = time.monotonic()
    answer = await hello(client, base)
    if found := not_from_us(answer):
        yield Finding("URL reachable", False, *found)
        return
    took = (time.monotonic() - began) * 1000
    yield Finding("URL reachable", True, f"{base} answers in {took:.0f} ms")
    yield await host_check(client, base, answer)
    if answer.status_code == 421:
        return
    asked = asks_for_token(answer)
    yield asked
    if asked.ok:
        ours = await takes_ours(client, base, known)
        yield ours
        if not ours.ok:
            return
    headers = {"Authorization": f"Bearer {known[0]}"} if known else {}
    for path in ("/mcp", "/sse"):
        yield await lists_tools(base + path, headers)


async def hello(client: httpx2.AsyncClient, base: str, **headers: str) -> httpx2.Response:
    """The answer to a client's first request."""
    headers["Accept"] = "application/json, text/event-stream"
    async with client.stream("POST", f"{base}/mcp", json=REQUEST, headers=headers) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()  # an error's text; a stream may have no end
    if session := answer.headers.get("mcp-session-id"):
        headers |= {"mcp-session-id": session, "mcp-protocol-version": VERSION}
        await client.delete(f"{base}/mcp", headers=headers)
    return answer


def unreached(error: Exception, base: str) -> tuple[str, str]:
    """Why nothing answers, and what to do."""
    host = urlsplit(base).hostname
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(one) for one in causes)
    if any(isinstance(one, socket.gaierror | UnicodeError | httpx2.InvalidURL) for one in causes):
        return f"the name {host} is not known", "Is it written rightly, and the tunnel open?"
    if "CERTIFICATE_VERIFY" in text:
        return f"{host}'s certificate is not trusted: {error}", "Use the tunnel's own https name."
    if any(isinstance(one, ssl.SSLError) for one in causes):
        return f"{host} does not speak TLS there: {error}", "Is it http:// on this machine?"
    if isinstance(error, httpx2.TimeoutException):
        return f"{host} does not answer in {SECONDS:.0f} s", "Is a firewall between, or is it off?"
    if isinstance(error, httpx2.ConnectError):
        return f"{host} refuses the connection", START
    return f"{host} hangs up without an answer ({error or type(error).__name__})", START


def not_from_us(answer: httpx2.Response) -> tuple[str, str] | None:
    """What answered instead of an MCP server, and what to do; None if one did."""
    status, text = answer.status_code, answer.text if answer.is_stream_consumed else ""
    found = answer.headers.get("ngrok-error-code") or re.search(r"ERR_NGROK_\d+", text)
    if found:
        code = found if isinstance(found, str) else found.group()
        unknown = (f"ngrok says {code}", f"See https://ngrok.com/docs/errors/{code.lower()}")
        return NGROK.get(code, unknown)
    if status in (502, 503, 504, 530):
        return f"a proxy answers {status}: it finds no server behind it", START
    if status in (301, 302, 303, 307, 308):
        where = answer.headers.get("location", "elsewhere")
        return f"it sends us to {where} ({status})", "Use that address, if it is yours."
    if status in (404, 405):
        return f"there is no MCP at {answer.url} ({status})", "Leave out all behind the host name?"
    if status not in (200, 401, 421, 429):
        return f"{answer.url} answers {status}", "Something before the server refuses it."
    if "text/html" in answer.headers.get("content-type", ""):
        return "a web page answers instead of a server", "Is another program on that port?"
    return None


async def host_check(client: httpx2.AsyncClient, base: str, answer: httpx2.Response) -> Finding:
    """Whether the server answers to its name, and, of this machine, to no other."""
    parts = urlsplit(base)
    if answer.status_code == 421:
        todo = f"Start it with RMI_AGENT_ALLOWED_HOSTS={parts.hostname} (other names after commas)."
        return Finding("URL host name", False, f"it does not answer to {parts.netloc} (421)", todo)
    told = f"it answers to {parts.netloc}"
    if is_loopback(parts.hostname or ""):  # a tunnel has its own opinion of foreign names
        foreign = await hello(client, base, Host=FOREIGN)
        if foreign.status_code != 421:
            todo = "Web pages could reach it by DNS rebinding: is it this server?"
            return Finding("URL host name", False, f"it answers to {FOREIGN} as well", todo)
        told += ", and to no foreign name"
    return Finding("URL host name", True, told)


def asks_for_token(answer: httpx2.Response) -> Finding:
    """Whether somebody without a token is refused."""
    if answer.status_code == 401:
        oauth = "resource_metadata" in answer.headers.get("www-authenticate", "")
        more = ", and lets clients sign in by OAuth" if oauth else ""
        return Finding("URL without a token", True, f"it answers 401{more}")
    if answer.status_code == 429:
        todo = "Wait a minute, or raise RMI_AGENT_RATE_LIMIT."
        return Finding("URL without a token", False, "too many requests (429)", todo)
    todo = "Anybody who finds the address can run code as you: start it without --insecure-no-auth."
    return Finding("URL without a token", False, "it answers without one", todo)


async def takes_ours(
    client: httpx2.AsyncClient, base: str, known: tuple[str, str] | None
) -> Finding:
    """Whether our token is the server's."""
    if known is None:
        todo = "Set RMI_AGENT_TOKEN to that server's token, and run this again."
        return Finding("URL with our token", False, "none is known here for it", todo)
    answer = await hello(client, base, Authorization=f"Bearer {known[0]}")
    if found := not_from_us(answer):
        return Finding("URL with our token", False, *found)
    if answer.status_code != 200:
        told = f"{known[1]} has another one ({answer.status_code})"
        todo = "Set RMI_AGENT_TOKEN to the one that the server was started with."
        return Finding("URL with our token", False, told, todo)
    return Finding("URL with our token", True, f"that of {known[1]} is taken")


async def lists_tools(url: str, headers: dict[str, str]) -> Finding:
    """Whether a client gets the tools by one of the transports."""
    path = f"/{url.rpartition('/')[2]}"
    try:
        tools = await over_http(url, headers, SECONDS)
    except Failed as error:
        todo = "A proxy may hold streams back: turn its buffering off." if path == "/sse" else ""
        return Finding(f"URL {path}", False, str(error), todo)
    if "run_cell" not in tools:
        return Finding(f"URL {path}", False, "it has no run_cell", "This is another MCP server.")
    return Finding(f"URL {path}", True, f"{len(tools)} tools")
