"""The pages shown to a person who signs in: plain HTML, without scripts.

Escapes all external text. Every page forbids loading anything into it, framing it and caching it.
Knows what pages say, not when they are shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

PRODUCT = "RmiAgentMcpServer"
STYLE = Path(__file__).with_name("pages.css").read_text("utf-8")
UNKNOWN_RIGHTS = "with the rights of the server's user"  # until the server says more
ICON = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7"'
    ' fill="#0b57b0"/><path d="M8 10l6 6-6 6M17 23h8" fill="none" stroke="#fff"'
    ' stroke-width="3" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
CSP = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # No referrer to other sites; with no-referrer, browsers send the form's origin as "null".
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True)
class Question:
    """What a page asks: whether to let this client use this server.

    Attributes:
        server: the server's host.
        client: what the client calls itself; may be empty.
        redirect_uri: where the answer is sent.
        rights: where code runs and what it can do, as in "It can run any code there: …".
    """

    server: str
    client: str
    redirect_uri: str
    rights: str

    @property
    def back_to(self) -> str:
        """Scheme, host and port of the address that the answer is sent to."""
        parts = urlsplit(self.redirect_uri)
        return f"{parts.scheme}://{parts.netloc}"


def page(title: str, body: str, status: int = 200, head: str = "") -> HTMLResponse:
    """Build a page; `body` and `head` are already HTML."""
    return HTMLResponse(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)} · {PRODUCT}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body>\n<header class="brand">{ICON}<span>{PRODUCT}</span></header>\n'
        f"<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n",
        status,
        HEADERS,
    )


def alert(wrong: str) -> str:
    """What was wrong with the last answer, as HTML; empty if nothing was."""
    return f'<p class="wrong" role="alert">{escape(wrong)}</p>' if wrong else ""


def token_field(*, required: bool = False) -> str:
    """The field for a person's token, as HTML."""
    return f"""\
<label for="token">Your token for this server</label>
<input id="token" name="token" type="password" autocomplete="current-password" maxlength="1000"
 spellcheck="false"{" required" if required else ""} autofocus>"""


def hidden(fields: Mapping[str, str]) -> str:
    """A form's hidden fields, as HTML."""
    return "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )


def sign_in(
    about: Question, fields: Mapping[str, str], wrong: str = "", status: int = 200
) -> HTMLResponse:
    """Ask for a token and consent; `wrong` says what was wrong with the last answer."""
    form = f"""\
{alert(wrong)}
<form method="post" action="/sign-in">
{hidden(fields)}
{token_field()}
<div class="acts"><button class="primary" name="answer" value="allow">Allow</button>
<button name="answer" value="deny">Cancel</button></div>
</form>"""
    return ask(about, " for 30 days, or until you revoke it", form, status)


def consent(about: Question, fields: Mapping[str, str], provider: str) -> HTMLResponse:
    """Ask for consent before the person signs in with another provider."""
    form = f"""\
<form method="post" action="/consent">
{hidden(fields)}
<div class="acts"><button class="primary" name="action" value="approve">Allow, and sign in with
{escape(provider)}</button>
<button name="action" value="deny">Cancel</button></div>
</form>"""
    return ask(about, "", form, 200)


def ask(about: Question, how_long: str, form: str, status: int) -> HTMLResponse:
    """Ask whether to let a client use this server; `form` is HTML."""
    client = f"calls itself <b>{escape(about.client)}</b>" if about.client else "gives no name"
    return page(
        "Let this client run code?",
        f"""\
<p>A client that {client} wants to use <b>{escape(about.server)}</b>. Nobody has verified its name.
You will be sent to <b>{escape(about.back_to)}</b>: continue only if you came from there.</p>
<p>It can then run any Python code there{how_long}: <b>{escape(about.rights)}</b>.</p>
{form}
<p class="foot">You will be sent to exactly this address:
<code>{escape(about.redirect_uri)}</code></p>""",
        status,
    )


def return_to(url: str, back_to: str, allowed: bool) -> HTMLResponse:
    """Send the person back to the client."""
    title = "Signed in" if allowed else "Not signed in"
    return leave(title, url, f"Going back to {back_to}")


def leave(title: str, url: str, words: str) -> HTMLResponse:
    """Send the person to another address, with a link in these words.

    By a page, not a redirect: browsers apply `form-action`, which allows only this server, to a
    form's redirects and to the redirects after them.
    """
    return page(
        title,
        f'<p><a href="{escape(url)}">{escape(words)}</a></p>',
        head=f'<meta http-equiv="refresh" content="0; url={escape(url)}">\n',
    )


def failure(
    text: str, status: int = 400, title: str = "This sign-in can't continue"
) -> HTMLResponse:
    """Say why something can't go on, without links to an address from the request."""
    return page(title, f'<p class="wrong">{escape(text[:500])}</p>', status)
