"""Jupyter Servers' REST API: which server gets a kernel, and what to do if none can.

A JupyterHub user's server and an Enterprise Gateway have the same API. Knows URLs, tokens and
kernel ids; nothing about messages or what runs in a kernel.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from ..addresses import JupyterServer
from ..errors import Cause, KernelStartError, ServerError, by_cause, reason

log = logging.getLogger(__name__)

ANSWER = 10.0  # timeout in seconds for a server's answer
START = 60.0  # the same for starting a kernel
END = 15.0  # the same for ending one; servers kill a kernel that does not exit within 5 s
LOOK = 3.0  # the same for saying what runs there, before another server is tried
REST = 5.0  # seconds before a server that did not answer is asked again

# Why nothing answers: the error or a cause of it, and what to say.
NOTHING_THERE = "nothing answers at {url}. Start it, or correct the URL."
UNREACHABLE: tuple[tuple[Cause, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "the certificate of {url} is not trusted ({why}). Have it signed by an authority that this"
        " machine knows, or name the file of its own in SSL_CERT_FILE.",
    ),
    (ssl.SSLError, "{url} does not speak https. Is it an http:// address?"),
    ((TimeoutError, httpx2.TimeoutException), "{url} did not answer in time."),
    (ConnectionRefusedError, NOTHING_THERE),
    (BaseException, "{url} can't be reached: {why}"),
)

# Kernels being started, by server, so that two simultaneous starts choose different servers.
_starting: Counter[str] = Counter()
_own: Counter[str] = Counter()  # kernels started by this process, by server
_silent: dict[str, float] = {}  # servers that did not answer: when to ask them again
_unusable: set[str] = set()  # servers skipped at the last kernel start


class Api:
    """One server's REST API; close after use."""

    def __init__(self, server: JupyterServer) -> None:
        self.server = server
        self.headers = {"Authorization": f"token {server.token}"} if server.token else {}
        self._client = httpx2.AsyncClient(
            base_url=server.url + "/", headers=self.headers, verify=trusted(), timeout=ANSWER
        )

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._client.aclose()

    async def kernels(self) -> list[dict[str, Any]]:
        """List the server's kernels; if it refuses, return an empty entry for each of our own.

        Raises:
            ServerError: it did not answer like a Jupyter Server.
        """
        try:
            found = (await self._ask("GET", "api/kernels", timeout=LOOK)).json()
        except ServerError as error:
            if error.status != 403:
                raise
            # By default an Enterprise Gateway lists none. A wrong token fails on the next line too.
            await self._ask("GET", "api/kernelspecs", timeout=LOOK)
            return [{}] * _own[self.server.url]
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise ServerError(
                f"RMI_AGENT_JUPYTER_SERVER_URL: {self.server.url} is no Jupyter Server."
            )
        return [one for one in found if isinstance(one, dict)]

    async def kernelspec(self, name: str) -> dict[str, Any]:
        """Return a kernelspec as in its file.

        Raises:
            ServerError: the server has no such kernelspec, or did not answer.
        """
        try:
            answer = await self._ask("GET", f"api/kernelspecs/{quote(name, safe='')}")
            return dict(answer.json()["spec"])
        except ServerError as error:
            if error.status != 404:
                raise
        specs = (await self._ask("GET", "api/kernelspecs")).json().get("kernelspecs", {})
        raise ServerError(
            f"RMI_AGENT_KERNEL_NAME: {self.server.url} has no kernel {name!r}. It has:"
            f" {', '.join(sorted(specs)) or 'none'}.",
            404,
        )

    async def start(self, name: str) -> str:
        """Start a kernel in the server's root folder; return its id."""
        asked = {"name": name, "path": ""}
        answer = await self._ask("POST", "api/kernels", json=asked, timeout=START)
        _own[self.server.url] += 1
        return str(answer.json()["id"])

    async def look(self, kernel_id: str) -> dict[str, Any]:
        """Return the server's entry for a kernel; ServerError with status 404 if it is gone."""
        return dict((await self._ask("GET", f"api/kernels/{kernel_id}", timeout=LOOK)).json())

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupt a kernel, like the stop button in the server's UI."""
        await self._ask("POST", f"api/kernels/{kernel_id}/interrupt")

    async def delete(self, kernel_id: str) -> None:
        """End a kernel that this process started, if it still exists."""
        _own[self.server.url] = max(0, _own[self.server.url] - 1)
        try:
            await self._ask("DELETE", f"api/kernels/{kernel_id}", timeout=END)
        except ServerError as error:
            if error.status != 404:
                raise

    async def _ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            answer = await self._client.request(method, path, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise failed(self.server.url, error) from error
        if not answer.is_success:
            status = answer.status_code
            raise ServerError(unwilling(self.server, status, said(answer)), status)
        return answer


@functools.cache
def trusted() -> ssl.SSLContext:
    """Load the system's certificates, or those in SSL_CERT_FILE; cached because it is slow."""
    return httpx2.create_ssl_context()


def channels_url(url: str, kernel_id: str, session: str) -> str:
    """Return the URL of a kernel's websocket; `session`, not a secret, resumes a connection."""
    return f"ws{url.removeprefix('http')}/api/kernels/{kernel_id}/channels?session_id={session}"


def failed(url: str, error: Exception) -> ServerError:
    """Return the error for a request that got no answer, which says why and what to do."""
    sentence = by_cause(error, UNREACHABLE)
    text = f"RMI_AGENT_JUPYTER_SERVER_URL: {sentence.format(url=url, why=reason(error))}"
    return ServerError(text, gone=sentence is NOTHING_THERE)


def said(answer: httpx2.Response) -> str:
    """Return the reason that a server's answer gives, as one line."""
    try:
        found = answer.json()
        text = str(found.get("message") or found.get("reason") or "")
    except (ValueError, AttributeError):
        text = ""
    return " ".join(text.split())[:300]


def unwilling(server: JupyterServer, status: int, reason: str = "") -> str:
    """Describe what an error status means, and what to do."""
    url, why = server.url, f"{status}{f', {reason}' if reason else ''}"
    if status in (401, 403) or 300 <= status < 400:  # a hub redirects to its sign-in page
        if server.token:
            return (
                f"RMI_AGENT_JUPYTER_SERVER_TOKEN: {url} refuses it ({why}). Set the token of that"
                " server."
            )
        return (
            f"RMI_AGENT_JUPYTER_SERVER_TOKEN: {url} asks for one ({why}). Set the token of that"
            " server."
        )
    if status == 404:
        return (
            f"RMI_AGENT_JUPYTER_SERVER_URL: there is no Jupyter Server at {url} ({why}). Write its"
            " address with its base path, such as https://hub.example/user/ada."
        )
    if status in (424, 502, 503, 504):
        return (
            f"RMI_AGENT_JUPYTER_SERVER_URL: the server behind {url} does not run ({why}). Start it."
        )
    return f"RMI_AGENT_JUPYTER_SERVER_URL: {url} answered {why}"


@dataclass(frozen=True)
class Load:
    """A server's load: how many of its kernels are busy, and how many it has."""

    api: Api
    busy: int
    count: int

    @property
    def now(self) -> tuple[int, int]:
        """The key to compare servers by; includes kernels being started meanwhile."""
        return self.busy, self.count + _starting[self.api.server.url]


@asynccontextmanager
async def least_busy(servers: tuple[JupyterServer, ...]) -> AsyncIterator[Api]:
    """Yield the server with the fewest busy kernels, then the fewest; the caller closes it.

    A start inside the `async with` block counts immediately.

    Raises:
        KernelStartError: no server is usable; the text says why, for each.
    """
    awake = [one for one in servers if _silent.get(one.url, 0.0) <= time.monotonic()]
    found = await asyncio.gather(*(load(one) for one in awake or servers))
    able = [one for one in found if isinstance(one, Load)]
    if not able and len(found) < len(servers):
        found = await asyncio.gather(*(load(one) for one in servers))
        able = [one for one in found if isinstance(one, Load)]
    if not able:
        raise KernelStartError(" ".join(dict.fromkeys(map(str, found))))
    chosen = min(able, key=lambda one: one.now)
    _starting[chosen.api.server.url] += 1
    try:
        for other in able:
            if other is not chosen:
                await other.api.close()
        yield chosen.api
    finally:
        _starting[chosen.api.server.url] -= 1


async def load(server: JupyterServer) -> Load | str:
    """Return a server's load, or why it can't run a kernel."""
    api = Api(server)
    try:
        kernels = await api.kernels()
    except ServerError as error:
        await api.close()
        if not error.gone and not error.status:  # asking again costs a timeout per start
            _silent[server.url] = time.monotonic() + REST
        if server.url not in _unusable:
            _unusable.add(server.url)
            log.warning("A Jupyter Server is passed over: %s", error)
        return str(error)
    except BaseException:
        await api.close()
        raise
    if server.url in _unusable:
        _unusable.remove(server.url)
        log.warning("A Jupyter Server is back: %s", server.url)
    busy = sum(one.get("execution_state") == "busy" for one in kernels)
    return Load(api, busy, len(kernels))


def server_of(url: str, servers: tuple[JupyterServer, ...]) -> JupyterServer:
    """Return the configured server, with its token, that has this URL.

    Raises:
        KernelStartError: no configured server has it.
    """
    for server in servers:
        if server.url == url:
            return server
    raise KernelStartError(
        f"RMI_AGENT_JUPYTER_SERVER_URL: {urlsplit(url).netloc} is not in it, and the kernel is"
        " there."
    )
