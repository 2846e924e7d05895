"""A Jupyter Server's REST API, and in words why a request failed and what to do.

A JupyterHub user's server and an Enterprise Gateway have the same API. Knows URLs, tokens and
kernel ids; nothing about messages or what runs in a kernel.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from ..addresses import JupyterServer
from ..errors import Cause, KernelStartError, ServerError, by_cause, reason

ANSWER = 10.0  # timeout in seconds for a server's answer
START = 60.0  # the same for starting a kernel
END = 15.0  # the same for ending one; servers kill a kernel that does not exit within 5 s
LOOK = 3.0  # the same for saying what runs there, before another server is tried
# How often a server is asked what does no harm twice, and the seconds between. While it adds a
# kernel, its list of kernels fails; a proxy before it may be restarted.
TRIES, TRY_INTERVAL = 3, 0.2
LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError)  # of a connection; not a timeout
PASSING = (500, 502, 503, 504)  # failures that may be over soon
URL, TOKEN = "RMI_AGENT_JUPYTER_SERVER_URL", "RMI_AGENT_JUPYTER_SERVER_TOKEN"

# Why nothing answers: the error or a cause of it, and what to say.
NOTHING_THERE = "nothing answers at {url}. Start the server, or correct the URL."
UNREACHABLE: tuple[tuple[Cause, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "the certificate of {url} is not trusted ({why}). Have it signed by an authority that this"
        " machine trusts, or name its file in SSL_CERT_FILE.",
    ),
    (ssl.SSLError, "{url} does not speak https. Is it an http:// address?"),
    ((TimeoutError, httpx2.TimeoutException), "{url} did not answer in time."),
    (ConnectionRefusedError, NOTHING_THERE),
    (BaseException, "{url} can't be reached: {why}"),
)


@dataclass
class Known:
    """What this process knows about a server besides what the server says."""

    own: int = 0  # kernels that it has started there
    starting: int = 0  # kernels being started, so that simultaneous starts choose differently
    silent_until: float = 0.0  # when to ask again after no answer, by `time.monotonic`
    usable: bool = True  # whether the last attempt to start a kernel could use it


KNOWN: defaultdict[str, Known] = defaultdict(Known)  # by URL


class Api:
    """One server's REST API; close after use."""

    def __init__(self, server: JupyterServer) -> None:
        self.server, self.known = server, KNOWN[server.url]
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
            found = (await self._request("GET", "api/kernels", timeout=LOOK)).json()
        except ServerError as error:
            if error.status != 403:
                raise
            # By default an Enterprise Gateway lists none. A wrong token fails on the next line too.
            await self._request("GET", "api/kernelspecs", timeout=LOOK)
            return [{}] * self.known.own
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise ServerError(f"{URL}: {self.server.url} is no Jupyter Server.")
        return [one for one in found if isinstance(one, dict)]

    async def sessions(self) -> list[dict[str, Any]]:
        """List the notebooks and consoles that are open, each with its kernel; none if refused."""
        try:
            found = (await self._request("GET", "api/sessions", timeout=LOOK)).json()
        except (ServerError, ValueError):
            return []
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def kernelspec(self, name: str) -> dict[str, Any]:
        """Return a kernelspec as in its file.

        Raises:
            ServerError: the server has no such kernelspec, or did not answer.
        """
        try:
            answer = await self._request("GET", f"api/kernelspecs/{quote(name, safe='')}")
            return dict(answer.json()["spec"])
        except ServerError as error:
            if error.status != 404:
                raise
        specs = (await self._request("GET", "api/kernelspecs")).json().get("kernelspecs", {})
        raise ServerError(
            f"RMI_AGENT_KERNEL_NAME: {self.server.url} has no kernel {name!r}. It has:"
            f" {', '.join(sorted(specs)) or 'none'}.",
            404,
        )

    async def start(self, name: str) -> str:
        """Start a kernel in the server's root folder; return its id."""
        kernel = {"name": name, "path": ""}
        answer = await self._request("POST", "api/kernels", json=kernel, timeout=START)
        self.known.own += 1
        return str(answer.json()["id"])

    async def kernel(self, kernel_id: str) -> dict[str, Any]:
        """Return the server's entry for a kernel; ServerError with status 404 if it is gone."""
        return dict((await self._request("GET", f"api/kernels/{kernel_id}", timeout=LOOK)).json())

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupt a kernel, like the stop button in the server's UI."""
        await self._request("POST", f"api/kernels/{kernel_id}/interrupt", tries=TRIES)

    async def delete(self, kernel_id: str) -> None:
        """End a kernel that this process started, if it still exists."""
        self.known.own = max(0, self.known.own - 1)
        try:
            await self._request("DELETE", f"api/kernels/{kernel_id}", timeout=END)
        except ServerError as error:
            if error.status != 404:
                raise

    async def _request(
        self, method: str, path: str, *, tries: int = 0, **more: Any
    ) -> httpx2.Response:
        left = tries or (1 if method == "POST" else TRIES)
        while True:
            left -= 1
            try:
                answer = await self._client.request(method, path, **more)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                if not left or not isinstance(error, LOST):
                    raise failed(self.server.url, error) from error
            else:
                if not left or answer.status_code not in PASSING:
                    break
            await asyncio.sleep(TRY_INTERVAL)
        if not answer.is_success:
            status = answer.status_code
            raise ServerError(why_refused(self.server, status, reason_in(answer)), status)
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
    text = f"{URL}: {sentence.format(url=url, why=reason(error))}"
    return ServerError(text, gone=sentence is NOTHING_THERE)


def reason_in(answer: httpx2.Response) -> str:
    """Return the reason that a server's answer gives, as one line."""
    try:
        found = answer.json()
        text = str(found.get("message") or found.get("reason") or "")
    except (ValueError, AttributeError):
        text = ""
    return " ".join(text.split())[:300]


def why_refused(server: JupyterServer, status: int, reason: str = "") -> str:
    """Describe what an error status means, and what to do."""
    url, why = server.url, f"{status}{f', {reason}' if reason else ''}"
    if status in (401, 403) or 300 <= status < 400:  # a hub redirects to its sign-in page
        does = "refuses it" if server.token else "asks for one"
        return f"{TOKEN}: {url} {does} ({why}). Set the token of that server."
    if status == 404:
        return (
            f"{URL}: there is no Jupyter Server at {url} ({why}). Write its address with its base"
            " path, such as https://hub.example/user/ada."
        )
    if status in (424, 502, 503, 504):
        return f"{URL}: the server behind {url} does not run ({why}). Start it."
    return f"{URL}: {url} answered {why}. Its log says why; see it if this comes again."


def server_of(url: str, servers: tuple[JupyterServer, ...]) -> JupyterServer:
    """Return the configured server, with its token, that has this URL.

    Raises:
        KernelStartError: no configured server has it.
    """
    for server in servers:
        if server.url == url:
            return server
    raise KernelStartError(f"{URL}: {urlsplit(url).netloc} is not in it, and the kernel is there.")
