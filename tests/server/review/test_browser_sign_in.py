"""Signing in with another provider in a real browser, which decides what cookies it sends along."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from urllib.parse import urlencode

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from tests.ports import free_port
from tests.server.auth.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, issuing
from tests.server.conftest import fill
from tests.server.review.browser import NEEDED, started
from tests.server.review.conftest import code, write
from tests.server.review.test_browser import violations
from tests.server.served import USERS, Served, served

pytestmark = [pytest.mark.slow, pytest.mark.browser, NEEDED]
EVE = "eve@example.com"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """Another site than that of the pages."""
    with issuing() as running:
        running.url = running.url.replace("127.0.0.1", "localhost")
        running.user = {"sub": "1", "email": EVE, "email_verified": True}
        yield running


@pytest.fixture(scope="module")
def server(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "notebooks").mkdir()
    write(folder / "notebooks", "hers", code("x = 1"), principal=f"oidc:{EVE}")
    write(folder / "notebooks", "alices", code("y = 1"), principal="alice")
    port = free_port()
    with served(
        fill(folder),
        port=port,
        RMI_AGENT_AUTH="token+oidc",
        RMI_AGENT_TOKENS=USERS,
        RMI_AGENT_PUBLIC_URL=f"http://127.0.0.1:{port}",
        RMI_AGENT_OAUTH_CLIENT_ID=CLIENT_ID,
        RMI_AGENT_OAUTH_CLIENT_SECRET=CLIENT_SECRET,
        RMI_AGENT_OAUTH_CONFIG_URL=issuer.config_url,
        RMI_AGENT_OAUTH_USERS=EVE,
        FASTMCP_HOME=str(folder / "fastmcp"),
    ) as running:
        yield running


def test_a_button_leads_to_the_provider_and_back_to_the_page_that_was_asked_for(
    server: Served, issuer: Issuer, browser: Browser
) -> None:
    context = browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(f"{server.url}/sessions/hers")
    assert violations(page) == []
    page.get_by_role("button", name=f"Sign in with {issuer.url.removeprefix('http://')}").click()
    page.wait_for_url(f"{server.url}/sessions/hers")
    expect(page.get_by_role("heading", level=1)).to_have_text("x = 1")
    page.goto(f"{server.url}/")
    expect(page.get_by_role("link", name="x = 1")).to_be_visible()
    expect(page.get_by_text("y = 1")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your token")).to_be_visible()
    context.close()


@pytest.mark.parametrize(
    ("button", "says"), [("Allow", "code="), ("Cancel", "error=access_denied")]
)
def test_the_consent_page_leads_by_its_buttons_to_where_it_should(
    server: Served, browser: Browser, button: str, says: str
) -> None:
    back = f"http://127.0.0.1:{free_port()}/back"
    with httpx2.Client(base_url=server.url, trust_env=False) as http:
        body = {"redirect_uris": [back], "client_name": "Probe"}
        client = http.post("/register", json=body).json()["client_id"]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 50).digest()).decode().rstrip("=")
    query = {"client_id": client, "redirect_uri": back, "response_type": "code", "state": "s"}
    query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/authorize?{urlencode(query)}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Let this client run code?")
    expect(page.get_by_text("Probe", exact=True)).to_be_visible()
    assert violations(page) == []
    with page.expect_request(lambda request: request.url.startswith(back)) as led:
        page.get_by_role("button", name=button).click()
    assert says in led.value.url and "state=s" in led.value.url
    context.close()
