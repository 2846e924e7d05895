"""Users of other providers: of all the world's only those who are listed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import fastmcp
import httpx2
import pytest
from fastmcp.server.auth.providers.jwt import JWTVerifier
from rmi_agent.server import load
from rmi_agent.server.auth import Tokens, build_provider, macs, page_sign_in, throttle
from rmi_agent.server.auth.external import GitHub, Google
from rmi_agent.server.auth.provider import CombinedProvider
from rmi_agent.server.errors import BadSettings

from tests.server.auth.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, issuing
from tests.server.auth.oauth import ALICE, BACK, URL, Browser, Page, Signing
from tests.server.conftest import fill
from tests.server.review.conftest import code, write

pytestmark = [pytest.mark.anyio, pytest.mark.security]
EVE = {"sub": "1", "email": "Eve@Example.com", "email_verified": True}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(autouse=True)
def fastmcps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FastMCP keeps its providers' tokens; and nobody waits after a failure."""
    monkeypatch.setattr(throttle, "FAILURE_DELAY", 0.0)
    monkeypatch.setattr(fastmcp.settings, "home", tmp_path / "fastmcp")


def given(issuer: Issuer, **changed: Any) -> dict[str, Any]:
    return {
        "auth": "token+oidc",
        "oauth_client_id": CLIENT_ID,
        "oauth_client_secret": CLIENT_SECRET,
        "oauth_config_url": issuer.config_url,
        "oauth_users": "eve@example.com, subject-7",
        **changed,
    }


@pytest.fixture
async def signing(tmp_path: Path, issuer: Issuer) -> Signing:
    return Signing(fill(tmp_path), given(issuer))


async def through_the_issuer(browser: Browser, url: str) -> httpx2.Response:
    """From the client to FastMCP's page, to the issuer, and back to the client's address."""
    page = await browser.get(url, follow_redirects=True)
    assert page.status_code == 200, page.text
    form = Page(page.text)
    headers = {"Origin": URL}
    fields = {**form.fields, "action": "approve"}
    led = await browser.post(page.url.join(form.action), data=fields, headers=headers)
    async with httpx2.AsyncClient(trust_env=False) as outside:
        issued = await outside.get(Page(led.text).leads_to)
    return await browser.get(issued.headers["location"])


async def test_the_consent_page_says_who_asks_and_what_code_can_do(
    signing: Signing, issuer: Issuer
) -> None:
    client = await signing.client(client_name="Probe <b>&amp;")
    answer = await signing.http.get(signing.asking(client), follow_redirects=True)
    page = Page(answer.text)
    assert "calls itself Probe <b>&amp; wants" in " ".join(page.words.split())
    assert BACK in page.words and "https://client.example: continue only" in page.words
    assert f": {signing.app_rights}." in " ".join(page.words.split())
    assert page.fields.keys() >= {"txn_id", "csrf_token"}
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "form-action 'self'" in policy
    # Whoever declines is sent back to the client; a form without the cookie leads nowhere.
    fields = {**page.fields, "action": "deny"}
    stranger = await signing.browser().post("/consent", data=fields, headers={"Origin": URL})
    assert stranger.status_code == 403 and Page(stranger.text).leads_to == ""
    denied = await signing.http.post("/consent", data=fields, headers={"Origin": URL})
    assert Page(denied.text).leads_to.startswith(f"{BACK}?error=access_denied")
    expired = await signing.http.get("/consent?txn_id=unknown")
    assert expired.status_code == 400 and "This sign-in can't continue" in Page(expired.text).words


async def signed_in(signing: Signing) -> str:
    client = await signing.client()
    back = await through_the_issuer(signing.http, signing.asking(client))
    assert back.headers["location"].startswith(BACK)
    code = dict(parse_qsl(urlsplit(back.headers["location"]).query))["code"]
    minted = await signing.exchange(client, code)
    assert minted.status_code == 200, minted.text
    return str(minted.json()["access_token"])


