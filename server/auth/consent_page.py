"""FastMCP's consent page in our words: who asks, where it leads, and what code can do here.

FastMCP keeps the state of the question, in its store and in cookies. Its page is read for that, and
shown as it is if it is not understood. Knows the two pages; nothing about providers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

from starlette.requests import Request
from starlette.responses import Response

from . import pages

FIELDS = {"txn_id", "csrf_token"}
WORDS = re.compile(r"<h1[^>]*>Error</h1><p>(.*?)</p>", re.S)


class TheirPage(HTMLParser):
    """FastMCP's page: its hidden fields, the client's name, and where the answer is sent."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.client = self.leads_to = ""
        self._within: list[str] = []  # the classes or names of the open elements that matter
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a field, or that a text follows."""
        given = {name: value or "" for name, value in attrs}
        if tag == "input" and given.get("type") == "hidden":
            self.fields[given.get("name", "")] = given.get("value", "")
        elif tag in ("div", "strong"):
            self._within.append(given.get("class", tag))

    def handle_endtag(self, tag: str) -> None:
        """Note that an element has ended."""
        if tag in ("div", "strong") and self._within:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        """Note the client's name, which comes first, or the address."""
        if self._within[-1:] == ["strong"] and not self.client:
            self.client = data
        elif self._within[-2:] == ["redirect-section", "value"]:
            self.leads_to += data


class ConsentPage:
    """The page before the provider's.

    Args:
        theirs: FastMCP's endpoint.
        provider: the provider's name, for people.
        rights: where code runs and what it can do, see `pages.Question`.
    """

    def __init__(
        self,
        theirs: Callable[[Request], Awaitable[Response]],
        provider: str,
        rights: Callable[[], str],
    ) -> None:
        self._theirs, self._provider, self._rights = theirs, provider, rights

    async def handle(self, request: Request) -> Response:
        """Show the page, or process its answer."""
        answer = await self._theirs(request)
        location = answer.headers.get("location")
        if location is not None and request.method == "POST":
            ours: Response = pages.leave("One moment", location, "Continue")
        else:
            text = bytes(answer.body).decode("utf-8", "replace")
            found = (
                self._ours(request, text) if answer.status_code == 200 else refusal(answer, text)
            )
            if found is None:
                return answer
            ours = found
        # FastMCP's cookies bind the question to the browser.
        ours.raw_headers += [each for each in answer.raw_headers if each[0] == b"set-cookie"]
        return ours

    def _ours(self, request: Request, text: str) -> Response | None:
        page = TheirPage(text)
        if not page.fields.keys() >= FIELDS or not page.leads_to:
            return None
        question = pages.Question(
            server=request.url.netloc,
            client=page.client,
            redirect_uri=page.leads_to.strip(),
            rights=self._rights(),
        )
        return pages.consent(question, page.fields, self._provider)


def refusal(answer: Response, text: str) -> Response | None:
    """FastMCP's page that says why a sign-in can't continue, as one of ours."""
    found = WORDS.search(text)
    words = f"{found[1]}. Go back to the client and start again." if found else None
    return pages.failure(words, answer.status_code) if words and "<" not in words else None
