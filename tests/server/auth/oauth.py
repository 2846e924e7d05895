"""A browser that reads forms, an OAuth client by hand, and servers that ask for sign-ins."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import sqlite3
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from fastmcp.client.auth import OAuth
from mcp.shared.auth import AuthorizationCodeResult
from rmi_agent.server import App, load
from rmi_agent.server.auth import access, build_provider, store_file
from rmi_agent.server.auth.provider import CombinedProvider
from rmi_agent.server.serving.application import application

ALICE = "alice-has-this-token-0123456789"
BOB = "bob-has-this-other-token-987654"
USERS = f"alice:{ALICE},bob:{BOB}"
URL = "https://python.example"  # of servers in this process
BACK = "https://client.example/back"


class Page(HTMLParser):
    """A page as a browser reads it: its form's fields, where it leads, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.tags: list[str] = []
        self.action = self.leads_to = self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "form":
            self.action = given["action"]
        elif tag == "input":
            self.fields[given["name"]] = given.get("value", "")
        elif given.get("http-equiv") == "refresh":
            self.leads_to = given["content"].partition("url=")[2]

    def handle_data(self, data: str) -> None:
        self.words += data


class Browser(httpx2.AsyncClient):
    """Somebody with a token, or without, in front of a browser."""

    def __init__(self, transport: Any = None, base_url: str = "") -> None:
        super().__init__(transport=transport, base_url=base_url, trust_env=False, timeout=30)

    async def sign_in(self, url: str, token: str, answer: str = "allow") -> str:
        """Go where a client has sent the browser, and answer; the address that leads back."""
        page = await self.get(url, follow_redirects=True)
        assert page.status_code == 200, page.text
        return Page((await self.answer(page, token, answer)).text).leads_to

    async def answer(
        self, page: httpx2.Response, token: str, answer: str = "allow", **changed: str
    ) -> httpx2.Response:
        """Fill the form in and send it off, as a browser does: with the page's own origin."""
        form = Page(page.text)
        target = page.url.join(form.action)
        headers = {"Origin": f"{target.scheme}://{target.netloc.decode()}"}
        fields = {**form.fields, "token": token, "answer": answer, **changed}
        return await self.post(target, data=fields, headers=headers)


class ScriptedOAuth(OAuth):
    """FastMCP's own OAuth client, with a scripted person instead of a screen."""

    token = ""
    asked = 0
    leads_to = ""
    seen: tuple[str, ...] = ()  # secrets that came by

    async def redirect_handler(self, authorization_url: str) -> None:
        self.asked += 1
        async with Browser() as browser:
            self.leads_to = await browser.sign_in(authorization_url, self.token)
        assert self.leads_to, "it leads nowhere"

    async def callback_handler(self) -> AuthorizationCodeResult:
        result = AuthorizationCodeResult(**dict(parse_qsl(urlsplit(self.leads_to).query)))
        self.seen += (result.code,)
        return result


def rows(path: Path, table: str) -> dict[str, dict[str, Any]]:
    """The rows of a store's table, by their ids."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in database.execute(f"SELECT * FROM {table}")}


@dataclass
class Signing:
    """A server in this process that signs people in, and a client of it that knows its ways."""

    projects: Path
    settings: dict[str, Any] = field(default_factory=dict)
    app: Any = None
    provider: CombinedProvider = field(init=False)
    app_rights: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **changed: Any) -> None:
        """A new server, with what the one before has stored."""
        given = {"rmi_agent_tokens": USERS, "auth": "token+oauth", "public_url": URL}
        given = {**given, **self.settings, **changed}
        settings = load(python_projects_dir=self.projects, **given)
        tokens = access(settings).tokens
        assert tokens is not None
        provider = build_provider(settings, tokens)
        assert isinstance(provider, CombinedProvider)
        self.provider = provider
        server = App(settings, provider)
        self.app_rights = server.rights
        self.app = application(server, settings, provider, tokens)
        self.http = self.browser()

    def browser(self) -> Browser:
        return Browser(httpx2.ASGITransport(self.app), URL)

    async def __aenter__(self) -> Signing:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.http.aclose()

    def clients(self) -> dict[str, Any]:
        return rows(store_file(), "clients")

    def sign_ins(self) -> dict[str, Any]:
        return rows(store_file(), "sign_ins")

    @property
    def challenge(self) -> str:
        raw = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    async def register(self, *uris: str, **changed: Any) -> httpx2.Response:
        body = {"redirect_uris": list(uris or (BACK,)), "client_name": "Probe", **changed}
        return await self.http.post("/register", json=body)

    async def client(self, *uris: str, **changed: Any) -> str:
        answer = await self.register(*uris, **changed)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    def asking(self, client_id: str, /, **changed: str | None) -> str:
        """The address to which a client sends a browser."""
        query = {
            "client_id": client_id,
            "redirect_uri": BACK,
            "response_type": "code",
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            "state": "the-state",
            **changed,
        }
        given = {name: value for name, value in query.items() if value is not None}
        return str(httpx2.URL(f"{URL}/authorize", params=given))

    async def code(self, client_id: str, token: str, /, **changed: str | None) -> str:
        """An authorization code that a person has agreed to."""
        leads_to = await self.http.sign_in(self.asking(client_id, **changed), token)
        return dict(parse_qsl(urlsplit(leads_to).query))["code"]

    async def exchange(
        self, client_id: str, code: str, /, **changed: str | None
    ) -> httpx2.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "redirect_uri": BACK,
            "code_verifier": self.verifier,
            **changed,
        }
        return await self.http.post("/token", data={k: v for k, v in form.items() if v is not None})

    async def refresh(self, client_id: str, token: str) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": token}
        return await self.http.post("/token", data=form)

    async def signed_in(self, token: str, **changed: Any) -> tuple[str, dict[str, Any]]:
        """A client, and the tokens that it got."""
        client_id = await self.client(**changed)
        answer = await self.exchange(client_id, await self.code(client_id, token))
        assert answer.status_code == 200, answer.text
        return client_id, answer.json()

    async def knows(self, access_token: str) -> str | None:
        """The principal of a token, as every request is told it."""
        found = await self.provider.verify_token(access_token)
        return found.client_id if found else None

    async def lets_in(self, access_token: str) -> bool:
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await self.http.get("/nothing-here", headers=headers)
        assert answer.status_code in (401, 404)
        return answer.status_code == 404