@pytest.mark.parametrize(
    ("user", "principal"),
    [
        (EVE, "oidc:eve@example.com"),
        ({"sub": "subject-7"}, "oidc:subject-7"),
        ({**EVE, "sub": "subject-7"}, "oidc:eve@example.com"),
        ({**EVE, "email_verified": False}, None),
        ({"sub": "1", "email": "eve@example.com"}, None),
        ({**EVE, "email": "mallory@example.com"}, None),
        ({**EVE, "email": "eve@example.com.evil.com"}, None),
        ({"sub": "1", "preferred_username": "eve@example.com"}, None),
        ({"sub": "1"}, None),
    ],
    ids=str,
)
async def test_only_those_who_are_listed_and_verified_are_let_in(
    signing: Signing, issuer: Issuer, user: dict[str, Any], principal: str | None
) -> None:
    issuer.user = user
    token = await signed_in(signing)
    assert await signing.knows(token) == principal
    assert await signing.lets_in(token) == (principal is not None)


async def test_tokens_open_as_before_beside_another_provider(
    signing: Signing, issuer: Issuer
) -> None:
    assert await signing.knows(ALICE) == "alice"
    assert await signing.lets_in(ALICE)
    assert not await signing.lets_in("wrong-wrong-wrong-wrong")
    # The provider's own tokens are not ours.
    assert not await signing.lets_in("opaque-upstream-access-token")


async def test_who_is_taken_off_the_list_is_out_at_the_next_start(
    signing: Signing, issuer: Issuer
) -> None:
    issuer.user = EVE
    token = await signed_in(signing)
    signing.restart()
    assert await signing.knows(token) == "oidc:eve@example.com"
    signing.restart(oauth_users="somebody@example.com")
    assert await signing.knows(token) is None


async def test_its_clients_are_held_to_the_same_bounds(signing: Signing) -> None:
    for uri in ("http://client.example/back", "cursor://x/back", "https://a@client.example/back"):
        assert (await signing.register(uri)).status_code == 400
    made = await signing.register(client_name="n" * 5_000, contacts=["c" * 5_000])
    assert len(made.text) < 2_000
    for path in ("/sign-in", "/nothing-here"):
        assert (await signing.http.get(path)).status_code == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.com/back"},
        {"response_type": "token"},
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"resource": "https://other.example/mcp"},
        {"resource": URL + "/sse"},  # FastMCP's providers mint for one address
        {"client_id": "unknown"},
    ],
    ids=str,
)
async def test_a_wrong_request_leads_nowhere_here_either(
    signing: Signing, changed: dict[str, str | None]
) -> None:
    client = await signing.client()
    answer = await signing.http.get(signing.asking(client, **changed))
    assert answer.status_code == 400
    assert "This sign-in can't continue" in Page(answer.text).words


@pytest.mark.parametrize(("name", "kind"), [("github", GitHub), ("google", Google)])
def test_github_and_google_are_fastmcps_providers_with_a_list(name: str, kind: type) -> None:
    settings = load(
        auth=f"token+{name}",
        public_url=URL,
        oauth_client_id="id",
        oauth_client_secret="a-secret-of-theirs",
        oauth_users="Eve,eve@example.com",
    )
    made = build_provider(settings, Tokens({"alice": ALICE}))
    assert isinstance(made, CombinedProvider)
    assert isinstance(made.server, kind)
    allowlist = made.server.allowlist  # type: ignore[union-attr]
    claims = {"login": "EVE", "email": "eve@example.com", "email_verified": True}
    assert (
        allowlist.principal(claims)
        == {
            "github": "github:eve",
            "google": "google:eve@example.com",
        }[name]
    )
    assert allowlist.principal({"login": "mallory", "email": "mallory@example.com"}) is None
    assert allowlist.principal({}) is None


