"""Gives the server a public address, through a tunnel that ngrok's SDK opens in this process.

Knows settings and ngrok; nothing about tokens, transports, or what is served.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import BadSettings
from ..settings import Settings

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 15.0  # max seconds to open a tunnel
CLOSE_TIMEOUT = 5.0  # max seconds to close it; ngrok also frees the address when we exit
COPY = "Copy yours from https://dashboard.ngrok.com/get-started/your-authtoken"
REFUSED = f"NGROK_AUTHTOKEN: ngrok does not accept it ({{words}}). {COPY}"
UNREACHED = (
    "--tunnel ngrok: its service can't be reached ({words}). Check that this machine is online and"
    " may connect to connect.ngrok-agent.com, port 443"
)
NO_TUNNEL = "--tunnel ngrok: ngrok opened no tunnel ({words}). Its log: https://dashboard.ngrok.com"
NO_DOMAIN = (
    "RMI_AGENT_NGROK_DOMAIN: ngrok refuses {domain} ({words}). Your domains are listed at"
    " https://dashboard.ngrok.com/domains"
)
# The first pattern that matches ngrok's error selects the message. "Authentication failed" alone
# says little: ngrok also puts it before codes that have nothing to do with the authtoken.
CAUSES = (
    (r"ERR_NGROK_(105|106|107|4018)\b", REFUSED),
    (r"ERR_NGROK_\d", NO_TUNNEL),
    (r"tcp connection|tls handshake|proxy|gave up|start ngrok session", UNREACHED),
    (r"(?i)authentication", REFUSED),
    (r"", NO_TUNNEL),
)


@asynccontextmanager
async def tunnel(settings: Settings, address: str) -> AsyncIterator[str]:
    """Open a tunnel to `address` (host:port on this machine), yield its public URL, then close it.

    The SDK restores a lost connection to ngrok by itself, keeping the URL.

    Raises:
        BadSettings: the SDK or authtoken is missing, or ngrok refuses a tunnel.
    """
    sdk, authtoken = ngrok(), authtoken_of(settings)
    keep_out_of_logs(authtoken)
    try:
        # With a bare port, the SDK would connect to `localhost`, which may be ::1.
        opening = sdk.forward(address, authtoken=authtoken, domain=settings.ngrok_domain)
        listener = await asyncio.wait_for(opening, OPEN_TIMEOUT)
    except TimeoutError:
        raise BadSettings(
            UNREACHED.format(words=f"no answer within {OPEN_TIMEOUT:.0f} seconds")
        ) from None
    except Exception as error:  # the SDK raises ValueError, and RuntimeError from its threads
        raise BadSettings(why_no_tunnel(error, authtoken, settings.ngrok_domain)) from None
    try:
        yield str(listener.url()).rstrip("/").lower()
    finally:
        try:
            await asyncio.wait_for(asyncio.shield(listener.close()), CLOSE_TIMEOUT)
        except Exception as error:  # the process exits, which closes the tunnel's connection
            log.warning("ngrok did not confirm that it closed: %s", one_line(error, authtoken))


@contextmanager
def left_at_once() -> Iterator[None]:
    """Exit with the block's exit code when it ends, without finalizing the interpreter.

    The SDK's threads enter the interpreter after their work is done. During finalization that
    aborts the process: half of all starts without a network did (ngrok 1.4 and 1.7).
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
    """Import ngrok's SDK.

    Raises:
        BadSettings: it is not installed, or can't be loaded here.
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
    """The value of NGROK_AUTHTOKEN.

    Raises:
        BadSettings: it is missing, or not valid in a header.
    """
    if settings.ngrok_authtoken is None:
        raise BadSettings(f"NGROK_AUTHTOKEN: --tunnel ngrok needs it. {COPY}")
    authtoken = settings.ngrok_authtoken.get_secret_value()
    if not re.fullmatch("[!-~]+", authtoken):
        raise BadSettings(f"NGROK_AUTHTOKEN: it has invalid characters. {COPY}")
    return authtoken


def why_no_tunnel(error: Exception, authtoken: str, domain: str | None) -> str:
    """Say in one line why ngrok refuses a tunnel, and what to do."""
    words = one_line(error, authtoken)
    sentence = next(sentence for pattern, sentence in CAUSES if re.search(pattern, words))
    if sentence is NO_TUNNEL and domain is not None:
        sentence = NO_DOMAIN
    return sentence.format(words=words, domain=domain)


def one_line(error: Exception, authtoken: str) -> str:
    """An error's text in one line, without the authtoken, which ngrok likes to repeat."""
    words = ": ".join(str(part) for part in error.args) or type(error).__name__
    return " ".join(words.replace(authtoken, "…").split()).rstrip(".")


def keep_out_of_logs(authtoken: str) -> None:
    """Mask the authtoken in what the SDK logs."""

    def redact(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in ("ngrok", "muxado"):
            record.msg, record.args = record.getMessage().replace(authtoken, "…"), None
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(redact)


def through(settings: Settings, public: str) -> Settings:
    """The settings of a server behind a tunnel, whose host is allowed and whose URL is public.

    Raises:
        BadSettings: RMI_AGENT_PUBLIC_URL is a different address, which clients would then use.
    """
    set_to = (settings.public_url or "").rstrip("/").lower()
    if settings.auth != "token" and set_to and set_to != public:
        raise BadSettings(
            f"RMI_AGENT_PUBLIC_URL: it is {set_to}, but the tunnel's address is {public}."
            " Unset RMI_AGENT_PUBLIC_URL, or set RMI_AGENT_NGROK_DOMAIN to its host if ngrok"
            " has reserved that for you."
        )
    allowed = (*settings.allowed_hosts, urlsplit(public).netloc)
    return settings.model_copy(update={"allowed_hosts": allowed, "public_url": public})


def ready(public: str, signs_in: bool, bridge: str) -> str:
    """The message printed at startup about the tunnel, with lines to copy.

    Args:
        public: the tunnel's URL.
        signs_in: whether clients can sign in with OAuth.
        bridge: an entry for Claude Desktop's config file.
    """
    connector = (
        f"{public}/mcp"
        if signs_in
        else "They support only OAuth: restart with RMI_AGENT_AUTH=token+oauth, then enter"
        f"\n    {public}/mcp"
    )
    return f"""\
The server is public at {public} until it stops.

rmi-agent, with RMI_AGENT_TOKEN set to the token where it runs:

    rmi-agent check --server {public}/mcp

Claude Desktop, in its config file under "mcpServers":

{bridge}

Claude's connectors (Settings, Connectors, Add custom connector) and ChatGPT:

    {connector}
"""
