"""A public address for the server: a tunnel that ngrok's SDK opens from this process.

Knows settings and ngrok; nothing of tokens, transports, or what is served.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from .settings import BadSettings, Settings

log = logging.getLogger(__name__)

OPENING = 15.0  # seconds for ngrok to answer
CLOSING = 5.0  # seconds for it to take the address back; it does so, too, when we are gone
AUTHTOKEN = "Copy yours from https://dashboard.ngrok.com/get-started/your-authtoken"
REFUSED = ("ERR_NGROK_105", "ERR_NGROK_106", "ERR_NGROK_107", "ERR_NGROK_4018")
UNREACHED = re.compile(r"tcp connection|tls handshake|proxy|gave up|start ngrok session")
RESERVED = "Free ones are listed at https://dashboard.ngrok.com/domains"


class Listener(Protocol):
    """What the SDK's `forward` resolves to."""

    def url(self) -> str:
        """The public address, https:// and a host."""

    def close(self) -> Awaitable[None]:
        """Take the address back."""


@asynccontextmanager
async def tunnel(settings: Settings, address: str) -> AsyncIterator[str]:
    """The public URL of a tunnel to `address` (HOST:PORT of this machine), which ends with it.

    When the connection to ngrok is lost meanwhile, the SDK makes it anew, with the same URL.

    Raises:
        BadSettings: there is no SDK, no authtoken, or ngrok gives no tunnel.
    """
    sdk, authtoken = ngrok(), authtoken_of(settings)
    keep_out_of_logs(authtoken)
    try:
        listener: Listener = await asyncio.wait_for(
            # Not by the port alone, which the SDK looks for on `localhost`: that may be ::1.
            sdk.forward(address, authtoken=authtoken, domain=settings.ngrok_domain),
            OPENING,
        )
    except TimeoutError:
        raise BadSettings(unreached(f"no answer within {OPENING:.0f} seconds")) from None
    except Exception as error:  # the SDK's are ValueErrors, and RuntimeErrors of its threads
        raise BadSettings(why_no_tunnel(error, authtoken, settings.ngrok_domain)) from None
    try:
        yield listener.url().rstrip("/").lower()
    finally:
        try:
            await asyncio.wait_for(asyncio.shield(listener.close()), CLOSING)
        except Exception as error:  # the process ends, and the tunnel with its connection
            log.warning("ngrok did not confirm the tunnel's end: %s", one_line(error, authtoken))


@contextmanager
def left_at_once() -> Iterator[None]:
    """End the process with the block, as it ends, but without taking the interpreter down.

    The SDK's threads come into the interpreter after their work is done, and when it is being
    taken down just then, it aborts: half of all starts without a network did (1.4 and 1.7).
    """
    code: Any = 0
    try:
        yield
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def ngrok() -> Any:
    """The SDK.

    Raises:
        BadSettings: it is not installed, or does not load here.
    """
    try:
        return importlib.import_module("ngrok")
    except ImportError as error:
        raise BadSettings(
            f"--tunnel ngrok: its SDK can't be loaded ({error}). Install it into the server's"
            " environment: pip install 'rmi-agent-mcp-server[ngrok]', or in a checkout"
            " pip install -e '.[ngrok]'"
        ) from None


def authtoken_of(settings: Settings) -> str:
    """NGROK_AUTHTOKEN.

    Raises:
        BadSettings: it is missing, or no header could carry it.
    """
    if settings.ngrok_authtoken is None:
        raise BadSettings(f"NGROK_AUTHTOKEN: --tunnel ngrok needs it. {AUTHTOKEN}")
    authtoken = settings.ngrok_authtoken.get_secret_value()
    if not re.fullmatch("[!-~]+", authtoken):
        raise BadSettings(f"NGROK_AUTHTOKEN: it has spaces, or letters that none has. {AUTHTOKEN}")
    return authtoken


def why_no_tunnel(error: Exception, authtoken: str, domain: str | None) -> str:
    """Why ngrok gives no tunnel, in one line that says what to do."""
    words = one_line(error, authtoken)
    # "Authentication failed" also stands before what is no fault of the authtoken's.
    code = re.search(r"ERR_NGROK_\d+", words)
    if code is None and UNREACHED.search(words):
        return unreached(words)
    if code[0] in REFUSED if code else "authentication" in words.lower():
        return f"NGROK_AUTHTOKEN: ngrok does not take it ({words}). {AUTHTOKEN}"
    if domain is not None:
        return f"RMI_AGENT_NGROK_DOMAIN: ngrok does not give {domain} ({words}). {RESERVED}"
    return f"--tunnel ngrok: ngrok gives no tunnel ({words}). Its log: https://dashboard.ngrok.com"


def unreached(words: str) -> str:
    """What to do when ngrok's service does not answer."""
    return (
        f"--tunnel ngrok: its service can't be reached ({words}). Look whether this machine is"
        " online, and lets connections out to connect.ngrok-agent.com, port 443"
    )


def one_line(error: Exception, authtoken: str) -> str:
    """An error's words without the authtoken, which ngrok likes to repeat."""
    words = ": ".join(str(part) for part in error.args) or type(error).__name__
    return " ".join(words.replace(authtoken, "…").split()).rstrip(".")


def keep_out_of_logs(authtoken: str) -> None:
    """Let the SDK's lines in our log not repeat the authtoken."""

    def without(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in ("ngrok", "muxado"):
            record.msg, record.args = record.getMessage().replace(authtoken, "…"), None
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(without)


def through(settings: Settings, public: str) -> Settings:
    """The settings of a server behind a tunnel: its host is allowed, and its URL the public one.

    Raises:
        BadSettings: RMI_AGENT_PUBLIC_URL is another, by which clients would be led astray.
    """
    set_to = (settings.public_url or "").rstrip("/").lower()
    if settings.auth != "token" and set_to and set_to != public:
        raise BadSettings(
            f"RMI_AGENT_PUBLIC_URL: it is {set_to}, and the tunnel's address {public}. Leave"
            " RMI_AGENT_PUBLIC_URL out, or set RMI_AGENT_NGROK_DOMAIN to its host if ngrok has"
            " reserved that for you."
        )
    allowed = (*settings.allowed_hosts, urlsplit(public).netloc)
    return settings.model_copy(update={"allowed_hosts": allowed, "public_url": public})


def ready(public: str, signs_in: bool, bridge: str) -> str:
    """What the log of the start says of the tunnel, with lines to copy.

    Args:
        public: its URL.
        signs_in: whether clients can sign in by OAuth.
        bridge: an entry of Claude Desktop's config file.
    """
    connector = (
        f"{public}/mcp"
        if signs_in
        else "They sign in by OAuth only: start again with RMI_AGENT_AUTH=token+oauth, and"
        " they have"
        f"\n    {public}/mcp"
    )
    return f"""\
The server is public at {public} until it ends.

rmi-agent, with RMI_AGENT_TOKEN set to the token where it runs:

    rmi-agent check --server {public}/mcp

Claude Desktop, in its config file under "mcpServers":

{bridge}

Claude's connectors (Settings, Connectors, Add custom connector) and ChatGPT:

    {connector}
"""