@pytest.mark.parametrize(
    ("changed", "variable"),
    [
        ({"oauth_users": ""}, "RMI_AGENT_OAUTH_USERS"),
        ({"oauth_users": " , "}, "RMI_AGENT_OAUTH_USERS"),
        ({"oauth_client_id": None}, "RMI_AGENT_OAUTH_CLIENT_ID"),
        ({"oauth_client_secret": ""}, "RMI_AGENT_OAUTH_CLIENT_SECRET"),
        ({"oauth_config_url": None}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "http://issuer.example/x"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "file:///etc/passwd"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "http://127.0.0.1:1/x"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"auth": "token+github", "oauth_users": ""}, "RMI_AGENT_OAUTH_USERS"),
        ({"auth": "token+google", "oauth_client_secret": None}, "RMI_AGENT_OAUTH_CLIENT_SECRET"),
        ({"public_url": None}, "RMI_AGENT_PUBLIC_URL"),
        ({"public_url": "http://python.example"}, "RMI_AGENT_PUBLIC_URL"),
    ],
    ids=str,
)
def test_what_is_missing_is_one_line(
    issuer: Issuer, changed: dict[str, Any], variable: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(**{"public_url": URL, **given(issuer), **changed})
    with pytest.raises(BadSettings) as raised:
        build_provider(settings, Tokens({"alice": ALICE}))
    assert str(raised.value).startswith(f"{variable}: ")
    assert "\n" not in str(raised.value)
    assert CLIENT_SECRET not in str(raised.value)
    assert caplog.text == ""


# -- the review pages


async def to_the_pages(browser: Browser, leads_to: str = "/?q=x") -> httpx2.Response:
    """From the sign-in page to the issuer, and back."""
    asked = await browser.get(leads_to)
    assert asked.status_code == 401 and ">Sign in with 127.0.0.1:" in asked.text
    led = await browser.post("/review/leave", data={"next": leads_to}, headers={"Origin": URL})
    assert "SameSite=lax" in led.headers["set-cookie"] and "HttpOnly" in led.headers["set-cookie"]
    assert led.headers["set-cookie"].startswith("__Host-")
    async with httpx2.AsyncClient(trust_env=False) as outside:
        issued = await outside.get(Page(led.text).leads_to)
    assert issued.headers["location"].startswith(f"{URL}/auth/callback?")
    return await browser.get(issued.headers["location"], follow_redirects=True)


async def test_users_of_another_provider_see_their_sessions_in_the_pages(
    signing: Signing, issuer: Issuer, tmp_path: Path
) -> None:
    (tmp_path / "notebooks").mkdir()
    for name, principal in (("hers", "oidc:eve@example.com"), ("alices", "alice"), ("old", None)):
        write(tmp_path / "notebooks", name, code("x"), principal=principal)
    issuer.user = EVE
    arrived = await to_the_pages(signing.http)
    assert arrived.status_code == 200 and Page(arrived.text).leads_to == "/?q=x"
    kept = arrived.headers["set-cookie"]
    assert "SameSite=strict" in kept and "Max-Age=86400" in kept and kept.startswith("__Host-")
    page = (await signing.http.get("/")).text
    assert "/sessions/hers" in page and "alices" not in page and "/sessions/old" not in page
    assert "oidc:eve@example.com" in page and "Sign out" in page
    headers = {"Origin": URL}
    shared = await signing.http.post("/sessions/hers/share", data={"for": "1 day"}, headers=headers)
    link = shared.text.split(f'value="{URL}')[1].split('"')[0]
    assert (await signing.browser().get(link)).status_code == 200
    # The code that the issuer was sent is this server's, with PKCE.
    assert (
        issuer.asked[-1]["code_verifier"]
        and issuer.asked[-1]["redirect_uri"] == f"{URL}/auth/callback"
    )
    # Cookie and link end when she is taken off the list.
    cookies = dict(signing.http.cookies)
    signing.restart(oauth_users="somebody@example.com")
    signing.http.cookies.update(cookies)
    assert (await signing.http.get("/")).status_code == 401
    assert (await signing.http.get(link)).status_code == 404


@pytest.mark.parametrize(
    "user",
    [{**EVE, "email_verified": False}, {**EVE, "email": "mallory@example.com"}, {"sub": "1"}],
    ids=str,
)
async def test_who_is_not_listed_sees_no_pages(
    signing: Signing, issuer: Issuer, user: dict[str, Any]
) -> None:
    issuer.user = user
    arrived = await to_the_pages(signing.http)
    assert arrived.status_code == 403 and "not on this server's list" in arrived.text.replace(
        "&#x27;", "'"
    )
    assert (await signing.http.get("/")).status_code == 401


async def test_an_issuer_that_confirms_nothing_is_not_the_list(
    signing: Signing, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confirm_nothing(*_: Any) -> None:
        return None

    issuer.user = EVE
    monkeypatch.setattr(JWTVerifier, "verify_token", confirm_nothing)
    arrived = await to_the_pages(signing.http)
    assert arrived.status_code == 403 and "did not say who you are" in arrived.text


async def test_a_way_back_belongs_to_the_browser_that_left(
    signing: Signing, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.user = EVE
    led = await signing.http.post("/review/leave", data={}, headers={"Origin": URL})
    async with httpx2.AsyncClient(trust_env=False) as outside:
        issued = await outside.get(Page(led.text).leads_to)
    back = issued.headers["location"]
    asked = len(issuer.asked)
    stranger = signing.browser()
    other = await stranger.post("/review/leave", data={}, headers={"Origin": URL})
    assert other.status_code == 200
    for browser, url in (
        (signing.browser(), back),  # no cookie
        (stranger, back),  # the cookie of another sign-in
        (signing.http, back.replace("state=pages.", "state=pages.x")),
        (signing.http, f"{URL}/review/arrive?code=x"),
        (signing.http, f"{URL}/review/arrive?code=x&state=pages.%00é"),
    ):
        answer = await browser.get(url, follow_redirects=True)
        assert answer.status_code == 403 and "started in another browser" in answer.text
    assert len(issuer.asked) == asked  # nobody was asked for them
    led = await signing.http.post("/review/leave", data={}, headers={"Origin": URL})
    state = dict(parse_qsl(urlsplit(Page(led.text).leads_to).query))["state"]
    declined = await signing.http.get(
        f"/auth/callback?error=access_denied&state={state}", follow_redirects=True
    )
    assert declined.status_code == 403 and "did not sign you in" in declined.text
    # What others write into an address is not said by this server.
    for query in ("error=x&error_description=Call%20me", "code=x&state=unknown", ""):
        failed = await signing.http.get(f"/auth/callback?{query}")
        assert failed.status_code == 400 and "Call me" not in failed.text
        assert "This sign-in can't continue" in Page(failed.text).words
    for origin in ("https://evil.com", "null"):
        answer = await signing.http.post("/review/leave", data={}, headers={"Origin": origin})
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    led = await signing.http.post("/review/leave", data={}, headers={"Origin": URL})
    later = time.time() + page_sign_in.SECONDS + 1
    monkeypatch.setattr(macs.time, "time", lambda: later)
    async with httpx2.AsyncClient(trust_env=False) as outside:
        issued = await outside.get(Page(led.text).leads_to)
    late = await signing.http.get(issued.headers["location"], follow_redirects=True)
    assert late.status_code == 403 and "It has expired" in late.text


async def test_failed_ways_back_ask_the_issuer_a_few_times_only(
    signing: Signing, issuer: Issuer
) -> None:
    led = await signing.http.post("/review/leave", data={}, headers={"Origin": URL})
    state = dict(parse_qsl(urlsplit(Page(led.text).leads_to).query))["state"]
    cookies, asked = dict(signing.http.cookies), len(issuer.asked)
    issuer.user = {"sub": "nobody"}
    for _ in range(throttle.MAX_FAILURES + 2):  # as another site's page can cause, without cookie
        stray = await signing.browser().get("/review/arrive?code=x&state=pages.x")
        assert stray.status_code == 403
    statuses = []
    for _ in range(throttle.MAX_FAILURES + 2):
        signing.http.cookies.update(cookies)
        answer = await signing.http.get(f"/review/arrive?code=guess&state={state}")
        statuses.append(answer.status_code)
    assert statuses == [403] * throttle.MAX_FAILURES + [429] * 2
    assert len(issuer.asked) - asked == throttle.MAX_FAILURES


async def test_an_issuer_that_answers_nonsense_signs_nobody_in(
    signing: Signing, issuer: Issuer
) -> None:
    issuer.user = {**EVE, "aud": "another-client"}
    assert (await to_the_pages(signing.http)).status_code == 403
    issuer.user = {**EVE, "exp": 1}
    assert (await to_the_pages(signing.http)).status_code == 403
    assert (await signing.http.get("/")).status_code == 401
