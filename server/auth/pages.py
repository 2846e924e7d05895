"""The pages shown to a person who signs in: plain HTML, without scripts.

Escapes all external text. Every page forbids loading anything into it, framing it and caching it.
Knows what pages say, not when they are shown.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape

from starlette.responses import HTMLResponse

STYLE = """
:root { color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif }
body { max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
html { background: #fff; color: #16191f }
a { color: #0b57b0 }
@media (prefers-color-scheme: dark) {
  html { background: #14171c; color: #e4e7ec }
  a { color: #8ab8ff }
}
h1 { font-size: 1.5rem }
b, code { overflow-wrap: anywhere }
code { font-size: .95em }
label, input { display: block; width: 100%; box-sizing: border-box }
input { font: inherit; padding: .5rem; margin: .3rem 0 1rem }
button { font: inherit; padding: .5rem 1.2rem; margin-right: .5rem }
.wrong { border-left: .3rem solid #c33; padding-left: .7rem }
"""
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
    """What the sign-in page asks: whether to let this client use this server."""

    server: str
    client: str
    redirect_uri: str
    back_to: str
    request: str
    csrf: str


def page(title: str, body: str, status: int = 200, head: str = "") -> HTMLResponse:
    """Build a page; `body` and `head` are already HTML."""
    return HTMLResponse(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n",
        status,
        HEADERS,
    )


def sign_in(about: Question, wrong: str = "", status: int = 200) -> HTMLResponse:
    """The sign-in form; `wrong` says what was wrong with the last answer."""
    client = f"calls itself <b>{escape(about.client)}</b>" if about.client else "gives no name"
    return page(
        "Let this client run code?",
        f"""\
<p>A client that {client} wants to use <b>{escape(about.server)}</b>. Nobody has verified its name.
You will be sent to <b>{escape(about.back_to)}</b>: continue only if you came from there.</p>
<p>It will run any Python code there, with the rights of the server's user, for 30 days or until you
revoke it.</p>
{f'<p class="wrong" role="alert">{escape(wrong)}</p>' if wrong else ""}
<form method="post" action="/sign-in">
<input type="hidden" name="request" value="{escape(about.request)}">
<input type="hidden" name="csrf" value="{escape(about.csrf)}">
<label for="token">Your token for this server</label>
<input id="token" name="token" type="password" autocomplete="current-password" maxlength="1000"
 spellcheck="false" autofocus>
<button name="answer" value="allow">Allow</button>
<button name="answer" value="deny">Cancel</button>
</form>
<p><small>You will be sent to exactly this address:
<code>{escape(about.redirect_uri)}</code></small></p>""",
        status,
    )


def return_to(url: str, back_to: str, allowed: bool) -> HTMLResponse:
    """Send the person back to the client.

    By a page, not a redirect: browsers apply `form-action`, which allows only this server, to a
    form's redirects and to the client's redirects after them.
    """
    title = "Signed in" if allowed else "Not signed in"
    return page(
        title,
        f'<p>Going back to <a href="{escape(url)}">{escape(back_to)}</a>.</p>',
        head=f'<meta http-equiv="refresh" content="0; url={escape(url)}">\n',
    )


def failure(text: str, status: int = 400) -> HTMLResponse:
    """Say why a sign-in can't continue, without links to an address from the request."""
    return page("This sign-in can't continue", f'<p class="wrong">{escape(text[:500])}</p>', status)
